//! A script that may pause: a call of it is a future that is polled for one quantum of fuel at a time.
//!
//! Start with [`Fibre::begin`]. Between calls a script sits here, and its store can be read like any other's. A call takes the store with
//! it, and gives it back with its end: while it is paused nobody can reach it. World and call meet in a [`Meeting`]: the world puts itself
//! in for the length of a poll. Not here: what a call does (`call`), when to go on with a paused one (`aether-world-runtime`).

use crate::call::{Call, Exports, Reply, outcome_of, perform};
use crate::data::{Counters, ScriptData, WorldContext, WorldSlot};
use crate::instance::Step;
use crate::meter::fuel;
use crate::metering::{Budget, MeteringOutcome};
use crate::trace::Trace;
use atomic_refcell::AtomicRefCell;
use rand_pcg::Pcg64Mcg;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use wasmtime::Store;

pub(crate) struct Fibre {
    /// `None` in the middle of a call. Behind a pointer, since each call moves it twice.
    seat: Option<Box<Seat>>,
    meeting: Arc<Meeting>,
    /// Fuel of a whole call.
    total: u64,
    paused: Option<Paused>,
    kept: Box<Kept>,
}

/// A script between two calls.
struct Seat {
    store: Store<ScriptData>,
    exports: Exports,
}

/// What a call ends with: the script, what it gave, what its counter holds, and the call itself.
type Ending = (Box<Seat>, wasmtime::Result<Reply>, i64, Call);

struct Paused {
    future: Pin<Box<dyn Future<Output = Ending> + Send>>,
    /// Fuel reported of it.
    reported: u64,
}

/// What is known of a script while it is paused: as of its last finished call.
struct Kept {
    random: Pcg64Mcg,
    counters: Counters,
}

/// Where a world and the call that it polls meet. Small, since every poll of a thousand scripts touches it.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Meeting {
    /// Counts polls: the clock of a slice begins anew with each.
    pub polls: AtomicU64,
    pub exchange: AtomicRefCell<Exchange>,
}

/// What they exchange.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Exchange {
    /// What the world lends while it polls.
    pub lent: Option<Box<WorldContext>>,
    /// What the call that runs had used when it paused.
    pub used: u64,
}

/// A tick: what nearly every call is, without the room that the others take on the way.
async fn tick(mut seat: Box<Seat>, dt: f32, fuel: i64) -> Ending {
    let Seat { store, exports } = &mut *seat;
    let (result, left) = match &exports.on_tick {
        Some(on_tick) => match on_tick.call_async(&mut *store, (dt, fuel)).await {
            Ok(left) => (Ok(Reply::None), left),
            Err(error) => (Err(error), fuel::counter(store)),
        },
        None => (Ok(Reply::None), fuel),
    };
    (seat, result, left, Call::Tick(dt))
}

/// Any call.
async fn other(mut seat: Box<Seat>, call: Call, fuel: i64) -> Ending {
    let Seat { store, exports } = &mut *seat;
    let result = match fuel::set_counter(&mut *store, fuel) {
        Ok(()) => perform(store, exports, &call, true).await,
        Err(error) => Err(error),
    };
    let left = fuel::counter(store);
    (seat, result, left, call)
}

impl Fibre {
    /// Put a store with an instance of a script on a fibre. `total`: fuel of a whole call; `quantum`: of one poll.
    pub(crate) fn new(mut store: Store<ScriptData>, exports: Exports, total: u64, quantum: u64) -> wasmtime::Result<Fibre> {
        let meeting = Arc::new(Meeting::default());
        let data = store.data_mut();
        data.world = WorldSlot::Shared(Arc::clone(&meeting));
        data.own.fuel.wait_each(quantum);
        let counters = Counters { memory_bytes: data.meter.used, ..Counters::default() };
        let kept = Box::new(Kept { random: data.own.random.clone(), counters });
        let seat = Box::new(Seat { store, exports });
        Ok(Fibre { seat: Some(seat), meeting, total, paused: None, kept })
    }

    /// The state of its randomness after its last finished call.
    pub(crate) fn random(&self) -> Pcg64Mcg {
        self.seat.as_ref().map_or(&self.kept.random, |seat| &seat.store.data().own.random).clone()
    }

    /// Host calls since this was last asked, and memory; in the middle of a call as of its last finished one.
    pub(crate) fn take_counters(&mut self) -> Counters {
        if let Some(seat) = &mut self.seat {
            self.kept.count(&mut seat.store);
        }
        let counters = &mut self.kept.counters;
        let memory_bytes = counters.memory_bytes;
        Counters { memory_bytes, ..std::mem::replace(counters, Counters { memory_bytes, ..Counters::default() }) }
    }

    /// Begin a call, for one quantum. Whether it is paused now is in the outcome.
    #[inline]
    pub(crate) fn begin(&mut self, world: &mut Option<Box<WorldContext>>, call: Call) -> (Step, Option<Box<Trace>>) {
        let mut seat = self.seat.take().expect("a script in the middle of a call is given no other one");
        let own = &mut seat.store.data_mut().own;
        (own.charged, own.since_yield) = (0, 0);
        let first = own.fuel.begin(self.total);
        match call {
            Call::Tick(dt) => self.first_poll(world, Box::pin(tick(seat, dt, first))),
            call => self.first_poll(world, Box::pin(other(seat, call, first))),
        }
    }

    #[inline]
    fn first_poll<F>(&mut self, world: &mut Option<Box<WorldContext>>, mut future: Pin<Box<F>>) -> (Step, Option<Box<Trace>>)
    where
        F: Future<Output = Ending> + Send + 'static,
    {
        match self.meeting.poll(world, future.as_mut()) {
            Poll::Ready(ending) => self.end(ending, None),
            Poll::Pending => {
                let paused = self.paused.insert(Paused { future, reported: 0 });
                (paused.step(&self.meeting), None)
            }
        }
    }

    /// Go on with the call that is paused, for one quantum.
    pub(crate) fn resume(&mut self, world: &mut Option<Box<WorldContext>>) -> (Step, Option<Box<Trace>>) {
        let mut paused = self.paused.take().expect("only a paused call goes on");
        match self.meeting.poll(world, paused.future.as_mut()) {
            Poll::Ready(ending) => self.end(ending, Some(paused.reported)),
            Poll::Pending => {
                let paused = self.paused.insert(paused);
                (paused.step(&self.meeting), None)
            }
        }
    }

    /// A call came to its end. `reported`: the fuel that was, if it was paused.
    #[inline]
    fn end(&mut self, (seat, result, left, call): Ending, reported: Option<u64>) -> (Step, Option<Box<Trace>>) {
        let seat = self.seat.insert(seat);
        let own = &mut seat.store.data_mut().own;
        let used = own.fuel.used(left, own.charged);
        // What was stopped has not done what it could not pay for.
        let used = if result.is_ok() { used } else { used.min(self.total) };
        if std::mem::take(&mut own.random_used) {
            self.kept.random = own.random.clone();
        }
        if reported.is_some() {
            // Whoever is paused whenever it is asked would never report.
            self.kept.count(&mut seat.store);
        }
        let fuel = used.saturating_sub(reported.unwrap_or(0));
        match result {
            Ok(reply) => (Step { outcome: MeteringOutcome::Completed, fuel, reply, failed: None }, None),
            Err(error) => {
                let step = Step { outcome: outcome_of(&error), fuel, reply: Reply::None, failed: Some(call) };
                (step, Trace::of(&error, &seat.exports.module))
            }
        }
    }
}

impl Paused {
    /// The call has paused: what it used since it was last reported.
    fn step(&mut self, meeting: &Meeting) -> Step {
        let used = meeting.exchange.borrow().used;
        let fuel = used.saturating_sub(self.reported);
        self.reported = self.reported.max(used);
        let outcome = MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: true };
        Step { outcome, fuel, reply: Reply::None, failed: None }
    }
}

impl Meeting {
    /// One poll, with the world lent to it.
    #[inline]
    fn poll<F>(&self, world: &mut Option<Box<WorldContext>>, future: Pin<&mut F>) -> Poll<Ending>
    where
        F: Future<Output = Ending> + ?Sized,
    {
        std::mem::swap(&mut self.exchange.borrow_mut().lent, world);
        self.polls.store(self.polls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let polled = future.poll(&mut Context::from_waker(Waker::noop()));
        std::mem::swap(&mut self.exchange.borrow_mut().lent, world);
        polled
    }
}

impl Kept {
    /// Move what was counted to where it can be read while the script is paused.
    fn count(&mut self, store: &mut Store<ScriptData>) {
        let data = store.data_mut();
        let Counters { host_calls, refused, memory_bytes } = &mut self.counters;
        for (sum, calls) in host_calls.iter_mut().zip(&mut data.own.host_calls) {
            *sum += std::mem::take(calls);
        }
        for (sum, actions) in refused.iter_mut().zip(data.own.limiter.take_refused()) {
            *sum += actions;
        }
        *memory_bytes = data.meter.used;
    }
}
