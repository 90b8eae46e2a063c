//! What a world counts, and tells of itself: events for people, its flight record, its status once a second.
//!
//! Not here: the round that it is called from (`hosted.rs`), what others do with it (`status.rs`, `flight.rs`).

use super::HostedWorld;
use crate::events::NodeEvent;
use crate::flight::{self, FlightKind};
use crate::status::{TICKS_MAX, WorldState, WorldStatus, count};
use aether_world_runtime::{OverloadAction, ReloadPhase, TickReport};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub turns: u64,
    pub deferred: u64,
    pub engine_ns: u64,
    pub commands: u64,
    pub calls_out: u64,
    pub calls_refused: u64,
}

/// What is counted from the start of this life on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SinceStart {
    pub over_budget_ticks: u64,
    pub checkpoints: u64,
    pub checkpoints_failed: u64,
    /// As of the last status.
    pub missed: u64,
    /// Whether scripts were deferred in the second before the last status.
    pub deferring: bool,
    /// Whether its output waited for the disk when it last said so.
    pub held: bool,
}

impl HostedWorld {
    pub(super) fn account(&mut self, report: &TickReport) {
        if self.ticks_ns.len() < TICKS_MAX {
            self.ticks_ns.push(u32::try_from(report.close.used_ns).unwrap_or(u32::MAX));
        }
        if report.close.used_ns > self.world.config().scheduler.budget_ns {
            self.since_start.over_budget_ticks += 1;
        }
        self.totals.turns += u64::from(report.close.ran);
        self.totals.deferred += u64::from(report.close.deferred);
        self.totals.engine_ns += report.engine_ns;
        self.totals.commands += report.output.commands.len() as u64;
        self.totals.calls_out += report.output.calls.len() as u64;
        let world = self.id.as_str();
        for line in &report.log {
            let script = self.world.name_of(line.instance).unwrap_or("?").to_owned();
            self.place.services.events.push(NodeEvent::Log {
                world: world.to_owned(),
                script,
                level: line.level,
                text: line.text.clone(),
            });
        }
        for end in &report.ends {
            let cause = end.end.to_string();
            let (kind, follows) = match (end.parked, end.again) {
                (true, _) => (FlightKind::ScriptParked, "parked"),
                (false, true) => (FlightKind::ScriptEnded, "ended, comes back"),
                (false, false) => (FlightKind::ScriptEnded, "ended"),
            };
            self.record(kind, Some(&end.name), format!("{} version {} {follows}: {cause}", end.script, end.version));
            if end.parked {
                count(&self.place.services.counting.scripts_parked);
                let reason = format!("script {} parked: {cause}", end.name);
                flight::dump(&self.place.services, &self.place.mailbox, reason);
            }
            self.place.services.events.push(NodeEvent::ScriptEnded {
                world: world.to_owned(),
                script: end.name.clone(),
                version: end.version,
                cause,
                parked: end.parked,
                again: end.again,
                trace: end.trace.clone(),
            });
        }
        if let Some(action) = report.overload {
            let (verb, key) = match action {
                OverloadAction::Suspend(key) => ("suspended", key),
                OverloadAction::Resume(key) => ("resumed", key),
            };
            let script = self.world.name_at(key).unwrap_or("?");
            let percent = (self.world.utilisation() * 100.0) as u32;
            self.record(FlightKind::Suspension, Some(script), format!("{verb} at {percent}% of the budget over ten seconds"));
            self.place.services.events.push(NodeEvent::Overload {
                world: world.to_owned(),
                action: format!("{script} {verb} at {percent}% of the budget over ten seconds"),
            });
        }
    }

    /// Into the flight recorder.
    pub(super) fn record(&self, kind: FlightKind, script: Option<&str>, text: impl Into<String>) {
        self.place.mailbox.flight.record(self.world.tick_number().0, kind, script, text);
    }

    /// What is seen once a second only: it costs nothing in a tick.
    pub(super) fn record_second(&mut self) {
        let (missed, deferred) = (self.pacer.missed(), self.totals.deferred);
        if missed > self.since_start.missed {
            self.record(FlightKind::MissedTicks, None, format!("{} ticks skipped", missed - self.since_start.missed));
        }
        if (deferred > 0) != self.since_start.deferring {
            let text =
                if deferred > 0 { format!("{deferred} deferrals in a second") } else { "nobody is deferred now".to_owned() };
            self.record(FlightKind::Deferral, None, text);
        }
        (self.since_start.missed, self.since_start.deferring) = (missed, deferred > 0);
    }

    pub(super) fn tell(&self, level: u8, text: String) {
        self.place.services.events.push(NodeEvent::Log { world: self.id.to_string(), script: "world".into(), level, text });
    }

    pub(super) fn publish(&mut self, state: WorldState) {
        self.record_second();
        let scripts = self.world.status();
        let count = |wanted: fn(&aether_world_runtime::ScriptState) -> bool| {
            scripts.iter().filter(|script| wanted(&script.state)).count()
        };
        use aether_world_runtime::ScriptState::{Parked, Paused, Suspended};
        let us = |ns: u64| ns as f64 / 1_000.0;
        let ticks = self.ticks_ns.len() as u64;
        // Few numbers once a second: sorting them takes less time and memory than a histogram that is always there.
        let mut sorted = self.ticks_ns.clone();
        sorted.sort_unstable();
        let tick_us = |quantile: f64| us(quantile_of(&sorted, quantile).into());
        let status = WorldStatus {
            name: self.id.to_string(),
            state,
            tick: self.world.tick_number().0,
            ticks,
            tick_hz: self.pacer.hz(),
            missed_ticks: self.pacer.missed(),
            over_budget_ticks: self.since_start.over_budget_ticks,
            tick_p50_us: tick_us(0.5),
            tick_p99_us: tick_us(0.99),
            tick_max_us: tick_us(1.0),
            ticks_ns: Arc::from(self.ticks_ns.as_slice()),
            tick_gap_max_us: us(self.gap_max_ns),
            budget_us: us(self.world.config().scheduler.budget_ns),
            engine_us: us(self.totals.engine_ns) / ticks.max(1) as f64,
            utilisation: self.world.utilisation(),
            turns: self.totals.turns,
            deferred: self.totals.deferred,
            paused: count(|state| *state == Paused),
            suspended: count(|state| *state == Suspended),
            parked: count(|state| matches!(state, Parked { .. })),
            memory_bytes: self.world.memory_bytes(),
            commands: self.totals.commands,
            calls_out: self.totals.calls_out,
            calls_refused: self.totals.calls_refused,
            input_refused: self.place.mailbox.input_refused.load(Ordering::Relaxed),
            parcels_refused: self.place.mailbox.parcels_refused.load(Ordering::Relaxed),
            set_aside: self.world.set_aside().count(),
            reload: self.world.reload_phase().map(|(script, version, phase)| (script, version, phase.clone())),
            generation: self.claim.generation.0,
            restarts: self.place.restarts,
            host: self.world.host_stats(),
            commit_seq: self.claim.commit_seq,
            commit_max_us: self.durable.take_longest().as_secs_f64() * 1e6,
            checkpoints: self.since_start.checkpoints,
            checkpoints_failed: self.since_start.checkpoints_failed,
            scripts: Arc::new(scripts),
        };
        self.ticks_ns.clear();
        self.gap_max_ns = 0;
        (self.totals.turns, self.totals.deferred, self.totals.engine_ns) = (0, 0, 0);
        // One that was replaced has nothing to say any more.
        if self.place.mailbox.is_life(self.place.life) {
            self.place.mailbox.publish(status);
        }
    }
}

/// The value that so many of all do not exceed: the nearest rank.
fn quantile_of(sorted: &[u32], quantile: f64) -> u32 {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

pub(super) fn phase_text(phase: &ReloadPhase) -> String {
    match phase {
        ReloadPhase::Swapping { left } => format!("is swapped in, {left} instances left"),
        ReloadPhase::Watching { .. } => "is watched".to_owned(),
        ReloadPhase::Held => "is well, and waits for the other worlds".to_owned(),
        ReloadPhase::RolledBack { reason } => format!("went back: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_time_that_was_measured_and_of_no_ticks_zero() {
        let sorted: Vec<u32> = (1..=200).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|quantile| quantile_of(&sorted, quantile)), [1, 100, 198, 200]);
        assert_eq!((quantile_of(&[7], 0.5), quantile_of(&[], 0.99)), (7, 0));
    }
}
