//! Waiting for a cluster and judging it: what left its worlds, what its store has.
//!
//! Start with [`Cluster::until`] and [`Cluster::check`]. Nothing here sleeps instead of looking.

use super::checker::{Kept, Worlds, problems};
use super::load::TICK_HZ;
use super::rig::{Cluster, DEADLINE, LOOK, NODES, Running, life};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

impl Cluster {
    /// Look until there is something to see.
    #[track_caller]
    pub fn until<R>(&mut self, what: &str, mut look: impl FnMut(&mut Cluster) -> Option<R>) -> R {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.watch.look();
            if let Some(found) = look(self) {
                return found;
            }
            for (name, node) in self.nodes.iter_mut().filter(|(name, _)| !self.ending.contains(name)) {
                let ended = node.process.as_mut().and_then(Running::ended);
                assert_eq!(ended, None, "{name} ended by itself, while waiting for this: {what}");
            }
            if Instant::now() >= deadline {
                // What broke a rule may be why.
                let broken = if self.database.is_up() { self.found(&self.database.kept()) } else { Vec::new() };
                let broken = broken.into_iter().take(10).collect::<Vec<_>>().join("\n");
                panic!("not within {DEADLINE:?}: {what}\n{}{broken}", self.picture());
            }
            sleep(LOOK);
        }
    }

    /// What left last, world by world.
    pub fn picture(&self) -> String {
        let mut text = String::new();
        for world in &self.ring {
            let (generation, era) = self.watch.newest(world);
            let ago = self.watch.seen.get(&(world.clone(), generation)).map_or(Duration::ZERO, |seen| seen.last.elapsed());
            let node = &era.node;
            writeln!(text, "  {world}: generation {generation} on {node}: {} lines, tick {}, {ago:?} ago", era.lines, era.tick)
                .unwrap();
        }
        text
    }

    /// The node that let out something of a world's newest generation, if its process still runs.
    pub fn owner(&self, world: &str) -> Option<&'static str> {
        let (_, era) = self.watch.newest(world);
        NODES.into_iter().find(|name| self.is_running(name) && era.node == life(name, self.nodes[*name].lives))
    }

    /// The worlds of a node, in the same sense, with their generations.
    pub fn worlds_of(&self, node: &str) -> Vec<(String, u64)> {
        let own = self.ring.iter().filter(|world| self.owner(world) == Some(node));
        own.map(|world| (world.clone(), self.watch.newest(world).0)).collect()
    }

    /// The newest generation of each world that let something out.
    pub fn generations(&self) -> BTreeMap<String, u64> {
        self.ring.iter().map(|world| (world.clone(), self.watch.newest(world).0)).collect()
    }

    /// Until each world has let out so many lines more, in its newest generation, on a node that runs.
    #[track_caller]
    pub fn go_on(&mut self, lines: u64) {
        let before: BTreeMap<_, _> = self.ring.iter().map(|world| (world.clone(), self.watch.newest(world))).collect();
        self.until(&format!("{lines} more ticks of every world"), |cluster| {
            let goes_on = |world: &String| {
                let ((old, old_era), (generation, era)) = (&before[world], cluster.watch.newest(world));
                let from = if generation == *old { old_era.lines } else { 0 };
                era.lines >= from + lines && cluster.owner(world).is_some()
            };
            cluster.ring.iter().all(goes_on).then_some(())
        });
    }

    /// Until every node that runs has worlds, and no world has changed hands for a second.
    #[track_caller]
    pub fn settle(&mut self) {
        self.until("every node has worlds that tick, and they stay there", |cluster| {
            let owners: Option<BTreeSet<_>> = cluster.ring.iter().map(|world| cluster.owner(world)).collect();
            let stay = cluster.ring.iter().all(|world| cluster.watch.newest(world).1.lines >= u64::from(TICK_HZ));
            (stay && owners?.into_iter().eq(cluster.running())).then_some(())
        });
        // What it looked like may have been a moment's: all of them still go on.
        self.go_on(3);
    }

    /// Until each of these worlds has gone on in a later generation; gives when that let something out first.
    #[track_caller]
    pub fn taken_over(&mut self, worlds: &[(String, u64)]) -> Vec<Instant> {
        self.until(&format!("{worlds:?} go on in later generations"), |cluster| {
            let next = |(world, old): &(String, u64)| {
                let (generation, _) = cluster.watch.newest(world);
                (generation > *old).then(|| cluster.watch.seen[&(world.clone(), generation)].first)
            };
            worlds.iter().map(next).collect()
        })
    }

    /// Until every call that has been made by now is applied.
    #[track_caller]
    pub fn deliver(&mut self) {
        let (ring, sent) = (self.ring.clone(), self.database.kept());
        let mut asked = Instant::now();
        self.until("every call arrives", |cluster| {
            if asked.elapsed() < Duration::from_millis(100) {
                return None;
            }
            asked = Instant::now();
            let kept = cluster.database.kept();
            let arrived = |i: usize| {
                let (world, next) = (&ring[i], &ring[(i + 1) % ring.len()]);
                let last = kept.get(next).and_then(|kept| kept.received.get(world)).map_or(0, |received| received.last);
                last >= sent.get(world).map_or(0, |kept| kept.sent)
            };
            (0..ring.len()).all(arrived).then_some(())
        });
    }

    /// What is wrong so far, with this snapshot of the store; also who panicked.
    fn found(&self, kept: &Worlds<Kept>) -> Vec<String> {
        let mut found = problems(&self.ring, &self.watch.history, &self.before, kept, self.clean);
        let all = fs::read_dir(self.dir()).unwrap().flatten();
        for entry in all.filter(|entry| entry.file_name().to_string_lossy().starts_with("err-")) {
            let text = fs::read(entry.path()).unwrap();
            let text = String::from_utf8_lossy(&text);
            let bad = text.lines().filter(|line| line.contains("panicked"));
            found.extend(bad.map(|line| format!("{}: {line}", entry.file_name().to_string_lossy())));
        }
        found
    }

    /// All rules hold so far, and nobody panicked.
    #[track_caller]
    pub fn check(&mut self) -> Worlds<Kept> {
        // What left is read first: the store must have it.
        self.watch.look();
        let kept = self.database.kept();
        let found = self.found(&kept);
        let first = found.iter().take(30).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(found.is_empty(), "{} problems:\n{first}\n{}", found.len(), self.picture());
        self.before = kept.clone();
        kept
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        const END: usize = 3_000;
        let mut names: Vec<_> = fs::read_dir(self.dir()).unwrap().flatten().map(|entry| entry.path()).collect();
        names
            .retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("err-") || name == "commands"));
        names.sort();
        let mut text = String::new();
        for path in names {
            let log = fs::read(&path).unwrap_or_default();
            let end = String::from_utf8_lossy(&log[log.len().saturating_sub(END)..]).into_owned();
            write!(text, "--- {}\n{end}\n", path.display()).unwrap();
        }
        text
    }
}
