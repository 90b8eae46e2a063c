//! What `/metrics` answers.
//!
//! Start with [`METRICS`], the table. Gauges are read from the node's status when somebody scrapes; what counts is added up by [`Tally`]
//! at every look, so that a world that starts again does not count backwards. Not here: how often (`hub`).

mod table;

pub use table::{Fold, METRICS, Metric, Source};

use crate::gateway::Counts;
use crate::summary::{STATES, state_code};
use aether_cluster::{ClusterStatus, NodeStatus, WorldStatus};
use aether_scripting::abi::HostGroup;
use aether_scripting::{RateLimitedAction, ScriptId};
use metrics::{Label, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use table::*;

/// Label values of worlds, and of scripts; what is more is `other`.
const LABELS_MAX: usize = 1_000;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct ScriptTally {
    fuel: u64,
    turns: u64,
    pauses: u64,
    deferrals: u64,
    host_calls: [u64; 7],
    refused: [u64; 7],
}

#[derive(Default)]
struct WorldTally {
    /// The tick of the status that was added last: each is added once.
    tick: u64,
    /// What the status said, and the sum of its rises, of each metric that counts.
    counts: Vec<(u64, u64)>,
    /// What was refused its scripts so far, as the last status said.
    refused: HashMap<ScriptId, [u64; 7]>,
}

/// What was counted since the node started.
#[derive(Default)]
pub(crate) struct Tally {
    worlds: HashMap<String, WorldTally>,
    scripts: HashMap<ScriptId, ScriptTally>,
}

/// The metrics of worlds that count, each with how to read it.
fn counting() -> impl Iterator<Item = (&'static Metric, fn(&WorldStatus) -> f64)> {
    METRICS.iter().filter_map(|metric| match metric.source {
        Source::World(of, _) if metric.counts => Some((metric, of)),
        _ => None,
    })
}

/// What was refused a world's scripts so far, by script.
fn refused(world: &WorldStatus) -> HashMap<ScriptId, [u64; 7]> {
    let mut sums: HashMap<ScriptId, [u64; 7]> = HashMap::new();
    for script in world.scripts.iter().filter(|script| script.refused != [0; 7]) {
        let sum = sums.entry(script.script).or_default();
        sum.iter_mut().zip(script.refused).for_each(|(sum, count)| *sum += u64::from(count));
    }
    sums
}

impl Tally {
    /// Look at all worlds, at least as often as they publish a status.
    pub fn look(&mut self, worlds: &[WorldStatus]) {
        for world in worlds {
            if !self.worlds.contains_key(&world.name) {
                // The first look is where counting begins: a world's tick may be in the millions.
                let counts = counting().map(|(_, of)| (of(world) as u64, 0)).collect();
                self.worlds.insert(world.name.clone(), WorldTally { tick: world.tick, counts, refused: refused(world) });
                continue;
            }
            let Some(tally) = self.worlds.get_mut(&world.name) else { continue };
            for ((metric, of), (last, total)) in counting().zip(&mut tally.counts) {
                let now = of(world) as u64;
                // Less than before: it began anew from nothing; a tick's or commit's number went back to a checkpoint's.
                *total += if now >= *last {
                    now - *last
                } else if matches!(metric.name, "aether_world_ticks_total" | "aether_world_commits_total") {
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
                let now = refused(world);
                for (script, counts) in &now {
                    let before = tally.refused.get(script).copied().unwrap_or_default();
                    let sum = &mut self.scripts.entry(*script).or_default().refused;
                    for ((sum, count), before) in sum.iter_mut().zip(counts).zip(before) {
                        *sum += if *count >= before { count - before } else { *count };
                    }
                }
                tally.refused = now;
            }
        }
    }
}

/// Makes `/metrics`.
pub(crate) struct Metrics;

impl Metrics {
    /// Prometheus' text. A recorder for each scrape: what is gone leaves no series behind. `disk`: free bytes and size.
    pub fn render(
        &self,
        status: &NodeStatus,
        cluster: Option<&ClusterStatus>,
        gateway: Option<&Counts>,
        tally: &Tally,
        ready: bool,
        disk: Option<(u64, u64)>,
    ) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            describe();
            gauge!(BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION"), "build" => crate::BUILD, "node" => status.name.clone()).set(1.0);
            gauge!(READY.name).set(if ready { 1.0 } else { 0.0 });
            record_counters(status);
            if let Some((free, size)) = disk {
                gauge!(DISK_FREE.name).set(free as f64);
                gauge!(DISK_SIZE.name).set(size as f64);
            }
            record_worlds(status, tally);
            record_scripts(status, tally);
            if let Some(cluster) = cluster {
                record_cluster(cluster);
            }
            record_gateway(gateway.unwrap_or(&Counts::default()));
        });
        text(&recorder)
    }
}

fn text(recorder: &PrometheusRecorder) -> String {
    recorder.handle().render()
}

fn describe() {
    for metric in METRICS {
        if metric.counts {
            describe_counter!(metric.name, metric.unit, metric.help);
        } else {
            describe_gauge!(metric.name, metric.unit, metric.help);
        }
    }
}

fn record_counters(status: &NodeStatus) {
    let counters = &status.counters;
    counter!(RELOADS.name, "outcome" => "served").absolute(counters.reloads_served);
    counter!(RELOADS.name, "outcome" => "rolled_back").absolute(counters.reloads_rolled_back);
    counter!(CLAIMED.name).absolute(counters.worlds_claimed);
    counter!(RELEASED.name).absolute(counters.worlds_released);
    counter!(PARKED.name, "what" => "world").absolute(counters.worlds_parked);
    counter!(PARKED.name, "what" => "script").absolute(counters.scripts_parked);
    counter!(RECORDS.name).absolute(counters.flight_records);
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
    for metric in METRICS {
        let Source::World(of, fold) = metric.source else { continue };
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
            set("other", if fold == Fold::Sum { values.sum() } else { values.fold(0.0, f64::max) });
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
        sum.refused.iter_mut().zip(own.refused).for_each(|(sum, count)| *sum += count);
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
        for (action, count) in RateLimitedAction::ALL.iter().zip(sum.refused) {
            counter!(RATE_LIMITED.name, "script" => script.clone(), "action" => action.name()).absolute(count);
        }
    }
}

fn record_cluster(cluster: &ClusterStatus) {
    for node in &cluster.nodes {
        let label = || vec![Label::new("peer", node.name.clone())];
        gauge!(NODE_UP.name, label()).set(if node.state == "up" { 1.0 } else { 0.0 });
        gauge!(NODE_LINKED.name, label()).set(if node.linked || node.name == cluster.node { 1.0 } else { 0.0 });
        gauge!(NODE_LEASE.name, label()).set(node.lease_left_ms as f64 / 1e3);
        gauge!(NODE_LOAD.name, label()).set(node.load);
        gauge!(NODE_CAPACITY.name, label()).set(node.capacity);
    }
    gauge!(UNOWNED.name).set(cluster.worlds.iter().filter(|world| world.owner.is_none()).count() as f64);
    gauge!(LEASE.name).set(cluster.lease_seconds);
    gauge!(RENEWED.name).set(cluster.renewed_seconds_ago);
    counter!(RENEWALS_LATE.name).absolute(cluster.renewals_late);
    counter!(UNKNOWN_FRAMES.name).absolute(cluster.unknown_frames);
    for link in &cluster.links {
        let label = || vec![Label::new("peer", link.node.clone())];
        counter!(LINK_REFUSED.name, label()).absolute(link.refused);
        counter!(LINK_SENT.name, label()).absolute(link.sent_bytes);
        counter!(LINK_RECEIVED.name, label()).absolute(link.received_bytes);
        if let Some(round_trip_us) = link.round_trip_us {
            gauge!(LINK_ROUND_TRIP.name, label()).set(round_trip_us / 1e6);
        }
        for (reason, count) in &link.cuts {
            counter!(LINK_CUTS.name, "peer" => link.node.clone(), "reason" => reason.clone()).absolute(*count);
        }
    }
    for (reason, count) in &cluster.strangers {
        counter!(LINK_CUTS.name, "peer" => "", "reason" => reason.clone()).absolute(*count);
    }
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

    fn world(name: String, tick: u64, missed_ticks: u64) -> WorldStatus {
        WorldStatus { name, tick, missed_ticks, state: WorldState::Ticking, ..WorldStatus::default() }
    }

    fn node(worlds: Vec<WorldStatus>) -> NodeStatus {
        NodeStatus { name: "n".into(), worlds, ..NodeStatus::default() }
    }

    #[test]
    fn labels_are_bounded_and_nothing_is_lost() {
        let status = |tick| node((0..1_500).map(|n| world(format!("w-{n}"), tick, 0)).collect());
        let mut tally = Tally::default();
        tally.look(&status(5).worlds);
        tally.look(&status(7).worlds);
        let text = Metrics.render(&status(7), None, None, &tally, true, None);
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
        let text = Metrics.render(&node(vec![world("w".into(), 95, 2)]), None, None, &tally, false, None);
        assert!(text.contains(r#"aether_world_ticks_total{world="w"} 25"#), "{text}");
        assert!(text.contains(r#"aether_world_missed_ticks_total{world="w"} 7"#), "{text}");
    }
}
