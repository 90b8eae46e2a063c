//! Health, metrics, who one is, and the document itself.

use super::{Answer, Shared, ask};
use crate::gate::Who;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::shapes::{Alive, Me, Readiness};
use axum::Extension;
use axum::extract::{Json, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Alive)))]
pub(crate) async fn healthz() -> Json<Alive> {
    Json(Alive { alive: true })
}

/// Whether every world that should tick does.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, description = "All tick.", body = Readiness), (status = 503, description = "Some do not.", body = Readiness)))]
pub(crate) async fn readyz(State(api): Shared) -> Result<Response, Problem> {
    let read = tokio::task::spawn_blocking(move || api.hub().map(|hub| hub.readiness())).await;
    let readiness = read.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))??;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(readiness)).into_response())
}

/// Metrics as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(api): Shared) -> Result<Response, Problem> {
    let made = tokio::task::spawn_blocking(move || {
        api.hub().map(|hub| hub.metrics(&Metrics, api.gateway.get().map(|counts| &**counts)))
    })
    .await;
    let text = made.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))??;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn openapi(State(api): Shared) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.document.get().cloned().unwrap_or_default()).into_response()
}

/// Who asks, and what they may do.
#[utoipa::path(get, path = "/v1/me", tag = "health", responses((status = 200, body = Me)))]
pub(crate) async fn me(State(api): Shared, Extension(who): Extension<Who>) -> Answer {
    let note = who.unproven.then(|| {
        "No token was ever made on this node, so whoever is on this machine may see and operate it. \
         `aether token make NAME --role ROLE` ends that."
            .to_owned()
    });
    ask(api, move |api| {
        let node = api.node.status().name;
        Ok::<_, Problem>(Me { id: who.id, name: who.name, role: who.role, note, node, build: crate::BUILD.to_owned() })
    })
    .await
}
