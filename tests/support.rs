//! Worlds from WAT text, a healthy neighbour for hostile scripts, and [`probe`], which gives the codes of single host calls.

pub use crate::program::root;
use aether_engine::{Engine, EngineConfig, Prefab, PrefabSet};
use aether_scripting::abi::IMPORTS;
use aether_scripting::instance::thread_cpu_ns;
use aether_scripting::sandbox::PoolSize;
use aether_scripting::{
    ActionLimiter, ActionRates, AotTarget, Call, Caller, Host, InstanceId, InstanceSpec, MeteringOutcome, OnBudget, Reply,
    ScriptId, ScriptInstance, ScriptManifest, ScriptModule, ServerRuntime, ServerRuntimeConfig, Vec3, Version, WorldContext,
    WorldMemory,
};
use aether_types::WorldId;
use aether_world_runtime::{AddError, ScriptKey, ScriptParts, ScriptStatus, TickReport, World, WorldConfig};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// Nanoseconds of world time between two ticks.
pub const TICK_NS: u64 = 50_000_000;
/// Both ways to meet the end of a budget.
pub const MODES: [bool; 2] = [true, false];

/// The runtime of all tests, with pools small enough for any machine.
pub fn runtime() -> &'static ServerRuntime {
    static RUNTIME: OnceLock<ServerRuntime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let config = ServerRuntimeConfig {
            aot_cache_dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("aot-cache"),
            max_modules: 4_096,
            pool: PoolSize { small: 200, large: 20 },
            ..ServerRuntimeConfig::default()
        };
        ServerRuntime::new(config).unwrap()
    })
}

/// A name that no other script of this process has.
pub fn fresh_id(prefix: &str) -> ScriptId {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    ScriptId::new(&format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

/// Text to binary.
pub fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A module from text, for scripts of up to 4 MiB.
pub fn load(text: &str) -> Arc<ScriptModule> {
    let id = fresh_id("module");
    let artifact = runtime().compile_for(&wasm(text), AotTarget::host(), 4).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let version = runtime().register_artifact(id, artifact).unwrap();
    runtime().load_module(id, version).unwrap()
}

/// Everything granted, 4 MiB.
pub fn manifest(pause: bool) -> ScriptManifest {
    let mut manifest = ScriptManifest::permissive(ScriptId::new("script").unwrap());
    manifest.limits.memory_mb = 4;
    manifest.limits.fuel = 200_000;
    manifest.limits.on_budget = if pause { OnBudget::Pause } else { OnBudget::Terminate };
    manifest.grants.storage_namespace = Some("test".into());
    manifest
}

/// `thing`, which scripts under test own, and `neighbour`.
pub fn prefabs() -> Arc<PrefabSet> {
    let mut prefabs = PrefabSet::default();
    for name in ["thing", "neighbour"] {
        let prefab = Prefab {
            name: name.into(),
            kind: name.into(),
            body: Default::default(),
            shape: None,
            sensor: false,
            mass: None,
            components: Default::default(),
        };
        prefabs.add(prefab).unwrap();
    }
    Arc::new(prefabs)
}

/// An engine with [`prefabs`].
pub fn engine() -> Engine {
    Engine::new(EngineConfig { prefabs: prefabs(), ..EngineConfig::default() }, [])
}

/// Add a script with an entity of the prefab.
pub fn add(world: &mut World, name: &str, prefab: &str, manifest: ScriptManifest, text: &str) -> Result<ScriptKey, AddError> {
    let parts = ScriptParts {
        name: name.into(),
        manifest: Arc::new(manifest),
        version: Version(1),
        module: load(text),
        entity: Some((prefab.into(), Vec3::ZERO)),
        directory: None,
    };
    world.add_script(parts, None)
}

/// Counts its ticks in its entity's component `ticks`.
const NEIGHBOUR: &str = r#"(module
  (import "aether:entity" "self_entity" (func $self (result i64)))
  (import "aether:entity" "set_component" (func $set (param i64 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "ticks")
  (global $me (mut i64) (i64.const 0))
  (func (export "aether_abi_1"))
  (func (export "on_start") (global.set $me (call $self)))
  (func (export "on_tick") (param f32)
    (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
    (drop (call $set (global.get $me) (i32.const 0) (i32.const 5) (i32.const 8) (i32.const 8)))))"#;

/// A world with a healthy script in it. It is first in the order: whatever comes after it must not keep it from a tick.
pub fn world_with_neighbour() -> World {
    let mut config = WorldConfig::new(WorldId::new("test").unwrap());
    // Room for host functions that were built without optimisation.
    config.scheduler.budget_ns = 40_000_000;
    let mut world = World::new(config, Box::new(engine()));
    let mut good = manifest(false);
    good.limits.priority = 500;
    add(&mut world, "neighbour", "neighbour", good, NEIGHBOUR).unwrap();
    world
}

/// The same with a hostile script added.
pub fn hostile_world(pause: bool, text: &str) -> World {
    let mut world = world_with_neighbour();
    add(&mut world, "hostile", "thing", manifest(pause), text).unwrap();
    world
}

/// Run ticks on the CPU clock of this thread.
pub fn run(world: &mut World, ticks: u64) -> Vec<TickReport> {
    let mut reports = Vec::new();
    for _ in 0..ticks {
        let now_ns = world.now_ns() + TICK_NS;
        reports.push(world.tick(now_ns, 0.05, &mut thread_cpu_ns));
    }
    reports
}

/// The neighbour ran in every tick so far.
#[track_caller]
pub fn assert_neighbour_ran(world: &mut World) {
    let ticks = world.tick_number().0;
    let mut found = Vec::new();
    world.host().query_kind("neighbour", &mut found).unwrap();
    let counted = world.host().component(found[0], "ticks").map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    assert_eq!(counted, Ok(ticks), "the neighbour's ticks");
}

/// A script's part of the status.
#[track_caller]
pub fn status_of(world: &mut World, name: &str) -> ScriptStatus {
    world.status().into_iter().find(|script| script.name == name).unwrap()
}

/// The import of a function of the ABI.
pub fn import_text(module: &str, name: &str, signature: &str) -> String {
    let (parameters, result) = signature.split_once("->").unwrap();
    let parameters = parameters.trim_matches(['(', ')']).replace(',', " ");
    format!("(import \"{module}\" \"{name}\" (func ${name} (param {parameters}) (result {result})))")
}

/// An expression of type i64: a call of a host function, by its name.
pub fn call(name: &str, arguments: &str) -> String {
    let (_, _, signature) = IMPORTS.iter().find(|(_, known, _)| *known == name).unwrap();
    let call = format!("(call ${name} {arguments})");
    if signature.ends_with("->i32") { format!("(i64.extend_i32_s {call})") } else { call }
}

/// `i32.const` for each number.
pub fn i32s(numbers: &[i64]) -> String {
    numbers.iter().map(|number| format!("(i32.const {number}) ")).collect()
}

/// `f32.const` for each number.
pub fn f32s(numbers: &[&str]) -> String {
    numbers.iter().map(|number| format!("(f32.const {number}) ")).collect()
}

/// Evaluate i64 expressions one after the other in one call of a script with an entity of its own, in a world that has another
/// script's entity; give what they gave. Every import is there by its name. `head` goes before (data, globals).
pub fn probe(pause: bool, head: &str, kinds: &[&str], expressions: &[String]) -> (MeteringOutcome, Vec<i64>) {
    const RESULTS: usize = 32_768;
    let imports: String = IMPORTS.iter().map(|(module, name, signature)| import_text(module, name, signature)).collect();
    let stores: Vec<_> =
        expressions.iter().enumerate().map(|(i, e)| format!("(i64.store (i32.const {}) {e})\n", RESULTS + 8 * i)).collect();
    // A function of the largest size allowed holds more than this.
    let parts: Vec<_> = stores.chunks(200).map(<[String]>::concat).collect();
    let functions: String = parts.iter().enumerate().map(|(i, part)| format!("(func $part{i} {part})\n")).collect();
    let calls: String = (0..parts.len()).map(|i| format!("(call $part{i})")).collect();
    let packed = ((RESULTS as u64) << 32) | (8 * expressions.len() as u64);
    let text = format!(
        "(module {imports} (memory (export \"memory\") 1) {head} {functions}
           (func (export \"aether_abi_1\"))
           (func (export \"on_tick\") (param f32) {calls})
           (func (export \"save_state\") (result i64) (i64.const {packed})))"
    );
    let mut manifest = manifest(pause);
    manifest.limits.fuel = 1_000_000_000;
    manifest.limits.cpu_ms = 10_000;
    let instance = InstanceId(1);
    let spec = InstanceSpec {
        instance,
        version: Version(1),
        policy: manifest.policy(),
        groups: manifest.groups(),
        rates: ActionRates::default(),
        seed: 0,
        random: None,
        drained_at_ns: None,
        directory: None,
    };
    let owned = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let mut host = engine();
    let other = Caller {
        instance: InstanceId(2),
        name: "neighbour".into(),
        entity_kinds: owned(&["neighbour"]),
        storage_namespace: None,
    };
    host.add_script(other, Some(("neighbour", Vec3::ZERO))).unwrap();
    let own = Caller { instance, name: "probe".into(), entity_kinds: owned(kinds), storage_namespace: Some("probe".into()) };
    host.add_script(own, Some(("thing", Vec3::ZERO))).unwrap();
    host.begin_tick(TICK_NS, 1);
    host.enter(instance);
    let mut script = ScriptInstance::build(&load(&text), &spec, &WorldMemory::new(u64::MAX)).unwrap();
    let mut context = WorldContext::new(Box::new(host), ActionLimiter::new(&ActionRates::world()));
    (context.now_ns, context.tick) = (TICK_NS, 1);
    let mut world = Some(context);
    let (outcome, _) = finish(&mut script, &mut world, Call::Tick(0.05));
    if outcome != MeteringOutcome::Completed {
        return (outcome, Vec::new());
    }
    match finish(&mut script, &mut world, Call::Save) {
        (MeteringOutcome::Completed, Reply::State(state)) => {
            (outcome, state.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect())
        }
        other => panic!("save_state: {other:?}"),
    }
}

/// Make a call and resume it until it ends.
pub fn finish(script: &mut ScriptInstance, world: &mut Option<Box<WorldContext>>, call: Call) -> (MeteringOutcome, Reply) {
    let mut step = script.run(world, call, 1_000_000_000);
    while script.is_paused() {
        step = script.resume(world);
    }
    (step.outcome, step.reply)
}

/// The probe's own entity: an expression of type i64.
pub const OWN: &str = "(call $self_entity)";
