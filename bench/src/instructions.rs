//! Instructions of a turn, counted by callgrind: they repeat, times do not.
//!
//! `aether-bench count` runs a fixed tick with few and with many ticks under valgrind; the difference, divided by turns, is what a turn
//! takes. It fails if one takes more than `bench/instructions.toml` says, by its tolerance; `count --write` writes what is now. The
//! counts are this compiler's and this processor's: a new one of either is a reason to write them anew.

use crate::bare::{self, Mode};
use crate::guests::MOVER;
use crate::product::Maker;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPTS: u64 = 100;
const FEW: u64 = 100;
const MANY: u64 = 300;
/// What is counted.
const LOOPS: [&str; 4] = ["aether", "aether-fibres", "bare", "bare-fibres"];

#[derive(Serialize, Deserialize)]
struct Committed {
    /// A turn may take this much more, percent.
    tolerance_percent: f64,
    /// Instructions of a turn.
    turn: BTreeMap<String, f64>,
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml")
}

/// Nothing but ticks: what callgrind looks at.
pub(crate) fn ticks(what: &str, ticks: u64, scripts: usize) {
    let fibres = what.ends_with("-fibres");
    if what.starts_with("bare") {
        let mode = if fibres { Mode::Fibres } else { Mode::Metered };
        let mut world = bare::World::new(bare::Starter::new(MOVER, mode, scripts + 10), scripts);
        (0..ticks).for_each(|_| world.tick());
        return;
    }
    let maker = Maker::repeatable(scripts + 10);
    let mut world = maker.world(scripts, &maker.program("mover", fibres, MOVER));
    // Valgrind has no CPU clock of a thread, and a clock that goes by looks makes every run the same.
    let mut looks = 0;
    let mut clock = || {
        looks += 1;
        looks * 1_000
    };
    for tick in 1..=ticks {
        let close = world.tick(tick * 50_000_000, 0.05, &mut clock).close;
        assert_eq!((close.ran as usize, close.deferred), (scripts, 0), "tick {tick}");
    }
}

/// Count, and compare with what is committed or write that anew.
pub(crate) fn count(write: bool) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut turn = BTreeMap::new();
    for what in LOOPS {
        // Its module is compiled and kept: not to be counted.
        let warm = Command::new(std::env::current_exe()?).args(["ticks", what, "1", &SCRIPTS.to_string()]).status()?;
        if !warm.success() {
            return Err(format!("{what}: ticks could not be run").into());
        }
        let [few, many] = [FEW, MANY].map(|ticks| total(folder.path(), what, ticks));
        let each = (many? - few?) as f64 / ((MANY - FEW) * SCRIPTS) as f64;
        turn.insert(what.to_owned(), (each * 10.0).round() / 10.0);
    }
    if write {
        let text = toml::to_string(&Committed { tolerance_percent: 2.0, turn: turn.clone() })?;
        let head = "# Instructions of a turn (`aether-bench count --write`); `just bench-check` compares.\n";
        std::fs::write(file(), head.to_owned() + &text)?;
    }
    let committed: Committed = toml::from_str(&std::fs::read_to_string(file())?)?;
    let mut grown = Vec::new();
    for (what, now) in &turn {
        let before = *committed.turn.get(what).ok_or_else(|| format!("{} lacks {what}", file().display()))?;
        let verdict = verdict(before, *now, committed.tolerance_percent);
        println!(
            "{what}: {now} instructions a turn, {before} committed{}",
            verdict.map_or("", |grew| if grew { ": more" } else { ": fewer" })
        );
        // The bare loop is wasmtime's: it says whether the compiler or the product changed.
        if verdict == Some(true) {
            grown.push(what.as_str());
        }
    }
    if grown.is_empty() {
        return Ok(());
    }
    Err(format!("turns take more instructions than {} says: {}", file().display(), grown.join(", ")).into())
}

/// `Some`: it changed by more than the tolerance, and whether it grew.
fn verdict(before: f64, now: f64, tolerance_percent: f64) -> Option<bool> {
    let change = (now / before - 1.0) * 100.0;
    (change.abs() > tolerance_percent).then_some(change > 0.0)
}

fn total(folder: &Path, what: &str, ticks: u64) -> Result<u64, Box<dyn Error>> {
    let out = folder.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(std::env::current_exe()?).args(["ticks", what, &ticks.to_string(), &SCRIPTS.to_string()]);
    let output = valgrind.output().map_err(|error| format!("valgrind could not be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("valgrind: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = std::fs::read_to_string(&out)?;
    summary(&text).ok_or_else(|| "callgrind wrote no totals".into())
}

fn summary(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_within_the_tolerance_is_none_and_growth_is_told_from_gain() {
        assert_eq!([1_010.0, 1_030.0, 960.0].map(|now| verdict(1_000.0, now, 2.0)), [None, Some(true), Some(false)]);
    }

    #[test]
    fn the_totals_of_callgrind_are_read() {
        assert_eq!(summary("version: 1\nevents: Ir\nsummary: 1234\n\nfn=main\n1 2\ntotals: 1234\n"), Some(1234));
        assert_eq!(summary("version: 1\n"), None);
    }
}
