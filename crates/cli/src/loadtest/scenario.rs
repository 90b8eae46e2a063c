//! A scenario file: which worlds, what is done to them, for how long, and what must hold.
//!
//! Start with [`Scenario`]; its `Default`s are the documentation's. [`Scenario::check`] compares every field with its range and names
//! all that are wrong. Paths are relative to the file's folder. Not here: what follows from it (`plan`).

use aether_cluster::ConfigError;
use aether_cluster::config::{FieldError, WorldLimits, WorldLimitsOverride};
use aether_types::{ScriptId, WorldId};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its name, in reports.
    pub name: String,
    /// What it is for, a sentence.
    pub about: String,
    /// Seeds who is chosen and when. The same seed does the same at the same times.
    pub seed: u64,
    /// How long is measured, after the warm-up.
    pub duration_seconds: f64,
    /// Before that: worlds tick and load rises, nothing counts.
    pub warmup_seconds: f64,
    /// Over so long, from the start on, players' input, calls and traps rise to their rates. Longer than the warm-up: it is measured too.
    pub ramp_seconds: f64,
    /// The `[node]` table.
    pub node: NodeTable,
    /// The `[limits]` table: as in a cluster file.
    pub limits: WorldLimits,
    /// The `[[worlds]]` tables.
    pub worlds: Vec<WorldGroup>,
    /// The `[players]` table.
    pub players: Players,
    /// The `[rpc]` table.
    pub rpc: Rpc,
    /// The `[faults]` table.
    pub faults: Faults,
    /// The `[expect]` table.
    pub expect: Expect,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            name: "scenario".into(),
            about: String::new(),
            seed: 1,
            duration_seconds: 60.0,
            warmup_seconds: 10.0,
            ramp_seconds: 5.0,
            node: NodeTable::default(),
            limits: WorldLimits::default(),
            worlds: Vec::new(),
            players: Players::default(),
            rpc: Rpc::default(),
            faults: Faults::default(),
            expect: Expect::default(),
        }
    }
}

/// The nodes that the test starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeTable {
    /// Threads that tick worlds, of each node; 0 means one less than there are cores.
    pub tick_threads: usize,
    /// Instances of scripts with up to 64 MiB of memory. Those of smaller ones are counted from the mix.
    pub instances_large: u32,
    /// With `--nodes`: how long a node that says nothing keeps its worlds.
    pub lease_seconds: f64,
}

impl Default for NodeTable {
    fn default() -> NodeTable {
        NodeTable { tick_threads: 0, instances_large: 1, lease_seconds: 10.0 }
    }
}

/// A `[[worlds]]` table: worlds that are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorldGroup {
    /// Their name: NAME-1, NAME-2 … if there are more than one.
    pub name: String,
    /// How many.
    pub count: u32,
    /// Scripts in each.
    pub scripts_per_world: u32,
    /// Their prefabs.
    pub prefabs: Option<PathBuf>,
    /// Where their scripts are.
    #[serde(default = "scripts_dir")]
    pub scripts_dir: PathBuf,
    /// Limits of their own; a field that is left out is the `[limits]` table's.
    #[serde(default)]
    pub limits: Option<WorldLimitsOverride>,
    /// The `[[worlds.mix]]` tables: which scripts.
    #[serde(default)]
    pub mix: Vec<Mix>,
}

fn scripts_dir() -> PathBuf {
    "../../scripts".into()
}

/// A `[[worlds.mix]]` table: a script and how many of it there are. The first has the script's name, so that others can call it; more are
/// named SCRIPT-more-1 …
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mix {
    /// The script.
    pub script: String,
    /// The prefab of its own entity.
    pub prefab: Option<String>,
    /// So many of it in each world.
    pub count: Option<u32>,
    /// Or: this part of those that have no `count`.
    pub share: Option<f64>,
}

/// Players: input into worlds' inboxes, by the door that the gateway uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Players {
    /// How many. Each stays with one instance of the script.
    pub count: u32,
    /// Inputs of each, on average; they come at random times.
    pub inputs_per_second: f64,
    /// The script that takes them.
    pub script: String,
    /// What is called.
    pub method: String,
    /// Its argument, as text.
    pub payload: String,
}

impl Default for Players {
    fn default() -> Players {
        Players { count: 0, inputs_per_second: 2.0, script: "drill".into(), method: "input".into(), payload: String::new() }
    }
}

/// Calls from world to world: one script is told to call another, which answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rpc {
    /// Of all worlds together.
    pub calls_per_second: f64,
    /// The script that calls and answers; it must understand `call WORLD/SCRIPT`, as `drill` does.
    pub script: String,
}

impl Default for Rpc {
    fn default() -> Rpc {
        Rpc { calls_per_second: 0.0, script: "drill".into() }
    }
}

/// What goes wrong on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Faults {
    /// Messages that end their script, in all worlds together. Each is given to its script once more, so it ends it twice.
    pub traps_per_second: f64,
    /// The script that is trapped; it must understand `trap`, as `drill` does.
    pub trap_script: String,
    /// New versions published: the same code with another mark.
    pub reloads_per_minute: f64,
    /// The script that is published; another than is trapped, since a new version whose scripts end is rolled back.
    pub reload_script: String,
    /// With `--nodes`: processes that are ended with SIGKILL and started again when all their worlds tick elsewhere.
    pub node_kills_per_minute: f64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            traps_per_second: 0.0,
            trap_script: "drill".into(),
            reloads_per_minute: 0.0,
            reload_script: "drill".into(),
            node_kills_per_minute: 0.0,
        }
    }
}

/// What must hold of what was measured. A field that is left out is not looked at.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Expect {
    /// Ticks and missed ticks of this group of worlds only.
    pub group: Option<String>,
    /// CPU time of a tick, median.
    pub tick_p50_ms_max: Option<f64>,
    /// CPU time of a tick, 99th percentile.
    pub tick_p99_ms_max: Option<f64>,
    /// Ticks skipped, of those that were due.
    pub missed_ticks_percent_max: Option<f64>,
    /// Input that a full inbox refused, of all.
    pub inputs_refused_percent_max: Option<f64>,
    /// The longest pause that a world made for a reload, beyond the time between two ticks.
    pub reload_pause_ms_max: Option<f64>,
    /// Reloads that did not end with the new version.
    pub reloads_failed_max: Option<u64>,
    /// From the kill of a node until all of its worlds tick elsewhere.
    pub failover_seconds_max: Option<f64>,
    /// Scripts parked at the end.
    pub scripts_parked_max: Option<u64>,
    /// Worlds that do not tick at the end.
    pub worlds_down_max: Option<u64>,
    /// Files of the data directory at their largest.
    pub disk_mb_max: Option<f64>,
    /// How fast resident memory grows. All slopes: see `stats`.
    pub memory_mb_per_hour_max: Option<f64>,
    /// How fast open files grow.
    pub files_per_hour_max: Option<f64>,
    /// How fast threads grow.
    pub threads_per_hour_max: Option<f64>,
    /// How fast tasks of the control runtime grow.
    pub tasks_per_hour_max: Option<f64>,
    /// How fast the 99th percentile of ticks grows, of its median.
    pub tick_p99_percent_per_hour_max: Option<f64>,
    /// How fast the data directory grows.
    pub disk_mb_per_hour_max: Option<f64>,
}

/// Why a scenario cannot be used. Its author's to fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    /// No such file.
    #[error("could not read scenario {path}: name a file, or one of cluster-config/loadtest")]
    Read { path: PathBuf, source: std::io::Error },
    /// Not what a scenario looks like.
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    /// Fields out of range.
    #[error("{path}: {source}")]
    Check { path: PathBuf, source: ConfigError },
}

/// Scripts in a world, and in all worlds: 60 GB of memory at the smallest.
const SCRIPTS_MAX: u32 = 100_000;
const SCRIPTS_OF_ALL_MAX: u64 = 1_000_000;

impl Scenario {
    /// Read and check a file.
    pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        let parsed = toml::from_str::<Scenario>(&text);
        let scenario = parsed.map_err(|source| ScenarioError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        scenario.check().map_err(|source| ScenarioError::Check { path: path.to_owned(), source })?;
        Ok(scenario)
    }

    /// Compare every field with its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut c = Checker(Vec::new());
        c.name("name", &self.name);
        c.range("duration_seconds", self.duration_seconds, 1.0, 604_800.0, "1 to 604800");
        c.range("warmup_seconds", self.warmup_seconds, 0.0, 86_400.0, "0 to 86400");
        c.range("ramp_seconds", self.ramp_seconds, 0.0, 86_400.0, "0 to 86400");
        c.range("node.tick_threads", self.node.tick_threads as f64, 0.0, 256.0, "0 to 256");
        c.range("node.lease_seconds", self.node.lease_seconds, 0.5, 300.0, "0.5 to 300");
        if self.worlds.is_empty() {
            c.bad("worlds", "empty".to_owned(), "one [[worlds]] table or more");
        }
        for (i, group) in self.worlds.iter().enumerate() {
            self.check_group(&mut c, &format!("worlds[{i}]"), group);
        }
        let all: u64 = self.worlds.iter().map(|group| u64::from(group.count) * u64::from(group.scripts_per_world)).sum();
        if all > SCRIPTS_OF_ALL_MAX {
            c.bad("worlds", format!("{all} scripts in all"), "1000000 scripts in all worlds");
        }
        c.range("players.count", f64::from(self.players.count), 0.0, 1e6, "0 to 1000000");
        c.range("players.inputs_per_second", self.players.inputs_per_second, 0.0, 1e4, "0 to 10000");
        c.range("rpc.calls_per_second", self.rpc.calls_per_second, 0.0, 1e6, "0 to 1000000");
        let faults = &self.faults;
        c.range("faults.traps_per_second", faults.traps_per_second, 0.0, 1e5, "0 to 100000");
        c.range("faults.reloads_per_minute", faults.reloads_per_minute, 0.0, 600.0, "0 to 600");
        c.range("faults.node_kills_per_minute", faults.node_kills_per_minute, 0.0, 60.0, "0 to 60");
        let used = [
            ("players.script", self.players.count > 0, &self.players.script),
            ("rpc.script", self.rpc.calls_per_second > 0.0, &self.rpc.script),
            ("faults.trap_script", faults.traps_per_second > 0.0, &faults.trap_script),
            ("faults.reload_script", faults.reloads_per_minute > 0.0, &faults.reload_script),
        ];
        for (field, is_used, script) in used {
            if is_used && !self.worlds.iter().any(|group| group.counts().iter().any(|(mix, n)| mix.script == *script && *n > 0)) {
                c.bad(field, format!("{script:?}"), "a script of a [[worlds.mix]] table, of which there is one at least");
            }
        }
        if faults.traps_per_second > 0.0 && faults.reloads_per_minute > 0.0 && faults.trap_script == faults.reload_script {
            let allowed = "another than trap_script: a new version whose scripts end is rolled back";
            c.bad("faults.reload_script", format!("{:?}", faults.reload_script), allowed);
        }
        if let Some(group) = &self.expect.group
            && !self.worlds.iter().any(|g| g.name == *group)
        {
            c.bad("expect.group", format!("{group:?}"), "the name of a [[worlds]] table");
        }
        for (field, value) in self.expect.limits() {
            c.range(&format!("expect.{field}"), value, 0.0, 1e12, "0 or more");
        }
        if c.0.is_empty() { Ok(()) } else { Err(ConfigError(c.0)) }
    }

    fn check_group(&self, c: &mut Checker, at: &str, group: &WorldGroup) {
        c.name(&format!("{at}.name"), &group.name);
        c.range(&format!("{at}.count"), f64::from(group.count), 1.0, 1e5, "1 to 100000");
        let scripts = f64::from(group.scripts_per_world);
        c.range(&format!("{at}.scripts_per_world"), scripts, 1.0, f64::from(SCRIPTS_MAX), "1 to 100000");
        if group.mix.is_empty() {
            c.bad(&format!("{at}.mix"), "empty".to_owned(), "one [[worlds.mix]] table or more");
        }
        for (i, mix) in group.mix.iter().enumerate() {
            let at = format!("{at}.mix[{i}]");
            if ScriptId::new(&mix.script).is_err() {
                c.bad(&format!("{at}.script"), format!("{:?}", mix.script), NAME);
            }
            if mix.count.is_some() == mix.share.is_some() {
                c.bad(&at, "count and share".to_owned(), "one of count and share");
            }
            c.range(&format!("{at}.share"), mix.share.unwrap_or(1.0), 1e-6, 1e6, "more than 0, at most 1000000");
        }
        let fixed: u64 = group.mix.iter().map(|mix| u64::from(mix.count.unwrap_or(0))).sum();
        let shares = group.mix.iter().any(|mix| mix.share.is_some());
        if fixed > u64::from(group.scripts_per_world) || (!shares && fixed != u64::from(group.scripts_per_world)) {
            c.bad(&format!("{at}.scripts_per_world"), group.scripts_per_world.to_string(), "what the mix's counts add up to");
        }
    }
}

impl WorldGroup {
    /// How many of each of its mix are in a world: counts as they are, shares of the rest by largest remainder.
    pub fn counts(&self) -> Vec<(&Mix, u32)> {
        let fixed: u32 = self.mix.iter().map(|mix| mix.count.unwrap_or(0)).fold(0, u32::saturating_add);
        let rest = self.scripts_per_world.saturating_sub(fixed);
        let shares: f64 = self.mix.iter().filter_map(|mix| mix.share).sum();
        let exact = |mix: &Mix| mix.share.map_or(0.0, |share| f64::from(rest) * share / shares);
        let mut counts: Vec<_> = self.mix.iter().map(|mix| (mix, mix.count.unwrap_or(exact(mix) as u32))).collect();
        let given: u32 = counts.iter().filter(|(mix, _)| mix.share.is_some()).map(|(_, n)| n).sum();
        let mut order: Vec<_> = (0..counts.len()).filter(|i| self.mix[*i].share.is_some()).collect();
        order.sort_by(|a, b| exact(&self.mix[*b]).fract().total_cmp(&exact(&self.mix[*a]).fract()));
        for i in order.into_iter().cycle().take(rest.saturating_sub(given).min(SCRIPTS_MAX) as usize) {
            counts[i].1 += 1;
        }
        counts
    }
}

impl Expect {
    /// The limits that are set.
    fn limits(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("tick_p50_ms_max", self.tick_p50_ms_max),
            ("tick_p99_ms_max", self.tick_p99_ms_max),
            ("missed_ticks_percent_max", self.missed_ticks_percent_max),
            ("inputs_refused_percent_max", self.inputs_refused_percent_max),
            ("reload_pause_ms_max", self.reload_pause_ms_max),
            ("reloads_failed_max", self.reloads_failed_max.map(|n| n as f64)),
            ("failover_seconds_max", self.failover_seconds_max),
            ("scripts_parked_max", self.scripts_parked_max.map(|n| n as f64)),
            ("worlds_down_max", self.worlds_down_max.map(|n| n as f64)),
            ("disk_mb_max", self.disk_mb_max),
            ("memory_mb_per_hour_max", self.memory_mb_per_hour_max),
            ("files_per_hour_max", self.files_per_hour_max),
            ("threads_per_hour_max", self.threads_per_hour_max),
            ("tasks_per_hour_max", self.tasks_per_hour_max),
            ("tick_p99_percent_per_hour_max", self.tick_p99_percent_per_hour_max),
            ("disk_mb_per_hour_max", self.disk_mb_per_hour_max),
        ];
        all.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
    }
}

const NAME: &str = "1 to 47 of a-z, 0-9, '-' and '_', a letter first";

struct Checker(Vec<FieldError>);

impl Checker {
    fn bad(&mut self, field: &str, value: String, allowed: &'static str) {
        self.0.push(FieldError { field: field.to_owned(), value, allowed });
    }

    fn range(&mut self, field: &str, value: f64, min: f64, max: f64, allowed: &'static str) {
        if !(min..=max).contains(&value) {
            self.bad(field, value.to_string(), allowed);
        }
    }

    fn name(&mut self, field: &str, name: &str) {
        if WorldId::new(name).is_err() {
            self.bad(field, format!("{name:?}"), NAME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_named_with_what_is_allowed() {
        let text = r#"
            name = "No Name"
            duration_seconds = 0.0
            [players]
            count = 5
            script = "nobody"
            [faults]
            traps_per_second = 1.0
            reloads_per_minute = 1.0
            [expect]
            group = "inn"
            tick_p99_ms_max = -1.0
            [[worlds]]
            name = "town"
            count = 0
            scripts_per_world = 3
            [[worlds.mix]]
            script = "door"
            count = 2
            share = 1.0
            [[worlds]]
            name = "empty"
            count = 1
            scripts_per_world = 1
        "#;
        let error = toml::from_str::<Scenario>(text).unwrap().check().unwrap_err().to_string();
        for wanted in [
            "name is",
            "duration_seconds is 0, allowed is 1 to 604800",
            "players.script is \"nobody\"",
            "faults.reload_script is \"drill\", allowed is another than trap_script",
            "expect.group is \"inn\"",
            "expect.tick_p99_ms_max is -1",
            "worlds[0].count is 0",
            "worlds[0].mix[0] is count and share, allowed is one of",
            "worlds[1].mix is empty",
        ] {
            assert!(error.contains(wanted), "{wanted} in {error}");
        }
    }

    #[test]
    fn a_field_that_does_not_exist_is_an_error() {
        let error = toml::from_str::<Scenario>("duration = 5").unwrap_err().to_string();
        assert!(error.contains("duration") && error.contains("duration_seconds"), "{error}");
    }

    #[test]
    fn a_mix_is_exactly_as_many_scripts_as_asked_for() {
        let mix = |script: &str, count, share| Mix { script: script.into(), prefab: None, count, share };
        let mut group = WorldGroup {
            name: "w".into(),
            count: 1,
            scripts_per_world: 200,
            prefabs: None,
            scripts_dir: scripts_dir(),
            limits: None,
            mix: vec![
                mix("merchant", Some(1), None),
                mix("a", None, Some(1.0)),
                mix("b", None, Some(1.0)),
                mix("c", None, Some(1.0)),
            ],
        };
        for scripts in [4, 5, 6, 7, 200, 10_000] {
            group.scripts_per_world = scripts;
            let counts: Vec<_> = group.counts().into_iter().map(|(_, n)| n).collect();
            assert_eq!(counts.iter().sum::<u32>(), scripts, "{counts:?}");
            assert_eq!(counts[0], 1);
            assert!(counts[1] - counts[3] <= 1, "{counts:?}");
        }
    }
}
