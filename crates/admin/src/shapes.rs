//! What answers look like: the schemas of the OpenAPI document, and types for clients.
//!
//! The first part are this crate's own answers. The second part mirrors what other crates serialise: they do not know of OpenAPI, and a
//! test here reads each of theirs into its mirror and back without loss. Not here: how answers are made (`api`, `hub`).

use crate::access::Role;
use aether_cluster::NodeEvent;
use aether_types::counted;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// The token's id; `socket` or `loopback` without one.
    pub id: String,
    /// The token's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// What to know about this access, for people.
    pub note: Option<String>,
    /// The node that answers.
    pub node: String,
    /// Its build.
    pub build: String,
}

/// A world that should tick and does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotReady {
    /// Its name.
    pub world: String,
    /// What it does instead.
    pub reason: String,
}

/// Whether every world that should tick does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// All do.
    pub ready: bool,
    /// Worlds of this node.
    pub worlds: usize,
    /// How many do not.
    pub not_ready: usize,
    /// The first of those.
    pub reasons: Vec<NotReady>,
}

/// The process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alive {
    /// Always true.
    pub alive: bool,
}

/// It is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// False if it was so already, and nothing had to be done. What could not be done is a problem.
    pub done: bool,
}

/// The nodes. One that is in no cluster lists itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Nodes {
    /// The cluster; none if this node is in none.
    pub cluster: Option<String>,
    /// The node that answers.
    pub node: String,
    /// All.
    pub nodes: Vec<NodeView>,
}

/// A node as its cluster sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its number in the cluster.
    pub id: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Its build.
    pub build: String,
    /// `up`, `draining` or `dead`.
    pub state: String,
    /// Milliseconds until its lease ends unless it is renewed.
    pub lease_left_ms: u64,
    /// Worlds that it has.
    pub worlds: usize,
    /// Load of those, cores.
    pub load: f64,
    /// What it can take, cores; 0: not known.
    pub capacity: f64,
    /// Whether the node that answers is connected to it.
    pub linked: bool,
}

/// A page of worlds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Worlds {
    /// Worlds in all.
    pub total: usize,
    /// Worlds that the filters let through.
    pub matched: usize,
    /// The `offset` of the next page; none: this is the last.
    pub next: Option<usize>,
    /// This page.
    pub worlds: Vec<WorldRow>,
}

/// A world in a list.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct WorldRow {
    /// Its name.
    pub name: String,
    /// The node that has it; none: nobody.
    pub node: Option<String>,
    /// What it is doing: a state of [`World`], `elsewhere` if another node has it, `unowned` if none has.
    pub state: String,
    /// Why it restarts or is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Its last tick.
    pub tick: u64,
    /// CPU time of a tick, microseconds.
    pub tick_p99_us: f64,
    /// The tick budget, microseconds.
    pub budget_us: f64,
    /// Used / budget over ten seconds.
    pub utilisation: f32,
    /// Load in the cluster's measure, cores.
    pub load: f64,
    /// Deferrals in the last second.
    pub deferred: u64,
    /// Ticks skipped since the node started.
    pub missed_ticks: u64,
    /// Its scripts.
    pub scripts: usize,
    /// Scripts that are suspended.
    pub suspended: usize,
    /// Scripts that are parked.
    pub parked: usize,
    /// Times it was started again.
    pub restarts: u32,
    /// The node that it is to move to.
    pub target: Option<String>,
    /// Whether an operator chose its node.
    pub pinned: bool,
}

/// A script over all worlds of this node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct ScriptRow {
    /// The script.
    pub script: String,
    /// The versions that run.
    pub versions: Vec<u32>,
    /// Its instances.
    pub instances: usize,
    /// Worlds that run it.
    pub worlds: usize,
    /// Instances that are suspended.
    pub suspended: usize,
    /// Instances that are parked.
    pub parked: usize,
    /// Fuel over the last second.
    pub fuel: u64,
    /// CPU time over the last second, microseconds, from the smoothed cost of its turns.
    pub time_us: f64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Restarts of its instances since their worlds started.
    pub restarts: u64,
}

/// A reload over all worlds of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ReloadRow {
    /// The script.
    pub script: String,
    /// The new version.
    pub version: u32,
    /// Worlds that swap.
    pub swapping: usize,
    /// Instances that those have not swapped yet.
    pub instances_left: usize,
    /// Worlds that watch the new version.
    pub watching: usize,
    /// Worlds in which it was well, that wait for the others.
    pub held: usize,
    /// Worlds that went back.
    pub rolled_back: usize,
    /// Why the first of those did.
    pub reason: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Its number: one more than the one before. `?since=` takes it.
    pub seq: u64,
    /// When it happened, milliseconds since 1970.
    pub time_ms: u64,
    /// `log`, `script`, `overload`, `world`, `cluster` or `reload`.
    pub kind: String,
    /// 0 error, 1 warning, 2 info, 3 debug.
    pub level: u8,
    /// Where.
    pub world: Option<String>,
    /// Who.
    pub script: Option<String>,
    /// What.
    pub text: String,
}

impl EventView {
    pub(crate) fn new(seq: u64, time_ms: u64, event: &NodeEvent) -> EventView {
        let view = |kind: &str, level, world: Option<&String>, script: Option<&String>, text: String| EventView {
            seq,
            time_ms,
            kind: kind.to_owned(),
            level,
            world: world.cloned(),
            script: script.cloned(),
            text,
        };
        match event {
            NodeEvent::Log { world, script, level, text } => view("log", *level, Some(world), Some(script), text.clone()),
            NodeEvent::ScriptEnded { world, script, cause, parked, again, trace, .. } => {
                let (level, follows) = match (parked, again) {
                    (true, _) => (0, "parked"),
                    (false, true) => (1, "ended, comes back"),
                    (false, false) => (1, "ended"),
                };
                let place = trace.as_ref().map(|trace| format!(", in {trace}")).unwrap_or_default();
                view("script", level, Some(world), Some(script), format!("{follows}: {cause}{place}"))
            }
            NodeEvent::Overload { world, action } => view("overload", 1, Some(world), None, action.clone()),
            NodeEvent::WorldEnded { world, cause, parked } => {
                let follows = if *parked { "parked" } else { "ended, comes back" };
                view("world", 0, Some(world), None, format!("{follows}: {cause}"))
            }
            NodeEvent::Cluster { text } => view("cluster", 2, None, None, text.clone()),
            NodeEvent::Reload { script, text, failed } => {
                view("reload", if *failed { 1 } else { 2 }, None, Some(script), text.clone())
            }
            NodeEvent::Live { script, version, worlds, swap_ms } => {
                let text = format!("version {version} runs in {} after {swap_ms} ms, and is watched", counted(*worlds, "world"));
                view("reload", 2, None, Some(script), text)
            }
        }
    }
}

/// Some events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// The number of the newest there is: the next call's `since`.
    pub seq: u64,
    /// Whether some after `since` are gone already, or were more than `limit`.
    pub missed: bool,
    /// Those asked for, the oldest first.
    pub events: Vec<EventView>,
}

/// A second of a world.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// CPU time of a tick, microseconds.
    pub p50_us: f32,
    /// CPU time of a tick, microseconds.
    pub p99_us: f32,
    /// CPU time of a tick, microseconds.
    pub max_us: f32,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointRow {
    /// Its commit.
    pub commit: u64,
    /// Its name; one without goes when newer ones come.
    pub name: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// When it was written, milliseconds since 1970; none if an older build wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

/// A world was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Saved {
    /// With this commit.
    pub commit: u64,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Collected {
    /// Versions.
    pub versions: usize,
    /// Sources.
    pub sources: usize,
}

/// A message that ended its script twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetAsideRow {
    /// The script.
    pub script: String,
    /// The tick of the second time.
    pub tick: Value,
    /// How it ended.
    pub cause: String,
    /// What it was.
    pub call: String,
}

// The mirrors.

/// `NodeStatus`: a node and its worlds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Its worlds.
    pub worlds: Vec<World>,
    /// What it has counted.
    pub counters: Counters,
}

/// `NodeCounters`: what a node has counted since it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
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

/// What a world of this node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateOfWorld {
    /// It is being built or read.
    Starting,
    /// It ticks.
    Ticking,
    /// Its output waits for the disk.
    Held,
    /// It is saved and out of memory until somebody needs it.
    Asleep,
    /// It ended and is started again.
    Restarting,
    /// It kept failing.
    Parked,
    /// It was stopped.
    Stopped,
}

/// `WorldStatus`: a world over the last second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct World {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: StateOfWorld,
    /// Why it restarts or is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
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
    /// CPU time of each tick of the last second, nanoseconds, in order; 256 at most.
    pub ticks_ns: Vec<u32>,
    /// The longest time between the beginnings of two ticks that follow each other, microseconds.
    pub tick_gap_max_us: f64,
    /// The tick budget, microseconds.
    pub budget_us: f64,
    /// CPU time of the engine in a tick, microseconds.
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
    /// Commands to clients.
    pub commands: u64,
    /// Calls to other worlds.
    pub calls_out: u64,
    /// Calls to or from this world that reached nobody.
    pub calls_refused: u64,
    /// Players' input refused since its inbox was full.
    pub input_refused: u64,
    /// Messages of other worlds, or news about some, refused since its inbox was full: they come again.
    pub parcels_refused: u64,
    /// Messages that ended their script twice.
    pub set_aside: usize,
    /// A reload in progress or rolled back: script, version, phase.
    #[schema(value_type = Option<Vec<Value>>)]
    pub reload: Option<(String, u32, Value)>,
    /// The generation that runs it.
    pub generation: u64,
    /// Times it was started again.
    pub restarts: u32,
    /// The engine's counters.
    pub host: Engine,
    /// Its last commit.
    pub commit_seq: u64,
    /// The longest that a commit of the last second took to be durable, microseconds.
    pub commit_max_us: f64,
    /// Checkpoints made since it began.
    pub checkpoints: u64,
    /// Checkpoints that could not be made, or could not be kept.
    pub checkpoints_failed: u64,
    /// Its scripts.
    pub scripts: Vec<Script>,
}

/// `HostStats`: the engine's counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Engine {
    /// Entities.
    pub entities: usize,
    /// Messages refused because an inbox was full.
    pub dropped: u64,
    /// Calls that wait for an answer.
    pub open_calls: usize,
    /// Messages that wait for their script.
    pub waiting: usize,
    /// Bytes of keys and values in storage.
    pub storage_bytes: usize,
}

/// What a script is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateOfScript {
    /// `running`, `paused`, `suspended`, `restarting`, `draining`, `finished` or `parked`.
    pub state: String,
    /// Why it finished or is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// `ScriptStatus`: a script of a world over the last second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Script {
    /// Its name there.
    pub name: String,
    /// The script.
    pub script: String,
    /// Its version.
    pub version: u32,
    /// What it is doing.
    pub state: StateOfScript,
    /// Its priority.
    pub priority: u32,
    /// Fuel.
    pub fuel: u64,
    /// Turns.
    pub turns: u32,
    /// Turns at whose end it was paused.
    pub pauses: u32,
    /// Ticks in a row that it has been deferred.
    pub deferred_ticks: u32,
    /// Ticks in which it was deferred.
    pub deferrals: u32,
    /// Nanoseconds of a turn, smoothed.
    pub cost_ns: f32,
    /// Host calls: entity, physics, ui, audio, network, storage, script.
    pub host_calls: [u32; 7],
    /// Actions refused by a rate limit since the world started: spawn, rpc, storage write, storage bytes, ui, audio, log.
    pub refused: [u32; 7],
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Restarts since the world started.
    pub restarts: u32,
}

/// `Limit`: one limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitRow {
    /// Its field in the cluster file or the manifest.
    pub name: String,
    /// `microseconds`, `bytes`, `fuel` or `count`.
    pub unit: String,
    /// How much of it is used.
    pub used: f64,
    /// How much there may be.
    pub max: f64,
}

/// `Rate`: how often something may be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RateRow {
    /// What: `spawn`, `rpc`, `storage_write`, `storage_bytes`, `ui`, `audio` or `log`.
    pub action: String,
    /// Times, or bytes, a second.
    pub per_second: f32,
    /// Times that it was refused since the world started.
    pub refused: u64,
}

/// `ScriptLimits`: what a script may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitsOfScript {
    /// Its name in the world.
    pub name: String,
    /// The script.
    pub script: String,
    /// 1 to 1000.
    pub priority: u32,
    /// Fuel of a tick, averaged over the last second; memory.
    pub limits: Vec<LimitRow>,
    /// Its own allowances.
    pub rates: Vec<RateRow>,
}

/// `WorldLimitsUse`: what a world may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitsOfWorld {
    /// The world.
    pub world: String,
    /// Its own.
    pub limits: Vec<LimitRow>,
    /// Allowances of all its scripts together, and what was refused them.
    pub rates: Vec<RateRow>,
    /// How many scripts it has.
    pub scripts_total: usize,
    /// Those that were refused most first.
    pub scripts: Vec<LimitsOfScript>,
}

/// `FlightEvent`: something that happened to a world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlightRow {
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// In which tick.
    pub tick: u64,
    /// What kind: `claimed`, `started`, `ended`, `parked`, `script_ended`, `script_restarted`, `script_parked`, `suspension`, `deferral`,
    /// `missed_ticks`, `held`, `checkpoint`, `reload`, `rest` or `moved`.
    pub kind: String,
    /// The script's name in the world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// What.
    pub text: String,
}

/// `FlightRecord`: the last things that happened to a world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Flight {
    /// The world.
    pub world: String,
    /// The node.
    pub node: String,
    /// The node's build.
    pub build: String,
    /// When it was made, milliseconds since 1970.
    pub time_ms: u64,
    /// Why it was written; none if somebody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The oldest first.
    pub events: Vec<FlightRow>,
    /// The world's last status, with those of its scripts that do not run as they should.
    pub status: World,
}

/// `VersionInfo`: a version of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionRow {
    /// The script.
    pub script: String,
    /// Its number.
    pub version: u32,
    /// SHA-256 of its wasm.
    pub source: String,
    /// Whether worlds run it.
    pub active: bool,
    /// Whether it is kept whatever happens.
    pub pinned: bool,
}

/// `ReloadReport`: how a reload went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// The script.
    pub script: String,
    /// The version that served before.
    pub from: Option<u32>,
    /// The version that serves now.
    pub to: u32,
    /// Worlds in which it was swapped.
    pub worlds: usize,
    /// Milliseconds from the first rehearsal to the last swap.
    pub swap_ms: u64,
}

/// `EntityView`: an entity of a world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Entity {
    /// Its number.
    pub id: u64,
    /// Its prefab.
    pub kind: String,
    /// Metres to the east.
    pub x: f32,
    /// Metres up.
    pub y: f32,
    /// Metres to the south.
    pub z: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_cluster::{
        FlightEvent, FlightKind, FlightRecord, Limit, NodeStatus, Rate, ReloadReport, ScriptLimits, VersionInfo, WorldLimitsUse,
        WorldState, WorldStatus,
    };
    use aether_scripting::{ScriptId, Version};
    use serde::de::DeserializeOwned;

    /// Nothing that they serialise is missing in the mirror, and nothing in it is not theirs.
    fn assert_mirrors<M: Serialize + DeserializeOwned>(theirs: impl Serialize) {
        let theirs = serde_json::to_value(theirs).unwrap();
        let mirror = serde_json::to_value(serde_json::from_value::<M>(theirs.clone()).unwrap()).unwrap();
        assert_eq!(mirror, theirs);
    }

    #[test]
    fn the_document_describes_what_the_other_crates_serialise() {
        let mut worlds = vec![WorldStatus::default()];
        for state in [WorldState::Ticking, WorldState::Held, WorldState::Asleep, WorldState::Stopped] {
            worlds.push(WorldStatus { state, ..WorldStatus::default() });
        }
        worlds.push(WorldStatus { state: WorldState::Parked { cause: "x".into() }, ..WorldStatus::default() });
        let flight = FlightRecord {
            world: "w".into(),
            node: "n".into(),
            build: "0".into(),
            time_ms: 1,
            reason: Some("x".into()),
            events: vec![FlightEvent { time_ms: 1, tick: 2, kind: FlightKind::ScriptParked, script: None, text: "x".into() }],
            status: worlds[0].clone(),
        };
        assert_mirrors::<Flight>(flight);
        let limit = Limit { name: "fuel", unit: "fuel", used: 1.0, max: 2.0 };
        let rate = Rate { action: "rpc", per_second: 1.0, refused: 2 };
        let of_script = ScriptLimits {
            name: "door".into(),
            script: ScriptId::new("door").unwrap(),
            priority: 1,
            limits: vec![limit],
            rates: vec![rate],
        };
        assert_mirrors::<LimitsOfWorld>(WorldLimitsUse {
            world: "w".into(),
            limits: vec![limit],
            rates: vec![rate],
            scripts_total: 1,
            scripts: vec![of_script],
        });
        assert_mirrors::<NodeState>(NodeStatus { name: "n".into(), worlds, ..NodeStatus::default() });
        let script = ScriptId::new("door").unwrap();
        let info = VersionInfo { script, version: Version(1), source: Default::default(), active: true, pinned: false };
        assert_mirrors::<VersionRow>(info);
        assert_mirrors::<Reloaded>(ReloadReport { script, from: None, to: Version(2), worlds: 1, swap_ms: 3 });
    }
}
