//! What people see of a cluster and change about it, by way of the directory. Not here: carrying it out (`mod.rs`).

use crate::membership::lease::boottime_ns;
use crate::membership::status::{ClusterLink, ClusterNode, ClusterStatus, ClusterWorld};
use crate::membership::view::View;
use crate::membership::{Member, lock};
use crate::placement::Plan;
use aether_store::{NodeRow, NodeState, StoreError};
use aether_types::WorldId;
use std::sync::atomic::Ordering;

impl Member {
    /// What it knows of the cluster.
    pub fn status(&self) -> ClusterStatus {
        let view = self.view();
        let linked = lock(&self.linked).clone();
        let node = |row: &NodeRow| {
            let worlds = view.worlds.iter().filter(|world| world.owner.as_ref() == Some(&row.id));
            ClusterNode {
                name: row.info.name.clone(),
                id: row.id.to_string(),
                address: row.info.address.clone(),
                build: row.info.build.clone(),
                state: match row.state {
                    NodeState::Up => "up",
                    NodeState::Draining => "draining",
                    NodeState::Dead => "dead",
                },
                lease_left_ms: row.lease_left.as_millis() as u64,
                worlds: worlds.clone().count(),
                load: worlds.map(|world| world.load).sum(),
                capacity: row.info.capacity,
                linked: linked.contains(&row.info.name),
            }
        };
        let world = |row: &aether_store::WorldRow| ClusterWorld {
            name: row.world.to_string(),
            owner: view.owner(&row.world).map(|node| node.info.name.clone()),
            generation: row.generation.0,
            target: row.target.clone(),
            pinned: row.pinned,
            load: row.load,
        };
        ClusterStatus {
            name: self.section.name.clone(),
            node: self.me.name.clone(),
            nodes: view.nodes.iter().map(node).collect(),
            worlds: view.worlds.iter().map(world).collect(),
            links: self.links.get().map_or_else(Vec::new, |links| links.peers().into_iter().map(ClusterLink::of).collect()),
            strangers: self.links.get().map_or_else(Vec::new, |links| {
                links.strangers().into_iter().map(|(cut, count)| (cut.label().to_owned(), count)).collect()
            }),
            unknown_frames: self.unknown_frames.load(Ordering::Relaxed),
            lease_seconds: self.section.lease_seconds,
            renewed_seconds_ago: boottime_ns().saturating_sub(self.renewed_ns.load(Ordering::Acquire)) as f64 / 1e9,
            renewals_late: self.renewals_late.load(Ordering::Relaxed),
        }
    }

    /// What placement would do now.
    pub fn plan(&self) -> Result<Plan, StoreError> {
        Ok(self.solve(&*self.read()?, self.section.moves_per_minute as usize))
    }

    /// Where a world runs, for who asks the wrong node.
    pub fn owner_of(&self, world: &str) -> Option<String> {
        self.view().owner(&WorldId::new(world).ok()?).map(|node| node.info.name.clone())
    }

    /// An operator wants a world on a node, or does not mind where (`None`).
    pub fn set_target(&self, world: &str, node: Option<&str>) -> Result<(), String> {
        let view = self.read().map_err(|error| error.to_string())?;
        let id = WorldId::new(world).map_err(|error| error.to_string())?;
        let Some(row) = view.world(&id) else { return Err(format!("there is no world {world} in the cluster")) };
        let target = match node {
            Some(node) => match view.named(node) {
                Some(row) if row.state == NodeState::Up => {
                    self.may_be_on(&view, world, node)?;
                    Some(node.to_owned())
                }
                Some(_) => return Err(format!("node {node} drains: it takes no worlds")),
                None => return Err(format!("there is no node {node} that lives")),
            },
            None => row.target.clone(),
        };
        let span = tracing::info_span!("world.move", world, to = target, pinned = node.is_some());
        let _entered = span.enter();
        self.directory.set_targets(None, &[(id.clone(), target)], node.is_some()).map_err(|error| error.to_string())?;
        self.announce(std::iter::once(id));
        self.tell_all();
        self.look();
        Ok(())
    }

    /// Placement would leave the world where it is: say so at once.
    fn may_be_on(&self, view: &View, world: &str, node: &str) -> Result<(), String> {
        let (nodes, worlds) = self.inputs(view);
        let node = nodes.iter().find(|known| known.name == node);
        let world = worlds.iter().find(|known| known.name == world);
        let (Some(node), Some(world)) = (node, world) else { return Ok(()) };
        let missing: Vec<_> = world.requires.difference(&node.labels).map(String::as_str).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("world {} requires what node {} has not: {}", world.name, node.name, missing.join(", "))),
        }
    }

    /// A node gives its worlds away, or takes them again.
    pub fn drain(&self, node: &str, on: bool) -> Result<(), String> {
        let view = self.read().map_err(|error| error.to_string())?;
        let Some(row) = view.named(node) else { return Err(format!("there is no node {node} that lives")) };
        let state = if on { NodeState::Draining } else { NodeState::Up };
        self.directory.set_state(&row.id, state).map_err(|error| error.to_string())?;
        self.tell_all();
        self.look();
        Ok(())
    }
}
