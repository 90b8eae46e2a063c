//! Looks at what leaves worlds as it leaves: follows the outputs files of all nodes, feeds the checker's history and notes the times.
//!
//! Times are those of the look, so they are late by the time between two looks at most. Not here: rules.

use super::checker::{Era, History};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file that grows by lines.
struct Tail {
    node: String,
    path: PathBuf,
    at: u64,
    /// What came after the last line feed: cut off by a kill, or not written yet.
    rest: Vec<u8>,
}

impl Tail {
    fn lines(&mut self) -> Vec<String> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{}: {error}", self.path.display()),
        };
        file.seek(SeekFrom::Start(self.at)).unwrap();
        self.at += file.read_to_end(&mut self.rest).unwrap() as u64;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.rest.split_off(end + 1);
        let text = String::from_utf8(std::mem::replace(&mut self.rest, rest)).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// When a generation of a world was seen to let something out.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub first: Instant,
    pub last: Instant,
    /// The longest time between two looks that saw something.
    pub longest: Duration,
}

/// All that left so far.
#[derive(Default)]
pub struct Watch {
    tails: Vec<Tail>,
    pub history: History,
    pub seen: BTreeMap<(String, u64), Seen>,
}

impl Watch {
    /// A node lets out into this file from now on.
    pub fn follow(&mut self, node: &str, path: &Path) {
        self.tails.push(Tail { node: node.to_owned(), path: path.to_owned(), at: 0, rest: Vec::new() });
    }

    /// The file of a life that is over. `path`: where it is now.
    pub fn finish(&mut self, node: &str, path: &Path) {
        self.look();
        let index = self.tails.iter().position(|tail| tail.node == node);
        if let Some(index) = index {
            let mut tail = self.tails.remove(index);
            tail.path = path.to_owned();
            self.take(&mut tail);
        }
    }

    /// Take what came since the last look.
    pub fn look(&mut self) {
        let mut tails = std::mem::take(&mut self.tails);
        tails.iter_mut().for_each(|tail| self.take(tail));
        self.tails = tails;
    }

    fn take(&mut self, tail: &mut Tail) {
        let (lines, now) = (tail.lines(), Instant::now());
        for line in lines {
            let key = self.history.add(&tail.node, &line);
            let seen = self.seen.entry(key).or_insert(Seen { first: now, last: now, longest: Duration::ZERO });
            (seen.longest, seen.last) = (seen.longest.max(now - seen.last), now);
        }
    }

    /// The newest generation of a world that let something out; 0 and nothing if there is none.
    pub fn newest(&self, world: &str) -> (u64, Era) {
        let newest = self.history.worlds.get(world).and_then(|left| left.newest());
        newest.map_or((0, Era::default()), |(generation, era)| (generation, era.clone()))
    }

    /// Between the last output of a generation and the first of the next one that let something out.
    pub fn pause(&self, world: &str, before: u64) -> Option<Duration> {
        let last = self.seen.get(&(world.to_owned(), before))?.last;
        let next = self.seen.range((world.to_owned(), before + 1)..=(world.to_owned(), u64::MAX)).next()?.1.first;
        Some(next.saturating_duration_since(last))
    }

    /// The longest time in which nothing of a world was seen, over all generations since `since`.
    pub fn longest(&self, world: &str, since: Instant) -> Duration {
        let (mut longest, mut last) = (Duration::ZERO, None::<Instant>);
        for (_, seen) in self.seen.range((world.to_owned(), 0)..=(world.to_owned(), u64::MAX)) {
            if seen.last >= since {
                let between = last.map_or(Duration::ZERO, |last| seen.first.saturating_duration_since(last));
                longest = longest.max(seen.longest).max(between);
            }
            last = Some(seen.last);
        }
        longest
    }
}

/// Which of these processes has the connection from one port of loopback to another.
pub fn process_of(from: u16, to: u16, processes: impl Iterator<Item = u32>) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (port(fields.get(1)?)? == from && port(fields.get(2)?)? == to)
            .then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    })?;
    let has = |process: &u32| {
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|link| link.as_os_str() == inode.as_str())
    };
    processes.into_iter().find(has)
}

#[test]
fn a_process_is_known_by_the_port_that_it_dials_from() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().port();
    let stream = std::net::TcpStream::connect(("127.0.0.1", to)).unwrap();
    let from = stream.local_addr().unwrap().port();
    let me = std::process::id();
    assert_eq!(process_of(from, to, [1_000_000_000, me].into_iter()), Some(me));
    assert_eq!(process_of(from, to, [1_000_000_000].into_iter()), None);
    drop(stream);
}

#[test]
fn a_cut_line_is_read_when_its_end_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outputs");
    let line = |tick: u64| format!("{{\"world\":\"w\",\"generation\":1,\"tick\":{tick},\"commands\":[],\"calls\":[]}}\n");
    let mut watch = Watch::default();
    watch.follow("a", &path);
    watch.look();
    std::fs::write(&path, format!("{}{}", line(1), &line(2)[..9])).unwrap();
    watch.look();
    assert_eq!(watch.newest("w").1.tick, 1);
    std::fs::write(&path, format!("{}{}", line(1), line(2))).unwrap();
    watch.look();
    let (generation, era) = watch.newest("w");
    assert_eq!((generation, era.tick, era.lines, era.node.as_str()), (1, 2, 2, "a"));
}
