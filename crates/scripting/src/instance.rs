//! One running copy of a script: build it, call it, pause it, go on.
//!
//! Start with [`ScriptInstance::run`]. There are two kinds inside. A script that is terminated when its fuel is used up is called
//! on the caller's stack. One that may pause is on a fibre (`fibre`). Both make the same calls (`call`).
//!
//! Whatever the script does comes back as a value. Not here: when to call (`aether-world-runtime`), what host functions do (`host/`).

use crate::call::{Call, Exports, OnTick, Reply, Stop, outcome_of, perform};
use crate::data::{Counters, MemoryMeter, Own, ScriptData, WorldContext, WorldMemory, WorldSlot};
use crate::fibre::Fibre;
use crate::limited::HostGroups;
use crate::limits::ModuleError;
use crate::meter::fuel::{self, CallFuel};
use crate::metering::MeteringOutcome;
use crate::module::ScriptModule;
use crate::policy::{OnBudget, ServerResourcePolicy};
use crate::rate::{ActionLimiter, ActionRates};
use crate::sandbox::{FIBRE_QUANTUM, SlotClass};
use crate::trace::Trace;
use crate::wasi::WasiState;
use aether_types::{Blame, InstanceId, Version};
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmtime::{Extern, ModuleExport, Store, Trap, TypedFunc};

/// What one [`ScriptInstance::run`] or [`ScriptInstance::resume`] did.
#[derive(Debug)]
pub struct Step {
    /// How it ended, or that it is paused.
    pub outcome: MeteringOutcome,
    /// Fuel used in this step, host functions included.
    pub fuel: u64,
    /// What it gave back.
    pub reply: Reply,
    /// The call, if it ended badly: who made it may want to know which one it was.
    pub failed: Option<Call>,
}

/// What an instance is built from, besides its module.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Its number in its world.
    pub instance: InstanceId,
    /// The version of its artifact.
    pub version: Version,
    /// What it may use.
    pub policy: ServerResourcePolicy,
    /// Host groups granted.
    pub groups: HostGroups,
    /// How often it may act.
    pub rates: ActionRates,
    /// The seed of its randomness.
    pub seed: u64,
    /// Goes before the seed: where a checkpoint left it.
    pub random: Option<RandomState>,
    /// A restarted script begins with empty allowances, as of this time of the world's clock: who fails must not act more.
    pub drained_at_ns: Option<u64>,
    /// The directory of a script that may use WASI files.
    pub directory: Option<std::path::PathBuf>,
}

/// The state of a script's randomness, for checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RandomState(Pcg64Mcg);

/// Why an instance could not be built.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The module asks for what its policy does not allow.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// Its start function did not end well.
    #[error("the start function {0}")]
    Start(MeteringOutcome),
    /// The process holds as many instances as it may.
    #[error("no room for another instance with up to {} MiB: raise {}, or run fewer scripts on this node", class.mebibytes(), class.setting())]
    Full {
        /// The slots that are all taken.
        class: SlotClass,
    },
    /// Its world's memory is used up.
    #[error("the world's memory cap does not hold another instance with {initial_bytes} bytes")]
    WorldMemory {
        /// What it starts with.
        initial_bytes: u64,
    },
    /// Its WASI directory cannot be opened.
    #[error("could not open the script's directory")]
    Directory(#[source] std::io::Error),
    /// The engine refused.
    #[error("the engine refused: {0}")]
    Engine(String),
}

impl InstanceError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            InstanceError::Module(_) | InstanceError::Start(_) => Blame::Script,
            InstanceError::Full { .. } | InstanceError::WorldMemory { .. } | InstanceError::Directory(_) => Blame::Operator,
            InstanceError::Engine(_) => Blame::Host,
        }
    }
}

enum Body {
    /// Called on the caller's stack. Not boxed: a world walks over its scripts, and finds the next one's where it looks anyway.
    Sync(SyncBody),
    Fibre(Fibre),
}

/// In this order in memory: what every tick touches comes first, and close together.
#[repr(C)]
struct SyncBody {
    store: Store<ScriptData>,
    on_tick: Option<OnTick>,
    exports: Box<Exports>,
}

/// One running copy of a script.
pub struct ScriptInstance {
    body: Body,
    paused: bool,
    ended: bool,
    trace: Option<Box<Trace>>,
}

impl ScriptInstance {
    /// Build an instance. Its start function, if it has one, runs here, with the fuel of one call and no world around it.
    pub fn build(
        module: &Arc<ScriptModule>,
        spec: &InstanceSpec,
        memory: &Arc<WorldMemory>,
    ) -> Result<ScriptInstance, InstanceError> {
        let policy = &spec.policy;
        module.check_policy(&policy.syscall_policy, policy.memory_cap_mb)?;
        let pausable = policy.on_budget == OnBudget::Pause;
        let quantum = FIBRE_QUANTUM.min(policy.fuel_budget).max(1);
        let total = policy.fuel_budget.saturating_mul(policy.pause_limit.max(1));
        let wasi = match module.syscalls.is_empty() {
            true => None,
            false => Some(Box::new(WasiState::open(spec.directory.as_deref()).map_err(InstanceError::Directory)?)),
        };
        let data = ScriptData {
            memory: None,
            world: WorldSlot::Lent(None),
            own: Own {
                instance: spec.instance,
                version: spec.version,
                groups: spec.groups,
                limiter: Box::new(match spec.drained_at_ns {
                    Some(now_ns) => ActionLimiter::drained(&spec.rates, now_ns),
                    None => ActionLimiter::new(&spec.rates),
                }),
                host_calls: [0; 7],
                random: spec.random.clone().map_or_else(|| Pcg64Mcg::seed_from_u64(spec.seed), |RandomState(random)| random),
                random_used: false,
                counts_calls: module.counts_calls,
                charged: 0,
                fuel: CallFuel::default(),
                since_yield: 0,
                clock: Arc::clone(&module.clock),
                ticks: 0,
                backstop: (0, u64::MAX),
                calls: 0,
                cpu_limit_ns: policy.cpu_time_limit.as_nanos() as u64,
            },
            meter: MemoryMeter::new(policy.memory_cap_mb << 20, Arc::clone(memory)),
            wasi,
        };
        let mut store = Store::new(&module.engine, data);
        store.limiter(|data| &mut data.meter);
        let engine = |error: wasmtime::Error| InstanceError::Engine(format!("{error:#}"));
        let pre = if pausable { &module.fibre_pre } else { &module.pre };
        let instance = instantiate(pre, &mut store, pausable).map_err(|error| build_error(&error, module, memory))?;
        let index = &module.exports;
        let export = |index: &Option<ModuleExport>, store: &mut Store<ScriptData>| {
            index.as_ref().and_then(|index| instance.get_module_export(store, index))
        };
        let counter = export(&index.counter, &mut store).and_then(Extern::into_global);
        store.data_mut().own.fuel.set_counter(counter);
        if let Some(start) = export(&index.start, &mut store).and_then(Extern::into_func) {
            let start = start.typed::<(), ()>(&store).map_err(engine)?;
            begin(&start, &mut store, policy.fuel_budget, pausable).map_err(|error| build_error(&error, module, memory))?;
        }
        store.data_mut().memory = export(&index.memory, &mut store).and_then(Extern::into_memory);
        let exports = Exports::new(&mut store, instance, module).map_err(engine)?;
        let body = match pausable {
            false => Body::Sync(SyncBody { store, on_tick: exports.on_tick.clone(), exports: Box::new(exports) }),
            true => Body::Fibre(Fibre::new(store, exports, total, quantum).map_err(engine)?),
        };
        Ok(ScriptInstance { body, paused: false, ended: false, trace: None })
    }

    /// Whether a call is paused in the middle.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether it may pause at all.
    pub fn may_pause(&self) -> bool {
        matches!(self.body, Body::Fibre(_))
    }

    /// Whether it must be rebuilt: a call ended badly and left its memory as the cut did.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Make a call. `fuel` bounds it if it cannot pause; if it can, it runs for one quantum and the bound on the whole call is its
    /// policy's. The world is lent for the length of the step.
    #[inline]
    pub fn run(&mut self, world: &mut Option<Box<WorldContext>>, call: Call, fuel: u64) -> Step {
        debug_assert!(!self.paused && !self.ended, "a paused instance is resumed, an ended one is rebuilt");
        match &mut self.body {
            Body::Sync(body) => {
                let step = run_sync(body, world, call, fuel, &mut self.trace);
                self.ended = step.outcome.is_end();
                step
            }
            Body::Fibre(fibre) => {
                let polled = fibre.begin(world, call);
                self.after_poll(polled)
            }
        }
    }

    /// `on_tick`, the call that there are thousands of in a tick.
    #[inline]
    pub fn run_tick(&mut self, world: &mut Option<Box<WorldContext>>, dt: f32, fuel: u64) -> (MeteringOutcome, u64) {
        let SyncBody { store, on_tick, exports } = match &mut self.body {
            Body::Sync(body) => body,
            Body::Fibre(fibre) => {
                let polled = fibre.begin(world, Call::Tick(dt));
                let step = self.after_poll(polled);
                return (step.outcome, step.fuel);
            }
        };
        let Some(on_tick) = on_tick else { return (MeteringOutcome::Completed, 0) };
        let (result, fuel) = metered(store, world, fuel, |store, fuel| match on_tick.call(&mut *store, (dt, fuel)) {
            Ok(left) => (Ok(()), left),
            Err(error) => (Err(error), fuel::counter(store)),
        });
        let outcome = match result {
            Ok(()) => MeteringOutcome::Completed,
            Err(error) => {
                self.trace = Trace::of(&error, &exports.module);
                outcome_of(&error)
            }
        };
        self.ended = outcome.is_end();
        (outcome, fuel)
    }

    /// Go on with a paused call for another quantum.
    pub fn resume(&mut self, world: &mut Option<Box<WorldContext>>) -> Step {
        debug_assert!(self.paused, "only a paused call goes on");
        let Body::Fibre(fibre) = &mut self.body else {
            unreachable!("only scripts on a fibre pause");
        };
        let polled = fibre.resume(world);
        self.after_poll(polled)
    }

    #[inline]
    fn after_poll(&mut self, (step, trace): (Step, Option<Box<Trace>>)) -> Step {
        if trace.is_some() {
            self.trace = trace;
        }
        (self.paused, self.ended) = (step.outcome.is_pause(), step.outcome.is_end());
        step
    }

    /// Where it was when its last call ended badly; `None` if its engine keeps no address maps.
    pub fn take_trace(&mut self) -> Option<Box<Trace>> {
        self.trace.take()
    }

    /// The state of its randomness. Of a paused script: before the call that is paused.
    pub fn random(&self) -> RandomState {
        RandomState(match &self.body {
            Body::Sync(body) => body.store.data().own.random.clone(),
            Body::Fibre(fibre) => fibre.random(),
        })
    }

    /// Host calls and refused actions since this was last asked, and memory. Of a paused script: as of its last finished call.
    pub fn take_counters(&mut self) -> Counters {
        match &mut self.body {
            Body::Sync(body) => {
                let data = body.store.data_mut();
                let (host_calls, refused) = (std::mem::take(&mut data.own.host_calls), data.own.limiter.take_refused());
                Counters { host_calls, refused, memory_bytes: data.meter.used }
            }
            Body::Fibre(fibre) => fibre.take_counters(),
        }
    }
}

/// An instance. One with asynchronous imports must be made asynchronously; nothing of it runs yet, so it cannot wait.
fn instantiate(
    pre: &wasmtime::InstancePre<ScriptData>,
    store: &mut Store<ScriptData>,
    fibre: bool,
) -> wasmtime::Result<wasmtime::Instance> {
    if fibre { ready(pre.instantiate_async(store)) } else { pre.instantiate(store) }
}

/// Its start function. It cannot wait either: no host function yields before its instance is on a fibre.
fn begin(start: &TypedFunc<(), ()>, store: &mut Store<ScriptData>, fuel: u64, fibre: bool) -> wasmtime::Result<()> {
    let own = &mut store.data_mut().own;
    own.calls += 1;
    let first = own.fuel.begin(fuel);
    fuel::set_counter(&mut *store, first)?;
    let result = if fibre { ready(start.call_async(&mut *store, ())) } else { start.call(&mut *store, ()) };
    store.data_mut().own.charged = 0;
    result
}

fn ready<R>(call: impl Future<Output = wasmtime::Result<R>>) -> wasmtime::Result<R> {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(wasmtime::Error::msg("a start function waited")),
    }
}

fn build_error(error: &wasmtime::Error, module: &ScriptModule, memory: &WorldMemory) -> InstanceError {
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return InstanceError::Full { class: module.class() };
    }
    if error.downcast_ref::<Trap>().is_some() || error.downcast_ref::<Stop>().is_some() {
        return InstanceError::Start(outcome_of(error));
    }
    if memory.used_bytes() + module.initial_memory_bytes > memory.cap_bytes() {
        return InstanceError::WorldMemory { initial_bytes: module.initial_memory_bytes };
    }
    InstanceError::Engine(format!("{error:#}"))
}

/// CPU time of this thread.
pub fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lend the world, run `f` with what the module's counter is to hold, take the world back. `f` gives what the counter holds then; this,
/// what was used, host functions included.
#[inline]
fn metered<R>(
    store: &mut Store<ScriptData>,
    world: &mut Option<Box<WorldContext>>,
    fuel: u64,
    f: impl FnOnce(&mut Store<ScriptData>, i64) -> (wasmtime::Result<R>, i64),
) -> (wasmtime::Result<R>, u64) {
    let data = store.data_mut();
    if let WorldSlot::Lent(lent) = &mut data.world {
        std::mem::swap(lent, world);
    }
    data.own.calls += 1;
    let first = data.own.fuel.begin(fuel);
    let (result, left) = f(store, first);
    let data = store.data_mut();
    if let WorldSlot::Lent(lent) = &mut data.world {
        std::mem::swap(lent, world);
    }
    let charged = std::mem::take(&mut data.own.charged);
    let used = data.own.fuel.used(left, charged);
    // What was stopped has not done what it could not pay for.
    let used = if result.is_ok() { used } else { used.min(fuel) };
    (result, used)
}

fn run_sync(
    body: &mut SyncBody,
    world: &mut Option<Box<WorldContext>>,
    call: Call,
    fuel: u64,
    trace: &mut Option<Box<Trace>>,
) -> Step {
    let SyncBody { store, exports, .. } = body;
    let (result, fuel) = metered(store, world, fuel, |store, first| {
        let result = fuel::set_counter(&mut *store, first).and_then(|()| {
            match pin!(perform(store, exports, &call, false)).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result,
                Poll::Pending => unreachable!("nothing waits in a call that is not on a fibre"),
            }
        });
        (result, fuel::counter(store))
    });
    match result {
        Ok(reply) => Step { outcome: MeteringOutcome::Completed, fuel, reply, failed: None },
        Err(error) => {
            *trace = Trace::of(&error, &exports.module);
            Step { outcome: outcome_of(&error), fuel, reply: Reply::None, failed: Some(call) }
        }
    }
}
