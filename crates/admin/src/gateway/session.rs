//! One player's connection: the hello, input with its limits, and what waits to be sent.
//!
//! [`serve`] is all of it. Two halves run side by side until one ends: [`listen`] reads, [`speak`] writes; both know only the
//! [`Session`]. Every wait has a deadline, and what a client sends is a value or an end, never a panic. Not here: the listener (`mod`),
//! the world (`follow`).

use crate::gateway::counts::Counts;
use crate::gateway::follow::{Followed, Worlds};
use crate::gateway::outbox::{Next, Outbox};
use crate::gateway::pass::{self, PassError, PassKeys};
use crate::gateway::protocol::{self, Code, FromClient, Refusal, VERSION};
use aether_cluster::InputError;
use aether_scripting::PlayerId;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use governor::clock::DefaultClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Until the hello has come.
pub const HELLO: Duration = Duration::from_secs(5);
/// Between two pings.
const PING: Duration = Duration::from_secs(10);
/// Silence after which a client is gone: it answers pings.
pub const IDLE: Duration = Duration::from_secs(30);
/// Until one message has left for the network.
const SEND: Duration = Duration::from_secs(10);
/// Until a close has.
const CLOSE: Duration = Duration::from_secs(1);
/// The largest message of a client: a hello with a long token, or an input with the largest payload.
pub const MESSAGE_MAX: usize = 8 << 10;
/// Bytes a second that a client may send, and at once.
const BYTES: (NonZeroU32, NonZeroU32) = (nonzero(16 << 10), nonzero(64 << 10));
/// Refusals a second that a client is told of, and refusals that it may cause before it is thrown out, which come back at so many a second.
const TOLD: NonZeroU32 = nonzero(4);
const TOLERANCE: (NonZeroU32, NonZeroU32) = (nonzero(10), nonzero(200));

const fn nonzero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

/// What all sessions of a gateway share.
pub(crate) struct House {
    pub worlds: Arc<Worlds>,
    pub counts: Arc<Counts>,
    pub keys: PassKeys,
    /// Scripts that players may call, by their names in a world.
    pub scripts: HashSet<String>,
    /// Inputs a second of one session.
    pub inputs_per_second: NonZeroU32,
    /// A player is here once.
    pub players: Mutex<HashMap<PlayerId, Arc<Session>>>,
    /// Of those who have said who they are.
    pub places: Arc<Semaphore>,
}

/// A player who is in.
pub(crate) struct Session {
    pub player: PlayerId,
    pub name: String,
    pub outbox: Outbox,
}

/// Why a session ends: a code and what the client is told; without a code it is gone.
type End = (Option<Code>, String);

fn end(code: Code, why: impl Into<String>) -> End {
    (Some(code), why.into())
}

/// A connection from its hello to its end. `guests`: whoever has no token is let in as a guest. `greeting`: a place among those who have
/// not said who they are.
pub(crate) async fn serve(house: Arc<House>, socket: WebSocket, guests: bool, greeting: impl Send) {
    let (mut sink, mut stream) = socket.split();
    let greeted = timeout(HELLO, greet(&house, &mut stream, guests)).await;
    let place = Arc::clone(&house.places).try_acquire_owned();
    let (code, why) = match (greeted, place) {
        (Err(_), _) => end(Code::Silent, "no hello came"),
        (Ok(Err(end)), _) => end,
        (Ok(Ok(_)), Err(_)) => end(Code::Later, "this gateway has as many sessions as it takes"),
        (Ok(Ok((session, world))), Ok(_place)) => {
            drop(greeting);
            let session = Arc::new(session);
            house.counts.begun.fetch_add(1, Relaxed);
            house.counts.sessions.fetch_add(1, Relaxed);
            let followed = house.enter(&world, &session);
            let over = tokio::select! {
                over = listen(&house, &session, &followed, &mut stream) => over,
                over = speak(&house, &session, &followed, &mut sink) => over,
            };
            // Nothing more is queued for it.
            session.outbox.end(over.0, &over.1);
            house.leave(&session, &followed);
            house.counts.sessions.fetch_sub(1, Relaxed);
            over
        }
    };
    house.counts.end(code);
    if let Some(code) = code {
        let frame = CloseFrame { code: code as u16, reason: brief(&why).into() };
        // Who is gone is not waited for.
        let _ = timeout(CLOSE, sink.send(Message::Close(Some(frame)))).await;
    }
}

/// A close frame has room for 123 bytes.
fn brief(why: &str) -> String {
    why[..why.floor_char_boundary(123)].to_owned()
}

async fn greet(house: &House, stream: &mut SplitStream<WebSocket>, guests: bool) -> Result<(Session, String), End> {
    let frame = loop {
        match stream.next().await {
            Some(Ok(Message::Binary(frame))) => break frame,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Text(_))) => return Err(end(Code::Bad, "frames are binary")),
            Some(Ok(Message::Close(_))) | None => return Err((None, String::new())),
            Some(Err(error)) => return Err(broken(&error)),
        }
    };
    let hello = FromClient::decode(&frame).map_err(|error| end(Code::Bad, error.to_string()))?;
    let FromClient::Hello { versions: (first, last), world, name, token } = hello else {
        return Err(end(Code::Bad, "the first frame is a hello"));
    };
    if !(first..=last).contains(&VERSION) {
        let why = format!("this gateway speaks version {VERSION}, the client {first} to {last}");
        return Err(end(Code::Version, why));
    }
    let (player, name) = if !token.is_empty() {
        house.keys.check(token, world).map_err(|error| end(Code::Token, error.to_string()))?
    } else if guests {
        guest(name).ok_or_else(|| end(Code::Token, PassError::Player.to_string()))?
    } else {
        return Err(end(Code::Token, PassError::Missing.to_string()));
    };
    let Some(tick_hz) = house.worlds.tick_hz(world) else { return Err(end(Code::NoWorld, "there is no such world")) };
    let session = Session { player, name, outbox: Outbox::default() };
    let inputs = u16::try_from(house.inputs_per_second.get()).unwrap_or(u16::MAX);
    session.outbox.keep(&protocol::welcome(player.0, tick_hz as f32, inputs, world, &session.name).into());
    Ok((session, world.to_owned()))
}

/// A number that no login server gives out, and the name that the guest wants.
fn guest(name: &str) -> Option<(PlayerId, String)> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    let number = u64::from_le_bytes(random) % pass::GUEST;
    let name = if name.is_empty() { format!("guest {:04x}", number & 0xffff) } else { name.to_owned() };
    pass::is_name(&name).then_some((PlayerId(pass::GUEST | number), name))
}

impl House {
    fn enter(&self, world: &str, session: &Arc<Session>) -> Arc<Followed> {
        let old = self.players.lock().unwrap_or_else(PoisonError::into_inner).insert(session.player, Arc::clone(session));
        if let Some(old) = old {
            old.outbox.end(Some(Code::Replaced), "you came in again, elsewhere");
        }
        self.worlds.enter(world, session)
    }

    fn leave(&self, session: &Arc<Session>, followed: &Followed) {
        let mut players = self.players.lock().unwrap_or_else(PoisonError::into_inner);
        if players.get(&session.player).is_some_and(|now| Arc::ptr_eq(now, session)) {
            players.remove(&session.player);
        }
        drop(players);
        followed.leave(session);
    }
}

fn broken(error: &axum::Error) -> End {
    use tungstenite::Error as Ws;
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        match cause.downcast_ref::<Ws>() {
            Some(Ws::Capacity(_)) => return end(Code::TooLarge, format!("a message has at most {MESSAGE_MAX} bytes")),
            Some(Ws::Protocol(_) | Ws::Utf8(_)) => return end(Code::Bad, "this is no WebSocket"),
            Some(_) => return (None, String::new()),
            None => source = cause.source(),
        }
    }
    (None, String::new())
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;

/// What one session may send.
struct Limits {
    messages: Bucket,
    bytes: Bucket,
    told: Bucket,
    tolerance: Bucket,
}

impl Limits {
    fn new(inputs_per_second: NonZeroU32) -> Limits {
        let bucket = |(rate, burst): (NonZeroU32, NonZeroU32)| Bucket::direct(Quota::per_second(rate).allow_burst(burst));
        Limits {
            // Twice as much at once: a client that stood still catches up.
            messages: bucket((inputs_per_second, inputs_per_second.saturating_mul(nonzero(2)))),
            bytes: bucket(BYTES),
            told: bucket((TOLD, TOLD)),
            tolerance: bucket(TOLERANCE),
        }
    }

    /// Whether a message of so many bytes is within what a session may send.
    fn allow(&self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        self.messages.check().is_ok() && matches!(self.bytes.check_n(bytes), Ok(Ok(())))
    }
}

async fn listen(house: &House, session: &Session, followed: &Followed, stream: &mut SplitStream<WebSocket>) -> End {
    let limits = Limits::new(house.inputs_per_second);
    loop {
        let message = match timeout(IDLE, stream.next()).await {
            Err(_) => return end(Code::Silent, "nothing was heard for too long"),
            Ok(None) => return (None, String::new()),
            Ok(Some(Err(error))) => return broken(&error),
            Ok(Some(Ok(message))) => message,
        };
        let refusal = match &message {
            Message::Close(_) => return (None, String::new()),
            Message::Text(_) => return end(Code::Bad, "frames are binary"),
            // They cost something too.
            Message::Ping(_) | Message::Pong(_) => (!limits.allow(1)).then_some((0, Refusal::TooMany)),
            Message::Binary(frame) => match FromClient::decode(frame) {
                Err(error) => return end(Code::Bad, error.to_string()),
                Ok(FromClient::Hello { .. }) => return end(Code::Bad, "one hello is enough"),
                Ok(FromClient::Input { number, script, method, payload }) => {
                    let passed = if limits.allow(frame.len()) {
                        pass_on(house, session, followed, script, method, payload)
                    } else {
                        Err(Refusal::TooMany)
                    };
                    passed.err().map(|why| (number, why))
                }
            },
        };
        match refusal {
            Some((number, why)) => {
                house.counts.refuse(why);
                if why == Refusal::TooMany && limits.tolerance.check().is_err() {
                    return end(Code::Flood, "far more was sent than is allowed");
                }
                if limits.told.check().is_ok() {
                    session.outbox.keep(&protocol::refused(number, why).into());
                }
            }
            None if matches!(message, Message::Binary(_)) => _ = house.counts.inputs.fetch_add(1, Relaxed),
            None => {}
        }
    }
}

fn pass_on(
    house: &House,
    session: &Session,
    followed: &Followed,
    script: &str,
    method: &str,
    payload: &[u8],
) -> Result<(), Refusal> {
    use aether_scripting::abi::limit;
    // As scripts' own calls are bounded; an empty method would be an answer.
    let good = !method.is_empty() && method.len() <= limit::NAME_BYTES && payload.len() <= limit::PAYLOAD_BYTES;
    if !good || !house.scripts.contains(script) {
        return Err(Refusal::NoScript);
    }
    let hand = followed.hand().ok_or(Refusal::Away)?;
    hand.input(session.player, script, method, payload).map_err(|error| match error {
        InputError::Full => Refusal::Busy,
        InputError::Away => Refusal::Away,
    })
}

async fn speak(house: &House, session: &Session, followed: &Followed, sink: &mut SplitSink<WebSocket, Message>) -> End {
    let mut ping = Instant::now() + PING;
    loop {
        let message = match session.outbox.next() {
            Next::End(code, why) => return (code, why),
            Next::Message(frame) => {
                count(&house.counts.messages, &house.counts.bytes, &frame);
                Message::Binary(frame)
            }
            next => {
                if next == Next::Snapshot {
                    followed.refresh(session);
                    if session.outbox.wants_snapshot() {
                        // The world is away: who has it again says so.
                    } else {
                        continue;
                    }
                }
                match tokio::time::timeout_at(ping, session.outbox.woken()).await {
                    Ok(()) => continue,
                    Err(_) => {
                        ping = Instant::now() + PING;
                        Message::Ping(Bytes::new())
                    }
                }
            }
        };
        match timeout(SEND, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return (None, String::new()),
            Err(_) => return end(Code::Slow, "what was sent was not taken"),
        }
    }
}

fn count(messages: &AtomicU64, bytes: &AtomicU64, frame: &Bytes) {
    messages.fetch_add(1, Relaxed);
    bytes.fetch_add(frame.len() as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_may_send_its_rate_and_twice_of_it_at_once() {
        let limits = Limits::new(nonzero(20));
        let passed = (0..1_000).take_while(|_| limits.allow(10)).count();
        assert!((40..45).contains(&passed), "{passed}");
        let limits = Limits::new(nonzero(1_000));
        let passed = (0..1_000).take_while(|_| limits.allow(MESSAGE_MAX)).count();
        assert!((8..10).contains(&passed), "bytes are bounded too: {passed}");
    }

    #[test]
    fn a_guest_is_nobody_whom_a_login_server_knows_and_is_called_as_wanted() {
        let (player, name) = guest("Ada").unwrap();
        assert!(player.0 >= pass::GUEST && player.0 < 2 * pass::GUEST && name == "Ada");
        assert!(guest("").unwrap().1.starts_with("guest ") && guest("a\u{7}").is_none() && guest(&"x".repeat(48)).is_none());
    }
}
