//! When a world ticks next: absolute deadlines, so that it neither drifts nor runs missed ticks in a burst.

/// The pace of one world. Times are nanoseconds of the node's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pacer {
    period_ns: u64,
    next_ns: u64,
    missed: u64,
}

impl Pacer {
    pub fn new(hz: f64, first_ns: u64) -> Pacer {
        Pacer { period_ns: (1e9 / hz) as u64, next_ns: first_ns, missed: 0 }
    }

    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Seconds between two ticks.
    pub fn dt(&self) -> f32 {
        self.period_ns as f32 * 1e-9
    }

    /// Ticks a second.
    pub fn hz(&self) -> f64 {
        1e9 / self.period_ns as f64
    }

    /// Ticks skipped so far.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// It rested: its next tick is now, and none was missed.
    pub fn rested(&mut self, now_ns: u64) {
        self.next_ns = now_ns;
    }

    /// A tick has ended: the next deadline keeps the phase; those that have passed are skipped and counted.
    pub fn ticked(&mut self, now_ns: u64) {
        self.next_ns += self.period_ns;
        if now_ns > self.next_ns {
            let late = (now_ns - self.next_ns) / self.period_ns;
            // Just late is not missed: it runs at once.
            self.missed += late;
            self.next_ns += late * self.period_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_are_counted_and_the_phase_is_kept() {
        let mut pacer = Pacer::new(10.0, 0);
        pacer.ticked(20_000_000);
        assert_eq!((pacer.next_ns(), pacer.missed()), (100_000_000, 0));
        // A stall of 345 ms: ticks 200 and 300 are skipped, 400 runs at once.
        pacer.ticked(445_000_000);
        assert_eq!((pacer.next_ns(), pacer.missed()), (400_000_000, 2));
        pacer.ticked(446_000_000);
        assert_eq!((pacer.next_ns(), pacer.missed()), (500_000_000, 2));
    }
}
