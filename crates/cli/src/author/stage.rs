//! What every test of a file begins with: the scripts of its world, loaded once, and an engine with its prefabs.
//!
//! Start with [`Stage::new`]. Not here: running scenarios (`play`) and exported tests (`exported`).

use super::play::TESTER;
use super::project::{Code, Project};
use super::scenario::{ScenarioFile, twenty};
use crate::script::prefabs_of;
use aether_engine::{Engine, EngineConfig, PrefabSet};
use aether_scripting::{AotTarget, Caller, ScriptManifest, ScriptModule, ServerRuntime, Vec3, Version};
use aether_world_runtime::ScriptParts;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// Scripts of one world at most: below [`TESTER`].
const SCRIPTS_MAX: usize = 62;

pub(super) fn vec3([x, y, z]: [f32; 3]) -> Vec3 {
    Vec3 { x, y, z }
}

/// A script of the world, ready to be put into it.
#[derive(Clone)]
pub(super) struct Member {
    pub parts: ScriptParts,
    pub code: Code,
    pub dir: PathBuf,
}

/// What every test of a file begins with.
pub(crate) struct Stage {
    pub(super) members: Vec<Member>,
    prefabs: Arc<PrefabSet>,
    pub(super) tick_hz: f64,
}

fn load(runtime: &ServerRuntime, code: &Code, manifest: &ScriptManifest) -> Result<Arc<ScriptModule>, Failure> {
    let artifact = runtime.compile_for(&code.wasm, AotTarget::host(), manifest.limits.memory_mb)?;
    Ok(runtime.load_unregistered(&artifact)?)
}

impl Stage {
    /// With the script that is tested first.
    pub fn new(
        runtime: &ServerRuntime,
        project: &Project,
        code: &Code,
        file: Option<(&Path, &ScenarioFile)>,
    ) -> Result<Stage, Failure> {
        let place = |prefab: &Option<String>, at: [f32; 3]| prefab.clone().map(|prefab| (prefab, vec3(at)));
        let member = |project: &Project, code: &Code, name: Option<String>, entity| -> Result<Member, Failure> {
            let parts = ScriptParts {
                name: name.unwrap_or_else(|| project.name.to_string()),
                manifest: Arc::new(project.manifest.clone()),
                version: Version(1),
                module: load(runtime, code, &project.manifest)?,
                entity,
                directory: None,
            };
            Ok(Member { parts, code: code.clone(), dir: project.dir.clone() })
        };
        let Some((path, file)) = file else {
            return Ok(Stage { members: vec![member(project, code, None, None)?], prefabs: Arc::default(), tick_hz: twenty() });
        };
        let folder = crate::config_file::folder(path);
        let prefabs = file.prefabs.as_ref().map(|prefabs| folder.join(prefabs));
        let mut members = vec![member(project, code, None, place(&file.prefab, file.at))?];
        if file.script.len() >= SCRIPTS_MAX {
            return Err(format!("{}: {} scripts, at most {SCRIPTS_MAX} fit", path.display(), file.script.len() + 1).into());
        }
        for other in &file.script {
            let project = Project::open(&folder.join(&other.folder))?;
            let code = project.code()?;
            members.push(member(&project, &code, other.name.clone(), place(&other.prefab, other.at))?);
        }
        if !(0.1..=240.0).contains(&file.tick_hz) {
            return Err(format!("{}: tick_hz is {}, allowed is 0.1 to 240", path.display(), file.tick_hz).into());
        }
        Ok(Stage { members, prefabs: Arc::new(prefabs_of(prefabs.as_deref())?), tick_hz: file.tick_hz })
    }

    /// An engine with these keys in storage.
    pub(super) fn engine_with(&self, stored: impl IntoIterator<Item = (String, String, Vec<u8>)>) -> Engine {
        Engine::new(EngineConfig { prefabs: Arc::clone(&self.prefabs), ..EngineConfig::default() }, stored)
    }

    /// The test as a member: it sees the script's storage, and may touch everything.
    pub(super) fn tester(&self) -> Caller {
        let namespace = self.members.first().and_then(|member| member.parts.manifest.grants.storage_namespace.clone());
        Caller { instance: TESTER, name: "test".to_owned(), entity_kinds: vec!["*".to_owned()], storage_namespace: namespace }
    }
}
