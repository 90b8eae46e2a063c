//! One world on a tick thread: its value, its pace, its gate, its place in the store.
//!
//! [`HostedWorld::round`] is one round: do what was asked, take what came in, tick, hand what the tick wrote to the store, let out what is
//! durable. A panic in it ends this world only: the thread that ticks catches it. What it counts and tells of itself is in [`account`].
//! Not here: starting and restarting (`actor`).

mod account;

use crate::events::NodeEvent;
use crate::flight::FlightKind;
use crate::node::Services;
use crate::status::WorldState;
use crate::world::actor::WorldMessage;
use crate::world::checkpoint;
use crate::world::courier::{self, Courier, Parcel};
use crate::world::gate::{Durable, Output, OutputGate};
use crate::world::mailbox::{Control, Inbound, Mailbox, Presence};
use crate::world::pacer::Pacer;
use crate::world::show::{Lookout, View};
use account::{SinceStart, Totals, phase_text};
use aether_scripting::ApiError;
use aether_scripting::output::{InboundCall, OutboundCall, StorageWrite, WorldOutput};
use aether_store::{Batch, Claim, KvWrite, Messages, StoreError, StoredMessage};
use aether_types::WorldId;
use aether_world_runtime::{End, Ordered, ReloadPhase, World, tick_cpu_ns};
use ractor::ActorRef;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Entities that somebody who looks at a world is shown.
const ENTITIES_MAX: usize = 2_000;
/// Ticks for which a script without room in its inbox keeps the others from hearing of players who come and go.
const PRESENCE_TICKS_MAX: u32 = 20;
/// The topics under which they hear of it.
const JOINED: &str = "player.joined";
const LEFT: &str = "player.left";
/// Nanoseconds between two publications of a status.
const STATUS_NS: u64 = 1_000_000_000;

/// What follows a round.
pub(crate) enum Round {
    /// It is due again.
    Continue,
    /// Its actor is gone, another life has begun or will.
    Replaced,
    /// It leaves the tick threads: whoever asked gets it.
    Leave(Box<dyn FnOnce(Box<HostedWorld>) + Send>),
    /// It has ended.
    End(End),
}

/// Where a world belongs on its node.
pub(crate) struct Place {
    pub actor: ActorRef<WorldMessage>,
    pub mailbox: Arc<Mailbox>,
    pub life: u64,
    pub services: Arc<Services>,
    /// Times it was started again.
    pub restarts: u32,
}

/// How a world is paced and kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub pacer: Pacer,
    pub checkpoint_ns: u64,
    /// After so long without anything from outside it is put to sleep; 0 means never.
    pub hibernate_ns: u64,
}

pub(crate) struct HostedWorld {
    pub id: WorldId,
    pub world: World,
    pacer: Pacer,
    place: Place,
    claim: Claim,
    durable: Arc<Durable>,
    gate: OutputGate,
    courier: Courier,
    /// Messages of the store's inbox whose scripts have no room for them yet: they go before all that comes in.
    waiting: VecDeque<StoredMessage>,
    /// Players who came or went, of whom scripts have not heard yet, and for how many ticks they have had no room for that.
    presences: VecDeque<Presence>,
    presences_held: u32,
    /// What watchers know of it, and what they are shown of this tick.
    lookout: Lookout,
    view: Option<View>,
    /// The world's clock less the ticker's, which may be ahead of it: its time goes on where it was.
    clock_base_ns: u64,
    checkpoint_ns: u64,
    next_checkpoint_ns: u64,
    next_status_ns: u64,
    hibernate_ns: u64,
    /// When something last came in from outside.
    busy_ns: u64,
    reload_told: Option<ReloadPhase>,
    /// CPU time of each tick since the last status: quantiles, and for whoever adds up many worlds the times themselves.
    ticks_ns: Vec<u32>,
    /// When the last tick began.
    ticked_ns: Option<u64>,
    gap_max_ns: u64,
    totals: Totals,
    since_start: SinceStart,
}

impl HostedWorld {
    /// `now_ns`: of the ticker's clock.
    /// `messages`: what the store has of those to and from other worlds.
    pub fn new(world: World, messages: &Messages, claim: Claim, place: Place, pace: Pace, now_ns: u64) -> HostedWorld {
        let durable = Durable::new(claim.commit_seq, Arc::clone(&place.services.post));
        // What waits came out of a checkpoint and may be done in the first tick: one without it goes with that commit, or a crash would
        // bring it again.
        let first_checkpoint_ns = if world.host_stats().waiting > 0 { 0 } else { pace.checkpoint_ns };
        let id = world.config().id.clone();
        place.mailbox.audience.restart();
        let mut hosted = HostedWorld {
            courier: Courier::new(id.clone(), messages, claim.commit_seq),
            id,
            clock_base_ns: world.now_ns().wrapping_sub(now_ns),
            world,
            next_checkpoint_ns: pace.pacer.next_ns() + first_checkpoint_ns,
            next_status_ns: 0,
            pacer: pace.pacer,
            place,
            claim,
            gate: OutputGate::new(Arc::clone(&durable)),
            durable,
            waiting: messages.inbox.iter().cloned().collect(),
            presences: VecDeque::new(),
            presences_held: 0,
            lookout: Lookout::default(),
            view: None,
            checkpoint_ns: pace.checkpoint_ns,
            hibernate_ns: pace.hibernate_ns,
            busy_ns: now_ns,
            reload_told: None,
            ticks_ns: Vec::new(),
            ticked_ns: None,
            gap_max_ns: 0,
            totals: Totals::default(),
            since_start: SinceStart::default(),
        };
        hosted.deliver_waiting();
        hosted
    }

    pub fn next_ns(&self) -> u64 {
        self.pacer.next_ns()
    }

    pub fn ticked(&mut self, now_ns: u64) {
        self.pacer.ticked(now_ns);
    }

    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// It has ended: its actor is told, unless that is gone already.
    pub fn end(&self, end: End) {
        if self.place.mailbox.is_life(self.place.life) {
            let _ = self.place.actor.cast(WorldMessage::Ended(end));
        }
    }

    /// One round at `now_ns` of the ticker's clock.
    pub fn round(&mut self, now_ns: u64) -> Round {
        if !self.place.mailbox.is_life(self.place.life) {
            return Round::Replaced;
        }
        // Somebody else may run it from now on.
        if !self.place.services.lease.holds() {
            return Round::End(End::Fenced("this node's lease is over".to_owned()));
        }
        if let Some(error) = self.durable.failure() {
            return Round::End(end_of_store(&error));
        }
        let mut asked = self.place.mailbox.take_control().into_iter();
        while let Some(control) = asked.next() {
            match self.control(control, now_ns) {
                Ok(None) => {}
                Ok(Some(leave)) => {
                    // What was asked after it is for whoever comes next.
                    asked.for_each(|control| self.place.mailbox.control(control));
                    return leave;
                }
                Err(end) => return Round::End(end),
            }
        }
        self.release(now_ns);
        if self.is_held() {
            // The disk is behind: the world waits rather than let anybody see what may be lost.
            if !std::mem::replace(&mut self.since_start.held, true) {
                self.record(FlightKind::Held, None, "its output waits for the disk, and so does it");
            }
            self.publish(WorldState::Held);
            return Round::Continue;
        }
        if std::mem::take(&mut self.since_start.held) {
            self.record(FlightKind::Held, None, "the disk has caught up");
        }
        let came = self.take_inbound(now_ns);
        let watched = self.place.mailbox.audience.is_watched();
        if self.hibernate_ns > 0
            && (came || watched || !self.world.is_idle() || !self.courier.is_idle() || !self.waiting.is_empty())
        {
            self.busy_ns = now_ns;
        }
        if self.hibernate_ns > 0 && now_ns - self.busy_ns.min(now_ns) > self.hibernate_ns {
            let actor = self.place.actor.clone();
            return Round::Leave(Box::new(move |world| {
                let _ = actor.cast(WorldMessage::Idle(world));
            }));
        }
        if let Some(before_ns) = self.ticked_ns.replace(now_ns) {
            self.gap_max_ns = self.gap_max_ns.max(now_ns.saturating_sub(before_ns));
        }
        let (world_now_ns, dt) = (self.clock_base_ns.wrapping_add(now_ns), self.pacer.dt());
        let report = self.world.tick(world_now_ns, dt, &mut tick_cpu_ns);
        self.account(&report);
        self.courier.done(&report.done);
        let mut output = report.output;
        // None while a new version is tried out: a crash then must find the old version's state.
        let checkpoint_due = now_ns >= self.next_checkpoint_ns && !self.world.is_reloading();
        let checkpoint = if checkpoint_due { self.checkpoint(now_ns, &mut output) } else { None };
        if watched {
            let arrivals = self.place.mailbox.audience.take_arrivals();
            self.view = self.lookout.look(self.world.host(), arrivals);
        } else {
            self.lookout.rest();
        }
        if let Err(error) = self.commit(output, checkpoint, None) {
            return Round::End(end_of_store(&error));
        }
        self.release(now_ns);
        self.tell_actor();
        if now_ns >= self.next_status_ns {
            self.next_status_ns = now_ns + STATUS_NS;
            self.publish(WorldState::Ticking);
        }
        match self.world.escalated() {
            Some(end) => Round::End(end.clone()),
            None => Round::Continue,
        }
    }

    /// What the world wants of its actor. In most ticks nothing.
    fn tell_actor(&mut self) {
        if self.world.wants_instances() {
            let _ = self.place.actor.cast(WorldMessage::Build(self.world.take_wanted()));
        }
        let discarded = self.world.take_discarded();
        if !discarded.is_empty() {
            let _ = self.place.actor.cast(WorldMessage::Discard(discarded));
        }
        if let Some((script, version, phase)) = self.world.reload_phase() {
            let news = !matches!(
                (&self.reload_told, phase),
                (Some(ReloadPhase::Swapping { .. }), ReloadPhase::Swapping { .. })
                    | (Some(ReloadPhase::Watching { .. }), ReloadPhase::Watching { .. })
            ) && self.reload_told.as_ref() != Some(phase);
            if news {
                self.reload_told = Some(phase.clone());
                self.record(FlightKind::Reload, None, format!("{script} version {version}: {}", phase_text(phase)));
                let _ = self.place.actor.cast(WorldMessage::Reload(version, phase.clone()));
            }
        }
    }

    fn control(&mut self, control: Control, now_ns: u64) -> Result<Option<Round>, End> {
        match control {
            Control::Install { key, life, built } => {
                let good = built.is_ok();
                let spare = self.world.install(key, life, built);
                if let (Some(name), None, true) = (self.world.name_at(key), &spare, good) {
                    self.record(FlightKind::ScriptRestarted, Some(name), "has an instance again");
                }
                self.discard(spare);
            }
            Control::Reloaded { key, version, built } => {
                let spare = self.world.lend_reloaded(key, version, built);
                self.discard(spare);
            }
            Control::Suspend { script, reply } => {
                let suspended = self.world.suspend(&script);
                if suspended == Ordered::Done {
                    self.record(FlightKind::Suspension, Some(&script), "suspended by an operator");
                }
                answer(reply, suspended);
            }
            Control::Resume { script, reply } => {
                let resumed = self.world.resume(&script);
                if resumed == Ordered::Done {
                    self.record(FlightKind::Suspension, Some(&script), "resumed by an operator");
                }
                answer(reply, resumed);
            }
            Control::Checkpoint { reply, .. } if self.world.is_reloading() => {
                answer(reply, Err("a reload is going on: wait for its end".to_owned()));
            }
            Control::Checkpoint { name, reply } => {
                let mut output = self.world.take_output();
                let Some(checkpoint) = self.checkpoint(now_ns, &mut output) else {
                    self.commit(output, None, None).map_err(|error| end_of_store(&error))?;
                    answer(reply, Err("the checkpoint could not be made: see the events".to_owned()));
                    return Ok(None);
                };
                self.commit(output, Some(checkpoint), name).map_err(|error| end_of_store(&error))?;
                self.durable.when(self.claim.commit_seq, Box::new(move |result| answer(reply, result)));
            }
            Control::Rehearsal { order, reply } => {
                let dt = self.pacer.dt();
                answer(reply, self.world.rehearsal(&order, dt));
            }
            Control::BeginReload { order, reply } => {
                self.reload_told = None;
                answer(reply, self.world.begin_reload(*order));
            }
            Control::EndReload { script, version, rollback, reply } => {
                let this = self.world.reload_phase().is_some_and(|(name, of, _)| (name, of) == (script, version));
                match rollback {
                    _ if !this => {}
                    Some(reason) => self.world.rollback_reload(reason),
                    None => self.world.commit_reload(),
                }
                answer(reply, ());
            }
            Control::SetAside { reply } => answer(reply, self.world.set_aside().cloned().collect()),
            Control::Entities { reply } => answer(reply, self.world.host().entities(ENTITIES_MAX)),
            Control::Doze => {
                let actor = self.place.actor.clone();
                return Ok(Some(Round::Leave(Box::new(move |world| {
                    let _ = actor.cast(WorldMessage::Idle(world));
                }))));
            }
            Control::Yield { reply } => {
                return Ok(Some(Round::Leave(Box::new(move |world| answer(reply, world)))));
            }
        }
        Ok(None)
    }

    fn discard(&self, spare: Option<aether_scripting::ScriptInstance>) {
        if let Some(instance) = spare {
            let _ = self.place.actor.cast(WorldMessage::Discard(vec![instance]));
        }
    }

    /// Whether anything came in that somebody has to do something about.
    fn take_inbound(&mut self, now_ns: u64) -> bool {
        let mut any = !self.waiting.is_empty();
        self.deliver_waiting();
        for inbound in self.place.mailbox.take() {
            match inbound {
                Inbound::Call(call) => {
                    any = true;
                    if self.world.deliver(call).is_err() {
                        self.totals.calls_refused += 1;
                    }
                }
                Inbound::Presence(presence) => {
                    any = true;
                    self.presences.push_back(presence);
                }
                Inbound::Parcel(Parcel::Taken { from, number, .. }) => self.courier.delivered(&from, number, now_ns),
                Inbound::Parcel(Parcel::Message { from, number, first, data, .. }) => {
                    any = true;
                    self.take_message(&from, number, first, data, now_ns);
                }
            }
        }
        self.tell_presences();
        any
    }

    /// Scripts hear of players in the order in which these came and went, as far as there is room in their inboxes.
    fn tell_presences(&mut self) {
        while let Some(Presence { player, name }) = self.presences.front() {
            let (topic, payload) = name.as_ref().map_or((LEFT, &[][..]), |name| (JOINED, name.as_bytes()));
            let in_part = self.presences_held >= PRESENCE_TICKS_MAX;
            if self.world.host().tell(*player, topic, payload, in_part) == Err(ApiError::Full) {
                self.presences_held += 1;
                return;
            }
            self.presences.pop_front();
        }
        self.presences_held = 0;
    }

    fn take_message(&mut self, from: &WorldId, number: u64, first: u64, data: Arc<[u8]>, now_ns: u64) {
        // It comes again.
        if !self.waiting.is_empty() || !self.courier.arrived(from, number, first) {
            return;
        }
        let queued = match self.deliver(from, &data) {
            Ok(queued) => queued,
            Err(refused) => {
                let script = match courier::open(&data) {
                    Ok(OutboundCall::Call { script, .. }) => script,
                    // Of which script is not known: the pair has one bound for all.
                    _ => from.to_string(),
                };
                if refused == ApiError::Full && !self.courier.refused(&script, now_ns) {
                    return;
                }
                self.totals.calls_refused += 1;
                false
            }
        };
        self.courier.took(from, data, queued, self.claim.commit_seq + 1);
    }

    /// What was taken in an earlier life, in its order, as far as there is room.
    fn deliver_waiting(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            match self.deliver(&message.peer, &message.data) {
                Err(ApiError::Full) => return self.waiting.push_front(message),
                delivered => self.courier.took_again(&message, delivered.unwrap_or(false)),
            }
        }
    }

    /// Give a message to its script. `false`: nobody waits for it.
    fn deliver(&mut self, from: &WorldId, data: &[u8]) -> Result<bool, ApiError> {
        let delivery = self.courier.next_delivery();
        let world = Some(from.to_string());
        match courier::open(data).map_err(|_| ApiError::BadArgument)? {
            OutboundCall::Call { script, from, call, method, payload, .. } => {
                let name = script.clone();
                self.world.deliver(InboundCall { world, from, call, script, method, payload, delivery })?;
                self.courier.accepted(&name);
                Ok(true)
            }
            OutboundCall::Reply { call, payload, .. } => self.world.deliver_reply(call, payload, delivery),
        }
    }

    /// A checkpoint's bytes; what scripts sent while they saved joins the tick's output, so that both are in one commit. One that cannot be
    /// made is an event: the world goes on, and the one before it counts.
    fn checkpoint(&mut self, now_ns: u64, output: &mut WorldOutput) -> Option<Vec<u8>> {
        self.next_checkpoint_ns = now_ns + self.checkpoint_ns;
        let checkpoint = self.world.checkpoint(false).and_then(|checkpoint| checkpoint::seal(&checkpoint));
        let more = self.world.take_output();
        output.commands.extend(more.commands);
        output.calls.extend(more.calls);
        // A key written twice: the later one is the value.
        output
            .writes
            .retain(|write| !more.writes.iter().any(|later| (&later.namespace, &later.key) == (&write.namespace, &write.key)));
        output.writes.extend(more.writes);
        match checkpoint {
            Ok(checkpoint) => {
                self.since_start.checkpoints += 1;
                Some(checkpoint)
            }
            Err(error) => {
                let text = format!("no checkpoint could be made, the one before it counts: {error}");
                self.since_start.checkpoints_failed += 1;
                self.record(FlightKind::Checkpoint, None, text.as_str());
                self.tell(0, text);
                None
            }
        }
    }

    /// Hand what left the scripts to the store, and hold back what others see of it until it is durable.
    fn commit(
        &mut self,
        output: WorldOutput,
        checkpoint: Option<Vec<u8>>,
        checkpoint_name: Option<String>,
    ) -> Result<(), StoreError> {
        let Claim { generation, commit_seq: after_seq } = self.claim;
        for call in &output.calls {
            // A name that is no world's leaves nothing behind: scripts can think of any number of them.
            if WorldId::new(call.world()).is_ok_and(|world| self.place.services.post.exists(&world)) {
                self.courier.send(call, after_seq + 1);
            } else {
                self.totals.calls_refused += 1;
            }
        }
        let messages = self.courier.take_writes(checkpoint.is_some() || !output.writes.is_empty());
        if messages.is_some() || checkpoint.is_some() || !output.writes.is_empty() {
            let write = |StorageWrite { namespace, key, value }| KvWrite { namespace, key, value };
            let writes = output.writes.into_iter().map(write).collect();
            let messages = messages.unwrap_or_default();
            let batch = Batch { world: self.id.clone(), generation, after_seq, writes, messages, checkpoint, checkpoint_name };
            let (durable, seq) = (Arc::clone(&self.durable), after_seq + 1);
            // Until it is durable; scripts and their ticks are in no trace.
            let span = batch.checkpoint.as_ref().map(|checkpoint| {
                let world = self.id.as_str();
                tracing::info_span!(parent: None, "world.checkpoint", world, bytes = checkpoint.len(), seq)
            });
            let done = move |result: Result<(), StoreError>| {
                let _entered = span.as_ref().map(tracing::Span::enter);
                durable.report(seq, result);
            };
            self.durable.begins();
            self.place.services.store.commit(batch, Box::new(done))?;
            self.claim.commit_seq = seq;
        }
        let tick = self.world.tick_number().0;
        let view = self.view.take();
        self.gate.hold(self.claim.commit_seq, Output { tick, commands: output.commands, calls: output.calls, view });
        Ok(())
    }

    /// What a tick wrote was refused: the next round must know, or the world would go on as if it were written.
    fn refused(&self, error: StoreError) -> String {
        let text = error.to_string();
        self.durable.report(self.claim.commit_seq + 1, Err(error));
        text
    }

    /// Whether what it has written must be durable before it writes more.
    fn is_held(&self) -> bool {
        self.gate.is_full(self.claim.commit_seq, self.place.services.store.has_room())
    }

    fn release(&mut self, now_ns: u64) {
        if !self.place.services.lease.holds() {
            return;
        }
        while let Some(output) = self.gate.release() {
            if let Some(log) = &self.place.services.outputs {
                log.write(self.id.as_str(), self.claim.generation.0, &output);
            }
            self.place.mailbox.audience.show(output);
        }
        // What waits for the disk is not to be sent twice meanwhile.
        if !self.courier.is_quiet() && !self.is_held() {
            let mut parcels = self.courier.parcels(self.claim.commit_seq, now_ns);
            let post = &self.place.services.post;
            // Its callers are told when their time to wait is over.
            for nobody in parcels.extract_if(.., |parcel| !post.exists(parcel.to())) {
                if let Parcel::Message { to, .. } = nobody {
                    self.totals.calls_refused += 1;
                    self.courier.nobody(&to, now_ns);
                }
            }
            self.durable.send(self.claim.commit_seq, parcels);
        }
        for (world, blocked) in self.courier.take_blocks() {
            self.world.block_calls(world.as_str(), blocked);
        }
    }

    /// Let out everything that may leave, before worlds are stopped one after the other.
    pub fn settle(&mut self, now_ns: u64) {
        self.release(now_ns);
    }

    /// What came in last, `on_stop` for every script, then a last checkpoint; gives a channel that says when that is durable.
    pub fn stop(&mut self, now_ns: u64) -> Result<oneshot::Receiver<Result<u64, String>>, String> {
        self.take_inbound(now_ns);
        // What was to be tried out is not kept.
        self.world.rollback_reload("the world stops".to_owned());
        let (checkpoint, output, log) = self.world.stop().map_err(|error| format!("could not make a checkpoint: {error}"))?;
        for line in log {
            let script = self.world.name_of(line.instance).unwrap_or("?").to_owned();
            self.place.services.events.push(NodeEvent::Log {
                world: self.id.to_string(),
                script,
                level: line.level,
                text: line.text,
            });
        }
        let checkpoint = match checkpoint::seal(&checkpoint) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.commit(output, None, None).map_err(|error| self.refused(error))?;
                return Err(format!("could not make a checkpoint: {error}"));
            }
        };
        self.commit(output, Some(checkpoint), None).map_err(|error| self.refused(error))?;
        let (send, receive) = oneshot::channel();
        self.durable.when(self.claim.commit_seq, Box::new(move |result| answer(send, result)));
        self.publish(WorldState::Stopped);
        Ok(receive)
    }

    /// It could not be put to sleep: it goes on, and is not idle for as long again.
    pub fn stay_awake(&mut self, now_ns: u64, why: &str) {
        self.busy_ns = now_ns;
        self.since_start.checkpoints_failed += 1;
        self.record(FlightKind::Checkpoint, None, format!("it could not be saved: {why}"));
        self.tell(1, format!("it stays awake, since it could not be saved: {why}"));
    }

    /// Somebody needs it while it falls asleep: it goes on at once, its time where it was, as if it had been read again.
    pub fn goes_on(&mut self, now_ns: u64) {
        self.busy_ns = now_ns;
        self.clock_base_ns = self.world.now_ns().wrapping_sub(now_ns);
        self.pacer.rested(now_ns);
        self.ticked_ns = None;
        // As at a start: what waits is in the checkpoint that it was to sleep on, and may be done in the first tick.
        if self.world.host_stats().waiting > 0 {
            self.next_checkpoint_ns = now_ns;
        }
        self.place.mailbox.set_state(WorldState::Ticking);
    }

    /// A checkpoint of everything, to sleep on; gives a channel that says when it is durable.
    pub fn save_to_sleep(&mut self) -> Result<oneshot::Receiver<Result<u64, String>>, String> {
        // What was to be tried out is not kept: the next life runs whatever version is active then.
        self.world.rollback_reload("the world leaves its tick thread".to_owned());
        let checkpoint = self.world.checkpoint(true).map_err(|error| error.to_string())?;
        let output = self.world.take_output();
        let checkpoint = match checkpoint::seal(&checkpoint) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.commit(output, None, None).map_err(|error| self.refused(error))?;
                return Err(error.to_string());
            }
        };
        self.commit(output, Some(checkpoint), None).map_err(|error| self.refused(error))?;
        let (send, receive) = oneshot::channel();
        self.durable.when(self.claim.commit_seq, Box::new(move |result| answer(send, result)));
        self.publish(WorldState::Asleep);
        Ok(receive)
    }

    /// Why its last commits failed, if they did.
    pub fn failure(&self) -> Option<StoreError> {
        self.durable.failure()
    }
}

/// Whoever asked may have gone.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

fn end_of_store(error: &StoreError) -> End {
    match error {
        StoreError::Fenced { .. } => End::Fenced(error.to_string()),
        error => End::NotStarted(error.to_string()),
    }
}
