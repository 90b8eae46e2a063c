//! The three scripts of the guide, one a language, do together what the guide says.

use super::read;
use crate::support::{TICK_NS, engine, runtime};
use aether_scripting::instance::thread_cpu_ns;
use aether_scripting::{AotTarget, ScriptManifest};
use aether_types::WorldId;
use aether_world_runtime::{ScriptParts, World, WorldConfig};
use std::sync::Arc;

#[test]
fn the_bell_rings_the_keeper_counts_and_the_crier_calls_it_out() {
    let mut world = World::new(WorldConfig::new(WorldId::new("square").unwrap()), Box::new(engine()));
    for name in ["bell", "keeper", "crier"] {
        let manifest = Arc::new(ScriptManifest::parse(&read(&format!("scripts/{name}/script.toml"))).unwrap());
        let wasm = std::fs::read(crate::support::root().join(format!("scripts/{name}/{name}.wasm"))).unwrap();
        let artifact = runtime().compile_for(&wasm, AotTarget::host(), manifest.limits.memory_mb).unwrap();
        let version = runtime().register_artifact(manifest.name, artifact).unwrap();
        let module = runtime().load_module(manifest.name, version).unwrap();
        world
            .add_script(ScriptParts { name: name.into(), manifest, version, module, entity: None, directory: None }, None)
            .unwrap();
    }
    let mut said = Vec::new();
    for _ in 0..12 * 20 {
        let now_ns = world.now_ns() + TICK_NS;
        let report = world.tick(now_ns, 0.05, &mut thread_cpu_ns);
        assert!(report.ends.is_empty(), "{:?}", report.ends);
        said.extend(report.log.into_iter().map(|line| line.text));
    }
    assert_eq!(said, ["the bell has rung 0 times", "the bell has rung 2 times"]);
}
