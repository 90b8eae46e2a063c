//! Which scripts run in a tick, in which order, and how much fuel each gets.
//!
//! - Effective priority = priority + ageing × ticks deferred. Highest first; among equals the lower number.
//! - Slice = what is left of the tick × own share of the priority still waiting, turned into fuel with the script's measured
//!   nanoseconds per unit, never less than one quantum and never more than its fuel.
//! - An overrun is carried into the next ticks as debt. When the budget is gone, the rest is deferred and ages.
//!
//! Two rules hold whatever scripts cost: the first in the order runs in every tick, so nobody waits longer than
//! [`TickScheduler::wait_bound`]; and the last one to start does so with budget left, so a tick is over its budget by at most one turn.
//!
//! Start with [`TickScheduler::begin`], [`next_turn`](TickScheduler::next_turn), [`record`](TickScheduler::record) and
//! [`close`](TickScheduler::close). Time comes in as nanoseconds since the tick began, read only when
//! [`wants_clock`](TickScheduler::wants_clock) says so. Not here: running scripts, suspending them (`overload`).

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A script's place in its world's scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScriptKey(pub u32);

/// Settings of a scheduler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SchedulerConfig {
    /// CPU time of a tick, nanoseconds.
    pub budget_ns: u64,
    /// Priority gained for each tick deferred.
    pub ageing: u32,
    /// Fuel of the smallest slice.
    pub quantum: u64,
    /// Scripts paused in the middle of a call at a time. Past it, one that runs out of its slice gets its whole fuel at once and is
    /// terminated if that does not do.
    pub paused_max: usize,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig { budget_ns: 8_000_000, ageing: 10, quantum: 50_000, paused_max: 64 }
    }
}

/// What the scheduler knows of a script beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptTraits {
    /// 1 to 1000.
    pub priority: u32,
    /// Fuel of one tick.
    pub fuel: u64,
    /// Whether it pauses when a slice is used up. One that does not gets all its fuel or is deferred: a busy world must not
    /// terminate an innocent script.
    pub may_pause: bool,
}

/// A script's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Whose.
    pub key: ScriptKey,
    /// Its slice.
    pub fuel: u64,
    /// Whether it may stay paused when the slice is used up.
    pub may_stay_paused: bool,
}

/// How a tick went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TickClose {
    /// Scripts that had a turn.
    pub ran: u32,
    /// Scripts that waited in vain.
    pub deferred: u32,
    /// Scripts paused in the middle of a call.
    pub paused: u32,
    /// CPU time used, nanoseconds.
    pub used_ns: u64,
    /// CPU time past the budget of this tick, its debt not counted.
    pub overrun_ns: u64,
    /// Carried into the next ticks.
    pub debt_ns: u64,
}

/// One script. What follows from other fields is kept beside them: a turn reads it several times.
#[derive(Debug, Clone, Copy)]
struct Entry {
    traits: ScriptTraits,
    /// Priority and ageing.
    effective: u64,
    deferred: u32,
    /// Nanoseconds of a unit of fuel: measured, smoothed.
    ns_per_fuel: f32,
    /// Fuel of a turn, smoothed.
    fuel_per_turn: f32,
    /// Nanoseconds of a turn, and of one that uses all its fuel.
    expected_ns: f32,
    full_ns: f32,
    runnable: bool,
    paused: bool,
    /// It had no turn yet.
    fresh: bool,
    /// Expected to use so much that it is measured alone.
    heavy: bool,
}

/// What a unit of fuel costs before anything was measured: a little more than typical code.
const NS_PER_FUEL: f32 = 0.08;
/// What a turn costs besides fuel.
const NS_PER_TURN: f32 = 40.0;
/// Estimates are this good at most: read the clock when they sum up to this much.
const CLOCK_STEP_NS: f32 = 100_000.0;
/// A script that is expected to use more is measured alone.
const HEAVY_NS: f32 = 20_000.0;
/// Weight of a new measurement.
const SMOOTHING: f32 = 0.25;

/// Decides who runs.
#[derive(Debug, Clone)]
pub struct TickScheduler {
    config: SchedulerConfig,
    entries: Vec<Entry>,
    /// Places of those that went.
    free: BTreeSet<u32>,
    /// Runnable scripts in the order of this tick; `cursor` is the next.
    order: Vec<ScriptKey>,
    cursor: usize,
    /// The order must be made anew: scripts came or went, or some were deferred.
    stale: bool,
    /// Sum of the effective priorities of all in the order, and of those that had no turn yet.
    total: u64,
    waiting: u64,
    paused: usize,
    debt_ns: u64,
    /// Nanoseconds left for scripts: measured up to the last look at the clock, estimated since.
    left_ns: f32,
    clock: Clock,
    tick: TickClose,
}

/// What happened since the last look at the clock.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    at_ns: u64,
    estimated_ns: f32,
    fuel: u64,
    turns: u32,
    last: Option<ScriptKey>,
    /// Whether the last one is heavy.
    heavy: bool,
}

impl TickScheduler {
    /// No scripts yet.
    pub fn new(config: SchedulerConfig) -> TickScheduler {
        TickScheduler {
            config,
            entries: Vec::new(),
            free: BTreeSet::new(),
            order: Vec::new(),
            cursor: 0,
            stale: false,
            total: 0,
            waiting: 0,
            paused: 0,
            debt_ns: 0,
            left_ns: 0.0,
            clock: Clock::default(),
            tick: TickClose::default(),
        }
    }

    /// Its settings.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// A script comes: it takes the lowest free place.
    pub fn add(&mut self, traits: ScriptTraits) -> ScriptKey {
        let traits = ScriptTraits { priority: traits.priority.clamp(1, 1_000), ..traits };
        let mut entry = Entry {
            traits,
            effective: u64::from(traits.priority),
            deferred: 0,
            ns_per_fuel: NS_PER_FUEL,
            // Not known: the first turn is measured alone.
            fuel_per_turn: traits.fuel as f32,
            expected_ns: 0.0,
            full_ns: 0.0,
            runnable: true,
            paused: false,
            fresh: true,
            heavy: true,
        };
        entry.estimate();
        self.stale = true;
        match self.free.pop_first() {
            Some(free) => {
                self.entries[free as usize] = entry;
                ScriptKey(free)
            }
            None => {
                self.entries.push(entry);
                ScriptKey(self.entries.len() as u32 - 1)
            }
        }
    }

    fn entry(&mut self, key: ScriptKey) -> &mut Entry {
        self.entries.get_mut(key.0 as usize).expect("a key comes from `add`")
    }

    /// A script goes.
    pub fn remove(&mut self, key: ScriptKey) {
        self.set_paused(key, false);
        let entry = self.entry(key);
        entry.runnable = false;
        self.free.insert(key.0);
        self.stale = true;
    }

    /// Whether a script takes part: not while it is suspended or being rebuilt.
    pub fn set_runnable(&mut self, key: ScriptKey, runnable: bool) {
        let entry = self.entry(key);
        if entry.runnable != runnable {
            entry.runnable = runnable;
            entry.waited(0, 0);
            self.stale = true;
        }
    }

    /// Its code is another's now: what was measured before says nothing of it.
    pub fn set_traits(&mut self, key: ScriptKey, traits: ScriptTraits) {
        let ageing = self.config.ageing;
        let entry = self.entry(key);
        entry.traits = ScriptTraits { priority: traits.priority.clamp(1, 1_000), ..traits };
        entry.fresh = true;
        entry.waited(entry.deferred, ageing);
        entry.estimate();
        self.stale = true;
    }

    fn set_paused(&mut self, key: ScriptKey, paused: bool) {
        let entry = self.entry(key);
        let before = std::mem::replace(&mut entry.paused, paused);
        self.paused = self.paused + usize::from(paused) - usize::from(before);
    }

    /// A script's call was dropped or its instance replaced: it is not paused any more.
    pub fn forget_pause(&mut self, key: ScriptKey) {
        self.set_paused(key, false);
    }

    /// Smoothed nanoseconds that a script takes in a turn.
    pub fn cost_ns(&self, key: ScriptKey) -> f32 {
        self.entries.get(key.0 as usize).map_or(0.0, |entry| entry.expected_ns)
    }

    /// Smoothed fuel of a script's turn; 0 before its first.
    pub fn fuel_per_turn(&self, key: ScriptKey) -> f32 {
        self.entries.get(key.0 as usize).filter(|entry| !entry.fresh).map_or(0.0, |entry| entry.fuel_per_turn)
    }

    /// Scripts paused in the middle of a call.
    pub fn paused(&self) -> usize {
        self.paused
    }

    /// Ticks in a row that a script was deferred.
    pub fn deferred_ticks(&self, key: ScriptKey) -> u32 {
        self.entries.get(key.0 as usize).map_or(0, |entry| entry.deferred)
    }

    /// Ticks that a script waits at most, whatever the others cost: until it outranks every script that came after it, and then for
    /// those before it, one a tick.
    pub fn wait_bound(&self) -> u32 {
        let runnable = self.entries.iter().filter(|entry| entry.runnable).count() as u32;
        1_000_u32.div_ceil(self.config.ageing.max(1)) + runnable
    }

    /// A tick begins. `reserve_ns` is kept back for the engine.
    pub fn begin(&mut self, reserve_ns: u64) {
        if self.stale {
            let entries = &self.entries;
            self.order.clear();
            self.order.extend((0..entries.len() as u32).map(ScriptKey).filter(|key| entries[key.0 as usize].runnable));
            self.order.sort_unstable_by_key(|key| (Reverse(entries[key.0 as usize].effective), *key));
            self.total = self.order.iter().map(|key| entries[key.0 as usize].effective).sum();
            self.stale = false;
        }
        self.waiting = self.total;
        self.cursor = 0;
        self.clock = Clock::default();
        self.tick = TickClose::default();
        let paid = self.debt_ns.min(self.config.budget_ns);
        self.debt_ns -= paid;
        self.left_ns = self.config.budget_ns.saturating_sub(reserve_ns).saturating_sub(paid) as f32;
    }

    /// Whether the clock must be read ([`observe`](Self::observe)) before the next turn.
    #[inline]
    pub fn wants_clock(&self) -> bool {
        if self.clock.estimated_ns >= CLOCK_STEP_NS {
            return true;
        }
        // Alone between two looks: what is heavy, before and after.
        let heavy = |key: &ScriptKey| self.entries[key.0 as usize].heavy;
        self.clock.turns > 0 && (self.clock.heavy || self.order.get(self.cursor).is_some_and(heavy))
    }

    /// Nanoseconds since the tick began.
    pub fn observe(&mut self, elapsed_ns: u64) {
        let clock = self.clock;
        let passed = elapsed_ns.saturating_sub(clock.at_ns) as f32;
        self.left_ns += clock.estimated_ns - passed;
        if let Some(key) = clock.last
            && clock.turns == 1
            && clock.fuel > 0
        {
            let entry = &mut self.entries[key.0 as usize];
            let measured = (passed - NS_PER_TURN).max(0.0) / clock.fuel as f32;
            // Cache misses can make a unit 500 times dearer, not more: beyond is the machine's, not the script's.
            entry.ns_per_fuel += SMOOTHING * (measured.clamp(0.005, 40.0) - entry.ns_per_fuel);
            entry.estimate();
        }
        self.clock = Clock { at_ns: elapsed_ns, ..Clock::default() };
        self.tick.used_ns = elapsed_ns;
    }

    /// The next script and its slice; `None` when all had a turn or the budget is gone.
    #[inline]
    pub fn next_turn(&mut self) -> Option<Turn> {
        loop {
            let key = *self.order.get(self.cursor)?;
            let first = self.tick.ran == 0;
            if self.left_ns <= 0.0 && !first {
                return None;
            }
            self.cursor += 1;
            let entry = &self.entries[key.0 as usize];
            let waiting = self.waiting;
            self.waiting -= entry.effective;
            let may_stay_paused = entry.traits.may_pause && (entry.paused || self.paused < self.config.paused_max);
            let fuel = if may_stay_paused {
                // Its share of what is left, as a part of what all its fuel would take.
                let part = self.left_ns * entry.effective as f32 / (entry.full_ns * waiting.max(1) as f32);
                let all = entry.traits.fuel;
                if part < 1.0 { ((part * all as f32) as u64).clamp(self.config.quantum.min(all), all) } else { all }
            } else if entry.expected_ns > self.left_ns && !first {
                // It takes all its fuel or none: not now, others may fit.
                self.defer(key);
                continue;
            } else {
                entry.traits.fuel
            };
            self.tick.ran += 1;
            return Some(Turn { key, fuel, may_stay_paused });
        }
    }

    /// What a turn used, and whether the script is paused now.
    #[inline]
    pub fn record(&mut self, turn: Turn, fuel: u64, paused: bool) {
        let entry = &mut self.entries[turn.key.0 as usize];
        let (used, mut estimated) = (fuel as f32, entry.expected_ns);
        // By less than a unit of fuel they may differ for ever: smoothing ends where rounding begins.
        if (used - entry.fuel_per_turn).abs() >= 1.0 {
            estimated = NS_PER_TURN + used * entry.ns_per_fuel;
            // The first turn says more than the guess before it.
            entry.fuel_per_turn += if entry.fresh { 1.0 } else { SMOOTHING } * (used - entry.fuel_per_turn);
            entry.estimate();
        }
        let heavy = entry.heavy;
        entry.fresh = false;
        if entry.deferred > 0 {
            entry.waited(0, 0);
            self.stale = true;
        }
        if entry.paused != paused {
            self.set_paused(turn.key, paused);
        }
        self.left_ns -= estimated;
        let clock = &mut self.clock;
        clock.estimated_ns += estimated;
        clock.fuel += fuel;
        clock.turns += 1;
        clock.last = Some(turn.key);
        clock.heavy = heavy;
    }

    fn defer(&mut self, key: ScriptKey) {
        let ageing = self.config.ageing;
        let entry = &mut self.entries[key.0 as usize];
        entry.waited(entry.deferred.saturating_add(1), ageing);
        self.tick.deferred += 1;
        self.stale = true;
    }

    /// The tick ends: whoever had no turn is deferred, an overrun becomes debt.
    pub fn close(&mut self, elapsed_ns: u64) -> TickClose {
        self.observe(elapsed_ns);
        for at in self.cursor..self.order.len() {
            self.defer(self.order[at]);
        }
        self.cursor = self.order.len();
        let overrun = elapsed_ns.saturating_sub(self.config.budget_ns);
        // More than one budget of debt would stop a world for several ticks because of one bad one.
        self.debt_ns = (self.debt_ns + overrun).min(self.config.budget_ns);
        self.tick.paused = self.paused as u32;
        self.tick.overrun_ns = overrun;
        self.tick.debt_ns = self.debt_ns;
        self.tick
    }
}

impl Entry {
    fn waited(&mut self, ticks: u32, ageing: u32) {
        self.deferred = ticks;
        self.effective = u64::from(self.traits.priority) + u64::from(ageing) * u64::from(ticks);
    }

    fn estimate(&mut self) {
        self.expected_ns = NS_PER_TURN + self.fuel_per_turn * self.ns_per_fuel;
        self.full_ns = self.traits.fuel as f32 * self.ns_per_fuel;
        self.heavy = self.expected_ns >= HEAVY_NS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A world of scripts whose turns cost what the test says.
    fn run_tick(
        scheduler: &mut TickScheduler,
        cost_ns: impl Fn(Turn) -> u64,
        fuel_of: impl Fn(Turn) -> u64,
    ) -> (Vec<Turn>, TickClose) {
        let mut elapsed = 0;
        let mut turns = Vec::new();
        scheduler.begin(0);
        loop {
            if scheduler.wants_clock() {
                scheduler.observe(elapsed);
            }
            let Some(turn) = scheduler.next_turn() else { break };
            elapsed += cost_ns(turn);
            scheduler.record(turn, fuel_of(turn), false);
            turns.push(turn);
        }
        (turns, scheduler.close(elapsed))
    }

    fn script(priority: u32) -> ScriptTraits {
        ScriptTraits { priority, fuel: 1_000_000, may_pause: true }
    }

    fn keys(turns: &[Turn]) -> Vec<u32> {
        turns.iter().map(|turn| turn.key.0).collect()
    }

    #[test]
    fn who_comes_takes_the_lowest_place_that_is_free() {
        let mut scheduler = TickScheduler::new(SchedulerConfig::default());
        let all: Vec<_> = (0..4).map(|_| scheduler.add(script(10))).collect();
        for gone in [3, 1, 1] {
            scheduler.remove(all[gone]);
        }
        let places: Vec<_> = (0..3).map(|_| scheduler.add(script(10)).0).collect();
        assert_eq!(places, [1, 3, 4]);
        assert_eq!(keys(&run_tick(&mut scheduler, |_| 100, |_| 1_000).0), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn higher_priorities_run_first_and_equals_by_number() {
        let mut scheduler = TickScheduler::new(SchedulerConfig::default());
        for priority in [10, 30, 20, 30] {
            scheduler.add(script(priority));
        }
        let (turns, close) = run_tick(&mut scheduler, |_| 100, |_| 1_000);
        assert_eq!(keys(&turns), [1, 3, 2, 0]);
        assert_eq!((close.ran, close.deferred, close.overrun_ns), (4, 0, 0));
    }

    #[test]
    fn what_a_script_leaves_over_goes_to_those_after_it() {
        let mut scheduler = TickScheduler::new(SchedulerConfig { budget_ns: 8_000_000, quantum: 1_000, ..Default::default() });
        for _ in 0..100 {
            scheduler.add(ScriptTraits { fuel: u64::MAX, ..script(100) });
        }
        let (turns, _) = run_tick(&mut scheduler, |_| 100, |_| 1_000);
        assert_eq!(turns[0].fuel, 1_000_000, "8 ms / 100 scripts / 0.08 ns a unit");
        assert!(turns[99].fuel > 90 * turns[0].fuel, "the last one may have nearly all");
    }

    #[test]
    fn when_the_budget_is_gone_the_rest_is_deferred_and_comes_first_next_time() {
        let mut scheduler = TickScheduler::new(SchedulerConfig { budget_ns: 1_000_000, ..Default::default() });
        for _ in 0..4 {
            scheduler.add(script(100));
        }
        let (turns, close) = run_tick(&mut scheduler, |_| 600_000, |_| 1_000_000);
        assert_eq!((keys(&turns), close.deferred, close.overrun_ns, close.debt_ns), (vec![0, 1], 2, 200_000, 200_000));
        let (turns, _) = run_tick(&mut scheduler, |_| 600_000, |_| 1_000_000);
        assert_eq!(keys(&turns), [2, 3], "and 800,000 ns are left after the debt: two turns again");
    }

    #[test]
    fn a_script_that_cannot_pause_gets_all_its_fuel_or_waits() {
        let mut scheduler = TickScheduler::new(SchedulerConfig { budget_ns: 1_000_000, ..Default::default() });
        let light = scheduler.add(script(1_000));
        let heavy = scheduler.add(ScriptTraits { priority: 500, fuel: 20_000_000, may_pause: false });
        // 20,000,000 units are expected to take 1.6 ms: it must wait until it is first.
        let mut waited = 0;
        loop {
            let (turns, _) = run_tick(&mut scheduler, |_| 1_000, |turn| if turn.key == light { 10 } else { 20_000_000 });
            if let Some(turn) = turns.iter().find(|turn| turn.key == heavy) {
                assert_eq!((turn.fuel, turn.may_stay_paused), (20_000_000, false));
                break;
            }
            waited += 1;
        }
        assert!(0 < waited && waited <= scheduler.wait_bound(), "{waited}");
    }

    #[test]
    fn past_the_bound_on_paused_scripts_nobody_else_may_pause() {
        let mut scheduler = TickScheduler::new(SchedulerConfig { paused_max: 2, ..Default::default() });
        for _ in 0..4 {
            scheduler.add(script(100));
        }
        scheduler.begin(0);
        let mut stay = Vec::new();
        while let Some(turn) = scheduler.next_turn() {
            stay.push(turn.may_stay_paused);
            scheduler.record(turn, turn.fuel.min(50_000), turn.may_stay_paused);
        }
        assert_eq!(stay, [true, true, false, false]);
        assert_eq!(scheduler.close(1_000).paused, 2);
        scheduler.begin(0);
        let turn = scheduler.next_turn().unwrap();
        assert!(turn.may_stay_paused, "who is paused already keeps its place");
    }

    #[test]
    fn a_place_is_used_again_and_a_suspended_script_does_not_run() {
        let mut scheduler = TickScheduler::new(SchedulerConfig::default());
        let (a, b) = (scheduler.add(script(1)), scheduler.add(script(1)));
        scheduler.remove(a);
        assert_eq!(scheduler.add(script(5)), a);
        scheduler.set_runnable(b, false);
        assert_eq!(keys(&run_tick(&mut scheduler, |_| 1, |_| 1).0), [a.0]);
    }

    proptest! {
        #[test]
        fn nobody_waits_past_the_bound(
            priorities in proptest::collection::vec(1u32..=1_000, 1..40),
            pausing in proptest::collection::vec(any::<bool>(), 40),
            costs in proptest::collection::vec(0u64..20_000_000, 1..200),
            ageing in 1u32..200,
        ) {
            let mut scheduler = TickScheduler::new(SchedulerConfig { ageing, ..Default::default() });
            for (priority, may_pause) in priorities.iter().zip(&pausing) {
                scheduler.add(ScriptTraits { priority: *priority, fuel: 1_000_000, may_pause: *may_pause });
            }
            let bound = scheduler.wait_bound();
            let mut last_ran = vec![0u32; priorities.len()];
            for tick in 1..=3 * bound.min(400) {
                let cost = |turn: Turn| costs[(tick as usize * 31 + turn.key.0 as usize) % costs.len()];
                let (turns, close) = run_tick(&mut scheduler, cost, |turn| turn.fuel);
                prop_assert!(close.ran >= 1);
                prop_assert_eq!((close.ran + close.deferred) as usize, priorities.len());
                for turn in turns {
                    last_ran[turn.key.0 as usize] = tick;
                }
                for ran in &last_ran {
                    prop_assert!(tick - ran <= bound, "waited {} ticks, bound {}", tick - ran, bound);
                }
            }
        }

        #[test]
        fn the_slices_of_a_tick_are_within_its_budget_and_one_turn(
            priorities in proptest::collection::vec(1u32..=1_000, 1..60),
            fuels in proptest::collection::vec(1_000u64..5_000_000, 60),
            seed in any::<u64>(),
        ) {
            let mut scheduler = TickScheduler::new(SchedulerConfig::default());
            for (i, priority) in priorities.iter().enumerate() {
                scheduler.add(ScriptTraits { priority: *priority, fuel: fuels[i], may_pause: (seed >> (i % 64)) & 1 == 0 });
            }
            for _ in 0..10 {
                // Everybody uses all of its slice, at exactly the price that the scheduler expects.
                let mut before_last = 0.0f32;
                let mut sum = 0.0f32;
                scheduler.begin(0);
                while let Some(turn) = scheduler.next_turn() {
                    before_last = sum;
                    sum += NS_PER_TURN + turn.fuel as f32 * NS_PER_FUEL;
                    scheduler.record(turn, turn.fuel, false);
                }
                prop_assert!(before_last <= scheduler.config().budget_ns as f32 * 1.001, "the last one began with budget left");
                scheduler.close(sum as u64);
            }
        }

        #[test]
        fn order_and_slices_are_a_pure_function_of_the_inputs(
            priorities in proptest::collection::vec(1u32..=1_000, 1..40),
            costs in proptest::collection::vec(0u64..3_000_000, 1..50),
        ) {
            let run = || {
                let mut scheduler = TickScheduler::new(SchedulerConfig::default());
                for priority in &priorities {
                    scheduler.add(script(*priority));
                }
                (0..20).map(|tick| run_tick(&mut scheduler, |turn| costs[(tick + turn.key.0 as usize) % costs.len()], |turn| turn.fuel / 2)).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }
    }
}
