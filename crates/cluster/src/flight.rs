//! The flight recorder of a world: the last things that happened to it, through all its restarts, and a file of them when it or one of
//! its scripts is parked.
//!
//! A ring in memory ([`Flight`]), bounded, that costs nothing in a tick in which nothing happens. [`dump`] writes it to
//! `data_dir/flight/WORLD-TIME.json`, off the tick threads; the oldest files go. Not here: what is recorded (`world/hosted.rs`,
//! `world/actor.rs`, `node/supervisor.rs`), events for people (`events.rs`).

use crate::events::clock_ms;
use crate::node::Services;
use crate::status::{WorldStatus, count};
use crate::world::mailbox::Mailbox;
use aether_world_runtime::{ScriptState, ScriptStatus};
use serde::Serialize;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Events kept of a world: a crash loop is some twenty, a reload five.
const EVENTS_MAX: usize = 256;
/// Bytes of an event's text: a cause may quote a script.
const TEXT_MAX: usize = 512;
/// Files kept, of all worlds of a node together.
const FILES_MAX: usize = 64;
/// Scripts in a record, those in trouble.
const SCRIPTS_MAX: usize = 200;
/// Whatever is parked meanwhile is in the same file.
const GATHER: Duration = Duration::from_millis(100);

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlightKind {
    /// This node has it now, in this generation.
    Claimed,
    /// It ticks.
    Started,
    /// It ended and is started again.
    Ended,
    /// It is left until an operator resumes it.
    Parked,
    /// A script ended.
    ScriptEnded,
    /// A script has an instance again.
    ScriptRestarted,
    /// A script is left until an operator resumes it or a new version comes.
    ScriptParked,
    /// Overload protection took a step, or an operator did.
    Suspension,
    /// Scripts began to be deferred, or are no longer.
    Deferral,
    /// Ticks were skipped.
    MissedTicks,
    /// Its output waits for the disk, or does no longer.
    Held,
    /// A checkpoint was not made or not kept.
    Checkpoint,
    /// A reload got further.
    Reload,
    /// It fell asleep, or was put back to a checkpoint.
    Rest,
    /// It goes to another node, or could not.
    Moved,
}

/// Something that happened to a world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlightEvent {
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// In which tick; of what happened outside of ticks, the last one known.
    pub tick: u64,
    /// What kind.
    pub kind: FlightKind,
    /// The script's name in the world, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// What.
    pub text: String,
}

/// A world's flight record.
#[derive(Debug, Clone, Serialize)]
pub struct FlightRecord {
    /// The world.
    pub world: String,
    /// The node.
    pub node: String,
    /// The node's build.
    pub build: String,
    /// When it was made, milliseconds since 1970.
    pub time_ms: u64,
    /// Why it was written; none if somebody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The oldest first.
    pub events: Vec<FlightEvent>,
    /// The world's last status, with those of its scripts that do not run as they should.
    pub status: WorldStatus,
}

/// See the file.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    events: Mutex<VecDeque<FlightEvent>>,
    /// A file is about to be written.
    dumping: AtomicBool,
}

impl Flight {
    pub fn record(&self, tick: u64, kind: FlightKind, script: Option<&str>, text: impl Into<String>) {
        let mut text = text.into();
        if text.len() > TEXT_MAX {
            text.truncate(text.floor_char_boundary(TEXT_MAX));
        }
        let event = FlightEvent { time_ms: clock_ms(), tick, kind, script: script.map(str::to_owned), text };
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }

    fn events(&self) -> Vec<FlightEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// A world's record as of now.
pub(crate) fn record_of(services: &Services, mailbox: &Mailbox, reason: Option<String>) -> FlightRecord {
    let mut status = WorldStatus::clone(&mailbox.status());
    let troubled = |script: &&ScriptStatus| !matches!(script.state, ScriptState::Running | ScriptState::Paused);
    status.scripts = Arc::new(status.scripts.iter().filter(troubled).take(SCRIPTS_MAX).cloned().collect());
    FlightRecord {
        world: status.name.clone(),
        node: services.config.node.name.clone(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        time_ms: clock_ms(),
        reason,
        events: mailbox.flight.events(),
        status,
    }
}

/// Write the record of a world that was parked, or has a script that was. In a moment, on another thread; what is parked until then is in
/// the same file.
pub(crate) fn dump(services: &Arc<Services>, mailbox: &Arc<Mailbox>, reason: String) {
    if mailbox.flight.dumping.swap(true, Ordering::AcqRel) {
        return;
    }
    let (services, mailbox) = (Arc::clone(services), Arc::clone(mailbox));
    let control = services.control.clone();
    control.spawn(async move {
        tokio::time::sleep(GATHER).await;
        mailbox.flight.dumping.store(false, Ordering::Release);
        let inner = Arc::clone(&services);
        let written = services.blocking(move || {
            let record = record_of(&inner, &mailbox, Some(reason));
            write(&folder(&inner.data_dir), &record).map(|path| (record.world, path))
        });
        match written.await {
            Ok(Ok((world, path))) => {
                count(&services.counting.flight_records);
                tracing::info!(world, path = %path.display(), "flight record written");
            }
            Ok(Err(error)) => tracing::warn!(%error, "a flight record could not be written"),
            Err(panic) => tracing::error!(panic, "a flight record could not be written"),
        }
    });
}

/// Where a node's records are.
fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("flight")
}

fn write(folder: &Path, record: &FlightRecord) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    // Names of worlds are safe in paths.
    let path = folder.join(format!("{}-{}.json", record.world, stamp(record.time_ms)));
    let partial = path.with_extension("partial");
    std::fs::write(&partial, serde_json::to_vec_pretty(record)?)?;
    // Whoever waits for the file finds it whole.
    std::fs::rename(partial, &path)?;
    remove_old(folder)?;
    Ok(path)
}

/// `20261122T181857.123Z`: in the order of time.
fn stamp(time_ms: u64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ms) * 1_000_000)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{:03}Z", time.millisecond())
}

/// Of all files the newest stay.
fn remove_old(folder: &Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Another world's that is renamed or removed right now is not ours to count.
        if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
            files.push((modified, entry.path()));
        }
    }
    files.sort();
    let excess = files.len().saturating_sub(FILES_MAX);
    files.into_iter().take(excess).try_for_each(|(_, path)| match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_stay_and_no_text_is_long() {
        let flight = Flight::default();
        for tick in 0..EVENTS_MAX as u64 + 10 {
            flight.record(tick, FlightKind::ScriptEnded, Some("thief"), "ä".repeat(TEXT_MAX));
        }
        let events = flight.events();
        assert_eq!((events.len(), events[0].tick), (EVENTS_MAX, 10));
        assert!(events.iter().all(|event| event.text.len() <= TEXT_MAX));
    }

    #[test]
    fn a_record_is_a_file_of_its_own_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let record = |n: u64| FlightRecord {
            world: "town".into(),
            node: "node".into(),
            build: "0".into(),
            time_ms: 1_795_371_537_123 + n,
            reason: Some("test".into()),
            events: Vec::new(),
            status: WorldStatus::default(),
        };
        let first = write(dir.path(), &record(0)).unwrap();
        assert_eq!(first.file_name().unwrap(), "town-20261122T181857.123Z.json");
        let all: Vec<_> = (1..FILES_MAX as u64 + 5).map(|n| write(dir.path(), &record(n)).unwrap()).collect();
        assert!(!first.exists() && all.last().unwrap().exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), FILES_MAX);
    }
}
