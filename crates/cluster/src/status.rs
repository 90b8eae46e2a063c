//! What a node tells about itself: a plain value, published once a second.

use aether_scripting::HostStats;
use aether_types::{ScriptId, Version};
use aether_world_runtime::{ReloadPhase, ScriptStatus};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a world is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum WorldState {
    /// It is being built or read from the store.
    #[default]
    Starting,
    /// It ticks.
    Ticking,
    /// Its output waits for the disk.
    Held,
    /// Nobody needs it: it is saved and out of memory, the first message wakes it.
    Asleep,
    /// It ended and is started again.
    Restarting {
        /// How it ended.
        cause: String,
    },
    /// It kept failing: it is left until an operator resumes it.
    Parked {
        /// How it ended the last time.
        cause: String,
    },
    /// It was stopped and its state saved.
    Stopped,
}

/// Ticks of a second that are told one by one: more than the fastest world has.
pub(crate) const TICKS_MAX: usize = 256;

/// A world, over the last second.
#[derive(Debug, Clone, Serialize, Default)]
pub struct WorldStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    #[serde(flatten)]
    pub state: WorldState,
    /// Its last tick.
    pub tick: u64,
    /// Ticks in the last second.
    pub ticks: u64,
    /// Ticks a second that it should have; 0: it has not begun.
    pub tick_hz: f64,
    /// Ticks skipped since the node started.
    pub missed_ticks: u64,
    /// Ticks that took more CPU time than their budget, since it began.
    pub over_budget_ticks: u64,
    /// CPU time of a tick, microseconds.
    pub tick_p50_us: f64,
    /// CPU time of a tick, microseconds.
    pub tick_p99_us: f64,
    /// CPU time of a tick, microseconds.
    pub tick_max_us: f64,
    /// CPU time of each tick of the last second, nanoseconds, in order; 256 of them at most.
    pub ticks_ns: Arc<[u32]>,
    /// The longest time between the beginnings of two ticks that follow each other, microseconds.
    pub tick_gap_max_us: f64,
    /// The tick budget, microseconds.
    pub budget_us: f64,
    /// CPU time of the engine in a tick, microseconds, on average.
    pub engine_us: f64,
    /// Used / budget over ten seconds.
    pub utilisation: f32,
    /// Turns in the last second.
    pub turns: u64,
    /// Deferrals in the last second.
    pub deferred: u64,
    /// Scripts that are paused.
    pub paused: usize,
    /// Scripts that are suspended.
    pub suspended: usize,
    /// Scripts that are parked.
    pub parked: usize,
    /// Bytes of memory of its scripts.
    pub memory_bytes: u64,
    /// Commands to clients since the node started.
    pub commands: u64,
    /// Calls to other worlds since the node started.
    pub calls_out: u64,
    /// Calls to or from this world that reached nobody, since the node started.
    pub calls_refused: u64,
    /// Players' input refused since its inbox was full.
    pub input_refused: u64,
    /// Messages of other worlds, or news about some, refused since its inbox was full: they come again.
    pub parcels_refused: u64,
    /// Messages that ended their script twice and are not given to it again.
    pub set_aside: usize,
    /// A reload in progress, or the last one that was rolled back.
    pub reload: Option<(ScriptId, Version, ReloadPhase)>,
    /// The generation that runs it.
    pub generation: u64,
    /// Times it was started again.
    pub restarts: u32,
    /// The engine's counters.
    pub host: HostStats,
    /// The number of its last commit.
    pub commit_seq: u64,
    /// The longest that a commit of the last second took to be durable, microseconds.
    pub commit_max_us: f64,
    /// Checkpoints made since it began.
    pub checkpoints: u64,
    /// Checkpoints that could not be made, or could not be kept.
    pub checkpoints_failed: u64,
    /// Its scripts.
    pub scripts: Arc<Vec<ScriptStatus>>,
}

/// A node.
#[derive(Debug, Clone, Serialize, Default)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its worlds.
    pub worlds: Vec<WorldStatus>,
    /// What it has counted.
    pub counters: NodeCounters,
}

/// What a node has counted since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub struct NodeCounters {
    /// Reloads that it coordinated and whose version serves.
    pub reloads_served: u64,
    /// Reloads that it coordinated and that went back.
    pub reloads_rolled_back: u64,
    /// Times that it took a world.
    pub worlds_claimed: u64,
    /// Times that it gave a world to another node.
    pub worlds_released: u64,
    /// Times that a world was parked.
    pub worlds_parked: u64,
    /// Times that a script was parked.
    pub scripts_parked: u64,
    /// Flight records written.
    pub flight_records: u64,
}

/// The same while it is counted, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    pub reloads_served: AtomicU64,
    pub reloads_rolled_back: AtomicU64,
    pub worlds_claimed: AtomicU64,
    pub worlds_released: AtomicU64,
    pub worlds_parked: AtomicU64,
    pub scripts_parked: AtomicU64,
    pub flight_records: AtomicU64,
}

impl Counting {
    pub fn read(&self) -> NodeCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NodeCounters {
            reloads_served: read(&self.reloads_served),
            reloads_rolled_back: read(&self.reloads_rolled_back),
            worlds_claimed: read(&self.worlds_claimed),
            worlds_released: read(&self.worlds_released),
            worlds_parked: read(&self.worlds_parked),
            scripts_parked: read(&self.scripts_parked),
            flight_records: read(&self.flight_records),
        }
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
