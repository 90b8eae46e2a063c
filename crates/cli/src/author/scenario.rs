//! Scenario tests of a script, as their authors write them: files of steps.
//!
//! A step does one thing and may expect something. Start with [`ScenarioFile`], then [`Step`]. Not here: what is compared with what
//! (`expect`), running them (`play`).

use super::expect::Expect;
use serde::Deserialize;
use std::path::{Path, PathBuf};

type Failure = Box<dyn std::error::Error>;

/// A file of `tests/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScenarioFile {
    /// What can be spawned. Relative to the file.
    pub prefabs: Option<PathBuf>,
    /// The prefab of the script's own entity, and where that begins.
    pub prefab: Option<String>,
    #[serde(default)]
    pub at: [f32; 3],
    /// Ticks a second.
    #[serde(default = "twenty")]
    pub tick_hz: f64,
    /// Other scripts of the world.
    #[serde(default)]
    pub script: Vec<OtherScript>,
    /// The `[[test]]` tables.
    #[serde(default)]
    pub test: Vec<Scenario>,
}

pub(crate) fn twenty() -> f64 {
    20.0
}

/// Another script of the same world: a `[[script]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtherScript {
    /// Its folder, relative to the file.
    pub folder: PathBuf,
    /// Its name in the world; its own if it says nothing.
    pub name: Option<String>,
    pub prefab: Option<String>,
    #[serde(default)]
    pub at: [f32; 3],
}

/// One test.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The rule that it keeps.
    pub name: String,
    /// Goes before the command line's.
    pub seed: Option<u64>,
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// One thing that is done, and what is expected then.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Step {
    /// Run so many ticks.
    pub ticks: Option<u64>,
    /// Run as many ticks as make so much time.
    pub seconds: Option<f64>,
    /// Call a method of the script, as the test; what it answers is in `expect.answer`.
    pub call: Option<String>,
    /// The same call so often, before the next tick.
    pub times: Option<u32>,
    /// The same as a player, who gets no answer.
    pub input: Option<String>,
    /// Which player.
    pub player: Option<u64>,
    /// Get a topic's broadcasts.
    pub subscribe: Option<String>,
    /// Tell a topic's subscribers.
    pub broadcast: Option<String>,
    /// What goes with `call`, `input` and `broadcast`.
    pub payload: String,
    /// Make an entity of a prefab …
    pub spawn: Option<String>,
    /// … and name it.
    pub name: Option<String>,
    /// Put a named entity elsewhere.
    pub r#move: Option<String>,
    /// Where `spawn` and `move` put it.
    pub at: Option<[f32; 3]>,
    /// Remove a named entity.
    pub destroy: Option<String>,
    /// Write a key of the script's storage …
    pub store: Option<String>,
    /// … with this value.
    pub value: Option<String>,
    /// Save the world, and go on in a new one with a new instance: `save_state`, `restore_state`.
    pub reload: bool,
    /// What must be so now, or within `within_ticks`.
    pub expect: Option<Expect>,
    pub within_ticks: Option<u64>,
}

impl Step {
    /// The one thing that it does.
    pub fn action(&self) -> Result<&'static str, String> {
        let actions = [
            ("ticks", self.ticks.is_some()),
            ("seconds", self.seconds.is_some()),
            ("call", self.call.is_some()),
            ("input", self.input.is_some()),
            ("subscribe", self.subscribe.is_some()),
            ("broadcast", self.broadcast.is_some()),
            ("spawn", self.spawn.is_some()),
            ("move", self.r#move.is_some()),
            ("destroy", self.destroy.is_some()),
            ("store", self.store.is_some()),
            ("reload", self.reload),
        ];
        let done: Vec<_> = actions.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
        match done[..] {
            [] if self.expect.is_some() => Ok("expect"),
            [] => Err(format!("does nothing: give one of {}, or expect", actions.map(|(name, _)| name).join(", "))),
            [only] => Ok(only),
            _ => Err(format!("does {} at once: make them steps of their own", done.join(" and "))),
        }
    }
}

impl ScenarioFile {
    pub fn read(path: &Path) -> Result<ScenarioFile, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
        let file: ScenarioFile = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        for test in &file.test {
            for (i, step) in test.steps.iter().enumerate() {
                step.action().map_err(|error| format!("{}: {:?}, step {}: {error}", path.display(), test.name, i + 1))?;
            }
        }
        Ok(file)
    }
}
