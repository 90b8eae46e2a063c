//! The directory of a cluster in PostgreSQL: nodes, where worlds should run, who places them, reloads.
//!
//! Every decision is one conditional write, or a transaction that begins with one. A condition on another node is always "it is dead",
//! which never becomes false again, and never "it is not there": a node that came meanwhile would not be seen.

use super::PostgresStore;
use super::catalogue::{activate, version};
use super::link::Twice;
use super::session::{Fault, Session};
use super::text::shown;
use super::worlds::{column, number, parsed};
use crate::{Directory, NodeId, NodeInfo, NodeRow, NodeState, ReloadPhase, ReloadRow, StoreError, WorldRow};
use aether_types::{Generation, ScriptId, Version, WorldId};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tokio_postgres::Row;

/// The one role there is: to place worlds.
const PLACEMENT: &str = "placement";

impl Directory for PostgresStore {
    fn join(&self, info: &NodeInfo, lease: Duration) -> Result<NodeId, StoreError> {
        let lease_ms = milliseconds(lease);
        let id = self.call(Twice::Harmless, async |session| {
            // A new name for each try: what an answer that was lost may have left behind lapses like any node.
            let id = NodeId(format!("{}-{:016x}", info.name, random()?));
            let insert = "INSERT INTO node (node_id, name, address, build, worlds_max, capacity, state, lease_until) \
                VALUES ($1, $2, $3, $4, $5, $6, 'up', now() + CAST($7 AS BIGINT) * INTERVAL '1 millisecond')";
            let worlds_max = i64::from(info.worlds_max);
            session
                .rows(insert, &[&id.0, &info.name, &info.address, &info.build, &worlds_max, &info.capacity, &lease_ms])
                .await?;
            Ok(id)
        })?;
        self.connector.guard(lease);
        *self.me.write().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
        self.call(Twice::Harmless, async |session| forget_the_dead(session).await)?;
        Ok(id)
    }

    fn renew(&self, me: &NodeId, lease: Duration) -> Result<(), StoreError> {
        let lease_ms = milliseconds(lease);
        // A connection that has died in silence must leave time for another one before the lease is over.
        let deadline = Instant::now() + (lease / 5).max(Duration::from_millis(500)).min(lease / 3);
        let renew = "UPDATE node SET lease_until = now() + CAST($2 AS BIGINT) * INTERVAL '1 millisecond' \
            WHERE node_id = $1 AND state <> 'dead' RETURNING 1";
        self.blocking(async {
            let mut link = self.renewal.lock().await;
            link.call(&self.connector, deadline, Twice::Harmless, async |session| {
                living(session.rows(renew, &[&me.0, &lease_ms]).await?, me)
            })
            .await
        })
    }

    fn set_state(&self, node: &NodeId, state: NodeState) -> Result<(), StoreError> {
        if state == NodeState::Dead {
            return self.bury(node);
        }
        let set = "UPDATE node SET state = $2 WHERE node_id = $1 AND state <> 'dead' RETURNING 1";
        let text = state_text(state);
        self.call(Twice::Harmless, async |session| living(session.rows(set, &[&node.0, &text]).await?, node))
    }

    fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let list = "SELECT node_id, name, address, build, worlds_max, capacity, state, \
              CAST(EXTRACT(EPOCH FROM lease_until - now()) AS DOUBLE PRECISION) \
            FROM node WHERE state <> 'dead' OR dead_at > now() - INTERVAL '1 hour' ORDER BY name, started_at, node_id";
        self.call(Twice::Harmless, async |session| session.rows(list, &[]).await?.iter().map(node_row).collect())
    }

    fn bury_lapsed(&self) -> Result<Vec<NodeId>, StoreError> {
        let bury =
            "UPDATE node SET state = 'dead', dead_at = now() WHERE state <> 'dead' AND lease_until < now() RETURNING node_id";
        self.call(Twice::Harmless, async |session| {
            session.rows(bury, &[]).await?.iter().map(|row| Ok(NodeId(column(row, 0)?))).collect()
        })
    }

    fn bury(&self, node: &NodeId) -> Result<(), StoreError> {
        let bury = "UPDATE node SET state = 'dead', dead_at = now() WHERE node_id = $1 AND state <> 'dead'";
        self.call(Twice::Harmless, async |session| session.rows(bury, &[&node.0]).await.map(|_| ()))
    }

    fn add_worlds(&self, worlds: &[WorldId]) -> Result<(), StoreError> {
        let ids: Vec<&str> = worlds.iter().map(WorldId::as_str).collect();
        let add = "INSERT INTO world (world_id) SELECT * FROM UNNEST($1::text[]) ON CONFLICT (world_id) DO NOTHING";
        self.call(Twice::Harmless, async |session| session.rows(add, &[&ids]).await.map(|_| ()))
    }

    fn worlds(&self) -> Result<Vec<WorldRow>, StoreError> {
        let list = "SELECT w.world_id, w.owner, w.epoch, p.target, COALESCE(p.pinned, FALSE), COALESCE(p.load, 0) \
            FROM world w LEFT JOIN placement p ON p.world_id = w.world_id ORDER BY w.world_id";
        let row = |row: &Row| {
            Ok(WorldRow {
                world: parsed(row, 0)?,
                owner: column::<Option<String>>(row, 1)?.map(NodeId),
                generation: Generation(number(row, 2)?),
                target: column(row, 3)?,
                pinned: column(row, 4)?,
                load: column(row, 5)?,
            })
        };
        self.call(Twice::Harmless, async |session| session.rows(list, &[]).await?.iter().map(row).collect())
    }

    fn report_loads(&self, me: &NodeId, loads: &[(WorldId, f64)]) -> Result<(), StoreError> {
        // Each once, in order: two nodes that write the same rows do not wait for each other in a circle.
        let loads: BTreeMap<&str, f64> = loads.iter().map(|(world, load)| (world.as_str(), *load)).collect();
        let (ids, values): (Vec<&str>, Vec<f64>) = loads.into_iter().unzip();
        let report = "INSERT INTO placement (world_id, load) \
            SELECT l.world_id, l.load FROM UNNEST($1::text[], $2::double precision[]) AS l(world_id, load) \
            WHERE EXISTS (SELECT 1 FROM world w WHERE w.world_id = l.world_id AND w.owner = $3) \
            ON CONFLICT (world_id) DO UPDATE SET load = EXCLUDED.load";
        self.call(Twice::Harmless, async |session| session.rows(report, &[&ids, &values, &me.0]).await.map(|_| ()))
    }

    fn lead(&self, me: &NodeId) -> Result<bool, StoreError> {
        self.call(Twice::Harmless, async |session| lead(session, me).await)
    }

    fn set_targets(
        &self,
        leader: Option<&NodeId>,
        targets: &[(WorldId, Option<String>)],
        pinned: bool,
    ) -> Result<bool, StoreError> {
        let targets: BTreeMap<&str, Option<&str>> =
            targets.iter().map(|(world, target)| (world.as_str(), target.as_deref())).collect();
        let (ids, names): (Vec<&str>, Vec<Option<&str>>) = targets.into_iter().unzip();
        self.call(Twice::Harmless, async |session| {
            session.transaction(async |session| set_targets(session, leader, &ids, &names, pinned).await).await
        })
    }

    /// Without an answer it is not tried again: [`Directory::open_reloads`] tells whether it began.
    fn begin_reload(&self, coordinator: &NodeId, script: ScriptId, version: Version) -> Result<Option<u64>, StoreError> {
        self.call(Twice::Never, async |session| {
            session.transaction(async |session| begin_reload(session, coordinator, script, version).await).await
        })
    }

    /// Without an answer it is not tried again: [`Directory::reload`] tells whether it went on.
    fn advance_reload(&self, id: u64, from: ReloadPhase, to: ReloadPhase, reason: &str) -> Result<bool, StoreError> {
        if !may_follow(from, to) {
            return Ok(false);
        }
        self.call(Twice::Never, async |session| {
            session.transaction(async |session| advance_reload(session, id as i64, from, to, reason).await).await
        })
    }

    fn reload(&self, id: u64) -> Result<Option<ReloadRow>, StoreError> {
        let find = "SELECT reload_id, script_id, version, coordinator, phase, reason FROM reload WHERE reload_id = $1";
        let id = id as i64;
        self.call(Twice::Harmless, async |session| session.rows(find, &[&id]).await?.first().map(reload_row).transpose())
    }

    fn open_reloads(&self) -> Result<Vec<ReloadRow>, StoreError> {
        let list = "SELECT r.reload_id, r.script_id, r.version, r.coordinator, r.phase, r.reason \
            FROM reload_slot s JOIN reload r ON r.reload_id = s.reload_id ORDER BY r.reload_id";
        self.call(Twice::Harmless, async |session| session.rows(list, &[]).await?.iter().map(reload_row).collect())
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn random() -> Result<u64, Fault> {
    getrandom::u64().map_err(|error| Fault::sql(format!("this machine gives no random numbers: {error}")))
}

/// A row: the node is not dead.
fn living(rows: Vec<Row>, node: &NodeId) -> Result<(), Fault> {
    if rows.is_empty() { Err(Fault::Refused(StoreError::DeclaredDead(node.0.clone()))) } else { Ok(()) }
}

/// Nodes that died long ago and that nothing names any more. A dead node claims nothing, so nothing will name them again.
async fn forget_the_dead(session: &Session) -> Result<(), Fault> {
    let forget = "DELETE FROM node WHERE state = 'dead' AND dead_at < now() - INTERVAL '1 day' \
        AND NOT EXISTS (SELECT 1 FROM world WHERE world.owner = node.node_id) \
        AND NOT EXISTS (SELECT 1 FROM role WHERE role.holder = node.node_id)";
    session.rows(forget, &[]).await.map(|_| ())
}

async fn lead(session: &Session, me: &NodeId) -> Result<bool, Fault> {
    // Mostly nothing changes, and nothing is written then.
    let look = "SELECT r.holder, h.state, m.state FROM role r \
        LEFT JOIN node h ON h.node_id = r.holder LEFT JOIN node m ON m.node_id = $2 WHERE r.name = $1";
    let rows = session.rows(look, &[&PLACEMENT, &me.0]).await?;
    let row = rows.first().ok_or_else(|| Fault::sql("the role of placement is missing from its table"))?;
    let (holder, its_state, my_state): (Option<&str>, Option<&str>, Option<&str>) =
        (column(row, 0)?, column(row, 1)?, column(row, 2)?);
    if my_state.is_none_or(|state| state == "dead") {
        return Err(Fault::Refused(StoreError::DeclaredDead(me.0.clone())));
    }
    match holder {
        Some(holder) if holder == me.0 => return Ok(true),
        Some(_) if its_state != Some("dead") => return Ok(false),
        Some(_) | None => {}
    }
    let take = "UPDATE role SET holder = $2 WHERE name = $1 \
        AND (holder IS NULL OR holder = $2 OR EXISTS (SELECT 1 FROM node n WHERE n.node_id = role.holder AND n.state = 'dead')) \
        AND EXISTS (SELECT 1 FROM node n WHERE n.node_id = $2 AND n.state <> 'dead') RETURNING 1";
    session.rows(take, &[&PLACEMENT, &me.0]).await.map(|rows| !rows.is_empty())
}

async fn set_targets(
    session: &Session,
    leader: Option<&NodeId>,
    ids: &[&str],
    names: &[Option<&str>],
    pinned: bool,
) -> Result<bool, Fault> {
    if let Some(NodeId(leader)) = leader {
        // Written, not only read: nobody else begins to lead before this has ended.
        let hold = "UPDATE role SET holder = $2 WHERE name = $1 AND holder = $2 \
            AND EXISTS (SELECT 1 FROM node n WHERE n.node_id = $2 AND n.state <> 'dead') RETURNING 1";
        if session.rows(hold, &[&PLACEMENT, leader]).await?.is_empty() {
            return Ok(false);
        }
    }
    let set = "INSERT INTO placement (world_id, target, pinned) \
        SELECT t.world_id, t.target, $3 FROM UNNEST($1::text[], $2::text[]) AS t(world_id, target) \
        WHERE EXISTS (SELECT 1 FROM world w WHERE w.world_id = t.world_id) \
        ON CONFLICT (world_id) DO UPDATE SET target = EXCLUDED.target, pinned = EXCLUDED.pinned \
        WHERE $4 OR NOT placement.pinned \
           OR NOT EXISTS (SELECT 1 FROM node n WHERE n.name = placement.target AND n.state = 'up')";
    session.rows(set, &[&ids, &names, &pinned, &leader.is_none()]).await?;
    Ok(true)
}

async fn begin_reload(
    session: &Session,
    NodeId(coordinator): &NodeId,
    script: ScriptId,
    version: Version,
) -> Result<Option<u64>, Fault> {
    // One after the other, over all scripts: reloads are rare.
    let count = "UPDATE counter SET value = value + 1 WHERE name = 'reload' RETURNING value";
    let rows = session.rows(count, &[]).await?;
    let id: i64 = column(rows.first().ok_or_else(|| Fault::sql("the counter of reloads is missing from its table"))?, 0)?;
    let take = "INSERT INTO reload_slot (script_id, reload_id) VALUES ($1, $2) \
        ON CONFLICT (script_id) DO UPDATE SET reload_id = EXCLUDED.reload_id WHERE reload_slot.reload_id IS NULL RETURNING 1";
    if session.rows(take, &[&script.as_str(), &id]).await?.is_empty() {
        return Ok(None);
    }
    let insert = "INSERT INTO reload (reload_id, script_id, version, coordinator, phase) VALUES ($1, $2, $3, $4, 'prepare')";
    session.rows(insert, &[&id, &script.as_str(), &i64::from(version.0), &coordinator]).await?;
    session.rows("DELETE FROM reload WHERE ended_at < now() - INTERVAL '1 day'", &[]).await?;
    Ok(Some(id as u64))
}

async fn advance_reload(session: &Session, id: i64, from: ReloadPhase, to: ReloadPhase, reason: &str) -> Result<bool, Fault> {
    let is_final = matches!(to, ReloadPhase::Committed | ReloadPhase::Aborted);
    let advance = "UPDATE reload SET phase = $3, reason = $4, ended_at = CASE WHEN $5 THEN now() END \
        WHERE reload_id = $1 AND phase = $2 RETURNING script_id, version";
    let rows = session.rows(advance, &[&id, &phase_text(from), &phase_text(to), &shown(reason), &is_final]).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let (script, version): (ScriptId, Version) = (parsed(row, 0)?, version(row, 1)?);
    if is_final {
        let free = "UPDATE reload_slot SET reload_id = NULL WHERE script_id = $1 AND reload_id = $2";
        session.rows(free, &[&script.as_str(), &id]).await?;
    }
    if to == ReloadPhase::Committed {
        activate(session, script, version).await?;
    }
    Ok(true)
}

/// Forward, perhaps past a phase, and never out of one that is final.
fn may_follow(from: ReloadPhase, to: ReloadPhase) -> bool {
    match (from, to) {
        (ReloadPhase::Prepare, ReloadPhase::Activate | ReloadPhase::Committed | ReloadPhase::Aborted)
        | (ReloadPhase::Activate, ReloadPhase::Committed | ReloadPhase::Aborted) => true,
        (ReloadPhase::Prepare, ReloadPhase::Prepare)
        | (ReloadPhase::Activate, ReloadPhase::Prepare | ReloadPhase::Activate)
        | (ReloadPhase::Committed | ReloadPhase::Aborted, _) => false,
    }
}

fn phase_text(phase: ReloadPhase) -> &'static str {
    match phase {
        ReloadPhase::Prepare => "prepare",
        ReloadPhase::Activate => "activate",
        ReloadPhase::Committed => "committed",
        ReloadPhase::Aborted => "aborted",
    }
}

fn state_text(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Dead => "dead",
    }
}

fn node_row(row: &Row) -> Result<NodeRow, Fault> {
    let state = match column(row, 6)? {
        "up" => NodeState::Up,
        "draining" => NodeState::Draining,
        "dead" => NodeState::Dead,
        other => return Err(Fault::sql(format!("{other:?} is no state of a node"))),
    };
    let left: f64 = column(row, 7)?;
    let lease_left = if state == NodeState::Dead {
        Duration::ZERO
    } else {
        Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX)
    };
    let info = NodeInfo {
        name: column(row, 1)?,
        address: column(row, 2)?,
        build: column(row, 3)?,
        worlds_max: u32::try_from(number(row, 4)?).unwrap_or(u32::MAX),
        capacity: column(row, 5)?,
    };
    Ok(NodeRow { id: NodeId(column(row, 0)?), info, state, lease_left })
}

fn reload_row(row: &Row) -> Result<ReloadRow, Fault> {
    let phase = match column(row, 4)? {
        "prepare" => ReloadPhase::Prepare,
        "activate" => ReloadPhase::Activate,
        "committed" => ReloadPhase::Committed,
        "aborted" => ReloadPhase::Aborted,
        other => return Err(Fault::sql(format!("{other:?} is no phase of a reload"))),
    };
    Ok(ReloadRow {
        id: number(row, 0)?,
        script: parsed(row, 1)?,
        version: version(row, 2)?,
        coordinator: NodeId(column(row, 3)?),
        phase,
        reason: column(row, 5)?,
    })
}
