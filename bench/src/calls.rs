//! W7: a script calls another one and gets its answer.
//!
//! - `world`: both in one world. A call waits for the callee's turn, the answer for the caller's next one.
//! - `worlds`: in two worlds that this program ticks in turn and carries calls between, without a store: what the two ends cost.
//! - `node`: in two worlds of a node, as it is used: a call and its answer are each durable where they leave and where they are taken,
//!   before anybody hears of them, and worlds tick when it is time.
//!
//! A caller moves its entity by one for every answer: so they are counted from outside. Not here: calls between nodes, for which there
//! must be a database (`just figures`).

use crate::guests::{ECHO, STRIDE, caller};
use crate::measure::{cpu_us, interleave};
use crate::product::{Maker, Ticking, add, build};
use crate::record::say;
use aether_cluster::{Node, NodeConfig};
use aether_scripting::EntityView;
use aether_scripting::compile::Compiler;
use aether_scripting::output::{InboundCall, OutboundCall};
use std::path::Path;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(1_000);
/// As often as a node's worlds can tick.
const HZ: u32 = 240;
const NODE_TIME: Duration = Duration::from_secs(4);

pub(crate) fn run(who: &str, n: usize) {
    match who {
        "world" => say_calls("aether-world", n, within(n)),
        "worlds" => say_calls("aether-worlds", n, between(n)),
        "node" => on_a_node(n),
        _ => panic!("{who}: world, worlds or node"),
    }
}

/// Microseconds of CPU a call.
fn say_calls(who: &str, n: usize, us: f64) {
    assert!(us.is_finite(), "no call was answered");
    say("W7", who, n, "calls_per_s", 1e6 / us);
    if n == 1 {
        say("W7", who, n, "p50_us", us);
    }
}

/// Microseconds for each answer, of ticks one after the other. All caller's entities stand at their answers.
fn each(mut tick: impl FnMut(), answers: impl Fn() -> f64) -> f64 {
    (0..1_000).for_each(|_| tick());
    let mut row = || {
        let before = answers();
        let us = cpu_us(|| (0..500).for_each(|_| tick())).0;
        us / (answers() - before)
    };
    interleave(11, TIME, &mut [&mut row])[0]
}

/// What the caller's entity says.
fn answered(entities: Vec<EntityView>) -> f64 {
    entities.iter().map(|entity| f64::from(entity.z) * f64::from(STRIDE) + f64::from(entity.x)).sum()
}

fn within(n: usize) -> f64 {
    let maker = Maker::new(10);
    let mut world = maker.world(1, &maker.program("caller", false, &caller("echo", n)));
    add(&mut world, "echo".into(), &maker.program("echo", false, ECHO), None);
    build(&mut world);
    let world = std::cell::RefCell::new(Ticking::new(world));
    let tick = || {
        let report = world.borrow_mut().tick();
        assert!(report.ends.is_empty(), "a script ended: {:?}", report.ends);
    };
    each(tick, || answered(world.borrow_mut().world.host().entities(1)))
}

fn between(n: usize) -> f64 {
    let maker = Maker::new(10);
    let here = maker.world(1, &maker.program("caller", false, &caller("there/echo", n)));
    let mut there = maker.world(0, &maker.program("echo", false, ECHO));
    add(&mut there, "echo".into(), &maker.program("echo", false, ECHO), None);
    build(&mut there);
    let (here, mut there) = (std::cell::RefCell::new(Ticking::new(here)), Ticking::new(there));
    let tick = || {
        let mut here = here.borrow_mut();
        for call in here.tick().output.calls {
            let OutboundCall::Call { script, from, call, method, payload, .. } = call else { continue };
            let call = InboundCall { world: Some("here".into()), from, call, script, method, payload, delivery: 0 };
            there.world.deliver(call).expect("as many are open as an inbox holds");
        }
        for answer in there.tick().output.calls {
            let OutboundCall::Reply { call, payload, .. } = answer else { continue };
            assert_eq!(here.world.deliver_reply(call, payload, 0), Ok(true));
        }
    };
    each(tick, || answered(here.borrow_mut().world.host().entities(1)))
}

fn put(dir: &Path, name: &str, text: &str) {
    let script = dir.join("scripts").join(name);
    std::fs::create_dir_all(&script).unwrap();
    std::fs::write(script.join(format!("{name}.wasm")), wat::parse_str(text).unwrap()).unwrap();
    let manifest = format!(
        "name = \"{name}\"\n[grants]\napis = [\"entity\", \"network\"]\nentity_kinds = [\"*\"]\n\
         [limits]\nmemory_mb = 1\non_budget = \"terminate\"\n[limits.rates]\nrpcs = 1000000000.0\n"
    );
    std::fs::write(script.join("script.toml"), manifest).unwrap();
}

fn on_a_node(n: usize) {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "caller", &caller("there/echo", n));
    put(dir.path(), "echo", ECHO);
    std::fs::write(dir.path().join("prefabs.toml"), "[[prefab]]\nname = \"walker\"\nkind = \"walker\"\n").unwrap();
    let text = format!(
        r#"
        node = {{ name = "bench", data_dir = "data", instances_small = 100, instances_large = 1, tick_threads = 2 }}
        server = {{ aot_cache_dir = "cache" }}
        limits = {{ tick_hz = {HZ}.0, tick_budget_ms = 4.0 }}
        [[world]]
        name = "here"
        prefabs = "prefabs.toml"
        [[world.script]]
        script = "caller"
        prefab = "walker"
        [[world]]
        name = "there"
        [[world.script]]
        script = "echo"
        name = "echo"
        "#
    );
    let config: NodeConfig = toml::from_str(&text).unwrap();
    let node = Node::start(&config, dir.path(), Compiler::InProcess, |_| ()).unwrap();
    let answers = || answered(node.entities("here").unwrap());
    let deadline = Instant::now() + Duration::from_secs(30);
    while answers() < 10.0 {
        assert!(Instant::now() < deadline, "no call was answered: {:?}", node.status());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (begun, before) = (Instant::now(), answers());
    std::thread::sleep(NODE_TIME);
    let (answered, seconds) = (answers() - before, begun.elapsed().as_secs_f64());
    say("W7", "aether-node", n, "calls_per_s", answered / seconds);
    if n == 1 {
        // One at a time: the mean is what there is.
        say("W7", "aether-node", n, "mean_us", seconds * 1e6 / answered);
    }
}
