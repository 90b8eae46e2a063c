//! What a player's client and the gateway say to each other: version 1. All frames are in the table; what clients send is read here, what
//! they are told is written in `tell`, fields as bytes are in `bytes`.
//!
//! One WebSocket message (binary) is one frame; its first byte says which. Numbers are little-endian; `u24` and `i24` are three bytes;
//! `str8` is a byte of length and so many bytes of UTF-8, `str16` has two bytes of length, `bytes16` likewise without being text. A frame
//! ends where its last field ends: bytes that are left over make it a bad one. What a frame has past the version that was agreed on, a
//! client never sees. Places are steps of a 512th of a metre, x east, y up, z south; yaw is a 65,536th of a turn.
//!
//! ```text
//! client to gateway
//! 01 hello     "AETH" | u8 first, u8 last version it speaks | str8 world | str8 name | str16 token      once, first
//! 02 input     u32 number | str8 script | str8 method | payload: the rest                                a call of a script
//!
//! gateway to client
//! 81 welcome   u8 version | u64 player | f32 ticks a second | u16 inputs a second | str8 world | str8 name
//! 82 snapshot  u64 tick | u16 KINDS | u24 CREATED                                                        forget all entities first
//! 83 tick      u64 tick | u16 KINDS | u24 GONE | u24 CREATED | u24 MOVED                                 in this order
//! 84 commands  u64 tick | u16 COMMANDS                                                                   in this order
//! 85 resync    u8 reason: 1 the world is away, 2 it was missed in part or started again                  forget entities, elements, sounds
//! 86 refused   u32 number of the input | u8 reason: 1 too many, 2 the world is busy, 3 it is away, 4 no such script for players
//!
//! KINDS     u16 kind | str8 name             how many comes before each list
//! GONE      u24 slot
//! CREATED   u24 slot | u64 entity | u16 kind | POSE
//! MOVED     u24 slot | POSE
//! POSE      i24 x | i24 y | i24 z | u16 yaw
//! COMMANDS  u8 which, then
//!   1 show element  str8 element | str16 text       5 stop sound   u64 handle
//!   2 hide element  str8 element                    6 move sound   u64 handle | f32 x, y, z
//!   3 set text      str8 element | str16 text       7 tune sound   u64 handle | f32 gain, pitch, range
//!   4 play sound    u64 handle | str8 sound | f32 x, y, z | f32 gain, pitch, range | u8 looped
//!   8 event         str8 topic | bytes16 payload
//! ```
//!
//! A slot names an entity from when it was created until it is gone. Ticks rise; one in which nothing changed is not sent. After `resync`
//! comes a snapshot, when the world is there again. Commands may come without a tick frame of their tick. An entity's number is what
//! scripts know it by; a script that wants a client to know its own avatar sends that number as an event.
//!
//! Input is at most once: what is refused is told (not more than a few times a second), what is lost with a world that moves is not.
//! The gateway pings; a client that answers nothing for [`IDLE`](super::session::IDLE) is gone. Close codes are [`Code`].
//!
//! Not here: when what is sent (`follow`, `session`), who may come in (`pass`).

mod bytes;
mod tell;

pub use tell::{commands, refused, resync, snapshot, tick, welcome};

use bytes::{Reader, Writer};

/// The version of this file.
pub const VERSION: u8 = 1;

const MAGIC: &[u8; 4] = b"AETH";
const HELLO: u8 = 0x01;
const INPUT: u8 = 0x02;
const WELCOME: u8 = 0x81;
const SNAPSHOT: u8 = 0x82;
const TICK: u8 = 0x83;
const COMMANDS: u8 = 0x84;
const RESYNC: u8 = 0x85;
const REFUSED: u8 = 0x86;

/// Why the gateway closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The node stops. Come back, here or at another.
    Away = 1001,
    /// A message over the limit.
    TooLarge = 1009,
    /// The node is full, or the world has been away for long. Come back later.
    Later = 1013,
    /// A frame that this file does not have.
    Bad = 4400,
    /// The token is not good. Get another.
    Token = 4401,
    /// There is no such world.
    NoWorld = 4404,
    /// No version that both speak. Update the client.
    Version = 4406,
    /// Nothing was heard for too long.
    Silent = 4408,
    /// The same player came in again, elsewhere.
    Replaced = 4409,
    /// What was sent was not taken for too long.
    Slow = 4413,
    /// Far more input than is allowed.
    Flood = 4429,
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient<'a> {
    /// The first frame.
    Hello {
        /// The first and the last version that it speaks.
        versions: (u8, u8),
        /// Which world.
        world: &'a str,
        /// What a guest wants to be called; a token's name counts more.
        name: &'a str,
        /// Who it is; empty: a guest.
        token: &'a str,
    },
    /// A call of a script.
    Input {
        /// Its number, for refusals.
        number: u32,
        /// Which script, by its name in the world.
        script: &'a str,
        /// What is called.
        method: &'a str,
        /// Its argument.
        payload: &'a [u8],
    },
}

/// Why a frame of a client is a bad one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends too early.
    #[error("a frame ends in the middle of a field")]
    Short,
    /// It does not end.
    #[error("a frame has {0} bytes too many")]
    Long(usize),
    /// No frame of a client.
    #[error("no frame begins with {0:#04x}")]
    Unknown(u8),
    /// The first four bytes of a hello.
    #[error("a hello begins with AETH")]
    Magic,
    /// Text that is none.
    #[error("a text is not UTF-8")]
    Text,
}

impl<'a> FromClient<'a> {
    /// Read a frame.
    pub fn decode(frame: &'a [u8]) -> Result<FromClient<'a>, FrameError> {
        let mut read = Reader(frame);
        match read.u8()? {
            HELLO => {
                if read.bytes(MAGIC.len())? != MAGIC {
                    return Err(FrameError::Magic);
                }
                let versions = (read.u8()?, read.u8()?);
                let (world, name, token) = (read.str8()?, read.str8()?, read.str16()?);
                read.end()?;
                Ok(FromClient::Hello { versions, world, name, token })
            }
            INPUT => {
                let number = read.array().map(u32::from_le_bytes)?;
                let (script, method) = (read.str8()?, read.str8()?);
                Ok(FromClient::Input { number, script, method, payload: read.0 })
            }
            unknown => Err(FrameError::Unknown(unknown)),
        }
    }

    /// Write it, as clients in Rust and tests do. Texts are cut at what their length can say.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Writer(Vec::new());
        match *self {
            FromClient::Hello { versions: (first, last), world, name, token } => {
                frame.u8(HELLO).raw(MAGIC).u8(first).u8(last).str8(world).str8(name).str16(token);
            }
            FromClient::Input { number, script, method, payload } => {
                frame.u8(INPUT).raw(&number.to_le_bytes()).str8(script).str8(method).raw(payload);
            }
        }
        frame.0
    }
}

/// Why an input was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// More than a session may send.
    TooMany = 1,
    /// The world's inbox is full.
    Busy = 2,
    /// The world is not there at the moment.
    Away = 3,
    /// Not a script that players may call.
    NoScript = 4,
}

/// Why what was known is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    /// The world is away: it moves, or its node is gone.
    Away = 1,
    /// It is there, and something of it was missed, or it was started again.
    Anew = 2,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello<'a>(world: &'a str, name: &'a str, token: &'a str) -> FromClient<'a> {
        FromClient::Hello { versions: (1, 3), world, name, token }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_client_do_more_than_be_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = FromClient::decode(&bytes);
            for begin in [&[HELLO, b'A', b'E', b'T', b'H'][..], &[INPUT]] {
                let frame = [begin, &bytes].concat();
                // What is taken for a frame is one, to the last byte.
                if let Ok(read) = FromClient::decode(&frame) {
                    prop_assert_eq!(read.encode(), frame);
                }
            }
        }

        #[test]
        fn frames_come_back_as_they_were(
            text in "\\PC{0,60}", token in "[a-zA-Z0-9._-]{0,2000}", number: u32, payload in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let frames = [hello(&text, &text, &token), FromClient::Input { number, script: &text, method: &text, payload: &payload }];
            for frame in frames {
                let bytes = frame.encode();
                prop_assert_eq!(FromClient::decode(&bytes), Ok(frame));
            }
        }
    }

    #[test]
    fn every_cut_of_a_hello_is_too_short_and_every_byte_more_too_long() {
        let frame = hello("town-1", "Ada", "t").encode();
        for cut in 0..frame.len() {
            assert_eq!(FromClient::decode(&frame[..cut]), Err(FrameError::Short), "{cut}");
        }
        assert_eq!(FromClient::decode(&[&frame[..], &[0]].concat()), Err(FrameError::Long(1)));
        assert_eq!(FromClient::decode(&[0x7f]), Err(FrameError::Unknown(0x7f)));
        assert_eq!(FromClient::decode(b"\x01HTTP"), Err(FrameError::Magic));
    }
}
