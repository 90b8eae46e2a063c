//! Which nodes are listed, which connection is each one's current, and what was counted.
//!
//! A [`Slot`] lives as long as its node is listed, and longer while a connection still holds it. Nothing here waits or sends.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::task::AbortHandle;

use super::{
    Peer,
    conn::Conn,
    cut::{Cut, Cuts},
};

/// All of them.
#[derive(Default)]
pub(super) struct Table {
    slots: RwLock<HashMap<String, Arc<Slot>>>,
    /// Connections that were handed to ractor, by id.
    conns: Mutex<HashMap<u64, Arc<Conn>>>,
}

/// One listed node.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) listed: AtomicBool,
    current: Mutex<Option<Arc<Conn>>>,
    /// Why no connection came about, last time; the owner knows it already.
    refused: Mutex<Option<Cut>>,
    /// One connection joins at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) dialler: Mutex<Option<AbortHandle>>,
    pub(super) stats: Stats,
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    since: Mutex<Option<SystemTime>>,
    ups: AtomicU64,
    sent_bytes: AtomicU64,
    sent_messages: AtomicU64,
    received_bytes: AtomicU64,
    received_messages: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) refused_not_linked: AtomicU64,
    pub(super) refused_too_large: AtomicU64,
    pub(super) unknown_frames: AtomicU64,
    pub(super) cuts: Cuts,
}

/// One peer, for the dashboard and for metrics. Counts are since the node was listed.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStatus {
    /// The node.
    pub name: String,
    /// Where it is dialled.
    pub address: String,
    /// Payloads can be sent to it now.
    pub up: bool,
    /// When the link last came up.
    pub since: Option<SystemTime>,
    /// How often it came up.
    pub ups: u64,
    /// The release the other node runs, while linked.
    pub build: Option<String>,
    /// The last measured round trip through both gateways.
    pub rtt: Option<Duration>,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Payloads sent.
    pub sent_messages: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Payloads received.
    pub received_messages: u64,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: u64,
    /// Messages sent and not acknowledged.
    pub in_flight_messages: u64,
    /// Sends refused because too much was on the way.
    pub refused_full: u64,
    /// Sends refused because there was no link.
    pub refused_not_linked: u64,
    /// Sends refused because of their size.
    pub refused_too_large: u64,
    /// Frames of a kind this build does not know.
    pub unknown_frames: u64,
    /// How connections ended or were refused.
    pub cuts: Vec<(Cut, u64)>,
}

impl Stats {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
        self.sent_messages.fetch_add(1, Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
        self.received_messages.fetch_add(1, Relaxed);
    }

    pub(super) fn up(&self, now: SystemTime) {
        self.ups.fetch_add(1, Relaxed);
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

impl Slot {
    fn new(peer: &Peer) -> Slot {
        Slot {
            name: peer.name.clone(),
            address: peer.address.clone(),
            listed: AtomicBool::new(true),
            current: Mutex::default(),
            refused: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            dialler: Mutex::default(),
            stats: Stats::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Conn>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current(&self) -> Option<Arc<Conn>> {
        self.lock().clone()
    }

    pub(super) fn set(&self, conn: Arc<Conn>) {
        *self.lock() = Some(conn);
    }

    /// Forget `conn`, unless another has taken its place.
    pub(super) fn clear(&self, conn: &Arc<Conn>) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(now, conn)) {
            *current = None;
        }
    }

    /// Whether this is another reason than last time.
    pub(super) fn is_news(&self, why: Cut) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).replace(why) != Some(why)
    }

    /// It is linked: the next refusal is news again.
    pub(super) fn is_well(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// No longer listed: no more dialling, and the connection ends.
    fn unlist(&self, detail: &str) {
        self.listed.store(false, Relaxed);
        if let Some(dialler) = self.dialler.lock().unwrap_or_else(PoisonError::into_inner).take() {
            dialler.abort();
        }
        if let Some(conn) = self.current() {
            conn.cut(Cut::NotListed, detail);
        }
    }

    fn status(&self) -> PeerStatus {
        let conn = self.current();
        let n = |counter: &AtomicU64| counter.load(Relaxed);
        let s = &self.stats;
        let (in_flight_bytes, in_flight_messages) = conn.as_ref().map_or((0, 0), |conn| conn.credit.in_flight());
        let rtt = conn.as_ref().map_or(0, |conn| n(&conn.rtt_us));
        PeerStatus {
            name: self.name.clone(),
            address: self.address.clone(),
            up: conn.as_ref().is_some_and(|conn| conn.is_up()),
            since: *s.since.lock().unwrap_or_else(PoisonError::into_inner),
            ups: n(&s.ups),
            build: conn.map(|conn| conn.build.clone()),
            rtt: (rtt > 0).then(|| Duration::from_micros(rtt)),
            sent_bytes: n(&s.sent_bytes),
            sent_messages: n(&s.sent_messages),
            received_bytes: n(&s.received_bytes),
            received_messages: n(&s.received_messages),
            in_flight_bytes,
            in_flight_messages,
            refused_full: n(&s.refused_full),
            refused_not_linked: n(&s.refused_not_linked),
            refused_too_large: n(&s.refused_too_large),
            unknown_frames: n(&s.unknown_frames),
            cuts: s.cuts.list(),
        }
    }
}

impl Table {
    pub(super) fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The list as it is now. Slots of nodes that stay are kept, with their links; returns those that are new. A node whose address
    /// changed is one that left and came back: the link to the old address ends.
    pub(super) fn list(&self, peers: Vec<Peer>) -> Vec<Arc<Slot>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let wanted: HashMap<String, Peer> = peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
        slots.retain(|name, slot| {
            let stays = wanted.get(name).is_some_and(|peer| peer.address == slot.address);
            if !stays {
                slot.unlist(if wanted.contains_key(name) { "listed with another address" } else { "taken off the list" });
            }
            stays
        });
        let mut fresh = Vec::new();
        for peer in wanted.into_values().filter(|peer| !slots.contains_key(&peer.name)).collect::<Vec<_>>() {
            let slot = Arc::new(Slot::new(&peer));
            slots.insert(peer.name, slot.clone());
            fresh.push(slot);
        }
        fresh
    }

    pub(super) fn status(&self) -> Vec<PeerStatus> {
        let slots: Vec<_> = self.slots.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut list: Vec<_> = slots.iter().map(|slot| slot.status()).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    fn conns(&self) -> MutexGuard<'_, HashMap<u64, Arc<Conn>>> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn conn(&self, id: u64) -> Option<Arc<Conn>> {
        self.conns().get(&id).cloned()
    }

    pub(super) fn add(&self, conn: Arc<Conn>) {
        self.conns().insert(conn.id, conn);
    }

    pub(super) fn remove(&self, id: u64) {
        self.conns().remove(&id);
    }

    /// Everything that has not ended yet.
    pub(super) fn open(&self) -> Vec<Arc<Conn>> {
        self.conns().values().cloned().collect()
    }
}
