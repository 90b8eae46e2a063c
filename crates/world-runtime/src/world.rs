//! One world: its scripts, its engine, its tick.
//!
//! [`World::tick`] is the whole of it: the engine begins, scripts run in the scheduler's order for their slices, the engine steps,
//! the tick closes (overload, rebuilding of what failed). Everything that leaves comes back in a [`TickReport`]; two ticks with equal
//! inputs and equal slices give equal worlds. Not here: threads and pacing, storage, where instances are placed.

use crate::overload::{OverloadAction, OverloadConfig, OverloadTracker};
use crate::scheduler::{SchedulerConfig, ScriptKey, ScriptTraits, TickClose, TickScheduler, Turn};
use aether_scripting::instance::{InstanceError, RandomState, Step};
use aether_scripting::manifest::ScriptManifest;
use aether_scripting::output::{InboundCall, WorldOutput};
use aether_scripting::{
    ActionLimiter, ActionRates, ApiError, Call, Caller, Counters, Host, HostStats, InstanceSpec, LogLine, MeteringOutcome,
    OnBudget, Reply, ScriptInstance, ScriptModule, Vec3, WorldContext, WorldMemory,
};
use aether_types::{Digest, InstanceId, ScriptId, Tick, Version, WorldId};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
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
    /// Restarts of one script within `restart_period_ns` after which it is parked.
    pub restart_intensity: u32,
    /// See `restart_intensity`.
    pub restart_period_ns: u64,
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
            restart_intensity: 5,
            restart_period_ns: 60_000_000_000,
            seed: 0,
        }
    }
}

/// What a script is added from.
#[derive(Clone)]
pub struct ScriptParts {
    /// Its name in this world.
    pub name: String,
    /// What it may touch and use.
    pub manifest: Arc<ScriptManifest>,
    /// The version of its artifact.
    pub version: Version,
    /// Its code.
    pub module: Arc<ScriptModule>,
    /// The prefab and place of its own entity.
    pub entity: Option<(String, Vec3)>,
    /// The directory of its WASI files, if it may have any.
    pub directory: Option<std::path::PathBuf>,
}

/// Why a script could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// A name must be one script's.
    #[error("there is a script named {0:?} in this world already")]
    NameTaken(String),
    /// Too many scripts.
    #[error("the world has {0} scripts, more are not allowed: raise scripts_max")]
    TooManyScripts(usize),
    /// Too many different modules.
    #[error("the world has {0} different modules, more are not allowed: raise AETHER_SERVER_MAX_MODULES")]
    TooManyModules(usize),
    /// Its instance could not be built.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The engine refused it.
    #[error("the engine refused it: its prefab {prefab:?}: {error}")]
    Engine {
        /// The prefab asked for.
        prefab: Option<String>,
        /// Why.
        error: ApiError,
    },
}

/// What a script is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum ScriptState {
    /// It has a turn in every tick that has room.
    Running,
    /// Out of fuel in the middle of a call.
    Paused,
    /// Taken out of the order by overload protection or an operator; its state is saved.
    Suspended,
    /// It failed and comes back.
    Restarting,
    /// It kept failing.
    Parked {
        /// How it failed the last time.
        cause: String,
    },
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptEnd {
    /// Its name.
    pub name: String,
    /// Its script.
    pub script: ScriptId,
    /// How.
    pub cause: String,
    /// Whether it will not be restarted.
    pub parked: bool,
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
}

/// A script's part of a status.
#[derive(Debug, Clone, Serialize)]
pub struct ScriptStatus {
    /// Its name.
    pub name: String,
    /// Its script.
    pub script: ScriptId,
    /// Its version.
    pub version: Version,
    /// What it is doing.
    pub state: ScriptState,
    /// Its priority.
    pub priority: u32,
    /// Fuel since the last status.
    pub fuel: u64,
    /// Turns since the last status.
    pub turns: u32,
    /// Turns since the last status at whose end it was paused.
    pub pauses: u32,
    /// Ticks in a row that it has been deferred.
    pub deferred_ticks: u32,
    /// Ticks since the last status in which it was deferred.
    pub deferrals: u32,
    /// Nanoseconds of a turn, smoothed.
    pub cost_ns: f32,
    /// Host calls by group since the last status.
    pub host_calls: [u32; 7],
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Restarts since the world started.
    pub restarts: u32,
}

/// A script's part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptCheckpoint {
    /// Its name.
    pub name: String,
    /// Its number: what entities and calls in the engine's part refer to.
    pub instance: InstanceId,
    /// The version that saved it.
    pub version: Version,
    /// What it saved; `None`: it had nothing to save.
    pub state: Option<Vec<u8>>,
    /// Its randomness.
    pub random: Option<RandomState>,
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

/// What every turn touches: one cache line a script. A world of ten thousand walks over all of them twenty times a second.
#[derive(Default)]
struct Hot {
    instance: Option<ScriptInstance>,
    id: InstanceId,
    /// The first call of a fresh instance: `on_start` or `restore_state`.
    boot: Option<Box<Call>>,
    fuel: u64,
    turns: u32,
    pauses: u32,
}

/// The rest of a script.
struct Slot {
    key: ScriptKey,
    parts: ScriptParts,
    spec: InstanceSpec,
    state: ScriptState,
    saved: Option<(Version, Vec<u8>)>,
    restarts: Vec<u64>,
    restart_at_ns: u64,
    restart_count: u32,
    deferrals_seen: u32,
}

/// One world.
pub struct World {
    config: WorldConfig,
    scheduler: TickScheduler,
    overload: OverloadTracker,
    /// By scheduler key, as `slots`.
    hot: Vec<Hot>,
    slots: Vec<Option<Box<Slot>>>,
    context: Option<Box<WorldContext>>,
    memory: Arc<WorldMemory>,
    tick: Tick,
    next_instance: u64,
    engine_ns: f32,
    modules: HashSet<Digest>,
    names: HashSet<String>,
    /// Scripts to be rebuilt; empty in a healthy world.
    restarting: Vec<ScriptKey>,
    /// Scripts that could not be added.
    failed: Vec<ScriptStatus>,
    /// Scripts that ended outside of a tick: the next report has them.
    ends: Vec<ScriptEnd>,
}

/// CPU time of the thread that ticks. A function, so that a test can give any.
pub(crate) type CpuClock<'a> = &'a mut dyn FnMut() -> u64;

/// Every so many ticks the engine's time is measured.
const ENGINE_LOOK: u64 = 4;

/// Rebuilding an instance takes microseconds; this many in one tick do not hurt it.
const REBUILDS_PER_TICK: usize = 32;

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
            restarting: Vec::new(),
            failed: Vec::new(),
            ends: Vec::new(),
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

    fn context(&mut self) -> &mut WorldContext {
        self.context.as_mut().expect("the context is lent only within `run_turn`")
    }

    /// The engine, for what is not a script's: input of players, tests.
    pub fn host(&mut self) -> &mut dyn Host {
        &mut *self.context().host
    }

    /// Add a script. With its part of a checkpoint it goes on from there, else it starts.
    pub fn add_script(&mut self, parts: ScriptParts, checkpoint: Option<&ScriptCheckpoint>) -> Result<ScriptKey, AddError> {
        if self.names.contains(&parts.name) {
            return Err(AddError::NameTaken(parts.name));
        }
        let count = self.names.len();
        if count >= self.config.scripts_max {
            return Err(AddError::TooManyScripts(count));
        }
        let digest = parts.module.source_digest();
        if !self.modules.contains(&digest) && self.modules.len() >= self.config.modules_max {
            return Err(AddError::TooManyModules(self.modules.len()));
        }
        let instance = checkpoint.map_or(InstanceId(self.next_instance), |checkpoint| checkpoint.instance);
        let spec = InstanceSpec {
            instance,
            version: parts.version,
            policy: parts.manifest.policy(),
            groups: parts.manifest.groups(),
            rates: parts.manifest.limits.rates,
            seed: self.config.seed ^ instance.0.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            random: checkpoint.and_then(|checkpoint| checkpoint.random.clone()),
            drained_at_ns: None,
            directory: parts.directory.clone(),
        };
        let built = ScriptInstance::build(&parts.module, &spec, &self.memory)?;
        let caller = Caller {
            instance,
            name: parts.name.clone(),
            entity_kinds: parts.manifest.grants.entity_kinds.clone(),
            storage_namespace: parts.manifest.grants.storage_namespace.clone(),
        };
        // A script that comes back has its entities already: they are in the engine's part of the checkpoint.
        let entity =
            parts.entity.as_ref().filter(|_| checkpoint.is_none()).map(|(prefab, position)| (prefab.as_str(), *position));
        self.context()
            .host
            .add_script(caller, entity)
            .map_err(|error| AddError::Engine { prefab: parts.entity.as_ref().map(|(prefab, _)| prefab.clone()), error })?;
        if checkpoint.is_some_and(|checkpoint| checkpoint.state.is_none()) {
            self.context().host.reset_script(instance);
        }
        self.next_instance = self.next_instance.max(instance.0 + 1);
        self.modules.insert(digest);
        self.names.insert(parts.name.clone());
        let limits = &parts.manifest.limits;
        let traits =
            ScriptTraits { priority: limits.priority, fuel: limits.fuel, may_pause: limits.on_budget == OnBudget::Pause };
        let key = self.scheduler.add(traits);
        let saved = checkpoint.and_then(|checkpoint| checkpoint.state.clone().map(|state| (checkpoint.version, state)));
        let slot = Slot {
            key,
            parts,
            spec,
            state: ScriptState::Running,
            saved,
            restarts: Vec::new(),
            restart_at_ns: 0,
            restart_count: 0,
            deferrals_seen: 0,
        };
        if self.slots.len() <= key.0 as usize {
            self.slots.resize_with(key.0 as usize + 1, || None);
            self.hot.resize_with(key.0 as usize + 1, Hot::default);
        }
        let boot = Some(Box::new(boot_call(slot.saved.as_ref())));
        self.hot[key.0 as usize] = Hot { instance: Some(built), id: instance, boot, ..Hot::default() };
        self.slots[key.0 as usize] = Some(Box::new(slot));
        Ok(key)
    }

    /// A call from another world or a player.
    pub fn deliver(&mut self, call: InboundCall) -> Result<(), ApiError> {
        self.context().host.deliver(call)
    }

    /// The answer to a call that left this world.
    pub fn deliver_reply(&mut self, call: u64, payload: Vec<u8>) {
        self.context().host.deliver_reply(call, payload);
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
        if !self.restarting.is_empty() {
            self.rebuild_due(now_ns, &mut report);
        }
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
        if waiting == 0 && hot.boot.is_none() && !instance.is_paused() {
            let (outcome, used) = instance.run_tick(&mut self.context, dt, turn.fuel);
            if !outcome.is_pause() {
                hot.fuel += used;
                hot.turns += 1;
                self.scheduler.record(turn, used, false);
                if outcome.is_end() {
                    self.script_ended(turn.key, outcome.to_string(), report);
                }
                return;
            }
            (tick_due, first) = (false, Some(Step { outcome, fuel: used, reply: Reply::None }));
        }
        // A call paused in an earlier tick goes first, then boot, then what waits, then the tick.
        let outcome = loop {
            let mut step = if let Some(step) = first.take() {
                step
            } else if instance.is_paused() {
                instance.resume(&mut self.context)
            } else {
                let call = match hot.boot.take() {
                    Some(call) => *call,
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
                instance.run(&mut self.context, call, turn.fuel.saturating_sub(used).max(1))
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
                hot.boot = Some(Box::new(Call::Start));
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
                break step.outcome;
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
        let ended = outcome.is_end() || (paused && !turn.may_stay_paused);
        self.scheduler.record(turn, used, paused && !ended);
        if ended {
            let cause = if paused {
                "stopped: out of fuel while too many scripts of this world are paused".to_owned()
            } else {
                outcome.to_string()
            };
            self.script_ended(turn.key, cause, report);
        }
    }

    /// A script ended badly: it comes back with its last saved state, or is parked if it keeps failing.
    fn script_ended(&mut self, key: ScriptKey, cause: String, report: &mut TickReport) {
        let now_ns = self.now_ns();
        let Some(slot) = self.slots[key.0 as usize].as_mut() else { return };
        self.hot[key.0 as usize].instance = None;
        slot.restarts.retain(|at| now_ns.saturating_sub(*at) < self.config.restart_period_ns);
        let parked = slot.restarts.len() >= self.config.restart_intensity as usize;
        if parked {
            slot.state = ScriptState::Parked { cause: cause.clone() };
        } else {
            slot.restarts.push(now_ns);
            slot.state = ScriptState::Restarting;
            // The first time at once, then 100 ms, 200 ms … and a spread of up to as much again, so that many do not come back as one.
            let backoff = 100_000_000u64 << (slot.restarts.len() as u32).saturating_sub(2).min(10);
            let spread = slot.spec.instance.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
            slot.restart_at_ns = now_ns + if slot.restarts.len() == 1 { 0 } else { backoff + backoff * spread / (1 << 20) };
            self.restarting.push(key);
        }
        report.ends.push(ScriptEnd { name: slot.parts.name.clone(), script: slot.parts.manifest.name, cause, parked });
        self.scheduler.forget_pause(key);
        self.scheduler.set_runnable(key, false);
        self.overload.forget(key);
    }

    fn rebuild_due(&mut self, now_ns: u64, report: &mut TickReport) {
        let due: Vec<_> = {
            let at = |key: &ScriptKey| self.slots[key.0 as usize].as_ref().map_or(0, |slot| slot.restart_at_ns);
            self.restarting.iter().copied().filter(|key| at(key) <= now_ns).take(REBUILDS_PER_TICK).collect()
        };
        for key in due {
            self.restarting.retain(|other| *other != key);
            self.rebuild(key, report);
        }
    }

    fn rebuild(&mut self, key: ScriptKey, report: &mut TickReport) {
        let (memory, now_ns) = (Arc::clone(&self.memory), self.now_ns());
        let Some(slot) = self.slots[key.0 as usize].as_mut() else { return };
        slot.spec.drained_at_ns = Some(now_ns);
        match ScriptInstance::build(&slot.parts.module, &slot.spec, &memory) {
            Ok(instance) => {
                let hot = &mut self.hot[key.0 as usize];
                hot.instance = Some(instance);
                hot.boot = Some(Box::new(boot_call(slot.saved.as_ref())));
                if slot.saved.is_none()
                    && let Some(context) = &mut self.context
                {
                    context.host.reset_script(slot.spec.instance);
                }
                slot.state = ScriptState::Running;
                slot.restart_count += 1;
                self.scheduler.set_runnable(key, true);
            }
            Err(error) => self.script_ended(key, error.to_string(), report),
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
            Some(OverloadAction::Resume(key)) => self.resume_now(key, report),
            None => {}
        }
    }

    fn find(&self, name: &str) -> Option<ScriptKey> {
        self.slots.iter().flatten().find(|slot| slot.parts.name == name).map(|slot| slot.key)
    }

    /// An operator takes a script out of the order; its state is saved. `false`: there is no such script that runs.
    pub fn suspend(&mut self, name: &str) -> bool {
        let running = |key: &ScriptKey| self.hot[key.0 as usize].instance.is_some();
        let key = self.find(name).filter(running);
        if let Some(key) = key {
            self.suspend_now(key);
        }
        key.is_some()
    }

    /// An operator puts a suspended or parked script back. `false`: there is no such script.
    pub fn resume(&mut self, name: &str) -> bool {
        let resting = |key: &ScriptKey| {
            self.slots[key.0 as usize]
                .as_ref()
                .is_some_and(|slot| matches!(slot.state, ScriptState::Suspended | ScriptState::Parked { .. }))
        };
        let Some(key) = self.find(name).filter(resting) else { return false };
        self.overload.forget(key);
        if let Some(slot) = self.slots[key.0 as usize].as_mut() {
            slot.restarts.clear();
        }
        self.resume_now(key, &mut TickReport::default());
        true
    }

    fn suspend_now(&mut self, key: ScriptKey) {
        self.save(key);
        self.hot[key.0 as usize].instance = None;
        if let Some(slot) = self.slots[key.0 as usize].as_mut() {
            slot.state = ScriptState::Suspended;
        }
        self.scheduler.forget_pause(key);
        self.scheduler.set_runnable(key, false);
    }

    fn resume_now(&mut self, key: ScriptKey, report: &mut TickReport) {
        self.rebuild(key, report);
    }

    /// Call `save_state` with its own small budget and keep what it gives. A script that is in the middle of a call keeps what it saved
    /// the last time. `false`: it trapped or took too long.
    fn save(&mut self, key: ScriptKey) -> bool {
        let fuel = self.config.save_fuel;
        let Some(slot) = self.slots[key.0 as usize].as_mut() else { return true };
        let version = slot.parts.version;
        match call_bounded(&mut self.hot[key.0 as usize], &mut self.context, Call::Save, fuel) {
            Bounded::Completed(Reply::State(state)) => {
                slot.saved = Some((version, state));
                true
            }
            Bounded::Completed(_) | Bounded::NotNow => true,
            Bounded::Failed => false,
        }
    }

    /// A checkpoint: the states of all scripts (each with a small budget) and of the engine.
    pub fn checkpoint(&mut self) -> Result<WorldCheckpoint, aether_types::codec::CodecError> {
        let keys: Vec<_> = self.slots.iter().flatten().map(|slot| slot.key).collect();
        let mut report = TickReport::default();
        for key in keys {
            if !self.save(key) {
                self.script_ended(
                    key,
                    format!("save_state trapped, or took more than {} fuel", self.config.save_fuel),
                    &mut report,
                );
            }
        }
        self.ends.append(&mut report.ends);
        let scripts = self
            .slots
            .iter()
            .flatten()
            .map(|slot| ScriptCheckpoint {
                name: slot.parts.name.clone(),
                instance: slot.spec.instance,
                version: slot.saved.as_ref().map_or(slot.parts.version, |(version, _)| *version),
                state: slot.saved.as_ref().map(|(_, state)| state.clone()),
                random: self.hot[slot.key.0 as usize].instance.as_ref().map(ScriptInstance::random),
            })
            .collect();
        let (tick, next_instance) = (self.tick, self.next_instance);
        let context = self.context();
        Ok(WorldCheckpoint { tick, now_ns: context.now_ns, next_instance, engine: context.host.save()?, scripts })
    }

    /// Every script gets `on_stop`, then its state is saved. What they still send comes back with the checkpoint.
    pub fn stop(&mut self) -> Result<(WorldCheckpoint, WorldOutput, Vec<LogLine>), aether_types::codec::CodecError> {
        let fuel = self.config.save_fuel;
        let mut order: Vec<_> = self.slots.iter().flatten().map(|slot| slot.key).collect();
        order.sort_unstable();
        for key in order {
            call_bounded(&mut self.hot[key.0 as usize], &mut self.context, Call::Stop, fuel);
        }
        let checkpoint = self.checkpoint()?;
        let context = self.context();
        Ok((checkpoint, context.host.take_output(), std::mem::take(&mut context.log)))
    }

    /// What has left the scripts since the last tick's report, by `save_state` or `on_stop`.
    pub fn take_output(&mut self) -> WorldOutput {
        self.context().host.take_output()
    }

    /// A script that could not be loaded or added is shown as parked: one bad script must not keep a world from starting.
    pub fn add_failed(&mut self, name: String, script: ScriptId, version: Version, cause: String) {
        self.ends.push(ScriptEnd { name: name.clone(), script, cause: cause.clone(), parked: true });
        let state = ScriptState::Parked { cause };
        let status = ScriptStatus {
            name,
            script,
            version,
            state,
            priority: 0,
            fuel: 0,
            turns: 0,
            pauses: 0,
            deferred_ticks: 0,
            deferrals: 0,
            cost_ns: 0.0,
            host_calls: [0; 7],
            memory_bytes: 0,
            restarts: 0,
        };
        self.failed.push(status);
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
                let Counters { host_calls, memory_bytes } =
                    hot.instance.as_mut().map(ScriptInstance::take_counters).unwrap_or_default();
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
                    memory_bytes,
                    restarts: slot.restart_count,
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
        self.slots.iter().flatten().find(|slot| slot.spec.instance == instance).map(|slot| slot.parts.name.as_str())
    }
}

/// The first call of a fresh instance.
fn boot_call(saved: Option<&(Version, Vec<u8>)>) -> Call {
    match saved {
        Some((from, state)) => Call::Restore { from: *from, state: state.clone().into() },
        None => Call::Start,
    }
}

/// How a call outside of a tick went.
enum Bounded {
    Completed(Reply),
    /// The script is not there, not started yet, or in the middle of another call.
    NotNow,
    Failed,
}

/// A call outside of a tick, with a bound of its own.
fn call_bounded(hot: &mut Hot, context: &mut Option<Box<WorldContext>>, call: Call, fuel: u64) -> Bounded {
    let Some(instance) = hot.instance.as_mut() else { return Bounded::NotNow };
    if instance.is_paused() || instance.has_ended() || hot.boot.is_some() {
        return Bounded::NotNow;
    }
    if let Some(context) = context {
        context.host.enter(hot.id);
    }
    let mut step = instance.run(context, call, fuel);
    let mut used = step.fuel;
    while instance.is_paused() && used < fuel {
        step = instance.resume(context);
        used += step.fuel;
    }
    if step.outcome == MeteringOutcome::Completed { Bounded::Completed(step.reply) } else { Bounded::Failed }
}
