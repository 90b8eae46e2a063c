//! Everything at random, under load: each round harms a cluster at random moments, heals it, waits until all is well, and asks the checker.
//!
//! `AETHER_SEED` repeats the random numbers of a run, `AETHER_LONG` makes it one of 100 rounds. A round with one fault alone also gives
//! the figures that are printed at the end. Not here: what must happen for each fault by itself (`faults.rs`).

use super::disk::HANGS;
use super::load::{Trap, put_banner};
use super::proxy::Mode;
use super::reload::agree;
use super::rig::{Cluster, LEASE, NODES, Running};
use crate::records::{Random, is_long};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

const WORLDS: usize = 9;
/// Rounds without `AETHER_LONG`: about a minute.
const ROUNDS: u64 = 3;
const LONG_ROUNDS: u64 = 100;
/// No fault begins later in its round, and none lasts longer: some are shorter than the lease, some more than twice as long.
const BEGIN_MS: u64 = 1_500;
const LAST_MS: u64 = 4_000;

/// What is done to a cluster.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill(&'static str),
    Terminate(&'static str),
    Freeze(&'static str),
    Link(&'static str, &'static str, Mode),
    ToDatabase(&'static str, Mode),
    Database {
        immediate: bool,
    },
    /// How long each flush of the database takes.
    Disk(Duration),
    Move(usize, &'static str),
    Drain(&'static str),
    Publish,
}

/// A fault, when it begins, and when it ends if somebody must end it.
#[derive(Debug, Clone, Copy)]
struct Planned {
    fault: Fault,
    begin: Duration,
    end: Duration,
}

fn node(random: &mut Random) -> &'static str {
    NODES[random.below(3) as usize]
}

fn mode(random: &mut Random) -> Mode {
    match random.below(6) {
        0 | 1 => Mode::Cut,
        2 => Mode::HOLD,
        3 => Mode::Hold { up: true, down: false },
        4 => Mode::Hold { up: false, down: true },
        _ => Mode::Slow(Duration::from_millis(20 + random.below(300))),
    }
}

fn fault(random: &mut Random) -> Fault {
    let one = node(random);
    let other = NODES[(NODES.iter().position(|name| *name == one).unwrap_or_default() + 1 + random.below(2) as usize) % 3];
    match random.below(15) {
        0..=2 => Fault::Kill(one),
        3 => Fault::Terminate(one),
        4 | 5 => Fault::Freeze(one),
        6 | 7 => Fault::Link(one, other, mode(random)),
        8 | 9 => Fault::ToDatabase(one, mode(random)),
        10 => Fault::Database { immediate: random.below(2) == 0 },
        11 => Fault::Move(random.below(WORLDS as u64) as usize, one),
        12 => Fault::Drain(one),
        // Every other one hangs.
        13 => Fault::Disk(if random.below(2) == 0 { HANGS } else { Duration::from_millis(20 + random.below(300)) }),
        _ => Fault::Publish,
    }
}

/// Each third round has one fault alone.
fn plan(random: &mut Random, round: u64) -> Vec<Planned> {
    let count = if round % 3 == 1 { 1 } else { 1 + random.below(3) };
    let mut all: Vec<_> = (0..count)
        .map(|_| {
            let begin = random.below(BEGIN_MS);
            let end = begin + 100 + random.below(LAST_MS);
            let [begin, end] = [begin, end].map(Duration::from_millis);
            Planned { fault: fault(random), begin, end }
        })
        .collect();
    if round == 1 {
        // What is measured most, and for long enough.
        all[0].fault = Fault::Kill(node(random));
        all[0].end = all[0].begin + 3 * LEASE;
    }
    all.sort_by_key(|planned| planned.begin);
    all
}

/// What a cluster suffers now, and what was measured.
struct Storm {
    cluster: Cluster,
    frozen: Vec<&'static str>,
    drained: Vec<&'static str>,
    moved: Vec<String>,
    /// Nodes are not started while the way to the database is bad: whether one then waits or gives up is its operator's to know.
    no_starts: bool,
    commands: Vec<Running>,
    /// The banner's newest mark.
    mark: u32,
    published: bool,
    figures: BTreeMap<&'static str, Vec<Duration>>,
}

impl Storm {
    fn over(mut cluster: Cluster) -> Storm {
        cluster.clean = false;
        let (frozen, drained, moved, commands) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Storm { cluster, frozen, drained, moved, no_starts: false, commands, mark: 1, published: false, figures: BTreeMap::new() }
    }

    /// Harm the cluster. What does not make sense any more is left out: one cannot freeze the dead.
    fn begin(&mut self, fault: Fault) {
        let cluster = &mut self.cluster;
        let awake = |node: &str| cluster.is_running(node) && !self.frozen.contains(&node);
        match fault {
            Fault::Kill(node) if cluster.is_running(node) => {
                self.frozen.retain(|frozen| *frozen != node);
                cluster.kill(node);
            }
            // Whether it ends well depends on what else there is: see `heal`.
            Fault::Terminate(node) if awake(node) => cluster.ask_to_end(node),
            Fault::Freeze(node) if awake(node) => {
                cluster.freeze(node);
                self.frozen.push(node);
            }
            Fault::Link(one, other, mode) => cluster.harm_link(one, other, mode),
            Fault::ToDatabase(node, mode) => cluster.harm_database(node, mode),
            Fault::Database { immediate } if cluster.database.is_up() => {
                cluster.clean = false;
                // It would wait for its disk before it stops.
                cluster.database.disk().heal();
                cluster.database.stop(immediate);
            }
            Fault::Disk(flush) => cluster.database.disk().takes(flush, Duration::ZERO),
            Fault::Move(world, to) => {
                let name = format!("w{}", world + 1);
                self.command(&["move", &name, to]);
                self.moved.push(name);
            }
            Fault::Drain(node) => {
                self.command(&["drain", node]);
                self.drained.push(node);
            }
            Fault::Publish => {
                self.mark += 1;
                self.published = true;
                let folder = put_banner(self.cluster.dir(), self.mark, Trap::Nowhere);
                self.command(&["publish", folder.to_str().unwrap()]);
            }
            Fault::Kill(_) | Fault::Terminate(_) | Fault::Freeze(_) | Fault::Database { .. } => {}
        }
    }

    /// Of a node that is awake. It may fail, as everything may now; it must end.
    fn command(&mut self, arguments: &[&str]) {
        let awake = self.cluster.running().into_iter().find(|node| !self.frozen.contains(node));
        if let Some(node) = awake {
            self.commands.push(self.cluster.begin(node, arguments));
        }
    }

    fn end(&mut self, fault: Fault) {
        let cluster = &mut self.cluster;
        match fault {
            Fault::Freeze(node) if self.frozen.contains(&node) => {
                self.frozen.retain(|frozen| *frozen != node);
                cluster.thaw(node);
            }
            Fault::Link(one, other, _) => cluster.harm_link(one, other, Mode::Pass),
            Fault::ToDatabase(node, _) => cluster.harm_database(node, Mode::Pass),
            Fault::Database { .. } if !cluster.database.is_up() => {
                cluster.database.disk().heal();
                cluster.database.begin();
            }
            Fault::Disk(_) => cluster.database.disk().heal(),
            Fault::Kill(node) | Fault::Terminate(node) if !cluster.is_running(node) && !self.no_starts => {
                cluster.start_process(node);
            }
            // Operators' doings end with the round.
            _ => {}
        }
    }

    /// Carry the plan out. The moments are not waited for: any is good.
    fn carry_out(&mut self, plan: &[Planned]) {
        self.no_starts =
            plan.iter().any(|planned| matches!(planned.fault, Fault::Database { .. } | Fault::Disk(_) | Fault::ToDatabase(..)));
        let start = Instant::now();
        let mut moments: Vec<_> = plan.iter().flat_map(|p| [(p.begin, p.fault, true), (p.end, p.fault, false)]).collect();
        moments.sort_by_key(|(at, ..)| *at);
        for (at, fault, begins) in moments {
            self.cluster.until("the moment", |cluster| {
                cluster.reap();
                (start.elapsed() >= at).then_some(())
            });
            if begins { self.begin(fault) } else { self.end(fault) }
        }
    }

    /// Everything is as it should be again.
    fn heal(&mut self) {
        let cluster = &mut self.cluster;
        cluster.heal();
        cluster.database.disk().heal();
        self.frozen.drain(..).for_each(|node| cluster.thaw(node));
        if !cluster.database.is_up() {
            cluster.database.begin();
        }
        // Commands end by themselves, however.
        for mut command in self.commands.drain(..) {
            let _ = command.wait("an operator's command");
        }
        cluster.reap_all();
        for node in NODES {
            if !cluster.is_running(node) {
                cluster.start_node(node);
            }
        }
        for node in self.drained.drain(..) {
            cluster.until(&format!("{node} can be undrained"), |cluster| cluster.ask("a", &["undrain", node]).ok());
        }
        for world in self.moved.drain(..) {
            cluster.until(&format!("{world} can be unpinned"), |cluster| cluster.ask("a", &["unpin", &world]).ok());
        }
        cluster.settle();
        if std::mem::take(&mut self.published) {
            agree(&mut self.cluster);
        }
        self.cluster.deliver();
        self.cluster.check();
    }

    /// How long what was hit by one fault alone did without. `worlds`: those of each node before, with their generations.
    fn measure(&mut self, only: Planned, start: Instant, worlds: &BTreeMap<&str, Vec<(String, u64)>>) {
        let Planned { fault, begin, end } = only;
        // One that is back before its lease is over may go on with its worlds: that is no failover.
        let lost = end - begin > 2 * LEASE;
        let watch = &self.cluster.watch;
        let none = Vec::new();
        let of = |node: &str| worlds.get(node).unwrap_or(&none).iter();
        let after = |(world, old): &(String, u64)| {
            let next = watch.seen.range((world.clone(), old + 1)..=(world.clone(), u64::MAX)).next()?.1.first;
            Some(next.saturating_duration_since(start + begin))
        };
        let pause = |(world, old): &(String, u64)| watch.pause(world, *old);
        let (what, times): (_, Vec<_>) = match fault {
            Fault::Kill(node) if lost => ("failover after kill -9", of(node).filter_map(after).collect()),
            Fault::Freeze(node) if lost => ("failover after SIGSTOP", of(node).filter_map(after).collect()),
            Fault::Terminate(node) => ("pause of a world whose node stops", of(node).filter_map(pause).collect()),
            Fault::Drain(node) => ("drain of a node", of(node).filter_map(after).max().into_iter().collect()),
            Fault::Move(world, _) => {
                let name = format!("w{}", world + 1);
                let moved = NODES.iter().flat_map(|node| of(node)).filter(|(world, _)| *world == name);
                ("pause of a world that is moved", moved.filter_map(pause).collect())
            }
            Fault::Kill(_) | Fault::Freeze(_) => return,
            Fault::Link(..) | Fault::ToDatabase(..) | Fault::Database { .. } | Fault::Disk(_) | Fault::Publish => return,
        };
        self.figures.entry(what).or_default().extend(times);
    }

    fn report(&mut self) {
        for (what, times) in &mut self.figures {
            times.sort();
            if let (Some(last), count) = (times.last(), times.len()) {
                let [p50, p99] = [50, 99].map(|part| times[(count - 1) * part / 100]);
                eprintln!("{what}: p50 {p50:?}, p99 {p99:?}, longest {last:?} of {count} (lease {LEASE:?})");
            }
        }
    }
}

#[test]
fn whatever_fails_at_whatever_moment_every_world_goes_on_once() {
    let given = std::env::var("AETHER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("AETHER_SEED={seed}");
    let mut random = Random(seed);
    let mut storm = Storm::over(Cluster::start_on_slow_disk(WORLDS, LEASE));
    let rounds = if is_long() { LONG_ROUNDS } else { ROUNDS };
    for round in 1..=rounds {
        let plan = plan(&mut random, round);
        eprintln!("round {round} of AETHER_SEED={seed}: {plan:?}");
        let worlds = NODES.into_iter().map(|node| (node, storm.cluster.worlds_of(node))).collect();
        let start = Instant::now();
        storm.carry_out(&plan);
        storm.heal();
        if let [only] = plan[..] {
            storm.measure(only, start, &worlds);
        }
    }
    storm.report();
    // Everybody stops well: what was stored last was let out, and nothing stays on its way for ever.
    let mut cluster = storm.cluster;
    for node in NODES {
        cluster.terminate(node);
    }
    for (world, kept) in cluster.check() {
        let shown = cluster.watch.newest(&world).1.ledger.map(|(_, last)| last);
        assert_eq!(shown, Some(kept.counter), "{world}");
        // There was something to lose.
        let applied: u64 = kept.received.values().map(|received| received.last).sum();
        assert!(kept.counter > 20 * rounds && applied > 10 * rounds, "{world}: {kept:?}");
    }
}

#[test]
fn plans_of_a_seed_are_the_same_and_have_every_fault() {
    let plans = |seed: u64| {
        let mut random = Random(seed);
        (1..=LONG_ROUNDS).map(|round| format!("{:?}", plan(&mut random, round))).collect::<Vec<_>>()
    };
    assert_eq!(plans(7), plans(7));
    let all = plans(7).concat();
    for what in [
        "Kill",
        "Terminate",
        "Freeze",
        "Link",
        "ToDatabase",
        "Database {",
        "Disk(3600s",
        "Move",
        "Drain",
        "Publish",
        "Cut",
        "Hold",
        "Slow",
    ] {
        assert!(all.contains(what), "{what}");
    }
}
