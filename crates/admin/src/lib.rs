//! What people and tools ask of a running node: JSON over HTTP, on a Unix socket in the node's data directory and at an address; and the
//! dashboard.
//!
//! Whoever may open the socket may do everything: it belongs to the node's user alone, so there is no password. At the address everybody
//! needs a bearer token ([`TokenFile`]) whose role allows what is asked ([`access`]); before the first token is made, a node that says
//! so lets in who is on its machine. Start with [`serve`], [`serve_http`] and [`Client`]; [`Request`] is the list of what commands ask.
//! Players come to another address, the [`gateway`]'s. Errors are problem documents (RFC 9457). Not here: what nodes and worlds do (`aether-cluster`).

pub mod access;
mod api;
mod audit;
mod client;
mod clock;
mod dashboard;
mod gate;
pub mod gateway;
mod http;
mod hub;
pub mod metrics;
mod problem;
mod pulse;
mod server;
pub mod shapes;
mod sources;
mod stall;
mod summary;
mod tls;
mod token;

pub use access::Role;
pub use audit::{Machine, audit_path};
pub use client::{Client, ClientError};
pub use clock::rfc3339;
pub use http::{HttpOptions, HttpServer, serve_http};
pub use problem::Problem;
pub use server::{ServeError, Server, serve};
pub use tls::check_certificate;
pub use token::{Token, TokenError, TokenFile, tokens_path};

use aether_scripting::{ScriptId, Version};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use utoipa::ToSchema;

/// What is said of this build.
pub(crate) const BUILD: &str = env!("CARGO_PKG_VERSION");

/// The socket of a node with this data directory, in a folder that only its user may enter. The kernel allows 107 bytes.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin").join("socket")
}

/// A script's code and manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishBody {
    /// The text of `script.toml`.
    pub manifest: String,
    /// The module, base64.
    pub wasm: String,
}

/// What a checkpoint is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointBody {
    /// Its name; one without goes when newer ones come.
    pub name: Option<String>,
}

/// Which checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    /// Its name or its commit's number.
    pub checkpoint: String,
}

/// Which version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    /// Its number; the one before the active one if it says nothing.
    #[schema(value_type = Option<u32>)]
    pub version: Option<Version>,
}

/// Whether to keep a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PinBody {
    /// Keep it.
    pub pinned: bool,
}

/// Where a world is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    /// The node.
    pub node: String,
}

/// What can be asked, as method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What the node is doing.
    Status,
    /// All versions of all scripts.
    Versions,
    /// Publish, or only say what would happen.
    Publish {
        /// Only say it.
        plan: bool,
        /// In so many worlds first.
        canary: Option<usize>,
    },
    /// Who is in the cluster, and who runs what.
    Cluster,
    /// What placement would move now.
    PlacementPlan,
    /// Move a world to a node; with a [`MoveBody`].
    Move(String),
    /// Let placement move a world again.
    Unpin(String),
    /// Have a node give its worlds away, or take worlds again.
    Drain {
        /// The node.
        node: String,
        /// Give, or take.
        on: bool,
    },
    /// Bring another version into the worlds.
    Rollback(ScriptId),
    /// Keep a version.
    Pin(ScriptId, Version),
    /// Remove versions that nothing refers to.
    Collect,
    /// Start a parked world.
    ResumeWorld(String),
    /// Suspend or resume one script of a world.
    Script {
        /// The world.
        world: String,
        /// The script's name there.
        script: String,
        /// Suspend, or resume.
        suspend: bool,
    },
    /// The checkpoints of a world.
    Checkpoints(String),
    /// Save a world now.
    Checkpoint(String),
    /// Start a world again from a checkpoint.
    Restore(String),
    /// Messages that ended their script twice.
    SetAside(String),
    /// Events after a number, with other filters as a query has them (`world=town-1&level=1`).
    Events {
        /// The number.
        since: u64,
        /// More of the query; may be empty.
        filters: String,
    },
    /// The nodes of the cluster, or this one alone.
    Nodes,
    /// Worlds of the cluster, with a query (`sort=load&limit=100`).
    Worlds(String),
    /// One world with its scripts.
    World(String),
    /// Reloads that go on.
    Reloads,
    /// The last things that happened to a world.
    Flight(String),
    /// What a world may use; of all worlds of the node without a name.
    Limits(Option<String>),
    /// Whether every world that should tick does. Its answer is an error's if one does not.
    Ready,
}

impl Request {
    /// Its method and path.
    pub fn route(&self) -> (&'static str, String) {
        match self {
            Request::Status => ("GET", "/v1/status".into()),
            Request::Versions => ("GET", "/v1/versions".into()),
            Request::Publish { plan, canary: None } => ("POST", format!("/v1/publish?plan={plan}")),
            Request::Publish { plan, canary: Some(worlds) } => ("POST", format!("/v1/publish?plan={plan}&canary={worlds}")),
            Request::Cluster => ("GET", "/v1/cluster".into()),
            Request::PlacementPlan => ("GET", "/v1/placement/plan".into()),
            Request::Move(world) => ("POST", format!("/v1/worlds/{world}/move")),
            Request::Unpin(world) => ("POST", format!("/v1/worlds/{world}/unpin")),
            Request::Drain { node, on } => ("POST", format!("/v1/nodes/{node}/{}", if *on { "drain" } else { "undrain" })),
            Request::Rollback(script) => ("POST", format!("/v1/scripts/{script}/rollback")),
            Request::Pin(script, version) => ("POST", format!("/v1/scripts/{script}/versions/{version}/pin")),
            Request::Collect => ("POST", "/v1/collect".into()),
            Request::ResumeWorld(world) => ("POST", format!("/v1/worlds/{world}/resume")),
            Request::Script { world, script, suspend } => {
                let verb = if *suspend { "suspend" } else { "resume" };
                ("POST", format!("/v1/worlds/{world}/scripts/{script}/{verb}"))
            }
            Request::Checkpoints(world) => ("GET", format!("/v1/worlds/{world}/checkpoints")),
            Request::Checkpoint(world) => ("POST", format!("/v1/worlds/{world}/checkpoints")),
            Request::Restore(world) => ("POST", format!("/v1/worlds/{world}/restore")),
            Request::SetAside(world) => ("GET", format!("/v1/worlds/{world}/set-aside")),
            Request::Events { since, filters } => ("GET", format!("/v1/events?since={since}&{filters}")),
            Request::Nodes => ("GET", "/v1/nodes".into()),
            Request::Worlds(query) => ("GET", format!("/v1/worlds?{query}")),
            Request::World(world) => ("GET", format!("/v1/worlds/{world}")),
            Request::Reloads => ("GET", "/v1/reloads".into()),
            Request::Flight(world) => ("GET", format!("/v1/worlds/{world}/flight")),
            Request::Limits(Some(world)) => ("GET", format!("/v1/worlds/{world}/limits")),
            Request::Limits(None) => ("GET", "/v1/limits".into()),
            Request::Ready => ("GET", "/readyz".into()),
        }
    }
}
