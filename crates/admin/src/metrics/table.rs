//! Every metric: its name with its unit at the end, its labels, where its value comes from, and what it says.
//!
//! [`METRICS`] is the table; a test reads what a real node answers and compares both ways. A metric of worlds has its value in its row;
//! the others are recorded by `mod.rs` under the constants here. Labels are bounded: worlds and scripts past the first thousand are
//! `other`, all others are names of a closed list or of the cluster's nodes.

use aether_cluster::WorldStatus;
use metrics::Unit;

/// How worlds past the first thousand become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// Added up.
    Sum,
    /// The highest of them.
    Max,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// The node itself.
    Node,
    /// All instances of a script on the node.
    Script,
    /// The cluster as the node sees it: not there on one that is alone.
    Cluster,
    /// Each world: its value, of one that counts since the world began, and what `other` is.
    World(fn(&WorldStatus) -> f64, Fold),
}

/// What a metric is called and says.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with its unit at the end.
    pub name: &'static str,
    /// Whether it only rises.
    pub counts: bool,
    /// Its unit.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Where its value comes from.
    pub source: Source,
    /// What it says.
    pub help: &'static str,
}

const fn node(name: &'static str, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, counts: false, unit, labels, source: Source::Node, help }
}

const fn script(name: &'static str, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, counts: false, unit, labels, source: Source::Script, help }
}

const fn cluster(name: &'static str, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, counts: false, unit, labels, source: Source::Cluster, help }
}

const fn sum(name: &'static str, unit: Unit, help: &'static str, of: fn(&WorldStatus) -> f64) -> Metric {
    Metric { name, counts: false, unit, labels: &["world"], source: Source::World(of, Fold::Sum), help }
}

const fn max(name: &'static str, unit: Unit, help: &'static str, of: fn(&WorldStatus) -> f64) -> Metric {
    Metric { name, counts: false, unit, labels: &["world"], source: Source::World(of, Fold::Max), help }
}

const fn rising(metric: Metric) -> Metric {
    Metric { counts: true, ..metric }
}

use Unit::{Bytes, Count, Seconds};

pub(super) const BUILD_INFO: Metric =
    node("aether_build_info", Count, &["version", "build", "node"], "1, with the node's build as labels.");
pub(super) const READY: Metric = node("aether_ready", Count, &[], "1 if every world that should tick does, 0 if not.");
pub(super) const WORLDS: Metric = node("aether_worlds", Count, &["state"], "Worlds of this node by state.");
pub(super) const SCRIPTS: Metric = node("aether_scripts", Count, &["state"], "Instances of scripts of this node by state.");
pub(super) const RELOADS: Metric = rising(node(
    "aether_reloads_total",
    Count,
    &["outcome"],
    "Reloads that this node coordinated, by outcome: served, rolled_back.",
));
pub(super) const CLAIMED: Metric =
    rising(node("aether_worlds_claimed_total", Count, &[], "Times that this node took a world: starts, moves, failovers."));
pub(super) const RELEASED: Metric =
    rising(node("aether_worlds_released_total", Count, &[], "Times that this node gave a world to another node."));
pub(super) const PARKED: Metric =
    rising(node("aether_parked_total", Count, &["what"], "Times that a world or a script kept failing and was left alone."));
pub(super) const RECORDS: Metric =
    rising(node("aether_flight_records_total", Count, &[], "Flight records written to the data directory."));
pub(super) const DISK_FREE: Metric =
    node("aether_data_dir_free_bytes", Bytes, &[], "Room that the file system of the data directory has for this user.");
pub(super) const DISK_SIZE: Metric =
    node("aether_data_dir_size_bytes", Bytes, &[], "Size of the file system of the data directory.");

pub(super) const FUEL: Metric =
    rising(script("aether_script_fuel_total", Count, &["script"], "Fuel spent by all instances of a script."));
pub(super) const TURNS: Metric =
    rising(script("aether_script_turns_total", Count, &["script"], "Turns of all instances of a script."));
pub(super) const PAUSES: Metric =
    rising(script("aether_script_pauses_total", Count, &["script"], "Turns at whose end an instance was paused."));
pub(super) const DEFERRALS: Metric =
    rising(script("aether_script_deferrals_total", Count, &["script"], "Ticks in which an instance was deferred."));
pub(super) const HOST_CALLS: Metric =
    rising(script("aether_script_host_calls_total", Count, &["script", "group"], "Host calls of a script by group."));
pub(super) const RATE_LIMITED: Metric = rising(script(
    "aether_script_rate_limited_total",
    Count,
    &["script", "action"],
    "Actions of a script that a rate limit refused, its own or its world's, by kind.",
));
pub(super) const MEMORY: Metric =
    script("aether_script_memory_bytes", Bytes, &["script"], "Linear memory of all instances of a script.");

pub(super) const NODE_UP: Metric =
    cluster("aether_cluster_node_up", Count, &["peer"], "1 if a node of the cluster is up, as this one sees it.");
pub(super) const NODE_LINKED: Metric =
    cluster("aether_cluster_node_linked", Count, &["peer"], "1 if this node is connected to that one, or is that one.");
pub(super) const NODE_LEASE: Metric =
    cluster("aether_cluster_node_lease_seconds", Seconds, &["peer"], "Time until a node's lease ends unless it is renewed.");
pub(super) const NODE_LOAD: Metric =
    cluster("aether_cluster_node_load_cores", Count, &["peer"], "Load of a node's worlds, in cores.");
pub(super) const NODE_CAPACITY: Metric =
    cluster("aether_cluster_node_capacity_cores", Count, &["peer"], "Load that a node can take, in cores.");
pub(super) const UNOWNED: Metric =
    cluster("aether_cluster_unowned_worlds", Count, &[], "Worlds of the cluster that no node has.");
pub(super) const LEASE: Metric = cluster("aether_lease_seconds", Seconds, &[], "How long this node's lease is after a renewal.");
pub(super) const RENEWED: Metric =
    cluster("aether_lease_age_seconds", Seconds, &[], "Time since the last renewal of this node's lease that was granted.");
pub(super) const RENEWALS_LATE: Metric =
    rising(cluster("aether_lease_renewals_late_total", Count, &[], "Renewals of this node's lease that failed or came late."));
pub(super) const LINK_CUTS: Metric = rising(cluster(
    "aether_link_cuts_total",
    Count,
    &["peer", "reason"],
    "Connections with another node that ended or were refused, by reason; the peer is empty if it was not known who it was.",
));
pub(super) const LINK_REFUSED: Metric = rising(cluster(
    "aether_link_refused_total",
    Count,
    &["peer"],
    "Payloads to another node that were refused because too much was on its way.",
));
pub(super) const LINK_SENT: Metric =
    rising(cluster("aether_link_sent_bytes_total", Bytes, &["peer"], "Bytes sent to another node."));
pub(super) const LINK_RECEIVED: Metric =
    rising(cluster("aether_link_received_bytes_total", Bytes, &["peer"], "Bytes received from another node."));
pub(super) const LINK_ROUND_TRIP: Metric =
    cluster("aether_link_round_trip_seconds", Seconds, &["peer"], "The last round trip to another node.");
pub(super) const UNKNOWN_FRAMES: Metric =
    rising(cluster("aether_link_unknown_frames_total", Count, &[], "Frames of other nodes that this build does not know."));

pub(super) const GATEWAY_SESSIONS: Metric =
    node("aether_gateway_sessions", Count, &[], "Players' sessions of this node's gateway; 0 without one.");
pub(super) const GATEWAY_WORLDS: Metric = node("aether_gateway_worlds", Count, &[], "Worlds that are followed for sessions.");
pub(super) const GATEWAY_BEGUN: Metric =
    rising(node("aether_gateway_sessions_begun_total", Count, &[], "Sessions that were let in."));
pub(super) const GATEWAY_ENDED: Metric = rising(node(
    "aether_gateway_connections_ended_total",
    Count,
    &["reason"],
    "WebSockets that ended, by reason, also before a hello.",
));
pub(super) const GATEWAY_INPUTS: Metric = rising(node("aether_gateway_inputs_total", Count, &[], "Inputs passed on to worlds."));
pub(super) const GATEWAY_REFUSED: Metric =
    rising(node("aether_gateway_inputs_refused_total", Count, &["reason"], "Players' inputs refused, by reason."));
pub(super) const GATEWAY_MESSAGES: Metric =
    rising(node("aether_gateway_messages_total", Count, &[], "Messages sent to clients."));
pub(super) const GATEWAY_SENT: Metric =
    rising(node("aether_gateway_sent_bytes_total", Bytes, &[], "Bytes of messages sent to clients."));
pub(super) const GATEWAY_COALESCED: Metric =
    rising(node("aether_gateway_coalesced_total", Count, &[], "Times that a slow client's ticks gave way to a snapshot."));
pub(super) const GATEWAY_RESYNCS: Metric =
    rising(node("aether_gateway_resyncs_total", Count, &[], "Times that a world was away, began again or was missed in part."));

/// Every metric.
pub const METRICS: &[Metric] = &[
    BUILD_INFO,
    READY,
    WORLDS,
    SCRIPTS,
    RELOADS,
    CLAIMED,
    RELEASED,
    PARKED,
    RECORDS,
    DISK_FREE,
    DISK_SIZE,
    rising(sum("aether_world_ticks_total", Count, "Ticks of a world.", |world| world.tick as f64)),
    rising(sum("aether_world_missed_ticks_total", Count, "Ticks that were skipped because the world was late.", |world| {
        world.missed_ticks as f64
    })),
    rising(sum("aether_world_over_budget_ticks_total", Count, "Ticks that took more CPU time than their budget.", |world| {
        world.over_budget_ticks as f64
    })),
    rising(sum("aether_world_commands_total", Count, "Commands to clients.", |world| world.commands as f64)),
    rising(sum("aether_world_calls_out_total", Count, "Calls to other worlds.", |world| world.calls_out as f64)),
    rising(sum("aether_world_calls_refused_total", Count, "Calls from other worlds that were refused.", |world| {
        world.calls_refused as f64
    })),
    rising(sum("aether_world_dropped_messages_total", Count, "Messages refused because a script's inbox was full.", |world| {
        world.host.dropped as f64
    })),
    rising(sum("aether_world_input_refused_total", Count, "Players' input refused because a world's inbox was full.", |world| {
        world.input_refused as f64
    })),
    rising(sum(
        "aether_world_parcels_refused_total",
        Count,
        "Messages of other worlds refused because a world's inbox was full; they come again.",
        |world| world.parcels_refused as f64,
    )),
    rising(sum("aether_world_restarts_total", Count, "Times a world was started again.", |world| f64::from(world.restarts))),
    rising(sum("aether_world_script_restarts_total", Count, "Restarts of a world's scripts.", |world| {
        world.scripts.iter().map(|script| f64::from(script.restarts)).sum()
    })),
    rising(sum("aether_world_commits_total", Count, "Commits of a world to the store.", |world| world.commit_seq as f64)),
    rising(sum("aether_world_checkpoints_total", Count, "Checkpoints of a world.", |world| world.checkpoints as f64)),
    rising(sum(
        "aether_world_checkpoints_failed_total",
        Count,
        "Checkpoints of a world that could not be made or kept; the one before counts.",
        |world| world.checkpoints_failed as f64,
    )),
    max(
        "aether_world_commit_max_seconds",
        Seconds,
        "The longest that a commit of the last second took to be durable.",
        |world| world.commit_max_us / 1e6,
    ),
    max("aether_world_tick_p50_seconds", Seconds, "CPU time of a tick over the last second, median.", |world| {
        world.tick_p50_us / 1e6
    }),
    max("aether_world_tick_p99_seconds", Seconds, "CPU time of a tick over the last second, 99th percentile.", |world| {
        world.tick_p99_us / 1e6
    }),
    max("aether_world_tick_max_seconds", Seconds, "CPU time of a tick over the last second, longest.", |world| {
        world.tick_max_us / 1e6
    }),
    max("aether_world_tick_budget_seconds", Seconds, "CPU time that a tick may take.", |world| world.budget_us / 1e6),
    max("aether_world_utilisation_ratio", Count, "Used tick budget over ten seconds; 1 is all of it.", |world| {
        f64::from(world.utilisation)
    }),
    sum("aether_world_entities", Count, "Entities of a world.", |world| world.host.entities as f64),
    sum("aether_world_memory_bytes", Bytes, "Linear memory of a world's scripts.", |world| world.memory_bytes as f64),
    sum("aether_world_storage_bytes", Bytes, "Keys and values in a world's storage.", |world| world.host.storage_bytes as f64),
    sum("aether_world_waiting_messages", Count, "Messages that wait for their script.", |world| world.host.waiting as f64),
    FUEL,
    TURNS,
    PAUSES,
    DEFERRALS,
    HOST_CALLS,
    RATE_LIMITED,
    MEMORY,
    NODE_UP,
    NODE_LINKED,
    NODE_LEASE,
    NODE_LOAD,
    NODE_CAPACITY,
    UNOWNED,
    LEASE,
    RENEWED,
    RENEWALS_LATE,
    LINK_CUTS,
    LINK_REFUSED,
    LINK_SENT,
    LINK_RECEIVED,
    LINK_ROUND_TRIP,
    UNKNOWN_FRAMES,
    GATEWAY_SESSIONS,
    GATEWAY_WORLDS,
    GATEWAY_BEGUN,
    GATEWAY_ENDED,
    GATEWAY_INPUTS,
    GATEWAY_REFUSED,
    GATEWAY_MESSAGES,
    GATEWAY_SENT,
    GATEWAY_COALESCED,
    GATEWAY_RESYNCS,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_is_one_metrics_and_says_its_unit() {
        let mut names = HashSet::new();
        for metric in METRICS {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("aether_") && metric.help.ends_with('.'), "{metric:?}");
            assert_eq!(metric.name.ends_with("_total"), metric.counts, "{metric:?}");
            let name = metric.name.trim_end_matches("_total");
            assert_eq!(name.ends_with("_seconds"), metric.unit == Unit::Seconds, "{metric:?}");
            assert_eq!(name.ends_with("_bytes"), metric.unit == Unit::Bytes, "{metric:?}");
            assert_eq!(matches!(metric.source, Source::World(..)), metric.labels == ["world"], "{metric:?}");
        }
    }
}
