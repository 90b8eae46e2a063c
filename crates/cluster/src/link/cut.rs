//! Why a connection ended, and how often.
//!
//! Every way a link can end has one word here; metrics, events and [`super::PeerStatus`] use the same words. The first reason given to
//! a connection stays: what follows from closing it (an end of file, a reset) does not overwrite the cause.
//! Not here: deciding. `guard` judges bytes, `stream` judges silence, `join` judges identity.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! cuts {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $text:literal;)*) => {
        /// Why a connection was refused or ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cut { $($(#[$doc])* $name,)* }

        impl Cut {
            /// All of them, in the order they are counted.
            pub const ALL: &[Cut] = &[$(Cut::$name,)*];

            /// One word, for metrics.
            pub fn label(self) -> &'static str {
                match self { $(Cut::$name => $label,)* }
            }
        }

        impl std::fmt::Display for Cut {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Cut::$name => $text,)* })
            }
        }
    };
}

cuts! {
    /// More handshakes at once than allowed, and this was the oldest.
    Crowded = "crowded", "gave way to newer handshakes";
    /// TLS failed: no certificate, another CA, expired, or no TLS at all.
    Tls = "tls", "the TLS handshake failed";
    /// The handshake took too long.
    HandshakeTimeout = "handshake_timeout", "the handshake was not finished in time";
    /// A certificate that is not one of this cluster's nodes.
    Identity = "identity", "the certificate names no node of this cluster";
    /// The name said is not the name in the certificate.
    WrongName = "wrong_name", "the node calls itself other than its certificate does";
    /// Its hello could not be read.
    BadHello = "bad_hello", "the hello could not be read";
    /// No protocol version in common.
    Version = "version", "no protocol version in common";
    /// The other side said no; the log has its reason.
    Refused = "refused", "the other node refused";
    /// Not in the list of nodes (any more).
    NotListed = "not_listed", "the node is not listed";
    /// The larger name dialled the smaller.
    WrongDirection = "wrong_direction", "only the node with the smaller name dials";
    /// ractor's handshake did not finish in time.
    AuthTimeout = "auth_timeout", "the session was not ready in time";
    /// A frame over the limit.
    FrameTooLong = "frame_too_long", "sent a frame over the limit";
    /// Bytes that no node of ours sends.
    Garbage = "garbage", "sent what is not part of the protocol";
    /// Sent more than its credit.
    Overrun = "overrun", "sent more than it had credit for";
    /// No whole frame for too long.
    ReadIdle = "read_idle", "sent nothing for too long";
    /// Did not take what was sent.
    WriteStall = "write_stall", "took nothing for too long";
    /// A newer connection of the same node took over.
    Replaced = "replaced", "a newer connection of the same node took over";
    /// The other node said goodbye.
    PeerLeft = "peer_left", "the node left";
    /// The other side closed, or the network did.
    Closed = "closed", "the connection was closed";
    /// This node stops.
    Stopping = "stopping", "this node stops";
}

/// A counter for each reason.
#[derive(Debug)]
pub(super) struct Cuts(Vec<AtomicU64>);

impl Default for Cuts {
    fn default() -> Cuts {
        Cuts(Cut::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Cuts {
    pub(super) fn count(&self, why: Cut) {
        self.0[why as usize].fetch_add(1, Relaxed);
    }

    /// Those that happened.
    pub(super) fn list(&self) -> Vec<(Cut, u64)> {
        let all = Cut::ALL.iter().map(|&why| (why, self.0[why as usize].load(Relaxed)));
        all.filter(|&(_, n)| n > 0).collect()
    }
}
