//! One running copy of a script: build it, call it, pause it, go on.
//!
//! Start with [`ScriptInstance::run`]. There are two kinds inside. A script that is terminated when its fuel is used up is called
//! on the caller's stack. One that may pause is on a fibre (`fibre`). Both make the same calls (`call`).
//!
//! Whatever the script does comes back as a value. Not here: when to call (`aether-world-runtime`), what host functions do (`host/`).

use crate::call::{Call, Exports, Reply, Stop, outcome_of, perform};
use crate::data::{Counters, MemoryMeter, Own, ScriptData, WorldContext, WorldMemory, WorldSlot};
use crate::fibre::Fibre;
use crate::limited::HostGroups;
use crate::limits::ModuleError;
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
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use wasmtime::{Store, StoreContextMut, Trap, TypedFunc, UpdateDeadline};

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
    on_tick: Option<TypedFunc<f32, ()>>,
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
                fibre: None,
                backstop: (0, u64::MAX),
                calls: 0,
                cpu_limit_ns: policy.cpu_time_limit.as_nanos() as u64,
            },
            meter: MemoryMeter::new(policy.memory_cap_mb << 20, Arc::clone(memory)),
            wasi,
        };
        let mut store = Store::new(&module.engine, data);
        store.limiter(|data| &mut data.meter);
        store.epoch_deadline_callback(backstop);
        let engine = |error: wasmtime::Error| InstanceError::Engine(format!("{error:#}"));
        store.set_fuel(policy.fuel_budget).map_err(engine)?;
        store.set_epoch_deadline(1);
        let pre = if pausable { &module.fibre_pre } else { &module.pre };
        let instance = instantiate(pre, &mut store, pausable).map_err(|error| build_error(&error, module, memory))?;
        let index = &module.exports;
        store.data_mut().memory =
            index.memory.as_ref().and_then(|e| instance.get_module_export(&mut store, e)).and_then(wasmtime::Extern::into_memory);
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
        let SyncBody { store, on_tick, .. } = match &mut self.body {
            Body::Sync(body) => body,
            Body::Fibre(fibre) => {
                let polled = fibre.begin(world, Call::Tick(dt));
                let step = self.after_poll(polled);
                return (step.outcome, step.fuel);
            }
        };
        let Some(on_tick) = on_tick else { return (MeteringOutcome::Completed, 0) };
        let (result, fuel) = metered(store, world, fuel, |store| on_tick.call(&mut *store, dt));
        let outcome = match result {
            Ok(()) => MeteringOutcome::Completed,
            Err(error) => {
                self.trace = Trace::of(&error);
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

/// An instance, and its start function. One with asynchronous imports must be made asynchronously; it cannot wait: there is no
/// yield interval yet, and no host function yields without a fibre's charge.
fn instantiate(
    pre: &wasmtime::InstancePre<ScriptData>,
    store: &mut Store<ScriptData>,
    fibre: bool,
) -> wasmtime::Result<wasmtime::Instance> {
    if !fibre {
        return pre.instantiate(store);
    }
    match pin!(pre.instantiate_async(store)).poll(&mut Context::from_waker(Waker::noop())) {
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

/// Called by wasm at a loop head or a call when the epoch deadline has passed: the CPU time backstop. It must not touch fuel: wasm
/// keeps that in a register here.
fn backstop(mut store: StoreContextMut<'_, ScriptData>) -> wasmtime::Result<UpdateDeadline> {
    let data = store.data_mut();
    let number = match &data.world {
        WorldSlot::Lent(_) => data.own.calls,
        WorldSlot::Shared(meeting) => meeting.polls.load(Ordering::Relaxed),
    };
    let now = thread_cpu_ns();
    let (since, of) = data.own.backstop;
    if of != number {
        // The first look at this call: reading the clock at every call would cost more than most calls.
        data.own.backstop = (now, number);
    } else if now.saturating_sub(since) > data.own.cpu_limit_ns {
        return Ok(UpdateDeadline::Interrupt);
    }
    Ok(UpdateDeadline::Continue(1))
}

/// CPU time of this thread.
pub fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lend the world, run `f`, take the world back; what it used, host functions included.
#[inline]
fn metered<R>(
    store: &mut Store<ScriptData>,
    world: &mut Option<Box<WorldContext>>,
    fuel: u64,
    f: impl FnOnce(&mut Store<ScriptData>) -> wasmtime::Result<R>,
) -> (wasmtime::Result<R>, u64) {
    let data = store.data_mut();
    if let WorldSlot::Lent(lent) = &mut data.world {
        std::mem::swap(lent, world);
    }
    data.own.calls += 1;
    store.set_epoch_deadline(1);
    let result = match store.set_fuel(fuel) {
        Ok(()) => f(store),
        Err(error) => Err(error),
    };
    let left = store.get_fuel().unwrap_or(0);
    let data = store.data_mut();
    if let WorldSlot::Lent(lent) = &mut data.world {
        std::mem::swap(lent, world);
    }
    (result, fuel - left.min(fuel) + std::mem::take(&mut data.own.charged))
}

fn run_sync(
    body: &mut SyncBody,
    world: &mut Option<Box<WorldContext>>,
    call: Call,
    fuel: u64,
    trace: &mut Option<Box<Trace>>,
) -> Step {
    let SyncBody { store, exports, .. } = body;
    let (result, fuel) = metered(store, world, fuel, |store| {
        let performed = pin!(perform(store, exports, &call, false));
        match performed.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => unreachable!("nothing waits in a call that is not on a fibre"),
        }
    });
    match result {
        Ok(reply) => Step { outcome: MeteringOutcome::Completed, fuel, reply, failed: None },
        Err(error) => {
            *trace = Trace::of(&error);
            Step { outcome: outcome_of(&error), fuel, reply: Reply::None, failed: Some(call) }
        }
    }
}
