//! Names of scripts and worlds: short, printable, safe in paths, logs and metric labels.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

const MAX: usize = 47;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or longer than 47 bytes.
    #[error("a name has 1 to 47 characters, this has {0}")]
    Length(usize),
    /// A character that would not be safe in a path or a label.
    #[error("a name has only a-z, 0-9, '-' and '_' and begins with a letter, {0:?} does not")]
    Character(String),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > MAX {
        return Err(NameError::Length(text.chars().count()));
    }
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if !text.bytes().all(good) || !text.as_bytes()[0].is_ascii_lowercase() {
        return Err(NameError::Character(text.to_owned()));
    }
    Ok(())
}

/// The name of a script: what its author calls it, the same in every world. Small and `Copy`, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ScriptId {
    bytes: [u8; MAX],
    len: u8,
}

impl ScriptId {
    /// A script's name: 1 to 47 of `a-z 0-9 - _`, a letter first.
    pub fn new(name: &str) -> Result<ScriptId, NameError> {
        check(name)?;
        let mut bytes = [0; MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(ScriptId { bytes, len: name.len() as u8 })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len as usize]).expect("a name is ASCII, `new` checked it")
    }
}

impl fmt::Display for ScriptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ScriptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScriptId({})", self.as_str())
    }
}

/// The name of a world, the same on every node. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct WorldId(Arc<str>);

impl WorldId {
    /// A world's name: 1 to 47 of `a-z 0-9 - _`, a letter first.
    pub fn new(name: &str) -> Result<WorldId, NameError> {
        check(name).map(|()| WorldId(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for WorldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorldId({})", self.0)
    }
}

macro_rules! text_conversions {
    ($name:ident) => {
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<$name, NameError> {
                $name::new(&text)
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<$name, NameError> {
                $name::new(text)
            }
        }
    };
}
text_conversions!(ScriptId);
text_conversions!(WorldId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_leave_its_folder_is_refused() {
        for text in ["", "../x", "a/b", "A", "1a", "ä", "a b", &"a".repeat(48)] {
            assert!(ScriptId::new(text).is_err() && WorldId::new(text).is_err(), "{text}");
        }
        assert_eq!(ScriptId::new("patrol-2_b").map(|id| id.to_string()), Ok("patrol-2_b".into()));
    }
}
