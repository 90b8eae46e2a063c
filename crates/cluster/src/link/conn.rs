//! One connection to one peer, from the end of the hello to the end of ractor's session.
//!
//! Shared by the stream's two halves, the gateway, whoever sends, and whoever waits for it to be up or gone. A connection is never
//! reused: the next one to the same peer is another [`Conn`] with another id and another token.
//! Not here: which connection of a peer is the current one (`table`).

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    task::Waker,
    time::{Duration, Instant},
};

use ractor::ActorRef;
use tokio::sync::watch;

use super::{
    credit::{Credit, Queue},
    cut::Cut,
    frame::{GatewayMsg, Head},
};

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// ractor's handshake, then both gateways' first frames.
    Joining,
    /// Payloads may be sent.
    Up,
    /// ractor's session is over.
    Gone,
}

/// See the module.
pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) peer: String,
    /// What the node server must know the peer by.
    pub(super) ractor_name: String,
    /// The agreed version of the link protocol.
    pub(super) version: u8,
    /// The peer's build, for status and logs.
    pub(super) build: String,
    /// In every frame from the peer.
    pub(super) token: u64,
    /// In every frame to the peer.
    pub(super) their_token: u64,
    /// The largest payload the peer takes.
    pub(super) payload_bytes_max: u64,
    pub(super) credit: Credit,
    pub(super) queue: Queue,
    /// The peer's gateway. Cast to it and nothing else: stop, kill and drain would end the link.
    pub(super) remote: OnceLock<ActorRef<GatewayMsg>>,
    pub(super) stage: watch::Sender<Stage>,
    authenticated: AtomicBool,
    /// Microseconds; 0 before the first pong.
    pub(super) rtt_us: AtomicU64,
    end: Mutex<End>,
    ended: AtomicBool,
}

#[derive(Default)]
struct End {
    why: Option<(Cut, String)>,
    reader: Option<Waker>,
}

/// What the two hellos and the certificate have settled.
pub(super) struct Agreed {
    pub(super) id: u64,
    pub(super) peer: String,
    pub(super) version: u8,
    pub(super) build: String,
    pub(super) token: u64,
    pub(super) their_token: u64,
    pub(super) payload_bytes_max: u64,
    pub(super) credit: Credit,
    pub(super) queue: Queue,
}

impl Conn {
    pub(super) fn new(agreed: Agreed) -> Conn {
        let Agreed { id, peer, version, build, token, their_token, payload_bytes_max, credit, queue } = agreed;
        Conn {
            id,
            ractor_name: ractor_name(&peer),
            peer,
            version,
            build,
            token,
            their_token,
            payload_bytes_max,
            credit,
            queue,
            remote: OnceLock::new(),
            stage: watch::Sender::new(Stage::Joining),
            authenticated: AtomicBool::new(false),
            rtt_us: AtomicU64::new(0),
            end: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// End it. The first reason counts; returns the one that does.
    pub(super) fn cut(&self, why: Cut, detail: &str) -> Cut {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, _) = end.why.get_or_insert_with(|| (why, detail.into()));
        let first = *first;
        self.ended.store(true, SeqCst);
        if let Some(reader) = end.reader.take() {
            reader.wake();
        }
        first
    }

    /// Why it ends, if it does.
    pub(super) fn why(&self) -> Option<Cut> {
        if !self.ended.load(SeqCst) {
            return None;
        }
        Some(self.why_in_full().0)
    }

    /// The same with the particulars.
    pub(super) fn why_in_full(&self) -> (Cut, String) {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.why.clone().unwrap_or((Cut::Closed, "the session ended".into()))
    }

    /// Whom to wake when it is cut. The writer needs no waker: ractor ends it when reading fails.
    pub(super) fn park(&self, waker: &Waker) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut end.reader {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    pub(super) fn set_authenticated(&self) {
        self.authenticated.store(true, Relaxed);
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.load(Relaxed)
    }

    pub(super) fn is_up(&self) -> bool {
        *self.stage.borrow() == Stage::Up
    }

    /// Wait until it has come to `stage` or further.
    pub(super) async fn reached(&self, stage: Stage, within: Duration) -> bool {
        let mut watch = self.stage.subscribe();
        tokio::time::timeout(within, watch.wait_for(|&now| now >= stage)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Credit for one payload, or none.
    pub(super) fn has_room(&self) -> bool {
        self.credit.is_half_free()
    }

    pub(super) fn take_credit(&self, bytes: u64) -> bool {
        #[cfg(test)]
        if super::tests::cheats() {
            return true;
        }
        self.credit.take(bytes)
    }

    /// A frame to the peer's gateway. `false`: there is no way to it (any more).
    pub(super) fn send(&self, kind: u8, body: Vec<u8>) -> bool {
        let head = Head { version: self.version, kind, token: self.their_token };
        self.remote.get().is_some_and(|remote| remote.cast(GatewayMsg::Frame(head, body)).is_ok())
    }
}

/// A node's name in ractor's handshake. Its host is its name again: ractor takes two nodes with the same `host:port` for one, and every
/// node's own listener is on loopback.
pub(super) fn ractor_name(node: &str) -> String {
    format!("{node}@{node}")
}

/// This process's monotonic clock in microseconds.
pub(super) fn clock_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}
