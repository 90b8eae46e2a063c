//! Routes about the cluster that a node is in: who is there, who runs what, and what an operator may change about it.

use crate::MoveBody;
use crate::problem::Problem;
use crate::server::{Answer, Shared, ask, body};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<aether_cluster::Node>> {
    Router::new()
        .route("/v1/cluster", get(cluster))
        .route("/v1/placement/plan", get(plan))
        .route("/v1/worlds/{world}/move", post(move_world))
        .route("/v1/worlds/{world}/unpin", post(unpin))
        .route("/v1/nodes/{node}/drain", post(drain))
        .route("/v1/nodes/{node}/undrain", post(undrain))
}

async fn cluster(State(node): Shared) -> Answer {
    ask(node, |node| node.cluster().ok_or(aether_cluster::AskError::NoCluster)).await
}

async fn plan(State(node): Shared) -> Answer {
    ask(node, aether_cluster::Node::placement_plan).await
}

async fn move_world(State(node): Shared, Path(world): Path<String>, given: Result<Json<MoveBody>, JsonRejection>) -> Answer {
    let to = body(given)?.node;
    ask(node, move |node| node.move_world(&world, &to).map(|()| json!({ "done": true }))).await
}

async fn unpin(State(node): Shared, Path(world): Path<String>) -> Answer {
    ask(node, move |node| node.unpin_world(&world).map(|()| json!({ "done": true }))).await
}

async fn drain(State(node): Shared, Path(name): Path<String>) -> Answer {
    drained(node, name, true).await
}

async fn undrain(State(node): Shared, Path(name): Path<String>) -> Answer {
    drained(node, name, false).await
}

async fn drained(node: Arc<aether_cluster::Node>, name: String, on: bool) -> Result<Json<serde_json::Value>, Problem> {
    ask(node, move |node| node.drain(&name, on).map(|()| json!({ "done": true }))).await
}
