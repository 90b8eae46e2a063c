//! From figures to `bench/README.md`: tables, the list of targets with what was measured against each, plots.
//!
//! A row's value is the median over all rounds, with the least and the most of them; a ratio is the median of the ratios of each round.
//! Only what stands between the two markers of the README is replaced.

use crate::plot::{bars, count, number};
use crate::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// A table: one figure of a workload, a row for each who, a column for each size.
struct Table {
    w: &'static str,
    metric: &'static str,
    title: &'static str,
    /// What the columns count.
    of: &'static str,
    /// Ratios are to this one.
    reference: &'static str,
    /// Column that is drawn.
    plot: Option<u64>,
}

const TABLES: &[Table] = &[
    table("W1", "tick_ns", "W1: a trivial tick with two host calls, ns a script", "scripts", "bare").plot(1_000),
    table("W1w", "world_tick_ns", "W1 over many worlds of ten scripts, ns a world", "worlds", ""),
    table("W2", "math_us", "W2: 10,000 operations of float maths, µs a script", "scripts", "bare-unmetered").plot(200),
    table("W3", "start_us", "W3: scripts of worlds come to life, µs a script", "scripts", "bare").plot(1_000),
    table("W3", "memory_kib", "W3: memory of a live script, KiB, with the 4 KiB page that a wasm one writes", "scripts", "bare")
        .plot(1_000),
    table("W3i", "instance_us", "W3: start and end of an instance alone, µs", "instances", "bare"),
    table("W3w", "world_start_us", "W3: a world of ten scripts comes to life, µs", "worlds", "bare"),
    table("W3w", "world_kib", "W3: memory of a world of ten scripts, KiB", "worlds", "bare").plot(500),
    table("W4", "normal_us", "W4: a tick without a runaway, µs", "scripts", "bare"),
    table("W4", "tick_us", "W4: a tick with a runaway that is stopped, µs", "scripts", "bare"),
    table("W5", "swap_us", "W5: all scripts get a new version, µs in all", "scripts", "bare").plot(1_000),
    table("W5", "longest_us", "W5: longest tick meanwhile, µs", "scripts", ""),
    table("W5", "normal_us", "W5: a normal tick, µs", "scripts", ""),
    table("W6", "restart_us", "W6: a hundred scripts trap and come back, µs in all", "scripts", "bare").plot(1_000),
    table("W6", "world_us", "W6: a world of ten scripts ends and comes back, µs", "", "bare"),
    table("W7", "p50_us", "W7: a call and its answer in one process, µs, one at a time", "in flight", "tokio"),
    table("W7", "mean_us", "W7: the same, mean", "in flight", ""),
    table("W7", "calls_per_s", "W7: calls a second in one process", "in flight", "tokio").plot(64),
    table("W7n", "p50_us", "W7: 20 bytes there and back over loopback TCP below TLS 1.3, µs", "in flight", ""),
    table("W7n", "calls_per_s", "W7: the same, a second", "in flight", ""),
];

const fn table(w: &'static str, metric: &'static str, title: &'static str, of: &'static str, reference: &'static str) -> Table {
    Table { w, metric, title, of, reference, plot: None }
}

impl Table {
    const fn plot(self, n: u64) -> Table {
        Table { plot: Some(n), ..self }
    }
}

/// Rows in this order, under these names.
const NAMES: &[(&str, &str)] = &[
    ("bare-unmetered", "wasmtime, no metering"),
    ("bare", "wasmtime, fuel and epochs"),
    ("aether", "Aether"),
    ("aether-node", "Aether, a whole node"),
    ("bare-fibres", "wasmtime, a fibre a script"),
    ("aether-fibres", "Aether, a fibre a script"),
    ("aether-world", "Aether, within a world"),
    ("aether-worlds", "Aether, between worlds, no store"),
    ("luau-thread", "Luau, a thread a script, one heap"),
    ("luau", "Luau, a VM a script"),
    ("luajit-off", "LuaJIT, compiler off"),
    ("luajit", "LuaJIT (cannot be stopped)"),
    ("erlang", "Erlang/OTP"),
    ("ractor", "ractor (no sandbox)"),
    ("tokio", "tokio tasks (no sandbox)"),
    ("tls", "TCP and TLS"),
];

/// Those that isolate scripts and can stop one. Threads of one Luau VM share its heap: none of them has a memory limit of its own.
const SAFE_PEERS: &[&str] = &["luau", "luajit-off", "erlang"];

/// Values by workload, figure, size, who; in each by round.
#[derive(Default)]
pub(crate) struct Figures(BTreeMap<(String, String, u64, String), BTreeMap<u32, f64>>);

impl Figures {
    pub(crate) fn of(records: impl Iterator<Item = Record>) -> Figures {
        let mut figures = Figures::default();
        for Record { round, w, who, n, metric, value } in records {
            figures.0.entry((w, metric, n, who)).or_default().insert(round, value);
        }
        figures
    }

    fn rounds(&self, w: &str, metric: &str, n: u64, who: &str) -> Option<&BTreeMap<u32, f64>> {
        self.0.get(&(w.to_owned(), metric.to_owned(), n, who.to_owned()))
    }

    fn median(&self, w: &str, metric: &str, n: u64, who: &str) -> Option<f64> {
        Some(crate::measure::median(&mut self.rounds(w, metric, n, who)?.values().copied().collect::<Vec<_>>()))
    }

    /// The median over rounds of one divided by the other.
    fn ratio(&self, (w, metric, n): (&str, &str, u64), who: &str, reference: &str) -> Option<f64> {
        let (values, others) = (self.rounds(w, metric, n, who)?, self.rounds(w, metric, n, reference)?);
        let mut ratios: Vec<f64> = values.iter().filter_map(|(round, value)| Some(value / others.get(round)?)).collect();
        (!ratios.is_empty()).then(|| crate::measure::median(&mut ratios))
    }

    fn sizes(&self, w: &str, metric: &str) -> BTreeSet<u64> {
        self.0.keys().filter(|(kw, km, ..)| kw == w && km == metric).map(|(_, _, n, _)| *n).collect()
    }

    fn cell(&self, table: &Table, n: u64, who: &str) -> Option<String> {
        let rounds = self.rounds(table.w, table.metric, n, who)?;
        let (least, most) = rounds.values().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
        let mut text = number(self.median(table.w, table.metric, n, who)?);
        if rounds.len() > 1 {
            let _ = write!(text, " [{}–{}]", number(least), number(most));
        }
        if who != table.reference
            && let Some(ratio) = self.ratio((table.w, table.metric, n), who, table.reference)
        {
            let _ = write!(text, " **{}×**", number(ratio));
        }
        Some(text)
    }

    fn markdown(&self, table: &Table) -> Option<String> {
        let sizes = self.sizes(table.w, table.metric);
        let mut text = format!("**{}**\n\n|", table.title);
        for n in &sizes {
            let _ =
                write!(text, " | {}", if table.of.is_empty() { String::new() } else { format!("{} {}", count(*n), table.of) });
        }
        text += " |\n|---";
        sizes.iter().for_each(|_| text += "|---");
        text += "|\n";
        let mut any = false;
        for (who, name) in NAMES {
            let cells: Vec<_> = sizes.iter().map(|n| self.cell(table, *n, who)).collect();
            if cells.iter().any(Option::is_some) {
                any = true;
                let _ = write!(text, "| {name}");
                for cell in cells {
                    let _ = write!(text, " | {}", cell.unwrap_or_default());
                }
                text += " |\n";
            }
        }
        any.then_some(text)
    }

    /// What was asked, what was measured, and whether that will do.
    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut at_most = |what: String, value: Option<f64>, bound: f64, unit: &'static str| {
            targets.extend(value.map(|value| Target { what, value, bound, least: false, unit }));
        };
        for (who, reference, mode) in [("aether", "bare", ""), ("aether-fibres", "bare-fibres", ", fibres")] {
            for (n, bound) in [(100, 2.0), (1_000, 1.5), (10_000, 1.5)] {
                let what = format!("W1 at {} scripts{mode}, of bare wasmtime", count(n));
                at_most(what, self.ratio(("W1", "tick_ns", n), who, reference), bound, "×");
            }
        }
        let grows = |w: &str, metric: &str, few: u64, many: u64| {
            Some(self.median(w, metric, many, "aether")? / self.median(w, metric, few, "aether")?)
        };
        at_most("W1 a script at 10,000 scripts in a world, of 100".into(), grows("W1", "tick_ns", 100, 10_000), 1.5, "×");
        at_most("W1 a world at 5,000 worlds, of 100".into(), grows("W1w", "world_tick_ns", 100, 5_000), 1.5, "×");
        at_most(
            "W2, of wasmtime without metering".into(),
            self.ratio(("W2", "math_us", 200), "aether", "bare-unmetered"),
            1.15,
            "×",
        );
        for n in [1_000, 10_000, 100_000] {
            let what = format!("W3 start of {} scripts, of bare", count(n));
            at_most(what, self.ratio(("W3", "start_us", n), "aether", "bare"), 1.5, "×");
            let memory = self.median("W3", "memory_kib", n, "aether").map(|kib| kib - 4.0);
            at_most(format!("W3 memory of each of {} besides its page", count(n)), memory, 8.0, "KiB");
        }
        at_most("W3 a world of ten on a node".into(), self.median("W3w", "world_kib", 500, "aether-node"), 100.0, "KiB");
        for who in ["aether", "aether-fibres"] {
            let w4 = |metric: &str| self.median("W4", metric, 1_000, who);
            at_most(format!("W4 fuel of a runaway, of what it has ({who})"), w4("fuel_share"), 1.1, "×");
            at_most(format!("W4 innocent scripts stopped, also under load ({who})"), w4("innocent"), 0.0, "");
        }
        at_most("W5 all swapped, of bare".into(), self.ratio(("W5", "swap_us", 1_000), "aether", "bare"), 1.3, "×");
        let w5 = |metric: &str| self.median("W5", metric, 1_000, "aether");
        let longer = w5("longest_us").zip(w5("normal_us")).map(|(longest, normal)| longest - normal);
        at_most("W5 longest tick over a normal one".into(), longer, 500.0, "µs");
        at_most("W6 a hundred back, of bare".into(), self.ratio(("W6", "restart_us", 1_000), "aether", "bare"), 1.5, "×");
        at_most("W6 a world of ten, of bare".into(), self.ratio(("W6", "world_us", 1_000), "aether", "bare"), 2.0, "×");
        for who in ["aether-world", "aether-worlds"] {
            at_most(format!("W7 one call, of a tokio channel ({who})"), self.ratio(("W7", "p50_us", 1), who, "tokio"), 2.0, "×");
        }
        let mut at_least = |what: String, value: Option<f64>, bound: f64, unit: &'static str| {
            targets.extend(value.map(|value| Target { what, value, bound, least: true, unit }));
        };
        for n in [100, 1_000, 10_000] {
            let nearest =
                SAFE_PEERS.iter().filter_map(|peer| self.ratio(("W1", "tick_ns", n), peer, "aether")).min_by(f64::total_cmp);
            at_least(format!("W1 at {} scripts, nearest safe peer of Aether", count(n)), nearest, 2.5, "×");
        }
        for who in ["aether-world", "aether-worlds", "aether-node"] {
            at_least(format!("W7 calls a second ({who})"), self.median("W7", "calls_per_s", 64, who), 1e6, "");
        }
        targets
    }
}

struct Target {
    what: String,
    value: f64,
    bound: f64,
    least: bool,
    unit: &'static str,
}

impl Target {
    fn is_met(&self) -> bool {
        if self.least { self.value >= self.bound } else { self.value <= self.bound }
    }
}

/// The part of the README between its markers, and the plots with their names.
fn render(figures: &Figures, notes: &str) -> (String, Vec<(String, String)>) {
    let mut text = format!("{notes}\n\n| target | measured | wanted | |\n|---|---|---|---|\n");
    for target in figures.targets() {
        let (word, met) =
            (if target.least { "at least" } else { "at most" }, if target.is_met() { "met" } else { "**not met**" });
        let Target { what, value, bound, unit, .. } = &target;
        let _ = writeln!(text, "| {what} | {} {unit} | {word} {} {unit} | {met} |", number(*value), number(*bound));
    }
    let mut plots = Vec::new();
    for table in TABLES {
        let Some(markdown) = figures.markdown(table) else { continue };
        text += "\n";
        text += &markdown;
        let Some(n) = table.plot else { continue };
        let rows: Vec<_> = NAMES
            .iter()
            .filter_map(|(who, name)| Some(((*name).to_owned(), figures.median(table.w, table.metric, n, who)?)))
            .collect();
        if !rows.is_empty() {
            let name = format!("{}-{}.svg", table.w.to_lowercase(), table.metric.replace('_', "-"));
            let title = format!("{}; {} {}, logarithmic", table.title, count(n), table.of);
            let _ = write!(text, "\n![{title}](plots/{name})\n");
            plots.push((name, bars(&title, &rows)));
        }
    }
    (text, plots)
}

/// Put what was measured into the README.
pub(crate) fn write(records: impl Iterator<Item = Record>, notes: &str) -> std::io::Result<()> {
    let (text, plots) = render(&Figures::of(records), notes);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir_all(folder.join("plots"))?;
    for (name, svg) in plots {
        std::fs::write(folder.join("plots").join(name), svg)?;
    }
    let path = folder.join("README.md");
    let readme = std::fs::read_to_string(&path)?;
    let readme = between_markers(&readme, &text)
        .ok_or_else(|| std::io::Error::other(format!("bench/README.md has no lines `{BEGIN}` and `{END}`")))?;
    std::fs::write(path, readme)
}

fn between_markers(readme: &str, text: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(round: u32, who: &str, value: f64) -> Record {
        Record { round, w: "W1".into(), who: who.into(), n: 1_000, metric: "tick_ns".into(), value }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_each_round() {
        let records = [(1, 100.0, 150.0), (2, 1_000.0, 1_600.0), (3, 100.0, 300.0)];
        let records =
            records.into_iter().flat_map(|(round, bare, aether)| [record(round, "bare", bare), record(round, "aether", aether)]);
        let figures = Figures::of(records);
        assert_eq!(figures.ratio(("W1", "tick_ns", 1_000), "aether", "bare"), Some(1.6));
        assert_eq!(figures.cell(&TABLES[0], 1_000, "aether").unwrap(), "300 [150–1,600] **1.60×**");
    }

    #[test]
    fn a_target_that_is_missed_is_said_to_be() {
        let figures = Figures::of([record(1, "bare", 100.0), record(1, "aether", 186.0)].into_iter());
        let (text, _) = render(&figures, "");
        assert!(text.contains("| 1.86 × | at most 1.50 × | **not met** |"), "{text}");
        let figures = Figures::of([record(1, "bare", 100.0), record(1, "aether", 150.0)].into_iter());
        assert!(render(&figures, "").0.contains("| at most 1.50 × | met |"));
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let readme = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        assert_eq!(between_markers(&readme, "new\n").unwrap(), format!("a\n{BEGIN}\n\nnew\n\n{END}\nz\n"));
        assert_eq!(between_markers("no markers", "new"), None);
    }
}
