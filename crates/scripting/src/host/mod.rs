//! The bridge: every import of the ABI, from (address, length) in guest memory to a call of the six API traits.
//!
//! Each function charges fuel first ([`enter`]), then reads its arguments out of guest memory with every bound checked
//! ([`GuestMemory`]), calls the host through [`Limited`] and turns the answer into a code. Nothing here can trap but a lack of fuel.
//! One file for each interface of `wit/aether.wit`. Not here: what is allowed (`limited`), what things cost (`abi::cost`).

mod audio;
mod entity;
mod memory;
mod network;
mod physics;
pub(crate) mod script;
mod storage;
mod ui;

pub(crate) use memory::GuestMemory;
pub(crate) use script::log;

use crate::abi::{HostGroup, cost};
use crate::api::{ApiError, ApiResult, EntityId, Vec3};
use crate::data::{Own, ScriptData, WorldContext, WorldSlot};
use crate::limited::Limited;
use wasmtime::{AsContextMut, Caller, Linker, Result, Trap};

pub(crate) type Guest<'a> = Caller<'a, ScriptData>;

/// Link every import of the ABI.
pub(crate) fn link(linker: &mut Linker<ScriptData>) -> Result<()> {
    entity::link(linker)?;
    physics::link(linker)?;
    ui::link(linker)?;
    audio::link(linker)?;
    network::link(linker)?;
    storage::link(linker)?;
    script::link(linker)
}

/// Count the call and charge for it.
#[inline]
pub(crate) fn enter(guest: &mut Guest<'_>, group: HostGroup, fuel: u64) -> Result<()> {
    guest.data_mut().own.host_calls[group as usize] += 1;
    charge(guest, cost::CALL + fuel)
}

/// Charge fuel for work that the host does.
#[inline]
pub(crate) fn charge(guest: &mut Guest<'_>, fuel: u64) -> Result<()> {
    if let Some(fibre) = &mut guest.data_mut().own.fibre {
        // Setting fuel here would restart the slice. The epoch callback settles it: see `instance::backstop`.
        fibre.since_yield += fuel;
        if fibre.since_yield >= fibre.quantum {
            guest.as_context_mut().set_epoch_deadline(0);
        }
        return Ok(());
    }
    let left = guest.get_fuel()?;
    match left.checked_sub(fuel) {
        Some(rest) => guest.set_fuel(rest),
        None => {
            guest.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}

/// Run `f` on the script's memory and the host behind the script's limits.
#[inline]
pub(crate) fn call<R>(guest: &mut Guest<'_>, f: impl FnOnce(&mut GuestMemory<'_>, &mut Limited<'_>) -> ApiResult<R>) -> ApiResult<R> {
    with_world(guest, |memory, world, own| {
        let mut api = Limited {
            host: &mut *world.host,
            script: &mut own.limiter,
            world: &mut world.limiter,
            groups: own.groups,
            now_ns: world.now_ns,
        };
        f(memory, &mut api)
    })
}

/// Run `f` on the script's memory, the world and what is the script's own. Without a world (while an instance is built, its
/// start function may call) everything is [`ApiError::Unsupported`].
#[inline]
pub(crate) fn with_world<R>(guest: &mut Guest<'_>, f: impl FnOnce(&mut GuestMemory<'_>, &mut WorldContext, &mut Own) -> ApiResult<R>) -> ApiResult<R> {
    let (bytes, data) = match guest.data().memory {
        Some(memory) => memory.data_and_store_mut(guest),
        None => (&mut [][..], guest.data_mut()),
    };
    let mut memory = GuestMemory(bytes);
    match &mut data.world {
        WorldSlot::Lent(Some(world)) => f(&mut memory, world, &mut data.own),
        WorldSlot::Lent(None) => Err(ApiError::Unsupported),
        WorldSlot::Shared(exchange) => match exchange.borrow_mut().lent.as_mut() {
            Some(world) => f(&mut memory, world, &mut data.own),
            None => Err(ApiError::Unsupported),
        },
    }
}

/// Lowers a result to `i32`: a value that is not negative, or an error's code.
#[inline]
pub(crate) fn status(result: ApiResult<u32>) -> i32 {
    match result {
        Ok(value) => value.min(i32::MAX as u32) as i32,
        Err(error) => error.code(),
    }
}

/// The same for results without a value.
#[inline]
pub(crate) fn done(result: ApiResult<()>) -> i32 {
    status(result.map(|()| 0))
}

/// Lowers a result to `i64`.
pub(crate) fn status64(result: ApiResult<u64>) -> i64 {
    match result {
        Ok(value) => (value & i64::MAX as u64) as i64,
        Err(error) => error.code().into(),
    }
}

pub(crate) fn entity_id(raw: i64) -> EntityId {
    EntityId(raw as u64)
}

pub(crate) fn vec3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

/// Bytes that will be copied at most, for charging before anything is known to be valid.
pub(crate) fn bytes(length: i32, limit: usize) -> u64 {
    u64::from(length as u32).min(limit as u64) * cost::BYTE
}

/// Write a query's entities: gives how many there are, writes as many as fit, charges for those found.
pub(crate) fn write_entities(
    guest: &mut Guest<'_>,
    out: i32,
    capacity: i32,
    query: impl FnOnce(&mut GuestMemory<'_>, &mut Limited<'_>, &mut Vec<EntityId>) -> ApiResult<()>,
) -> Result<i32> {
    let result = call(guest, |memory, api| {
        let capacity = (capacity as u32 as usize).min(crate::abi::limit::BATCH);
        // Checked before the work, so that a bad pointer costs nobody a query.
        memory.slice_mut(out, capacity * 8)?;
        let mut found = Vec::new();
        query(memory, api, &mut found)?;
        for (i, entity) in found.iter().take(capacity).enumerate() {
            memory.write(out as u32 + 8 * i as u32, &entity.0.to_le_bytes())?;
        }
        Ok(found.len() as u32)
    });
    if let Ok(found) = result {
        charge(guest, u64::from(found) * cost::FOUND)?;
    }
    Ok(status(result))
}
