//! Nodes in other processes: a running cluster that is only looked at and reloaded, and one that the test starts, kills and ends.
//!
//! Both are asked over their admin API. Players have no door here until they come by the gateway: input, calls and traps of a scenario are
//! left out, and the report says so. [`Spawned`] runs real `aether node` processes on this machine; who kills must own what he kills.

use super::driver::{Driver, Failover, PlayerDriver, Publish, Started, Stopped};
use super::look::WorldSample;
use super::scenario::Scenario;
use super::usage::Usage;
use aether_admin::shapes::NodeState;
use aether_admin::{Client, ClientError, Request, socket_path};
use aether_cluster::config::{ClusterSection, MemberSpec};
use aether_cluster::{NodeConfig, pki};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks, and while it is measured how long worlds are away.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_CLOSELY: Duration = Duration::from_millis(25);
/// Until every world of a started cluster ticks.
const START_TIME: Duration = Duration::from_secs(180);
/// Until a node that was asked to end has; then it is killed.
const STOP_TIME: Duration = Duration::from_secs(60);
/// Processes end by themselves if the test is killed: so long after it should have ended.
const ORPHAN_SECONDS: f64 = 600.0;
/// Between two attempts to start a killed node again: its name is free when its lease is over.
const RESTART: Duration = Duration::from_secs(1);

/// Why nodes in other processes could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// The admin API.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Its answer.
    #[error("the node's status could not be read")]
    Answer(#[from] serde_json::Error),
    /// Certificates of the cluster that is started.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// Its file.
    #[error("could not write the cluster file")]
    File(#[from] toml::ser::Error),
    /// A process or a folder.
    #[error("{0}")]
    Process(&'static str, #[source] std::io::Error),
    /// It did not come up.
    #[error("not all worlds tick after {} s; the end of the nodes' logs:\n{log}", START_TIME.as_secs())]
    Late { log: String },
}

fn status(client: &Client) -> Result<NodeState, RemoteError> {
    Ok(serde_json::from_value(client.ask(&Request::Status, &json!({}))?)?)
}

fn publisher(client: Option<Client>) -> Publish {
    Arc::new(move |source| {
        let client = client.as_ref().ok_or("no node runs")?;
        let report = client.publish(source.manifest, &source.wasm, false, None).map_err(|error| error.to_string())?;
        Ok(report["swap_ms"].as_u64().unwrap_or(0))
    })
}

/// A running cluster.
pub(crate) struct Running {
    clients: Vec<Client>,
    started: Started,
}

impl Running {
    /// Each of them must answer.
    pub fn connect(clients: Vec<Client>) -> Result<Running, RemoteError> {
        let mut started = Started::default();
        for client in &clients {
            let node = status(client)?;
            started.worlds += node.worlds.len() as u64;
            started.scripts += node.worlds.iter().map(|world| world.scripts.len() as u64).sum::<u64>();
        }
        Ok(Running { clients, started })
    }
}

impl Driver for Running {
    fn describe(&self) -> String {
        format!("a running cluster, {} nodes asked", self.clients.len())
    }

    fn started(&self) -> Started {
        self.started.clone()
    }

    fn look_every(&self) -> Duration {
        LOOK
    }

    fn look(&mut self, _: f64) -> Vec<WorldSample> {
        // A node that does not answer has no news: its worlds' ticks are missing in the report.
        let nodes = self.clients.iter().filter_map(|client| status(client).ok());
        nodes.flat_map(|node| node.worlds).map(WorldSample::from).collect()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn players(&mut self) -> Option<&mut dyn PlayerDriver> {
        None
    }

    fn publisher(&self) -> Publish {
        publisher(self.clients.first().cloned())
    }

    fn kill(&mut self, _: u32, _: f64) -> Result<(), String> {
        Err("only nodes that the test has started are killed: use --nodes and --store".to_owned())
    }

    fn failovers(&self) -> Vec<Failover> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Stopped {
        Stopped::default()
    }
}

struct Process {
    name: String,
    client: Client,
    data_dir: PathBuf,
    child: Option<Child>,
    /// Worlds that it ticked when it was last asked.
    worlds: BTreeSet<String>,
    started: Instant,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    fn start(&mut self, file: &Path, logs: &Path, seconds: f64) -> Result<(), RemoteError> {
        let failed = |what| move |error| RemoteError::Process(what, error);
        let program = std::env::current_exe().map_err(failed("could not find this program"))?;
        let log = File::options().create(true).append(true).open(logs.join(format!("{}.log", self.name)));
        let log = log.map_err(failed("could not write a node's log"))?;
        let errors = log.try_clone().map_err(failed("could not write a node's log"))?;
        let mut command = Command::new(program);
        command.arg("node").arg(file).args(["--name", &self.name, "--plain", "--seconds", &format!("{seconds:.0}")]);
        // A group of their own: Ctrl-C is the test's, which ends them in order.
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        self.child = Some(command.spawn().map_err(failed("could not start a node"))?);
        self.started = Instant::now();
        Ok(())
    }

    fn is_running(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            self.child = None;
        }
        !ended
    }
}

/// A node that is away, and its worlds that do not tick elsewhere yet.
struct Open {
    index: usize,
    killed: Instant,
    worlds: BTreeSet<String>,
}

/// Nodes that the test has started.
pub(crate) struct Spawned {
    nodes: Vec<Process>,
    file: PathBuf,
    dir: tempfile::TempDir,
    seconds: f64,
    started: Started,
    open: Option<Open>,
    failovers: Vec<Failover>,
    /// CPU time of processes that are no more.
    spent: f64,
}

impl Spawned {
    /// Start `count` nodes that share the worlds of `config` through a database. `base`: the folder that its paths are relative to.
    pub fn start(
        scenario: &Scenario,
        mut config: NodeConfig,
        base: &Path,
        count: u32,
        store: &str,
    ) -> Result<Spawned, RemoteError> {
        let begin = Instant::now();
        let failed = |what| move |error| RemoteError::Process(what, error);
        let dir = tempfile::Builder::new().prefix("aether-loadtest-").tempdir().map_err(failed("could not make a folder"))?;
        let base = base.canonicalize().map_err(failed("could not find the scenario's folder"))?;
        let ca = dir.path().join("ca");
        pki::init_ca(&ca, "loadtest")?;
        let mut nodes = Vec::new();
        let mut members = Vec::new();
        for number in 1..=count {
            let name = format!("n{number}");
            pki::issue(&ca, &dir.path().join("identity").join(&name), "loadtest", &name, &["127.0.0.1".to_owned()], 2)?;
            let data_dir = dir.path().join(&name);
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
            members.push(MemberSpec {
                name: name.clone(),
                listen: port.map_err(failed("could not find a free port"))?.to_string(),
                advertise: None,
                data_dir: data_dir.clone(),
                admin: None,
                gateway: None,
                worlds_max: None,
                labels: BTreeSet::new(),
            });
            let client = Client::new(socket_path(&data_dir));
            nodes.push(Process { name, client, data_dir, child: None, worlds: BTreeSet::new(), started: begin });
        }
        config.cluster = Some(ClusterSection {
            name: "loadtest".into(),
            store: store.to_owned(),
            // Whatever a test before left there is not this one's.
            schema: format!("loadtest-{}", std::process::id()).replace('-', "_"),
            identity: dir.path().join("identity/{node}"),
            lease_seconds: scenario.node.lease_seconds,
            node: members,
            ..ClusterSection::default()
        });
        // Native code is signed with this cluster's key: not for others.
        config.server.aot_cache_dir = dir.path().join("aot-{node}");
        for world in &mut config.world {
            world.scripts_dir = base.join(&world.scripts_dir);
            world.prefabs = world.prefabs.take().map(|prefabs| base.join(prefabs));
        }
        let file = dir.path().join("cluster.toml");
        std::fs::write(&file, toml::to_string(&config)?).map_err(failed("could not write the cluster file"))?;
        let seconds = scenario.warmup_seconds + scenario.duration_seconds + ORPHAN_SECONDS;
        let scripts = crate::scripts(&config).into();
        let started = Started { seconds: 0.0, spawn_seconds: None, worlds: crate::worlds(&config).into(), scripts };
        let mut spawned = Spawned { nodes, file, dir, seconds, started, open: None, failovers: Vec::new(), spent: 0.0 };
        for node in &mut spawned.nodes {
            node.start(&spawned.file, spawned.dir.path(), seconds)?;
        }
        while spawned.ticking() < spawned.started.worlds as usize {
            if begin.elapsed() > START_TIME || spawned.nodes.iter_mut().any(|node| !node.is_running()) {
                return Err(RemoteError::Late { log: spawned.logs() });
            }
            std::thread::sleep(LOOK);
        }
        spawned.started.seconds = begin.elapsed().as_secs_f64();
        Ok(spawned)
    }

    fn ticking(&mut self) -> usize {
        self.look(0.0);
        self.nodes.iter().flat_map(|node| &node.worlds).collect::<BTreeSet<_>>().len()
    }

    fn logs(&self) -> String {
        let end = |node: &Process| {
            let text = std::fs::read_to_string(self.dir.path().join(format!("{}.log", node.name))).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(5).collect();
            lines.into_iter().rev().map(|line| format!("  {}: {line}\n", node.name)).collect::<String>()
        };
        self.nodes.iter().map(end).collect()
    }

    /// A node that was killed comes back when its worlds have all been taken.
    fn mend(&mut self) {
        if let Some(open) = &mut self.open {
            let victim = open.index;
            let taken = self.nodes.iter().enumerate().filter(|(index, _)| *index != victim).flat_map(|(_, node)| &node.worlds);
            taken.for_each(|world| {
                open.worlds.remove(world);
            });
            if open.worlds.is_empty() {
                let seconds = open.killed.elapsed().as_secs_f64();
                if let Some(last) = self.failovers.last_mut() {
                    last.seconds = Some(seconds);
                }
                self.open = None;
            }
        }
        if self.open.is_some() {
            return;
        }
        for node in &mut self.nodes {
            if !node.is_running() && node.started.elapsed() > RESTART {
                // The next look tries again.
                let _ = node.start(&self.file, self.dir.path(), self.seconds);
            }
        }
    }
}

impl Driver for Spawned {
    fn describe(&self) -> String {
        format!("{} node processes and a PostgreSQL", self.nodes.len())
    }

    fn started(&self) -> Started {
        self.started.clone()
    }

    fn look_every(&self) -> Duration {
        if self.open.is_some() { LOOK_CLOSELY } else { LOOK }
    }

    fn look(&mut self, _: f64) -> Vec<WorldSample> {
        let mut samples = Vec::new();
        for node in &mut self.nodes {
            let Some(seen) = node.child.as_ref().and_then(|_| status(&node.client).ok()) else {
                node.worlds.clear();
                continue;
            };
            let own: Vec<_> = seen.worlds.into_iter().map(WorldSample::from).filter(|world| world.ticking).collect();
            node.worlds = own.iter().map(|world| world.name.clone()).collect();
            samples.extend(own);
        }
        self.mend();
        samples
    }

    fn usage(&self) -> Usage {
        let processes: Vec<_> = self.nodes.iter().filter_map(|node| Some(node.child.as_ref()?.id())).collect();
        let dirs: Vec<_> = self.nodes.iter().map(|node| node.data_dir.clone()).collect();
        let usage = Usage::of(&processes, &dirs);
        Usage { cpu_seconds: usage.cpu_seconds.map(|seconds| seconds + self.spent), ..usage }
    }

    fn players(&mut self) -> Option<&mut dyn PlayerDriver> {
        None
    }

    fn publisher(&self) -> Publish {
        publisher(self.nodes.first().map(|node| node.client.clone()))
    }

    fn kill(&mut self, number: u32, now: f64) -> Result<(), String> {
        if self.open.is_some() {
            return Err("worlds of the node killed before do not all tick yet".to_owned());
        }
        let index = number as usize % self.nodes.len();
        let node = &mut self.nodes[index];
        let Some(mut child) = node.child.take() else { return Err(format!("{} is not up yet", node.name)) };
        self.spent += Usage::of(&[child.id()], &[]).cpu_seconds.unwrap_or(0.0);
        let killed = Instant::now();
        let _ = child.kill();
        let _ = child.wait();
        node.started = killed;
        let worlds = std::mem::take(&mut node.worlds);
        self.failovers.push(Failover { at: now, node: node.name.clone(), worlds: worlds.len(), seconds: None });
        self.open = Some(Open { index, killed, worlds });
        Ok(())
    }

    fn failovers(&self) -> Vec<Failover> {
        self.failovers.clone()
    }

    fn stop(mut self: Box<Self>) -> Stopped {
        let begin = Instant::now();
        // One after the other gives its worlds away; the last one saves them.
        let mut not_saved = Vec::new();
        for node in &mut self.nodes {
            let Some(child) = &mut node.child else { continue };
            let asked = rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM);
            let deadline = Instant::now() + STOP_TIME;
            while asked.is_ok() && matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(LOOK_CLOSELY);
            }
            match child.try_wait() {
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => not_saved.push(format!("{} ended with {status}", node.name)),
                _ => not_saved.push(format!("{} did not end in {} s", node.name, STOP_TIME.as_secs())),
            }
        }
        Stopped { seconds: begin.elapsed().as_secs_f64(), not_saved }
    }
}
