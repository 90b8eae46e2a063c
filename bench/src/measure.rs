//! Clocks, medians, and rows that are measured in turn.

use std::time::{Duration, Instant};

/// CPU time of this thread, nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// CPU time that `f` takes, microseconds.
pub(crate) fn cpu_us<R>(f: impl FnOnce() -> R) -> (f64, R) {
    let before = cpu_ns();
    let result = f();
    ((cpu_ns() - before) as f64 / 1e3, result)
}

/// Resident memory of this process, KiB.
pub(crate) fn resident_kib() -> f64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells a process its memory");
    let line = smaps.lines().find_map(|line| line.strip_prefix("Rss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).expect("smaps_rollup has a line `Rss: N kB`")
}

/// Nearest rank.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// Runs rows in turn, so often at least and for so long; gives the median of what each returns.
pub(crate) fn interleave(least: usize, time: Duration, rows: &mut [&mut dyn FnMut() -> f64]) -> Vec<f64> {
    let mut times = vec![Vec::new(); rows.len()];
    let begun = Instant::now();
    while times[0].len() < least || begun.elapsed() < time {
        for (row, times) in rows.iter_mut().zip(&mut times) {
            times.push(row());
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_of_the_nearest_rank() {
        let mut values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0.0, 0.5, 0.9, 1.0].map(|q| quantile(&mut values, q)), [1.0, 3.0, 5.0, 5.0]);
    }

    #[test]
    fn rows_are_measured_in_turn() {
        let order = std::cell::RefCell::new(String::new());
        let mut first = || (order.borrow_mut().push('a'), 1.0).1;
        let mut second = || (order.borrow_mut().push('b'), 2.0).1;
        assert_eq!(interleave(2, Duration::ZERO, &mut [&mut first, &mut second]), [1.0, 2.0]);
        assert_eq!(*order.borrow(), "abab");
    }
}
