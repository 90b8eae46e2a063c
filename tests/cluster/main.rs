//! A cluster of real processes over a real PostgreSQL, and what must hold whatever fails.
//!
//! Start with [`checker`]: the rules. [`load`] has the scripts whose records it reads, [`rig`] starts and harms the processes, [`proxy`]
//! harms their connections, [`judge`] waits and asks the checker. [`faults`] breaks one thing at a time, [`operate`] does what operators
//! do, [`rules`] has what a file says of placement, [`standby`] what a database does to nodes, [`observe`] looks on as operators do, with a
//! [`collector`] of traces, [`reload`] publishes, [`gateway`] lets players in, [`chaos`] does everything at random. Needs PostgreSQL (`tests/install-postgres.sh`) and
//! its `psql`.
//! Not here: one node and its store (`survive.rs`), the store by itself (`crates/store/tests`).

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod busy;
mod chaos;
mod checker;
mod checker_tests;
mod collector;
mod database;
#[path = "../disk.rs"]
mod disk;
mod faults;
mod figures;
mod gateway;
mod judge;
mod load;
mod observe;
mod operate;
#[path = "../gateway/player.rs"]
mod player;
#[path = "../../crates/store/tests/postgres/mod.rs"]
mod postgres;
#[path = "../program.rs"]
mod program;
mod proxy;
mod proxy_tests;
#[path = "../records.rs"]
mod records;
mod reload;
mod rig;
mod rules;
mod standby;
mod watch;
