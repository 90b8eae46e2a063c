//! What others share with a world: where to put what comes in, and what it last told about itself.
//!
//! Data is bounded and refused by class when there is too much of it: players' input first, which nobody sends again, then messages of
//! other worlds, which come again, last the news that messages have arrived. Control never is: whoever asks waits for the answer, so
//! there is no more of it than there are askers. A mailbox outlives its world: one that is restarted finds it as it was.

use crate::flight::{Flight, FlightKind};
use crate::status::{WorldState, WorldStatus};
use crate::world::actor::WorldMessage;
use crate::world::audience::Audience;
use crate::world::courier::Parcel;
use crate::world::hosted::HostedWorld;
use crate::world::show::Show;
use aether_scripting::instance::InstanceError;
use aether_scripting::output::InboundCall;
use aether_scripting::{EntityView, PlayerId, ScriptInstance};
use aether_types::{ScriptId, Version};
use aether_world_runtime::{BuildOrder, ReloadOrder, ScriptKey, SetAside};
use aether_world_runtime::{Ordered, Rehearsal};
use ractor::ActorRef;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// What may wait for a world's next tick before players' input is refused, before messages of other worlds are, and in any case.
const INPUT_MAX: usize = 8_000;
const MESSAGES_MAX: usize = 9_500;
const INBOX_MAX: usize = 10_000;

/// Something that comes into a world from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// A call of a player.
    Call(InboundCall),
    /// Something of another world's.
    Parcel(Parcel),
    /// A player comes or goes.
    Presence(Presence),
}

/// A player who comes or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub player: PlayerId,
    /// What the player is called; `None`: goes.
    pub name: Option<String>,
}

impl Inbound {
    /// How much may wait for it to be taken still.
    fn inbox_max(&self) -> usize {
        match self {
            Inbound::Call(_) => INPUT_MAX,
            Inbound::Parcel(Parcel::Message { .. }) => MESSAGES_MAX,
            Inbound::Parcel(Parcel::Taken { .. }) | Inbound::Presence(_) => INBOX_MAX,
        }
    }

    /// Whether a world that sleeps must do something about it.
    fn wakes(&self) -> bool {
        !matches!(self, Inbound::Parcel(Parcel::Taken { .. }))
    }
}

/// What a world is asked to do at the edge of its next tick.
pub(crate) enum Control {
    /// An instance that it wanted.
    Install { key: ScriptKey, life: u32, built: Result<ScriptInstance, InstanceError> },
    /// An instance of the version that it reloads to.
    Reloaded { key: ScriptKey, version: Version, built: Result<ScriptInstance, InstanceError> },
    /// Take a script out of the order.
    Suspend { script: String, reply: oneshot::Sender<Ordered> },
    /// Put a script back.
    Resume { script: String, reply: oneshot::Sender<Ordered> },
    /// Save now. The answer comes when it is durable.
    Checkpoint { name: Option<String>, reply: oneshot::Sender<Result<u64, String>> },
    /// What a new version can be tried out in.
    Rehearsal { order: Box<ReloadOrder>, reply: oneshot::Sender<Option<Rehearsal>> },
    /// Begin to swap.
    BeginReload { order: Box<ReloadOrder>, reply: oneshot::Sender<Result<Vec<BuildOrder>, String>> },
    /// Keep the new version, or go back with this reason.
    EndReload { script: ScriptId, version: Version, rollback: Option<String>, reply: oneshot::Sender<()> },
    /// Messages that ended their script twice.
    SetAside { reply: oneshot::Sender<Vec<SetAside>> },
    /// What is where.
    Entities { reply: oneshot::Sender<Vec<EntityView>> },
    /// Fall asleep.
    Doze,
    /// Leave the tick threads.
    Yield { reply: oneshot::Sender<Box<HostedWorld>> },
}

/// See the file.
pub(crate) struct Mailbox {
    inbox: Mutex<VecDeque<Inbound>>,
    control: Mutex<Vec<Control>>,
    has_control: AtomicBool,
    /// Which life of the world may tick: one of an earlier life is dropped by the tick threads.
    life: AtomicU64,
    asleep: AtomicBool,
    /// It has ended and has not begun again.
    closed: AtomicBool,
    actor: Mutex<Option<ActorRef<WorldMessage>>>,
    /// Who watches it.
    pub audience: Audience,
    /// Players' input.
    pub input_refused: AtomicU64,
    /// Messages of other worlds and news about them: they come again.
    pub parcels_refused: AtomicU64,
    status: watch::Sender<Arc<WorldStatus>>,
    /// What happened to the world, through all its lives.
    pub flight: Flight,
}

impl Mailbox {
    pub fn new(name: &str) -> Arc<Mailbox> {
        let status = WorldStatus { name: name.to_owned(), ..WorldStatus::default() };
        Arc::new(Mailbox {
            inbox: Mutex::default(),
            control: Mutex::default(),
            has_control: AtomicBool::new(false),
            life: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            actor: Mutex::default(),
            audience: Audience::default(),
            input_refused: AtomicU64::new(0),
            parcels_refused: AtomicU64::new(0),
            status: watch::Sender::new(Arc::new(status)),
            flight: Flight::default(),
        })
    }

    fn inbox(&self) -> MutexGuard<'_, VecDeque<Inbound>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: the inbox is full. Wakes a world that sleeps.
    pub fn push(&self, inbound: Inbound) -> bool {
        let wakes = inbound.wakes();
        // They come again, when it has begun again.
        if matches!(inbound, Inbound::Parcel(_) | Inbound::Call(_)) && self.closed.load(Ordering::Acquire) {
            return false;
        }
        {
            let mut inbox = self.inbox();
            if inbox.len() >= inbound.inbox_max() {
                let refused = if matches!(inbound, Inbound::Parcel(_)) { &self.parcels_refused } else { &self.input_refused };
                refused.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            inbox.push_back(inbound);
        }
        if wakes {
            self.wake();
        }
        true
    }

    /// From now on a gateway watches. Wakes a world that sleeps, which then does not fall asleep.
    pub fn attend(&self) -> (u64, mpsc::Receiver<Show>) {
        let attends = self.audience.attend();
        self.wake();
        attends
    }

    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(actor) = self.actor()
        {
            // An actor that is gone is restarted by its supervisor, and reads the inbox then.
            let _ = actor.cast(WorldMessage::Wake);
        }
    }

    /// Nobody need wake it any more.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    pub fn take(&self) -> VecDeque<Inbound> {
        std::mem::take(&mut self.inbox())
    }

    /// From now on the next message wakes the world. `false`: one is there already.
    pub fn sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        // One that came before the flag was up has woken nobody.
        let empty = !self.inbox().iter().any(Inbound::wakes) && !self.has_control.load(Ordering::SeqCst);
        (empty && !self.audience.is_watched()) || !self.asleep.swap(false, Ordering::SeqCst)
    }

    /// Ask. Of a world that has ended nobody asks anything: the asker's channel is dropped.
    pub fn control(&self, control: Control) {
        {
            let mut waiting = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            waiting.push(control);
        }
        self.has_control.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub fn take_control(&self) -> Vec<Control> {
        if !self.has_control.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.control.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new life begins.
    pub fn begin_life(&self, actor: ActorRef<WorldMessage>) -> u64 {
        let life = self.life.fetch_add(1, Ordering::AcqRel) + 1;
        *self.actor.lock().unwrap_or_else(PoisonError::into_inner) = Some(actor);
        self.asleep.store(false, Ordering::Release);
        // Instances of the life before fit nobody; what was asked meanwhile is answered by the new one.
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        // To doze for a version is done with: it is read now.
        control.retain(|control| !matches!(control, Control::Install { .. } | Control::Reloaded { .. } | Control::Doze));
        self.closed.store(false, Ordering::Release);
        life
    }

    /// Whoever ticks it stops, and nobody answers what is asked until a new life begins.
    pub fn end_life(&self) {
        self.life.fetch_add(1, Ordering::AcqRel);
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Release);
        control.clear();
    }

    pub fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    pub fn is_life(&self, life: u64) -> bool {
        self.life.load(Ordering::Acquire) == life
    }

    pub fn actor(&self) -> Option<ActorRef<WorldMessage>> {
        self.actor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn status(&self) -> Arc<WorldStatus> {
        Arc::clone(&self.status.borrow())
    }

    pub fn watch(&self) -> watch::Receiver<Arc<WorldStatus>> {
        self.status.subscribe()
    }

    pub fn publish(&self, status: WorldStatus) {
        self.status.send_replace(Arc::new(status));
    }

    /// Something happened to the world outside of its ticks.
    pub fn record(&self, kind: FlightKind, text: impl Into<String>) {
        self.flight.record(self.status().tick, kind, None, text);
    }

    pub fn set_state(&self, state: WorldState) {
        self.status.send_modify(|status| Arc::make_mut(status).state = state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_types::WorldId;

    #[test]
    fn a_full_inbox_refuses_players_first_then_messages_then_what_says_that_messages_have_arrived() {
        let mailbox = Mailbox::new("town");
        let world = |name| WorldId::new(name).unwrap();
        let input = || {
            let call = InboundCall {
                world: None,
                from: 1,
                call: 0,
                script: "door".into(),
                method: "open".into(),
                payload: Vec::new(),
                delivery: 0,
            };
            Inbound::Call(call)
        };
        let message = || {
            Inbound::Parcel(Parcel::Message { from: world("inn"), to: world("town"), number: 1, first: 1, data: Arc::from([]) })
        };
        let taken = || Inbound::Parcel(Parcel::Taken { from: world("inn"), to: world("town"), number: 1 });
        let waiting = || mailbox.inbox().len();
        while mailbox.push(input()) {}
        assert_eq!(waiting(), INPUT_MAX);
        while mailbox.push(message()) {}
        assert_eq!((waiting(), mailbox.push(input())), (MESSAGES_MAX, false));
        while mailbox.push(taken()) {}
        assert_eq!((waiting(), mailbox.push(message()), mailbox.push(input())), (INBOX_MAX, false, false));
        let refused = [&mailbox.input_refused, &mailbox.parcels_refused].map(|refused| refused.load(Ordering::Relaxed));
        assert_eq!(refused, [3, 3]);
        assert_eq!(mailbox.take().len(), INBOX_MAX);
        assert!(mailbox.push(input()));
    }
}
