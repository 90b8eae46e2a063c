//! How much may be on the way, counted on both sides.
//!
//! Between a sender and the other node's gateway lie four mailboxes without bounds, a write buffer and the network. So the sender
//! counts: a payload takes credit when it is accepted and gives it back when the receiver says that it has *processed* it. Whoever finds
//! no credit is refused with `Full`; nothing ever waits. The receiver says in its hello how much it allows (bytes and messages), and
//! acknowledges running totals: an acknowledgement that is late or lost is made good by the next. It sends one for every eighth of the
//! window, and the ping every two seconds carries the rest. Because a payload may be as large as an eighth, a window always has room
//! for the next message once everything is acknowledged.
//! A peer that does not keep to it is found out by [`Queue`]: `guard` adds what comes in, the gateway takes away what it has done.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The sender's side of a link.
#[derive(Debug)]
pub(super) struct Credit {
    window_bytes: u64,
    window_messages: u64,
    totals: Mutex<Totals>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    sent_bytes: u64,
    sent_messages: u64,
    acked_bytes: u64,
    acked_messages: u64,
}

impl Credit {
    pub(super) fn new(window_bytes: u64, window_messages: u64) -> Credit {
        Credit { window_bytes, window_messages, totals: Mutex::default() }
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        // The counts are changed in one step each; a panic elsewhere leaves them whole.
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Credit for one message, or none.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let mut t = self.totals();
        let free = t.sent_bytes - t.acked_bytes + bytes <= self.window_bytes
            && t.sent_messages - t.acked_messages < self.window_messages;
        if free {
            t.sent_bytes += bytes;
            t.sent_messages += 1;
        }
        free
    }

    /// The receiver's totals. `false` if they cannot be: less than before, or more than was sent.
    pub(super) fn acked(&self, bytes: u64, messages: u64) -> bool {
        let mut t = self.totals();
        let possible =
            (t.acked_bytes..=t.sent_bytes).contains(&bytes) && (t.acked_messages..=t.sent_messages).contains(&messages);
        if possible {
            (t.acked_bytes, t.acked_messages) = (bytes, messages);
        }
        possible
    }

    /// Whether at least half of it is free.
    pub(super) fn is_half_free(&self) -> bool {
        let (bytes, messages) = self.in_flight();
        bytes < self.window_bytes / 2 && messages < self.window_messages / 2
    }

    /// Bytes and messages not acknowledged.
    pub(super) fn in_flight(&self) -> (u64, u64) {
        let t = self.totals();
        (t.sent_bytes - t.acked_bytes, t.sent_messages - t.acked_messages)
    }
}

/// The receiver's side: frames read from the network and not yet processed by the gateway.
#[derive(Debug)]
pub(super) struct Queue {
    bytes_max: u64,
    frames_max: u64,
    bytes: AtomicU64,
    frames: AtomicU64,
}

/// Frames beyond the window that an honest peer may have waiting: acknowledgements and pings cost no credit.
const FREE_FRAMES: u64 = 1024;

impl Queue {
    pub(super) fn new(window_bytes: u64, window_messages: u64) -> Queue {
        let free = FREE_FRAMES * super::frame::FREE_BYTES_MAX as u64;
        Queue {
            bytes_max: window_bytes + free,
            frames_max: window_messages + FREE_FRAMES,
            bytes: AtomicU64::new(0),
            frames: AtomicU64::new(0),
        }
    }

    /// A frame came in. `false` if that is more than the peer had credit for.
    pub(super) fn add(&self, bytes: u64) -> bool {
        let bytes = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        let frames = self.frames.fetch_add(1, Relaxed) + 1;
        bytes <= self.bytes_max && frames <= self.frames_max
    }

    /// A frame was processed.
    pub(super) fn done(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.frames.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_refused_at_the_window_and_comes_back_with_the_totals() {
        let credit = Credit::new(100, 3);
        assert!(credit.take(60) && !credit.take(41) && credit.take(40) && !credit.take(1));
        assert!(credit.acked(60, 1));
        assert!(credit.take(1) && credit.take(1) && !credit.take(1), "three messages are the most");
        assert_eq!(credit.in_flight(), (42, 3));
    }

    #[test]
    fn impossible_totals_are_refused() {
        let credit = Credit::new(100, 3);
        assert!(credit.take(10) && credit.acked(10, 1));
        assert!(!credit.acked(9, 1) && !credit.acked(11, 1) && !credit.acked(10, 2));
        assert_eq!(credit.in_flight(), (0, 0));
    }

    #[test]
    fn a_queue_over_the_window_is_noticed() {
        let queue = Queue::new(100, 1);
        let free = FREE_FRAMES * super::super::frame::FREE_BYTES_MAX as u64;
        assert!(queue.add(100 + free) && !queue.add(1));
        queue.done(1);
        queue.done(100 + free);
        assert!((0..=FREE_FRAMES).all(|_| queue.add(0)) && !queue.add(0));
    }
}
