//! The script author's loop: make a project, build it, try it in a world, test it, see where its fuel goes.
//!
//! [`project`] is what all of them read; then [`init`], [`dev`], [`mod@test`], [`profile`]. Not here: one script for some ticks without a
//! world (`script.rs`), the sandbox's own part (traces, symbols, profiles: `aether-scripting`).

pub(crate) mod build;
mod children;
pub(crate) mod dev;
mod expect;
mod exported;
pub(crate) mod init;
mod play;
pub(crate) mod profile;
pub(crate) mod project;
mod report;
mod scenario;
mod stage;
pub(crate) mod test;
mod watch;
mod world;
