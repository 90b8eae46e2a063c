//! `aether:script`: what every script may use.

use super::*;
use crate::abi::limit;
use crate::data::LogLine;
use crate::rate::{self, RateLimitedAction};
use rand_core::Rng;

const MODULE: &str = "aether:script";
const GROUP: HostGroup = HostGroup::Script;

pub(super) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, MODULE, "log", |guest, level: i32, address: i32, length: i32| -> i32 {
        enter(guest, GROUP, cost::LOG + bytes(length, limit::TEXT_BYTES))?;
        Ok(done(with_world(guest, |memory, world, own| {
            let text = memory.text(address, length, limit::TEXT_BYTES)?;
            let level = u8::try_from(level).ok().filter(|level| *level <= 3).ok_or(ApiError::BadArgument)?;
            log(world, own, level, text)
        })))
    });
    linker.func_wrap(MODULE, "time", |mut guest: Guest<'_>| -> Result<i64> {
        enter(&mut guest, GROUP, 0)?;
        Ok(with_world(&mut guest, |_, world, _| Ok(world.now_ns)).unwrap_or(0) as i64)
    })?;
    linker.func_wrap(MODULE, "tick", |mut guest: Guest<'_>| -> Result<i64> {
        enter(&mut guest, GROUP, 0)?;
        Ok(with_world(&mut guest, |_, world, _| Ok(world.tick)).unwrap_or(0) as i64)
    })?;
    linker.func_wrap(MODULE, "random", |mut guest: Guest<'_>| -> Result<i64> {
        enter(&mut guest, GROUP, 0)?;
        Ok(guest.data_mut().own.random().next_u64() as i64)
    })?;
    linker.func_wrap(MODULE, "fuel_left", |mut guest: Guest<'_>| -> Result<i64> {
        enter(&mut guest, GROUP, 0)?;
        Ok(fuel::left(&mut guest) as i64)
    })?;
    linker.func_wrap(MODULE, "allowances_left", |mut guest: Guest<'_>, out: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::ENTITY)?;
        let fuel = fuel::left(&mut guest);
        let memory_left = guest.data().meter.left();
        Ok(done(with_world(&mut guest, |memory, world, own| {
            let out: &mut [u8] = memory.slice_mut(out, 40)?;
            out[..8].copy_from_slice(&fuel.to_le_bytes());
            for (i, action) in RateLimitedAction::ALL.into_iter().enumerate() {
                let left = own.limiter.left(action, world.now_ns).min(world.limiter.left(action, world.now_ns));
                out[8 + 4 * i..12 + 4 * i].copy_from_slice(&(left.max(0.0) as u32).to_le_bytes());
            }
            out[36..40].copy_from_slice(&u32::try_from(memory_left).unwrap_or(u32::MAX).to_le_bytes());
            Ok(())
        })))
    })?;
    linker.func_wrap(MODULE, "version", |mut guest: Guest<'_>| -> Result<i32> {
        enter(&mut guest, GROUP, 0)?;
        Ok(guest.data().own.version.0 as i32)
    })?;
    Ok(())
}

/// Write a line to the world's log, if the allowances hold it.
pub(crate) fn log(world: &mut WorldContext, own: &mut Own, level: u8, text: &str) -> ApiResult<()> {
    rate::take(&mut own.limiter, &mut world.limiter, RateLimitedAction::Log, 1.0, world.now_ns)?;
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    world.log.push(LogLine { instance: own.instance, level, text });
    Ok(())
}
