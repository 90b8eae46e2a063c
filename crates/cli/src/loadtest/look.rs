//! What is seen of worlds and processes while a test runs: what a world says ([`WorldSample`]), an interval ([`Point`]), sums over all of
//! it ([`Totals`], [`Group`], [`Kind`]). Plain values; reports hold most of them.
//!
//! Not here: how they are added up (`sampler`), where samples come from (`driver`).

use super::stats::Distribution;
use aether_admin::shapes;
use aether_cluster::{WorldState, WorldStatus};
use aether_world_runtime::ScriptState;
use serde::{Deserialize, Serialize};

/// What a world says of its last second.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorldSample {
    pub name: String,
    pub ticking: bool,
    pub tick: u64,
    pub ticks_ns: Vec<u32>,
    pub gap_max_us: f64,
    pub missed: u64,
    pub turns: u64,
    pub deferred: u64,
    pub paused: usize,
    pub suspended: usize,
    pub parked: usize,
    pub memory_bytes: u64,
    pub calls_out: u64,
    pub calls_refused: u64,
    pub restarts: u32,
    pub scripts: Vec<ScriptSample>,
}

/// The same of a script.
#[derive(Debug, Clone)]
pub(crate) struct ScriptSample {
    pub script: String,
    pub memory_bytes: u64,
    pub cost_ns: f32,
    pub restarts: u32,
    pub parked: bool,
}

impl From<&WorldStatus> for WorldSample {
    fn from(world: &WorldStatus) -> WorldSample {
        let script = |script: &aether_world_runtime::ScriptStatus| ScriptSample {
            script: script.script.to_string(),
            memory_bytes: script.memory_bytes,
            cost_ns: script.cost_ns,
            restarts: script.restarts,
            parked: matches!(script.state, ScriptState::Parked { .. }),
        };
        WorldSample {
            name: world.name.clone(),
            ticking: world.state == WorldState::Ticking,
            tick: world.tick,
            ticks_ns: world.ticks_ns.to_vec(),
            gap_max_us: world.tick_gap_max_us,
            missed: world.missed_ticks,
            turns: world.turns,
            deferred: world.deferred,
            paused: world.paused,
            suspended: world.suspended,
            parked: world.parked,
            memory_bytes: world.memory_bytes,
            calls_out: world.calls_out,
            calls_refused: world.calls_refused,
            restarts: world.restarts,
            scripts: world.scripts.iter().map(script).collect(),
        }
    }
}

impl From<shapes::World> for WorldSample {
    fn from(world: shapes::World) -> WorldSample {
        let script = |script: shapes::Script| ScriptSample {
            script: script.script,
            memory_bytes: script.memory_bytes,
            cost_ns: script.cost_ns,
            restarts: script.restarts,
            parked: script.state.state == "parked",
        };
        WorldSample {
            name: world.name,
            ticking: world.state == shapes::StateOfWorld::Ticking,
            tick: world.tick,
            ticks_ns: world.ticks_ns,
            gap_max_us: world.tick_gap_max_us,
            missed: world.missed_ticks,
            turns: world.turns,
            deferred: world.deferred,
            paused: world.paused,
            suspended: world.suspended,
            parked: world.parked,
            memory_bytes: world.memory_bytes,
            calls_out: world.calls_out,
            calls_refused: world.calls_refused,
            restarts: world.restarts,
            scripts: world.scripts.into_iter().map(script).collect(),
        }
    }
}

/// What the test itself did in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub inputs: u64,
    pub inputs_refused: u64,
    pub calls: u64,
    pub traps: u64,
}

/// An interval. Counts are per second of it; those of worlds are what was published in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Its end, seconds from the start.
    pub at: f64,
    /// Before what counts.
    pub warmup: bool,
    pub ticks: f64,
    pub missed: f64,
    pub tick_p50_ms: f64,
    pub tick_p99_ms: f64,
    pub tick_max_ms: f64,
    /// The longest time between two ticks of a world, beyond what it should be.
    pub pause_max_ms: f64,
    pub turns: f64,
    pub deferrals: f64,
    pub paused: u64,
    pub suspended: u64,
    pub parked: u64,
    pub script_restarts: f64,
    pub world_restarts: f64,
    pub worlds_ticking: u64,
    pub inputs: f64,
    pub inputs_refused: f64,
    pub calls_asked: f64,
    pub calls_out: f64,
    pub calls_refused: f64,
    pub traps: f64,
    pub script_memory_mb: f64,
    /// Of one core.
    pub cpu_percent: Option<f64>,
    pub resident_mb: Option<f64>,
    pub threads: Option<u64>,
    pub files: Option<u64>,
    pub tasks: Option<u64>,
    pub disk_mb: Option<f64>,
}

/// Sums since the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Ticks whose CPU time was seen.
    pub ticks: u64,
    /// By how much worlds' tick numbers rose. More than `ticks`: some publications were not seen.
    pub ticks_by_number: u64,
    pub missed_ticks: u64,
    pub turns: u64,
    pub deferrals: u64,
    pub script_restarts: u64,
    pub world_restarts: u64,
    pub inputs: u64,
    pub inputs_refused: u64,
    pub calls_asked: u64,
    /// Calls and answers that left worlds, those of scripts of their own accord with them.
    pub calls_out: u64,
    pub calls_refused: u64,
    pub traps: u64,
}

impl Totals {
    pub(super) fn since(&self, before: &Totals) -> Totals {
        Totals {
            ticks: self.ticks - before.ticks,
            ticks_by_number: self.ticks_by_number - before.ticks_by_number,
            missed_ticks: self.missed_ticks - before.missed_ticks,
            turns: self.turns - before.turns,
            deferrals: self.deferrals - before.deferrals,
            script_restarts: self.script_restarts - before.script_restarts,
            world_restarts: self.world_restarts - before.world_restarts,
            inputs: self.inputs - before.inputs,
            inputs_refused: self.inputs_refused - before.inputs_refused,
            calls_asked: self.calls_asked - before.calls_asked,
            calls_out: self.calls_out - before.calls_out,
            calls_refused: self.calls_refused - before.calls_refused,
            traps: self.traps - before.traps,
        }
    }
}

/// Worlds of one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub name: String,
    pub worlds: u64,
    /// Ticks that were due in the measured time.
    pub ticks_due: f64,
    pub missed_ticks: u64,
    /// CPU time, milliseconds.
    pub tick_ms: Distribution,
    /// Memory of the scripts of a world, median and largest, KiB.
    pub world_memory_kib: (f64, f64),
}

/// Instances of one script at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub script: String,
    pub instances: u64,
    pub parked: u64,
    /// KiB: median, largest.
    pub memory_kib: (f64, f64),
    /// CPU time of a turn, smoothed by the node, microseconds: median over instances, 99th percentile.
    pub turn_us: (f64, f64),
    pub restarts: u64,
}
