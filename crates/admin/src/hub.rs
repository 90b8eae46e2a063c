//! Looks at the node every now and then, and tells all who listen: one look for many listeners.
//!
//! [`Hub`] owns a thread. It numbers events, keeps the last minutes of every world, feels their pulse, adds up what metrics
//! count, and sends a summary a second to listeners. A listener that does not keep up is dropped, never buffered for: its queue is
//! short and its connection is closed. Not here: what the summary says (`summary`), HTTP (`api`).

use crate::clock;
use crate::gateway::Counts;
use crate::metrics::Tally;
use crate::pulse::Pulse;
use crate::shapes::{EventView, Events, Readiness, Sample};
use crate::summary::{self, Names};
use aether_cluster::{Node, NodeStatus, WorldStatus};
use axum::body::Bytes;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc as channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Looks between two summaries: a world publishes its status once a second.
const LOOKS_PER_SUMMARY: u32 = 4;
/// Events kept, as many as the node keeps.
const EVENTS_MAX: usize = 4_096;
/// Events that a listener is told at the start.
const EVENTS_FIRST: usize = 200;
/// Seconds of each world that are kept, of so many worlds at most: 20 bytes a second and world.
const HISTORY: usize = 300;
const HISTORY_WORLDS: usize = 4_096;
/// Listeners at a time, and of one token.
const LISTENERS_MAX: usize = 64;
const LISTENERS_OF_ONE: usize = 16;
/// Messages that wait for a listener: some seconds' worth.
const QUEUE: usize = 16;
/// Reasons told.
const REASONS_MAX: usize = 20;

/// What somebody listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topic {
    /// The node and its events.
    Node,
    /// One world's full status, with so many scripts at most.
    World(String, usize),
}

struct Listener {
    topic: Topic,
    who: String,
    sender: mpsc::Sender<Bytes>,
    /// Closes the connection of who does not keep up.
    kill: Arc<Notify>,
    /// Whether their token is still good.
    may_stay: Box<dyn Fn() -> bool + Send>,
    names: u64,
    seen: u64,
}

/// Too many listen already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Default)]
struct Seen {
    events: VecDeque<EventView>,
    seq: u64,
    pulse: Pulse,
    history: HashMap<String, VecDeque<Sample>>,
    tally: Tally,
    names: Names,
    listeners: Vec<Listener>,
}

struct Shared {
    node: Arc<Node>,
    begin: Instant,
    seen: Mutex<Seen>,
}

/// The thread and what it has seen. Ends when this is dropped.
pub(crate) struct Hub {
    shared: Arc<Shared>,
    end: Option<channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.end.take());
        // A look takes milliseconds. A hub that is dropped by its own thread (the last owner of a node's handle) does not wait.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Hub {
    pub fn start(node: Arc<Node>) -> std::io::Result<Hub> {
        let shared = Arc::new(Shared { node, begin: Instant::now(), seen: Mutex::default() });
        shared.look(false);
        let (end, ended) = channel::channel();
        let looking = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("admin-hub".into()).spawn(move || {
            let mut looks = 0;
            while ended.recv_timeout(LOOK) == Err(channel::RecvTimeoutError::Timeout) {
                looks += 1;
                looking.look(looks % LOOKS_PER_SUMMARY == 0);
            }
        })?;
        Ok(Hub { shared, end: Some(end), thread: Some(thread) })
    }

    /// Whether all worlds tick.
    pub fn readiness(&self) -> Readiness {
        let status = self.shared.node.status();
        let mut seen = self.shared.seen();
        let now = self.shared.begin.elapsed();
        seen.pulse.look(now, &status.worlds);
        let mut reasons = seen.pulse.reasons(now, &status.worlds);
        let not_ready = reasons.len();
        reasons.truncate(REASONS_MAX);
        Readiness { ready: not_ready == 0, worlds: status.worlds.len(), not_ready, reasons }
    }

    /// Events after a number that a filter lets through; the newest if there are more than the limit.
    pub fn events(&self, since: u64, limit: usize, wanted: impl Fn(&EventView) -> bool) -> Events {
        let mut seen = self.shared.seen();
        // What happened just now, too.
        seen.take_events(&self.shared.node);
        let oldest = seen.events.front().map_or(seen.seq + 1, |event| event.seq);
        let mut events: Vec<_> =
            seen.events.iter().rev().take_while(|event| event.seq > since).filter(|e| wanted(e)).cloned().collect();
        let missed = since + 1 < oldest || events.len() > limit;
        events.truncate(limit);
        events.reverse();
        Events { seq: seen.seq, missed, events }
    }

    /// The last minutes of a world.
    pub fn history(&self, world: &str) -> Vec<Sample> {
        self.shared.seen().history.get(world).map(|samples| samples.iter().copied().collect()).unwrap_or_default()
    }

    /// Prometheus' text of this moment.
    pub fn metrics(&self, metrics: &crate::metrics::Metrics, gateway: Option<&Counts>) -> String {
        let (status, cluster) = (self.shared.node.status(), self.shared.node.cluster());
        let readiness = self.readiness();
        let disk = rustix::fs::statvfs(self.shared.node.data_dir()).ok();
        let disk = disk.map(|disk| (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)));
        let mut seen = self.shared.seen();
        seen.tally.look(&status.worlds);
        metrics.render(&status, cluster.as_ref(), gateway, &seen.tally, readiness.ready, disk)
    }

    /// Listen from now on. `since`: the number of the last event that they know.
    pub fn listen(
        &self,
        topic: Topic,
        who: &str,
        since: Option<u64>,
        kill: Arc<Notify>,
        may_stay: Box<dyn Fn() -> bool + Send>,
    ) -> Result<mpsc::Receiver<Bytes>, Full> {
        let status = self.shared.node.status();
        let cluster = self.shared.node.cluster();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut seen = self.shared.seen();
        seen.listeners.retain(|listener| !listener.sender.is_closed());
        let own = seen.listeners.iter().filter(|listener| listener.who == who).count();
        if seen.listeners.len() >= LISTENERS_MAX || own >= LISTENERS_OF_ONE {
            return Err(Full);
        }
        seen.take_events(&self.shared.node);
        let first = seen.seq.saturating_sub(EVENTS_FIRST as u64);
        let seen_before = since.map_or(first, |since| since.max(first)).min(seen.seq);
        let mut listener = Listener { topic, who: who.to_owned(), sender, kill, may_stay, names: 0, seen: seen_before };
        let now = self.shared.begin.elapsed();
        let news = News::new(&mut seen, now, &status, cluster.as_ref());
        if listener.tell(&seen, &status, Some(&news)) {
            seen.listeners.push(listener);
        }
        Ok(receiver)
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, summary: bool) {
        let status = self.node.status();
        let mut seen = self.seen();
        let now = self.begin.elapsed();
        seen.take_events(&self.node);
        seen.remember(&status.worlds);
        seen.pulse.look(now, &status.worlds);
        seen.tally.look(&status.worlds);
        if seen.listeners.is_empty() {
            return;
        }
        // Asked only when somebody wants to know.
        let cluster = if summary { self.node.cluster() } else { None };
        let news = summary.then(|| News::new(&mut seen, now, &status, cluster.as_ref()));
        let mut listeners = std::mem::take(&mut seen.listeners);
        listeners.retain_mut(|listener| listener.tell(&seen, &status, news.as_ref()));
        seen.listeners = listeners;
    }
}

/// What is made once for all listeners.
struct News {
    names: Bytes,
    names_version: u64,
    summary: Bytes,
}

impl News {
    fn new(seen: &mut Seen, now: Duration, status: &NodeStatus, cluster: Option<&aether_cluster::ClusterStatus>) -> News {
        seen.names.look(status, cluster);
        let not_ready = seen.pulse.reasons(now, &status.worlds).len();
        let summary = summary::summary(&seen.names, status, cluster, not_ready);
        News {
            names: message("names", None, &seen.names.told()),
            names_version: seen.names.version(),
            summary: message("node", None, &summary),
        }
    }
}

impl Listener {
    /// Tell it what is new. `false`: it is gone, or is to go.
    fn tell(&mut self, seen: &Seen, status: &NodeStatus, news: Option<&News>) -> bool {
        if news.is_some() && !(self.may_stay)() {
            return false;
        }
        let sent = match &self.topic {
            Topic::Node => self.tell_node(seen, news),
            Topic::World(world, scripts) => match (news, status.worlds.iter().find(|status| status.name == *world)) {
                (None, _) => Ok(()),
                (Some(_), None) => self.sender.try_send(message("gone", None, &serde_json::json!({ "world": world }))),
                (Some(_), Some(status)) => self.sender.try_send(message("world", None, &summary::shortened(status, *scripts))),
            },
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = sent {
            tracing::info!(who = self.who, "a listener that does not keep up is dropped");
            self.kill.notify_one();
        }
        sent.is_ok()
    }

    fn tell_node(&mut self, seen: &Seen, news: Option<&News>) -> Result<(), mpsc::error::TrySendError<Bytes>> {
        if let Some(news) = news {
            if self.names != news.names_version {
                self.sender.try_send(news.names.clone())?;
                self.names = news.names_version;
            }
            self.sender.try_send(news.summary.clone())?;
        }
        if self.seen < seen.seq {
            let behind = (seen.seq - self.seen) as usize;
            let new: Vec<_> = seen.events.iter().skip(seen.events.len().saturating_sub(behind)).collect();
            self.sender.try_send(message("events", Some(seen.seq), &new))?;
            self.seen = seen.seq;
        }
        Ok(())
    }
}

/// A server-sent event.
fn message(kind: &str, id: Option<u64>, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    // JSON has no line ends of its own.
    format!("event: {kind}\n{id}data: {data}\n\n").into()
}

impl Seen {
    fn take_events(&mut self, node: &Node) {
        let (new, count) = node.events().timed_since(self.seq);
        let first = count - new.len() as u64;
        for (i, (time, event)) in new.iter().enumerate() {
            self.events.push_back(EventView::new(first + 1 + i as u64, *time, event));
        }
        self.seq = count;
        let excess = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..excess);
    }

    fn remember(&mut self, worlds: &[WorldStatus]) {
        let time_ms = clock::now_ms();
        for world in worlds {
            if !self.history.contains_key(&world.name) {
                if self.history.len() >= HISTORY_WORLDS {
                    continue;
                }
                self.history.insert(world.name.clone(), VecDeque::new());
            }
            let Some(samples) = self.history.get_mut(&world.name) else { continue };
            let (p50_us, p99_us, max_us) = (world.tick_p50_us as f32, world.tick_p99_us as f32, world.tick_max_us as f32);
            // A status holds for a second: seen four times, kept once.
            let known = samples.back().is_some_and(|last| time_ms - last.time_ms.min(time_ms) < 900);
            if known || !matches!(world.state, aether_cluster::WorldState::Ticking) {
                continue;
            }
            samples.push_back(Sample { time_ms, p50_us, p99_us, max_us });
            if samples.len() > HISTORY {
                samples.pop_front();
            }
        }
        if self.history.len() > worlds.len() {
            let here: std::collections::HashSet<_> = worlds.iter().map(|world| world.name.as_str()).collect();
            self.history.retain(|name, _| here.contains(name.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_cluster::WorldState;

    fn listener(topic: Topic) -> (Listener, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let kill = Arc::new(Notify::new());
        (Listener { topic, who: "x".into(), sender, kill, may_stay: Box::new(|| true), names: 0, seen: 0 }, receiver)
    }

    fn news() -> News {
        News { names: "n".into(), names_version: 1, summary: "s".into() }
    }

    fn status() -> NodeStatus {
        let world = WorldStatus { name: "town".into(), state: WorldState::Ticking, ..WorldStatus::default() };
        NodeStatus { name: "n".into(), worlds: vec![world], ..NodeStatus::default() }
    }

    #[tokio::test]
    async fn a_listener_that_does_not_read_is_dropped_and_its_connection_closed() {
        let (mut slow, _receiver) = listener(Topic::Node);
        let told = (0..1_000).take_while(|_| slow.tell(&Seen::default(), &status(), Some(&news()))).count();
        assert!(told <= QUEUE, "{told} messages wait for who does not read");
        slow.kill.notified().await;
    }

    #[test]
    fn names_are_told_once_and_events_that_are_new() {
        let (mut listener, mut receiver) = listener(Topic::Node);
        let mut seen = Seen::default();
        let event = aether_cluster::NodeEvent::Overload { world: "town".into(), action: "x".into() };
        seen.events.push_back(EventView::new(1, 0, &event));
        seen.seq = 1;
        assert!(listener.tell(&seen, &status(), Some(&news())) && listener.tell(&seen, &status(), Some(&news())));
        let mut told = Vec::new();
        while let Ok(bytes) = receiver.try_recv() {
            told.push(String::from_utf8_lossy(&bytes).lines().next().unwrap().to_owned());
        }
        assert_eq!(told, ["n", "s", "event: events", "s"]);
    }

    #[test]
    fn who_listens_to_a_world_is_told_when_it_is_gone() {
        let (mut here, mut told) = listener(Topic::World("town".into(), 5));
        assert!(here.tell(&Seen::default(), &status(), Some(&news())));
        assert!(told.try_recv().unwrap().starts_with(b"event: world\n"));
        let (mut gone, mut told) = listener(Topic::World("nowhere".into(), 5));
        assert!(gone.tell(&Seen::default(), &status(), Some(&news())));
        assert!(told.try_recv().unwrap().starts_with(b"event: gone\n"));
    }

    #[test]
    fn who_may_not_stay_is_told_nothing_more() {
        let (mut listener, mut told) = listener(Topic::Node);
        listener.may_stay = Box::new(|| false);
        assert!(!listener.tell(&Seen::default(), &status(), Some(&news())));
        assert!(told.try_recv().is_err());
    }
}
