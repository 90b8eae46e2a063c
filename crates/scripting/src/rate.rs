//! How often a script, and all scripts of a world together, may act: token buckets on the world's clock.
//!
//! Start with [`ActionRates`] (what is allowed) and [`ActionLimiter`] (what is left). A bucket holds one second's worth, is
//! full at the start, and refills by the world's clock, so that a run repeats. Not here: fuel and memory (`policy`).

use serde::{Deserialize, Serialize};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitedAction {
    /// `entity.spawn`.
    Spawn,
    /// `network.rpc`, `reply`, `broadcast` and `send_player`.
    Rpc,
    /// `storage.set` and `delete`.
    StorageWrite,
    /// Bytes of keys and values written.
    StorageBytes,
    /// UI commands.
    Ui,
    /// Audio commands.
    Audio,
    /// Log lines.
    Log,
}

impl RateLimitedAction {
    /// All of them, in the order of their numbers.
    pub const ALL: [RateLimitedAction; 7] = [
        RateLimitedAction::Spawn,
        RateLimitedAction::Rpc,
        RateLimitedAction::StorageWrite,
        RateLimitedAction::StorageBytes,
        RateLimitedAction::Ui,
        RateLimitedAction::Audio,
        RateLimitedAction::Log,
    ];

    /// Its name in metrics, CLI and dashboard.
    pub fn name(self) -> &'static str {
        match self {
            RateLimitedAction::Spawn => "spawn",
            RateLimitedAction::Rpc => "rpc",
            RateLimitedAction::StorageWrite => "storage_write",
            RateLimitedAction::StorageBytes => "storage_bytes",
            RateLimitedAction::Ui => "ui",
            RateLimitedAction::Audio => "audio",
            RateLimitedAction::Log => "log",
        }
    }
}

/// Whose allowance was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimitScope {
    /// The script's own.
    Script,
    /// That of all scripts of the world.
    World,
}

/// An action was refused because its allowance is used up; it refills with the world's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} is rate limited for this {}: try again in a later tick", action.name(), match scope { RateLimitScope::Script => "script", RateLimitScope::World => "world" })]
pub struct ActionRateLimited {
    /// What was refused.
    pub action: RateLimitedAction,
    /// Whose allowance was used up.
    pub scope: RateLimitScope,
}

/// Actions a second; a burst may use one second's worth at once. The `[limits.rates]` table of a script's manifest and the
/// `[world.rates]` table of a cluster file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionRates {
    /// Entities spawned.
    pub spawns: f32,
    /// RPCs, replies, broadcasts and messages to players.
    pub rpcs: f32,
    /// Storage writes and deletes.
    pub storage_writes: f32,
    /// Bytes of keys and values written.
    pub storage_bytes: f32,
    /// UI commands.
    pub ui_commands: f32,
    /// Audio commands.
    pub audio_commands: f32,
    /// Log lines.
    pub log_lines: f32,
}

impl Default for ActionRates {
    /// What one script gets when its manifest says nothing.
    fn default() -> ActionRates {
        ActionRates {
            spawns: 20.0,
            rpcs: 50.0,
            storage_writes: 20.0,
            storage_bytes: 262_144.0,
            ui_commands: 50.0,
            audio_commands: 50.0,
            log_lines: 10.0,
        }
    }
}

impl ActionRates {
    /// What all scripts of a world get together when the cluster file says nothing.
    pub fn world() -> ActionRates {
        ActionRates {
            spawns: 1_000.0,
            rpcs: 20_000.0,
            storage_writes: 5_000.0,
            storage_bytes: 8_388_608.0,
            ui_commands: 10_000.0,
            audio_commands: 5_000.0,
            log_lines: 500.0,
        }
    }

    /// The fields in the order of [`RateLimitedAction::ALL`].
    pub fn as_array(&self) -> [f32; 7] {
        [self.spawns, self.rpcs, self.storage_writes, self.storage_bytes, self.ui_commands, self.audio_commands, self.log_lines]
    }

    /// The first field that is not a number from 0 to a billion.
    pub fn bad_field(&self) -> Option<&'static str> {
        let names = ["spawns", "rpcs", "storage_writes", "storage_bytes", "ui_commands", "audio_commands", "log_lines"];
        let good = |rate: f32| (0.0..=1e9).contains(&rate);
        self.as_array().into_iter().zip(names).find(|(rate, _)| !good(*rate)).map(|(_, name)| name)
    }
}

#[derive(Debug, Clone, Copy)]
struct TokenBucket {
    tokens: f32,
    refilled_ns: u64,
}

/// What is left of a script's or a world's allowances.
#[derive(Debug, Clone)]
pub struct ActionLimiter {
    rates: [f32; 7],
    buckets: [TokenBucket; 7],
    /// Actions refused, by kind, since they were last taken.
    refused: [u32; 7],
}

impl ActionLimiter {
    /// Full buckets.
    pub fn new(rates: &ActionRates) -> ActionLimiter {
        let rates = rates.as_array();
        let buckets = rates.map(|rate| TokenBucket { tokens: capacity(rate), refilled_ns: 0 });
        ActionLimiter { rates, buckets, refused: [0; 7] }
    }

    /// Empty buckets at this time.
    pub fn drained(rates: &ActionRates, now_ns: u64) -> ActionLimiter {
        let rates = rates.as_array();
        ActionLimiter { rates, buckets: [TokenBucket { tokens: 0.0, refilled_ns: now_ns }; 7], refused: [0; 7] }
    }

    /// What is left of an allowance at this time of the world's clock.
    pub fn left(&mut self, action: RateLimitedAction, now_ns: u64) -> f32 {
        let (rate, bucket) = (self.rates[action as usize], &mut self.buckets[action as usize]);
        // A clock that goes back (a restored checkpoint) refills nothing.
        let passed = now_ns.saturating_sub(bucket.refilled_ns);
        if passed > 0 {
            bucket.tokens = (bucket.tokens + rate * (passed as f64 * 1e-9) as f32).min(capacity(rate));
            bucket.refilled_ns = now_ns;
        }
        bucket.tokens
    }

    /// Actions of this script that were refused since this was last asked, whoever's allowance was used up; in the order of
    /// [`RateLimitedAction::ALL`].
    pub fn take_refused(&mut self) -> [u32; 7] {
        std::mem::take(&mut self.refused)
    }

    fn take(&mut self, action: RateLimitedAction, amount: f32) {
        self.buckets[action as usize].tokens -= amount;
    }
}

/// One second's worth, and at least one action: a rate of 0.5 means one every two seconds. A rate of 0 means never.
fn capacity(rate: f32) -> f32 {
    if rate > 0.0 { rate.max(1.0) } else { 0.0 }
}

/// Take `amount` from both allowances, or from neither.
pub fn take(
    script: &mut ActionLimiter,
    world: &mut ActionLimiter,
    action: RateLimitedAction,
    amount: f32,
    now_ns: u64,
) -> Result<(), ActionRateLimited> {
    let scope = if script.left(action, now_ns) < amount {
        Some(RateLimitScope::Script)
    } else if world.left(action, now_ns) < amount {
        Some(RateLimitScope::World)
    } else {
        None
    };
    if let Some(scope) = scope {
        let refused = &mut script.refused[action as usize];
        *refused = refused.saturating_add(1);
        return Err(ActionRateLimited { action, scope });
    }
    script.take(action, amount);
    world.take(action, amount);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_of_one_second_is_allowed_and_then_the_rate() {
        let rates = ActionRates { spawns: 10.0, ..Default::default() };
        let (mut script, mut world) = (ActionLimiter::new(&rates), ActionLimiter::new(&ActionRates::world()));
        let mut granted =
            |now| (0..100).filter(|_| take(&mut script, &mut world, RateLimitedAction::Spawn, 1.0, now).is_ok()).count();
        assert_eq!((granted(0), granted(0), granted(SECOND / 2), granted(10 * SECOND)), (10, 0, 5, 10));
    }

    #[test]
    fn a_refusal_by_the_world_costs_the_script_nothing() {
        let world_rates = ActionRates { rpcs: 1.0, ..ActionRates::world() };
        let (mut script, mut world) = (ActionLimiter::new(&ActionRates::default()), ActionLimiter::new(&world_rates));
        let mut rpc = || take(&mut script, &mut world, RateLimitedAction::Rpc, 1.0, 0);
        assert_eq!(rpc(), Ok(()));
        let refused = ActionRateLimited { action: RateLimitedAction::Rpc, scope: RateLimitScope::World };
        assert_eq!(rpc(), Err(refused));
        assert_eq!((script.take_refused(), script.take_refused()), ([0, 1, 0, 0, 0, 0, 0], [0; 7]));
        assert_eq!(script.left(RateLimitedAction::Rpc, 0), 49.0);
    }

    #[test]
    fn a_rate_of_zero_means_never_and_a_slow_rate_means_seldom() {
        let rates = ActionRates { spawns: 0.0, rpcs: 0.5, ..Default::default() };
        let (mut script, mut world) = (ActionLimiter::new(&rates), ActionLimiter::new(&ActionRates::world()));
        assert!(take(&mut script, &mut world, RateLimitedAction::Spawn, 1.0, 100 * SECOND).is_err());
        let mut rpc = |now| take(&mut script, &mut world, RateLimitedAction::Rpc, 1.0, now).is_ok();
        assert_eq!([rpc(0), rpc(SECOND), rpc(2 * SECOND)], [true, false, true]);
    }
}
