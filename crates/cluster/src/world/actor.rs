//! The actor of one world: it starts it, supervises its scripts' actors, and is what its node supervises.
//!
//! The world itself is a value on the tick threads; the actor is told what it wants. Its states: reading (the store), building (the
//! first instances), ticking, falling asleep (saved, not yet durable), asleep. When the world ends the actor fails with that [`End`], and its supervisor decides.
//! Not here: the tick (`hosted`), restarts of worlds (`node/supervisor`), restarts of scripts (the world decides those).

use crate::flight::FlightKind;
use crate::node::{NodeError, Services};
use crate::script::{Build, Built, Purpose, ScriptActor, ScriptArguments, ScriptMessage};
use crate::status::WorldState;
use crate::world::hosted::{HostedWorld, Pace, Place};
use crate::world::mailbox::{Control, Mailbox};
use crate::world::pacer::Pacer;
use crate::world::start::{self, WorldPlan};
use aether_scripting::ScriptInstance;
use aether_store::{Claim, Messages, StoreError};
use aether_types::{ScriptId, Version};
use aether_world_runtime::{BuildOrder, End, ReloadPhase, World};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// What a world's actor is told.
#[derive(ractor_cluster::RactorMessage)]
pub(crate) enum WorldMessage {
    /// The store has been read.
    Loaded(Box<Result<start::Read, NodeError>>, StartPermit),
    /// Instances are wanted.
    Build(Vec<BuildOrder>),
    /// Instances of a new version are wanted.
    BuildReload(Version, Vec<BuildOrder>),
    /// A script's actor has built what it was ordered to.
    Built { by: ActorId, what: Arc<Build>, built: Built },
    /// Instances that nobody needs: dropping them takes time.
    Discard(Vec<ScriptInstance>),
    /// The world has ended.
    Ended(End),
    /// A reload got further.
    Reload(Version, ReloadPhase),
    /// Tell who coordinates a reload.
    ReloadListener(mpsc::UnboundedSender<(String, Version, ReloadPhase)>),
    /// Nobody needs it.
    Idle(Box<HostedWorld>),
    /// It is handed to the store, or cannot be.
    Saved(Box<HostedWorld>, Result<(), String>),
    /// The commit of this number is durable, or never will be.
    Slept(u64, Result<u64, String>),
    /// Somebody needs it.
    Wake,
    /// A version has become active that it does not run: read it again.
    Reread,
    /// Leave the tick threads and wait; `None`: it does not tick.
    Freeze(oneshot::Sender<bool>),
    /// From the tick threads, after `Freeze`.
    Frozen(Box<HostedWorld>, oneshot::Sender<bool>),
    /// Let out what is durable, to worlds that are frozen too.
    Settle(oneshot::Sender<()>),
    /// Save everything and end, for another node to go on. How it went.
    HandOver(oneshot::Sender<Result<(), String>>),
    /// Save and end. How it went.
    Finish(oneshot::Sender<Result<(), String>>),
}

pub(crate) struct WorldActor;

pub(crate) struct WorldArguments {
    pub services: Arc<Services>,
    pub plan: WorldPlan,
    pub mailbox: Arc<Mailbox>,
    /// If it is claimed already.
    pub claim: Option<Claim>,
    /// A place in the first period, so that not all worlds want the same moment: 0 to 1.
    pub phase: f64,
    pub restarts: u32,
}

/// That a world may be read and built. No more begin at a time than there are: what is built and does not tick yet costs memory.
pub(crate) type StartPermit = Option<OwnedSemaphorePermit>;

/// The instances that a world begins with.
struct Starting {
    world: World,
    claim: Claim,
    messages: Messages,
    versions: Vec<(ScriptId, Version)>,
    missing: usize,
    _permit: StartPermit,
}

pub(crate) struct WorldActorState {
    arguments: WorldArguments,
    life: u64,
    /// Scripts' actors and what they build; given to a new one if an actor dies.
    building: HashMap<ActorId, (ActorRef<ScriptMessage>, Arc<Build>)>,
    starting: Option<Starting>,
    frozen: Option<Box<HostedWorld>>,
    /// One that falls asleep is in memory until its checkpoint is durable: who needs it meanwhile waits for no disk.
    falling: Option<Box<HostedWorld>>,
    /// Of a world that sleeps.
    asleep: Option<Claim>,
    listener: Option<mpsc::UnboundedSender<(String, Version, ReloadPhase)>>,
    /// It is to wake at once when it has fallen asleep.
    reread: bool,
}

impl Actor for WorldActor {
    type Msg = WorldMessage;
    type State = WorldActorState;
    type Arguments = WorldArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<WorldMessage>,
        arguments: WorldArguments,
    ) -> Result<WorldActorState, ActorProcessingErr> {
        let life = arguments.mailbox.begin_life(myself.clone());
        let state = WorldActorState {
            life,
            building: HashMap::new(),
            starting: None,
            frozen: None,
            falling: None,
            asleep: None,
            listener: None,
            reread: false,
            arguments,
        };
        state.read(&myself, state.arguments.claim);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<WorldMessage>,
        message: WorldMessage,
        state: &mut WorldActorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WorldMessage::Loaded(loaded, permit) => {
                let start::Read { mut world, claim, messages, versions } =
                    loaded.map_err(|error| end_of_start(&error, state.arguments.services.member().is_some()))?;
                let Claim { generation, commit_seq } = claim;
                let text = format!("in generation {}, after commit {commit_seq}", generation.0);
                state.arguments.mailbox.record(FlightKind::Claimed, text);
                let orders = world.take_wanted();
                state.starting = Some(Starting { world, claim, messages, versions, missing: orders.len(), _permit: permit });
                state.build(&myself, orders, Purpose::Run).await?;
                state.begin_ticking(&myself);
            }
            WorldMessage::Build(orders) => state.build(&myself, orders, Purpose::Run).await?,
            WorldMessage::BuildReload(version, orders) => state.build(&myself, orders, Purpose::Reload(version)).await?,
            WorldMessage::Built { by, what, built } => {
                if let Some((actor, _)) = state.building.remove(&by) {
                    actor.stop(None);
                }
                // One of before it slept fits nobody.
                if what.world_life == state.life {
                    state.built(built, what.purpose);
                    state.begin_ticking(&myself);
                }
            }
            WorldMessage::Discard(instances) => {
                tokio::task::spawn_blocking(move || drop(instances));
            }
            WorldMessage::Ended(end) => return Err(Box::new(end)),
            WorldMessage::Reload(version, phase) => {
                if let Some(listener) = &state.listener {
                    let _ = listener.send((state.arguments.plan.name.clone(), version, phase));
                }
            }
            WorldMessage::ReloadListener(listener) => state.listener = Some(listener),
            WorldMessage::Idle(world) => save_to_sleep(&myself, world),
            WorldMessage::Saved(world, Ok(())) => {
                state.falling = Some(world);
                if !state.arguments.mailbox.sleep() {
                    state.wake(&myself);
                }
            }
            WorldMessage::Saved(world, Err(cause)) => state.stay_awake(world, &cause),
            WorldMessage::Slept(seq, saved) => {
                // Not one that somebody needed meanwhile.
                let Some(mut world) = state.falling.take_if(|world| world.claim().commit_seq == seq) else { return Ok(()) };
                if let Err(cause) = saved {
                    state.arguments.mailbox.awake();
                    state.stay_awake(world, &cause);
                    return Ok(());
                }
                world.settle(state.arguments.services.ticker.now_ns());
                state.asleep = Some(world.claim());
                state.arguments.mailbox.record(FlightKind::Rest, "it sleeps");
                state.building.drain().for_each(|(_, (actor, _))| actor.stop(None));
                tokio::task::spawn_blocking(move || drop(world));
                if std::mem::take(&mut state.reread) || !state.arguments.mailbox.sleep() {
                    state.wake(&myself);
                }
            }
            WorldMessage::Wake => state.wake(&myself),
            WorldMessage::Reread => {
                // One that sleeps or is being read will see the version by itself.
                if state.asleep.is_none() && state.starting.is_none() {
                    state.reread = true;
                    state.arguments.mailbox.control(Control::Doze);
                }
            }
            WorldMessage::Freeze(reply) => {
                if state.asleep.is_some() || state.frozen.is_some() {
                    let _ = reply.send(state.frozen.is_some());
                    return Ok(());
                }
                let (send, receive) = oneshot::channel();
                state.arguments.mailbox.control(Control::Yield { reply: send });
                let actor = myself.clone();
                tokio::spawn(async move {
                    // Ended meanwhile, if nobody answers.
                    if let Ok(world) = receive.await {
                        let _ = actor.cast(WorldMessage::Frozen(world, reply));
                    }
                });
            }
            WorldMessage::Frozen(world, reply) => {
                // If who asked has given up, it goes on.
                match reply.send(true) {
                    Ok(()) => state.frozen = Some(world),
                    Err(_) => state.arguments.services.ticker.add(world),
                }
            }
            WorldMessage::Settle(reply) => {
                if let Some(world) = &mut state.frozen {
                    world.settle(state.arguments.services.ticker.now_ns());
                }
                let _ = reply.send(());
            }
            WorldMessage::HandOver(reply) => {
                let Some(mut world) = state.frozen.take() else {
                    let asleep = state.asleep.is_some();
                    let _ = reply.send(if asleep { Ok(()) } else { Err("it is being read".to_owned()) });
                    if asleep {
                        myself.stop(None);
                    }
                    return Ok(());
                };
                let saving = state.arguments.services.blocking(move || {
                    let saving = match world.failure() {
                        Some(error) => Err(error.to_string()),
                        None => world.save_to_sleep(),
                    };
                    (world, saving)
                });
                let saved = match saving.await {
                    Ok((mut world, Ok(durable))) => {
                        let saved = durable.await.unwrap_or_else(|_| Err("the store is gone".to_owned()));
                        world.settle(state.arguments.services.ticker.now_ns());
                        tokio::task::spawn_blocking(move || drop(world));
                        saved.map(|_| ())
                    }
                    // It is well but for its checkpoint: it ticks on here.
                    Ok((mut world, Err(error))) if world.failure().is_none() => {
                        world.stay_awake(state.arguments.services.ticker.now_ns(), &error);
                        state.arguments.services.ticker.add(world);
                        let _ = reply.send(Err(error));
                        return Ok(());
                    }
                    Ok((_, Err(error))) => Err(error),
                    Err(panic) => Err(format!("panic: {panic}")),
                };
                // If it was not saved it begins again here, from what was.
                let _ = reply.send(saved);
                myself.stop(None);
            }
            WorldMessage::Finish(reply) => {
                let Some(world) = state.frozen.take() else {
                    // It sleeps on what it saved; else it may have done what nothing has kept.
                    let asleep = state.asleep.is_some();
                    let late = || Err("it did not leave its tick thread in time".to_owned());
                    let _ = reply.send(if asleep { Ok(()) } else { late() });
                    myself.stop(None);
                    return Ok(());
                };
                let now_ns = state.arguments.services.ticker.now_ns();
                let finished = state.arguments.services.blocking(move || finish(world, now_ns)).await;
                let saved = match finished.unwrap_or_else(|panic| Err(format!("panic: {panic}"))) {
                    Ok((mut world, durable)) => {
                        let saved = durable.await.unwrap_or_else(|_| Err("the store is gone".to_owned()));
                        // What `on_stop` sent to players. Worlds stop too: calls between them reach nobody any more.
                        world.settle(now_ns);
                        tokio::task::spawn_blocking(move || drop(world));
                        saved.map(|_| ())
                    }
                    Err(error) => Err(error),
                };
                let _ = reply.send(saved);
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<WorldMessage>,
        event: SupervisionEvent,
        state: &mut WorldActorState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, _) => state.script_actor_gone(&myself, &cell).await,
            SupervisionEvent::ActorFailed(cell, error) => {
                tracing::warn!(world = state.arguments.plan.name, %error, "a script's actor failed");
                state.script_actor_gone(&myself, &cell).await
            }
            _ => Ok(()),
        }
    }
}

impl WorldActorState {
    fn read(&self, myself: &ActorRef<WorldMessage>, claim: Option<Claim>) {
        let (services, plan, actor) = (Arc::clone(&self.arguments.services), self.arguments.plan.clone(), myself.clone());
        let (mailbox, life) = (Arc::clone(&self.arguments.mailbox), self.life);
        self.arguments.mailbox.set_state(WorldState::Starting);
        tokio::spawn(async move {
            let permit = Arc::clone(&services.starts).acquire_owned().await.ok();
            let inner = Arc::clone(&services);
            let load = move || {
                // It may have waited for long: nobody must claim for a life that is over.
                if !mailbox.is_life(life) {
                    return Err(StoreError::Closed.into());
                }
                start::load(&inner, &plan, claim)
            };
            let loaded = services.blocking(load).await;
            let loaded = loaded.unwrap_or_else(|panic| Err(NodeError::Panic(panic)));
            let _ = actor.cast(WorldMessage::Loaded(Box::new(loaded), permit));
        });
    }

    /// Have instances built, each by its script's actor.
    async fn build(
        &mut self,
        myself: &ActorRef<WorldMessage>,
        orders: Vec<BuildOrder>,
        purpose: Purpose,
    ) -> Result<(), ActorProcessingErr> {
        for order in orders {
            self.give_out(myself, Arc::new(Build { world_life: self.life, purpose, order })).await?;
        }
        Ok(())
    }

    async fn give_out(&mut self, myself: &ActorRef<WorldMessage>, what: Arc<Build>) -> Result<(), ActorProcessingErr> {
        let builders = Arc::clone(&self.arguments.services.builders);
        let arguments = ScriptArguments { world: myself.clone(), builders };
        let (actor, _) = Actor::spawn_linked(None, ScriptActor, arguments, myself.get_cell()).await?;
        // An actor that is gone is seen by supervision, which has another build what it was building.
        let _ = actor.cast(ScriptMessage::Build(Arc::clone(&what)));
        self.building.insert(actor.get_id(), (actor, what));
        Ok(())
    }

    fn built(&mut self, built: Built, purpose: Purpose) {
        let Built { key, life, result } = built;
        match (purpose, &mut self.starting) {
            (Purpose::Run, Some(starting)) => {
                starting.world.install(key, life, result);
                starting.missing -= 1;
            }
            (Purpose::Run, None) => self.arguments.mailbox.control(Control::Install { key, life, built: result }),
            (Purpose::Reload(version), _) => {
                self.arguments.mailbox.control(Control::Reloaded { key, version, built: result });
            }
        }
    }

    /// When all instances are there the world goes to the tick threads.
    fn begin_ticking(&mut self, myself: &ActorRef<WorldMessage>) {
        let Some(Starting { world, claim, messages, versions, .. }) = self.starting.take_if(|starting| starting.missing == 0)
        else {
            return;
        };
        let arguments = &self.arguments;
        let services = &arguments.services;
        // Before the look at what is active: a version that becomes active after it finds a world that ticks, and tells it.
        arguments.mailbox.set_state(WorldState::Ticking);
        // A version may have become active while it was read: nobody else would tell it.
        let active = |(script, version): &(ScriptId, Version)| {
            services.registry.active(*script).is_none_or(|active| active.version == *version)
        };
        if !versions.iter().all(active) {
            tokio::task::spawn_blocking(move || drop(world));
            self.building.drain().for_each(|(_, (actor, _))| actor.stop(None));
            self.life = arguments.mailbox.begin_life(myself.clone());
            return self.read(myself, Some(claim));
        }
        let limits = arguments.plan.spec.limits(&services.config.limits);
        let now_ns = services.ticker.now_ns();
        // One that comes back ticks at once.
        let first = if self.life > 1 { now_ns } else { now_ns + (1e9 / limits.tick_hz * arguments.phase) as u64 };
        let pace = Pace {
            pacer: Pacer::new(limits.tick_hz, first),
            checkpoint_ns: (limits.checkpoint_seconds * 1e9) as u64,
            hibernate_ns: (limits.hibernate_seconds * 1e9) as u64,
        };
        let place = Place {
            actor: myself.clone(),
            mailbox: Arc::clone(&arguments.mailbox),
            life: self.life,
            services: Arc::clone(services),
            restarts: arguments.restarts,
        };
        arguments.mailbox.record(FlightKind::Started, format!("it ticks, at {} Hz", limits.tick_hz));
        services.ticker.add(Box::new(HostedWorld::new(world, &messages, claim, place, pace, now_ns)));
    }

    /// It could not be saved. If it is the store that failed, its next round says so.
    fn stay_awake(&self, mut world: Box<HostedWorld>, cause: &str) {
        let ticker = &self.arguments.services.ticker;
        world.stay_awake(ticker.now_ns(), cause);
        ticker.add(world);
    }

    fn wake(&mut self, myself: &ActorRef<WorldMessage>) {
        // One that is to be read again goes all the way down first.
        if let Some(mut world) = self.falling.take_if(|_| !self.reread) {
            let ticker = &self.arguments.services.ticker;
            world.goes_on(ticker.now_ns());
            self.arguments.mailbox.record(FlightKind::Rest, "it was needed before it slept");
            ticker.add(world);
        }
        if let Some(claim) = self.asleep.take() {
            self.life = self.arguments.mailbox.begin_life(myself.clone());
            self.read(myself, Some(claim));
        }
    }

    /// One that has done its work is not known any more.
    async fn script_actor_gone(&mut self, myself: &ActorRef<WorldMessage>, cell: &ActorCell) -> Result<(), ActorProcessingErr> {
        match self.building.remove(&cell.get_id()) {
            Some((_, what)) => self.give_out(myself, what).await,
            None => Ok(()),
        }
    }
}

fn save_to_sleep(myself: &ActorRef<WorldMessage>, mut world: Box<HostedWorld>) {
    let actor = myself.clone();
    tokio::spawn(async move {
        let saving = tokio::task::spawn_blocking(move || {
            let saving = world.save_to_sleep();
            (world, saving)
        });
        let Ok((world, saving)) = saving.await else {
            let _ = actor.cast(WorldMessage::Ended(End::Panicked("while it was saved".to_owned())));
            return;
        };
        let seq = world.claim().commit_seq;
        match saving {
            Ok(durable) => {
                let _ = actor.cast(WorldMessage::Saved(world, Ok(())));
                let saved = durable.await.unwrap_or_else(|_| Err("the store is gone".to_owned()));
                let _ = actor.cast(WorldMessage::Slept(seq, saved));
            }
            Err(error) => {
                let _ = actor.cast(WorldMessage::Saved(world, Err(error)));
            }
        }
    });
}

/// In a cluster a store that does not answer is nothing that a world did: it is started again, here or elsewhere, when the directory answers.
fn end_of_start(error: &NodeError, in_cluster: bool) -> End {
    use StoreError::{Busy, Closed, Database, DeclaredDead, Fenced, Owned};
    match error {
        NodeError::Store(error @ (Fenced { .. } | Owned { .. } | DeclaredDead(_))) => End::Fenced(error.to_string()),
        NodeError::Store(error @ (Database { .. } | Busy { .. } | Closed)) if in_cluster => End::Fenced(error.to_string()),
        error => End::NotStarted(error.to_string()),
    }
}

/// A world that has stopped, and when it is durable.
type Finished = (Box<HostedWorld>, oneshot::Receiver<Result<u64, String>>);

fn finish(mut world: Box<HostedWorld>, now_ns: u64) -> Result<Finished, String> {
    match world.failure() {
        Some(error) => Err(error.to_string()),
        None => world.stop(now_ns).map(|durable| (world, durable)),
    }
}
