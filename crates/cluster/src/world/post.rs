//! Brings parcels to worlds: into the mailbox of one of this node, or to the node that runs it.
//!
//! Nothing is promised here: a parcel that finds nobody at home, or a full mailbox, is lost, and its sender (`courier`) sends it again.
//! Not here: links between nodes, who runs what.

use crate::world::courier::Parcel;
use crate::world::mailbox::{Inbound, Mailbox};
use aether_types::WorldId;
use dashmap::DashMap;
use std::sync::{Arc, OnceLock, Weak};

/// The other nodes of a cluster.
pub(crate) trait Elsewhere: Send + Sync {
    /// Send parcels to the nodes that run their worlds, as far as these are known and have room.
    fn send(&self, parcels: Vec<Parcel>);
    /// Whether the cluster has a world of this name. In doubt yes.
    fn exists(&self, world: &WorldId) -> bool;
}

/// See the file.
#[derive(Default)]
pub(crate) struct Post {
    /// Worlds of this node by name.
    here: DashMap<String, Arc<Mailbox>>,
    /// Weak: it has what has this.
    elsewhere: OnceLock<Weak<dyn Elsewhere>>,
}

impl Post {
    /// From now on worlds that are not here are looked for there.
    pub fn connect(&self, elsewhere: Weak<dyn Elsewhere>) {
        let _ = self.elsewhere.set(elsewhere);
    }

    fn elsewhere(&self) -> Option<Arc<dyn Elsewhere>> {
        self.elsewhere.get()?.upgrade()
    }

    pub fn find(&self, world: &str) -> Option<Arc<Mailbox>> {
        self.here.get(world).map(|mailbox| Arc::clone(&mailbox))
    }

    pub fn insert(&self, world: &str, mailbox: Arc<Mailbox>) {
        self.here.insert(world.to_owned(), mailbox);
    }

    /// It runs here no longer.
    pub fn remove(&self, world: &str) {
        if let Some((_, mailbox)) = self.here.remove(world) {
            mailbox.audience.close();
        }
    }

    /// The worlds of this node, in order of their names.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.here.iter().map(|entry| entry.key().clone()).collect();
        names.sort();
        names
    }

    /// Whether there is such a world, here or elsewhere.
    pub fn exists(&self, world: &WorldId) -> bool {
        self.here.contains_key(world.as_str()) || self.elsewhere().is_some_and(|elsewhere| elsewhere.exists(world))
    }

    /// Into the mailbox of a world of this node. Gives it back if there is none.
    pub fn deliver(&self, parcel: Parcel) -> Option<Parcel> {
        match self.find(parcel.to().as_str()) {
            Some(mailbox) => {
                mailbox.push(Inbound::Parcel(parcel));
                None
            }
            None => Some(parcel),
        }
    }

    pub fn send(&self, parcels: Vec<Parcel>) {
        let away: Vec<_> = parcels.into_iter().filter_map(|parcel| self.deliver(parcel)).collect();
        if let (false, Some(elsewhere)) = (away.is_empty(), self.elsewhere()) {
            elsewhere.send(away);
        }
    }
}
