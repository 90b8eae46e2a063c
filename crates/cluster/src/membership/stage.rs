//! Stages of worlds that run on other nodes: what is shown there and what players do, over the links.
//!
//! A gateway's node asks the world's node with [`StageFrame::Attend`]; that one attends as any gateway does and passes on what it is shown
//! ([`Member::pass_on`]), one message for each credit. Credits come back as the gateway takes messages, so a slow one makes the world's
//! node miss ticks for it alone, and then begin again with the whole world. A link that goes down ends all stages over it. Nothing here
//! is sent twice. Not here: links (`link`), what a stage is (`world/stage`).

use crate::membership::wire::Frame;
use crate::membership::{Member, lock};
use crate::world::audience::SHOWS_MAX;
use crate::world::show::{Changes, Show};
use crate::world::stage::{Hand, InputError, Stage};
use aether_scripting::output::ClientCommand;
use aether_scripting::{EntityId, PlayerId, SoundParameters, Vec3};
use aether_types::codec::{self, CodecError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

/// What nodes say to each other about stages. `stream` is the asking node's number of the stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StageFrame {
    /// Show me this world.
    Attend { stream: u64, world: String },
    /// No longer.
    Quit { stream: u64 },
    /// So many messages more.
    Credit { stream: u64, messages: u32 },
    /// A player comes in.
    Join { stream: u64, player: u64, name: String },
    /// A player leaves.
    Leave { stream: u64, player: u64 },
    /// A player calls a script.
    Input { stream: u64, player: u64, script: String, method: String, payload: Vec<u8> },
    /// A part of a message; the last one completes it.
    Part { stream: u64, bytes: Vec<u8>, last: bool },
    /// The world is not here.
    Ended { stream: u64 },
}

/// Messages on the way to a gateway that it has not taken.
const CREDITS: u32 = 32;
const _: () = assert!((CREDITS as usize) < SHOWS_MAX, "what credits allow has room at the gateway");
/// Taken messages after which credits go back.
const CREDITS_BACK: u32 = 8;
/// Bytes of a part: what comes behind it on the link waits so long.
const PART_MAX: usize = 64 << 10;
/// Bytes of a message: a million entities are half of it.
const MESSAGE_MAX: usize = 48 << 20;
/// Stages of one other node's gateway here: one for each world with players of its.
const STREAMS_MAX: usize = 100_000;
/// Before what did not fit on a full link is tried again.
pub(crate) const LINK_PAUSE: Duration = Duration::from_millis(20);

/// Stages of this node's gateway elsewhere, and of other nodes' gateways here.
#[derive(Default)]
pub(crate) struct Stages {
    next: AtomicU64,
    /// By stream.
    elsewhere: Mutex<HashMap<u64, Elsewhere>>,
    /// By peer and stream.
    here: Mutex<HashMap<(String, u64), Here>>,
}

struct Elsewhere {
    peer: String,
    shows: mpsc::Sender<Show>,
    parts: Vec<u8>,
}

struct Here {
    hand: Hand,
    credits: Arc<Semaphore>,
    passes: AbortHandle,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.passes.abort();
    }
}

/// A stage on another node.
pub(crate) struct Away {
    member: Weak<Member>,
    peer: String,
    stream: u64,
    taken: AtomicU32,
}

impl Away {
    fn send(&self, frame: StageFrame) -> Result<(), InputError> {
        let member = self.member.upgrade().ok_or(InputError::Away)?;
        if !lock(&member.stages.elsewhere).contains_key(&self.stream) {
            return Err(InputError::Away);
        }
        member.say(&self.peer, frame)
    }

    /// A message was taken from the queue.
    pub fn took_one(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.give_credit();
    }

    /// Whether credit is due that the link had no room for.
    pub fn owes_credit(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= CREDITS_BACK
    }

    /// Give back what was taken, if it is worth a message. One task does.
    pub fn give_credit(&self) {
        let messages = self.taken.load(Ordering::Relaxed);
        if messages >= CREDITS_BACK && self.send(StageFrame::Credit { stream: self.stream, messages }).is_ok() {
            self.taken.fetch_sub(messages, Ordering::Relaxed);
        }
    }

    pub fn join(&self, player: PlayerId, name: &str) -> bool {
        self.send(StageFrame::Join { stream: self.stream, player: player.0, name: name.to_owned() }).is_ok()
    }

    pub fn leave(&self, player: PlayerId) {
        let _ = self.send(StageFrame::Leave { stream: self.stream, player: player.0 });
    }

    pub fn input(&self, player: PlayerId, script: &str, method: &str, payload: &[u8]) -> Result<(), InputError> {
        let (script, method, payload) = (script.to_owned(), method.to_owned(), payload.to_vec());
        self.send(StageFrame::Input { stream: self.stream, player: player.0, script, method, payload })
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if let Some(member) = self.member.upgrade() {
            lock(&member.stages.elsewhere).remove(&self.stream);
            member.say_later(&self.peer, StageFrame::Quit { stream: self.stream });
        }
    }
}

impl Member {
    /// A stage of a world that another node runs. `None`: nobody runs it now, or that node cannot be reached.
    pub fn attend(self: &Arc<Self>, world: &str) -> Option<Stage> {
        let peer = self.owner_of(world).filter(|peer| *peer != self.me.name)?;
        let (sender, shows) = mpsc::channel(SHOWS_MAX);
        let stream = self.stages.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.stages.elsewhere).insert(stream, Elsewhere { peer: peer.clone(), shows: sender, parts: Vec::new() });
        // From here on its end takes it out again.
        let away = Away { member: Arc::downgrade(self), peer, stream, taken: AtomicU32::new(0) };
        away.send(StageFrame::Attend { stream, world: world.to_owned() }).ok()?;
        Some(Stage::away(away, shows))
    }

    fn say(&self, peer: &str, frame: StageFrame) -> Result<(), InputError> {
        let bytes = Frame::Stage(frame).encode().map_err(|_| InputError::Full)?;
        let links = self.links.get().ok_or(InputError::Away)?;
        links.try_send(peer, bytes).map_err(|error| match error {
            crate::link::SendError::NotLinked => InputError::Away,
            _ => InputError::Full,
        })
    }

    /// The same for what must be heard: again while the link is full.
    fn say_later(self: &Arc<Self>, peer: &str, frame: StageFrame) {
        if let Err(InputError::Full) = self.say(peer, frame.clone()) {
            let (member, peer) = (Arc::downgrade(self), peer.to_owned());
            self.runtime.spawn(async move { say_surely(&member, &peer, frame).await });
        }
    }

    /// Called by a link: quick, and in the order of what the peer sent.
    pub(super) fn on_stage(self: &Arc<Self>, peer: &str, frame: StageFrame) {
        let Some(parts) = self.parts.get() else { return };
        let with = |stream: u64, act: &dyn Fn(&Here)| {
            if let Some(here) = lock(&self.stages.here).get(&(peer.to_owned(), stream)) {
                act(here);
            }
        };
        match frame {
            StageFrame::Attend { stream, world } => {
                let mailbox = parts.services.post.find(&world);
                let room = lock(&self.stages.here).len() < STREAMS_MAX;
                let Some(mailbox) = mailbox.filter(|_| room) else {
                    return self.say_later(peer, StageFrame::Ended { stream });
                };
                let stage = Stage::here(mailbox);
                let (hand, credits) = (stage.hand(), Arc::new(Semaphore::new(CREDITS as usize)));
                let passing = Member::pass_on(Arc::downgrade(self), peer.to_owned(), stream, stage, Arc::clone(&credits));
                // Under the lock: it takes itself out at its end, which may be soon.
                let mut here = lock(&self.stages.here);
                let passes = self.runtime.spawn(passing).abort_handle();
                let old = here.insert((peer.to_owned(), stream), Here { hand, credits, passes });
                drop(here);
                // Not under the lock, as below.
                drop(old);
                // The link may have gone down before it was there to be ended.
                if !self.is_linked(peer) {
                    self.end_stages(peer);
                }
            }
            StageFrame::Quit { stream } => {
                // Not dropped under the lock: that reaches into the world's mailbox.
                let here = lock(&self.stages.here).remove(&(peer.to_owned(), stream));
                drop(here);
            }
            StageFrame::Credit { stream, messages } => with(stream, &|here| {
                let room = (CREDITS as usize).saturating_sub(here.credits.available_permits());
                here.credits.add_permits(room.min(messages as usize));
            }),
            StageFrame::Join { stream, player, name } => with(stream, &|here| _ = here.hand.join(PlayerId(player), &name)),
            StageFrame::Leave { stream, player } => with(stream, &|here| here.hand.leave(PlayerId(player))),
            StageFrame::Input { stream, player, script, method, payload } => {
                with(stream, &|here| _ = here.hand.input(PlayerId(player), &script, &method, &payload));
            }
            StageFrame::Part { stream, bytes, last } => {
                let mut elsewhere = lock(&self.stages.elsewhere);
                let Some(found) = elsewhere.get_mut(&stream).filter(|found| found.peer == peer) else {
                    drop(elsewhere);
                    // It was given up here, and that was not heard.
                    let _ = self.say(peer, StageFrame::Quit { stream });
                    return;
                };
                found.parts.extend(bytes);
                if found.parts.len() > MESSAGE_MAX {
                    elsewhere.remove(&stream);
                } else if last {
                    let taken = open(&std::mem::take(&mut found.parts)).is_ok_and(|show| found.shows.try_send(show).is_ok());
                    if !taken {
                        // A message is lost: the gateway begins again.
                        elsewhere.remove(&stream);
                    }
                }
            }
            StageFrame::Ended { stream } => {
                let mut elsewhere = lock(&self.stages.elsewhere);
                if elsewhere.get(&stream).is_some_and(|found| found.peer == peer) {
                    elsewhere.remove(&stream);
                }
            }
        }
    }

    /// A link is down: all stages over it end.
    pub(super) fn end_stages(&self, peer: &str) {
        lock(&self.stages.elsewhere).retain(|_, found| found.peer != peer);
        let gone: Vec<_> = lock(&self.stages.here).extract_if(|(of, _), _| of == peer).collect();
        drop(gone);
    }

    async fn pass_on(member: Weak<Member>, peer: String, stream: u64, mut stage: Stage, credits: Arc<Semaphore>) {
        while let Some(show) = stage.next().await {
            let Ok(credit) = credits.acquire().await else { return };
            credit.forget();
            let Ok(bytes) = seal(&show) else { break };
            let mut parts = bytes.chunks(PART_MAX).peekable();
            while let Some(part) = parts.next() {
                let (bytes, last) = (part.to_vec(), parts.peek().is_none());
                let frame = StageFrame::Part { stream, bytes, last };
                loop {
                    let Some(member) = member.upgrade() else { return };
                    // What players do and who comes in must not wait behind what others are shown.
                    if member.links.get().is_none_or(|links| links.has_room(&peer)) {
                        match member.say(&peer, frame.clone()) {
                            Ok(()) => break,
                            Err(InputError::Full) => {}
                            // `end_stages` ends this one.
                            Err(InputError::Away) => return,
                        }
                    }
                    drop(member);
                    tokio::time::sleep(LINK_PAUSE).await;
                }
            }
        }
        say_surely(&member, &peer, StageFrame::Ended { stream }).await;
        if let Some(member) = member.upgrade() {
            let here = lock(&member.stages.here).remove(&(peer, stream));
            drop(here);
        }
    }
}

/// Until it is on its way, the link is down or the node stops.
async fn say_surely(member: &Weak<Member>, peer: &str, frame: StageFrame) {
    while let Some(member) = member.upgrade() {
        if !matches!(member.say(peer, frame.clone()), Err(InputError::Full)) {
            return;
        }
        drop(member);
        tokio::time::sleep(LINK_PAUSE).await;
    }
}

const SCHEMA: u8 = 1;

/// A [`Show`] on its way.
#[derive(Serialize, Deserialize)]
enum Sealed {
    Tick { tick: u64, whole: bool, changes: Arc<Changes>, commands: Vec<Command> },
    Taken { player: u64 },
}

#[derive(Serialize, Deserialize)]
struct Command(#[serde(with = "CommandOf")] ClientCommand);

/// [`ClientCommand`] for the codec, which knows no tags in the middle of a value.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ClientCommand")]
enum CommandOf {
    ShowElement { player: PlayerId, element: String, text: String },
    HideElement { player: PlayerId, element: String },
    SetText { player: PlayerId, element: String, text: String },
    PlaySound { handle: u64, sound: String, position: Vec3, parameters: SoundParameters, looped: bool },
    StopSound { handle: u64 },
    MoveSound { handle: u64, position: Vec3 },
    TuneSound { handle: u64, parameters: SoundParameters },
    Event { player: PlayerId, topic: String, payload: Vec<u8> },
    Gone { entity: EntityId },
}

fn seal(show: &Show) -> Result<Vec<u8>, CodecError> {
    let sealed = match show {
        Show::Tick { tick, whole, changes, commands } => Sealed::Tick {
            tick: *tick,
            whole: *whole,
            changes: Arc::clone(changes),
            commands: commands.iter().cloned().map(Command).collect(),
        },
        Show::Taken { player } => Sealed::Taken { player: *player },
    };
    codec::encode(SCHEMA, &sealed)
}

fn open(bytes: &[u8]) -> Result<Show, CodecError> {
    Ok(match codec::decode(SCHEMA, bytes)? {
        Sealed::Tick { tick, whole, changes, commands } => {
            Show::Tick { tick, whole, changes, commands: commands.into_iter().map(|Command(command)| command).collect() }
        }
        Sealed::Taken { player } => Show::Taken { player },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::show::{Created, Pose};
    use proptest::prelude::*;

    #[test]
    fn what_is_shown_arrives_as_it_left() {
        let player = PlayerId(7);
        let text = |text: &str| text.to_owned();
        let (position, parameters) = (Vec3::new(1.0, -2.0, 3.5), SoundParameters { gain: 1.0, pitch: 0.5, range: 20.0 });
        let commands = vec![
            ClientCommand::ShowElement { player, element: text("a"), text: text("b") },
            ClientCommand::HideElement { player, element: text("a") },
            ClientCommand::SetText { player, element: text("a"), text: text("c") },
            ClientCommand::PlaySound { handle: 3, sound: text("step"), position, parameters, looped: true },
            ClientCommand::StopSound { handle: 3 },
            ClientCommand::MoveSound { handle: 3, position },
            ClientCommand::TuneSound { handle: 3, parameters },
            ClientCommand::Event { player, topic: text("you"), payload: vec![0, 255] },
            ClientCommand::Gone { entity: EntityId(u64::MAX) },
        ];
        let pose = Pose { x: -8_388_607, y: 0, z: 8_388_607, yaw: 65_535 };
        let changes = Changes {
            kinds: vec![(3, text("bird"))],
            gone: vec![9],
            created: vec![Created { id: u64::MAX, slot: 9, kind: 3, pose }],
            moved: vec![(10, pose)],
        };
        let tick = Show::Tick { tick: 77, whole: true, changes: Arc::new(changes), commands: commands.into() };
        for show in [tick, Show::Taken { player: 7 }] {
            assert_eq!(open(&seal(&show).unwrap()).unwrap(), show);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_do_more_than_be_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = open(&bytes);
            let _ = open(&[&[1, SCHEMA][..], &bytes].concat());
        }
    }
}
