//! What can be spawned: the prefabs of a world, from a file.

use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// How an entity moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// It has no body: nothing meets it.
    #[default]
    None,
    /// It never moves by itself.
    Static,
    /// Its script moves it; nothing pushes it.
    Kinematic,
    /// Physics moves it.
    Dynamic,
}

/// A body's shape.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Shape {
    /// A ball.
    Ball {
        /// Metres.
        radius: f32,
    },
    /// A box.
    Cuboid {
        /// Half its sides, metres.
        half: [f32; 3],
    },
    /// An upright cylinder with half balls at its ends.
    Capsule {
        /// Half the cylinder's height, metres.
        half_height: f32,
        /// Metres.
        radius: f32,
    },
}

/// Something that can be spawned.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefab {
    /// What `spawn` takes.
    pub name: String,
    /// What queries and grants name.
    pub kind: String,
    /// How it moves.
    #[serde(default)]
    pub body: BodyKind,
    /// Its shape; every body has one.
    pub shape: Option<Shape>,
    /// A trigger: others pass through, its owner gets events.
    #[serde(default)]
    pub sensor: bool,
    /// Kilograms, of a dynamic body.
    pub mass: Option<f32>,
    /// Components it begins with.
    #[serde(default)]
    pub components: BTreeMap<String, String>,
}

/// Why a prefab file is refused. The operator's to fix.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PrefabError {
    /// Not the format.
    #[error("prefabs: {0}")]
    Format(String),
    /// A value out of range.
    #[error("prefab {prefab:?}: {problem}")]
    Value {
        /// Which prefab.
        prefab: String,
        /// What is wrong and what is allowed.
        problem: &'static str,
    },
}

/// The prefabs of a world.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrefabSet {
    prefabs: Vec<Prefab>,
    by_name: HashMap<String, u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrefabFile {
    #[serde(default)]
    prefab: Vec<Prefab>,
}

impl PrefabSet {
    /// Read and check a prefab file.
    pub fn parse(text: &str) -> Result<PrefabSet, PrefabError> {
        let file: PrefabFile =
            toml::from_str(text).map_err(|error| PrefabError::Format(error.to_string().trim_end().to_owned()))?;
        let mut set = PrefabSet::default();
        for prefab in file.prefab {
            set.add(prefab)?;
        }
        Ok(set)
    }

    /// Add one.
    pub fn add(&mut self, prefab: Prefab) -> Result<(), PrefabError> {
        if let Some(problem) = problem(&prefab) {
            return Err(PrefabError::Value { prefab: prefab.name, problem });
        }
        if self.by_name.insert(prefab.name.clone(), self.prefabs.len() as u32).is_some() {
            return Err(PrefabError::Value { prefab: prefab.name, problem: "two prefabs have this name" });
        }
        self.prefabs.push(prefab);
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Prefab> {
        self.prefabs.get(number as usize)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Prefab> {
        self.prefabs.iter()
    }
}

fn problem(prefab: &Prefab) -> Option<&'static str> {
    let name_bad = |name: &str| name.is_empty() || name.len() > 64;
    let size_bad = |size: f32| !(0.01..=1_000.0).contains(&size);
    if name_bad(&prefab.name) || name_bad(&prefab.kind) {
        return Some("name and kind have 1 to 64 bytes");
    }
    let shape_bad = match prefab.shape {
        Some(Shape::Ball { radius }) => size_bad(radius),
        Some(Shape::Cuboid { half }) => half.into_iter().any(size_bad),
        Some(Shape::Capsule { half_height, radius }) => size_bad(half_height) || size_bad(radius),
        None => prefab.body != BodyKind::None,
    };
    if shape_bad {
        return Some("a body needs a shape with sizes from 0.01 to 1000 metres");
    }
    if prefab.mass.is_some_and(|mass| !(0.001..=1e6).contains(&mass)) {
        return Some("mass is 0.001 to 1000000 kilograms");
    }
    if prefab.components.len() > 32 || prefab.components.iter().any(|(name, value)| name_bad(name) || value.len() > 4096) {
        return Some("at most 32 components, names of 1 to 64 bytes, values of at most 4096");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_prefab_is_named_with_what_is_allowed() {
        let error = PrefabSet::parse("[[prefab]]\nname = \"ball\"\nkind = \"toy\"\nbody = \"dynamic\"").unwrap_err();
        assert_eq!(error.to_string(), "prefab \"ball\": a body needs a shape with sizes from 0.01 to 1000 metres");
        let error = PrefabSet::parse("[[prefab]]\nname = \"ball\"\nkind = \"toy\"\ncolour = \"red\"").unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
        let twice = "[[prefab]]\nname = \"a\"\nkind = \"b\"\n".repeat(2);
        assert!(PrefabSet::parse(&twice).unwrap_err().to_string().contains("two prefabs"));
    }
}
