//! Every metric by name, with its unit and what it says; and what `/metrics` answers.
//!
//! Start with [`METRICS`] and [`WORLD_METRICS`]. Gauges are read from the node's status when somebody scrapes; what counts is added up
//! by [`Tally`] at every look, so that a world or node that starts again does not count backwards. Labels are bounded: worlds and
//! scripts past the first thousand are `other`. Not here: how often (`hub`).

use crate::gateway::Counts;
use crate::summary::{STATES, state_code};
use aether_cluster::{ClusterStatus, NodeStatus, WorldStatus};
use aether_scripting::ScriptId;
use aether_scripting::abi::HostGroup;
use metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;

/// Label values of worlds, and of scripts; what is more is `other`.
const LABELS_MAX: usize = 1_000;

/// What a metric is called and says.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with its unit at the end.
    pub name: &'static str,
    /// Whether it only rises.
    pub counts: bool,
    /// Its unit.
    pub unit: Unit,
    /// What it says.
    pub help: &'static str,
}

const fn gauge_of(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, counts: false, unit, help }
}

const fn counter_of(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, counts: true, unit, help }
}

const BUILD_INFO: Metric = gauge_of("aether_build_info", Unit::Count, "1, with the node's build as labels.");
const READY: Metric = gauge_of("aether_ready", Unit::Count, "1 if every world that should tick does, 0 if not.");
const WORLDS: Metric = gauge_of("aether_worlds", Unit::Count, "Worlds of this node by state.");
const SCRIPTS: Metric = gauge_of("aether_scripts", Unit::Count, "Instances of scripts of this node by state.");
const FUEL: Metric = counter_of("aether_script_fuel_total", Unit::Count, "Fuel spent by all instances of a script.");
const TURNS: Metric = counter_of("aether_script_turns_total", Unit::Count, "Turns of all instances of a script.");
const PAUSES: Metric = counter_of("aether_script_pauses_total", Unit::Count, "Turns at whose end an instance was paused.");
const DEFERRALS: Metric = counter_of("aether_script_deferrals_total", Unit::Count, "Ticks in which an instance was deferred.");
const HOST_CALLS: Metric = counter_of("aether_script_host_calls_total", Unit::Count, "Host calls of a script by group.");
const MEMORY: Metric = gauge_of("aether_script_memory_bytes", Unit::Bytes, "Linear memory of all instances of a script.");
const NODE_UP: Metric = gauge_of("aether_cluster_node_up", Unit::Count, "1 if a node of the cluster is up, as this one sees it.");
const NODE_LINKED: Metric = gauge_of("aether_cluster_node_linked", Unit::Count, "1 if this node is connected to that one.");
const NODE_LEASE: Metric =
    gauge_of("aether_cluster_node_lease_seconds", Unit::Seconds, "Time until a node's lease ends unless it is renewed.");
const NODE_LOAD: Metric = gauge_of("aether_cluster_node_load_cores", Unit::Count, "Load of a node's worlds, in cores.");
const NODE_CAPACITY: Metric = gauge_of("aether_cluster_node_capacity_cores", Unit::Count, "Load that a node can take, in cores.");
const UNOWNED: Metric = gauge_of("aether_cluster_unowned_worlds", Unit::Count, "Worlds of the cluster that no node has.");

const GATEWAY_SESSIONS: Metric = gauge_of("aether_gateway_sessions", Unit::Count, "Players' sessions of this node's gateway.");
const GATEWAY_WORLDS: Metric = gauge_of("aether_gateway_worlds", Unit::Count, "Worlds that are followed for sessions.");
const GATEWAY_BEGUN: Metric = counter_of("aether_gateway_sessions_begun_total", Unit::Count, "Sessions that were let in.");
const GATEWAY_ENDED: Metric =
    counter_of("aether_gateway_connections_ended_total", Unit::Count, "WebSockets that ended, by reason, also before a hello.");
const GATEWAY_INPUTS: Metric = counter_of("aether_gateway_inputs_total", Unit::Count, "Inputs passed on to worlds.");
const GATEWAY_REFUSED: Metric = counter_of("aether_gateway_inputs_refused_total", Unit::Count, "Inputs refused, by reason.");
const GATEWAY_MESSAGES: Metric = counter_of("aether_gateway_messages_total", Unit::Count, "Messages sent to clients.");
const GATEWAY_SENT: Metric = counter_of("aether_gateway_sent_bytes_total", Unit::Count, "Bytes of messages sent to clients.");
const GATEWAY_COALESCED: Metric =
    counter_of("aether_gateway_coalesced_total", Unit::Count, "Times that a slow client's ticks gave way to a snapshot.");
const GATEWAY_RESYNCS: Metric =
    counter_of("aether_gateway_resyncs_total", Unit::Count, "Times that a world moved, began again or was missed in part.");

/// All but those of [`WORLD_METRICS`].
pub const METRICS: &[Metric] = &[
    BUILD_INFO,
    READY,
    WORLDS,
    SCRIPTS,
    FUEL,
    TURNS,
    PAUSES,
    DEFERRALS,
    HOST_CALLS,
    MEMORY,
    NODE_UP,
    NODE_LINKED,
    NODE_LEASE,
    NODE_LOAD,
    NODE_CAPACITY,
    UNOWNED,
    GATEWAY_SESSIONS,
    GATEWAY_WORLDS,
    GATEWAY_BEGUN,
    GATEWAY_ENDED,
    GATEWAY_INPUTS,
    GATEWAY_REFUSED,
    GATEWAY_MESSAGES,
    GATEWAY_SENT,
    GATEWAY_COALESCED,
    GATEWAY_RESYNCS,
];

/// How worlds past the first thousand become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// Added up.
    Sum,
    /// The highest of them.
    Max,
}

/// A metric with a value for each world.
pub struct WorldMetric {
    /// Its name and so on.
    pub metric: Metric,
    /// Its value; of one that counts, since the world started.
    pub of: fn(&WorldStatus) -> f64,
    /// What `other` is.
    pub fold: Fold,
}

const fn sum(metric: Metric, of: fn(&WorldStatus) -> f64) -> WorldMetric {
    WorldMetric { metric, of, fold: Fold::Sum }
}

const fn max(metric: Metric, of: fn(&WorldStatus) -> f64) -> WorldMetric {
    WorldMetric { metric, of, fold: Fold::Max }
}

/// What each world has a value of, with the label `world`.
pub const WORLD_METRICS: &[WorldMetric] = &[
    sum(counter_of("aether_world_ticks_total", Unit::Count, "Ticks of a world."), |world| world.tick as f64),
    sum(
        counter_of("aether_world_missed_ticks_total", Unit::Count, "Ticks that were skipped because the world was late."),
        |world| world.missed_ticks as f64,
    ),
    sum(counter_of("aether_world_commands_total", Unit::Count, "Commands to clients."), |world| world.commands as f64),
    sum(counter_of("aether_world_calls_out_total", Unit::Count, "Calls to other worlds."), |world| world.calls_out as f64),
    sum(counter_of("aether_world_calls_refused_total", Unit::Count, "Calls from other worlds that were refused."), |world| {
        world.calls_refused as f64
    }),
    sum(counter_of("aether_world_dropped_messages_total", Unit::Count, "Messages refused because an inbox was full."), |world| {
        world.host.dropped as f64
    }),
    sum(counter_of("aether_world_restarts_total", Unit::Count, "Times a world was started again."), |world| {
        f64::from(world.restarts)
    }),
    sum(counter_of("aether_world_script_restarts_total", Unit::Count, "Restarts of a world's scripts."), |world| {
        world.scripts.iter().map(|script| f64::from(script.restarts)).sum()
    }),
    max(gauge_of("aether_world_tick_p50_seconds", Unit::Seconds, "CPU time of a tick over the last second, median."), |world| {
        world.tick_p50_us / 1e6
    }),
    max(
        gauge_of("aether_world_tick_p99_seconds", Unit::Seconds, "CPU time of a tick over the last second, 99th percentile."),
        |world| world.tick_p99_us / 1e6,
    ),
    max(gauge_of("aether_world_tick_max_seconds", Unit::Seconds, "CPU time of a tick over the last second, longest."), |world| {
        world.tick_max_us / 1e6
    }),
    max(gauge_of("aether_world_tick_budget_seconds", Unit::Seconds, "CPU time that a tick may take."), |world| {
        world.budget_us / 1e6
    }),
    max(gauge_of("aether_world_utilisation_ratio", Unit::Count, "Used tick budget over ten seconds; 1 is all of it."), |world| {
        f64::from(world.utilisation)
    }),
    sum(gauge_of("aether_world_entities", Unit::Count, "Entities of a world."), |world| world.host.entities as f64),
    sum(gauge_of("aether_world_memory_bytes", Unit::Bytes, "Linear memory of a world's scripts."), |world| {
        world.memory_bytes as f64
    }),
    sum(gauge_of("aether_world_waiting_messages", Unit::Count, "Messages that wait for their script."), |world| {
        world.host.waiting as f64
    }),
    sum(gauge_of("aether_world_paused_scripts", Unit::Count, "Scripts paused in the middle of a call."), |world| {
        world.paused as f64
    }),
    sum(gauge_of("aether_world_suspended_scripts", Unit::Count, "Scripts taken out of the order."), |world| {
        world.suspended as f64
    }),
    sum(gauge_of("aether_world_parked_scripts", Unit::Count, "Scripts that kept failing."), |world| world.parked as f64),
    sum(gauge_of("aether_world_set_aside_messages", Unit::Count, "Messages that ended their script twice."), |world| {
        world.set_aside as f64
    }),
];

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct ScriptTally {
    fuel: u64,
    turns: u64,
    pauses: u64,
    deferrals: u64,
    host_calls: [u64; 7],
}

#[derive(Default)]
struct WorldTally {
    /// The tick of the status that was added last: each is added once.
    tick: u64,
    /// What the status said, and the sum of its rises, of each metric that counts.
    counts: Vec<(u64, u64)>,
}

/// What was counted since the node started.
#[derive(Default)]
pub(crate) struct Tally {
    worlds: HashMap<String, WorldTally>,
    scripts: HashMap<ScriptId, ScriptTally>,
}

fn counting() -> impl Iterator<Item = &'static WorldMetric> {
    WORLD_METRICS.iter().filter(|metric| metric.metric.counts)
}

impl Tally {
    /// Look at all worlds, at least as often as they publish a status.
    pub fn look(&mut self, worlds: &[WorldStatus]) {
        for world in worlds {
            if !self.worlds.contains_key(&world.name) {
                // The first look is where counting begins: a world's tick may be in the millions.
                let counts = counting().map(|metric| ((metric.of)(world) as u64, 0)).collect();
                self.worlds.insert(world.name.clone(), WorldTally { tick: world.tick, counts });
                continue;
            }
            let Some(tally) = self.worlds.get_mut(&world.name) else { continue };
            for (metric, (last, total)) in counting().zip(&mut tally.counts) {
                let now = (metric.of)(world) as u64;
                // Less than before: it began anew from nothing; a tick number went back to a checkpoint's.
                *total += if now >= *last {
                    now - *last
                } else if metric.metric.name.contains("_ticks_") {
                    0
                } else {
                    now
                };
                *last = now;
            }
            if tally.tick != world.tick {
                tally.tick = world.tick;
                for script in world.scripts.iter() {
                    let sum = self.scripts.entry(script.script).or_default();
                    sum.fuel += script.fuel;
                    sum.turns += u64::from(script.turns);
                    sum.pauses += u64::from(script.pauses);
                    sum.deferrals += u64::from(script.deferrals);
                    sum.host_calls.iter_mut().zip(script.host_calls).for_each(|(sum, calls)| *sum += u64::from(calls));
                }
            }
        }
    }
}

/// Makes `/metrics`.
pub(crate) struct Metrics;

impl Metrics {
    /// Prometheus' text. A recorder for each scrape: what is gone leaves no series behind.
    pub fn render(
        &self,
        status: &NodeStatus,
        cluster: Option<&ClusterStatus>,
        gateway: Option<&Counts>,
        tally: &Tally,
        ready: bool,
    ) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            describe();
            gauge!(BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION"), "build" => crate::BUILD, "node" => status.name.clone()).set(1.0);
            gauge!(READY.name).set(if ready { 1.0 } else { 0.0 });
            record_worlds(status, tally);
            record_scripts(status, tally);
            if let Some(cluster) = cluster {
                record_cluster(cluster);
            }
            if let Some(counts) = gateway {
                record_gateway(counts);
            }
        });
        text(&recorder)
    }
}

fn text(recorder: &PrometheusRecorder) -> String {
    recorder.handle().render()
}

fn describe() {
    for metric in METRICS.iter().chain(WORLD_METRICS.iter().map(|world| &world.metric)) {
        if metric.counts {
            describe_counter!(metric.name, metric.unit, metric.help);
        } else {
            describe_gauge!(metric.name, metric.unit, metric.help);
        }
    }
}

fn record_worlds(status: &NodeStatus, tally: &Tally) {
    // Those that a world of one's own can be in.
    for (code, state) in STATES.iter().enumerate().skip(1).take(7) {
        let count = status.worlds.iter().filter(|world| usize::from(state_code(&world.state)) == code).count();
        gauge!(WORLDS.name, "state" => *state).set(count as f64);
    }
    let (own, others) = status.worlds.split_at(status.worlds.len().min(LABELS_MAX));
    let none = Vec::new();
    let counts_of = |world: &WorldStatus| tally.worlds.get(&world.name).map_or(&none, |tally| &tally.counts);
    let mut counted = 0;
    for WorldMetric { metric, of, fold } in WORLD_METRICS {
        let value = |world: &WorldStatus| match metric.counts {
            true => counts_of(world).get(counted).map_or(0.0, |(_, total)| *total as f64),
            false => of(world),
        };
        let set = |world: &str, value: f64| {
            let labels = vec![Label::new("world", world.to_owned())];
            match metric.counts {
                true => counter!(metric.name, labels).absolute(value as u64),
                false => gauge!(metric.name, labels).set(value),
            }
        };
        own.iter().for_each(|world| set(&world.name, value(world)));
        if !others.is_empty() {
            let values = others.iter().map(value);
            set("other", if *fold == Fold::Sum { values.sum() } else { values.fold(0.0, f64::max) });
        }
        counted += usize::from(metric.counts);
    }
}

fn record_scripts(status: &NodeStatus, tally: &Tally) {
    use aether_world_runtime::ScriptState as State;
    let mut states: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut memory: BTreeMap<ScriptId, u64> = BTreeMap::new();
    for script in status.worlds.iter().flat_map(|world| world.scripts.iter()) {
        let state = match script.state {
            State::Running => "running",
            State::Paused => "paused",
            State::Suspended => "suspended",
            State::Restarting => "restarting",
            State::Draining => "draining",
            State::Finished { .. } => "finished",
            State::Parked { .. } => "parked",
        };
        *states.entry(state).or_default() += 1;
        *memory.entry(script.script).or_default() += script.memory_bytes;
    }
    for state in ["running", "paused", "suspended", "restarting", "draining", "finished", "parked"] {
        gauge!(SCRIPTS.name, "state" => state).set(states.get(state).copied().unwrap_or(0) as f64);
    }
    let mut ids: Vec<_> = tally.scripts.keys().chain(memory.keys()).copied().collect();
    ids.sort();
    ids.dedup();
    let mut rows: BTreeMap<String, (ScriptTally, u64)> = BTreeMap::new();
    for (i, id) in ids.iter().enumerate() {
        let (sum, bytes) = rows.entry(if i < LABELS_MAX { id.to_string() } else { "other".to_owned() }).or_default();
        *bytes += memory.get(id).copied().unwrap_or(0);
        let Some(own) = tally.scripts.get(id) else { continue };
        sum.fuel += own.fuel;
        sum.turns += own.turns;
        sum.pauses += own.pauses;
        sum.deferrals += own.deferrals;
        sum.host_calls.iter_mut().zip(own.host_calls).for_each(|(sum, calls)| *sum += calls);
    }
    for (script, (sum, bytes)) in rows {
        let label = || vec![Label::new("script", script.clone())];
        counter!(FUEL.name, label()).absolute(sum.fuel);
        counter!(TURNS.name, label()).absolute(sum.turns);
        counter!(PAUSES.name, label()).absolute(sum.pauses);
        counter!(DEFERRALS.name, label()).absolute(sum.deferrals);
        gauge!(MEMORY.name, label()).set(bytes as f64);
        for (group, calls) in HostGroup::ALL.iter().zip(sum.host_calls) {
            counter!(HOST_CALLS.name, "script" => script.clone(), "group" => group.name()).absolute(calls);
        }
    }
}

fn record_cluster(cluster: &ClusterStatus) {
    for node in &cluster.nodes {
        let label = || vec![Label::new("peer", node.name.clone())];
        gauge!(NODE_UP.name, label()).set(if node.state == "up" { 1.0 } else { 0.0 });
        gauge!(NODE_LINKED.name, label()).set(if node.linked { 1.0 } else { 0.0 });
        gauge!(NODE_LEASE.name, label()).set(node.lease_left_ms as f64 / 1e3);
        gauge!(NODE_LOAD.name, label()).set(node.load);
        gauge!(NODE_CAPACITY.name, label()).set(node.capacity);
    }
    gauge!(UNOWNED.name).set(cluster.worlds.iter().filter(|world| world.owner.is_none()).count() as f64);
}

fn record_gateway(counts: &Counts) {
    gauge!(GATEWAY_SESSIONS.name).set(counts.sessions.load(Relaxed) as f64);
    gauge!(GATEWAY_WORLDS.name).set(counts.worlds.load(Relaxed) as f64);
    let own = [
        (GATEWAY_BEGUN, &counts.begun),
        (GATEWAY_INPUTS, &counts.inputs),
        (GATEWAY_MESSAGES, &counts.messages),
        (GATEWAY_SENT, &counts.bytes),
        (GATEWAY_COALESCED, &counts.coalesced),
        (GATEWAY_RESYNCS, &counts.resyncs),
    ];
    for (metric, count) in own {
        counter!(metric.name).absolute(count.load(Relaxed));
    }
    for (reason, count) in counts.ended() {
        counter!(GATEWAY_ENDED.name, "reason" => reason).absolute(count);
    }
    for (reason, count) in counts.refused() {
        counter!(GATEWAY_REFUSED.name, "reason" => reason).absolute(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_cluster::WorldState;
    use std::collections::HashSet;

    fn all() -> impl Iterator<Item = &'static Metric> {
        METRICS.iter().chain(WORLD_METRICS.iter().map(|world| &world.metric))
    }

    fn world(name: String, tick: u64, missed_ticks: u64) -> WorldStatus {
        WorldStatus { name, tick, missed_ticks, state: WorldState::Ticking, ..WorldStatus::default() }
    }

    #[test]
    fn every_name_is_one_metrics_and_says_its_unit() {
        let mut names = HashSet::new();
        for metric in all() {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("aether_") && metric.help.ends_with('.'), "{metric:?}");
            assert_eq!(metric.name.ends_with("_total"), metric.counts, "{metric:?}");
            assert_eq!(metric.name.ends_with("_seconds"), metric.unit == Unit::Seconds, "{metric:?}");
            assert_eq!(metric.name.ends_with("_bytes"), metric.unit == Unit::Bytes, "{metric:?}");
        }
    }

    #[test]
    fn labels_are_bounded_and_nothing_is_lost() {
        let status =
            |tick| NodeStatus { name: "n".into(), worlds: (0..1_500).map(|n| world(format!("w-{n}"), tick, 0)).collect() };
        let mut tally = Tally::default();
        tally.look(&status(5).worlds);
        tally.look(&status(7).worlds);
        let text = Metrics.render(&status(7), None, None, &tally, true);
        let ticks: Vec<_> = text.lines().filter(|line| line.starts_with("aether_world_ticks_total{")).collect();
        assert_eq!(ticks.len(), LABELS_MAX + 1);
        assert!(ticks.contains(&r#"aether_world_ticks_total{world="w-0"} 2"#), "{}", ticks[0]);
        assert!(ticks.contains(&r#"aether_world_ticks_total{world="other"} 1000"#));
        assert!(text.contains(r#"aether_worlds{state="ticking"} 1500"#) && text.contains("aether_ready 1"));
    }

    #[test]
    fn a_world_that_starts_again_does_not_count_backwards() {
        let mut tally = Tally::default();
        for (tick, missed) in [(100, 4), (120, 9), (90, 0), (95, 2)] {
            tally.look(&[world("w".into(), tick, missed)]);
        }
        let text =
            Metrics.render(&NodeStatus { name: "n".into(), worlds: vec![world("w".into(), 95, 2)] }, None, None, &tally, false);
        assert!(text.contains(r#"aether_world_ticks_total{world="w"} 25"#), "{text}");
        assert!(text.contains(r#"aether_world_missed_ticks_total{world="w"} 7"#), "{text}");
    }
}
