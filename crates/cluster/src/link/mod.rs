//! Links between nodes: named peers, bytes in order, nothing without a bound. Knows nothing of worlds.
//!
//! [`Links::start`] joins this process to the cluster, [`Links::set_peers`] says who should be linked, [`Links::try_send`] sends a
//! payload or refuses at once, `inbound` and `events` bring what others sent and whether they are there. Delivery is at most once, in
//! order per peer while a link lasts; what was on the way when a link went down may or may not have arrived. A link that is down says
//! nothing about who owns what: that is the directory's business.
//!
//! From the socket up, one file each: `join` (accept, dial), `identity` (TLS 1.3 with certificates on both sides; `pki` makes them),
//! `hello` (versions, names), `stream` and `guard` (silence, stalls, and what a peer may say at all), then `ractor_cluster` with all
//! its mailboxes, then `gateway` (the one remotable actor) and `frame` (the one remotable message). `credit` bounds what is on the way.
//!
//! ractor_cluster is used as a message pipe: isolated mode, its own listener on loopback refusing every handshake, its remote actors
//! only ever cast to. It logs whole payloads and digests at `debug`: the program's log filter has to hold `ractor_cluster` at `info`.
//! One [`Links`] per process, because ractor's groups and ids are per process; a second start is refused.
//! Not here: who is in the cluster, what payloads mean, large transfers (a payload is at most [`LinkLimits::payload_bytes_max`]).

mod conn;
mod credit;
mod cut;
mod frame;
mod gateway;
mod guard;
mod hello;
mod identity;
mod join;
mod limits;
pub mod pki;
mod stream;
mod table;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor::{Actor, ActorRef};
use ractor_cluster::{IncomingEncryptionMode, NodeServer, NodeServerMessage, node::NodeConnectionMode};
use tokio::{runtime::Handle, task::AbortHandle};

use self::{
    conn::{Conn, Stage},
    cut::Cuts,
    frame::GatewayMsg,
    gateway::{Ears, Gateway},
    identity::Identity,
    table::Table,
};
pub use self::{
    cut::Cut,
    limits::{LinkError, LinkLimits, SendError},
    table::PeerStatus,
};

/// How often what is left is acknowledged and the round trip measured.
const TICK: Duration = Duration::from_secs(2);
/// What other nodes may take to hang up after a goodbye, and ractor to stop.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a node needs to be linked.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The cluster's name, as in its certificates.
    pub cluster: String,
    /// This node's name, as in its certificate.
    pub node: String,
    /// Where to listen, as `address:port`. Port 0 takes a free one, see [`Links::local_addr`].
    pub listen: String,
    /// The folder with `ca.pem`, `node.pem`, `node.key` and `cookie`.
    pub identity: PathBuf,
    /// Bounds.
    pub limits: LinkLimits,
}

/// A node that should be linked, from the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it listens, as `host:port`.
    pub address: String,
}

/// What happened to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Payloads can be sent to this peer and will come from it.
    Up {
        /// Its name.
        peer: String,
    },
    /// No longer.
    Down {
        /// Its name.
        peer: String,
        /// The reason, for people.
        why: String,
    },
    /// A listed peer and this node do not come to a link. Told when the reason changes, not for every attempt.
    Refused {
        /// Its name.
        peer: String,
        /// The kind of reason.
        cut: Cut,
        /// The reason, for people.
        why: String,
    },
    /// The link layer itself broke: a mistake of ours or of ractor's. All links are down, no `Down` may follow. Stop it and start it
    /// again.
    Failed {
        /// What broke.
        why: String,
    },
}

/// The links of this node. Cheap to clone; works until [`Links::stop`].
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

type Inbound = Box<dyn Fn(&str, Vec<u8>) + Send + Sync>;
type Events = Box<dyn Fn(LinkEvent) + Send + Sync>;

/// What all parts share.
struct Inner {
    cluster: String,
    node: String,
    limits: LinkLimits,
    folder: PathBuf,
    identity: RwLock<Arc<Identity>>,
    local: SocketAddr,
    table: Table,
    /// Connections that ended before it was known that they are a listed node's.
    strangers: Cuts,
    inbound: Inbound,
    events: Events,
    actors: OnceLock<Actors>,
    ids: AtomicU64,
    stopping: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    runtime: Handle,
}

struct Actors {
    gateway: ActorRef<GatewayMsg>,
    node_server: ActorRef<NodeServerMessage>,
}

/// Whether this process has links.
static RUNNING: AtomicBool = AtomicBool::new(false);

impl Links {
    /// Listen, and start what links consist of. `inbound` gets whole payloads, in order per peer, and must be quick: while it works,
    /// nothing of any peer is processed. `events` is called in between, `Up` before the first payload of a link and `Down` after the
    /// last.
    pub async fn start(
        config: LinkConfig,
        inbound: impl Fn(&str, Vec<u8>) + Send + Sync + 'static,
        events: impl Fn(LinkEvent) + Send + Sync + 'static,
    ) -> Result<Links, LinkError> {
        config.limits.check()?;
        if RUNNING.swap(true, SeqCst) {
            return Err(LinkError::AlreadyRunning);
        }
        let started = Links::start_alone(config, Box::new(inbound), Box::new(events)).await;
        if started.is_err() {
            RUNNING.store(false, SeqCst);
        }
        started
    }

    async fn start_alone(config: LinkConfig, inbound: Inbound, events: Events) -> Result<Links, LinkError> {
        let LinkConfig { cluster, node, listen, identity: folder, limits } = config;
        let identity = Identity::load(&folder, &cluster, &node)?;
        let cookie = identity.cookie.clone();
        let failed = |source| LinkError::Listen { address: listen.clone(), source };
        let listener = join::listen(&listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let ractor_frame_bytes_max = limits.payload_bytes_max * 2;
        let inner = Arc::new(Inner {
            cluster,
            folder,
            limits,
            identity: RwLock::new(Arc::new(identity)),
            local,
            table: Table::default(),
            strangers: Cuts::default(),
            inbound,
            events,
            actors: OnceLock::new(),
            ids: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            tasks: Mutex::default(),
            runtime: Handle::current(),
            node: node.clone(),
        });
        let actor = |e: ractor::SpawnErr| LinkError::Actor(e.to_string());
        let (gateway, gateway_end) = Actor::spawn(None, Gateway, inner.clone()).await.map_err(actor)?;
        // Its own listener cannot be left out. Nothing that connects to it gets past the first message of TLS.
        let nothing = IncomingEncryptionMode::Tls(identity::refuse_everyone());
        let server = NodeServer::new(0, cookie, node.clone(), node, Some(nothing), Some(NodeConnectionMode::Isolated))
            .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .with_max_inbound_frame_size(ractor_frame_bytes_max);
        let (node_server, server_end) = match Actor::spawn(None, server, ()).await {
            Ok(spawned) => spawned,
            Err(e) => {
                gateway.stop(None);
                return Err(actor(e));
            }
        };
        let ears = NodeServerMessage::SubscribeToEvents { id: "links".into(), subscription: Box::new(Ears(inner.clone())) };
        node_server.cast(ears).map_err(|e| LinkError::Actor(e.to_string()))?;
        let _ = inner.actors.set(Actors { gateway: gateway.clone(), node_server });

        inner.spawn(join::accept_loop(inner.clone(), listener));
        inner.spawn(async move {
            let mut clock = tokio::time::interval(TICK);
            clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            while gateway.cast(GatewayMsg::Tick).is_ok() {
                clock.tick().await;
            }
        });
        let watched = inner.clone();
        inner.spawn(async move {
            let what = tokio::select! { _ = gateway_end => "the gateway", _ = server_end => "ractor's node server" };
            if !watched.is_stopping() {
                tracing::error!(what, "ended unasked: the links are dead");
                watched.table.open().iter().for_each(|conn| _ = conn.cut(Cut::Stopping, "the link layer failed"));
                watched.tell(LinkEvent::Failed { why: format!("{what} ended unasked") });
            }
        });
        tracing::info!(node = inner.node, address = %local, "links listening");
        Ok(Links { inner })
    }

    /// Where this node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Who should be linked. Dials those with a larger name, awaits those with a smaller one, ends links to nodes that are not listed.
    /// This node itself may be in the list.
    pub fn set_peers(&self, mut peers: Vec<Peer>) {
        if self.inner.is_stopping() {
            return;
        }
        peers.retain(|peer| {
            let good = pki::name("node", &peer.name).is_ok();
            if !good {
                tracing::warn!(peer = peer.name, "left out a peer whose name no certificate can have");
            }
            good && peer.name != self.inner.node
        });
        for slot in self.inner.table.list(peers) {
            if self.inner.node < slot.name {
                let dialling = self.inner.runtime.spawn(join::dial_loop(self.inner.clone(), slot.clone()));
                let mut dialler = slot.dialler.lock().unwrap_or_else(PoisonError::into_inner);
                *dialler = Some(dialling.abort_handle());
                // Another list may have come in between.
                if !slot.listed.load(Relaxed) {
                    dialling.abort();
                }
            }
        }
    }

    /// Whether what can wait may be sent now: half of what may be on the way is kept for what cannot. Without a link: yes, it is refused.
    pub fn has_room(&self, peer: &str) -> bool {
        self.inner.table.slot(peer).and_then(|slot| slot.current()).is_none_or(|conn| conn.has_room())
    }

    /// Send one payload, or say at once why not. `Ok` means that it is on the way; it arrives unless the link goes down.
    pub fn try_send(&self, peer: &str, bytes: Vec<u8>) -> Result<(), SendError> {
        let slot = self.inner.table.slot(peer).ok_or(SendError::NotLinked)?;
        let stats = &slot.stats;
        let not_linked = || {
            stats.refused_not_linked.fetch_add(1, Relaxed);
            SendError::NotLinked
        };
        let conn = slot.current().filter(|conn| conn.is_up() && conn.why().is_none()).ok_or_else(not_linked)?;
        let size = bytes.len() as u64;
        if size > conn.payload_bytes_max {
            stats.refused_too_large.fetch_add(1, Relaxed);
            return Err(SendError::TooLarge { bytes: size, max: conn.payload_bytes_max });
        }
        if !conn.take_credit(size) {
            stats.refused_full.fetch_add(1, Relaxed);
            return Err(SendError::Full);
        }
        let length = bytes.len();
        if !conn.send(frame::DATA, bytes) {
            return Err(not_linked());
        }
        stats.sent(length);
        Ok(())
    }

    /// Every listed node, by name.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.inner.table.status()
    }

    /// Connections that ended before it was known that they are a listed node's, by reason.
    pub fn strangers(&self) -> Vec<(Cut, u64)> {
        self.inner.strangers.list()
    }

    /// Read the identity folder again: from now on handshakes use what is there. Links that are up stay. If anything is wrong with the
    /// new files, the old ones stay in use.
    pub fn reload_identity(&self) -> Result<(), LinkError> {
        let fresh = Identity::load(&self.inner.folder, &self.inner.cluster, &self.inner.node)?;
        if fresh.cookie != self.inner.identity().cookie {
            return Err(LinkError::CookieChanged);
        }
        *self.inner.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        tracing::info!(node = self.inner.node, "new certificates in use");
        Ok(())
    }

    /// Say goodbye, close everything, end all tasks. Takes four seconds at most; let it come to its end, a second call does nothing.
    pub async fn stop(&self) {
        if self.inner.stopping.swap(true, SeqCst) {
            return;
        }
        let Inner { table, tasks, actors, .. } = &*self.inner;
        let open = table.open();
        open.iter().for_each(|conn| _ = conn.send(frame::BYE, Vec::new()));
        // They hang up, so what was sent before has arrived.
        let until = tokio::time::Instant::now() + GOODBYE;
        for conn in &open {
            conn.reached(Stage::Gone, until - tokio::time::Instant::now()).await;
        }
        table.open().iter().for_each(|conn| _ = conn.cut(Cut::Stopping, "this node stops"));
        // Unlists everyone, which ends the diallers.
        table.list(Vec::new());
        let until = tokio::time::Instant::now() + GOODBYE;
        for conn in &open {
            conn.reached(Stage::Gone, until - tokio::time::Instant::now()).await;
        }
        for task in tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        if let Some(Actors { gateway, node_server }) = actors.get() {
            // Local actors both. One that does not stop in time is killed: the process can have other links afterwards.
            if node_server.stop_and_wait(None, Some(GOODBYE)).await.is_err() {
                node_server.kill();
            }
            if gateway.stop_and_wait(None, Some(GOODBYE)).await.is_err() {
                gateway.kill();
            }
        }
        RUNNING.store(false, SeqCst);
    }
}

impl Inner {
    fn identity(&self) -> Arc<Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Relaxed)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.runtime.spawn(task).abort_handle();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    fn to_gateway(&self, msg: GatewayMsg) {
        // Fails only after the gateway has ended, which is noticed elsewhere.
        if let Some(actors) = self.actors.get() {
            let _ = actors.gateway.cast(msg);
        }
    }

    /// ractor has let go of a connection, or is believed never to.
    fn gone(&self, conn: &Arc<Conn>) {
        conn.cut(Cut::Closed, "the session ended");
        self.table.remove(conn.id);
        self.to_gateway(GatewayMsg::Gone(conn.id));
    }

    /// A connection failed before it was handed to ractor.
    fn failed(&self, peer: Option<&str>, why: Cut, detail: &str) {
        let Some(slot) = peer.and_then(|peer| self.table.slot(peer)) else {
            self.strangers.count(why);
            return;
        };
        slot.stats.cuts.count(why);
        if slot.is_news(why) {
            self.to_gateway(GatewayMsg::Refused(slot.name.clone(), why, detail.into()));
        }
    }

    fn tell(&self, event: LinkEvent) {
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.events)(event)));
        if told.is_err() {
            tracing::error!("the handler of link events panicked; the event is lost");
        }
    }

    /// From 0.5 to 1.5, so that nodes which lost each other at once do not come back at once.
    fn jitter(&self) -> f64 {
        let mut bytes = [0u8; 2];
        // Without random bytes everyone waits the same, which is only less polite.
        let _ = getrandom::fill(&mut bytes);
        0.5 + f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
    }
}
