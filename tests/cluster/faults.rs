//! One thing breaks at a time: a process, a link, the way to the database, the database, a clock. Worlds go on, once.
//!
//! Each test ends with the checker ([`sound`]): nobody ran twice in one generation, nothing that left is lost, every call is applied once
//! and in order. Here is what must besides happen, or must not. Not here: what operators do (`operate.rs`), several faults at once
//! (`chaos.rs`).

use super::disk::SlowDisk;
use super::load::{TICK_HZ, Trap, put_banner};
use super::proxy::Mode;
use super::reload::agree;
use super::rig::{CALM, Cluster, LEASE, NODES, free_port};
use aether_admin::{Client, Request, socket_path};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const WORLDS: usize = 6;

/// All nodes have worlds again, these go on, all calls arrive, and all rules hold.
#[track_caller]
fn sound(mut cluster: Cluster) {
    cluster.settle();
    cluster.deliver();
    cluster.check();
}

/// Ticks in so many leases.
fn ticks_of(leases: u32) -> u64 {
    (LEASE * leases).as_secs() * u64::from(TICK_HZ)
}

/// Worlds that the node itself says that it ticks.
fn ticking(cluster: &Cluster, node: &str) -> Vec<String> {
    let answer = cluster.ask(node, &["list"]).unwrap_or_else(|error| panic!("{error}"));
    let worlds = answer["worlds"].as_array().cloned().unwrap_or_default();
    let ticks = |state: &serde_json::Value| state == "ticking" || state == "held";
    worlds.iter().filter(|world| ticks(&world["state"])).map(|world| world["name"].as_str().unwrap().to_owned()).collect()
}

/// Until the node says that it ticks nothing: it has fenced itself.
#[track_caller]
fn fenced(cluster: &mut Cluster, node: &str) {
    cluster.until(&format!("{node} stops its worlds"), |cluster| ticking(cluster, node).is_empty().then_some(()));
}

#[test]
fn worlds_of_a_node_that_is_killed_go_on_elsewhere_and_nothing_is_lost() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    for victim in NODES {
        let worlds = cluster.worlds_of(victim);
        let others: Vec<_> =
            cluster.generations().into_iter().filter(|(world, _)| !worlds.iter().any(|(w, _)| w == world)).collect();
        let killed = cluster.kill(victim);
        let back = cluster.taken_over(&worlds);
        let times: Vec<_> = back.iter().map(|at| at.duration_since(killed)).collect();
        eprintln!("{victim} killed: its {} worlds were back after {times:?}", worlds.len());
        // Nobody else's world was touched by that.
        let now = cluster.generations();
        assert!(others.iter().all(|(world, generation)| now[world] == *generation), "{others:?}, {now:?}");
        cluster.check();
        cluster.start_node(victim);
        cluster.settle();
    }
    sound(cluster);
}

#[test]
fn a_node_that_is_killed_and_started_again_at_once_takes_its_worlds_back() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    let worlds = cluster.worlds_of("b");
    cluster.kill("b");
    cluster.start_node("b");
    cluster.taken_over(&worlds);
    sound(cluster);
}

#[test]
fn a_node_that_sleeps_longer_than_its_lease_finds_its_worlds_gone_and_joins_as_a_new_one() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    let worlds = cluster.worlds_of("a");
    cluster.freeze("a");
    cluster.taken_over(&worlds);
    cluster.go_on(3);
    cluster.check();
    cluster.thaw("a");
    // What it was about to write or say is refused: the checker sees it. It gets worlds again when it has joined again.
    sound(cluster);
}

#[test]
fn a_node_that_sleeps_less_than_its_lease_goes_on_as_if_nothing_had_been() {
    let mut cluster = Cluster::start(WORLDS, CALM);
    let before = cluster.generations();
    let frozen = cluster.freeze("b");
    let others: Vec<_> = cluster.ring.clone().into_iter().filter(|world| cluster.owner(world) != Some("b")).collect();
    let from: Vec<_> = others.iter().map(|world| cluster.watch.newest(world).1.lines).collect();
    cluster.until("a second of the others", |cluster| {
        let on = |(world, from): (&String, &u64)| cluster.watch.newest(world).1.lines >= from + u64::from(TICK_HZ);
        others.iter().zip(&from).all(on).then_some(())
    });
    assert!(frozen.elapsed() < CALM / 2, "the machine is too slow for this test");
    cluster.thaw("b");
    cluster.go_on(10);
    assert_eq!(cluster.generations(), before);
    sound(cluster);
}

#[test]
fn two_nodes_that_do_not_hear_each_other_take_nothing_from_each_other_and_talk_again_when_they_can() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    for mode in [Mode::Cut, Mode::HOLD, Mode::Hold { up: true, down: false }] {
        let before = cluster.generations();
        cluster.harm_link("a", "b", mode);
        // Much longer than the lease: suspicion alone decides nothing.
        cluster.go_on(ticks_of(3));
        assert_eq!(cluster.generations(), before, "{mode:?}");
        cluster.check();
        cluster.heal();
        cluster.deliver();
    }
    sound(cluster);
}

#[test]
fn a_node_that_nobody_hears_keeps_its_worlds_while_it_has_the_database() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    let before = cluster.generations();
    cluster.harm_link("c", "a", Mode::Cut);
    cluster.harm_link("c", "b", Mode::HOLD);
    cluster.go_on(ticks_of(3));
    assert_eq!(cluster.generations(), before);
    cluster.heal();
    sound(cluster);
}

#[test]
fn a_node_without_the_database_has_stopped_its_worlds_when_others_take_them_and_comes_back_by_itself() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    for (victim, mode) in [("a", Mode::Cut), ("b", Mode::HOLD), ("c", Mode::Hold { up: false, down: true })] {
        let worlds = cluster.worlds_of(victim);
        cluster.harm_database(victim, mode);
        // The first of them that goes on elsewhere: by then the old owner says itself that it ticks none.
        cluster.until(&format!("a world of {victim} goes on elsewhere"), |cluster| {
            worlds.iter().any(|(world, old)| cluster.watch.newest(world).0 > *old).then_some(())
        });
        assert_eq!(ticking(&cluster, victim), Vec::<String>::new(), "{victim}, {mode:?}");
        cluster.taken_over(&worlds);
        cluster.check();
        cluster.heal();
        cluster.settle();
    }
    sound(cluster);
}

#[test]
fn writes_that_the_network_delivers_after_the_successor_began_are_refused() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    for killed in [false, true] {
        let worlds = cluster.worlds_of("b");
        // What it sends to the database from now on is on its way, for a long time.
        cluster.harm_database("b", Mode::Hold { up: true, down: false });
        cluster.until("b has tried to write", |cluster| {
            let old = worlds.iter().all(|(world, _)| {
                let (generation, _) = cluster.watch.newest(world);
                cluster.watch.seen[&(world.clone(), generation)].last.elapsed() > 5 * Duration::from_secs(1) / TICK_HZ
            });
            old.then_some(())
        });
        if killed {
            cluster.kill("b");
        }
        cluster.taken_over(&worlds);
        cluster.go_on(10);
        // Now it arrives.
        cluster.heal();
        cluster.go_on(10);
        cluster.check();
        if killed {
            cluster.start_node("b");
        }
        cluster.settle();
    }
    sound(cluster);
}

#[test]
fn a_short_outage_of_the_database_moves_no_world() {
    let mut cluster = Cluster::start(WORLDS, CALM);
    cluster.clean = false;
    let before = cluster.generations();
    for immediate in [false, true] {
        cluster.database.stop(immediate);
        cluster.database.begin();
        cluster.go_on(10);
        assert_eq!(cluster.generations(), before, "immediate: {immediate}");
        cluster.check();
    }
    sound(cluster);
}

#[test]
fn after_a_long_outage_of_the_database_no_node_buries_the_others() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    cluster.clean = false;
    let before: Vec<_> = NODES.map(|node| (node, cluster.worlds_of(node))).into();
    cluster.database.stop(true);
    // Nobody renews, so all stop their worlds by themselves, and nobody ends.
    for node in NODES {
        fenced(&mut cluster, node);
    }
    let generations = cluster.generations();
    cluster.database.begin();
    let begun = Instant::now();
    cluster.settle();
    eprintln!("all worlds ticked {:?} after the database was back", begun.elapsed());
    for (node, worlds) in before {
        let kept = worlds.iter().filter(|(world, _)| cluster.owner(world) == Some(node)).count();
        assert!(kept > 0, "{node} got none of its worlds back: {worlds:?}\n{}", cluster.picture());
    }
    let now = cluster.generations();
    // Back where it was; once more if it had been given to another node first.
    assert!(now.iter().all(|(world, now)| *now <= generations[world] + 2), "{generations:?}, {now:?}");
    sound(cluster);
}

#[test]
fn a_slow_link_and_a_slow_database_slow_things_down_and_break_nothing() {
    let mut cluster = Cluster::start(WORLDS, LEASE);
    let before = cluster.generations();
    for node in NODES {
        cluster.harm_database(node, Mode::Slow(Duration::from_millis(60)));
    }
    cluster.harm_link("a", "b", Mode::Slow(Duration::from_millis(150)));
    cluster.harm_link("b", "c", Mode::Slow(Duration::from_millis(150)));
    // Leases are renewed beside all that waits.
    cluster.go_on(ticks_of(2));
    assert_eq!(cluster.generations(), before);
    cluster.deliver();
    cluster.heal();
    sound(cluster);
}

#[test]
fn a_slow_disk_under_the_database_slows_things_down_and_moves_no_world() {
    const FLUSH: Duration = Duration::from_millis(150);
    let mut cluster = Cluster::start_on_slow_disk(WORLDS, CALM);
    let before = cluster.generations();
    cluster.database.disk().takes(FLUSH, Duration::ZERO);
    cluster.go_on(ticks_of(2));
    // Operators are told how slow: by each world, on its node.
    for node in NODES {
        let client = Client::new(socket_path(&cluster.dir().join(format!("data-{node}"))));
        let world = cluster.worlds_of(node).remove(0).0;
        cluster.until(&format!("{node} says that commits are slow"), |_| {
            let world = client.ask(&Request::World(world.clone()), &()).unwrap_or_else(|error| panic!("{error}"));
            (world["commit_max_us"].as_f64() >= Some(FLUSH.as_secs_f64() * 1e6)).then_some(())
        });
    }
    // Leases are renewed beside all that waits: this is longer than one.
    let begun = Instant::now();
    cluster.until("more than a lease", |_| (begun.elapsed() > CALM + LEASE).then_some(()));
    cluster.go_on(10);
    assert_eq!(cluster.generations(), before);
    cluster.deliver();
    cluster.database.disk().heal();
    sound(cluster);
}

#[test]
fn a_disk_of_the_database_that_hangs_longer_than_the_leases_stops_all_worlds_and_none_is_lost_or_runs_twice() {
    let mut cluster = Cluster::start_on_slow_disk(WORLDS, LEASE);
    cluster.clean = false;
    cluster.database.disk().hang();
    // Nobody can renew, so all stop their worlds by themselves, and nobody ends.
    for node in NODES {
        fenced(&mut cluster, node);
    }
    cluster.database.disk().heal();
    let healed = Instant::now();
    cluster.settle();
    eprintln!("all worlds ticked {:?} after the disk was well", healed.elapsed());
    sound(cluster);
}

#[test]
fn a_slow_disk_under_a_nodes_cache_delays_what_it_compiles_and_no_tick() {
    let mut cluster = Cluster::prepare(WORLDS, LEASE);
    let disk = SlowDisk::below(&cluster.dir().join("cache-b"), cluster.dir());
    cluster.set_variables("b", &disk.variables());
    for node in NODES {
        cluster.start_process(node);
    }
    cluster.settle();
    let before = cluster.generations();
    // Longer than a lease, for what takes a moment on others.
    disk.takes(LEASE, LEASE / 4);
    let folder = put_banner(cluster.dir(), 2, Trap::Nowhere);
    let mut publish = cluster.begin("b", &["publish", folder.to_str().unwrap()]);
    let begun = Instant::now();
    cluster.go_on(ticks_of(2));
    let status = cluster.until("it is published", |_| publish.ended());
    assert!(status.success(), "{status}\n{}", cluster.logs());
    assert!(begun.elapsed() > LEASE, "its disk was not slow");
    assert_eq!(agree(&mut cluster), 2);
    assert_eq!(cluster.generations(), before);
    disk.heal();
    sound(cluster);
}

#[test]
fn a_second_process_of_a_name_or_a_data_directory_is_refused_and_the_first_goes_on() {
    let mut cluster = Cluster::start(WORLDS, CALM);
    let before = cluster.generations();
    // The same file: name and data directory.
    let file = cluster.dir().join("cluster.toml");
    let refused = cluster.second("a", &file);
    assert!(!refused.is_empty());
    // The same name on another data directory and another port.
    let [old, new] = [cluster.listen("a"), free_port()].map(|port| format!("listen = \"127.0.0.1:{port}\""));
    let text = fs::read_to_string(&file).unwrap().replace("outputs-{node}", "other-{node}").replace(&old, &new);
    let other = cluster.dir().join("other.toml");
    fs::write(&other, text.replace("\"data-a\"", "\"data-other\"")).unwrap();
    let refused = cluster.second("a", &other);
    assert!(refused.contains('a'), "{refused}");
    // Another name on the first one's data directory.
    fs::write(&other, text.replace("name = \"a\"", "name = \"d\"")).unwrap();
    cluster.issue("d");
    let refused = cluster.second("d", &other);
    assert!(!refused.is_empty());
    cluster.go_on(10);
    assert_eq!(cluster.generations(), before);
    sound(cluster);
}

#[test]
fn a_clock_that_is_set_moves_no_world() {
    let Some(library) = faketime() else {
        return eprintln!("skipped: libfaketime is not installed (apt-get install libfaketime)");
    };
    let mut cluster = Cluster::prepare(WORLDS, LEASE);
    let clock = cluster.dir().join("clock");
    let set = |offset: &str| {
        // The library may look at any moment: whole or not at all.
        fs::write(clock.with_extension("new"), offset).unwrap();
        fs::rename(clock.with_extension("new"), &clock).unwrap();
    };
    set("+0");
    let variables = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        // Only what `date -s` would set.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    cluster.set_variables("b", &variables);
    for node in NODES {
        cluster.start_node(node);
    }
    cluster.settle();
    let before = cluster.generations();
    for offset in ["+3600", "-3600"] {
        set(offset);
        cluster.go_on(ticks_of(2));
        assert_eq!(cluster.generations(), before, "{offset}");
        // A new link under that clock: certificates are as good an hour ago.
        cluster.harm_link("a", "b", Mode::Cut);
        cluster.heal();
        cluster.deliver();
    }
    sound(cluster);
}

fn faketime() -> Option<&'static str> {
    let known = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib64/faketime/libfaketime.so.1",
    ];
    known.into_iter().find(|path| Path::new(path).exists())
}
