//! What a listener is told each second: few bytes a world, so that two thousand worlds are tens of kilobytes.
//!
//! Names are told once and again when they change ([`Names`]); the summary is columns in the order of the names. Not here: who is told
//! (`hub`).

use crate::shapes::{NodeView, ReloadRow};
use aether_cluster::{ClusterStatus, ClusterWorld, NodeStatus, WorldState, WorldStatus};
use aether_world_runtime::{ReloadPhase, ScriptState};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The order of columns.
#[derive(Default)]
pub(crate) struct Names {
    version: u64,
    list: Vec<String>,
}

/// As they are told.
#[derive(Serialize)]
pub(crate) struct Told<'a> {
    version: u64,
    names: &'a [String],
}

impl Names {
    /// This node's worlds in its order, then those of other nodes.
    pub fn look(&mut self, status: &NodeStatus, cluster: Option<&ClusterStatus>) {
        let own: std::collections::HashSet<&str> = status.worlds.iter().map(|world| world.name.as_str()).collect();
        let others = cluster.into_iter().flat_map(|cluster| &cluster.worlds).map(|world| world.name.as_str());
        let names =
            || status.worlds.iter().map(|world| world.name.as_str()).chain(others.clone().filter(|name| !own.contains(name)));
        if self.version == 0 || !names().eq(self.list.iter().map(String::as_str)) {
            self.list = names().map(str::to_owned).collect();
            self.version += 1;
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn told(&self) -> Told<'_> {
        Told { version: self.version, names: &self.list }
    }
}

/// A column each; numbers are whole to be short.
#[derive(Default, Serialize)]
pub(crate) struct Columns {
    /// A number of `STATES`.
    state: Vec<u8>,
    /// Used / budget in thousandths; -1: another node knows.
    load: Vec<i32>,
    /// CPU time of a tick, p99, microseconds.
    p99_us: Vec<u32>,
    /// Load in thousandths of a core, if there is a cluster.
    cores: Vec<u32>,
    /// The place of its node in `nodes`; -1: nobody has it.
    node: Vec<i32>,
    /// Scripts that are suspended or parked.
    trouble: Vec<u32>,
}

/// The words for the numbers of the state column.
pub(crate) const STATES: [&str; 9] =
    ["elsewhere", "starting", "ticking", "held", "asleep", "restarting", "parked", "stopped", "unowned"];

/// A state's number.
pub(crate) fn state_code(state: &WorldState) -> u8 {
    match state {
        WorldState::Starting => 1,
        WorldState::Ticking => 2,
        WorldState::Held => 3,
        WorldState::Asleep => 4,
        WorldState::Restarting { .. } => 5,
        WorldState::Parked { .. } => 6,
        WorldState::Stopped => 7,
    }
}

/// Cores that a world's ticks take by this node's own measure: the p50 of a tick times ticks a second.
fn cores(world: &WorldStatus) -> f64 {
    world.tick_p50_us * world.ticks as f64 / 1e6
}

/// The nodes: the cluster's, or this one alone.
pub(crate) fn nodes(status: &NodeStatus, cluster: Option<&ClusterStatus>) -> Vec<NodeView> {
    let Some(cluster) = cluster else {
        return vec![NodeView {
            name: status.name.clone(),
            build: crate::BUILD.to_owned(),
            state: "up".to_owned(),
            worlds: status.worlds.len(),
            load: status.worlds.iter().map(cores).sum(),
            capacity: std::thread::available_parallelism().map_or(0.0, |cores| cores.get() as f64),
            linked: true,
            ..NodeView::default()
        }];
    };
    let view = |node: &aether_cluster::ClusterNode| NodeView {
        name: node.name.clone(),
        id: node.id.clone(),
        address: node.address.clone(),
        build: node.build.clone(),
        state: node.state.to_string(),
        lease_left_ms: node.lease_left_ms,
        worlds: node.worlds,
        load: node.load,
        capacity: node.capacity,
        linked: node.linked,
    };
    cluster.nodes.iter().map(view).collect()
}

/// The summary of this second.
pub(crate) fn summary(names: &Names, status: &NodeStatus, cluster: Option<&ClusterStatus>, not_ready: usize) -> Value {
    let nodes = nodes(status, cluster);
    let place: HashMap<&str, i32> = nodes.iter().enumerate().map(|(i, node)| (node.name.as_str(), i as i32)).collect();
    let own: HashMap<&str, &WorldStatus> = status.worlds.iter().map(|world| (world.name.as_str(), world)).collect();
    let cluster_worlds: HashMap<&str, &ClusterWorld> =
        cluster.into_iter().flat_map(|cluster| &cluster.worlds).map(|world| (world.name.as_str(), world)).collect();
    let me = place.get(status.name.as_str()).copied().unwrap_or(-1);
    let mut columns = Columns::default();
    for name in &names.list {
        let (here, there) = (own.get(name.as_str()), cluster_worlds.get(name.as_str()));
        let owner = there.map(|there| there.owner.as_deref().and_then(|owner| place.get(owner).copied()).unwrap_or(-1));
        columns.state.push(match (here, owner) {
            (Some(here), _) => state_code(&here.state),
            (None, Some(-1) | None) => 8,
            (None, Some(_)) => 0,
        });
        columns.load.push(here.map_or(-1, |here| (here.utilisation * 1e3) as i32));
        columns.p99_us.push(here.map_or(0, |here| here.tick_p99_us as u32));
        columns.cores.push(((there.map_or_else(|| here.map_or(0.0, |here| cores(here)), |there| there.load)) * 1e3) as u32);
        columns.node.push(owner.unwrap_or(me));
        columns.trouble.push(here.map_or(0, |here| (here.suspended + here.parked) as u32));
    }
    json!({
        "time_ms": crate::clock::now_ms(),
        "names": names.version,
        "node": status.name,
        "cluster": cluster.map(|cluster| &cluster.name),
        "nodes": nodes,
        "not_ready": not_ready,
        "states": STATES,
        "worlds": columns,
        "reloads": reloads(status),
    })
}

/// Reloads of this node's worlds, by script and version.
pub(crate) fn reloads(status: &NodeStatus) -> Vec<ReloadRow> {
    let mut rows: BTreeMap<(String, u32), ReloadRow> = BTreeMap::new();
    for (script, version, phase) in status.worlds.iter().filter_map(|world| world.reload.as_ref()) {
        let row = rows.entry((script.to_string(), version.0)).or_insert_with(|| ReloadRow {
            script: script.to_string(),
            version: version.0,
            ..ReloadRow::default()
        });
        match phase {
            ReloadPhase::Swapping { left } => {
                row.swapping += 1;
                row.instances_left += left;
            }
            ReloadPhase::Watching { .. } => row.watching += 1,
            ReloadPhase::Held => row.held += 1,
            ReloadPhase::RolledBack { reason } => {
                row.rolled_back += 1;
                row.reason.get_or_insert_with(|| reason.clone());
            }
        }
    }
    rows.into_values().collect()
}

/// A world's status with as many scripts as asked for: those in trouble first, then the dearest. `scripts_total` says how many there are.
pub(crate) fn shortened(world: &WorldStatus, scripts: usize) -> Value {
    let total = world.scripts.len();
    let mut short = world.clone();
    if total > scripts {
        let mut order: Vec<_> = world.scripts.iter().collect();
        order.sort_by_cached_key(|script| {
            (script.state == ScriptState::Running, std::cmp::Reverse(script.fuel), script.name.clone())
        });
        short.scripts = Arc::new(order.into_iter().take(scripts).cloned().collect());
    }
    let mut value = serde_json::to_value(&short).unwrap_or_default();
    value["scripts_total"] = total.into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_scripting::{ScriptId, Version};
    use aether_world_runtime::ScriptStatus;

    fn world(name: &str) -> WorldStatus {
        WorldStatus { name: name.into(), state: WorldState::Ticking, utilisation: 0.5, ..WorldStatus::default() }
    }

    #[test]
    fn names_are_told_again_only_when_they_change() {
        let mut names = Names::default();
        let mut status = NodeStatus { name: "n".into(), worlds: vec![world("a"), world("b")], ..NodeStatus::default() };
        names.look(&status, None);
        names.look(&status, None);
        assert_eq!(names.version(), 1);
        status.worlds.pop();
        names.look(&status, None);
        assert_eq!((names.version(), names.list.as_slice()), (2, &["a".to_owned()][..]));
    }

    #[test]
    fn a_summary_has_a_place_for_every_world_and_few_bytes_for_each() {
        let worlds: Vec<_> = (0..2_000).map(|n| world(&format!("world-{n}"))).collect();
        let status = NodeStatus { name: "n".into(), worlds, ..NodeStatus::default() };
        let mut names = Names::default();
        names.look(&status, None);
        let summary = summary(&names, &status, None, 0);
        assert_eq!(summary["worlds"]["load"].as_array().unwrap().len(), 2_000);
        assert_eq!(summary["worlds"]["load"][0], 500);
        assert!(summary.to_string().len() < 50_000, "{} bytes", summary.to_string().len());
    }

    #[test]
    fn a_script_in_trouble_is_not_cut_off() {
        let script = |n: u64, state| ScriptStatus {
            name: format!("s-{n}"),
            script: ScriptId::new("s").unwrap(),
            version: Version(1),
            state,
            priority: 1,
            fuel: n,
            turns: 1,
            pauses: 0,
            deferred_ticks: 0,
            deferrals: 0,
            cost_ns: 1.0,
            host_calls: [0; 7],
            refused: [0; 7],
            memory_bytes: 0,
            restarts: 0,
        };
        let mut scripts: Vec<_> = (0..10).map(|n| script(n, ScriptState::Running)).collect();
        scripts[0].state = ScriptState::Suspended;
        let short = shortened(&WorldStatus { scripts: Arc::new(scripts), ..world("a") }, 2);
        let names: Vec<_> = short["scripts"].as_array().unwrap().iter().map(|script| script["name"].as_str().unwrap()).collect();
        assert_eq!((names, &short["scripts_total"]), (vec!["s-0", "s-9"], &10.into()));
    }

    #[test]
    fn a_reload_is_added_up_over_worlds() {
        let script = ScriptId::new("door").unwrap();
        let phases = [
            ReloadPhase::Swapping { left: 2 },
            ReloadPhase::Watching { ticks_left: 9 },
            ReloadPhase::Held,
            ReloadPhase::RolledBack { reason: "trapped".into() },
        ];
        let reload = |phase| WorldStatus { reload: Some((script, Version(3), phase)), ..world("a") };
        let rows =
            reloads(&NodeStatus { name: "n".into(), worlds: phases.into_iter().map(reload).collect(), ..NodeStatus::default() });
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.swapping, row.instances_left, row.watching, row.held, row.rolled_back), (1, 2, 1, 1, 1));
        assert_eq!(row.reason.as_deref(), Some("trapped"));
    }
}
