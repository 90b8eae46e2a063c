//! What a world and its scripts may use, and how much of it they do: plain values, for the admin API.
//!
//! Made of the cluster file, the manifests of the active versions and the last status. Not here: who enforces them (`aether_scripting`,
//! `aether_world_runtime`, `aether_engine`).

use crate::config::WorldLimits;
use crate::status::WorldStatus;
use aether_scripting::manifest::Limits;
use aether_scripting::{ActionRates, RateLimitedAction};
use aether_types::ScriptId;
use aether_world_runtime::ScriptStatus;
use serde::Serialize;

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// Its field in the cluster file or the manifest.
    pub name: &'static str,
    /// `microseconds`, `bytes`, `fuel` or `count`.
    pub unit: &'static str,
    /// How much of it is used.
    pub used: f64,
    /// How much there may be.
    pub max: f64,
}

/// How often something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// What.
    pub action: &'static str,
    /// Times, or bytes, a second.
    pub per_second: f32,
    /// Times that it was refused since the world started, whether the script's own allowance was used up or the world's.
    pub refused: u64,
}

/// A script's limits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScriptLimits {
    /// Its name in the world.
    pub name: String,
    /// The script.
    pub script: ScriptId,
    /// 1 to 1000.
    pub priority: u32,
    /// Of a tick: fuel, averaged over the last second; and memory.
    pub limits: Vec<Limit>,
    /// Its own allowances.
    pub rates: Vec<Rate>,
}

/// A world's limits and those of its scripts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorldLimitsUse {
    /// The world.
    pub world: String,
    /// Its own.
    pub limits: Vec<Limit>,
    /// Allowances of all its scripts together, and what was refused them.
    pub rates: Vec<Rate>,
    /// How many scripts it has.
    pub scripts_total: usize,
    /// Those that were refused most first.
    pub scripts: Vec<ScriptLimits>,
}

fn rates(rates: &ActionRates, refused: [u64; 7]) -> Vec<Rate> {
    let kinds = RateLimitedAction::ALL.iter().zip(rates.as_array()).zip(refused);
    kinds.map(|((action, per_second), refused)| Rate { action: action.name(), per_second, refused }).collect()
}

fn refused(script: &ScriptStatus) -> u64 {
    script.refused.iter().map(|count| u64::from(*count)).sum()
}

/// `manifest`: the limits of a script's active version. `scripts`: so many of them at most.
pub(crate) fn of(
    status: &WorldStatus,
    limits: &WorldLimits,
    manifest: impl Fn(ScriptId) -> Option<Limits>,
    scripts: usize,
) -> WorldLimitsUse {
    let limit = |name, unit, used: f64, max: f64| Limit { name, unit, used, max };
    let mib = |mib: u64| (mib << 20) as f64;
    let own = vec![
        limit("tick_budget_ms", "microseconds", status.tick_p99_us, status.budget_us),
        limit("scripts_max", "count", status.scripts.len() as f64, limits.scripts_max as f64),
        limit("entities_max", "count", status.host.entities as f64, limits.entities_max as f64),
        limit("memory_mb", "bytes", status.memory_bytes as f64, mib(limits.memory_mb)),
        limit("storage_mb", "bytes", status.host.storage_bytes as f64, mib(limits.storage_mb as u64)),
        limit("paused_max", "count", status.paused as f64, limits.paused_max as f64),
    ];
    let mut all = [0; 7];
    for script in status.scripts.iter() {
        all.iter_mut().zip(script.refused).for_each(|(sum, count)| *sum += u64::from(count));
    }
    let mut order: Vec<_> = status.scripts.iter().collect();
    order.sort_by_key(|script| (std::cmp::Reverse(refused(script)), script.name.as_str()));
    let ticks = status.ticks.max(1) as f64;
    let of_script = |script: &&ScriptStatus| {
        let most = manifest(script.script).unwrap_or_default();
        ScriptLimits {
            name: script.name.clone(),
            script: script.script,
            priority: script.priority,
            limits: vec![
                limit("fuel", "fuel", script.fuel as f64 / ticks, most.fuel as f64),
                limit("memory_mb", "bytes", script.memory_bytes as f64, mib(most.memory_mb)),
            ],
            rates: rates(&most.rates, script.refused.map(u64::from)),
        }
    };
    WorldLimitsUse {
        world: status.name.clone(),
        limits: own,
        rates: rates(&ActionRates::world(), all),
        scripts_total: order.len(),
        scripts: order.iter().take(scripts).map(of_script).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_types::Version;
    use aether_world_runtime::ScriptState;
    use std::sync::Arc;

    #[test]
    fn who_was_refused_most_comes_first_and_the_world_has_the_sum() {
        let script = |n: u32| ScriptStatus {
            name: format!("s-{n}"),
            script: ScriptId::new("s").unwrap(),
            version: Version(1),
            state: ScriptState::Running,
            priority: 1,
            fuel: 200,
            turns: 20,
            pauses: 0,
            deferred_ticks: 0,
            deferrals: 0,
            cost_ns: 1.0,
            host_calls: [0; 7],
            refused: [0, n, 0, 0, 0, 0, 1],
            memory_bytes: 10,
            restarts: 0,
        };
        let scripts = Arc::new((0..5).map(script).collect::<Vec<_>>());
        let status = WorldStatus { name: "town".into(), ticks: 20, scripts, ..WorldStatus::default() };
        let told = of(&status, &WorldLimits::default(), |_| None, 2);
        let names: Vec<_> = told.scripts.iter().map(|script| script.name.as_str()).collect();
        assert_eq!((names, told.scripts_total), (vec!["s-4", "s-3"], 5));
        let hits: Vec<_> = told.rates.iter().filter(|rate| rate.refused > 0).map(|rate| (rate.action, rate.refused)).collect();
        assert_eq!(hits, [("rpc", 10), ("log", 5)]);
        assert_eq!((told.scripts[0].limits[0].used, told.limits[1].used), (10.0, 5.0));
    }
}
