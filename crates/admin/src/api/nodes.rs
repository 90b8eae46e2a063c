//! The node, its cluster, and which node has which world.

use super::{Answer, Given, Shared, ask, body};
use crate::MoveBody;
use crate::problem::Problem;
use crate::shapes::{Done, NodeState, Nodes};
use crate::summary;
use aether_cluster::{AskError, Node};
use axum::extract::{Path, State};

/// Everything that this node's worlds do, with all their scripts.
#[utoipa::path(get, path = "/v1/status", tag = "nodes", responses((status = 200, body = NodeState)))]
pub(crate) async fn status(State(api): Shared) -> Answer {
    ask(api, |api| Ok::<_, Problem>(api.node.status())).await
}

/// The nodes of the cluster; a node that is in none lists itself.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", responses((status = 200, body = Nodes)))]
pub(crate) async fn nodes(State(api): Shared) -> Answer {
    let nodes = |node: &Node| {
        let (status, cluster) = (node.status(), node.cluster());
        let nodes = summary::nodes(&status, cluster.as_ref());
        Nodes { cluster: cluster.map(|cluster| cluster.name), node: status.name, nodes }
    };
    ask(api, move |api| Ok::<_, Problem>(nodes(&api.node))).await
}

/// The cluster as this node sees it: nodes, who runs what, links.
#[utoipa::path(get, path = "/v1/cluster", tag = "nodes", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn cluster(State(api): Shared) -> Answer {
    ask(api, |api| api.node.cluster().ok_or(AskError::NoCluster)).await
}

/// What placement would move now.
#[utoipa::path(get, path = "/v1/placement/plan", tag = "nodes", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn placement(State(api): Shared) -> Answer {
    ask(api, |api| api.node.placement_plan()).await
}

/// Have a node give its worlds away, and take none.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", tag = "nodes", params(("node" = String, Path, description = "Its name.")),
    responses((status = 200, body = Done)))]
pub(crate) async fn drain(State(api): Shared, Path(node): Path<String>) -> Answer {
    ask(api, move |api| api.node.drain(&node, true).map(|()| Done { done: true })).await
}

/// Have a node take worlds again.
#[utoipa::path(post, path = "/v1/nodes/{node}/undrain", tag = "nodes", params(("node" = String, Path, description = "Its name.")),
    responses((status = 200, body = Done)))]
pub(crate) async fn undrain(State(api): Shared, Path(node): Path<String>) -> Answer {
    ask(api, move |api| api.node.drain(&node, false).map(|()| Done { done: true })).await
}

/// Move a world to a node and keep it there.
#[utoipa::path(post, path = "/v1/worlds/{world}/move", tag = "nodes", params(("world" = String, Path, description = "Its name.")),
    request_body = MoveBody, responses((status = 200, body = Done)))]
pub(crate) async fn move_world(State(api): Shared, Path(world): Path<String>, given: Given<MoveBody>) -> Answer {
    let node = body(given)?.node;
    ask(api, move |api| api.node.move_world(&world, &node).map(|()| Done { done: true })).await
}

/// Let placement choose a world's node again.
#[utoipa::path(post, path = "/v1/worlds/{world}/unpin", tag = "nodes", params(("world" = String, Path, description = "Its name.")),
    responses((status = 200, body = Done)))]
pub(crate) async fn unpin_world(State(api): Shared, Path(world): Path<String>) -> Answer {
    ask(api, move |api| api.node.unpin_world(&world).map(|()| Done { done: true })).await
}
