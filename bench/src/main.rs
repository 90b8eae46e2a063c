//! Aether beside bare wasmtime and beside other systems that run scripts or actors, in one run.
//!
//! - `aether-bench [W1 W2 …]`: measures the workloads in rounds, and writes tables and plots into `bench/README.md` (`run`, `report`).
//! - `aether-bench cell W1 calls 1000`: one cell, as lines of JSON (`cells`, `calls`).
//! - `aether-bench count`: instructions of a turn against those committed (`instructions`).
//! - `aether-bench node`: what a node does besides; `storm`: beside worlds that fail; printed only (`node`, `storm`).
//! - `aether-bench report`: the tables again. `ticks aether 20000 1000`: nothing but ticks, for a profiler.
//!
//! The bare limit (`bare`) is a loop over raw wasmtime with the same modules, slots, metering and host functions: what a program could
//! do that had no worlds, schedulers, grants, limits or engine. Other systems are in `peers/`, a workspace of its own.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and has nobody to report an error to")]

mod bare;
mod calls;
mod cells;
mod guests;
mod instructions;
mod measure;
mod node;
mod peers;
mod plot;
mod product;
mod record;
mod report;
mod run;
mod storm;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["cell", w, who, n] => cells::run(w, who, n.parse()?),
        ["ticks", what, ticks, scripts] => instructions::ticks(what, ticks.parse()?, scripts.parse()?),
        ["count"] => instructions::count(false)?,
        ["count", "--write"] => instructions::count(true)?,
        ["report"] => run::report()?,
        ["node"] => node::run(),
        ["storm"] => storm::run(),
        _ if words.iter().all(|word| word.starts_with('W')) => run::run(&arguments, number("ROUNDS").unwrap_or(5) as u32)?,
        _ => return Err("what is to be measured? See the beginning of bench/src/main.rs".into()),
    }
    Ok(())
}
