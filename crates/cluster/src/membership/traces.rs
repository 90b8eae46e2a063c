//! Traces that other nodes, or operators of this one, have announced: for the question or the move that comes next.
//!
//! Bounded, and forgotten after a while: what is lost is a line in a trace. Not here: spans (`crate::trace`).

use crate::membership::wire::TraceOf;
use crate::trace::PARENT_MAX;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Announced at a time: as many as there are questions and moves on their way, with room.
const TRACES_MAX: usize = 256;
/// A world that has not moved by then is moved for another reason.
const KEPT: Duration = Duration::from_secs(60);

struct Announced {
    /// The node that said so; empty for a move, which concerns two.
    peer: String,
    of: TraceOf,
    parent: String,
    at: Instant,
}

/// See the file.
#[derive(Default)]
pub(crate) struct Traces(VecDeque<Announced>);

impl Traces {
    pub fn announce(&mut self, peer: &str, of: TraceOf, parent: String, now: Instant) {
        if parent.len() > PARENT_MAX {
            return;
        }
        let peer = if matches!(of, TraceOf::Ask(_)) { peer.to_owned() } else { String::new() };
        self.0.retain(|known| now.saturating_duration_since(known.at) < KEPT && (&known.of, &known.peer) != (&of, &peer));
        if self.0.len() >= TRACES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Announced { peer, of, parent, at: now });
    }

    /// The trace of a question, which is asked once.
    pub fn take(&mut self, peer: &str, number: u64) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let at = self.0.iter().position(|known| known.peer == peer && known.of == TraceOf::Ask(number))?;
        self.0.remove(at).map(|known| known.parent)
    }

    /// The trace of a world's move: its release here and its claim there may both belong to it.
    pub fn of(&self, of: &TraceOf, now: Instant) -> Option<String> {
        let known = self.0.iter().find(|known| known.of == *of && now.saturating_duration_since(known.at) < KEPT);
        known.map(|known| known.parent.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_types::WorldId;

    #[test]
    fn a_questions_trace_is_its_senders_and_used_once_and_a_moves_is_forgotten() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        let moved = TraceOf::World(WorldId::new("town").unwrap());
        traces.announce("a", TraceOf::Ask(1), "x".into(), now);
        traces.announce("b", moved.clone(), "y".into(), now);
        assert_eq!((traces.take("b", 1), traces.take("a", 1), traces.take("a", 1)), (None, Some("x".into()), None));
        assert_eq!(traces.of(&moved, now), Some("y".into()));
        assert_eq!(traces.of(&moved, now + KEPT), None);
    }

    #[test]
    fn no_peer_fills_the_memory() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        (0..10_000).for_each(|number| traces.announce("a", TraceOf::Ask(number), "x".into(), now));
        traces.announce("a", TraceOf::Ask(1), "x".repeat(PARENT_MAX + 1), now);
        assert_eq!((traces.0.len(), traces.take("a", 1)), (TRACES_MAX, None));
    }
}
