//! Giving out fuel: the call's own, part by part, to the counter in its module.
//!
//! A call begins with a part in its counter. When that is used up its code asks for more, and what the call has used is known: it ends,
//! or gets the next part, on a fibre after its world was told and has asked it to go on. What host functions cost comes off what the
//! counter was not given yet, so that they need not touch it. All of this goes by fuel alone, so it repeats.
//!
//! Start with [`CallFuel`], then [`ask`]. Not here: what things cost (`super::Costs`, `abi::cost`).

use super::{EXHAUSTED, MODULE};
use crate::data::{ScriptData, WorldSlot};
use crate::host::Guest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use wasmtime::{AsContextMut, Global, Linker, Result, Trap, Val};

/// Fuel that a counter gets at a time: five microseconds of typical code, a few milliseconds of the worst, after which the CPU time
/// backstop looks.
const PART: i64 = 100_000;

/// The fuel of the call that runs.
#[derive(Default)]
pub(crate) struct CallFuel {
    counter: Option<Global>,
    /// Of the whole call.
    granted: i64,
    /// What the counter was not given. Less than nothing, if host functions took more.
    reserve: i64,
    /// Set on a fibre: it waits each time it has used this much.
    quantum: Option<i64>,
}

impl CallFuel {
    /// Of an instance's module.
    pub fn set_counter(&mut self, counter: Option<Global>) {
        self.counter = counter;
    }

    /// From now on calls wait whenever they have used a quantum.
    pub fn wait_each(&mut self, quantum: u64) {
        self.quantum = Some(i64::try_from(quantum).unwrap_or(i64::MAX));
    }

    pub fn quantum(&self) -> Option<i64> {
        self.quantum
    }

    /// A call begins; what its counter is to hold.
    #[inline]
    pub fn begin(&mut self, fuel: u64) -> i64 {
        // Half of the range: no charge of a single operation gets to the other end.
        self.granted = i64::try_from(fuel).unwrap_or(i64::MAX).min(i64::MAX / 2);
        self.give(self.granted)
    }

    /// Of what is left, what the counter is to hold.
    #[inline]
    fn give(&mut self, left: i64) -> i64 {
        let part = left.min(self.quantum.unwrap_or(PART));
        self.reserve = left - part;
        part
    }

    /// What is left of the call; less than nothing, if it is past its fuel.
    #[inline]
    fn left(&self, counter: i64, charged: u64) -> i64 {
        self.reserve + counter - charged as i64
    }

    /// What the call has used, with that much in its counter and host work not yet taken off.
    #[inline]
    pub fn used(&self, counter: i64, charged: u64) -> u64 {
        (self.granted - self.left(counter, charged)).max(0) as u64
    }
}

/// What the counter holds.
pub(crate) fn counter(mut store: impl AsContextMut<Data = ScriptData>) -> i64 {
    let mut store = store.as_context_mut();
    match store.data().own.fuel.counter.map(|counter| counter.get(&mut store)) {
        Some(Val::I64(left)) => left,
        _ => 0,
    }
}

/// Fill the counter.
pub(crate) fn set_counter(mut store: impl AsContextMut<Data = ScriptData>, left: i64) -> Result<()> {
    let mut store = store.as_context_mut();
    match store.data().own.fuel.counter {
        Some(counter) => counter.set(&mut store, Val::I64(left)),
        None => Err(wasmtime::Error::msg("a module without a counter: it did not come from our compiler")),
    }
}

/// What is left of the call.
pub(crate) fn left(guest: &mut Guest<'_>) -> u64 {
    let counter = counter(&mut *guest);
    let own = &guest.data().own;
    own.fuel.left(counter, own.charged).max(0) as u64
}

/// Take what host functions were charged off the call's fuel.
pub(crate) fn spend(guest: &mut Guest<'_>) -> Result<()> {
    let own = &mut guest.data_mut().own;
    let charged = std::mem::take(&mut own.charged);
    own.since_yield += charged;
    own.fuel.reserve -= charged as i64;
    if own.fuel.reserve < 0 {
        // What the counter still holds pays.
        let held = counter(&mut *guest);
        let fuel = &mut guest.data_mut().own.fuel;
        let left = fuel.left(held, 0);
        if left < 0 {
            return Err(Trap::OutOfFuel.into());
        }
        let part = fuel.give(left);
        set_counter(&mut *guest, part)?;
    }
    look_at_clock(guest)
}

/// The counter is below zero: the call ends, or gets what it may have next.
fn ask(guest: &mut Guest<'_>) -> Result<()> {
    let held = counter(&mut *guest);
    let own = &mut guest.data_mut().own;
    let charged = std::mem::take(&mut own.charged);
    own.since_yield += charged;
    let left = own.fuel.left(held, charged);
    // Told before it is looked at: the call has used it either way.
    own.fuel.reserve -= charged as i64;
    if left < 0 {
        return Err(Trap::OutOfFuel.into());
    }
    look_at_clock(guest)?;
    let part = guest.data_mut().own.fuel.give(left);
    set_counter(&mut *guest, part)
}

/// End the call if it has taken more CPU time than it may. The time is looked at only if the clock's thread has ticked since it was
/// looked at last: to ask the kernel takes longer than most calls.
fn look_at_clock(guest: &mut Guest<'_>) -> Result<()> {
    let data = guest.data_mut();
    let ticks = data.own.clock.load(Ordering::Relaxed);
    if std::mem::replace(&mut data.own.ticks, ticks) == ticks {
        return Ok(());
    }
    let number = match &data.world {
        WorldSlot::Lent(_) => data.own.calls,
        WorldSlot::Shared(meeting) => meeting.polls.load(Ordering::Relaxed),
    };
    let now = crate::instance::thread_cpu_ns();
    let (since, of) = data.own.backstop;
    if of != number {
        data.own.backstop = (now, number);
    } else if now.saturating_sub(since) > data.own.cpu_limit_ns {
        return Err(Trap::Interrupt.into());
    }
    Ok(())
}

/// Wait until the world goes on with this call.
pub(crate) async fn wait(guest: &mut Guest<'_>) {
    let counter = counter(&mut *guest);
    let own = &mut guest.data_mut().own;
    own.since_yield = 0;
    let used = own.fuel.used(counter, own.charged);
    if let WorldSlot::Shared(meeting) = &guest.data().world {
        meeting.exchange.borrow_mut().used = used;
    }
    let mut yielded = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Link what a module calls when its counter is below zero.
pub(crate) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    if !fibre {
        linker.func_wrap(MODULE, EXHAUSTED, |mut guest: Guest<'_>| ask(&mut guest))?;
        return Ok(());
    }
    linker.func_wrap_async(MODULE, EXHAUSTED, |mut guest: Guest<'_>, (): ()| {
        Box::new(async move {
            ask(&mut guest)?;
            // A start function runs before anybody could go on with it.
            if guest.data().own.fuel.quantum().is_some() {
                wait(&mut guest).await;
            }
            Ok(())
        })
    })?;
    Ok(())
}

/// A clock that a thread of its own advances.
pub(crate) type Ticks = Arc<AtomicU64>;
