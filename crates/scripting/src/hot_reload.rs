//! Version swaps: which version of a script serves, which comes next, which only finishes what it runs.
//!
//! [`HotReloadManager`] holds a [`ModuleSlot`] for each script. A swap is one step: pending becomes active, active becomes draining;
//! a draining version is unloaded when the last execution that holds it has ended. Not here: checking artifacts (`registry`),
//! carrying state from version to version (the world does).

use crate::module::ScriptModule;
use aether_types::{ScriptId, Version};
use std::collections::HashMap;
use std::sync::Arc;

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The new version serves.
    Success {
        /// The version that drains.
        old_version: Version,
        /// The version that serves now.
        new_version: Version,
    },
    /// The old version serves as before.
    Rollback {
        /// Why.
        reason: String,
    },
}

/// A version and its code.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The version.
    pub version: Version,
    /// Its code. Whoever executes holds a clone.
    pub module: Arc<ScriptModule>,
}

/// The versions of one script that are in memory.
#[derive(Debug, Default)]
pub struct ModuleSlot {
    active: Option<Loaded>,
    pending: Option<Loaded>,
    draining: Vec<Loaded>,
}

impl ModuleSlot {
    /// The version that serves.
    pub fn active(&self) -> Option<&Loaded> {
        self.active.as_ref()
    }

    /// The version that comes next.
    pub fn pending(&self) -> Option<&Loaded> {
        self.pending.as_ref()
    }

    /// Versions that only finish what they run.
    pub fn draining(&self) -> impl Iterator<Item = Version> + '_ {
        self.draining.iter().map(|loaded| loaded.version)
    }
}

/// Slots of all scripts.
#[derive(Debug, Default)]
pub struct HotReloadManager {
    slots: HashMap<ScriptId, ModuleSlot>,
}

impl HotReloadManager {
    /// A script's slot.
    pub fn slot(&self, script: ScriptId) -> Option<&ModuleSlot> {
        self.slots.get(&script)
    }

    /// Put a version into its slot without activating it. One that was pending before is dropped.
    pub fn prepare(&mut self, script: ScriptId, version: Version, module: Arc<ScriptModule>) {
        self.slots.entry(script).or_default().pending = Some(Loaded { version, module });
    }

    /// Drop the pending version.
    pub fn abort(&mut self, script: ScriptId) {
        if let Some(slot) = self.slots.get_mut(&script) {
            slot.pending = None;
        }
    }

    /// Swap: the pending version serves, the active one drains. Gives the old version; `None` if nothing was pending or nothing
    /// served before.
    pub fn activate(&mut self, script: ScriptId) -> Option<Version> {
        let slot = self.slots.get_mut(&script)?;
        let next = slot.pending.take()?;
        let old = slot.active.replace(next)?;
        let version = old.version;
        slot.draining.push(old);
        Some(version)
    }

    /// Unload every draining version that nobody executes any more; gives how many are still draining.
    pub fn sweep(&mut self) -> usize {
        let mut left = 0;
        for slot in self.slots.values_mut() {
            slot.draining.retain(|loaded| Arc::strong_count(&loaded.module) > 1);
            left += slot.draining.len();
        }
        left
    }

    /// Versions in memory.
    pub fn loaded(&self) -> usize {
        let count =
            |slot: &ModuleSlot| usize::from(slot.active.is_some()) + usize::from(slot.pending.is_some()) + slot.draining.len();
        self.slots.values().map(count).sum()
    }
}
