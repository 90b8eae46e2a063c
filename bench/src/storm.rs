//! Worlds without faults beside worlds whose scripts trap a thousand times a second together: whether their ticks take longer for it.
//!
//! One node in this process, many short rounds: in some the scripts trap, in others they begin anew without a trap. Which of two
//! neighbouring rounds is which follows no pattern (Thue and Morse), so what the machine does besides meets both kinds alike. Of each pair
//! comes one ratio, of all pairs the median and the interval that resampling them gives. Start with [`run`].

use crate::measure::{median, quantile};
use crate::node::start;
use aether_cluster::Node;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Of a round; its first part is not measured.
const ROUND: Duration = Duration::from_secs(6);
/// A status is a second old at most, and tells of the second before.
const STATUS: Duration = Duration::from_millis(2_200);
const LOOK: Duration = Duration::from_millis(200);
const BAD_WORLDS: usize = 100;
const GOOD_WORLDS: usize = 10;
const RESAMPLES: usize = 10_000;

/// Traps every 100 ticks in rounds with traps, and else begins anew then; begins anywhere in between. The rounds are those of the world's
/// clock, and so nothing has to be told to anybody.
fn restless() -> String {
    let round = ROUND.as_nanos();
    format!(
        r#"(module
          (import "aether:script" "random" (func $random (result i64)))
          (import "aether:script" "time" (func $time (result i64)))
          (memory (export "memory") 1) (global $n (mut i32) (i32.const 0))
          (func (export "aether_abi_1"))
          (func (export "on_start") (global.set $n (i32.wrap_i64 (i64.rem_u (call $random) (i64.const 100)))))
          (func (export "on_tick") (param f32)
            (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (if (i32.ge_u (global.get $n) (i32.const 100)) (then
              (if (i64.eqz (i64.and (i64.const 1) (i64.popcnt (i64.div_u (call $time) (i64.const {round})))))
                (then (global.set $n (i32.wrap_i64 (i64.rem_u (call $random) (i64.const 100)))))
                (else unreachable))))))"#
    )
}

/// Whether scripts trap in a round: as the script says it.
fn traps(round: u64) -> bool {
    round.count_ones() % 2 == 1
}

/// Works a little.
const WORKER: &str = r#"(module (memory (export "memory") 1) (func (export "aether_abi_1"))
  (func (export "on_tick") (param f32) (local $i i32)
    (loop $l (i32.store (i32.const 8) (local.get $i))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))))"#;

/// What a round gave.
struct Round {
    traps: bool,
    restarts_per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

fn restarts(node: &Node) -> u64 {
    let worlds = node.status().worlds;
    worlds.iter().flat_map(|world| world.scripts.iter()).map(|script| u64::from(script.restarts)).sum()
}

/// The ticks of the worlds without faults from now until `end`, each once.
fn ticks(node: &Node, end: Instant) -> Vec<f64> {
    let (mut seen, mut ticks) = (HashMap::new(), Vec::new());
    while Instant::now() + LOOK < end {
        for world in node.status().worlds.into_iter().filter(|world| world.name.starts_with("good")) {
            if seen.insert(world.name, world.tick) != Some(world.tick) {
                ticks.extend(world.ticks_ns.iter().map(|ns| f64::from(*ns) / 1e3));
            }
        }
        std::thread::sleep(LOOK);
    }
    ticks
}

pub(crate) fn run() {
    let pairs = crate::number("PAIRS").unwrap_or(20);
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("worker", WORKER.to_owned()), ("restless", restless())] {
        let script = dir.path().join("scripts").join(name);
        std::fs::create_dir_all(&script).unwrap();
        std::fs::write(script.join(format!("{name}.wasm")), wat::parse_str(text).unwrap()).unwrap();
        let manifest = format!("name = \"{name}\"\n[limits]\nmemory_mb = 1\nfuel = 100000\non_budget = \"terminate\"\n");
        std::fs::write(script.join("script.toml"), manifest).unwrap();
    }
    let text = format!(
        r#"
        node = {{ name = "bench", data_dir = "data", instances_small = 5000, instances_large = 1, tick_threads = 2 }}
        server = {{ aot_cache_dir = "cache" }}
        limits = {{ tick_hz = 20.0, restart_intensity = 1000, restart_period_seconds = 1.0, checkpoint_seconds = 3600.0 }}
        [[world]]
        name = "bad"
        count = {BAD_WORLDS}
        [[world.script]]
        script = "restless"
        count = 25
        [[world]]
        name = "good"
        count = {GOOD_WORLDS}
        [[world.script]]
        script = "worker"
        count = 100
        "#
    );
    let config = toml::from_str(&text).unwrap();
    // The first start compiles the scripts. Of the second the worlds' clocks begin within `starting` of each other.
    drop(start(dir.path(), &config));
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let begun = Instant::now();
    let node = start(dir.path(), &config);
    let starting = begun.elapsed();
    assert!(starting + STATUS + Duration::from_secs(2) < ROUND, "this machine takes {starting:?} to start the worlds");

    println!("\n## {GOOD_WORLDS} worlds of 100 scripts beside {BAD_WORLDS} of 25 that trap, or begin anew without a trap\n");
    println!("| | restarts a second | p50 us | p99 us (of all ticks of the ten worlds in a round) |\n|---|---|---|---|");
    let mut rounds = Vec::new();
    // The first pair warms up.
    for round in 2..2 * (pairs + 1) {
        let (from, to) = (begun + ROUND * round as u32, begun + ROUND * (round + 1) as u32);
        std::thread::sleep((from + starting + STATUS).saturating_duration_since(Instant::now()));
        let (first, measured) = (restarts(&node), Instant::now());
        let mut ticks = ticks(&node, to);
        let restarts_per_second = (restarts(&node) - first) as f64 / measured.elapsed().as_secs_f64();
        let [p50_us, p99_us] = [0.5, 0.99].map(|q| quantile(&mut ticks, q));
        rounds.push(Round { traps: traps(round), restarts_per_second, p50_us, p99_us });
    }
    for (what, trapping) in [("without traps", false), ("trapping", true)] {
        let of = |value: fn(&Round) -> f64| {
            median(&mut rounds.iter().filter(|round| round.traps == trapping).map(value).collect::<Vec<_>>())
        };
        println!("| {what} | {:.0} | {:.0} | {:.0} |", of(|r| r.restarts_per_second), of(|r| r.p50_us), of(|r| r.p99_us));
    }
    println!(
        "\n| with traps / without, {pairs} pairs of neighbouring rounds | median | 95% of resampled medians | pairs above 1 |\n|---|---|---|---|"
    );
    for (what, value) in [("p50", (|round| round.p50_us) as fn(&Round) -> f64), ("p99", |round| round.p99_us)] {
        let ratios: Vec<f64> = rounds
            .chunks_exact(2)
            .map(|pair| {
                let [with, without] = [true, false].map(|traps| pair.iter().find(|round| round.traps == traps));
                value(with.expect("one of a pair traps")) / value(without.expect("and one does not"))
            })
            .collect();
        let (low, high) = interval(&ratios);
        let above = ratios.iter().filter(|ratio| **ratio > 1.0).count();
        println!("| {what} | {:.3} | {low:.3} to {high:.3} | {above} |", median(&mut ratios.clone()));
    }
}

/// Where 95% of the medians of resampled values are.
fn interval(values: &[f64]) -> (f64, f64) {
    let mut random: u64 = 1;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % values.len()
    };
    let mut resampled = || median(&mut (0..values.len()).map(|_| values[next()]).collect::<Vec<_>>());
    let mut medians: Vec<f64> = (0..RESAMPLES).map(|_| resampled()).collect();
    (quantile(&mut medians, 0.025), quantile(&mut medians, 0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_neighbouring_rounds_one_traps() {
        assert!((0..1_000).all(|pair| traps(2 * pair) != traps(2 * pair + 1)));
        assert!((0..7).any(|pair| traps(2 * pair)) && !(0..7).all(|pair| traps(2 * pair)));
    }

    #[test]
    fn an_interval_holds_what_all_values_agree_in_and_not_what_they_do_not() {
        let near = |n: u32| 1.1 + f64::from(n % 7) / 1_000.0;
        let (low, high) = interval(&(0..40).map(near).collect::<Vec<_>>());
        assert!(1.1 <= low && low <= high && high < 1.107, "{low} to {high}");
        let (low, high) = interval(&(0..40).map(|n| if n % 2 == 0 { 0.8 } else { 1.2 }).collect::<Vec<_>>());
        assert!(low < 1.0 && 1.0 < high, "{low} to {high}");
    }
}
