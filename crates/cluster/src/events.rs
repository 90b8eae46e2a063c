//! What happened on a node, for people: the last few thousand events, in order.

use aether_scripting::{Trace, Version};
use aether_types::counted;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that an operator or an author wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// A script wrote a line.
    Log {
        /// Its world.
        world: String,
        /// Its name there.
        script: String,
        /// 0 error, 1 warning, 2 info, 3 debug.
        level: u8,
        /// What.
        text: String,
    },
    /// A script ended badly.
    ScriptEnded {
        /// Its world.
        world: String,
        /// Its name there.
        script: String,
        /// Its version.
        version: Version,
        /// How.
        cause: String,
        /// Whether it kept failing, and is left alone.
        parked: bool,
        /// Whether it comes back by itself.
        again: bool,
        /// Where it was, on a node that keeps traces.
        trace: Option<Box<Trace>>,
    },
    /// Overload protection took a step.
    Overload {
        /// The world.
        world: String,
        /// What it did.
        action: String,
    },
    /// A world ended.
    WorldEnded {
        /// Which.
        world: String,
        /// Why.
        cause: String,
        /// Whether it will not be started again.
        parked: bool,
    },
    /// Something about the cluster.
    Cluster {
        /// What happened.
        text: String,
    },
    /// A reload got further.
    Reload {
        /// The script.
        script: String,
        /// What happened.
        text: String,
        /// Whether it will not come to serve: it was refused or rolled back.
        failed: bool,
    },
    /// All of this node's worlds run a new version. It is watched before it is kept.
    Live {
        /// The script.
        script: String,
        /// The version.
        version: Version,
        /// How many worlds.
        worlds: usize,
        /// From the order to swap to the last swap, milliseconds.
        swap_ms: u64,
    },
}

impl std::fmt::Display for NodeEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NodeEvent::Log { world, script, level, text } => {
                let level = ["error", "warn", "info", "debug"].get(*level as usize).unwrap_or(&"info");
                write!(f, "{world}/{script} {level}: {text}")
            }
            NodeEvent::ScriptEnded { world, script, cause, parked, again, trace, .. } => {
                let follows = match (parked, again) {
                    (true, _) => "parked",
                    (false, true) => "ended, comes back",
                    (false, false) => "ended",
                };
                write!(f, "{world}/{script} {follows}: {cause}")?;
                trace.as_ref().map_or(Ok(()), |trace| write!(f, ", in {trace}"))
            }
            NodeEvent::Overload { world, action } => write!(f, "{world} overload: {action}"),
            NodeEvent::WorldEnded { world, cause, parked: true } => write!(f, "{world} parked: {cause}"),
            NodeEvent::WorldEnded { world, cause, parked: false } => write!(f, "{world} ended, comes back: {cause}"),
            NodeEvent::Cluster { text } => write!(f, "cluster: {text}"),
            NodeEvent::Reload { script, text, .. } => write!(f, "reload of {script}: {text}"),
            NodeEvent::Live { script, version, worlds, swap_ms } => {
                write!(
                    f,
                    "reload of {script}: version {version} runs in {} after {swap_ms} ms, and is watched",
                    counted(*worlds, "world")
                )
            }
        }
    }
}

/// Events kept.
const EVENTS_MAX: usize = 4_096;

/// The last events of a node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EventLog(Arc<Mutex<Events>>);

/// An event and when it happened, milliseconds since 1970.
pub type TimedEvent = (u64, NodeEvent);

#[derive(Debug, Default)]
struct Events {
    list: VecDeque<TimedEvent>,
    /// How many there have been.
    count: u64,
}

impl EventLog {
    pub(crate) fn push(&self, event: NodeEvent) {
        match &event {
            NodeEvent::Log { world, script, level, text } => tracing::debug!(world, script, level, text, "script log"),
            NodeEvent::ScriptEnded { world, script, cause, parked, .. } => {
                tracing::info!(world, script, cause, parked, "script ended")
            }
            NodeEvent::Overload { world, action } => tracing::info!(world, action, "overload"),
            NodeEvent::WorldEnded { world, cause, parked } => tracing::error!(world, cause, parked, "world ended"),
            NodeEvent::Cluster { text } => tracing::info!(text, "cluster"),
            NodeEvent::Reload { script, text, failed: true } => tracing::warn!(script, text, "reload failed"),
            NodeEvent::Reload { script, text, failed: false } => tracing::info!(script, text, "reload"),
            NodeEvent::Live { script, version, worlds, swap_ms } => tracing::info!(script, %version, worlds, swap_ms, "live"),
        }
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.count += 1;
        events.list.push_back((clock_ms(), event));
        if events.list.len() > EVENTS_MAX {
            events.list.pop_front();
        }
    }

    /// The events after the first `seen`, and how many there have been in all: the next call's `seen`.
    pub fn since(&self, seen: u64) -> (Vec<NodeEvent>, u64) {
        let (events, count) = self.timed_since(seen);
        (events.into_iter().map(|(_, event)| event).collect(), count)
    }

    /// The same with their times.
    pub fn timed_since(&self, seen: u64) -> (Vec<TimedEvent>, u64) {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (events.count - seen.min(events.count)) as usize;
        let skip = events.list.len().saturating_sub(new);
        (events.list.iter().skip(skip).cloned().collect(), events.count)
    }
}

/// What a clock on the wall says, milliseconds since 1970. For people: nothing is decided by it.
pub(crate) fn clock_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_go_and_a_reader_sees_each_new_one_once() {
        let log = EventLog::default();
        let event = |n: usize| NodeEvent::WorldEnded { world: n.to_string(), cause: String::new(), parked: false };
        (0..EVENTS_MAX + 10).for_each(|n| log.push(event(n)));
        let (events, seen) = log.since(0);
        assert_eq!((events.len(), seen), (EVENTS_MAX, EVENTS_MAX as u64 + 10));
        assert_eq!(events[0], event(10));
        log.push(event(7));
        assert_eq!(log.since(seen), (vec![event(7)], seen + 1));
    }
}
