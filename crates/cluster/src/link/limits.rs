//! The bounds of the link layer, and the errors of its interface.

use super::pki::PkiError;

/// Bounds of the links. The defaults are meant for one data centre.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkLimits {
    /// The largest payload.
    pub payload_bytes_max: u64,
    /// Payload bytes on the way to one peer and not acknowledged. Bounds the memory a slow peer costs, on both sides.
    pub window_bytes: u64,
    /// Payloads on the way to one peer and not acknowledged.
    pub window_messages: u64,
    /// Handshakes at once; the oldest gives way to a newer one.
    pub pending_handshakes: usize,
    /// For each of: connecting, the TLS handshake, the hello.
    pub tls_ms: u64,
    /// From the hello to a link that is up.
    pub auth_ms: u64,
    /// A peer that sends no whole frame for this long is cut off. ractor pings every 5 s at the latest.
    pub read_idle_ms: u64,
    /// A peer that takes nothing for this long is cut off.
    pub write_stall_ms: u64,
}

impl Default for LinkLimits {
    fn default() -> LinkLimits {
        LinkLimits {
            payload_bytes_max: 1 << 20,
            window_bytes: 8 << 20,
            window_messages: 16_384,
            pending_handshakes: 16,
            tls_ms: 3_000,
            auth_ms: 5_000,
            read_idle_ms: 12_000,
            write_stall_ms: 3_000,
        }
    }
}

impl LinkLimits {
    /// Compare the fields with their ranges and with each other.
    pub fn check(&self) -> Result<(), LinkError> {
        let range = |what: &'static str, value: u64, from: u64, to: u64| {
            if (from..=to).contains(&value) { Ok(()) } else { Err(LinkError::Limit { what, value, from, to }) }
        };
        range("payload_bytes_max", self.payload_bytes_max, 1 << 12, 16 << 20)?;
        // An acknowledgement is due after an eighth of the window, so less could stay full with nothing on the way.
        range("window_bytes", self.window_bytes, self.payload_bytes_max * 8, 1 << 30)?;
        range("window_messages", self.window_messages, 64, 1 << 20)?;
        range("pending_handshakes", self.pending_handshakes as u64, 4, 1_024)?;
        range("tls_ms", self.tls_ms, 100, 60_000)?;
        range("auth_ms", self.auth_ms, 100, 60_000)?;
        // Twice ractor's longest pause between pings.
        range("read_idle_ms", self.read_idle_ms, 10_000, 600_000)?;
        range("write_stall_ms", self.write_stall_ms, 100, 600_000)
    }

    /// A payload with what ractor puts around it, and room.
    pub(super) fn frame_bytes_max(&self) -> u64 {
        self.payload_bytes_max + 1024
    }
}

/// Why there are no links, or no new certificates.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A limit out of its range.
    #[error("{what} is {value}: choose {from} to {to}")]
    Limit {
        /// The field.
        what: &'static str,
        /// As given.
        value: u64,
        /// The least.
        from: u64,
        /// The most.
        to: u64,
    },
    /// A mistake of ours: ractor's groups and ids are per process.
    #[error("this process has links already: stop those first")]
    AlreadyRunning,
    /// The identity folder cannot be used.
    #[error("the node's identity cannot be used")]
    Identity(#[from] PkiError),
    /// The address cannot be listened on.
    #[error("could not listen on {address}: choose an address of this machine and a free port")]
    Listen {
        /// As configured.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// ractor would not start.
    #[error("could not start the actors of the link layer: {0}")]
    Actor(String),
    /// ractor keeps the cookie it was started with.
    #[error("the cookie in the identity folder changed: restart the node to use it (all nodes of a cluster have the same)")]
    CookieChanged,
}

/// Why a payload was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no link to the peer now.
    #[error("not linked")]
    NotLinked,
    /// Too much is on the way to the peer: it or the network is slower than what is sent. Send later, or less.
    #[error("too much is on the way already")]
    Full,
    /// The payload is over the limit. Send it in parts.
    #[error("{bytes} bytes are over the limit of {max} for a payload")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit on this link.
        max: u64,
    },
}
