//! What waits to be sent to one client: bounded, and never waited for.
//!
//! Ticks give way: when too much waits they are thrown away, and as soon as the client has taken the rest it gets a snapshot instead of
//! what it missed. Commands do not give way, since nothing would make up for one: a client that lets too many of them wait, or that does
//! not take what waits for [`SLOW_MAX`], is dropped. Not here: what is in the messages, who writes them to the socket (`session`).

use crate::gateway::protocol::Code;
use axum::body::Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Messages and bytes that may wait before ticks give way: a second or two of a busy world.
const TICKS_MAX: usize = 40;
const TICK_BYTES_MAX: usize = 256 << 10;
/// Bytes of commands that may wait before the client is dropped.
const COMMAND_BYTES_MAX: usize = 512 << 10;
/// Commands that may.
const COMMANDS_MAX: usize = 4_096;
/// How long a client that ticks gave way for may take for what waits. It would know the world that long ago.
const SLOW_MAX: Duration = Duration::from_secs(10);

/// What is done with a message if there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A tick: gives way.
    Tick,
    /// All of a world: gives way too, but is counted by none, however large it is. There is one at most.
    Whole,
    /// Anything else: stays.
    Kept,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<(Class, Bytes)>,
    ticks: usize,
    tick_bytes: usize,
    kept_bytes: usize,
    /// Ticks were thrown away: only a snapshot makes sense to it.
    missed: bool,
    /// Since when the client is behind.
    behind: Option<Instant>,
    end: Option<(Option<Code>, String)>,
}

/// What the writer does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send this.
    Message(Bytes),
    /// All is sent, and something was missed: a snapshot is wanted.
    Snapshot,
    /// Nothing, until woken.
    Nothing,
    /// Close, with this code and reason; without a code nobody is there to be told.
    End(Option<Code>, String),
}

/// See the file.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tick. Gives whether ticks had to give way just now.
    pub fn tick(&self, frame: &Bytes, now: Instant) -> bool {
        let mut waiting = self.waiting();
        if waiting.end.is_some() {
            return false;
        }
        if waiting.missed {
            if waiting.behind.is_some_and(|since| now.duration_since(since) > SLOW_MAX) {
                waiting.end = Some((Some(Code::Slow), "what was sent was not taken".to_owned()));
                self.wake.notify_one();
            }
            return false;
        }
        if waiting.ticks >= TICKS_MAX || waiting.tick_bytes + frame.len() > TICK_BYTES_MAX && waiting.ticks > 0 {
            waiting.give_way();
            waiting.behind.get_or_insert(now);
            self.wake.notify_one();
            return true;
        }
        waiting.push(Class::Tick, frame.clone());
        drop(waiting);
        self.wake.notify_one();
        false
    }

    /// All of the world: what waited of it is over.
    pub fn snapshot(&self, frame: &Bytes) {
        let mut waiting = self.waiting();
        if waiting.end.is_none() {
            waiting.give_way();
            waiting.missed = false;
            waiting.push(Class::Whole, frame.clone());
            self.wake.notify_one();
        }
    }

    /// Forget what waits of the world: a snapshot follows, some time.
    pub fn forget(&self) {
        self.waiting().give_way();
    }

    /// Something that must not be left out.
    pub fn keep(&self, frame: &Bytes) {
        let mut waiting = self.waiting();
        if waiting.end.is_some() {
            return;
        }
        if waiting.kept_bytes + frame.len() > COMMAND_BYTES_MAX || waiting.queue.len() >= COMMANDS_MAX {
            waiting.end = Some((Some(Code::Slow), "too much waited to be taken".to_owned()));
        } else {
            waiting.push(Class::Kept, frame.clone());
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Nothing more is sent: close. The first reason counts.
    pub fn end(&self, code: Option<Code>, why: &str) {
        self.waiting().end.get_or_insert_with(|| (code, why.to_owned()));
        self.wake.notify_one();
    }

    /// Whether a snapshot is wanted, as [`Next::Snapshot`] says, and is wanted still.
    pub fn wants_snapshot(&self) -> bool {
        let waiting = self.waiting();
        waiting.missed && waiting.queue.is_empty() && waiting.end.is_none()
    }

    /// For the writer.
    pub fn next(&self) -> Next {
        let mut waiting = self.waiting();
        if let Some((code, why)) = waiting.end.clone() {
            return Next::End(code, why);
        }
        match waiting.queue.pop_front() {
            Some((class, frame)) => {
                match class {
                    Class::Tick => {
                        waiting.ticks -= 1;
                        waiting.tick_bytes -= frame.len();
                    }
                    Class::Whole => {}
                    Class::Kept => waiting.kept_bytes -= frame.len(),
                }
                Next::Message(frame)
            }
            None => {
                // It has caught up with what there was.
                waiting.behind = None;
                if waiting.missed { Next::Snapshot } else { Next::Nothing }
            }
        }
    }

    /// Until there may be something.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Waiting {
    fn push(&mut self, class: Class, frame: Bytes) {
        match class {
            Class::Tick => {
                self.ticks += 1;
                self.tick_bytes += frame.len();
            }
            Class::Whole => {}
            Class::Kept => self.kept_bytes += frame.len(),
        }
        self.queue.push_back((class, frame));
    }

    fn give_way(&mut self) {
        self.queue.retain(|(class, _)| *class == Class::Kept);
        (self.ticks, self.tick_bytes, self.missed) = (0, 0, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(byte: u8, size: usize) -> Bytes {
        Bytes::from(vec![byte; size])
    }

    fn all(outbox: &Outbox) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Next::Message(frame) = outbox.next() {
            bytes.push(frame[0]);
        }
        bytes
    }

    #[test]
    fn ticks_give_way_to_a_snapshot_and_commands_do_not() {
        let (outbox, now) = (Outbox::default(), Instant::now());
        outbox.keep(&frame(100, 10));
        let full = (0..TICKS_MAX + 5).position(|_| outbox.tick(&frame(1, 10), now));
        outbox.keep(&frame(101, 10));
        assert_eq!(full, Some(TICKS_MAX));
        assert!(!outbox.wants_snapshot(), "not before it has taken what waits");
        assert_eq!(all(&outbox), [100, 101]);
        assert!(outbox.wants_snapshot() && outbox.next() == Next::Snapshot);
        assert!(!outbox.tick(&frame(2, 10), now), "a tick makes no sense to it");
        outbox.snapshot(&frame(3, 1 << 20));
        outbox.tick(&frame(4, 10), now);
        assert_eq!((all(&outbox), outbox.next()), (vec![3, 4], Next::Nothing), "what follows a large one follows it");
    }

    #[test]
    fn who_takes_nothing_for_too_long_is_dropped_and_who_takes_it_slowly_is_not() {
        let (outbox, begin) = (Outbox::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        for round in 0..10 {
            // Behind again each time, and each time it takes all some seconds later.
            outbox.snapshot(&frame(2, 10));
            outbox.keep(&frame(9, 10));
            while !outbox.tick(&frame(1, 10), at(9 * round)) {}
            outbox.tick(&frame(1, 10), at(9 * round + 8));
            assert_eq!((all(&outbox), outbox.next()), (vec![9], Next::Snapshot));
        }
        outbox.snapshot(&frame(2, 10));
        outbox.keep(&frame(9, 10));
        while !outbox.tick(&frame(1, 10), at(100)) {}
        outbox.tick(&frame(1, 10), at(111));
        assert!(matches!(outbox.next(), Next::End(Some(Code::Slow), _)));
    }

    #[test]
    fn too_many_commands_end_a_session_and_its_first_reason_counts() {
        let outbox = Outbox::default();
        (0..100).for_each(|_| outbox.keep(&frame(1, 8 << 10)));
        outbox.end(Some(Code::Away), "later");
        assert!(matches!(outbox.next(), Next::End(Some(Code::Slow), _)));
    }

    proptest! {
        #[test]
        fn whatever_comes_what_waits_is_bounded(steps in prop::collection::vec((0..5u8, 1..100_000usize), 0..400)) {
            let (outbox, now) = (Outbox::default(), Instant::now());
            for (what, size) in steps {
                match what {
                    0 | 1 => _ = outbox.tick(&frame(1, size), now),
                    2 => outbox.keep(&frame(2, size / 10 + 1)),
                    3 => outbox.snapshot(&frame(3, size)),
                    _ => _ = outbox.next(),
                }
                let waiting = outbox.waiting();
                let sum = |class| waiting.queue.iter().filter(|(of, _)| *of == class).map(|(_, frame)| frame.len()).sum::<usize>();
                let wholes = waiting.queue.iter().filter(|(class, _)| *class == Class::Whole).count();
                prop_assert_eq!((sum(Class::Tick), sum(Class::Kept)), (waiting.tick_bytes, waiting.kept_bytes));
                prop_assert!(waiting.tick_bytes <= TICK_BYTES_MAX && waiting.kept_bytes <= COMMAND_BYTES_MAX && wholes <= 1);
                prop_assert!(waiting.ticks <= TICKS_MAX && waiting.queue.len() <= COMMANDS_MAX + TICKS_MAX + 1);
            }
        }
    }
}
