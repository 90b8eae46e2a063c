//! The thread that writes: it drains its queue, commits what it finds as one transaction, and tidies the file when there is nothing to
//! do.
//!
//! Start with [`Writer::run`]; [`apply`] is the fence and the data of one batch. Not here: who gives it work (`sqlite`).

use crate::sqlite::{Options, number};
use crate::{Batch, Channel, Claim, Done, KvWrite, MessageWrites, StoreError, StoredMessage};
use aether_types::{Generation, WorldId};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

/// Batches or claims in one transaction: bounds how long the first waits for the last.
const GROUP_MAX: usize = 512;
/// Each waits five seconds for the lock.
const BUSY_RETRIES: usize = 6;
/// Named checkpoints kept for each world; the oldest goes.
const NAMED_KEPT: u32 = 16;

/// Pages in the log that could not be copied because somebody reads: 256 MiB is worth a word to the operator.
const LOG_PAGES_WARN: i64 = 65_536;
/// How often the file is tidied at most.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// Pages given back at a time: 2 MiB, so that a batch that comes meanwhile hardly waits.
const VACUUM_PAGES: i64 = 512;
/// Free pages are kept for the next checkpoint: one part of this many of the file, and 4 MiB in any case.
const FREE_PART: i64 = 4;
const FREE_PAGES: i64 = 1_024;

/// What the writer is given.
#[expect(clippy::large_enum_variant, reason = "nearly all are commits")]
pub(crate) enum Job {
    Commit(Batch, Done),
    /// A world begins. Worlds begin in crowds.
    Claim(WorldId, SyncSender<Result<Claim, StoreError>>),
    /// Something else that writes, in a transaction of its own, after all that was given before.
    Write(Box<dyn FnOnce(&mut Writer) + Send>),
    Flush(SyncSender<()>),
}

/// What it was given, in order.
pub(crate) struct Queue {
    pub jobs: Receiver<Job>,
    /// How many there are: whoever puts one in counts it before.
    pub waiting: Arc<AtomicUsize>,
}

impl Queue {
    /// At once, or `None`.
    fn try_next(&self) -> Option<Job> {
        self.jobs.try_recv().ok().inspect(|_| self.took())
    }

    fn took(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct Writer {
    connection: Connection,
    path: PathBuf,
    checkpoints_kept: u32,
    /// Something was written since the file was tidied, or there is more to tidy.
    untidy: bool,
    tidied: Instant,
}

impl Writer {
    pub fn new(connection: Connection, path: PathBuf, options: Options) -> Writer {
        let checkpoints_kept = options.checkpoints_kept.max(1);
        Writer { connection, path, checkpoints_kept, untidy: true, tidied: Instant::now() }
    }

    pub fn run(mut self, queue: &Queue) {
        let mut after = None;
        while let Some(job) = after.take().or_else(|| self.next(queue)) {
            // What came before something of another kind must be done first.
            match job {
                Job::Commit(batch, done) => {
                    let commit = |job| if let Job::Commit(batch, done) = job { Ok((batch, done)) } else { Err(Box::new(job)) };
                    let (batches, other) = gather((batch, done), queue, commit);
                    after = other;
                    self.commit_group(batches);
                }
                Job::Claim(world, reply) => {
                    let claim = |job| if let Job::Claim(world, reply) = job { Ok((world, reply)) } else { Err(Box::new(job)) };
                    let (claims, other) = gather((world, reply), queue, claim);
                    after = other;
                    self.claim_group(claims);
                }
                Job::Write(write) => write(&mut self),
                Job::Flush(reply) => {
                    let _ = reply.send(());
                }
            }
        }
    }

    /// The next job; while there is none, the file is tidied now and then. `None`: the store was dropped, and everything is done.
    fn next(&mut self, queue: &Queue) -> Option<Job> {
        while self.untidy {
            match queue.jobs.recv_timeout(TIDY_EVERY.saturating_sub(self.tidied.elapsed())) {
                Ok(job) => {
                    queue.took();
                    return Some(job);
                }
                Err(RecvTimeoutError::Timeout) => self.tidy(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        queue.jobs.recv().ok().inspect(|_| queue.took())
    }

    /// Give the disk back what is not used. That it fails harms nobody: it is tried again after the next write.
    pub fn tidy(&mut self) {
        self.tidied = Instant::now();
        self.untidy = self.shrink().unwrap_or_else(|error| {
            tracing::warn!(path = %self.path.display(), %error, "could not tidy the database, it stays larger than it must be");
            false
        });
    }

    /// Whether there is more to do.
    pub fn shrink(&self) -> rusqlite::Result<bool> {
        let count = |pragma: &str| self.connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let spare =
            || -> rusqlite::Result<i64> { Ok(count("freelist_count")? - (count("page_count")? / FREE_PART).max(FREE_PAGES)) };
        let before = spare()?;
        if before > 0 {
            // Frees a page for each row that is asked for: `execute_batch` would free one. Does nothing in files of older builds.
            self.connection.pragma(None, "incremental_vacuum", before.min(VACUUM_PAGES), |_| Ok(()))?;
        }
        // So that the next write begins the log anew. PASSIVE: waits for nobody.
        let (log, copied) = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?;
        if log - copied > LOG_PAGES_WARN {
            let path = self.path.display();
            tracing::warn!(%path, pages = log - copied, "the database's log grows: another program reads it and does not end");
        }
        let after = spare()?;
        Ok(after > 0 && after < before)
    }

    pub fn failed(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), message: error.to_string() }
    }

    pub fn transact<R>(&mut self, f: impl Fn(&Transaction<'_>) -> rusqlite::Result<R>) -> rusqlite::Result<R> {
        self.untidy = true;
        let run = |connection: &mut Connection| -> rusqlite::Result<R> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = f(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        let mut result = run(&mut self.connection);
        for _ in 0..BUSY_RETRIES {
            match &result {
                // Somebody looks at the file with another program, and holds it.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => result = run(&mut self.connection),
                _ => break,
            }
        }
        result
    }

    fn claim_group(&mut self, claims: Vec<(WorldId, SyncSender<Result<Claim, StoreError>>)>) {
        let result = self.transact(|transaction| {
            claims.iter().map(|(world, _)| claim(transaction, world)).collect::<rusqlite::Result<Vec<Claim>>>()
        });
        let result = result.map_err(|error| self.failed(&error));
        for (i, (_, reply)) in claims.into_iter().enumerate() {
            // Who asked may have gone.
            let _ = reply.send(result.as_ref().map(|claimed| claimed[i]).map_err(StoreError::clone));
        }
    }

    /// One transaction for all; a batch that the fence refuses writes nothing and does not hinder the others.
    fn commit_group(&mut self, batches: Vec<(Batch, Done)>) {
        let kept = self.checkpoints_kept;
        let result = self.transact(|transaction| {
            batches.iter().map(|(batch, _)| apply(transaction, batch, kept)).collect::<rusqlite::Result<Vec<bool>>>()
        });
        let error = result.as_ref().err().map(|error| self.failed(error));
        for (i, (batch, done)) in batches.into_iter().enumerate() {
            done(match (&result, &error) {
                (Ok(applied), _) if applied[i] => Ok(()),
                (_, Some(error)) => Err(error.clone()),
                _ => Err(StoreError::Fenced { world: batch.world, generation: batch.generation, after_seq: batch.after_seq }),
            });
        }
    }
}

/// All of one kind that are there, with the first one; and what comes after them, which is of another.
fn gather<T>(first: T, queue: &Queue, of_kind: impl Fn(Job) -> Result<T, Box<Job>>) -> (Vec<T>, Option<Job>) {
    let mut all = vec![first];
    while all.len() < GROUP_MAX {
        match queue.try_next().map(&of_kind) {
            Some(Ok(one)) => all.push(one),
            Some(Err(other)) => return (all, Some(*other)),
            None => break,
        }
    }
    (all, None)
}

/// The world is whoever's asks last: what earlier owners write from now on is refused.
fn claim(transaction: &Transaction<'_>, world: &WorldId) -> rusqlite::Result<Claim> {
    transaction.prepare_cached("INSERT INTO world (world_id) VALUES (?1) ON CONFLICT DO NOTHING")?.execute([world.as_str()])?;
    transaction
        .prepare_cached("UPDATE world SET epoch = epoch + 1 WHERE world_id = ?1 RETURNING epoch, commit_seq")?
        .query_row([world.as_str()], |row| Ok(Claim { generation: Generation(number(row, 0)?), commit_seq: number(row, 1)? }))
}

/// The fence, then the data. `false`: the fence refused, nothing was written.
fn apply(transaction: &Transaction<'_>, batch: &Batch, checkpoints_kept: u32) -> rusqlite::Result<bool> {
    let world = batch.world.as_str();
    let mut fence = transaction
        .prepare_cached("UPDATE world SET commit_seq = commit_seq + 1 WHERE world_id = ?1 AND epoch = ?2 AND commit_seq = ?3 RETURNING commit_seq")?;
    let seq: Option<i64> =
        fence.query_row(params![world, batch.generation.0 as i64, batch.after_seq as i64], |row| row.get(0)).optional()?;
    let Some(seq) = seq else { return Ok(false) };
    for KvWrite { namespace, key, value } in &batch.writes {
        match value {
            Some(value) => transaction
                .prepare_cached(
                    "INSERT INTO world_kv (world_id, ns, k, v, seq) VALUES (?1, ?2, ?3, ?4, ?5) \
                     ON CONFLICT (world_id, ns, k) DO UPDATE SET v = excluded.v, seq = excluded.seq",
                )?
                .execute(params![world, namespace, key, value, seq])?,
            None => transaction
                .prepare_cached("DELETE FROM world_kv WHERE world_id = ?1 AND ns = ?2 AND k = ?3")?
                .execute(params![world, namespace, key])?,
        };
    }
    apply_messages(transaction, world, &batch.messages)?;
    if let Some(data) = &batch.checkpoint {
        transaction
            .prepare_cached(
                "INSERT INTO world_ckpt (world_id, seq, name, data, made_ms) \
                 VALUES (?1, ?2, ?3, ?4, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
            )?
            .execute(params![world, seq, batch.checkpoint_name, data])?;
        transaction.prepare_cached("UPDATE world SET ckpt_seq = ?2 WHERE world_id = ?1")?.execute(params![world, seq])?;
        // Those with a name and those without are counted apart.
        let (remove, kept) = if batch.checkpoint_name.is_some() {
            (
                "DELETE FROM world_ckpt WHERE world_id = ?1 AND name IS NOT NULL AND seq NOT IN \
                 (SELECT seq FROM world_ckpt WHERE world_id = ?1 AND name IS NOT NULL ORDER BY seq DESC LIMIT ?2)",
                NAMED_KEPT,
            )
        } else {
            (
                "DELETE FROM world_ckpt WHERE world_id = ?1 AND name IS NULL AND seq NOT IN \
                 (SELECT seq FROM world_ckpt WHERE world_id = ?1 AND name IS NULL ORDER BY seq DESC LIMIT ?2)",
                checkpoints_kept,
            )
        };
        transaction.prepare_cached(remove)?.execute(params![world, kept])?;
    }
    Ok(true)
}

/// What was sent and taken, then what has become of it: of one tick, something may be both.
fn apply_messages(transaction: &Transaction<'_>, world: &str, messages: &MessageWrites) -> rusqlite::Result<()> {
    for Channel { peer, sent, taken } in &messages.channels {
        transaction
            .prepare_cached(
                "INSERT INTO channel (world_id, peer, sent, taken) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (world_id, peer) DO UPDATE SET sent = excluded.sent, taken = excluded.taken",
            )?
            .execute(params![world, peer.as_str(), *sent as i64, *taken as i64])?;
    }
    let put_outbox = "INSERT INTO outbox (world_id, peer, number, data) VALUES (?1, ?2, ?3, ?4) \
        ON CONFLICT (world_id, peer, number) DO UPDATE SET data = excluded.data";
    let put_inbox = "INSERT INTO inbox (world_id, peer, number, data) VALUES (?1, ?2, ?3, ?4) \
        ON CONFLICT (world_id, peer, number) DO UPDATE SET data = excluded.data";
    for (put, kept) in [(put_outbox, &messages.sent), (put_inbox, &messages.taken)] {
        for StoredMessage { peer, number, data } in kept {
            transaction.prepare_cached(put)?.execute(params![world, peer.as_str(), *number as i64, data])?;
        }
    }
    let delivered = "DELETE FROM outbox WHERE world_id = ?1 AND peer = ?2 AND number <= ?3";
    let done = "DELETE FROM inbox WHERE world_id = ?1 AND peer = ?2 AND number = ?3";
    for (remove, gone) in [(delivered, &messages.delivered), (done, &messages.done)] {
        for (peer, number) in gone {
            transaction.prepare_cached(remove)?.execute(params![world, peer.as_str(), *number as i64])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{connect, prepare_tables};

    #[test]
    fn a_new_file_gives_back_what_was_deleted_a_part_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aether.sqlite");
        let connection = connect(&path).unwrap();
        prepare_tables(&connection).unwrap();
        let mut writer = Writer::new(connection, path, Options::default());
        let insert = "INSERT INTO world_kv (world_id, ns, k, v, seq) VALUES ('town', 'shop', 'map', zeroblob(16777216), 1)";
        for sql in [insert, "DELETE FROM world_kv"] {
            assert_eq!(writer.transact(|transaction| transaction.execute(sql, [])).unwrap(), 1);
        }
        let pages =
            |writer: &Writer| -> i64 { writer.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap() };
        let before = pages(&writer);
        writer.tidy();
        assert!(writer.untidy && (before - VACUUM_PAGES - 8..before).contains(&pages(&writer)));
        while writer.untidy {
            writer.tidy();
        }
        assert!((FREE_PAGES..FREE_PAGES + 100).contains(&pages(&writer)));
    }
}
