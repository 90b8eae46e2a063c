//! A TCP proxy that harms what goes through it: reset, held back (both ways or one, and delivered late), slow.
//!
//! One stands before each node, one between each node and the database. [`Proxy::set`] harms the connections of one dialler, by the name
//! that `who` gives to the port that it dials from, or of all. Bytes that are held stay where they are, also when their sender has gone:
//! they arrive when [`Mode::Pass`] comes, or are lost with [`Mode::Cut`].

use rustix::net::sockopt::set_socket_linger;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Connections are reset, new ones too.
    Cut,
    /// Nothing arrives and nobody is told. `up`: from the dialler; `down`: to it.
    Hold {
        up: bool,
        down: bool,
    },
    /// Everything arrives so much later, in each direction.
    Slow(Duration),
}

impl Mode {
    pub const HOLD: Mode = Mode::Hold { up: true, down: true };
}

/// Names a dialler by the local port it dials from, and the port it dials.
pub type Who = Box<dyn Fn(u16, u16) -> Option<String> + Send + Sync>;

/// Ends when it is dropped.
pub struct Proxy {
    /// Where it listens, on loopback.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    port: u16,
    who: Who,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    open: bool,
    all: Mode,
    of: BTreeMap<String, Mode>,
    links: Vec<Arc<Link>>,
}

/// A connection and its other half.
struct Link {
    who: String,
    near: TcpStream,
    far: TcpStream,
    cut: AtomicBool,
}

impl Link {
    /// With what is on its way. The reset is sent when the last one who has the sockets lets go of them.
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        for stream in [&self.near, &self.far] {
            reset(stream);
            // Wakes who reads, and sends nothing.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

fn reset(stream: &TcpStream) {
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

impl Proxy {
    /// Before a port of loopback.
    pub fn before(target: u16, who: Who) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { open: true, all: Mode::Pass, of: BTreeMap::new(), links: Vec::new() };
        let shared = Arc::new(Shared { target, port, who, state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming() {
                if !accepting.lock().open {
                    return;
                }
                if let Ok(near) = near {
                    Shared::connect(&accepting, near);
                }
            }
        });
        Proxy { port, shared }
    }

    /// Of all who have no mode of their own.
    pub fn set_all(&self, mode: Mode) {
        let mut state = self.shared.lock();
        state.all = mode;
        self.shared.apply(state);
    }

    /// Of one dialler.
    pub fn set(&self, who: &str, mode: Mode) {
        let mut state = self.shared.lock();
        state.of.insert(who.to_owned(), mode);
        self.shared.apply(state);
    }

    /// Everything passes.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        (state.all, state.of) = (Mode::Pass, BTreeMap::new());
        self.shared.apply(state);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.open = false;
        state.links.iter().for_each(|link| link.cut());
        drop(state);
        self.shared.changed.notify_all();
        // Wakes who accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets what is cut, and lets everybody look again.
    fn apply(&self, state: MutexGuard<'_, State>) {
        state.links.iter().filter(|link| state.mode(&link.who) == Mode::Cut).for_each(|link| link.cut());
        drop(state);
        self.changed.notify_all();
    }

    fn connect(self: &Arc<Shared>, near: TcpStream) {
        let who = near.peer_addr().ok().and_then(|from| (self.who)(from.port(), self.port)).unwrap_or_default();
        // A black hole does not answer either; but who connects to one of ours has connected.
        let far = match self.lock().mode(&who) {
            Mode::Cut => None,
            _ => TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)).ok(),
        };
        let Some(far) = far else { return reset(&near) };
        for stream in [&near, &far] {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        }
        let link = Arc::new(Link { who, near, far, cut: AtomicBool::new(false) });
        let mut state = self.lock();
        if state.mode(&link.who) == Mode::Cut || !state.open {
            return link.cut();
        }
        state.links.push(Arc::clone(&link));
        drop(state);
        let shared = Arc::clone(self);
        thread::spawn(move || {
            thread::scope(|scope| {
                scope.spawn(|| shared.pump(&link, true));
                shared.pump(&link, false);
            });
            shared.lock().links.retain(|other| !Arc::ptr_eq(other, &link));
        });
    }

    /// One direction of a connection, until it ends.
    fn pump(&self, link: &Link, up: bool) {
        let (mut from, mut to) = if up { (&link.near, &link.far) } else { (&link.far, &link.near) };
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            // The end is held like everything before it.
            if !self.pass(link, up, Instant::now()) {
                return;
            }
            if read == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                match to.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    // Who does not read (it may be stopped) is waited for, until the connection is cut.
                    Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => {
                        link.cut();
                        return;
                    }
                }
                if link.is_cut() {
                    return;
                }
            }
        }
    }

    /// Wait until bytes that came then may go on. `false`: never.
    fn pass(&self, link: &Link, up: bool, came: Instant) -> bool {
        let mut state = self.lock();
        loop {
            if link.is_cut() || !state.open {
                return false;
            }
            let wait = match state.mode(&link.who) {
                Mode::Pass => return true,
                Mode::Cut => return false,
                Mode::Hold { up: held_up, down } if (up && held_up) || (!up && down) => Duration::MAX,
                Mode::Hold { .. } => return true,
                Mode::Slow(delay) => delay.saturating_sub(came.elapsed()),
            };
            if wait.is_zero() {
                return true;
            }
            // A day is for ever.
            let wait = wait.min(Duration::from_secs(86_400));
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn mode(&self, who: &str) -> Mode {
        self.of.get(who).copied().unwrap_or(self.all)
    }
}
