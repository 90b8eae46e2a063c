//! How long this node may act: a deadline on a clock that goes on while the machine sleeps.
//!
//! The deadline is counted from before a renewal was asked for, less a margin, so that it is over here before it is over in the database.
//! Whoever is about to tick, or to let something out, looks at [`Lease::holds`] first. Not here: renewing (`keeper`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Nanoseconds since the machine started, those that it slept too (CLOCK_BOOTTIME: `Instant` stands still then).
pub(crate) fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// See the file.
#[derive(Debug)]
pub(crate) struct Lease {
    until_ns: AtomicU64,
}

impl Lease {
    /// Of a node that is alone.
    pub fn forever() -> Lease {
        Lease { until_ns: AtomicU64::new(u64::MAX) }
    }

    /// Of one that has none yet.
    pub fn none() -> Lease {
        Lease { until_ns: AtomicU64::new(0) }
    }

    pub fn holds(&self) -> bool {
        let until_ns = self.until_ns.load(Ordering::Acquire);
        until_ns == u64::MAX || boottime_ns() < until_ns
    }

    /// A renewal that was asked for at `asked_ns` was granted.
    pub fn granted(&self, asked_ns: u64, lease: Duration) {
        self.until_ns.store(asked_ns + (lease - margin(lease)).as_nanos() as u64, Ordering::Release);
    }

    pub fn end(&self) {
        self.until_ns.store(0, Ordering::Release);
    }
}

/// Clocks of two machines differ by less than a hundredth in so short a time; the rest is for what is under way when it ends.
fn margin(lease: Duration) -> Duration {
    (lease / 8).max(Duration::from_millis(50))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_before_the_database_thinks_so() {
        let lease = Lease::none();
        assert!(!lease.holds() && Lease::forever().holds());
        lease.granted(boottime_ns(), Duration::from_secs(100));
        assert!(lease.holds());
        // Asked for so long ago that the database may still hold it, but not for sure.
        lease.granted(boottime_ns() - Duration::from_secs(90).as_nanos() as u64, Duration::from_secs(100));
        assert!(!lease.holds());
    }
}
