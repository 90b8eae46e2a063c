//! A script that may pause: its store lives in a future that is polled for one quantum of fuel at a time.
//!
//! Start with [`Fibre::poll`]. World and future meet in a [`Meeting`]: the world puts in what to call and itself, the future how the
//! call ended. Not here: what a call does (`call`), when to go on with a paused one (`aether-world-runtime`).

use crate::call::{Call, Ended, Exports, Reply, outcome_of, perform};
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
    meeting: Arc<Meeting>,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What world and future both hold.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Meeting {
    /// Counts polls: the clock of a slice begins anew with each.
    pub polls: AtomicU64,
    pub exchange: AtomicRefCell<Exchange>,
}

/// Where world and paused script meet. What every tick touches comes first: a thousand of these fit in no cache.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Exchange {
    /// What the world lends while it polls the fibre.
    pub lent: Option<Box<WorldContext>>,
    /// What to do next.
    asked: Option<Asked>,
    /// How it ended.
    ended: Option<Ended>,
    /// What the call that runs had used when it paused.
    pub used: u64,
    /// Fuel reported of it.
    reported: u64,
    /// Host calls and memory.
    counters: Counters,
    /// The state of its randomness after the last finished call.
    random: Option<Pcg64Mcg>,
}

/// What a world asks of a fibre.
enum Asked {
    Call(Call),
    /// Bring `counters` up to date.
    Report,
}

impl Fibre {
    /// Put a store with an instance of a script on a fibre. `total`: fuel of a whole call; `quantum`: of one poll.
    pub(crate) fn new(mut store: Store<ScriptData>, exports: Exports, total: u64, quantum: u64) -> wasmtime::Result<Fibre> {
        let meeting = Arc::new(Meeting::default());
        let data = store.data_mut();
        data.world = WorldSlot::Shared(Arc::clone(&meeting));
        data.own.fuel.wait_each(quantum);
        {
            let mut exchange = meeting.exchange.borrow_mut();
            exchange.counters.memory_bytes = data.meter.used;
            exchange.random = Some(data.own.random.clone());
        }
        let future = Box::pin(live(store, exports, Arc::clone(&meeting), total));
        Ok(Fibre { meeting, future })
    }

    /// The state of its randomness after its last finished call.
    pub(crate) fn random(&self) -> Option<Pcg64Mcg> {
        self.meeting.exchange.borrow().random.clone()
    }

    /// Host calls since this was last asked, and memory; if it is `idle`, as of now, else as of its last finished call.
    pub(crate) fn take_counters(&mut self, idle: bool) -> Counters {
        if idle {
            self.meeting.exchange.borrow_mut().asked = Some(Asked::Report);
            let _ = self.future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        let counters = &mut self.meeting.exchange.borrow_mut().counters;
        let memory_bytes = counters.memory_bytes;
        Counters { memory_bytes, ..std::mem::replace(counters, Counters { memory_bytes, ..Counters::default() }) }
    }

    /// Begin a call (`Some`) or go on with the one that is paused, for one quantum. Whether it is paused now is in the outcome.
    #[inline]
    pub(crate) fn poll(&mut self, world: &mut Option<Box<WorldContext>>, call: Option<Call>) -> (Step, Option<Box<Trace>>) {
        let Fibre { meeting, future } = self;
        {
            let mut exchange = meeting.exchange.borrow_mut();
            std::mem::swap(&mut exchange.lent, world);
            if let Some(call) = call {
                exchange.asked = Some(Asked::Call(call));
                exchange.reported = 0;
            }
        }
        meeting.polls.store(meeting.polls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let exchange = &mut *meeting.exchange.borrow_mut();
        std::mem::swap(&mut exchange.lent, world);
        match exchange.ended.take() {
            Some(Ended { outcome, trace, fuel, reply, failed }) => {
                (Step { outcome, fuel: exchange.report(fuel), reply, failed }, trace)
            }
            None => {
                let outcome = MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: true };
                let fuel = exchange.report(exchange.used);
                (Step { outcome, fuel, reply: Reply::None, failed: None }, None)
            }
        }
    }
}

impl Exchange {
    /// Of what the call has used, what was not reported yet.
    #[inline]
    fn report(&mut self, used: u64) -> u64 {
        let step = used.saturating_sub(self.reported);
        self.reported = self.reported.max(used);
        step
    }
}

/// The life of a script on a fibre: one call after the other, until one ends badly.
async fn live(mut store: Store<ScriptData>, mut exports: Exports, meeting: Arc<Meeting>, total: u64) {
    loop {
        let next = |_: &mut Context<'_>| {
            let asked = meeting.exchange.borrow_mut().asked.take();
            match asked {
                Some(Asked::Call(call)) => return Poll::Ready(call),
                Some(Asked::Report) => report(&mut store, &meeting),
                None => {}
            }
            Poll::Pending
        };
        let call = std::future::poll_fn(next).await;
        let polls = meeting.polls.load(Ordering::Relaxed);
        let own = &mut store.data_mut().own;
        (own.charged, own.since_yield) = (0, 0);
        let first = own.fuel.begin(total);
        let (result, left) = match &call {
            // What nearly every call is, without the room that the others take on the way.
            Call::Tick(dt) => match &exports.on_tick {
                Some(on_tick) => match on_tick.call_async(&mut store, (*dt, first)).await {
                    Ok(left) => (Ok(Reply::None), left),
                    Err(error) => (Err(error), fuel::counter(&mut store)),
                },
                None => (Ok(Reply::None), first),
            },
            call => {
                let result = match fuel::set_counter(&mut store, first) {
                    Ok(()) => Box::pin(perform(&mut store, &mut exports, call, true)).await,
                    Err(error) => Err(error),
                };
                (result, fuel::counter(&mut store))
            }
        };
        let own = &store.data().own;
        let used = own.fuel.used(left, own.charged);
        // What was stopped has not done what it could not pay for.
        let fuel = if result.is_ok() { used } else { used.min(total) };
        let (outcome, reply, trace) = match result {
            Ok(reply) => (MeteringOutcome::Completed, reply, None),
            Err(error) => (outcome_of(&error), Reply::None, Trace::of(&error, &exports.module)),
        };
        if polls != meeting.polls.load(Ordering::Relaxed) || outcome.is_end() {
            // Whoever is paused whenever it is asked would never report.
            report(&mut store, &meeting);
        }
        let own = &mut store.data_mut().own;
        let mut exchange = meeting.exchange.borrow_mut();
        if std::mem::take(&mut own.random_used) {
            exchange.random = Some(own.random.clone());
        }
        exchange.ended = Some(Ended { outcome, trace, fuel, reply, failed: outcome.is_end().then_some(call) });
        drop(exchange);
        if outcome.is_end() {
            return;
        }
    }
}

/// Move what was counted to where the world can read it.
fn report(store: &mut Store<ScriptData>, meeting: &Meeting) {
    let data = store.data_mut();
    let Counters { host_calls, refused, memory_bytes } = &mut meeting.exchange.borrow_mut().counters;
    for (sum, calls) in host_calls.iter_mut().zip(&mut data.own.host_calls) {
        *sum += std::mem::take(calls);
    }
    for (sum, actions) in refused.iter_mut().zip(data.own.limiter.take_refused()) {
        *sum += actions;
    }
    *memory_bytes = data.meter.used;
}
