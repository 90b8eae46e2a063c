//! Two reports beside each other: what changed, and whether that is more than noise (`stats` says how it is judged).
//!
//! Start with [`compare`]. Not here: what is in a report.

use super::report::{Better, METRICS, Report};
use super::stats::{self, Difference};
use super::text::number;
use aether_types::counted;
use serde::Serialize;

/// How one number changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub key: &'static str,
    pub label: &'static str,
    pub unit: &'static str,
    #[serde(flatten)]
    pub difference: Difference,
    pub percent: f64,
    pub outcome: Outcome,
}

/// What a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Not a digit differs.
    Same,
    /// It may be by chance.
    Noise,
    /// The runs are too short, or vary too much for their length, to say.
    #[serde(rename = "too short to tell")]
    TooShort,
    Better,
    Worse,
    /// It changed, and neither is better.
    Other,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// What keeps the two from being comparable.
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
}

/// See the file.
pub(crate) fn compare(before: &Report, after: &Report) -> Comparison {
    let mut notes = Vec::new();
    let mut differs = |what: &str, one: &str, two: &str| {
        if one != two {
            notes.push(format!("the {what} differs: {one}, then {two}"));
        }
    };
    differs("scenario", &before.scenario.name, &after.scenario.name);
    differs("build", &before.environment.build, &after.environment.build);
    differs("processor", &before.environment.processor, &after.environment.processor);
    differs("number of cores", &before.environment.cores.to_string(), &after.environment.cores.to_string());
    differs("driver", &before.driver, &after.driver);
    differs("seed", &before.scenario.seed.to_string(), &after.scenario.seed.to_string());
    let worlds = |report: &Report| {
        let started = &report.started;
        format!("{}, {}", counted(started.worlds as usize, "world"), counted(started.scripts as usize, "script"))
    };
    differs("size", &worlds(before), &worlds(after));
    let row = |metric: &super::report::Metric| {
        let values = |report: &Report| report.series(metric).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        let (one, other) = (values(before), values(after));
        let difference = stats::difference(&one, &other)?;
        // What is nothing in both says nothing.
        if difference.before == 0.0 && difference.after == 0.0 && difference.low == 0.0 && difference.high == 0.0 {
            return None;
        }
        let outcome = match metric.better {
            _ if difference.change() == 0.0 => Outcome::Same,
            _ if !stats::is_told(&one, &other) => Outcome::TooShort,
            _ if difference.is_noise() => Outcome::Noise,
            // As far as one of them went by itself.
            _ if difference.change().abs() <= stats::drift(&one).max(stats::drift(&other)) => Outcome::Noise,
            Better::Neither => Outcome::Other,
            Better::Less if difference.change() < 0.0 => Outcome::Better,
            Better::More if difference.change() > 0.0 => Outcome::Better,
            _ => Outcome::Worse,
        };
        let percent = difference.percent();
        Some(Row { key: metric.key, label: metric.label, unit: metric.unit, difference, percent, outcome })
    };
    Comparison { notes, rows: METRICS.iter().filter_map(row).collect() }
}

impl Comparison {
    /// Numbers that are worse by more than so many percent, and not by chance.
    pub fn worse_than(&self, percent: f64) -> Vec<&Row> {
        let worse = |row: &&Row| row.outcome == Outcome::Worse && row.percent.abs() > percent;
        self.rows.iter().filter(worse).collect()
    }

    /// As a table.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.notes.iter().map(|note| format!("note: {note}")).collect();
        lines.push(format!(
            "{:<28} {:>10} {:>10}      {:>9}   {:<24}",
            "median of a second", "before", "after", "change", "95% interval of it"
        ));
        for row in &self.rows {
            let Difference { before, after, low, high } = row.difference;
            let word = match row.outcome {
                Outcome::Same => "no difference",
                Outcome::Noise => "within noise",
                Outcome::TooShort => "too short to tell",
                Outcome::Better => "better",
                Outcome::Worse => "WORSE",
                Outcome::Other => "differs",
            };
            let [before, after, low, high] = [before, after, low, high].map(number);
            let change = if row.percent.abs() < 1e4 { format!("{:+.1}%", row.percent) } else { "from 0".to_owned() };
            lines.push(format!(
                "{:<28} {before:>10} {after:>10} {:<4} {change:>9}   {:<24} {word}",
                row.label,
                row.unit,
                format!("[{low}, {high}]")
            ));
        }
        let untold = self.rows.iter().filter(|row| row.outcome == Outcome::TooShort).count();
        if untold > 0 {
            let advice = format!("measure at least {} s in both", stats::ENOUGH);
            lines.push(format!("too short to tell of {}: {advice}", counted(untold, "number")));
        } else if self.rows.iter().all(|row| matches!(row.outcome, Outcome::Same | Outcome::Noise)) {
            lines.push("no difference beyond noise".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    fn wobble(second: u32) -> f64 {
        f64::from(second * 7_919 % 101) / 1_000.0
    }

    #[test]
    fn a_report_does_not_differ_from_itself() {
        let one = report(60, |second| 1.0 + wobble(second), |_| 100.0);
        let found = compare(&one, &one);
        assert!(found.rows.iter().all(|row| row.outcome == Outcome::Same) && found.notes.is_empty(), "{found:?}");
        assert!(found.lines().last().unwrap().contains("no difference"));
        assert!(found.worse_than(0.0).is_empty());
    }

    #[test]
    fn a_slower_tick_is_worse_and_the_same_from_another_second_on_is_noise() {
        let one = report(80, |second| 1.0 + wobble(second), |_| 100.0);
        let again = report(80, |second| 1.002 + wobble(second + 13), |_| 100.0);
        let slower = report(80, |second| 1.3 + wobble(second), |_| 90.0);
        let outcome = |found: &Comparison, key| found.rows.iter().find(|row| row.key == key).map(|row| row.outcome);
        assert_eq!(outcome(&compare(&one, &again), "tick_p99"), Some(Outcome::Noise));
        let found = compare(&one, &slower);
        assert_eq!((outcome(&found, "tick_p99"), outcome(&found, "memory")), (Some(Outcome::Worse), Some(Outcome::Better)));
        assert_eq!(found.worse_than(10.0).len(), 2, "{found:?}");
        assert!(found.worse_than(60.0).is_empty());
    }

    #[test]
    fn short_runs_that_vary_are_too_short_to_tell_and_fail_nothing() {
        let one = report(20, |second| 1.0 + 10.0 * wobble(second), |_| 100.0);
        let other = report(20, |second| 1.2 + 10.0 * wobble(second + 7), |_| 90.0);
        let found = compare(&one, &other);
        let outcome = |key| found.rows.iter().find(|row| row.key == key).map(|row| row.outcome);
        assert_eq!((outcome("tick_p99"), outcome("memory")), (Some(Outcome::TooShort), Some(Outcome::Better)), "{found:?}");
        assert!(found.worse_than(0.0).is_empty() && found.lines().last().unwrap().starts_with("too short to tell"), "{found:?}");
    }

    #[test]
    fn what_drifts_within_a_run_as_far_as_between_two_is_noise() {
        let one = report(182, |second| 1.0 + f64::from(second / 60) * 0.2, |_| 100.0);
        let other = report(182, |second| 1.15 + f64::from(second / 60) * 0.2, |_| 100.0);
        let found = compare(&one, &other);
        assert_eq!(found.rows.iter().find(|row| row.key == "tick_p99").map(|row| row.outcome), Some(Outcome::Noise), "{found:?}");
    }

    #[test]
    fn what_keeps_two_reports_from_being_comparable_is_named() {
        let one = report(10, |_| 1.0, |_| 1.0);
        let mut other = one.clone();
        other.scenario.name = "dense".into();
        other.environment.build = "other".into();
        let notes = compare(&one, &other).notes;
        assert_eq!(notes.len(), 2, "{notes:?}");
    }
}
