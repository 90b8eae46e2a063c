//! What a cluster file says of where worlds may run is so, from the start and after a node is gone.
//!
//! Not here: the solver by itself (`crates/cluster/src/placement.rs`).

use super::rig::{Cluster, LEASE, NODES};
use std::collections::BTreeSet;

#[test]
fn worlds_run_where_their_rules_say_also_when_a_node_is_gone() {
    let mut cluster = Cluster::prepare(6, LEASE);
    cluster.edit(|text| {
        let text = ["b", "c"].iter().fold(text, |text, node| {
            text.replace(&format!("data_dir = \"data-{node}\"\n"), &format!("data_dir = \"data-{node}\"\nlabels = [\"fast\"]\n"))
        });
        let rules = [
            ("w1", "requires = [\"fast\"]"),
            ("w2", "together = \"market\""),
            ("w3", "together = \"market\""),
            ("w4", "apart = \"gates\""),
            ("w5", "apart = \"gates\""),
        ];
        rules.iter().fold(text, |text, (world, rule)| {
            let name = format!("[[world]]\nname = \"{world}\"\n");
            assert!(text.contains(&name), "{text}");
            text.replace(&name, &format!("{name}{rule}\n"))
        })
    });
    for node in NODES {
        cluster.start_process(node);
    }
    cluster.settle();
    rules_hold(&cluster);
    // The node of the world that is choosy: the other one with its label takes it.
    let victim = cluster.owner("w1").unwrap();
    assert_ne!(victim, "a");
    let worlds = cluster.worlds_of(victim);
    cluster.kill(victim);
    cluster.taken_over(&worlds);
    cluster.until("the rules hold again", |cluster| hold(cluster).is_ok().then_some(()));
    rules_hold(&cluster);
    let refused = cluster.ask("a", &["move", "w1", "a"]);
    assert!(refused.as_ref().is_err_and(|error| error.contains("fast")), "{refused:?}");
    cluster.start_node(victim);
    cluster.settle();
    rules_hold(&cluster);
    cluster.deliver();
    cluster.check();
}

/// Or which rule does not.
fn hold(cluster: &Cluster) -> Result<(), String> {
    let owner = |world: &str| cluster.owner(world).ok_or_else(|| format!("{world} runs nowhere"));
    if owner("w1")? == "a" {
        return Err("w1 is on a node without its label".to_owned());
    }
    if owner("w2")? != owner("w3")? {
        return Err("w2 and w3 are not together".to_owned());
    }
    let gates = BTreeSet::from([owner("w4")?, owner("w5")?]);
    if gates.len() < 2 {
        return Err(format!("w4 and w5 are both on {gates:?}"));
    }
    Ok(())
}

#[track_caller]
fn rules_hold(cluster: &Cluster) {
    if let Err(broken) = hold(cluster) {
        panic!("{broken}\n{}", cluster.picture());
    }
}
