//! What a peer may say to ractor: every byte from the network passes here before ractor reads it.
//!
//! ractor's own reader checks a frame's length and no more: a peer may claim another node's name (and so end that node's link), announce
//! a million actors (10 KB each here), call actors, join groups, or send frames that queue up faster than they are handled. A node of
//! ours does little: three frames of handshake, one actor announced, one group joined, pings, and casts to the one gateway. [`Guard`]
//! knows that little and refuses the rest. It looks at the head of a frame only; payloads pass at the speed of a compare.
//!
//! Wire format (ractor_cluster 0.16.5, pinned): u64 big-endian length, then protobuf `NetworkMessage { auth = 1 | node = 2 |
//! control = 3 }`. Another release of ractor_cluster needs another look here; the tests of a real pair of nodes fail if it differs.
//! Not here: time (`stream`), closing (`stream`), what our own frames say (`frame`).

use std::time::Instant;

use super::{credit::Queue, cut::Cut, frame};

/// What is kept of a frame: a whole frame of ractor's handshake fits.
const HEAD_MAX: usize = 320;
/// The longest frame of ractor's own that a node of ours sends.
const CONTROL_MAX: u64 = 160;
/// Bytes before the session is authenticated: handshake, announcements and a few pings.
const BEFORE_AUTH_MAX: u64 = 4096;
/// Of each kind of handshake frame and announcement a session needs at most two.
const FEW: u32 = 4;
/// Pings and their answers: two a second at most, and as many at once as wait while a node was stopped.
const CONTROL_BURST: f64 = 64.0;
const CONTROL_PER_SECOND: f64 = 4.0;
/// Head of a frame of ours in a cast: tag, length, head.
const METADATA: u64 = 2 + frame::HEAD_BYTES as u64;

/// What the connection is known by.
#[derive(Debug)]
pub(super) struct Expected {
    /// The peer's name in ractor's handshake.
    pub(super) ractor_name: String,
    /// The number of this node's gateway actor.
    pub(super) gateway: u64,
    /// The longest frame.
    pub(super) frame_bytes_max: u64,
}

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    expected: Expected,
    /// The frame's length (8 bytes), then as much of the frame as is kept.
    head: Vec<u8>,
    /// Of the current frame, what is still to come after the head.
    rest: u64,
    /// When the current frame began, or the last one ended.
    since: Instant,
    total: u64,
    auth_frames: u32,
    announcements: u32,
    control: f64,
    control_at: Instant,
}

impl Guard {
    pub(super) fn new(expected: Expected, now: Instant) -> Guard {
        Guard {
            expected,
            head: Vec::with_capacity(8 + HEAD_MAX),
            rest: 0,
            since: now,
            total: 0,
            auth_frames: 0,
            announcements: 0,
            control: CONTROL_BURST,
            control_at: now,
        }
    }

    /// When the last whole frame came: half a frame is no sign of life.
    pub(super) fn last_frame(&self) -> Instant {
        self.since
    }

    /// The next bytes. `Err` says what is wrong with them; nothing of them may reach ractor then.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        authenticated: bool,
        queue: &Queue,
        now: Instant,
    ) -> Result<(), (Cut, &'static str)> {
        self.total += bytes.len() as u64;
        if !authenticated && self.total > BEFORE_AUTH_MAX {
            return Err((Cut::Garbage, "too much before it was authenticated"));
        }
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skip = usize::try_from(self.rest).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[skip..];
                self.rest -= skip as u64;
                if self.rest == 0 {
                    self.since = now;
                }
                continue;
            }
            // The length first, then as much of the head as there is.
            let wanted = match self.length() {
                None => 8,
                Some(length) => 8 + usize::try_from(length).unwrap_or(usize::MAX).min(HEAD_MAX),
            };
            let take = (wanted - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            let Some(length) = self.length() else { continue };
            if length > self.expected.frame_bytes_max {
                return Err((Cut::FrameTooLong, "a length over the limit"));
            }
            if length == 0 {
                return Err((Cut::Garbage, "an empty frame"));
            }
            let kept = length.min(HEAD_MAX as u64);
            if self.head.len() as u64 == 8 + kept {
                self.judge(length, queue, now)?;
                self.head.clear();
                self.rest = length - kept;
                self.since = now;
            }
        }
        Ok(())
    }

    fn length(&self) -> Option<u64> {
        self.head.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
    }

    fn judge(&mut self, length: u64, queue: &Queue, now: Instant) -> Result<(), (Cut, &'static str)> {
        const BROKEN: (Cut, &str) = (Cut::Garbage, "a frame that is not ractor's");
        let mut head = &self.head[8..];
        let (outer, outer_len) = tag_and_length(&mut head).ok_or(BROKEN)?;
        // Exactly one field, to the end of the frame.
        if length - (self.head.len() as u64 - 8 - head.len() as u64) != outer_len {
            return Err(BROKEN);
        }
        let before = head.len() as u64;
        let (inner, inner_len) = tag_and_length(&mut head).ok_or(BROKEN)?;
        if (before - head.len() as u64).checked_add(inner_len) != Some(outer_len) {
            return Err(BROKEN);
        }
        match (outer, inner) {
            (1, 1..=6) => {
                self.auth_frames += 1;
                if self.auth_frames > FEW || length > HEAD_MAX as u64 {
                    return Err((Cut::Garbage, "more of a handshake than there is"));
                }
                // Name of the dialling side, name of the accepting side: both say the name first.
                if matches!(inner, 1 | 4) {
                    let claimed = tag_and_length(&mut head).filter(|(field, _)| *field == 1);
                    let claimed = claimed.and_then(|(_, n)| head.get(..usize::try_from(n).ok()?));
                    if claimed != Some(self.expected.ractor_name.as_bytes()) {
                        return Err((Cut::WrongName, "another name than its certificate's"));
                    }
                }
                Ok(())
            }
            (2, 1) => {
                let before = head.len() as u64;
                // Protobuf leaves a zero out: the first actor of a process has number 0.
                let to = match head.split_first() {
                    Some((0x08, rest)) => {
                        head = rest;
                        varint(&mut head).ok_or(BROKEN)?
                    }
                    _ => 0,
                };
                if to != self.expected.gateway {
                    return Err((Cut::Garbage, "a message for another actor than the gateway"));
                }
                // No body at all is a frame without this field.
                let body = match head.first() {
                    Some(0x12) => tag_and_length(&mut head).ok_or(BROKEN)?.1,
                    _ => 0,
                };
                if (before - head.len() as u64).checked_add(body).and_then(|n| n.checked_add(METADATA)) != Some(inner_len) {
                    return Err((Cut::Garbage, "a cast that is not a frame"));
                }
                if queue.add(body) { Ok(()) } else { Err((Cut::Overrun, "more than it had credit for")) }
            }
            (3, 1..=6 | 9) => {
                if matches!(inner, 1 | 5) {
                    self.announcements += 1;
                }
                self.control =
                    (self.control + now.duration_since(self.control_at).as_secs_f64() * CONTROL_PER_SECOND).min(CONTROL_BURST);
                self.control_at = now;
                self.control -= 1.0;
                if length > CONTROL_MAX || self.announcements > FEW || self.control < 0.0 {
                    return Err((Cut::Garbage, "more of ractor's control messages than a node sends"));
                }
                Ok(())
            }
            _ => Err(BROKEN),
        }
    }
}

/// The number and the length of a field that has a length.
fn tag_and_length(bytes: &mut &[u8]) -> Option<(u8, u64)> {
    let (&tag, rest) = bytes.split_first()?;
    *bytes = rest;
    let length = varint(bytes)?;
    (tag & 0x87 == 2).then_some((tag >> 3, length))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> (Guard, Queue) {
        let expected = Expected { ractor_name: "b@b".into(), gateway: 300, frame_bytes_max: 1 << 20 };
        (Guard::new(expected, Instant::now()), Queue::new(1 << 20, 16))
    }

    fn feed(bytes: &[u8]) -> Result<(), Cut> {
        let (mut guard, queue) = guard();
        guard.feed(bytes, true, &queue, Instant::now()).map_err(|(cut, _)| cut)
    }

    fn field(tag: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag << 3 | 2];
        let mut n = inner.len();
        while n >= 0x80 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes.extend_from_slice(inner);
        bytes
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u64).to_be_bytes()[..], body].concat()
    }

    fn cast(to: &[u8], body: &[u8], more: &[u8]) -> Vec<u8> {
        let what = if body.is_empty() { vec![] } else { field(2, body) };
        framed(&field(2, &field(1, &[&[0x08], to, &what, &field(6, &[0; frame::HEAD_BYTES]), more].concat())))
    }

    #[test]
    fn what_a_node_sends_passes_in_pieces_of_any_size() {
        let all = [
            framed(&field(1, &field(1, &field(1, b"b@b")))),
            framed(&field(3, &field(1, &field(1, &[8, 1])))),
            framed(&field(3, &field(9, &[]))),
            cast(&[0xac, 0x02], &[], &[]),
            cast(&[0xac, 0x02], &[7; 100_000], &[]),
            cast(&[0xac, 0x02], &[7; 300], &[]),
        ]
        .concat();
        for piece in [1, 2, 7, 8, 9, 63, 4096, all.len()] {
            let (mut guard, queue) = guard();
            all.chunks(piece).for_each(|bytes| guard.feed(bytes, true, &queue, Instant::now()).unwrap());
            assert!(guard.head.is_empty() && guard.rest == 0);
            queue.done(100_300);
            queue.done(0);
            queue.done(0);
        }
    }

    #[test]
    fn what_no_node_sends_is_cut_off() {
        assert_eq!(feed(&u64::MAX.to_be_bytes()), Err(Cut::FrameTooLong));
        assert_eq!(feed(&((1u64 << 20) + 1).to_be_bytes()), Err(Cut::FrameTooLong));
        assert_eq!(feed(&[0; 8]), Err(Cut::Garbage), "an empty frame");
        assert_eq!(feed(b"GET / HTTP/1.1\r\n\r\n"), Err(Cut::FrameTooLong));
        assert_eq!(feed(&framed(&field(1, &field(1, &field(1, b"c@c"))))), Err(Cut::WrongName));
        assert_eq!(feed(&framed(&field(1, &field(4, &field(1, b"c@c"))))), Err(Cut::WrongName));
        assert_eq!(feed(&cast(&[0xad, 0x02], &[1], &[])), Err(Cut::Garbage), "another actor");
        assert_eq!(feed(&cast(&[0xac, 0x02], &[1], &field(3, b"variant"))), Err(Cut::Garbage));
        assert_eq!(feed(&framed(&field(2, &field(2, &[8, 1])))), Err(Cut::Garbage), "a call");
        assert_eq!(feed(&framed(&field(3, &field(8, &[])))), Err(Cut::Garbage), "transitive mode");
        assert_eq!(feed(&framed(&field(3, &field(1, &[1; 200])))), Err(Cut::Garbage), "many actors");
        assert_eq!(feed(&framed(&field(3, &field(3, &[]))).repeat(100)), Err(Cut::Garbage), "a flood of pings");
        assert_eq!(feed(&cast(&[0xac, 0x02], &[], &[]).repeat(2000)), Err(Cut::Overrun));
    }

    #[test]
    fn little_is_read_before_it_is_authenticated() {
        let (mut guard, queue) = guard();
        let ping = framed(&field(3, &field(3, &[0; 100])));
        let cut = (0..60).find_map(|_| guard.feed(&ping, false, &queue, Instant::now()).err());
        assert_eq!(cut.unwrap().0, Cut::Garbage);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut body = Vec::new();
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            for i in 0..seed % 40 {
                body.push((seed.rotate_left(i as u32 * 5) >> 3) as u8);
            }
            if let Some(first) = body.first_mut() {
                *first = [0x0a, 0x12, 0x1a, *first][(seed % 4) as usize];
            }
            let _ = feed(&framed(&body));
        }
    }
}
