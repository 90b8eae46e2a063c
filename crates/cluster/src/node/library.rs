//! Scripts and prefabs of a cluster file, read and loaded once, however many worlds use them.

use crate::config::{NodeConfig, ScriptSpec, ServerSection, WorldSpec};
use crate::node::NodeError;
use aether_engine::PrefabSet;
use aether_scripting::compile;
use aether_scripting::manifest::ScriptManifest;
use aether_scripting::{AotTarget, ScriptModule, ServerRuntime, Version};
use aether_types::Blame;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A script that worlds can run.
#[derive(Clone)]
pub(crate) struct LoadedScript {
    pub manifest: Arc<ScriptManifest>,
    pub version: Version,
    pub module: Arc<ScriptModule>,
}

/// See the file.
pub(crate) struct Library {
    base: PathBuf,
    server: ServerSection,
    runtime: Arc<ServerRuntime>,
    /// Held while something is read: whoever wants the same waits for it.
    scripts: Mutex<HashMap<PathBuf, LoadedScript>>,
    prefabs: Mutex<HashMap<PathBuf, Arc<PrefabSet>>>,
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    std::fs::read(path).map_err(|source| NodeError::Read { path: path.to_owned(), source })
}

fn read_text(path: &Path) -> Result<String, NodeError> {
    std::fs::read_to_string(path).map_err(|source| NodeError::Read { path: path.to_owned(), source })
}

impl Library {
    pub fn new(base: PathBuf, config: &NodeConfig, runtime: Arc<ServerRuntime>) -> Library {
        let server = config.server.clone();
        Library { base, server, runtime, scripts: Mutex::default(), prefabs: Mutex::default() }
    }

    /// Load everything that worlds will ask for. An operator's mistake is an error; an author's is shown by the world.
    pub fn preload(&self, worlds: &[WorldSpec], progress: &mut impl FnMut(&str)) -> Result<(), NodeError> {
        for spec in worlds {
            self.prefabs(spec)?;
            for script in &spec.script {
                progress(&format!("script {}", script.script));
                match self.script(spec, script) {
                    Err(error) if error.blame() != Blame::Script => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub fn script(&self, spec: &WorldSpec, script: &ScriptSpec) -> Result<LoadedScript, NodeError> {
        let dir = self.base.join(&spec.scripts_dir).join(&script.script);
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = scripts.get(&dir) {
            return Ok(loaded.clone());
        }
        let path = dir.join("script.toml");
        let text = read_text(&path)?;
        let (fuel, memory_mb) = (self.server.default_fuel, self.server.default_memory_mb);
        let manifest =
            ScriptManifest::parse_with(&text, fuel, memory_mb).map_err(|source| NodeError::Manifest { path, source })?;
        let path = dir.join(format!("{}.wasm", script.script));
        let wasm = compile::to_binary(&read(&path)?).map_err(|source| NodeError::Module { path: path.clone(), source })?;
        let context = |source| NodeError::Runtime { context: path.display().to_string(), source };
        let id = manifest.name;
        let artifact = self.runtime.compile_for(&wasm, AotTarget::host(), manifest.limits.memory_mb).map_err(context)?;
        let version = self.runtime.register_artifact(id, artifact).map_err(context)?;
        let module = self.runtime.load_module(id, version).map_err(context)?;
        let loaded = LoadedScript { manifest: Arc::new(manifest), version, module };
        scripts.insert(dir, loaded.clone());
        Ok(loaded)
    }

    pub fn prefabs(&self, spec: &WorldSpec) -> Result<Arc<PrefabSet>, NodeError> {
        let Some(path) = &spec.prefabs else { return Ok(Arc::default()) };
        let path = self.base.join(path);
        let mut prefabs = self.prefabs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = prefabs.get(&path) {
            return Ok(Arc::clone(set));
        }
        let set =
            Arc::new(PrefabSet::parse(&read_text(&path)?).map_err(|source| NodeError::Prefabs { path: path.clone(), source })?);
        prefabs.insert(path, Arc::clone(&set));
        Ok(set)
    }
}
