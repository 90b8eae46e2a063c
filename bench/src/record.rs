//! One figure of one row, as a line of JSON: what every program of the comparison prints and the report reads.

use serde::{Deserialize, Serialize};

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Which time over all cells; 0: not known to who measured it.
    #[serde(default)]
    pub(crate) round: u32,
    /// The workload.
    pub(crate) w: String,
    /// Who did it.
    pub(crate) who: String,
    /// How many: scripts, worlds or calls in flight.
    pub(crate) n: u64,
    /// Which figure, its unit last.
    pub(crate) metric: String,
    /// Its value.
    pub(crate) value: f64,
}

/// Say a figure.
pub(crate) fn say(w: &str, who: &str, n: usize, metric: &str, value: f64) {
    let record = Record { round: 0, w: w.into(), who: who.into(), n: n as u64, metric: metric.into(), value };
    println!("{}", serde_json::to_string(&record).expect("a record is plain data"));
}

/// The figures among what a program printed.
pub(crate) fn read(text: &str) -> impl Iterator<Item = Record> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_peer_is_a_record_and_other_lines_are_not() {
        let text = "warming up\n{\"w\":\"W1\",\"who\":\"luau\",\"n\":100,\"metric\":\"tick_ns\",\"value\":152.5}\n";
        let records: Vec<_> = read(text).collect();
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].who.as_str(), records[0].n, records[0].value), ("luau", 100, 152.5));
    }
}
