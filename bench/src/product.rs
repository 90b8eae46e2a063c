//! Worlds of the product, as a node would build them.

use aether_engine::{Engine, EngineConfig, Prefab, PrefabSet};
use aether_scripting::manifest::ScriptManifest;
use aether_scripting::sandbox::PoolSize;
use aether_scripting::{
    AotTarget, HostGroups, InstanceId, InstanceSpec, OnBudget, ScriptId, ScriptInstance, ScriptModule, ServerRuntime,
    ServerRuntimeConfig, Vec3, Version, WorldMemory,
};
use aether_types::WorldId;
use aether_world_runtime::{ScriptParts, TickReport, World, WorldConfig, tick_cpu_ns};
use std::sync::{Arc, OnceLock};

/// `slots` of the first call counts.
fn runtime(slots: usize, cpu_backstop: bool) -> &'static ServerRuntime {
    static RUNTIME: OnceLock<ServerRuntime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let config = ServerRuntimeConfig {
            aot_cache_dir: std::env::temp_dir().join("aether-bench-cache"),
            pool: PoolSize { small: slots as u32, large: 1 },
            cpu_backstop,
            ..ServerRuntimeConfig::default()
        };
        ServerRuntime::new(config).unwrap()
    })
}

/// Worlds whose scripts all have a slot.
pub(crate) struct Maker {
    runtime: &'static ServerRuntime,
    prefabs: Arc<PrefabSet>,
}

/// A script's code and manifest.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) module: Arc<ScriptModule>,
    pub(crate) manifest: Arc<ScriptManifest>,
    pub(crate) version: Version,
}

impl Maker {
    pub(crate) fn new(slots: usize) -> Maker {
        Maker::on(runtime(slots, true))
    }

    /// For counting instructions: without the clock that looks at CPU time now and then, which valgrind does not have.
    pub(crate) fn repeatable(slots: usize) -> Maker {
        Maker::on(runtime(slots, false))
    }

    fn on(runtime: &'static ServerRuntime) -> Maker {
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
        Maker { runtime, prefabs: Arc::new(prefabs) }
    }

    /// The next version of a script of this name.
    pub(crate) fn program(&self, name: &str, pause: bool, text: &str) -> Program {
        let wasm = wat::parse_str(text).unwrap();
        let id = ScriptId::new(name).unwrap();
        let artifact = self.runtime.compile_for(&wasm, AotTarget::host(), 4).unwrap();
        let version = self.runtime.register_artifact(id, artifact).unwrap();
        let mut manifest = ScriptManifest::permissive(id);
        manifest.limits.memory_mb = 4;
        manifest.limits.on_budget = if pause { OnBudget::Pause } else { OnBudget::Terminate };
        // What is measured is what calls take, not who is allowed how many.
        manifest.limits.rates.rpcs = 1e9;
        Program { module: self.runtime.load_module(id, version).unwrap(), manifest: Arc::new(manifest), version }
    }

    /// A world of scripts with an entity each. As on a node, whoever has time builds its instances: [`build`].
    pub(crate) fn world(&self, scripts: usize, program: &Program) -> World {
        let engine = Engine::new(EngineConfig { prefabs: Arc::clone(&self.prefabs), ..EngineConfig::default() }, []);
        let mut config = WorldConfig::new(WorldId::new("bench").unwrap());
        config.memory_bytes_max = 64 << 30;
        config.rates.rpcs = 1e9;
        config.builds_itself = false;
        // Every end is the first: what is measured is restarting, not waiting for it.
        config.restarts.period_ns = 1;
        let mut world = World::new(config, Box::new(engine));
        for n in 0..scripts {
            let position = Vec3::new((n % 100) as f32 * 10.0, 0.0, (n / 100) as f32 * 10.0);
            add(&mut world, format!("mover-{n}"), program, Some(position));
        }
        build(&mut world);
        world
    }
}

pub(crate) fn add(world: &mut World, name: String, program: &Program, position: Option<Vec3>) {
    let parts = ScriptParts {
        name,
        manifest: Arc::clone(&program.manifest),
        version: program.version,
        module: Arc::clone(&program.module),
        entity: position.map(|position| ("walker".into(), position)),
        directory: None,
    };
    world.add_script(parts, None).unwrap();
}

/// Builds what a world wants, and drops what it does not need any more; gives how many were built.
pub(crate) fn build(world: &mut World) -> usize {
    drop(world.take_discarded());
    let orders = world.take_wanted();
    let count = orders.len();
    for order in orders {
        let built = order.build();
        drop(world.install(order.key, order.life, built));
    }
    count
}

/// A world and its clock.
pub(crate) struct Ticking {
    pub(crate) world: World,
    now_ns: u64,
}

impl Ticking {
    pub(crate) fn new(world: World) -> Ticking {
        Ticking { world, now_ns: 0 }
    }

    pub(crate) fn tick(&mut self) -> TickReport {
        self.now_ns += 50_000_000;
        self.world.tick(self.now_ns, 0.05, &mut tick_cpu_ns)
    }

    /// Until ticks run everybody: first turns start the scripts and fault their pages in, more than a tick holds of ten thousand.
    pub(crate) fn settle(&mut self) {
        let (mut settled, mut ticks) = (0, 0);
        while settled < 20 {
            settled = if self.tick().close.deferred == 0 { settled + 1 } else { 0 };
            ticks += 1;
            assert!(ticks < 5_000, "the world does not settle");
        }
    }

    /// The sum of its entities' `x`.
    pub(crate) fn positions(&mut self) -> f64 {
        self.world.host().entities(usize::MAX).iter().map(|entity| f64::from(entity.x)).sum()
    }
}

/// Starts instances of one module, without a world.
pub(crate) struct Starter {
    program: Program,
    spec: InstanceSpec,
    memory: Arc<WorldMemory>,
}

impl Starter {
    pub(crate) fn new(program: Program) -> Starter {
        let spec = InstanceSpec {
            instance: InstanceId(1),
            version: program.version,
            policy: program.manifest.policy(),
            groups: HostGroups::ALL,
            rates: program.manifest.limits.rates,
            seed: 0,
            random: None,
            drained_at_ns: None,
            directory: None,
        };
        Starter { program, spec, memory: WorldMemory::new(u64::MAX) }
    }

    pub(crate) fn start(&self) -> ScriptInstance {
        ScriptInstance::build(&self.program.module, &self.spec, &self.memory).unwrap()
    }
}
