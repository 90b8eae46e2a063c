//! What is seen while a test runs, added up.
//!
//! [`Sampler::add`] takes each publication of a world once and adds it to histograms and counters; [`Sampler::close`] ends an interval and
//! makes a [`Point`] of it. Memory is bounded: histograms have a fixed size, and there are no more than [`POINTS_MAX`] points however long
//! a test takes. Not here: the values themselves (`look`), where samples come from (`driver`).

use super::look::{Done, Group, Kind, Point, ScriptSample, Totals, WorldSample};
use super::plan;
use super::scenario::Scenario;
use super::stats::{self, Distribution};
use super::usage::Usage;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, HashMap};

const MB: f64 = 1_048_576.0;

/// Points of a report: an interval is a second, or as much longer as it must be.
const POINTS_MAX: f64 = 1_800.0;

/// Seconds of an interval.
pub(crate) fn interval(seconds: f64) -> f64 {
    (seconds / POINTS_MAX).ceil().max(1.0)
}

struct GroupTally {
    period_ms: f64,
    ticks: Histogram<u64>,
    missed: u64,
}

/// See the file.
pub(crate) struct Sampler {
    groups: Vec<(String, GroupTally)>,
    of_world: HashMap<String, usize>,
    last: HashMap<String, WorldSample>,
    /// Ticks of this interval, and all that count.
    now: Histogram<u64>,
    all: Histogram<u64>,
    /// Beyond the period, of each world and second.
    pauses: Histogram<u64>,
    pause_max_ms: f64,
    reload_pause_ms: Option<f64>,
    totals: Totals,
    /// When the interval began, and when what counts did.
    at_interval: Totals,
    at_warm: Totals,
    used: Usage,
    since: f64,
    pub points: Vec<Point>,
}

fn histogram() -> Histogram<u64> {
    // To a tenth of a percent up to a minute: 170 KiB.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are valid")
}

impl Sampler {
    pub fn new(scenario: &Scenario) -> Sampler {
        let tally = |group: &super::scenario::WorldGroup| GroupTally {
            period_ms: 1e3 / plan::tick_hz(scenario, group),
            ticks: histogram(),
            missed: 0,
        };
        Sampler {
            groups: scenario.worlds.iter().map(|group| (group.name.clone(), tally(group))).collect(),
            of_world: HashMap::new(),
            last: HashMap::new(),
            now: histogram(),
            all: histogram(),
            pauses: histogram(),
            pause_max_ms: 0.0,
            reload_pause_ms: None,
            totals: Totals::default(),
            at_interval: Totals::default(),
            at_warm: Totals::default(),
            used: Usage::default(),
            since: 0.0,
            points: Vec::new(),
        }
    }

    /// A publication. One that was seen already adds nothing.
    pub fn add(&mut self, scenario: &Scenario, sample: WorldSample) {
        let found = self.of_world.get(&sample.name).copied().or_else(|| {
            // A running cluster may have other worlds than the scenario: they are a group of their own.
            let name = plan::group_of(scenario, &sample.name).map_or("other", |group| group.name.as_str());
            let index = self.groups.iter().position(|(group, _)| group == name).unwrap_or_else(|| {
                let tally = GroupTally { period_ms: 1e3 / scenario.limits.tick_hz, ticks: histogram(), missed: 0 };
                self.groups.push((name.to_owned(), tally));
                self.groups.len() - 1
            });
            self.of_world.insert(sample.name.clone(), index);
            Some(index)
        });
        let Some(tally) = found.and_then(|index| self.groups.get_mut(index)).map(|(_, tally)| tally) else { return };
        let Some(before) = self.last.get(&sample.name) else {
            // The first look is where counting begins.
            self.last.insert(sample.name.clone(), sample);
            return;
        };
        if before.tick == sample.tick {
            // Only its state is news, if anything is.
            self.last.insert(sample.name.clone(), sample);
            return;
        }
        for ns in &sample.ticks_ns {
            let ns = u64::from(*ns).max(1);
            self.now.saturating_record(ns);
            self.all.saturating_record(ns);
            tally.ticks.saturating_record(ns);
        }
        // Less than before: it began anew, or went back to a checkpoint.
        let rise = |now: u64, before: u64| if now >= before { now - before } else { now };
        let ticks = sample.ticks_ns.len() as u64;
        let missed = rise(sample.missed, before.missed);
        tally.missed += missed;
        self.totals.ticks += ticks;
        self.totals.ticks_by_number += if sample.tick > before.tick { sample.tick - before.tick } else { ticks };
        self.totals.missed_ticks += missed;
        self.totals.turns += sample.turns;
        self.totals.deferrals += sample.deferred;
        self.totals.calls_out += rise(sample.calls_out, before.calls_out);
        self.totals.calls_refused += rise(sample.calls_refused, before.calls_refused);
        self.totals.world_restarts += rise(sample.restarts.into(), before.restarts.into());
        let restarts = |sample: &WorldSample| sample.scripts.iter().map(|script| u64::from(script.restarts)).sum();
        self.totals.script_restarts += rise(restarts(&sample), restarts(before));
        let pause = (sample.gap_max_us / 1e3 - tally.period_ms).max(0.0);
        self.pause_max_ms = self.pause_max_ms.max(pause);
        match &mut self.reload_pause_ms {
            Some(longest) => *longest = longest.max(pause),
            None => self.pauses.saturating_record((pause * 1e6) as u64 + 1),
        }
        self.last.insert(sample.name.clone(), sample);
    }

    /// From now on pauses are a reload's.
    pub fn begin_reload(&mut self) {
        self.reload_pause_ms = Some(0.0);
    }

    /// The longest pause since then, milliseconds.
    pub fn end_reload(&mut self) -> f64 {
        self.reload_pause_ms.take().unwrap_or(0.0)
    }

    /// What was done until now counts for nothing; worlds stay known.
    pub fn warmed_up(&mut self) {
        self.all.reset();
        self.pauses.reset();
        self.at_warm = self.totals;
        for (_, tally) in &mut self.groups {
            tally.ticks.reset();
            tally.missed = 0;
        }
    }

    /// End an interval.
    pub fn close(&mut self, at: f64, warmup: bool, done: Done, usage: Usage) {
        self.totals.inputs += done.inputs;
        self.totals.inputs_refused += done.inputs_refused;
        self.totals.calls_asked += done.calls;
        self.totals.traps += done.traps;
        let seconds = (at - self.since).max(1e-3);
        let change = self.totals.since(&self.at_interval);
        let per_second = |count: u64| count as f64 / seconds;
        let sum = |one: fn(&WorldSample) -> u64| self.last.values().map(one).sum::<u64>();
        let ms = |q| self.now.value_at_quantile(q) as f64 / 1e6;
        let cpu = usage.cpu_seconds.zip(self.used.cpu_seconds).map(|(now, before)| 100.0 * (now - before).max(0.0) / seconds);
        self.points.push(Point {
            at,
            warmup,
            ticks: per_second(change.ticks),
            missed: per_second(change.missed_ticks),
            tick_p50_ms: ms(0.5),
            tick_p99_ms: ms(0.99),
            tick_max_ms: self.now.max() as f64 / 1e6,
            pause_max_ms: self.pause_max_ms,
            turns: per_second(change.turns),
            deferrals: per_second(change.deferrals),
            paused: sum(|world| world.paused as u64),
            suspended: sum(|world| world.suspended as u64),
            parked: sum(|world| world.parked as u64),
            script_restarts: per_second(change.script_restarts),
            world_restarts: per_second(change.world_restarts),
            worlds_ticking: sum(|world| world.ticking.into()),
            inputs: per_second(change.inputs),
            inputs_refused: per_second(change.inputs_refused),
            calls_asked: per_second(change.calls_asked),
            calls_out: per_second(change.calls_out),
            calls_refused: per_second(change.calls_refused),
            traps: per_second(change.traps),
            script_memory_mb: sum(|world| world.memory_bytes) as f64 / MB,
            cpu_percent: cpu,
            resident_mb: usage.resident_bytes.map(|bytes| bytes as f64 / MB),
            threads: usage.threads,
            files: usage.files,
            tasks: usage.tasks,
            disk_mb: usage.disk_bytes.map(|bytes| bytes as f64 / MB),
        });
        self.now.reset();
        self.pause_max_ms = 0.0;
        self.at_interval = self.totals;
        self.used = usage;
        self.since = at;
    }

    /// The time of the first interval.
    pub fn begin(&mut self, at: f64, usage: Usage) {
        (self.since, self.used) = (at, usage);
    }

    pub fn totals(&self) -> Totals {
        self.totals.since(&self.at_warm)
    }

    pub fn ticks_ms(&self) -> Distribution {
        stats::milliseconds(&self.all)
    }

    pub fn pauses_ms(&self) -> Distribution {
        stats::milliseconds(&self.pauses)
    }

    /// Worlds known, and those that do not tick.
    pub fn worlds(&self) -> (u64, u64) {
        (self.last.len() as u64, self.last.values().filter(|world| !world.ticking).count() as u64)
    }

    pub fn groups(&self, measured_seconds: f64) -> Vec<Group> {
        let group = |(index, (name, tally)): (usize, &(String, GroupTally))| {
            let worlds: Vec<_> = self.last.values().filter(|world| self.of_world.get(&world.name) == Some(&index)).collect();
            let mut memory: Vec<_> = worlds.iter().map(|world| world.memory_bytes as f64 / 1_024.0).collect();
            Group {
                name: name.clone(),
                worlds: worlds.len() as u64,
                ticks_due: worlds.len() as f64 * measured_seconds * 1e3 / tally.period_ms,
                missed_ticks: tally.missed,
                tick_ms: stats::milliseconds(&tally.ticks),
                world_memory_kib: (stats::median(&mut memory), stats::quantile(&mut memory, 1.0)),
            }
        };
        self.groups.iter().enumerate().map(group).collect()
    }

    pub fn kinds(&self) -> Vec<Kind> {
        let mut by_script: BTreeMap<&str, Vec<&ScriptSample>> = BTreeMap::new();
        for script in self.last.values().flat_map(|world| &world.scripts) {
            by_script.entry(&script.script).or_default().push(script);
        }
        let kind = |(name, scripts): (&str, Vec<&ScriptSample>)| {
            let mut memory: Vec<_> = scripts.iter().map(|script| script.memory_bytes as f64 / 1_024.0).collect();
            let mut turn: Vec<_> = scripts.iter().map(|script| f64::from(script.cost_ns) / 1e3).collect();
            Kind {
                script: name.to_owned(),
                instances: scripts.len() as u64,
                parked: scripts.iter().filter(|script| script.parked).count() as u64,
                memory_kib: (stats::median(&mut memory), stats::quantile(&mut memory, 1.0)),
                turn_us: (stats::median(&mut turn), stats::quantile(&mut turn, 0.99)),
                restarts: scripts.iter().map(|script| u64::from(script.restarts)).sum(),
            }
        };
        by_script.into_iter().map(kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        toml::from_str("[limits]\ntick_hz = 10.0\n[[worlds]]\nname = \"w\"\ncount = 2\nscripts_per_world = 1\n").unwrap()
    }

    fn sample(name: &str, tick: u64, missed: u64) -> WorldSample {
        WorldSample {
            name: name.into(),
            ticking: true,
            tick,
            ticks_ns: vec![1_000_000; 10],
            gap_max_us: 130_000.0,
            missed,
            turns: 20,
            ..WorldSample::default()
        }
    }

    #[test]
    fn each_publication_counts_once_and_what_was_before_the_first_look_not_at_all() {
        let scenario = scenario();
        let mut sampler = Sampler::new(&scenario);
        for (tick, missed) in [(1_000, 50), (1_010, 50), (1_010, 50), (1_020, 52)] {
            sampler.add(&scenario, sample("w-1", tick, missed));
        }
        let totals = sampler.totals();
        assert_eq!((totals.ticks, totals.ticks_by_number, totals.missed_ticks, totals.turns), (20, 20, 2, 40));
        // A publication that was not seen shows.
        sampler.add(&scenario, sample("w-1", 1_040, 52));
        assert_eq!((sampler.totals().ticks, sampler.totals().ticks_by_number), (30, 40));
        // Back to a checkpoint.
        sampler.add(&scenario, sample("w-1", 900, 1));
        assert_eq!((sampler.totals().ticks_by_number, sampler.totals().missed_ticks), (50, 3));
    }

    #[test]
    fn the_warm_up_counts_for_nothing_but_is_drawn() {
        let scenario = scenario();
        let mut sampler = Sampler::new(&scenario);
        sampler.begin(0.0, Usage { cpu_seconds: Some(1.0), ..Usage::default() });
        sampler.add(&scenario, sample("w-1", 10, 0));
        sampler.add(&scenario, sample("w-1", 20, 4));
        sampler.close(1.0, true, Done { inputs: 5, ..Done::default() }, Usage { cpu_seconds: Some(1.5), ..Usage::default() });
        sampler.warmed_up();
        sampler.add(&scenario, sample("w-1", 30, 4));
        sampler.close(2.0, false, Done { inputs: 7, ..Done::default() }, Usage { cpu_seconds: Some(1.7), ..Usage::default() });
        let totals = sampler.totals();
        assert_eq!((totals.ticks, totals.missed_ticks, totals.inputs), (10, 0, 7));
        assert_eq!(sampler.ticks_ms().count, 10);
        let [one, two] = &sampler.points[..] else { panic!("{:?}", sampler.points) };
        assert_eq!((one.warmup, one.missed, one.inputs, two.warmup, two.inputs), (true, 4.0, 5.0, false, 7.0));
        assert!((one.cpu_percent.unwrap() - 50.0).abs() < 1e-6 && (two.cpu_percent.unwrap() - 20.0).abs() < 1e-6);
        assert!((two.pause_max_ms - 30.0).abs() < 1e-6 && (two.tick_p50_ms - 1.0).abs() < 1e-2);
        let groups = sampler.groups(1.0);
        assert_eq!((groups[0].worlds, groups[0].ticks_due, groups[0].tick_ms.count), (1, 10.0, 10));
    }
}
