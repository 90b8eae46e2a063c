//! Hot reload on one node: a new version takes the place of the old one in worlds that tick, with its state, or nothing happens.
//!
//! Nodes and scripts are those of [`crate::registry::rig`]. Not here: what the catalogue remembers (`registry`), several nodes.

use crate::rig::*;
use aether_cluster::config::WorldLimitsOverride;
use aether_cluster::{Node, NodeEvent, RegistryError, ReloadReport, Source, WorldSpec, WorldState};
use aether_scripting::Version;
use aether_world_runtime::{ReloadPhase, ScriptState, ScriptStatus};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// One world with the script that keeps its state, mark 1.
fn site(tick_hz: f64) -> Site {
    let site = Site::new([world("arena", tick_hz, &["keeper"])]);
    site.put("keeper", &keeper(1));
    site
}

/// What a script of the arena said of itself since then, without its answers.
fn told(node: &Node, mut seen: u64) -> Vec<String> {
    let told = lines(node, &mut seen).into_iter().filter(|(_, script, text)| script == "keeper" && !text.starts_with("count="));
    told.map(|(_, _, text)| text).collect()
}

/// No world has ended, and all tick.
#[track_caller]
fn assert_worlds_tick(node: &Node) {
    let ended = |event: &NodeEvent| matches!(event, NodeEvent::WorldEnded { .. });
    assert!(!node.events().since(0).0.iter().any(ended), "{}", story(node));
    for world in node.status().worlds {
        assert!(matches!(world.state, WorldState::Ticking), "{}: {:?}\n{}", world.name, world.state, story(node));
    }
}

#[track_caller]
fn assert_rolled_back(node: &Node, outcome: &Result<ReloadReport, RegistryError>) {
    assert!(matches!(outcome, Err(RegistryError::RolledBack { .. })), "{outcome:?}\n{}", story(node));
}

/// Publish on another thread; do something meanwhile, which can ask whether it is over.
fn publish_while<R>(
    node: &Node,
    source: Source,
    meanwhile: impl FnOnce(&dyn Fn() -> bool) -> R,
) -> (Result<ReloadReport, RegistryError>, R) {
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| node.publish(source));
        let done = meanwhile(&|| publishing.is_finished());
        (publishing.join().expect("publishing does not panic"), done)
    })
}

#[test]
fn a_script_keeps_its_state_over_a_reload_and_learns_which_version_saved_it() {
    let site = site(60.0);
    let node = site.start();
    let (mut before, seen) = (ask(&node, "arena", "keeper"), now(&node));
    let mut goes_on = |node: &Node, by: u32, mark: u32| {
        let said = ask(node, "arena", "keeper");
        assert_eq!((said.by, said.mark), (by, mark), "{said:?}\n{}", story(node));
        assert!(said.count > before.count, "{said:?} after {before:?}\n{}", story(node));
        before = said;
    };
    for number in [2, 3] {
        let report = publish(&node, keeper(number));
        assert_eq!((report.script, report.from, report.to), (id("keeper"), Some(Version(number - 1)), Version(number)));
        assert_eq!(report.worlds, 1);
        goes_on(&node, number, number);
    }
    node.rollback(id("keeper"), None).unwrap_or_else(|error| panic!("{error}\n{}", story(&node)));
    goes_on(&node, 2, 2);
    let restored = [(1, 2), (2, 3), (3, 2)].map(|(from, by)| format!("restored from={from:08x} by={by:08x}"));
    assert_eq!(told(&node, seen), restored, "rehearsals are heard by nobody");
    assert_worlds_tick(&node);
    stop(node);

    let node = site.start();
    goes_on(&node, 2, 2);
    assert_eq!(told(&node, 0), ["restored from=00000002 by=00000002"]);
    stop(node);
}

/// Numbers on their way to the keeper of the arena.
#[derive(Default)]
struct Stream {
    sent: u32,
    handled: u32,
    seen: u64,
    /// The versions that handled some.
    by: BTreeSet<u32>,
}

/// A script's inbox holds twice as many.
const UNDER_WAY_MAX: u32 = 32;

impl Stream {
    /// Send one more if it has room, see what was handled.
    fn step(&mut self, node: &Node) {
        for (_, _, text) in lines(node, &mut self.seen) {
            assert!(!text.starts_with("wrong"), "{text}: {} sent\n{}", self.sent, story(node));
            if text.starts_with("ack ") {
                self.handled = number_after(&text, "ack ").unwrap();
                self.by.extend(number_after(&text, "by="));
            }
        }
        if self.sent < self.handled + UNDER_WAY_MAX {
            self.sent += 1;
            assert!(node.send("arena", message("keeper", "number", &self.sent.to_le_bytes())));
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Until so many were handled.
    fn reach(&mut self, node: &Node, handled: u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.handled < handled {
            self.step(node);
            assert!(Instant::now() < deadline, "{} of {} handled\n{}", self.handled, self.sent, story(node));
        }
    }
}

#[test]
fn messages_sent_during_a_reload_are_handled_once_and_in_order() {
    for on_budget in ["pause", "terminate"] {
        let version = |mark| Source { manifest: manifest("keeper", on_budget, FUEL), ..keeper(mark) };
        let site = Site::new([world("arena", 60.0, &["keeper"])]);
        site.put("keeper", &version(1));
        let node = site.start();
        let mut stream = Stream::default();
        stream.reach(&node, 64);
        std::thread::scope(|scope| {
            let publishing = scope.spawn(|| publish(&node, version(2)));
            while !publishing.is_finished() {
                stream.step(&node);
            }
            publishing.join().expect("it is good");
        });
        // Every eighth is acknowledged: so many have been sent, or will be.
        let end = stream.handled + 256;
        stream.reach(&node, end);
        // The script itself says when a number does not follow the last one, whichever version had that.
        assert_eq!(stream.by, BTreeSet::from([1, 2]), "{on_budget}: {} messages", stream.sent);
        let said = until(&node, "the last number", || {
            let said = ask(&node, "arena", "keeper");
            (said.last == stream.sent).then_some(said)
        });
        assert_eq!((said.by, said.mark), (2, 2), "{said:?}");
        let harmed = |event: &NodeEvent| match event {
            NodeEvent::ScriptEnded { .. } => true,
            NodeEvent::Log { text, .. } => text.starts_with("wrong"),
            _ => false,
        };
        assert!(!node.events().since(0).0.iter().any(harmed), "{}", story(&node));
        assert_worlds_tick(&node);
        stop(node);
    }
}

#[test]
fn a_paused_call_finishes_on_the_old_version_before_the_swap() {
    // A quantum a tick: the work takes about seventy.
    let version = |mark| Source { manifest: manifest("keeper", "pause", 50_000), ..keeper(mark) };
    let site = site(30.0);
    site.put("keeper", &version(1));
    let node = site.start();
    let (before, seen) = (ask(&node, "arena", "keeper"), now(&node));
    assert!(node.send("arena", message("keeper", "work", &[])));
    wait_for(&node, seen, "arena", "keeper", "begun");
    publish(&node, version(2));
    let said = ask(&node, "arena", "keeper");
    assert_eq!(told(&node, seen), ["begun by=00000001", "done by=00000001", "restored from=00000001 by=00000002"]);
    assert!(said.by == 2 && said.count > before.count, "{said:?} after {before:?}");
    assert_worlds_tick(&node);
    stop(node);
}

#[test]
fn a_call_that_never_ends_is_cut_off_when_it_has_drained_for_long() {
    let version = |mark| Source { manifest: manifest("keeper", "pause", 50_000), ..keeper(mark) };
    let site = site(60.0);
    site.put("keeper", &version(1));
    let node = site.start();
    let before = ask(&node, "arena", "keeper");
    // What it goes on from: it cannot save in the middle of a call.
    node.checkpoint("arena", None).unwrap();
    let seen = now(&node);
    assert!(node.send("arena", message("keeper", "hang", &[])));
    wait_for(&node, seen, "arena", "keeper", "begun");
    let report = publish(&node, version(2));
    assert!(report.swap_ms >= 1_500, "a hundred ticks take longer than {report:?}");
    let said = ask(&node, "arena", "keeper");
    assert_eq!(told(&node, seen), ["begun by=00000001", "restored from=00000001 by=00000002"]);
    assert!(said.by == 2 && said.count > before.count, "{said:?} after {before:?}");
    assert_worlds_tick(&node);
    stop(node);
}

/// Numbers that a seed decides.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// How many ways [`bad`] knows.
const KINDS: u64 = 17;

/// A version of a script that must not serve, and what the error must say of it.
fn bad(kind: u64, script: &str, random: &mut Random) -> (Source, &'static str) {
    let keeps = script == "keeper";
    let either = random.of(&["pause", "terminate"]);
    let good = Code { keeps, mark: 10 + random.below(1_000_000) as u32, ..Code::default() };
    let made = |on_budget: &str, code: Code| Source { manifest: manifest(script, on_budget, FUEL), wasm: code.wasm() };
    match kind {
        0 => (made(either, Code { start: "unreachable", ..good }), "the start function trapped"),
        1 if keeps => (made(either, Code { restore: "unreachable", ..good }), "restore_state trapped"),
        1 => (made(either, Code { on_start: "unreachable", ..good }), "on_start trapped"),
        2 => (made(either, Code { on_tick: "unreachable", ..good }), "its first on_tick: trapped"),
        // In the ticks in which it is watched.
        3 => {
            let tenth = "(global.set $age (i32.add (global.get $age) (i32.const 1)))
                (if (i32.ge_u (global.get $age) (i32.const 10)) (then unreachable))";
            (made(either, Code { on_tick: tenth, ..good }), "ends within 60 ticks after the swap")
        }
        4 if keeps => (made(either, Code { restore: "(i32.const 1)", ..good }), "restore_state refused the state of version 1"),
        4 => {
            let by_zero = "(drop (i32.div_u (i32.const 1) (global.get $age)))";
            (made(either, Code { on_start: by_zero, ..good }), "on_start trapped")
        }
        5 => (made("pause", Code { on_tick: "(loop (br 0))", ..good }), "a turn takes"),
        6 => (made("terminate", Code { on_tick: "(loop (br 0))", ..good }), "its first on_tick: stopped: out of fuel"),
        7 if keeps => (made(either, Code { restore: "(loop (result i32) (br 0))", ..good }), "restore_state took more than"),
        7 => (made(either, Code { on_start: "(loop (br 0))", ..good }), "on_start took more than"),
        // It ends, but takes thousands of times what the old version took.
        8 => {
            let much = "(local.set $i (i32.const 30000))
                (loop $more (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))";
            (made(either, Code { on_tick: much, ..good }), "a turn takes")
        }
        // The manifest has less than the module needs.
        9 => (made(either, Code { pages: 32, ..good }), "2 MiB of memory, its cap is 1 MiB"),
        // More than any instance of its class can have.
        10 => (made(either, Code { pages: 80, ..good }), "memory"),
        11 => {
            let grows = "(if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable))";
            (made(either, Code { on_tick: grows, ..good }), "its first on_tick: trapped")
        }
        12 => (made(either, Code { imports: "(import \"aether:entity\" \"delete_all\" (func))", ..good }), "does not exist"),
        13 => {
            let denied = "(import \"wasi_snapshot_preview1\" \"random_get\" (func (param i32 i32) (result i32)))";
            (made(either, Code { imports: denied, ..good }), "system call random_get is denied")
        }
        14 => {
            let (from, to, wanted) = random.of(&[
                ("aether_abi_1", "aether_abi_7", "it was written for aether_abi_7"),
                ("(export \"aether_abi_1\")", "", "it was written for no ABI of Aether"),
                ("(export \"on_", "(export \"not_on_", "neither on_start nor on_tick"),
            ]);
            (Source { wasm: good.text().replace(from, to).into_bytes(), ..made(either, good) }, wanted)
        }
        15 => {
            let whole = good.wasm();
            let wasm = match random.below(4) {
                // No section has number 255.
                0 => [&whole[..8], &[255, 100], &(0..100).map(|_| random.below(256) as u8).collect::<Vec<_>>()].concat(),
                1 => whole[..whole.len() - 3].to_vec(),
                2 => (0..100).map(|_| 128 + random.below(128) as u8).collect(),
                _ => good.text().as_bytes()[..200].to_vec(),
            };
            (Source { wasm, ..made(either, good) }, "not a valid module")
        }
        16 => {
            let whole = manifest(script, either, FUEL);
            let manifest = match random.below(4) {
                0 => whole[..whole.len() / 2].to_owned() + "= [",
                1 => whole.replace("fuel", "feul"),
                2 => whole.replace(&format!("fuel = {FUEL}"), "fuel = 7"),
                _ => whole.replace("name = \"", "name = \"The "),
            };
            (Source { manifest, ..made(either, good) }, "script.toml")
        }
        _ => unreachable!("there are {KINDS} kinds"),
    }
}

#[test]
fn bad_versions_never_brick_a_world() {
    let given = std::env::var("AETHER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("AETHER_TEST_SEED={seed}");
    let rounds = if std::env::var_os("AETHER_LONG").is_some() { 200 } else { 40 };
    let mut random = Random(seed);
    let arenas = WorldSpec { count: 2, ..world("arena", 60.0, &["keeper", "plain"]) };
    let site = Site::new([arenas, world("lobby", 60.0, &["plain", "keeper"])]);
    site.put("keeper", &keeper(1));
    site.put("plain", &plain(1));
    let node = site.start();
    let scripts = ["keeper", "plain"];
    let whom: Vec<_> =
        ["arena-1", "arena-2", "lobby"].into_iter().flat_map(|world| scripts.map(|script| (world, script))).collect();
    let mut before = ask_all(&node, &whom);
    let mut tried = [Version(1); 2];
    // Each kind once, then as it comes.
    let mut kinds: Vec<u64> = (0..KINDS).collect();
    for round in 0..rounds {
        let kind = match kinds.len() as u64 {
            0 => random.below(KINDS),
            left => kinds.swap_remove(random.below(left) as usize),
        };
        let which = random.below(2) as usize;
        let script = scripts[which];
        let context = format!("AETHER_TEST_SEED={seed}, round {round}, kind {kind}, {script}");
        let (source, wanted) = bad(kind, script, &mut random);
        let Err(error) = node.publish(source) else { panic!("{context}: it serves now\n{}", story(&node)) };
        assert!(error.to_string().contains(wanted), "{context}: {wanted:?} in {error}\n{}", story(&node));
        if let RegistryError::RolledBack { version, .. } = error {
            assert!(version > tried[which], "{context}: version {version} after {}", tried[which]);
            tried[which] = version;
        }
        for script in scripts {
            assert_eq!((numbers(&node, script), active(&node, script)), (vec![1], Some(1)), "{context}: {script}");
        }
        let after = ask_all(&node, &whom);
        for ((asked, before), after) in whom.iter().zip(&before).zip(&after) {
            let goes_on = after.count > before.count && (after.by, after.mark) == (1, 1);
            assert!(goes_on, "{context}: {asked:?} said {after:?} after {before:?}\n{}", story(&node));
        }
        before = after;
        assert_worlds_tick(&node);
    }
    // Good ones still come in, and find the state.
    for (script, good, tried) in [("keeper", keeper(2), tried[0]), ("plain", plain(2), tried[1])] {
        let report = publish(&node, good);
        assert!(report.to > tried && report.worlds == 3, "{script}: {report:?} after {tried}");
    }
    let after = ask_all(&node, &whom);
    for ((asked, before), after) in whom.iter().zip(&before).zip(&after) {
        assert!(after.mark == 2 && (asked.1 == "plain" || after.count > before.count), "{asked:?}: {after:?} after {before:?}");
    }
    assert_eq!(node.stop().saved, 3);
}

#[test]
fn a_thousand_instances_in_fifty_ticking_worlds_are_replaced() {
    let mut fields = WorldSpec { count: 50, ..world("field", 20.0, &["keeper"]) };
    fields.script[0].count = 20;
    let mut site = Site::new([fields]);
    // Old and new ones beside each other, and those that are tried out.
    site.config.node.instances_small = 2_500;
    site.put("keeper", &keeper(1));
    let node = site.start();
    let names: Vec<_> = (1..=50).flat_map(|w| (1..=20).map(move |s| (format!("field-{w}"), format!("keeper-{s}")))).collect();
    let whom: Vec<_> = names.iter().map(|(world, script)| (world.as_str(), script.as_str())).collect();
    let before = ask_all(&node, &whom);

    let report = publish(&node, keeper(2));
    assert_eq!((report.from, report.to, report.worlds), (Some(Version(1)), Version(2), 50));
    let after = ask_all(&node, &whom);
    for ((asked, before), after) in whom.iter().zip(&before).zip(&after) {
        let goes_on = after.count > before.count && (after.by, after.mark) == (2, 2);
        assert!(goes_on, "{asked:?} said {after:?} after {before:?}\n{}", story(&node));
    }
    let replaced = until(&node, "every status shows version 2", || {
        let worlds = node.status().worlds;
        let good = worlds.iter().all(|world| {
            let new = |script: &ScriptStatus| {
                script.version == Version(2) && script.state == ScriptState::Running && script.restarts == 0
            };
            world.reload.is_none() && world.scripts.len() == 20 && world.scripts.iter().all(new)
        });
        good.then_some(worlds)
    });
    assert_eq!(replaced.len(), 50);
    let slowest = replaced.iter().map(|world| world.tick_max_us).fold(0.0, f64::max);
    let missed: u64 = replaced.iter().map(|world| world.missed_ticks).sum();
    eprintln!(
        "swapped in {} ms; slowest tick of the last second {slowest} µs, budget {} µs; {missed} ticks missed in all",
        report.swap_ms, replaced[0].budget_us
    );
    let ended = |event: &NodeEvent| matches!(event, NodeEvent::ScriptEnded { .. } | NodeEvent::WorldEnded { .. });
    assert!(!node.events().since(0).0.iter().any(ended), "{}", story(&node));
    assert_eq!(node.stop().saved, 50);
}

#[test]
fn a_world_that_is_killed_while_the_new_version_is_watched_rolls_all_back() {
    let site = Site::new(["left", "right"].map(|name| world(name, 30.0, &["keeper"])));
    site.put("keeper", &keeper(1));
    let node = site.start();
    let whom = [("left", "keeper"), ("right", "keeper")];
    let before = ask_all(&node, &whom);
    // It comes back from here.
    node.checkpoint("left", None).unwrap();
    let seen = now(&node);
    let begun = Instant::now();
    let (outcome, ()) = publish_while(&node, keeper(2), |_| {
        wait_for(&node, seen, "left", "keeper", "restored from=00000001 by=00000002");
        assert!(node.kill_world("left"));
    });
    assert_rolled_back(&node, &outcome);
    eprintln!("rolled back after {} ms", begun.elapsed().as_millis());
    for ((asked, before), after) in whom.iter().zip(&before).zip(ask_all(&node, &whom)) {
        assert!(after.count > before.count && (after.by, after.mark) == (1, 1), "{asked:?}: {after:?} after {before:?}");
    }
    assert_eq!((numbers(&node, "keeper"), active(&node, "keeper")), (vec![1], Some(1)));
    let ticks = || node.status().worlds.iter().all(|world| matches!(world.state, WorldState::Ticking));
    until(&node, "both tick", || ticks().then_some(()));
    // Nothing of it stands in the way of the next.
    assert_eq!(publish(&node, keeper(3)).worlds, 2);
    stop(node);
}

#[test]
fn a_world_that_is_killed_after_it_was_well_rolls_all_back_too() {
    // The slow one needs six seconds to watch the new version, the fast one half a second.
    let site = Site::new([world("fast", 120.0, &["keeper"]), world("slow", 10.0, &["keeper"])]);
    site.put("keeper", &keeper(1));
    let node = site.start();
    let whom = [("fast", "keeper"), ("slow", "keeper")];
    let before = ask_all(&node, &whom);
    node.checkpoint("fast", None).unwrap();
    let (outcome, ()) = publish_while(&node, keeper(2), |_| {
        until(&node, "the fast world is done", || {
            let reload = node.watch("fast").unwrap().borrow().reload.clone();
            matches!(reload, Some((_, Version(2), ReloadPhase::Held))).then_some(())
        });
        assert!(node.kill_world("fast"));
    });
    assert_rolled_back(&node, &outcome);
    for ((asked, before), after) in whom.iter().zip(&before).zip(ask_all(&node, &whom)) {
        assert!(after.count > before.count && (after.by, after.mark) == (1, 1), "{asked:?}: {after:?} after {before:?}");
    }
    stop(node);
}

#[test]
fn a_world_that_wakes_during_a_reload_gets_the_new_version_too() {
    let sleeps = WorldLimitsOverride { hibernate_seconds: Some(3.0), ..WorldLimitsOverride::default() };
    let inn = WorldSpec { limits: Some(sleeps), ..world("inn", 20.0, &["keeper"]) };
    let site = Site::new([inn, world("slow", 10.0, &["keeper"])]);
    site.put("keeper", &keeper(1));
    let node = site.start();
    let before = ask(&node, "inn", "keeper");
    let is_asleep = || node.watch("inn").unwrap().borrow().state == WorldState::Asleep;
    until(&node, "the inn sleeps", || is_asleep().then_some(()));
    let seen = now(&node);
    let (outcome, ()) = publish_while(&node, keeper(2), |is_over| {
        wait_for(&node, seen, "slow", "keeper", "restored from=00000001 by=00000002");
        // Awake from now on: it is asked all the time.
        while !is_over() {
            ask(&node, "inn", "keeper");
        }
    });
    outcome.unwrap_or_else(|error| panic!("{error}\n{}", story(&node)));
    let said = until(&node, "the inn runs what the others run", || {
        // Never without a question for long enough to fall asleep and wake with what is active then.
        let said = ask(&node, "inn", "keeper");
        (said.by == 2).then_some(said)
    });
    assert!(said.count > before.count, "{said:?} after {before:?}");
    stop(node);
}

#[test]
fn two_scripts_published_at_once_do_not_harm_each_other() {
    let site = Site::new([world("arena", 30.0, &["keeper", "plain"])]);
    site.put("keeper", &keeper(1));
    site.put("plain", &plain(1));
    let node = site.start();
    let seen = now(&node);
    let (first, second) = publish_while(&node, keeper(2), |_| {
        wait_for(&node, seen, "arena", "keeper", "restored from=00000001 by=00000002");
        node.publish(plain(2))
    });
    assert!(first.is_ok(), "{first:?}, the other's {second:?}\n{}", story(&node));
    assert_eq!(ask(&node, "arena", "keeper").mark, 2);
    let wanted = if second.is_ok() { 2 } else { 1 };
    assert_eq!(ask(&node, "arena", "plain").mark, wanted, "{second:?}");
    assert_eq!(active(&node, "plain"), Some(wanted));
    assert_eq!(publish(&node, plain(3)).worlds, 1);
    stop(node);
}

#[test]
fn an_old_version_that_cannot_save_harms_nobody_and_its_mended_version_comes_in() {
    for on_budget in ["pause", "terminate"] {
        let cannot = Code { save: "unreachable", ..Code::default() };
        let site = Site::new([world("arena", 60.0, &["keeper", "plain"])]);
        site.put("keeper", &Source { manifest: manifest("keeper", on_budget, FUEL), ..source("keeper", cannot) });
        site.put("plain", &plain(1));
        let node = site.start();
        let before = ask(&node, "arena", "plain");
        let mended = || Source { manifest: manifest("keeper", on_budget, FUEL), ..keeper(2) };
        node.plan(mended()).unwrap();
        ask(&node, "arena", "keeper");
        publish(&node, mended());
        assert_eq!(ask(&node, "arena", "keeper").mark, 2);
        let after = ask(&node, "arena", "plain");
        assert!(after.count > before.count, "{on_budget}: {after:?} after {before:?}\n{}", story(&node));
        assert_worlds_tick(&node);
        stop(node);
    }
}

#[test]
fn a_new_version_has_the_grants_of_its_own_manifest() {
    let stores = Code {
        mark: 2,
        imports: "(import \"aether:storage\" \"set\" (func $set (param i32 i32 i32 i32) (result i32)))",
        // Under the key `count`; the code that it gives is written into the line.
        on_x: "(call $hex (i32.const 295) (call $set (i32.const 0) (i32.const 5) (i32.const 0) (i32.const 8)))
            (call $note (i32.const 288) (i32.const 15))",
        ..Code::default()
    };
    let site = site(60.0);
    let node = site.start();
    let plain_manifest = manifest("keeper", "pause", FUEL);
    let granted = format!("{plain_manifest}[grants]\napis = [\"storage\"]\nstorage_namespace = \"shop\"\n");
    publish(&node, Source { manifest: granted, wasm: stores.wasm() });
    let seen = now(&node);
    assert!(node.send("arena", message("keeper", "x", &[])));
    assert_eq!(wait_for(&node, seen, "arena", "keeper", "stored="), "stored=00000000", "0 is done, fffffffd denied");
    // And what is taken away is gone.
    publish(&node, Source { manifest: plain_manifest, wasm: Code { mark: 3, ..stores }.wasm() });
    let seen = now(&node);
    assert!(node.send("arena", message("keeper", "x", &[])));
    assert_eq!(wait_for(&node, seen, "arena", "keeper", "stored="), "stored=fffffffd");
    stop(node);
}

#[test]
fn a_version_that_never_finishes_a_tick_is_rolled_back_however_little_fuel_it_has() {
    let site = site(60.0);
    let node = site.start();
    let before = ask(&node, "arena", "keeper");
    let endless = Code { mark: 2, on_tick: "(loop (br 0))", ..Code::default() };
    let outcome = node.publish(Source { manifest: manifest("keeper", "pause", 20_000), wasm: endless.wasm() });
    assert_rolled_back(&node, &outcome);
    let after = ask(&node, "arena", "keeper");
    assert!(after.count > before.count && after.mark == 1, "{after:?} after {before:?}");
    stop(node);
}

#[test]
fn how_often_a_version_ended_that_was_rolled_back_excuses_no_other() {
    let site = site(60.0);
    let node = site.start();
    let mut random = Random(1);
    for attempt in 1..=6 {
        let before = ask(&node, "arena", "keeper");
        let (source, _) = bad(3, "keeper", &mut random);
        let outcome = node.publish(source);
        assert!(matches!(outcome, Err(RegistryError::RolledBack { .. })), "attempt {attempt}: {outcome:?}\n{}", story(&node));
        let after = ask(&node, "arena", "keeper");
        assert!(after.count > before.count && after.mark == 1, "attempt {attempt}: {after:?} after {before:?}");
    }
    assert_worlds_tick(&node);
    stop(node);
}

#[test]
fn a_world_falls_asleep_after_a_reload_that_was_rolled_back() {
    let sleeps = WorldLimitsOverride { hibernate_seconds: Some(3.0), ..WorldLimitsOverride::default() };
    let site = Site::new([WorldSpec { limits: Some(sleeps), ..world("inn", 20.0, &["keeper"]) }]);
    site.put("keeper", &keeper(1));
    let node = site.start();
    let before = ask(&node, "inn", "keeper");
    let (much, _) = bad(8, "keeper", &mut Random(1));
    assert_rolled_back(&node, &node.publish(much));
    until(&node, "the inn sleeps", || (node.watch("inn").unwrap().borrow().state == WorldState::Asleep).then_some(()));
    let after = ask(&node, "inn", "keeper");
    assert!(after.count > before.count && (after.by, after.mark) == (1, 1), "{after:?} after {before:?}");
    stop(node);
}
