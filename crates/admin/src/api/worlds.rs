//! Worlds: lists, one with its scripts, its checkpoints, and what an operator does to them.

use super::{Answer, Api, Asked, Given, Shared, ask, body, query};
use crate::problem::Problem;
use crate::shapes::{CheckpointRow, Done, Entity, Flight, LimitsOfWorld, Sample, Saved, SetAsideRow, World, WorldRow, Worlds};
use crate::summary::{STATES, shortened, state_code};
use crate::{CheckpointBody, RestoreBody};
use aether_cluster::{CheckpointEntry, ClusterStatus, Node, NodeStatus, SetAside, WorldState, WorldStatus};
use aether_world_runtime::{Ordered, ScriptState};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::collections::HashMap;
use utoipa::IntoParams;

/// Scripts of one world in an answer that does not say otherwise, and at most.
pub(crate) const SCRIPTS: usize = 500;
pub(crate) const SCRIPTS_MAX: usize = 20_000;
/// Worlds on a page.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WorldsQuery {
    /// Only names that contain this.
    name: Option<String>,
    /// Only worlds in this state; `trouble`: those that restart, are parked, held or unowned, or have scripts suspended or parked.
    state: Option<String>,
    /// Only worlds of this node.
    node: Option<String>,
    /// `name` (default), `load`, `p99`, `deferred` or `missed`: the highest first.
    sort: Option<String>,
    /// So many are left out at the start.
    #[serde(default)]
    offset: usize,
    /// Worlds on the page, 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// All worlds of the cluster, a page at a time.
#[utoipa::path(get, path = "/v1/worlds", tag = "worlds", params(WorldsQuery), responses((status = 200, body = Worlds)))]
pub(crate) async fn worlds(State(api): Shared, asked: Asked<WorldsQuery>) -> Answer {
    let asked = query(asked)?;
    ask(api, move |api| page(rows(&api.node.status(), api.node.cluster().as_ref()), &asked)).await
}

fn row(world: &WorldStatus) -> WorldRow {
    let cause = match &world.state {
        WorldState::Restarting { cause } | WorldState::Parked { cause } => Some(cause.clone()),
        _ => None,
    };
    WorldRow {
        name: world.name.clone(),
        state: STATES[usize::from(state_code(&world.state))].to_owned(),
        cause,
        tick: world.tick,
        tick_p99_us: world.tick_p99_us,
        budget_us: world.budget_us,
        utilisation: world.utilisation,
        deferred: world.deferred,
        missed_ticks: world.missed_ticks,
        scripts: world.scripts.len(),
        suspended: world.suspended,
        parked: world.parked,
        restarts: world.restarts,
        ..WorldRow::default()
    }
}

fn rows(status: &NodeStatus, cluster: Option<&ClusterStatus>) -> Vec<WorldRow> {
    let own = status.worlds.iter().map(|world| WorldRow { node: Some(status.name.clone()), ..row(world) });
    let Some(cluster) = cluster else { return own.collect() };
    let mut own: HashMap<String, WorldRow> = own.map(|row| (row.name.clone(), row)).collect();
    let with_own = |world: &aether_cluster::ClusterWorld| {
        let state = if world.owner.is_some() { "elsewhere" } else { "unowned" };
        let here = own.remove(&world.name);
        let base = here.unwrap_or_else(|| WorldRow { name: world.name.clone(), state: state.to_owned(), ..WorldRow::default() });
        WorldRow { node: world.owner.clone(), load: world.load, target: world.target.clone(), pinned: world.pinned, ..base }
    };
    let mut rows: Vec<_> = cluster.worlds.iter().map(with_own).collect();
    // What this node has and the cluster's view does not know of yet.
    rows.extend(own.into_values());
    rows
}

fn page(mut rows: Vec<WorldRow>, asked: &WorldsQuery) -> Result<Worlds, Problem> {
    let bad = |text: String| Problem::new(StatusCode::BAD_REQUEST, text);
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(bad(format!("limit is 1 to {PAGE_MAX}")));
    }
    if let Some(state) = asked.state.as_deref().filter(|state| *state != "trouble" && !STATES.contains(state)) {
        return Err(bad(format!("{state:?} is no state: trouble, {}", STATES.join(", "))));
    }
    let total = rows.len();
    let trouble = |row: &WorldRow| {
        matches!(row.state.as_str(), "restarting" | "parked" | "held" | "unowned") || row.suspended > 0 || row.parked > 0
    };
    rows.retain(|row| {
        asked.name.as_ref().is_none_or(|part| row.name.contains(part.as_str()))
            && asked.state.as_ref().is_none_or(|state| if state == "trouble" { trouble(row) } else { row.state == *state })
            && asked.node.as_ref().is_none_or(|node| row.node.as_ref() == Some(node))
    });
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    match asked.sort.as_deref() {
        None | Some("name") => {}
        Some("load") => rows
            .sort_by(|a, b| (b.utilisation, b.load).partial_cmp(&(a.utilisation, a.load)).unwrap_or(std::cmp::Ordering::Equal)),
        Some("p99") => rows.sort_by(|a, b| b.tick_p99_us.total_cmp(&a.tick_p99_us)),
        Some("deferred") => rows.sort_by_key(|row| std::cmp::Reverse(row.deferred)),
        Some("missed") => rows.sort_by_key(|row| std::cmp::Reverse(row.missed_ticks)),
        Some(other) => return Err(bad(format!("{other:?} is no order: name, load, p99, deferred, missed"))),
    }
    let matched = rows.len();
    let worlds: Vec<_> = rows.into_iter().skip(asked.offset).take(limit).collect();
    let end = asked.offset.saturating_add(worlds.len());
    Ok(Worlds { total, matched, next: (end < matched).then_some(end), worlds })
}

/// Nobody here has it: who has, if the cluster knows.
pub(crate) fn no_world(node: &Node, world: &str) -> Problem {
    let cluster = node.cluster();
    let known = cluster.as_ref().and_then(|cluster| cluster.worlds.iter().find(|known| known.name == world));
    let (status, text) = match known.map(|known| known.owner.as_ref()) {
        Some(Some(owner)) => (StatusCode::MISDIRECTED_REQUEST, format!("world {world} runs on node {owner}: ask that one")),
        Some(None) => (StatusCode::NOT_FOUND, format!("world {world} is on no node now: placement has not found it one yet")),
        None => (StatusCode::NOT_FOUND, format!("there is no world {world} on this node")),
    };
    Problem::new(status, text)
}

fn find(api: &Api, world: &str) -> Result<WorldStatus, Problem> {
    let found = api.node.status().worlds.into_iter().find(|status| status.name == world);
    found.ok_or_else(|| no_world(&api.node, world))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WorldQuery {
    /// So many scripts at most, those in trouble first, then the dearest; 500 by default.
    scripts: Option<usize>,
}

impl WorldQuery {
    pub fn scripts(&self) -> usize {
        self.scripts.unwrap_or(SCRIPTS).min(SCRIPTS_MAX)
    }
}

/// One world with its scripts; `scripts_total` says how many there are.
#[utoipa::path(get, path = "/v1/worlds/{world}", tag = "worlds",
    params(("world" = String, Path, description = "Its name."), WorldQuery), responses((status = 200, body = World)))]
pub(crate) async fn world(State(api): Shared, Path(world): Path<String>, asked: Asked<WorldQuery>) -> Answer {
    let scripts = query(asked)?.scripts();
    ask(api, move |api| find(api, &world).map(|status| shortened(&status, scripts))).await
}

/// The last five minutes of a world, a second each, since this address is served.
#[utoipa::path(get, path = "/v1/worlds/{world}/history", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    responses((status = 200, body = Vec<Sample>)))]
pub(crate) async fn history(State(api): Shared, Path(world): Path<String>) -> Answer {
    ask(api, move |api| find(api, &world).and_then(|_| Ok(api.hub()?.history(&world)))).await
}

/// The last few hundred things that happened to a world, through all its restarts. A parked world's are also in a file of its node's
/// data directory, `flight/WORLD-TIME.json`.
#[utoipa::path(get, path = "/v1/worlds/{world}/flight", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    responses((status = 200, body = Flight)))]
pub(crate) async fn flight(State(api): Shared, Path(world): Path<String>) -> Answer {
    ask(api, move |api| api.node.flight(&world)).await
}

/// What a world and its scripts may use, how much of it they do, and how often a rate limit refused them something.
#[utoipa::path(get, path = "/v1/worlds/{world}/limits", tag = "worlds",
    params(("world" = String, Path, description = "Its name."), WorldQuery), responses((status = 200, body = LimitsOfWorld)))]
pub(crate) async fn limits(State(api): Shared, Path(world): Path<String>, asked: Asked<WorldQuery>) -> Answer {
    let scripts = query(asked)?.scripts();
    ask(api, move |api| api.node.limits(&world, scripts)).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LimitsQuery {
    /// Only worlds of this node whose names contain this.
    name: Option<String>,
}

/// The same of all worlds of this node, without their scripts: those of which most was refused first, 1000 at most.
#[utoipa::path(get, path = "/v1/limits", tag = "worlds", params(LimitsQuery), responses((status = 200, body = Vec<LimitsOfWorld>)))]
pub(crate) async fn all_limits(State(api): Shared, asked: Asked<LimitsQuery>) -> Answer {
    let wanted = query(asked)?.name.unwrap_or_default();
    ask(api, move |api| {
        let names = api.node.status().worlds.into_iter().map(|world| world.name).filter(|name| name.contains(&wanted));
        let mut all: Vec<_> = names.filter_map(|name| api.node.limits(&name, 0).ok()).collect();
        all.sort_by_cached_key(|world| {
            (std::cmp::Reverse(world.rates.iter().map(|rate| rate.refused).sum::<u64>()), world.world.clone())
        });
        all.truncate(PAGE_MAX);
        Ok::<_, Problem>(all)
    })
    .await
}

/// Where a world's entities are at its next tick; 2,000 at most.
#[utoipa::path(get, path = "/v1/worlds/{world}/entities", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    responses((status = 200, body = Vec<Entity>)))]
pub(crate) async fn entities(State(api): Shared, Path(world): Path<String>) -> Answer {
    ask(api, move |api| {
        find(api, &world)?;
        Ok::<_, Problem>(api.node.entities(&world)?)
    })
    .await
}

/// The checkpoints of a world, newest first.
#[utoipa::path(get, path = "/v1/worlds/{world}/checkpoints", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    responses((status = 200, body = Vec<CheckpointRow>)))]
pub(crate) async fn checkpoints(State(api): Shared, Path(world): Path<String>) -> Answer {
    let entry = |entry: CheckpointEntry| {
        let CheckpointEntry { seq: commit, name, bytes, made_ms: time_ms } = entry;
        CheckpointRow { commit, name, bytes, time_ms }
    };
    ask(api, move |api| api.node.checkpoints(&world).map(|list| list.into_iter().map(entry).collect::<Vec<_>>())).await
}

/// Save a world now; one with a name is kept.
#[utoipa::path(post, path = "/v1/worlds/{world}/checkpoints", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    request_body = CheckpointBody, responses((status = 200, body = Saved)))]
pub(crate) async fn checkpoint(State(api): Shared, Path(world): Path<String>, given: Given<CheckpointBody>) -> Answer {
    let name = body(given)?.name;
    let bad = |name: &String| name.is_empty() || name.len() > 47 || name.parse::<u64>().is_ok();
    if name.as_ref().is_some_and(bad) {
        let text = "a checkpoint's name has 1 to 47 characters and is no number: numbers are those of commits";
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    ask(api, move |api| api.node.checkpoint(&world, name).map(|commit| Saved { commit })).await
}

/// Start a world again as it was at a checkpoint. Its storage stays as it is.
#[utoipa::path(post, path = "/v1/worlds/{world}/restore", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    request_body = RestoreBody, responses((status = 200, body = Done)))]
pub(crate) async fn restore(State(api): Shared, Path(world): Path<String>, given: Given<RestoreBody>) -> Answer {
    let checkpoint = body(given)?.checkpoint;
    ask(api, move |api| api.node.restore(&world, &checkpoint).map(|()| Done { done: true })).await
}

/// Start a parked world.
#[utoipa::path(post, path = "/v1/worlds/{world}/resume", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    responses((status = 200, body = Done)))]
pub(crate) async fn resume(State(api): Shared, Path(world): Path<String>) -> Answer {
    ask(api, move |api| api.node.resume_world(&world).map(|done| Done { done })).await
}

/// What came of an order to a script.
fn ordered(node: &Node, world: &str, script: &str, ordered: Ordered) -> Result<Done, Problem> {
    let (status, text) = match ordered {
        Ordered::Done => return Ok(Done { done: true }),
        Ordered::Already => return Ok(Done { done: false }),
        Ordered::Not(state) => (StatusCode::CONFLICT, format!("{world}/{script} does not run: {}", why_not(&state))),
        Ordered::Unknown => {
            let status = node.status().worlds.into_iter().find(|status| status.name == world);
            let names: Vec<_> =
                status.iter().flat_map(|status| status.scripts.iter().map(|script| script.name.as_str())).collect();
            (StatusCode::NOT_FOUND, format!("world {world} has no script {script}{}", there_are(&names)))
        }
    };
    Err(Problem::new(status, text))
}

fn why_not(state: &ScriptState) -> String {
    match state {
        ScriptState::Parked { cause } => format!("it is parked: {cause}"),
        ScriptState::Finished { cause } => format!("it has finished: {cause}"),
        ScriptState::Running | ScriptState::Paused | ScriptState::Suspended | ScriptState::Restarting | ScriptState::Draining => {
            "it is being started; try again".to_owned()
        }
    }
}

/// The end of a sentence that says that something is not there: what is.
fn there_are(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let more = names.len().saturating_sub(SHOWN);
    match names {
        [] => String::new(),
        names if more > 0 => format!(": it has {} and {more} more", names[..SHOWN].join(", ")),
        names => format!(": it has {}", names.join(", ")),
    }
}

/// Take a script out of its world's order, its state saved.
#[utoipa::path(post, path = "/v1/worlds/{world}/scripts/{script}/suspend", tag = "worlds",
    params(("world" = String, Path, description = "The world."), ("script" = String, Path, description = "The script's name there.")),
    responses((status = 200, body = Done)))]
pub(crate) async fn suspend_script(State(api): Shared, Path((world, script)): Path<(String, String)>) -> Answer {
    ask(api, move |api| ordered(&api.node, &world, &script, api.node.suspend_script(&world, &script)?)).await
}

/// Put a suspended, parked or finished script back.
#[utoipa::path(post, path = "/v1/worlds/{world}/scripts/{script}/resume", tag = "worlds",
    params(("world" = String, Path, description = "The world."), ("script" = String, Path, description = "The script's name there.")),
    responses((status = 200, body = Done)))]
pub(crate) async fn resume_script(State(api): Shared, Path((world, script)): Path<(String, String)>) -> Answer {
    ask(api, move |api| ordered(&api.node, &world, &script, api.node.resume_script(&world, &script)?)).await
}

/// Messages that ended their script twice.
#[utoipa::path(get, path = "/v1/worlds/{world}/set-aside", tag = "worlds", params(("world" = String, Path, description = "Its name.")),
    responses((status = 200, body = Vec<SetAsideRow>)))]
pub(crate) async fn set_aside(State(api): Shared, Path(world): Path<String>) -> Answer {
    let entry = |aside: &SetAside| SetAsideRow {
        script: aside.script.clone(),
        tick: serde_json::json!(aside.tick),
        cause: aside.end.to_string(),
        call: format!("{:?}", aside.call),
    };
    ask(api, move |api| api.node.set_aside(&world).map(|list| list.iter().map(entry).collect::<Vec<_>>())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<WorldRow> {
        let row = |n: usize| WorldRow {
            name: format!("field-{n:04}"),
            state: if n % 500 == 3 { "parked" } else { "ticking" }.to_owned(),
            utilisation: n as f32,
            node: Some(if n < 1_000 { "a" } else { "b" }.to_owned()),
            ..WorldRow::default()
        };
        (0..2_000).map(row).collect()
    }

    #[test]
    fn pages_together_are_the_whole_list_and_each_world_is_on_one() {
        let (mut seen, mut offset) = (Vec::new(), 0);
        loop {
            let asked = WorldsQuery { offset, limit: Some(300), ..WorldsQuery::default() };
            let page = page(list(), &asked).unwrap();
            assert_eq!((page.total, page.matched), (2_000, 2_000));
            seen.extend(page.worlds.into_iter().map(|world| world.name));
            match page.next {
                Some(next) => offset = next,
                None => break,
            }
        }
        let all: Vec<_> = list().into_iter().map(|world| world.name).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn filters_count_what_they_let_through() {
        let asked = |name: Option<&str>, state: Option<&str>, node: Option<&str>| WorldsQuery {
            name: name.map(str::to_owned),
            state: state.map(str::to_owned),
            node: node.map(str::to_owned),
            sort: Some("load".into()),
            ..WorldsQuery::default()
        };
        let matched = |asked| page(list(), &asked).unwrap().matched;
        assert_eq!(matched(asked(Some("-19"), None, None)), 100);
        assert_eq!(matched(asked(None, Some("parked"), None)), 4);
        assert_eq!(matched(asked(None, Some("trouble"), Some("b"))), 2);
        assert_eq!(page(list(), &asked(None, None, None)).unwrap().worlds[0].name, "field-1999");
    }

    #[test]
    fn what_is_no_page_is_refused_with_what_is() {
        let refused = |asked| page(list(), &asked).unwrap_err().detail;
        assert!(refused(WorldsQuery { limit: Some(0), ..WorldsQuery::default() }).contains("1 to 1000"));
        assert!(refused(WorldsQuery { limit: Some(1_001), ..WorldsQuery::default() }).contains("1 to 1000"));
        assert!(refused(WorldsQuery { state: Some("asleeep".into()), ..WorldsQuery::default() }).contains("asleep"));
        assert!(refused(WorldsQuery { sort: Some("age".into()), ..WorldsQuery::default() }).contains("name, load, p99"));
        let past = page(list(), &WorldsQuery { offset: usize::MAX, ..WorldsQuery::default() }).unwrap();
        assert_eq!((past.worlds.len(), past.next), (0, None));
    }
}
