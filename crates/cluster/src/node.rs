//! [`Node`]: reads what a file asks for, starts its worlds, ticks them, stops them.
//!
//! Tick threads take the world that is due next, wait for its time, tick it and put it back. They do nothing else, so a world that uses
//! all of its budget makes no status late but its own.

use crate::config::{ConfigError, NodeConfig, ScriptSpec, WorldSpec};
use crate::events::{EventLog, NodeEvent};
use crate::hosted::{CHECKPOINT_SCHEMA, HostedWorld, Inbound, Mailbox, Router};
use crate::pacer::Pacer;
use crate::status::{NodeStatus, WorldState};
use aether_engine::{Engine, EngineConfig, PrefabError, PrefabSet};
use aether_scripting::compile::{self, Compiler};
use aether_scripting::limits::ModuleError;
use aether_scripting::manifest::{ManifestError, ScriptManifest};
use aether_scripting::sandbox::PoolSize;
use aether_scripting::server_runtime::RuntimeError;
use aether_scripting::{AotTarget, ScriptId, ScriptModule, ServerRuntime, ServerRuntimeConfig, Vec3, Version};
use aether_store::{SqliteStore, Store, StoreError};
use aether_types::{Blame, WorldId, codec};
use aether_world_runtime::{AddError, ScriptParts, World, WorldCheckpoint};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// A script's manifest.
    #[error("{path}: {source}")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// A script's module is not one.
    #[error("{path}: {source}")]
    Module {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: ModuleError,
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
    /// A thread could not be started.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

impl NodeError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            NodeError::Manifest { .. } | NodeError::Module { .. } => Blame::Script,
            NodeError::Runtime { source, .. } => source.blame(),
            NodeError::Add { source: AddError::Instance(error), .. } => error.blame(),
            _ => Blame::Operator,
        }
    }
}

/// How a node stopped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// Worlds whose state was saved.
    pub saved: usize,
    /// Worlds whose state was not, and why.
    pub failed: Vec<(String, String)>,
}

struct Due {
    at_ns: Reverse<u64>,
    world: Box<HostedWorld>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.at_ns == other.at_ns
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        self.at_ns.cmp(&other.at_ns)
    }
}

struct Shared {
    start: Instant,
    due: Mutex<BinaryHeap<Due>>,
    wake: Condvar,
    stop: AtomicBool,
    router: Router,
    events: EventLog,
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn due(&self) -> MutexGuard<'_, BinaryHeap<Due>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a tick thread does.
    fn run(&self) {
        while let Some(mut due) = self.next_due() {
            let now = self.now_ns();
            let round = catch_unwind(AssertUnwindSafe(|| due.world.run_due(now, &self.router)));
            let ended = match round {
                Ok(Ok(())) => None,
                Ok(Err(cause)) => Some(cause),
                Err(panic) => Some(format!("panic: {}", panic_text(&*panic))),
            };
            if let Some(cause) = ended {
                self.end(&due.world, cause);
                continue;
            }
            due.world.pacer.ticked(self.now_ns());
            due.at_ns = Reverse(due.world.pacer.next_ns());
            self.due().push(due);
            self.wake.notify_one();
        }
    }

    fn end(&self, world: &HostedWorld, cause: String) {
        let mut status = world.mailbox.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.state = WorldState::Ended { cause: cause.clone() };
        self.events.push(NodeEvent::WorldEnded { world: world.id.to_string(), cause });
    }

    /// Wait for the world that is due next; `None`: the node stops.
    fn next_due(&self) -> Option<Due> {
        let mut due = self.due();
        loop {
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            let now = self.now_ns();
            let wait = match due.peek() {
                Some(first) if first.at_ns.0 <= now => return due.pop(),
                Some(first) => Duration::from_nanos(first.at_ns.0 - now),
                None => Duration::from_millis(100),
            };
            due = self.wake.wait_timeout(due, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// A running node.
pub struct Node {
    name: String,
    order: Vec<String>,
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    threads: Vec<JoinHandle<()>>,
    runtime: Arc<ServerRuntime>,
}

impl Node {
    /// Start what a checked configuration asks for. `base`: the folder that its paths are relative to. `compiler`: where scripts are
    /// compiled. `progress` is told what is going on.
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
            ..ServerRuntimeConfig::default()
        };
        let runtime =
            Arc::new(ServerRuntime::new(server).map_err(|source| NodeError::Runtime { context: "runtime".into(), source })?);
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&base.join(&config.node.data_dir))?);
        let events = EventLog::default();
        let mut loader = Loader { config, base, runtime: &runtime, scripts: HashMap::new(), prefabs: HashMap::new() };
        let mut router = Router::new();
        let mut order = Vec::new();
        for spec in &config.world {
            for name in spec.names() {
                router.insert(name.clone(), Arc::default());
                order.push(name);
            }
        }
        let mut worlds = Vec::new();
        for spec in &config.world {
            for (copy, name) in spec.names().into_iter().enumerate() {
                progress(&format!("world {name}: {} scripts", spec.script.iter().map(|s| s.count).sum::<u32>()));
                worlds.push(loader.world(spec, &name, copy as u64, &store, &router[&name], &events)?);
            }
        }
        let shared = Arc::new(Shared {
            start: Instant::now(),
            due: Mutex::default(),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            router,
            events,
        });
        let count = worlds.len().max(1) as u64;
        for (i, (build, hz, checkpoint_seconds)) in worlds.into_iter().enumerate() {
            // Spread over the first period, so that not all of them want the same moment.
            let period_ns = 1e9 / hz;
            let pacer = Pacer::new(hz, (period_ns * i as f64 / count as f64) as u64);
            let world = Box::new(build(pacer, checkpoint_seconds));
            shared.due().push(Due { at_ns: Reverse(pacer.next_ns()), world });
        }
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let tick_threads = if config.node.tick_threads == 0 { cores.saturating_sub(1).max(1) } else { config.node.tick_threads };
        let mut node = Node { name: config.node.name.clone(), order, shared, store, threads: Vec::new(), runtime };
        for n in 0..tick_threads {
            let shared = Arc::clone(&node.shared);
            let thread =
                std::thread::Builder::new().name(format!("tick-{n}")).spawn(move || shared.run()).map_err(NodeError::Thread)?;
            node.threads.push(thread);
        }
        Ok(node)
    }

    /// What it is doing: a value from the last second.
    pub fn status(&self) -> NodeStatus {
        let status = |name: &String| {
            let mut status = self.shared.router[name].status.lock().unwrap_or_else(PoisonError::into_inner).clone();
            status.name.clone_from(name);
            status
        };
        NodeStatus { name: self.name.clone(), worlds: self.order.iter().map(status).collect() }
    }

    /// What happened.
    pub fn events(&self) -> &EventLog {
        &self.shared.events
    }

    /// The server runtime.
    pub fn runtime(&self) -> &Arc<ServerRuntime> {
        &self.runtime
    }

    /// Put something into a world's inbox. `false`: no such world here, or its inbox is full.
    pub fn send(&self, world: &str, inbound: Inbound) -> bool {
        self.shared.router.get(world).is_some_and(|mailbox| mailbox.push(inbound))
    }

    /// Stop: no more ticks, `on_stop` and a last checkpoint for every world, everything durable.
    pub fn stop(mut self) -> StopReport {
        self.end_threads();
        let mut report = StopReport::default();
        let mut worlds: Vec<_> = std::mem::take(&mut *self.shared.due()).into_vec();
        // First everything that is durable leaves and reaches its world, then the worlds stop.
        let _ = self.store.flush();
        for due in &mut worlds {
            due.world.settle(&self.shared.router);
        }
        for due in &mut worlds {
            let stopped = catch_unwind(AssertUnwindSafe(|| due.world.stop()))
                .unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))));
            if let Err(cause) = stopped {
                report.failed.push((due.world.id.to_string(), cause));
            }
        }
        for world in self.status().worlds {
            if let WorldState::Ended { cause } = world.state {
                report.failed.push((world.name, format!("it had ended before: {cause}")));
            }
        }
        let flushed = self.store.flush();
        for due in &worlds {
            let name = due.world.id.to_string();
            let failure =
                due.world.failure().map(|error| error.to_string()).or_else(|| flushed.as_ref().err().map(ToString::to_string));
            match failure {
                Some(cause) => report.failed.push((name, cause)),
                None if report.failed.iter().any(|(failed, _)| *failed == name) => {}
                None => report.saved += 1,
            }
        }
        report
    }

    fn end_threads(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end_threads();
    }
}

type Build = Box<dyn FnOnce(Pacer, f64) -> HostedWorld>;

/// Reads scripts and prefabs once, however many worlds use them.
struct Loader<'a> {
    config: &'a NodeConfig,
    base: &'a Path,
    runtime: &'a ServerRuntime,
    scripts: HashMap<PathBuf, LoadedScript>,
    prefabs: HashMap<PathBuf, Arc<PrefabSet>>,
}

#[derive(Clone)]
struct LoadedScript {
    manifest: Arc<ScriptManifest>,
    version: Version,
    module: Arc<ScriptModule>,
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    std::fs::read(path).map_err(|source| NodeError::Read { path: path.to_owned(), source })
}

fn read_text(path: &Path) -> Result<String, NodeError> {
    std::fs::read_to_string(path).map_err(|source| NodeError::Read { path: path.to_owned(), source })
}

impl Loader<'_> {
    fn script(&mut self, spec: &WorldSpec, script: &ScriptSpec) -> Result<LoadedScript, NodeError> {
        let dir = self.base.join(&spec.scripts_dir).join(&script.script);
        if let Some(loaded) = self.scripts.get(&dir) {
            return Ok(loaded.clone());
        }
        let path = dir.join("script.toml");
        let text = read_text(&path)?;
        let defaults = (self.config.server.default_fuel, self.config.server.default_memory_mb);
        let manifest =
            ScriptManifest::parse_with(&text, defaults.0, defaults.1).map_err(|source| NodeError::Manifest { path, source })?;
        let path = dir.join(format!("{}.wasm", script.script));
        let wasm = compile::to_binary(&read(&path)?).map_err(|source| NodeError::Module { path: path.clone(), source })?;
        let context = |source| NodeError::Runtime { context: path.display().to_string(), source };
        let id: ScriptId = manifest.name;
        let artifact = self.runtime.compile_for(&wasm, AotTarget::host(), manifest.limits.memory_mb).map_err(context)?;
        let version = self.runtime.register_artifact(id, artifact).map_err(context)?;
        let module = self.runtime.load_module(id, version).map_err(context)?;
        let loaded = LoadedScript { manifest: Arc::new(manifest), version, module };
        self.scripts.insert(dir, loaded.clone());
        Ok(loaded)
    }

    fn prefab_set(&mut self, spec: &WorldSpec) -> Result<Arc<PrefabSet>, NodeError> {
        let Some(path) = &spec.prefabs else { return Ok(Arc::default()) };
        let path = self.base.join(path);
        if let Some(set) = self.prefabs.get(&path) {
            return Ok(Arc::clone(set));
        }
        let set =
            Arc::new(PrefabSet::parse(&read_text(&path)?).map_err(|source| NodeError::Prefabs { path: path.clone(), source })?);
        self.prefabs.insert(path, Arc::clone(&set));
        Ok(set)
    }

    fn world(
        &mut self,
        spec: &WorldSpec,
        name: &str,
        copy: u64,
        store: &Arc<dyn Store>,
        mailbox: &Arc<Mailbox>,
        events: &EventLog,
    ) -> Result<(Build, f64, f64), NodeError> {
        let id = WorldId::new(name).map_err(|_| ConfigError(Vec::new()))?;
        let limits = spec.limits(&self.config.limits);
        let claim = store.claim(&id)?;
        let engine = EngineConfig {
            prefabs: self.prefab_set(spec)?,
            entities_max: limits.entities_max,
            storage_bytes_max: limits.storage_mb << 20,
            first_call: claim.generation.0 << 32,
            ..EngineConfig::default()
        };
        let stored = store.load_keys(&id)?;
        let new_world = || {
            World::new(
                limits.world_config(id.clone(), spec.seed.wrapping_add(copy), self.config.server.max_modules),
                Box::new(Engine::new(engine.clone(), stored.clone())),
            )
        };
        let mut world = new_world();
        let mut checkpoint = None;
        for (seq, bytes) in store.load_checkpoints(&id)? {
            let read =
                codec::decode::<WorldCheckpoint>(CHECKPOINT_SCHEMA, &bytes).and_then(|read| world.restore(&read).map(|()| read));
            match read {
                Ok(read) => {
                    checkpoint = Some(read);
                    break;
                }
                Err(error) => {
                    events.push(NodeEvent::Log {
                        world: name.to_owned(),
                        script: "world".into(),
                        level: 0,
                        text: format!("checkpoint {seq} refused, the one before it is tried: {error}"),
                    });
                    world = new_world();
                }
            }
        }
        for script in &spec.script {
            let loaded = match self.script(spec, script) {
                Ok(loaded) => loaded,
                // The author's to fix: the others of the world are not to wait for it.
                Err(error) if error.blame() == Blame::Script => {
                    let id = ScriptId::new(&script.script).map_err(|_| ConfigError(Vec::new()))?;
                    script.names().into_iter().for_each(|name| world.add_failed(name, id, Version(0), error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for name in script.names() {
                let [x, y, z] = script.position;
                let directory = self.base.join(&self.config.node.data_dir).join("files").join(id.as_str()).join(&name);
                let parts = ScriptParts {
                    name: name.clone(),
                    manifest: Arc::clone(&loaded.manifest),
                    version: loaded.version,
                    module: Arc::clone(&loaded.module),
                    entity: script.prefab.clone().map(|prefab| (prefab, Vec3::new(x, y, z))),
                    directory: Some(directory),
                };
                let saved = checkpoint.as_ref().and_then(|c| c.scripts.iter().find(|saved| saved.name == name));
                match world.add_script(parts, saved) {
                    Ok(_) => {}
                    Err(AddError::Instance(error)) if error.blame() == Blame::Script => {
                        world.add_failed(name, loaded.manifest.name, loaded.version, error.to_string());
                    }
                    Err(source) => return Err(NodeError::Add { world: id.clone(), script: name, source }),
                }
            }
        }
        world.finish_restore();
        let (store, mailbox, events) = (Arc::clone(store), Arc::clone(mailbox), events.clone());
        let build: Build = Box::new(move |pacer, seconds| HostedWorld::new(world, claim, store, mailbox, events, pacer, seconds));
        Ok((build, limits.tick_hz, limits.checkpoint_seconds))
    }
}
