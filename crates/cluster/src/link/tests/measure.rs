//! Figures of two processes on loopback: `cargo test --release link -- --ignored --nocapture measure`.

use std::io::Write;

use super::Cluster;

#[test]
#[ignore = "a measurement"]
fn measure() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    let mut out = std::io::stderr();
    for (size, count) in [(64, 400_000u64), (1024, 200_000), (65_536, 10_000), (1 << 20, 1_000)] {
        for _ in 0..3 {
            a.tell(&format!("send b {count} {size}"));
            let sent = a.wait("sent b");
            b.wait("last a");
            let us: u64 = sent[1].parse().unwrap();
            let rate = count * 1_000_000 / us.max(1);
            writeln!(out, "{size} B: {rate} msg/s, {} MB/s, refused {}", rate * size / 1_000_000, sent[2]).unwrap();
        }
    }
    for size in [64, 1024, 65_536] {
        a.tell(&format!("echo b 20000 {size}"));
        let us = a.wait("echoed b");
        writeln!(out, "echo {size} B: min {} p50 {} p99 {} p99.9 {} us", us[0], us[1], us[2], us[3]).unwrap();
    }
    let before = a.memory();
    b.signal(rustix::process::Signal::STOP);
    let began = std::time::Instant::now();
    a.tell("fill b 1000");
    let filled = a.wait("filled b");
    writeln!(
        out,
        "frozen peer: full after {} messages, {} bytes; {before} MiB before, {} then",
        filled[0],
        filled[1],
        a.memory()
    )
    .unwrap();
    a.wait("down b");
    writeln!(out, "down after {} ms", began.elapsed().as_millis()).unwrap();
    b.signal(rustix::process::Signal::CONT);
    a.wait("up b");
    writeln!(out, "up again {} ms after it froze", began.elapsed().as_millis()).unwrap();
    writeln!(out, "memory {} {} MiB; {}", a.memory(), b.memory(), a.wait_status("b", "up=true")).unwrap();
}
