//! What follows an end: how a script or a world ended, and whether, when and how often it is started again.
//!
//! [`End`] is a value, whatever happened. [`Restarts`] counts and decides: a child that keeps failing is parked after its
//! intensity, one at a time or all together as [`Strategy`] says. The rules are those of Erlang/OTP's supervisors, with a backoff.
//! Not here: starting anything (`world`, and the actors of `aether-cluster`).

use aether_scripting::manifest::Restart;
use aether_scripting::{Budget, MeteringOutcome, TrapKind};
use serde::{Deserialize, Serialize};

/// How a script or a world ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "end", content = "cause")]
pub enum End {
    /// It said that it is done.
    #[error("finished")]
    Finished,
    /// Its code trapped.
    #[error("trapped: {0}")]
    Trapped(TrapKind),
    /// A call used up its fuel, of a script that does not pause.
    #[error("stopped: out of fuel")]
    OutOfFuel,
    /// A call used up its fuel while as many scripts of the world were paused as may be.
    #[error("stopped: out of fuel while too many scripts of this world are paused")]
    TooManyPaused,
    /// A call took more CPU time than it may.
    #[error("stopped: out of CPU time")]
    Overtime,
    /// There was no memory for it.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// `save_state` did not end well.
    #[error("save_state trapped, or took more than {fuel} fuel")]
    NotSaved {
        /// What it may take.
        fuel: u64,
    },
    /// It could not be built or read.
    #[error("{0}")]
    NotStarted(String),
    /// Code of the host panicked.
    #[error("panic: {0}")]
    Panicked(String),
    /// Another owner has the world, or the store refused its writes.
    #[error("{0}")]
    Fenced(String),
    /// A child kept failing, and the rule says that its parent goes with it.
    #[error("{child} kept failing: {cause}")]
    Escalated {
        /// Which.
        child: String,
        /// How it ended the last time.
        cause: String,
    },
    /// It ended because a sibling did, under [`Strategy::All`].
    #[error("ended with {0}")]
    WithSibling(String),
    /// Somebody stopped its actor.
    #[error("its actor was killed")]
    Killed,
}

impl End {
    /// The end of a call that is over; `None`: the script goes on.
    pub fn of(outcome: MeteringOutcome) -> Option<End> {
        match outcome {
            MeteringOutcome::Completed | MeteringOutcome::BudgetExceeded { paused: true, .. } => None,
            MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, .. } => Some(End::OutOfFuel),
            MeteringOutcome::BudgetExceeded { budget: Budget::CpuTime, .. } => Some(End::Overtime),
            MeteringOutcome::Trapped(TrapKind::Exit) => Some(End::Finished),
            MeteringOutcome::Trapped(kind) => Some(End::Trapped(kind)),
        }
    }

    /// Whether a message that was being handled may be what ended it.
    pub fn blames_message(&self) -> bool {
        matches!(self, End::Trapped(_) | End::OutOfFuel | End::Overtime | End::OutOfMemory(_))
    }
}

/// Who is started again when one script of a world ends badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// It alone.
    #[default]
    One,
    /// All of its world's, from their last saved states.
    All,
}

/// How often and how fast something is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartRule {
    /// Restarts within the period; past it, it is parked.
    pub intensity: u32,
    /// The period, nanoseconds.
    pub period_ns: u64,
    /// The first restart in a period is at once, the second after this, each further one after twice as long, and as much again at
    /// random, so that many do not come back as one.
    pub backoff_ns: u64,
    /// No wait is longer, but for its random part.
    pub backoff_max_ns: u64,
}

impl Default for RestartRule {
    fn default() -> RestartRule {
        RestartRule { intensity: 5, period_ns: 60_000_000_000, backoff_ns: 100_000_000, backoff_max_ns: 30_000_000_000 }
    }
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it again after this long.
    Restart {
        /// Nanoseconds.
        after_ns: u64,
    },
    /// It kept failing: leave it until an operator resumes it or a new version comes.
    Park,
    /// It is not to be started again: it finished, or is temporary.
    Leave,
}

/// The restarts of one child.
#[derive(Debug, Clone, Default)]
pub struct Restarts {
    /// Times of those within the period; never more than the intensity.
    recent: Vec<u64>,
    total: u32,
}

impl Restarts {
    /// The child ended at `now_ns`. `seed` spreads the waits of many children.
    pub fn ended(&mut self, rule: &RestartRule, restart: Restart, end: &End, now_ns: u64, seed: u64) -> Decision {
        let again = match restart {
            Restart::Permanent => true,
            Restart::Transient => *end != End::Finished,
            Restart::Temporary => false,
        };
        if !again {
            return Decision::Leave;
        }
        self.recent.retain(|at| now_ns.saturating_sub(*at) < rule.period_ns);
        if self.recent.len() >= rule.intensity as usize {
            return Decision::Park;
        }
        let before = self.recent.len() as u32;
        self.recent.push(now_ns);
        self.total += 1;
        if before == 0 {
            return Decision::Restart { after_ns: 0 };
        }
        let wait = rule.backoff_ns.saturating_mul(1 << (before - 1).min(20)).min(rule.backoff_max_ns);
        // 20 bits of a multiplicative hash (Knuth): even spread, no state, the same in every run.
        let spread = (seed ^ u64::from(self.total)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        Decision::Restart { after_ns: wait + ((u128::from(wait) * u128::from(spread)) >> 20) as u64 }
    }

    /// An operator or a new version gives it another chance.
    pub fn forgive(&mut self) {
        self.recent.clear();
    }

    /// Restarts since the beginning.
    pub fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRAP: End = End::Trapped(TrapKind::Unreachable);

    #[test]
    fn who_finishes_comes_back_only_if_it_is_permanent_and_who_is_temporary_never() {
        let decide = |restart, end: &End| Restarts::default().ended(&RestartRule::default(), restart, end, 0, 1);
        assert_eq!(decide(Restart::Permanent, &End::Finished), Decision::Restart { after_ns: 0 });
        assert_eq!(decide(Restart::Transient, &End::Finished), Decision::Leave);
        assert_eq!(decide(Restart::Transient, &TRAP), Decision::Restart { after_ns: 0 });
        assert_eq!(decide(Restart::Temporary, &TRAP), Decision::Leave);
    }

    #[test]
    fn one_that_keeps_failing_is_parked_until_it_is_forgiven() {
        let (rule, mut restarts) = (RestartRule::default(), Restarts::default());
        let end = |restarts: &mut Restarts| restarts.ended(&rule, Restart::Permanent, &TRAP, 1, 7);
        let decisions: Vec<_> = (0..6).map(|_| end(&mut restarts)).collect();
        assert_eq!(decisions.iter().filter(|d| **d == Decision::Park).count(), 1);
        assert_eq!(decisions[5], Decision::Park);
        restarts.forgive();
        assert_eq!((end(&mut restarts), restarts.total()), (Decision::Restart { after_ns: 0 }, 6));
    }

    proptest! {
        #[test]
        fn never_more_restarts_in_a_period_than_the_intensity_and_waits_grow_within_bounds(
            gaps in proptest::collection::vec(0u64..30_000_000_000, 1..80),
            intensity in 0u32..8,
            seed: u64,
        ) {
            let rule = RestartRule { intensity, ..RestartRule::default() };
            let (mut restarts, mut now, mut times) = (Restarts::default(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                match restarts.ended(&rule, Restart::Permanent, &TRAP, now, seed) {
                    Decision::Restart { after_ns } => {
                        times.push(now);
                        prop_assert!(after_ns <= 2 * rule.backoff_max_ns);
                    }
                    Decision::Park => {}
                    Decision::Leave => prop_assert!(false, "a permanent child is never left"),
                }
                let recent = times.iter().filter(|at| now - **at < rule.period_ns).count();
                prop_assert!(recent <= intensity as usize);
            }
        }
    }
}
