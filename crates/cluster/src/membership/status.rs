//! What a node knows of its cluster, for people: plain values.

use crate::link::PeerStatus;
use serde::Serialize;

/// A cluster, as one of its nodes sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// The node that tells.
    pub node: String,
    /// All nodes that are not long gone.
    pub nodes: Vec<ClusterNode>,
    /// All worlds.
    pub worlds: Vec<ClusterWorld>,
    /// The links of the node that tells.
    pub links: Vec<ClusterLink>,
    /// Connections that ended before it was known who they were, by reason.
    pub strangers: Vec<(String, u64)>,
    /// Frames of other nodes that this build does not know.
    pub unknown_frames: u64,
    /// How long a lease is, seconds.
    pub lease_seconds: f64,
    /// Since the last renewal of this node's lease that was granted, seconds.
    pub renewed_seconds_ago: f64,
    /// Renewals of this node's lease that failed or came late.
    pub renewals_late: u64,
}

/// A link to another node. Counts are since that was first seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterLink {
    /// The other node.
    pub node: String,
    /// Whether it is up.
    pub up: bool,
    /// Times that it came up.
    pub ups: u64,
    /// The last round trip, microseconds.
    pub round_trip_us: Option<f64>,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Payloads sent.
    pub sent_messages: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Payloads received.
    pub received_messages: u64,
    /// Bytes on their way.
    pub in_flight_bytes: u64,
    /// Payloads refused because too much was on its way.
    pub refused: u64,
    /// How connections ended or were refused, by reason.
    pub cuts: Vec<(String, u64)>,
}

impl ClusterLink {
    pub(crate) fn of(peer: PeerStatus) -> ClusterLink {
        ClusterLink {
            node: peer.name,
            up: peer.up,
            ups: peer.ups,
            round_trip_us: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e6),
            sent_bytes: peer.sent_bytes,
            sent_messages: peer.sent_messages,
            received_bytes: peer.received_bytes,
            received_messages: peer.received_messages,
            in_flight_bytes: peer.in_flight_bytes,
            refused: peer.refused_full,
            cuts: peer.cuts.into_iter().map(|(cut, count)| (cut.label().to_owned(), count)).collect(),
        }
    }
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// This life of it.
    pub id: String,
    /// Where others reach it.
    pub address: String,
    /// The version of its program.
    pub build: String,
    /// `up`, `draining` or `dead`.
    pub state: &'static str,
    /// What is left of its lease, milliseconds.
    pub lease_left_ms: u64,
    /// Worlds that it runs.
    pub worlds: usize,
    /// CPU seconds a second that their ticks need.
    pub load: f64,
    /// CPU seconds a second that it has for ticks.
    pub capacity: f64,
    /// Whether the node that tells has a link to it.
    pub linked: bool,
}

/// A world of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterWorld {
    /// Its name.
    pub name: String,
    /// The node that runs it.
    pub owner: Option<String>,
    /// Its generation.
    pub generation: u64,
    /// The node that should run it.
    pub target: Option<String>,
    /// An operator chose that node.
    pub pinned: bool,
    /// CPU seconds a second that its ticks need.
    pub load: f64,
}
