//! How fast commits are on this machine. Not a test of a rule: `cargo test --release -p aether-store -- --ignored --nocapture measure`.

#![allow(clippy::print_stdout, reason = "figures")]

use crate::support::{Cluster, batch, start, world};
use aether_store::Store;
use std::time::{Duration, Instant};

/// `worlds` worlds with one commit in flight each, for ten seconds.
fn run(worlds: usize) {
    let cluster = Cluster::new();
    let (store, _) = cluster.node("n1");
    let end = Instant::now() + Duration::from_secs(10);
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..worlds)
            .map(|i| {
                let store = &store;
                scope.spawn(move || {
                    let name = format!("w{i}");
                    let mut claim = store.claim(&world(&name)).unwrap();
                    let mut times = Vec::new();
                    while Instant::now() < end {
                        let since = Instant::now();
                        let key = format!("k{}", claim.commit_seq % 100);
                        start(store, batch(&name, claim, &key, Some(&[7; 256]))).recv().unwrap().unwrap();
                        claim.commit_seq += 1;
                        times.push(since.elapsed());
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_micros();
    println!("{worlds} worlds: {} commits/s, p50 {} us, p99 {} us, max {} us", times.len() / 10, at(0.5), at(0.99), at(1.0));
}

#[test]
#[ignore = "takes a minute and checks nothing"]
fn measure() {
    for worlds in [1, 16, 64, 256] {
        run(worlds);
    }
}
