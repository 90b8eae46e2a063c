//! A script that may pause: its store lives in a future that is polled for one quantum of fuel at a time.
//!
//! Start with [`Fibre::poll`]. World and future meet in a [`Meeting`]: the world puts in what to call and itself, the future how the
//! call ended. Not here: what a call does (`call`), when to go on with a paused one (`aether-world-runtime`).

use crate::call::{Call, Ended, Exports, Reply, outcome_of, perform};
use crate::data::{Counters, FibreCharge, HostYield, ScriptData, WorldContext, WorldSlot};
use crate::instance::Step;
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
    meter: FibreMeter,
    /// What host functions were charged in the call that runs.
    pub charged: u64,
    /// Set by a host function that yields.
    pub yielded: Option<HostYield>,
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
        data.own.fibre = Some(FibreCharge { quantum, ..FibreCharge::default() });
        {
            let mut exchange = meeting.exchange.borrow_mut();
            exchange.counters.memory_bytes = data.meter.used;
            exchange.random = Some(data.own.random.clone());
            exchange.meter = FibreMeter { total, quantum, ..FibreMeter::default() };
        }
        store.fuel_async_yield_interval(Some(quantum))?;
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
                exchange.charged = 0;
                exchange.meter.begin();
            }
        }
        meeting.polls.store(meeting.polls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let exchange = &mut *meeting.exchange.borrow_mut();
        std::mem::swap(&mut exchange.lent, world);
        match exchange.ended.take() {
            Some(Ended { outcome, trace, fuel, reply, failed }) => {
                (Step { outcome, fuel: exchange.meter.report(fuel), reply, failed }, trace)
            }
            None => {
                let charged = exchange.charged;
                let fuel = exchange.meter.paused(exchange.yielded.take(), charged);
                let outcome = MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: true };
                (Step { outcome, fuel, reply: Reply::None, failed: None }, None)
            }
        }
    }
}

/// What is known from outside of a call in progress on a fibre.
#[derive(Debug, Clone, Copy, Default)]
struct FibreMeter {
    /// Fuel of the whole call.
    total: u64,
    quantum: u64,
    /// Fuel left at which wasm yields next: wasmtime yields each quantum, exactly.
    boundary: u64,
    /// Fuel that wasm had left when it paused.
    left: u64,
    /// Fuel reported for the call.
    reported: u64,
}

impl FibreMeter {
    #[inline]
    fn begin(&mut self) {
        (self.boundary, self.left) = (self.total.saturating_sub(self.quantum), self.total);
        self.reported = 0;
    }

    /// The call paused: fuel used since the last time. `charged`: what host functions were charged in the whole call.
    fn paused(&mut self, yielded: Option<HostYield>, charged: u64) -> u64 {
        match yielded {
            Some(HostYield { fuel_left }) => self.left = fuel_left,
            None => {
                self.left = self.boundary;
                self.boundary = self.boundary.saturating_sub(self.quantum);
            }
        }
        self.report(self.total - self.left + charged)
    }

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
        own.charged = 0;
        if let Some(fibre) = &mut own.fibre {
            (fibre.since_yield, fibre.in_call) = (0, 0);
        }
        store.set_epoch_deadline(1);
        let result = match (store.set_fuel(total), &call) {
            (Err(error), _) => Err(error),
            // What nearly every call is, without the room that the others take on the way.
            (Ok(()), Call::Tick(dt)) => match &exports.on_tick {
                Some(on_tick) => on_tick.call_async(&mut store, *dt).await.map(|()| Reply::None),
                None => Ok(Reply::None),
            },
            (Ok(()), call) => Box::pin(perform(&mut store, &mut exports, call, true)).await,
        };
        let left = store.get_fuel().unwrap_or(0);
        let own = &store.data().own;
        let charged = own.charged + own.fibre.as_ref().map_or(0, |fibre| fibre.in_call);
        let fuel = total - left.min(total) + charged;
        let (outcome, reply, trace) = match result {
            Ok(reply) => (MeteringOutcome::Completed, reply, None),
            Err(error) => (outcome_of(&error), Reply::None, Trace::of(&error)),
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
