//! Plays a scenario's actions at their times, and watches.
//!
//! [`play`] is one loop on one thread: what is due is done, worlds are looked at, intervals are closed. It is an open loop: how fast a node
//! answers changes nothing about what comes next, as with real players. Reloads, which take seconds, are published by a thread of their
//! own, one at a time. Not here: what is due when (`plan`), what is done to whom (`driver`).

use super::driver::{Driver, Publish};
use super::look::Done;
use super::plan::{self, Action, Actions, Deed, Target};
use super::report::{self, Environment, FORMAT, Reload, Report};
use super::sampler::{self, Sampler};
use super::scenario::Scenario;
use aether_cluster::{NodeConfig, Source};
use indicatif::ProgressBar;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

/// What is later than this is not done any more: a test that was held up does not make a flood of it.
const LATE_MAX: f64 = 1.0;
/// After a reload: worlds say of the pauses of its last second a second later.
const RELOAD_TAIL: f64 = 1.5;
/// A reload that is going on at the end is waited for.
const RELOAD_TIME: Duration = Duration::from_secs(60);
/// The longest sleep: signals and the progress bar are looked at as often.
const NAP: Duration = Duration::from_millis(50);
/// Different failures of kills and reloads that are told.
const NOTES_MAX: usize = 20;

/// The instances that an action may be for, those of a world beside each other.
struct Targets {
    all: Vec<Target>,
    worlds: Vec<Range<usize>>,
}

impl Targets {
    fn new(all: Vec<Target>) -> Targets {
        let mut worlds: Vec<Range<usize>> = Vec::new();
        for (index, target) in all.iter().enumerate() {
            match worlds.last_mut() {
                Some(range) if all[range.start].world == target.world => range.end = index + 1,
                _ => worlds.push(index..index + 1),
            }
        }
        Targets { all, worlds }
    }

    fn one(&self, number: u64) -> Option<&Target> {
        self.all.get((number % self.all.len().max(1) as u64) as usize)
    }

    /// Two of different worlds, if there is more than one.
    fn pair(&self, one: u64, two: u64) -> Option<(&Target, &Target)> {
        let worlds = self.worlds.len() as u64;
        let first = (one % worlds.max(1)) as usize;
        let second = if worlds > 1 { (first as u64 + 1 + two % (worlds - 1)) % worlds } else { 0 } as usize;
        let within = |world: usize, number: u64| {
            let range = self.worlds.get(world)?.clone();
            self.all.get(range.start + (number >> 32) as usize % range.len())
        };
        Some((within(first, one)?, within(second, two)?))
    }
}

/// A reload that is going on.
struct Going {
    at: f64,
    answer: Receiver<Result<u64, String>>,
    /// How it ended, and when.
    ended: Option<(f64, Result<u64, String>)>,
}

struct Player<'a> {
    scenario: &'a Scenario,
    driver: Box<dyn Driver>,
    sampler: Sampler,
    players: Targets,
    callers: Targets,
    traps: Targets,
    publish: Publish,
    /// What is published in turn.
    versions: Vec<Source>,
    going: Option<Going>,
    reloads: Vec<Reload>,
    done: Done,
    late_max: f64,
    skipped: u64,
    notes: Vec<String>,
}

/// See the file. `base`: the folder that the scenario's paths are relative to.
pub(crate) fn play(
    scenario: &Scenario,
    config: &NodeConfig,
    base: &Path,
    mut driver: Box<dyn Driver>,
    bar: &ProgressBar,
    signals: &AtomicU32,
) -> Result<Report, Box<dyn std::error::Error>> {
    let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let environment = Environment::look();
    let mut notes = Vec::new();
    if environment.build == "debug" {
        notes.push("a debug build: its times say little".to_owned());
    }
    let wants_door = scenario.players.count > 0 || scenario.rpc.calls_per_second > 0.0 || scenario.faults.traps_per_second > 0.0;
    if wants_door && driver.players().is_none() {
        notes.push("players' input, calls and traps were left out: there is no door for them in other processes".to_owned());
    }
    let targets = |script: &str| Targets::new(plan::targets(config, script));
    let mut player = Player {
        scenario,
        sampler: Sampler::new(scenario),
        players: targets(&scenario.players.script),
        callers: targets(&scenario.rpc.script),
        traps: targets(&scenario.faults.trap_script),
        publish: driver.publisher(),
        versions: versions(scenario, base)?,
        driver,
        going: None,
        reloads: Vec::new(),
        done: Done::default(),
        late_max: 0.0,
        skipped: 0,
        notes,
    };
    let (measured_seconds, stopped_early) = player.run(bar, signals);
    player.finish_reload();
    if player.skipped > 0 {
        player.notes.push(format!("{} actions were left out: the test was held up for more than a second", player.skipped));
    }
    bar.set_message("stopping");
    let (started, description, failovers) = (player.driver.started(), player.driver.describe(), player.driver.failovers());
    let stopped = player.driver.stop();
    let sampler = player.sampler;
    let mut report = Report {
        format: FORMAT,
        made: aether_admin::rfc3339(made),
        environment,
        driver: description,
        scenario: scenario.clone(),
        measured_seconds,
        stopped_early,
        notes: player.notes,
        started,
        stopped,
        ticks_ms: sampler.ticks_ms(),
        pauses_ms: sampler.pauses_ms(),
        totals: sampler.totals(),
        groups: sampler.groups(measured_seconds),
        kinds: sampler.kinds(),
        reloads: player.reloads,
        failovers,
        worlds_down: sampler.worlds().1,
        late_max_ms: player.late_max * 1e3,
        trends: Vec::new(),
        verdicts: Vec::new(),
        points: sampler.points,
    };
    report.trends = report::trends(&report);
    report.verdicts = report::verdicts(&report);
    Ok(report)
}

/// The script as it is, with two different marks in turn: what is published again and again needs no more room each time.
fn versions(scenario: &Scenario, base: &Path) -> Result<Vec<Source>, Box<dyn std::error::Error>> {
    let script = &scenario.faults.reload_script;
    let group = scenario.worlds.iter().find(|group| group.mix.iter().any(|mix| mix.script == *script));
    let Some(group) = group.filter(|_| scenario.faults.reloads_per_minute > 0.0) else { return Ok(Vec::new()) };
    let (manifest, wasm) = crate::operate::read_script(&base.join(&group.scripts_dir).join(script))?;
    let version = |mark| Source { manifest: manifest.clone(), wasm: marked(&wasm, mark) };
    Ok(vec![version(1), version(2)])
}

/// A module with a custom section more: other bytes, the same code.
fn marked(wasm: &[u8], mark: u8) -> Vec<u8> {
    const NAME: &[u8] = b"aether-loadtest";
    let mut marked = wasm.to_vec();
    // Section 0, its length, its name with its length, the mark.
    marked.extend([0, NAME.len() as u8 + 2, NAME.len() as u8]);
    marked.extend(NAME);
    marked.push(mark);
    marked
}

impl Player<'_> {
    /// Gives the seconds that were measured, and whether somebody ended it.
    fn run(&mut self, bar: &ProgressBar, signals: &AtomicU32) -> (f64, bool) {
        let (warmup, end) = (self.scenario.warmup_seconds, self.scenario.warmup_seconds + self.scenario.duration_seconds);
        let step = sampler::interval(end);
        let mut actions = Actions::new(self.scenario);
        let begin = Instant::now();
        let now = || begin.elapsed().as_secs_f64();
        let (mut looked, mut closed, mut warm) = (Instant::now(), 0.0, None);
        bar.set_length((end * 10.0) as u64);
        self.look(0.0);
        self.sampler.begin(0.0, self.driver.usage());
        loop {
            let time = now();
            while actions.due().is_some_and(|due| due <= time) {
                let Some(action) = actions.next() else { break };
                self.act(action, now(), warm.is_some());
            }
            let warming = warm.is_none();
            let warm_now = warming && time >= warmup;
            let ends = time >= end || signals.load(Ordering::Relaxed) > 0;
            let closes = time - closed >= step || warm_now || (ends && time - closed > step / 3.0);
            if closes || ends || looked.elapsed() >= self.driver.look_every() {
                looked = Instant::now();
                self.look(time);
            }
            if closes {
                // A warm-up of nothing has no interval.
                if time - closed > 0.01 {
                    let (done, usage) = (std::mem::take(&mut self.done), self.driver.usage());
                    self.sampler.close(time, warming, done, usage);
                }
                closed = time;
                self.show(bar, time, warming);
            }
            if warm_now {
                self.sampler.warmed_up();
                warm = Some(time);
            }
            self.watch_reload(time);
            if ends {
                return (warm.map_or(0.0, |warm| time - warm), time < end);
            }
            bar.set_position((time * 10.0) as u64);
            let due = actions.due().map_or(NAP, |due| Duration::from_secs_f64((due - now()).max(0.0)));
            let look = self.driver.look_every().saturating_sub(looked.elapsed());
            std::thread::sleep(due.min(look).min(NAP));
        }
    }

    fn show(&self, bar: &ProgressBar, time: f64, warming: bool) {
        let Some(point) = self.sampler.points.last() else { return };
        bar.set_message(format!(
            "{}, seed {}, {time:.0} s{}: {:.0} ticks/s, p99 {:.2} ms, missed {:.0}/s, CPU {:.0}%",
            self.scenario.name,
            self.scenario.seed,
            if warming { " (warm-up)" } else { "" },
            point.ticks,
            point.tick_p99_ms,
            point.missed,
            point.cpu_percent.unwrap_or(0.0)
        ));
    }

    fn look(&mut self, time: f64) {
        for sample in self.driver.look(time) {
            self.sampler.add(self.scenario, sample);
        }
    }

    fn act(&mut self, Action { at, deed }: Action, time: f64, counts: bool) {
        let late = time - at;
        if counts {
            self.late_max = self.late_max.max(late);
        }
        match deed {
            Deed::Reload { number } => self.reload(number, time),
            Deed::Kill { number } => {
                if let Err(error) = self.driver.kill(number, time) {
                    self.note(format!("a node was not killed: {error}"));
                }
            }
            Deed::Input { .. } | Deed::Call { .. } | Deed::Trap { .. } if late > LATE_MAX => self.skipped += 1,
            Deed::Input { .. } | Deed::Call { .. } | Deed::Trap { .. } => self.send(deed),
        }
    }

    fn send(&mut self, deed: Deed) {
        let Some(door) = self.driver.players() else { return };
        match deed {
            Deed::Input { player } => {
                let Some(target) = self.players.one(player) else { return };
                let players = &self.scenario.players;
                self.done.inputs += 1;
                if !door.send(player, target, &players.method, players.payload.as_bytes()) {
                    self.done.inputs_refused += 1;
                }
            }
            Deed::Call { from, to } => {
                let Some((from, to)) = self.callers.pair(from, to) else { return };
                self.done.calls += 1;
                // Nobody in particular asks for it.
                door.send(1, from, "call", format!("{}/{}", to.world, to.script).as_bytes());
            }
            Deed::Trap { whom } => {
                let Some(target) = self.traps.one(whom) else { return };
                self.done.traps += 1;
                door.send(1, target, "trap", b"");
            }
            Deed::Reload { .. } | Deed::Kill { .. } => {}
        }
    }

    fn reload(&mut self, number: u32, time: f64) {
        if self.going.is_some() {
            return self.note("a reload was left out: the one before was not over".to_owned());
        }
        let Some(source) = self.versions.get(number as usize % self.versions.len().max(1)).cloned() else { return };
        let (send, answer) = sync_channel(1);
        let publish = Publish::clone(&self.publish);
        let thread = std::thread::Builder::new().name("loadtest-publish".into()).spawn(move || {
            let _ = send.send(publish(source));
        });
        match thread {
            Ok(_) => {
                self.sampler.begin_reload();
                self.going = Some(Going { at: time, answer, ended: None });
            }
            Err(error) => self.note(format!("a reload was left out: {error}")),
        }
    }

    fn watch_reload(&mut self, time: f64) {
        let Some(going) = &mut self.going else { return };
        if going.ended.is_none() {
            match going.answer.try_recv() {
                Ok(answer) => going.ended = Some((time, answer)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => going.ended = Some((time, Err("it panicked".to_owned()))),
            }
        }
        if going.ended.as_ref().is_some_and(|(ended, _)| time - ended >= RELOAD_TAIL) {
            self.end_reload();
        }
    }

    fn end_reload(&mut self) {
        let pause_ms = self.sampler.end_reload();
        let Some(Going { at, ended: Some((ended, result)), .. }) = self.going.take() else { return };
        let (swap_ms, error) = match result {
            Ok(swap_ms) => (Some(swap_ms), None),
            Err(error) => (None, Some(error)),
        };
        self.reloads.push(Reload { at, seconds: ended - at, swap_ms, pause_ms, error });
    }

    /// The one that is going on at the end.
    fn finish_reload(&mut self) {
        let Some(going) = &mut self.going else { return };
        let begin = Instant::now();
        if going.ended.is_none() {
            let result = match going.answer.recv_timeout(RELOAD_TIME) {
                Ok(result) => result,
                Err(RecvTimeoutError::Timeout) => Err(format!("not over {} s after the end", RELOAD_TIME.as_secs())),
                Err(RecvTimeoutError::Disconnected) => Err("it panicked".to_owned()),
            };
            let end = self.sampler.points.last().map_or(going.at, |point| point.at);
            going.ended = Some((end + begin.elapsed().as_secs_f64(), result));
        }
        self.end_reload();
    }

    /// Each once, and not too many.
    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_from_one_world_to_another() {
        let target = |world: u32, script: u32| Target { world: format!("w-{world}"), script: format!("s-{script}") };
        let targets = Targets::new((1..=3).flat_map(|world| (1..=4).map(move |script| target(world, script))).collect());
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..1_000u64 {
            let (from, to) =
                targets.pair(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number.wrapping_mul(0xd1b5_4a32_d192_ed03)).unwrap();
            assert_ne!(from.world, to.world);
            seen.insert((from.world.clone(), from.script.clone()));
            seen.insert((to.world.clone(), to.script.clone()));
        }
        assert_eq!(seen.len(), 12);
        let one = Targets::new(vec![target(1, 1)]);
        assert_eq!(one.pair(7, 8), Some((&target(1, 1), &target(1, 1))));
        assert_eq!(Targets::new(Vec::new()).pair(7, 8), None);
    }

    #[test]
    fn a_marked_module_is_other_bytes_with_one_section_more() {
        let empty = b"\0asm\x01\0\0\0";
        let [one, two] = [1, 2].map(|mark| marked(empty, mark));
        assert_ne!(one, two);
        // Id, size, and exactly that much behind it.
        assert_eq!((one[8], usize::from(one[9]), &one[11..26]), (0, one.len() - 10, &b"aether-loadtest"[..]));
    }
}
