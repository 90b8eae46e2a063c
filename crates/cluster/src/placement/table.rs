//! The input by index, in the order of names. Not here: who is put where (`board`).

use super::{NodeInput, Rules, WorldInput};
use std::collections::BTreeMap;

/// Worlds that are alike in something.
pub(super) struct Classes {
    pub(super) of: Vec<Option<usize>>,
    pub(super) members: Vec<Vec<usize>>,
}

impl Classes {
    pub(super) fn new<K: Ord>(keys: impl Iterator<Item = Option<K>>) -> Classes {
        let (mut known, mut members) = (BTreeMap::new(), Vec::<Vec<usize>>::new());
        let mut class = |world, key| {
            let class = *known.entry(key).or_insert(members.len());
            members.resize_with(members.len().max(class + 1), Vec::new);
            members[class].push(world);
            class
        };
        let of = keys.enumerate().map(|(world, key)| key.map(|key| class(world, key))).collect();
        Classes { of, members }
    }
}

/// The input by index, in the order of names.
pub(super) struct Table<'a> {
    pub(super) nodes: Vec<&'a NodeInput>,
    pub(super) worlds: Vec<&'a WorldInput>,
    pub(super) rules: &'a Rules,
    /// CPU nanoseconds a second. Whole numbers: a sum does not depend on its order, so neither does a plan.
    pub(super) load: Vec<u64>,
    pub(super) capacity: Vec<f64>,
    pub(super) home: Vec<Option<usize>>,
    pub(super) requires: Classes,
    /// By class of `requires`, then node: whether such worlds may be there.
    pub(super) open: Vec<Vec<bool>>,
    pub(super) with: Classes,
    pub(super) apart: Classes,
}

impl<'a> Table<'a> {
    pub(super) fn new(nodes: &'a [NodeInput], worlds: &'a [WorldInput], rules: &'a Rules) -> Table<'a> {
        let (mut nodes, mut worlds): (Vec<_>, Vec<_>) = (nodes.iter().collect(), worlds.iter().collect());
        nodes.sort_by_key(|node| &node.name);
        worlds.sort_by_key(|world| &world.name);
        let requires = Classes::new(worlds.iter().map(|world| Some(&world.requires)));
        let open = |members: &Vec<usize>| {
            nodes.iter().map(|node| !node.draining && worlds[members[0]].requires.is_subset(&node.labels)).collect()
        };
        let load = |world: &&WorldInput| {
            let load = if world.load.is_finite() && world.load > 0.0 { world.load } else { rules.load_unknown };
            // One thread at a time ticks a world, so 10,000 CPUs is a mistake; the bound keeps sums from overflowing.
            ((load.min(1e4) * 1e9).round() as u64).max(1)
        };
        Table {
            load: worlds.iter().map(load).collect(),
            capacity: nodes.iter().map(|node| (node.capacity * 1e9).max(1.0)).collect(),
            home: worlds.iter().map(|world| index_of(&nodes, &world.current)).collect(),
            open: requires.members.iter().map(open).collect(),
            with: Classes::new(worlds.iter().map(|world| world.with.as_ref())),
            apart: Classes::new(worlds.iter().map(|world| world.apart.as_ref())),
            nodes,
            worlds,
            rules,
            requires,
        }
    }

    pub(super) fn open(&self, world: usize, node: usize) -> bool {
        self.requires.of[world].is_some_and(|class| self.open[class][node])
    }
}

pub(super) fn index_of(nodes: &[&NodeInput], name: &Option<String>) -> Option<usize> {
    nodes.binary_search_by_key(&name.as_ref()?, |node| &node.name).ok()
}
