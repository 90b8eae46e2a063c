//! One running copy of a script: build it, call it, pause it, go on.
//!
//! Start with [`ScriptInstance::run`]. There are two kinds inside. A script that is terminated when its fuel is used up is called
//! on the caller's stack. One that may pause owns a fibre: a future that holds its store, takes one [`Call`] after the other out of
//! an [`Exchange`], and is polled for one quantum of fuel at a time. Both run the same [`perform`].
//!
//! Whatever the script does comes back as a value. Not here: when to call (`aether-world-runtime`), what host functions do (`host/`).

use crate::abi::limit;
use crate::data::{
    Counters, Exchange, FibreCharge, HostYield, MemoryMeter, Own, ScriptData, WorldContext, WorldMemory, WorldSlot,
};
use crate::limited::HostGroups;
use crate::limits::ModuleError;
use crate::metering::{Budget, MeteringOutcome, TrapKind};
use crate::module::ScriptModule;
use crate::policy::{OnBudget, ServerResourcePolicy};
use crate::rate::{ActionLimiter, ActionRates};
use crate::sandbox::FIBRE_QUANTUM;
use crate::wasi::WasiState;
use aether_types::{Blame, InstanceId, Version};
use atomic_refcell::AtomicRefCell;
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmtime::{AsContextMut, Store, StoreContextMut, Trap, TypedFunc, UpdateDeadline};

/// A message for `on_message`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who sent it: an instance's number, or a player's with bit 62 set.
    pub from: u64,
    /// The call's number.
    pub call: u64,
    /// What is called; empty for an answer.
    pub method: String,
    /// Its argument or result.
    pub payload: Vec<u8>,
}

/// An event for `on_event`. The numbers of kinds are in `wit/aether.wit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: u32,
    /// Who.
    pub a: u64,
    /// With whom.
    pub b: u64,
    /// A broadcast's topic.
    pub topic: String,
    /// A broadcast's payload.
    pub payload: Vec<u8>,
}

/// What to call.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// `on_start`
    Start,
    /// `on_tick` with the seconds since the last one.
    Tick(f32),
    /// `on_message`
    Message(Box<Message>),
    /// `on_event`
    Event(Box<Event>),
    /// `on_stop`
    Stop,
    /// `save_state`
    Save,
    /// `restore_state`
    Restore {
        /// The version that saved it.
        from: Version,
        /// What it saved.
        state: Box<[u8]>,
    },
}

/// What a call gave back besides its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing, or the script does not export the function.
    None,
    /// `save_state`'s state.
    State(Vec<u8>),
    /// Whether `restore_state` took it.
    Restored(bool),
}

/// How a call ended, on the fibre's side.
pub(crate) struct Ended {
    outcome: MeteringOutcome,
    fuel: u64,
    reply: Reply,
}

/// What one [`ScriptInstance::run`] or [`ScriptInstance::resume`] did.
#[derive(Debug)]
pub struct Step {
    /// How it ended, or that it is paused.
    pub outcome: MeteringOutcome,
    /// Fuel used in this step, host functions included.
    pub fuel: u64,
    /// What it gave back.
    pub reply: Reply,
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
    #[error("no room for another instance: raise max_instances, or run fewer scripts on this node")]
    Full,
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
            InstanceError::Full | InstanceError::WorldMemory { .. } | InstanceError::Directory(_) => Blame::Operator,
            InstanceError::Engine(_) => Blame::Host,
        }
    }
}

/// From, call, address, lengths of method and payload.
type MessageParams = (i64, i64, i32, i32, i32);
/// Kind, a, b, address, lengths of topic and payload.
type EventParams = (i32, i64, i64, i32, i32, i32);

/// The exports that are called often, looked up once.
struct Exports {
    on_tick: Option<TypedFunc<f32, ()>>,
    on_message: Option<TypedFunc<MessageParams, ()>>,
    on_event: Option<TypedFunc<EventParams, ()>>,
    alloc: Option<TypedFunc<i32, i32>>,
    instance: wasmtime::Instance,
    module: Arc<ScriptModule>,
}

enum Body {
    /// Called on the caller's stack. Boxed: a world walks over its scripts, and what it does not touch must not be in the way.
    Sync(Box<SyncBody>),
    Fibre(Box<Fibre>),
}

/// In this order in memory: what every tick touches comes first, and close together.
#[repr(C)]
struct SyncBody {
    store: Store<ScriptData>,
    on_tick: Option<TypedFunc<f32, ()>>,
    exports: Box<Exports>,
}

struct Fibre {
    exchange: Arc<AtomicRefCell<Exchange>>,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    meter: FibreMeter,
}

/// One running copy of a script.
pub struct ScriptInstance {
    body: Body,
    paused: bool,
    ended: bool,
}

/// What is known from outside of a call in progress on a fibre.
#[derive(Debug, Clone, Copy, Default)]
struct FibreMeter {
    /// Fuel of the whole call.
    total: u64,
    quantum: u64,
    /// Fuel left at which wasm yields next: wasmtime yields each quantum, exactly.
    boundary: u64,
    /// Fuel that wasm had left when it paused.
    left: u64,
    /// Fuel reported for the call.
    reported: u64,
}

impl FibreMeter {
    fn begin(&mut self) {
        (self.boundary, self.left) = (self.total.saturating_sub(self.quantum), self.total);
        self.reported = 0;
    }

    /// The call paused: fuel used since the last time. `charged`: what host functions were charged in the whole call.
    fn paused(&mut self, yielded: Option<HostYield>, charged: u64) -> u64 {
        match yielded {
            Some(HostYield { fuel_left }) => self.left = fuel_left,
            None => {
                self.left = self.boundary;
                self.boundary = self.boundary.saturating_sub(self.quantum);
            }
        }
        self.report(self.total - self.left + charged)
    }

    fn report(&mut self, used: u64) -> u64 {
        let step = used.saturating_sub(self.reported);
        self.reported = self.reported.max(used);
        step
    }
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
        let exchange = pausable.then(|| Arc::new(AtomicRefCell::new(Exchange::default())));
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
        let on_tick =
            index.on_tick.as_ref().and_then(|e| instance.get_module_export(&mut store, e)).and_then(wasmtime::Extern::into_func);
        let on_tick = on_tick.map(|f| f.typed(&store)).transpose().map_err(engine)?;
        let exports = Exports { on_tick, on_message: None, on_event: None, alloc: None, instance, module: Arc::clone(module) };
        let body = match exchange {
            None => Body::Sync(Box::new(SyncBody { store, on_tick: exports.on_tick.clone(), exports: Box::new(exports) })),
            Some(exchange) => {
                let data = store.data_mut();
                data.world = WorldSlot::Shared(Arc::clone(&exchange));
                data.own.fibre = Some(FibreCharge { quantum, ..FibreCharge::default() });
                store.fuel_async_yield_interval(Some(quantum)).map_err(engine)?;
                exchange.borrow_mut().counters.memory_bytes = store.data().meter.used;
                exchange.borrow_mut().random = Some(store.data().own.random.clone());
                let future = Box::pin(fibre(store, exports, Arc::clone(&exchange), total));
                let meter = FibreMeter { total, quantum, ..FibreMeter::default() };
                Body::Fibre(Box::new(Fibre { exchange, future, meter }))
            }
        };
        Ok(ScriptInstance { body, paused: false, ended: false })
    }

    /// Look at what a call begins with, so that it is in the cache when the call comes.
    #[inline]
    pub fn touch(&self) {
        match &self.body {
            Body::Sync(body) => std::hint::black_box(body.store.data().own.calls),
            Body::Fibre(fibre) => std::hint::black_box(fibre.exchange.borrow().polls),
        };
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
                let step = run_sync(body, world, call, fuel);
                self.ended = step.outcome.is_end();
                step
            }
            Body::Fibre(fibre) => {
                {
                    let mut exchange = fibre.exchange.borrow_mut();
                    exchange.call = Some(call);
                    exchange.charged = 0;
                }
                fibre.meter.begin();
                self.poll(world)
            }
        }
    }

    /// `on_tick` of a script that cannot pause, the call that there are thousands of in a tick; `None`: it is on a fibre.
    #[inline]
    pub fn run_tick(&mut self, world: &mut Option<Box<WorldContext>>, dt: f32, fuel: u64) -> Option<(MeteringOutcome, u64)> {
        let Body::Sync(body) = &mut self.body else { return None };
        let SyncBody { store, on_tick, .. } = &mut **body;
        let Some(on_tick) = on_tick else { return Some((MeteringOutcome::Completed, 0)) };
        let (result, fuel) = metered(store, world, fuel, |store| on_tick.call(&mut *store, dt));
        let outcome = match result {
            Ok(()) => MeteringOutcome::Completed,
            Err(error) => outcome_of(&error),
        };
        self.ended = outcome.is_end();
        Some((outcome, fuel))
    }

    /// Go on with a paused call for another quantum.
    pub fn resume(&mut self, world: &mut Option<Box<WorldContext>>) -> Step {
        debug_assert!(self.paused, "only a paused call goes on");
        self.poll(world)
    }

    fn poll(&mut self, world: &mut Option<Box<WorldContext>>) -> Step {
        let Body::Fibre(fibre) = &mut self.body else {
            unreachable!("only scripts on a fibre are polled");
        };
        let Fibre { exchange, future, meter } = &mut **fibre;
        {
            let mut exchange = exchange.borrow_mut();
            exchange.lent = world.take();
            exchange.polls += 1;
        }
        let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let mut exchange = exchange.borrow_mut();
        *world = exchange.lent.take();
        match exchange.ended.take() {
            Some(Ended { outcome, fuel, reply }) => {
                self.paused = false;
                self.ended = outcome.is_end();
                Step { outcome, fuel: meter.report(fuel), reply }
            }
            None => {
                self.paused = true;
                let charged = exchange.charged;
                let fuel = meter.paused(exchange.yielded.take(), charged);
                let outcome = MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: true };
                Step { outcome, fuel, reply: Reply::None }
            }
        }
    }

    /// The state of its randomness. Of a paused script: before the call that is paused.
    pub fn random(&self) -> RandomState {
        RandomState(match &self.body {
            Body::Sync(body) => body.store.data().own.random.clone(),
            Body::Fibre(fibre) => fibre.exchange.borrow().random.clone().unwrap_or_else(|| Pcg64Mcg::seed_from_u64(0)),
        })
    }

    /// Host calls since this was last asked, and memory. Of a paused script: as of its last finished call.
    pub fn take_counters(&mut self) -> Counters {
        match &mut self.body {
            Body::Sync(body) => {
                let data = body.store.data_mut();
                Counters { host_calls: std::mem::take(&mut data.own.host_calls), memory_bytes: data.meter.used }
            }
            Body::Fibre(fibre) => {
                let mut exchange = fibre.exchange.borrow_mut();
                let counters = exchange.counters;
                exchange.counters.host_calls = [0; 7];
                counters
            }
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
        return InstanceError::Full;
    }
    if error.downcast_ref::<Trap>().is_some() || error.downcast_ref::<Stop>().is_some() {
        return InstanceError::Start(outcome_of(error));
    }
    if memory.used_bytes() + module.initial_memory_bytes > memory.cap_bytes() {
        return InstanceError::WorldMemory { initial_bytes: module.initial_memory_bytes };
    }
    InstanceError::Engine(format!("{error:#}"))
}

/// An end that the host decides, carried through wasm as an error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Stop(pub(crate) TrapKind);

fn outcome_of(error: &wasmtime::Error) -> MeteringOutcome {
    if let Some(Stop(kind)) = error.downcast_ref::<Stop>() {
        return MeteringOutcome::Trapped(*kind);
    }
    let kind = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => return MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: false },
        Some(Trap::Interrupt) => return MeteringOutcome::BudgetExceeded { budget: Budget::CpuTime, paused: false },
        Some(Trap::UnreachableCodeReached) => TrapKind::Unreachable,
        Some(Trap::StackOverflow) => TrapKind::StackOverflow,
        Some(Trap::MemoryOutOfBounds | Trap::HeapMisaligned) => TrapKind::MemoryOutOfBounds,
        Some(Trap::TableOutOfBounds) => TrapKind::TableOutOfBounds,
        Some(Trap::IndirectCallToNull | Trap::BadSignature) => TrapKind::BadIndirectCall,
        Some(Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger) => TrapKind::Arithmetic,
        _ => TrapKind::Other,
    };
    MeteringOutcome::Trapped(kind)
}

/// Called by wasm at a loop head or a call when the epoch deadline has passed: the CPU time backstop. It must not touch fuel: wasm
/// keeps that in a register here.
fn backstop(mut store: StoreContextMut<'_, ScriptData>) -> wasmtime::Result<UpdateDeadline> {
    let data = store.data_mut();
    let number = match &data.world {
        WorldSlot::Lent(_) => data.own.calls,
        WorldSlot::Shared(exchange) => exchange.borrow().polls,
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

fn run_sync(body: &mut SyncBody, world: &mut Option<Box<WorldContext>>, call: Call, fuel: u64) -> Step {
    let SyncBody { store, exports, .. } = body;
    let (result, fuel) = metered(store, world, fuel, |store| {
        let performed = pin!(perform(store, exports, call, false));
        match performed.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => unreachable!("nothing waits in a call that is not on a fibre"),
        }
    });
    match result {
        Ok(reply) => Step { outcome: MeteringOutcome::Completed, fuel, reply },
        Err(error) => Step { outcome: outcome_of(&error), fuel, reply: Reply::None },
    }
}

/// The life of a script on a fibre: one call after the other, until one ends badly.
async fn fibre(mut store: Store<ScriptData>, mut exports: Exports, exchange: Arc<AtomicRefCell<Exchange>>, total: u64) {
    loop {
        let call = std::future::poll_fn(|_| exchange.borrow_mut().call.take().map_or(Poll::Pending, Poll::Ready)).await;
        if let Some(fibre) = &mut store.data_mut().own.fibre {
            (fibre.since_yield, fibre.in_call) = (0, 0);
        }
        store.set_epoch_deadline(1);
        let result = match store.set_fuel(total) {
            Ok(()) => perform(&mut store, &mut exports, call, true).await,
            Err(error) => Err(error),
        };
        let charged = store.data().own.fibre.as_ref().map_or(0, |fibre| fibre.in_call);
        let fuel = total - store.get_fuel().unwrap_or(0).min(total) + charged;
        let (outcome, reply) = match result {
            Ok(reply) => (MeteringOutcome::Completed, reply),
            Err(error) => (outcome_of(&error), Reply::None),
        };
        let mut exchange = exchange.borrow_mut();
        let data = store.data_mut();
        for (sum, calls) in exchange.counters.host_calls.iter_mut().zip(&mut data.own.host_calls) {
            *sum += std::mem::take(calls);
        }
        exchange.counters.memory_bytes = data.meter.used;
        exchange.random = Some(data.own.random.clone());
        exchange.ended = Some(Ended { outcome, fuel, reply });
        if outcome.is_end() {
            return;
        }
    }
}

/// Call a typed function the way its store wants it.
macro_rules! invoke {
    ($fibre:expr, $store:expr, $function:expr, $arguments:expr) => {
        if $fibre { $function.call_async(&mut *$store, $arguments).await } else { $function.call(&mut *$store, $arguments) }
    };
}

/// Look a function up the first time it is needed.
macro_rules! export {
    ($store:expr, $exports:expr, $field:ident) => {{
        if $exports.$field.is_none()
            && let Some(index) = &$exports.module.exports.$field
            && let Some(function) = $exports.instance.get_module_export(&mut *$store, index).and_then(wasmtime::Extern::into_func)
        {
            $exports.$field = Some(function.typed(&*$store)?);
        }
        $exports.$field.clone()
    }};
}

/// Look a function up that is called seldom.
macro_rules! rare_export {
    ($store:expr, $exports:expr, $field:ident, $params:ty, $results:ty) => {
        match &$exports.module.exports.$field {
            None => None,
            Some(index) => {
                let function = $exports.instance.get_module_export(&mut *$store, index).and_then(wasmtime::Extern::into_func);
                function.map(|f| f.typed::<$params, $results>(&*$store)).transpose()?
            }
        }
    };
}

async fn perform(store: &mut Store<ScriptData>, exports: &mut Exports, call: Call, fibre: bool) -> wasmtime::Result<Reply> {
    match call {
        Call::Tick(dt) => {
            if let Some(f) = export!(store, exports, on_tick) {
                invoke!(fibre, store, f, dt)?;
            }
        }
        Call::Start => {
            if let Some(f) = rare_export!(store, exports, on_start, (), ()) {
                invoke!(fibre, store, f, ())?;
            }
        }
        Call::Stop => {
            if let Some(f) = rare_export!(store, exports, on_stop, (), ()) {
                invoke!(fibre, store, f, ())?;
            }
        }
        Call::Message(message) => {
            if let Some(f) = export!(store, exports, on_message) {
                let Message { from, call, method, payload } = *message;
                let address = hand_over(store, exports, fibre, &[method.as_bytes(), &payload]).await?;
                invoke!(fibre, store, f, (from as i64, call as i64, address, method.len() as i32, payload.len() as i32))?;
            }
        }
        Call::Event(event) => {
            if let Some(f) = export!(store, exports, on_event) {
                let Event { kind, a, b, topic, payload } = *event;
                let address = hand_over(store, exports, fibre, &[topic.as_bytes(), &payload]).await?;
                let arguments = (kind as i32, a as i64, b as i64, address, topic.len() as i32, payload.len() as i32);
                invoke!(fibre, store, f, arguments)?;
            }
        }
        Call::Save => {
            if let Some(f) = rare_export!(store, exports, save_state, (), i64) {
                let packed = invoke!(fibre, store, f, ())? as u64;
                return Ok(Reply::State(saved_bytes(store, packed).ok_or(Stop(TrapKind::BadState))?));
            }
        }
        Call::Restore { from, state } => {
            if let Some(f) = rare_export!(store, exports, restore_state, (i32, i32, i32), i32) {
                let address = hand_over(store, exports, fibre, &[&state]).await?;
                let refused = invoke!(fibre, store, f, (from.0 as i32, address, state.len() as i32))?;
                return Ok(Reply::Restored(refused == 0));
            }
        }
    }
    Ok(Reply::None)
}

fn saved_bytes(store: &Store<ScriptData>, packed: u64) -> Option<Vec<u8>> {
    let (address, length) = ((packed >> 32) as usize, packed as u32 as usize);
    if length == 0 {
        return Some(Vec::new());
    }
    if length > limit::STATE_BYTES {
        return None;
    }
    let memory = store.data().memory?.data(store);
    memory.get(address..)?.get(..length).map(<[u8]>::to_vec)
}

/// Put bytes into the script's memory, where its `aether_alloc` says. It is the script's code: metered, and not believed.
async fn hand_over(store: &mut Store<ScriptData>, exports: &mut Exports, fibre: bool, parts: &[&[u8]]) -> wasmtime::Result<i32> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length == 0 {
        return Ok(0);
    }
    let alloc = export!(store, exports, alloc).ok_or(Stop(TrapKind::BadAllocation))?;
    let address = invoke!(fibre, store, alloc, length as i32)?;
    let memory = store.data().memory.ok_or(Stop(TrapKind::BadAllocation))?;
    let bytes = memory.data_mut(store.as_context_mut());
    let mut room =
        bytes.get_mut(address as u32 as usize..).and_then(|rest| rest.get_mut(..length)).ok_or(Stop(TrapKind::BadAllocation))?;
    for part in parts {
        let (here, rest) = room.split_at_mut(part.len());
        here.copy_from_slice(part);
        room = rest;
    }
    Ok(address)
}

/// For WASI's `proc_exit`.
pub(crate) fn exit() -> wasmtime::Error {
    Stop(TrapKind::Exit).into()
}
