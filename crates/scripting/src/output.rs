//! What leaves a world and what comes in, as values. The output gate holds the first back until the tick's writes are durable.

use crate::api::{EntityId, PlayerId, SoundParameters, Vec3};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that one tick sends out of its world, in the order it was made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WorldOutput {
    /// To players.
    pub commands: Vec<ClientCommand>,
    /// To other worlds.
    pub calls: Vec<OutboundCall>,
    /// To the store.
    pub writes: Vec<StorageWrite>,
}

impl WorldOutput {
    /// Whether nothing leaves.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.calls.is_empty() && self.writes.is_empty()
    }
}

/// A command to players' clients. Player 0 is everybody in the world.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum ClientCommand {
    /// Show an element.
    ShowElement {
        /// Whose screen.
        player: PlayerId,
        /// Which element.
        element: String,
        /// With which text.
        text: String,
    },
    /// Hide an element.
    HideElement {
        /// Whose screen.
        player: PlayerId,
        /// Which element.
        element: String,
    },
    /// Change an element's text.
    SetText {
        /// Whose screen.
        player: PlayerId,
        /// Which element.
        element: String,
        /// To which text.
        text: String,
    },
    /// Play a sound.
    PlaySound {
        /// Names it in later commands.
        handle: u64,
        /// Which sound.
        sound: String,
        /// Where.
        position: Vec3,
        /// How.
        parameters: SoundParameters,
        /// Over and over.
        looped: bool,
    },
    /// Stop a sound.
    StopSound {
        /// Which.
        handle: u64,
    },
    /// Move a sound's source.
    MoveSound {
        /// Which.
        handle: u64,
        /// Where to.
        position: Vec3,
    },
    /// Change a sound.
    TuneSound {
        /// Which.
        handle: u64,
        /// How.
        parameters: SoundParameters,
    },
    /// An event for the client's own code.
    Event {
        /// For whom.
        player: PlayerId,
        /// What about.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// An entity is gone.
    Gone {
        /// Which.
        entity: EntityId,
    },
}

/// What everybody in a world sees and hears until a script takes it away: elements shown to all, and sounds that loop. Who comes later is
/// shown this first.
///
/// Elements of a single player are not in it: scripts learn of who comes (`player.joined`) and show them theirs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    elements: BTreeMap<String, String>,
    loops: BTreeMap<u64, Loop>,
}

/// A sound that loops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Loop {
    sound: String,
    position: Vec3,
    parameters: SoundParameters,
}

/// Elements and loops that are remembered: some hundred kilobytes at most. Of what is more, late comers do not learn; of loops, the oldest.
const ELEMENTS_MAX: usize = 128;
const LOOPS_MAX: usize = 256;

impl Standing {
    /// A command is given: remember what it leaves behind.
    pub fn apply(&mut self, command: &ClientCommand) {
        match command {
            ClientCommand::ShowElement { player: PlayerId(0), element, text } => {
                if self.elements.len() < ELEMENTS_MAX || self.elements.contains_key(element) {
                    self.elements.insert(element.clone(), text.clone());
                }
            }
            ClientCommand::SetText { player: PlayerId(0), element, text } => {
                if let Some(shown) = self.elements.get_mut(element) {
                    shown.clone_from(text);
                }
            }
            ClientCommand::HideElement { player: PlayerId(0), element } => _ = self.elements.remove(element),
            ClientCommand::PlaySound { handle, sound, position, parameters, looped: true } => {
                let sound = sound.clone();
                self.loops.insert(*handle, Loop { sound, position: *position, parameters: *parameters });
                if self.loops.len() > LOOPS_MAX {
                    self.loops.pop_first();
                }
            }
            ClientCommand::StopSound { handle } => _ = self.loops.remove(handle),
            ClientCommand::MoveSound { handle, position } => {
                if let Some(playing) = self.loops.get_mut(handle) {
                    playing.position = *position;
                }
            }
            ClientCommand::TuneSound { handle, parameters } => {
                if let Some(playing) = self.loops.get_mut(handle) {
                    playing.parameters = *parameters;
                }
            }
            // Of one player, or over at once.
            ClientCommand::ShowElement { .. }
            | ClientCommand::SetText { .. }
            | ClientCommand::HideElement { .. }
            | ClientCommand::PlaySound { looped: false, .. }
            | ClientCommand::Event { .. }
            | ClientCommand::Gone { .. } => {}
        }
    }

    /// The commands that make it.
    pub fn commands(&self) -> Vec<ClientCommand> {
        let element = |(element, text): (&String, &String)| ClientCommand::ShowElement {
            player: PlayerId(0),
            element: element.clone(),
            text: text.clone(),
        };
        let playing = |(handle, playing): (&u64, &Loop)| ClientCommand::PlaySound {
            handle: *handle,
            sound: playing.sound.clone(),
            position: playing.position,
            parameters: playing.parameters,
            looped: true,
        };
        self.elements.iter().map(element).chain(self.loops.iter().map(playing)).collect()
    }

    /// Whether a command begins something that [`Self::commands`] gives as well, once it was applied.
    pub fn begins(command: &ClientCommand) -> bool {
        matches!(command, ClientCommand::ShowElement { player: PlayerId(0), .. } | ClientCommand::PlaySound { looped: true, .. })
    }

    /// Whether nothing stands.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.loops.is_empty()
    }
}

/// A call or an answer on its way to another world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboundCall {
    /// A call.
    Call {
        /// The world.
        world: String,
        /// The script's name there.
        script: String,
        /// The caller's number here.
        from: u64,
        /// The call's number here.
        call: u64,
        /// What is called.
        method: String,
        /// Its argument.
        payload: Vec<u8>,
    },
    /// The answer to a call that came in.
    Reply {
        /// Where it came from.
        world: String,
        /// Its number there.
        call: u64,
        /// The result.
        payload: Vec<u8>,
    },
}

impl OutboundCall {
    /// Which world it is for, as the script named it.
    pub fn world(&self) -> &str {
        let (OutboundCall::Call { world, .. } | OutboundCall::Reply { world, .. }) = self;
        world
    }
}

/// A call that comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundCall {
    /// Where from; `None`: a player, who gets no answer.
    pub world: Option<String>,
    /// The caller's number there.
    pub from: u64,
    /// The call's number there.
    pub call: u64,
    /// The script's name here.
    pub script: String,
    /// What is called.
    pub method: String,
    /// Its argument.
    pub payload: Vec<u8>,
    /// See [`crate::Message::delivery`].
    #[serde(skip)]
    pub delivery: u64,
}

/// A write of a tick's batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageWrite {
    /// Whose.
    pub namespace: String,
    /// What.
    pub key: String,
    /// `None`: deleted.
    pub value: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(player: u64, element: &str, text: &str) -> ClientCommand {
        ClientCommand::ShowElement { player: PlayerId(player), element: element.into(), text: text.into() }
    }

    fn play(handle: u64, looped: bool) -> ClientCommand {
        let (position, parameters) = (Vec3::ZERO, SoundParameters { gain: 1.0, pitch: 1.0, range: 9.0 });
        ClientCommand::PlaySound { handle, sound: "bell".into(), position, parameters, looped }
    }

    #[test]
    fn what_stands_is_what_was_shown_to_all_and_not_taken_away() {
        let mut standing = Standing::default();
        let (to_all, moved) = (PlayerId(0), Vec3::new(1.0, 2.0, 3.0));
        let given = [
            show(0, "title", "old"),
            show(7, "own", "x"),
            show(0, "gone", "x"),
            ClientCommand::HideElement { player: to_all, element: "gone".into() },
            ClientCommand::SetText { player: to_all, element: "title".into(), text: "new".into() },
            ClientCommand::SetText { player: to_all, element: "never".into(), text: "x".into() },
            play(1, true),
            play(2, false),
            play(3, true),
            ClientCommand::StopSound { handle: 3 },
            ClientCommand::MoveSound { handle: 1, position: moved },
        ];
        given.iter().for_each(|command| standing.apply(command));
        let [title, ClientCommand::PlaySound { handle: 1, position, looped: true, .. }] = &standing.commands()[..] else {
            panic!("{standing:?}")
        };
        assert_eq!((title, *position), (&show(0, "title", "new"), moved));
        // Whoever carries it out knows the same.
        let mut other = Standing::default();
        standing.commands().iter().for_each(|command| other.apply(command));
        assert_eq!(other, standing);
    }

    #[test]
    fn it_is_bounded() {
        let mut standing = Standing::default();
        for n in 0..10_000 {
            standing.apply(&show(0, &n.to_string(), "x"));
            standing.apply(&play(n, true));
        }
        assert_eq!(standing.commands().len(), ELEMENTS_MAX + LOOPS_MAX);
        assert!(standing.commands().contains(&play(9_999, true)) && !standing.commands().contains(&play(0, true)));
    }
}
