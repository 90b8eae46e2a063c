//! A node whose disk is slow, or hangs: its worlds tick as long as they may, nothing leaves them before it is durable, operators are told,
//! and it goes on by itself. Killed meanwhile it keeps the rules of [`problems`].
//!
//! Start with [`Sick`]. Not here: a database that hangs (`cluster/standby.rs`), the disk itself (`disk.rs`).

use super::{DEADLINE, Kept, Process, WORLDS, Worlds, kept, left, of_all_worlds, problems, put_cluster};
use crate::disk::SlowDisk;
use crate::records::{Random, is_long, put_script};
use aether_admin::{Client, Request, socket_path};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const HEALTHY: Duration = Duration::ZERO;
/// Between two looks: whoever asks more often is told to wait.
const LOOK: Duration = Duration::from_millis(50);

/// A node over a disk that may be slow, and what it answers.
struct Sick {
    process: Process,
    disk: SlowDisk,
    admin: SocketAddr,
    client: Client,
}

impl Sick {
    #[track_caller]
    fn start(dir: &Path, flush: Duration, write: Duration) -> Sick {
        let disk = SlowDisk::below(&dir.join("data"), dir);
        disk.takes(flush, write);
        let process = Process::start_with(dir, &disk.variables());
        let mut admin = None;
        look("it prints its address", &process, || {
            let log = process.log();
            let url = log.lines().find_map(|line| line.strip_prefix("dashboard at http://")?.split('/').next()?.parse().ok());
            admin = url;
            admin.is_some()
        });
        let client = Client::new(socket_path(&dir.join("data")));
        Sick { process, disk, admin: admin.unwrap(), client }
    }

    /// What it answers, which it must within [`DEADLINE`] whatever its disk does.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The same on its socket.
    #[track_caller]
    fn ask(&self, request: Request) -> Value {
        self.client.ask(&request, &()).unwrap_or_else(|error| panic!("{request:?}: {error}"))
    }

    fn world(&self, world: &str) -> Value {
        self.ask(Request::World(world.to_owned()))
    }

    fn ticks(&self) -> Worlds<u64> {
        of_all_worlds(|world| self.world(world)["tick"].as_u64().unwrap())
    }

    /// What the metric says of all worlds: the largest.
    fn longest_commit(&self) -> f64 {
        let (_, text) = self.get("/metrics");
        let values = text.lines().filter(|line| line.starts_with("aether_world_commit_max_seconds{"));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).fold(0.0, f64::max)
    }

    /// What the flight record of a world has of waits for the disk.
    fn waits(&self, world: &str) -> Vec<String> {
        let record = self.ask(Request::Flight(world.to_owned()));
        let held = record["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "held");
        held.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Lines that left each world.
    fn lines(&self) -> Worlds<usize> {
        left(&self.process.outputs()).into_iter().map(|(world, left)| (world, left.lines)).collect()
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl FnMut() -> bool) {
        look(what, &self.process, done);
    }
}

#[track_caller]
fn look(what: &str, process: &Process, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}\n{}", process.log());
        sleep(LOOK);
    }
}

/// The ring of `survive.rs`, with an address to ask.
fn put_asked_cluster(dir: &Path) {
    put_cluster(dir);
    let mut file = OpenOptions::new().append(true).open(dir.join("cluster.toml")).unwrap();
    file.write_all(b"[admin]\nlisten = \"127.0.0.1:0\"\nrequire_token = false\n").unwrap();
}

/// All rules hold after a run; gives what is kept now.
#[track_caller]
fn sound(dir: &Path, before: &Worlds<Kept>, process: &Process, stopped: bool) -> Worlds<Kept> {
    let now = kept(&dir.join("data"));
    let mut found = problems(before, &left(&process.outputs()), &now, stopped);
    let log = process.log();
    let bad = |line: &&str| ["panicked", "parked:", " ended", "NOT saved", "refused"].iter().any(|word| line.contains(word));
    found.extend(log.lines().filter(bad).map(|line| format!("log: {line}")));
    assert!(found.is_empty(), "{}\n\nlog:\n{log}", found.join("\n"));
    now
}

#[test]
fn worlds_tick_on_while_every_flush_is_slow_and_show_what_they_did_when_it_is_durable() {
    const FLUSH: Duration = Duration::from_millis(200);
    let dir = tempfile::tempdir().unwrap();
    put_asked_cluster(dir.path());
    let mut sick = Sick::start(dir.path(), HEALTHY, HEALTHY);
    sick.process.wait_for(10);
    sick.disk.takes(FLUSH, HEALTHY);
    // More ticks than may wait for the disk: what they wrote becomes durable meanwhile.
    let from = sick.ticks();
    sick.until("150 ticks of every world", || sick.ticks().iter().all(|(world, tick)| *tick >= from[world] + 150));
    sick.until("operators can see how slow it is", || sick.longest_commit() >= FLUSH.as_secs_f64());
    for world in WORLDS {
        assert_eq!(sick.waits(world), Vec::<String>::new(), "{world} need not have waited for the disk");
    }
    let lines = sick.lines();
    sick.until("every world shows something", || sick.lines().iter().all(|(world, now)| *now > lines[world]));
    assert_eq!(sick.get("/readyz").0, 200);
    // A stop waits for the disk, and loses nothing.
    sick.process.stop();
    sound(dir.path(), &of_all_worlds(|_| Kept::default()), &sick.process, true);
}

#[test]
fn while_the_disk_hangs_nothing_leaves_a_world_operators_are_told_and_afterwards_it_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    put_asked_cluster(dir.path());
    let mut sick = Sick::start(dir.path(), HEALTHY, HEALTHY);
    sick.process.wait_for(10);
    sick.disk.hang();
    let state = |world: &str| sick.world(world)["state"].as_str().unwrap().to_owned();
    sick.until("every world waits for the disk", || WORLDS.into_iter().all(|world| state(world) == "held"));
    // Their ticks went on when nothing left them any more.
    let (lines, ticks) = (sick.lines(), sick.ticks());
    for (world, left) in left(&sick.process.outputs()) {
        let behind = ticks[&world].saturating_sub(left.shown);
        assert!(behind >= 32, "{world} is at tick {}, and {} was shown", ticks[&world], left.shown);
    }
    let mut reasons = Value::Null;
    sick.until("it is not ready", || {
        let (status, body) = sick.get("/readyz");
        reasons = serde_json::from_str(&body).unwrap();
        status == 503
    });
    assert!(reasons.to_string().contains("its output waits for the disk"), "{reasons:#}");
    // The hang is longer by now than a quiet world may be before it is one.
    assert!(sick.longest_commit() > 3.0, "{} s", sick.longest_commit());
    assert_eq!((sick.get("/healthz").0, sick.lines()), (200, lines.clone()));
    for world in WORLDS {
        assert_eq!(sick.waits(world), ["its output waits for the disk, and so does it"], "{world}");
    }
    sick.disk.heal();
    sick.until("every world goes on", || sick.lines().iter().all(|(world, now)| *now > lines[world] + 100));
    sick.until("it is ready", || sick.get("/readyz").0 == 200);
    for world in WORLDS {
        assert_eq!(sick.waits(world).last().map(String::as_str), Some("the disk has caught up"), "{world}");
    }
    sick.process.stop();
    sound(dir.path(), &of_all_worlds(|_| Kept::default()), &sick.process, true);
}

#[test]
fn killed_while_the_disk_is_slow_or_hangs_it_has_lost_nothing_that_left() {
    let given = std::env::var("AETHER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("AETHER_SEED={seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    put_asked_cluster(dir.path());
    let mut before = of_all_worlds(|_| Kept::default());
    for round in 0..if is_long() { 60 } else { 6 } {
        let ms = |below| Duration::from_millis(below);
        let (flush, write) = (ms(1 + random.below(400)), ms(1 + random.below(20)));
        let mut sick = Sick::start(dir.path(), HEALTHY, HEALTHY);
        sick.process.wait_for(random.lines(20));
        match round % 3 {
            // In a flush, most likely.
            0 => sick.disk.takes(flush, HEALTHY),
            // Between two writes of one commit, most likely.
            1 => sick.disk.takes(flush, write),
            _ => sick.disk.hang(),
        }
        random.pause(2_000);
        sick.process.kill();
        eprintln!("round {round}: killed, {flush:?} a flush, {write:?} a write");
        before = sound(dir.path(), &before, &sick.process, false);
    }
    // And it starts on a slow disk.
    let mut sick = Sick::start(dir.path(), Duration::from_millis(100), Duration::from_millis(1));
    sick.process.wait_for(10);
    sick.process.stop();
    sound(dir.path(), &before, &sick.process, true);
}

/// Writes in every tick.
const WRITER: &str = r#"(module
  (import "aether:storage" "set" (func $set (param i32 i32 i32 i32) (result i32)))
  (import "aether:script" "tick" (func $tick (result i64)))
  (memory (export "memory") 1) (data (i32.const 0) "tick") (func (export "aether_abi_1"))
  (func (export "on_tick") (param f32)
    (i64.store (i32.const 8) (call $tick))
    (drop (call $set (i32.const 0) (i32.const 4) (i32.const 8) (i32.const 8)))))"#;
const QUIET: &str =
    r#"(module (memory (export "memory") 1) (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#;

#[test]
fn many_worlds_that_wait_for_the_disk_keep_no_tick_thread_from_those_that_write_nothing_and_none_ends_for_it() {
    /// Times the commits that may wait of each: many more than the store's queue holds.
    const WRITERS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    put_script(dir.path(), "writer", "on_budget = \"terminate\"\nfuel = 100000", WRITER);
    put_script(dir.path(), "quiet", "on_budget = \"terminate\"\nfuel = 100000", QUIET);
    let text = format!(
        "[node]\ndata_dir = \"data\"\ntick_threads = 2\ninstances_small = 700\ninstances_large = 2\n\
         [server]\naot_cache_dir = \"cache\"\n[admin]\nlisten = \"127.0.0.1:0\"\nrequire_token = false\n\
         [limits]\ntick_hz = 10.0\ncheckpoint_seconds = 3600.0\n\
         [[world]]\nname = \"writer\"\ncount = {WRITERS}\n[[world.script]]\nscript = \"writer\"\n\
         [[world]]\nname = \"quiet\"\n[[world.script]]\nscript = \"quiet\"\n"
    );
    fs::write(dir.path().join("cluster.toml"), text).unwrap();
    let mut sick = Sick::start(dir.path(), HEALTHY, HEALTHY);
    let told = || -> Vec<(String, String, u64)> {
        let answer = sick.ask(Request::Worlds("limit=1000".to_owned()));
        let rows = answer["worlds"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let text = |row: &Value, what: &str| row[what].as_str().unwrap().to_owned();
        rows.iter().map(|row| (text(row, "name"), text(row, "state"), row["tick"].as_u64().unwrap())).collect()
    };
    let are = |state: &str, count: usize| {
        let told = told();
        told.len() == WRITERS + 1 && told.iter().filter(|(_, is, _)| is == state).count() == count
    };
    sick.until("all tick", || are("ticking", WRITERS + 1));
    sick.disk.hang();
    let hung = Instant::now();
    sick.until("all that write wait for the disk", || are("held", WRITERS));
    let quiet = |told: Vec<(String, String, u64)>| told.into_iter().find(|(name, ..)| name == "quiet").unwrap();
    // Longer than anybody waits for a place in the store's queue.
    let from = quiet(told()).2;
    sick.until("fifteen seconds of the world that writes nothing", || {
        quiet(told()).2 >= from + 150 && hung.elapsed() > Duration::from_secs(15)
    });
    assert!(are("held", WRITERS), "{:?}", told());
    assert_eq!(quiet(told()).1, "ticking");
    sick.disk.heal();
    sick.until("all tick again", || are("ticking", WRITERS + 1));
    let ended: Vec<_> = sick.process.log().lines().filter(|line| line.contains(" ended")).map(str::to_owned).collect();
    assert_eq!(ended, Vec::<String>::new());
    sick.process.stop();
}

/// What wakes a world that is told something; it has a state, and so goes on.
const SLEEPER: &str = r#"(module (memory (export "memory") 1) (func (export "aether_abi_1"))
  (func (export "aether_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "on_message") (param i64 i64 i32 i32 i32)))"#;

#[test]
fn a_world_that_is_needed_while_it_falls_asleep_waits_for_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    put_script(dir.path(), "sleeper", "on_budget = \"terminate\"\nfuel = 100000", SLEEPER);
    let text = "[node]\ndata_dir = \"data\"\ntick_threads = 1\ninstances_small = 50\ninstances_large = 2\n\
         [server]\naot_cache_dir = \"cache\"\n[admin]\nlisten = \"127.0.0.1:0\"\nrequire_token = false\n\
         [limits]\ntick_hz = 20.0\nhibernate_seconds = 1.0\n\
         [[world]]\nname = \"cave\"\n[[world.script]]\nscript = \"sleeper\"\n";
    fs::write(dir.path().join("cluster.toml"), text).unwrap();
    let mut sick = Sick::start(dir.path(), HEALTHY, HEALTHY);
    let rests = || -> Vec<String> {
        let record = sick.ask(Request::Flight("cave".to_owned()));
        let rests = record["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "rest");
        rests.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    };
    let state = || sick.world("cave")["state"].as_str().unwrap().to_owned();
    sick.until("it sleeps", || rests().last().is_some_and(|text| text == "it sleeps"));
    // A question to the world wakes it, and is answered by it. While it ticks its disk begins to hang, so it cannot get to sleep again.
    let asked = |what: &str| {
        let begun = Instant::now();
        sick.ask(Request::SetAside("cave".to_owned()));
        eprintln!("{what}: answered after {:?}", begun.elapsed());
    };
    asked("asleep");
    sick.disk.hang();
    let slept = rests().len();
    for _ in 0..2 {
        sick.until("it is saved, and not durable", || state() == "asleep");
        // Nobody knows when the disk is back: without an answer the node would say so after thirty seconds, which is an error here.
        asked("falling asleep");
        sick.until("it ticks", || state() == "ticking");
    }
    assert_eq!(rests()[slept..], ["it was needed before it slept", "it was needed before it slept"]);
    sick.disk.heal();
    sick.until("it sleeps when its disk is back", || rests().last().is_some_and(|text| text == "it sleeps"));
    asked("asleep again");
    sick.process.stop();
}
