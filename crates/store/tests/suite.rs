//! What every store keeps, asked of SQLite and of a real PostgreSQL; and what a cluster needs of PostgreSQL alone.
//!
//! Start with [`support::Rig`], then [`worlds`] and [`catalogue`] (both stores), [`model`] (both, at random), [`directory`], [`races`],
//! [`faults`] and [`opening`] (PostgreSQL). Tests print their seed when they fail, and none waits for a time to pass but where time is
//! the matter.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod catalogue;
mod directory;
mod faults;
mod measure;
mod model;
mod opening;
mod postgres;
mod proxy;
mod races;
mod support;
mod worlds;
