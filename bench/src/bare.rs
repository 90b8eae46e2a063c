//! The bare limit: raw wasmtime, one store a script, in a loop.
//!
//! Slots, metering and costs are those of `aether_scripting::sandbox`; the host functions check the pointer and read or write a plain
//! array, which is the least that they can do.

use crate::product::MOVER;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use wasmtime::{
    Caller, Config, Engine, InstanceAllocationStrategy, InstancePre, Linker, Memory, Module, PoolingAllocationConfig, Store,
    StoreLimits, StoreLimitsBuilder, TypedFunc, UpdateDeadline,
};

/// The product's settings, with wasmtime's own operator costs: they do not change what this module's instructions take.
pub(crate) fn config(fuel: bool, nans: bool) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    let slots = crate::slots();
    pool.total_core_instances(slots).total_memories(slots).total_tables(slots).total_stacks(slots);
    pool.max_memory_size(4 << 20)
        .table_elements(10_000)
        .max_core_instance_size(64 << 10)
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(4 << 10);
    let mut config = Config::new();
    config
        .consume_fuel(fuel)
        .epoch_interruption(fuel)
        .cranelift_nan_canonicalization(nans)
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

const FUEL: u64 = 1_000_000;

/// Makes scripts.
pub(crate) struct Starter {
    engine: Engine,
    pre: InstancePre<Host>,
    pause: bool,
    shared: Arc<Mutex<Vec<[f32; 3]>>>,
}

pub(crate) struct Script {
    store: Store<Host>,
    on_tick: TypedFunc<f32, ()>,
}

impl Starter {
    pub(crate) fn new(pause: bool) -> Starter {
        let engine = Engine::new(&config(true, false)).unwrap();
        let module = Module::new(&engine, MOVER).unwrap();
        let pre = linker(&engine).instantiate_pre(&module).unwrap();
        Starter { engine, pre, pause, shared: Arc::default() }
    }

    pub(crate) fn start(&self) -> Script {
        let positions = if self.pause { Positions::Shared(Arc::clone(&self.shared)) } else { Positions::Own(None) };
        let limits = StoreLimitsBuilder::new().memory_size(4 << 20).build();
        let mut store = Store::new(&self.engine, Host { memory: None, entity: 0, positions, limits });
        store.limiter(|host| &mut host.limits);
        store.set_fuel(FUEL).unwrap();
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(1)));
        let instance = self.pre.instantiate(&mut store).unwrap();
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let on_tick = instance.get_typed_func(&mut store, "on_tick").unwrap();
        if self.pause {
            store.fuel_async_yield_interval(Some(50_000)).unwrap();
        }
        Script { store, on_tick }
    }
}

/// Scripts in a loop.
pub(crate) struct World {
    scripts: Vec<Script>,
    positions: Option<Vec<[f32; 3]>>,
    pause: bool,
}

impl World {
    pub(crate) fn new(scripts: usize, pause: bool) -> World {
        let starter = Starter::new(pause);
        *starter.shared.lock().unwrap() = vec![[0.0; 3]; scripts];
        let scripts: Vec<_> = (0..scripts)
            .map(|entity| {
                let mut script = starter.start();
                script.store.data_mut().entity = entity;
                script
            })
            .collect();
        World { positions: Some(vec![[0.0; 3]; scripts.len()]), scripts, pause }
    }

    pub(crate) fn tick(&mut self) {
        for Script { store, on_tick } in &mut self.scripts {
            store.set_fuel(FUEL).unwrap();
            store.set_epoch_deadline(1);
            if self.pause {
                let call = pin!(on_tick.call_async(&mut *store, 0.05));
                match call.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => result.unwrap(),
                    Poll::Pending => unreachable!("a mover needs less than a quantum"),
                }
            } else {
                store.data_mut().positions = Positions::Own(self.positions.take());
                on_tick.call(&mut *store, 0.05).unwrap();
                if let Positions::Own(positions) = &mut store.data_mut().positions {
                    self.positions = positions.take();
                }
            }
            std::hint::black_box(store.get_fuel().unwrap());
        }
    }
}
