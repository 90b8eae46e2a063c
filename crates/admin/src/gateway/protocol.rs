//! What a player's client and the gateway say to each other: version 1. The whole of it is here.
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

use aether_cluster::{Changes, Created, Pose};
use aether_scripting::output::ClientCommand;
use aether_scripting::{SoundParameters, Vec3};

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

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.array().map(u8::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, FrameError> {
        str::from_utf8(self.bytes(length)?).map_err(|_| FrameError::Text)
    }

    fn str8(&mut self) -> Result<&'a str, FrameError> {
        let length = self.u8()?;
        self.text(length.into())
    }

    fn str16(&mut self) -> Result<&'a str, FrameError> {
        let length = self.array().map(u16::from_le_bytes)?;
        self.text(length.into())
    }

    fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Long(self.0.len())) }
    }
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

struct Writer(Vec<u8>);

impl Writer {
    fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Writer {
        self.0.push(value);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    /// What is over is cut off: counts are bounded long before, coordinates by the world.
    fn u24(&mut self, value: u32) -> &mut Writer {
        self.raw(&value.to_le_bytes()[..3])
    }

    fn u64(&mut self, value: u64) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    fn f32(&mut self, value: f32) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    fn vec3(&mut self, v: Vec3) -> &mut Writer {
        self.f32(v.x).f32(v.y).f32(v.z)
    }

    fn sound(&mut self, p: SoundParameters) -> &mut Writer {
        self.f32(p.gain).f32(p.pitch).f32(p.range)
    }

    /// At a character's edge: what is longer than its length can say is cut.
    fn str8(&mut self, text: &str) -> &mut Writer {
        let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
        self.u8(text.len() as u8).raw(text.as_bytes())
    }

    fn str16(&mut self, text: &str) -> &mut Writer {
        let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
        self.u16(text.len() as u16).raw(text.as_bytes())
    }

    fn bytes16(&mut self, bytes: &[u8]) -> &mut Writer {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        self.u16(bytes.len() as u16).raw(bytes)
    }

    fn pose(&mut self, pose: Pose) -> &mut Writer {
        self.u24(pose.x as u32).u24(pose.y as u32).u24(pose.z as u32).u16(pose.yaw)
    }

    fn kinds(&mut self, kinds: &[(u16, impl AsRef<str>)]) -> &mut Writer {
        self.u16(kinds.len() as u16);
        for (kind, name) in kinds {
            self.u16(*kind).str8(name.as_ref());
        }
        self
    }

    fn created<'a>(&mut self, created: impl ExactSizeIterator<Item = &'a Created>) -> &mut Writer {
        self.u24(created.len() as u32);
        for Created { id, slot, kind, pose } in created {
            self.u24(*slot).u64(*id).u16(*kind).pose(*pose);
        }
        self
    }
}

/// The answer to a good hello.
pub fn welcome(player: u64, tick_hz: f32, inputs_per_second: u16, world: &str, name: &str) -> Vec<u8> {
    let mut frame = Writer(Vec::with_capacity(64));
    frame.u8(WELCOME).u8(VERSION).u64(player).f32(tick_hz).u16(inputs_per_second).str8(world).str8(name);
    frame.0
}

/// All of a world.
pub fn snapshot<'a>(
    tick: u64,
    kinds: &[(u16, impl AsRef<str>)],
    entities: impl ExactSizeIterator<Item = &'a Created>,
) -> Vec<u8> {
    let mut frame = Writer(Vec::with_capacity(64 + 24 * entities.len()));
    frame.u8(SNAPSHOT).u64(tick).kinds(kinds).created(entities);
    frame.0
}

/// What a tick changed.
pub fn tick(tick: u64, changes: &Changes) -> Vec<u8> {
    let size = 32 + 3 * changes.gone.len() + 24 * changes.created.len() + 14 * changes.moved.len();
    let mut frame = Writer(Vec::with_capacity(size));
    frame.u8(TICK).u64(tick).kinds(&changes.kinds).u24(changes.gone.len() as u32);
    for slot in &changes.gone {
        frame.u24(*slot);
    }
    frame.created(changes.created.iter()).u24(changes.moved.len() as u32);
    for (slot, pose) in &changes.moved {
        frame.u24(*slot).pose(*pose);
    }
    frame.0
}

/// Bytes of commands after which another frame begins, so that a slow client's queue is counted in small pieces.
const COMMANDS_BYTES: usize = 32 << 10;

/// Commands of a tick as frames, each with the player whom it is for (0: all), in their order. An entity that is gone is in the tick's
/// own frame and left out here.
pub fn commands(tick: u64, commands: &[ClientCommand]) -> Vec<(u64, Vec<u8>)> {
    const COUNT_AT: usize = 9;
    let mut frames: Vec<(u64, Vec<u8>)> = Vec::new();
    for command in commands {
        let Some((player, bytes)) = one(command) else { continue };
        match frames.last_mut() {
            // At most so many bytes and one command more, which is less than the count can say.
            Some((of, frame)) if *of == player && frame.len() < COMMANDS_BYTES => {
                frame.extend(bytes);
                let count = u16::from_le_bytes([frame[COUNT_AT], frame[COUNT_AT + 1]]) + 1;
                frame[COUNT_AT..COUNT_AT + 2].copy_from_slice(&count.to_le_bytes());
            }
            _ => {
                let mut frame = Writer(Vec::new());
                frame.u8(COMMANDS).u64(tick).u16(1).raw(&bytes);
                frames.push((player, frame.0));
            }
        }
    }
    frames
}

fn one(command: &ClientCommand) -> Option<(u64, Vec<u8>)> {
    let mut to = Writer(Vec::new());
    let player = match command {
        ClientCommand::ShowElement { player, element, text } => {
            to.u8(1).str8(element).str16(text);
            player.0
        }
        ClientCommand::HideElement { player, element } => {
            to.u8(2).str8(element);
            player.0
        }
        ClientCommand::SetText { player, element, text } => {
            to.u8(3).str8(element).str16(text);
            player.0
        }
        ClientCommand::PlaySound { handle, sound, position, parameters, looped } => {
            to.u8(4).u64(*handle).str8(sound).vec3(*position).sound(*parameters).u8((*looped).into());
            0
        }
        ClientCommand::StopSound { handle } => {
            to.u8(5).u64(*handle);
            0
        }
        ClientCommand::MoveSound { handle, position } => {
            to.u8(6).u64(*handle).vec3(*position);
            0
        }
        ClientCommand::TuneSound { handle, parameters } => {
            to.u8(7).u64(*handle).sound(*parameters);
            0
        }
        ClientCommand::Event { player, topic, payload } => {
            to.u8(8).str8(topic).bytes16(payload);
            player.0
        }
        ClientCommand::Gone { .. } => return None,
    };
    Some((player, to.0))
}

/// Forget what is known.
pub fn resync(reason: Resync) -> Vec<u8> {
    vec![RESYNC, reason as u8]
}

/// An input was not passed on.
pub fn refused(number: u32, why: Refusal) -> Vec<u8> {
    let mut frame = Writer(Vec::with_capacity(6));
    frame.u8(REFUSED).raw(&number.to_le_bytes()).u8(why as u8);
    frame.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_scripting::{EntityId, PlayerId};
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

    #[test]
    fn the_layouts_are_those_of_the_table() {
        let pose = Pose { x: -1, y: 256, z: 2, yaw: 3 };
        let pose_bytes = [0xff, 0xff, 0xff, 0, 1, 0, 2, 0, 0, 3, 0];
        let created = Created { id: 5, slot: 0x01_0203, kind: 4, pose };
        let created_bytes = [&[3, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0][..], &pose_bytes].concat();
        let changes =
            Changes { kinds: vec![(4, "cow".to_owned())], gone: vec![9], created: vec![created], moved: vec![(8, pose)] };
        let kinds = [1, 0, 4, 0, 3, b'c', b'o', b'w'];
        let seven = [7, 0, 0, 0, 0, 0, 0, 0];
        let one = [1, 0, 0];
        let wanted =
            [&[0x83][..], &seven, &kinds, &one, &[9, 0, 0], &one, &created_bytes, &one, &[8, 0, 0], &pose_bytes].concat();
        assert_eq!(tick(7, &changes), wanted);
        assert_eq!(snapshot(7, &changes.kinds, [created].iter()), [&[0x82][..], &seven, &kinds, &one, &created_bytes].concat());
        assert_eq!(refused(258, Refusal::Away), [0x86, 2, 1, 0, 0, 3]);
        assert_eq!(resync(Resync::Anew), [0x85, 2]);
        assert_eq!(
            welcome(7, 20.0, 30, "w", "n"),
            [&[0x81, 1][..], &seven, &20.0f32.to_le_bytes(), &[30, 0, 1, b'w', 1, b'n']].concat()
        );
    }

    #[test]
    fn commands_keep_their_order_and_are_split_by_whom_they_are_for() {
        let show = |player| ClientCommand::HideElement { player: PlayerId(player), element: "e".to_owned() };
        let gone = ClientCommand::Gone { entity: EntityId(1) };
        let frames = commands(3, &[show(0), gone, show(0), show(7), show(0)]);
        let counts: Vec<_> = frames.iter().map(|(player, frame)| (*player, frame[9], frame.len())).collect();
        assert_eq!(counts, [(0, 2, 17), (7, 1, 14), (0, 1, 14)]);
        let many: Vec<_> = (0..100_000).map(|_| show(0)).collect();
        let frames = commands(3, &many);
        let sum: usize = frames.iter().map(|(_, frame)| usize::from(u16::from_le_bytes([frame[9], frame[10]]))).sum();
        assert!(sum == many.len() && frames.iter().all(|(_, frame)| frame.len() < COMMANDS_BYTES + 64));
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        let long = "é".repeat(200);
        let mut frame = Writer(Vec::new());
        frame.str8(&long);
        assert_eq!((frame.0[0], frame.0.len()), (254, 255));
        assert!(str::from_utf8(&frame.0[1..]).is_ok());
    }
}
