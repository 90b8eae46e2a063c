//! Control never waits for a tick: whatever worlds do on the tick threads, the node answers who asks it over HTTP and on its socket.
//!
//! Start with [`Busy`]: a node whose worlds take more than its tick threads have. The times are printed (`--nocapture`), and no rule but
//! the one that can be told from a slow machine: ticks are so long in one test that whoever waited for them would be seen. Not here: leases
//! and links of such nodes (`cluster/busy.rs`).

use crate::program::command;
use crate::records::put_script;
use aether_admin::{Client, Request, socket_path};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of every wait for the program.
const DEADLINE: Duration = Duration::from_secs(120);
/// Of every answer: what a load balancer or a person gives up after. A world itself has [`WORLD_DEADLINE`].
const ANSWER: Duration = Duration::from_secs(10);
/// What the node gives a world to answer at the edge of a tick.
const WORLD_DEADLINE: Duration = Duration::from_secs(30);
/// Of each kind: an address may ask two hundred times before it is told to wait.
const REQUESTS: usize = 80;
const WORLDS: usize = 12;

/// A node that has more to tick than it can.
struct Busy {
    node: Child,
    admin: SocketAddr,
    client: Client,
    dir: tempfile::TempDir,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

impl Busy {
    /// As many tick threads as cores. `limits`: of worlds; `script`: limits of the script; `turns`: of its loop in each tick.
    #[track_caller]
    fn start(limits: &str, script: &str, turns: u64) -> Busy {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            r#"(module (memory (export "memory") 1) (func (export "aether_abi_1"))
              (func (export "on_tick") (param f32) (local $i i64) (local.set $i (i64.const {turns}))
                (loop $l (br_if $l (i64.ne (local.tee $i (i64.sub (local.get $i) (i64.const 1))) (i64.const 0))))))"#
        );
        put_script(dir.path(), "busy", script, &text);
        let cores = std::thread::available_parallelism().unwrap();
        let text = format!(
            "[node]\ndata_dir = \"data\"\ntick_threads = {cores}\ninstances_small = 50\ninstances_large = 2\n\
             [server]\naot_cache_dir = \"cache\"\n[admin]\nlisten = \"127.0.0.1:0\"\nrequire_token = false\n\
             [limits]\nsuspend_above = 2.0\nresume_below = 1.5\n{limits}\n\
             [[world]]\nname = \"busy\"\ncount = {WORLDS}\n[[world.script]]\nscript = \"busy\"\n"
        );
        fs::write(dir.path().join("cluster.toml"), text).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut started = command();
        started.args(["run", "--plain"]).arg(dir.path().join("cluster.toml")).stdin(Stdio::null());
        let mut node = started.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let deadline = Instant::now() + DEADLINE;
        let admin = loop {
            let log = fs::read_to_string(dir.path().join("log")).unwrap();
            let url = log.lines().find_map(|line| line.strip_prefix("dashboard at http://")?.split('/').next()?.parse().ok());
            if let Some(admin) = url {
                break admin;
            }
            let ended = node.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "it prints no address, {ended:?}\n{log}");
            sleep(Duration::from_millis(10));
        };
        let client = Client::new(socket_path(&dir.path().join("data")));
        Busy { node, admin, client, dir }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{path} was not answered within {ANSWER:?}: {error}"));
        answer
    }

    fn world(&self, number: usize) -> Value {
        self.client.ask(&Request::World(format!("busy-{number}")), &()).unwrap()
    }

    /// Until every world has ticked, has told that, and is late; gives the median of their ticks.
    #[track_caller]
    fn until_late(&self) -> Duration {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let worlds: Vec<_> = (1..=WORLDS).map(|number| self.world(number)).collect();
            let us: Vec<f64> = worlds.iter().map(|world| world["tick_p50_us"].as_f64().unwrap()).collect();
            if worlds.iter().all(|world| world["missed_ticks"].as_u64() > Some(0)) && us.iter().all(|us| *us > 0.0) {
                return Duration::from_secs_f64(us.into_iter().fold(f64::INFINITY, f64::min) / 1e6);
            }
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "its worlds are not late: {worlds:#?}\n{log}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Ask again and again, each answer within `within`; prints and gives the median.
    #[track_caller]
    fn time(&self, what: &str, within: Duration, mut ask: impl FnMut()) -> Duration {
        let mut times = Vec::new();
        for _ in 0..REQUESTS {
            let begun = Instant::now();
            ask();
            times.push(begun.elapsed());
        }
        times.sort();
        let [p50, p99, longest] = [50, 99, 100].map(|part| times[(REQUESTS * part).div_ceil(100) - 1]);
        eprintln!("figure: {what}: median {p50:.1?}, p99 {p99:.1?}, longest {longest:.1?} of {REQUESTS}");
        assert!(longest < within, "{what} took {longest:?}");
        p50
    }

    /// What no tick has to do with: the medians.
    #[track_caller]
    fn time_control(&self) -> Vec<Duration> {
        let alive = || assert!(self.get("/healthz").starts_with("HTTP/1.1 200"));
        let metrics = || assert!(self.get("/metrics").contains("aether_world_ticks_total"));
        vec![
            self.time("/healthz", ANSWER, alive),
            self.time("/metrics", ANSWER, metrics),
            self.time("status of all worlds on the socket", ANSWER, || {
                let worlds = self.client.ask(&Request::Worlds(String::new()), &()).unwrap();
                assert_eq!(worlds["total"], WORLDS);
            }),
            self.time("status of one world on the socket", ANSWER, || drop(self.world(1))),
            self.time("flight record of one world", ANSWER, || {
                drop(self.client.ask(&Request::Flight("busy-1".into()), &()).unwrap());
            }),
        ]
    }
}

#[test]
fn a_node_whose_worlds_all_use_their_whole_budget_answers_everything_in_time() {
    // Eight of ten milliseconds, in a dozen worlds.
    let limits = "tick_hz = 100.0\ntick_budget_ms = 8.0";
    let busy = Busy::start(limits, "on_budget = \"pause\"\nfuel = 1000000000", 1 << 60);
    let tick = busy.until_late();
    eprintln!("a tick takes {tick:.1?}");
    assert!(tick > Duration::from_millis(7), "they do not use their budget: {tick:?}");
    busy.time_control();
    // What the world itself must answer waits for its turn, among all others.
    busy.time("a question to a world, at the edge of its tick", WORLD_DEADLINE, || {
        drop(busy.client.ask(&Request::SetAside("busy-2".into()), &()).unwrap());
    });
    busy.time("a checkpoint of a world", WORLD_DEADLINE, || {
        let saved = busy.client.ask(&Request::Checkpoint("busy-3".into()), &serde_json::json!({})).unwrap();
        assert!(saved["commit"].is_u64(), "{saved}");
    });
    busy.until_late();
}

#[test]
fn answers_of_a_node_do_not_wait_for_the_ends_of_ticks() {
    // A tenth of a second and more, one after the other on every tick thread, in calls that nothing pauses.
    let limits = "tick_hz = 2.0\ntick_budget_ms = 500.0";
    let busy = Busy::start(limits, "on_budget = \"terminate\"\nfuel = 1000000000", 120_000_000);
    let tick = busy.until_late();
    eprintln!("a tick takes {tick:.1?}");
    // Who waited for the end of a tick would wait for half of one, and for as many as are before it.
    for median in busy.time_control() {
        assert!(median < tick / 4, "{median:?}, and a tick takes {tick:?}");
    }
}
