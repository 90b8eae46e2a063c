//! All cells in turn, round after round, each in a process of its own; then the report.
//!
//! `ROUNDS=N` says how many (5 by default). What was measured is kept in `target/bench/figures.jsonl`, so that `report` can make the
//! tables again. A cell that fails is left out and said; one that hangs is ended.

use crate::peers::{self, PEERS, records};
use crate::record::{Record, read};
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Of Aether and of bare wasmtime: workload, who, how many.
const CELLS: &[(&str, &str, usize)] = &[
    ("W1", "calls", 100),
    ("W1", "calls", 1_000),
    ("W1", "calls", 10_000),
    ("W1", "fibres", 100),
    ("W1", "fibres", 1_000),
    ("W1w", "aether", 100),
    ("W1w", "aether", 1_000),
    ("W1w", "aether", 5_000),
    ("W2", "all", 200),
    ("W3", "bare", 1_000),
    ("W3", "aether", 1_000),
    ("W3", "bare", 10_000),
    ("W3", "aether", 10_000),
    ("W3", "bare", 100_000),
    ("W3", "aether", 100_000),
    ("W3i", "calls", 500),
    ("W3i", "fibres", 500),
    ("W3w", "bare", 500),
    ("W3w", "aether", 500),
    ("W3w", "node", 500),
    ("W4", "calls", 1_000),
    ("W4", "fibres", 1_000),
    ("W5", "all", 1_000),
    ("W6", "all", 1_000),
    ("W7", "world", 1),
    ("W7", "world", 64),
    ("W7", "worlds", 1),
    ("W7", "worlds", 64),
    ("W7", "node", 1),
    ("W7", "node", 64),
];

/// How busy the machine was when a round began, kept with the figures.
const LOAD: &str = "load";

/// No cell takes a quarter of it.
const CELL_SECONDS: &str = "180";

fn kept() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bench/figures.jsonl")
}

/// Measure these workloads (all if none is named) in so many rounds, and write the report.
pub(crate) fn run(wanted: &[String], rounds: u32) -> Result<(), Box<dyn Error>> {
    let is_wanted =
        |w: &str| wanted.is_empty() || wanted.iter().any(|name| w == name || w.trim_end_matches(char::is_lowercase) == name);
    println!("building the other systems: some minutes the first time");
    let mut left_out: BTreeSet<String> = peers::build().into_iter().map(|(who, why)| format!("{who}: {why}")).collect();
    let missing: BTreeSet<String> = left_out.iter().filter_map(|line| line.split(':').next()).map(str::to_owned).collect();
    left_out.iter().for_each(|line| println!("left out: {line}"));
    let program = std::env::current_exe()?;
    let mut all = Vec::new();
    for round in 1..=rounds {
        let load = load();
        println!("round {round} of {rounds}, load {load}");
        all.push(Record { round, w: LOAD.into(), who: "machine".into(), n: 0, metric: "load".into(), value: load });
        let mut keep = |what: String, measured: Result<Vec<Record>, String>| match measured {
            Ok(records) => all.extend(records.into_iter().map(|record| Record { round, ..record })),
            Err(why) => {
                let line = format!("{what}: {why}");
                if left_out.insert(line.clone()) {
                    println!("left out: {line}");
                }
            }
        };
        // A workload's own cells and those of the others one after the other: what they share of the machine is alike.
        let workloads: BTreeSet<&str> =
            CELLS.iter().map(|cell| cell.0).chain(PEERS.iter().flat_map(|peer| peer.cells).map(|cell| cell.0)).collect();
        for w in workloads.into_iter().filter(|w| is_wanted(w)) {
            for (_, who, n) in CELLS.iter().filter(|cell| cell.0 == w) {
                let mut command = Command::new("timeout");
                command.args([CELL_SECONDS]).arg(&program).args(["cell", w, who, &n.to_string()]);
                keep(format!("{w} {who} {n}"), records(&mut command));
            }
            for peer in PEERS.iter().filter(|peer| !missing.contains(peer.who)) {
                for (_, n) in peer.cells.iter().filter(|cell| cell.0 == w) {
                    keep(format!("{w} {} {n}", peer.who), peer.measure(w, *n));
                }
            }
        }
    }
    // Workloads that were not measured now keep what was measured before.
    let before = fs::read_to_string(kept()).unwrap_or_default();
    all.extend(read(&before).filter(|record| record.w != LOAD && !is_wanted(&record.w)));
    let lines = all.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    fs::create_dir_all(kept().parent().ok_or("a file has a folder")?)?;
    fs::write(kept(), lines.join("\n") + "\n")?;
    if !left_out.is_empty() {
        println!("left out: {}", left_out.into_iter().collect::<Vec<_>>().join("; "));
    }
    report()
}

/// Make tables and plots of what is kept.
pub(crate) fn report() -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(kept())?;
    let rounds = read(&text).map(|record| record.round).max().unwrap_or(0);
    let mut loads: Vec<f64> = read(&text).filter(|record| record.w == LOAD).map(|record| record.value).collect();
    let load = if loads.is_empty() { 0.0 } else { crate::measure::median(&mut loads) };
    let notes = format!("Rounds: {rounds}. Machine: {}; load when a round began (median): {load:.1}.", machine());
    crate::report::write(read(&text), &notes)?;
    println!("bench/README.md and bench/plots are made");
    Ok(())
}

/// Processes that ran or waited to, over the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {model}, Linux {}", kernel.trim())
}
