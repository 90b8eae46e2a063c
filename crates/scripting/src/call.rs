//! What a script can be asked for, and the exports that answer.
//!
//! Start with [`Call`]; [`perform`] makes one, on whatever stack it is run. Not here: who calls and with how much fuel (`instance`,
//! `fibre`).

use crate::abi::limit;
use crate::data::ScriptData;
use crate::meter::fuel;
use crate::metering::{Budget, MeteringOutcome, TrapKind};
use crate::module::ScriptModule;
use aether_types::Version;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use wasmtime::{AsContextMut, Store, Trap, TypedFunc};

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
    /// Under which number its world wants to know that it was done with; 0: it does not. The script does not see it.
    #[serde(skip)]
    pub delivery: u64,
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
    /// An export of an author's own, without parameters, that gives nothing or an `i32`: a test. No world makes this call.
    Test(Box<str>),
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
    /// What a test gave; 0 is good.
    Tested(i32),
}

/// From, call, address, lengths of method and payload.
type MessageParams = (i64, i64, i32, i32, i32);
/// Kind, a, b, address, lengths of topic and payload.
type EventParams = (i32, i64, i64, i32, i32, i32);

/// `on_tick` behind [`crate::meter::ON_TICK`]: seconds and fuel in, fuel out.
pub(crate) type OnTick = TypedFunc<(f32, i64), i64>;

/// The exports that are called often, looked up once.
#[repr(C)]
pub(crate) struct Exports {
    pub on_tick: Option<OnTick>,
    on_message: Option<TypedFunc<MessageParams, ()>>,
    on_event: Option<TypedFunc<EventParams, ()>>,
    alloc: Option<TypedFunc<i32, i32>>,
    instance: wasmtime::Instance,
    pub module: Arc<ScriptModule>,
}

impl Exports {
    /// Of a new instance. All but `on_tick` are looked up when they are first called.
    pub fn new(
        store: &mut Store<ScriptData>,
        instance: wasmtime::Instance,
        module: &Arc<ScriptModule>,
    ) -> wasmtime::Result<Exports> {
        let on_tick = module.exports.on_tick.as_ref().and_then(|index| instance.get_module_export(&mut *store, index));
        let on_tick = on_tick.and_then(wasmtime::Extern::into_func).map(|f| f.typed(&*store)).transpose()?;
        Ok(Exports { on_tick, on_message: None, on_event: None, alloc: None, instance, module: Arc::clone(module) })
    }
}

/// An end that the host decides, carried through wasm as an error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Stop(pub(crate) TrapKind);

pub(crate) fn outcome_of(error: &wasmtime::Error) -> MeteringOutcome {
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

/// Make a call. With `fibre`, on a store whose functions must be called asynchronously; else it never waits.
pub(crate) async fn perform(
    store: &mut Store<ScriptData>,
    exports: &mut Exports,
    call: &Call,
    fibre: bool,
) -> wasmtime::Result<Reply> {
    match call {
        Call::Tick(dt) => {
            if let Some(f) = &exports.on_tick {
                let fuel = fuel::counter(&mut *store);
                invoke!(fibre, store, f, (*dt, fuel))?;
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
                let Message { from, call, method, payload, .. } = &**message;
                let address = hand_over(store, exports, fibre, &[method.as_bytes(), payload]).await?;
                invoke!(fibre, store, f, (*from as i64, *call as i64, address, method.len() as i32, payload.len() as i32))?;
            }
        }
        Call::Event(event) => {
            if let Some(f) = export!(store, exports, on_event) {
                let Event { kind, a, b, topic, payload } = &**event;
                let address = hand_over(store, exports, fibre, &[topic.as_bytes(), payload]).await?;
                let arguments = (*kind as i32, *a as i64, *b as i64, address, topic.len() as i32, payload.len() as i32);
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
                let address = hand_over(store, exports, fibre, &[state]).await?;
                let refused = invoke!(fibre, store, f, (from.0 as i32, address, state.len() as i32))?;
                return Ok(Reply::Restored(refused == 0));
            }
        }
        Call::Test(name) => {
            let Some(f) = exports.instance.get_func(&mut *store, name) else { return Ok(Reply::None) };
            let given = match f.typed::<(), i32>(&*store) {
                Ok(f) => invoke!(fibre, store, f, ())?,
                Err(_) => {
                    let f = f.typed::<(), ()>(&*store)?;
                    invoke!(fibre, store, f, ())?;
                    0
                }
            };
            return Ok(Reply::Tested(given));
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
