//! Claims of worlds, and what the database has of them. Each function is one call's work on one connection.
//!
//! A world is claimed by compare-and-set on the generation that was seen. Not here: commits (`writer.rs`), where worlds should run
//! (`directory.rs`).

use super::session::{Fault, Session};
use super::text::decode;
use crate::{Channel, CheckpointEntry, Claim, Messages, NodeId, StoreError, StoredCheckpoint, StoredKey, StoredMessage};
use aether_types::{Generation, WorldId};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

/// Somebody who loses this often against others who claim the same world should look who has it.
const CLAIM_TRIES: usize = 5;

/// A column; what the tables cannot hold is an error, not a panic.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Fault> {
    row.try_get(column).map_err(|error| Fault::sql(error.to_string()))
}

/// A number that is never negative.
pub(super) fn number(row: &Row, i: usize) -> Result<u64, Fault> {
    let number: i64 = column(row, i)?;
    u64::try_from(number).map_err(|_| Fault::sql(format!("column {i} holds {number}, which is negative")))
}

/// A column that holds an id or a digest as text.
pub(super) fn parsed<T>(row: &Row, i: usize) -> Result<T, Fault>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text: &str = column(row, i)?;
    text.parse().map_err(|error: T::Err| Fault::sql(format!("{text:?} in column {i}: {error}")))
}

pub(super) async fn claim(session: &Session, me: &NodeId, world: &WorldId) -> Result<Claim, Fault> {
    let (id, me_id) = (world.as_str(), me.0.as_str());
    for _ in 0..CLAIM_TRIES {
        let seen = session
            .rows(
                "SELECT w.epoch, w.owner, o.state, m.state FROM world w \
                 LEFT JOIN node o ON o.node_id = w.owner LEFT JOIN node m ON m.node_id = $2 WHERE w.world_id = $1",
                &[&id, &me_id],
            )
            .await?;
        let Some(row) = seen.first() else {
            session.rows("INSERT INTO world (world_id) VALUES ($1) ON CONFLICT (world_id) DO NOTHING", &[&id]).await?;
            continue;
        };
        let (owner, its_state, my_state): (Option<String>, Option<&str>, Option<&str>) =
            (column(row, 1)?, column(row, 2)?, column(row, 3)?);
        if my_state.is_none_or(|state| state == "dead") {
            return Err(Fault::Refused(StoreError::DeclaredDead(me.0.clone())));
        }
        if let Some(owner) = owner.filter(|owner| owner != me_id && its_state != Some("dead")) {
            return Err(Fault::Refused(StoreError::Owned { world: world.clone(), owner }));
        }
        let epoch: i64 = column(row, 0)?;
        let won = session
            .rows(
                "UPDATE world SET owner = $1, epoch = epoch + 1 WHERE world_id = $2 AND epoch = $3 \
                   AND (owner IS NULL OR owner = $1 \
                        OR EXISTS (SELECT 1 FROM node n WHERE n.node_id = world.owner AND n.state = 'dead')) \
                   AND EXISTS (SELECT 1 FROM node n WHERE n.node_id = $1 AND n.state <> 'dead') \
                 RETURNING epoch, commit_seq",
                &[&me_id, &id, &epoch],
            )
            .await?;
        if let Some(row) = won.first() {
            return Ok(Claim { generation: Generation(number(row, 0)?), commit_seq: number(row, 1)? });
        }
    }
    Err(Fault::sql(format!("others claimed world {world} {CLAIM_TRIES} times while this node tried to")))
}

pub(super) async fn release(session: &Session, me: &NodeId, world: &WorldId, generation: Generation) -> Result<(), Fault> {
    let (id, me_id, epoch) = (world.as_str(), me.0.as_str(), generation.0 as i64);
    // Nobody's already: this is the second time, perhaps after an answer that was lost.
    let released = session
        .rows(
            "UPDATE world SET owner = NULL WHERE world_id = $1 AND epoch = $3 AND (owner = $2 OR owner IS NULL) RETURNING epoch",
            &[&id, &me_id, &epoch],
        )
        .await?;
    if released.is_empty() { Err(fenced(world, generation, 0)) } else { Ok(()) }
}

fn fenced(world: &WorldId, generation: Generation, after_seq: u64) -> Fault {
    Fault::Refused(StoreError::Fenced { world: world.clone(), generation, after_seq })
}

pub(super) async fn load_keys(session: &Session, world: &WorldId) -> Result<Vec<StoredKey>, Fault> {
    let rows = session.rows("SELECT ns, k, v FROM world_kv WHERE world_id = $1", &[&world.as_str()]).await?;
    let key = |row: &Row| Ok((decode(column(row, 0)?), decode(column(row, 1)?), column(row, 2)?));
    let mut keys = rows.iter().map(key).collect::<Result<Vec<StoredKey>, Fault>>()?;
    keys.sort_unstable();
    Ok(keys)
}

pub(super) async fn load_messages(session: &Session, world: &WorldId) -> Result<Messages, Fault> {
    // One snapshot: a message must not be missed because it moved between two statements.
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    session.batch(snapshot).await?;
    let result = read_messages(session, world).await;
    session.roll_back().await;
    result
}

async fn read_messages(session: &Session, world: &WorldId) -> Result<Messages, Fault> {
    let id = world.as_str();
    let channels = session.rows("SELECT peer, sent, taken FROM channel WHERE world_id = $1 ORDER BY peer", &[&id]).await?;
    let outbox = "SELECT peer, number, data FROM outbox WHERE world_id = $1 ORDER BY peer, number";
    let inbox = "SELECT peer, number, data FROM inbox WHERE world_id = $1 ORDER BY peer, number";
    let channel = |row: &Row| Ok(Channel { peer: parsed(row, 0)?, sent: number(row, 1)?, taken: number(row, 2)? });
    let message = |row: &Row| Ok(StoredMessage { peer: parsed(row, 0)?, number: number(row, 1)?, data: column(row, 2)? });
    Ok(Messages {
        channels: channels.iter().map(channel).collect::<Result<_, Fault>>()?,
        outbox: session.rows(outbox, &[&id]).await?.iter().map(message).collect::<Result<_, Fault>>()?,
        inbox: session.rows(inbox, &[&id]).await?.iter().map(message).collect::<Result<_, Fault>>()?,
    })
}

pub(super) async fn load_checkpoints(session: &Session, world: &WorldId) -> Result<Vec<StoredCheckpoint>, Fault> {
    session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let result = read_checkpoints(session, world).await;
    session.roll_back().await;
    result
}

async fn read_checkpoints(session: &Session, world: &WorldId) -> Result<Vec<StoredCheckpoint>, Fault> {
    let id = world.as_str();
    let heads =
        session.rows("SELECT seq, name, size, parts FROM checkpoint WHERE world_id = $1 ORDER BY seq DESC", &[&id]).await?;
    let mut checkpoints = Vec::with_capacity(heads.len());
    for head in &heads {
        let (seq, name, size, parts): (i64, Option<String>, u64, u64) =
            (column(head, 0)?, column(head, 1)?, number(head, 2)?, number(head, 3)?);
        // One at a time: each statement has its own deadline.
        let rows =
            session.rows("SELECT data FROM checkpoint_part WHERE world_id = $1 AND seq = $2 ORDER BY part", &[&id, &seq]).await?;
        let mut data = Vec::new();
        for row in &rows {
            data.extend_from_slice(column::<&[u8]>(row, 0)?);
        }
        if rows.len() as u64 != parts || data.len() as u64 != size {
            // Whoever restores takes the next one.
            tracing::error!(%world, seq, parts, found = rows.len(), "a checkpoint in the database is not whole, it is left out");
            continue;
        }
        checkpoints.push(StoredCheckpoint { seq: number(head, 0)?, name: name.map(decode), data });
    }
    let first = session.rows("SELECT ckpt_seq FROM world WHERE world_id = $1", &[&id]).await?;
    if let Some(row) = first.first() {
        let first = number(row, 0)?;
        // The sort is stable.
        checkpoints.sort_by_key(|checkpoint| checkpoint.seq > first);
    }
    Ok(checkpoints)
}

pub(super) async fn list_checkpoints(session: &Session, world: &WorldId) -> Result<Vec<CheckpointEntry>, Fault> {
    let list = "SELECT seq, name, size, CAST(EXTRACT(EPOCH FROM made) * 1000 AS BIGINT) FROM checkpoint WHERE world_id = $1 \
        ORDER BY seq DESC";
    let rows = session.rows(list, &[&world.as_str()]).await?;
    let entry = |row: &Row| {
        let name = column::<Option<String>>(row, 1)?.map(decode);
        let made_ms = column::<Option<i64>>(row, 3)?.and_then(|made| u64::try_from(made).ok());
        Ok(CheckpointEntry { seq: number(row, 0)?, name, bytes: number(row, 2)?, made_ms })
    };
    rows.iter().map(entry).collect()
}

pub(super) async fn remove_checkpoints_after(
    session: &Session,
    me: &NodeId,
    world: &WorldId,
    generation: Generation,
    seq: u64,
) -> Result<(), Fault> {
    let (id, me_id, epoch) = (world.as_str(), me.0.as_str(), generation.0 as i64);
    let newest = i64::try_from(seq).unwrap_or(i64::MAX);
    session
        .transaction(async |session| {
            let fence = "UPDATE world SET ckpt_seq = $4 WHERE world_id = $1 AND owner = $2 AND epoch = $3 RETURNING epoch";
            if session.rows(fence, &[&id, &me_id, &epoch, &newest]).await?.is_empty() {
                return Err(fenced(world, generation, seq));
            }
            let heads = "DELETE FROM checkpoint WHERE world_id = $1 AND seq > $2 AND name IS NULL";
            session.rows(heads, &[&id, &newest]).await?;
            let parts =
                "DELETE FROM checkpoint_part WHERE world_id = $1 AND seq NOT IN (SELECT seq FROM checkpoint WHERE world_id = $1)";
            session.rows(parts, &[&id]).await.map(|_| ())
        })
        .await
}
