//! The node's side: routes over a [`Node`]'s calls.

use crate::problem::Problem;
use crate::{CheckpointBody, PinBody, PublishBody, RestoreBody, RollbackBody};
use aether_cluster::{Node, Source};
use aether_scripting::{ScriptId, Version};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The largest module in base64, with its manifest.
const BODY_MAX: usize = 24 << 20;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error("could not listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The runtime.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

/// A socket that is served until this is dropped.
pub struct Server {
    path: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(runtime) = self.runtime.take() {
            // Who waits for a tick's edge is not waited for.
            runtime.shutdown_background();
        }
    }
}

/// Serve a node's admin API on a socket. One that a dead process left there is replaced: the data directory is locked by its node.
pub fn serve(node: Arc<Node>, path: PathBuf) -> Result<Server, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("admin")
        .enable_all()
        .build()
        .map_err(ServeError::Thread)?;
    let listen = || -> std::io::Result<tokio::net::UnixListener> {
        // Who may not enter the folder cannot connect, from the first moment on.
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let _context = runtime.enter();
        tokio::net::UnixListener::bind(&path)
    };
    let listener = listen().map_err(|source| ServeError::Listen { path: path.clone(), source })?;
    runtime.spawn(async move {
        if let Err(error) = axum::serve(listener, router(node)).await {
            tracing::error!(%error, "the admin socket failed");
        }
    });
    Ok(Server { path, runtime: Some(runtime) })
}

pub(crate) type Shared = State<Arc<Node>>;
pub(crate) type Answer = Result<Json<Value>, Problem>;

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/versions", get(versions))
        .route("/v1/publish", post(publish))
        .route("/v1/collect", post(collect))
        .route("/v1/scripts/{script}/rollback", post(rollback))
        .route("/v1/scripts/{script}/versions/{version}/pin", post(pin))
        .route("/v1/worlds/{world}/resume", post(resume_world))
        .route("/v1/worlds/{world}/scripts/{script}/suspend", post(suspend_script))
        .route("/v1/worlds/{world}/scripts/{script}/resume", post(resume_script))
        .route("/v1/worlds/{world}/checkpoints", get(checkpoints).post(checkpoint))
        .route("/v1/worlds/{world}/restore", post(restore))
        .route("/v1/worlds/{world}/set-aside", get(set_aside))
        .merge(crate::cluster::routes())
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(node)
}

/// A node's calls wait for actors: off the threads that serve.
pub(crate) async fn ask<R: Serialize + Send + 'static, E: Into<Problem> + Send + 'static>(
    node: Arc<Node>,
    f: impl FnOnce(&Node) -> Result<R, E> + Send + 'static,
) -> Answer {
    let answered = tokio::task::spawn_blocking(move || f(&node)).await;
    let answer = answered.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?.map_err(Into::into)?;
    serde_json::to_value(answer).map(Json).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))
}

pub(crate) fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    match body {
        Ok(Json(body)) => Ok(body),
        Err(error) => Err(Problem::new(error.status(), error.body_text())),
    }
}

fn script_id(name: &str) -> Result<ScriptId, Problem> {
    ScriptId::new(name).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error))
}

async fn status(State(node): Shared) -> Answer {
    ask(node, |node| Ok::<_, Problem>(node.status())).await
}

async fn versions(State(node): Shared) -> Answer {
    ask(node, Node::versions).await
}

#[derive(Deserialize)]
struct PlanQuery {
    #[serde(default)]
    plan: bool,
    /// So many worlds first.
    canary: Option<usize>,
}

async fn publish(State(node): Shared, Query(query): Query<PlanQuery>, given: Result<Json<PublishBody>, JsonRejection>) -> Answer {
    let PublishBody { manifest, wasm } = body(given)?;
    let wasm = BASE64_STANDARD.decode(wasm).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("wasm: {error}")))?;
    let source = Source { manifest, wasm };
    match (query.plan, query.canary) {
        (true, _) => ask(node, move |node| node.plan(source)).await,
        (false, None) => ask(node, move |node| node.publish(source)).await,
        (false, Some(worlds)) => ask(node, move |node| node.publish_canary(source, worlds)).await,
    }
}

async fn collect(State(node): Shared) -> Answer {
    ask(node, |node| node.collect().map(|(versions, sources)| json!({ "versions": versions, "sources": sources }))).await
}

async fn rollback(State(node): Shared, Path(script): Path<String>, given: Result<Json<RollbackBody>, JsonRejection>) -> Answer {
    let (script, version) = (script_id(&script)?, body(given)?.version);
    ask(node, move |node| node.rollback(script, version)).await
}

async fn pin(
    State(node): Shared,
    Path((script, version)): Path<(String, u32)>,
    given: Result<Json<PinBody>, JsonRejection>,
) -> Answer {
    let (script, pinned) = (script_id(&script)?, body(given)?.pinned);
    ask(node, move |node| node.pin(script, Version(version), pinned)).await
}

/// `false` from a node: nothing of that name is in that state.
fn found(found: bool, what: String) -> Result<Value, Problem> {
    if found { Ok(json!({ "done": true })) } else { Err(Problem::new(StatusCode::CONFLICT, what)) }
}

async fn resume_world(State(node): Shared, Path(world): Path<String>) -> Answer {
    ask(node, move |node| found(node.resume_world(&world)?, format!("world {world} is not parked"))).await
}

async fn suspend_script(State(node): Shared, Path((world, script)): Path<(String, String)>) -> Answer {
    let nobody = format!("{world} has no script {script} that runs");
    ask(node, move |node| found(node.suspend_script(&world, &script)?, nobody)).await
}

async fn resume_script(State(node): Shared, Path((world, script)): Path<(String, String)>) -> Answer {
    let nobody = format!("{world} has no script {script} that is suspended, parked or finished");
    ask(node, move |node| found(node.resume_script(&world, &script)?, nobody)).await
}

async fn checkpoints(State(node): Shared, Path(world): Path<String>) -> Answer {
    let list = |node: &Node, world: &str| {
        let entry = |(commit, name, bytes)| json!({ "commit": commit, "name": name, "bytes": bytes });
        Ok::<_, Problem>(node.checkpoints(world)?.into_iter().map(entry).collect::<Vec<_>>())
    };
    ask(node, move |node| list(node, &world)).await
}

async fn checkpoint(
    State(node): Shared,
    Path(world): Path<String>,
    given: Result<Json<CheckpointBody>, JsonRejection>,
) -> Answer {
    let name = body(given)?.name;
    let bad = |name: &String| name.is_empty() || name.len() > 47 || name.parse::<u64>().is_ok();
    if name.as_ref().is_some_and(bad) {
        let text = "a checkpoint's name has 1 to 47 characters and is no number: numbers are those of commits";
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    ask(node, move |node| node.checkpoint(&world, name).map(|commit| json!({ "commit": commit }))).await
}

async fn restore(State(node): Shared, Path(world): Path<String>, given: Result<Json<RestoreBody>, JsonRejection>) -> Answer {
    let checkpoint = body(given)?.checkpoint;
    ask(node, move |node| node.restore(&world, &checkpoint).map(|()| json!({ "done": true }))).await
}

async fn set_aside(State(node): Shared, Path(world): Path<String>) -> Answer {
    let entry = |aside: &aether_cluster::SetAside| json!({ "script": aside.script, "tick": aside.tick, "cause": aside.end.to_string(), "call": format!("{:?}", aside.call) });
    ask(node, move |node| node.set_aside(&world).map(|list| list.iter().map(entry).collect::<Vec<_>>())).await
}
