//! What happened, and streams of what goes on: server-sent events.
//!
//! A stream's messages come from the hub through a short queue; [`Stream`] is the body that empties it. Not here: what is sent (`hub`).

use super::{Answer, Api, Asked, Shared, ask, query};
use crate::api::worlds::{WorldQuery, no_world};
use crate::gate::Who;
use crate::http::Kill;
use crate::hub::Topic;
use crate::problem::Problem;
use crate::shapes::{EventView, Events};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::Frame;
use serde::Deserialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{Notify, mpsc};
use utoipa::IntoParams;

/// Events in an answer, by default and at most.
const EVENTS: usize = 200;
const EVENTS_MAX: usize = 4_096;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only those after this number.
    #[serde(default)]
    since: u64,
    /// Only those of this world.
    world: Option<String>,
    /// Only those of this script, by its name in its world.
    script: Option<String>,
    /// Only those of this kind: `log`, `script`, `overload`, `world`, `cluster` or `reload`.
    kind: Option<String>,
    /// Only those at least this bad: 0 errors, 1 warnings too, 2 information too, 3 all.
    level: Option<u8>,
    /// So many at most, the newest; 200 by default, 4096 at most.
    limit: Option<usize>,
}

/// What happened on this node: script logs, ends, overload, reloads.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventsQuery), responses((status = 200, body = Events)))]
pub(crate) async fn events(State(api): Shared, asked: Asked<EventsQuery>) -> Answer {
    let asked = query(asked)?;
    let same = |wanted: &Option<String>, value: Option<&String>| wanted.as_ref().is_none_or(|wanted| value == Some(wanted));
    ask(api, move |api| {
        let wanted = |event: &EventView| {
            same(&asked.world, event.world.as_ref())
                && same(&asked.script, event.script.as_ref())
                && same(&asked.kind, Some(&event.kind))
                && asked.level.is_none_or(|level| event.level <= level)
        };
        let limit = asked.limit.unwrap_or(EVENTS).min(EVENTS_MAX);
        Ok::<_, Problem>(api.hub()?.events(asked.since, limit, wanted))
    })
    .await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamQuery {
    /// The number of the last event that the client has; a `Last-Event-ID` header says the same.
    since: Option<u64>,
}

/// A summary of the node and its cluster each second, and events as they happen.
///
/// Messages: `names` (the worlds in the order of the columns, at the start and when they change), `node` (the summary), `events`. A
/// client that does not keep up is disconnected.
#[utoipa::path(get, path = "/v1/stream", tag = "events", params(StreamQuery),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub(crate) async fn node_stream(
    State(api): Shared,
    Extension(who): Extension<Who>,
    kill: Option<Extension<Kill>>,
    headers: HeaderMap,
    asked: Asked<StreamQuery>,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let since = query(asked)?.since.or(last);
    listen(api, Topic::Node, who, since, kill).await
}

/// One world's full status each second.
///
/// Messages: `world` (its status as `GET /v1/worlds/{world}` has it), `gone` when this node has it no longer.
#[utoipa::path(get, path = "/v1/worlds/{world}/stream", tag = "events",
    params(("world" = String, Path, description = "Its name."), WorldQuery),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub(crate) async fn world_stream(
    State(api): Shared,
    Path(world): Path<String>,
    Extension(who): Extension<Who>,
    kill: Option<Extension<Kill>>,
    asked: Asked<WorldQuery>,
) -> Result<Response, Problem> {
    let scripts = query(asked)?.scripts();
    listen(api, Topic::World(world, scripts), who, None, kill).await
}

async fn listen(
    api: Arc<Api>,
    topic: Topic,
    who: Who,
    since: Option<u64>,
    kill: Option<Extension<Kill>>,
) -> Result<Response, Problem> {
    let kill = kill.map_or_else(|| Arc::new(Notify::new()), |Extension(Kill(kill))| kill);
    let begun = tokio::task::spawn_blocking(move || {
        if let Topic::World(world, _) = &topic
            && !api.node.status().worlds.iter().any(|status| status.name == *world)
        {
            return Err(no_world(&api.node, world));
        }
        let gate = Arc::clone(&api.gate);
        let id = who.id.clone();
        let may_stay = Box::new(move || gate.may_stay(&who));
        let receiver = api.hub()?.listen(topic, &id, since, kill, may_stay);
        receiver.map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many listen already: close other pages, or wait"))
    });
    let receiver = begun.await.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))??;
    let mut response = Response::new(Body::new(Stream(receiver)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

/// A body that is what comes through a queue; it ends with it.
struct Stream(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
