//! The server side in one piece: compile, register, load, execute, reload.
//!
//! Start with [`ServerRuntime`]. It owns the engines, the registry, the disk cache and the slots, and can be shared between threads.
//!
//! ```
//! use aether_scripting::server_runtime::{
//!     ServerRuntime, ServerRuntimeConfig, AotTarget,
//!     ServerResourcePolicy, SyscallPolicy,
//! };
//! # use aether_scripting::{ScriptId, Version, ReloadOutcome};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let wasm_bytes = aether_scripting::compile::to_binary(br#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#)?;
//! # let (script_id, version) = (ScriptId::new("guard")?, Version(1));
//! // Create a server runtime with default configuration
//! let config = ServerRuntimeConfig::from_env();
//! # let dir = std::env::temp_dir().join(format!("aether-doctest-{}", std::process::id()));
//! # let config = ServerRuntimeConfig { aot_cache_dir: dir.clone(), ..config };
//! let mut runtime = ServerRuntime::new(config)?;
//!
//! // Compile a WASM module to a native artifact
//! let artifact = runtime.compile_aot(&wasm_bytes, AotTarget::LinuxX64)?;
//! # let artifact = runtime.compile_aot(&wasm_bytes, AotTarget::host())?;
//!
//! // Register the artifact under a script ID
//! runtime.register_artifact(script_id, artifact)?;
//!
//! // Load and execute with resource limits
//! let module = runtime.load_module(script_id, version)?;
//! let policy = ServerResourcePolicy {
//!     fuel_budget: 1_000_000,
//!     memory_cap_mb: 64,
//!     syscall_policy: SyscallPolicy::deny_all(),
//!     ..Default::default()
//! };
//! let result = runtime.execute(&module, &policy)?;
//! # assert_eq!(result.outcome, aether_scripting::MeteringOutcome::Completed);
//!
//! # let updated_wasm = aether_scripting::compile::to_binary(br#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32) (drop (i32.const 2))))"#)?;
//! // Update a script without restarting the world
//! let new_artifact = runtime.compile_aot(&updated_wasm, AotTarget::LinuxX64)?;
//! # let new_artifact = runtime.compile_aot(&updated_wasm, AotTarget::host())?;
//! let outcome = runtime.hot_reload(script_id, new_artifact)?;
//! match outcome {
//!     ReloadOutcome::Success { old_version, new_version } => {
//!         println!("Reloaded script {script_id}: v{old_version} -> v{new_version}");
//! #       assert_eq!((old_version, new_version), (Version(1), Version(2)));
//!     }
//!     ReloadOutcome::Rollback { reason } => {
//!         println!("Reload rolled back: {reason}");
//! #       panic!("{reason}");
//!     }
//! }
//! # std::fs::remove_dir_all(dir)?;
//! # Ok(())
//! # }
//! ```

pub use crate::policy::{OnBudget, ServerResourcePolicy, SyscallCategory, SyscallPolicy};
pub use crate::sandbox::AotTarget;

use crate::api::{Host, NoEngine};
use crate::artifact::{AotArtifact, ManifestVerificationError, TrustKey};
use crate::cache::{ArtifactCache, CacheError};
use crate::call::Call;
use crate::compile::{self, CompileError, Compiler};
use crate::data::{Counters, LogLine, WorldContext, WorldMemory};
use crate::hot_reload::{HotReloadManager, ReloadOutcome};
use crate::instance::{InstanceError, InstanceSpec, ScriptInstance};
use crate::limited::HostGroups;
use crate::limits::ModuleLimits;
use crate::metering::MeteringOutcome;
use crate::module::{Engines, LoadError, ScriptModule};
use crate::rate::{ActionLimiter, ActionRates};
use crate::registry::ArtifactRegistry;
use crate::sandbox::{EngineProfile, PoolSize, SlotClass};
use aether_types::{Blame, Digest, InstanceId, ScriptId, Version};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every category of system calls: what a module may at most import. Its policy decides when it is loaded into a world.
pub fn all_syscalls() -> SyscallPolicy {
    [
        SyscallCategory::Filesystem,
        SyscallCategory::Network,
        SyscallCategory::Clock,
        SyscallCategory::Random,
        SyscallCategory::Process,
    ]
    .into_iter()
    .fold(SyscallPolicy::deny_all(), SyscallPolicy::allow)
}

/// Settings of a [`ServerRuntime`].
#[derive(Debug, Clone)]
pub struct ServerRuntimeConfig {
    /// Directory of AOT artifacts. `AETHER_SERVER_AOT_CACHE_DIR`
    pub aot_cache_dir: PathBuf,
    /// Modules in memory at a time. `AETHER_SERVER_MAX_MODULES`
    pub max_modules: usize,
    /// Fuel of one execution when a policy says nothing. `AETHER_SERVER_DEFAULT_FUEL`
    pub default_fuel: u64,
    /// Memory of one script, MiB. Decides the slot class that [`ServerRuntime::compile_aot`] compiles for. `AETHER_SERVER_DEFAULT_MEMORY_MB`
    pub default_memory_mb: u64,
    /// The key that artifacts are signed with; `None`: one of the cache directory's own.
    pub trust_key: Option<TrustKey>,
    /// Where modules are compiled.
    pub compiler: Compiler,
    /// How many instances the process can hold.
    pub pool: PoolSize,
    /// What may be compiled.
    pub module_limits: ModuleLimits,
    /// One bit pattern for NaNs, for worlds that must repeat on other machines.
    pub canonical_nans: bool,
    /// Whether calls that end badly say where: for authors. See [`EngineProfile::traces`].
    pub traces: bool,
    /// Whether CPU time stops what fuel does not see. Off only where runs must repeat to the instruction, under a profiler.
    pub cpu_backstop: bool,
    /// Variables that could not be read; [`ServerRuntime::new`] reports the first.
    pub problems: Vec<SettingError>,
}

/// An `AETHER_*` variable with a value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is {value:?}, allowed is {allowed}")]
pub struct SettingError {
    /// The variable.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

impl Default for ServerRuntimeConfig {
    fn default() -> ServerRuntimeConfig {
        ServerRuntimeConfig {
            aot_cache_dir: PathBuf::from("/tmp/aether/aot_cache"),
            max_modules: 256,
            default_fuel: 1_000_000,
            default_memory_mb: 64,
            trust_key: None,
            compiler: Compiler::InProcess,
            pool: PoolSize::default(),
            module_limits: ModuleLimits::default(),
            canonical_nans: false,
            traces: false,
            cpu_backstop: true,
            problems: Vec::new(),
        }
    }
}

/// Read a whole number in a range from a variable; problems are collected.
pub(crate) fn number_from_env(
    variable: &'static str,
    range: std::ops::RangeInclusive<u64>,
    allowed: &'static str,
    default: u64,
    problems: &mut Vec<SettingError>,
) -> u64 {
    let Some(value) = std::env::var_os(variable) else { return default };
    let value = value.to_string_lossy().into_owned();
    match value.trim().parse() {
        Ok(number) if range.contains(&number) => number,
        _ => {
            problems.push(SettingError { variable, value, allowed });
            default
        }
    }
}

impl ServerRuntimeConfig {
    /// The defaults, with the `AETHER_SERVER_*` variables over them.
    pub fn from_env() -> ServerRuntimeConfig {
        let mut config = ServerRuntimeConfig::default();
        let mut problems = Vec::new();
        if let Some(dir) = std::env::var_os("AETHER_SERVER_AOT_CACHE_DIR") {
            if dir.is_empty() {
                problems.push(SettingError {
                    variable: "AETHER_SERVER_AOT_CACHE_DIR",
                    value: String::new(),
                    allowed: "a directory",
                });
            } else {
                config.aot_cache_dir = dir.into();
            }
        }
        config.max_modules =
            number_from_env("AETHER_SERVER_MAX_MODULES", 1..=65_536, "a whole number from 1 to 65536", 256, &mut problems)
                as usize;
        config.default_fuel = number_from_env(
            "AETHER_SERVER_DEFAULT_FUEL",
            1_000..=10_000_000_000,
            "a whole number from 1000 to 10000000000",
            1_000_000,
            &mut problems,
        );
        config.default_memory_mb =
            number_from_env("AETHER_SERVER_DEFAULT_MEMORY_MB", 1..=64, "a whole number of MiB from 1 to 64", 64, &mut problems);
        config.problems = problems;
        config
    }
}

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The cache directory.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Compiling.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// An artifact or a manifest was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestVerificationError),
    /// Loading.
    #[error(transparent)]
    Load(LoadError),
    /// Building an instance.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// No such version.
    #[error("{script} has no version {version} here: register its artifact first")]
    Unknown {
        /// The script.
        script: ScriptId,
        /// The version.
        version: Version,
    },
    /// A reload of a script that never was registered.
    #[error("{script} has no version to reload: register an artifact first")]
    NothingToReload {
        /// The script.
        script: ScriptId,
    },
    /// Somebody gave the native code of something else.
    #[error("native code of {found} was given for {wanted}, or for another machine or engine: it is compiled here instead")]
    OtherArtifact {
        /// The source that was meant.
        wanted: Digest,
        /// What it was made from.
        found: Digest,
    },
    /// The module cache is full of modules that are in use.
    #[error("{limit} modules are loaded and in use: raise AETHER_SERVER_MAX_MODULES")]
    TooManyModules {
        /// The limit.
        limit: usize,
    },
}

impl From<LoadError> for RuntimeError {
    fn from(error: LoadError) -> RuntimeError {
        match error {
            LoadError::Manifest(error) => RuntimeError::Manifest(error),
            error => RuntimeError::Load(error),
        }
    }
}

impl RuntimeError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            RuntimeError::Setting(_)
            | RuntimeError::Unknown { .. }
            | RuntimeError::NothingToReload { .. }
            | RuntimeError::OtherArtifact { .. }
            | RuntimeError::TooManyModules { .. } => Blame::Operator,
            RuntimeError::Cache(error) => error.blame(),
            RuntimeError::Compile(error) => error.blame(),
            RuntimeError::Manifest(error) => error.blame(),
            RuntimeError::Load(error) => error.blame(),
            RuntimeError::Instance(error) => error.blame(),
        }
    }
}

/// What an execution did and cost.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionReport {
    /// How it ended.
    pub outcome: MeteringOutcome,
    /// Fuel used.
    pub fuel_used: u64,
    /// Host calls by group and bytes of memory.
    pub counters: Counters,
    /// What the script wrote.
    pub log: Vec<LogLine>,
}

#[derive(Debug, Default)]
struct State {
    registry: ArtifactRegistry,
    slots: HotReloadManager,
    modules: std::collections::HashMap<(ScriptId, Version), Arc<ScriptModule>>,
}

/// Compiles, keeps, loads, executes and reloads scripts.
pub struct ServerRuntime {
    config: ServerRuntimeConfig,
    key: TrustKey,
    cache: ArtifactCache,
    engines: Engines,
    state: Mutex<State>,
}

impl ServerRuntime {
    /// A runtime with no scripts.
    pub fn new(config: ServerRuntimeConfig) -> Result<ServerRuntime, RuntimeError> {
        if let Some(problem) = config.problems.first() {
            return Err(problem.clone().into());
        }
        let cache = ArtifactCache::open(&config.aot_cache_dir)?;
        let key = match &config.trust_key {
            Some(key) => key.clone(),
            None => cache.key()?,
        };
        let engines = Engines::new(config.pool)?;
        let engines = if config.cpu_backstop { engines } else { engines.without_clock() };
        Ok(ServerRuntime { config, key, cache, engines, state: Mutex::default() })
    }

    /// Its settings.
    pub fn config(&self) -> &ServerRuntimeConfig {
        &self.config
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held left maps that are whole: every change to them is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self, memory_mb: u64) -> EngineProfile {
        let class = SlotClass::holding(memory_mb).unwrap_or(SlotClass::Large);
        EngineProfile { class, canonical_nans: self.config.canonical_nans, traces: self.config.traces }
    }

    /// Compile a module for a target, for scripts with the default memory cap. What was compiled before comes from the cache.
    pub fn compile_aot(&self, wasm: &[u8], target: AotTarget) -> Result<AotArtifact, RuntimeError> {
        self.compile_for(wasm, target, self.config.default_memory_mb)
    }

    /// The same for scripts with another memory cap, MiB.
    pub fn compile_for(&self, wasm: &[u8], target: AotTarget, memory_mb: u64) -> Result<AotArtifact, RuntimeError> {
        let profile = self.profile(memory_mb);
        let source = Digest::of(wasm);
        if let Some(artifact) = self.cache.get(&self.key, source, target, profile) {
            return Ok(artifact.with_source(wasm.into())?);
        }
        let config = &self.config;
        let artifact =
            compile::compile(&config.compiler, &self.key, wasm, target, profile, &config.module_limits, &all_syscalls())?;
        if let Err(error) = self.cache.put(&artifact) {
            // A full disk costs the next start a compilation, nothing else.
            tracing::warn!(%error, "artifact not cached");
        }
        Ok(artifact)
    }

    /// Whether the native code of a source is in the cache, for this machine and scripts with so much memory.
    pub fn has_artifact(&self, source: Digest, memory_mb: u64) -> bool {
        self.cache.get(&self.key, source, AotTarget::host(), self.profile(memory_mb)).is_some()
    }

    /// The same as bytes, for another process with the same key ([`ServerRuntimeConfig::trust_key`]).
    pub fn export_artifact(&self, source: Digest, memory_mb: u64) -> Option<Vec<u8>> {
        Some(self.cache.get(&self.key, source, AotTarget::host(), self.profile(memory_mb))?.to_bytes())
    }

    /// Keep what another process has compiled. Refused unless it was signed with this runtime's key, and is native code of this source
    /// for exactly this engine and machine.
    pub fn import_artifact(&self, source: Digest, memory_mb: u64, bytes: &[u8]) -> Result<(), RuntimeError> {
        let artifact = AotArtifact::from_bytes(bytes)?;
        artifact.verify_origin(&self.key)?;
        let (target, profile) = (AotTarget::host(), self.profile(memory_mb));
        if artifact.source_digest() != source || artifact.target() != target || artifact.profile() != profile {
            return Err(RuntimeError::OtherArtifact { wanted: source, found: artifact.source_digest() });
        }
        Ok(self.cache.put(&artifact)?)
    }

    /// Register an artifact as the next version of a script.
    pub fn register_artifact(&self, script_id: ScriptId, artifact: AotArtifact) -> Result<Version, RuntimeError> {
        Ok(self.state().registry.register(&self.key, script_id, artifact)?)
    }

    /// Register an artifact as a version that a catalogue has given out: the same number always means the same source.
    pub fn register_version(&self, script_id: ScriptId, version: Version, artifact: AotArtifact) -> Result<(), RuntimeError> {
        Ok(self.state().registry.register_as(&self.key, script_id, version, artifact)?)
    }

    /// Load an artifact that is no version of anything, to try it out.
    pub fn load_unregistered(&self, artifact: &AotArtifact) -> Result<Arc<ScriptModule>, RuntimeError> {
        Ok(Arc::new(self.engines.load(&self.key, artifact)?))
    }

    /// Forget a version that nobody runs. Its number is not used again.
    pub fn forget_version(&self, script_id: ScriptId, version: Version) {
        let mut state = self.state();
        state.registry.forget(script_id, version);
        state.modules.remove(&(script_id, version));
    }

    /// Let the versions of a script go that are loaded and that nobody uses: each keeps memory and an open file. They can be registered
    /// and loaded again.
    pub fn release_unused(&self, script_id: ScriptId) {
        let mut state = self.state();
        state.slots.sweep();
        let unused = |((script, _), module): &(&(ScriptId, Version), &Arc<ScriptModule>)| {
            *script == script_id && Arc::strong_count(module) == 1
        };
        let unused: Vec<Version> = state.modules.iter().filter(unused).map(|((_, version), _)| *version).collect();
        for version in unused {
            state.modules.remove(&(script_id, version));
            state.registry.forget(script_id, version);
        }
    }

    /// Load a version. Its manifest is verified; an artifact of another machine, engine or key is compiled again if its source is
    /// at hand.
    pub fn load_module(&self, script_id: ScriptId, version: Version) -> Result<Arc<ScriptModule>, RuntimeError> {
        let artifact = {
            let mut state = self.state();
            if let Some(module) = state.modules.get(&(script_id, version)) {
                return Ok(Arc::clone(module));
            }
            if state.modules.len() >= self.config.max_modules {
                state.slots.sweep();
                state.modules.retain(|_, module| Arc::strong_count(module) > 1);
            }
            if state.modules.len() >= self.config.max_modules {
                return Err(RuntimeError::TooManyModules { limit: self.config.max_modules });
            }
            state
                .registry
                .get(&self.key, script_id, version)
                .ok_or(RuntimeError::Unknown { script: script_id, version })??
                .clone()
        };
        let module = match self.engines.load(&self.key, &artifact) {
            Ok(module) => module,
            Err(error) => self.load_from_source(script_id, version, &artifact, error)?,
        };
        let module = Arc::new(module);
        self.state().modules.insert((script_id, version), Arc::clone(&module));
        Ok(module)
    }

    fn load_from_source(
        &self,
        script: ScriptId,
        version: Version,
        artifact: &AotArtifact,
        error: LoadError,
    ) -> Result<ScriptModule, RuntimeError> {
        let Some(source) = artifact.source().filter(|_| error.is_mended_by_source()) else { return Err(error.into()) };
        tracing::warn!(%script, %version, %error, "artifact refused: compiling its source again");
        let config = &self.config;
        // Past the cache: it may hold the very artifact that was refused.
        let fresh = compile::compile(
            &config.compiler,
            &self.key,
            source,
            AotTarget::host(),
            artifact.profile(),
            &config.module_limits,
            &all_syscalls(),
        )?;
        let module = self.engines.load(&self.key, &fresh)?;
        if let Err(error) = self.cache.put(&fresh) {
            tracing::warn!(%error, "artifact not cached");
        }
        self.state().registry.replace(&self.key, script, version, fresh)?;
        Ok(module)
    }

    /// Run a module once, outside of any world: `on_start`, then one `on_tick`. It cannot pause, since there is no next tick.
    pub fn execute(&self, module: &Arc<ScriptModule>, policy: &ServerResourcePolicy) -> Result<ExecutionReport, RuntimeError> {
        self.execute_with(module, policy, Box::new(NoEngine)).map(|(report, _)| report)
    }

    /// The same in a host, which is given back.
    pub fn execute_with(
        &self,
        module: &Arc<ScriptModule>,
        policy: &ServerResourcePolicy,
        host: Box<dyn Host>,
    ) -> Result<(ExecutionReport, Option<Box<dyn Host>>), RuntimeError> {
        execute(module, policy, host, ActionRates::default(), 0).map_err(RuntimeError::Instance)
    }

    /// Swap a script to a new version: verify, prepare, rehearse an instance, swap, let the old one drain.
    pub fn hot_reload(&self, script_id: ScriptId, artifact: AotArtifact) -> Result<ReloadOutcome, RuntimeError> {
        let serving = {
            let state = self.state();
            state
                .slots
                .slot(script_id)
                .and_then(|slot| slot.active())
                .map(|loaded| loaded.version)
                .or_else(|| state.registry.newest(script_id))
        };
        let old_version = serving.ok_or(RuntimeError::NothingToReload { script: script_id })?;
        let old = self.load_module(script_id, old_version)?;
        {
            let mut state = self.state();
            if state.slots.slot(script_id).is_none_or(|slot| slot.active().is_none()) {
                state.slots.prepare(script_id, old_version, old);
                state.slots.activate(script_id);
            }
        }
        let new_version = match self.register_artifact(script_id, artifact) {
            Ok(version) => version,
            Err(error) => return Ok(ReloadOutcome::Rollback { reason: error.to_string() }),
        };
        let prepared = self.load_module(script_id, new_version).and_then(|module| self.rehearse(&module).map(|()| module));
        let mut state = self.state();
        match prepared {
            Ok(module) => {
                state.slots.prepare(script_id, new_version, module);
                state.slots.activate(script_id);
                state.modules.remove(&(script_id, old_version));
                state.slots.sweep();
                Ok(ReloadOutcome::Success { old_version, new_version })
            }
            Err(error) => {
                state.slots.abort(script_id);
                state.modules.remove(&(script_id, new_version));
                state.registry.forget(script_id, new_version);
                Ok(ReloadOutcome::Rollback { reason: error.to_string() })
            }
        }
    }

    /// Build an instance and throw it away: what fails here would have failed in every world.
    fn rehearse(&self, module: &Arc<ScriptModule>) -> Result<(), RuntimeError> {
        let policy = ServerResourcePolicy {
            fuel_budget: self.config.default_fuel,
            memory_cap_mb: module.class().mebibytes(),
            syscall_policy: all_syscalls(),
            on_budget: OnBudget::Terminate,
            ..ServerResourcePolicy::default()
        };
        let memory = WorldMemory::new(u64::MAX);
        ScriptInstance::build(module, &spec(&policy, ActionRates::default(), 0), &memory)?;
        Ok(())
    }

    /// The version of a script that serves, and the versions that drain.
    pub fn serving(&self, script_id: ScriptId) -> Option<(Version, Vec<Version>)> {
        let mut state = self.state();
        state.slots.sweep();
        let slot = state.slots.slot(script_id)?;
        Some((slot.active()?.version, slot.draining().collect()))
    }

    /// A version's manifest.
    pub fn manifest(&self, script_id: ScriptId, version: Version) -> Option<crate::ArtifactManifest> {
        self.state().registry.manifest(script_id, version).cloned()
    }
}

fn spec(policy: &ServerResourcePolicy, rates: ActionRates, seed: u64) -> InstanceSpec {
    InstanceSpec {
        instance: InstanceId(1),
        version: Version(1),
        policy: policy.clone(),
        groups: HostGroups::ALL,
        rates,
        seed,
        random: None,
        drained_at_ns: None,
        directory: None,
    }
}

/// Build an instance, call `on_start` and then `on_tick` once within one budget.
pub(crate) fn execute(
    module: &Arc<ScriptModule>,
    policy: &ServerResourcePolicy,
    host: Box<dyn Host>,
    rates: ActionRates,
    seed: u64,
) -> Result<(ExecutionReport, Option<Box<dyn Host>>), InstanceError> {
    let policy = ServerResourcePolicy { on_budget: OnBudget::Terminate, ..policy.clone() };
    let memory = WorldMemory::new(policy.memory_cap_mb << 20);
    let mut instance = ScriptInstance::build(module, &spec(&policy, rates, seed), &memory)?;
    let mut world = Some(WorldContext::new(host, ActionLimiter::new(&ActionRates::world())));
    if let Some(world) = &mut world {
        world.host.enter(InstanceId(1));
    }
    let mut step = instance.run(&mut world, Call::Start, policy.fuel_budget);
    let mut fuel_used = step.fuel;
    if step.outcome == MeteringOutcome::Completed {
        // Host work may be a little past the budget: then there is nothing left, not less than nothing.
        step = instance.run(&mut world, Call::Tick(0.0), policy.fuel_budget.saturating_sub(fuel_used));
        fuel_used += step.fuel;
    }
    let (log, host) = world.map_or((Vec::new(), None), |world| (world.log, Some(world.host)));
    let report = ExecutionReport { outcome: step.outcome, fuel_used, counters: instance.take_counters(), log };
    Ok((report, host))
}
