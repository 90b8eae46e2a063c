//! A new version of a script takes the place of the old one in a running world.
//!
//! 1. [`World::rehearsal`]: a copy of the old state and of the engine, in which the new version is tried out, off the tick path.
//! 2. [`World::begin_reload`]: instances of the new version are built beside the old ones, off the tick path.
//! 3. At the end of ticks, as many a tick as there is time for: `save_state` of the old, `restore_state` of the new, swap. Who is
//!    paused in the middle of a call finishes it first, or is cut off when it has drained for too long.
//! 4. For some ticks the new version is watched. Then the world waits for [`World::commit_reload`] or
//!    [`World::rollback_reload`]: other worlds may have seen what this one has not.
//!
//! Until then the old instances are kept as they were at the swap. Whatever goes wrong puts them back. Not here: where versions come
//! from, other worlds, other nodes.

use crate::scheduler::ScriptKey;
use crate::script::{Boot, Bounded, BuildOrder, Code, Next, ScriptParts, ScriptState, call_bounded};
use crate::supervision::{End, Restarts};
use crate::world::{CpuClock, World};
use aether_scripting::instance::InstanceError;
use aether_scripting::manifest::ScriptManifest;
use aether_scripting::{
    ActionLimiter, ActionRates, Call, Caller, Host, InstanceSpec, LogLine, MeteringOutcome, Reply, ScriptInstance, ScriptModule,
    WorldContext, WorldMemory,
};
use aether_types::{InstanceId, ScriptId, Version};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Swaps in one tick at most; the clock is looked at too.
const SWAPS_PER_TICK: usize = 64;
/// What swaps may take of a tick, CPU nanoseconds: players must not notice a reload. In the next tick the first turns of what was
/// swapped, each measured alone, take about half as much again.
const SWAPS_NS: u64 = 250_000;
/// Swaps between two looks at the clock, if there is room for so many: a look takes a tenth of the time of a swap.
const SWAPS_PER_LOOK: u64 = 4;
/// What a swap takes before one was measured.
const SWAP_NS: u64 = 20_000;

/// Bounds of a reload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReloadRule {
    /// Ticks that a paused call of the old version may take to finish; then it is dropped.
    pub drain_ticks: u32,
    /// Ticks that the new version is watched.
    pub watch_ticks: u32,
    /// Times that a turn of the new version may cost of what one of the old did, before it is rolled back.
    pub slower_max: f32,
}

impl Default for ReloadRule {
    fn default() -> ReloadRule {
        ReloadRule { drain_ticks: 100, watch_ticks: 60, slower_max: 3.0 }
    }
}

/// What was seen of a new version.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ReloadEvidence {
    /// Ends of the old version, in as many ticks as the new one is watched.
    pub ends_before: u32,
    /// Ends of the new one.
    pub ends: u32,
    /// Fuel of a turn of all its scripts together: of the old version …
    pub fuel_before: f32,
    /// … and of the new one.
    pub fuel: f32,
    /// How many scripts.
    pub scripts: u32,
    /// Scripts that have not finished a single call of the new version.
    pub hung: u32,
}

/// Fuel of a turn that nobody has to justify: a few microseconds.
const FUEL_FREE: f32 = 50_000.0;

impl ReloadRule {
    /// Why the new version must go; `None`: it may stay.
    pub fn verdict(&self, seen: &ReloadEvidence) -> Option<String> {
        if seen.ends > seen.ends_before {
            return Some(format!(
                "{} ends within {} ticks after the swap, {} before it",
                seen.ends, self.watch_ticks, seen.ends_before
            ));
        }
        if seen.hung > 0 {
            return Some(format!("{} scripts did not finish a call within {} ticks after the swap", seen.hung, self.watch_ticks));
        }
        let allowed = seen.fuel_before * self.slower_max + FUEL_FREE * seen.scripts as f32;
        (seen.fuel > allowed).then(|| {
            let each = |fuel: f32| (fuel / seen.scripts.max(1) as f32) as u64;
            format!("a turn takes {} fuel, it took {} before the swap", each(seen.fuel), each(seen.fuel_before))
        })
    }
}

/// What to swap to.
#[derive(Debug, Clone)]
pub struct ReloadOrder {
    /// The script.
    pub script: ScriptId,
    /// Its new version.
    pub version: Version,
    /// The new version's code.
    pub module: Arc<ScriptModule>,
    /// The new version's grants and limits.
    pub manifest: Arc<ScriptManifest>,
    /// Bounds.
    pub rule: ReloadRule,
}

/// How far a reload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum ReloadPhase {
    /// Scripts are swapped.
    Swapping {
        /// Not swapped yet.
        left: usize,
    },
    /// The new version is watched.
    Watching {
        /// For so many ticks more.
        ticks_left: u32,
    },
    /// All is well here; the old version is kept until the others have said so too.
    Held,
    /// The old version serves as before.
    RolledBack {
        /// Why.
        reason: String,
    },
}

/// An old version's place, to go back to.
struct Retired {
    key: ScriptKey,
    code: Code,
    next: Next,
    state: ScriptState,
    saved: Option<(Version, Vec<u8>)>,
    instance: Option<ScriptInstance>,
    /// What it had not done yet.
    boot: Option<Boot>,
    /// The new version's ends are not held against it.
    restarts: Restarts,
    /// Whether the new version has finished a call, or need not in so short a time.
    completed: bool,
}

/// A reload in progress.
pub(crate) struct Reload {
    order: ReloadOrder,
    phase: ReloadPhase,
    pending: VecDeque<ScriptKey>,
    /// Those of them that an instance is built for beforehand.
    ordered: HashSet<ScriptKey>,
    fresh: HashMap<ScriptKey, ScriptInstance>,
    retired: Vec<Retired>,
    seen: ReloadEvidence,
    /// Ticks since it began.
    age: u32,
    pace: SwapPace,
}

/// How many swaps fit into a tick. What one takes is learned as they are made.
#[derive(Debug, Clone, Copy)]
struct SwapPace {
    swap_ns: u64,
}

impl SwapPace {
    /// Swaps to make before the next look at the clock, of which the tick has so much time left. One a tick in any case, or a busy world
    /// never changes.
    fn few(self, left_ns: u64, swapped: usize) -> u64 {
        let most = SWAPS_PER_LOOK.min(SWAPS_PER_TICK.saturating_sub(swapped) as u64);
        (left_ns / self.swap_ns.max(1)).min(most).max(u64::from(swapped == 0))
    }

    /// So many took so long. At once more, slowly less: it is what keeps a tick short, not a mean.
    fn learn(&mut self, swaps: u64, took_ns: u64) {
        let measured = took_ns / swaps.max(1);
        self.swap_ns = measured.max(self.swap_ns - self.swap_ns.saturating_sub(measured) / 4);
    }
}

impl ReloadOrder {
    fn code(&self) -> Code {
        Code { manifest: Arc::clone(&self.manifest), version: self.version, module: Arc::clone(&self.module) }
    }
}

/// Why a version is not used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason.
    pub reason: String,
    /// What the version logged when it was tried out, the newest last. Empty if that was not where it failed.
    pub log: Vec<String>,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal { reason, log: Vec::new() }
    }
}

/// Lines of a rehearsal that are told, the newest: a panic's words are the last.
const LOG_LINES: usize = 20;
/// Bytes of one of them.
const LOG_LINE: usize = 500;

/// The last lines of a log, as they are read.
fn last_lines(log: &[LogLine]) -> Vec<String> {
    let line = |line: &LogLine| {
        let level = ["error", "warn", "info", "debug"].get(usize::from(line.level)).unwrap_or(&"info");
        format!("{level}: {}", &line.text[..line.text.floor_char_boundary(LOG_LINE)])
    };
    log[log.len().saturating_sub(LOG_LINES)..].iter().map(line).collect()
}

/// Trying a new version out, on a copy.
pub struct Rehearsal {
    order: BuildOrder,
    state: Option<(Version, Vec<u8>)>,
    host: Box<dyn Host>,
    caller: Caller,
    clock: (u64, u64),
    dt: f32,
    fuel: u64,
}

impl Rehearsal {
    /// Build an instance, give it the old state, tick it once. `Err`: why the version must not be used.
    pub fn run(mut self) -> Result<(), Refusal> {
        let id = self.caller.instance;
        self.host.add_script(self.caller, None).map_err(|error| format!("the engine refused it: {error}"))?;
        // Its memory is not the world's: the old version's place will be free when it counts.
        let order = BuildOrder { memory: WorldMemory::new(u64::MAX), ..self.order };
        let mut instance = order.build().map_err(|error| error.to_string())?;
        let mut context = WorldContext::new(self.host, ActionLimiter::new(&ActionRates::world()));
        (context.now_ns, context.tick) = self.clock;
        let mut context = Some(context);
        let mut rehearsed = carry_over(&mut instance, id, &mut context, self.state.as_ref(), self.fuel);
        if rehearsed.is_ok()
            && let Bounded::Failed(outcome) = call_bounded(Some(&mut instance), id, &mut context, Call::Tick(self.dt), self.fuel)
            && outcome.is_end()
        {
            rehearsed = Err(with_trace(format!("its first on_tick: {outcome}"), &mut instance));
        }
        // Nobody else hears what it said: it was a copy of the world.
        let log = context.map(|context| last_lines(&context.log)).unwrap_or_default();
        rehearsed.map_err(|reason| Refusal { reason, log })
    }
}

/// `restore_state`, or `on_start` if there is nothing to restore.
fn carry_over(
    instance: &mut ScriptInstance,
    id: InstanceId,
    context: &mut Option<Box<WorldContext>>,
    state: Option<&(Version, Vec<u8>)>,
    fuel: u64,
) -> Result<(), String> {
    let (name, call) = match state {
        Some((from, state)) => ("restore_state", Call::Restore { from: *from, state: state.clone().into() }),
        None => ("on_start", Call::Start),
    };
    match call_bounded(Some(&mut *instance), id, context, call, fuel) {
        Bounded::Completed(Reply::Restored(false)) => {
            let from = state.map_or(Version(0), |(from, _)| *from);
            Err(format!("restore_state refused the state of version {from}"))
        }
        Bounded::Completed(_) => Ok(()),
        Bounded::NotNow => Err(format!("{name} could not be called")),
        Bounded::Failed(MeteringOutcome::BudgetExceeded { .. }) => Err(format!("{name} took more than {fuel} fuel")),
        Bounded::Failed(outcome) => Err(with_trace(format!("{name} {outcome}"), instance)),
    }
}

/// A reason, and where it was if that is known.
fn with_trace(reason: String, instance: &mut ScriptInstance) -> String {
    match instance.take_trace() {
        Some(trace) => format!("{reason}, in {trace}"),
        None => reason,
    }
}

impl World {
    fn keys_of(&self, script: ScriptId) -> Vec<ScriptKey> {
        self.slots.iter().flatten().filter(|slot| slot.parts.manifest.name == script).map(|slot| slot.key).collect()
    }

    /// What a new version is tried out in: a copy of the state of one script and of the engine. `None`: no script of this world runs it,
    /// or the engine cannot be copied.
    pub fn rehearsal(&mut self, order: &ReloadOrder, dt: f32) -> Option<Rehearsal> {
        let keys = self.keys_of(order.script);
        let runs = |key: &&ScriptKey| self.hot[key.0 as usize].instance.as_ref().is_some_and(|i| !i.is_paused());
        let key = *keys.iter().find(runs).or(keys.first())?;
        // One that cannot save now is rehearsed with what it saved last.
        self.save_or_end(key);
        let parts = self.new_parts(key, order)?;
        let slot = self.slot(key)?;
        let caller = Caller {
            instance: slot.id,
            name: parts.name.clone(),
            entity_kinds: parts.manifest.grants.entity_kinds.clone(),
            storage_namespace: parts.manifest.grants.storage_namespace.clone(),
        };
        let spec = self.spec_of(&parts, slot.id, &Next::default());
        // Its files are the running script's: it must not touch them yet.
        let spec = InstanceSpec { directory: None, ..spec };
        let (state, life) = (slot.saved.clone(), slot.life);
        let fuel = self.config.save_fuel.max(order.manifest.limits.fuel);
        let build = BuildOrder { key, life, module: Arc::clone(&order.module), spec, memory: Arc::clone(&self.memory) };
        let clock = (self.now_ns(), self.tick.0);
        let host = self.context().host.fork()?;
        Some(Rehearsal { order: build, state, host, caller, clock, dt, fuel })
    }

    fn new_parts(&self, key: ScriptKey, order: &ReloadOrder) -> Option<ScriptParts> {
        let slot = self.slot(key)?;
        Some(ScriptParts {
            manifest: Arc::clone(&order.manifest),
            version: order.version,
            module: Arc::clone(&order.module),
            ..slot.parts.clone()
        })
    }

    /// Begin to swap. Gives what must be built and [lent](Self::lend_reloaded). `Err`: another reload is not over.
    pub fn begin_reload(&mut self, order: ReloadOrder) -> Result<Vec<BuildOrder>, String> {
        if let Some(reload) = &self.reload
            && !matches!(reload.phase, ReloadPhase::RolledBack { .. })
        {
            return Err(format!("the reload of {} to version {} is not over", reload.order.script, reload.order.version));
        }
        let keys = self.keys_of(order.script);
        let since = self.tick.0.saturating_sub(u64::from(order.rule.watch_ticks));
        let serving = keys.first().and_then(|key| self.slot(*key)).map(|slot| slot.parts.version);
        let usual = |(tick, script, version): &&(u64, ScriptId, Version)| {
            *tick >= since && *script == order.script && Some(*version) == serving
        };
        let seen = ReloadEvidence {
            ends_before: self.recent_ends.iter().filter(usual).count() as u32,
            fuel_before: keys.iter().map(|key| self.scheduler.fuel_per_turn(*key)).sum(),
            scripts: keys.len() as u32,
            ..ReloadEvidence::default()
        };
        let orders: Vec<_> = keys
            .iter()
            .filter(|key| {
                let restarts = self.slot(**key).is_some_and(|slot| slot.state == ScriptState::Restarting);
                restarts || self.hot[key.0 as usize].instance.is_some()
            })
            .filter_map(|key| {
                let parts = self.new_parts(*key, &order)?;
                let slot = self.slot(*key)?;
                let random = self.hot[key.0 as usize].instance.as_ref().map(ScriptInstance::random);
                let spec = InstanceSpec { random, ..self.spec_of(&parts, slot.id, &Next::default()) };
                let memory = Arc::clone(&self.memory);
                Some(BuildOrder { key: *key, life: slot.life, module: Arc::clone(&order.module), spec, memory })
            })
            .collect();
        let pending: VecDeque<_> = keys.into();
        let phase = ReloadPhase::Swapping { left: pending.len() };
        let ordered = orders.iter().map(|order| order.key).collect();
        let (fresh, retired) = (HashMap::new(), Vec::new());
        self.reload = Some(Box::new(Reload {
            order,
            phase,
            pending,
            ordered,
            fresh,
            retired,
            seen,
            age: 0,
            pace: SwapPace { swap_ns: SWAP_NS },
        }));
        Ok(orders)
    }

    /// An instance of the new version, or why there is none. One that nobody waits for is given back.
    pub fn lend_reloaded(
        &mut self,
        key: ScriptKey,
        version: Version,
        built: Result<ScriptInstance, InstanceError>,
    ) -> Option<ScriptInstance> {
        let Some(reload) = self.reload.as_mut().filter(|reload| reload.order.version == version) else { return built.ok() };
        if !matches!(reload.phase, ReloadPhase::Swapping { .. }) || !reload.ordered.contains(&key) {
            return built.ok();
        }
        match built {
            Ok(instance) => reload.fresh.insert(key, instance),
            Err(error) => {
                self.rollback_reload(error.to_string());
                None
            }
        }
    }

    /// Whether a new version is here that may still go again.
    pub fn is_reloading(&self) -> bool {
        self.reload.as_ref().is_some_and(|reload| !matches!(reload.phase, ReloadPhase::RolledBack { .. }))
    }

    /// Whether a script runs a version that is being tried out.
    pub(crate) fn is_trial(&self, key: ScriptKey, version: Version) -> bool {
        let script = self.slot(key).map(|slot| slot.parts.manifest.name);
        let trial = |reload: &Reload| Some(reload.order.script) == script && reload.order.version == version;
        self.is_reloading() && self.reload.as_deref().is_some_and(trial)
    }

    /// How far the reload is; `None`: there is none.
    pub fn reload_phase(&self) -> Option<(ScriptId, Version, &ReloadPhase)> {
        self.reload.as_ref().map(|reload| (reload.order.script, reload.order.version, &reload.phase))
    }

    pub(crate) fn reload_saw_end(&mut self, key: ScriptKey, version: Version, end: &End) {
        let tick = self.tick.0;
        let Some(script) = self.slot(key).map(|slot| slot.parts.manifest.name) else { return };
        if matches!(end, End::Finished | End::WithSibling(_)) {
            return;
        }
        if self.recent_ends.len() >= RECENT_ENDS_MAX {
            self.recent_ends.pop_front();
        }
        self.recent_ends.push_back((tick, script, version));
        if let Some(reload) = self.reload.as_mut().filter(|r| r.order.script == script && r.order.version == version) {
            reload.seen.ends += 1;
        }
    }

    /// At the end of a tick: go on with the reload.
    pub(crate) fn reload_step(&mut self, start: u64, cpu: CpuClock<'_>) {
        let Some(reload) = &mut self.reload else { return };
        reload.age += 1;
        match reload.phase {
            ReloadPhase::Swapping { .. } => {
                if let Err(reason) = self.swap_some(start, cpu) {
                    return self.rollback_reload(reason);
                }
                let Some(reload) = &mut self.reload else { return };
                let left = reload.pending.len();
                reload.phase = match left {
                    0 => ReloadPhase::Watching { ticks_left: reload.order.rule.watch_ticks },
                    _ => ReloadPhase::Swapping { left },
                };
            }
            ReloadPhase::Watching { ticks_left } => {
                for old in &mut reload.retired {
                    let hot = &mut self.hot[old.key.0 as usize];
                    // Nothing to be asked of one that does not run.
                    let between_calls = hot.instance.as_ref().is_none_or(|instance| !instance.is_paused());
                    old.completed |= between_calls || std::mem::take(&mut hot.completed);
                }
                // The first turns after a swap do what was left undone: what they take says little.
                if ticks_left <= reload.order.rule.watch_ticks / 3 {
                    reload.seen.fuel = reload.retired.iter().map(|old| self.scheduler.fuel_per_turn(old.key)).sum();
                }
                if ticks_left <= 1 {
                    reload.seen.hung = reload.retired.iter().filter(|old| !old.completed).count() as u32;
                }
                if let Some(reason) = reload.order.rule.verdict(&reload.seen) {
                    return self.rollback_reload(reason);
                }
                reload.phase = match ticks_left.saturating_sub(1) {
                    0 => ReloadPhase::Held,
                    ticks_left => ReloadPhase::Watching { ticks_left },
                };
            }
            ReloadPhase::Held | ReloadPhase::RolledBack { .. } => {}
        }
    }

    /// As many swaps as fit into this tick. `Err`: why the version must not be used.
    fn swap_some(&mut self, start: u64, cpu: CpuClock<'_>) -> Result<(), String> {
        let mut now = cpu();
        // Not past three quarters of the tick's own budget either.
        let end = (now + SWAPS_NS).min(start + self.config.scheduler.budget_ns / 4 * 3);
        let mut swapped = 0;
        while let Some(pace) = self.reload.as_ref().map(|reload| reload.pace) {
            let few = pace.few(end.saturating_sub(now), swapped);
            if few == 0 {
                break;
            }
            for _ in 0..few {
                match self.swap_next() {
                    Swap::Done => swapped += 1,
                    Swap::Wait => return Ok(()),
                    Swap::Failed(reason) => return Err(reason),
                }
            }
            let begun = std::mem::replace(&mut now, cpu());
            if let Some(reload) = &mut self.reload {
                reload.pace.learn(few, now - begun);
            }
        }
        Ok(())
    }

    fn swap_next(&mut self) -> Swap {
        let Some(reload) = &mut self.reload else { return Swap::Wait };
        let fuel = self.config.save_fuel.max(reload.order.manifest.limits.fuel);
        let Some(key) = reload.pending.front().copied() else { return Swap::Wait };
        let cut_off = reload.age > reload.order.rule.drain_ticks;
        let hot = &mut self.hot[key.0 as usize];
        let runs = hot.instance.is_some();
        if runs && reload.ordered.contains(&key) && !reload.fresh.contains_key(&key) {
            if cut_off {
                return Swap::Failed("its instances were not built in time".to_owned());
            }
            // Not built yet. Others may be.
            reload.pending.rotate_left(1);
            return Swap::Wait;
        }
        if hot.instance.as_ref().is_some_and(ScriptInstance::is_paused) && !cut_off {
            hot.draining = true;
            if let Some(slot) = self.slot_mut(key) {
                slot.state = ScriptState::Draining;
            }
            if let Some(reload) = &mut self.reload {
                reload.pending.rotate_left(1);
                // All that are left may be paused.
                let waiting = |key: &ScriptKey| self.hot[key.0 as usize].draining;
                if reload.pending.iter().all(waiting) {
                    return Swap::Wait;
                }
            }
            return Swap::Done;
        }
        self.save_or_end(key);
        let runs = self.hot[key.0 as usize].instance.is_some();
        let Some((code, slot)) = self.reload.as_ref().and_then(|reload| Some((reload.order.code(), self.slot(key)?))) else {
            return Swap::Wait;
        };
        // One whose calls took several ticks before may take them now.
        let takes_long = slot.state == ScriptState::Draining || self.hot[key.0 as usize].pauses > 0;
        let state = if slot.state == ScriptState::Draining { ScriptState::Running } else { slot.state.clone() };
        let (saved, id) = (slot.saved.clone(), slot.id);
        let restarts = slot.restarts.clone();
        let boot = self.hot[key.0 as usize].boot.take().map(|boot| *boot);
        let booted = boot.as_ref().is_none_or(|boot| boot.first.is_none());
        let fresh = self.reload.as_mut().and_then(|reload| {
            reload.pending.pop_front();
            reload.ordered.remove(&key);
            reload.fresh.remove(&key)
        });
        self.hot[key.0 as usize].draining = false;
        let mut instance = fresh;
        let Some((old_code, old_next)) = self.replace_code(key, code, Next::default()) else { return Swap::Wait };
        if let Some(instance) = instance.as_mut().filter(|_| runs && booted)
            && let Err(reason) = carry_over(instance, id, &mut self.context, saved.as_ref(), fuel)
        {
            self.replace_code(key, old_code, old_next);
            self.hot[key.0 as usize].boot = boot.map(Box::new);
            if let Some(slot) = self.slot_mut(key) {
                slot.state = state;
            }
            return Swap::Failed(reason);
        }
        // One that was resumed since the reload began: it is built when it is wanted.
        let late = runs && instance.is_none();
        let hot = &mut self.hot[key.0 as usize];
        (hot.boot, hot.completed) = (boot.clone().map(Box::new), false);
        // Built for one that was being restarted, and still is: what is built next is the new version.
        let (old, spare) = if runs { (std::mem::replace(&mut hot.instance, instance), None) } else { (None, instance) };
        self.scheduler.forget_pause(key);
        let retired = Retired {
            key,
            code: old_code,
            next: old_next,
            state: state.clone(),
            saved,
            instance: old,
            boot,
            restarts,
            completed: takes_long,
        };
        self.discarded.extend(spare);
        if let Some(reload) = &mut self.reload {
            reload.retired.push(retired);
        }
        match state {
            _ if late => self.want(key),
            // A new version is another chance.
            ScriptState::Parked { .. } => self.resume_now(key),
            ScriptState::Restarting => self.want(key),
            state => {
                if let Some(slot) = self.slot_mut(key) {
                    slot.state = state;
                }
            }
        }
        Swap::Done
    }

    /// The new version stays: the old instances go.
    pub fn commit_reload(&mut self) {
        if let Some(reload) = self.reload.take() {
            self.discarded.extend(reload.retired.into_iter().filter_map(|old| old.instance));
            self.discarded.extend(reload.fresh.into_values());
            self.count_modules();
        }
    }

    /// A version that no script runs any more does not count against the bound.
    fn count_modules(&mut self) {
        self.modules = self.slots.iter().flatten().map(|slot| slot.parts.module.source_digest()).collect();
    }

    /// The old version comes back, as it was at the swap.
    pub fn rollback_reload(&mut self, reason: String) {
        let Some(reload) = self.reload.as_mut().filter(|r| !matches!(r.phase, ReloadPhase::RolledBack { .. })) else { return };
        reload.phase = ReloadPhase::RolledBack { reason };
        reload.pending.clear();
        let retired = std::mem::take(&mut reload.retired);
        self.discarded.extend(std::mem::take(&mut reload.fresh).into_values());
        let script = reload.order.script;
        for old in retired.into_iter().rev() {
            let Retired { key, code, next, state, saved, instance, boot, restarts, .. } = old;
            self.discarded.extend(self.hot[key.0 as usize].instance.take());
            self.let_go(key);
            self.replace_code(key, code, next);
            self.scheduler.forget_pause(key);
            self.resting.retain(|(_, other)| *other != key);
            let Some(slot) = self.slot_mut(key) else { continue };
            (slot.saved, slot.suspect, slot.restarts) = (saved, None, restarts);
            self.overload.forget(key);
            let Some(slot) = self.slot_mut(key) else { continue };
            match instance {
                Some(instance) => {
                    slot.state = ScriptState::Running;
                    let hot = &mut self.hot[key.0 as usize];
                    (hot.instance, hot.boot) = (Some(instance), boot.map(Box::new));
                    self.scheduler.set_runnable(key, true);
                }
                None if state == ScriptState::Restarting => self.want(key),
                None => {
                    slot.state = state;
                    self.scheduler.set_runnable(key, false);
                }
            }
        }
        for key in self.keys_of(script) {
            self.hot[key.0 as usize].draining = false;
            if let Some(slot) = self.slot_mut(key)
                && slot.state == ScriptState::Draining
            {
                slot.state = ScriptState::Running;
            }
        }
        self.count_modules();
    }
}

/// How one swap went.
enum Swap {
    Done,
    /// Nothing can be swapped in this tick.
    Wait,
    Failed(String),
}

/// Ends remembered, to know what is usual.
const RECENT_ENDS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    /// One tick's swaps, each of which takes so long: how many, and how long they took.
    fn swaps(pace: &mut SwapPace, each_ns: u64) -> (usize, u64) {
        let (mut swapped, mut took_ns) = (0, 0);
        loop {
            let few = pace.few(SWAPS_NS.saturating_sub(took_ns), swapped);
            if few == 0 {
                break;
            }
            pace.learn(few, few * each_ns);
            (swapped, took_ns) = (swapped + few as usize, took_ns + few * each_ns);
        }
        (swapped, took_ns)
    }

    #[test]
    fn swaps_stay_within_their_part_of_a_tick_once_it_is_known_what_one_takes() {
        for each_ns in [1_000, 9_000, 60_000, 100_000, SWAPS_NS] {
            let mut pace = SwapPace { swap_ns: SWAP_NS };
            assert!(swaps(&mut pace, each_ns).1 <= SWAPS_NS.max(SWAPS_PER_LOOK * each_ns));
            let (swapped, took_ns) = swaps(&mut pace, each_ns);
            assert!(
                took_ns <= SWAPS_NS && took_ns + 2 * each_ns > SWAPS_NS.min(SWAPS_PER_TICK as u64 * each_ns),
                "{swapped} in {took_ns}"
            );
        }
        assert_eq!(swaps(&mut SwapPace { swap_ns: SWAP_NS }, 2 * SWAPS_NS).0, SWAPS_PER_LOOK as usize);
        assert_eq!(swaps(&mut SwapPace { swap_ns: 2 * SWAPS_NS }, 2 * SWAPS_NS).0, 1, "a swap a tick there is always");
    }

    #[test]
    fn a_version_that_ends_more_often_or_takes_much_more_fuel_must_go() {
        let rule = ReloadRule::default();
        let fine = ReloadEvidence { ends_before: 2, ends: 2, fuel_before: 1e6, fuel: 2.9e6, scripts: 10, hung: 0 };
        assert_eq!(rule.verdict(&fine), None);
        assert!(
            rule.verdict(&ReloadEvidence { ends: 3, ..fine }).is_some_and(|reason| reason.contains("3 ends within 60 ticks"))
        );
        assert!(rule.verdict(&ReloadEvidence { fuel: 4e6, ..fine }).is_some_and(|reason| reason.contains("400000 fuel")));
        let light = ReloadEvidence { fuel_before: 100.0, fuel: 90_000.0, scripts: 2, ..ReloadEvidence::default() };
        assert_eq!(rule.verdict(&light), None, "a few microseconds more are nobody's business");
    }
}
