//! A node: many worlds on a few threads, their store, their links.
//!
//! Start with [`Node`] and [`NodeConfig`]. A world is a plain value that one thread at a time ticks ([`hosted`]); what a tick sends
//! out waits at its [`gate`] until the tick's writes are durable. Not here: the sandbox, the engine, the command line.

pub mod config;
mod events;
mod gate;
mod hosted;
mod node;
mod pacer;
mod status;

pub use config::{ConfigError, NodeConfig, WorldSpec};
pub use events::{EventLog, NodeEvent};
pub use hosted::Inbound;
pub use node::{Node, NodeError, StopReport};
pub use status::{NodeStatus, WorldState, WorldStatus};
