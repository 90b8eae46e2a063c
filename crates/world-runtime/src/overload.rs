//! Protection of a world that is asked for more than its budget for seconds on end.
//!
//! [`OverloadTracker`] watches utilisation (used / budget) over a sliding window of ten seconds. Above one threshold the script with
//! the lowest priority is suspended, below a lower one the suspended script with the highest priority comes back. Nothing flaps:
//! after each step the tracker waits until it has seen a while of its effect, a script stays suspended for a minimum, and it comes
//! back only if its own load fits well under the upper threshold.
//! Not here: saving the script's state (the world does).

use crate::scheduler::ScriptKey;
use std::collections::VecDeque;

/// Settings of an [`OverloadTracker`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverloadConfig {
    /// The window, nanoseconds.
    pub window_ns: u64,
    /// Utilisation above which scripts are suspended.
    pub suspend_above: f32,
    /// Utilisation below which they come back.
    pub resume_below: f32,
    /// Between two steps.
    pub settle_ns: u64,
    /// How long a script stays suspended at least.
    pub stay_ns: u64,
}

impl Default for OverloadConfig {
    fn default() -> OverloadConfig {
        let second = 1_000_000_000;
        OverloadConfig { window_ns: 10 * second, suspend_above: 0.9, resume_below: 0.6, settle_ns: second, stay_ns: 5 * second }
    }
}

/// What is to be done with a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverloadAction {
    /// Save its state and take it out of the order.
    Suspend(ScriptKey),
    /// Put it back.
    Resume(ScriptKey),
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at_ns: u64,
    used_ns: u64,
    budget_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Suspended {
    key: ScriptKey,
    priority: u32,
    share: f32,
    since_ns: u64,
}

/// The window is cut into this many samples: its memory does not depend on the tick rate.
const SAMPLES: u64 = 100;

/// Decides who is suspended.
#[derive(Debug, Clone)]
pub struct OverloadTracker {
    config: OverloadConfig,
    samples: VecDeque<Sample>,
    /// Nanoseconds used and to be had, of all samples: a tick does not walk over them.
    sum: (u64, u64),
    suspended: Vec<Suspended>,
    /// Time of the last step; load before it says nothing about its effect.
    stepped_ns: Option<u64>,
    started_ns: Option<u64>,
}

impl OverloadTracker {
    /// Nothing seen yet.
    pub fn new(config: OverloadConfig) -> OverloadTracker {
        OverloadTracker {
            config,
            samples: VecDeque::new(),
            sum: (0, 0),
            suspended: Vec::new(),
            stepped_ns: None,
            started_ns: None,
        }
    }

    /// A tick used so much of so much.
    pub fn observe(&mut self, now_ns: u64, used_ns: u64, budget_ns: u64) {
        self.started_ns.get_or_insert(now_ns);
        let step = self.config.window_ns / SAMPLES;
        match self.samples.back_mut() {
            Some(sample) if now_ns.saturating_sub(sample.at_ns) < step => {
                sample.used_ns += used_ns;
                sample.budget_ns += budget_ns;
            }
            _ => self.samples.push_back(Sample { at_ns: now_ns, used_ns, budget_ns }),
        }
        let (mut used, mut budget) = (self.sum.0 + used_ns, self.sum.1 + budget_ns);
        let oldest = now_ns.saturating_sub(self.config.window_ns);
        while let Some(gone) = self.samples.pop_front_if(|sample| sample.at_ns < oldest) {
            (used, budget) = (used - gone.used_ns, budget - gone.budget_ns);
        }
        self.sum = (used, budget);
    }

    fn utilisation_since(&self, since_ns: u64) -> f32 {
        let recent = self.samples.iter().filter(|sample| sample.at_ns >= since_ns);
        share(recent.fold((0, 0), |(used, budget), sample| (used + sample.used_ns, budget + sample.budget_ns)))
    }

    /// Used / budget over the window.
    pub fn utilisation(&self) -> f32 {
        share(self.sum)
    }

    /// Who is suspended by this tracker.
    pub fn suspended(&self) -> impl Iterator<Item = ScriptKey> + '_ {
        self.suspended.iter().map(|suspended| suspended.key)
    }

    /// A script is gone, or an operator took it over.
    pub fn forget(&mut self, key: ScriptKey) {
        self.suspended.retain(|suspended| suspended.key != key);
    }

    /// At most one step. `running`: key, priority and share of the budget of each script that could be suspended.
    pub fn decide(&mut self, now_ns: u64, running: impl Iterator<Item = (ScriptKey, u32, f32)>) -> Option<OverloadAction> {
        let config = self.config;
        let seen_ns = now_ns - self.stepped_ns.or(self.started_ns).unwrap_or(now_ns).min(now_ns);
        if seen_ns < config.settle_ns {
            return None;
        }
        // A step must show in what came after it; the whole window must agree. It is cheaper to ask, and mostly says no.
        let whole = self.utilisation();
        debug_assert_eq!(whole, self.utilisation_since(0), "the sum is that of the samples");
        if whole <= config.suspend_above && (whole >= config.resume_below || self.suspended.is_empty()) {
            return None;
        }
        let recent = self.utilisation_since(self.stepped_ns.unwrap_or(0));
        if recent > config.suspend_above && whole > config.suspend_above {
            // Before the first step the whole window must have been seen: one busy second is no overload.
            if self.stepped_ns.is_none() && seen_ns < config.window_ns {
                return None;
            }
            // The lowest priority; among equals the one that costs most.
            let (key, priority, share) = running.min_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)).then(a.0.cmp(&b.0)))?;
            self.suspended.push(Suspended { key, priority, share, since_ns: now_ns });
            self.stepped_ns = Some(now_ns);
            return Some(OverloadAction::Suspend(key));
        }
        if recent < config.resume_below && whole < config.resume_below {
            // Halfway between the thresholds: what comes back must not stand at the upper one.
            let room = (config.suspend_above + config.resume_below) / 2.0;
            let fits = |s: &&Suspended| now_ns.saturating_sub(s.since_ns) >= config.stay_ns && recent + s.share <= room;
            let back = *self.suspended.iter().filter(fits).max_by_key(|s| (s.priority, std::cmp::Reverse(s.key)))?;
            self.forget(back.key);
            self.stepped_ns = Some(now_ns);
            return Some(OverloadAction::Resume(back.key));
        }
        None
    }
}

fn share((used, budget): (u64, u64)) -> f32 {
    if budget == 0 { 0.0 } else { used as f32 / budget as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const TICK: u64 = SECOND / 20;
    const BUDGET: u64 = 8_000_000;

    /// Scripts with loads (share of the budget) that run unless they are suspended; gives all actions with their times.
    fn simulate(loads: &[(u32, f32)], seconds: u64, noise: impl Fn(u64) -> f32) -> Vec<(u64, OverloadAction)> {
        let mut tracker = OverloadTracker::new(OverloadConfig::default());
        let mut actions = Vec::new();
        let mut suspended = vec![false; loads.len()];
        for tick in 0..seconds * SECOND / TICK {
            let now = tick * TICK;
            let load: f32 = loads.iter().zip(&suspended).filter(|(_, s)| !**s).map(|((_, load), _)| load).sum();
            let used = ((load + noise(tick)).clamp(0.0, 1.2) * BUDGET as f32) as u64;
            tracker.observe(now, used, BUDGET);
            let running: Vec<_> =
                (0..loads.len()).filter(|i| !suspended[*i]).map(|i| (ScriptKey(i as u32), loads[i].0, loads[i].1)).collect();
            if let Some(action) = tracker.decide(now, running.into_iter()) {
                match action {
                    OverloadAction::Suspend(key) => suspended[key.0 as usize] = true,
                    OverloadAction::Resume(key) => suspended[key.0 as usize] = false,
                }
                actions.push((now, action));
            }
        }
        actions
    }

    #[test]
    fn the_lowest_priorities_go_first_until_the_rest_fits() {
        let actions = simulate(&[(100, 0.5), (10, 0.4), (50, 0.45)], 60, |_| 0.0);
        let actions: Vec<_> = actions.into_iter().map(|(_, action)| action).collect();
        assert_eq!(actions, [OverloadAction::Suspend(ScriptKey(1)), OverloadAction::Suspend(ScriptKey(2))]);
    }

    #[test]
    fn one_busy_second_suspends_nobody() {
        let busy = |tick: u64| if (100..120).contains(&tick) { 1.0 } else { 0.0 };
        assert_eq!(simulate(&[(100, 0.3)], 60, busy), []);
    }

    #[test]
    fn scripts_come_back_highest_priority_first_when_there_is_room() {
        // A load from outside for 30 seconds, then none.
        let crowd = |tick: u64| if tick < 600 { 0.8 } else { 0.0 };
        let actions = simulate(&[(100, 0.1), (10, 0.1), (20, 0.1)], 120, crowd);
        let resumed: Vec<_> =
            actions.iter().filter_map(|(_, a)| if let OverloadAction::Resume(key) = a { Some(key.0) } else { None }).collect();
        let suspended: Vec<_> =
            actions.iter().filter_map(|(_, a)| if let OverloadAction::Suspend(key) = a { Some(key.0) } else { None }).collect();
        assert_eq!(suspended.first(), Some(&1));
        let mut back = suspended.clone();
        back.sort_by_key(|key| std::cmp::Reverse([100, 10, 20][*key as usize]));
        assert_eq!(resumed, back);
    }

    proptest! {
        #[test]
        fn nothing_flaps_under_a_load_that_stays_where_it_is(
            loads in proptest::collection::vec((1u32..=1_000, 0.01f32..0.6), 1..12),
            at_threshold in -0.05f32..0.05,
            seed in any::<u64>(),
        ) {
            // Put the sum of the loads at the upper threshold, give or take, with a little noise around it.
            let sum: f32 = loads.iter().map(|(_, load)| load).sum();
            let loads: Vec<_> = loads.iter().map(|(priority, load)| (*priority, load / sum * (0.9 + at_threshold))).collect();
            let noise = |tick: u64| ((tick.wrapping_mul(seed | 1) >> 40) % 100) as f32 / 100.0 * 0.04 - 0.02;
            let actions = simulate(&loads, 300, noise);
            for key in 0..loads.len() as u32 {
                let times = actions.iter().filter(|(_, action)| *action == OverloadAction::Suspend(ScriptKey(key))).count();
                prop_assert!(times <= 1, "script {} was suspended {} times: {:?}", key, times, actions);
            }
        }

        #[test]
        fn a_suspended_script_stays_for_the_minimum(
            loads in proptest::collection::vec((1u32..=1_000, 0.01f32..0.9), 1..10),
            period in 20u64..400,
        ) {
            let crowd = |tick: u64| if (tick / period).is_multiple_of(2) { 0.9 } else { -0.3 };
            let actions = simulate(&loads, 200, crowd);
            for (at, action) in &actions {
                if let OverloadAction::Resume(key) = action {
                    let since = actions.iter().filter(|(t, a)| t < at && *a == OverloadAction::Suspend(*key)).map(|(t, _)| *t).max();
                    prop_assert!(since.is_some_and(|since| at - since >= OverloadConfig::default().stay_ns));
                }
            }
        }
    }
}
