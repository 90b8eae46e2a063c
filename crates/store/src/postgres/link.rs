//! Connections that are made again when they are needed, and calls that are tried again until their deadline.
//!
//! A [`Link`] is one, a [`Pool`] a few. Calls are polled by the thread that makes them ([`block_on`]); the store's own thread drives the
//! sockets. Not here: a single connection (`session.rs`).

use super::session::{Connector, Fault, Session};
use crate::StoreError;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Whether to ask again when the answer to a commit was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    /// Doing it twice is doing it once.
    Harmless,
    /// The caller must look for itself.
    Never,
}

/// A connection that is made again when it is needed.
#[derive(Default)]
pub(super) struct Link {
    session: Option<Session>,
}

impl Link {
    pub async fn session(&mut self, connector: &Connector) -> Result<&Session, Fault> {
        if !self.session.as_ref().is_some_and(|session| session.is_usable(connector)) {
            self.session = None;
            self.session = Some(connector.connect().await?);
        }
        self.session.as_ref().ok_or_else(|| Fault::sql("a connection is there once it was made"))
    }

    /// It is not to be trusted.
    pub fn close(&mut self) {
        self.session = None;
    }

    /// Do something, again if a conflict or a lost connection allows it, until `deadline`.
    pub async fn call<R>(
        &mut self,
        connector: &Connector,
        deadline: Instant,
        twice: Twice,
        f: impl AsyncFn(&Session) -> Result<R, Fault>,
    ) -> Result<R, StoreError> {
        let mut backoff = Backoff::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let once = async { f(self.session(connector).await?).await };
            let fault = match timeout(left, once).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(fault)) => fault,
                Err(_) => Fault::Doubt("no answer before the call's deadline".to_owned()),
            };
            let reason = match fault {
                Fault::Refused(error) => return Err(error),
                Fault::Sql { message, .. } => return Err(connector.failed(message)),
                Fault::Doubt(message) if twice == Twice::Never => {
                    self.close();
                    return Err(
                        connector.failed(format!("{message}; whether it was done is not known: look before asking again"))
                    );
                }
                Fault::Lost(message) | Fault::Doubt(message) => {
                    self.close();
                    message
                }
                Fault::Again(message) => message,
            };
            let wait = backoff.next();
            if Instant::now() + wait >= deadline {
                return Err(connector.failed(format!("not done before the call's deadline: {reason}")));
            }
            sleep(wait).await;
        }
    }
}

/// A few connections for whoever comes.
pub(super) struct Pool {
    permits: Semaphore,
    free: Mutex<Vec<Link>>,
}

impl Pool {
    pub fn new(size: usize) -> Pool {
        Pool { permits: Semaphore::new(size), free: Mutex::new(Vec::with_capacity(size)) }
    }

    pub async fn call<R>(
        &self,
        connector: &Connector,
        deadline: Instant,
        twice: Twice,
        f: impl AsyncFn(&Session) -> Result<R, Fault>,
    ) -> Result<R, StoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(Ok(_permit)) = timeout(left, self.permits.acquire()).await else {
            return Err(connector.failed("all connections were busy until the call's deadline"));
        };
        let mut link = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let result = link.call(connector, deadline, twice, f).await;
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(link);
        result
    }
}

/// Growing pauses, each somewhere between half and all of its length: those who failed together do not come back together.
pub(super) struct Backoff {
    pause: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::between(Duration::from_millis(20), Duration::from_secs(1))
    }
}

impl Backoff {
    pub fn between(shortest: Duration, longest: Duration) -> Backoff {
        Backoff { pause: shortest, longest }
    }

    pub fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.longest);
        let share = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
        pause.mul_f64(0.5 + share / 2.0)
    }

    pub async fn wait(&mut self) {
        sleep(self.next()).await;
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Run a future on this thread, whatever thread it is: tokio's own would panic on those of another runtime.
pub(super) fn block_on<R>(runtime: &Handle, future: impl Future<Output = R>) -> R {
    let _context = runtime.enter();
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_longest_and_differ() {
        let mut backoff = Backoff::between(Duration::from_millis(10), Duration::from_millis(40));
        for whole in [10, 20, 40, 40] {
            let pause = backoff.next();
            assert!((Duration::from_millis(whole / 2)..=Duration::from_millis(whole)).contains(&pause), "{pause:?}");
        }
    }
}
