//! A loaded module: native code in memory, linked, ready to make instances.
//!
//! Start with [`ScriptModule`] and [`Engines`]. One engine for each slot class, made when first needed; all share one
//! clock. Not here: instances (`instance`), artifacts (`artifact`).

use crate::abi;
use crate::artifact::{AotArtifact, ManifestVerificationError, TrustKey};
use crate::data::ScriptData;
use crate::limits::ModuleError;
use crate::meter::fuel::Ticks;
use crate::meter::{self, Costs};
use crate::policy::{SyscallCategory, SyscallPolicy};
use crate::profile::Recorder;
use crate::sandbox::{CLOCK_STEP_MS, EngineProfile, PoolSize, SlotClass};
use crate::{host, native, symbols, wasi};
use aether_types::{Blame, Digest};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use wasmtime::{Engine, InstancePre, Linker, Module, ModuleExport};

/// Why a module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The artifact was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestVerificationError),
    /// The engine refused verified bytes: usually a node of another build or processor made them.
    #[error("the engine refused the artifact: {0}")]
    Engine(String),
    /// The kernel allows too few memory mappings for the instances asked for.
    #[error(
        "{instances} instances need up to {needed} memory mappings, the kernel allows {allowed}: lower instances_small or instances_large, or run `sysctl -w vm.max_map_count={needed}`"
    )]
    MapCount {
        /// Instances asked for.
        instances: u32,
        /// Mappings they may need.
        needed: u64,
        /// `vm.max_map_count`.
        allowed: u64,
    },
    /// The process may not reserve as much address space as the instances asked for need.
    #[error(
        "{instances} instances reserve {needed_mb} MiB of address space, this process may have {allowed_mb}: lower instances_small or instances_large, or raise the limit (`ulimit -v unlimited`)"
    )]
    AddressSpace {
        /// Instances asked for.
        instances: u32,
        /// What they reserve. Reserving is not using.
        needed_mb: u64,
        /// `RLIMIT_AS`.
        allowed_mb: u64,
    },
}

impl LoadError {
    /// Whether its source, compiled again, could load.
    pub fn is_mended_by_source(&self) -> bool {
        match self {
            LoadError::Manifest(error) => error.is_mended_by_source(),
            LoadError::Engine(_) => true,
            LoadError::MapCount { .. } | LoadError::AddressSpace { .. } => false,
        }
    }

    /// Who has to act.
    pub fn blame(&self) -> Blame {
        Blame::Operator
    }
}

/// Mappings of one instance: memory image, memory, guard; two more for the stack of one that may pause.
const MAPPINGS: u64 = 5;
/// Mappings of everything else in a process.
const MAPPINGS_BASE: u64 = 5_000;

/// Address space of everything else: code, heap, threads' stacks.
const ADDRESSES_BASE_MB: u64 = 2_048;

/// Whether the machine holds a pool, as far as it can be known before. `None`: no limit is known.
fn room(pool: PoolSize, mappings: Option<u64>, bytes: Option<u64>) -> Result<(), LoadError> {
    let instances = pool.small.saturating_add(pool.large);
    let needed = u64::from(instances) * MAPPINGS + MAPPINGS_BASE;
    if let Some(allowed) = mappings.filter(|allowed| needed > *allowed) {
        return Err(LoadError::MapCount { instances, needed, allowed });
    }
    // A slot, a guard and a stack each; both classes, since either may be asked for later.
    let slots = |count: u32, class: SlotClass| u64::from(count) * (class.mebibytes() + 1);
    let needed_mb = slots(pool.small, SlotClass::Small) + slots(pool.large, SlotClass::Large) + ADDRESSES_BASE_MB;
    match bytes.map(|bytes| bytes >> 20).filter(|allowed_mb| needed_mb > *allowed_mb) {
        Some(allowed_mb) => Err(LoadError::AddressSpace { instances, needed_mb, allowed_mb }),
        None => Ok(()),
    }
}

/// The engines of this process.
pub struct Engines {
    pool: PoolSize,
    engines: RwLock<HashMap<EngineProfile, (Engine, Arc<Linkers>)>>,
    /// `None`: nothing looks at CPU time.
    clock: Option<Clock>,
}

impl Engines {
    /// None yet: each is made when a module of its class is first loaded.
    pub fn new(pool: PoolSize) -> Result<Engines, LoadError> {
        let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
        let bytes = rustix::process::getrlimit(rustix::process::Resource::As).current;
        room(pool, mappings, bytes)?;
        Ok(Engines { pool, engines: RwLock::default(), clock: Some(Clock::default()) })
    }

    /// The same without the clock of the CPU time backstop. Fuel still holds.
    pub fn without_clock(self) -> Engines {
        Engines { clock: None, ..self }
    }

    fn get(&self, profile: EngineProfile) -> Result<(Engine, Arc<Linkers>), LoadError> {
        if let Some(found) = self.engines.read().unwrap_or_else(PoisonError::into_inner).get(&profile) {
            return Ok(found.clone());
        }
        let mut engines = self.engines.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = engines.get(&profile) {
            return Ok(found.clone());
        }
        let instances = match profile.class {
            SlotClass::Small => self.pool.small,
            SlotClass::Large => self.pool.large,
        };
        let engine = profile.runner(instances).and_then(|config| Engine::new(&config)).map_err(engine_error)?;
        let linker = Arc::new(Linkers::new(&engine).map_err(engine_error)?);
        engines.insert(profile, (engine.clone(), Arc::clone(&linker)));
        Ok((engine, linker))
    }

    /// Check an artifact and load its code.
    pub fn load(&self, key: &TrustKey, artifact: &AotArtifact) -> Result<ScriptModule, LoadError> {
        let verified = artifact.verify(key)?;
        let (engine, linker) = self.get(artifact.profile())?;
        let module = native::load(&engine, &verified).map_err(engine_error)?;
        let mut module = ScriptModule::link(&engine, &linker, module, artifact.source_digest(), artifact.profile().class)?;
        // Without a clock it stands still.
        module.clock = self.clock.as_ref().map(Clock::ticks).unwrap_or_default();
        module.source =
            artifact.source().filter(|_| artifact.profile().traces).map(|source| (Arc::clone(source), Costs::Measured));
        Ok(module)
    }
}

fn engine_error(error: wasmtime::Error) -> LoadError {
    LoadError::Engine(format!("{error:#}"))
}

/// The imports, for scripts that are called synchronously and for those on a fibre.
pub(crate) struct Linkers {
    sync: Linker<ScriptData>,
    fibre: Linker<ScriptData>,
}

impl Linkers {
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Linkers> {
        let linker = |fibre| -> wasmtime::Result<Linker<ScriptData>> {
            let mut linker = Linker::new(engine);
            host::link(&mut linker, fibre)?;
            wasi::link(&mut linker, fibre)?;
            Ok(linker)
        };
        Ok(Linkers { sync: linker(false)?, fibre: linker(true)? })
    }

    /// The same for a module with probes in it.
    pub(crate) fn with_probes(engine: &Engine, recorder: &Recorder) -> wasmtime::Result<Linkers> {
        let mut linkers = Linkers::new(engine)?;
        recorder.link(&mut linkers.sync)?;
        recorder.link(&mut linkers.fibre)?;
        Ok(linkers)
    }
}

/// Counts up each [`CLOCK_STEP_MS`], on a thread of its own: as a task it could be starved by the very scripts that it must stop.
#[derive(Default)]
pub(crate) struct Clock {
    ticks: Ticks,
    runs: OnceLock<()>,
    stop: Arc<AtomicBool>,
}

impl Clock {
    /// What it counts. Its thread begins when this is first asked for.
    pub(crate) fn ticks(&self) -> Ticks {
        self.runs.get_or_init(|| {
            let (ticks, stop) = (Arc::clone(&self.ticks), Arc::clone(&self.stop));
            let run = move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(CLOCK_STEP_MS));
                    ticks.fetch_add(1, Ordering::Relaxed);
                }
            };
            if let Err(error) = std::thread::Builder::new().name("script-clock".into()).spawn(run) {
                tracing::error!(%error, "no clock for scripts: the CPU time backstop is off, fuel still holds");
            }
        });
        Arc::clone(&self.ticks)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Where the ABI's exports are in a module; a look-up by number is faster than one by name.
#[derive(Clone)]
pub(crate) struct ExportIndex {
    pub on_start: Option<ModuleExport>,
    pub on_tick: Option<ModuleExport>,
    pub on_message: Option<ModuleExport>,
    pub on_event: Option<ModuleExport>,
    pub on_stop: Option<ModuleExport>,
    pub save_state: Option<ModuleExport>,
    pub restore_state: Option<ModuleExport>,
    pub alloc: Option<ModuleExport>,
    pub memory: Option<ModuleExport>,
    pub counter: Option<ModuleExport>,
    pub start: Option<ModuleExport>,
}

/// A loaded module.
pub struct ScriptModule {
    pub(crate) engine: Engine,
    pub(crate) pre: InstancePre<ScriptData>,
    pub(crate) fibre_pre: InstancePre<ScriptData>,
    pub(crate) exports: ExportIndex,
    pub(crate) initial_memory_bytes: u64,
    source_digest: Digest,
    class: SlotClass,
    /// See [`crate::client_runtime::ClientRuntimeConfig::host_costs`].
    pub(crate) counts_calls: bool,
    /// Counts up while time goes by; see [`meter::fuel`].
    pub(crate) clock: Ticks,
    /// What it was compiled from and what that costs, if its calls that end badly say where they were.
    pub(crate) source: Option<(Arc<[u8]>, Costs)>,
    /// WASI imports, none for a script that was written for Aether.
    pub(crate) syscalls: Vec<String>,
}

impl std::fmt::Debug for ScriptModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScriptModule({}, {:?})", self.source_digest.short(), self.class)
    }
}

impl ScriptModule {
    pub(crate) fn link(
        engine: &Engine,
        linkers: &Linkers,
        module: Module,
        source_digest: Digest,
        class: SlotClass,
    ) -> Result<ScriptModule, LoadError> {
        let syscalls = module
            .imports()
            .filter(|import| import.module() == abi::WASI_MODULE)
            .map(|import| import.name().to_owned())
            .collect();
        let initial_memory_bytes = module.exports().find_map(|e| e.ty().memory().map(|m| m.minimum() << 16)).unwrap_or(0);
        let index = |name| module.get_export_index(name);
        let exports = ExportIndex {
            on_start: index("on_start"),
            on_tick: index(meter::ON_TICK),
            on_message: index("on_message"),
            on_event: index("on_event"),
            on_stop: index("on_stop"),
            save_state: index("save_state"),
            restore_state: index("restore_state"),
            alloc: index("aether_alloc"),
            memory: index("memory"),
            counter: index(meter::COUNTER),
            start: index(meter::START),
        };
        let pre = linkers.sync.instantiate_pre(&module).map_err(engine_error)?;
        let fibre_pre = linkers.fibre.instantiate_pre(&module).map_err(engine_error)?;
        Ok(ScriptModule {
            engine: engine.clone(),
            pre,
            fibre_pre,
            exports,
            initial_memory_bytes,
            source_digest,
            class,
            counts_calls: false,
            clock: Ticks::default(),
            source: None,
            syscalls,
        })
    }

    /// A function and a place in it, of the module that runs, in the author's one, and the function's name. `None`: it is none of his.
    pub(crate) fn source_place(&self, function: u32, offset: Option<u32>) -> Option<(u32, Option<u32>, Option<String>)> {
        let (source, costs) = self.source.as_ref()?;
        let (function, offset) = meter::source_place(source, *costs, function, offset)?;
        Some((function, offset, symbols::function_name(source, function)))
    }

    /// SHA-256 of the wasm.
    pub fn source_digest(&self) -> Digest {
        self.source_digest
    }

    /// The slot class of its instances.
    pub fn class(&self) -> SlotClass {
        self.class
    }

    /// Whether a function of the ABI is exported.
    pub fn has(&self, export: &str) -> bool {
        let exports = &self.exports;
        match export {
            "on_start" => exports.on_start.is_some(),
            "on_tick" => exports.on_tick.is_some(),
            "on_message" => exports.on_message.is_some(),
            "on_event" => exports.on_event.is_some(),
            "on_stop" => exports.on_stop.is_some(),
            "save_state" => exports.save_state.is_some(),
            "restore_state" => exports.restore_state.is_some(),
            _ => false,
        }
    }

    /// Whether the policy allows what the module imports, and its memory fits.
    pub fn check_policy(&self, syscalls: &SyscallPolicy, memory_cap_mb: u64) -> Result<(), ModuleError> {
        for import in &self.syscalls {
            match SyscallCategory::of(import) {
                Some(category) if syscalls.allows(category) => {}
                Some(category) => return Err(ModuleError::SyscallDenied { import: import.clone(), category }),
                None => return Err(ModuleError::UnknownImport { module: abi::WASI_MODULE.to_owned(), name: import.clone() }),
            }
        }
        if self.initial_memory_bytes > memory_cap_mb << 20 {
            return Err(ModuleError::Memory { initial_mb: self.initial_memory_bytes.div_ceil(1 << 20), cap_mb: memory_cap_mb });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_the_machine_cannot_hold_is_refused_before_anything_runs() {
        let pool = PoolSize { small: 10_000, large: 100 };
        assert!(room(pool, None, None).is_ok() && room(pool, Some(100_000), Some(80 << 30)).is_ok());
        let error = room(pool, Some(50_000), None).unwrap_err();
        assert!(matches!(error, LoadError::MapCount { needed: 55_500, .. }), "{error}");
        let error = room(pool, None, Some(8 << 30)).unwrap_err();
        assert!(error.to_string().contains("reserve 58548 MiB of address space, this process may have 8192"), "{error}");
    }
}
