//! Players who come and go: broadcasts that the host makes, not a script.
//!
//! A player may join again without having left (its world moved, or its client came back), and may be gone without leaving (its node
//! died): count on neither.

use crate::{Event, PlayerId, Result, network};

const JOINED: &str = "player.joined";
const LEFT: &str = "player.left";
/// Marks a player's number where a script's is expected.
const PLAYER: u64 = 1 << 62;

/// A player who comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence<'a> {
    /// It is here, perhaps again.
    Joined {
        /// Who.
        player: PlayerId,
        /// What the player is called.
        name: &'a str,
    },
    /// It is not here any more.
    Left {
        /// Who.
        player: PlayerId,
    },
}

/// Hear of players from now on. In each life of a script.
pub fn subscribe() -> Result<()> {
    network::subscribe(JOINED)?;
    network::subscribe(LEFT)
}

/// Whether an event is of a player who comes or goes. Another script that broadcasts the same words is not believed: it is no player.
pub fn presence<'a>(event: &Event<'a>) -> Option<Presence<'a>> {
    let Event::Broadcast { from, topic, payload } = *event else { return None };
    let player = PlayerId(from & !PLAYER);
    match topic {
        _ if from & PLAYER == 0 => None,
        JOINED => Some(Presence::Joined { player, name: str::from_utf8(payload).unwrap_or_default() }),
        LEFT => Some(Presence::Left { player }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_speaks_for_a_player() {
        let event = |from, topic| Event::Broadcast { from, topic, payload: b"Ada" };
        let player = PlayerId(7);
        assert_eq!(presence(&event(PLAYER | 7, JOINED)), Some(Presence::Joined { player, name: "Ada" }));
        assert_eq!(presence(&event(PLAYER | 7, LEFT)), Some(Presence::Left { player }));
        assert_eq!(presence(&event(7, JOINED)), None);
        assert_eq!(presence(&event(PLAYER | 7, "door")), None);
    }
}
