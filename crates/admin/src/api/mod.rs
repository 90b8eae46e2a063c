//! The routes: what can be asked of a node over HTTP, on its socket and at its address alike.
//!
//! Start with [`router`]; a theme has a file: the node and its cluster ([`nodes`]), worlds, scripts and versions, events and streams,
//! health. The OpenAPI document is collected from the handlers here. Not here: who may ask (`gate`), what a status says (`shapes`).

mod health;
mod nodes;
mod scripts;
mod streams;
mod worlds;

use crate::access::{self, Role};
use crate::gate::{Gate, PUBLISH_MAX, pass};
use crate::gateway::Counts;
use crate::hub::Hub;
use crate::problem::Problem;
use crate::{dashboard, shapes};
use aether_cluster::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Json, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What every handler has.
pub(crate) struct Api {
    pub node: Arc<Node>,
    pub gate: Arc<Gate>,
    /// Started by the first who asks for something that it sees: on a socket often nobody does.
    hub: Mutex<Option<Arc<Hub>>>,
    document: OnceLock<Bytes>,
    /// What the node's player gateway counts, if it has one.
    pub gateway: OnceLock<Arc<Counts>>,
}

pub(crate) type Shared = axum::extract::State<Arc<Api>>;

impl Api {
    pub fn new(node: Arc<Node>, gate: Gate) -> Arc<Api> {
        Arc::new(Api { node, gate: Arc::new(gate), hub: Mutex::new(None), document: OnceLock::new(), gateway: OnceLock::new() })
    }

    /// What looks at the node.
    pub fn hub(&self) -> Result<Arc<Hub>, Problem> {
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = &*hub {
            return Ok(Arc::clone(hub));
        }
        let started =
            Hub::start(Arc::clone(&self.node)).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
        Ok(Arc::clone(hub.insert(Arc::new(started))))
    }

    /// Look no more. What is still asked starts it again.
    pub fn rest(&self) {
        let hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(hub);
    }
}

/// JSON, made where it does not keep others waiting.
pub(crate) struct Ready(Vec<u8>);

impl IntoResponse for Ready {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

pub(crate) type Answer = Result<Ready, Problem>;

/// A node's calls wait for actors: off the threads that serve.
pub(crate) async fn ask<R: Serialize, E: Into<Problem> + Send + 'static>(
    api: Arc<Api>,
    f: impl FnOnce(&Api) -> Result<R, E> + Send + 'static,
) -> Answer {
    let asked = move || -> Result<Vec<u8>, Problem> {
        let answer = f(&api).map_err(Into::into)?;
        serde_json::to_vec(&answer).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))
    };
    let answered = tokio::task::spawn_blocking(asked).await;
    answered.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?.map(Ready)
}

pub(crate) type Given<T> = Result<Json<T>, JsonRejection>;
pub(crate) type Asked<T> = Result<Query<T>, QueryRejection>;

pub(crate) fn body<T>(body: Given<T>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(Into::into)
}

pub(crate) fn query<T>(query: Asked<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(Into::into)
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Aether admin API",
        description = "What people and tools ask of a running node. Errors are problem documents (RFC 9457). Every request needs a \
                       bearer token with the role that its description names, except those of health; roles: viewer, operator, \
                       publisher, each may do what those before it may. `aether token` makes tokens."
    ),
    tags(
        (name = "health", description = "Whether the node lives and its worlds tick."),
        (name = "nodes", description = "The node, its cluster, placement."),
        (name = "worlds", description = "Worlds and their scripts, checkpoints."),
        (name = "scripts", description = "Scripts, their versions, reloads."),
        (name = "events", description = "What happened, and what is going on now.")
    ),
    components(schemas(Problem, shapes::NodeState, shapes::EventView))
)]
struct Document;

/// All routes behind a gate.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let (router, document) = routes().split_for_parts();
    let _ = api.document.set(serde_json::to_vec(&finish(document)).unwrap_or_default().into());
    let mut router = router;
    for path in dashboard::PATHS {
        router = router.route(path, axum::routing::get(dashboard::serve));
    }
    let gate = Arc::clone(&api.gate);
    router
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path: /openapi.json lists what there is")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods: see /openapi.json")
        })
        .layer(DefaultBodyLimit::max(PUBLISH_MAX))
        .layer(axum::middleware::from_fn_with_state(gate, pass))
        .with_state(api)
}

fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::openapi))
        .routes(routes!(health::me))
        .routes(routes!(nodes::status))
        .routes(routes!(nodes::nodes))
        .routes(routes!(nodes::placement))
        .routes(routes!(nodes::cluster))
        .routes(routes!(nodes::drain))
        .routes(routes!(nodes::undrain))
        .routes(routes!(worlds::worlds))
        .routes(routes!(worlds::world))
        .routes(routes!(worlds::history))
        .routes(routes!(worlds::entities))
        .routes(routes!(worlds::flight))
        .routes(routes!(worlds::limits))
        .routes(routes!(worlds::all_limits))
        .routes(routes!(worlds::checkpoints, worlds::checkpoint))
        .routes(routes!(worlds::restore))
        .routes(routes!(worlds::set_aside))
        .routes(routes!(worlds::resume))
        .routes(routes!(worlds::suspend_script))
        .routes(routes!(worlds::resume_script))
        .routes(routes!(nodes::move_world))
        .routes(routes!(nodes::unpin_world))
        .routes(routes!(scripts::scripts))
        .routes(routes!(scripts::versions))
        .routes(routes!(scripts::reloads))
        .routes(routes!(scripts::publish))
        .routes(routes!(scripts::rollback))
        .routes(routes!(scripts::pin))
        .routes(routes!(scripts::collect))
        .routes(routes!(streams::events))
        .routes(routes!(streams::node_stream))
        .routes(routes!(streams::world_stream))
}

/// Add to the document what is the same everywhere: the role of the table, the token, and the problems of the gate.
fn finish(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().security_schemes.insert("token".to_owned(), scheme);
    let problem = |text: &str| {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        RefOr::T(ResponseBuilder::new().description(text).content("application/problem+json", content).build())
    };
    for (path, item) in &mut document.paths.paths {
        let PathItem { get, post, .. } = item;
        for (method, operation) in [("GET", get), ("POST", post)] {
            let Some(operation) = operation else { continue };
            let Some(role) = access::find(method, path).and_then(|access| access.role) else { continue };
            let own = operation.description.take().map(|text| format!("{text}\n\n")).unwrap_or_default();
            operation.description = Some(format!("{own}Needs the role {role}."));
            operation.security = Some(vec![SecurityRequirement::new("token", [] as [&str; 0])]);
            let responses = &mut operation.responses.responses;
            for (status, text) in [("401", "No token, or one that is not good."), ("429", "Too many requests: wait.")] {
                responses.entry(status.to_owned()).or_insert_with(|| problem(text));
            }
            if role > Role::Viewer {
                responses.entry("403".to_owned()).or_insert_with(|| problem("The token's role may not do this."));
            }
            responses.entry("default".to_owned()).or_insert_with(|| problem("It was not done, and why."));
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::ACCESS;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_of_who_may_do_what_has_every_route_and_no_other() {
        let (_, document) = routes().split_for_parts();
        let mut routed = BTreeSet::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in [("GET", &item.get), ("POST", &item.post), ("PUT", &item.put), ("DELETE", &item.delete)] {
                if operation.is_some() {
                    routed.insert((method, path.as_str()));
                }
            }
        }
        routed.extend(dashboard::PATHS.iter().map(|path| ("GET", *path)));
        let listed: BTreeSet<_> = ACCESS.iter().map(|access| (access.method, access.path)).collect();
        assert_eq!(routed, listed);
    }

    #[test]
    fn the_document_says_3_1_and_the_role_of_each_request() {
        let document = serde_json::to_value(finish(routes().split_for_parts().1)).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let publish = &document["paths"]["/v1/publish"]["post"];
        assert!(publish["description"].as_str().unwrap().contains("Needs the role publisher."), "{publish}");
        assert_eq!(publish["security"][0]["token"], serde_json::json!([]));
        assert!(document["paths"]["/healthz"]["get"].get("security").is_none());
        let ids = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
        let ids: Vec<_> = ids.filter_map(|operation| operation["operationId"].as_str()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    }
}
