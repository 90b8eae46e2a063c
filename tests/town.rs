//! The sample worlds as a node runs them: they tick, nobody crashes, and after a stop they go on where they were.

use crate::support::root;
use aether_cluster::{Node, NodeConfig, NodeEvent, NodeStatus, WorldState};
use aether_scripting::compile::Compiler;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn base() -> PathBuf {
    root().join("cluster-config")
}

/// Every cluster file that is a node's.
fn configs() -> Vec<(PathBuf, NodeConfig)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(base()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if toml::from_str::<toml::Table>(&text).unwrap().contains_key("node") {
            let config = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push((path, config));
        }
    }
    found
}

/// The file of the sample worlds, with state and cache in a directory of the test's own.
fn dev(dir: &Path) -> NodeConfig {
    let (_, mut config) = configs().into_iter().find(|(path, _)| path.ends_with("dev.toml")).unwrap();
    config.node.data_dir = dir.join("data");
    config.server.aot_cache_dir = dir.join("cache");
    (config.node.instances_small, config.node.instances_large) = (200, 20);
    config.node.tick_threads = 2;
    config
}

fn start(config: &NodeConfig) -> Node {
    Node::start(config, &base(), Compiler::InProcess, |_| ()).unwrap_or_else(|error| panic!("{error:?}"))
}

/// What was seen while a node ran.
#[derive(Default)]
struct Seen {
    /// Turns and pauses by world and script.
    scripts: BTreeMap<(String, String), (u32, u32)>,
    last: NodeStatus,
}

/// Look at a node until each of its worlds has ticked this often since `after`.
fn watch(node: &Node, after: &BTreeMap<String, u64>, ticks: u64) -> Seen {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut seen = Seen::default();
    let mut counted = BTreeSet::new();
    loop {
        seen.last = node.status();
        for world in &seen.last.worlds {
            assert!(
                !matches!(world.state, WorldState::Restarting { .. } | WorldState::Parked { .. }),
                "{} ended: {:?}",
                world.name,
                world.state
            );
            // A status counts since the one before it: each once.
            if counted.insert((world.name.clone(), world.tick)) {
                for script in world.scripts.iter() {
                    let (turns, pauses) = seen.scripts.entry((world.name.clone(), script.name.clone())).or_default();
                    (*turns, *pauses) = (*turns + script.turns, *pauses + script.pauses);
                }
            }
        }
        let done = |world: &aether_cluster::WorldStatus| world.tick >= after.get(&world.name).copied().unwrap_or(0) + ticks;
        if seen.last.worlds.iter().all(done) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "{:?}",
            seen.last.worlds.iter().map(|world| (&world.name, world.tick)).collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ends(node: &Node) -> Vec<NodeEvent> {
    let bad = |event: &NodeEvent| matches!(event, NodeEvent::ScriptEnded { .. } | NodeEvent::WorldEnded { .. });
    node.events().since(0).0.into_iter().filter(bad).collect()
}

#[test]
fn every_cluster_file_is_in_range() {
    let configs = configs();
    assert!(!configs.is_empty());
    for (path, config) in configs {
        assert_eq!(config.check(), Ok(()), "{}", path.display());
    }
}

#[test]
fn the_sample_worlds_tick_nobody_crashes_and_they_go_on_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let config = dev(dir.path());
    let worlds: u32 = config.world.iter().map(|world| world.count).sum();

    let node = start(&config);
    let seen = watch(&node, &BTreeMap::new(), 60);
    assert_eq!(seen.last.worlds.len(), worlds as usize);
    assert!(ends(&node).is_empty(), "{:?}", ends(&node));
    for world in &config.world {
        for name in world.names() {
            for script in world.script.iter().flat_map(|script| script.names()) {
                let turns = seen.scripts.get(&(name.clone(), script.clone())).map_or(0, |(turns, _)| *turns);
                assert!(turns > 0, "{name}/{script} never ran");
            }
        }
    }
    let greedy = seen.scripts.iter().filter(|((_, script), _)| script.starts_with("greedy"));
    assert!(greedy.clone().count() > 0 && greedy.map(|(_, (_, pauses))| *pauses).sum::<u32>() > 0, "greedy never paused");
    let before: BTreeMap<_, _> = seen.last.worlds.iter().map(|world| (world.name.clone(), world.tick)).collect();
    let report = node.stop();
    assert_eq!((report.saved, report.failed), (worlds as usize, vec![]));

    let node = start(&config);
    let seen = watch(&node, &before, 20);
    assert!(ends(&node).is_empty(), "{:?}", ends(&node));
    for world in &seen.last.worlds {
        assert!(world.tick > before[&world.name], "{}: tick {} after {}", world.name, world.tick, before[&world.name]);
    }
    let refused = |event: &NodeEvent| matches!(event, NodeEvent::Log { text, .. } if text.contains("restore_state refused") || text.contains("checkpoint"));
    let refusals: Vec<_> = node.events().since(0).0.into_iter().filter(refused).collect();
    assert!(refusals.is_empty(), "{refusals:?}");
    assert_eq!(node.stop().saved, worlds as usize);
}
