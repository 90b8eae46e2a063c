//! The root of a node's actors: it supervises the worlds.
//!
//! A world's actor that ends is started again by [`RestartRule`], and parked when it keeps failing; its mailbox stays, so that nobody
//! has to look it up anew. Not here: what a world does (`world/`), the node's own threads (`mod.rs`).

use crate::events::NodeEvent;
use crate::flight::{self, FlightKind};
use crate::node::Services;
use crate::registry::actor::{RegistryActor, RegistryMessage};
use crate::status::{WorldState, count};
use crate::trace;
use crate::world::actor::{WorldActor, WorldArguments, WorldMessage};
use crate::world::checkpoint;
use crate::world::mailbox::Mailbox;
use crate::world::start::WorldPlan;
use aether_scripting::manifest::Restart;
use aether_store::{Claim, StoredCheckpoint};
use aether_types::{Generation, WorldId};
use aether_world_runtime::{Decision, End, RestartRule, Restarts};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Instrument;

/// For a world to leave its tick thread, and to be saved.
const RELEASE_TIME: Duration = Duration::from_secs(30);

/// What the supervisor is told.
#[derive(ractor_cluster::RactorMessage)]
pub(crate) enum NodeMessage {
    /// Start a world for the first time.
    Start(Box<WorldPlan>, Arc<Mailbox>, f64),
    /// A wait is over; not if the world was started meanwhile.
    Restart { name: String, attempt: u32 },
    /// A wait is over.
    RestartRegistry,
    /// An operator starts a parked world again. `false`: there is none.
    Resume(String, oneshot::Sender<bool>),
    /// An operator wants a world as it was at a checkpoint.
    Restore { name: String, checkpoint: String, reply: oneshot::Sender<Result<(), String>> },
    /// Save a world and let another node have it. With the generation that this node has it in.
    Release { name: String, generation: Generation, reply: oneshot::Sender<Result<(), String>> },
    /// It is released, or could not be.
    Released { name: String, mailbox: Arc<Mailbox>, result: Result<(), String>, reply: oneshot::Sender<Result<(), String>> },
    /// Another node runs it.
    Forget(String),
    /// This node's lease is over: all worlds end at once, unsaved, and are other nodes'.
    Fence(oneshot::Sender<()>),
    /// The worlds' actors: the node stops.
    Worlds(oneshot::Sender<Vec<(String, Option<ActorRef<WorldMessage>>)>>),
}

pub(crate) struct NodeSupervisor;

struct World {
    plan: WorldPlan,
    mailbox: Arc<Mailbox>,
    phase: f64,
    actor: Option<ActorRef<WorldMessage>>,
    restarts: Restarts,
    /// Where the next start goes on from.
    /// Of its next start, if it is claimed already.
    claim: Option<Claim>,
    attempt: u32,
    /// It is being released.
    leaving: bool,
}

pub(crate) struct SupervisorState {
    services: Arc<Services>,
    rule: RestartRule,
    worlds: HashMap<String, World>,
    by_actor: HashMap<ActorId, String>,
    registry: Option<ActorRef<RegistryMessage>>,
    registry_restarts: Restarts,
    /// The worlds are being stopped: nobody is restarted.
    stopping: bool,
}

impl Actor for NodeSupervisor {
    type Msg = NodeMessage;
    type State = SupervisorState;
    type Arguments = Arc<Services>;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeMessage>,
        services: Arc<Services>,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let node = &services.config.node;
        let rule = RestartRule {
            intensity: node.world_restart_intensity,
            period_ns: (node.world_restart_period_seconds * 1e9) as u64,
            ..RestartRule::default()
        };
        let mut state = SupervisorState {
            services,
            rule,
            worlds: HashMap::new(),
            by_actor: HashMap::new(),
            registry: None,
            registry_restarts: Restarts::default(),
            stopping: false,
        };
        state.start_registry(&myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMessage>,
        message: NodeMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeMessage::Start(plan, mailbox, phase) => {
                let name = plan.name.clone();
                let world = World {
                    plan: *plan,
                    mailbox,
                    phase,
                    actor: None,
                    restarts: Restarts::default(),
                    claim: None,
                    attempt: 0,
                    leaving: false,
                };
                state.worlds.insert(name.clone(), world);
                state.start(&myself, &name).await;
            }
            NodeMessage::Restart { name, attempt } => {
                let waits = |world: &World| world.attempt == attempt && world.actor.is_none() && !world.leaving;
                if !state.stopping && state.worlds.get(&name).is_some_and(waits) {
                    state.start(&myself, &name).await;
                }
            }
            NodeMessage::RestartRegistry => {
                if state.registry.is_none() && !state.stopping {
                    state.start_registry(&myself).await?;
                }
            }
            NodeMessage::Resume(_, reply) if state.stopping => {
                let _ = reply.send(false);
            }
            NodeMessage::Restore { reply, .. } if state.stopping => {
                let _ = reply.send(Err("the node is stopping".to_owned()));
            }
            NodeMessage::Resume(name, reply) => {
                let parked = state.worlds.get_mut(&name).filter(|world| world.actor.is_none() && !world.leaving);
                let found = parked.is_some();
                if let Some(world) = parked {
                    world.restarts.forgive();
                    state.start(&myself, &name).await;
                }
                let _ = reply.send(found);
            }
            NodeMessage::Restore { name, checkpoint, reply } => {
                let _ = reply.send(state.restore(&myself, &name, checkpoint).await);
            }
            NodeMessage::Release { name, generation, reply } => state.release(&myself, name, generation, reply),
            NodeMessage::Forget(name) => {
                if let Some(actor) = state.worlds.get(&name).and_then(|world| world.actor.as_ref()) {
                    actor.kill();
                }
                state.forget(&name);
            }
            NodeMessage::Released { name, mailbox, result, reply } => {
                let same = state.worlds.get(&name).is_some_and(|world| Arc::ptr_eq(&world.mailbox, &mailbox));
                match &result {
                    // Begun again meanwhile.
                    _ if !same => {}
                    Ok(()) => state.forget(&name),
                    Err(cause) => {
                        let text = format!("it stays here, since it could not be released: {cause}");
                        mailbox.record(FlightKind::Moved, text.as_str());
                        state.services.events.push(NodeEvent::Log {
                            world: name.clone(),
                            script: "world".into(),
                            level: 1,
                            text,
                        });
                        if let Some(world) = state.worlds.get_mut(&name) {
                            world.leaving = false;
                            // It may tick on, or has ended while it was saved.
                            if world.actor.is_none() {
                                state.start(&myself, &name).await;
                            }
                        }
                    }
                }
                let _ = reply.send(result);
            }
            NodeMessage::Fence(reply) => {
                for name in state.worlds.keys().cloned().collect::<Vec<_>>() {
                    if let Some(actor) = state.worlds.get(&name).and_then(|world| world.actor.as_ref()) {
                        actor.kill();
                    }
                    state.forget(&name);
                }
                let _ = reply.send(());
            }
            NodeMessage::Worlds(reply) => {
                state.stopping = true;
                let worlds = state.worlds.iter().map(|(name, world)| (name.clone(), world.actor.clone())).collect();
                let _ = reply.send(worlds);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, _) | SupervisionEvent::ActorTerminated(cell, _, _)
                if state.registry.as_ref().is_some_and(|registry| registry.get_id() == cell.get_id()) =>
            {
                state.registry_ended(&myself);
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                let end = match error.downcast::<End>() {
                    Ok(end) => *end,
                    Err(error) => End::Panicked(error.to_string()),
                };
                state.ended(&myself, &cell, end);
            }
            SupervisionEvent::ActorTerminated(cell, _, _) => state.ended(&myself, &cell, End::Killed),
            _ => {}
        }
        Ok(())
    }
}

fn id_of(world: &str) -> Option<WorldId> {
    WorldId::new(world).ok()
}

/// Take a world off its tick thread and save everything that it has.
async fn hand_over(actor: &ActorRef<WorldMessage>) -> Result<(), String> {
    let late = |_| "it did not answer in time".to_owned();
    let ended = |_| "it ended meanwhile".to_owned();
    let (send, receive) = oneshot::channel();
    let _ = actor.cast(WorldMessage::Freeze(send));
    tokio::time::timeout(RELEASE_TIME, receive).await.map_err(late)?.map_err(ended)?;
    let (send, receive) = oneshot::channel();
    let _ = actor.cast(WorldMessage::HandOver(send));
    tokio::time::timeout(RELEASE_TIME, receive).await.map_err(late)?.map_err(ended)?
}

impl SupervisorState {
    async fn start_registry(&mut self, myself: &ActorRef<NodeMessage>) -> Result<(), ActorProcessingErr> {
        let services = Arc::clone(&self.services);
        let (registry, _) = Actor::spawn_linked(None, RegistryActor, services, myself.get_cell()).await?;
        self.services.set_registry(Some(registry.clone()));
        self.registry = Some(registry);
        Ok(())
    }

    /// Worlds run without it: they read what is published without asking. Only who publishes waits.
    fn registry_ended(&mut self, myself: &ActorRef<NodeMessage>) {
        self.registry = None;
        self.services.set_registry(None);
        let (end, now_ns) = (End::Panicked("the registry".to_owned()), self.services.ticker.now_ns());
        let decision = self.registry_restarts.ended(&self.rule, Restart::Permanent, &end, now_ns, 0);
        let text = "the registry's actor ended; nothing can be published meanwhile".to_owned();
        self.services.events.push(NodeEvent::Reload { script: "registry".to_owned(), text, failed: true });
        if let (Decision::Restart { after_ns }, false) = (decision, self.stopping) {
            myself.send_after(Duration::from_nanos(after_ns), || NodeMessage::RestartRegistry);
        }
    }

    async fn start(&mut self, myself: &ActorRef<NodeMessage>, name: &str) {
        let services = Arc::clone(&self.services);
        let Some(world) = self.worlds.get_mut(name) else { return };
        world.attempt += 1;
        let arguments = WorldArguments {
            services,
            plan: world.plan.clone(),
            mailbox: Arc::clone(&world.mailbox),
            claim: world.claim.take(),
            phase: world.phase,
            restarts: world.restarts.total(),
        };
        match Actor::spawn_linked(None, WorldActor, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.by_actor.insert(actor.get_id(), name.to_owned());
                world.actor = Some(actor);
            }
            Err(error) => self.decide(myself, name, End::NotStarted(error.to_string())),
        }
    }

    fn ended(&mut self, myself: &ActorRef<NodeMessage>, cell: &ActorCell, end: End) {
        let Some(name) = self.by_actor.remove(&cell.get_id()) else { return };
        let Some(world) = self.worlds.get_mut(&name) else { return };
        // It may have been replaced already, by an operator.
        if world.actor.take_if(|actor| actor.get_id() == cell.get_id()).is_none() {
            return;
        }
        world.mailbox.end_life();
        if !self.stopping && !world.leaving {
            self.decide(myself, &name, end);
        }
    }

    fn decide(&mut self, myself: &ActorRef<NodeMessage>, name: &str, end: End) {
        let now_ns = self.services.ticker.now_ns();
        if let (End::Fenced(cause), true) = (&end, self.services.member().is_some()) {
            // Another node's, or this node's again when the directory says so.
            let cause = cause.clone();
            self.services.events.push(NodeEvent::WorldEnded { world: name.to_owned(), cause, parked: false });
            return self.forget(name);
        }
        let Some(world) = self.worlds.get_mut(name) else { return };
        let seed = world.plan.copy ^ name.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31) ^ u64::from(byte));
        let decision = world.restarts.ended(&self.rule, Restart::Permanent, &end, now_ns, seed);
        let cause = end.to_string();
        let parked = !matches!(decision, Decision::Restart { .. });
        self.services.events.push(NodeEvent::WorldEnded { world: name.to_owned(), cause: cause.clone(), parked });
        match decision {
            Decision::Restart { after_ns } => {
                let text = format!("comes back in {} ms: {cause}", after_ns / 1_000_000);
                world.mailbox.record(FlightKind::Ended, text);
                world.mailbox.set_state(WorldState::Restarting { cause });
                let (name, attempt) = (name.to_owned(), world.attempt);
                if after_ns == 0 {
                    let _ = myself.cast(NodeMessage::Restart { name, attempt });
                } else {
                    myself.send_after(Duration::from_nanos(after_ns), move || NodeMessage::Restart { name, attempt });
                }
            }
            Decision::Park | Decision::Leave => {
                world.mailbox.record(FlightKind::Parked, cause.as_str());
                count(&self.services.counting.worlds_parked);
                flight::dump(&self.services, &world.mailbox, format!("world parked: {cause}"));
                world.mailbox.set_state(WorldState::Parked { cause });
            }
        }
    }

    /// It runs here no longer.
    fn forget(&mut self, name: &str) {
        self.services.post.remove(name);
        if let Some(world) = self.worlds.remove(name) {
            world.mailbox.end_life();
            world.mailbox.set_state(WorldState::Stopped);
            if let Some(actor) = &world.actor {
                self.by_actor.remove(&actor.get_id());
            }
        }
        if let Some(member) = self.services.member() {
            member.look();
        }
    }

    /// Saving takes its time, and is not waited for here.
    fn release(
        &mut self,
        myself: &ActorRef<NodeMessage>,
        name: String,
        generation: Generation,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        let Some(world) = self.worlds.get_mut(&name).filter(|world| !world.leaving && !self.stopping) else {
            let _ = reply.send(Err("it is not here, or leaves already".to_owned()));
            return;
        };
        world.leaving = true;
        let mailbox = Arc::clone(&world.mailbox);
        mailbox.record(FlightKind::Moved, "it is saved for another node");
        let parent = id_of(&name).and_then(|world| self.services.member()?.trace_of(&world));
        let span = trace::adopt(tracing::info_span!("world.release", world = name), parent.as_deref());
        let (services, actor, myself, id) =
            (Arc::clone(&self.services), world.actor.clone(), myself.clone(), world.plan.world_id());
        tokio::spawn(async move {
            let released = async {
                if let Some(actor) = actor {
                    hand_over(&actor).await?;
                }
                let (store, id) = (Arc::clone(&services.store), id.map_err(|error| error.to_string())?);
                services.blocking(move || store.release(&id, generation)).await?.map_err(|error| error.to_string())?;
                count(&services.counting.worlds_released);
                Ok(())
            };
            let result = released.instrument(span).await;
            let _ = myself.cast(NodeMessage::Released { name, mailbox, result, reply });
        });
    }

    /// What the world has done since then is lost, but for its storage: that is what was promised to others.
    async fn restore(&mut self, myself: &ActorRef<NodeMessage>, name: &str, checkpoint: String) -> Result<(), String> {
        let world = self.worlds.get_mut(name).ok_or_else(|| format!("there is no world {name} on this node"))?;
        if world.leaving {
            return Err(format!("world {name} moves to another node: ask that one in a moment"));
        }
        let id = world.plan.world_id().map_err(|error| error.to_string())?;
        let (store, wanted) = (Arc::clone(&self.services.store), checkpoint);
        let of = id.clone();
        let listed = self.services.blocking(move || store.load_checkpoints(&of)).await;
        let listed = listed.map_err(|panic| format!("panic: {panic}"))?.map_err(|error| error.to_string())?;
        let known = |stored: &&StoredCheckpoint| stored.seq.to_string() == wanted || stored.name.as_ref() == Some(&wanted);
        let Some(found) = listed.iter().find(known) else {
            let names: Vec<_> = listed.iter().map(|s| s.name.clone().unwrap_or_else(|| s.seq.to_string())).collect();
            return Err(format!("world {name} has no checkpoint {wanted:?}; it has {}", names.join(", ")));
        };
        // Before anything is given up for it.
        checkpoint::open(&found.data)
            .map_err(|error| format!("checkpoint {wanted:?} of world {name} cannot be read: {error}"))?;
        if let Some(actor) = world.actor.take() {
            // The tick threads drop it when it is due; what it still writes until then is fenced off by the new claim.
            world.mailbox.end_life();
            let _ = actor.kill_and_wait(None).await;
        }
        world.mailbox.record(FlightKind::Rest, format!("an operator puts it back to checkpoint {wanted}"));
        // Written down before it is answered: whatever its next start comes from, it goes on from there.
        let (store, seq) = (Arc::clone(&self.services.store), found.seq);
        let gone_back = self.services.blocking(move || {
            let claim = store.claim(&id)?;
            store.remove_checkpoints_after(&id, claim.generation, seq).map(|()| claim)
        });
        let gone_back = match gone_back.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(panic) => Err(format!("panic: {panic}")),
        };
        let result = gone_back.map(|claim| world.claim = Some(claim));
        self.start(myself, name).await;
        result.map_err(|error| format!("world {name} could not go back and goes on from its newest checkpoint: {error}"))
    }
}
