//! Scripts, their versions, and bringing them into worlds.

use super::{Answer, Asked, Given, Shared, ask, body, query};
use crate::problem::Problem;
use crate::shapes::{Collected, Done, ReloadRow, Reloaded, ScriptRow, VersionRow};
use crate::summary;
use crate::{PinBody, PublishBody, RollbackBody};
use aether_cluster::{NodeStatus, Source};
use aether_scripting::{ScriptId, Version};
use aether_world_runtime::ScriptState;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::IntoParams;

fn script_id(name: &str) -> Result<ScriptId, Problem> {
    ScriptId::new(name).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error))
}

/// Scripts over all worlds of this node.
#[utoipa::path(get, path = "/v1/scripts", tag = "scripts", responses((status = 200, body = Vec<ScriptRow>)))]
pub(crate) async fn scripts(State(api): Shared) -> Answer {
    ask(api, |api| Ok::<_, Problem>(rows(&api.node.status()))).await
}

fn rows(status: &NodeStatus) -> Vec<ScriptRow> {
    let mut rows: BTreeMap<ScriptId, ScriptRow> = BTreeMap::new();
    for world in &status.worlds {
        let mut counted = Vec::new();
        for script in world.scripts.iter() {
            let row = rows
                .entry(script.script)
                .or_insert_with(|| ScriptRow { script: script.script.to_string(), ..ScriptRow::default() });
            row.instances += 1;
            row.suspended += usize::from(script.state == ScriptState::Suspended);
            row.parked += usize::from(matches!(script.state, ScriptState::Parked { .. }));
            row.fuel += script.fuel;
            row.time_us += f64::from(script.cost_ns) * f64::from(script.turns) / 1e3;
            row.memory_bytes += script.memory_bytes;
            row.restarts += u64::from(script.restarts);
            if !row.versions.contains(&script.version.0) {
                row.versions.push(script.version.0);
            }
            if !counted.contains(&script.script) {
                counted.push(script.script);
                row.worlds += 1;
            }
        }
    }
    rows.into_values().collect()
}

/// All versions of all scripts.
#[utoipa::path(get, path = "/v1/versions", tag = "scripts", responses((status = 200, body = Vec<VersionRow>)))]
pub(crate) async fn versions(State(api): Shared) -> Answer {
    ask(api, |api| api.node.versions()).await
}

/// Reloads that go on in this node's worlds, and those that were rolled back last.
#[utoipa::path(get, path = "/v1/reloads", tag = "scripts", responses((status = 200, body = Vec<ReloadRow>)))]
pub(crate) async fn reloads(State(api): Shared) -> Answer {
    ask(api, |api| Ok::<_, Problem>(summary::reloads(&api.node.status()))).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PublishQuery {
    /// Only say what would happen.
    #[serde(default)]
    plan: bool,
    /// In a cluster: in so many worlds first, and in the others only if it is well in those.
    canary: Option<usize>,
}

/// Make a script's code its next version and bring it into every world that runs it, or into none.
///
/// With `plan=true` the answer says for each world whether the rehearsal went well.
#[utoipa::path(post, path = "/v1/publish", tag = "scripts", params(PublishQuery), request_body = PublishBody,
    responses((status = 200, body = Reloaded)))]
pub(crate) async fn publish(State(api): Shared, asked: Asked<PublishQuery>, given: Given<PublishBody>) -> Answer {
    let PublishQuery { plan, canary } = query(asked)?;
    let PublishBody { manifest, wasm } = body(given)?;
    let wasm = BASE64_STANDARD.decode(wasm).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("wasm: {error}")))?;
    let source = Source { manifest, wasm };
    match (plan, canary) {
        (true, _) => ask(api, move |api| api.node.plan(source)).await,
        (false, None) => ask(api, move |api| api.node.publish(source)).await,
        (false, Some(worlds)) => ask(api, move |api| api.node.publish_canary(source, worlds)).await,
    }
}

/// Bring another version into the worlds: the one before, or the one given.
#[utoipa::path(post, path = "/v1/scripts/{script}/rollback", tag = "scripts", params(("script" = String, Path, description = "The script.")),
    request_body = RollbackBody, responses((status = 200, body = Reloaded)))]
pub(crate) async fn rollback(State(api): Shared, Path(script): Path<String>, given: Given<RollbackBody>) -> Answer {
    let (script, version) = (script_id(&script)?, body(given)?.version);
    ask(api, move |api| api.node.rollback(script, version)).await
}

/// Keep a version whatever happens, or no longer.
#[utoipa::path(post, path = "/v1/scripts/{script}/versions/{version}/pin", tag = "scripts",
    params(("script" = String, Path, description = "The script."), ("version" = u32, Path, description = "The version.")),
    request_body = PinBody, responses((status = 200, body = Done)))]
pub(crate) async fn pin(State(api): Shared, path: Result<Path<(String, u32)>, PathRejection>, given: Given<PinBody>) -> Answer {
    let Path((script, version)) = path?;
    let (script, pinned) = (script_id(&script)?, body(given)?.pinned);
    ask(api, move |api| api.node.pin(script, Version(version), pinned).map(|()| Done { done: true })).await
}

/// Remove old versions that nothing refers to.
#[utoipa::path(post, path = "/v1/collect", tag = "scripts", responses((status = 200, body = Collected)))]
pub(crate) async fn collect(State(api): Shared) -> Answer {
    ask(api, |api| api.node.collect().map(|(versions, sources)| Collected { versions, sources })).await
}
