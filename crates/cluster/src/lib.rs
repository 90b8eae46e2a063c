//! A node: many worlds, the actors that keep them alive, the threads that tick them.
//!
//! Start with [`Node`] and [`NodeConfig`]. A world is a plain value that one tick thread at a time holds ([`world::hosted`]); an actor
//! starts it and is told what it wants ([`world::actor`]); the node's supervisor restarts what ends ([`node::supervisor`]). What a tick
//! sends out waits at its gate until the tick's writes are durable. Not here: the sandbox, the engine, the command line.

pub mod config;
mod events;
mod flight;
mod limits;
mod link;
mod membership;
mod node;
mod placement;
mod registry;
mod script;
mod status;
mod ticker;
pub mod trace;
mod world;

pub use aether_store::CheckpointEntry;
pub use aether_world_runtime::SetAside;
pub use config::{ClusterSection, ConfigError, MemberSpec, NodeConfig, WorldSpec};
pub use events::{EventLog, NodeEvent, TimedEvent};
pub use flight::{FlightEvent, FlightKind, FlightRecord};
pub use limits::{Limit, Rate, ScriptLimits, WorldLimitsUse};
pub use link::pki;
pub use membership::status::{ClusterLink, ClusterNode, ClusterStatus, ClusterWorld};
pub use node::{AskError, AttendError, Node, NodeError, StopReport};
pub use placement::{Move, Plan, Why};
pub use registry::actor::Source;
pub use registry::reload::{PlannedWorld, PublishPlan, ReloadReport};
pub use registry::{RegistryError, VersionInfo};
pub use status::{NodeCounters, NodeStatus, WorldState, WorldStatus};
pub use world::mailbox::{Inbound, Presence};
pub use world::show::{Changes, Created, Pose, STEP, Show};
pub use world::stage::{Hand, InputError, Stage};
