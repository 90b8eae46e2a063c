//! A node in this process: start and stop of worlds, waking one that sleeps, restarting one whose actor is killed.
//!
//! There is no bare limit beside these rows: the parts are printed so that they can be compared with what they are made of (a flushed
//! write, ten instances).

use crate::guests::{MOVER, faster_mover};
use crate::measure::{quantile, resident_kib};
use crate::record::say;
use aether_cluster::{Inbound, Node, NodeConfig, Source, WorldState};
use aether_scripting::compile::Compiler;
use aether_scripting::output::InboundCall;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SCRIPTS: usize = 10;

fn config(dir: &Path, worlds: usize, hibernate_seconds: f64) -> NodeConfig {
    let script = dir.join("scripts/mover");
    std::fs::create_dir_all(&script).unwrap();
    std::fs::write(script.join("mover.wasm"), wat::parse_str(MOVER).unwrap()).unwrap();
    std::fs::write(script.join("script.toml"), "name = \"mover\"\n[limits]\nmemory_mb = 1\non_budget = \"terminate\"\n").unwrap();
    let text = format!(
        r#"
        node = {{ name = "bench", data_dir = "data", instances_small = {}, instances_large = 1, tick_threads = 2 }}
        server = {{ aot_cache_dir = "cache" }}
        limits = {{ tick_hz = 10.0, hibernate_seconds = {hibernate_seconds:.1} }}
        [[world]]
        name = "world"
        count = {worlds}
        [[world.script]]
        script = "mover"
        count = {SCRIPTS}
        "#,
        worlds * SCRIPTS + 500
    );
    toml::from_str(&text).unwrap()
}

pub(crate) fn start(dir: &Path, config: &NodeConfig) -> Node {
    Node::start(config, dir, Compiler::InProcess, |_| ()).unwrap()
}

/// Wait until a world is in a state; gives how long it took.
fn until(node: &Node, world: &str, begun: Instant, wanted: impl Fn(&WorldState) -> bool) -> Duration {
    let watch = node.watch(world).unwrap();
    let deadline = begun + Duration::from_secs(60);
    while !wanted(&watch.borrow().state) {
        assert!(Instant::now() < deadline, "{world}: {:?}", watch.borrow().state);
        std::hint::spin_loop();
    }
    begun.elapsed()
}

fn show(what: &str, mut times: Vec<f64>) {
    let (p50, p99, max) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99), quantile(&mut times, 1.0));
    println!("| {what} | {p50:.2} | {p99:.2} | {max:.2} |");
}

/// W3: what a world of ten scripts takes on a node: actors, store and all.
pub(crate) fn worlds(n: usize) {
    let dir = tempfile::tempdir().unwrap();
    // The first start compiles the script, and makes what is made once.
    let one = start(dir.path(), &config(dir.path(), 1, 0.0));
    until(&one, "world", Instant::now(), |state| *state == WorldState::Ticking);
    let memory = resident_kib();
    one.stop();
    let (other, cpu) = (tempfile::tempdir().unwrap(), process_cpu_us());
    let node = start(other.path(), &config(other.path(), n, 0.0));
    let cpu = process_cpu_us() - cpu;
    for world in 1..=n {
        until(&node, &format!("world-{world}"), Instant::now(), |state| *state == WorldState::Ticking);
    }
    // All have ticked, and the first checkpoints are written.
    std::thread::sleep(Duration::from_secs(3));
    say("W3w", "aether-node", n, "world_start_us", cpu / n as f64);
    say("W3w", "aether-node", n, "world_kib", (resident_kib() - memory) / n as f64);
}

/// CPU time of this process, microseconds.
fn process_cpu_us() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

pub(crate) fn run() {
    let worlds = crate::number("WORLDS").unwrap_or(500) as usize;
    let dir = tempfile::tempdir().unwrap();
    let all = config(dir.path(), worlds, 0.0);
    println!("\n## A node of {worlds} worlds of {SCRIPTS} scripts\n\n| | worlds/s |\n|---|---|");
    // The first start compiles the script.
    drop(start(dir.path(), &config(dir.path(), 1, 0.0)));
    for what in ["first start", "start from checkpoints"] {
        let begun = Instant::now();
        let node = start(dir.path(), &all);
        println!("| {what} | {:.0} |", worlds as f64 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let report = node.stop();
        assert_eq!((report.saved, report.failed), (worlds, vec![]));
        println!("| stop, every world saved and durable | {:.0} |", worlds as f64 / begun.elapsed().as_secs_f64());
    }
    println!("\n| one of 50 worlds, milliseconds | p50 | p99 | longest |\n|---|---|---|---|");
    let node = start(dir.path(), &config(dir.path(), 50, 0.3));
    let names: Vec<_> = (1..=50).map(|n| format!("world-{n}")).collect();
    // It says that it sleeps when it is saved; it is out of memory when that is durable.
    for (what, out_of_memory) in [("that falls asleep", false), ("that is out of memory", true)] {
        let mut wakes = Vec::new();
        for round in 0..200 {
            let name = &names[round % names.len()];
            until(&node, name, Instant::now(), |state| *state == WorldState::Asleep);
            while out_of_memory && node.flight(name).unwrap().events.last().is_none_or(|event| event.text != "it sleeps") {
                std::thread::sleep(Duration::from_millis(1));
            }
            let begun = Instant::now();
            let call = InboundCall {
                world: None,
                from: 1,
                call: 0,
                script: "mover-1".into(),
                method: "hello".into(),
                payload: vec![],
                delivery: 0,
            };
            assert!(node.send(name, Inbound::Call(call)));
            wakes.push(until(&node, name, begun, |state| *state == WorldState::Ticking).as_secs_f64() * 1e3);
        }
        show(&format!("from a message to a world {what} until it ticks"), wakes);
    }
    drop(node);
    let node = start(dir.path(), &config(dir.path(), 50, 0.0));
    let mut backs = Vec::new();
    for name in &names {
        let begun = Instant::now();
        node.kill_world(name);
        until(&node, name, begun, |state| *state != WorldState::Ticking);
        let back = until(&node, name, begun, |state| *state == WorldState::Ticking);
        backs.push(back.as_secs_f64() * 1e3);
    }
    show("from the death of a world's actor until it ticks again, from its checkpoint", backs);
    drop(node);
    reload(dir.path());
}

/// Turns of a second and the longest tick in it, over all worlds.
fn second(node: &Node) -> (u64, f64) {
    std::thread::sleep(Duration::from_millis(1_100));
    (node.status().worlds.iter().map(|world| world.turns).sum(), longest_tick(node))
}

fn longest_tick(node: &Node) -> f64 {
    node.status().worlds.iter().map(|world| world.tick_max_us).fold(0.0, f64::max)
}

/// A thousand instances over a hundred worlds get a new version while they tick.
fn reload(dir: &Path) {
    let mut config = config(dir, 100, 0.0);
    config.node.instances_small = 2_500;
    let node = start(dir, &config);
    second(&node);
    let before: Vec<_> = (0..5).map(|_| second(&node)).collect();
    let manifest = std::fs::read_to_string(dir.join("scripts/mover/script.toml")).unwrap();
    let wasm = wat::parse_str(faster_mover()).unwrap();
    let (mut during, done) = (Vec::new(), AtomicBool::new(false));
    let report = std::thread::scope(|scope| {
        let publish = scope.spawn(|| {
            let report = node.publish(Source { manifest, wasm }).unwrap();
            done.store(true, Ordering::Release);
            report
        });
        // To the end of the second in which the last world let its old instances go.
        while !done.load(Ordering::Acquire) {
            during.push(second(&node));
        }
        during.push(second(&node));
        publish.join().unwrap()
    });
    let after: Vec<_> = (0..5).map(|_| second(&node)).collect();
    let turns = |seconds: &[(u64, f64)]| seconds.iter().map(|(turns, _)| turns).sum::<u64>() / seconds.len() as u64;
    let longest = |seconds: &[(u64, f64)]| seconds.iter().map(|(_, us)| *us).fold(0.0, f64::max);
    println!("\n| a new version for 1,000 instances in 100 ticking worlds | before | during | after |\n|---|---|---|---|");
    println!("| turns in a second | {} | {} | {} |", turns(&before), turns(&during), turns(&after));
    println!("| longest tick, us of 8,000 | {:.0} | {:.0} | {:.0} |", longest(&before), longest(&during), longest(&after));
    println!("| from the first rehearsal to the last swap, ms | | {} | |", report.swap_ms);
}
