//! What is left of a node that is killed: rounds of `kill -9` of the program itself under load, judged from outside by what had
//! left its worlds (`[node] outputs`) and what its store has. And how much room a world's state takes in the long run.
//!
//! Start with [`problems`]: the rules. The scripts are below it. `AETHER_SEED` repeats the random numbers of a run, `AETHER_LONG`
//! makes it a long one. A disk that is slow or hangs meanwhile is in [`slow`]. Not here: losses of power (a killed process loses nothing
//! that the system has), the store by itself.

mod slow;

use crate::program::command;
use crate::records::{COMMON, DIARY, LEDGER, NO_STATE, Random, is_long, put_script};
use aether_cluster::{Node, NodeConfig};
use aether_scripting::compile::Compiler;
use aether_store::{SqliteStore, Store, StoreError};
use aether_types::WorldId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of every wait for the program, on a machine with much else to do.
const DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at what it does.
const LOOK: Duration = Duration::from_millis(5);
/// Each calls the next, the last one the first.
const WORLDS: [&str; 4] = ["north", "east", "south", "west"];
/// Comes before the diary's number in its saved state, whatever a checkpoint has around that.
const MARK: &[u8] = b"DIARY-IS";

/// Something of every world.
type Worlds<T> = BTreeMap<String, T>;

/// What left a world in one run of the program. That it left says that it is durable, with all that it follows from.
#[derive(Debug, Clone, Default)]
struct Left {
    lines: usize,
    /// The highest number that the ledger showed.
    shown: u64,
    /// The first and the last number that the diary showed.
    diary: Option<(u64, u64)>,
    /// The highest number that went out in a call.
    called: u64,
    /// The calls that were answered here, by sender and number.
    answered: Vec<String>,
}

/// What the store has of a world while nobody runs it.
#[derive(Debug, Clone, Default)]
struct Kept {
    counter: u64,
    /// Written in the same tick as `counter`, after it.
    twin: u64,
    /// The last number that the sender took.
    sent: u64,
    /// How often each call was applied, by sender and number.
    applied: BTreeMap<String, u64>,
    /// The highest number applied. Written after its `applied`.
    highest: u64,
    /// How often each answer came back.
    answered: BTreeMap<String, u64>,
    /// The diary's number in the checkpoint that the next start begins with; 0 if it begins anew.
    diary: u64,
}

/// What is wrong after a run. `before`: what was kept when it began. `stopped`: it was not killed, but asked to stop.
fn problems(before: &Worlds<Kept>, left: &Worlds<Left>, kept: &Worlds<Kept>, stopped: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rule = |holds: bool, world: &str, otherwise: Arguments<'_>| {
        if !holds {
            problems.push(format!("{world}: {otherwise}"));
        }
    };
    for (i, world) in WORLDS.into_iter().enumerate() {
        let [previous, next] = [i + WORLDS.len() - 1, i + 1].map(|i| WORLDS[i % WORLDS.len()]);
        let (before, left, now) = (&before[world], &left[world], &kept[world]);
        let Left { shown, called, .. } = *left;
        let Kept { counter, twin, sent, highest, .. } = *now;

        // Nothing acknowledged is lost.
        rule(shown <= counter, world, format_args!("lost: the ledger showed {shown}, the store has {counter}"));
        rule(called <= sent, world, format_args!("lost: call {called} left, the store has {sent}"));
        for call in &left.answered {
            rule(now.applied.contains_key(call), world, format_args!("lost: call {call} was answered, and is not applied"));
        }
        for call in now.answered.keys() {
            let applied = kept[next].applied.contains_key(call);
            rule(applied, world, format_args!("lost: the answer to call {call} came, and {next} has not applied it"));
        }

        // Nothing is done twice, or without a reason.
        for (call, times) in &now.applied {
            rule(*times == 1, world, format_args!("twice: call {call} was applied {times} times"));
            let number = call.strip_prefix(previous).and_then(|rest| rest.strip_prefix('/')?.parse::<u64>().ok());
            let known = number.is_some_and(|number| (1..=kept[previous].sent).contains(&number));
            rule(known, world, format_args!("from nowhere: call {call} was applied, {previous} sent {}", kept[previous].sent));
        }
        for (call, times) in &now.answered {
            rule(*times == 1, world, format_args!("twice: the answer to call {call} came {times} times"));
        }

        // Nothing goes back, and no tick is torn.
        rule(counter >= before.counter, world, format_args!("back: the counter is {counter}, was {}", before.counter));
        rule(sent >= before.sent, world, format_args!("back: the sender is at {sent}, was {}", before.sent));
        rule(highest >= before.highest, world, format_args!("back: the highest call is {highest}, was {}", before.highest));
        for call in before.applied.keys() {
            rule(now.applied.contains_key(call), world, format_args!("back: call {call} is not applied any more"));
        }
        for call in before.answered.keys() {
            rule(now.answered.contains_key(call), world, format_args!("back: the answer to call {call} is gone"));
        }
        rule(twin == counter, world, format_args!("torn: the counter is {counter}, its twin {twin}"));
        let has_highest = highest == 0 || now.applied.contains_key(&format!("{previous}/{highest}"));
        rule(has_highest, world, format_args!("torn: call {highest} is the highest, and is not applied"));

        // Memory goes on from the checkpoint.
        if let Some((first, last)) = left.diary {
            rule(first == before.diary + 1, world, format_args!("memory: {first} came after a checkpoint with {}", before.diary));
            let saved = !stopped || last == now.diary;
            rule(saved, world, format_args!("memory: {last} was shown last, and {} was saved when it stopped", now.diary));
        }
        // Asked to stop, it lets out all that is durable.
        rule(!stopped || shown == counter, world, format_args!("kept back: {shown} was shown last, the store has {counter}"));
    }
    problems
}

/// Read what left. What comes after the last line feed was cut off by the kill; all other lines are whole.
fn left(text: &str) -> Worlds<Left> {
    let mut worlds = of_all_worlds(|_| Left::default());
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let left = worlds.get_mut(line["world"].as_str().unwrap()).unwrap();
        left.lines += 1;
        for command in line["commands"].as_array().unwrap() {
            let number: u64 = command["text"].as_str().unwrap().parse().unwrap();
            match command["element"].as_str().unwrap() {
                "ledger" => left.shown = left.shown.max(number),
                "diary" => left.diary = Some((left.diary.map_or(number, |(first, _)| first), number)),
                _ => panic!("nobody shows this: {line}"),
            }
        }
        for call in line["calls"].as_array().unwrap() {
            match (call.get("Call"), call.get("Reply")) {
                (Some(call), None) => left.called = left.called.max(text_of(&call["payload"]).parse().unwrap()),
                (None, Some(answer)) => left.answered.push(text_of(&answer["payload"])),
                _ => panic!("neither call nor answer: {line}"),
            }
        }
    }
    worlds
}

fn text_of(payload: &Value) -> String {
    payload.as_array().unwrap().iter().map(|byte| char::from(u8::try_from(byte.as_u64().unwrap()).unwrap())).collect()
}

/// Read the store.
fn kept(data: &Path) -> Worlds<Kept> {
    let store = open(data);
    of_all_worlds(|world| {
        let id = WorldId::new(world).unwrap();
        let mut kept = Kept::default();
        for (namespace, key, value) in store.load_keys(&id).unwrap() {
            let number = u64::from_le_bytes(value.try_into().unwrap());
            match (namespace.as_str(), key.as_str()) {
                ("ledger", "counter") => kept.counter = number,
                ("ledger", "twin") => kept.twin = number,
                ("sender", "sent") => kept.sent = number,
                ("sender", _) => assert_eq!(kept.answered.insert(key, number), None),
                ("receiver", "highest") => kept.highest = number,
                ("receiver", _) => assert_eq!(kept.applied.insert(key, number), None),
                _ => panic!("nobody writes {namespace}/{key}"),
            }
        }
        let checkpoints = store.load_checkpoints(&id).unwrap();
        kept.diary = checkpoints.first().map_or(0, |newest| diary_of(&newest.data));
        kept
    })
}

fn diary_of(checkpoint: &[u8]) -> u64 {
    let mut found = checkpoint.windows(MARK.len() + 8).filter_map(|window| window.strip_prefix(MARK));
    let number = found.next().map_or(0, |number| u64::from_le_bytes(number.try_into().unwrap()));
    assert_eq!(found.next(), None);
    number
}

/// The lock of a process that was killed is gone when no child has it any more that was being started.
fn open(data: &Path) -> SqliteStore {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match SqliteStore::open(data) {
            Ok(store) => return store,
            Err(StoreError::Locked(_)) if Instant::now() < deadline => sleep(LOOK),
            Err(error) => panic!("{error}"),
        }
    }
}

fn of_all_worlds<T>(of: impl Fn(&str) -> T) -> Worlds<T> {
    WORLDS.into_iter().map(|world| (world.to_owned(), of(world))).collect()
}

/// Takes a number a tick and calls a receiver elsewhere with it: the method is `WORLD/`, the payload its digits. The answer is
/// both, and counted under that.
fn sender(world: &str, next: &str) -> String {
    let (target, own) = (format!("{next}/receiver"), format!("{world}/"));
    let (target_length, own_length) = (target.len(), own.len());
    format!(
        r#"{NO_STATE}
  (data (i32.const 0) "sent") (data (i32.const 16) "{target}") (data (i32.const 64) "{own}")
  (func (export "on_tick") (param f32)
    (local $number i64) (local $at i32)
    (local.set $number (i64.add (call $read (i32.const 0) (i32.const 4)) (i64.const 1)))
    (if (i32.eqz (call $write (i32.const 0) (i32.const 4) (local.get $number))) (then (return)))
    (local.set $at (call $text (local.get $number)))
    (drop (call $rpc (i32.const 16) (i32.const {target_length}) (i32.const 64) (i32.const {own_length})
      (local.get $at) (i32.sub (i32.const 128) (local.get $at)))))
  (func (export "on_message") (param i64 i64) (param $address i32) (param $method i32) (param $payload i32)
    (drop (call $count (local.get $address) (i32.add (local.get $method) (local.get $payload)))))"#
    )
}

/// Counts each call under its method and payload, which lie behind each other, remembers the highest number, and answers.
const RECEIVER: &str = r#"
  (data (i32.const 0) "highest")
  (func (export "on_start"))
  (func $number (param $at i32) (param $end i32) (result i64)
    (local $number i64)
    (loop $next
      (local.set $number (i64.add (i64.mul (local.get $number) (i64.const 10))
        (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (local.get $number))
  (func (export "on_message") (param i64) (param $call i64) (param $address i32) (param $method i32) (param $payload i32)
    (local $length i32) (local $number i64)
    (local.set $length (i32.add (local.get $method) (local.get $payload)))
    (if (i32.eqz (call $count (local.get $address) (local.get $length))) (then (return)))
    (local.set $number (call $number
      (i32.add (local.get $address) (local.get $method)) (i32.add (local.get $address) (local.get $length))))
    (if (i64.gt_u (local.get $number) (call $read (i32.const 0) (i32.const 7)))
      (then (drop (call $write (i32.const 0) (i32.const 7) (local.get $number)))))
    (drop (call $reply (local.get $call) (local.get $address) (local.get $length))))"#;

/// Write the cluster file and the scripts.
fn put_cluster(dir: &Path) {
    // Whole ticks or none, so that a commit never shows half a tick of theirs; those that get messages may pause between two.
    let [whole, pausing] = ["on_budget = \"terminate\"\nfuel = 100000", "on_budget = \"pause\"\nfuel = 1000000"];
    put_script(dir, "ledger", whole, &format!("(module {COMMON} {LEDGER})"));
    put_script(dir, "diary", whole, &format!("(module {COMMON} {DIARY})"));
    put_script(dir, "receiver", pausing, &format!("(module {COMMON} {NO_STATE} {RECEIVER})"));
    let mut text = String::from(
        "[node]\ndata_dir = \"data\"\noutputs = \"outputs.jsonl\"\ntick_threads = 2\ninstances_small = 50\ninstances_large = 2\n\
         [server]\naot_cache_dir = \"cache\"\n\
         [limits]\ntick_hz = 50.0\ntick_budget_ms = 16.0\ncheckpoint_seconds = 1.0\n",
    );
    for (i, world) in WORLDS.into_iter().enumerate() {
        let next = WORLDS[(i + 1) % WORLDS.len()];
        let own = format!("sender-{world}");
        put_script(dir, &own, pausing, &format!("(module {COMMON} {})", sender(world, next)));
        text += &format!("[[world]]\nname = \"{world}\"\n");
        for (script, name) in [("ledger", "ledger"), (own.as_str(), "sender"), ("receiver", "receiver"), ("diary", "diary")] {
            text += &format!("[[world.script]]\nscript = \"{script}\"\nname = \"{name}\"\n");
        }
    }
    fs::write(dir.join("cluster.toml"), text).unwrap();
}

/// `aether run`, with what it says in `log` and what leaves its worlds in `outputs.jsonl`. Dropped, it is killed.
struct Process {
    child: Child,
    dir: PathBuf,
}

impl Process {
    fn start(dir: &Path) -> Process {
        Process::start_with(dir, &[])
    }

    /// With these variables.
    fn start_with(dir: &Path, variables: &[(&str, &str)]) -> Process {
        match fs::remove_file(dir.join("outputs.jsonl")) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        let log = File::create(dir.join("log")).unwrap();
        let mut command = command();
        command.args(["run", "--plain"]).arg(dir.join("cluster.toml")).stdin(Stdio::null()).envs(variables.iter().copied());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Process { child, dir: dir.to_owned() }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap()).into_owned()
    }

    fn outputs(&self) -> String {
        match fs::read_to_string(self.dir.join("outputs.jsonl")) {
            Ok(text) => text,
            // It did not come so far.
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Until every world has let out this many ticks' output.
    #[track_caller]
    fn wait_for(&mut self, lines: usize) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = left(&self.outputs());
            if left.values().all(|left| left.lines >= lines) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended by itself: {status}\n{}", self.log());
            }
            let counts: Vec<_> = left.iter().map(|(world, left)| (world, left.lines)).collect();
            assert!(Instant::now() < deadline, "a world does not tick, wanted {lines} of {counts:?}\n{}", self.log());
            sleep(LOOK);
        }
    }

    /// `kill -9`.
    #[track_caller]
    fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}\n{}", self.log());
    }

    /// SIGTERM, as Ctrl-C.
    #[track_caller]
    fn stop(&mut self) {
        // Nobody has waited for it: its number is still its own. `kill` is in every shell.
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(sent.success(), "{sent}");
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not stop\n{}", self.log());
            sleep(LOOK);
        };
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn killed_at_any_moment_it_loses_nothing_that_left_does_nothing_twice_and_goes_on() {
    let given = std::env::var("AETHER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("AETHER_SEED={seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    put_cluster(dir.path());
    let rounds = if is_long() { 200 } else { 12 };
    let mut before = of_all_worlds(|_| Kept::default());
    for round in 1..=rounds + 1 {
        let mut process = Process::start(dir.path());
        let stopped = round % 4 == 3 || round > rounds;
        match round % 4 {
            _ if stopped => {
                process.wait_for(random.lines(30));
                process.stop();
            }
            // Whatever it is doing: reading, compiling, ticking.
            1 => {
                random.pause(1_000);
                process.kill();
            }
            // Soon after the start that follows a stop, before there is another checkpoint.
            0 => {
                process.wait_for(random.lines(10));
                random.pause(400);
                process.kill();
            }
            // With checkpoints or without.
            _ => {
                process.wait_for(random.lines(90));
                random.pause(400);
                process.kill();
            }
        }
        let (left, kept) = (left(&process.outputs()), kept(&dir.path().join("data")));
        let mut problems = problems(&before, &left, &kept, stopped);
        let log = process.log();
        let bad = |line: &&str| ["panicked", "parked:", " ended", "NOT saved", "refused"].iter().any(|word| line.contains(word));
        problems.extend(log.lines().filter(bad).map(|line| format!("log: {line}")));
        let (count, first) = (problems.len(), problems.iter().take(30).map(String::as_str).collect::<Vec<_>>().join("\n"));
        assert_eq!(count, 0, "AETHER_SEED={seed}, round {round}, stopped: {stopped}\n{first}\n\nlog:\n{log}");
        before = kept;
    }
    // There was something to lose.
    for (world, Kept { counter, applied, answered, diary, .. }) in &before {
        let least = rounds as usize / 4;
        let all = [*counter as usize, applied.len(), answered.len(), *diary as usize];
        assert!(all.iter().all(|number| *number >= least), "{world}: {all:?} after {rounds} rounds");
    }
}

/// A run for the checker: north counted to 3, sent 2 calls to east and had one answer, the other had left; the last line is cut.
struct Run {
    before: Worlds<Kept>,
    text: String,
    kept: Worlds<Kept>,
    stopped: bool,
}

impl Run {
    fn good() -> Run {
        let text = concat!(
            r#"{"world":"north","commands":[{"command":"set_text","player":7,"element":"ledger","text":"3"},"#,
            r#"{"command":"set_text","player":7,"element":"diary","text":"21"}],"calls":[{"Call":{"world":"east","#,
            r#""script":"receiver","from":2,"call":9,"method":"north/","payload":[50]}}]}"#,
            "\n",
            r#"{"world":"east","commands":[],"calls":[{"Reply":{"world":"north","call":9,"#,
            r#""payload":[110,111,114,116,104,47,50]}}]}"#,
            "\n",
            r#"{"world":"north","commands":[{"command":"set_te"#,
        );
        let [mut before, mut kept] = [(); 2].map(|()| of_all_worlds(|_| Kept::default()));
        before.insert("north".to_owned(), Kept { counter: 2, twin: 2, sent: 1, diary: 20, ..Kept::default() });
        let answered = BTreeMap::from([("north/1".to_owned(), 1)]);
        kept.insert("north".to_owned(), Kept { counter: 3, twin: 3, sent: 2, diary: 21, answered, ..Kept::default() });
        let applied = BTreeMap::from([("north/1".to_owned(), 1), ("north/2".to_owned(), 1)]);
        kept.insert("east".to_owned(), Kept { applied, highest: 2, ..Kept::default() });
        Run { before, text: text.to_owned(), kept, stopped: false }
    }

    fn problems(&self) -> Vec<String> {
        problems(&self.before, &left(&self.text), &self.kept, self.stopped)
    }

    fn kept(&mut self, world: &str) -> &mut Kept {
        self.kept.get_mut(world).unwrap()
    }

    fn before(&mut self, world: &str) -> &mut Kept {
        self.before.get_mut(world).unwrap()
    }
}

type Damage = fn(&mut Run);

#[test]
fn the_checker_finds_every_loss_repetition_and_tear() {
    assert_eq!(Run::good().problems(), Vec::<String>::new());
    assert_eq!(Run { stopped: true, ..Run::good() }.problems(), Vec::<String>::new());
    let damages: [(&str, Damage); 16] = [
        ("north: lost: the ledger showed 4", |run| run.text = run.text.replace(r#""text":"3""#, r#""text":"4""#)),
        ("north: lost: call 7 left", |run| run.text = run.text.replace("[50]", "[55]")),
        ("east: lost: call north/2 was answered", |run| assert!(run.kept("east").applied.remove("north/2").is_some())),
        ("north: lost: the answer to call north/1", |run| assert!(run.kept("east").applied.remove("north/1").is_some())),
        ("east: twice: call north/1 was applied 2", |run| *run.kept("east").applied.get_mut("north/1").unwrap() = 2),
        ("north: twice: the answer to call north/1", |run| *run.kept("north").answered.get_mut("north/1").unwrap() = 2),
        ("east: from nowhere: call north/3", |run| assert!(run.kept("east").applied.insert("north/3".to_owned(), 1).is_none())),
        ("east: from nowhere: call west/1", |run| assert!(run.kept("east").applied.insert("west/1".to_owned(), 1).is_none())),
        ("north: back: the counter is 3, was 4", |run| run.before("north").counter = 4),
        ("north: back: the sender is at 2", |run| run.before("north").sent = 3),
        ("east: back: the highest call is 2", |run| run.before("east").highest = 3),
        ("south: back: call east/1", |run| assert!(run.before("south").applied.insert("east/1".to_owned(), 1).is_none())),
        ("north: torn: the counter is 3", |run| run.kept("north").twin = 2),
        ("east: torn: call 3 is the highest", |run| run.kept("east").highest = 3),
        ("north: memory: 21 came after a checkpoint with 19", |run| run.before("north").diary = 19),
        ("north: kept back: 3 was shown last", |run| {
            (run.kept("north").counter, run.kept("north").twin, run.stopped) = (4, 4, true);
        }),
    ];
    for (wanted, damage) in damages {
        let mut run = Run::good();
        damage(&mut run);
        let problems = run.problems();
        assert!(problems.iter().any(|problem| problem.starts_with(wanted)), "{wanted:?} in {problems:?}");
    }
}

/// Bytes of the files below a directory: of the database's log, and of all others.
fn sizes(dir: &Path) -> (u64, u64) {
    let (mut log, mut others) = (0, 0);
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            let below = sizes(&entry.path());
            (log, others) = (log + below.0, others + below.1);
        } else if entry.file_name().to_string_lossy().ends_with("-wal") {
            log += metadata.len();
        } else {
            others += metadata.len();
        }
    }
    (log, others)
}

#[test]
fn a_world_that_overwrites_and_saves_much_takes_no_more_room_in_the_long_run() {
    const MIB: u64 = 1 << 20;
    /// Of the script's saved state, and so in each checkpoint.
    const STATE: u64 = MIB / 4;
    /// Values and keys: `a` to `p`.
    const VALUE: u64 = 65_536;
    const KEYS: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        r#"(module
  (import "aether:storage" "set" (func $set (param i32 i32 i32 i32) (result i32)))
  (import "aether:script" "tick" (func $tick (result i64)))
  (memory (export "memory") 8)
  (func (export "aether_abi_1"))
  (func (export "on_tick") (param f32)
    (i32.store8 (i32.const 0) (i32.add (i32.const 97) (i32.and (i32.wrap_i64 (call $tick)) (i32.const 15))))
    (i64.store (i32.const 65536) (call $tick))
    (drop (call $set (i32.const 0) (i32.const 1) (i32.const 65536) (i32.const {VALUE}))))
  (func (export "save_state") (result i64) (i64.or (i64.shl (i64.const 65536) (i64.const 32)) (i64.const {STATE}))))"#
    );
    put_script(dir.path(), "hoarder", "on_budget = \"terminate\"\nfuel = 1000000", &text);
    let config = "[node]\ndata_dir = \"data\"\ntick_threads = 1\ninstances_small = 50\ninstances_large = 2\n\
                  [server]\naot_cache_dir = \"cache\"\n[limits]\ntick_hz = 100.0\n\
                  [[world]]\nname = \"hoard\"\n[[world.script]]\nscript = \"hoarder\"\n";
    let config: NodeConfig = toml::from_str(config).unwrap();
    let node = Node::start(&config, dir.path(), Compiler::InProcess, |_| ()).unwrap_or_else(|error| panic!("{error:?}"));
    let data = dir.path().join("data");
    let rounds: u64 = if is_long() { 4_096 } else { 256 };
    let mut half = 0;
    for round in 1..=rounds {
        // Durable when it returns. At least one tick is between two of them, and overwrites a value.
        node.checkpoint("hoard", None).unwrap();
        let (log, others) = sizes(&data);
        assert!(log + others < 32 * MIB, "{log} bytes of log and {others} others after {round} checkpoints");
        if round == rounds / 2 {
            half = others;
        }
        if round == rounds {
            assert!(others <= half + 2 * MIB, "{others} bytes after {round} checkpoints, {half} after half as many");
        }
    }
    // What was written would not have had room.
    assert!(rounds * (STATE + VALUE) > 64 * MIB);
    let checkpoints = node.checkpoints("hoard").unwrap();
    assert!(checkpoints.len() == 2 && checkpoints.iter().all(|entry| entry.bytes >= STATE), "{checkpoints:?}");
    let report = node.stop();
    assert_eq!((report.saved, report.failed), (1, vec![]));
    let keys = open(&data).load_keys(&WorldId::new("hoard").unwrap()).unwrap();
    assert!(keys.len() == KEYS && keys.iter().all(|(_, _, value)| value.len() as u64 == VALUE), "{} keys", keys.len());
}
