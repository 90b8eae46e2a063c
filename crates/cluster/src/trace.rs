//! Trace context on its way between nodes.
//!
//! Spans are made with `tracing` at the level of the control plane: publications, phases of reloads, claims, releases, moves, placement,
//! checkpoints; never in a tick. What happens on several nodes is one trace: a question to another node carries its span's W3C
//! `traceparent`. Who exports spans knows how those are written and installs [`Carrier`]; without one nothing is carried.
//! Not here: exporting (the command line), frames (`membership/wire.rs`).

use std::sync::OnceLock;
use tracing::Span;

/// How a span's context is written and taken up.
#[derive(Debug, Clone, Copy)]
pub struct Carrier {
    /// The `traceparent` of a span; `None`: it is in no trace that is exported.
    pub write: fn(&Span) -> Option<String>,
    /// Make a span, not entered yet, part of the trace of a `traceparent`. What is none is ignored.
    pub adopt: fn(&Span, &str),
}

static CARRIER: OnceLock<Carrier> = OnceLock::new();

/// From now on questions to other nodes carry their trace. Once a process; a second time does nothing.
pub fn install(carrier: Carrier) {
    let _ = CARRIER.set(carrier);
}

/// A `traceparent` has 55 characters; later versions of it may have more.
pub(crate) const PARENT_MAX: usize = 128;

/// The context of the span that the caller is in.
pub(crate) fn current() -> Option<String> {
    CARRIER.get().and_then(|carrier| (carrier.write)(&Span::current())).filter(|parent| parent.len() <= PARENT_MAX)
}

/// Make a new span part of a trace, if there is one.
pub(crate) fn adopt(span: Span, parent: Option<&str>) -> Span {
    if let (Some(carrier), Some(parent)) = (CARRIER.get(), parent) {
        (carrier.adopt)(&span, parent);
    }
    span
}
