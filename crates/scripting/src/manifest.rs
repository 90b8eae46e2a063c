//! A script's manifest: the `script.toml` beside its source. What it may touch and use.
//!
//! Start with [`ScriptManifest`]. Not here: a version's signed manifest (`artifact`).

use crate::abi::HostGroup;
use crate::limited::HostGroups;
use crate::policy::{OnBudget, ServerResourcePolicy, SyscallCategory, SyscallPolicy};
use crate::rate::ActionRates;
use aether_types::ScriptId;
use serde::{Deserialize, Serialize};

/// What one script may touch and use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptManifest {
    /// Its name.
    pub name: ScriptId,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// What it may touch.
    #[serde(default)]
    pub grants: Grants,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// What follows when it ends.
    #[serde(default)]
    pub supervision: Supervision,
}

/// What follows when a script ends. The `[supervision]` table. How often and how fast is its world's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Supervision {
    /// Whether it is started again.
    pub restart: Restart,
}

/// When a script is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// When it ended badly, not when it finished.
    Transient,
    /// Never.
    Temporary,
}

/// What a script may touch. The `[grants]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Host groups.
    pub apis: Vec<HostGroup>,
    /// Kinds of entities that it may spawn, modify and destroy; `*` is any. All may be looked at.
    pub entity_kinds: Vec<String>,
    /// The namespace of its storage. Scripts that name the same one share it.
    pub storage_namespace: Option<String>,
    /// WASI system calls.
    pub syscalls: Vec<SyscallCategory>,
}

/// What a script may use. The `[limits]` table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Fuel of one tick; unspent fuel is not carried over. A turn in which several messages wait may take nearly twice as much: each
    /// call may use this, and the turn ends when they have together.
    pub fuel: u64,
    /// Largest memory, MiB.
    pub memory_mb: u64,
    /// CPU time of one call or slice, milliseconds: a backstop.
    pub cpu_ms: u64,
    /// Importance, 1 to 1000: share of the tick, order, and who is suspended last.
    pub priority: u32,
    /// What follows when the fuel is used up.
    pub on_budget: OnBudget,
    /// How often it may act.
    pub rates: ActionRates,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            fuel: 1_000_000,
            memory_mb: 64,
            cpu_ms: 50,
            priority: 100,
            on_budget: OnBudget::Pause,
            rates: ActionRates::default(),
        }
    }
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the format of a manifest.
    #[error("script.toml: {0}")]
    Format(String),
    /// A value out of range.
    #[error("script.toml of {script}: {field} is {value}, allowed is {allowed}")]
    Value {
        /// The script.
        script: ScriptId,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl ScriptManifest {
    /// Read and check a `script.toml`.
    pub fn parse(text: &str) -> Result<ScriptManifest, ManifestError> {
        let default = Limits::default();
        ScriptManifest::parse_with(text, default.fuel, default.memory_mb)
    }

    /// The same with a node's defaults for fuel and memory.
    pub fn parse_with(text: &str, default_fuel: u64, default_memory_mb: u64) -> Result<ScriptManifest, ManifestError> {
        let format = |error: toml::de::Error| ManifestError::Format(error.to_string().trim_end().to_owned());
        let mut table: toml::Table = toml::from_str(text).map_err(format)?;
        if let Some(limits) = table.entry("limits").or_insert_with(|| toml::Table::new().into()).as_table_mut() {
            limits.entry("fuel").or_insert((default_fuel as i64).into());
            limits.entry("memory_mb").or_insert((default_memory_mb as i64).into());
        }
        // A second reading of the text gives errors their line.
        toml::from_str::<ScriptManifest>(text).map_err(format)?;
        let manifest: ScriptManifest = table.try_into().map_err(format)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// A manifest that grants every host group and kind, for trying a script out.
    pub fn permissive(name: ScriptId) -> ScriptManifest {
        let grants = Grants {
            apis: HostGroup::ALL.to_vec(),
            entity_kinds: vec!["*".to_owned()],
            storage_namespace: Some(name.to_string()),
            syscalls: Vec::new(),
        };
        ScriptManifest {
            name,
            description: String::new(),
            grants,
            limits: Limits::default(),
            supervision: Supervision::default(),
        }
    }

    /// Whether every value is in its range.
    pub fn check(&self) -> Result<(), ManifestError> {
        let limits = &self.limits;
        let bad = |field, value: String, allowed| Err(ManifestError::Value { script: self.name, field, value, allowed });
        if !(1_000..=1_000_000_000).contains(&limits.fuel) {
            return bad("limits.fuel", limits.fuel.to_string(), "1000 to 1000000000");
        }
        if !(1..=64).contains(&limits.memory_mb) {
            return bad("limits.memory_mb", limits.memory_mb.to_string(), "1 to 64");
        }
        if !(1..=10_000).contains(&limits.cpu_ms) {
            return bad("limits.cpu_ms", limits.cpu_ms.to_string(), "1 to 10000");
        }
        if !(1..=1_000).contains(&limits.priority) {
            return bad("limits.priority", limits.priority.to_string(), "1 to 1000");
        }
        if let Some(field) = limits.rates.bad_field() {
            return bad(field, "negative or too large".to_owned(), "0 to 1000000000 a second");
        }
        if self.grants.apis.contains(&HostGroup::Storage) && self.grants.storage_namespace.is_none() {
            return bad("grants.storage_namespace", "missing".to_owned(), "a name, since storage is granted");
        }
        if let Some(namespace) = self.grants.storage_namespace.as_ref().filter(|n| n.is_empty() || n.len() > 47) {
            return bad("grants.storage_namespace", namespace.clone(), "1 to 47 characters");
        }
        if self.grants.entity_kinds.len() > 64 {
            return bad("grants.entity_kinds", format!("{} kinds", self.grants.entity_kinds.len()), "at most 64 kinds, or \"*\"");
        }
        Ok(())
    }

    /// Its limits as a policy.
    pub fn policy(&self) -> ServerResourcePolicy {
        let syscalls = self.grants.syscalls.iter().fold(SyscallPolicy::deny_all(), |policy, category| policy.allow(*category));
        ServerResourcePolicy {
            fuel_budget: self.limits.fuel,
            memory_cap_mb: self.limits.memory_mb,
            cpu_time_limit: std::time::Duration::from_millis(self.limits.cpu_ms),
            syscall_policy: syscalls,
            on_budget: self.limits.on_budget,
            ..ServerResourcePolicy::default()
        }
    }

    /// Its host groups as a set.
    pub fn groups(&self) -> HostGroups {
        HostGroups::of(&self.grants.apis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        let error = ScriptManifest::parse("name = \"guard\"\n[limits]\npriority = 0").unwrap_err();
        assert_eq!(error.to_string(), "script.toml of guard: limits.priority is 0, allowed is 1 to 1000");
        let error = ScriptManifest::parse("name = \"guard\"\n[grants]\napis = [\"storage\"]").unwrap_err();
        assert!(error.to_string().contains("grants.storage_namespace"), "{error}");
        let error = ScriptManifest::parse("name = \"guard\"\n[limits]\nfeul = 1000").unwrap_err();
        assert!(error.to_string().contains("feul"), "{error}");
        let error = ScriptManifest::parse("name = \"guard\"\n[limits.rates]\nspawns = -1.0").unwrap_err();
        assert!(error.to_string().contains("spawns"), "{error}");
    }
}
