//! A version that is published on one node comes into all worlds of all nodes, or into none, whoever dies on the way.
//!
//! Which version a world runs is what its banner shows: its mark. Not here: reloads of one node (`tests/reload.rs`).

use super::load::{TICK_HZ, Trap, put_banner};
use super::rig::{CALM, Cluster, LEASE, NODES};
use crate::records::is_long;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Publish a version of the banner on a node.
fn publish(cluster: &Cluster, node: &str, mark: u32, trap: Trap) -> Result<serde_json::Value, String> {
    let folder = put_banner(cluster.dir(), mark, trap);
    cluster.ask(node, &["publish", folder.to_str().unwrap()])
}

/// What the worlds show now.
fn marks(cluster: &Cluster) -> BTreeSet<u64> {
    cluster.ring.iter().map(|world| cluster.watch.newest(world).1.mark).collect()
}

/// All worlds show one mark, and still do when they have been watched after a reload (60 ticks); gives it.
#[track_caller]
pub fn agree(cluster: &mut Cluster) -> u64 {
    let mut since = (BTreeSet::new(), Instant::now());
    let long = Duration::from_secs(80) / TICK_HZ;
    cluster.until("all worlds run one version", |cluster| {
        let now = marks(cluster);
        if now != since.0 {
            since = (now, Instant::now());
        }
        (since.0.len() == 1 && since.1.elapsed() > long).then(|| *since.0.first().unwrap())
    })
}

/// The version of the banner that each node says is active: one.
#[track_caller]
fn active(cluster: &Cluster) -> u64 {
    let of = |node: &str| {
        let versions = cluster.ask(node, &["versions"]).unwrap_or_else(|error| panic!("{error}"));
        let rows = versions.as_array().cloned().unwrap_or_default();
        let active = rows.iter().find(|row| row["script"] == "banner" && row["active"] == true).cloned();
        active.and_then(|row| row["version"].as_u64()).unwrap_or_else(|| panic!("{node} has no active banner: {versions}"))
    };
    let versions: BTreeSet<_> = cluster.running().into_iter().map(of).collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    versions.into_iter().next().unwrap()
}

#[track_caller]
fn sound(mut cluster: Cluster) {
    cluster.settle();
    cluster.deliver();
    cluster.check();
}

#[test]
fn a_version_published_on_one_node_comes_into_the_worlds_of_all_and_a_bad_one_into_none() {
    let mut cluster = Cluster::start(6, CALM);
    assert_eq!(agree(&mut cluster), 1);
    let (first, generations, begin) = (active(&cluster), cluster.generations(), Instant::now());
    publish(&cluster, "b", 2, Trap::Nowhere).unwrap_or_else(|error| panic!("{error}"));
    cluster.until("all worlds show the new mark", |cluster| (marks(cluster) == [2].into()).then_some(()));
    eprintln!("swapped in all worlds {:?} after it was published", begin.elapsed());
    assert_eq!(agree(&mut cluster), 2);
    let second = active(&cluster);
    assert!(second > first);

    // Refused when it is tried out, and when it is watched.
    for (mark, trap) in [(3, Trap::InRestore), (4, Trap::InTick)] {
        let refused = publish(&cluster, "c", mark, trap);
        assert!(refused.is_err(), "{trap:?}: {refused:?}");
        assert_eq!(agree(&mut cluster), 2, "{trap:?}");
        assert_eq!(active(&cluster), second);
    }
    let back = cluster.ask("a", &["rollback", "banner"]);
    assert!(back.is_ok(), "{back:?}");
    assert_eq!(agree(&mut cluster), 1);
    // No world was restarted for any of this.
    assert_eq!(cluster.generations(), generations);
    sound(cluster);
}

#[test]
fn a_canary_is_tried_out_in_so_many_worlds_and_only_a_good_one_comes_into_the_others() {
    let mut cluster = Cluster::start(6, CALM);
    assert_eq!(agree(&mut cluster), 1);
    // What each world has shown of a version that comes to an end in its ticks.
    let bad = put_banner(cluster.dir(), 7, Trap::Later);
    let mut command = cluster.begin("a", &["publish", bad.to_str().unwrap(), "--canary", "2"]);
    let mut tried = BTreeSet::new();
    let status = cluster.until("the bad version is given up", |cluster| {
        tried.extend(cluster.ring.iter().filter(|world| cluster.watch.newest(world).1.mark == 7).cloned());
        command.ended()
    });
    assert!(!status.success());
    assert_eq!(agree(&mut cluster), 1);
    assert_eq!(tried.len(), 2, "{tried:?}");
    // Of each node in turn.
    let nodes: BTreeSet<_> = tried.iter().map(|world| cluster.owner(world)).collect();
    assert_eq!(nodes.len(), 2, "{tried:?}");

    let good = put_banner(cluster.dir(), 8, Trap::Nowhere);
    let mut command = cluster.begin("b", &["publish", good.to_str().unwrap(), "--canary", "2"]);
    let mut sizes = BTreeSet::new();
    let status = cluster.until("the good version serves", |cluster| {
        sizes.insert(cluster.ring.iter().filter(|world| cluster.watch.newest(world).1.mark == 8).count());
        command.ended()
    });
    assert!(status.success());
    assert!(sizes.contains(&2) && sizes.iter().all(|size| *size <= 2 || *size >= 3), "{sizes:?}");
    assert_eq!(agree(&mut cluster), 8);
    sound(cluster);
}

#[test]
fn a_world_that_is_to_move_during_a_reload_moves_when_that_is_over_and_undoes_nothing() {
    let mut cluster = Cluster::start(6, CALM);
    assert_eq!(agree(&mut cluster), 1);
    let first = active(&cluster);
    let folder = put_banner(cluster.dir(), 2, Trap::Nowhere);
    let mut publish = cluster.begin("b", &["publish", folder.to_str().unwrap()]);
    cluster.until("the version is watched in all worlds", |cluster| (marks(cluster) == [2].into()).then_some(()));
    let (world, old) = cluster.worlds_of("a").remove(0);
    cluster.ask("c", &["move", &world, "c"]).unwrap_or_else(|error| panic!("{error}"));
    let status = cluster.until("it is published", |_| publish.ended());
    assert!(status.success(), "{status}\n{}", cluster.logs());
    cluster.taken_over(&[(world.clone(), old)]);
    cluster.until("it runs where it was moved to", |cluster| (cluster.owner(&world) == Some("c")).then_some(()));
    assert_eq!(agree(&mut cluster), 2);
    assert!(active(&cluster) > first);
    sound(cluster);
}

#[test]
fn native_code_that_one_node_has_compiled_is_fetched_by_the_others() {
    let mut cluster = Cluster::prepare(3, CALM);
    for node in NODES {
        cluster.set_variables(node, &[("AETHER_LOG", "aether_cluster=info")]);
        cluster.start_process(node);
    }
    cluster.settle();
    publish(&cluster, "b", 2, Trap::Nowhere).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(agree(&mut cluster), 2);
    for node in ["a", "c"] {
        assert!(cluster.logged(node, "native code from another node"), "{node} has compiled it itself");
    }
    assert!(!cluster.logged("b", "native code from another node"));
    sound(cluster);
}

#[test]
fn a_node_that_was_away_when_a_version_was_published_starts_with_it() {
    let mut cluster = Cluster::start(6, LEASE);
    let worlds = cluster.worlds_of("c");
    cluster.kill("c");
    cluster.taken_over(&worlds);
    publish(&cluster, "a", 2, Trap::Nowhere).unwrap_or_else(|error| panic!("{error}"));
    cluster.start_node("c");
    cluster.settle();
    assert_eq!(agree(&mut cluster), 2);
    sound(cluster);
}

#[test]
fn a_node_that_dies_during_a_reload_leaves_all_worlds_with_one_version() {
    let mut cluster = Cluster::start(6, LEASE);
    let mut serving = agree(&mut cluster);
    let mut version = active(&cluster);
    // Who is asked (a) coordinates. After so many milliseconds: while it is compiled, prepared, swapped, watched.
    let moments = [("b", 150), ("a", 400), ("a", 0), ("b", 900), ("a", 1_800), ("b", 2_500), ("a", 3_500)];
    let moments = moments.into_iter().take(if is_long() { 7 } else { 2 });
    for (round, (victim, after)) in moments.enumerate() {
        let mark = 10 + round as u32;
        let folder = put_banner(cluster.dir(), mark, Trap::Nowhere);
        let mut command = cluster.begin("a", &["publish", folder.to_str().unwrap()]);
        let (worlds, begun) = (cluster.worlds_of(victim), Instant::now());
        cluster.until("the moment", |_| (begun.elapsed() >= Duration::from_millis(after)).then_some(()));
        cluster.kill(victim);
        // Its operator is told something, in time.
        let told = command.wait("the operator's command");
        cluster.taken_over(&worlds);
        cluster.start_node(victim);
        cluster.settle();
        let agreed = agree(&mut cluster);
        assert!([serving, u64::from(mark)].contains(&agreed), "{agreed}, neither {serving} nor {mark}");
        let now = active(&cluster);
        assert_eq!(now > version, agreed == u64::from(mark), "v{now} after v{version}, and the worlds run {agreed}");
        // Whoever was told that it serves was told the truth.
        assert!(!told.success() || agreed == u64::from(mark), "{victim} after {after} ms: {told}, and the worlds run {agreed}");
        (serving, version) = (agreed, now);
        // Nothing stays open: the next one is not refused because of it.
        cluster.check();
    }
    publish(&cluster, "c", 99, Trap::Nowhere).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(agree(&mut cluster), 99);
    assert_eq!(NODES.to_vec(), cluster.running());
    sound(cluster);
}
