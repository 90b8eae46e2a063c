//! A tokio task a script: what a message costs at least.

use crate::{DT, Positions, micros, positions, say_calls, step};
use peer_common::{cpu_us, emit, median};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

enum Message {
    Tick(f32),
    Call(u64, oneshot::Sender<u64>),
}

fn start(i: usize, positions: Positions, done: mpsc::UnboundedSender<()>) -> mpsc::UnboundedSender<Message> {
    let (send, mut inbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = inbox.recv().await {
            match message {
                Message::Tick(dt) => {
                    step(&positions, i, dt);
                    let _ = done.send(());
                }
                Message::Call(value, reply) => drop(reply.send(value + 1)),
            }
        }
    });
    send
}

pub async fn run(w: &str, n: usize) {
    let (done, mut all_done) = mpsc::unbounded_channel();
    match w {
        "W1" => {
            let positions = positions(n);
            let scripts: Vec<_> = (0..n).map(|i| start(i, positions.clone(), done.clone())).collect();
            let (mut times, begun) = (Vec::new(), Instant::now());
            while times.len() < 50 || begun.elapsed().as_millis() < 600 {
                let before = cpu_us();
                for script in &scripts {
                    let _ = script.send(Message::Tick(DT));
                }
                for _ in 0..n {
                    all_done.recv().await;
                }
                times.push(cpu_us() - before);
            }
            emit(w, "tokio", n, "tick_ns", median(&mut times) * 1e3 / n as f64);
        }
        "W7" => {
            let script = start(0, positions(1), done);
            let mut times = Vec::new();
            for i in 0..50_000 {
                let begun = Instant::now();
                let (reply, answer) = oneshot::channel();
                let _ = script.send(Message::Call(i, reply));
                answer.await.unwrap();
                times.push(micros(begun));
            }
            say_calls("tokio", w, times);
            let begun = Instant::now();
            let clients: Vec<_> = (0..64)
                .map(|_| {
                    let script = script.clone();
                    tokio::spawn(async move {
                        for i in 0..5_000 {
                            let (reply, answer) = oneshot::channel();
                            let _ = script.send(Message::Call(i, reply));
                            answer.await.unwrap();
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await.unwrap();
            }
            emit(w, "tokio", 64, "calls_per_s", 1e6 * 64.0 * 5_000.0 / micros(begun));
        }
        _ => {}
    }
}
