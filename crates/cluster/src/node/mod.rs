//! [`Node`]: reads what a file asks for, starts its worlds, stops them, and is what others hold of it.
//!
//! Two kinds of threads: those that tick (`ticker`), and the control runtime, where actors live. A [`Node`] is a handle: its calls go
//! to actors and wait for them, each with a deadline. Not here: worlds (`world/`), who restarts them ([`supervisor`]).

pub(crate) mod supervisor;

use crate::config::{ConfigError, NodeConfig, WorldSpec};
use crate::events::EventLog;
use crate::flight::{self, FlightRecord};
use crate::limits::{self, WorldLimitsUse};
use crate::link::LinkError;
use crate::membership::Member;
use crate::membership::lease::Lease;
use crate::membership::status::ClusterStatus;
use crate::placement::Plan;
use crate::registry::actor::{Published, RegistryMessage, Source};
use crate::registry::reload::PublishPlan;
use crate::registry::{Registry, RegistryError, VersionInfo};
use crate::status::{Counting, NodeStatus, WorldState, WorldStatus};
use crate::ticker::Ticker;
use crate::world::actor::WorldMessage;
use crate::world::gate::OutputLog;
use crate::world::mailbox::{Control, Inbound, Mailbox};
use crate::world::post::Post;
use crate::world::stage::Stage;
use crate::world::start::WorldPlan;
use aether_engine::PrefabError;
use aether_scripting::TrustKey;
use aether_scripting::compile::Compiler;
use aether_scripting::sandbox::PoolSize;
use aether_scripting::server_runtime::RuntimeError;
use aether_scripting::{EntityView, ScriptId, ServerRuntime, ServerRuntimeConfig, Version};
use aether_store::{CheckpointEntry, Options, PostgresOptions, PostgresStore, SqliteStore, Store, StoreError};
use aether_types::Digest;
use aether_types::{Blame, WorldId};
use aether_world_runtime::{AddError, Ordered, SetAside};
use ractor::{Actor, ActorRef};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use supervisor::{NodeMessage, NodeSupervisor};
use tokio::sync::{Semaphore, oneshot, watch};

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Fields out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that the configuration names.
    #[error("could not read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A prefab file.
    #[error("{path}: {source}")]
    Prefabs {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: PrefabError,
    },
    /// A script's folder.
    #[error("{path}: {source}")]
    Script {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: Arc<RegistryError>,
    },
    /// The runtime, for a script or in general.
    #[error("{context}: {source}")]
    Runtime {
        /// What for.
        context: String,
        /// What is wrong.
        source: RuntimeError,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A script could not be added to its world.
    #[error("world {world}, script {script}: {source}")]
    Add {
        /// The world.
        world: WorldId,
        /// The script's name.
        script: String,
        /// What is wrong.
        source: AddError,
    },
    /// No checkpoint of a world can be read. Nothing is thrown away.
    #[error(
        "world {world} has {count} checkpoints and none can be read (see the events): start the build that wrote them, restore a named \
         one, or remove them to begin anew"
    )]
    NoCheckpoint {
        /// The world.
        world: WorldId,
        /// How many there are.
        count: usize,
    },
    /// A cluster's file, and no word about which of its nodes this is.
    #[error("the file describes a cluster: start one of its nodes with `aether node FILE --name NAME`")]
    NoMember,
    /// Another process of this name is in the cluster.
    #[error(
        "a node named {name} is in the cluster already, at {address}, and holds its lease for {} ms more: give this one another name, or \
         wait if that process is gone",
        .left.as_millis()
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where that one is.
        address: String,
        /// What is left of its lease.
        left: Duration,
    },
    /// Links to other nodes.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Our code panicked.
    #[error("panic: {0}")]
    Panic(String),
    /// A thread could not be started.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

impl NodeError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            NodeError::Script { source, .. } => source.blame(),
            NodeError::Runtime { source, .. } => source.blame(),
            NodeError::Add { source: AddError::Instance(error), .. } => error.blame(),
            _ => Blame::Operator,
        }
    }
}

/// What all actors of a node use.
pub(crate) struct Services {
    pub config: NodeConfig,
    pub data_dir: PathBuf,
    pub store: Arc<dyn Store>,
    pub events: EventLog,
    pub post: Arc<Post>,
    /// How long this node may act.
    pub lease: Arc<Lease>,
    /// Of a node in a cluster.
    pub member: OnceLock<Weak<Member>>,
    /// Where actors live.
    pub control: tokio::runtime::Handle,
    pub ticker: Ticker,
    pub registry: Registry,
    /// Its actor; `None` while it is restarted.
    registry_actor: Mutex<Option<ActorRef<RegistryMessage>>>,
    /// Where everything that leaves worlds is written too.
    pub outputs: Option<OutputLog>,
    /// What is counted since it started.
    pub counting: Counting,
    /// Instances built at a time.
    pub builders: Arc<Semaphore>,
    /// Worlds at a time between being read and ticking.
    pub starts: Arc<Semaphore>,
    /// Worlds read or saved at a time.
    blocking: Arc<Semaphore>,
}

impl Services {
    pub fn set_registry(&self, registry: Option<ActorRef<RegistryMessage>>) {
        *self.registry_actor.lock().unwrap_or_else(PoisonError::into_inner) = registry;
    }

    fn registry_actor(&self) -> Option<ActorRef<RegistryMessage>> {
        self.registry_actor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This node's part in its cluster.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.get()?.upgrade()
    }

    /// Run something that takes its time. `Err`: it panicked, and what it said.
    pub async fn blocking<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
        let permit = Arc::clone(&self.blocking).acquire_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            f()
        });
        task.await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => crate::ticker::panic_text(&*panic).to_owned(),
            Err(error) => error.to_string(),
        })
    }
}

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// A name that is nobody's.
    #[error("there is no world {0} on this node")]
    NoWorld(String),
    /// Another node of the cluster runs it.
    #[error("world {world} runs on node {node}: ask that one")]
    Elsewhere {
        /// The world.
        world: String,
        /// The node.
        node: String,
    },
    /// It is alone.
    #[error("this node is in no cluster")]
    NoCluster,
    /// It did not answer in time: it may still do what it was asked.
    #[error("world {0} did not answer in time; it may still do it")]
    Late(String),
    /// It ended while it was asked.
    #[error("world {0} does not tick: see its state")]
    Gone(String),
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

/// Why a world cannot be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttendError {
    /// A name that is nobody's.
    #[error("there is no such world")]
    NoWorld,
    /// Nobody runs it at the moment, or its node cannot be reached: try again soon.
    #[error("nobody runs the world at the moment")]
    NotNow,
}

/// How a node stopped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// Worlds whose state was saved.
    pub saved: usize,
    /// Worlds that another node runs now.
    pub moved: usize,
    /// Worlds whose state was not, and why.
    pub failed: Vec<(String, String)>,
}

/// A running node.
pub struct Node {
    name: String,
    order: Vec<String>,
    services: Arc<Services>,
    supervisor: ActorRef<NodeMessage>,
    runtime: Arc<ServerRuntime>,
    member: Option<Arc<Member>>,
    control: Option<tokio::runtime::Runtime>,
}

/// A question to a world is answered at its next tick; a world that is being read takes longer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Until every world of a stopping node has left its tick thread, and until it is saved.
const STOP_TIME: Duration = Duration::from_secs(60);

impl Node {
    /// Start what a checked configuration asks for. `base`: the folder that its paths are relative to. `compiler`: where scripts are
    /// compiled. `progress` is told what is going on. When it returns, every world ticks, or its status says why not.
    pub fn start(
        config: &NodeConfig,
        base: &Path,
        compiler: Compiler,
        mut progress: impl FnMut(&str),
    ) -> Result<Node, NodeError> {
        config.check()?;
        let server = ServerRuntimeConfig {
            aot_cache_dir: base.join(&config.server.aot_cache_dir),
            // The runtime serves all worlds; the bound for each is the world's.
            max_modules: config.server.max_modules.max(4_096),
            default_fuel: config.server.default_fuel,
            default_memory_mb: config.server.default_memory_mb,
            compiler,
            pool: PoolSize { small: config.node.instances_small, large: config.node.instances_large },
            canonical_nans: config.server.canonical_nans,
            traces: config.server.traces,
            // Nodes of a cluster believe each other's native code.
            trust_key: config.cluster.as_ref().and_then(|section| cluster_key(&base.join(&section.identity))),
            ..ServerRuntimeConfig::default()
        };
        let runtime =
            Arc::new(ServerRuntime::new(server).map_err(|source| NodeError::Runtime { context: "runtime".into(), source })?);
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(NodeError::Thread)?;
        let data_dir = base.join(&config.node.data_dir);
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let tick_threads = if config.node.tick_threads == 0 { cores.saturating_sub(1).max(1) } else { config.node.tick_threads };
        let kept = config.node.checkpoints_kept;
        let (store, shared): (Arc<dyn Store>, _) = match &config.cluster {
            None => (Arc::new(SqliteStore::open_with(&data_dir, Options { checkpoints_kept: kept })?), None),
            Some(section) => {
                let me = section.me.as_ref().ok_or(NodeError::NoMember)?;
                let lease = Duration::from_secs_f64(section.lease_seconds);
                let options = PostgresOptions {
                    checkpoints_kept: kept,
                    schema: Some(section.schema.clone()),
                    // A statement that waits longer must not keep a claim of another node waiting.
                    statement_timeout: (lease / 2).clamp(Duration::from_millis(750), Duration::from_secs(10)),
                };
                let store = Arc::new(PostgresStore::open(&section.store, options)?);
                (Arc::clone(&store) as Arc<dyn Store>, Some((section, me, store)))
            }
        };
        let events = EventLog::default();
        let registry = Registry::new(base.to_owned(), config, Arc::clone(&runtime), Arc::clone(&store), events.clone());
        registry.preload(&config.world, &mut progress)?;
        // Not before it could run what it is given.
        let join = |(section, me, store)| {
            let capacity = tick_threads.min(cores) as f64;
            Member::join(section, me, store, &data_dir, capacity, control.handle().clone())
        };
        let member = shared.map(join).transpose()?;
        let services = Arc::new(Services {
            config: config.clone(),
            data_dir,
            store,
            events,
            post: Arc::default(),
            lease: member.as_ref().map_or_else(|| Arc::new(Lease::forever()), |member| member.lease()),
            member: OnceLock::new(),
            control: control.handle().clone(),
            ticker: Ticker::start(tick_threads).map_err(NodeError::Thread)?,
            registry,
            registry_actor: Mutex::default(),
            counting: Counting::default(),
            outputs: config.node.outputs.as_ref().map(|path| OutputLog::open(&base.join(path))).transpose()?,
            builders: Arc::new(Semaphore::new(cores)),
            starts: Arc::new(Semaphore::new(2 * cores)),
            blocking: Arc::new(Semaphore::new(2 * cores)),
        });
        let supervisor = control
            .block_on(Actor::spawn(None, NodeSupervisor, Arc::clone(&services)))
            .map_err(|error| NodeError::Panic(error.to_string()))?
            .0;
        let (name, control) = (config.node.name.clone(), Some(control));
        let mut node = Node { name, order: Vec::new(), services, supervisor, runtime, member, control };
        let plans = plans(config);
        node.order = plans.iter().map(|plan| plan.name.clone()).collect();
        match &node.member {
            Some(member) => member.start(base, Arc::clone(&node.services), node.supervisor.clone(), plans)?,
            None => node.start_worlds(plans, &mut progress),
        }
        Ok(node)
    }

    fn start_worlds(&self, plans: Vec<WorldPlan>, progress: &mut impl FnMut(&str)) {
        let count = plans.len().max(1) as f64;
        for (i, plan) in plans.into_iter().enumerate() {
            let mailbox = Mailbox::new(&plan.name);
            self.services.post.insert(&plan.name, Arc::clone(&mailbox));
            let _ = self.supervisor.cast(NodeMessage::Start(Box::new(plan), mailbox, i as f64 / count));
        }
        // Whoever asks for its status wants to see worlds, not that they are being read.
        for (i, name) in self.order.iter().enumerate() {
            let Some(mailbox) = self.mailbox(name) else { continue };
            let begun = async {
                let mut status = mailbox.watch();
                let begun = status.wait_for(|status| !matches!(status.state, WorldState::Starting));
                let _ = tokio::time::timeout(ANSWER_TIME, begun).await;
            };
            self.wait(begun);
            if i % 100 == 0 {
                progress(&format!("world {} of {}: {name}", i + 1, self.order.len()));
            }
        }
    }

    fn wait<R>(&self, future: impl Future<Output = R>) -> R {
        self.control.as_ref().expect("the runtime is there until the node is dropped").block_on(future)
    }

    fn mailbox(&self, world: &str) -> Option<Arc<Mailbox>> {
        self.services.post.find(world)
    }

    /// What it is doing: a value from the last second.
    pub fn status(&self) -> NodeStatus {
        let status = |name: &String| self.mailbox(name).map(|mailbox| WorldStatus::clone(&mailbox.status()));
        let worlds = self.order.iter().filter_map(status).collect();
        NodeStatus { name: self.name.clone(), worlds, counters: self.services.counting.read() }
    }

    /// Where it keeps what is its own.
    pub fn data_dir(&self) -> &Path {
        &self.services.data_dir
    }

    /// What happened to a world: its last few hundred events, through all restarts.
    pub fn flight(&self, world: &str) -> Result<FlightRecord, AskError> {
        let mailbox = self.mailbox(world).ok_or_else(|| self.not_here(world))?;
        Ok(flight::record_of(&self.services, &mailbox, None))
    }

    /// What a world and so many of its scripts may use, and do.
    pub fn limits(&self, world: &str, scripts: usize) -> Result<WorldLimitsUse, AskError> {
        let status = self.mailbox(world).ok_or_else(|| self.not_here(world))?.status();
        let config = &self.services.config;
        let spec = config.world.iter().find(|spec| spec.has(world));
        let limits = spec.map_or_else(|| config.limits.clone(), |spec| spec.limits(&config.limits));
        let manifest = |script| self.services.registry.active(script).map(|loaded| loaded.manifest.limits);
        Ok(limits::of(&status, &limits, manifest, scripts))
    }

    /// A world's status as it changes. `None`: there is no such world.
    pub fn watch(&self, world: &str) -> Option<watch::Receiver<Arc<WorldStatus>>> {
        self.mailbox(world).map(|mailbox| mailbox.watch())
    }

    /// What happened.
    pub fn events(&self) -> &EventLog {
        &self.services.events
    }

    /// Tasks of the control runtime, the actors' own with them: a number that only grows is a leak.
    pub fn tasks(&self) -> usize {
        self.services.control.metrics().num_alive_tasks()
    }

    /// The server runtime.
    pub fn runtime(&self) -> &Arc<ServerRuntime> {
        &self.runtime
    }

    /// Put something into a world's inbox. `false`: no such world here, or its inbox is full.
    pub fn send(&self, world: &str, inbound: Inbound) -> bool {
        self.mailbox(world).is_some_and(|mailbox| mailbox.push(inbound))
    }

    /// Watch a world and act in it, here or on another node. A stage ends when its world leaves its node; then ask again. Never waits.
    pub fn attend(&self, world: &str) -> Result<Stage, AttendError> {
        if let Some(mailbox) = self.mailbox(world) {
            return Ok(Stage::here(mailbox));
        }
        let member = self.member.as_ref().ok_or(AttendError::NoWorld)?;
        if !WorldId::new(world).is_ok_and(|world| self.services.post.exists(&world)) {
            return Err(AttendError::NoWorld);
        }
        member.attend(world).ok_or(AttendError::NotNow)
    }

    /// The worlds of this node's file, wherever they run, and their ticks a second.
    pub fn world_rates(&self) -> Vec<(String, f64)> {
        let config = &self.services.config;
        let rate = |spec: &WorldSpec| spec.limits(&config.limits).tick_hz;
        config.world.iter().flat_map(|spec| spec.names().into_iter().map(move |name| (name, rate(spec)))).collect()
    }

    /// The worlds of the file in which a script has one of these names.
    pub fn worlds_with(&self, scripts: impl Fn(&str) -> bool) -> Vec<String> {
        let has = |spec: &&WorldSpec| spec.script.iter().flat_map(|script| script.names()).any(|name| scripts(&name));
        self.services.config.world.iter().filter(has).flat_map(WorldSpec::names).collect()
    }

    fn not_here(&self, world: &str) -> AskError {
        let world = world.to_owned();
        match self.member.as_ref().and_then(|member| member.owner_of(&world)) {
            Some(node) if node != self.name => AskError::Elsewhere { world, node },
            _ => AskError::NoWorld(world),
        }
    }

    fn member(&self) -> Result<&Arc<Member>, AskError> {
        self.member.as_ref().ok_or(AskError::NoCluster)
    }

    /// Its cluster, as it sees it; `None`: it is in none.
    pub fn cluster(&self) -> Option<ClusterStatus> {
        self.member.as_ref().map(|member| member.status())
    }

    /// Which worlds placement would move now, and why.
    pub fn placement_plan(&self) -> Result<Plan, AskError> {
        self.member()?.plan().map_err(|error| AskError::Refused(error.to_string()))
    }

    /// Move a world to a node, and leave it there as long as that node takes worlds. It goes as soon as both have looked.
    pub fn move_world(&self, world: &str, node: &str) -> Result<(), AskError> {
        self.member()?.set_target(world, Some(node)).map_err(AskError::Refused)
    }

    /// Let placement move a world again.
    pub fn unpin_world(&self, world: &str) -> Result<(), AskError> {
        self.member()?.set_target(world, None).map_err(AskError::Refused)
    }

    /// Have a node give its worlds away and take none, or take worlds again.
    pub fn drain(&self, node: &str, on: bool) -> Result<(), AskError> {
        self.member()?.drain(node, on).map_err(AskError::Refused)
    }

    /// Entities of a world, as they were at the edge of a tick; 2,000 at most.
    pub fn entities(&self, world: &str) -> Result<Vec<EntityView>, AskError> {
        self.ask(world, |reply| Control::Entities { reply })
    }

    fn ask<R>(&self, world: &str, control: impl FnOnce(oneshot::Sender<R>) -> Control) -> Result<R, AskError> {
        let mailbox = self.mailbox(world).ok_or_else(|| self.not_here(world))?;
        let (send, receive) = oneshot::channel();
        mailbox.control(control(send));
        match self.wait(async { tokio::time::timeout(ANSWER_TIME, receive).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Gone(world.to_owned())),
            Err(_) => Err(AskError::Late(world.to_owned())),
        }
    }

    /// Take a script out of its world's order, its state saved.
    pub fn suspend_script(&self, world: &str, script: &str) -> Result<Ordered, AskError> {
        self.ask(world, |reply| Control::Suspend { script: script.to_owned(), reply })
    }

    /// Put a suspended, parked or finished script back.
    pub fn resume_script(&self, world: &str, script: &str) -> Result<Ordered, AskError> {
        self.ask(world, |reply| Control::Resume { script: script.to_owned(), reply })
    }

    /// Messages and events that ended their script twice.
    pub fn set_aside(&self, world: &str) -> Result<Vec<SetAside>, AskError> {
        self.ask(world, |reply| Control::SetAside { reply })
    }

    /// Save a world now; gives the number of the commit when it is durable. One with a name is kept until others push it out.
    pub fn checkpoint(&self, world: &str, name: Option<String>) -> Result<u64, AskError> {
        self.ask(world, |reply| Control::Checkpoint { name, reply })?.map_err(AskError::Refused)
    }

    /// The checkpoints of a world, newest first.
    pub fn checkpoints(&self, world: &str) -> Result<Vec<CheckpointEntry>, AskError> {
        let id = WorldId::new(world).map_err(|_| AskError::NoWorld(world.to_owned()))?;
        self.services.store.list_checkpoints(&id).map_err(|error| AskError::Refused(error.to_string()))
    }

    /// Start a world again as it was at a checkpoint, given by name or commit number. Its storage stays as it is.
    pub fn restore(&self, world: &str, checkpoint: &str) -> Result<(), AskError> {
        let (name, checkpoint) = (world.to_owned(), checkpoint.to_owned());
        self.ask_supervisor(world, |reply| NodeMessage::Restore { name, checkpoint, reply })?.map_err(AskError::Refused)
    }

    /// Start a parked world again. `false`: it is not parked.
    pub fn resume_world(&self, world: &str) -> Result<bool, AskError> {
        self.ask_supervisor(world, |reply| NodeMessage::Resume(world.to_owned(), reply))
    }

    fn ask_supervisor<R>(&self, world: &str, message: impl FnOnce(oneshot::Sender<R>) -> NodeMessage) -> Result<R, AskError> {
        let (send, receive) = oneshot::channel();
        let _ = self.supervisor.cast(message(send));
        match self.wait(async { tokio::time::timeout(ANSWER_TIME, receive).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Gone(world.to_owned())),
            Err(_) => Err(AskError::Late(world.to_owned())),
        }
    }

    fn ask_registry<R>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<R, RegistryError>>) -> RegistryMessage,
    ) -> Result<R, RegistryError> {
        let (send, receive) = oneshot::channel();
        if let Some(registry) = self.services.registry_actor() {
            let _ = registry.cast(message(send));
        }
        // A reload has a deadline of its own.
        self.wait(receive).unwrap_or(Err(RegistryError::Stopping))
    }

    /// Make a script's code its next version, and bring it into every world that runs it, or into none.
    pub fn publish(&self, source: Source) -> Published {
        self.ask_registry(|reply| RegistryMessage::Publish { source, canary: None, reply })
    }

    /// The same, in so many worlds first, and in the others only if it is well in those. On a node that is alone, in all at once.
    pub fn publish_canary(&self, source: Source, worlds: usize) -> Published {
        self.ask_registry(|reply| RegistryMessage::Publish { source, canary: Some(worlds), reply })
    }

    /// What [`publish`](Node::publish) would do, tried out as far as that changes nothing.
    pub fn plan(&self, source: Source) -> Result<PublishPlan, RegistryError> {
        self.ask_registry(|reply| RegistryMessage::Plan(source, reply))
    }

    /// Bring another version into the worlds: this one, or the one before.
    pub fn rollback(&self, script: ScriptId, version: Option<Version>) -> Published {
        self.ask_registry(|reply| RegistryMessage::Activate(script, version, reply))
    }

    /// All versions of all scripts.
    pub fn versions(&self) -> Result<Vec<VersionInfo>, RegistryError> {
        self.services.registry.versions()
    }

    /// Keep a version whatever happens, or no longer.
    pub fn pin(&self, script: ScriptId, version: Version, pinned: bool) -> Result<(), RegistryError> {
        self.ask_registry(|reply| RegistryMessage::Pin(script, version, pinned, reply))
    }

    /// Remove what nothing refers to; gives how many versions and sources went.
    pub fn collect(&self) -> Result<(usize, usize), RegistryError> {
        self.ask_registry(RegistryMessage::Collect)
    }

    /// Kill a world's actor, as a fault would. For tests of supervision.
    pub fn kill_world(&self, world: &str) -> bool {
        let actor = self.mailbox(world).and_then(|mailbox| mailbox.actor());
        actor.inspect(|actor| actor.kill()).is_some()
    }

    /// Stop: no more ticks, `on_stop` and a last checkpoint for every world, everything durable.
    pub fn stop(self) -> StopReport {
        self.shut_down()
    }

    /// The same for one that others hold too: what they ask it from now on is refused.
    pub fn shut_down(&self) -> StopReport {
        let mut moved = 0;
        if let Some(member) = &self.member {
            moved = self.services.post.names().len();
            member.leave_worlds(STOP_TIME);
            member.stop_rounds();
            moved = moved.saturating_sub(self.services.post.names().len());
        }
        let mut report = self.wait(self.stop_worlds());
        report.moved = moved;
        self.services.ticker.stop();
        if let Some(member) = &self.member {
            member.leave();
        }
        report
    }

    async fn stop_worlds(&self) -> StopReport {
        let mut report = StopReport::default();
        let (send, receive) = oneshot::channel();
        let _ = self.supervisor.cast(NodeMessage::Worlds(send));
        let Ok(Ok(worlds)) = tokio::time::timeout(STOP_TIME, receive).await else {
            report.failed.push((self.name.clone(), "its supervisor did not answer".to_owned()));
            return report;
        };
        let deadline = Instant::now() + STOP_TIME;
        let mut running = Vec::new();
        for (name, actor) in worlds {
            match actor {
                Some(actor) => running.push((name, actor)),
                None => {
                    let state = self.mailbox(&name).map(|mailbox| mailbox.status().state.clone());
                    let cause = match state {
                        Some(WorldState::Parked { cause } | WorldState::Restarting { cause }) => cause,
                        _ => "unknown".to_owned(),
                    };
                    report.failed.push((name, format!("it had ended before: {cause}")));
                }
            }
        }
        // All leave their tick threads; what is durable leaves and reaches its world; then they are saved.
        ask_all(&running, deadline, WorldMessage::Freeze).await;
        let store = Arc::clone(&self.services.store);
        // A disk that is stuck must not keep the process: what it then did not take is reported below.
        let _ = tokio::time::timeout(STOP_TIME, self.services.blocking(move || store.flush())).await;
        ask_all(&running, deadline, WorldMessage::Settle).await;
        // Who slept and was called by one of them is awake now.
        ask_all(&running, deadline, WorldMessage::Freeze).await;
        let finished = ask_all(&running, deadline, WorldMessage::Finish).await;
        let store = Arc::clone(&self.services.store);
        let failed = |message: String| Err(StoreError::Database { path: self.services.data_dir.clone(), message });
        let flushed = match tokio::time::timeout(STOP_TIME, self.services.blocking(move || store.flush())).await {
            Ok(Ok(flushed)) => flushed,
            Ok(Err(panic)) => failed(panic),
            Err(_) => failed("it did not flush in time".to_owned()),
        };
        for ((name, _), finished) in running.into_iter().zip(finished) {
            match (finished, &flushed) {
                (Some(Ok(())), Ok(())) => report.saved += 1,
                (Some(Ok(())), Err(error)) => report.failed.push((name, error.to_string())),
                (Some(Err(cause)), _) => report.failed.push((name, cause)),
                (None, _) => report.failed.push((name, "it did not answer in time, or ended".to_owned())),
            }
        }
        report
    }
}

/// The key that a cluster's nodes sign native code with: made from the secret that they share.
fn cluster_key(identity: &Path) -> Option<TrustKey> {
    let cookie = std::fs::read_to_string(identity.join("cookie")).ok()?;
    Some(TrustKey::new(Digest::of(format!("aether artifacts {}", cookie.trim()).as_bytes()).0))
}

/// The worlds that a file asks for.
fn plans(config: &NodeConfig) -> Vec<WorldPlan> {
    let plans = config.world.iter().flat_map(|spec| {
        let spec = Arc::new(spec.clone());
        let names = spec.names();
        let plan = move |(copy, name)| WorldPlan { name, spec: Arc::clone(&spec), copy: copy as u64 };
        names.into_iter().enumerate().map(plan)
    });
    plans.collect()
}

/// Ask every world the same at once; the answers in the same order, `None` for those that did not give one in time.
async fn ask_all<R: Send + 'static>(
    worlds: &[(String, ActorRef<WorldMessage>)],
    deadline: Instant,
    question: impl Fn(oneshot::Sender<R>) -> WorldMessage,
) -> Vec<Option<R>> {
    let mut answers = Vec::new();
    for (_, actor) in worlds {
        let (send, receive) = oneshot::channel();
        let _ = actor.cast(question(send));
        answers.push(receive);
    }
    let mut answered = Vec::new();
    for receive in answers {
        let answer = tokio::time::timeout(deadline.saturating_duration_since(Instant::now()), receive).await;
        answered.push(answer.ok().and_then(Result::ok));
    }
    answered
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(member) = &self.member {
            member.stop_rounds();
        }
        self.supervisor.stop(None);
        self.services.ticker.stop();
        if let Some(control) = self.control.take() {
            // Nobody may wait on a thread that serves others.
            match tokio::runtime::Handle::try_current() {
                Ok(_) => control.shutdown_background(),
                Err(_) => control.shutdown_timeout(Duration::from_secs(5)),
            }
        }
    }
}
