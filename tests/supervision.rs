//! Scripts and worlds that end, on a real node: who comes back, with what, and who is left alone.
//!
//! Every test starts a node of its own with a directory of its own. Most scripts are a [`counter`], which counts its ticks in its
//! saved state and writes the count to the log in every tick, so that its lines tell what it came back with. Start with [`town`],
//! [`Saved`] and the first test. Not here: the rules alone (`supervision.rs` of `aether-world-runtime`), hostile scripts in one
//! world (`hostile`), reloads.

use crate::support;
use aether_cluster::config::WorldLimitsOverride;
use aether_cluster::{AskError, Inbound, Node, NodeConfig, NodeEvent, WorldState, WorldStatus};
use aether_scripting::compile::Compiler;
use aether_scripting::instance::InstanceError;
use aether_scripting::output::InboundCall;
use aether_scripting::server_runtime::RuntimeError;
use aether_scripting::{AotTarget, Call, Message, ScriptId, ServerResourcePolicy};
use aether_store::{Batch, Claim, SqliteStore, Store};
use aether_types::WorldId;
use aether_world_runtime::{Ordered, ReloadOrder, ReloadRule, ScriptState, ScriptStatus, Strategy, World, WorldConfig};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A test that waits longer has failed. What is waited for takes a few ticks of 20 ms, a status a second.
const DEADLINE: Duration = Duration::from_secs(20);

/// A script whose state is its count of ticks (at 0) and a mask (at 4). It logs both in every tick. Messages: `add N` sets a bit of
/// the mask, `mine` makes the next tick trap, `trap` traps while it is handled. `head`, `message` and `tick` go in: imports, and
/// code of `on_message` and `on_tick`.
fn counter(head: &str, message: &str, tick: &str) -> String {
    format!(
        r#"(module {head}
  (import "aether:script" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $mine (mut i32) (i32.const 0))
  (data (i32.const 64) "count 000000 mask 0000000000")
  (data (i32.const 100) "k")
  (func (export "aether_abi_1"))
  (func $digits (param $number i32) (param $at i32) (param $end i32)
    (loop $next
      (local.set $end (i32.sub (local.get $end) (i32.const 1)))
      (i32.store8 (local.get $end) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
      (br_if $next (i32.gt_u (local.get $end) (local.get $at)))))
  (func (export "on_tick") (param f32)
    (if (global.get $mine) (then unreachable))
    {tick}
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
    (call $digits (i32.load (i32.const 0)) (i32.const 70) (i32.const 76))
    (call $digits (i32.load (i32.const 4)) (i32.const 82) (i32.const 92))
    (drop (call $log (i32.const 2) (i32.const 64) (i32.const 28))))
  (func (export "on_message") (param $from i64) (param $call i64) (param $at i32) (param $method i32) (param $payload i32)
    (local $first i32) (local $byte i32)
    (local.set $first (i32.load8_u (local.get $at)))
    (local.set $byte (i32.load8_u (i32.add (local.get $at) (local.get $method))))
    (if (i32.eq (local.get $first) (i32.const 116)) (then unreachable)) ;; t
    (if (i32.eq (local.get $first) (i32.const 109)) (then (global.set $mine (i32.const 1)))) ;; m
    (if (i32.eq (local.get $first) (i32.const 97)) ;; a
      (then (i32.store (i32.const 4) (i32.or (i32.load (i32.const 4)) (i32.shl (i32.const 1) (local.get $byte))))))
    {message})
  (func (export "aether_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "save_state") (result i64) (i64.const 8))
  (func (export "restore_state") (param i32 i32 i32) (result i32)
    (i64.store (i32.const 0) (i64.load (local.get 1)))
    (i32.const 0)))"#
    )
}

/// It calls `proc_exit` on `exit`.
fn quitter() -> String {
    let head = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
    counter(head, "(if (i32.eq (local.get $first) (i32.const 101)) (then (call $exit (i32.const 0)))) ;; e\n", "")
}

/// `keep N` writes a number to storage; in every tick the mask is what storage holds.
fn keeper() -> String {
    let head = r#"(import "aether:storage" "get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "aether:storage" "set" (func $set (param i32 i32 i32 i32) (result i32)))"#;
    let keep = "(if (i32.eq (local.get $first) (i32.const 107)) ;; k
      (then
        (i32.store (i32.const 200) (local.get $byte))
        (drop (call $set (i32.const 100) (i32.const 1) (i32.const 200) (i32.const 4)))))";
    counter(head, keep, "(drop (call $get (i32.const 100) (i32.const 1) (i32.const 4) (i32.const 4)))")
}

/// The mask is the world's clock, in milliseconds.
fn clock() -> String {
    let head = r#"(import "aether:script" "time" (func $time (result i64)))"#;
    counter(head, "", "(i32.store (i32.const 4) (i32.wrap_i64 (i64.div_u (call $time) (i64.const 1000000))))")
}

const BROKEN: &str = r#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32) unreachable))"#;

/// A folder of `scripts/`. Lines are counted on, so there must be room for one in every tick.
fn write_script(dir: &Path, name: &str, grants: &str, restart: &str, text: &str) {
    let folder = dir.join("scripts").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.wasm")), support::wasm(text)).unwrap();
    let manifest = format!(
        "name = \"{name}\"\n[grants]\n{grants}\n[limits]\nfuel = 200000\nmemory_mb = 1\non_budget = \"terminate\"\n\
         [limits.rates]\nlog_lines = 1000.0\n[supervision]\nrestart = \"{restart}\"\n"
    );
    std::fs::write(folder.join("script.toml"), manifest).unwrap();
}

/// A `[[world]]` table; scripts with their names in it.
fn world(name: &str, scripts: &[(&str, &str)]) -> String {
    let scripts = scripts.iter().map(|(script, name)| format!("[[world.script]]\nscript = \"{script}\"\nname = \"{name}\"\n"));
    format!("[[world]]\nname = \"{name}\"\n{}", scripts.collect::<String>())
}

/// A directory with every script, and a configuration with these worlds. They tick every 20 ms and are saved only when asked.
fn town(worlds: &str) -> (TempDir, NodeConfig) {
    let dir = tempfile::tempdir().unwrap();
    write_script(dir.path(), "counter", "", "permanent", &counter("", "", ""));
    write_script(dir.path(), "brief", "", "temporary", &counter("", "", ""));
    write_script(dir.path(), "quitter", "syscalls = [\"process\"]", "transient", &quitter());
    write_script(dir.path(), "keeper", "apis = [\"storage\"]\nstorage_namespace = \"keeper\"", "permanent", &keeper());
    write_script(dir.path(), "clock", "", "permanent", &clock());
    write_script(dir.path(), "broken", "", "permanent", BROKEN);
    let text = format!(
        "[node]\ndata_dir = \"data\"\ntick_threads = 2\ninstances_small = 200\ninstances_large = 4\n\
         [server]\naot_cache_dir = \"cache\"\n\
         [limits]\ntick_hz = 50.0\ntick_budget_ms = 15.0\ncheckpoint_seconds = 3600.0\nrestart_backoff_ms = 1\n{worlds}"
    );
    let config = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (dir, config)
}

fn start(dir: &TempDir, config: &NodeConfig) -> Node {
    Node::start(config, dir.path(), Compiler::InProcess, |_| ()).unwrap_or_else(|error| panic!("{error:?}"))
}

/// What a node shows and what happened last, for whoever reads why a test failed.
fn story(node: &Node) -> String {
    let status = node.status();
    let worlds = status.worlds.iter().map(|world| {
        let scripts: Vec<_> = world.scripts.iter().map(|script| (&script.name, &script.state)).collect();
        format!("{} {:?}, generation {}, tick {}: {scripts:?}", world.name, world.state, world.generation, world.tick)
    });
    let (events, _) = node.events().since(0);
    let last = events[events.len().saturating_sub(60)..].iter().map(ToString::to_string);
    worlds.chain(last).collect::<Vec<_>>().join("\n")
}

/// Look until there is something to see.
#[track_caller]
fn until<R>(node: &Node, what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}:\n{}", story(node));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Events so far: what comes later is `since` this.
fn mark(node: &Node) -> u64 {
    node.events().since(u64::MAX).1
}

/// A counter's lines: count and mask.
fn lines(node: &Node, since: u64, world: &str, script: &str) -> Vec<(u32, u32)> {
    let line = |event: NodeEvent| match event {
        NodeEvent::Log { world: of, script: from, text, .. } if of == world && from == script => {
            let (count, mask) = text.strip_prefix("count ")?.split_once(" mask ")?;
            Some((count.parse::<u32>().ok()?, mask.parse::<u32>().ok()?))
        }
        _ => None,
    };
    node.events().since(since).0.into_iter().filter_map(line).collect()
}

/// The newest count; 0: there is none yet.
fn count(node: &Node, world: &str, script: &str) -> u32 {
    lines(node, 0, world, script).last().map_or(0, |(count, _)| *count)
}

/// Wait until a counter has counted so many ticks more.
#[track_caller]
fn goes_on(node: &Node, world: &str, script: &str, ticks: u32) {
    let since = mark(node);
    until(node, &format!("{ticks} ticks of {world}/{script}"), || {
        (lines(node, since, world, script).len() >= ticks as usize).then_some(())
    });
}

/// How a script ended, each time, and whether it was parked.
fn ends(node: &Node, world: &str, script: &str) -> Vec<(String, bool)> {
    let end = |event: NodeEvent| match event {
        NodeEvent::ScriptEnded { world: of, script: who, cause, parked, .. } if of == world && who == script => {
            Some((cause, parked))
        }
        _ => None,
    };
    node.events().since(0).0.into_iter().filter_map(end).collect()
}

/// How a world ended, each time, and whether it was parked.
fn world_ends(node: &Node, world: &str) -> Vec<(String, bool)> {
    let end = |event: NodeEvent| match event {
        NodeEvent::WorldEnded { world: of, cause, parked } if of == world => Some((cause, parked)),
        _ => None,
    };
    node.events().since(0).0.into_iter().filter_map(end).collect()
}

fn status(node: &Node, world: &str) -> Arc<WorldStatus> {
    Arc::clone(&node.watch(world).unwrap().borrow())
}

/// Why a world was parked; empty: it is not.
fn parked_for(status: &WorldStatus) -> &str {
    match &status.state {
        WorldState::Parked { cause } => cause,
        _ => "",
    }
}

/// The next status that is as wanted. One is published each second.
#[track_caller]
fn status_when(node: &Node, world: &str, what: &str, wanted: impl Fn(&WorldStatus) -> bool) -> Arc<WorldStatus> {
    until(node, &format!("{what} in the status of {world}"), || Some(status(node, world)).filter(|status| wanted(status)))
}

/// Why a script is out of the order for good; empty: it is not, or not seen yet.
fn out_for<'a>(status: &'a WorldStatus, name: &str) -> &'a str {
    match status.scripts.iter().find(|script| script.name == name).map(|script| &script.state) {
        Some(ScriptState::Parked { cause } | ScriptState::Finished { cause }) => cause,
        _ => "",
    }
}

#[track_caller]
fn script_of<'a>(status: &'a WorldStatus, name: &str) -> &'a ScriptStatus {
    status.scripts.iter().find(|script| script.name == name).unwrap_or_else(|| panic!("{name} in {:?}", status.scripts))
}

/// What a player sends.
#[track_caller]
fn send(node: &Node, world: &str, script: &str, method: &str, payload: &[u8]) {
    let (script, method, payload) = (script.to_owned(), method.to_owned(), payload.to_vec());
    let call = InboundCall { world: None, from: 7, call: 0, script, method, payload, delivery: 0 };
    assert!(node.send(world, Inbound::Call(call)), "{world} takes no messages:\n{}", story(node));
}

/// A checkpoint, and what counters counted about when it was made.
struct Saved<'a> {
    node: &'a Node,
    world: &'a str,
    /// Events before it.
    since: u64,
    counts: BTreeMap<&'a str, RangeInclusive<u32>>,
}

/// Make a checkpoint, when the scripts have begun to count.
#[track_caller]
fn save<'a>(node: &'a Node, world: &'a str, scripts: &[&'a str], name: Option<&str>) -> Saved<'a> {
    scripts.iter().for_each(|script| goes_on(node, world, script, 3));
    let since = mark(node);
    let before: Vec<_> = scripts.iter().map(|script| count(node, world, script)).collect();
    node.checkpoint(world, name.map(str::to_owned)).unwrap_or_else(|error| panic!("{error}\n{}", story(node)));
    let counts = scripts.iter().zip(before).map(|(script, before)| (*script, before..=count(node, world, script))).collect();
    Saved { node, world, since, counts }
}

impl Saved<'_> {
    /// Until the scripts have counted on, so far that a fall to what was saved cannot be mistaken.
    #[track_caller]
    fn go_on(&self) {
        self.counts.keys().for_each(|script| goes_on(self.node, self.world, script, 10));
    }

    /// Where in a counter's lines since the checkpoint the count falls.
    fn fall(&self, script: &str) -> Option<usize> {
        let lines = lines(self.node, self.since, self.world, script);
        lines.windows(2).position(|two| two[1].0 <= two[0].0)
    }

    /// Wait until a counter counts again from what was saved. Gives the mask of its first line then.
    #[track_caller]
    fn came_back(&self, script: &str) -> u32 {
        let at = until(self.node, &format!("{}/{script} to come back", self.world), || self.fall(script));
        let (first, mask) = lines(self.node, self.since, self.world, script)[at + 1];
        let saved = &self.counts[script];
        // The first lines may be refused: who comes back has no allowances yet.
        let expected = saved.start() + 1..=saved.end() + 3;
        assert!(expected.contains(&first), "{script} came back with {first}, saved was {saved:?}:\n{}", story(self.node));
        mask
    }
}

#[test]
fn a_script_that_traps_comes_back_with_its_last_saved_state() {
    let (dir, config) = town(&world("home", &[("counter", "counter")]));
    let node = start(&dir, &config);
    let saved = save(&node, "home", &["counter"], None);
    saved.go_on();
    send(&node, "home", "counter", "mine", &[]);
    saved.came_back("counter");
    let ends = ends(&node, "home", "counter");
    assert!(matches!(&ends[..], [(cause, false)] if cause.contains("unreachable")), "{ends:?}");
}

#[test]
fn a_script_that_keeps_trapping_is_parked_the_others_go_on_and_an_operator_gives_it_another_chance() {
    let worlds = world("home", &[("counter", "counter"), ("broken", "broken")]) + &world("other", &[("counter", "counter")]);
    let (dir, mut config) = town(&worlds);
    config.limits.restart_intensity = 2;
    let node = start(&dir, &config);
    let first = status_when(&node, "home", "a parked script", |status| out_for(status, "broken").contains("unreachable"));
    assert!(matches!(script_of(&first, "broken").state, ScriptState::Parked { .. }));
    let flags = |ends: &[(String, bool)]| ends.iter().map(|(_, parked)| *parked).collect::<Vec<_>>();
    assert_eq!(flags(&ends(&node, "home", "broken")), [false, false, true], "{}", story(&node));
    assert_eq!((first.parked, script_of(&first, "broken").restarts), (1, 2));

    // What is counted in a status is counted since the one before it.
    let later = status_when(&node, "home", "another second", |status| status.tick > first.tick);
    let broken = script_of(&later, "broken");
    assert_eq!((broken.turns, broken.fuel), (0, 0));
    assert!(script_of(&later, "counter").turns > 0);
    goes_on(&node, "other", "counter", 3);

    assert_eq!(node.resume_script("home", "nobody"), Ok(Ordered::Unknown));
    assert_eq!(node.resume_script("home", "broken"), Ok(Ordered::Done));
    until(&node, "the script to be parked again", || (ends(&node, "home", "broken").len() >= 6).then_some(()));
    assert_eq!(flags(&ends(&node, "home", "broken")), [false, false, true, false, false, true]);
    assert!(ends(&node, "home", "counter").is_empty() && world_ends(&node, "home").is_empty(), "{}", story(&node));
}

#[test]
fn a_script_that_finishes_is_left_if_it_is_transient_and_a_temporary_one_is_left_however_it_ends() {
    let (dir, config) = town(&world("home", &[("counter", "counter"), ("quitter", "quitter"), ("brief", "brief")]));
    let node = start(&dir, &config);
    for script in ["counter", "quitter", "brief"] {
        goes_on(&node, "home", script, 3);
    }
    send(&node, "home", "brief", "mine", &[]);
    send(&node, "home", "quitter", "mine", &[]);
    until(&node, "a transient script to trap", || (ends(&node, "home", "quitter").len() == 1).then_some(()));
    goes_on(&node, "home", "quitter", 3);
    send(&node, "home", "quitter", "exit", &[]);

    let both = |status: &WorldStatus| out_for(status, "quitter") == "finished" && out_for(status, "brief").contains("trapped");
    let seen = status_when(&node, "home", "two scripts that are left", both);
    for (script, restarts) in [("quitter", 1), ("brief", 0)] {
        let script = script_of(&seen, script);
        assert!(matches!(script.state, ScriptState::Finished { .. }) && script.restarts == restarts, "{script:?}");
    }
    let since = mark(&node);
    goes_on(&node, "home", "counter", 20);
    for script in ["quitter", "brief"] {
        assert!(lines(&node, since, "home", script).is_empty(), "{script} runs:\n{}", story(&node));
    }
    assert_eq!((ends(&node, "home", "quitter").len(), ends(&node, "home", "brief").len()), (2, 1), "{}", story(&node));

    assert_eq!(node.resume_script("home", "quitter"), Ok(Ordered::Done));
    goes_on(&node, "home", "quitter", 3);
}

#[test]
fn one_trap_restarts_all_scripts_of_a_world_whose_strategy_says_so() {
    let scripts = [("counter", "a"), ("counter", "b")];
    let (dir, mut config) = town(&(world("all", &scripts) + &world("one", &scripts)));
    config.world[0].limits = Some(WorldLimitsOverride { restart_strategy: Some(Strategy::All), ..Default::default() });
    let node = start(&dir, &config);
    let (all, one) = (save(&node, "all", &["a", "b"], None), save(&node, "one", &["a", "b"], None));
    all.go_on();
    one.go_on();
    for world in ["all", "one"] {
        send(&node, world, "a", "mine", &[]);
    }
    all.came_back("a");
    all.came_back("b");
    one.came_back("a");
    goes_on(&node, "one", "b", 3);
    assert_eq!(one.fall("b"), None, "{}", story(&node));

    let (trapped, with_it) = (ends(&node, "all", "a"), ends(&node, "all", "b"));
    assert!(matches!(&trapped[..], [(cause, false)] if cause.contains("unreachable")), "{trapped:?}");
    assert!(matches!(&with_it[..], [(cause, false)] if cause.contains("ended with a")), "{with_it:?}");
    assert!(ends(&node, "one", "b").is_empty());
    // It does not count against who only went with it.
    let seen = status_when(&node, "all", "a restart", |status| script_of(status, "a").restarts == 1);
    assert_eq!(script_of(&seen, "b").restarts, 0);
}

#[test]
fn a_parked_script_ends_its_world_if_that_escalates_and_a_world_that_keeps_ending_is_parked_while_others_tick() {
    let worlds = world("home", &[("counter", "counter")]) + &world("other", &[("counter", "counter")]);
    let (dir, mut config) = town(&worlds);
    (config.limits.restart_intensity, config.limits.escalate) = (0, true);
    config.node.world_restart_intensity = 1;
    let node = start(&dir, &config);
    let saved = save(&node, "home", &["counter"], None);
    let before = status(&node, "home").generation;
    saved.go_on();
    send(&node, "home", "counter", "mine", &[]);
    saved.came_back("counter");
    let second = status_when(&node, "home", "a new generation", |status| status.generation > before);
    assert_eq!((&second.state, second.restarts), (&WorldState::Ticking, 1));
    let ends = ends(&node, "home", "counter");
    assert!(matches!(&ends[..], [(cause, true)] if cause.contains("unreachable")), "{ends:?}");
    let first_end = world_ends(&node, "home");
    assert!(matches!(&first_end[..], [(cause, false)] if cause.contains("counter kept failing")), "{first_end:?}");

    send(&node, "home", "counter", "mine", &[]);
    status_when(&node, "home", "that it is parked", |status| parked_for(status).contains("unreachable"));
    assert!(matches!(&world_ends(&node, "home")[..], [_, (_, true)]), "{}", story(&node));
    goes_on(&node, "other", "counter", 10);
    assert!(world_ends(&node, "other").is_empty());

    assert_eq!(node.resume_world("home"), Ok(true));
    goes_on(&node, "home", "counter", 3);
    let third = status_when(&node, "home", "a third generation", |status| status.generation > second.generation);
    assert_eq!(third.state, WorldState::Ticking);
    assert_eq!(node.resume_world("home"), Ok(false), "it is not parked any more");
}

#[test]
fn a_message_that_ends_its_script_twice_is_set_aside_and_the_next_one_is_handled() {
    let (dir, config) = town(&world("home", &[("counter", "counter")]));
    let node = start(&dir, &config);
    let saved = save(&node, "home", &["counter"], None);
    send(&node, "home", "counter", "trap", &[9]);
    send(&node, "home", "counter", "add", &[2]);
    until(&node, "the next message to be handled", || {
        lines(&node, saved.since, "home", "counter").iter().any(|(_, mask)| *mask == 0b100).then_some(())
    });
    let set_aside = node.set_aside("home").unwrap();
    assert_eq!(set_aside.len(), 1, "{set_aside:?}");
    assert_eq!(set_aside[0].script, "counter");
    assert!(set_aside[0].end.to_string().contains("unreachable"), "{set_aside:?}");
    // Bit 62: a player.
    let message = Message { from: 7 | (1 << 62), call: 0, method: "trap".into(), payload: vec![9], delivery: 0 };
    assert_eq!(set_aside[0].call, Call::Message(Box::new(message)));

    goes_on(&node, "home", "counter", 20);
    assert_eq!(ends(&node, "home", "counter").len(), 2, "not a third time:\n{}", story(&node));
    status_when(&node, "home", "a message set aside", |status| status.set_aside == 1);
}

#[test]
fn a_world_whose_actor_is_killed_comes_back_from_its_checkpoint_and_handles_what_waits_in_its_mailbox() {
    const BITS: u8 = 20;
    const ALL: u32 = 0xf_ffff;
    let worlds = world("home", &[("counter", "counter")]) + &world("other", &[("counter", "counter")]);
    let (dir, config) = town(&worlds);
    let node = start(&dir, &config);
    let saved = save(&node, "home", &["counter"], None);
    let before = status(&node, "home").generation;
    saved.go_on();
    let since = mark(&node);
    assert!(node.kill_world("home"));
    (0..BITS).for_each(|bit| send(&node, "home", "counter", "add", &[bit]));
    saved.came_back("counter");
    // In which of its lives it handles one is not said: the old one may have had a last tick.
    until(&node, "every message to be handled", || {
        let handled = lines(&node, since, "home", "counter").iter().fold(0u32, |all, (_, mask)| all | *mask);
        (handled == ALL).then_some(())
    });
    let seen = status_when(&node, "home", "a new generation", |status| status.generation > before);
    assert_eq!((&seen.state, seen.restarts), (&WorldState::Ticking, 1));
    let end = world_ends(&node, "home");
    assert!(matches!(&end[..], [(cause, false)] if cause.contains("killed")), "{end:?}");
    assert!(world_ends(&node, "other").is_empty());
}

#[test]
fn a_restored_checkpoint_brings_back_state_but_not_storage_and_one_that_does_not_exist_is_refused() {
    let (dir, config) = town(&world("home", &[("keeper", "keeper")]));
    let node = start(&dir, &config);
    let saved = save(&node, "home", &["keeper"], Some("before"));
    let generation = status(&node, "home").generation;
    send(&node, "home", "keeper", "keep", &[7]);
    until(&node, "what was written", || lines(&node, saved.since, "home", "keeper").iter().any(|l| l.1 == 7).then_some(()));
    saved.go_on();

    match node.restore("home", "nothing") {
        Err(AskError::Refused(text)) => assert!(text.contains("\"nothing\"") && text.contains("it has before"), "{text}"),
        other => panic!("{other:?}"),
    }
    goes_on(&node, "home", "keeper", 3);
    assert_eq!(saved.fall("keeper"), None, "a refusal changes nothing:\n{}", story(&node));
    assert!(matches!(node.restore("nowhere", "before"), Err(AskError::Refused(_))));

    assert_eq!(node.restore("home", "before"), Ok(()));
    assert_eq!(saved.came_back("keeper"), 7, "storage is newer than the checkpoint:\n{}", story(&node));
    status_when(&node, "home", "a new generation", |status| status.generation > generation);
    assert!(world_ends(&node, "home").is_empty(), "who is restored has not failed");
}

/// Commit a checkpoint that nobody can read, as the world's owner. No node may run.
fn damage(dir: &TempDir, world: &str, data: &[u8]) {
    let store = SqliteStore::open(&dir.path().join("data")).unwrap();
    let world = WorldId::new(world).unwrap();
    let Claim { generation, commit_seq: after_seq } = store.claim(&world).unwrap();
    let checkpoint = Some(data.to_vec());
    let batch = Batch {
        world,
        generation,
        after_seq,
        writes: Vec::new(),
        messages: Default::default(),
        checkpoint,
        checkpoint_name: None,
    };
    let (done, durable) = std::sync::mpsc::channel();
    store.commit(batch, Box::new(move |result| done.send(result).unwrap())).unwrap();
    durable.recv().unwrap().unwrap();
}

fn newest_checkpoint(dir: &TempDir, world: &str) -> Vec<u8> {
    let store = SqliteStore::open(&dir.path().join("data")).unwrap();
    store.load_checkpoints(&WorldId::new(world).unwrap()).unwrap().swap_remove(0).data
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_used_and_without_any_the_world_is_parked() {
    let worlds = world("home", &[("counter", "counter")]) + &world("other", &[("counter", "counter")]);
    let (dir, mut config) = town(&worlds);
    config.node.world_restart_intensity = 0;
    let refusals = |node: &Node| {
        let texts = node.events().since(0).0.into_iter().map(|event| event.to_string());
        texts.filter(|text| text.starts_with("home/world error: checkpoint") && text.contains("refused")).count()
    };
    let node = start(&dir, &config);
    goes_on(&node, "home", "counter", 5);
    goes_on(&node, "other", "counter", 5);
    let last = count(&node, "home", "counter");
    assert_eq!(node.stop().saved, 2);

    damage(&dir, "home", b"garbage");
    let node = start(&dir, &config);
    goes_on(&node, "home", "counter", 3);
    assert_eq!(refusals(&node), 1, "{}", story(&node));
    let first = lines(&node, 0, "home", "counter")[0].0;
    assert!(first > last, "it went on with {first} after {last}");
    assert_eq!(node.stop().saved, 2);

    // Two are kept: these push out the good ones.
    let good = newest_checkpoint(&dir, "home");
    damage(&dir, "home", &good[..good.len() - 1]);
    damage(&dir, "home", b"garbage");
    let node = start(&dir, &config);
    let parked = |status: &WorldStatus| parked_for(status).contains("2 checkpoints and none can be read");
    assert!(parked(&status(&node, "home")), "{}", story(&node));
    assert_eq!(refusals(&node), 2, "{}", story(&node));
    goes_on(&node, "other", "counter", 5);
    let kept = node.checkpoints("home").unwrap();
    assert_eq!(kept.len(), 2, "nothing is thrown away: {kept:?}");

    assert_eq!(node.resume_world("home"), Ok(true));
    until(&node, "it to be parked again", || (world_ends(&node, "home").len() == 2).then_some(()));
    status_when(&node, "home", "that it is parked again", parked);
    assert_eq!(node.checkpoints("home").unwrap(), kept);
    assert!(lines(&node, 0, "home", "counter").is_empty(), "it was not started anew");
}

#[test]
fn a_world_that_nobody_calls_falls_asleep_gives_its_instances_back_and_is_woken_by_a_message() {
    let (dir, mut config) = town(&world("home", &[("counter", "counter")]));
    config.limits.hibernate_seconds = 0.2;
    // Room for its only script: while that has an instance, nobody else can have one.
    config.node.instances_small = 1;
    let node = start(&dir, &config);
    let runtime = node.runtime();
    let nothing = support::wasm(r#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#);
    let artifact = runtime.compile_for(&nothing, AotTarget::host(), 1).unwrap();
    let id = support::fresh_id("nothing");
    let version = runtime.register_artifact(id, artifact).unwrap();
    let module = runtime.load_module(id, version).unwrap();
    let policy = ServerResourcePolicy { memory_cap_mb: 1, ..ServerResourcePolicy::default() };
    until(&node, "the world to have the only instance", || {
        // It keeps awake who gets it.
        send(&node, "home", "counter", "add", &[0]);
        matches!(runtime.execute(&module, &policy), Err(RuntimeError::Instance(InstanceError::Full { .. }))).then_some(())
    });
    status_when(&node, "home", "that it sleeps", |status| status.state == WorldState::Asleep);
    until(&node, "its instance to be gone", || runtime.execute(&module, &policy).ok());

    let since = mark(&node);
    send(&node, "home", "counter", "add", &[3]);
    until(&node, "the message that wakes it to be handled", || {
        lines(&node, since, "home", "counter").iter().any(|(_, mask)| *mask == 0b1001).then_some(())
    });
    let all = lines(&node, 0, "home", "counter");
    assert!(all.windows(2).all(|two| two[1].0 > two[0].0), "it forgot something:\n{}", story(&node));
    assert!(world_ends(&node, "home").is_empty(), "who sleeps has not ended:\n{}", story(&node));
}

/// A tick number that cannot be counted on from makes the tick itself panic, where overflow is checked.
#[cfg(debug_assertions)]
#[test]
fn a_panic_while_a_world_is_ticked_ends_that_world_only() {
    use aether_engine::{Engine, EngineConfig};
    use aether_scripting::Host;
    use aether_types::{Digest, Tick, codec};
    use aether_world_runtime::WorldCheckpoint;

    let worlds = world("home", &[("counter", "counter")]) + &world("other", &[("counter", "counter")]);
    let (dir, mut config) = town(&worlds);
    // More panics than there are tick threads.
    config.node.world_restart_intensity = 2;
    let engine = Engine::new(EngineConfig::default(), []).save(false).unwrap();
    let poisoned = WorldCheckpoint { tick: Tick(u64::MAX), now_ns: 0, next_instance: 1, engine, scripts: Vec::new() };
    // As a world seals its checkpoints: a digest, then schema 2.
    let data = codec::encode(2, &poisoned).unwrap();
    damage(&dir, "home", &[&Digest::of(&data).0[..], &data].concat());
    let node = start(&dir, &config);
    status_when(&node, "home", "that it is parked", |status| parked_for(status).contains("panic: "));
    assert_eq!(world_ends(&node, "home").len(), 3, "{}", story(&node));
    goes_on(&node, "other", "counter", 10);
    assert!(world_ends(&node, "other").is_empty());
}

#[test]
fn an_operators_question_wakes_a_sleeping_world_and_is_answered() {
    let (dir, mut config) = town(&world("home", &[("counter", "counter")]));
    config.limits.hibernate_seconds = 0.2;
    let node = start(&dir, &config);
    status_when(&node, "home", "that it sleeps", |status| status.state == WorldState::Asleep);
    assert_eq!(node.set_aside("home"), Ok(Vec::new()));
}

#[test]
fn a_restored_world_that_ends_goes_on_from_what_was_restored() {
    let (dir, config) = town(&world("home", &[("counter", "counter")]));
    let node = start(&dir, &config);
    let named = save(&node, "home", &["counter"], Some("before"));
    goes_on(&node, "home", "counter", 50);
    save(&node, "home", &["counter"], None);
    assert_eq!(node.restore("home", "before"), Ok(()));
    named.came_back("counter");
    let (since, before) = (mark(&node), status(&node, "home").generation);
    assert!(node.kill_world("home"));
    status_when(&node, "home", "a new generation", |status| status.generation > before);
    goes_on(&node, "home", "counter", 3);
    let lines = lines(&node, since, "home", "counter");
    assert!(lines.windows(2).all(|two| two[1].0 < two[0].0 + 10), "the restore was undone: {lines:?}");
}

#[test]
fn a_finished_script_stays_finished_when_its_world_is_started_again() {
    let (dir, config) = town(&world("home", &[("counter", "counter"), ("quitter", "quitter")]));
    let node = start(&dir, &config);
    goes_on(&node, "home", "quitter", 3);
    send(&node, "home", "quitter", "exit", &[]);
    until(&node, "a script to finish", || (ends(&node, "home", "quitter").len() == 1).then_some(()));
    node.checkpoint("home", None).unwrap();
    let (since, before) = (mark(&node), status(&node, "home").generation);
    assert!(node.kill_world("home"));
    status_when(&node, "home", "a new generation", |status| status.generation > before);
    goes_on(&node, "home", "counter", 10);
    assert!(lines(&node, since, "home", "quitter").is_empty(), "{}", story(&node));
}

#[test]
fn the_clock_of_a_sleeping_world_stands_still() {
    let (dir, mut config) = town(&world("home", &[("clock", "clock")]));
    config.limits.hibernate_seconds = 0.2;
    let node = start(&dir, &config);
    status_when(&node, "home", "that it sleeps", |status| status.state == WorldState::Asleep);
    let slept = Instant::now();
    until(&node, "a second to pass", || (slept.elapsed() > Duration::from_secs(1)).then_some(()));
    let before = lines(&node, 0, "home", "clock").last().unwrap().1;
    let since = mark(&node);
    send(&node, "home", "clock", "hello", &[]);
    let after = until(&node, "it to wake", || lines(&node, since, "home", "clock").first().map(|(_, ms)| *ms));
    assert!(after - before < 500, "the clock went from {before} ms to {after} ms");
}

#[test]
fn messages_wait_for_a_script_that_is_restarted_before_it_was_ever_saved() {
    let (dir, config) = town(&world("home", &[("counter", "counter")]));
    let node = start(&dir, &config);
    goes_on(&node, "home", "counter", 3);
    let since = mark(&node);
    send(&node, "home", "counter", "trap", &[9]);
    send(&node, "home", "counter", "add", &[2]);
    until(&node, "the next message to be handled", || {
        lines(&node, since, "home", "counter").iter().any(|(_, mask)| *mask == 0b100).then_some(())
    });
}

#[test]
fn a_save_state_that_traps_in_a_rehearsal_ends_its_script_only() {
    let text = r#"(module (memory (export "memory") 1) (func (export "aether_abi_1")) (func (export "on_tick") (param f32))
        (func (export "save_state") (result i64) unreachable))"#;
    for pause in support::MODES {
        let mut world = World::new(WorldConfig::new(WorldId::new("test").unwrap()), Box::new(support::engine()));
        support::add(&mut world, "script", "thing", support::manifest(pause), text).unwrap();
        support::run(&mut world, 2);
        let order = ReloadOrder {
            script: ScriptId::new("script").unwrap(),
            version: aether_scripting::Version(2),
            module: support::load(text),
            manifest: Arc::new(support::manifest(pause)),
            rule: ReloadRule::default(),
        };
        let _ = world.rehearsal(&order, 0.05);
        let ends: Vec<_> = support::run(&mut world, 3).into_iter().flat_map(|report| report.ends).collect();
        assert_eq!(ends.len(), 1, "pause {pause}: {ends:?}");
        assert_eq!(support::status_of(&mut world, "script").state, ScriptState::Running);
    }
}

#[test]
fn a_world_that_does_not_tick_says_so_at_once() {
    let (dir, mut config) = town(&world("home", &[("counter", "counter")]));
    config.node.world_restart_intensity = 0;
    let node = start(&dir, &config);
    assert!(node.kill_world("home"));
    status_when(&node, "home", "that it is parked", |status| !parked_for(status).is_empty());
    let asked = Instant::now();
    assert_eq!(node.set_aside("home"), Err(AskError::Gone("home".into())));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}
