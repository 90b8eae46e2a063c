//! A wire between a store and its server that can be cut at the worst moment: when a commit has been sent.
//!
//! [`Proxy::arm`] says what happens to the next COMMIT that comes by; everything else passes. Not here: what must follow from it
//! (`faults`).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server gets it, the client is cut off before the answer.
    AnswerLost,
    /// The server never gets it.
    CommitLost,
    /// The client is cut off, and the server gets it this much later.
    Late(Duration),
}

struct State {
    /// For the next ones.
    armed: Mutex<Vec<Fault>>,
    struck: AtomicU32,
}

/// A port of this machine that leads to a server.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub fn to(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { armed: Mutex::new(Vec::new()), struck: AtomicU32::new(0) });
        let shared = state.clone();
        // Ends with the process: a listener cannot be told to stop.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let state = shared.clone();
                std::thread::spawn(move || answers(from, to));
                std::thread::spawn(move || requests(client, server, &state));
            }
        });
        Proxy { port, state }
    }

    /// The next COMMITs, in this order.
    pub fn arm(&self, faults: &[Fault]) {
        self.state.armed.lock().unwrap().extend(faults.iter().rev());
    }

    /// How many have come true.
    pub fn struck(&self) -> u32 {
        self.state.struck.load(Ordering::SeqCst)
    }
}

fn answers(mut server: TcpStream, mut client: TcpStream) {
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

fn requests(mut client: TcpStream, mut server: TcpStream, state: &State) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        let bytes = &buffer[..n];
        let commit = bytes.windows(6).any(|window| window == b"COMMIT");
        let fault = if commit { state.armed.lock().unwrap().pop() } else { None };
        if let Some(fault) = fault {
            state.struck.fetch_add(1, Ordering::SeqCst);
            match fault {
                Fault::AnswerLost => {
                    // First, so that no answer comes through.
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.write_all(bytes);
                    // What was sent is still read.
                    std::thread::sleep(Duration::from_millis(20));
                }
                Fault::CommitLost => drop(client.shutdown(Shutdown::Both)),
                Fault::Late(after) => {
                    let _ = client.shutdown(Shutdown::Both);
                    std::thread::sleep(after);
                    let _ = server.write_all(bytes);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            break;
        }
        if server.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}
