//! A world's tick as a plain value: who runs, in which order, for how long, and what came of it.
//!
//! Read [`TickScheduler`] (order and slices), [`OverloadTracker`] (who is suspended), then [`World::tick`], which runs the scripts
//! between them. Not here: threads, actors, clocks (time is an argument), files, the engine (`aether-engine`).

mod overload;
mod scheduler;
mod world;

pub use overload::{OverloadAction, OverloadConfig, OverloadTracker};
pub use scheduler::{SchedulerConfig, ScriptKey, ScriptTraits, TickClose, TickScheduler, Turn};
pub use world::{
    AddError, ScriptCheckpoint, ScriptEnd, ScriptParts, ScriptState, ScriptStatus, TickReport, World, WorldCheckpoint,
    WorldConfig,
};
