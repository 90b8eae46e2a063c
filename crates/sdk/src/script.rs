//! What every script may use: the log, the world's clock, randomness, what is left of the allowances.

use crate::error::done;
use crate::raw::call;
use crate::{Allowances, Result};

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is broken. A panic logs so by itself.
    Error,
    /// Something is odd.
    Warning,
    /// Something happened.
    Info,
    /// For the author.
    Debug,
}

/// Write a line to the script's log: at most 1024 bytes, control characters are replaced. See also [`info!`](crate::info).
pub fn log(level: Level, message: &str) -> Result<()> {
    done(call!(script::log(level as i32, in message.as_bytes())))
}

/// Nanoseconds of the world's clock: every script of a tick sees the same, and it stands still between ticks.
pub fn time() -> u64 {
    call!(script::time()) as u64
}

/// The number of the tick.
pub fn tick() -> u64 {
    call!(script::tick()) as u64
}

/// 64 random bits from the script's own seed, which is part of a checkpoint.
pub fn random() -> u64 {
    call!(script::random()) as u64
}

/// A random number from 0 to just below 1.
pub fn random_f32() -> f32 {
    // 24 bits are as many as an f32 holds evenly.
    (random() >> 40) as f32 / (1u32 << 24) as f32
}

/// A random number from `low` to just below `high`.
pub fn random_between(low: f32, high: f32) -> f32 {
    low + (high - low) * random_f32()
}

/// Fuel left in this call.
pub fn fuel_left() -> u64 {
    call!(script::fuel_left()) as u64
}

/// What is left of the script's allowances.
pub fn allowances_left() -> Result<Allowances> {
    let mut left = Allowances::default();
    done(call!(script::allowances_left(put &mut left)))?;
    Ok(left)
}

/// The version of this script's artifact.
pub fn version() -> u32 {
    call!(script::version()) as u32
}
