//! The words of Aether as types: ids, fuel, ticks, versions, digests, and who is to blame.
//!
//! Every crate speaks in these. Start with [`ScriptId`] and [`Digest`]; the rest are numbers that must not be mixed up.
//! Not here: behaviour, async, I/O, wasmtime, actors.

pub mod codec;
mod digest;
mod name;

pub use digest::{Digest, ParseDigestError};
pub use name::{NameError, ScriptId, WorldId};

use serde::{Deserialize, Serialize};
use std::fmt;

/// Wasmtime's unit of work: about one wasm instruction, more for dear ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fuel(pub u64);

/// The number of a world's tick, from 0 at its first start. It goes on across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub u64);

/// The number of a script's artifact: 1, 2, 3 … Never used twice for one script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u32);

/// The fencing number of a world: it rises by one each time somebody takes the world over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// An entity of a world. 0 is nobody. Never used twice in one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntityId(pub u64);

/// A running copy of a script in one world: the number that `on_message` gives as `from`. Never used twice in one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub u64);

/// A player, as the gateway numbers them. 0 means everybody in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlayerId(pub u64);

/// A number of things, for people: `1 world`, `2 worlds`.
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

impl Version {
    /// The version after this one.
    pub fn next(self) -> Version {
        Version(self.0 + 1)
    }
}

impl Tick {
    /// The tick after this one.
    pub fn next(self) -> Tick {
        Tick(self.0 + 1)
    }
}

macro_rules! display_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_as_number!(Fuel, Tick, Version, Generation, EntityId, InstanceId, PlayerId);

/// Who has to act on an error: shown on the dashboard, used to route alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The script's author.
    Script,
    /// Whoever runs the cluster: configuration, machine, disk, database.
    Operator,
    /// The authors of Aether.
    Host,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blame::Script => "script",
            Blame::Operator => "operator",
            Blame::Host => "host",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_something_is_not_many() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "world")), ["0 worlds", "1 world", "2 worlds"]);
    }
}
