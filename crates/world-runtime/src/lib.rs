//! A world's tick as a plain value: who runs, in which order, for how long, and what came of it.
//!
//! Read [`TickScheduler`] (order and slices), [`OverloadTracker`] (who is suspended), then [`World::tick`], which runs the scripts
//! between them. Time is an argument; [`tick_cpu_ns`] is a clock for it. Not here: threads, actors, files, the engine (`aether-engine`).

mod clock;
mod lifecycle;
mod overload;
mod reload;
mod scheduler;
mod script;
mod supervision;
mod world;

pub use clock::tick_cpu_ns;
pub use overload::{OverloadAction, OverloadConfig, OverloadTracker};
pub use reload::{Refusal, Rehearsal, ReloadEvidence, ReloadOrder, ReloadPhase, ReloadRule};
pub use scheduler::{SchedulerConfig, ScriptKey, ScriptTraits, TickClose, TickScheduler, Turn};
pub use script::{
    AddError, BuildOrder, Ordered, ScriptCheckpoint, ScriptEnd, ScriptParts, ScriptState, ScriptStatus, SetAside, Standing,
};
pub use supervision::{Decision, End, RestartRule, Restarts, Strategy};
pub use world::{TickReport, World, WorldCheckpoint, WorldConfig};
