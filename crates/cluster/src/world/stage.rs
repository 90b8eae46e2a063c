//! A gateway's place before a world, wherever that runs: what is shown there, and what players do.
//!
//! [`Stage`] is for the one who listens, [`Hand`] for those who act; both end with the world's stay on its node, and a gateway that wants
//! to go on asks its node for another. Input is at most once: what is on its way when a world moves is lost, and nobody is told.
//! Not here: how it gets to other nodes (`membership/stage`), players' connections (the gateway).

use crate::membership::stage::{Away, LINK_PAUSE};
use crate::world::audience::Audience;
use crate::world::mailbox::{Inbound, Mailbox, Presence};
use crate::world::show::Show;
use aether_scripting::PlayerId;
use aether_scripting::output::InboundCall;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What is shown of a world, in the order of its ticks.
pub struct Stage {
    shows: mpsc::Receiver<Show>,
    hand: Hand,
}

/// What players do to a world. Cheap to clone; when the last one and the [`Stage`] are gone, so are its players.
#[derive(Clone)]
pub struct Hand(Arc<Seat>);

/// Why a world does not take an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Too much waits for it, or on the way to it.
    #[error("the world has too much to do")]
    Full,
    /// It has left, or ended.
    #[error("the world is away")]
    Away,
}

pub(crate) enum Seat {
    Here { mailbox: Arc<Mailbox>, listener: u64 },
    Away(Away),
}

impl Stage {
    pub(crate) fn here(mailbox: Arc<Mailbox>) -> Stage {
        let (listener, shows) = mailbox.attend();
        Stage { shows, hand: Hand(Arc::new(Seat::Here { mailbox, listener })) }
    }

    pub(crate) fn away(away: Away, shows: mpsc::Receiver<Show>) -> Stage {
        Stage { shows, hand: Hand(Arc::new(Seat::Away(away))) }
    }

    /// The next that is shown. `None`: the world is not there any more.
    pub async fn next(&mut self) -> Option<Show> {
        let Seat::Away(away) = &*self.hand.0 else { return self.shows.recv().await };
        while away.owes_credit() {
            match tokio::time::timeout(LINK_PAUSE, self.shows.recv()).await {
                Ok(show) => return show.inspect(|_| away.took_one()),
                Err(_) => away.give_credit(),
            }
        }
        self.shows.recv().await.inspect(|_| away.took_one())
    }

    /// For those who act.
    pub fn hand(&self) -> Hand {
        self.hand.clone()
    }
}

impl Hand {
    /// A player comes in, by a name: scripts that subscribed to `player.joined` are told. Twice is as good as once.
    pub fn join(&self, player: PlayerId, name: &str) -> bool {
        match &*self.0 {
            Seat::Here { mailbox, listener } => {
                mailbox.audience.join(*listener, player.0)
                    && mailbox.push(Inbound::Presence(Presence { player, name: Some(name.to_owned()) }))
            }
            Seat::Away(away) => away.join(player, name),
        }
    }

    /// A player leaves: scripts that subscribed to `player.left` are told, unless it came in by another gateway meanwhile.
    pub fn leave(&self, player: PlayerId) {
        match &*self.0 {
            Seat::Here { mailbox, listener } => {
                if mailbox.audience.leave(*listener, player.0) {
                    mailbox.push(Inbound::Presence(Presence { player, name: None }));
                }
            }
            Seat::Away(away) => away.leave(player),
        }
    }

    /// A player calls a script. On another node it may be refused without a word.
    pub fn input(&self, player: PlayerId, script: &str, method: &str, payload: &[u8]) -> Result<(), InputError> {
        match &*self.0 {
            Seat::Here { mailbox, listener } => {
                if !mailbox.audience.has(*listener, player.0) {
                    return Err(InputError::Away);
                }
                let call = InboundCall {
                    world: None,
                    from: player.0,
                    call: 0,
                    script: script.to_owned(),
                    method: method.to_owned(),
                    payload: payload.to_vec(),
                    delivery: 0,
                };
                if mailbox.push(Inbound::Call(call)) { Ok(()) } else { Err(InputError::Full) }
            }
            Seat::Away(away) => away.input(player, script, method, payload),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Seat::Here { mailbox, listener } = self {
            let audience: &Audience = &mailbox.audience;
            for player in audience.quit(*listener) {
                mailbox.push(Inbound::Presence(Presence { player: PlayerId(player), name: None }));
            }
        }
    }
}
