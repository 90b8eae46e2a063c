//! CPU time of the thread that ticks, without asking the kernel each time.
//!
//! The CPU clock of a thread is a system call, as dear as ten scripts' turns; the wall clock is not. A thread uses at most the time that
//! passes on the wall, so a short span of that is taken for CPU time, and only after a longer one, in which it may have had to wait for
//! a processor, is the kernel asked. What is given is never less than what was used, and at most [`TRUSTED_NS`] more: that much of a
//! tick's budget of milliseconds may be charged for another's work, whatever the machine does. Start with [`tick_cpu_ns`].

use aether_scripting::instance::thread_cpu_ns;
use std::cell::Cell;
use std::time::Instant;

/// A span of wall time that counts as CPU time. A hundredth of a tick's budget at most; a system call in so much is 2% of it.
const TRUSTED_NS: u64 = 50_000;

/// The last look at both clocks, and what was said since.
#[derive(Debug, Clone, Copy)]
struct Look {
    wall_ns: u64,
    cpu_ns: u64,
    said_ns: u64,
}

impl Look {
    /// CPU time at this time of the wall clock.
    #[inline]
    fn at(&mut self, wall_ns: u64, cpu_ns: impl FnOnce() -> u64) -> u64 {
        let passed = wall_ns.saturating_sub(self.wall_ns);
        let now_ns = if passed < TRUSTED_NS {
            self.cpu_ns + passed
        } else {
            (self.wall_ns, self.cpu_ns) = (wall_ns, cpu_ns());
            self.cpu_ns
        };
        // What was said too early is not taken back: time stands still until it is true.
        self.said_ns = self.said_ns.max(now_ns);
        self.said_ns
    }
}

thread_local! {
    static LOOK: Cell<Option<(Instant, Look)>> = const { Cell::new(None) };
}

/// CPU time of this thread, nanoseconds: the clock for [`World::tick`](crate::World::tick). What passed between two looks is off by
/// 50 µs at most, and hardly at all if the thread had its processor to itself.
#[inline]
pub fn tick_cpu_ns() -> u64 {
    let now = Instant::now();
    LOOK.with(|cell| match cell.get() {
        Some((begun, mut look)) => {
            let cpu_ns = look.at((now - begun).as_nanos() as u64, thread_cpu_ns);
            cell.set(Some((begun, look)));
            cpu_ns
        }
        None => {
            let cpu_ns = thread_cpu_ns();
            cell.set(Some((now, Look { wall_ns: 0, cpu_ns, said_ns: cpu_ns })));
            cpu_ns
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_span_is_wall_time_and_a_long_one_what_the_kernel_says() {
        let mut look = Look { wall_ns: 0, cpu_ns: 1_000, said_ns: 1_000 };
        assert_eq!(look.at(30_000, || panic!("not asked for a short span")), 31_000);
        // It waited for a processor nearly all the time: what was said before was too much, and is not taken back.
        assert_eq!(look.at(9_000_000, || 4_000), 31_000);
        assert_eq!(look.at(9_020_000, || panic!("not asked for a short span")), 31_000);
        assert_eq!(look.at(9_060_000, || 64_000), 64_000);
    }

    #[test]
    fn the_clock_of_a_busy_thread_goes_with_its_cpu_time() {
        let (begun, exact) = (tick_cpu_ns(), thread_cpu_ns());
        while thread_cpu_ns() - exact < 3_000_000 {}
        let (passed, really) = (tick_cpu_ns() - begun, thread_cpu_ns() - exact);
        assert!(passed.abs_diff(really) < 2 * TRUSTED_NS, "{passed} ns, really {really}");
    }

    proptest! {
        #[test]
        fn it_is_never_behind_never_far_ahead_and_never_goes_back(
            // Spans of a thread's life: how much it ran, how much it waited.
            spans in proptest::collection::vec((0u64..200_000, prop_oneof![Just(0u64), 0u64..100_000, 0u64..5_000_000]), 1..200),
        ) {
            let mut look = Look { wall_ns: 0, cpu_ns: 0, said_ns: 0 };
            let (mut wall, mut cpu, mut last) = (0, 0, 0);
            for (ran, waited) in spans {
                (wall, cpu) = (wall + ran + waited, cpu + ran);
                let said = look.at(wall, || cpu);
                prop_assert!(said >= cpu && said <= cpu + TRUSTED_NS && said >= last, "{said} of {cpu} after {last}");
                last = said;
            }
        }
    }
}
