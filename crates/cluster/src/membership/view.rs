//! The directory as it was a moment ago, and what follows from it for one node. Plain values and plain functions.

use aether_store::{NodeId, NodeRow, NodeState, WorldRow};
use aether_types::{Generation, WorldId};
use std::collections::{HashMap, HashSet};

/// Nodes and worlds, as one reading of the directory gave them.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub nodes: Vec<NodeRow>,
    pub worlds: Vec<WorldRow>,
    by_world: HashMap<WorldId, usize>,
    by_node: HashMap<NodeId, usize>,
}

/// What a node has to do to get to where the directory wants it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    /// Worlds to claim and start.
    pub start: Vec<WorldId>,
    /// Worlds to save and release.
    pub release: Vec<(WorldId, Generation)>,
    /// Worlds that are here still, while another node runs them: what is here is over.
    pub forget: Vec<WorldId>,
    /// Worlds that this node owns and does not run, and that are not meant for it.
    pub orphans: Vec<(WorldId, Generation)>,
}

impl View {
    pub fn new(nodes: Vec<NodeRow>, worlds: Vec<WorldRow>) -> View {
        let by_world = worlds.iter().enumerate().map(|(i, row)| (row.world.clone(), i)).collect();
        let by_node = nodes.iter().enumerate().map(|(i, row)| (row.id.clone(), i)).collect();
        View { nodes, worlds, by_world, by_node }
    }

    pub fn world(&self, world: &WorldId) -> Option<&WorldRow> {
        self.by_world.get(world).map(|i| &self.worlds[*i])
    }

    pub fn node(&self, id: &NodeId) -> Option<&NodeRow> {
        self.by_node.get(id).map(|i| &self.nodes[*i])
    }

    /// The living node that runs a world.
    pub fn owner(&self, world: &WorldId) -> Option<&NodeRow> {
        self.node(self.world(world)?.owner.as_ref()?).filter(|node| node.state != NodeState::Dead)
    }

    /// The living node of this name.
    pub fn named(&self, name: &str) -> Option<&NodeRow> {
        self.nodes.iter().find(|node| node.info.name == name && node.state != NodeState::Dead)
    }

    pub fn living(&self) -> impl Iterator<Item = &NodeRow> {
        self.nodes.iter().filter(|node| node.state != NodeState::Dead)
    }

    /// What node `me` has to do, that runs (or is starting) the worlds `here`.
    pub fn steps(&self, me: &NodeRow, here: &HashSet<WorldId>) -> Steps {
        let mut steps = Steps::default();
        for row in &self.worlds {
            let mine = row.target.as_ref() == Some(&me.info.name);
            let wanted_elsewhere = row.target.as_ref().is_some_and(|target| !mine && self.named(target).is_some());
            let free = self.owner(&row.world).is_none_or(|owner| owner.id == me.id);
            if here.contains(&row.world) {
                if !free {
                    steps.forget.push(row.world.clone());
                } else if wanted_elsewhere && row.owner.as_ref() == Some(&me.id) {
                    steps.release.push((row.world.clone(), row.generation));
                }
            } else if mine && free {
                steps.start.push(row.world.clone());
            } else if !mine && row.owner.as_ref() == Some(&me.id) {
                steps.orphans.push((row.world.clone(), row.generation));
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_store::NodeInfo;
    use std::time::Duration;

    fn node(name: &str, state: NodeState) -> NodeRow {
        let info = NodeInfo { name: name.into(), address: String::new(), build: String::new(), worlds_max: 10, capacity: 1.0 };
        NodeRow { id: NodeId(format!("{name}-1")), info, state, lease_left: Duration::from_secs(1) }
    }

    fn world(name: &str, owner: Option<&str>, target: Option<&str>) -> WorldRow {
        WorldRow {
            world: WorldId::new(name).unwrap(),
            owner: owner.map(|owner| NodeId(format!("{owner}-1"))),
            generation: Generation(3),
            target: target.map(str::to_owned),
            pinned: false,
            load: 0.0,
        }
    }

    #[test]
    fn a_node_starts_what_is_meant_for_it_and_nobody_alive_has() {
        let nodes = vec![node("a", NodeState::Up), node("b", NodeState::Up), node("c", NodeState::Dead)];
        let worlds = vec![
            world("free", None, Some("a")),
            world("of-the-dead", Some("c"), Some("a")),
            world("of-another", Some("b"), Some("a")),
            world("elsewhere", None, Some("b")),
            world("nowhere", None, None),
        ];
        let view = View::new(nodes, worlds);
        let steps = view.steps(&view.nodes[0], &HashSet::new());
        let start: Vec<_> = steps.start.iter().map(WorldId::as_str).collect();
        assert_eq!((start, steps.release), (vec!["free", "of-the-dead"], vec![]));
    }

    #[test]
    fn what_is_owned_and_not_here_is_released_and_what_is_here_and_anothers_is_over() {
        let nodes = vec![node("a", NodeState::Up), node("b", NodeState::Up)];
        let worlds = vec![world("lost", Some("a"), Some("b")), world("late", Some("b"), Some("b"))];
        let late = worlds[1].world.clone();
        let view = View::new(nodes, worlds);
        let steps = view.steps(&view.nodes[0], &HashSet::from([late.clone()]));
        let orphans = vec![(WorldId::new("lost").unwrap(), Generation(3))];
        assert_eq!(steps, Steps { forget: vec![late], orphans, ..Steps::default() });
    }

    #[test]
    fn a_node_gives_away_what_is_meant_for_another_that_lives() {
        let nodes = vec![node("a", NodeState::Up), node("b", NodeState::Up), node("c", NodeState::Dead)];
        let worlds = vec![
            world("stays", Some("a"), Some("a")),
            world("goes", Some("a"), Some("b")),
            world("to-the-dead", Some("a"), Some("c")),
            world("undecided", Some("a"), None),
        ];
        let here = worlds.iter().map(|row| row.world.clone()).collect();
        let view = View::new(nodes, worlds);
        let steps = view.steps(&view.nodes[0], &here);
        assert_eq!(steps.release, [(WorldId::new("goes").unwrap(), Generation(3))]);
        assert!(steps.start.is_empty());
    }
}
