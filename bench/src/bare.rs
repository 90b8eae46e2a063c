//! The bare limit: raw wasmtime, one store a script, in a loop.
//!
//! Slots, metering and costs are those of `aether_scripting::sandbox`; the host functions check the pointer and read or write a plain
//! array, which is the least that they can do. What a supervisor or a reload must do at least is here too: a loop over the dead, or
//! over all, that carries bytes from the old instance to the new one.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use wasmtime::{
    Caller, Config, Engine, Instance, InstanceAllocationStrategy, InstancePre, Linker, Memory, Module, PoolingAllocationConfig,
    Store, StoreLimits, StoreLimitsBuilder, TypedFunc, UpdateDeadline, WasmParams, WasmResults,
};

/// The product's settings, with wasmtime's own operator costs: they do not change what this module's instructions take.
fn config(fuel: bool, slots: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(slots).total_memories(slots).total_tables(slots).total_stacks(slots);
    pool.max_memory_size(4 << 20)
        .table_elements(10_000)
        .max_core_instance_size(64 << 10)
        .linear_memory_keep_resident(16 << 10)
        .table_keep_resident(4 << 10)
        .decommit_batch_size(64);
    let mut config = Config::new();
    config
        .consume_fuel(fuel)
        .epoch_interruption(fuel)
        .wasm_backtrace_max_frames(None)
        .max_wasm_stack(128 << 10)
        .async_stack_size(256 << 10)
        .memory_reservation(4 << 20)
        .memory_guard_size(64 << 10)
        .memory_may_move(false)
        .memory_reservation_for_growth(0)
        .guard_before_linear_memory(false)
        .native_unwind_info(false)
        .generate_address_map(false)
        .gc_support(false)
        .concurrency_support(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

pub(crate) struct Host {
    memory: Option<Memory>,
    entity: usize,
    positions: Positions,
    limits: StoreLimits,
}

/// A thread that ticks its scripts one after the other needs no lock; a fibre that may move between threads needs one.
enum Positions {
    Own(Option<Vec<[f32; 3]>>),
    Shared(Arc<Mutex<Vec<[f32; 3]>>>),
}

impl Positions {
    fn with<R>(&mut self, f: impl FnOnce(&mut Vec<[f32; 3]>) -> R) -> R {
        match self {
            Positions::Own(positions) => f(positions.as_mut().unwrap()),
            Positions::Shared(positions) => f(&mut positions.lock().unwrap()),
        }
    }
}

fn linker(engine: &Engine) -> Linker<Host> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("aether:entity", "self_entity", |c: Caller<'_, Host>| c.data().entity as i64).unwrap();
    linker
        .func_wrap("aether:entity", "get_position", |mut c: Caller<'_, Host>, id: i64, out: i32| -> i32 {
            let (bytes, host) = c.data().memory.unwrap().data_and_store_mut(&mut c);
            let Some(out) = bytes.get_mut(out as u32 as usize..).and_then(|b| b.get_mut(..12)) else { return -5 };
            host.positions.with(|positions| {
                let Some(position) = positions.get(id as usize) else { return -2 };
                for (bytes, v) in out.chunks_exact_mut(4).zip(position) {
                    bytes.copy_from_slice(&v.to_le_bytes());
                }
                0
            })
        })
        .unwrap();
    linker
        .func_wrap("aether:entity", "set_position", |mut c: Caller<'_, Host>, id: i64, x: f32, y: f32, z: f32| -> i32 {
            c.data_mut().positions.with(|positions| match positions.get_mut(id as usize) {
                Some(position) => {
                    *position = [x, y, z];
                    0
                }
                None => -2,
            })
        })
        .unwrap();
    linker
}

pub(crate) const FUEL: u64 = 1_000_000;

/// How scripts are run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Called on this stack, with fuel and epochs.
    Metered,
    /// The same on a fibre each.
    Fibres,
    /// Called on this stack; nothing can stop them.
    Unmetered,
}

impl Mode {
    fn has_fuel(self) -> bool {
        matches!(self, Mode::Metered | Mode::Fibres)
    }
}

/// Makes scripts of one module.
pub(crate) struct Starter {
    engine: Engine,
    pre: InstancePre<Host>,
    mode: Mode,
    shared: Arc<Mutex<Vec<[f32; 3]>>>,
}

pub(crate) struct Script {
    store: Store<Host>,
    instance: Instance,
    on_tick: TypedFunc<f32, ()>,
}

impl Starter {
    pub(crate) fn new(text: &str, mode: Mode, slots: usize) -> Starter {
        let engine = Engine::new(&config(mode.has_fuel(), slots as u32)).unwrap();
        Starter::on(engine, text, mode)
    }

    fn on(engine: Engine, text: &str, mode: Mode) -> Starter {
        let module = Module::new(&engine, text).unwrap();
        let pre = linker(&engine).instantiate_pre(&module).unwrap();
        Starter { engine, pre, mode, shared: Arc::default() }
    }

    /// For another version.
    pub(crate) fn beside(&self, text: &str) -> Starter {
        Starter { shared: Arc::clone(&self.shared), ..Starter::on(self.engine.clone(), text, self.mode) }
    }

    /// Of the same module.
    pub(crate) fn again(&self) -> Starter {
        Starter { engine: self.engine.clone(), pre: self.pre.clone(), mode: self.mode, shared: Arc::clone(&self.shared) }
    }

    pub(crate) fn start(&self) -> Script {
        let positions =
            if self.mode == Mode::Fibres { Positions::Shared(Arc::clone(&self.shared)) } else { Positions::Own(None) };
        let limits = StoreLimitsBuilder::new().memory_size(4 << 20).build();
        let mut store = Store::new(&self.engine, Host { memory: None, entity: 0, positions, limits });
        store.limiter(|host| &mut host.limits);
        if self.mode.has_fuel() {
            store.set_fuel(FUEL).unwrap();
            store.set_epoch_deadline(1);
            store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(1)));
        }
        let instance = self.pre.instantiate(&mut store).unwrap();
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let on_tick = instance.get_typed_func(&mut store, "on_tick").unwrap();
        if self.mode == Mode::Fibres {
            store.fuel_async_yield_interval(Some(50_000)).unwrap();
        }
        Script { store, instance, on_tick }
    }
}

impl Script {
    fn refill(&mut self, mode: Mode) {
        if mode.has_fuel() {
            self.store.set_fuel(FUEL).unwrap();
            self.store.set_epoch_deadline(1);
        }
    }

    /// A call that is not a tick.
    fn call<P: WasmParams, R: WasmResults>(&mut self, mode: Mode, name: &str, arguments: P) -> Option<R> {
        let f = self.instance.get_typed_func::<P, R>(&mut self.store, name).ok()?;
        self.refill(mode);
        Some(f.call(&mut self.store, arguments).unwrap())
    }

    /// What `save_state` gives.
    fn save(&mut self) -> Vec<u8> {
        let packed: i64 = self.call(Mode::Metered, "save_state", ()).unwrap();
        let (address, length) = ((packed >> 32) as usize, packed as u32 as usize);
        self.store.data().memory.unwrap().data(&self.store)[address..][..length].to_vec()
    }

    fn restore(&mut self, state: &[u8]) {
        let length = state.len() as i32;
        let address: i32 = self.call(Mode::Metered, "aether_alloc", length).unwrap();
        self.store.data().memory.unwrap().data_mut(&mut self.store)[address as usize..][..state.len()].copy_from_slice(state);
        let refused: i32 = self.call(Mode::Metered, "restore_state", (1, address, length)).unwrap();
        assert_eq!(refused, 0);
    }
}

/// Scripts in a loop.
pub(crate) struct World {
    starter: Starter,
    scripts: Vec<Script>,
    positions: Option<Vec<[f32; 3]>>,
    dead: Vec<usize>,
}

impl World {
    pub(crate) fn new(starter: Starter, scripts: usize) -> World {
        *starter.shared.lock().unwrap() = vec![[0.0; 3]; scripts];
        let positions = Some(vec![[0.0; 3]; scripts]);
        let mut world = World { starter, scripts: Vec::with_capacity(scripts), positions, dead: Vec::new() };
        for entity in 0..scripts {
            let script = world.begin(entity);
            world.scripts.push(script);
        }
        world
    }

    /// A script that has had its `on_start`.
    fn begin(&self, entity: usize) -> Script {
        let mut script = self.starter.start();
        script.store.data_mut().entity = entity;
        if self.starter.mode == Mode::Metered {
            script.call::<(), ()>(Mode::Metered, "on_start", ());
        } else if let Ok(f) = script.instance.get_typed_func::<(), ()>(&mut script.store, "on_start") {
            script.refill(self.starter.mode);
            match self.starter.mode {
                Mode::Fibres => ready(f.call_async(&mut script.store, ())),
                _ => f.call(&mut script.store, ()),
            }
            .unwrap();
        }
        script
    }

    /// For another version, or another script.
    pub(crate) fn beside(&self, text: &str) -> Starter {
        self.starter.beside(text)
    }

    /// One more script, at the end.
    pub(crate) fn add(&mut self, starter: &Starter) {
        self.scripts.push(starter.start());
    }

    /// The last script goes.
    pub(crate) fn remove_last(&mut self) {
        self.scripts.pop();
        self.dead.retain(|at| *at < self.scripts.len());
    }

    pub(crate) fn tick(&mut self) {
        let mode = self.starter.mode;
        for (at, script) in self.scripts.iter_mut().enumerate() {
            script.refill(mode);
            let Script { store, on_tick, .. } = script;
            let result = if mode == Mode::Fibres {
                ready(on_tick.call_async(&mut *store, 0.05))
            } else {
                store.data_mut().positions = Positions::Own(self.positions.take());
                let result = on_tick.call(&mut *store, 0.05);
                if let Positions::Own(positions) = &mut store.data_mut().positions {
                    self.positions = positions.take();
                }
                result
            };
            if result.is_err() {
                self.dead.push(at);
            }
            if mode.has_fuel() {
                std::hint::black_box(store.get_fuel().unwrap());
            }
        }
    }

    /// They trap in the tick after the next.
    pub(crate) fn light_fuse(&mut self, script: usize) {
        self.scripts[script].call::<_, ()>(Mode::Metered, "on_message", (0i64, 0i64, 0i32, 0i32, 0i32));
    }

    /// What a supervisor does at least; gives how many it brought back.
    pub(crate) fn restart_dead(&mut self) -> usize {
        let dead = std::mem::take(&mut self.dead);
        for at in &dead {
            self.scripts[*at] = self.begin(*at);
        }
        dead.len()
    }

    /// Put all on another version, with their state.
    pub(crate) fn switch(&mut self, to: &Starter) {
        for (entity, script) in self.scripts.iter_mut().enumerate() {
            let state = script.save();
            let mut fresh = to.start();
            fresh.store.data_mut().entity = entity;
            fresh.restore(&state);
            *script = fresh;
        }
    }
}

/// A call on a fibre that need not wait.
fn ready<R>(call: impl Future<Output = R>) -> R {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("a mover needs less than a quantum"),
    }
}
