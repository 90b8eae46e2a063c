//! Worlds of the product, as a node would build them.

use aether_engine::{Engine, EngineConfig, Prefab, PrefabSet};
use aether_scripting::manifest::ScriptManifest;
use aether_scripting::sandbox::PoolSize;
use aether_scripting::{
    AotTarget, HostGroups, InstanceId, InstanceSpec, OnBudget, ScriptId, ScriptInstance, ScriptModule, ServerRuntime,
    ServerRuntimeConfig, Vec3, Version, WorldMemory,
};
use aether_types::WorldId;
use aether_world_runtime::{ScriptParts, World, WorldConfig};
use std::sync::{Arc, OnceLock};

/// Reads its entity's position, moves it, writes it back.
pub(crate) const MOVER: &str = r#"(module
  (import "aether:entity" "self_entity" (func $self (result i64)))
  (import "aether:entity" "get_position" (func $get (param i64 i32) (result i32)))
  (import "aether:entity" "set_position" (func $set (param i64 f32 f32 f32) (result i32)))
  (memory (export "memory") 1)
  (global $me (mut i64) (i64.const 0))
  (func (export "aether_abi_1"))
  (func (export "on_start") (global.set $me (call $self)))
  (func (export "on_tick") (param $dt f32)
    (drop (call $get (global.get $me) (i32.const 64)))
    (drop (call $set (global.get $me)
      (f32.add (f32.load (i32.const 64)) (f32.mul (local.get $dt) (f32.const 0.01)))
      (f32.load (i32.const 68))
      (f32.load (i32.const 72))))))"#;

/// Never returns.
pub(crate) const RUNAWAY: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "aether_abi_1"))
  (func (export "on_tick") (param f32) (loop (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1))) (br 0))))"#;

fn runtime() -> &'static ServerRuntime {
    static RUNTIME: OnceLock<ServerRuntime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let config = ServerRuntimeConfig {
            aot_cache_dir: std::env::temp_dir().join("aether-bench-cache"),
            pool: PoolSize { small: crate::slots(), large: 1 },
            ..ServerRuntimeConfig::default()
        };
        ServerRuntime::new(config).unwrap()
    })
}

fn load(name: &str, text: &str) -> Arc<ScriptModule> {
    let wasm = wat::parse_str(text).unwrap();
    let id = ScriptId::new(name).unwrap();
    let artifact = runtime().compile_for(&wasm, AotTarget::host(), 4).unwrap();
    let version = runtime().register_artifact(id, artifact).unwrap();
    runtime().load_module(id, version).unwrap()
}

fn manifest(name: &str, pause: bool) -> Arc<ScriptManifest> {
    let mut manifest = ScriptManifest::permissive(ScriptId::new(name).unwrap());
    manifest.limits.memory_mb = 4;
    manifest.limits.on_budget = if pause { OnBudget::Pause } else { OnBudget::Terminate };
    Arc::new(manifest)
}

/// A world of scripts with an entity each.
pub(crate) fn world(scripts: usize, pause: bool, text: &str) -> World {
    let mut prefabs = PrefabSet::default();
    let prefab = Prefab {
        name: "walker".into(),
        kind: "walker".into(),
        body: Default::default(),
        shape: None,
        sensor: false,
        mass: None,
        components: Default::default(),
    };
    prefabs.add(prefab).unwrap();
    let engine = Engine::new(EngineConfig { prefabs: Arc::new(prefabs), ..EngineConfig::default() }, []);
    let mut config = WorldConfig::new(WorldId::new("bench").unwrap());
    config.memory_bytes_max = 8 << 30;
    // A runaway is restarted for as long as the benchmark takes.
    config.restarts.intensity = u32::MAX;
    let mut world = World::new(config, Box::new(engine));
    let (module, manifest) = (load("mover", text), manifest("mover", pause));
    for n in 0..scripts {
        let position = Vec3::new((n % 100) as f32 * 10.0, 0.0, (n / 100) as f32 * 10.0);
        let parts = ScriptParts {
            name: format!("mover-{n}"),
            manifest: Arc::clone(&manifest),
            version: Version(1),
            module: Arc::clone(&module),
            entity: Some(("walker".into(), position)),
            directory: None,
        };
        world.add_script(parts, None).unwrap();
    }
    world
}

/// One more script, without an entity.
pub(crate) fn add(world: &mut World, name: &str, pause: bool, text: &str) {
    let parts = ScriptParts {
        name: name.into(),
        manifest: manifest(name, pause),
        version: Version(1),
        module: load(name, text),
        entity: None,
        directory: None,
    };
    world.add_script(parts, None).unwrap();
}

/// Starts instances of one module.
pub(crate) struct Starter {
    module: Arc<ScriptModule>,
    spec: InstanceSpec,
    memory: Arc<WorldMemory>,
}

impl Starter {
    pub(crate) fn new(pause: bool) -> Starter {
        let manifest = manifest("mover", pause);
        let spec = InstanceSpec {
            instance: InstanceId(1),
            version: Version(1),
            policy: manifest.policy(),
            groups: HostGroups::ALL,
            rates: manifest.limits.rates,
            seed: 0,
            random: None,
            drained_at_ns: None,
            directory: None,
        };
        Starter { module: load("mover", MOVER), spec, memory: WorldMemory::new(u64::MAX) }
    }

    pub(crate) fn start(&self) -> ScriptInstance {
        ScriptInstance::build(&self.module, &self.spec, &self.memory).unwrap()
    }
}
