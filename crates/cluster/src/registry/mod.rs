//! The scripts of a node: which versions there are, which one worlds run, and their code.
//!
//! Sources and manifests are in the store, named by digest; native code is in the artifact cache and made again from source whenever
//! it is missing or refused. [`Registry`] is what everybody reads, without waiting for anybody; changes go through its actor
//! ([`actor`]), one at a time. Bringing a version into running worlds is [`reload`]. Not here: compiling (`aether-scripting`).

pub(crate) mod actor;
pub(crate) mod cluster;
pub(crate) mod reload;

use crate::config::{NodeConfig, ScriptSpec, ServerSection, WorldSpec};
use crate::events::{EventLog, NodeEvent};
use crate::node::NodeError;
use aether_engine::PrefabSet;
use aether_scripting::compile;
use aether_scripting::limits;
use aether_scripting::manifest::{ManifestError, ScriptManifest};
use aether_scripting::server_runtime::RuntimeError;
use aether_scripting::{AotTarget, ScriptId, ScriptModule, ServerRuntime, Version};
use aether_store::{Store, StoreError, VersionRow};
use aether_types::{Blame, Digest};
use dashmap::DashMap;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A version of a script that worlds can run.
#[derive(Debug, Clone)]
pub(crate) struct LoadedScript {
    pub manifest: Arc<ScriptManifest>,
    pub version: Version,
    pub module: Arc<ScriptModule>,
}

/// Why a version was not published or loaded.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The module is not one.
    #[error(transparent)]
    Module(#[from] aether_scripting::limits::ModuleError),
    /// Compiling or loading.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source of a version is gone.
    #[error("the source of {script} version {version} ({digest}) is not in the store: publish it again")]
    NoSource {
        /// The script.
        script: ScriptId,
        /// Its version.
        version: Version,
        /// What is missing.
        digest: Digest,
    },
    /// No such script.
    #[error("{script} has no version here: {}", known_scripts(.known))]
    NoScript {
        /// The name.
        script: ScriptId,
        /// Those that have versions.
        known: Vec<ScriptId>,
    },
    /// No such version.
    #[error("{script} has no version {version}: it has {}", some_of(.known))]
    Unknown {
        /// The script.
        script: ScriptId,
        /// The version.
        version: Version,
        /// Those that there are.
        known: Vec<Version>,
    },
    /// The new version was tried out or watched, and is not used.
    #[error("{script} version {version} was rolled back: {reason}")]
    RolledBack {
        /// The script.
        script: ScriptId,
        /// The version that is not used.
        version: Version,
        /// Why.
        reason: String,
        /// What it logged when it was tried out, the newest line last.
        log: Vec<String>,
    },
    /// There is nothing to go back to.
    #[error("{script} has no version before {version}")]
    NothingBefore {
        /// The script.
        script: ScriptId,
        /// The version that serves.
        version: Version,
    },
    /// A file of a scripts folder was published before and did not come to serve.
    #[error("this file of {0} was published before and was refused, or that never ended: publish it to try it again")]
    RefusedBefore(ScriptId),
    /// It is not known how a reload ended: the directory does not answer.
    #[error(
        "it is not known whether {script} version {version} serves, since the directory does not answer: every node does what is written \
         there when it answers again; see `aether versions`"
    )]
    InDoubt {
        /// The script.
        script: ScriptId,
        /// The version.
        version: Version,
    },
    /// Another reload of the script is going on.
    #[error("a reload of {0} is going on: wait for its end")]
    Busy(ScriptId),
    /// The registry's actor is gone.
    #[error("the node is stopping")]
    Stopping,
}

/// Names in a list for people, the last of many.
fn some_of(known: &[impl std::fmt::Display]) -> String {
    const SHOWN: usize = 12;
    let left_out = known.len().saturating_sub(SHOWN);
    let shown: Vec<_> = known[left_out..].iter().map(ToString::to_string).collect();
    if left_out > 0 { format!("{left_out} others, {}", shown.join(", ")) } else { shown.join(", ") }
}

fn known_scripts(known: &[ScriptId]) -> String {
    if known.is_empty() { "nothing was published yet".to_owned() } else { format!("there are {}", some_of(known)) }
}

impl RegistryError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            RegistryError::Manifest(_) | RegistryError::Module(_) | RegistryError::RolledBack { .. } => Blame::Script,
            RegistryError::Runtime(error) => error.blame(),
            RegistryError::Store(error) => error.blame(),
            _ => Blame::Operator,
        }
    }
}

/// A version, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionInfo {
    /// The script.
    pub script: ScriptId,
    /// Its number.
    pub version: Version,
    /// SHA-256 of its wasm.
    pub source: Digest,
    /// Whether worlds run it.
    pub active: bool,
    /// Whether it is kept whatever happens.
    pub pinned: bool,
}

/// Versions kept of each script besides the active one and those that are pinned.
const VERSIONS_KEPT: usize = 8;

/// A version that is not among these.
fn unknown(rows: &[VersionRow], script: ScriptId, version: Version) -> RegistryError {
    let mut known: Vec<_> = rows.iter().filter(|row| row.script == script).map(|row| row.version).collect();
    known.sort();
    if !known.is_empty() {
        return RegistryError::Unknown { script, version, known };
    }
    let known: std::collections::BTreeSet<_> = rows.iter().map(|row| row.script).collect();
    RegistryError::NoScript { script, known: known.into_iter().collect() }
}

/// A checked source that is not a version yet.
pub(crate) struct Candidate {
    pub manifest: ScriptManifest,
    text: String,
    wasm: Vec<u8>,
    pub digest: Digest,
}

/// A folder that was read.
struct Folder {
    /// The script in it, as far as its manifest says.
    script: Option<ScriptId>,
    /// Why its file is refused.
    refused: Option<Arc<RegistryError>>,
}

/// See the file.
pub(crate) struct Registry {
    base: PathBuf,
    server: ServerSection,
    runtime: Arc<ServerRuntime>,
    store: Arc<dyn Store>,
    events: EventLog,
    /// What worlds run. Read on the way of every world that starts.
    active: DashMap<ScriptId, LoadedScript>,
    /// Folders that were read, and which script is in each. Held while one is read: whoever wants the same waits for it.
    folders: Mutex<HashMap<PathBuf, Folder>>,
    /// Sources that folders hold: while a file is there, its version is known to be an old one.
    adopted: Mutex<HashSet<(ScriptId, Digest)>>,
    prefabs: Mutex<HashMap<PathBuf, Arc<PrefabSet>>>,
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    std::fs::read(path).map_err(|source| NodeError::Read { path: path.to_owned(), source })
}

fn read_text(path: &Path) -> Result<String, NodeError> {
    std::fs::read_to_string(path).map_err(|source| NodeError::Read { path: path.to_owned(), source })
}

/// The name in a manifest, whatever else is wrong with it.
fn name_in(text: &str) -> Option<ScriptId> {
    ScriptId::new(toml::from_str::<toml::Table>(text).ok()?.get("name")?.as_str()?).ok()
}

impl Registry {
    pub fn new(
        base: PathBuf,
        config: &NodeConfig,
        runtime: Arc<ServerRuntime>,
        store: Arc<dyn Store>,
        events: EventLog,
    ) -> Registry {
        Registry {
            base,
            server: config.server.clone(),
            runtime,
            store,
            events,
            active: DashMap::new(),
            folders: Mutex::default(),
            adopted: Mutex::default(),
            prefabs: Mutex::default(),
        }
    }

    /// Read everything that worlds will ask for. An operator's mistake is an error; an author's is shown by the world.
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

    fn folder(&self, spec: &WorldSpec, script: &ScriptSpec) -> PathBuf {
        self.base.join(&spec.scripts_dir).join(&script.script)
    }

    /// The version of a folder's script that worlds run.
    pub fn script(&self, spec: &WorldSpec, script: &ScriptSpec) -> Result<LoadedScript, NodeError> {
        let folder = self.folder(spec, script);
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if !folders.contains_key(&folder) {
            let text = read_text(&folder.join("script.toml"))?;
            let wasm = read(&folder.join(format!("{}.wasm", script.script)))?;
            let read = match self.adopt(&text, &wasm) {
                Ok(script) => Folder { script: Some(script), refused: None },
                Err(error) => Folder { script: name_in(&text), refused: Some(Arc::new(error)) },
            };
            folders.insert(folder.clone(), read);
        }
        let Folder { script, refused } = &folders[&folder];
        // A version may have been published since its file was refused.
        match (script.and_then(|script| self.active(script)), refused) {
            (Some(active), _) => Ok(active),
            (None, Some(source)) => Err(NodeError::Script { path: folder.clone(), source: Arc::clone(source) }),
            (None, None) => Err(NodeError::Panic(format!("{} has no active version", folder.display()))),
        }
    }

    /// The scripts that a world's file names, as far as they could be read.
    pub fn scripts_of(&self, spec: &WorldSpec) -> HashSet<ScriptId> {
        let folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let id = |script| folders.get(&self.folder(spec, script))?.script;
        spec.script.iter().filter_map(id).collect()
    }

    /// What worlds run of a script.
    pub fn active(&self, script: ScriptId) -> Option<LoadedScript> {
        self.active.get(&script).map(|loaded| loaded.clone())
    }

    /// A file of the node's own folders. One that was never seen becomes the next version, and active; one that is known changes nothing,
    /// since a newer one may have been published since. One that was published and refused has left its source in the store and no
    /// version: it changes nothing either.
    fn adopt(&self, text: &str, wasm: &[u8]) -> Result<ScriptId, RegistryError> {
        let candidate = match self.check(text, wasm) {
            Ok(candidate) => candidate,
            Err(error) => return self.adopt_nothing(text, error),
        };
        let script = candidate.manifest.name;
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).insert((script, candidate.digest));
        let versions = self.store.versions()?;
        let same = |row: &&VersionRow| row.script == script && row.source == candidate.digest && row.manifest == text;
        let known = versions.iter().find(same);
        let active = self.store.active()?.into_iter().find(|(id, _)| *id == script).map(|(_, version)| version);
        let (version, loaded) = match (known, active) {
            (Some(row), Some(active)) => {
                // The file mends the store, should somebody have changed that.
                self.store.put_blob(&candidate.wasm)?;
                match versions.iter().find(|row| row.script == script && row.version == active) {
                    Some(row) => (active, self.load(row)?),
                    None => (row.version, self.load(row)?),
                }
            }
            (None, Some(_))
                if versions.iter().all(|row| row.source != candidate.digest)
                    && self.store.get_blob(candidate.digest)?.is_some() =>
            {
                return self.adopt_nothing(text, RegistryError::RefusedBefore(script));
            }
            _ => match self.add_once(&candidate) {
                Ok(added) => added,
                Err(error) => return self.adopt_nothing(text, error),
            },
        };
        if active != Some(version) {
            self.store.set_active(script, version)?;
        }
        self.active.insert(script, loaded);
        Ok(script)
    }

    /// The file is no good: what served before goes on serving, if anything did.
    fn adopt_nothing(&self, text: &str, error: RegistryError) -> Result<ScriptId, RegistryError> {
        let name = name_in(text);
        let active = self.store.active()?;
        let Some((script, version)) = active.into_iter().find(|(id, _)| Some(*id) == name) else { return Err(error) };
        let Some(row) = self.store.versions()?.into_iter().find(|row| row.script == script && row.version == version) else {
            return Err(error);
        };
        let loaded = self.load(&row)?;
        self.active.insert(script, loaded);
        let text = format!("the file is refused, version {version} goes on serving: {error}");
        self.events.push(NodeEvent::Reload { script: script.to_string(), text, failed: true });
        Ok(script)
    }

    /// Whether a source can become a version: manifest, limits, compiler.
    pub fn check(&self, text: &str, wasm: &[u8]) -> Result<Candidate, RegistryError> {
        let manifest = ScriptManifest::parse_with(text, self.server.default_fuel, self.server.default_memory_mb)?;
        let wasm = compile::to_binary(wasm)?;
        // What every instance would be refused for is the author's to know now.
        let policy = manifest.policy();
        let info = limits::inspect(&wasm, &self.runtime.config().module_limits, &policy.syscall_policy)?;
        if info.initial_memory_bytes > manifest.limits.memory_mb << 20 {
            let initial_mb = info.initial_memory_bytes.div_ceil(1 << 20);
            return Err(limits::ModuleError::Memory { initial_mb, cap_mb: manifest.limits.memory_mb }.into());
        }
        let others = self.server.targets.iter().copied().filter(|target| *target != AotTarget::host());
        for target in std::iter::once(AotTarget::host()).chain(others) {
            self.runtime.compile_for(&wasm, target, manifest.limits.memory_mb)?;
        }
        let digest = Digest::of(&wasm);
        Ok(Candidate { manifest, text: text.to_owned(), wasm, digest })
    }

    /// Load it without making it a version.
    pub fn try_out(&self, candidate: &Candidate) -> Result<Arc<ScriptModule>, RegistryError> {
        let artifact = self.runtime.compile_for(&candidate.wasm, AotTarget::host(), candidate.manifest.limits.memory_mb)?;
        Ok(self.runtime.load_unregistered(&artifact)?)
    }

    /// Make it the next version of its script, durably, and load it. It does not serve yet.
    pub fn add(&self, candidate: &Candidate) -> Result<(Version, LoadedScript), RegistryError> {
        self.store.put_blob(&candidate.wasm)?;
        let version = self.store.add_version(candidate.manifest.name, candidate.digest, &candidate.text)?;
        self.load_new(candidate, version)
    }

    /// The same, but of nodes that find the same file at once one makes it a version.
    fn add_once(&self, candidate: &Candidate) -> Result<(Version, LoadedScript), RegistryError> {
        self.store.put_blob(&candidate.wasm)?;
        let version = self.store.adopt_version(candidate.manifest.name, candidate.digest, &candidate.text)?;
        self.load_new(candidate, version)
    }

    fn load_new(&self, candidate: &Candidate, version: Version) -> Result<(Version, LoadedScript), RegistryError> {
        let script = candidate.manifest.name;
        let row = VersionRow { script, version, source: candidate.digest, manifest: candidate.text.clone(), pinned: false };
        match self.load(&row) {
            Ok(loaded) => Ok((version, loaded)),
            Err(error) => {
                self.store.forget_version(script, version)?;
                // Nobody has refused it: an operator mends something, and it is new again.
                if error.blame() != Blame::Script && self.store.versions()?.iter().all(|row| row.source != candidate.digest) {
                    self.store.remove_blob(candidate.digest)?;
                }
                Err(error)
            }
        }
    }

    /// Load a version: its native code from the cache, or from its source.
    pub fn load(&self, row: &VersionRow) -> Result<LoadedScript, RegistryError> {
        let VersionRow { script, version, source, .. } = *row;
        let manifest = ScriptManifest::parse_with(&row.manifest, self.server.default_fuel, self.server.default_memory_mb)?;
        let wasm = self.store.get_blob(source)?.ok_or(RegistryError::NoSource { script, version, digest: source })?;
        let artifact = self.runtime.compile_for(&wasm, AotTarget::host(), manifest.limits.memory_mb)?;
        // Those that were replaced since and have drained.
        self.runtime.release_unused(script);
        self.runtime.register_version(script, version, artifact)?;
        let module = self.runtime.load_module(script, version)?;
        Ok(LoadedScript { manifest: Arc::new(manifest), version, module })
    }

    /// The source and the memory of a version, if its native code is not here.
    pub fn lacks(&self, script: ScriptId, version: Version) -> Result<Option<(Digest, u64)>, RegistryError> {
        let rows = self.store.versions()?;
        let row = rows.iter().find(|row| row.script == script && row.version == version);
        let row = row.ok_or_else(|| unknown(&rows, script, version))?;
        let manifest = ScriptManifest::parse_with(&row.manifest, self.server.default_fuel, self.server.default_memory_mb)?;
        let memory_mb = manifest.limits.memory_mb;
        Ok((!self.runtime.has_artifact(row.source, memory_mb)).then_some((row.source, memory_mb)))
    }

    /// Native code for another node of the cluster.
    pub fn export(&self, source: Digest, memory_mb: u64) -> Option<Vec<u8>> {
        self.runtime.export_artifact(source, memory_mb)
    }

    /// Native code from another node of the cluster.
    pub fn import(&self, source: Digest, memory_mb: u64, bytes: &[u8]) -> Result<(), RegistryError> {
        Ok(self.runtime.import_artifact(source, memory_mb, bytes)?)
    }

    /// A version by its number.
    pub fn find(&self, script: ScriptId, version: Version) -> Result<LoadedScript, RegistryError> {
        let rows = self.store.versions()?;
        let row = rows.iter().find(|row| row.script == script && row.version == version);
        self.load(row.ok_or_else(|| unknown(&rows, script, version))?)
    }

    /// The newest version before the one that serves.
    pub fn before_active(&self, script: ScriptId) -> Result<Version, RegistryError> {
        let rows = self.store.versions()?;
        let active = self.active(script).ok_or_else(|| unknown(&rows, script, Version(0)))?.version;
        let before = rows.iter().filter(|row| row.script == script && row.version < active).map(|row| row.version).max();
        before.ok_or(RegistryError::NothingBefore { script, version: active })
    }

    /// From now on worlds that start run it.
    pub fn activate(&self, script: ScriptId, loaded: LoadedScript) -> Result<(), RegistryError> {
        self.store.set_active(script, loaded.version)?;
        self.active.insert(script, loaded);
        Ok(())
    }

    /// What the store says that is active now, of a script that this node may know in an older version.
    pub fn refresh(&self, known: LoadedScript) -> Result<LoadedScript, NodeError> {
        let script = known.manifest.name;
        let active = self.store.active()?.into_iter().find(|(id, _)| *id == script).map(|(_, version)| version);
        match active.filter(|version| *version != known.version) {
            Some(version) => {
                let failed = |source| NodeError::Script { path: PathBuf::from(script.as_str()), source: Arc::new(source) };
                let loaded = self.find(script, version).map_err(failed)?;
                self.serve(script, loaded.clone());
                Ok(loaded)
            }
            None => Ok(known),
        }
    }

    /// The directory says that it is active: worlds of this node that start run it.
    pub fn serve(&self, script: ScriptId, loaded: LoadedScript) {
        self.active.insert(script, loaded);
    }

    /// A version that never served goes. Its number is not used again.
    pub fn forget(&self, script: ScriptId, version: Version) {
        self.runtime.forget_version(script, version);
        if let Err(error) = self.store.forget_version(script, version) {
            tracing::warn!(%script, %version, %error, "version not forgotten");
        }
    }

    /// All versions.
    pub fn versions(&self) -> Result<Vec<VersionInfo>, RegistryError> {
        let info = |row: VersionRow| VersionInfo {
            active: self.active.get(&row.script).is_some_and(|loaded| loaded.version == row.version),
            script: row.script,
            version: row.version,
            source: row.source,
            pinned: row.pinned,
        };
        Ok(self.store.versions()?.into_iter().map(info).collect())
    }

    /// Keep a version whatever happens, or no longer.
    pub fn pin(&self, script: ScriptId, version: Version, pinned: bool) -> Result<(), RegistryError> {
        let found = self.store.pin(script, version, pinned)?;
        if found { Ok(()) } else { Err(unknown(&self.store.versions()?, script, version)) }
    }

    /// Remove what nothing refers to: old versions that are neither active nor pinned, and sources of no version. Gives how many
    /// versions and sources went.
    pub fn collect(&self) -> Result<(usize, usize), RegistryError> {
        // First: the source of a version that another node adds meanwhile is none of these.
        let blobs = self.store.blobs()?;
        let mut rows = self.store.versions()?;
        let mut kept: HashMap<ScriptId, usize> = HashMap::new();
        rows.sort_by_key(|row| (row.script, std::cmp::Reverse(row.version)));
        let (mut gone, mut sources, active) = (0, HashSet::new(), self.store.active()?);
        let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for row in rows {
            let fixed = row.pinned || active.contains(&(row.script, row.version)) || adopted.contains(&(row.script, row.source));
            let count = kept.entry(row.script).or_default();
            if fixed || *count < VERSIONS_KEPT {
                *count += usize::from(!fixed);
                sources.insert(row.source);
            } else {
                self.forget(row.script, row.version);
                gone += 1;
            }
        }
        sources.extend(self.files());
        let blobs: Vec<_> = blobs.into_iter().filter(|digest| !sources.contains(digest)).collect();
        for digest in &blobs {
            self.store.remove_blob(*digest)?;
        }
        Ok((gone, blobs.len()))
    }

    /// The sources that the scripts folders hold now, refused ones too.
    fn files(&self) -> Vec<Digest> {
        let folders: Vec<PathBuf> = self.folders.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let wasm = |folder: PathBuf| {
            let name = folder.file_name()?.to_string_lossy().into_owned();
            compile::to_binary(&std::fs::read(folder.join(format!("{name}.wasm"))).ok()?).ok()
        };
        folders.into_iter().filter_map(wasm).map(|wasm| Digest::of(&wasm)).collect()
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
