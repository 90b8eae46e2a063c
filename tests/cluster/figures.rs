//! Figures of a cluster: how long failover, moves, drains and reloads take, how many calls go between nodes.
//!
//! `just figures` runs them, each prints its lines, and only nonsense fails: how fast a machine is, is no rule. Start with [`figure`].
//! Everything is seen from outside: what worlds let out is looked at every few milliseconds ([`LOOK`](super::rig::LOOK)), so these times
//! are that coarse; calls are timed by the scripts that make them, on their world's clock, which stands still within a tick. Three nodes,
//! PostgreSQL (without fsync), the proxies and this program share one machine. Not here: one node's figures (`bench`), what must hold.

use super::database::SCHEMA;
use super::load::{TICK_HZ, Trap, put_banner};
use super::operate::rows;
use super::rig::{CALM, Cluster, LEASE, NODES};
use crate::records::{COMMON, NO_STATE, put_script};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// Of the ring of `load.rs`: five scripts each, which write and call every tick; the first has a MiB of state besides.
const WORLDS: usize = 9;
const KILLS: usize = 12;
/// Each waits for a long lease.
const SLOW_KILLS: usize = 4;
const MOVES: usize = 24;
/// A third of them is drained.
const SMALL_WORLDS: usize = 1_500;
/// Nodes say every five seconds what their worlds need: nothing has moved for two such reports.
const REST: Duration = Duration::from_secs(11);
/// Times ten scripts.
const RELOADED_WORLDS: usize = 100;
const RELOADS: u32 = 5;
/// Of a script, fewer than its inbox holds, so that no answer is refused and sent again.
const CALLS_OPEN: usize = 48;
/// Scripts of each world that call.
const CALLERS: usize = 8;
const CALLS_TIME: Duration = Duration::from_secs(10);

/// Nearest rank: of few, the 99th percentile is the longest.
fn percentile<T: Copy>(sorted: &[T], part: usize) -> T {
    sorted[(sorted.len() * part).div_ceil(100) - 1]
}

/// Print what was measured.
#[track_caller]
fn figure(what: &str, mut times: Vec<Duration>) {
    assert!(!times.is_empty(), "{what}: nothing was measured");
    times.sort();
    let [p50, p99, longest] = [50, 99, 100].map(|part| percentile(&times, part).as_secs_f64() * 1e3);
    eprintln!("figure: {what}: median {p50:.0} ms, p99 {p99:.0} ms, longest {longest:.0} ms, n {}", times.len());
}

/// Change the cluster file before any node has read it.
fn edit(cluster: &Cluster, change: impl FnOnce(String) -> String) {
    let path = cluster.dir().join("cluster.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, change(text)).unwrap();
}

fn start(cluster: &mut Cluster) {
    NODES.into_iter().for_each(|node| cluster.start_process(node));
}

/// A cluster of other worlds than a ring: `NAME-1` and so on. `table`: what is in their table besides.
#[track_caller]
fn worlds(name: &str, count: usize, table: &str) -> Cluster {
    let mut cluster = Cluster::prepare(0, CALM);
    cluster.ring = (1..=count).map(|number| format!("{name}-{number}")).collect();
    // Any node may have to take all of them.
    let instances = |text: String| text.replace("instances_small = 200\n", "instances_small = 4000\n");
    let table = format!("[[world]]\nname = \"{name}\"\ncount = {count}\nscripts_dir = \"scripts\"\n{table}");
    edit(&cluster, |text| instances(text) + &table);
    start(&mut cluster);
    cluster.settle();
    rest(&mut cluster);
    cluster
}

/// Until placement has seen what the worlds really need, and moves none any more: a world that leaves its node during a reload ends it.
#[track_caller]
fn rest(cluster: &mut Cluster) {
    let mut since = (cluster.generations(), Instant::now());
    cluster.until("no world is moved any more", |cluster| {
        let now = cluster.generations();
        if now != since.0 {
            since = (now, Instant::now());
        }
        (since.1.elapsed() > REST).then_some(())
    });
}

/// Kill one node after the other; from each kill to the first sign of each of its worlds in its next generation.
#[track_caller]
fn failovers(mut cluster: Cluster, kills: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for victim in NODES.into_iter().cycle().take(kills) {
        let worlds = cluster.worlds_of(victim);
        let killed = cluster.kill(victim);
        times.extend(cluster.taken_over(&worlds).into_iter().map(|at| at.saturating_duration_since(killed)));
        cluster.start_node(victim);
        cluster.settle();
    }
    cluster.deliver();
    cluster.check();
    times
}

#[test]
#[ignore = "a measurement: just figures"]
fn failover_of_a_node_that_is_gone_and_whose_address_refuses() {
    let mut cluster = Cluster::prepare(WORLDS, CALM);
    // No proxy before a node: where it listened, nobody does once it is dead.
    edit(&cluster, |text| text.lines().filter(|line| !line.starts_with("advertise")).map(|line| format!("{line}\n")).collect());
    start(&mut cluster);
    cluster.settle();
    figure("failover after kill -9, the link drops (lease 10 s)", failovers(cluster, KILLS));
}

#[test]
#[ignore = "a measurement: just figures"]
fn failover_by_the_lease_alone() {
    // Somebody still listens at a dead node's address: its proxy.
    for (lease, kills) in [(LEASE, KILLS), (CALM, SLOW_KILLS)] {
        let times = failovers(Cluster::start(WORLDS, lease), kills);
        assert!(times.iter().all(|time| *time > lease / 2), "it was not by the lease: {times:?}");
        figure(&format!("failover after kill -9, by the lease of {lease:?}"), times);
    }
}

#[test]
#[ignore = "a measurement: just figures"]
fn pause_of_a_world_that_is_moved() {
    let mut cluster = Cluster::start(WORLDS, CALM);
    for (world, state) in [("w1", "1 MiB of state"), ("w2", "16 bytes of state")] {
        let mut pauses = Vec::new();
        for _ in 0..MOVES {
            let (from, before) = (cluster.owner(world).unwrap(), cluster.watch.newest(world).0);
            let place = NODES.iter().position(|node| *node == from).unwrap();
            let [to, asked] = [1, 2].map(|step| NODES[(place + step) % NODES.len()]);
            // Not waited for: the world is looked at meanwhile.
            let mut command = cluster.begin(asked, &["move", world, to]);
            cluster.taken_over(&[(world.to_owned(), before)]);
            pauses.push(cluster.watch.pause(world, before).unwrap());
            assert!(cluster.until("the move is told", |_| command.ended()).success());
            cluster.go_on(u64::from(TICK_HZ) / 2);
            assert_eq!(cluster.owner(world), Some(to));
        }
        // From the last tick there to the first one here; without a move it is one.
        let mut ticks: Vec<_> =
            pauses.iter().map(|pause| (pause.as_secs_f64() * f64::from(TICK_HZ) * 10.0).round() / 10.0).collect();
        ticks.sort_by(f64::total_cmp);
        let [p50, p99] = [50, 99].map(|part| percentile(&ticks, part));
        figure(&format!("from the last output to the next of a world that is moved, {state}"), pauses);
        eprintln!("figure: the same in ticks at {TICK_HZ} Hz, where 1 is no pause: median {p50}, p99 {p99}, n {MOVES}");
    }
    cluster.deliver();
    cluster.check();
}

#[test]
#[ignore = "a measurement: just figures"]
fn drain_of_a_node_with_hundreds_of_worlds() {
    let table = "limits = { tick_hz = 5.0, checkpoint_seconds = 30.0 }\n\
                 [[world.script]]\nscript = \"diary\"\n[[world.script]]\nscript = \"receiver\"\n";
    let mut cluster = worlds("s", SMALL_WORLDS, table);
    let (leaving, begun) = (cluster.worlds_of("a"), Instant::now());
    let mut command = cluster.begin("b", &["drain", "a"]);
    let back = cluster.taken_over(&leaving);
    assert!(cluster.until("the drain is told", |_| command.ended()).success());
    assert!(rows(&cluster, "b", "placement").values().all(|row| row["owner"] != "a"));
    let last = back.into_iter().max().map(|at| at.saturating_duration_since(begun));
    let pauses = leaving.iter().map(|(world, before)| cluster.watch.pause(world, *before).unwrap()).collect();
    figure(
        &format!("drain of a node with {} of {SMALL_WORLDS} worlds, until all tick elsewhere", leaving.len()),
        last.into_iter().collect(),
    );
    figure("from the last output to the next of each of these worlds (5 Hz: 200 ms is no pause)", pauses);
    cluster.go_on(5);
}

#[test]
#[ignore = "a measurement: just figures"]
fn reload_over_three_nodes_and_a_thousand_instances() {
    let table = "[[world.script]]\nscript = \"banner\"\ncount = 10\n";
    let mut cluster = worlds("r", RELOADED_WORLDS, table);
    let (mut active, mut reported, mut committed) = (Vec::new(), Vec::new(), Vec::new());
    for mark in 2..2 + RELOADS {
        let folder = put_banner(cluster.dir(), mark, Trap::Nowhere);
        let begun = Instant::now();
        let mut command = cluster.begin("b", &["--output", "json", "publish", folder.to_str().unwrap()]);
        // What the last instance of a world shows counts. That it is swapped last is not promised.
        cluster.until("all worlds show the new mark", |cluster| {
            cluster.ring.iter().all(|world| cluster.watch.newest(world).1.mark == u64::from(mark)).then_some(())
        });
        active.push(begun.elapsed());
        assert!(cluster.until("the reload is told", |_| command.ended()).success(), "{}", cluster.logs());
        committed.push(begun.elapsed());
        let told = fs::read_to_string(cluster.dir().join("commands")).unwrap();
        let report: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        assert_eq!(report["worlds"], RELOADED_WORLDS, "{report}");
        reported.push(Duration::from_millis(report["swap_ms"].as_u64().unwrap()));
        cluster.go_on(u64::from(TICK_HZ));
    }
    let over = format!("{} instances in {RELOADED_WORLDS} worlds on three nodes at {TICK_HZ} Hz", 10 * RELOADED_WORLDS);
    figure(&format!("reload of {over}, from publish until all worlds show it"), active);
    figure("the same, swap_ms of the report", reported);
    figure("the same, until it is watched, committed and the old version let go everywhere", committed);
}

/// Calls its echo as often as it may, a call being a time; counts answers by the milliseconds that they took, in 1,024 numbers of four
/// bytes from 4096, and writes them down now and then. Before them, how many calls are open; all of it is its state.
fn caller(number: usize, target: &str, open: usize) -> String {
    let length = target.len();
    format!(
        r#"(module (import "aether:script" "time" (func $time (result i64))) {COMMON}
  (data (i32.const 0) "o{number}") (data (i32.const 32) "{target}")
  (global $ticks (mut i32) (i32.const 0))
  (func $open (param $more i32) (i32.store (i32.const 4088) (i32.add (i32.load (i32.const 4088)) (local.get $more))))
  (func (export "on_tick") (param f32)
    (block $full (loop $more
      (br_if $full (i32.ge_s (i32.load (i32.const 4088)) (i32.const {open})))
      (i64.store (i32.const 128) (call $time))
      (br_if $full (i64.lt_s (call $rpc (i32.const 32) (i32.const {length}) (i32.const 80) (i32.const 1) (i32.const 128) (i32.const 8))
        (i64.const 0)))
      (call $open (i32.const 1))
      (br $more)))
    (global.set $ticks (i32.add (global.get $ticks) (i32.const 1)))
    (if (i32.eqz (i32.and (global.get $ticks) (i32.const 15)))
      (then (drop (call $set (i32.const 0) (i32.const 2) (i32.const 4096) (i32.const 4096))))))
  (func (export "on_message") (param i64 i64) (param $address i32) (param $method i32) (param $payload i32)
    (local $took i64) (local $at i32)
    (local.set $took (i64.div_u (i64.sub (call $time) (i64.load (i32.add (local.get $address) (local.get $method))))
      (i64.const 1000000)))
    (if (i64.gt_u (local.get $took) (i64.const 1023)) (then (local.set $took (i64.const 1023))))
    (local.set $at (i32.add (i32.const 4096) (i32.shl (i32.wrap_i64 (local.get $took)) (i32.const 2))))
    (i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (i32.const 1)))
    (call $open (i32.const -1)))
  (func (export "save_state") (result i64) (i64.or (i64.shl (i64.const 4088) (i64.const 32)) (i64.const 4104)))
  (func (export "restore_state") (param i32) (param $address i32) (param i32) (result i32)
    (memory.copy (i32.const 4088) (local.get $address) (i32.const 4104))
    (i32.const 0)))"#
    )
}

/// Answers with what it is given.
const ECHO: &str = r#"
  (data (i32.const 80) "e")
  (func (export "on_start"))
  (func (export "on_message") (param i64) (param $call i64) (param $address i32) (param $method i32) (param $payload i32)
    (drop (call $reply (local.get $call) (i32.add (local.get $address) (local.get $method)) (local.get $payload))))"#;

/// Answers so far, by the milliseconds that they took.
#[track_caller]
fn answers(cluster: &Cluster) -> Vec<u64> {
    let sql = format!("SELECT encode(v, 'hex') FROM {SCHEMA}.world_kv WHERE ns = 'sender' AND k LIKE 'o_' AND v IS NOT NULL");
    let mut all = vec![0; 1_024];
    for row in cluster.database.query(&sql).unwrap().lines() {
        for (count, digits) in all.iter_mut().zip(row.as_bytes().chunks_exact(8)) {
            let digits = std::str::from_utf8(digits).unwrap();
            *count += u64::from(u32::from_str_radix(digits, 16).unwrap().swap_bytes());
        }
    }
    all
}

/// A world on each node, whose callers call echoes of the next one.
#[track_caller]
fn calls(what: &str, hz: u32, callers: usize, open: usize) {
    let mut cluster = Cluster::prepare(0, CALM);
    put_script(cluster.dir(), "echo", "on_budget = \"pause\"\nfuel = 1000000", &format!("(module {COMMON} {NO_STATE} {ECHO})"));
    let mut text = String::new();
    for place in 0..NODES.len() {
        let [world, next] = [place, place + 1].map(|place| format!("x{}", place % NODES.len()));
        let budget = 800.0 / f64::from(hz);
        text += &format!(
            "[[world]]\nname = \"{world}\"\nscripts_dir = \"scripts\"\nlimits = {{ tick_hz = {hz}.0, tick_budget_ms = {budget:?} }}\n"
        );
        text += &format!("[[world.script]]\nscript = \"echo\"\nname = \"echo\"\ncount = {}\n", callers + 1);
        for number in 1..=callers {
            let script = format!("sender-{world}-{number}");
            let target = format!("{next}/echo-{number}");
            put_script(cluster.dir(), &script, "on_budget = \"pause\"\nfuel = 1000000", &caller(number, &target, open));
            text += &format!("[[world.script]]\nscript = \"{script}\"\n");
        }
    }
    // Nobody writes down what leaves: that would cost more than the calls.
    edit(&cluster, |file| file.replace("outputs = \"outputs-{node}.jsonl\"\n", "") + &text);
    NODES.into_iter().for_each(|node| cluster.start_node(node));
    for (place, node) in NODES.into_iter().enumerate() {
        let world = format!("x{place}");
        cluster.until(&format!("{world} may go to {node}"), |cluster| cluster.ask("a", &["move", &world, node]).ok());
    }
    cluster.until("each node has its world", |cluster| {
        let worlds = rows(cluster, "a", "placement");
        (0..NODES.len()).all(|place| worlds[&format!("x{place}")]["owner"] == NODES[place]).then_some(())
    });
    let wait = |cluster: &mut Cluster, time: Duration| {
        let begun = Instant::now();
        cluster.until("some time", |_| (begun.elapsed() >= time).then_some(()));
    };
    // What came late because of the moves has come.
    wait(&mut cluster, Duration::from_secs(3));
    let (before, begun) = (answers(&cluster), Instant::now());
    wait(&mut cluster, CALLS_TIME);
    let (after, time) = (answers(&cluster), begun.elapsed());
    let counts: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let all: u64 = counts.iter().sum();
    assert!(all > 0, "{what}: no call was answered\n{}", cluster.logs());
    let within = |part: u64| {
        let mut so_far = 0;
        let reached = |count: &u64| {
            so_far += count;
            so_far >= (all * part).div_ceil(100)
        };
        counts.iter().position(reached)
    };
    let (rate, p50, p99) = (all as f64 / time.as_secs_f64(), within(50).unwrap(), within(99).unwrap());
    eprintln!("figure: {what}: {rate:.0} answered calls a second, round trip median {p50} ms, p99 {p99} ms, n {all}");
}

#[test]
#[ignore = "a measurement: just figures"]
fn calls_between_worlds_on_different_nodes() {
    eprintln!(
        "each call and each answer is durable: a commit where it leaves and one where it is taken, before anybody hears of it"
    );
    calls("a call at a time between each two of three nodes, ticks at 200 Hz", 200, 1, 1);
    let many = format!("{CALLS_OPEN} calls open of each of {CALLERS} scripts on each of three nodes");
    for hz in [20, 100, 200] {
        calls(&format!("{many}, ticks at {hz} Hz"), hz, CALLERS, CALLS_OPEN);
    }
}
