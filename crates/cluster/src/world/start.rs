//! A world from its store: claim it, read its newest good checkpoint, add its scripts.
//!
//! Runs on a thread that may block. Instances are not built here: script actors do that. Not here: when (the actor).

use crate::config::{ConfigError, ScriptSpec, WorldSpec};
use crate::events::NodeEvent;
use crate::node::{NodeError, Services};
use crate::status::count;
use crate::ticker::panic_text;
use crate::trace;
use crate::world::checkpoint;
use aether_engine::{Engine, EngineConfig};
use aether_scripting::{ScriptId, Vec3, Version};
use aether_store::{Claim, Messages, StoredCheckpoint};
use aether_types::{Blame, WorldId};
use aether_world_runtime::{AddError, ScriptParts, World, WorldCheckpoint};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A world of a cluster file, by its own name.
#[derive(Debug, Clone)]
pub(crate) struct WorldPlan {
    pub name: String,
    pub spec: Arc<WorldSpec>,
    /// Which of its copies it is.
    pub copy: u64,
}

impl WorldPlan {
    pub fn world_id(&self) -> Result<WorldId, NodeError> {
        WorldId::new(&self.name).map_err(|_| ConfigError(Vec::new()).into())
    }
}

/// A world that has been read.
pub(crate) struct Read {
    pub world: World,
    pub claim: Claim,
    /// Those to and from other worlds.
    pub messages: Messages,
    /// The versions that its scripts were added in.
    pub versions: Vec<(ScriptId, Version)>,
}

/// Read it. `Err`: the world cannot start, whatever is tried.
/// `claim`: it is claimed already. It only slept, or an operator went back to another checkpoint.
pub(crate) fn load(services: &Services, plan: &WorldPlan, claim: Option<Claim>) -> Result<Read, NodeError> {
    let id = plan.world_id()?;
    let _span = trace::adopt(tracing::info_span!("world.claim", world = plan.name), trace_of(services, &id).as_deref()).entered();
    let spec = &plan.spec;
    let limits = spec.limits(&services.config.limits);
    let claim = match claim {
        Some(claim) => claim,
        None => {
            let claim = services.store.claim(&id)?;
            count(&services.counting.worlds_claimed);
            claim
        }
    };
    let engine = EngineConfig {
        prefabs: services.registry.prefabs(spec)?,
        entities_max: limits.entities_max,
        storage_bytes_max: limits.storage_mb << 20,
        first_call: claim.generation.0 << 32,
        ..EngineConfig::default()
    };
    let stored = services.store.load_keys(&id)?;
    let messages = services.store.load_messages(&id)?;
    let new_world = || {
        let mut config = limits.world_config(id.clone(), spec.seed.wrapping_add(plan.copy), services.config.server.max_modules);
        config.builds_itself = false;
        World::new(config, Box::new(Engine::new(engine.clone(), stored.iter().cloned())))
    };
    let (mut world, checkpoint) = read_checkpoint(services, &id, new_world)?;
    let mut versions = Vec::new();
    for script in &spec.script {
        versions.extend(add_scripts(services, plan, &mut world, script, checkpoint.as_ref())?);
    }
    world.finish_restore();
    Ok(Read { world, claim, messages, versions })
}

/// The trace of whoever moves the world here.
fn trace_of(services: &Services, world: &WorldId) -> Option<String> {
    services.member()?.trace_of(world)
}

fn read_checkpoint(
    services: &Services,
    id: &WorldId,
    new_world: impl Fn() -> World,
) -> Result<(World, Option<WorldCheckpoint>), NodeError> {
    let candidates = services.store.load_checkpoints(id)?;
    let mut world = new_world();
    for StoredCheckpoint { seq, data, .. } in &candidates {
        // What one checkpoint does to us must not keep us from the one before it.
        let read = catch_unwind(AssertUnwindSafe(|| checkpoint::open(data).and_then(|read| world.restore(&read).map(|()| read))));
        let read = read.map_err(|panic| format!("panic: {}", panic_text(&*panic)));
        match read.and_then(|read| read.map_err(|error| error.to_string())) {
            Ok(read) => return Ok((world, Some(read))),
            Err(error) => {
                let text = format!("checkpoint {seq} refused, the one before it is tried: {error}");
                services.events.push(NodeEvent::Log { world: id.to_string(), script: "world".into(), level: 0, text });
                world = new_world();
            }
        }
    }
    match candidates.len() {
        0 => Ok((world, None)),
        // All that there is cannot be read: starting anew would throw it away with the next checkpoints.
        count => Err(NodeError::NoCheckpoint { world: id.clone(), count }),
    }
}

fn add_scripts(
    services: &Services,
    plan: &WorldPlan,
    world: &mut World,
    script: &ScriptSpec,
    checkpoint: Option<&WorldCheckpoint>,
) -> Result<Option<(ScriptId, Version)>, NodeError> {
    let loaded = match services.registry.script(&plan.spec, script) {
        Ok(loaded) => loaded,
        // The author's to fix: the others of the world are not to wait for it.
        Err(error) if error.blame() == Blame::Script => {
            let id = ScriptId::new(&script.script).map_err(|_| ConfigError(Vec::new()))?;
            script.names().into_iter().for_each(|name| world.add_failed(name, id, Version(0), error.to_string()));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // A checkpoint of a newer version than this node knows: it has not heard yet that it serves.
    let names = script.names();
    let saved = checkpoint.iter().flat_map(|checkpoint| &checkpoint.scripts).filter(|saved| names.contains(&saved.name));
    let loaded = match saved.map(|saved| saved.version).max() {
        Some(newest) if newest > loaded.version => services.registry.refresh(loaded)?,
        _ => loaded,
    };
    for name in names {
        let [x, y, z] = script.position;
        let directory = services.data_dir.join("files").join(&plan.name).join(&name);
        let parts = ScriptParts {
            name: name.clone(),
            manifest: Arc::clone(&loaded.manifest),
            version: loaded.version,
            module: Arc::clone(&loaded.module),
            entity: script.prefab.clone().map(|prefab| (prefab, Vec3::new(x, y, z))),
            directory: Some(directory),
        };
        let saved = checkpoint.and_then(|c| c.scripts.iter().find(|saved| saved.name == name));
        match world.add_script(parts, saved) {
            Ok(_) => {}
            Err(AddError::Instance(error)) if error.blame() == Blame::Script => {
                world.add_failed(name, loaded.manifest.name, loaded.version, error.to_string());
            }
            Err(source) => {
                return Err(NodeError::Add { world: world.config().id.clone(), script: name, source });
            }
        }
    }
    Ok(Some((loaded.manifest.name, loaded.version)))
}
