//! Actors in Rust without a sandbox: `peer-actors WHO WORKLOAD N`.
//!
//! - `ractor`: an actor a script, linked to a supervisor that starts again what fails.
//! - `tokio`: a task a script, a channel each (W1 and W7).
//! - `tls`: bytes over TCP below TLS 1.3 between two threads, each with a runtime of its own (W7n).
//!
//! All on one thread but the last: there a message costs least.

mod ractors;
mod tasks;
mod wire;

use peer_common::emit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub const DT: f32 = 0.0625;

/// Positions that any task may touch, two numbers in one word.
pub type Positions = Arc<Vec<AtomicU64>>;

pub fn positions(n: usize) -> Positions {
    Arc::new((0..n).map(|i| AtomicU64::new(u64::from((i as f32).to_bits()))).collect())
}

/// What a script does in a tick.
pub fn step(positions: &Positions, i: usize, dt: f32) {
    let packed = positions[i].load(Ordering::Relaxed);
    let x = f32::from_bits(packed as u32) + dt;
    let y = f32::from_bits((packed >> 32) as u32) + 0.5 * dt;
    positions[i].store(u64::from(x.to_bits()) | u64::from(y.to_bits()) << 32, Ordering::Relaxed);
}

pub fn micros(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64 / 1e3
}

/// Times of calls, one after the other.
pub fn say_calls(who: &str, w: &str, mut times: Vec<f64>) {
    emit(w, who, 1, "calls_per_s", 1e6 * times.len() as f64 / times.iter().sum::<f64>());
    emit(w, who, 1, "p50_us", peer_common::median(&mut times));
    emit(w, who, 1, "p99_us", peer_common::quantile(&mut times, 0.99));
}

fn main() {
    let Some((who, workload, n)) = peer_common::arguments() else {
        eprintln!("usage: WHO WORKLOAD N");
        std::process::exit(2);
    };
    if who == "tls" {
        return wire::run();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        // A task: `block_on`'s own is not part of each hop.
        let task = tokio::spawn(async move {
            match who.as_str() {
                "tokio" => tasks::run(&workload, n).await,
                "ractor" => ractors::run(&workload, n).await,
                other => panic!("{other}: ractor, tokio or tls"),
            }
        });
        task.await.unwrap();
    });
}
