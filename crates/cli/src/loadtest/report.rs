//! What a test has found: one value, from which the JSON, the text and the page are made, and two of which can be compared.
//!
//! Start with [`Report`]. [`METRICS`] says which numbers of an interval are drawn and compared, [`verdicts`] what the scenario expected
//! and what came. Not here: how it is shown (`text`, `html`), comparing (`compare`).

use super::driver::{Failover, Started, Stopped};
use super::look::{Group, Kind, Point, Totals};
use super::scenario::Scenario;
use super::stats::{self, Distribution, Slope};
use serde::{Deserialize, Serialize};

/// Of the JSON: raised when a field changes its meaning.
pub(crate) const FORMAT: u32 = 1;

/// See the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub format: u32,
    /// When it began.
    pub made: String,
    pub environment: Environment,
    /// What it ran against.
    pub driver: String,
    /// With what the command line changed of it.
    pub scenario: Scenario,
    /// After the warm-up.
    pub measured_seconds: f64,
    /// Somebody ended it.
    pub stopped_early: bool,
    /// What a reader must know: what was left out, what could not be done.
    pub notes: Vec<String>,
    pub started: Started,
    pub stopped: Stopped,
    /// CPU time of ticks.
    pub ticks_ms: Distribution,
    /// Time between two ticks beyond what it should be, the longest of each world and second, outside of reloads.
    pub pauses_ms: Distribution,
    pub totals: Totals,
    pub groups: Vec<Group>,
    pub kinds: Vec<Kind>,
    pub reloads: Vec<Reload>,
    pub failovers: Vec<Failover>,
    /// Worlds that did not tick at the end.
    pub worlds_down: u64,
    /// How late the test itself was at most with what it had to do.
    pub late_max_ms: f64,
    pub trends: Vec<Trend>,
    pub verdicts: Vec<Verdict>,
    /// Second by second, the warm-up too.
    pub points: Vec<Point>,
}

/// Where it ran.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub version: String,
    /// `release` or `debug`: the two are not to be compared.
    pub build: String,
    pub processor: String,
    pub cores: usize,
    pub memory_mb: u64,
    pub kernel: String,
    /// Processes that wanted to run in the minute before the test.
    pub load_before: f64,
}

impl Environment {
    /// This machine.
    pub fn look() -> Environment {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
            line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Environment {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_mb: memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// A version that was published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reload {
    /// When, seconds from the start.
    pub at: f64,
    /// Until it was over, watching the new version with it.
    pub seconds: f64,
    /// From the first rehearsal to the last swap.
    pub swap_ms: Option<u64>,
    /// The longest time between two ticks of a world meanwhile, beyond what it should be.
    pub pause_ms: f64,
    /// Why it failed.
    pub error: Option<String>,
}

/// How something changes with time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trend {
    pub key: String,
    pub unit: String,
    pub per_hour: f64,
    /// The ends of the 95% interval.
    pub low: f64,
    pub high: f64,
    /// Seconds that it is made of, the last ones.
    #[serde(default)]
    pub of_seconds: f64,
    /// Whether that is enough to judge by.
    #[serde(default = "yes")]
    pub is_told: bool,
}

fn yes() -> bool {
    true
}

/// An expectation and what came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub what: String,
    /// `None`: nothing was measured, so it does not hold.
    pub measured: Option<f64>,
    pub limit: f64,
    pub unit: String,
    /// `None`: the test was too short to tell.
    pub passed: Option<bool>,
}

/// Which way a number should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
    /// It says what was done, not how well.
    Neither,
}

/// A number of an interval.
pub(crate) struct Metric {
    pub key: &'static str,
    pub label: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub of: fn(&Point) -> Option<f64>,
}

/// Those that are drawn and compared.
pub(crate) const METRICS: [Metric; 25] = {
    use Better::{Less, More, Neither};
    const fn metric(
        key: &'static str,
        label: &'static str,
        unit: &'static str,
        better: Better,
        of: fn(&Point) -> Option<f64>,
    ) -> Metric {
        Metric { key, label, unit, better, of }
    }
    [
        metric("tick_p50", "CPU time of a tick, median", "ms", Less, |p| Some(p.tick_p50_ms)),
        metric("tick_p99", "CPU time of a tick, p99", "ms", Less, |p| Some(p.tick_p99_ms)),
        metric("tick_max", "CPU time of a tick, longest", "ms", Less, |p| Some(p.tick_max_ms)),
        metric("pause_max", "longest wait for a tick", "ms", Less, |p| Some(p.pause_max_ms)),
        metric("ticks", "ticks", "/s", More, |p| Some(p.ticks)),
        metric("missed", "missed ticks", "/s", Less, |p| Some(p.missed)),
        metric("turns", "turns of scripts", "/s", More, |p| Some(p.turns)),
        metric("deferrals", "deferrals", "/s", Less, |p| Some(p.deferrals)),
        metric("suspended", "suspended scripts", "", Less, |p| Some(p.suspended as f64)),
        metric("parked", "parked scripts", "", Less, |p| Some(p.parked as f64)),
        metric("worlds", "worlds that tick", "", More, |p| Some(p.worlds_ticking as f64)),
        metric("cpu", "CPU, percent of a core", "%", Less, |p| p.cpu_percent),
        metric("memory", "resident memory", "MB", Less, |p| p.resident_mb),
        metric("script_memory", "memory of scripts", "MB", Less, |p| Some(p.script_memory_mb)),
        metric("disk", "data directory", "MB", Less, |p| p.disk_mb),
        metric("files", "open files", "", Less, |p| p.files.map(|n| n as f64)),
        metric("threads", "threads", "", Less, |p| p.threads.map(|n| n as f64)),
        metric("tasks", "tasks", "", Less, |p| p.tasks.map(|n| n as f64)),
        metric("inputs", "players' input", "/s", Neither, |p| Some(p.inputs)),
        metric("inputs_refused", "input refused", "/s", Less, |p| Some(p.inputs_refused)),
        metric("calls", "calls and answers between worlds", "/s", Neither, |p| Some(p.calls_out)),
        metric("calls_refused", "calls refused", "/s", Less, |p| Some(p.calls_refused)),
        metric("traps", "traps asked for", "/s", Neither, |p| Some(p.traps)),
        metric("script_restarts", "restarts of scripts", "/s", Neither, |p| Some(p.script_restarts)),
        metric("world_restarts", "restarts of worlds", "/s", Neither, |p| Some(p.world_restarts)),
    ]
};

/// Those of which a slope is told.
const TRENDS: [&str; 6] = ["memory", "files", "threads", "tasks", "tick_p99", "disk"];

impl Report {
    /// A number over the measured time, with the times.
    pub fn series(&self, metric: &Metric) -> Vec<(f64, f64)> {
        self.points.iter().filter(|point| !point.warmup).filter_map(|point| Some((point.at, (metric.of)(point)?))).collect()
    }

    /// Whether nothing that was expected failed to come. What cannot be told did not.
    pub fn passed(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.passed != Some(false))
    }

    /// Ticks skipped, of those that were due, percent; of one group or of all.
    pub fn missed_percent(&self, group: Option<&str>) -> f64 {
        let groups = self.groups.iter().filter(|g| group.is_none_or(|name| g.name == name));
        let (missed, ran) = groups.fold((0, 0), |(missed, ran), g| (missed + g.missed_ticks, ran + g.tick_ms.count));
        100.0 * missed as f64 / ((missed + ran) as f64).max(1.0)
    }
}

/// A slope of a shorter time, told by the hour, says nothing.
const TREND_SECONDS_MIN: f64 = 60.0;
/// What grows is judged by the second half of the measured time, and only if that is so long: caches and pools fill up, allocators take
/// what they then keep, and that looks like a leak in minutes.
const JUDGED_SECONDS_MIN: f64 = 300.0;

/// The part of a series that growth is judged by, and whether it is enough: the second half, or all if the half is too short.
pub(crate) fn judged(series: &[(f64, f64)]) -> (&[(f64, f64)], bool) {
    let Some(((begin, _), (end, _))) = series.first().zip(series.last()) else { return (series, false) };
    let middle = begin + (end - begin) / 2.0;
    if end - middle < JUDGED_SECONDS_MIN {
        return (series, false);
    }
    (&series[series.partition_point(|(at, _)| *at < middle)..], true)
}

/// Slopes of what should be flat.
pub(crate) fn trends(report: &Report) -> Vec<Trend> {
    if report.measured_seconds < TREND_SECONDS_MIN {
        return Vec::new();
    }
    let trend = |metric: &Metric| {
        let series = report.series(metric);
        let (judged, is_told) = judged(&series);
        let of_seconds = judged.last()?.0 - judged.first()?.0;
        let Slope { per_second, low, high } = stats::slope(judged)?;
        let [per_hour, low, high] = [per_second, low, high].map(|slope| slope * 3_600.0);
        Some(Trend { key: metric.key.to_owned(), unit: metric.unit.to_owned(), per_hour, low, high, of_seconds, is_told })
    };
    METRICS.iter().filter(|metric| TRENDS.contains(&metric.key)).filter_map(trend).collect()
}

/// What the scenario expected, and what came.
pub(crate) fn verdicts(report: &Report) -> Vec<Verdict> {
    let expect = &report.scenario.expect;
    let group = expect.group.as_deref();
    let of = group.map_or_else(String::new, |group| format!(" in {group}"));
    let ticks = match group {
        None => Some(&report.ticks_ms),
        Some(name) => report.groups.iter().find(|group| group.name == name).map(|group| &group.tick_ms),
    };
    let ticks = ticks.filter(|ticks| ticks.count > 0);
    let totals = &report.totals;
    let longest = |values: &mut dyn Iterator<Item = f64>| values.max_by(f64::total_cmp);
    let pause = longest(&mut report.reloads.iter().filter(|reload| reload.error.is_none()).map(|reload| reload.pause_ms));
    // One that was not over is as long as it lasted until the end.
    let end = report.points.last().map_or(0.0, |point| point.at);
    let failover = longest(&mut report.failovers.iter().map(|failover| failover.seconds.unwrap_or(end - failover.at)));
    let failed = report.reloads.iter().filter(|reload| reload.error.is_some()).count() as f64;
    let parked = report.kinds.iter().map(|kind| kind.parked).sum::<u64>() as f64;
    let disk = longest(&mut report.points.iter().filter_map(|point| point.disk_mb));
    let refused = 100.0 * totals.inputs_refused as f64 / (totals.inputs as f64).max(1.0);
    // The lower end of the interval: what may be noise is no leak.
    let slope = |key: &str| report.trends.iter().find(|trend| trend.key == key).map(|trend| trend.low.max(0.0));
    let p99 = stats::median(&mut report.points.iter().filter(|p| !p.warmup).map(|p| p.tick_p99_ms).collect::<Vec<_>>());
    let all = [
        (format!("CPU time of a tick, median{of}"), expect.tick_p50_ms_max, ticks.map(|ticks| ticks.p50), "ms"),
        (format!("CPU time of a tick, p99{of}"), expect.tick_p99_ms_max, ticks.map(|ticks| ticks.p99), "ms"),
        (format!("missed ticks{of}"), expect.missed_ticks_percent_max, ticks.map(|_| report.missed_percent(group)), "%"),
        ("input refused".into(), expect.inputs_refused_percent_max, (totals.inputs > 0).then_some(refused), "%"),
        ("longest pause for a reload".into(), expect.reload_pause_ms_max, pause, "ms"),
        ("reloads that failed".into(), expect.reloads_failed_max.map(|n| n as f64), Some(failed), ""),
        ("longest failover".into(), expect.failover_seconds_max, failover, "s"),
        ("parked scripts at the end".into(), expect.scripts_parked_max.map(|n| n as f64), Some(parked), ""),
        (
            "worlds that do not tick at the end".into(),
            expect.worlds_down_max.map(|n| n as f64),
            Some(report.worlds_down as f64),
            "",
        ),
        ("data directory at its largest".into(), expect.disk_mb_max, disk, "MB"),
        ("resident memory grows by at least".into(), expect.memory_mb_per_hour_max, slope("memory"), "MB/h"),
        ("open files grow by at least".into(), expect.files_per_hour_max, slope("files"), "/h"),
        ("threads grow by at least".into(), expect.threads_per_hour_max, slope("threads"), "/h"),
        ("tasks grow by at least".into(), expect.tasks_per_hour_max, slope("tasks"), "/h"),
        (
            "tick p99 grows by at least".into(),
            expect.tick_p99_percent_per_hour_max,
            slope("tick_p99").map(|slope| 100.0 * slope / p99.max(1e-9)),
            "%/h",
        ),
        ("data directory grows by at least".into(), expect.disk_mb_per_hour_max, slope("disk"), "MB/h"),
    ];
    let untold = report.trends.iter().any(|trend| !trend.is_told) || report.measured_seconds < TREND_SECONDS_MIN;
    let verdict = |(what, limit, measured, unit): (String, Option<f64>, Option<f64>, &str)| {
        let limit = limit?;
        let is_slope = unit.ends_with("/h");
        let passed = (!(is_slope && untold)).then(|| measured.is_some_and(|measured| measured <= limit));
        Some(Verdict { what, measured, limit, unit: unit.to_owned(), passed })
    };
    all.into_iter().filter_map(verdict).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of so many seconds; `p99` and `memory` by second.
    pub(crate) fn report(seconds: u32, p99: impl Fn(u32) -> f64, memory: impl Fn(u32) -> f64) -> Report {
        let point = |second| Point {
            at: f64::from(second) + 1.0,
            warmup: second < 2,
            ticks: 200.0,
            tick_p50_ms: p99(second) / 2.0,
            tick_p99_ms: p99(second),
            resident_mb: Some(memory(second)),
            ..Point::default()
        };
        let mut ticks = hdrhistogram::Histogram::<u64>::new(3).expect("it is valid");
        (1..=1_000).for_each(|n| ticks.record(n * 1_000).expect("it grows"));
        let ticks_ms = stats::milliseconds(&ticks);
        let group = Group { name: "town".into(), worlds: 10, missed_ticks: 10, tick_ms: ticks_ms.clone(), ..Group::default() };
        Report {
            format: FORMAT,
            made: "2026-01-01T00:00:00Z".into(),
            environment: Environment::look(),
            driver: "nothing".into(),
            scenario: Scenario { name: "test".into(), ..Scenario::default() },
            measured_seconds: f64::from(seconds) - 2.0,
            stopped_early: false,
            notes: Vec::new(),
            started: Started::default(),
            stopped: Stopped::default(),
            ticks_ms,
            pauses_ms: Distribution::default(),
            totals: Totals::default(),
            groups: vec![group],
            kinds: vec![Kind { script: "<drill>".into(), instances: 3, ..Kind::default() }],
            reloads: vec![Reload { at: 5.0, seconds: 3.0, swap_ms: Some(60), pause_ms: 12.0, error: None }],
            failovers: Vec::new(),
            worlds_down: 0,
            late_max_ms: 0.0,
            trends: Vec::new(),
            verdicts: Vec::new(),
            points: (0..seconds).map(point).collect(),
        }
    }

    #[test]
    fn a_leak_fails_and_what_is_flat_passes() {
        let judge = |memory: &dyn Fn(u32) -> f64| {
            let mut report = report(900, |_| 1.0, memory);
            report.scenario.expect.memory_mb_per_hour_max = Some(50.0);
            report.trends = trends(&report);
            verdicts(&report)
        };
        let leak = judge(&|second| 100.0 + f64::from(second) * 0.05);
        assert!(leak[0].passed == Some(false) && (leak[0].measured.unwrap() - 180.0).abs() < 5.0, "{leak:?}");
        assert_eq!(judge(&|second| 100.0 + f64::from(second % 7))[0].passed, Some(true));
        // What fills up in the beginning is no leak.
        assert_eq!(judge(&|second| 100.0 + f64::from(second.min(300)))[0].passed, Some(true));
    }

    #[test]
    fn growth_is_judged_by_the_second_half_and_not_at_all_if_that_is_short() {
        let series = |seconds: u32| (0..=seconds).map(|second| (f64::from(second), 0.0)).collect::<Vec<_>>();
        let (long, short) = (series(600), series(599));
        assert_eq!((judged(&long).0.first(), judged(&long).1), (Some(&(300.0, 0.0)), true));
        assert_eq!((judged(&short).0.len(), judged(&short).1, judged(&[]).1), (600, false, false));
        let mut report = report(182, |_| 1.0, |second| 100.0 + f64::from(second));
        report.scenario.expect.memory_mb_per_hour_max = Some(50.0);
        report.trends = trends(&report);
        report.verdicts = verdicts(&report);
        assert_eq!((report.verdicts[0].passed, report.passed()), (None, true), "three minutes are too short to tell");
        let memory = report.trends.iter().find(|trend| trend.key == "memory").unwrap();
        assert!((memory.per_hour - 3_600.0).abs() < 1.0 && !memory.is_told, "{memory:?}");
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let mut report = report(10, |_| 1.0, |_| 1.0);
        report.scenario.expect.failover_seconds_max = Some(5.0);
        report.scenario.expect.tick_p99_ms_max = Some(2.0);
        report.scenario.expect.reload_pause_ms_max = Some(10.0);
        report.verdicts = verdicts(&report);
        let found: Vec<_> = report.verdicts.iter().map(|verdict| (verdict.measured.is_some(), verdict.passed)).collect();
        assert_eq!(found, [(true, Some(true)), (true, Some(false)), (false, Some(false))], "{:?}", report.verdicts);
        assert!(!report.passed());
        assert!((report.missed_percent(Some("town")) - 0.99).abs() < 0.01);
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = report(10, |second| f64::from(second) / 3.0, |_| 1.0);
        let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!((&read.scenario, &read.totals, &read.reloads), (&report.scenario, &report.totals, &report.reloads));
        // The last digit of a number may be another.
        let same = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
        assert!(read.ticks_ms.bars.iter().zip(&report.ticks_ms.bars).all(|(a, b)| same(a.0, b.0) && a.1 == b.1));
        assert_eq!((read.points.len(), read.ticks_ms.bars.len()), (10, report.ticks_ms.bars.len()));
        assert!(read.points.iter().zip(&report.points).all(|(a, b)| same(a.tick_p99_ms, b.tick_p99_ms)));
    }
}
