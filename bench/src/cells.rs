//! The workloads of Aether and of bare wasmtime, each in a process of its own: `aether-bench cell WORKLOAD WHO N`.
//!
//! Where both are in one cell they are measured in turn. Times are CPU time of the thread. W7 is in `calls`; what a node does besides is
//! in `node`. Peers do the same in `peers/`.

use crate::bare::{self, Mode};
use crate::guests::{MATHS, MOVER, RUNAWAY, faster_mover};
use crate::measure::{cpu_us, interleave, median, quantile, resident_kib};
use crate::product::{self, Maker, Program, Ticking, build};
use crate::record::say;
use aether_scripting::output::InboundCall;
use aether_world_runtime::{ReloadOrder, ReloadPhase, ReloadRule};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Of a table's rows in turn.
const ROUNDS: usize = 21;
const TIME: Duration = Duration::from_millis(1_000);
/// Scripts of a world at most.
const WORLD_MAX: usize = 10_000;

/// Measure one cell.
pub(crate) fn run(w: &str, who: &str, n: usize) {
    match w {
        "W1" => tick(who == "fibres", n),
        "W1w" => worlds(n),
        "W2" => maths(n),
        "W3" => start(who, n),
        "W3w" => match who {
            "node" => crate::node::worlds(n),
            _ => small_worlds(who, n),
        },
        "W3i" => instances(who == "fibres", n),
        "W4" => runaway(who == "fibres", n),
        "W5" => reload(n),
        "W6" => restart(n),
        "W7" => crate::calls::run(who, n),
        _ => panic!("{w}: no such workload"),
    }
}

fn mode(fibres: bool) -> Mode {
    if fibres { Mode::Fibres } else { Mode::Metered }
}

fn names(fibres: bool) -> (&'static str, &'static str) {
    if fibres { ("bare-fibres", "aether-fibres") } else { ("bare", "aether") }
}

/// W1: every script reads its entity's position and writes it back.
fn tick(fibres: bool, n: usize) {
    let maker = Maker::new(n + 10);
    let mut bare = bare::World::new(bare::Starter::new(MOVER, mode(fibres), n + 10), n);
    let mut world = Ticking::new(maker.world(n, &maker.program("mover", fibres, MOVER)));
    world.settle();
    (0..20).for_each(|_| bare.tick());
    let (start, mut ticks_of_all, mut ran) = (world.positions(), 0, 0);
    let ticks = (20_000 / n).max(1);
    let each = |us: f64| us * 1e3 / (ticks * n) as f64;
    let mut bare_row = || each(cpu_us(|| (0..ticks).for_each(|_| bare.tick())).0);
    let mut world_row = || {
        ticks_of_all += ticks;
        each(cpu_us(|| (0..ticks).for_each(|_| ran += world.tick().close.ran as usize)).0)
    };
    let times = interleave(ROUNDS, TIME, &mut [&mut bare_row, &mut world_row]);
    let (bare_name, name) = names(fibres);
    say("W1", bare_name, n, "tick_ns", times[0]);
    say("W1", name, n, "tick_ns", times[1]);
    say("W1", name, n, "missed", (ticks_of_all * n - ran) as f64);
    let (moved, wanted) = (world.positions() - start, ran as f64 * 0.05 * 0.01);
    assert!((moved - wanted).abs() < 0.02 * wanted, "the entities moved by {moved}, not {wanted}");
}

/// W1 over many worlds of ten scripts.
fn worlds(n: usize) {
    let slots = n * 10 + 10;
    let maker = Maker::new(slots);
    let program = maker.program("mover", false, MOVER);
    let mut all: Vec<_> = (0..n).map(|_| Ticking::new(maker.world(10, &program))).collect();
    all.iter_mut().for_each(Ticking::settle);
    let ticks = (2_000 / n).max(1);
    let mut row = || {
        let round = || (0..ticks).for_each(|_| all.iter_mut().for_each(|world| drop(world.tick())));
        cpu_us(round).0 * 1e3 / (ticks * n) as f64
    };
    let times = interleave(ROUNDS, TIME, &mut [&mut row]);
    say("W1w", "aether", n, "world_tick_ns", times[0]);
}

/// W2: maths, hardly a call.
fn maths(n: usize) {
    let maker = Maker::new(n + 10);
    let mut world = Ticking::new(maker.world(n, &maker.program("maths", false, MATHS)));
    world.settle();
    let modes = [Mode::Unmetered, Mode::Metered];
    let mut limits = modes.map(|mode| bare::World::new(bare::Starter::new(MATHS, mode, n + 10), n));
    limits.iter_mut().for_each(bare::World::tick);
    let each = |us: f64| us / n as f64;
    let [unmetered, metered] = &mut limits;
    let mut rows = (
        || each(cpu_us(|| unmetered.tick()).0),
        || each(cpu_us(|| metered.tick()).0),
        || each(cpu_us(|| assert!(world.tick().ends.is_empty(), "the maths went wrong")).0),
    );
    let times = interleave(ROUNDS, TIME, &mut [&mut rows.0, &mut rows.1, &mut rows.2]);
    for (who, time) in ["bare-unmetered", "bare", "aether"].into_iter().zip(times) {
        say("W2", who, n, "math_us", time);
    }
    assert!(limits.iter_mut().all(|world| world.restart_dead() == 0), "the maths went wrong");
}

/// W3: scripts of worlds come to life and tick once; what each takes of time and memory.
fn start(who: &str, n: usize) {
    let (slots, counts) = (n + 10, (0..n).step_by(WORLD_MAX).map(|done| (n - done).min(WORLD_MAX)));
    let (us, kib) = match who {
        "bare" => {
            let starter = bare::Starter::new(MOVER, Mode::Metered, slots);
            drop(starter.start());
            let memory = resident_kib();
            let (us, _world) = cpu_us(|| {
                let mut world = bare::World::new(starter, n);
                world.tick();
                world
            });
            (us, resident_kib() - memory)
        }
        "aether" => {
            let maker = Maker::new(slots);
            let program = maker.program("mover", false, MOVER);
            drop(Ticking::new(maker.world(1, &program)).tick());
            let memory = resident_kib();
            // The first turn is their `on_start`; its tick too, as of the bare ones.
            let (us, mut worlds) = cpu_us(|| {
                let mut worlds: Vec<_> = counts.map(|count| Ticking::new(maker.world(count, &program))).collect();
                worlds.iter_mut().for_each(|world| while world.tick().close.deferred > 0 {});
                worlds
            });
            worlds.iter_mut().for_each(Ticking::settle);
            let live: usize = worlds.iter().map(|world| world.world.len()).sum();
            assert_eq!(live, n);
            (us, resident_kib() - memory)
        }
        _ => panic!("{who}: bare or aether"),
    };
    say("W3", who, n, "start_us", us / n as f64);
    say("W3", who, n, "memory_kib", kib / n as f64);
}

/// W3: worlds of ten scripts come to life and tick once.
fn small_worlds(who: &str, n: usize) {
    let slots = 10 * n + 10;
    let (us, kib) = match who {
        "bare" => {
            let starter = bare::Starter::new(MOVER, Mode::Metered, slots);
            drop(starter.start());
            let (memory, mut worlds) = (resident_kib(), Vec::with_capacity(n));
            let begin = |_| {
                let mut world = bare::World::new(starter.again(), 10);
                world.tick();
                worlds.push(world);
            };
            let (us, ()) = cpu_us(|| (0..n).for_each(begin));
            (us, resident_kib() - memory)
        }
        _ => {
            let maker = Maker::new(slots);
            let program = maker.program("mover", false, MOVER);
            drop(Ticking::new(maker.world(1, &program)).tick());
            let (memory, mut worlds) = (resident_kib(), Vec::with_capacity(n));
            let begin = |_| {
                let mut world = Ticking::new(maker.world(10, &program));
                world.tick();
                worlds.push(world);
            };
            let (us, ()) = cpu_us(|| (0..n).for_each(begin));
            worlds.iter_mut().for_each(Ticking::settle);
            (us, resident_kib() - memory)
        }
    };
    say("W3w", who, n, "world_start_us", us / n as f64);
    say("W3w", who, n, "world_kib", kib / n as f64);
}

/// W3: start and end of instances alone.
fn instances(fibres: bool, n: usize) {
    let maker = Maker::new(n + 10);
    let starter = product::Starter::new(maker.program("mover", fibres, MOVER));
    let bare = bare::Starter::new(MOVER, mode(fibres), n + 10);
    let each = |us: f64| us / n as f64;
    let mut bare_row = || each(cpu_us(|| drop((0..n).map(|_| bare.start()).collect::<Vec<_>>())).0);
    let mut product_row = || each(cpu_us(|| drop((0..n).map(|_| starter.start()).collect::<Vec<_>>())).0);
    bare_row();
    product_row();
    let times = interleave(ROUNDS, TIME, &mut [&mut bare_row, &mut product_row]);
    let (bare_name, name) = names(fibres);
    say("W3i", bare_name, n, "instance_us", times[0]);
    say("W3i", name, n, "instance_us", times[1]);
}

/// W4: one of a thousand never ends. Alone, then with three busy threads beside it.
fn runaway(fibres: bool, n: usize) {
    let (bare_name, name) = names(fibres);
    let maker = Maker::new(n + 10);
    let (mover, bad) = (maker.program("mover", fibres, MOVER), maker.program("runaway", fibres, RUNAWAY));
    let mut world = Ticking::new(maker.world(n, &mover));
    world.settle();
    let mut normal: Vec<f64> = (0..100).map(|_| cpu_us(|| world.tick()).0).collect();
    product::add(&mut world.world, "bad".into(), &bad, None);
    build(&mut world.world);
    let (mut times, mut over, mut missed, mut innocent) = (Vec::new(), Vec::new(), 0, 0);
    let mut turn = |times: &mut Vec<f64>, missed: &mut usize, innocent: &mut usize| {
        let (us, report) = cpu_us(|| world.tick());
        *missed += n.saturating_sub(report.close.ran as usize);
        *innocent += report.ends.iter().filter(|end| end.name != "bad").count();
        let stopped = fibres || report.ends.iter().any(|end| end.name == "bad");
        if stopped {
            times.push(us);
            over.push(report.close.overrun_ns as f64 / 1e3);
        }
        build(&mut world.world);
    };
    (0..400).for_each(|_| turn(&mut times, &mut missed, &mut innocent));
    assert!(times.len() > 100, "the runaway was stopped in {} of 400 ticks", times.len());
    let done = AtomicBool::new(false);
    let (mut loaded, mut loaded_innocent) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        (0..400).for_each(|_| turn(&mut loaded, &mut missed, &mut loaded_innocent));
        done.store(true, Ordering::Relaxed);
    });
    let status = world.world.status();
    let bad_one = status.iter().find(|script| script.name == "bad").expect("the runaway is there");
    say("W4", name, n, "normal_us", median(&mut normal));
    say("W4", name, n, "tick_us", median(&mut times));
    say("W4", name, n, "tick_p99_us", quantile(&mut times, 0.99));
    say("W4", name, n, "over_p99_us", quantile(&mut over, 0.99));
    // Of the million that a call has: past it is what host functions may charge too late, and one straight run of code.
    say("W4", name, n, "fuel_share", bad_one.fuel as f64 / f64::from(bad_one.turns.max(1)) / bare::FUEL as f64);
    say("W4", name, n, "innocent", (innocent + loaded_innocent) as f64);
    say("W4", name, n, "missed", missed as f64);
    if fibres {
        return;
    }
    let mut world = bare::World::new(bare::Starter::new(MOVER, Mode::Metered, n + 10), n);
    (0..20).for_each(|_| world.tick());
    let mut normal: Vec<f64> = (0..100).map(|_| cpu_us(|| world.tick()).0).collect();
    let (bad, mut times) = (world.beside(RUNAWAY), Vec::new());
    for _ in 0..100 {
        world.add(&bad);
        times.push(cpu_us(|| world.tick()).0);
        world.remove_last();
    }
    say("W4", bare_name, n, "normal_us", median(&mut normal));
    say("W4", bare_name, n, "tick_us", median(&mut times));
}

/// A reload begins, and its instances are built while the world ticks, as on a node; then it has them all.
fn begin_reload(world: &mut Ticking, next: Program) -> f64 {
    // Watched for a tick only: not what is measured.
    let rule = ReloadRule { watch_ticks: 1, ..ReloadRule::default() };
    let script = next.manifest.name;
    let order = ReloadOrder { script, version: next.version, module: next.module, manifest: next.manifest, rule };
    let begin = || {
        let orders = world.world.begin_reload(order).expect("no other reload is going on");
        orders.into_iter().map(|order| (order.key, order.build())).collect::<Vec<_>>()
    };
    let (building, built) = cpu_us(begin);
    (0..5).for_each(|_| drop(world.tick()));
    let lend = || {
        for (key, built) in built {
            assert!(world.world.lend_reloaded(key, next.version, built).is_none());
        }
    };
    building + cpu_us(lend).0
}

/// W5: a new version for all, while they tick, with what they keep carried over. Compiling is not part of it.
fn reload(n: usize) {
    let slots = 2 * n + 10;
    let maker = Maker::new(slots);
    let (old, new) = (MOVER.to_owned(), faster_mover());
    let mut world = Ticking::new(maker.world(n, &maker.program("mover", false, &old)));
    world.settle();
    let mut bare = bare::World::new(bare::Starter::new(MOVER, Mode::Metered, slots), n);
    let versions = [bare.beside(&new), bare.beside(&old)];
    (0..20).for_each(|_| bare.tick());
    let (mut swaps, mut bare_swaps, mut longest, mut normal, mut ticks) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..10 {
        bare_swaps.push(cpu_us(|| bare.switch(&versions[round % 2])).0);
        (0..5).for_each(|_| bare.tick());
        let mut before: Vec<f64> = (0..50).map(|_| cpu_us(|| world.tick()).0).collect();
        let usual = median(&mut before);
        normal.push(usual);
        let text = if round % 2 == 0 { &new } else { &old };
        let next = maker.program("mover", false, text);
        let mut cpu = begin_reload(&mut world, next);
        let mut worst = 0.0f64;
        for tick in 1.. {
            assert!(tick < 1_000, "the reload does not come to its end");
            let us = cpu_us(|| assert!(world.tick().ends.is_empty(), "a script ended in a reload")).0;
            cpu += us - usual;
            worst = worst.max(us);
            match world.world.reload_phase() {
                Some((_, _, ReloadPhase::Held)) => {
                    ticks.push(f64::from(tick));
                    break;
                }
                Some((_, _, ReloadPhase::RolledBack { reason })) => panic!("rolled back: {reason}"),
                _ => {}
            }
        }
        cpu += cpu_us(|| {
            world.world.commit_reload();
            drop(world.world.take_discarded());
        })
        .0;
        let start = world.positions();
        world.tick();
        let (moved, speed) = (world.positions() - start, if round % 2 == 0 { 0.02 } else { 0.01 });
        let wanted = n as f64 * 0.05 * speed;
        // Positions are of 32 bits, and far from zero.
        assert!((moved - wanted).abs() < 0.3 * wanted, "not all on the new code: moved by {moved}, not {wanted}");
        swaps.push(cpu);
        longest.push(worst);
    }
    say("W5", "bare", n, "swap_us", median(&mut bare_swaps));
    say("W5", "aether", n, "swap_us", median(&mut swaps));
    say("W5", "aether", n, "longest_us", median(&mut longest));
    say("W5", "aether", n, "normal_us", median(&mut normal));
    say("W5", "aether", n, "ticks", median(&mut ticks));
}

/// W6: a hundred scripts trap and come back; a world of ten is dropped and made again. From the tick in which they trap to the end of
/// the next one, less two normal ticks.
fn restart(n: usize) {
    const TRAPS: usize = 100;
    let slots = n + 100;
    let maker = Maker::new(slots);
    let program = maker.program("mover", false, MOVER);
    let mut world = Ticking::new(maker.world(n, &program));
    world.settle();
    let mut bare = bare::World::new(bare::Starter::new(MOVER, Mode::Metered, slots), n);
    let usual = |tick: &mut dyn FnMut()| median(&mut (0..50).map(|_| cpu_us(&mut *tick).0).collect::<Vec<_>>());
    let bare_usual = usual(&mut || bare.tick());
    let world_usual = usual(&mut || drop(world.tick()));
    let victims: Vec<usize> = (0..TRAPS).map(|i| i * (n / TRAPS)).collect();
    let mut bare_row = || {
        victims.iter().for_each(|victim| bare.light_fuse(*victim));
        bare.tick();
        let back = || {
            bare.tick();
            assert_eq!(bare.restart_dead(), TRAPS);
            bare.tick();
        };
        cpu_us(back).0 - 2.0 * bare_usual
    };
    let mut world_row = || {
        for victim in &victims {
            let script = format!("mover-{victim}");
            let call = InboundCall { world: None, from: 1, call: 0, script, method: "fuse".into(), payload: vec![], delivery: 0 };
            world.world.deliver(call).expect("its inbox is empty");
        }
        world.tick();
        let back = || {
            assert_eq!(world.tick().ends.len(), TRAPS);
            assert_eq!(build(&mut world.world), TRAPS);
            assert_eq!(world.tick().close.ran as usize, n);
        };
        let (us, ()) = cpu_us(back);
        (0..5).for_each(|_| drop(world.tick()));
        us - 2.0 * world_usual
    };
    let times = interleave(ROUNDS, Duration::ZERO, &mut [&mut bare_row, &mut world_row]);
    say("W6", "bare", n, "restart_us", times[0]);
    say("W6", "aether", n, "restart_us", times[1]);
    let starter = bare::Starter::new(MOVER, Mode::Metered, 100);
    let mut small = Some(bare::World::new(starter.beside(MOVER), 10));
    let mut bare_row = || {
        let fresh = starter.again();
        cpu_us(|| {
            drop(small.take());
            small.insert(bare::World::new(fresh, 10)).tick();
        })
        .0
    };
    let mut own = Some(Ticking::new(maker.world(10, &program)));
    let mut world_row = || {
        cpu_us(|| {
            drop(own.take());
            own.insert(Ticking::new(maker.world(10, &program))).tick()
        })
        .0
    };
    let times = interleave(101, Duration::ZERO, &mut [&mut bare_row, &mut world_row]);
    say("W6", "bare", n, "world_us", times[0]);
    say("W6", "aether", n, "world_us", times[1]);
}
