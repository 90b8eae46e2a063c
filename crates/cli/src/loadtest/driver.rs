//! What a test is run against: the seam, and a node in this process.
//!
//! Start with [`Driver`]. [`InProcess`] starts a node here, with everything that a node has but the admin API, and puts players' input
//! where the gateway puts it: into worlds' inboxes. Nodes in processes of their own are in `remote`.

use super::look::WorldSample;
use super::plan::Target;
use super::usage::Usage;
use aether_cluster::{Inbound, Node, NodeConfig, Source, WorldStatus};
use aether_scripting::output::InboundCall;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::Receiver;

/// The door that players' input comes in by.
pub(crate) trait PlayerDriver {
    /// `false`: it was refused.
    fn send(&mut self, player: u64, target: &Target, method: &str, payload: &[u8]) -> bool;
}

/// Publishes a version; gives milliseconds from the first rehearsal to the last swap.
pub(crate) type Publish = Arc<dyn Fn(Source) -> Result<u64, String> + Send + Sync>;

/// A node that was killed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failover {
    /// When, seconds from the start.
    pub at: f64,
    pub node: String,
    /// Worlds that it ran.
    pub worlds: usize,
    /// Until all of them ticked elsewhere; `None`: the test ended first.
    pub seconds: Option<f64>,
}

/// How a test's nodes came up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// All of it, the scripts' compilation with it.
    pub seconds: f64,
    /// From the first world to the last; `None`: they ran before.
    pub spawn_seconds: Option<f64>,
    pub worlds: u64,
    pub scripts: u64,
}

/// How they ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stopped {
    pub seconds: f64,
    /// Worlds that were not saved, and why.
    pub not_saved: Vec<String>,
}

/// What a test is run against.
pub(crate) trait Driver {
    /// In a few words, for reports.
    fn describe(&self) -> String;
    /// How its worlds came up.
    fn started(&self) -> Started;
    /// How long between two looks.
    fn look_every(&self) -> Duration;
    /// What worlds have published since the last look.
    fn look(&mut self, now: f64) -> Vec<WorldSample>;
    /// What its processes use.
    fn usage(&self) -> Usage;
    /// `None`: players have no door here.
    fn players(&mut self) -> Option<&mut dyn PlayerDriver>;
    /// What publishes versions.
    fn publisher(&self) -> Publish;
    /// Kill a node.
    fn kill(&mut self, number: u32, now: f64) -> Result<(), String>;
    /// Nodes killed so far.
    fn failovers(&self) -> Vec<Failover>;
    /// End what the test started.
    fn stop(self: Box<Self>) -> Stopped;
}

/// A node in this process. Its figures of CPU, memory and files hold those of the test itself, which are small and do not grow.
pub(crate) struct InProcess {
    node: Arc<Node>,
    worlds: Vec<Receiver<Arc<WorldStatus>>>,
    data_dir: PathBuf,
    started: Started,
    inbox: Inbox,
}

struct Inbox(Arc<Node>);

impl PlayerDriver for Inbox {
    fn send(&mut self, player: u64, target: &Target, method: &str, payload: &[u8]) -> bool {
        let call = InboundCall {
            world: None,
            from: player,
            call: 0,
            script: target.script.clone(),
            method: method.to_owned(),
            payload: payload.to_vec(),
            delivery: 0,
        };
        self.0.send(&target.world, Inbound::Call(call))
    }
}

impl InProcess {
    pub fn start(
        config: &NodeConfig,
        base: &Path,
        mut progress: impl FnMut(&str),
    ) -> Result<InProcess, aether_cluster::NodeError> {
        let begin = Instant::now();
        let mut spawning = begin;
        let node = Node::start(config, base, crate::compiler(), |what| {
            // What comes before the worlds: scripts, one after the other.
            if !what.starts_with("world ") {
                spawning = Instant::now();
            }
            progress(what);
        })?;
        let node = Arc::new(node);
        let names = config.world.iter().flat_map(|spec| spec.names());
        let started = Started {
            seconds: begin.elapsed().as_secs_f64(),
            spawn_seconds: Some(spawning.elapsed().as_secs_f64()),
            worlds: crate::worlds(config).into(),
            scripts: crate::scripts(config).into(),
        };
        Ok(InProcess {
            worlds: names.filter_map(|name| node.watch(&name)).collect(),
            data_dir: base.join(&config.node.data_dir),
            started,
            inbox: Inbox(Arc::clone(&node)),
            node,
        })
    }
}

impl Driver for InProcess {
    fn describe(&self) -> String {
        "a node in the test's process".to_owned()
    }

    fn started(&self) -> Started {
        self.started.clone()
    }

    fn look_every(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn look(&mut self, _: f64) -> Vec<WorldSample> {
        let changed = |world: &mut Receiver<Arc<WorldStatus>>| {
            if !world.has_changed().unwrap_or(false) {
                return None;
            }
            let status = Arc::clone(&world.borrow_and_update());
            Some(WorldSample::from(&*status))
        };
        self.worlds.iter_mut().filter_map(changed).collect()
    }

    fn usage(&self) -> Usage {
        let usage = Usage::of(&[std::process::id()], std::slice::from_ref(&self.data_dir));
        Usage { tasks: Some(self.node.tasks() as u64), ..usage }
    }

    fn players(&mut self) -> Option<&mut dyn PlayerDriver> {
        Some(&mut self.inbox)
    }

    fn publisher(&self) -> Publish {
        let node = Arc::clone(&self.node);
        Arc::new(move |source| node.publish(source).map(|report| report.swap_ms).map_err(|error| error.to_string()))
    }

    fn kill(&mut self, _: u32, _: f64) -> Result<(), String> {
        Err("a node in the test's own process cannot be killed: use --nodes and --store".to_owned())
    }

    fn failovers(&self) -> Vec<Failover> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Stopped {
        let begin = Instant::now();
        let report = self.node.shut_down();
        let not_saved = report.failed.into_iter().map(|(world, cause)| format!("{world}: {cause}")).collect();
        Stopped { seconds: begin.elapsed().as_secs_f64(), not_saved }
    }
}
