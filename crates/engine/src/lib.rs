//! A real engine behind the six host API traits: entities, physics, UI and audio commands, calls between scripts, storage.
//!
//! Start with [`Engine`] and [`PrefabSet`]. One engine is one world; it has no threads and no clock of its own, reads nothing but what
//! it is given, and gives out everything that leaves the world as values ([`aether_scripting::output`]).
//! Not here: limits and grants of host groups (`aether-scripting`), files and databases (`aether-store`).

mod callers;
mod checkpoint;
mod engine;
mod entities;
mod entity_api;
mod network_api;
mod output_api;
mod physics;
mod physics_api;
mod prefab;
mod storage_api;

pub use engine::{Engine, EngineConfig};
pub use prefab::{BodyKind, Prefab, PrefabError, PrefabSet, Shape};
