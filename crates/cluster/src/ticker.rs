//! The threads that tick. They take the world that is due next, wait for its time, tick it and put it back, and do nothing else: a world
//! that uses all of its budget makes no status, lease or request late.

use crate::world::hosted::{HostedWorld, Round};
use aether_world_runtime::End;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

struct Due {
    at_ns: Reverse<u64>,
    world: Box<HostedWorld>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.at_ns == other.at_ns
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        self.at_ns.cmp(&other.at_ns)
    }
}

struct Shared {
    start: Instant,
    due: Mutex<BinaryHeap<Due>>,
    wake: Condvar,
    stop: AtomicBool,
}

/// The tick threads of a node.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ticker {
    pub fn start(threads: usize) -> std::io::Result<Ticker> {
        let shared =
            Arc::new(Shared { start: Instant::now(), due: Mutex::default(), wake: Condvar::new(), stop: AtomicBool::new(false) });
        let ticker = Ticker { shared, threads: Mutex::default() };
        for n in 0..threads {
            let shared = Arc::clone(&ticker.shared);
            let thread = std::thread::Builder::new().name(format!("tick-{n}")).spawn(move || shared.run())?;
            ticker.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(ticker)
    }

    /// Nanoseconds since the ticker started: the clock that pacers count in.
    pub fn now_ns(&self) -> u64 {
        self.shared.now_ns()
    }

    /// From now on it is ticked when it is due.
    pub fn add(&self, world: Box<HostedWorld>) {
        self.shared.push(world);
    }

    /// End the threads. Worlds that were not asked to yield are dropped as they are.
    pub fn stop(&self) {
        {
            // Under the lock: a thread that is about to wait must not miss it.
            let _due = self.shared.due();
            self.shared.stop.store(true, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
        let left = std::mem::take(&mut *self.shared.due());
        drop(left);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn due(&self) -> MutexGuard<'_, BinaryHeap<Due>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, world: Box<HostedWorld>) {
        let mut due = self.due();
        // One that comes after the end would keep all that it holds for ever.
        if self.stop.load(Ordering::Acquire) {
            drop(due);
            return drop(world);
        }
        due.push(Due { at_ns: Reverse(world.next_ns()), world });
        drop(due);
        self.wake.notify_one();
    }

    fn run(&self) {
        while let Some(Due { mut world, .. }) = self.next_due() {
            match guarded(|| world.round(self.now_ns())) {
                Round::Continue => {
                    world.ticked(self.now_ns());
                    self.push(world);
                }
                Round::Leave(reply) => reply(world),
                Round::Replaced => bury(world),
                Round::End(end) => {
                    world.end(end);
                    bury(world);
                }
            }
        }
    }

    /// Wait for the world that is due next; `None`: the node stops.
    fn next_due(&self) -> Option<Due> {
        let mut due = self.due();
        loop {
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            let now = self.now_ns();
            let wait = match due.peek() {
                Some(first) if first.at_ns.0 <= now => return due.pop(),
                Some(first) => Duration::from_nanos(first.at_ns.0 - now),
                None => Duration::from_millis(100),
            };
            due = self.wake.wait_timeout(due, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A panic in a round is its world's end, not its thread's.
fn guarded(round: impl FnOnce() -> Round) -> Round {
    catch_unwind(AssertUnwindSafe(round)).unwrap_or_else(|panic| Round::End(End::Panicked(panic_text(&*panic).to_owned())))
}

/// Dropping a world's instances takes as long as building them, and may panic once more if it is broken: neither is the tick thread's.
/// There are no more of these threads than worlds end, which restart rules bound.
fn bury(world: Box<HostedWorld>) {
    let buried = std::thread::Builder::new().name("world-end".into()).spawn(move || drop(world));
    if let Err(error) = buried {
        tracing::warn!(%error, "a world that ended was dropped on its tick thread");
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_round_is_its_worlds_end() {
        let round = guarded(|| panic!("the engine is broken"));
        assert!(matches!(round, Round::End(End::Panicked(text)) if text == "the engine is broken"));
    }
}
