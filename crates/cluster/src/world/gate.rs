//! The output gate: what a tick sends out of its world leaves when everything the world wrote before it is durable.
//!
//! [`OutputGate`] is a plain queue of (commit number, output); [`Durable`] is what the store's thread tells. Bounded: a world whose gate
//! is full holds its ticks until the disk has caught up.

use crate::world::courier::Parcel;
use crate::world::post::Post;
use crate::world::show::View;
use aether_scripting::output::{ClientCommand, OutboundCall};
use aether_store::StoreError;
use serde::Serialize;
use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Commits and ticks whose output may wait. At 20 Hz that is three seconds of a slow disk.
const WAITING_MAX: usize = 64;

/// Told when a commit is durable, with its number, or why it never will be.
pub(crate) type WhenDurable = Box<dyn FnOnce(Result<u64, String>) + Send>;

/// What the store has done for one world.
#[derive(Default)]
pub(crate) struct Durable {
    seq: AtomicU64,
    post: Arc<Post>,
    /// What goes to other worlds when its commit is durable. As bounded as what a tick may send and as commits may wait.
    parcels: Mutex<VecDeque<(u64, Vec<Parcel>)>>,
    failed: Mutex<Option<StoreError>>,
    /// The longest that a commit took since this was last asked, nanoseconds.
    longest_ns: AtomicU64,
    /// When each commit that is under way was given to the store, the oldest first. As bounded as commits that may wait.
    under_way: Mutex<VecDeque<Instant>>,
    /// Who waits for which commit: as many as ask for checkpoints at a time.
    waiting: Mutex<Vec<(u64, WhenDurable)>>,
}

impl std::fmt::Debug for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Durable({})", self.seq.load(Ordering::Relaxed))
    }
}

impl Durable {
    pub fn new(seq: u64, post: Arc<Post>) -> Arc<Durable> {
        Arc::new(Durable { seq: AtomicU64::new(seq), post, ..Durable::default() })
    }

    /// Send these when commit `seq` is durable, from whatever thread learns of it: it does not wait for the world's next tick.
    pub fn send(&self, seq: u64, parcels: Vec<Parcel>) {
        if !parcels.is_empty() {
            self.parcels.lock().unwrap_or_else(PoisonError::into_inner).push_back((seq, parcels));
            self.send_durable();
        }
    }

    /// Under the lock: what was given first leaves first, whoever sends it.
    fn send_durable(&self) {
        let durable = self.seq.load(Ordering::Acquire);
        let mut waiting = self.parcels.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, parcels)) = waiting.pop_front_if(|(seq, _)| *seq <= durable) {
            self.post.send(parcels);
        }
    }

    /// The next commit is given to the store.
    pub fn begins(&self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
    }

    /// Called by the store's thread, in order.
    pub fn report(&self, seq: u64, result: Result<(), StoreError>) {
        if let Some(begun) = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
            self.longest_ns.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        match result {
            Ok(()) => {
                self.seq.store(seq, Ordering::Release);
                self.send_durable();
            }
            // The first failure counts: those after it follow from it.
            Err(error) => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
        self.tell();
    }

    /// The longest that a commit took since this was last asked, or that one has taken that is still under way: of a disk that hangs none
    /// ever ends.
    pub fn take_longest(&self) -> Duration {
        let oldest = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).front().map(Instant::elapsed);
        Duration::from_nanos(self.longest_ns.swap(0, Ordering::Relaxed)).max(oldest.unwrap_or_default())
    }

    /// Tell when commit `seq` is durable.
    pub fn when(&self, seq: u64, then: WhenDurable) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((seq, then));
        self.tell();
    }

    fn tell(&self) {
        let (durable, failure) = (self.seq.load(Ordering::Acquire), self.failure());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let ready: Vec<_> = waiting.extract_if(.., |(seq, _)| *seq <= durable || failure.is_some()).collect();
        drop(waiting);
        for (seq, then) in ready {
            then(if seq <= durable { Ok(seq) } else { Err(failure.as_ref().map(ToString::to_string).unwrap_or_default()) });
        }
    }

    pub fn failure(&self) -> Option<StoreError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What leaves a world, without what goes to the store.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Output {
    /// Of which tick it is.
    #[serde(skip)]
    pub tick: u64,
    /// For those who watch; `None`: nobody does, or nothing changed.
    #[serde(skip)]
    pub view: Option<View>,
    pub commands: Vec<ClientCommand>,
    pub calls: Vec<OutboundCall>,
}

/// A file of what has left, for people and tests.
pub(crate) struct OutputLog(Mutex<std::fs::File>);

/// A line of it.
#[derive(Serialize)]
struct OutputLine<'a> {
    world: &'a str,
    generation: u64,
    tick: u64,
    #[serde(flatten)]
    output: &'a Output,
}

impl OutputLog {
    pub fn open(path: &Path) -> Result<OutputLog, crate::NodeError> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|source| crate::NodeError::Read { path: path.to_owned(), source })?;
        Ok(OutputLog(Mutex::new(file)))
    }

    /// One write a line: a line that is there is whole.
    pub fn write(&self, world: &str, generation: u64, output: &Output) {
        let Ok(mut line) = serde_json::to_vec(&OutputLine { world, generation, tick: output.tick, output }) else { return };
        line.push(b'\n');
        if let Err(error) = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line) {
            tracing::warn!(%error, "output not logged");
        }
    }
}

/// Output that waits.
#[derive(Debug)]
pub(crate) struct OutputGate {
    durable: Arc<Durable>,
    waiting: VecDeque<(u64, Output)>,
}

impl OutputGate {
    pub fn new(durable: Arc<Durable>) -> OutputGate {
        OutputGate { durable, waiting: VecDeque::new() }
    }

    /// Whether the disk is too far behind a world whose last commit is `seq`. `room`: the store has some for more of anybody's; while it
    /// has none, a world goes on only if it waits for nothing, so that one that writes nothing is not held for those that do.
    pub fn is_full(&self, seq: u64, room: bool) -> bool {
        let behind = seq.saturating_sub(self.durable.seq.load(Ordering::Acquire));
        self.waiting.len() >= WAITING_MAX || behind >= WAITING_MAX as u64 || (behind > 0 && !room)
    }

    /// Output that may leave when commit `seq` is durable.
    pub fn hold(&mut self, seq: u64, output: Output) {
        if !output.commands.is_empty() || !output.calls.is_empty() || output.view.is_some() {
            self.waiting.push_back((seq, output));
        }
    }

    /// The oldest output that may leave.
    pub fn release(&mut self) -> Option<Output> {
        let durable = self.durable.seq.load(Ordering::Acquire);
        self.waiting.pop_front_if(|(seq, _)| *seq <= durable).map(|(_, output)| output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_scripting::EntityId;

    fn output(n: u64) -> Output {
        Output { commands: vec![ClientCommand::Gone { entity: EntityId(n) }], ..Output::default() }
    }

    #[test]
    fn nothing_leaves_before_the_writes_that_came_before_it() {
        let durable = Durable::new(4, Arc::default());
        let mut gate = OutputGate::new(Arc::clone(&durable));
        gate.hold(4, output(1));
        gate.hold(6, output(2));
        gate.hold(6, output(3));
        assert_eq!((gate.release(), gate.release()), (Some(output(1)), None));
        durable.report(5, Ok(()));
        assert_eq!(gate.release(), None);
        durable.report(6, Ok(()));
        assert_eq!((gate.release(), gate.release(), gate.release()), (Some(output(2)), Some(output(3)), None));
    }

    #[test]
    fn a_world_waits_for_its_own_writes_after_so_many_or_when_the_store_has_no_room_for_more() {
        let durable = Durable::new(4, Arc::default());
        let gate = OutputGate::new(Arc::clone(&durable));
        let last = 4 + WAITING_MAX as u64;
        assert_eq!([4, 5, last - 1, last].map(|seq| gate.is_full(seq, true)), [false, false, false, true]);
        assert_eq!([4, 5].map(|seq| gate.is_full(seq, false)), [false, true]);
        durable.report(5, Ok(()));
        assert_eq!((gate.is_full(last, true), gate.is_full(5, false)), (false, false));
    }

    #[test]
    fn a_commit_that_does_not_end_takes_ever_longer() {
        let durable = Durable::new(0, Arc::default());
        assert_eq!(durable.take_longest(), Duration::ZERO);
        durable.begins();
        let (first, second) = (durable.take_longest(), durable.take_longest());
        assert!(Duration::ZERO < first && first < second, "{first:?}, {second:?}");
        durable.report(1, Ok(()));
        assert!(durable.take_longest() > second && durable.take_longest() == Duration::ZERO);
    }

    #[test]
    fn after_a_failure_nothing_leaves() {
        let durable = Durable::new(0, Arc::default());
        let mut gate = OutputGate::new(Arc::clone(&durable));
        gate.hold(1, output(1));
        durable.report(1, Err(StoreError::Closed));
        assert!(gate.release().is_none() && durable.failure().is_some());
    }
}
