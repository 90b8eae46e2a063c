//! What the host calls: the [`Script`] trait, what it is given, and the macro that turns one into exports.
//!
//! Read [`Script`], then [`export_script`](crate::export_script). [`Exports`] is the machinery between them.

use std::cell::UnsafeCell;

use crate::error::Result;
use crate::script::{Level, log};
use crate::{EntityId, network};

/// A game script. Every method may be left out; the value is made by `Default` before the first one is called.
#[allow(unused_variables)]
pub trait Script {
    /// Once, before anything else; not after a [`restore_state`](Script::restore_state).
    fn on_start(&mut self) {}
    /// Every tick, with the seconds since the last one.
    fn on_tick(&mut self, dt: f32) {}
    /// A call from a script or a player, or the answer to a call made here.
    fn on_message(&mut self, message: Message<'_>) {}
    /// A contact, a trigger, a broadcast.
    fn on_event(&mut self, event: Event<'_>) {}
    /// The world stops or the script is removed.
    fn on_stop(&mut self) {}
    /// What the next version or the next start goes on with, at most 1 MiB. Begin it with a version byte of your own.
    fn save_state(&mut self) -> Vec<u8> {
        Vec::new()
    }
    /// Take over what version `from_version` of this script saved; false refuses it. A script without this starts afresh.
    fn restore_state(&mut self, from_version: u32, state: &[u8]) -> bool {
        true
    }
}

/// The number of a call, with which it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

/// A player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlayerId(pub u64);

impl PlayerId {
    /// Every player of the world.
    pub const ALL: PlayerId = PlayerId(0);

    pub(crate) const fn lowered(self) -> i64 {
        self.0 as i64
    }
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A script, by its number.
    Script(u64),
    /// A player.
    Player(PlayerId),
}

impl Sender {
    /// Bit 62 marks a player.
    const PLAYER: u64 = 1 << 62;

    fn from_raw(from: u64) -> Sender {
        if from & Sender::PLAYER != 0 { Sender::Player(PlayerId(from & !Sender::PLAYER)) } else { Sender::Script(from) }
    }
}

/// A call, or the answer to one.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Who sent it.
    pub from: Sender,
    /// The call's number; an answer has that of the call that [`network::rpc`] made.
    pub call: CallId,
    /// What is wanted; empty in an answer.
    pub method: &'a str,
    /// What came with it.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// Whether this answers a call made here.
    pub fn is_answer(&self) -> bool {
        self.method.is_empty()
    }

    /// The payload as text; nothing if it is not UTF-8.
    pub fn text(&self) -> &str {
        str::from_utf8(self.payload).unwrap_or_default()
    }

    /// Answer the call.
    pub fn reply(&self, payload: &[u8]) -> Result<()> {
        network::reply(self.call, payload)
    }
}

/// What happened. A newer host may tell of more.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A body of the script's (`own`) touched another.
    ContactBegan {
        /// The script's entity.
        own: EntityId,
        /// The other one.
        other: EntityId,
    },
    /// They touch no more.
    ContactEnded {
        /// The script's entity.
        own: EntityId,
        /// The other one.
        other: EntityId,
    },
    /// Somebody entered a sensor of the script's.
    TriggerEntered {
        /// The script's entity.
        own: EntityId,
        /// The other one.
        other: EntityId,
    },
    /// Somebody left it.
    TriggerLeft {
        /// The script's entity.
        own: EntityId,
        /// The other one.
        other: EntityId,
    },
    /// A broadcast of a topic that the script subscribed to.
    Broadcast {
        /// The number of the script that sent it.
        from: u64,
        /// The topic.
        topic: &'a str,
        /// What came with it.
        payload: &'a [u8],
    },
    /// A call will not be answered: its target is gone, full or too slow.
    Unanswered {
        /// The call.
        call: CallId,
    },
    /// A kind that this SDK does not know.
    Unknown {
        /// Its number.
        kind: u32,
    },
}

/// Makes every export of the ABI from a type that is [`Script`] and `Default`.
///
/// ```
/// use aether_script_sdk::{Script, export_script, info};
///
/// #[derive(Default)]
/// struct Hello;
///
/// impl Script for Hello {
///     fn on_start(&mut self) {
///         info!("hello");
///     }
/// }
///
/// export_script!(Hello);
/// ```
#[macro_export]
macro_rules! export_script {
    ($script:ty) => {
        const _: () = {
            // Outside wasm32 nothing calls these: `allow(dead_code)` keeps the script from being called unused there.
            static SCRIPT: $crate::Exports<$script> = $crate::Exports::new();

            /// The ABI that this script was written for. Never called.
            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn aether_abi_1() {}

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn aether_alloc(len: i32) -> i32 {
                SCRIPT.alloc(len)
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn on_start() {
                SCRIPT.start()
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn on_tick(dt: f32) {
                SCRIPT.tick(dt)
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn on_message(from: i64, call: i64, _address: i32, method_len: i32, payload_len: i32) {
                SCRIPT.message(from, call, method_len, payload_len)
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn on_event(kind: i32, a: i64, b: i64, _address: i32, topic_len: i32, payload_len: i32) {
                SCRIPT.event(kind, a, b, topic_len, payload_len)
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn on_stop() {
                SCRIPT.stop()
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn save_state() -> i64 {
                SCRIPT.save()
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            #[allow(dead_code)]
            extern "C" fn restore_state(from_version: i32, _address: i32, len: i32) -> i32 {
                SCRIPT.restore(from_version, len)
            }
        };
    };
}

/// The script of this module and the two buffers that it shares with the host. Made by [`export_script`](crate::export_script).
#[doc(hidden)]
pub struct Exports<S>(UnsafeCell<State<S>>);

struct State<S> {
    script: Option<S>,
    /// Where the host writes what it hands over. Only grows, so that most calls allocate nothing.
    exchange: Vec<u8>,
    /// What `save_state` gave, until the next call.
    saved: Vec<u8>,
}

// SAFETY: a wasm instance has one thread, and the host enters it through one export at a time: the next call waits until the
// last one returned or the instance is dropped, also when the last one was paused. No export calls another.
unsafe impl<S> Sync for Exports<S> {}

impl<S: Script + Default> Exports<S> {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Exports<S> {
        Exports(UnsafeCell::new(State { script: None, exchange: Vec::new(), saved: Vec::new() }))
    }

    #[allow(clippy::mut_from_ref)]
    fn state(&self) -> &mut State<S> {
        // SAFETY: each export takes this reference once and ends it before it returns; see `Sync` above for why no two overlap.
        unsafe { &mut *self.0.get() }
    }

    /// The script and what the host wrote, cut where it said.
    fn enter(&self, first_len: i32, second_len: i32) -> (&mut S, &[u8], &[u8]) {
        let State { script, exchange, .. } = self.state();
        let script = script.get_or_insert_with(|| {
            log_panics();
            S::default()
        });
        // The host wrote at the address that `alloc` gave, which is where `exchange` begins.
        let (first, rest) = exchange.split_at(first_len as usize);
        (script, first, &rest[..second_len as usize])
    }

    pub fn alloc(&self, len: i32) -> i32 {
        let exchange = &mut self.state().exchange;
        if exchange.len() < len as usize {
            exchange.resize(len as usize, 0);
        }
        crate::raw::output(exchange).0
    }

    pub fn start(&self) {
        self.enter(0, 0).0.on_start();
    }

    pub fn tick(&self, dt: f32) {
        self.enter(0, 0).0.on_tick(dt);
    }

    pub fn message(&self, from: i64, call: i64, method_len: i32, payload_len: i32) {
        let (script, method, payload) = self.enter(method_len, payload_len);
        script.on_message(Message {
            from: Sender::from_raw(from as u64),
            call: CallId(call as u64),
            method: str::from_utf8(method).unwrap_or_default(),
            payload,
        });
    }

    pub fn event(&self, kind: i32, a: i64, b: i64, topic_len: i32, payload_len: i32) {
        let (script, topic, payload) = self.enter(topic_len, payload_len);
        let (own, other) = (EntityId::from_raw(a as u64), EntityId::from_raw(b as u64));
        script.on_event(match kind {
            1 => Event::ContactBegan { own, other },
            2 => Event::ContactEnded { own, other },
            3 => Event::TriggerEntered { own, other },
            4 => Event::TriggerLeft { own, other },
            5 => Event::Broadcast { from: a as u64, topic: str::from_utf8(topic).unwrap_or_default(), payload },
            6 => Event::Unanswered { call: CallId(a as u64) },
            other => Event::Unknown { kind: other as u32 },
        });
    }

    pub fn stop(&self) {
        self.enter(0, 0).0.on_stop();
    }

    /// Address in the upper half, length in the lower.
    pub fn save(&self) -> i64 {
        let saved = self.enter(0, 0).0.save_state();
        let state = self.state();
        state.saved = saved;
        let (address, len) = crate::raw::input(&state.saved);
        (i64::from(address as u32) << 32) | i64::from(len as u32)
    }

    /// 0, or 1 to refuse.
    pub fn restore(&self, from_version: i32, len: i32) -> i32 {
        let (script, state, _) = self.enter(len, 0);
        i32::from(!script.restore_state(from_version as u32, state))
    }
}

/// A panic ends in a trap, which says nothing. This says it first.
fn log_panics() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("panic");
        let _ = match info.location() {
            Some(at) => log(Level::Error, &format!("panic at {}:{}: {what}", at.file(), at.line())),
            None => log(Level::Error, what),
        };
    }));
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (Level::Error, log);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Probe {
        seen: Vec<String>,
    }

    impl Script for Probe {
        fn on_message(&mut self, m: Message<'_>) {
            self.seen.push(format!("{:?} {} {} {}", m.from, m.call.0, m.method, m.text()));
        }
        fn on_event(&mut self, event: Event<'_>) {
            self.seen.push(format!("{event:?}"));
        }
        fn restore_state(&mut self, from_version: u32, state: &[u8]) -> bool {
            from_version == 3 && state == b"kept"
        }
    }

    fn hand_over(probe: &Exports<Probe>, bytes: &[u8]) {
        probe.alloc(bytes.len() as i32);
        probe.state().exchange[..bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn a_message_is_cut_where_the_host_says_and_knows_a_player() {
        let probe = Exports::<Probe>::new();
        hand_over(&probe, b"buybread and more");
        probe.message(7, 1, 3, 5);
        probe.message((1 << 62) | 9, 2, 3, 0);
        assert_eq!(probe.state().script.as_ref().unwrap().seen, ["Script(7) 1 buy bread", "Player(PlayerId(9)) 2 buy "]);
    }

    #[test]
    fn an_event_kind_from_a_newer_host_is_passed_on() {
        let probe = Exports::<Probe>::new();
        probe.event(99, 0, 0, 0, 0);
        assert_eq!(probe.state().script.as_ref().unwrap().seen, ["Unknown { kind: 99 }"]);
    }

    #[test]
    fn refusing_a_state_is_not_zero() {
        let probe = Exports::<Probe>::new();
        hand_over(&probe, b"kept");
        assert_eq!(probe.restore(3, 4), 0);
        assert_eq!(probe.restore(2, 4), 1);
    }
}
