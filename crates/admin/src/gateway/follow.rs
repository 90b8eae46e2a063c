//! A world followed for the players of this gateway: one stage for all of them, wherever the world runs.
//!
//! [`Followed`] keeps the world as it was shown last, so that who comes or was slow gets a snapshot without asking the world; each tick
//! is encoded once for all. When the world leaves its node the stage ends, and [`follow`] asks for the next one until it has one: sessions
//! stay, are told to forget, and come in anew, which tells scripts of them again. Not here: one player's connection (`session`).

use crate::gateway::counts::Counts;
use crate::gateway::protocol::{self, Code, Resync};
use crate::gateway::session::Session;
use aether_cluster::{AttendError, Changes, Created, Hand, Node, Show};
use aether_scripting::PlayerId;
use aether_scripting::output::{ClientCommand, Standing};
use axum::body::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Between two attempts to find who runs a world.
const RETRY: Duration = Duration::from_millis(100);
/// How long sessions stay without their world: a failover takes a lease and some seconds.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to tell a world of players.
const JOIN_AGAIN: Duration = Duration::from_millis(500);

/// A world as it was shown last.
#[derive(Default)]
struct Scene {
    tick: u64,
    kinds: BTreeMap<u16, String>,
    slots: BTreeMap<u32, Created>,
    /// What everybody sees and hears until it is taken away.
    standing: Standing,
    /// Of this tick.
    snapshot: Option<Bytes>,
}

impl Scene {
    fn apply(&mut self, tick: u64, whole: bool, changes: &Changes, commands: &[ClientCommand]) {
        if whole {
            self.kinds.clear();
            self.slots.clear();
            self.standing = Standing::default();
        }
        commands.iter().for_each(|command| self.standing.apply(command));
        self.tick = tick;
        self.snapshot = None;
        self.kinds.extend(changes.kinds.iter().cloned());
        for slot in &changes.gone {
            self.slots.remove(slot);
        }
        self.slots.extend(changes.created.iter().map(|created| (created.slot, *created)));
        for (slot, pose) in &changes.moved {
            if let Some(created) = self.slots.get_mut(slot) {
                created.pose = *pose;
            }
        }
    }

    fn snapshot(&mut self) -> Bytes {
        let Scene { tick, kinds, slots, snapshot, standing: _ } = self;
        let make = || {
            let kinds: Vec<_> = kinds.iter().map(|(kind, name)| (*kind, name)).collect();
            protocol::snapshot(*tick, &kinds, slots.values()).into()
        };
        snapshot.get_or_insert_with(make).clone()
    }
}

#[derive(Default)]
struct State {
    scene: Scene,
    /// While it has a stage that has begun.
    hand: Option<Hand>,
    sessions: HashMap<PlayerId, Arc<Session>>,
    /// Of them, those whose world could not be told of them yet.
    unjoined: HashSet<PlayerId>,
    closed: bool,
}

impl State {
    fn join(&mut self, hand: &Hand, session: &Session) {
        if hand.join(session.player, &session.name) {
            self.unjoined.remove(&session.player);
        } else {
            self.unjoined.insert(session.player);
        }
    }
}

/// See the file.
pub(crate) struct Followed {
    pub name: String,
    counts: Arc<Counts>,
    state: Mutex<State>,
    /// The last session has left.
    idle: Notify,
}

impl Followed {
    fn new(name: &str, counts: Arc<Counts>) -> Followed {
        Followed { name: name.to_owned(), counts, state: Mutex::default(), idle: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A player comes in. `false`: nobody follows this one any more, ask again.
    fn enter(&self, session: &Arc<Session>) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        if let Some(old) = state.sessions.insert(session.player, Arc::clone(session)) {
            old.outbox.end(Some(Code::Replaced), "you came in again, elsewhere");
        }
        if let Some(hand) = state.hand.clone() {
            session.outbox.snapshot(&state.scene.snapshot());
            for (_, frame) in protocol::commands(state.scene.tick, &state.scene.standing.commands()) {
                session.outbox.keep(&frame.into());
            }
            state.join(&hand, session);
        }
        true
    }

    /// A session ends; who was replaced has left nothing.
    pub fn leave(&self, session: &Arc<Session>) {
        let mut state = self.state();
        if state.sessions.get(&session.player).is_some_and(|now| Arc::ptr_eq(now, session)) {
            state.sessions.remove(&session.player);
            state.unjoined.remove(&session.player);
            if let Some(hand) = &state.hand {
                hand.leave(session.player);
            }
            if state.sessions.is_empty() {
                self.idle.notify_one();
            }
        }
    }

    /// A client has taken everything and missed something before.
    pub fn refresh(&self, session: &Session) {
        let mut state = self.state();
        if state.hand.is_some() && session.outbox.wants_snapshot() {
            session.outbox.snapshot(&state.scene.snapshot());
        }
    }

    /// Where input goes, while the world is there.
    pub fn hand(&self) -> Option<Hand> {
        self.state().hand.clone()
    }

    fn show(&self, show: Show, hand: &Hand) {
        let mut state = self.state();
        let state = &mut *state;
        match show {
            Show::Tick { tick, whole, changes, commands } => {
                state.scene.apply(tick, whole, &changes, &commands);
                if whole {
                    self.begin(state, hand);
                } else if !changes.is_empty() {
                    let frame = protocol::tick(tick, &changes).into();
                    let now = Instant::now();
                    for session in state.sessions.values() {
                        self.counts.coalesced.fetch_add(session.outbox.tick(&frame, now).into(), Relaxed);
                    }
                }
                if !commands.is_empty() {
                    tell(state, tick, &commands);
                }
            }
            Show::Taken { player } => {
                if let Some(session) = state.sessions.remove(&PlayerId(player)) {
                    session.outbox.end(Some(Code::Replaced), "you came in again, elsewhere");
                    state.unjoined.remove(&PlayerId(player));
                    if state.sessions.is_empty() {
                        self.idle.notify_one();
                    }
                }
            }
        }
    }

    /// The whole world is shown: for the first time, or again.
    fn begin(&self, state: &mut State, hand: &Hand) {
        if state.hand.replace(hand.clone()).is_some() {
            // On the same stage: something was missed, or the world was started again.
            forget(state, Resync::Anew);
            self.counts.resyncs.fetch_add(1, Relaxed);
        }
        let snapshot = state.scene.snapshot();
        for session in state.sessions.values().cloned().collect::<Vec<_>>() {
            session.outbox.snapshot(&snapshot);
            state.join(hand, &session);
        }
    }

    /// Tell the world of those whom it could not be told of before: a link or an inbox was full.
    fn join_again(&self) {
        let mut state = self.state();
        let Some(hand) = state.hand.clone() else { return };
        let waiting: Vec<_> = state.unjoined.iter().filter_map(|player| state.sessions.get(player).cloned()).collect();
        waiting.iter().for_each(|session| state.join(&hand, session));
    }

    /// Whether it has been shown since it was attended last.
    fn has_begun(&self) -> bool {
        self.state().hand.is_some()
    }

    /// The stage is over; what is known is forgotten by clients at once. Gives whether it had begun.
    fn lose(&self) -> bool {
        let mut state = self.state();
        let had = state.hand.take().is_some();
        if had {
            forget(&state, Resync::Away);
            self.counts.resyncs.fetch_add(1, Relaxed);
        }
        had
    }

    fn end_all(&self, code: Code, why: &str) {
        for session in self.state().sessions.values() {
            session.outbox.end(Some(code), why);
        }
    }
}

fn forget(state: &State, why: Resync) {
    let frame = protocol::resync(why).into();
    for session in state.sessions.values() {
        session.outbox.forget();
        session.outbox.keep(&frame);
    }
}

fn tell(state: &State, tick: u64, commands: &[ClientCommand]) {
    for (player, frame) in protocol::commands(tick, commands) {
        let frame = frame.into();
        if player == 0 {
            state.sessions.values().for_each(|session| session.outbox.keep(&frame));
        } else if let Some(session) = state.sessions.get(&PlayerId(player)) {
            session.outbox.keep(&frame);
        }
    }
}

/// The worlds that a gateway follows.
pub(crate) struct Worlds {
    node: Arc<Node>,
    /// The worlds of the node's file, and their ticks a second.
    known: BTreeMap<String, f64>,
    counts: Arc<Counts>,
    followed: Mutex<HashMap<String, Arc<Followed>>>,
}

impl Worlds {
    pub fn new(node: Arc<Node>, counts: Arc<Counts>) -> Arc<Worlds> {
        let known = node.world_rates().into_iter().collect();
        Arc::new(Worlds { node, known, counts, followed: Mutex::default() })
    }

    /// Its ticks a second; `None`: there is no such world.
    pub fn tick_hz(&self, world: &str) -> Option<f64> {
        self.known.get(world).copied()
    }

    /// The worlds that there are.
    pub fn names(&self) -> Vec<String> {
        self.known.keys().cloned().collect()
    }

    /// Those in which a script has one of these names.
    pub fn names_with(&self, scripts: impl Fn(&str) -> bool) -> Vec<String> {
        self.node.worlds_with(scripts)
    }

    /// A player comes into a world, which is followed from now on if it was not.
    pub fn enter(self: &Arc<Self>, world: &str, session: &Arc<Session>) -> Arc<Followed> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = followed.get(world).filter(|found| found.enter(session)) {
            return Arc::clone(found);
        }
        let new = Arc::new(Followed::new(world, Arc::clone(&self.counts)));
        new.enter(session);
        followed.insert(world.to_owned(), Arc::clone(&new));
        self.counts.worlds.fetch_add(1, Relaxed);
        tokio::spawn(follow(Arc::clone(self), Arc::clone(&new)));
        new
    }

    /// The node stops.
    pub fn end_all(&self, code: Code, why: &str) {
        let followed: Vec<_> = self.followed.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        followed.iter().for_each(|followed| followed.end_all(code, why));
    }

    /// `true`: nobody is there, and nobody comes in here any more.
    fn close(&self, world: &Arc<Followed>) -> bool {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = world.state();
        if !state.sessions.is_empty() {
            return false;
        }
        state.closed = true;
        if followed.get(&world.name).is_some_and(|found| Arc::ptr_eq(found, world)) {
            followed.remove(&world.name);
        }
        self.counts.worlds.fetch_sub(1, Relaxed);
        true
    }
}

/// Follow a world as long as anybody is in it.
async fn follow(worlds: Arc<Worlds>, world: Arc<Followed>) {
    let mut away = Instant::now();
    loop {
        match worlds.node.attend(&world.name) {
            Ok(mut stage) => {
                let hand = stage.hand();
                let mut again = tokio::time::interval(JOIN_AGAIN);
                let is_over = loop {
                    tokio::select! {
                        _ = again.tick() => {
                            world.join_again();
                            // A parked world shows nothing, nor does one on a node whose build does not know of players.
                            if away.elapsed() > AWAY_MAX && !world.has_begun() {
                                break false;
                            }
                        }
                        show = stage.next() => match show {
                            Some(show) => world.show(show, &hand),
                            None => break false,
                        },
                        () = world.idle.notified() => if worlds.close(&world) {
                            break true;
                        },
                    }
                };
                if world.lose() {
                    away = Instant::now();
                }
                if is_over {
                    return;
                }
            }
            Err(AttendError::NoWorld) => world.end_all(Code::NoWorld, "there is no such world"),
            Err(AttendError::NotNow) => {}
        }
        if away.elapsed() > AWAY_MAX {
            world.end_all(Code::Later, "the world has been away for long");
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = world.idle.notified() => {}
        }
        if worlds.close(&world) {
            return;
        }
    }
}
