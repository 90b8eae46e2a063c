//! What follows from a scenario: the node's configuration, and who does what when.
//!
//! Start with [`node_config`] and [`Actions`]. Everything here is a function of the scenario and its seed: no clock, no node. Input, calls
//! and traps come at random times (a Poisson process whose rate rises over the ramp), as those of many who do not know of each other do;
//! reloads and kills come evenly from the end of the warm-up on.

use super::scenario::{Scenario, WorldGroup};
use aether_cluster::config::{NodeSection, ScriptSpec};
use aether_cluster::{NodeConfig, WorldSpec};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::path::Path;

/// Metres between two scripts' entities.
const SPACING: f32 = 4.0;

/// The configuration of a node with all worlds; `data_dir` is absolute.
pub(crate) fn node_config(scenario: &Scenario, data_dir: &Path) -> NodeConfig {
    let scripts: u32 = scenario.worlds.iter().map(|group| group.count.saturating_mul(group.scripts_per_world)).sum();
    // While a new version stands beside the old one, both need a slot; so do scripts that come back while the old one is buried.
    let reloads = scenario.faults.reloads_per_minute > 0.0;
    let twice: u32 = scenario
        .worlds
        .iter()
        .map(|group| if reloads { group.count * instances(group, &scenario.faults.reload_script) } else { 0 })
        .sum();
    NodeConfig {
        node: NodeSection {
            name: "loadtest".into(),
            data_dir: data_dir.to_owned(),
            tick_threads: scenario.node.tick_threads,
            instances_small: scripts.saturating_add(twice).saturating_add(scripts / 20 + 200).min(1_000_000),
            instances_large: scenario.node.instances_large,
            ..NodeSection::default()
        },
        limits: scenario.limits.clone(),
        world: scenario.worlds.iter().enumerate().map(|(i, group)| world(scenario.seed.wrapping_add(i as u64), group)).collect(),
        ..NodeConfig::default()
    }
}

fn instances(group: &WorldGroup, script: &str) -> u32 {
    group.counts().into_iter().filter(|(mix, _)| mix.script == script).map(|(_, n)| n).sum()
}

fn world(seed: u64, group: &WorldGroup) -> WorldSpec {
    let mut script = Vec::new();
    let side = f64::from(group.scripts_per_world).sqrt().ceil() as u32;
    let mut place = 0;
    for (mix, count) in group.counts() {
        let more = format!("{}-more", mix.script);
        for (name, count) in [(None, count.min(1)), (Some(more), count.saturating_sub(1))] {
            if count == 0 {
                continue;
            }
            // On a grid, so that not all stand in each other: those of one kind share a place, which is where their prefabs spread from.
            let at = |n: u32| (n as f32 - side as f32 / 2.0) * SPACING;
            let position =
                [at(place % side.max(1)).clamp(-8_000.0, 8_000.0), 1.0, at(place / side.max(1)).clamp(-8_000.0, 8_000.0)];
            place += count;
            script.push(ScriptSpec { script: mix.script.clone(), name, count, prefab: mix.prefab.clone(), position });
        }
    }
    WorldSpec {
        name: group.name.clone(),
        count: group.count,
        prefabs: group.prefabs.clone(),
        scripts_dir: group.scripts_dir.clone(),
        seed,
        requires: Default::default(),
        together: None,
        apart: None,
        limits: group.limits,
        script,
    }
}

/// Ticks a second that a world of a group should make.
pub(crate) fn tick_hz(scenario: &Scenario, group: &WorldGroup) -> f64 {
    group.limits.and_then(|limits| limits.tick_hz).unwrap_or(scenario.limits.tick_hz)
}

/// The group that a world's name belongs to.
pub(crate) fn group_of<'a>(scenario: &'a Scenario, world: &str) -> Option<&'a WorldGroup> {
    scenario.worlds.iter().find(|group| match world.strip_prefix(&group.name) {
        Some("") => group.count == 1,
        Some(rest) => group.count > 1 && rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok()),
        None => false,
    })
}

/// An instance of a script, by the names of its world and its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub world: String,
    pub script: String,
}

/// All instances of a script.
pub(crate) fn targets(config: &NodeConfig, script: &str) -> Vec<Target> {
    let of_spec = |spec: &WorldSpec| {
        let names: Vec<_> = spec.script.iter().filter(|s| s.script == script).flat_map(ScriptSpec::names).collect();
        let of_world = |world: String| {
            names.iter().map(move |name| Target { world: world.clone(), script: name.clone() }).collect::<Vec<_>>()
        };
        spec.names().into_iter().flat_map(of_world).collect::<Vec<_>>()
    };
    config.world.iter().flat_map(of_spec).collect()
}

/// Something that is done. Numbers choose among as many targets as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A player does something. Players begin at 1.
    Input { player: u64 },
    /// A script is told to call another.
    Call { from: u64, to: u64 },
    /// A script is ended.
    Trap { whom: u64 },
    /// A new version is published.
    Reload { number: u32 },
    /// A node is killed.
    Kill { number: u32 },
}

/// A deed and when it is due, seconds from the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Action {
    pub at: f64,
    pub deed: Deed,
}

/// How the times of one kind of deed follow each other.
#[derive(Debug, Clone)]
enum Pace {
    /// At random, at a rate that rises from nothing over a ramp.
    Random { rate: f64, ramp: f64, sum: f64 },
    /// Evenly, from a time on.
    Even { rate: f64, from: f64, done: u32 },
}

impl Pace {
    /// When the next one is due. `uniform`: above 0, at most 1.
    fn next(&mut self, uniform: f64) -> f64 {
        match self {
            // The inverse of the expected count by then: rate × t² / (2 × ramp) in the ramp, rate × (t - ramp / 2) after it.
            Pace::Random { rate, ramp, sum } => {
                *sum -= uniform.ln();
                if *sum <= *rate * *ramp / 2.0 { (2.0 * *ramp * *sum / *rate).sqrt() } else { *sum / *rate + *ramp / 2.0 }
            }
            Pace::Even { rate, from, done } => {
                *done += 1;
                *from + (f64::from(*done) - 0.5) / *rate
            }
        }
    }
}

struct Stream {
    kind: Kind,
    pace: Pace,
    random: Pcg64Mcg,
    next: f64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Input,
    Call,
    Trap,
    Reload,
    Kill,
}

/// All actions of a scenario in their order, made as they are needed: a long test has hundreds of millions.
pub(crate) struct Actions {
    streams: Vec<Stream>,
    players: u64,
    end: f64,
}

impl Actions {
    pub fn new(scenario: &Scenario) -> Actions {
        let (from, ramp) = (scenario.warmup_seconds, scenario.ramp_seconds);
        let random = |rate| Pace::Random { rate, ramp, sum: 0.0 };
        let even = |per_minute: f64| Pace::Even { rate: per_minute / 60.0, from, done: 0 };
        let faults = &scenario.faults;
        let inputs = f64::from(scenario.players.count) * scenario.players.inputs_per_second;
        let all = [
            (Kind::Input, inputs, random(inputs)),
            (Kind::Call, scenario.rpc.calls_per_second, random(scenario.rpc.calls_per_second)),
            (Kind::Trap, faults.traps_per_second, random(faults.traps_per_second)),
            (Kind::Reload, faults.reloads_per_minute, even(faults.reloads_per_minute)),
            (Kind::Kill, faults.node_kills_per_minute, even(faults.node_kills_per_minute)),
        ];
        let stream = |(kind, _, mut pace): (Kind, f64, Pace)| {
            // Each kind has a stream of its own: more players do not change when scripts are trapped.
            let mut random = Pcg64Mcg::seed_from_u64(scenario.seed ^ ((kind as u64 + 1) << 32));
            let next = pace.next(uniform(&mut random));
            Stream { kind, pace, random, next }
        };
        let streams = all.into_iter().filter(|(_, rate, _)| *rate > 0.0).map(stream).collect();
        let end = scenario.warmup_seconds + scenario.duration_seconds;
        Actions { streams, players: u64::from(scenario.players.count).max(1), end }
    }

    /// When the next one is due.
    pub fn due(&self) -> Option<f64> {
        let next = self.streams.iter().map(|stream| stream.next).min_by(f64::total_cmp)?;
        (next < self.end).then_some(next)
    }
}

fn uniform(random: &mut Pcg64Mcg) -> f64 {
    // 53 bits, and never 0.
    ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

impl Iterator for Actions {
    type Item = Action;

    fn next(&mut self) -> Option<Action> {
        let at = self.due()?;
        let stream = self.streams.iter_mut().find(|stream| stream.next == at)?;
        let Pace::Even { done, .. } = stream.pace else {
            let (one, two) = (stream.random.next_u64(), stream.random.next_u64());
            let deed = match stream.kind {
                Kind::Input => Deed::Input { player: 1 + one % self.players },
                Kind::Call => Deed::Call { from: one, to: two },
                _ => Deed::Trap { whom: one },
            };
            stream.next = stream.pace.next(uniform(&mut stream.random));
            return Some(Action { at, deed });
        };
        let number = done - 1;
        let deed = if matches!(stream.kind, Kind::Kill) { Deed::Kill { number } } else { Deed::Reload { number } };
        stream.next = stream.pace.next(1.0);
        Some(Action { at, deed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        let text = r#"
            seed = 7
            duration_seconds = 100.0
            warmup_seconds = 10.0
            ramp_seconds = 20.0
            [players]
            count = 50
            inputs_per_second = 2.0
            [rpc]
            calls_per_second = 10.0
            [faults]
            traps_per_second = 5.0
            reloads_per_minute = 6.0
            reload_script = "door"
            [[worlds]]
            name = "town"
            count = 3
            scripts_per_world = 12
            [[worlds.mix]]
            script = "drill"
            count = 2
            [[worlds.mix]]
            script = "door"
            share = 1.0
            prefab = "door"
            [[worlds]]
            name = "inn"
            count = 1
            scripts_per_world = 1
            [[worlds.mix]]
            script = "drill"
            count = 1
        "#;
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_scenario_gives_a_configuration_that_a_node_takes() {
        let config = node_config(&scenario(), Path::new("/nowhere"));
        config.check().unwrap();
        assert_eq!(crate::scripts(&config), 3 * 12 + 1);
        // A reload of the doors needs a slot more for each.
        assert!(config.node.instances_small >= 37 + 30);
        let names: Vec<_> = config.world[0].script.iter().flat_map(ScriptSpec::names).collect();
        assert_eq!((names.len(), &names[..4]), (12, &["drill", "drill-more", "door", "door-more-1"].map(str::to_owned)[..]));
    }

    #[test]
    fn targets_are_all_instances_of_a_script_and_know_their_group() {
        let scenario = scenario();
        let targets = targets(&node_config(&scenario, Path::new("/nowhere")), "drill");
        assert_eq!(targets.len(), 7);
        assert_eq!(targets[6], Target { world: "inn".into(), script: "drill".into() });
        let group = |world| group_of(&scenario, world).map(|group| group.name.as_str());
        assert_eq!([group("town-3"), group("inn"), group("town"), group("inn-1")], [Some("town"), Some("inn"), None, None]);
    }

    #[test]
    fn the_same_seed_does_the_same_at_the_same_times_and_another_does_not() {
        let all = |seed| Actions::new(&Scenario { seed, ..scenario() }).collect::<Vec<_>>();
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
        // More players do not change when scripts are trapped.
        let traps = |scenario: &Scenario| {
            Actions::new(scenario).filter(|action| matches!(action.deed, Deed::Trap { .. })).collect::<Vec<_>>()
        };
        let mut crowd = scenario();
        crowd.players.count = 500;
        assert_eq!(traps(&scenario()), traps(&crowd));
    }

    #[test]
    fn actions_come_in_order_at_their_rates_and_the_ramp_halves_what_comes_in_it() {
        let actions: Vec<_> = Actions::new(&scenario()).collect();
        assert!(actions.is_sorted_by(|a, b| a.at <= b.at));
        let inputs: Vec<_> = actions.iter().filter(|a| matches!(a.deed, Deed::Input { .. })).map(|a| a.at).collect();
        let (ramp, rest) =
            (inputs.iter().filter(|at| **at < 20.0).count() as f64, inputs.iter().filter(|at| **at >= 20.0).count() as f64);
        // 100 a second: 1,000 ± 32 in the ramp, 9,000 ± 95 after it; five deviations.
        assert!((ramp - 1_000.0).abs() < 160.0 && (rest - 9_000.0).abs() < 475.0, "{ramp} {rest}");
        let reloads: Vec<_> = actions.iter().filter(|a| matches!(a.deed, Deed::Reload { .. })).map(|a| a.at).collect();
        assert_eq!(reloads, [15.0, 25.0, 35.0, 45.0, 55.0, 65.0, 75.0, 85.0, 95.0, 105.0]);
        let players: std::collections::BTreeSet<_> =
            actions.iter().filter_map(|a| if let Deed::Input { player } = a.deed { Some(player) } else { None }).collect();
        assert_eq!((players.first(), players.last(), players.len()), (Some(&1), Some(&50), 50));
    }
}
