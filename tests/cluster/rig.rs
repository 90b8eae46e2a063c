//! A cluster of real processes: PostgreSQL, certificates by the program itself, nodes with a proxy before each and one between each and
//! the database. Everything ends with the test; when it fails, the ends of the logs are printed and the folder stays.
//!
//! Start with [`Cluster::start`]. Waiting and judging is in `judge.rs`. Not here: what to break and when.

use super::checker::{Kept, Worlds};
use super::database::{Database, SCHEMA};
use super::load::{TICK_HZ, put_worlds, ring};
use super::proxy::{Mode, Proxy, Who};
use super::watch::{Watch, process_of};
use crate::program::{program, root};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of every wait, on a machine with much else to do.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(4);
/// Of a node that is going to be harmed.
pub const LEASE: Duration = Duration::from_millis(2_500);
/// Of one that is not: a machine that does much else must not make it look dead.
pub const CALM: Duration = Duration::from_secs(10);
/// The nodes' names.
pub const NODES: [&str; 3] = ["a", "b", "c"];

/// The process of each node, for the proxies to tell who dials.
type Processes = Arc<Mutex<BTreeMap<String, u32>>>;

/// One cluster. A second one of this process waits for its end: two would only slow each other down.
pub struct Cluster {
    pub database: Database,
    pub watch: Watch,
    pub ring: Vec<String>,
    /// Nothing has failed so far: see [`problems`].
    pub clean: bool,
    pub(super) nodes: BTreeMap<String, Node>,
    processes: Processes,
    pub(super) before: Worlds<Kept>,
    lease: Duration,
    /// Where nodes find the store, if not behind their proxies.
    pub store: Option<String>,
    /// Nodes that were asked to end.
    pub(super) ending: Vec<String>,
    dir: Option<tempfile::TempDir>,
    _turn: MutexGuard<'static, ()>,
}

/// One name, and its process if it runs.
pub(super) struct Node {
    listen: u16,
    /// What the others dial.
    front: Proxy,
    /// What it dials the database by.
    database: Proxy,
    pub process: Option<Running>,
    /// It and those before it.
    pub lives: u32,
    /// Variables of its process.
    variables: Vec<(String, String)>,
    /// What its process runs, if not the program that is tested.
    binary: Option<PathBuf>,
}

/// A process that ends with this test.
pub struct Running(Child);

impl Running {
    /// It dies also when the test's thread ends in whatever way.
    pub fn spawn(arguments: &[&str], variables: &[(String, String)], out: File, err: File) -> Running {
        Running::spawn_binary(program(), arguments, variables, out, err)
    }

    fn spawn_binary(binary: &Path, arguments: &[&str], variables: &[(String, String)], out: File, err: File) -> Running {
        let mut command = match Path::new("/usr/bin/setpriv").exists() {
            true => Command::new("/usr/bin/setpriv"),
            false => Command::new(binary),
        };
        if command.get_program() != binary {
            command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AETHER_")) {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value))).args(arguments).current_dir(root());
        Running(command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self, what: &str) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.ended() {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "{what} does not end within {DEADLINE:?}"),
            }
            sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nobody else's: below the ports that the system gives to those who dial, so that a node that is away finds it free when it comes back.
pub fn free_port() -> u16 {
    static NEXT: Mutex<u16> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        *next += 1;
        let port = 20_000 + ((std::process::id() as u16 % 1_000) * 12 + *next) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// What the checker takes for a node: a name's second process is another one.
pub(super) fn life(name: &str, lives: u32) -> String {
    format!("{name}.{lives}")
}

fn who(processes: &Processes) -> Who {
    let processes = Arc::clone(processes);
    Box::new(move |from, to| {
        let known = processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let process = process_of(from, to, known.values().copied())?;
        known.into_iter().find(|(_, id)| *id == process).map(|(name, _)| name)
    })
}

impl Cluster {
    /// Three nodes, each with some of the worlds, all of which tick.
    #[track_caller]
    pub fn start(worlds: usize, lease: Duration) -> Cluster {
        Cluster::prepare(worlds, lease).begun()
    }

    /// The same over a database whose disk may be slow.
    #[track_caller]
    pub fn start_on_slow_disk(worlds: usize, lease: Duration) -> Cluster {
        Cluster::prepare_over(Database::on_slow_disk, worlds, lease).begun()
    }

    #[track_caller]
    fn begun(mut self) -> Cluster {
        for node in NODES {
            self.start_process(node);
        }
        self.settle();
        self
    }

    /// The same before any node runs.
    #[track_caller]
    pub fn prepare(worlds: usize, lease: Duration) -> Cluster {
        Cluster::prepare_over(Database::start, worlds, lease)
    }

    #[track_caller]
    fn prepare_over(database: fn() -> Database, worlds: usize, lease: Duration) -> Cluster {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::Builder::new().prefix("aether-cluster-").tempdir().unwrap();
        let (database, ring, processes) = (database(), ring(worlds), Processes::default());
        let node = |name: &&str| {
            let (listen, port) = (free_port(), database.port());
            let name = (*name).to_owned();
            let own = name.clone();
            let front = Proxy::before(listen, who(&processes));
            let database = Proxy::before(port, Box::new(move |_, _| Some(own.clone())));
            (name, Node { listen, front, database, process: None, lives: 0, variables: Vec::new(), binary: None })
        };
        let nodes = NODES.iter().map(node).collect();
        let mut cluster = Cluster {
            database,
            watch: Watch::default(),
            ring,
            clean: true,
            nodes,
            processes,
            before: Worlds::new(),
            lease,
            store: None,
            ending: Vec::new(),
            dir: Some(dir),
            _turn: turn,
        };
        cluster.write();
        cluster
    }

    /// Certificates, scripts and the cluster file.
    fn write(&mut self) {
        let dir = self.dir().to_owned();
        let ca = dir.join("ca");
        let made = self.program(&["cluster", "init-ca", ca.to_str().unwrap(), "--name", "three"]);
        made.unwrap_or_else(|error| panic!("{error}"));
        for node in NODES {
            self.issue(node);
        }
        let text = self.file() + &put_worlds(&dir, &self.ring);
        fs::write(dir.join("cluster.toml"), text).unwrap();
    }

    /// A certificate for a name.
    pub fn issue(&self, name: &str) {
        let (ca, out) = (self.path("ca"), self.path("identity").join(name));
        let (ca, out) = (ca.to_str().unwrap(), out.to_str().unwrap());
        let made = self.program(&["cluster", "issue", name, "--ca", ca, "--out", out, "--host", "127.0.0.1"]);
        made.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Everything of the cluster file but the worlds.
    fn file(&self) -> String {
        let lease = self.lease.as_secs_f64();
        let mut text = format!(
            "[node]\noutputs = \"outputs-{{node}}.jsonl\"\ntick_threads = 1\ninstances_small = 200\ninstances_large = 2\n\
             world_restart_intensity = 100\n\
             [limits]\ntick_hz = {TICK_HZ}.0\ntick_budget_ms = 16.0\ncheckpoint_seconds = 1.0\n\
             [cluster]\nname = \"three\"\nstore = {:?}\nschema = \"{SCHEMA}\"\nidentity = \"identity/{{node}}\"\n\
             lease_seconds = {lease:?}\nmoves_per_minute = 600\n",
            self.database.url(self.database.port())
        );
        for (name, node) in &self.nodes {
            let (listen, front) = (node.listen, node.front.port);
            write!(
                text,
                "[[cluster.node]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{listen}\"\nadvertise = \"127.0.0.1:{front}\"\n\
                 data_dir = \"data-{name}\"\n"
            )
            .unwrap();
        }
        text
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the end").path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Start a node's process, and wait until it says that it is up.
    #[track_caller]
    pub fn start_node(&mut self, name: &str) {
        self.start_process(name);
        self.until(&format!("node {name} is up"), |cluster| cluster.says(name, &format!("node {name} up")).then_some(()));
    }

    /// Start a node's process.
    pub fn start_process(&mut self, name: &str) {
        let outputs = self.path(&format!("outputs-{name}.jsonl"));
        let node = &self.nodes[name];
        assert!(node.process.is_none(), "{name} runs");
        // Each life has files of its own.
        if node.lives > 0 {
            let old = self.path(&format!("outputs-{name}-{}.jsonl", node.lives));
            if outputs.exists() {
                fs::rename(&outputs, &old).unwrap();
            }
            self.watch.finish(&life(name, node.lives), &old);
        }
        let log = |what: &str| {
            let path = self.path(&format!("{what}-{name}-{}", node.lives + 1));
            OpenOptions::new().create_new(true).append(true).open(path).unwrap()
        };
        let file = self.path("cluster.toml");
        let store = self.store.clone().unwrap_or_else(|| self.database.url(node.database.port));
        let file = file.to_str().unwrap();
        let arguments = ["node", file, "--name", name, "--store", &store, "--json"];
        let mut variables = node.variables.clone();
        let cache = self.path(&format!("cache-{name}"));
        variables.push(("AETHER_SERVER_AOT_CACHE_DIR".to_owned(), cache.to_str().unwrap().to_owned()));
        let binary = node.binary.as_deref().unwrap_or(program());
        let process = Running::spawn_binary(binary, &arguments, &variables, log("out"), log("err"));
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), process.0.id());
        let node = self.nodes.get_mut(name).unwrap();
        (node.process, node.lives) = (Some(process), node.lives + 1);
        self.watch.follow(&life(name, node.lives), &outputs);
    }

    /// Variables of a node's next life.
    pub fn set_variables(&mut self, name: &str, variables: &[(&str, &str)]) {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.nodes.get_mut(name).unwrap().variables = variables.iter().map(own).collect();
    }

    /// What the next lives of a node run: another build of the program, or the one that is tested.
    pub fn set_binary(&mut self, name: &str, binary: Option<PathBuf>) {
        self.nodes.get_mut(name).unwrap().binary = binary;
    }

    /// Change the cluster file, before any node has read it.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let path = self.path("cluster.toml");
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    }

    /// Whether the node's present life has logged this.
    pub fn logged(&self, name: &str, what: &str) -> bool {
        let path = self.path(&format!("err-{name}-{}", self.nodes[name].lives));
        fs::read_to_string(path).is_ok_and(|text| text.contains(what))
    }

    /// Whether the node's present life has printed a line that begins so.
    pub fn says(&self, name: &str, begin: &str) -> bool {
        let path = self.path(&format!("out-{name}-{}", self.nodes[name].lives));
        fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line.starts_with(begin)))
    }

    /// The port that a node listens on itself.
    pub fn listen(&self, name: &str) -> u16 {
        self.nodes[name].listen
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.nodes[name].process.is_some()
    }

    pub fn running(&self) -> Vec<&'static str> {
        NODES.into_iter().filter(|name| self.is_running(name)).collect()
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) -> Instant {
        self.clean = false;
        let node = self.nodes.get_mut(name).unwrap();
        let at = Instant::now();
        drop(node.process.take().expect("it runs"));
        at
    }

    /// SIGSTOP: it is still there, and does nothing.
    pub fn freeze(&mut self, name: &str) -> Instant {
        self.clean = false;
        self.signal(name, Signal::STOP);
        Instant::now()
    }

    /// SIGCONT.
    pub fn thaw(&mut self, name: &str) {
        self.signal(name, Signal::CONT);
    }

    fn signal(&self, name: &str, signal: Signal) {
        self.nodes[name].process.as_ref().expect("it runs").signal(signal);
    }

    /// SIGTERM, and no more.
    pub fn ask_to_end(&mut self, name: &str) {
        self.ending.push(name.to_owned());
        self.signal(name, Signal::TERM);
    }

    /// Take those from the running that were asked to end and have.
    pub fn reap(&mut self) {
        let nodes = &mut self.nodes;
        self.ending.retain(|name| {
            let Some(node) = nodes.get_mut(name) else { return false };
            let ended = node.process.as_mut().is_none_or(|process| process.ended().is_some());
            if ended {
                node.process = None;
            }
            !ended
        });
    }

    /// Wait for all that were asked to end.
    #[track_caller]
    pub fn reap_all(&mut self) {
        self.until("who was asked to end does", |cluster| {
            cluster.reap();
            cluster.ending.is_empty().then_some(())
        });
    }

    /// SIGTERM, as Ctrl-C: it saves and releases its worlds, leaves, and ends well.
    #[track_caller]
    pub fn terminate(&mut self, name: &str) {
        self.ask_to_end(name);
        let mut process = self.nodes.get_mut(name).unwrap().process.take().expect("it runs");
        // Its worlds go on meanwhile: look at them.
        let status = self.until(&format!("{name} ends after SIGTERM"), |_| process.ended());
        self.ending.retain(|ending| ending != name);
        assert_eq!(status.code(), Some(0), "{name}: {status}\n{}", self.logs());
    }

    /// What happens between a node and the database.
    pub fn harm_database(&mut self, name: &str, mode: Mode) {
        self.clean = false;
        self.nodes[name].database.set_all(mode);
    }

    /// What happens to what two nodes say to each other, whoever of them dialled.
    pub fn harm_link(&mut self, one: &str, other: &str, mode: Mode) {
        self.clean = false;
        self.nodes[one].front.set(other, mode);
        // The other way round, what goes up here goes down there.
        let turned = match mode {
            Mode::Hold { up, down } => Mode::Hold { up: down, down: up },
            _ => mode,
        };
        self.nodes[other].front.set(one, turned);
    }

    /// All ways are good again.
    pub fn heal(&mut self) {
        for node in self.nodes.values() {
            node.front.heal();
            node.database.heal();
        }
    }

    /// Ask a node's program, as an operator does; the answer as JSON.
    pub fn ask(&self, node: &str, arguments: &[&str]) -> Result<Value, String> {
        let file = self.path("cluster.toml");
        let asked = [&["--cluster", file.to_str().unwrap(), "--node", node, "--output", "json"], arguments].concat();
        let text = self.program(&asked)?;
        serde_json::from_str(&text).map_err(|error| format!("{arguments:?}: {error}: {text}"))
    }

    /// Run the program to its end, which it must reach.
    fn program(&self, arguments: &[&str]) -> Result<String, String> {
        let [mut out, mut err] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let mut process = Running::spawn(arguments, &[], out.try_clone().unwrap(), err.try_clone().unwrap());
        let status = process.wait(&format!("{arguments:?}"));
        let read = |file: &mut File| {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).unwrap();
            text
        };
        let (out, err) = (read(&mut out), read(&mut err));
        assert!(!err.contains("panicked"), "{arguments:?}: {err}");
        if status.success() { Ok(out) } else { Err(format!("{arguments:?}: {status}\n{out}{err}")) }
    }

    /// Start one more process of a name, which must be refused; what it says about that.
    pub fn second(&self, name: &str, file: &Path) -> String {
        let store = self.database.url(self.database.port());
        let refused =
            self.program(&["node", file.to_str().unwrap(), "--name", name, "--store", &store, "--plain", "--seconds", "30"]);
        refused.expect_err("a second process was let in")
    }

    /// An operator's command that takes its time: to be waited for with [`Running::wait`].
    pub fn begin(&self, node: &str, arguments: &[&str]) -> Running {
        let file = self.path("cluster.toml");
        let asked = [&["--cluster", file.to_str().unwrap(), "--node", node], arguments].concat();
        let log = OpenOptions::new().create(true).append(true).open(self.path("commands")).unwrap();
        Running::spawn(&asked, &[], log.try_clone().unwrap(), log)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}{}", self.picture(), self.logs());
            if let Some(dir) = self.dir.take() {
                eprintln!("all of it is in {}", dir.keep().display());
            }
        }
        for node in self.nodes.values_mut() {
            node.process = None;
        }
    }
}
