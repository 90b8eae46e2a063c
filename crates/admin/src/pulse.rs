//! Whether worlds tick: what `/readyz` answers.
//!
//! A port that is open says nothing. [`Pulse`] remembers when each world's tick number last rose; a world that should tick and has not
//! for a few of its own periods is a reason not to be ready. Time is an argument. Not here: looking every now and then (`hub`).

use crate::shapes::NotReady;
use aether_cluster::{WorldState, WorldStatus};
use std::collections::HashMap;
use std::time::Duration;

/// A world says where it is about once a second, or once a tick if that is longer.
const SAID: Duration = Duration::from_secs(1);
/// A machine that does much else makes a world late, and is ready all the same.
const QUIET_MIN: Duration = Duration::from_secs(4);
/// So many of its own periods.
const PERIODS: f64 = 3.0;
/// Of a world that has not said how often it ticks: the slowest that may be configured takes ten seconds for one.
const HZ_MIN: f64 = 0.1;

struct Beat {
    tick: u64,
    /// When the tick number was seen to rise.
    at: Duration,
}

/// How long a world may be quiet that ticks so often.
fn quiet_max(tick_hz: f64) -> Duration {
    (SAID + Duration::from_secs_f64(PERIODS / tick_hz.max(HZ_MIN))).max(QUIET_MIN)
}

/// A world that begins says how often it ticks with its first tick.
fn hz(world: &WorldStatus) -> f64 {
    if world.tick_hz > 0.0 { world.tick_hz } else { HZ_MIN }
}

/// When each world's tick number last rose.
#[derive(Default)]
pub(crate) struct Pulse(HashMap<String, Beat>);

impl Pulse {
    /// Look at all worlds. `now`: since any fixed moment.
    pub fn look(&mut self, now: Duration, worlds: &[WorldStatus]) {
        for world in worlds {
            match self.0.get_mut(&world.name) {
                None => {
                    self.0.insert(world.name.clone(), Beat { tick: world.tick, at: now });
                }
                // Lower after a restore: it ticks all the same.
                Some(beat) if beat.tick != world.tick || !should_tick(&world.state) => *beat = Beat { tick: world.tick, at: now },
                Some(_) => {}
            }
        }
        if self.0.len() > worlds.len() {
            let here: std::collections::HashSet<_> = worlds.iter().map(|world| world.name.as_str()).collect();
            self.0.retain(|name, _| here.contains(name.as_str()));
        }
    }

    /// Why the node is not ready: each world that should tick and does not. The cause of its end is not told to strangers.
    pub fn reasons(&self, now: Duration, worlds: &[WorldStatus]) -> Vec<NotReady> {
        let reason = |world: &WorldStatus| {
            let reason = match &world.state {
                WorldState::Asleep | WorldState::Stopped => return None,
                WorldState::Starting => "it is being started".to_owned(),
                WorldState::Restarting { .. } => "it ended and is started again".to_owned(),
                WorldState::Parked { .. } => "it is parked: it kept failing".to_owned(),
                WorldState::Ticking | WorldState::Held => {
                    let beat = self.0.get(&world.name)?;
                    let quiet = now.saturating_sub(beat.at);
                    if quiet <= quiet_max(hz(world)) {
                        return None;
                    }
                    let held = if world.state == WorldState::Held { ": its output waits for the disk" } else { "" };
                    format!("it has not ticked for {:.0} s{held}", quiet.as_secs_f64())
                }
            };
            Some(NotReady { world: world.name.clone(), reason })
        };
        worlds.iter().filter_map(reason).collect()
    }
}

fn should_tick(state: &WorldState) -> bool {
    matches!(state, WorldState::Ticking | WorldState::Held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(state: WorldState, tick: u64) -> Vec<WorldStatus> {
        vec![WorldStatus { name: "town".into(), state, tick, tick_hz: 20.0, ..WorldStatus::default() }]
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_world_that_stops_ticking_is_a_reason_and_one_that_goes_on_is_none() {
        let mut pulse = Pulse::default();
        for second in 0..10 {
            pulse.look(S(second), &world(WorldState::Ticking, second * 20));
        }
        let stuck = world(WorldState::Ticking, 180);
        assert_eq!(pulse.reasons(S(12), &stuck), []);
        pulse.look(S(15), &stuck);
        assert_eq!(pulse.reasons(S(15), &stuck)[0].reason, "it has not ticked for 6 s");
        let on = world(WorldState::Ticking, 181);
        pulse.look(S(16), &on);
        assert_eq!(pulse.reasons(S(16), &on), []);
        // The stall was no habit.
        assert_eq!(pulse.reasons(S(21), &on).len(), 1);
    }

    #[test]
    fn a_slow_world_has_its_own_measure() {
        let mut pulse = Pulse::default();
        let slow = |tick| vec![WorldStatus { tick_hz: 0.1, ..world(WorldState::Ticking, tick).remove(0) }];
        pulse.look(S(0), &slow(1));
        pulse.look(S(10), &slow(2));
        assert_eq!(pulse.reasons(S(40), &slow(2)), []);
        assert_eq!(pulse.reasons(S(42), &slow(2)).len(), 1);
        // One that has not said how often it ticks may be as slow as that.
        let begun = vec![WorldStatus { tick_hz: 0.0, ..slow(2).remove(0) }];
        assert_eq!(pulse.reasons(S(40), &begun), []);
    }

    #[test]
    fn who_is_parked_or_starts_is_a_reason_and_who_sleeps_is_none() {
        let pulse = Pulse::default();
        let cause = "trapped".to_owned();
        for state in [WorldState::Starting, WorldState::Parked { cause: cause.clone() }, WorldState::Restarting { cause }] {
            let reasons = pulse.reasons(S(0), &world(state, 1));
            assert!(reasons.len() == 1 && !reasons[0].reason.contains("trapped"), "{reasons:?}");
        }
        for state in [WorldState::Asleep, WorldState::Stopped] {
            assert_eq!(pulse.reasons(S(1_000), &world(state, 1)), []);
        }
    }

    #[test]
    fn a_world_that_sleeps_is_not_late_when_it_wakes() {
        let mut pulse = Pulse::default();
        pulse.look(S(0), &world(WorldState::Ticking, 5));
        pulse.look(S(1), &world(WorldState::Asleep, 5));
        pulse.look(S(99), &world(WorldState::Asleep, 5));
        let awake = world(WorldState::Ticking, 5);
        pulse.look(S(100), &awake);
        assert_eq!(pulse.reasons(S(102), &awake), []);
        // It is when it then does not tick.
        assert_eq!(pulse.reasons(S(110), &awake).len(), 1);
    }
}
