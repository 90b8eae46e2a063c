//! What leaves a world and what comes in, as values. The output gate holds the first back until the tick's writes are durable.

use crate::api::{EntityId, PlayerId, SoundParameters, Vec3};
use serde::{Deserialize, Serialize};

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
