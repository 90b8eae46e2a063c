//! A node as a process of its own: obeys lines on its input, reports lines on its output.

use std::{
    collections::HashMap,
    io::{BufRead, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::super::{LinkConfig, LinkEvent, LinkLimits, Links, Peer, SendError, frame};

static CHEATS: AtomicBool = AtomicBool::new(false);
static INJECTED: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Whether this node sends without credit.
pub(in super::super) fn cheats() -> bool {
    CHEATS.load(Relaxed)
}

/// Bytes to put between two frames.
pub(in super::super) fn injected() -> Option<Vec<u8>> {
    INJECTED.lock().unwrap().take()
}

/// Another release.
pub(in super::super) fn pretended_versions() -> Option<(u8, u8)> {
    let text = std::env::var("AETHER_TEST_LINK_VERSIONS").ok()?;
    let (from, to) = text.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "@ {line}").and_then(|()| out.flush());
}

fn setting(key: &str) -> Option<u64> {
    std::env::var(format!("AETHER_TEST_LINK_{key}")).ok()?.parse().ok()
}

/// Payload: number, flag (1: say so, 2: send back), filling.
fn payload(number: u64, flag: u8, size: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.push(flag);
    bytes.resize(size.max(9), 7);
    bytes
}

struct Inbox {
    links: Mutex<Option<Links>>,
    counts: Mutex<HashMap<String, (u64, u64)>>,
    slow_ms: AtomicU64,
    echoes: tokio::sync::mpsc::UnboundedSender<()>,
}

impl Inbox {
    fn take(&self, peer: &str, bytes: Vec<u8>) {
        let slow = self.slow_ms.load(Relaxed);
        if slow > 0 {
            std::thread::sleep(Duration::from_millis(slow));
        }
        let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let mut counts = self.counts.lock().unwrap();
        let (next, count) = counts.entry(peer.into()).or_default();
        if number != *next && number != 0 {
            say(&format!("disorder {peer} got {number} wanted {next}"));
        }
        (*next, *count) = (number + 1, *count + 1);
        match bytes[8] {
            1 => say(&format!("last {peer} {count}")),
            2 => {
                let links = self.links.lock().unwrap().clone().unwrap();
                let _ = links.try_send(peer, payload(number, 3, bytes.len()));
            }
            3 => _ = self.echoes.send(()),
            _ => {}
        }
    }
}

/// Not a test: the process that [`super::Node`] starts.
#[test]
fn child_node() {
    let Ok(name) = std::env::var(super::NODE) else { return };
    let dir = std::env::var_os("AETHER_TEST_LINK_DIR").unwrap();
    if let Ok(filter) = std::env::var("AETHER_TEST_LINK_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut limits = LinkLimits { read_idle_ms: 10_000, ..LinkLimits::default() };
    if let Some(ms) = setting("AUTH_MS") {
        limits.auth_ms = ms;
    }
    let port = setting("PORT").unwrap_or(0);
    let config =
        LinkConfig { cluster: "test".into(), node: name, listen: format!("127.0.0.1:{port}"), identity: dir.into(), limits };
    let (to, mut echoes) = tokio::sync::mpsc::unbounded_channel();
    let inbox = Arc::new(Inbox { links: Mutex::default(), counts: Mutex::default(), slow_ms: AtomicU64::new(0), echoes: to });
    let (taking, started) = (inbox.clone(), Instant::now());
    let events = move |event| match event {
        LinkEvent::Up { peer } => say(&format!("up {peer} {}", started.elapsed().as_millis())),
        LinkEvent::Down { peer, why } => say(&format!("down {peer} {} {why}", started.elapsed().as_millis())),
        LinkEvent::Refused { peer, cut, why } => say(&format!("refused {peer} {} {why}", cut.label())),
        LinkEvent::Failed { why } => say(&format!("failed {why}")),
    };
    let links = runtime.block_on(Links::start(config, move |peer, bytes| taking.take(peer, bytes), events)).unwrap();
    *inbox.links.lock().unwrap() = Some(links.clone());
    say(&format!("listening {}", links.local_addr()));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).map_or(0, |word: &&str| word.parse::<u64>().unwrap());
        match words[0] {
            "peers" => links.set_peers(
                words[1..]
                    .iter()
                    .map(|word| word.split_once('=').unwrap())
                    .map(|(name, address)| Peer { name: name.into(), address: address.into() })
                    .collect(),
            ),
            "send" => send(&links, words[1], number(2), number(3) as usize),
            "fill" => fill(&links, words[1], number(2) as usize),
            "echo" => runtime.block_on(echo(&links, words[1], number(2), number(3) as usize, &mut echoes)),
            "status" => status(&links, words[1]),
            "slow" => inbox.slow_ms.store(number(1), Relaxed),
            "cheat" => CHEATS.store(true, Relaxed),
            "inject" => {
                let bytes = (0..words[1].len() / 2).map(|at| u8::from_str_radix(&words[1][at * 2..][..2], 16).unwrap());
                *INJECTED.lock().unwrap() = Some(bytes.collect());
            }
            "strange" => {
                let conn = links.inner.table.slot(words[1]).unwrap().current().unwrap();
                assert!(conn.take_credit(100) && conn.send(200, vec![1; 100]) && conn.send(9, vec![1; 10]));
            }
            "reload" => say(&match links.reload_identity() {
                Ok(()) => "reloaded".into(),
                Err(e) => format!("not reloaded {e}: {}", std::error::Error::source(&e).map_or(String::new(), |e| e.to_string())),
            }),
            "again" => {
                let config = LinkConfig {
                    cluster: "test".into(),
                    node: "a".into(),
                    listen: "127.0.0.1:0".into(),
                    identity: "nowhere".into(),
                    limits: LinkLimits::default(),
                };
                say(&format!("again {}", runtime.block_on(Links::start(config, |_, _| (), |_| ())).err().unwrap()));
            }
            "stop" => {
                runtime.block_on(links.stop());
                say("stopped");
                return;
            }
            other => panic!("what is {other}?"),
        }
    }
}

/// Send a number of payloads, as fast as the credit allows.
fn send(links: &Links, peer: &str, count: u64, size: usize) {
    let (began, mut full) = (Instant::now(), 0u64);
    for number in 0..count {
        let flag = u8::from(number + 1 == count);
        loop {
            match links.try_send(peer, payload(number, flag, size)) {
                Ok(()) => break,
                Err(SendError::Full) => {
                    full += 1;
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(e) => return say(&format!("unsent {peer} {number} {e}")),
            }
        }
    }
    say(&format!("sent {peer} {count} {} {full}", began.elapsed().as_micros()));
}

/// Send until it is refused.
fn fill(links: &Links, peer: &str, size: usize) {
    for number in 0..100_000 {
        if let Err(e) = links.try_send(peer, payload(number, 0, size)) {
            let status = links.peers().into_iter().find(|status| status.name == peer).unwrap();
            return say(&format!("filled {peer} {number} {} {e}", status.in_flight_bytes));
        }
    }
    say(&format!("overfilled {peer}"));
}

async fn echo(links: &Links, peer: &str, count: u64, size: usize, echoes: &mut tokio::sync::mpsc::UnboundedReceiver<()>) {
    let mut times = Vec::new();
    for number in 0..count {
        let began = Instant::now();
        links.try_send(peer, payload(number, 2, size)).unwrap();
        tokio::time::timeout(super::PATIENCE, echoes.recv()).await.unwrap().unwrap();
        times.push(began.elapsed().as_micros());
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 1000];
    say(&format!("echoed {peer} {} {} {} {}", at(0), at(500), at(990), at(999)));
}

fn status(links: &Links, of: &str) {
    let list = |cuts: Vec<(super::super::Cut, u64)>| {
        cuts.iter().map(|(cut, n)| format!("{}={n}", cut.label())).collect::<Vec<_>>().join(" ")
    };
    if of == "strangers" {
        return say(&format!("status {}", list(links.strangers())));
    }
    let Some(s) = links.peers().into_iter().find(|status| status.name == of) else { return say("status unlisted") };
    say(&format!(
        "status up={} ups={} received={} flying={} unknown={} rtt={} full={} {}",
        s.up,
        s.ups,
        s.received_messages,
        s.in_flight_messages,
        s.unknown_frames,
        s.rtt.map_or(0, |rtt| rtt.as_micros()),
        s.refused_full,
        list(s.cuts)
    ));
    let _ = frame::DATA;
}
