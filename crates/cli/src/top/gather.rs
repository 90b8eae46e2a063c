//! What is known of a cluster: one node says who is in it and who runs what; nodes of this machine also say how their own worlds are.

use crate::operate::{NodeArgs, load_for, socket_of};
use aether_admin::shapes::{EventView, Events, NodeView, Nodes, WorldRow, Worlds};
use aether_admin::{Client, ClientError, Request};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

/// Worlds in one answer.
const PAGE: usize = 1_000;
/// Warnings that are shown.
const WARNINGS: usize = 5;
/// Worlds in all: what is more is not read by anybody.
const WORLDS_MAX: usize = 20_000;

/// A cluster at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub cluster: Option<String>,
    pub node: String,
    pub nodes: Vec<NodeView>,
    pub worlds: Vec<WorldRow>,
    /// Nodes that are up and whose sockets are not on this machine: their worlds' load is known, and no more.
    pub silent: Vec<String>,
    /// The last warnings and errors of the node that is asked, the oldest first.
    pub warnings: Vec<EventView>,
}

/// Who can be asked.
pub(crate) struct Cluster {
    asked: Client,
    /// The sockets of the file's other nodes, by name; they may be on other machines.
    others: HashMap<String, (PathBuf, Client)>,
}

fn read<T: DeserializeOwned>(client: &Client, request: &Request) -> Result<T, ClientError> {
    let answer = client.ask(request, &json!({}))?;
    serde_json::from_value(answer).map_err(|error| ClientError::Answer(error.to_string()))
}

fn worlds(client: &Client, filter: &str) -> Result<Vec<WorldRow>, ClientError> {
    let (mut worlds, mut offset) = (Vec::new(), 0);
    loop {
        let page: Worlds = read(client, &Request::Worlds(format!("limit={PAGE}&offset={offset}{filter}")))?;
        worlds.extend(page.worlds);
        match page.next.filter(|_| worlds.len() < WORLDS_MAX) {
            Some(next) => offset = next,
            None => return Ok(worlds),
        }
    }
}

impl Cluster {
    pub(crate) fn new(node: &NodeArgs) -> Result<Cluster, Box<dyn std::error::Error>> {
        if let Some(asked) = node.at_address()? {
            // It does not say where the others' addresses are: of their worlds it knows the load.
            return Ok(Cluster { asked, others: HashMap::new() });
        }
        let (config, me) = load_for(node)?;
        let mut others = HashMap::new();
        for other in config.cluster.iter().flat_map(|cluster| &cluster.node).filter(|other| Some(&other.name) != me.as_ref()) {
            let path = socket_of(node, &config.clone().for_member(&other.name)?);
            others.insert(other.name.clone(), (path.clone(), Client::new(path)));
        }
        let own = match &me {
            Some(name) => config.for_member(name)?,
            None => config,
        };
        Ok(Cluster { asked: Client::new(socket_of(node, &own)), others })
    }

    /// The client of a node of this machine.
    fn of(&self, node: &str, asked: &str) -> Option<&Client> {
        if node == asked {
            return Some(&self.asked);
        }
        self.others.get(node).filter(|(path, _)| path.exists()).map(|(_, client)| client)
    }

    pub(crate) fn look(&self) -> Result<Snapshot, ClientError> {
        let nodes: Nodes = read(&self.asked, &Request::Nodes)?;
        let mut all = worlds(&self.asked, "")?;
        let mut silent = Vec::new();
        let up = nodes.nodes.iter().filter(|other| other.name != nodes.node && other.state != "dead");
        for other in up {
            let told = self.of(&other.name, &nodes.node).and_then(|client| worlds(client, &format!("&node={}", other.name)).ok());
            match told {
                Some(told) => merge(&mut all, told),
                None => silent.push(other.name.clone()),
            }
        }
        let told: Events = read(&self.asked, &Request::Events { since: 0, filters: format!("level=1&limit={WARNINGS}") })?;
        let warnings = told.events;
        Ok(Snapshot { cluster: nodes.cluster, node: nodes.node, nodes: nodes.nodes, worlds: all, silent, warnings })
    }

    /// One world with its scripts, if the node that runs it can be asked.
    pub(crate) fn world(&self, name: &str, snapshot: &Snapshot) -> Option<Value> {
        let owner = snapshot.worlds.iter().find(|world| world.name == name)?.node.as_deref()?;
        self.of(owner, &snapshot.node)?.ask(&Request::World(name.to_owned()), &json!({})).ok()
    }
}

/// What a node says of its own worlds is better than what another one knows of them.
fn merge(all: &mut [WorldRow], told: Vec<WorldRow>) {
    let mut own: HashMap<_, _> =
        told.into_iter().filter(|world| world.state != "elsewhere").map(|world| (world.name.clone(), world)).collect();
    for world in all {
        if let Some(own) = own.remove(&world.name) {
            *world = own;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_of_its_own_worlds_counts() {
        let world =
            |name: &str, state: &str, tick| WorldRow { name: name.into(), state: state.into(), tick, ..WorldRow::default() };
        let mut all = vec![world("inn", "ticking", 5), world("town", "elsewhere", 0)];
        merge(&mut all, vec![world("town", "ticking", 9), world("inn", "elsewhere", 0)]);
        assert_eq!((all[0].tick, all[1].tick, all[1].state.as_str()), (5, 9, "ticking"));
    }
}
