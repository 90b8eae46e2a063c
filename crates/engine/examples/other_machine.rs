//! Scripts that were compiled on one kind of machine and run on another: what comes out must be the same on both.
//!
//! `other_machine make FOLDER` compiles the game scripts and [`CASES`] for x86-64 and for 64-bit ARM into a folder, here.
//! `other_machine run FOLDER` loads those that are for the machine that it runs on, compiles nothing, ticks them in an engine, and prints
//! what each did: outcomes, fuel, digests of what left the engine and of saved states. `tests/aarch64.sh` runs it on both and compares.
//! What differs for a good reason is named here ([`RIGID_BODIES`], recursion). Not here: worlds and their schedule, which are the same code on
//! every machine.

#![allow(clippy::print_stdout, missing_docs, reason = "it prints, and is no library")]

use aether_engine::{Engine, EngineConfig, PrefabSet};
use aether_scripting::sandbox::PoolSize;
use aether_scripting::{
    ActionLimiter, ActionRates, AotArtifact, AotTarget, Call, Caller, Host, InstanceId, InstanceSpec, Reply, ScriptInstance,
    ScriptManifest, ServerRuntime, ServerRuntimeConfig, TrustKey, Vec3, Version, WorldContext, WorldMemory,
};
use aether_types::Digest;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TARGETS: [AotTarget; 2] = [AotTarget::LinuxX64, AotTarget::LinuxAArch64];
const TICKS: u64 = 100;
const TICK_NS: u64 = 50_000_000;
/// Slices of a tick, at most: a call that takes more goes on in the next.
const SLICES_MAX: u32 = 50;

/// Scripts that let rigid bodies fall: the engine computes these with the machine's own mathematics, which differ in the last bits.
const RIGID_BODIES: [&str; 1] = ["toybox"];

/// Name, body of `on_tick`, and whether it may pause.
const CASES: [(&str, &str, bool); 11] = [
    ("sum-of-floats", "(call $kernel)", false),
    ("sum-of-floats-on-a-fibre", "(call $kernel)", true),
    (
        "paused-many-times",
        "(local.set $i (i32.const 300000)) (loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))",
        true,
    ),
    ("out-of-fuel", "(loop $l (br $l))", false),
    ("unreachable", "unreachable", false),
    ("division-by-zero", "(drop (i32.div_s (i32.const 1) (local.get $i)))", true),
    ("outside-the-memory", "(drop (i32.load (i32.const 0x7fffffff)))", false),
    ("recursion", "(call $deeper)", true),
    ("bad-indirect-call", "(call_indirect (type $nothing) (i32.const 1))", false),
    (
        "bulk-memory",
        "(memory.fill (i32.const 1024) (i32.const 7) (i32.const 4096)) (memory.copy (i32.const 3000) (i32.const 1030) (i32.const 999))",
        false,
    ),
    ("grows", "(drop (memory.grow (i32.const 1)))", true),
];

/// Keeps a number and writes it to storage; its state is the first 64 KiB.
fn case_text(body: &str) -> String {
    format!(
        r#"(module
          (import "aether:storage" "set" (func $set (param i32 i32 i32 i32) (result i32)))
          (import "aether:script" "random" (func $random (result i64)))
          (type $nothing (func))
          (memory (export "memory") 1) (table 2 funcref)
          (data (i32.const 0) "sum")
          (func (export "aether_abi_1"))
          (func $deeper (call $deeper) (call $deeper))
          (func $kernel (local $i i32) (local $x f64) (local $y f32)
            (local.set $x (f64.load (i32.const 8)))
            (loop $l
              (local.set $x (f64.sqrt (f64.add (f64.mul (local.get $x) (f64.const 1.0000001))
                (f64.div (f64.convert_i32_s (local.get $i)) (f64.const 3)))))
              (local.set $y (f32.nearest (f32.demote_f64 (f64.mul (local.get $x) (f64.const 7.5)))))
              (local.set $x (f64.add (local.get $x) (f64.promote_f32 (f32.copysign (local.get $y) (f32.const -1)))))
              ;; No number of the kind that machines write differently.
              (local.set $x (f64.abs (f64.max (local.get $x) (f64.neg (f64.const 0)))))
              (i64.store (i32.const 16) (i64.xor (i64.load (i32.const 16))
                (i64.rotl (i64.reinterpret_f64 (local.get $x)) (i64.extend_i32_u (local.get $i)))))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
            (f64.store (i32.const 8) (local.get $x))
            (i64.store (i32.const 24) (i64.add (call $random)
              (i64.extend_i32_u (i32.popcnt (i32.clz (i32.wrap_i64 (i64.load (i32.const 16)))))))))
          (func (export "on_tick") (param f32) (local $i i32)
            (drop (call $set (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 24)))
            {body})
          (func (export "save_state") (result i64) (i64.const 65536)))"#
    )
}

struct Script {
    manifest: ScriptManifest,
    wasm: Vec<u8>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cases() -> Result<Vec<Script>, Box<dyn Error>> {
    let case = |(name, body, pauses): (&str, &str, bool)| {
        let on_budget = if pauses { "pause" } else { "terminate" };
        let text = format!(
            "name = \"{name}\"\n[grants]\napis = [\"storage\"]\nstorage_namespace = \"case\"\n[limits]\nmemory_mb = 1\nfuel = 200000\non_budget = \"{on_budget}\"\n"
        );
        Ok(Script { manifest: ScriptManifest::parse(&text)?, wasm: wat::parse_str(case_text(body))? })
    };
    CASES.into_iter().map(case).collect()
}

/// The game scripts of this repository, by name.
fn game_scripts() -> Result<Vec<Script>, Box<dyn Error>> {
    let mut folders: Vec<_> =
        fs::read_dir(root().join("scripts"))?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    folders.retain(|folder| folder.join("script.toml").is_file());
    folders.sort();
    let script = |folder: PathBuf| {
        let manifest = ScriptManifest::parse(&fs::read_to_string(folder.join("script.toml"))?)?;
        let wasm = fs::read(folder.join(format!("{}.wasm", manifest.name)))?;
        Ok(Script { manifest, wasm })
    };
    folders.into_iter().map(script).collect()
}

fn runtime(folder: &Path) -> Result<ServerRuntime, Box<dyn Error>> {
    let config = ServerRuntimeConfig {
        aot_cache_dir: folder.join(format!("cache-{}", std::process::id())),
        // Both processes have it, as the nodes of one cluster do.
        trust_key: Some(TrustKey::new([7; 32])),
        pool: PoolSize { small: 4, large: 1 },
        canonical_nans: true,
        // CPU time is another thing on a machine that is emulated; fuel is the same everywhere.
        cpu_backstop: false,
        ..ServerRuntimeConfig::default()
    };
    Ok(ServerRuntime::new(config)?)
}

fn file(folder: &Path, manifest: &ScriptManifest, target: AotTarget) -> PathBuf {
    folder.join(format!("{}.{target}.aot", manifest.name))
}

fn make(folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let runtime = runtime(folder)?;
    for Script { manifest, wasm } in cases()?.into_iter().chain(game_scripts()?) {
        for target in TARGETS {
            let artifact = runtime.compile_for(&wasm, target, manifest.limits.memory_mb)?;
            fs::write(file(folder, &manifest, target), artifact.to_bytes())?;
        }
    }
    Ok(fs::remove_dir_all(&runtime.config().aot_cache_dir)?)
}

/// A line for each script: what it did.
fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    let runtime = runtime(folder)?;
    let prefabs = fs::read_to_string(root().join("cluster-config/town/prefabs.toml"))?;
    let prefabs = Arc::new(PrefabSet::parse(&prefabs)?);
    for Script { manifest, .. } in cases()?.into_iter().chain(game_scripts()?) {
        let [own, other] = if AotTarget::host() == TARGETS[0] { TARGETS } else { [TARGETS[1], TARGETS[0]] };
        let read =
            |target| -> Result<_, Box<dyn Error>> { Ok(AotArtifact::from_bytes(&fs::read(file(folder, &manifest, target))?)?) };
        // What is for another machine is refused, and there is no source here to compile.
        let refused = runtime.load_unregistered(&read(other)?).err().ok_or("an artifact of another machine was loaded")?;
        assert!(format!("{refused:?}").contains("Target"), "{refused:?}");
        let module = runtime.load_unregistered(&read(own)?)?;

        let instance = InstanceId(1);
        let spec = InstanceSpec {
            instance,
            version: Version(1),
            policy: manifest.policy(),
            groups: manifest.groups(),
            rates: ActionRates::default(),
            seed: 42,
            random: None,
            drained_at_ns: None,
            directory: None,
        };
        let mut engine = Engine::new(EngineConfig { prefabs: Arc::clone(&prefabs), ..EngineConfig::default() }, []);
        let caller = Caller {
            instance,
            name: manifest.name.to_string(),
            entity_kinds: manifest.grants.entity_kinds.clone(),
            storage_namespace: manifest.grants.storage_namespace.clone(),
        };
        let kind = |kind: &&String| prefabs.iter().any(|prefab| prefab.name == **kind);
        let prefab = manifest.grants.entity_kinds.iter().find(kind);
        engine.add_script(caller, prefab.map(|prefab| (prefab.as_str(), Vec3::ZERO)))?;
        let mut world = Some(WorldContext::new(Box::new(engine), ActionLimiter::new(&ActionRates::world())));
        let memory = WorldMemory::new(u64::MAX);
        let mut script = ScriptInstance::build(&module, &spec, &memory)?;

        let (mut fuel, mut slices, mut outcomes, mut left) = (0, 0, Vec::new(), String::new());
        for tick in 0..=TICKS {
            let context = world.as_mut().ok_or("the world is lent to nobody")?;
            (context.now_ns, context.tick) = (tick * TICK_NS, tick);
            context.host.begin_tick(tick * TICK_NS, tick);
            context.host.enter(instance);
            let next = context.host.next_call();
            let calls = match tick {
                0 => vec![Call::Start],
                _ => next.into_iter().chain([Call::Tick(0.05)]).collect(),
            };
            // What is paused goes on before anything new is begun.
            let mut budget = SLICES_MAX;
            for call in script.is_paused().then_some(None).into_iter().chain(calls.into_iter().map(Some)) {
                let mut step = match call {
                    Some(_) if script.is_paused() => break,
                    Some(call) => script.run(&mut world, call, spec.policy.fuel_budget),
                    None => script.resume(&mut world),
                };
                fuel += step.fuel;
                while script.is_paused() && budget > 0 {
                    step = script.resume(&mut world);
                    (fuel, slices, budget) = (fuel + step.fuel, slices + 1, budget - 1);
                }
                let outcome = format!("{:?}", step.outcome);
                if outcomes.last() != Some(&outcome) {
                    outcomes.push(outcome);
                }
                if script.has_ended() {
                    script = ScriptInstance::build(&module, &spec, &memory)?;
                }
            }
            let context = world.as_mut().ok_or("the world is lent to nobody")?;
            context.host.end_tick(0.05);
            let log: Vec<_> = context.log.drain(..).collect();
            left += &format!("{:?} {log:?}\n", context.host.take_output());
        }
        let saved = (!script.is_paused()).then(|| script.run(&mut world, Call::Save, spec.policy.fuel_budget).reply);
        let state = match saved {
            Some(Reply::State(state)) => Digest::of(&state).short().to_string(),
            Some(_) => "none".to_owned(),
            None => "paused".to_owned(),
        };
        let outcomes = outcomes.join(", ");
        // How deep a recursion goes is up to the machine: its frames are as large as its code makes them.
        let fuel = if outcomes.contains("StackOverflow") { "of its machine".to_owned() } else { fuel.to_string() };
        let own = RIGID_BODIES.contains(&manifest.name.as_str());
        let left = if own { "of its machine".to_owned() } else { Digest::of(left.as_bytes()).short().to_string() };
        println!("{}: {outcomes}, fuel {fuel}, slices {slices}, left {left}, state {state}", manifest.name);
    }
    Ok(fs::remove_dir_all(&runtime.config().aot_cache_dir)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", folder] => make(Path::new(folder)),
        ["run", folder] => run(Path::new(folder)),
        _ => Err("other_machine make FOLDER, or other_machine run FOLDER".into()),
    }
}
