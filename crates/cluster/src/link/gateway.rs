//! The one actor of this program that other nodes can reach, and the ears at ractor's node server.
//!
//! Everything that happens on links goes through this actor's mailbox: that a connection is ready, each frame, that it is gone. So the
//! owner hears in order: `Up`, payloads, `Down`, and of one link at a time per peer. It processes inline and never waits, because a
//! frame counts as processed when it is done here; a slow `inbound` slows the senders down through their credit.
//! A link is up when this node's session is ready *and* the peer's `OPEN` frame came: the peer sends payloads only after both, so none
//! can come before `Up`.
//! Not here: connections (`join`), credit arithmetic (`credit`). The node server's remote actors are cast to and nothing else.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent, pg};
use ractor_cluster::{NodeEventSubscription, NodeId, node::NodeServerSessionInformation};

use super::{
    Inner, LinkEvent,
    conn::{Conn, Stage, clock_us},
    cut::Cut,
    frame::{self, GatewayMsg, Head},
    table::Slot,
};

/// Where nodes find each other's gateway.
const GROUP: &str = "aether-link";
/// Pings from a peer that are answered: nobody of ours asks more often than every two seconds.
const PONG_EVERY: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Gateway;

/// What the actor knows of the links.
pub(super) struct Links {
    inner: Arc<Inner>,
    by_token: HashMap<u64, Known>,
}

struct Known {
    conn: Arc<Conn>,
    slot: Arc<Slot>,
    ready: bool,
    opened: bool,
    up: bool,
    /// Bytes and messages processed, and what the peer was told of that.
    taken: (u64, u64),
    told: (u64, u64),
    ponged: Option<Instant>,
}

impl Actor for Gateway {
    type Msg = GatewayMsg;
    type State = Links;
    type Arguments = Arc<Inner>;

    async fn pre_start(&self, me: ActorRef<GatewayMsg>, inner: Arc<Inner>) -> Result<Links, ActorProcessingErr> {
        pg::join(GROUP.into(), vec![me.get_cell()]);
        Ok(Links { inner, by_token: HashMap::new() })
    }

    async fn handle(&self, _: ActorRef<GatewayMsg>, msg: GatewayMsg, state: &mut Links) -> Result<(), ActorProcessingErr> {
        match msg {
            GatewayMsg::Frame(head, body) => state.frame(head, body),
            GatewayMsg::Joined(conn) => state.joined(conn),
            GatewayMsg::Ready(id, session) => state.ready(id, session),
            GatewayMsg::Gone(id) => state.gone(id),
            GatewayMsg::Refused(peer, cut, detail) => {
                state.inner.tell(LinkEvent::Refused { peer, cut, why: format!("{cut}: {detail}") });
            }
            GatewayMsg::Tick => state.tick(),
            // `guard` lets none through; whoever found a way has their queue overrun in the end.
            GatewayMsg::Unreadable => {}
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<GatewayMsg>,
        _: SupervisionEvent,
        _: &mut Links,
    ) -> Result<(), ActorProcessingErr> {
        // Supervises nothing. The default would stop it.
        Ok(())
    }
}

impl Links {
    fn joined(&mut self, conn: Arc<Conn>) {
        let Some(slot) = self.inner.table.slot(&conn.peer) else {
            conn.cut(Cut::NotListed, "taken off the list while joining");
            return;
        };
        let known = Known { slot, ready: false, opened: false, up: false, taken: (0, 0), told: (0, 0), ponged: None, conn };
        self.by_token.insert(known.conn.token, known);
    }

    fn ready(&mut self, id: u64, session: NodeId) {
        let Some(known) = self.by_token.values_mut().find(|known| known.conn.id == id) else { return };
        let gateway = pg::get_members(&GROUP.to_owned()).into_iter().find(|cell| frame::is_of(cell.get_id(), session));
        let Some(gateway) = gateway else {
            known.conn.cut(Cut::Garbage, "announced no gateway");
            return;
        };
        if known.conn.remote.set(gateway.into()).is_ok() {
            known.ready = true;
            known.conn.send(frame::OPEN, Vec::new());
            known.up_if_complete(&self.inner);
        }
    }

    fn gone(&mut self, id: u64) {
        let Some(token) = self.by_token.iter().find(|(_, known)| known.conn.id == id).map(|(&token, _)| token) else { return };
        let Some(Known { conn, slot, up, .. }) = self.by_token.remove(&token) else { return };
        let (why, detail) = conn.why_in_full();
        slot.stats.cuts.count(why);
        slot.clear(&conn);
        conn.stage.send_replace(Stage::Gone);
        if up {
            tracing::info!(peer = conn.peer, %why, detail, "link down");
            self.inner.tell(LinkEvent::Down { peer: conn.peer.clone(), why: format!("{why}: {detail}") });
        } else {
            tracing::info!(peer = conn.peer, %why, detail, "connection ended before the link was up");
        }
    }

    fn tick(&mut self) {
        for known in self.by_token.values_mut().filter(|known| known.up) {
            known.acknowledge();
            known.conn.send(frame::PING, frame::pair(clock_us(), 0));
        }
    }

    fn frame(&mut self, head: Head, body: Vec<u8>) {
        // The connection is over, and this frame came too late.
        let Some(known) = self.by_token.get_mut(&head.token) else { return };
        // What was sent before an honest end still counts; what a peer that was cut off for it has left in the mailbox does not.
        if matches!(known.conn.why(), Some(Cut::Overrun | Cut::Garbage | Cut::FrameTooLong | Cut::NotListed)) {
            return;
        }
        let bytes = body.len() as u64;
        known.conn.queue.done(bytes);
        if let Err(what) = known.take(&self.inner, head, body) {
            known.conn.cut(Cut::Garbage, what);
        }
        if head.kind >= frame::PAID {
            known.taken.0 += bytes;
            known.taken.1 += 1;
            let limits = &self.inner.limits;
            let due = known.taken.0 - known.told.0 >= limits.window_bytes / 8
                || known.taken.1 - known.told.1 >= limits.window_messages / 8;
            if due {
                known.acknowledge();
            }
        }
    }
}

impl Known {
    fn take(&mut self, inner: &Inner, head: Head, body: Vec<u8>) -> Result<(), &'static str> {
        if head.version != self.conn.version {
            return Err("a frame of another version than agreed");
        }
        if head.kind < frame::PAID && body.len() > frame::FREE_BYTES_MAX {
            return Err("a free frame that is too long");
        }
        match head.kind {
            frame::OPEN => {
                self.opened = true;
                self.up_if_complete(inner);
            }
            frame::ACK => {
                let (bytes, messages) = frame::read_pair(&body).ok_or("an acknowledgement that cannot be read")?;
                if !self.conn.credit.acked(bytes, messages) {
                    return Err("acknowledged what was not sent");
                }
            }
            frame::PING => {
                if self.ponged.is_none_or(|last| last.elapsed() >= PONG_EVERY) {
                    self.ponged = Some(Instant::now());
                    self.conn.send(frame::PONG, body);
                }
            }
            frame::PONG => {
                let (sent, _) = frame::read_pair(&body).ok_or("a pong that cannot be read")?;
                self.conn.rtt_us.store(clock_us().saturating_sub(sent).max(1), Relaxed);
            }
            frame::BYE => {
                self.conn.cut(Cut::PeerLeft, "it said goodbye");
            }
            frame::DATA if !self.up => return Err("a payload before the link was up"),
            frame::DATA if body.len() as u64 > inner.limits.payload_bytes_max => return Err("a payload over the limit"),
            frame::DATA => {
                self.slot.stats.received(body.len());
                // A panic in the owner's callback is the owner's loss of one message, not of all links.
                if catch_unwind(AssertUnwindSafe(|| (inner.inbound)(&self.conn.peer, body))).is_err() {
                    tracing::error!(peer = self.conn.peer, "the handler of incoming messages panicked; the message is lost");
                }
            }
            _ => {
                self.slot.stats.unknown_frames.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    fn up_if_complete(&mut self, inner: &Inner) {
        if !self.ready || !self.opened || self.up || self.conn.why().is_some() {
            return;
        }
        self.up = true;
        self.slot.stats.up(SystemTime::now());
        self.slot.is_well();
        self.conn.stage.send_replace(Stage::Up);
        tracing::info!(peer = self.conn.peer, version = self.conn.version, build = self.conn.build, "link up");
        inner.tell(LinkEvent::Up { peer: self.conn.peer.clone() });
    }

    fn acknowledge(&mut self) {
        if self.told != self.taken {
            self.told = self.taken;
            self.conn.send(frame::ACK, frame::pair(self.taken.0, self.taken.1));
        }
    }
}

/// The node server's events, passed on. Called inside of the node server: casts only.
pub(super) struct Ears(pub(super) Arc<Inner>);

impl Ears {
    fn conn(&self, session: &NodeServerSessionInformation) -> Option<Arc<Conn>> {
        self.0.table.conn(session.peer_addr.parse().ok()?)
    }
}

impl NodeEventSubscription for Ears {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        // Not handed over by us: there is no other way in, but if there were, this closes it. The session is a local actor.
        if self.conn(&session).is_none() {
            session.actor.stop(Some("not from the link layer".into()));
        }
    }

    fn node_session_authenticated(&self, session: NodeServerSessionInformation) {
        let Some(conn) = self.conn(&session) else { return };
        // `guard` has compared it already, before ractor could act on the name.
        if session.peer_name.is_some_and(|name| name.name == conn.ractor_name) {
            conn.set_authenticated();
        } else {
            conn.cut(Cut::WrongName, "another name than its certificate's");
        }
    }

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        if let Some(conn) = self.conn(&session) {
            self.0.to_gateway(GatewayMsg::Ready(conn.id, session.node_id));
        }
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        if let Some(conn) = self.conn(&session) {
            self.0.gone(&conn);
        }
    }
}
