//! One world: its scripts, its engine, its tick.
//!
//! [`World::tick`] is the whole of it: the engine begins, scripts run in the scheduler's order for their slices, the engine steps,
//! the tick closes (overload, rebuilding of what failed). Everything that leaves comes back in a [`TickReport`]; two ticks with equal
//! inputs and equal slices give equal worlds. Not here: threads and pacing, storage, where instances are placed.

use crate::overload::{OverloadAction, OverloadConfig, OverloadTracker};
use crate::reload::Reload;
use crate::scheduler::{SchedulerConfig, ScriptKey, TickClose, TickScheduler, Turn};
use crate::script::{Boot, Hot, ScriptCheckpoint, ScriptEnd, ScriptState, ScriptStatus, SetAside, Slot, Standing, call_bounded};
use crate::supervision::{End, RestartRule, Strategy};
use aether_scripting::instance::Step;
use aether_scripting::output::{InboundCall, WorldOutput};
use aether_scripting::{
    ActionLimiter, ActionRates, ApiError, Call, Counters, Host, HostStats, LogLine, MeteringOutcome, Reply, ScriptInstance,
    WorldContext, WorldMemory,
};
use aether_types::{Digest, InstanceId, ScriptId, Tick, Version, WorldId};
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Settings of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldConfig {
    /// Its name.
    pub id: WorldId,
    /// Order and slices.
    pub scheduler: SchedulerConfig,
    /// When scripts are suspended.
    pub overload: OverloadConfig,
    /// Memory of all scripts together.
    pub memory_bytes_max: u64,
    /// Actions of all scripts together.
    pub rates: ActionRates,
    /// Scripts at a time.
    pub scripts_max: usize,
    /// Different modules at a time. `AETHER_SERVER_MAX_MODULES`
    pub modules_max: usize,
    /// Fuel of one `save_state` or `on_stop`.
    pub save_fuel: u64,
    /// How often and how fast a script is restarted.
    pub restarts: RestartRule,
    /// Who is restarted with it.
    pub strategy: Strategy,
    /// Whether the world ends when a script is parked, for its own supervisor to restart.
    pub escalates: bool,
    /// Whether the world builds the instances that it wants, at the end of its ticks; else whoever takes
    /// [`World::take_wanted`] does.
    pub builds_itself: bool,
    /// Seeds the randomness of its scripts.
    pub seed: u64,
}

impl WorldConfig {
    /// The defaults for a world of this name.
    pub fn new(id: WorldId) -> WorldConfig {
        WorldConfig {
            id,
            scheduler: SchedulerConfig::default(),
            overload: OverloadConfig::default(),
            memory_bytes_max: 1 << 30,
            rates: ActionRates::world(),
            scripts_max: 20_000,
            modules_max: 256,
            save_fuel: 2_000_000,
            restarts: RestartRule::default(),
            strategy: Strategy::One,
            escalates: false,
            builds_itself: true,
            seed: 0,
        }
    }
}

/// What a tick did.
#[derive(Debug, Default)]
pub struct TickReport {
    /// Its number.
    pub tick: Tick,
    /// Time, turns, deferrals.
    pub close: TickClose,
    /// CPU time of the engine in a tick, nanoseconds, smoothed.
    pub engine_ns: u64,
    /// What leaves the world.
    pub output: WorldOutput,
    /// What scripts wrote.
    pub log: Vec<LogLine>,
    /// Scripts that ended badly.
    pub ends: Vec<ScriptEnd>,
    /// Overload steps.
    pub overload: Option<OverloadAction>,
    /// Messages with a delivery number that scripts have done with, or that nobody will do any more.
    pub done: Vec<u64>,
}

/// A world's saved state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorldCheckpoint {
    /// The tick after which it was made.
    pub tick: Tick,
    /// The world's clock.
    pub now_ns: u64,
    /// The next instance's number.
    pub next_instance: u64,
    /// The engine's part.
    pub engine: Vec<u8>,
    /// The scripts'.
    pub scripts: Vec<ScriptCheckpoint>,
}

/// One world.
pub struct World {
    pub(crate) config: WorldConfig,
    pub(crate) scheduler: TickScheduler,
    pub(crate) overload: OverloadTracker,
    /// By scheduler key, as `slots`.
    pub(crate) hot: Vec<Hot>,
    pub(crate) slots: Vec<Option<Box<Slot>>>,
    pub(crate) context: Option<Box<WorldContext>>,
    pub(crate) memory: Arc<WorldMemory>,
    pub(crate) tick: Tick,
    pub(crate) next_instance: u64,
    engine_ns: f32,
    pub(crate) modules: HashSet<Digest>,
    pub(crate) names: HashSet<String>,
    /// Scripts that wait to be restarted, and until when; empty in a healthy world.
    pub(crate) resting: Vec<(u64, ScriptKey)>,
    /// Scripts whose instance somebody must build.
    pub(crate) wanted: Vec<ScriptKey>,
    /// Scripts that could not be added.
    pub(crate) failed: Vec<ScriptStatus>,
    /// Scripts that ended outside of a tick: the next report has them.
    pub(crate) ends: Vec<ScriptEnd>,
    pub(crate) set_aside: VecDeque<SetAside>,
    /// Instances to be dropped by somebody who has time.
    pub(crate) discarded: Vec<ScriptInstance>,
    pub(crate) escalated: Option<End>,
    pub(crate) reload: Option<Box<Reload>>,
    /// Messages with a delivery number that are done with; the next report has them.
    pub(crate) done: Vec<u64>,
    /// Tick, script and version of ends, the newest last.
    pub(crate) recent_ends: VecDeque<(u64, ScriptId, Version)>,
}

/// CPU time of the thread that ticks. A function, so that a test can give any.
pub(crate) type CpuClock<'a> = &'a mut dyn FnMut() -> u64;

/// Every so many ticks the engine's time is measured.
const ENGINE_LOOK: u64 = 4;

impl World {
    /// A world without scripts.
    pub fn new(config: WorldConfig, host: Box<dyn Host>) -> World {
        World {
            scheduler: TickScheduler::new(config.scheduler),
            overload: OverloadTracker::new(config.overload),
            hot: Vec::new(),
            slots: Vec::new(),
            context: Some(WorldContext::new(host, ActionLimiter::new(&config.rates))),
            memory: WorldMemory::new(config.memory_bytes_max),
            tick: Tick(0),
            next_instance: 1,
            engine_ns: 0.0,
            modules: HashSet::new(),
            names: HashSet::new(),
            resting: Vec::new(),
            wanted: Vec::new(),
            failed: Vec::new(),
            ends: Vec::new(),
            set_aside: VecDeque::new(),
            discarded: Vec::new(),
            escalated: None,
            reload: None,
            done: Vec::new(),
            recent_ends: VecDeque::new(),
            config,
        }
    }

    /// Go on from a checkpoint. Before scripts are added: each is given its part when it is added under its old name.
    pub fn restore(&mut self, checkpoint: &WorldCheckpoint) -> Result<(), aether_types::codec::CodecError> {
        self.context().host.restore(&checkpoint.engine)?;
        self.context().now_ns = checkpoint.now_ns;
        self.tick = checkpoint.tick;
        self.next_instance = checkpoint.next_instance;
        Ok(())
    }

    /// Every script that is to go on has been added.
    pub fn finish_restore(&mut self) {
        self.context().host.finish_restore();
    }

    /// Its settings.
    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// The number of the last tick.
    pub fn tick_number(&self) -> Tick {
        self.tick
    }

    /// The world's clock, nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.context.as_ref().map_or(0, |context| context.now_ns)
    }

    /// Bytes of memory of all its scripts.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.used_bytes()
    }

    /// Used / budget over the overload window.
    pub fn utilisation(&self) -> f32 {
        self.overload.utilisation()
    }

    /// Whether nothing is in progress: no call waits for its answer, nobody is paused, restarted or replaced.
    pub fn is_idle(&self) -> bool {
        self.host_stats().open_calls == 0
            && self.host_stats().waiting == 0
            && !self.is_reloading()
            && self.resting.is_empty()
            && self.wanted.is_empty()
            && self.scheduler.paused() == 0
    }

    /// The engine's counters.
    pub fn host_stats(&self) -> HostStats {
        self.context.as_ref().map_or_else(HostStats::default, |context| context.host.stats())
    }

    /// How many scripts it has.
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Whether it has no scripts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn context(&mut self) -> &mut WorldContext {
        self.context.as_mut().expect("the context is lent only within `run_turn`")
    }

    /// The engine, for what is not a script's: input of players, tests.
    pub fn host(&mut self) -> &mut dyn Host {
        &mut *self.context().host
    }

    /// A call from another world or a player.
    pub fn deliver(&mut self, call: InboundCall) -> Result<(), ApiError> {
        self.context().host.deliver(call)
    }

    /// The answer to a call that left this world.
    /// Gives whether anybody waits for it.
    pub fn deliver_reply(&mut self, call: u64, payload: Vec<u8>, delivery: u64) -> Result<bool, ApiError> {
        self.context().host.deliver_reply(call, payload, delivery)
    }

    /// Refuse its scripts calls to another world that does not take what was sent to it, or take them again.
    pub fn block_calls(&mut self, world: &str, blocked: bool) {
        self.context().host.block_calls(world, blocked);
    }

    /// One tick. `now_ns` is the world's clock, `dt` the seconds since the last tick, `cpu` the CPU clock of this thread.
    pub fn tick(&mut self, now_ns: u64, dt: f32, cpu: CpuClock<'_>) -> TickReport {
        let start = cpu();
        self.tick = self.tick.next();
        let tick = self.tick;
        let context = self.context();
        context.now_ns = now_ns;
        context.tick = tick.0;
        context.host.begin_tick(now_ns, tick.0);
        let mut report = TickReport { tick, ends: std::mem::take(&mut self.ends), ..TickReport::default() };
        self.scheduler.begin(self.engine_ns as u64);
        loop {
            if self.scheduler.wants_clock() {
                self.scheduler.observe(cpu() - start);
            }
            let Some(turn) = self.scheduler.next_turn() else { break };
            self.run_turn(turn, dt, start, cpu, &mut report);
        }
        // The clock of CPU time is dear on some machines: the engine's part is looked at now and then.
        let scripts_end = tick.0.is_multiple_of(ENGINE_LOOK).then(&mut *cpu);
        let context = self.context();
        context.host.end_tick(dt);
        report.output = context.host.take_output();
        report.log = std::mem::take(&mut context.log);
        let end = cpu();
        if let Some(scripts_end) = scripts_end {
            self.engine_ns += 0.5 * ((end - scripts_end) as f32 - self.engine_ns);
        }
        report.engine_ns = self.engine_ns as u64;
        report.close = self.scheduler.close(end - start);
        self.protect(now_ns, &mut report);
        if !self.resting.is_empty() || !self.wanted.is_empty() {
            self.restart_due(now_ns, &mut report);
        }
        if self.reload.is_some() {
            self.reload_step(start, cpu);
        }
        if self.config.builds_itself {
            self.discarded.clear();
        }
        report.done = std::mem::take(&mut self.done);
        report
    }

    fn run_turn(&mut self, turn: Turn, dt: f32, start: u64, cpu: CpuClock<'_>, report: &mut TickReport) {
        let hot = &mut self.hot[turn.key.0 as usize];
        let Some(instance) = hot.instance.as_mut() else { return self.scheduler.record(turn, 0, false) };
        let mut waiting = match &mut self.context {
            Some(context) => context.host.enter(hot.id),
            None => 0,
        };
        let (mut used, mut tick_due, mut first) = (0, true, None);
        // What nearly every turn is: no mail, nothing left over, just a tick.
        if waiting == 0 && hot.boot.is_none() && !instance.is_paused() && !hot.draining {
            let (outcome, used) = instance.run_tick(&mut self.context, dt, turn.fuel);
            if !outcome.is_pause() {
                hot.fuel += used;
                hot.turns += 1;
                self.scheduler.record(turn, used, false);
                if let Some(end) = End::of(outcome) {
                    self.script_ended(turn.key, end, None, report);
                }
                return;
            }
            (tick_due, first) = (false, Some(Step { outcome, fuel: used, reply: Reply::None, failed: None }));
        }
        if hot.draining {
            // It finishes what it is in the middle of, and takes nothing new.
            (waiting, tick_due) = (0, false);
        }
        let (mut failed, mut retries) = (None, false);
        // A call paused in an earlier tick goes first, then boot, then what waits, then the tick.
        let outcome = loop {
            let mut step = if let Some(step) = first.take() {
                step
            } else if instance.is_paused() {
                instance.resume(&mut self.context)
            } else {
                let call = match Boot::next(&mut hot.boot) {
                    Some((call, again)) => {
                        retries = again;
                        call
                    }
                    None if waiting > 0 => {
                        waiting -= 1;
                        match self.context.as_mut().and_then(|context| context.host.next_call()) {
                            Some(call) => call,
                            None => continue,
                        }
                    }
                    None if tick_due => {
                        tick_due = false;
                        Call::Tick(dt)
                    }
                    None => break MeteringOutcome::Completed,
                };
                if let (Call::Message(message), Some(slot)) = (&call, &mut self.slots[turn.key.0 as usize]) {
                    slot.in_hand = message.delivery;
                }
                // Each call has the fuel of a call: who gets several messages in a turn is not to be stopped for it.
                instance.run(&mut self.context, call, turn.fuel)
            };
            used += step.fuel;
            let mut polls = 0;
            while instance.is_paused() && used < turn.fuel {
                polls += 1;
                // A quantum is 2 µs of typical code and a millisecond of the worst: look at the clock now and then, and stop when
                // the slice has become dearer than the whole tick.
                if polls % 2 == 0 && cpu() - start > self.config.scheduler.budget_ns {
                    break;
                }
                step = instance.resume(&mut self.context);
                used += step.fuel;
            }
            if step.reply == Reply::Restored(false) {
                let again = hot.boot.take().and_then(|boot| boot.again);
                hot.boot = Some(Box::new(Boot { first: Some(Call::Start), again }));
                if let Some(context) = &mut self.context {
                    context.host.reset_script(hot.id);
                }
                report.log.push(LogLine {
                    instance: hot.id,
                    level: 1,
                    text: "restore_state refused the saved state: starting anew".to_owned(),
                });
            }
            if instance.is_paused() || step.outcome.is_end() {
                failed = step.failed;
                break step.outcome;
            }
            hot.completed = true;
            if let Some(slot) = &mut self.slots[turn.key.0 as usize] {
                if std::mem::take(&mut retries) {
                    // What it was given a second time did not end it: it is not given it a third time, whatever ends it next.
                    slot.suspect = None;
                }
                if slot.in_hand != 0 {
                    self.done.push(std::mem::take(&mut slot.in_hand));
                }
            }
            if used >= turn.fuel && (tick_due || waiting > 0) {
                // The slice is gone between two calls: what is left waits for the next tick.
                break MeteringOutcome::Completed;
            }
        };
        hot.fuel += used;
        hot.turns += 1;
        let paused = instance.is_paused();
        hot.pauses += u32::from(paused);
        // What it has written so far goes with this tick: the message is not to be begun again, whatever happens to the rest.
        if paused
            && let Some(slot) = &mut self.slots[turn.key.0 as usize]
            && slot.in_hand != 0
        {
            self.done.push(std::mem::take(&mut slot.in_hand));
        }
        let ended = outcome.is_end() || (paused && !turn.may_stay_paused);
        self.scheduler.record(turn, used, paused && !ended);
        if ended {
            let end = if paused { Some(End::TooManyPaused) } else { End::of(outcome) };
            if let Some(end) = end {
                self.script_ended(turn.key, end, failed, report);
            }
        } else if !paused
            && self.hot[turn.key.0 as usize].boot.is_none()
            && let Some(slot) = &mut self.slots[turn.key.0 as usize]
        {
            // What it was given a second time did not end it.
            slot.suspect = None;
        }
    }

    fn protect(&mut self, now_ns: u64, report: &mut TickReport) {
        let budget = self.config.scheduler.budget_ns;
        // The engine's time is nobody's to suspend. What was deferred is demand that was not met: a world that defers is full,
        // whatever it used.
        let scripts_ns = report.close.used_ns.saturating_sub(report.engine_ns);
        let used = if report.close.deferred > 0 { scripts_ns.max(budget) } else { scripts_ns };
        self.overload.observe(now_ns, used, budget);
        let (slots, scheduler) = (&self.slots, &self.scheduler);
        let running = slots.iter().flatten().filter(|slot| slot.state == ScriptState::Running);
        let running =
            running.map(|slot| (slot.key, slot.parts.manifest.limits.priority, scheduler.cost_ns(slot.key) / budget as f32));
        report.overload = self.overload.decide(now_ns, running);
        match report.overload {
            Some(OverloadAction::Suspend(key)) => self.suspend_now(key),
            Some(OverloadAction::Resume(key)) => self.resume_now(key),
            None => {}
        }
    }

    /// A checkpoint: the states of all scripts (each with a small budget) and of the engine. The last one of a world that stops
    /// holds the messages that wait too; any other does not, since they may be handled after it and must not be twice.
    pub fn checkpoint(&mut self, last: bool) -> Result<WorldCheckpoint, aether_types::codec::CodecError> {
        let keys: Vec<_> = self.slots.iter().flatten().map(|slot| slot.key).collect();
        let mut report = TickReport::default();
        for key in keys {
            if !self.save(key) {
                self.script_ended(key, End::NotSaved { fuel: self.config.save_fuel }, None, &mut report);
            }
        }
        self.ends.append(&mut report.ends);
        let scripts = self
            .slots
            .iter()
            .flatten()
            .map(|slot| ScriptCheckpoint {
                name: slot.parts.name.clone(),
                instance: slot.id,
                version: slot.saved.as_ref().map_or(slot.parts.version, |(version, _)| *version),
                state: slot.saved.as_ref().map(|(_, state)| state.clone()),
                random: self.hot[slot.key.0 as usize].instance.as_ref().map(ScriptInstance::random),
                standing: self.standing(slot),
            })
            .collect();
        let (tick, next_instance) = (self.tick, self.next_instance);
        let context = self.context();
        Ok(WorldCheckpoint { tick, now_ns: context.now_ns, next_instance, engine: context.host.save(last)?, scripts })
    }

    fn standing(&self, slot: &Slot) -> Standing {
        let version = slot.parts.version;
        match &slot.state {
            // What overload protection took out comes back by itself, in a world that it knows nothing of.
            ScriptState::Suspended if !self.overload.suspended().any(|key| key == slot.key) => Standing::Suspended,
            ScriptState::Parked { cause } => Standing::Parked { cause: cause.clone(), version },
            ScriptState::Finished { cause } => Standing::Finished { cause: cause.clone(), version },
            _ => Standing::Runs,
        }
    }

    /// Every script gets `on_stop`, then its state is saved. What they still send comes back with the checkpoint.
    pub fn stop(&mut self) -> Result<(WorldCheckpoint, WorldOutput, Vec<LogLine>), aether_types::codec::CodecError> {
        let fuel = self.config.save_fuel;
        let mut order: Vec<_> = self.slots.iter().flatten().map(|slot| slot.key).collect();
        order.sort_unstable();
        for key in order {
            let hot = &mut self.hot[key.0 as usize];
            if hot.boot.is_none() {
                call_bounded(hot.instance.as_mut(), hot.id, &mut self.context, Call::Stop, fuel);
            }
        }
        let checkpoint = self.checkpoint(true)?;
        let context = self.context();
        Ok((checkpoint, context.host.take_output(), std::mem::take(&mut context.log)))
    }

    /// What has left the scripts since the last tick's report, by `save_state` or `on_stop`.
    pub fn take_output(&mut self) -> WorldOutput {
        self.context().host.take_output()
    }

    /// What each script did since this was last asked.
    pub fn status(&mut self) -> Vec<ScriptStatus> {
        let (scheduler, all_hot) = (&self.scheduler, &mut self.hot);
        let ticks = self.tick.0;
        self.slots
            .iter_mut()
            .flatten()
            .map(|slot| {
                let hot = &mut all_hot[slot.key.0 as usize];
                let Counters { host_calls, refused, memory_bytes } =
                    hot.instance.as_mut().map(ScriptInstance::take_counters).unwrap_or_default();
                slot.refused.iter_mut().zip(refused).for_each(|(sum, more)| *sum = sum.saturating_add(more));
                let turns = std::mem::take(&mut hot.turns);
                let paused = hot.instance.as_ref().is_some_and(ScriptInstance::is_paused);
                let passed = (ticks as u32).wrapping_sub(std::mem::replace(&mut slot.deferrals_seen, ticks as u32));
                let in_order = slot.state == ScriptState::Running;
                ScriptStatus {
                    name: slot.parts.name.clone(),
                    script: slot.parts.manifest.name,
                    version: slot.parts.version,
                    state: if in_order && paused { ScriptState::Paused } else { slot.state.clone() },
                    priority: slot.parts.manifest.limits.priority,
                    fuel: std::mem::take(&mut hot.fuel),
                    turns,
                    pauses: std::mem::take(&mut hot.pauses),
                    deferred_ticks: scheduler.deferred_ticks(slot.key),
                    deferrals: if in_order { passed.saturating_sub(turns) } else { 0 },
                    cost_ns: scheduler.cost_ns(slot.key),
                    host_calls,
                    refused: slot.refused,
                    memory_bytes,
                    restarts: slot.restarts.total(),
                }
            })
            .chain(self.failed.iter().cloned())
            .collect()
    }

    /// The name of a script.
    pub fn name_at(&self, key: ScriptKey) -> Option<&str> {
        self.slots.get(key.0 as usize)?.as_ref().map(|slot| slot.parts.name.as_str())
    }

    /// The name of an instance, for log lines.
    pub fn name_of(&self, instance: InstanceId) -> Option<&str> {
        self.slots.iter().flatten().find(|slot| slot.id == instance).map(|slot| slot.parts.name.as_str())
    }
}
