//! What operators do to a cluster that is well: move, drain, restart node by node. Nothing fails, so nothing may be forgotten either: what
//! scripts have only in memory goes on number by number (`clean` in [`super::checker::problems`]).
//!
//! Not here: publishing (`reload.rs`), failures (`faults.rs`).

use super::load::TICK_HZ;
use super::proxy::Mode;
use super::rig::{CALM, Cluster, NODES};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longer than any world may be away while it is handed over, on a machine that also compiles the tests.
const AWAY_MAX: Duration = Duration::from_secs(5);

/// The rows of `aether nodes` or `aether placement`, by name.
pub fn rows(cluster: &Cluster, node: &str, what: &str) -> BTreeMap<String, Value> {
    let answer = cluster.ask(node, &[what]).unwrap_or_else(|error| panic!("{error}"));
    // The list itself, or under its name.
    let list = answer.as_array().or_else(|| answer[what].as_array()).or_else(|| answer["worlds"].as_array());
    let list = list.unwrap_or_else(|| panic!("{what} is no list: {answer}"));
    list.iter().map(|row| (row["name"].as_str().unwrap_or_else(|| panic!("{row}")).to_owned(), row.clone())).collect()
}

#[track_caller]
fn sound(mut cluster: Cluster) {
    cluster.go_on(3);
    cluster.deliver();
    cluster.check();
    assert!(cluster.clean);
}

#[test]
fn worlds_are_spread_and_every_node_says_the_same_of_where_they_are() {
    let mut cluster = Cluster::start(6, CALM);
    for node in NODES {
        let what = format!("{node} knows what is");
        cluster.until(&what, |cluster| {
            let (nodes, worlds) = (rows(cluster, node, "nodes"), rows(cluster, node, "placement"));
            let up = NODES.iter().all(|name| nodes.get(*name).is_some_and(|row| row["state"] == "up"));
            let right = |world: &String| {
                let row = &worlds[world];
                cluster.owner(world).is_some_and(|owner| row["owner"] == owner)
                    && row["generation"] == cluster.watch.newest(world).0
            };
            (up && worlds.len() == cluster.ring.len() && cluster.ring.iter().all(right)).then_some(())
        });
    }
    // Placing what is placed changes nothing.
    let before = cluster.generations();
    assert!(cluster.ask("a", &["plan"]).is_ok());
    cluster.go_on(40);
    assert_eq!(cluster.generations(), before);
    sound(cluster);
}

#[test]
fn a_world_that_is_moved_goes_on_at_once_with_all_it_knows_and_calls_find_it() {
    let mut cluster = Cluster::start(6, CALM);
    // The first carries a MiB of state.
    let world = "w1";
    for _ in 0..3 {
        let (from, before) = (cluster.owner(world).unwrap(), cluster.watch.newest(world).0);
        let to = NODES.into_iter().find(|node| *node != from).unwrap();
        // Another node than the two that it is about may be asked.
        let asked = NODES.into_iter().find(|node| ![from, to].contains(node)).unwrap();
        let answer = cluster.ask(asked, &["move", world, to]).unwrap_or_else(|error| panic!("{error}"));
        cluster.until(&format!("{world} is on {to}: {answer}"), |cluster| (cluster.owner(world) == Some(to)).then_some(()));
        let pause = cluster.watch.pause(world, before).unwrap();
        eprintln!("moved from {from} to {to} with 1 MiB of state: nothing left it for {pause:?}");
        assert!(pause < AWAY_MAX, "{pause:?}");
        cluster.go_on(3);
        cluster.deliver();
        cluster.check();
        let row = &rows(&cluster, asked, "placement")[world];
        assert!(row["pinned"] == true && row["target"] == to, "{row}");
    }
    let before = cluster.generations();
    for bad in [["move", "nowhere", "a"], ["move", "w1", "nobody"]] {
        assert!(cluster.ask("a", &bad).is_err(), "{bad:?}");
    }
    assert!(cluster.ask("a", &["unpin", world]).is_ok());
    cluster.go_on(3);
    assert_eq!(cluster.generations()["w1"], before["w1"]);
    sound(cluster);
}

#[test]
fn a_node_that_is_drained_gives_all_its_worlds_away_and_takes_none_until_it_may_again() {
    let mut cluster = Cluster::start(6, CALM);
    let (worlds, begin) = (cluster.worlds_of("a"), Instant::now());
    cluster.ask("b", &["drain", "a"]).unwrap_or_else(|error| panic!("{error}"));
    cluster.taken_over(&worlds);
    cluster.until("a is empty", |cluster| {
        rows(cluster, "b", "placement").values().all(|row| row["owner"].is_string() && row["owner"] != "a").then_some(())
    });
    eprintln!("drained of {} worlds in {:?}", worlds.len(), begin.elapsed());
    // It is there, and is not used.
    let before = cluster.generations();
    cluster.go_on(2 * u64::from(TICK_HZ));
    assert_eq!((cluster.worlds_of("a"), cluster.generations()), (vec![], before));
    assert_eq!(rows(&cluster, "a", "nodes")["a"]["state"], "draining");
    for (world, _) in &worlds {
        assert!(cluster.watch.longest(world, begin) < AWAY_MAX, "{world}");
    }
    cluster.check();
    cluster.ask("b", &["undrain", "a"]).unwrap_or_else(|error| panic!("{error}"));
    cluster.settle();
    sound(cluster);
}

/// With a variable `OLD_AETHER` that names another build of the program, nodes begin as that one: a rolling upgrade.
#[test]
fn all_nodes_can_be_restarted_one_after_the_other_with_every_world_up() {
    let mut cluster = Cluster::prepare(6, CALM);
    let old = std::env::var_os("OLD_AETHER").map(PathBuf::from);
    for node in NODES {
        cluster.set_binary(node, old.clone());
        cluster.start_process(node);
    }
    cluster.settle();
    let begin = Instant::now();
    for node in NODES {
        let worlds = cluster.worlds_of(node);
        cluster.terminate(node);
        // Nobody waits for its lease to lapse: it has left.
        cluster.taken_over(&worlds);
        cluster.go_on(3);
        cluster.check();
        cluster.set_binary(node, None);
        cluster.start_node(node);
        cluster.settle();
        // Old and new ones understand each other.
        cluster.deliver();
    }
    let away: BTreeMap<_, _> = cluster.ring.iter().map(|world| (world, cluster.watch.longest(world, begin))).collect();
    eprintln!("all three restarted in {:?}; nothing left a world for at most {away:?}", begin.elapsed());
    assert!(away.values().all(|away| *away < AWAY_MAX), "{away:?}");
    sound(cluster);
}

#[test]
fn a_question_about_a_world_is_answered_by_its_node_and_every_other_one_names_that() {
    let cluster = Cluster::start(3, CALM);
    let owner = cluster.owner("w2").unwrap();
    for node in NODES {
        for question in [&["describe", "w2"][..], &["checkpoint", "w2"], &["suspend", "w2", "diary"], &["resume", "w2", "diary"]]
        {
            let answer = cluster.ask(node, question);
            match node == owner {
                true => assert!(answer.is_ok(), "{question:?}: {answer:?}"),
                false => assert!(
                    answer.as_ref().is_err_and(|error| error.contains(&format!("runs on node {owner}"))),
                    "{node}, {question:?}: {answer:?}"
                ),
            }
        }
        assert!(cluster.ask(node, &["describe", "nowhere"]).is_err());
    }
    sound(cluster);
}

#[test]
fn nodes_take_new_certificates_for_their_next_links_without_a_restart() {
    let mut cluster = Cluster::start(3, CALM);
    for round in 0..2 {
        for node in NODES {
            cluster.issue(node);
        }
        if round == 1 {
            // Who has no good one any more is let in by nobody, until it has one again.
            let identity = cluster.dir().join("identity/b");
            let spoiled = fs::read_dir(&identity).unwrap().flatten().map(|entry| entry.path());
            for path in spoiled.filter(|path| path.extension().is_some_and(|extension| extension != "toml")) {
                fs::write(&path, "nothing").unwrap();
            }
        }
        cluster.harm_link("a", "b", Mode::Cut);
        cluster.harm_link("b", "c", Mode::Cut);
        cluster.go_on(5);
        cluster.heal();
        if round == 1 {
            cluster.issue("b");
        }
        cluster.deliver();
        cluster.check();
    }
    cluster.settle();
    cluster.deliver();
    cluster.check();
}

#[test]
fn a_cluster_that_was_stopped_goes_on_where_it_was_to_the_number() {
    let mut cluster = Cluster::start(4, CALM);
    for node in NODES {
        cluster.terminate(node);
    }
    let kept = cluster.check();
    for (world, left) in &cluster.watch.history.worlds {
        let shown = left.newest().and_then(|(_, era)| era.ledger);
        assert_eq!(shown.map(|(_, last)| last), Some(kept[world].counter), "{world}: what was stored last was not let out");
    }
    for node in NODES {
        cluster.start_node(node);
    }
    cluster.settle();
    sound(cluster);
}
