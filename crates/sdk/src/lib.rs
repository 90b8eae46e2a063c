//! What an author of Aether scripts in Rust imports.
//!
//! ```
//! use aether_script_sdk::prelude::*;
//!
//! /// Walks north.
//! #[derive(Default)]
//! struct Walker;
//!
//! impl Script for Walker {
//!     fn on_tick(&mut self, _dt: f32) {
//!         if let Ok(me) = entity::self_entity() {
//!             let _ = physics::set_velocity(me, Vec3::new(0.0, 0.0, 1.0));
//!         }
//!     }
//! }
//!
//! export_script!(Walker);
//! ```
//!
//! Build it as a `cdylib` for `wasm32-unknown-unknown`; `scripts/` has complete examples. Outside wasm32 everything compiles
//! and every host function answers [`Error::Unsupported`], so a script's own logic can be tested with `cargo test`.
//!
//! Read [`Script`] and [`export_script`], then the modules, one for each group of the manifest's `apis`.
//! Not here: an allocator and a panic handler. The crate uses std and what std brings: its allocator (dlmalloc) frees and
//! reuses in bounded time, costs about 6 KB of wasm, and leaves authors `HashMap`, `format!` and `f32::sin` without set-up. A
//! `no_std` SDK would save some 10 KB a script and ask all of that of each author.

mod error;
mod export;
mod raw;
mod types;

pub mod audio;
pub mod entity;
pub mod network;
pub mod physics;
pub mod players;
pub mod script;
pub mod state;
pub mod storage;
pub mod ui;

pub use error::{Error, Result};
#[doc(hidden)]
pub use export::Exports;
pub use export::{CallId, Event, Message, PlayerId, Script, Sender};
pub use types::{Allowances, Body, EntityId, RayHit, Vec3};

/// All that a script is likely to need.
pub mod prelude {
    pub use crate::state::{Reader, Writer};
    pub use crate::{
        Body, CallId, EntityId, Error, Event, Message, PlayerId, Result, Script, Sender, Vec3, audio, entity, export_script,
        info, network, physics, script, storage, ui,
    };
}

/// Logs at level info, with the arguments of `format!`. A line over the allowance is lost, which is no reason to fail.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => {{
        let _ = $crate::script::log($crate::script::Level::Info, &::std::format!($($arg)*));
    }};
}
