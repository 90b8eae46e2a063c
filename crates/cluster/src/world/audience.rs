//! Who watches a world: the gateways that have players in it, each with a bounded queue.
//!
//! It belongs to the world's mailbox, so it outlives the world's lives; after each new life everybody is shown the whole world again. A
//! world that nobody watches asks [`Audience::is_watched`] once a tick, which is one atomic read. A gateway that does not take what it is
//! shown misses it, and is shown the whole again when it has room: a tick waits for nobody. A player is in a world once: who comes in by
//! another gateway is taken from the first. Not here: what is shown (`show`), gateways on other nodes (`membership/stage`).

use crate::world::gate::Output;
use crate::world::show::{Show, View};
use aether_scripting::output::Standing;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Ticks that may wait for a gateway: three seconds at 20 Hz.
pub(crate) const SHOWS_MAX: usize = 64;

/// One gateway.
struct Listener {
    id: u64,
    sender: mpsc::Sender<Show>,
    /// It has been shown the whole world, and everything since.
    begun: bool,
    /// Who came in by it.
    players: HashSet<u64>,
}

/// Those who watch.
#[derive(Default)]
struct Seats {
    taken: Vec<Listener>,
    /// The world is here no longer: who found it just before finds nothing any more.
    closed: bool,
}

/// See the file.
#[derive(Default)]
pub(crate) struct Audience {
    count: AtomicU32,
    arrivals: AtomicBool,
    next: AtomicU64,
    listeners: Mutex<Seats>,
}

impl Audience {
    fn listeners(&self) -> MutexGuard<'_, Seats> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody watches.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Whether somebody who can be shown it has not seen the whole yet; asked once for each of them. For those whose queue is full nobody
    /// makes it.
    pub fn take_arrivals(&self) -> bool {
        if !self.arrivals.load(Ordering::Acquire) {
            return false;
        }
        let listeners = self.listeners();
        let (mut ready, mut full) = (false, false);
        // One that has gone says so itself (`quit`), and with it its players.
        for listener in listeners.taken.iter().filter(|listener| !listener.begun && !listener.sender.is_closed()) {
            *if listener.sender.capacity() > 0 { &mut ready } else { &mut full } = true;
        }
        self.arrivals.store(full, Ordering::Release);
        ready
    }

    /// From now on a gateway watches; its number here, and what it is shown: nothing, and that at once, if the world has left meanwhile.
    pub fn attend(&self) -> (u64, mpsc::Receiver<Show>) {
        let (sender, shows) = mpsc::channel(SHOWS_MAX);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut listeners = self.listeners();
        if listeners.closed {
            return (id, shows);
        }
        listeners.taken.push(Listener { id, sender, begun: false, players: HashSet::new() });
        self.counted(&listeners);
        self.arrivals.store(true, Ordering::Release);
        (id, shows)
    }

    fn counted(&self, listeners: &Seats) {
        // In one order with whether it sleeps: see the mailbox.
        self.count.store(listeners.taken.len() as u32, Ordering::SeqCst);
    }

    /// It watches no longer; gives who had come in by it.
    pub fn quit(&self, id: u64) -> HashSet<u64> {
        let mut listeners = self.listeners();
        let at = listeners.taken.iter().position(|listener| listener.id == id);
        let gone = at.map(|at| listeners.taken.swap_remove(at).players);
        self.counted(&listeners);
        gone.unwrap_or_default()
    }

    /// A player comes in by a gateway. `false`: it does not watch any more.
    pub fn join(&self, id: u64, player: u64) -> bool {
        let mut listeners = self.listeners();
        let mut found = false;
        for listener in &mut listeners.taken {
            if listener.id == id {
                found = true;
                listener.players.insert(player);
            } else if listener.players.remove(&player) && listener.sender.try_send(Show::Taken { player }).is_err() {
                // With what it has missed it is told to begin again, and lets its players in again: then the last one in stays.
                listener.begun = false;
                self.arrivals.store(true, Ordering::Release);
            }
        }
        found
    }

    /// A player leaves by a gateway. `false`: it had not come in by it, or came in by another since.
    pub fn leave(&self, id: u64, player: u64) -> bool {
        let mut listeners = self.listeners();
        listeners.taken.iter_mut().find(|listener| listener.id == id).is_some_and(|listener| listener.players.remove(&player))
    }

    /// Whether a player came in by a gateway.
    pub fn has(&self, id: u64, player: u64) -> bool {
        self.listeners().taken.iter().any(|listener| listener.id == id && listener.players.contains(&player))
    }

    /// A new life of the world begins: what was shown of the old one may never have been.
    pub fn restart(&self) {
        let mut listeners = self.listeners();
        listeners.taken.iter_mut().for_each(|listener| listener.begun = false);
        self.arrivals.store(!listeners.taken.is_empty(), Ordering::Release);
    }

    /// The world is here no longer: nobody is shown anything more, nor takes a seat.
    pub fn close(&self) {
        let mut listeners = self.listeners();
        listeners.closed = true;
        listeners.taken.clear();
        self.counted(&listeners);
    }

    /// Show what a tick has sent out, which is durable. Called in the order of ticks.
    pub fn show(&self, output: Output) {
        if !self.is_watched() || (output.view.is_none() && output.commands.is_empty()) {
            return;
        }
        let Output { tick, commands, view, .. } = output;
        let View { changes, whole, standing } = view.unwrap_or_default();
        // What the tick begins stands at its end: who is shown that does not get it twice.
        let first: Arc<[_]> = match whole {
            Some(_) => {
                standing.into_iter().chain(commands.iter().filter(|command| !Standing::begins(command)).cloned()).collect()
            }
            None => Arc::default(),
        };
        let commands: Arc<[_]> = commands.into();
        let quiet = Arc::default();
        for listener in &mut self.listeners().taken {
            let (whole, changes) = match (listener.begun, &whole, &changes) {
                (true, _, Some(changes)) => (false, changes),
                // Only commands.
                (true, None, None) => (false, &quiet),
                (_, Some(whole), _) => (true, whole),
                (false, None, _) => continue,
            };
            let commands = Arc::clone(if whole { &first } else { &commands });
            let show = Show::Tick { tick, whole, changes: Arc::clone(changes), commands };
            listener.begun = listener.sender.try_send(show).is_ok();
            if !listener.begun {
                self.arrivals.store(true, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::show::Changes;
    use aether_scripting::output::ClientCommand;

    fn changes(slot: u32) -> Arc<Changes> {
        Arc::new(Changes { gone: vec![slot], ..Changes::default() })
    }

    /// A tick of a world that is looked at.
    fn tick(audience: &Audience, tick: u64) {
        let whole = audience.take_arrivals().then(|| changes(1_000 + tick as u32));
        let view = Some(View { changes: Some(changes(tick as u32)), whole, standing: Vec::new() });
        audience.show(Output { tick, view, ..Output::default() });
    }

    /// Ticks that were shown, and whether wholly.
    fn shown(shows: &mut mpsc::Receiver<Show>) -> Vec<(u64, bool)> {
        let mut all = Vec::new();
        while let Ok(Show::Tick { tick, whole, .. }) = shows.try_recv() {
            all.push((tick, whole));
        }
        all
    }

    #[test]
    fn who_comes_is_shown_all_of_it_once_and_then_what_changes() {
        let audience = Audience::default();
        let (_, mut first) = audience.attend();
        tick(&audience, 1);
        tick(&audience, 2);
        let (second, mut late) = audience.attend();
        tick(&audience, 3);
        tick(&audience, 4);
        assert_eq!(shown(&mut first), [(1, true), (2, false), (3, false), (4, false)]);
        assert_eq!(shown(&mut late), [(3, true), (4, false)]);
        audience.quit(second);
        audience.restart();
        tick(&audience, 1);
        assert_eq!((shown(&mut first), shown(&mut late)), (vec![(1, true)], vec![]));
        audience.close();
        assert!(!audience.is_watched() && first.try_recv() == Err(mpsc::error::TryRecvError::Disconnected));
    }

    #[test]
    fn who_asks_for_a_world_that_leaves_meanwhile_waits_for_nothing_and_leaves_nothing() {
        let audience = Audience::default();
        audience.close();
        let (late, mut shows) = audience.attend();
        assert_eq!(shows.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert!(!audience.is_watched() && !audience.join(late, 7) && audience.quit(late).is_empty());
    }

    #[test]
    fn who_comes_late_is_told_what_stands_once_and_the_others_what_is_new() {
        let audience = Audience::default();
        let (_, mut early) = audience.attend();
        tick(&audience, 1);
        let show = |element: &str| ClientCommand::ShowElement {
            player: aether_scripting::PlayerId(0),
            element: element.to_owned(),
            text: String::new(),
        };
        let sound = ClientCommand::StopSound { handle: 1 };
        let (_, mut late) = audience.attend();
        audience.take_arrivals();
        let view = View { changes: Some(changes(2)), whole: Some(changes(3)), standing: vec![show("old"), show("new")] };
        let commands = vec![show("new"), sound.clone()];
        audience.show(Output { tick: 2, view: Some(view), commands, ..Output::default() });
        let told = |shows: &mut mpsc::Receiver<Show>| {
            let mut all = Vec::new();
            while let Ok(Show::Tick { tick: 2, commands, .. }) = shows.try_recv() {
                all.extend(commands.to_vec());
            }
            all
        };
        assert!(matches!(early.try_recv(), Ok(Show::Tick { tick: 1, .. })));
        assert_eq!(told(&mut early), [show("new"), sound.clone()]);
        assert_eq!(told(&mut late), [show("old"), show("new"), sound]);
    }

    #[test]
    fn a_gateway_that_does_not_take_what_it_is_shown_holds_up_nobody_and_begins_again() {
        let audience = Audience::default();
        let (_, mut slow) = audience.attend();
        let (_, mut quick) = audience.attend();
        let last = SHOWS_MAX as u64 + 10;
        for number in 1..=last {
            tick(&audience, number);
            assert_eq!(shown(&mut quick).last().unwrap().0, number);
        }
        assert_eq!(shown(&mut slow).len(), SHOWS_MAX);
        tick(&audience, last + 1);
        tick(&audience, last + 2);
        assert_eq!(shown(&mut slow), [(last + 1, true), (last + 2, false)]);
    }

    #[test]
    fn for_a_gateway_that_has_gone_nothing_is_made_and_its_players_are_still_known() {
        let audience = Audience::default();
        let (gone, shows) = audience.attend();
        assert!(audience.join(gone, 7));
        drop(shows);
        tick(&audience, 1);
        assert!(!audience.take_arrivals());
        assert_eq!(audience.quit(gone), HashSet::from([7]));
    }

    #[test]
    fn a_player_is_there_once_whatever_gateway_is_used() {
        let audience = Audience::default();
        let ((a, mut by_a), (b, _by_b)) = (audience.attend(), audience.attend());
        assert!(audience.join(a, 7) && audience.join(a, 7) && audience.join(b, 7));
        assert_eq!(by_a.try_recv(), Ok(Show::Taken { player: 7 }));
        assert!(!audience.leave(a, 7) && audience.has(b, 7) && audience.leave(b, 7) && !audience.leave(b, 7));
        assert!(audience.join(b, 8) && audience.quit(b) == HashSet::from([8]) && !audience.join(b, 9));
    }
}
