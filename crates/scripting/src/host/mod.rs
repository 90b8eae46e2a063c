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
use crate::meter::fuel;
use wasmtime::{Caller, Linker, Result};

pub(crate) type Guest<'a> = Caller<'a, ScriptData>;

/// Link a function that may cost more than a few hundred fuel. Of a script on a fibre it yields when the slice is used up; the
/// cheap ones do not need to, since every loop around them uses fuel of its own.
macro_rules! costly {
    ($linker:expr, $fibre:expr, $module:expr, $name:expr, |$guest:ident $(, $arg:ident: $ty:ty)*| -> $ret:ty $body:block) => {
        if $fibre {
            $linker.func_wrap_async($module, $name, |mut caller: $crate::host::Guest<'_>, ($($arg,)*): ($($ty,)*)| {
                Box::new(async move {
                    let run = |$guest: &mut $crate::host::Guest<'_>| -> wasmtime::Result<$ret> { $body };
                    let result = run(&mut caller)?;
                    $crate::host::settle(&mut caller).await?;
                    wasmtime::Result::Ok(result)
                })
            })?;
        } else {
            $linker.func_wrap($module, $name, |mut caller: $crate::host::Guest<'_> $(, $arg: $ty)*| -> wasmtime::Result<$ret> {
                let $guest = &mut caller;
                $body
            })?;
        }
    };
}
pub(crate) use costly;

/// Link every import of the ABI, for scripts that are called synchronously or for those on a fibre.
pub(crate) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    entity::link(linker, fibre)?;
    physics::link(linker, fibre)?;
    ui::link(linker, fibre)?;
    audio::link(linker, fibre)?;
    network::link(linker, fibre)?;
    storage::link(linker, fibre)?;
    script::link(linker, fibre)?;
    fuel::link(linker, fibre)
}

/// Count the call and charge for it.
#[inline]
pub(crate) fn enter(guest: &mut Guest<'_>, group: HostGroup, fuel: u64) -> Result<()> {
    guest.data_mut().own.host_calls[group as usize] += 1;
    charge(guest, cost::CALL + fuel)
}

/// Charge fuel for work that the host does.
#[inline]
pub(crate) fn charge(guest: &mut Guest<'_>, cost: u64) -> Result<()> {
    // Small charges are put together.
    let own = &mut guest.data_mut().own;
    own.charged += if own.counts_calls { 1 } else { cost };
    if own.charged < CHARGE_AT_ONCE { Ok(()) } else { fuel::spend(guest) }
}

/// A script may be this much past its fuel, besides one host call.
const CHARGE_AT_ONCE: u64 = 1_000;

/// On a fibre: end the call if its whole fuel is spent, yield if host work has used up the slice.
pub(crate) async fn settle(guest: &mut Guest<'_>) -> Result<()> {
    fuel::spend(guest)?;
    let own = &guest.data().own;
    if own.fuel.quantum().is_some_and(|quantum| own.since_yield >= quantum as u64) {
        fuel::wait(guest).await;
    }
    Ok(())
}

/// Run `f` on the script's memory and the host behind the script's limits.
#[inline]
pub(crate) fn call<R>(
    guest: &mut Guest<'_>,
    f: impl FnOnce(&mut GuestMemory<'_>, &mut Limited<'_>) -> ApiResult<R>,
) -> ApiResult<R> {
    with_world(guest, |memory, world, own| f(memory, &mut limited(world, own)))
}

/// The same for a function that does not look at the script's memory: finding that costs as much as a small host call.
#[inline]
pub(crate) fn act<R>(guest: &mut Guest<'_>, f: impl FnOnce(&mut Limited<'_>) -> ApiResult<R>) -> ApiResult<R> {
    let data = guest.data_mut();
    in_world(&mut data.world, |world| f(&mut limited(world, &mut data.own)))
}

#[inline]
fn limited<'a>(world: &'a mut WorldContext, own: &'a mut Own) -> Limited<'a> {
    Limited {
        host: &mut *world.host,
        script: &mut own.limiter,
        world: &mut world.limiter,
        groups: own.groups,
        now_ns: world.now_ns,
    }
}

/// Without a world (while an instance is built, its start function may call) everything is [`ApiError::Unsupported`].
#[inline]
fn in_world<R>(slot: &mut WorldSlot, f: impl FnOnce(&mut WorldContext) -> ApiResult<R>) -> ApiResult<R> {
    match slot {
        WorldSlot::Lent(Some(world)) => f(world),
        WorldSlot::Lent(None) => Err(ApiError::Unsupported),
        WorldSlot::Shared(meeting) => match &mut meeting.exchange.borrow_mut().lent {
            Some(world) => f(world),
            None => Err(ApiError::Unsupported),
        },
    }
}

/// Run `f` on the script's memory, the world and what is the script's own.
#[inline]
pub(crate) fn with_world<R>(
    guest: &mut Guest<'_>,
    f: impl FnOnce(&mut GuestMemory<'_>, &mut WorldContext, &mut Own) -> ApiResult<R>,
) -> ApiResult<R> {
    let (bytes, data) = match guest.data().memory {
        Some(memory) => memory.data_and_store_mut(guest),
        None => (&mut [][..], guest.data_mut()),
    };
    let mut memory = GuestMemory(bytes);
    in_world(&mut data.world, |world| f(&mut memory, world, &mut data.own))
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
    let mut looked = 0;
    let result = call(guest, |memory, api| {
        let capacity = (capacity as u32 as usize).min(crate::abi::limit::BATCH);
        // Checked before the work, so that a bad pointer costs nobody a query.
        memory.slice_mut(out, capacity * 8)?;
        let mut found = Vec::new();
        query(memory, api, &mut found)?;
        looked = api.host.take_examined();
        for (i, entity) in found.iter().take(capacity).enumerate() {
            memory.write(out as u32 + 8 * i as u32, &entity.0.to_le_bytes())?;
        }
        Ok(found.len() as u32)
    });
    charge(guest, u64::from(result.unwrap_or(0)) * cost::FOUND + looked * cost::LOOKED)?;
    Ok(status(result))
}
