//! What the gateway actors of two nodes say to each other: the one remotable message of the program.
//!
//! A frame is one cast of ractor: `metadata` is a head of 10 bytes (version, kind, the receiver's token), `what` the body, so a payload
//! is never copied to put something in front of it. Kinds from [`PAID`] on cost credit, also kinds this build does not know: the
//! sender, which does, counted them. Unknown kinds are counted and otherwise ignored.
//! Serialised by hand: ractor's derive copies each field and panics on bytes it does not expect.
//! Not here: what a frame does (`gateway`), how much may be sent (`credit`).

use std::sync::Arc;

use ractor::{ActorId, Message, message::BoxedDowncastErr, message::SerializedMessage};

use super::{conn::Conn, cut::Cut};

/// Version, kind, token.
pub(super) const HEAD_BYTES: usize = 10;
/// From this kind on a frame costs credit.
pub(super) const PAID: u8 = 16;
/// Free kinds are this long at most, or they would be a way around the credit.
pub(super) const FREE_BYTES_MAX: usize = 64;

/// I am ready for you. Both sides wait for it before a link is up, so it proves the way through both gateways.
pub(super) const OPEN: u8 = 1;
/// Taken so far on this link: bytes, messages.
pub(super) const ACK: u8 = 2;
/// The sender's clock in microseconds; comes back as [`PONG`].
pub(super) const PING: u8 = 3;
pub(super) const PONG: u8 = 4;
/// I am stopping: close the link.
pub(super) const BYE: u8 = 5;
/// A payload.
pub(super) const DATA: u8 = 16;

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) version: u8,
    pub(super) kind: u8,
    pub(super) token: u64,
}

impl Head {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend_from_slice(&[self.version, self.kind]);
        bytes.extend_from_slice(&self.token.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Head> {
        let (&[version, kind], token) = bytes.split_first_chunk::<2>()?;
        Some(Head { version, kind, token: u64::from_le_bytes(token.try_into().ok()?) })
    }
}

/// Two numbers, as [`ACK`] and the clock frames carry them.
pub(super) fn pair(a: u64, b: u64) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes()].concat()
}

/// The same back.
pub(super) fn read_pair(body: &[u8]) -> Option<(u64, u64)> {
    let (a, b) = body.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*a), u64::from_le_bytes(b.try_into().ok()?)))
}

/// What the gateway can be told.
pub(super) enum GatewayMsg {
    /// The other node's gateway.
    Frame(Head, Vec<u8>),
    /// A peer that does not speak as agreed; it is not known which.
    Unreadable,
    /// `join`: this connection is handed to ractor now.
    Joined(Arc<Conn>),
    /// The node server: the session of this connection is ready, its remote actors have this node id.
    Ready(u64, ractor_cluster::NodeId),
    /// The node server: the session of this connection is over.
    Gone(u64),
    /// `join`: no connection with this peer, for a new reason.
    Refused(String, Cut, String),
    /// The clock: acknowledge what is left, measure the round trip.
    Tick,
}

impl Message for GatewayMsg {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        match self {
            GatewayMsg::Frame(head, args) => {
                Ok(SerializedMessage::Cast { variant: String::new(), args, metadata: Some(head.bytes()) })
            }
            // Never sent to another node.
            GatewayMsg::Unreadable
            | GatewayMsg::Joined(_)
            | GatewayMsg::Ready(..)
            | GatewayMsg::Gone(_)
            | GatewayMsg::Refused(..)
            | GatewayMsg::Tick => Err(BoxedDowncastErr),
        }
    }

    fn deserialize(message: SerializedMessage) -> Result<GatewayMsg, BoxedDowncastErr> {
        Ok(match message {
            SerializedMessage::Cast { args, metadata: Some(head), .. } => {
                Head::read(&head).map_or(GatewayMsg::Unreadable, |head| GatewayMsg::Frame(head, args))
            }
            _ => GatewayMsg::Unreadable,
        })
    }
}

/// Whether an actor is the gateway of the session with this node id.
pub(super) fn is_of(id: ActorId, session: ractor_cluster::NodeId) -> bool {
    matches!(id, ActorId::Remote { node_id, .. } if node_id == session)
}
