//! Aether beside the bare limit, in one run: `cargo run --release -p aether-bench [PART …]`.
//!
//! The bare limit is a loop over raw wasmtime with the same module, slots, metering and host functions: what a program could do
//! that had no worlds, schedulers, grants, limits or engine. Times are CPU time of the thread; rounds of the rows of a table are
//! interleaved, the median counts, and the ratio is what to trust on a shared machine.
//! Parts: tick, pause, start, runaway, node, storm, float. Not here: peers other than wasmtime.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and has nobody to report an error to")]

mod bare;
mod float;
mod node;
mod product;

use std::fmt::Display;

/// CPU time of this thread, nanoseconds.
fn cpu_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q) as usize]
}

/// Runs the rows of a table in turn, `rounds` times; each gives nanoseconds of one operation.
fn interleave(rounds: usize, rows: &mut [&mut dyn FnMut() -> f64]) -> Vec<f64> {
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..rounds {
        for (row, times) in rows.iter_mut().zip(&mut times) {
            times.push(row());
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Instances that a pool must hold. A profiler may not bear many mappings: `SCRIPTS` bounds them.
fn slots() -> u32 {
    number("SCRIPTS").unwrap_or(10_000) as u32 + 1_500
}

fn row(name: impl Display, ns: f64, bare: f64) {
    println!("| {name} | {ns:.1} | {:.2} |", ns / bare);
}

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    if wanted("tick") {
        tick(false);
    }
    if wanted("pause") {
        tick(true);
    }
    if parts.iter().any(|p| p == "profile") {
        // For a profiler: nothing but ticks of the product, or of the bare loop.
        let pause = parts.iter().any(|p| p == "fibres");
        let (ticks, scripts) = (number("TICKS").unwrap_or(20_000), number("SCRIPTS").unwrap_or(1_000));
        if parts.iter().any(|p| p == "bare") {
            let mut bare = bare::World::new(scripts as usize, pause);
            (1..=ticks).for_each(|_| bare.tick());
            return;
        }
        let mut world = product::world(scripts as usize, pause, product::MOVER);
        // Under valgrind the CPU clock of a thread is not to be had.
        let started = std::time::Instant::now();
        let mut clock = || started.elapsed().as_nanos() as u64 / 100;
        (1..=ticks).for_each(|tick| drop(world.tick(tick * 50_000_000, 0.05, &mut clock)));
        return;
    }
    if wanted("start") {
        start();
    }
    if wanted("runaway") {
        runaway();
    }
    if wanted("node") {
        node::run();
    }
    if wanted("storm") {
        node::storm();
    }
    if wanted("float") {
        float::run();
    }
}

fn tick(pause: bool) {
    println!(
        "\n## Tick, two host calls a script, {} (ns a script)\n",
        if pause { "pause mode: every script on a fibre" } else { "terminate mode: synchronous" }
    );
    println!("| scripts | bare wasmtime | Aether: world, scheduler, engine | ratio | turns missed |\n|---|---|---|---|---|");
    // One size by `SCRIPTS=N`, for profilers.
    let sizes = number("SCRIPTS").map_or(vec![100usize, 1_000, 10_000], |n| vec![n as usize]);
    for scripts in sizes {
        let mut bare = bare::World::new(scripts, pause);
        let mut world = product::world(scripts, pause, product::MOVER);
        let ticks = (200_000 / scripts).max(5);
        let mut now = 0;
        // Warm up: first turns start the scripts and fault their pages in, more than a tick holds of ten thousand.
        let mut settled = 0;
        while settled < 20 {
            now += 50_000_000;
            let deferred = world.tick(now, 0.05, &mut cpu_ns).close.deferred;
            settled = if deferred == 0 { settled + 1 } else { 0 };
            bare.tick();
            assert!(now < 50_000_000 * 5_000, "the world does not settle");
        }
        let mut bare_row = || {
            let t = cpu_ns();
            for _ in 0..ticks {
                bare.tick();
            }
            (cpu_ns() - t) as f64 / (ticks * scripts) as f64
        };
        let mut ran = 0;
        let mut world_row = || {
            let t = cpu_ns();
            for _ in 0..ticks {
                now += 50_000_000;
                ran += world.tick(now, 0.05, &mut cpu_ns).close.ran as usize;
            }
            (cpu_ns() - t) as f64 / (ticks * scripts) as f64
        };
        let rounds = 21;
        let times = interleave(rounds, &mut [&mut bare_row, &mut world_row]);
        let missed = rounds * ticks * scripts - ran;
        println!("| {scripts} | {:.1} | {:.1} | {:.2} | {missed} |", times[0], times[1], times[1] / times[0]);
    }
}

fn start() {
    println!("\n## Start of an instance from a loaded artifact, and its end (ns each, 500 at a time)\n");
    println!("| | ns | ratio |\n|---|---|---|");
    for pause in [false, true] {
        let bare = bare::Starter::new(pause);
        let starter = product::Starter::new(pause);
        let n = 500;
        let mut bare_row = || {
            let t = cpu_ns();
            let live: Vec<_> = (0..n).map(|_| bare.start()).collect();
            drop(live);
            (cpu_ns() - t) as f64 / f64::from(n)
        };
        let mut product_row = || {
            let t = cpu_ns();
            let live: Vec<_> = (0..n).map(|_| starter.start()).collect();
            drop(live);
            (cpu_ns() - t) as f64 / f64::from(n)
        };
        bare_row();
        product_row();
        let times = interleave(41, &mut [&mut bare_row, &mut product_row]);
        let mode = if pause { "pause" } else { "terminate" };
        row(format!("bare: Store + InstancePre + exports, {mode}"), times[0], times[0]);
        row(format!("Aether: ScriptInstance::build, {mode}"), times[1], times[0]);
    }
}

fn runaway() {
    println!("\n## A runaway loop among 1,000 scripts (µs of CPU time, 400 ticks of 8 ms)\n");
    println!("| | tick p50 | tick p99 | longest | over budget, p99 | neighbours that missed a turn |\n|---|---|---|---|---|---|");
    for (name, pause, bad) in [
        ("none, terminate", false, false),
        ("runaway, terminate", false, true),
        ("none, pause", true, false),
        ("runaway, pause", true, true),
    ] {
        let mut world = product::world(1_000, pause, product::MOVER);
        if bad {
            product::add(&mut world, "runaway", pause, product::RUNAWAY);
        }
        let (mut times, mut over, mut missed) = (Vec::new(), Vec::new(), 0);
        for tick in 1..=420u64 {
            let t = cpu_ns();
            let report = world.tick(tick * 50_000_000, 0.05, &mut cpu_ns);
            if tick > 20 {
                times.push((cpu_ns() - t) as f64 / 1e3);
                over.push(report.close.overrun_ns as f64 / 1e3);
                missed += 1_000usize.saturating_sub(report.close.ran as usize);
            }
        }
        let (p50, p99, max) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99), quantile(&mut times, 1.0));
        println!("| {name} | {p50:.1} | {p99:.1} | {max:.1} | {:.1} | {missed} |", quantile(&mut over, 0.99));
    }
}
