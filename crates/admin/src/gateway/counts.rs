//! What a gateway counts, for `/metrics`.

use crate::gateway::protocol::{Code, Refusal};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why sessions ended, as labels: those of [`Code`], and those that the client ended.
pub(crate) const ENDS: [(&str, Option<Code>); 12] = [
    ("left", None),
    ("away", Some(Code::Away)),
    ("too_large", Some(Code::TooLarge)),
    ("later", Some(Code::Later)),
    ("bad", Some(Code::Bad)),
    ("token", Some(Code::Token)),
    ("no_world", Some(Code::NoWorld)),
    ("version", Some(Code::Version)),
    ("silent", Some(Code::Silent)),
    ("replaced", Some(Code::Replaced)),
    ("slow", Some(Code::Slow)),
    ("flood", Some(Code::Flood)),
];

/// Why inputs were refused, as labels.
pub(crate) const REFUSALS: [(&str, Refusal); 4] =
    [("too_many", Refusal::TooMany), ("busy", Refusal::Busy), ("away", Refusal::Away), ("no_script", Refusal::NoScript)];

/// Counted since the gateway started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sessions that are there now.
    pub(crate) sessions: AtomicU64,
    /// Worlds that are followed for them.
    pub(crate) worlds: AtomicU64,
    /// Sessions whose hello was good.
    pub(crate) begun: AtomicU64,
    ended: [AtomicU64; ENDS.len()],
    /// Inputs that were passed on.
    pub(crate) inputs: AtomicU64,
    refused: [AtomicU64; REFUSALS.len()],
    /// Messages to clients, and their bytes.
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Times that a slow client's ticks gave way to a snapshot.
    pub(crate) coalesced: AtomicU64,
    /// Times that a world was shown anew because it moved, was started again or something was missed.
    pub(crate) resyncs: AtomicU64,
}

impl Counts {
    pub(crate) fn end(&self, code: Option<Code>) {
        if let Some(at) = ENDS.iter().position(|(_, of)| *of == code) {
            self.ended[at].fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn refuse(&self, why: Refusal) {
        if let Some(at) = REFUSALS.iter().position(|(_, of)| *of == why) {
            self.refused[at].fetch_add(1, Relaxed);
        }
    }

    /// Labels and numbers of ended sessions.
    pub(crate) fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ENDS.iter().zip(&self.ended).map(|((label, _), count)| (*label, count.load(Relaxed)))
    }

    /// Labels and numbers of refused inputs.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.iter().zip(&self.refused).map(|((label, _), count)| (*label, count.load(Relaxed)))
    }
}
