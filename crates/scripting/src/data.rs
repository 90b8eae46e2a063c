//! What a store carries for its script, and what a world lends to it for the length of a call.
//!
//! A script that may not pause gets its [`WorldContext`] moved into its store and back: no lock, no flag. One that may pause
//! runs on a fibre that owns its store, so both sides meet behind a borrow flag (`fibre`).
//! Not here: running calls (`instance`), the host functions (`host/`).

use crate::api::Host;
use crate::fibre::Meeting;
use crate::limited::HostGroups;
use crate::meter::fuel::{CallFuel, Ticks};
use crate::rate::ActionLimiter;
use crate::wasi::WasiState;
use aether_types::{InstanceId, Version};
use rand_pcg::Pcg64Mcg;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A line that a script wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Who wrote it.
    pub instance: InstanceId,
    /// 0 error, 1 warning, 2 info, 3 debug.
    pub level: u8,
    /// Without control characters.
    pub text: String,
}

/// What a world lends to the script that it calls.
pub struct WorldContext {
    /// The engine.
    pub host: Box<dyn Host>,
    /// The allowances of all scripts together.
    pub limiter: ActionLimiter,
    /// The world's clock: it stands still during a tick.
    pub now_ns: u64,
    /// The tick's number.
    pub tick: u64,
    /// What scripts wrote in this tick. Bounded by the world's rate of log lines.
    pub log: Vec<LogLine>,
}

impl WorldContext {
    /// A world at time 0.
    pub fn new(host: Box<dyn Host>, limiter: ActionLimiter) -> Box<WorldContext> {
        Box::new(WorldContext { host, limiter, now_ns: 0, tick: 0, log: Vec::new() })
    }
}

/// Memory of all scripts of a world together.
#[derive(Debug)]
pub struct WorldMemory {
    used: AtomicU64,
    cap: u64,
}

impl WorldMemory {
    /// A cap in bytes.
    pub fn new(cap_bytes: u64) -> Arc<WorldMemory> {
        Arc::new(WorldMemory { used: AtomicU64::new(0), cap: cap_bytes })
    }

    /// Bytes of linear memory that the world's scripts have.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that they may have.
    pub fn cap_bytes(&self) -> u64 {
        self.cap
    }

    fn grow(&self, by: u64) -> bool {
        let grown = |used: u64| used.checked_add(by).filter(|sum| *sum <= self.cap);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }
}

/// Counts a script's linear memory and table against its own cap and its world's.
pub(crate) struct MemoryMeter {
    cap: u64,
    pub(crate) used: u64,
    /// The growth that was granted last, in case the engine then refuses it.
    granted: u64,
    table_cap: usize,
    world: Arc<WorldMemory>,
}

impl MemoryMeter {
    /// Bytes that the memory may still grow by.
    pub(crate) fn left(&self) -> u64 {
        self.cap.saturating_sub(self.used)
    }

    pub(crate) fn new(cap: u64, world: Arc<WorldMemory>) -> MemoryMeter {
        MemoryMeter { cap, used: 0, granted: 0, table_cap: 10_000, world }
    }
}

impl wasmtime::ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let by = desired.saturating_sub(current) as u64;
        // Past the module's own maximum the engine refuses after it has asked here.
        if maximum.is_some_and(|maximum| desired > maximum) || desired as u64 > self.cap || !self.world.grow(by) {
            self.granted = 0;
            return Ok(false);
        }
        self.used += by;
        self.granted = by;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Also called after a refusal, when nothing was granted.
        let by = std::mem::take(&mut self.granted);
        self.used -= by;
        self.world.used.fetch_sub(by, Ordering::Relaxed);
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_cap)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }
}

impl Drop for MemoryMeter {
    fn drop(&mut self) {
        self.world.used.fetch_sub(self.used, Ordering::Relaxed);
    }
}

/// Host calls and refused actions, since they were last taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// In the order of [`crate::abi::HostGroup::ALL`].
    pub host_calls: [u32; 7],
    /// Actions refused because an allowance was used up, in the order of [`crate::rate::RateLimitedAction::ALL`].
    pub refused: [u32; 7],
    /// Bytes of linear memory.
    pub memory_bytes: u64,
}

pub(crate) enum WorldSlot {
    /// Moved in for a call, moved out after it.
    Lent(Option<Box<WorldContext>>),
    /// On a fibre.
    Shared(Arc<Meeting>),
}

/// What belongs to the script itself; what every host call touches comes first.
#[repr(C)]
pub(crate) struct Own {
    /// Host work not yet taken off its fuel.
    pub charged: u64,
    pub host_calls: [u32; 7],
    pub groups: HostGroups,
    /// On a client a host call counts as one instruction, whatever it does.
    pub counts_calls: bool,
    /// Randomness was drawn, since a fibre last told its world.
    pub random_used: bool,
    /// Counts calls (of a script that is not on a fibre).
    pub calls: u64,
    /// Behind a pointer: most calls do not touch it.
    pub limiter: Box<ActionLimiter>,
    pub fuel: CallFuel,
    /// Fuel charged by host functions since the last yield in one.
    pub since_yield: u64,
    /// What the CPU time backstop looks at first, and what that was when it looked last.
    pub clock: Ticks,
    pub ticks: u64,
    /// CPU time at which the backstop first looked at this call, and which call (or poll) that was.
    pub backstop: (u64, u64),
    pub cpu_limit_ns: u64,
    pub instance: InstanceId,
    pub version: Version,
    pub random: Pcg64Mcg,
}

impl Own {
    /// The script's randomness, to draw from.
    pub fn random(&mut self) -> &mut Pcg64Mcg {
        self.random_used = true;
        &mut self.random
    }
}

/// What a store carries.
#[repr(C)]
pub(crate) struct ScriptData {
    pub memory: Option<wasmtime::Memory>,
    pub world: WorldSlot,
    pub own: Own,
    pub meter: MemoryMeter,
    pub wasi: Option<Box<WasiState>>,
}
