//! The other nodes: whether they are linked, questions to them, parcels for worlds that they run.
//!
//! Not here: what they ask (`answer`), links themselves (`link`).

use crate::link::LinkEvent;
use crate::membership::wire::{self, Answer, Ask, Frame, TraceOf};
use crate::membership::{Member, PROBE, PROBES, lock};
use crate::registry::cluster::Holding;
use crate::trace;
use crate::world::courier::Parcel;
use crate::world::post::Elsewhere;
use aether_store::{Directory, NodeId, NodeRow, NodeState};
use aether_types::WorldId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Where a node finds the answer to its question.
pub(crate) type Asked = Result<Answer, String>;

impl Member {
    pub(super) fn linked(self: &Arc<Self>, event: LinkEvent) {
        match event {
            LinkEvent::Up { peer } => {
                lock(&self.linked).insert(peer);
                self.look();
            }
            LinkEvent::Down { peer, why } => {
                tracing::info!(peer, why, "link down");
                lock(&self.linked).remove(&peer);
                // Their answers may be lost: who asked need not wait for them.
                lock(&self.asks).retain(|_, (asked, _)| *asked != peer);
                self.end_stages(&peer);
                let row = self.view().named(&peer).cloned();
                if let Some(row) = row.filter(|_| !self.stopping.load(Ordering::Acquire)) {
                    self.runtime.spawn(Arc::clone(self).probe(row));
                }
            }
            LinkEvent::Refused { peer, why, .. } => self.event(format!("no link to node {peer}: {why}")),
            LinkEvent::Failed { why } => self.event(format!("links have failed, restart this node: {why}")),
        }
    }

    /// A process that is killed closes its links to all nodes, and nobody listens at its address any more: no need to wait for its lease.
    /// Wrong or not, nothing is written twice: a node that is declared dead cannot write.
    async fn probe(self: Arc<Self>, row: NodeRow) {
        for _ in 0..PROBES {
            tokio::time::sleep(PROBE).await;
            let dialled = tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(&row.info.address)).await;
            let refused = matches!(&dialled, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused);
            if !refused || !self.lease.holds() || lock(&self.linked).contains(&row.info.name) {
                return;
            }
        }
        // One that cannot reach it may be the one that is cut off: the others must have lost it too. With nobody to ask the lease decides.
        let others: Vec<_> = self.members().into_iter().filter(|other| !self.is_me(other) && other.id != row.id).collect();
        if others.is_empty() {
            return;
        }
        for other in others {
            let ask = Ask::Linked { peer: row.info.name.clone() };
            match self.ask(&other.info.name, ask, 3 * PROBE).await {
                Ok(Answer::Done { worlds: 0, .. }) => {}
                _ => return,
            }
        }
        let member = Arc::clone(&self);
        let buried = tokio::task::spawn_blocking(move || member.directory.bury(&row.id).map(|()| row.info.name)).await;
        if let Ok(Ok(peer)) = buried {
            let text = format!("node {peer} is gone: its link broke and nobody listens at its address");
            self.event(text);
            self.tell_all();
            self.look();
        }
    }

    pub fn is_linked(&self, peer: &str) -> bool {
        lock(&self.linked).contains(peer)
    }

    pub fn is_me(&self, row: &NodeRow) -> bool {
        row.info.name == self.me.name
    }

    /// Ask another node. `Err`: it is not known whether it did what it was asked.
    pub async fn ask(&self, peer: &str, ask: Ask, time: Duration) -> Asked {
        let number = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = oneshot::channel();
        lock(&self.asks).insert(number, (peer.to_owned(), send));
        let frame = |frame: Frame| {
            let bytes = frame.encode().map_err(|error| error.to_string())?;
            let links = self.links.get().ok_or("there are no links")?;
            links.try_send(peer, bytes).map_err(|error| error.to_string())
        };
        // A frame of its own, before it: a build that does not know it answers all the same.
        if let Some(parent) = trace::current() {
            let _ = frame(Frame::Trace { of: TraceOf::Ask(number), parent });
        }
        let sent = frame(Frame::Ask { number, ask });
        let answered = match sent {
            Ok(()) => tokio::time::timeout(time, receive).await.map_err(|_| "it did not answer in time".to_owned()),
            Err(error) => Err(error),
        };
        lock(&self.asks).remove(&number);
        answered?.map_err(|_| "it did not answer".to_owned())
    }

    /// Nodes that live, this one first.
    pub fn members(&self) -> Vec<NodeRow> {
        let id = self.id();
        let mut members: Vec<_> = self.view().living().cloned().collect();
        members.sort_by_key(|row| (Some(&row.id) != id.as_ref(), row.info.name.clone()));
        members
    }

    /// Nodes that can be asked, by name.
    pub fn linked_peers(&self) -> Vec<String> {
        let mut peers: Vec<_> = lock(&self.linked).iter().cloned().collect();
        peers.sort();
        peers
    }

    /// Whether a node is known to be dead.
    pub fn is_dead(&self, node: &NodeId) -> bool {
        self.view().node(node).is_none_or(|row| row.state == NodeState::Dead)
    }

    /// Whether a world is about to leave this node.
    pub fn is_releasing(&self, world: &str) -> bool {
        lock(&self.releasing).iter().any(|releasing| releasing.as_str() == world)
    }

    /// What this node holds of reloads.
    pub fn with_holding<R>(&self, f: impl FnOnce(&mut HashMap<u64, Holding>) -> R) -> R {
        f(&mut lock(&self.holding))
    }

    pub fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    pub fn my_id(&self) -> Option<NodeId> {
        self.id()
    }
}

impl Elsewhere for Member {
    fn send(&self, parcels: Vec<Parcel>) {
        let Some(links) = self.links.get() else { return };
        let view = self.view();
        let mut by_node: HashMap<&str, Vec<Parcel>> = HashMap::new();
        for parcel in parcels {
            if let Some(node) = view.owner(parcel.to()).filter(|node| node.info.name != self.me.name) {
                by_node.entry(&node.info.name).or_default().push(parcel);
            }
        }
        for (node, parcels) in by_node {
            for frame in wire::frames(parcels) {
                // What does not go now is sent again.
                if let Ok(bytes) = frame.encode() {
                    let _ = links.try_send(node, bytes);
                }
            }
        }
    }

    fn exists(&self, world: &WorldId) -> bool {
        let view = self.view();
        view.worlds.is_empty() || view.world(world).is_some()
    }
}
