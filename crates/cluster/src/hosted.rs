//! One world on a node: its value, its pace, its inbox, its gate, its place in the store.
//!
//! [`HostedWorld::run_due`] is one round: take what came in, tick, hand what the tick wrote to the store, let out what is durable.
//! A panic in it ends this world only: the thread that ticks catches it.

use crate::events::{EventLog, NodeEvent};
use crate::gate::{Durable, Output, OutputGate};
use crate::pacer::Pacer;
use crate::status::{WorldState, WorldStatus};
use aether_scripting::instance::thread_cpu_ns;
use aether_scripting::output::{InboundCall, OutboundCall, StorageWrite, WorldOutput};
use aether_store::{Batch, Claim, KvWrite, Store, StoreError};
use aether_types::{WorldId, codec};
use aether_world_runtime::{OverloadAction, TickReport, World};
use hdrhistogram::Histogram;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// The schema of a world's checkpoint.
pub(crate) const CHECKPOINT_SCHEMA: u8 = 1;
/// Calls from outside that wait for a world's next tick.
const INBOX_MAX: usize = 10_000;
/// Nanoseconds between two publications of a status.
const STATUS_NS: u64 = 1_000_000_000;

/// Something that comes into a world from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// A call.
    Call(InboundCall),
    /// An answer.
    Reply {
        /// The call's number in this world.
        call: u64,
        /// The result.
        payload: Vec<u8>,
    },
}

/// What others share with a world: where to put what comes in, and what it last told about itself.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    inbox: Mutex<VecDeque<Inbound>>,
    pub status: Mutex<WorldStatus>,
}

impl Mailbox {
    /// `false`: the inbox is full.
    pub fn push(&self, inbound: Inbound) -> bool {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.len() >= INBOX_MAX {
            return false;
        }
        inbox.push_back(inbound);
        true
    }

    fn take(&self) -> VecDeque<Inbound> {
        std::mem::take(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Finds worlds of this node by name.
pub(crate) type Router = HashMap<String, Arc<Mailbox>>;

pub(crate) struct HostedWorld {
    pub id: WorldId,
    pub world: World,
    pub pacer: Pacer,
    pub mailbox: Arc<Mailbox>,
    events: EventLog,
    store: Arc<dyn Store>,
    claim: Claim,
    durable: Arc<Durable>,
    gate: OutputGate,
    /// The world's clock when this node's clock was 0: its time goes on where it was.
    clock_base_ns: u64,
    checkpoint_ns: u64,
    next_checkpoint_ns: u64,
    next_status_ns: u64,
    ticks: Histogram<u64>,
    totals: Totals,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    turns: u64,
    deferred: u64,
    engine_ns: u64,
    commands: u64,
    calls_out: u64,
    calls_refused: u64,
}

impl HostedWorld {
    pub fn new(
        world: World,
        claim: Claim,
        store: Arc<dyn Store>,
        mailbox: Arc<Mailbox>,
        events: EventLog,
        pacer: Pacer,
        checkpoint_seconds: f64,
    ) -> HostedWorld {
        let durable = Durable::new(claim.commit_seq);
        let checkpoint_ns = (checkpoint_seconds * 1e9) as u64;
        HostedWorld {
            id: world.config().id.clone(),
            clock_base_ns: world.now_ns(),
            world,
            next_checkpoint_ns: pacer.next_ns() + checkpoint_ns,
            next_status_ns: 0,
            pacer,
            mailbox,
            events,
            store,
            claim,
            gate: OutputGate::new(Arc::clone(&durable)),
            durable,
            checkpoint_ns,
            ticks: Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("these bounds are valid"),
            totals: Totals::default(),
        }
    }

    /// One round at `now_ns` of the node's clock. `Err`: the world has ended, and why.
    pub fn run_due(&mut self, now_ns: u64, router: &Router) -> Result<(), String> {
        if let Some(error) = self.durable.failure() {
            return Err(error.to_string());
        }
        self.release(router);
        if self.gate.is_full(self.claim.commit_seq) {
            // The disk is behind: the world waits rather than let anybody see what may be lost.
            self.publish(now_ns, WorldState::Held);
            return Ok(());
        }
        self.take_inbound();
        let (world_now_ns, dt) = (self.clock_base_ns + now_ns, self.pacer.dt());
        let report = self.world.tick(world_now_ns, dt, &mut thread_cpu_ns);
        self.account(&report);
        let mut output = report.output;
        let checkpoint = if now_ns >= self.next_checkpoint_ns { self.checkpoint(now_ns, &mut output) } else { None };
        self.commit(output.writes, checkpoint)?;
        self.gate.hold(self.claim.commit_seq, Output { commands: output.commands, calls: output.calls });
        self.release(router);
        if now_ns >= self.next_status_ns {
            self.next_status_ns = now_ns + STATUS_NS;
            self.publish(now_ns, WorldState::Ticking);
        }
        Ok(())
    }

    fn take_inbound(&mut self) {
        for inbound in self.mailbox.take() {
            match inbound {
                Inbound::Call(call) => {
                    if self.world.deliver(call).is_err() {
                        self.totals.calls_refused += 1;
                    }
                }
                Inbound::Reply { call, payload } => self.world.deliver_reply(call, payload),
            }
        }
    }

    fn account(&mut self, report: &TickReport) {
        self.ticks.saturating_record(report.close.used_ns.max(1));
        self.totals.turns += u64::from(report.close.ran);
        self.totals.deferred += u64::from(report.close.deferred);
        self.totals.engine_ns += report.engine_ns;
        self.totals.commands += report.output.commands.len() as u64;
        self.totals.calls_out += report.output.calls.len() as u64;
        let world = self.id.as_str();
        for line in &report.log {
            let script = self.world.name_of(line.instance).unwrap_or("?").to_owned();
            self.events.push(NodeEvent::Log { world: world.to_owned(), script, level: line.level, text: line.text.clone() });
        }
        for end in &report.ends {
            self.events.push(NodeEvent::ScriptEnded {
                world: world.to_owned(),
                script: end.name.clone(),
                cause: end.cause.clone(),
                parked: end.parked,
            });
        }
        if let Some(action) = report.overload {
            let (verb, key) = match action {
                OverloadAction::Suspend(key) => ("suspended", key),
                OverloadAction::Resume(key) => ("resumed", key),
            };
            let script = self.world.name_at(key).unwrap_or("?");
            let percent = (self.world.utilisation() * 100.0) as u32;
            self.events.push(NodeEvent::Overload {
                world: world.to_owned(),
                action: format!("{script} {verb} at {percent}% of the budget over ten seconds"),
            });
        }
    }

    /// A checkpoint's bytes; what scripts sent while they saved joins the tick's output, so that both are in one commit. One that cannot be
    /// made is an event: the world goes on, and the one before it counts.
    fn checkpoint(&mut self, now_ns: u64, output: &mut WorldOutput) -> Option<Vec<u8>> {
        self.next_checkpoint_ns = now_ns + self.checkpoint_ns;
        let checkpoint = self.world.checkpoint().and_then(|checkpoint| codec::encode(CHECKPOINT_SCHEMA, &checkpoint));
        let more = self.world.take_output();
        output.commands.extend(more.commands);
        output.calls.extend(more.calls);
        // A key written twice: the later one is the value.
        output
            .writes
            .retain(|write| !more.writes.iter().any(|later| (&later.namespace, &later.key) == (&write.namespace, &write.key)));
        output.writes.extend(more.writes);
        checkpoint.map_err(|error| self.tell(0, format!("no checkpoint could be made, the one before it counts: {error}"))).ok()
    }

    fn tell(&self, level: u8, text: String) {
        self.events.push(NodeEvent::Log { world: self.id.to_string(), script: "world".into(), level, text });
    }

    fn commit(&mut self, writes: Vec<StorageWrite>, checkpoint: Option<Vec<u8>>) -> Result<(), String> {
        if writes.is_empty() && checkpoint.is_none() {
            return Ok(());
        }
        let writes = writes.into_iter().map(|StorageWrite { namespace, key, value }| KvWrite { namespace, key, value }).collect();
        let Claim { generation, commit_seq: after_seq } = self.claim;
        let batch = Batch { world: self.id.clone(), generation, after_seq, writes, checkpoint };
        let (durable, seq) = (Arc::clone(&self.durable), after_seq + 1);
        self.store
            .commit(batch, Box::new(move |result| durable.report(seq, result)))
            .map_err(|error: StoreError| error.to_string())?;
        self.claim.commit_seq = seq;
        Ok(())
    }

    fn release(&mut self, router: &Router) {
        while let Some(output) = self.gate.release() {
            for call in output.calls {
                let (world, inbound) = match call {
                    OutboundCall::Call { world, script, from, call, method, payload } => {
                        let from_world = Some(self.id.to_string());
                        (world, Inbound::Call(InboundCall { world: from_world, from, call, script, method, payload }))
                    }
                    OutboundCall::Reply { world, call, payload } => (world, Inbound::Reply { call, payload }),
                };
                // Nobody there, or too busy: the caller is told when its time to wait is over.
                if !router.get(&world).is_some_and(|mailbox| mailbox.push(inbound)) {
                    self.totals.calls_refused += 1;
                }
            }
        }
    }

    fn publish(&mut self, _now_ns: u64, state: WorldState) {
        let scripts = self.world.status();
        let count = |wanted: fn(&aether_world_runtime::ScriptState) -> bool| {
            scripts.iter().filter(|script| wanted(&script.state)).count()
        };
        use aether_world_runtime::ScriptState::{Parked, Paused, Suspended};
        let us = |ns: u64| ns as f64 / 1_000.0;
        let ticks = self.ticks.len();
        let status = WorldStatus {
            name: self.id.to_string(),
            state,
            tick: self.world.tick_number().0,
            ticks,
            missed_ticks: self.pacer.missed(),
            tick_p50_us: us(self.ticks.value_at_quantile(0.5)),
            tick_p99_us: us(self.ticks.value_at_quantile(0.99)),
            tick_max_us: us(self.ticks.max()),
            budget_us: us(self.world.config().scheduler.budget_ns),
            engine_us: us(self.totals.engine_ns) / ticks.max(1) as f64,
            utilisation: self.world.utilisation(),
            turns: self.totals.turns,
            deferred: self.totals.deferred,
            paused: count(|state| *state == Paused),
            suspended: count(|state| *state == Suspended),
            parked: count(|state| matches!(state, Parked { .. })),
            memory_bytes: self.world.memory_bytes(),
            commands: self.totals.commands,
            calls_out: self.totals.calls_out,
            calls_refused: self.totals.calls_refused,
            host: self.world.host_stats(),
            commit_seq: self.claim.commit_seq,
            scripts: Arc::new(scripts),
        };
        self.ticks.reset();
        (self.totals.turns, self.totals.deferred, self.totals.engine_ns) = (0, 0, 0);
        *self.mailbox.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Let out everything that may leave, before worlds are stopped one after the other.
    pub fn settle(&mut self, router: &Router) {
        self.release(router);
    }

    /// What came in last, `on_stop` for every script, then a last checkpoint.
    pub fn stop(&mut self) -> Result<(), String> {
        self.take_inbound();
        let (checkpoint, output, log) = self.world.stop().map_err(|error| format!("could not make a checkpoint: {error}"))?;
        for line in log {
            let script = self.world.name_of(line.instance).unwrap_or("?").to_owned();
            self.events.push(NodeEvent::Log { world: self.id.to_string(), script, level: line.level, text: line.text });
        }
        let checkpoint =
            codec::encode(CHECKPOINT_SCHEMA, &checkpoint).map_err(|error| format!("could not make a checkpoint: {error}"))?;
        self.commit(output.writes, Some(checkpoint))?;
        self.publish(0, WorldState::Stopped);
        Ok(())
    }

    /// Why its last commits failed, if they did.
    pub fn failure(&self) -> Option<StoreError> {
        self.durable.failure()
    }
}
