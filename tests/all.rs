//! Tests of the whole: each is named as the rule that it keeps. Unit tests are in the crates.
//!
//! Start with [`support`], then the file of a theme.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod abi;
mod author;
mod cli;
mod compile;
mod control;
mod disk;
mod docs;
mod gateway;
mod hostile;
mod layers;
mod loadtest;
mod metering;
mod observe;
mod program;
mod records;
mod registry;
mod reload;
mod rig;
mod seed_api;
mod supervision;
mod support;
mod survive;
mod town;
mod web;
