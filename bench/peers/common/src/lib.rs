//! The workloads, written once, for peers that run in a process of ours: who implements [`Peer`] and [`World`] is measured by [`run`].
//!
//! One line of JSON for each figure, as `aether-bench` reads them: workload, who, how many, which figure, its value. Times are CPU time
//! of the thread unless a clock decides what is measured. Erlang follows this file in its own language.

use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Entity positions of one world. The world's thread is the only one that touches them.
pub struct Positions(Vec<Cell<(f32, f32)>>);

impl Positions {
    pub fn new(n: usize) -> Rc<Positions> {
        Rc::new(Positions((0..n).map(|i| Cell::new((i as f32, 0.0))).collect()))
    }

    pub fn get(&self, i: usize) -> (f32, f32) {
        self.0[i].get()
    }

    pub fn set(&self, i: usize, position: (f32, f32)) {
        self.0[i].set(position);
    }

    fn sum(&self) -> f64 {
        self.0.iter().map(Cell::get).map(|(x, y)| f64::from(x) + f64::from(y)).sum()
    }
}

/// What a script does in its next tick.
#[derive(Clone, Copy, PartialEq)]
pub enum Mood {
    /// It never ends.
    Runaway = 1,
    /// It fails.
    Fails = 2,
}

/// A world of scripts of a peer.
pub trait World {
    /// Every live script once; gives how many ended in an error.
    fn tick(&mut self, dt: f32) -> usize;
    /// The maths of W2 in every script; gives the last result.
    fn heavy(&mut self) -> f64;
    /// Where its entities are.
    fn positions(&self) -> &Positions;
    fn set_mood(&mut self, script: usize, mood: Mood);
    /// How long the last one that was stopped ran.
    fn last_stop(&self) -> Duration;
    /// Make the new code ready: not part of a tick.
    fn prepare_new(&mut self);
    /// Put scripts on the new code.
    fn switch(&mut self, from: usize, to: usize);
    /// What a supervisor does after failures; gives how many it brought back.
    fn restart_dead(&mut self) -> usize;
}

/// A way to run scripts.
pub trait Peer {
    type World: World;
    /// As the tables name it.
    fn name(&self) -> &'static str;
    fn world(&self, scripts: usize) -> Self::World;
    /// Whether it can stop one that never ends.
    fn stops_runaways(&self) -> bool;
}

/// CPU time of this thread, microseconds.
pub fn cpu_us() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Resident memory of this process, KiB.
pub fn resident_kib() -> f64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = smaps.lines().find_map(|line| line.strip_prefix("Rss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

pub fn emit(w: &str, who: &str, n: usize, metric: &str, value: f64) {
    println!(r#"{{"w":"{w}","who":"{who}","n":{n},"metric":"{metric}","value":{value:.6}}}"#);
}

/// One operation after the other, for so long and so often at least; gives what each took by a clock in microseconds.
pub fn repeat(clock: fn() -> f64, least: usize, time: Duration, mut operation: impl FnMut()) -> Vec<f64> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < least || (begun.elapsed() < time && times.len() < 20_000) {
        let before = clock();
        operation();
        times.push(clock() - before);
    }
    times
}

const DT: f32 = 0.0625;
/// What W2's maths gives, in every language.
const MATHS: f64 = 598.922346;

pub fn run<P: Peer>(peer: &P, w: &str, n: usize) {
    let say = |metric: &str, value: f64| emit(w, peer.name(), n, metric, value);
    match w {
        "W1" => {
            let mut world = peer.world(n);
            let mut ticks = 0;
            let mut tick = || {
                assert_eq!(world.tick(DT), 0);
                ticks += 1;
            };
            repeat(cpu_us, 20, Duration::from_millis(150), &mut tick);
            let mut times = repeat(cpu_us, 30, Duration::from_millis(600), &mut tick);
            let wanted = (0..n).map(|i| i as f64).sum::<f64>() + n as f64 * f64::from(ticks) * 1.5 * f64::from(DT);
            let got = world.positions().sum();
            assert!((got - wanted).abs() / wanted < 1e-3, "positions add up to {got}, not {wanted}");
            say("tick_ns", median(&mut times) * 1e3 / n as f64);
        }
        "W2" => {
            let mut world = peer.world(n);
            let result = world.heavy();
            assert!((result - MATHS).abs() < 1e-5, "the maths gave {result}");
            let mut times = repeat(cpu_us, 5, Duration::from_millis(600), || {
                world.heavy();
            });
            say("math_us", median(&mut times) / n as f64);
        }
        "W3" => {
            // What is done once only is not counted.
            drop(peer.world(1));
            let (memory, cpu) = (resident_kib(), cpu_us());
            let mut world = peer.world(n);
            say("start_us", (cpu_us() - cpu) / n as f64);
            world.tick(DT);
            say("memory_kib", (resident_kib() - memory) / n as f64);
        }
        "W3w" => {
            drop(peer.world(1));
            let (memory, cpu) = (resident_kib(), cpu_us());
            let mut worlds: Vec<_> = (0..n).map(|_| peer.world(10)).collect();
            say("world_start_us", (cpu_us() - cpu) / n as f64);
            for world in &mut worlds {
                world.tick(DT);
            }
            say("world_kib", (resident_kib() - memory) / n as f64);
        }
        "W4" if peer.stops_runaways() => {
            let mut world = peer.world(n);
            let mut normal = repeat(cpu_us, 100, Duration::ZERO, || assert_eq!(world.tick(DT), 0));
            let (mut ticks, mut stops, mut innocent) = (Vec::new(), Vec::new(), 0);
            for k in 0..20 {
                world.set_mood(n / 2 + k, Mood::Runaway);
                let before = cpu_us();
                let ended = world.tick(DT);
                ticks.push(cpu_us() - before);
                assert!(ended > 0, "the runaway was not stopped");
                innocent += ended - 1;
                stops.push(world.last_stop().as_secs_f64() * 1e6);
                world.restart_dead();
            }
            say("normal_us", median(&mut normal));
            say("tick_us", median(&mut ticks));
            say("ran_us", median(&mut stops));
            say("innocent", innocent as f64);
        }
        "W5" => {
            let (mut swaps, mut sliced, mut normal) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..6 {
                let mut world = peer.world(n);
                let mut before = repeat(cpu_us, 50, Duration::ZERO, || assert_eq!(world.tick(DT), 0));
                normal.push(median(&mut before));
                world.prepare_new();
                let mut longest = 0.0f64;
                let parts = if round % 2 == 0 { 1 } else { 16 };
                for part in 0..parts {
                    let before = cpu_us();
                    world.switch(n * part / parts, n * (part + 1) / parts);
                    let swapped = cpu_us() - before;
                    assert_eq!(world.tick(DT), 0);
                    longest = longest.max(cpu_us() - before);
                    if parts == 1 {
                        swaps.push(swapped);
                    }
                }
                if parts > 1 {
                    sliced.push(longest);
                }
                let sum = world.positions().sum();
                world.tick(DT);
                let moved = world.positions().sum() - sum;
                assert!((moved - n as f64 * 3.0 * f64::from(DT)).abs() < 0.01 * n as f64, "not on the new code: {moved}");
            }
            say("swap_us", median(&mut swaps));
            say("longest_us", median(&mut sliced));
            say("normal_us", median(&mut normal));
        }
        "W6" => {
            let mut world = peer.world(n);
            let mut normal = repeat(cpu_us, 50, Duration::ZERO, || assert_eq!(world.tick(DT), 0));
            let normal = median(&mut normal);
            let mut backs = Vec::new();
            for _ in 0..10 {
                (0..100).for_each(|i| world.set_mood(i * (n / 100), Mood::Fails));
                // From the tick in which they fail to the end of the next one, less two normal ticks.
                let before = cpu_us();
                assert_eq!(world.tick(DT), 100);
                assert_eq!(world.restart_dead(), 100);
                assert_eq!(world.tick(DT), 0);
                backs.push(cpu_us() - before - 2.0 * normal);
            }
            let mut worlds = Vec::new();
            for _ in 0..20 {
                let mut small = peer.world(10);
                small.tick(DT);
                let before = cpu_us();
                drop(small);
                let mut small = peer.world(10);
                small.tick(DT);
                worlds.push(cpu_us() - before);
            }
            say("restart_us", median(&mut backs));
            say("world_us", median(&mut worlds));
        }
        // It cannot do this one.
        _ => {}
    }
}

/// What a peer's program is told: `WHO WORKLOAD N`.
pub fn arguments() -> Option<(String, String, usize)> {
    let mut arguments = std::env::args().skip(1);
    Some((arguments.next()?, arguments.next()?, arguments.next()?.parse().ok()?))
}
