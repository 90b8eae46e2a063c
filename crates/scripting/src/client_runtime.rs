//! The client side: compile a module and run it at once, on a player's device or an author's machine.
//!
//! The same host API and the same checks as on a server; fuel counts instructions ([`ClientRuntimeConfig::max_ops`]), a host call
//! counts as one. Not here: artifacts and caches, which clients do not need.

use crate::api::Host;
use crate::compile;
use crate::data::WorldMemory;
use crate::instance::{InstanceError, InstanceSpec, ScriptInstance};
use crate::instrument::{self, Instrumented};
use crate::limits::{self, ModuleError, ModuleInfo, ModuleLimits};
use crate::meter::{Costs, metered};
use crate::module::{Clock, Linkers, LoadError, ScriptModule};
use crate::policy::{ServerResourcePolicy, SyscallPolicy};
use crate::profile::Recorder;
use crate::rate::ActionRates;
use crate::sandbox::{EngineProfile, SlotClass};
use crate::server_runtime::{ExecutionReport, SettingError, execute, number_from_env};
use aether_types::{Blame, Digest};
use std::sync::Arc;
use wasmtime::{Engine, Module};

/// Settings of a [`ClientRuntime`].
#[derive(Debug, Clone)]
pub struct ClientRuntimeConfig {
    /// Instructions of one execution. `AETHER_SCRIPT_MAX_OPS`
    pub max_ops: u64,
    /// Variables (wasm globals) of one script. `AETHER_SCRIPT_MAX_VARS`
    pub max_vars: u32,
    /// Memory of one script, MiB.
    pub memory_mb: u64,
    /// System calls that scripts may import.
    pub syscalls: SyscallPolicy,
    /// Whether host calls cost what they cost on a server; else each counts as one instruction.
    pub host_costs: bool,
    /// Whether instructions do too; else each counts as one.
    pub server_costs: bool,
    /// Variables that could not be read; [`ClientRuntime::new`] reports the first.
    pub problems: Vec<SettingError>,
}

impl Default for ClientRuntimeConfig {
    fn default() -> ClientRuntimeConfig {
        ClientRuntimeConfig {
            max_ops: 10_000,
            max_vars: 1_024,
            memory_mb: 64,
            syscalls: SyscallPolicy::deny_all(),
            host_costs: false,
            server_costs: false,
            problems: Vec::new(),
        }
    }
}

impl ClientRuntimeConfig {
    /// The defaults, with the `AETHER_SCRIPT_*` variables over them.
    pub fn from_env() -> ClientRuntimeConfig {
        let mut problems = Vec::new();
        let max_ops = number_from_env(
            "AETHER_SCRIPT_MAX_OPS",
            1..=10_000_000_000,
            "a whole number from 1 to 10000000000",
            10_000,
            &mut problems,
        );
        let max_vars =
            number_from_env("AETHER_SCRIPT_MAX_VARS", 0..=65_536, "a whole number from 0 to 65536", 1_024, &mut problems) as u32;
        ClientRuntimeConfig { max_ops, max_vars, problems, ..ClientRuntimeConfig::default() }
    }
}

/// Why a client could not load or run a script.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The module may not be compiled.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The bytes are not those that the manifest names.
    #[error("the module has SHA-256 {found}, the manifest says {wanted}: it was changed on the way")]
    Integrity {
        /// What the bytes have.
        found: Digest,
        /// What the manifest says.
        wanted: Digest,
    },
    /// The compiler or the engine refused it.
    #[error("the engine refused the module: {0}")]
    Engine(String),
    /// Loading.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Building an instance.
    #[error(transparent)]
    Instance(#[from] InstanceError),
}

impl ClientError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            ClientError::Setting(_) | ClientError::Load(_) => Blame::Operator,
            ClientError::Module(_) | ClientError::Integrity { .. } | ClientError::Engine(_) => Blame::Script,
            ClientError::Instance(error) => error.blame(),
        }
    }
}

fn refused(error: wasmtime::Error) -> ClientError {
    ClientError::Engine(format!("{error:#}"))
}

/// Compiles and runs scripts in one process.
pub struct ClientRuntime {
    config: ClientRuntimeConfig,
    engine: Engine,
    linkers: Linkers,
    clock: Clock,
}

impl ClientRuntime {
    /// A runtime with no scripts.
    pub fn new(config: ClientRuntimeConfig) -> Result<ClientRuntime, ClientError> {
        if let Some(problem) = config.problems.first() {
            return Err(problem.clone().into());
        }
        let engine = EngineProfile::client().and_then(|config| Engine::new(&config)).map_err(refused)?;
        let linkers = Linkers::new(&engine).map_err(refused)?;
        Ok(ClientRuntime { config, engine, linkers, clock: Clock::default() })
    }

    /// Its settings.
    pub fn config(&self) -> &ClientRuntimeConfig {
        &self.config
    }

    /// Whether a module may run here, and what it is. Takes wasm in binary or text format.
    pub fn check(&self, bytes: &[u8]) -> Result<ModuleInfo, ClientError> {
        let limits = ModuleLimits { globals: self.config.max_vars, ..ModuleLimits::default() };
        Ok(limits::inspect(&compile::to_binary(bytes)?, &limits, &self.config.syscalls)?)
    }

    /// Check a module, compare it with the digest of its manifest, if there is one, and compile it.
    pub fn load(&self, bytes: &[u8], manifest_digest: Option<Digest>) -> Result<Arc<ScriptModule>, ClientError> {
        let found = Digest::of(bytes);
        if let Some(wanted) = manifest_digest.filter(|wanted| *wanted != found) {
            return Err(ClientError::Integrity { found, wanted });
        }
        self.check(bytes)?;
        let source = compile::to_binary(bytes)?;
        let mut module = self.compile(&source, u32::MAX, &self.linkers, found)?;
        module.source = Some((source.into(), self.costs()));
        Ok(Arc::new(module))
    }

    /// The same with probes in it: what its instances use is recorded by function. They use as much fuel as without.
    pub fn load_profiled(&self, bytes: &[u8]) -> Result<(Arc<ScriptModule>, Recorder), ClientError> {
        self.check(bytes)?;
        let Instrumented { wasm, wrappers } = instrument::with_probes(&compile::to_binary(bytes)?)?;
        let recorder = Recorder::default();
        let linkers = Linkers::with_probes(&self.engine, &recorder).map_err(refused)?;
        Ok((Arc::new(self.compile(&wasm, wrappers, &linkers, Digest::of(bytes))?), recorder))
    }

    fn compile(&self, wasm: &[u8], free_from: u32, linkers: &Linkers, digest: Digest) -> Result<ScriptModule, ClientError> {
        let module = Module::new(&self.engine, metered(wasm, self.costs(), free_from)?).map_err(refused)?;
        let mut module = ScriptModule::link(&self.engine, linkers, module, digest, SlotClass::Large)?;
        module.counts_calls = !self.config.host_costs;
        module.clock = self.clock.ticks();
        Ok(module)
    }

    fn costs(&self) -> Costs {
        if self.config.server_costs { Costs::Measured } else { Costs::Equal }
    }

    /// The policy that follows from the settings.
    pub fn policy(&self) -> ServerResourcePolicy {
        ServerResourcePolicy {
            fuel_budget: self.config.max_ops,
            memory_cap_mb: self.config.memory_mb,
            syscall_policy: self.config.syscalls,
            on_budget: crate::policy::OnBudget::Terminate,
            ..ServerResourcePolicy::default()
        }
    }

    /// Run a module once: `on_start`, then one `on_tick`.
    pub fn execute(&self, module: &Arc<ScriptModule>, host: Box<dyn Host>) -> Result<ExecutionReport, ClientError> {
        Ok(execute(module, &self.policy(), host, ActionRates::default(), 0)?.0)
    }

    /// An instance to call many times.
    pub fn instance(&self, module: &Arc<ScriptModule>, spec: &InstanceSpec) -> Result<ScriptInstance, ClientError> {
        Ok(ScriptInstance::build(module, spec, &WorldMemory::new(self.config.memory_mb << 20))?)
    }
}
