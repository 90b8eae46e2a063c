//! The local node of `aether dev`: a real one, with a small world of its own or the worlds of a cluster file.
//!
//! What it keeps is in `.aether` of the project. Not here: what it is told (`dev`).

use super::project::{Code, Project};
use crate::{compiler, config_file, run};
use aether_admin::{HttpServer, Server};
use aether_cluster::{Node, NodeConfig, WorldSpec};
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// Where the node runs its script.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// A cluster file of the author's.
    pub file: Option<PathBuf>,
    /// For a world of its own: its prefabs, and the script's.
    pub prefabs: Option<PathBuf>,
    pub prefab: Option<String>,
    pub port: u16,
}

/// What `aether dev` keeps in a project.
pub(crate) fn home(project: &Project) -> PathBuf {
    project.dir.join(".aether")
}

fn data(project: &Project, place: &Place) -> PathBuf {
    home(project).join(if place.file.is_some() { "worlds" } else { "data" })
}

/// Forget what worlds knew.
pub(crate) fn forget(project: &Project, place: &Place) -> Result<(), Failure> {
    let data = data(project, place);
    match std::fs::remove_dir_all(&data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("could not remove {}: {error}", data.display()).into())
        }
        _ => Ok(()),
    }
}

/// A running node.
pub(crate) struct Local {
    pub node: Arc<Node>,
    /// Worlds that run the script.
    pub worlds: u32,
    http: Option<HttpServer>,
    _socket: Option<Server>,
}

impl Local {
    pub fn url(&self) -> Option<String> {
        self.http.as_ref().map(HttpServer::url)
    }
}

/// Put a file in another's place, so that nobody reads half of it.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let trouble = |error: std::io::Error| format!("could not write {}: {error}", path.display());
    std::fs::create_dir_all(config_file::folder(path)).map_err(trouble)?;
    // Hidden: whoever watches the folder is not to see it.
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let new = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path)).map_err(trouble)?;
    Ok(())
}

/// The beginning of the file of a world of its own.
const OWN_WORLD: &str = "\
# Made by `aether dev` at each start.
[node]
name = \"dev\"
data_dir = \"data\"
instances_small = 64
instances_large = 8

[limits]
checkpoint_seconds = 5.0

[[world]]
name = \"dev\"
scripts_dir = \"scripts\"
";

/// The file of a world of its own, and what it needs.
fn own_world(project: &Project, code: &Code, place: &Place) -> Result<PathBuf, Failure> {
    let home = home(project);
    let name = project.name;
    let folder = home.join("scripts").join(name.as_str());
    put(&folder.join("script.toml"), project.manifest_text.as_bytes())?;
    put(&folder.join(format!("{name}.wasm")), &code.wasm)?;
    let mut text = OWN_WORLD.to_owned();
    if let Some(prefabs) = &place.prefabs {
        let prefabs = prefabs.canonicalize().map_err(|error| format!("could not read {}: {error}", prefabs.display()))?;
        text += &format!("prefabs = {:?}\n", prefabs.display().to_string());
    }
    text += &format!("\n[[world.script]]\nscript = \"{name}\"\n");
    if let Some(prefab) = &place.prefab {
        text += &format!("prefab = {prefab:?}\n");
    }
    let file = home.join("dev.toml");
    put(&file, text.as_bytes())?;
    Ok(file)
}

/// Start the node with the first good build.
pub(crate) fn start(project: &Project, code: &Code, place: &Place) -> Result<Local, Failure> {
    let file = match &place.file {
        Some(file) => file.clone(),
        None => own_world(project, code, place)?,
    };
    let mut config = config_file::load(&file)?;
    let runs_it = |world: &&WorldSpec| world.script.iter().any(|spec| spec.script == project.name.as_str());
    let worlds = config.world.iter().filter(runs_it).map(|world| world.count).sum();
    if worlds == 0 {
        return Err(format!(
            "no world of {} runs {}: add\n[[world.script]]\nscript = {:?}\nto one, or leave --world out",
            file.display(),
            project.name,
            project.name.as_str()
        )
        .into());
    }
    if config.cluster.is_some() {
        return Err(
            format!("{} describes a cluster: `aether dev` runs one node; give a file without [cluster]", file.display()).into()
        );
    }
    // Nothing in there is anybody's to keep.
    put(&home(project).join(".gitignore"), b"*\n")?;
    let data = data(project, place);
    std::fs::create_dir_all(&data).map_err(|error| format!("could not make {}: {error}", data.display()))?;
    config.node.data_dir = data.canonicalize()?;
    config.server.traces = true;
    // Short, since the next save comes soon; and an author who adds work knows that it costs more.
    config.node.reload_watch_ticks = 10;
    config.node.reload_slower_max = 1e6;
    config.admin.listen = Some(([127, 0, 0, 1], place.port).into());
    config.admin.require_token = false;
    start_node(&config, config_file::folder(&file), worlds)
}

fn start_node(config: &NodeConfig, base: &Path, worlds: u32) -> Result<Local, Failure> {
    let node = Arc::new(Node::start(config, base, compiler(), |what| tracing::info!(what, "starting"))?);
    let socket = aether_admin::serve(Arc::clone(&node), aether_admin::socket_path(&config.node.data_dir));
    // A path that is too long for a socket, most often. Only `aether list` and its like miss it.
    let socket = socket.inspect_err(|error| tracing::warn!(%error, "no admin socket")).ok();
    let http = run::serve_admin(&node, config, base).inspect_err(|_| drop(node.shut_down()))?;
    Ok(Local { node, worlds, http, _socket: socket })
}
