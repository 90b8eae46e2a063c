//! The embedded store: SQLite with a write-ahead log, flushed at every commit, written by one thread.
//!
//! The writer drains its queue and commits what it finds as one transaction (group commit over all worlds): the slower the disk, the
//! more worlds share a flush. Readers have a connection of their own and never wait for it.

use crate::{Batch, Claim, Done, KvWrite, Store, StoreError, StoredKey};
use aether_types::{Generation, WorldId};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// Batches that wait for the writer. Past it, tick threads wait with them.
const QUEUE_MAX: usize = 4_096;
/// Batches in one transaction: bounds how long the first waits for the last.
const GROUP_MAX: usize = 512;
/// Each waits five seconds for the lock.
const BUSY_RETRIES: usize = 6;
/// Checkpoints kept for each world.
const CHECKPOINTS_KEPT: u64 = 2;

enum Job {
    Commit(Batch, Done),
    Claim(WorldId, SyncSender<Result<Claim, StoreError>>),
    Flush(SyncSender<()>),
}

/// A store in one file.
pub struct SqliteStore {
    path: PathBuf,
    jobs: Option<SyncSender<Job>>,
    reader: Mutex<Connection>,
    writer: Option<JoinHandle<()>>,
    /// Held for the life of the store: a second process is refused.
    _lock: File,
}

impl SqliteStore {
    /// Open or make the database in a directory.
    pub fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        let path = dir.join("aether.sqlite");
        let failed = |error: &dyn std::fmt::Display| StoreError::Database { path: path.clone(), message: error.to_string() };
        std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(|e| failed(&e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Locked(dir.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            Ok(connection)
        };
        let writer = open().map_err(|e| failed(&e))?;
        writer.execute_batch(include_str!("schema.sql")).map_err(|e| failed(&e))?;
        let reader = Mutex::new(open().map_err(|e| failed(&e))?);
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let writer = Writer { connection: writer, path: path.clone() };
        let writer =
            std::thread::Builder::new().name("store".into()).spawn(move || writer.run(&queue)).map_err(|e| failed(&e))?;
        Ok(SqliteStore { path, jobs: Some(jobs), reader, writer: Some(writer), _lock: lock })
    }

    fn jobs(&self) -> Result<&SyncSender<Job>, StoreError> {
        self.jobs.as_ref().ok_or(StoreError::Closed)
    }

    fn read<R>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        f(&reader).map_err(|error| StoreError::Database { path: self.path.clone(), message: error.to_string() })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer ends when the queue is closed and empty.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Store for SqliteStore {
    fn claim(&self, world: &WorldId) -> Result<Claim, StoreError> {
        let (send, receive) = sync_channel(1);
        self.jobs()?.send(Job::Claim(world.clone(), send)).map_err(|_| StoreError::Closed)?;
        receive.recv().map_err(|_| StoreError::Closed)?
    }

    fn load_keys(&self, world: &WorldId) -> Result<Vec<StoredKey>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached("SELECT ns, k, v FROM world_kv WHERE world_id = ?1 ORDER BY ns, k")?;
            let rows = query.query_map([world.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect()
        })
    }

    fn load_checkpoints(&self, world: &WorldId) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read(|connection| {
            let mut query =
                connection.prepare_cached("SELECT seq, data FROM world_ckpt WHERE world_id = ?1 ORDER BY seq DESC")?;
            let rows = query.query_map([world.as_str()], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
            rows.collect()
        })
    }

    fn commit(&self, batch: Batch, done: Done) -> Result<(), StoreError> {
        // Waits while the queue is full: who fills it are the worlds of the thread that waits.
        self.jobs()?.send(Job::Commit(batch, done)).map_err(|_| StoreError::Closed)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let (send, receive) = sync_channel(1);
        self.jobs()?.send(Job::Flush(send)).map_err(|_| StoreError::Closed)?;
        receive.recv().map_err(|_| StoreError::Closed)
    }
}

struct Writer {
    connection: Connection,
    path: PathBuf,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut batches = Vec::new();
            let mut job = Some(first);
            let mut after = None;
            while let Some(next) = job.take() {
                match next {
                    Job::Commit(batch, done) => batches.push((batch, done)),
                    // What came before it must be done first.
                    other => {
                        after = Some(other);
                        break;
                    }
                }
                if batches.len() < GROUP_MAX {
                    job = queue.try_recv().ok();
                }
            }
            if !batches.is_empty() {
                self.commit_group(batches);
            }
            match after {
                Some(Job::Claim(world, reply)) => {
                    let _ = reply.send(self.claim(&world));
                }
                Some(Job::Flush(reply)) => {
                    let _ = reply.send(());
                }
                Some(Job::Commit(..)) | None => {}
            }
        }
    }

    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), message: error.to_string() }
    }

    fn claim(&mut self, world: &WorldId) -> Result<Claim, StoreError> {
        let run = |connection: &mut Connection| -> rusqlite::Result<Claim> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute("INSERT INTO world (world_id) VALUES (?1) ON CONFLICT DO NOTHING", [world.as_str()])?;
            let claim = transaction.query_row(
                "UPDATE world SET epoch = epoch + 1 WHERE world_id = ?1 RETURNING epoch, commit_seq",
                [world.as_str()],
                |row| {
                    Ok(Claim { generation: Generation(row.get::<_, i64>(0)? as u64), commit_seq: row.get::<_, i64>(1)? as u64 })
                },
            )?;
            transaction.commit()?;
            Ok(claim)
        };
        run(&mut self.connection).map_err(|error| self.failed(&error))
    }

    /// One transaction for all; a batch that the fence refuses writes nothing and does not hinder the others.
    fn commit_group(&mut self, batches: Vec<(Batch, Done)>) {
        let run = |connection: &mut Connection| -> rusqlite::Result<Vec<bool>> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let applied = batches.iter().map(|(batch, _)| apply(&transaction, batch)).collect::<rusqlite::Result<_>>()?;
            transaction.commit()?;
            Ok(applied)
        };
        let mut result = run(&mut self.connection);
        for _ in 0..BUSY_RETRIES {
            match &result {
                // Somebody looks at the file with another program, and holds it.
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                    result = run(&mut self.connection)
                }
                _ => break,
            }
        }
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

/// The fence, then the data. `false`: the fence refused, nothing was written.
fn apply(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<bool> {
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
    if let Some(data) = &batch.checkpoint {
        transaction
            .prepare_cached("INSERT INTO world_ckpt (world_id, seq, data) VALUES (?1, ?2, ?3)")?
            .execute(params![world, seq, data])?;
        transaction.prepare_cached("UPDATE world SET ckpt_seq = ?2 WHERE world_id = ?1")?.execute(params![world, seq])?;
        transaction
            .prepare_cached(
                "DELETE FROM world_ckpt WHERE world_id = ?1 AND seq NOT IN (SELECT seq FROM world_ckpt WHERE world_id = ?1 ORDER BY seq DESC LIMIT ?2)",
            )?
            .execute(params![world, CHECKPOINTS_KEPT as i64])?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn world(name: &str) -> WorldId {
        WorldId::new(name).unwrap()
    }

    fn batch(name: &str, claim: Claim, key: &str, value: Option<&[u8]>) -> Batch {
        let write = KvWrite { namespace: "shop".into(), key: key.into(), value: value.map(<[u8]>::to_vec) };
        Batch {
            world: world(name),
            generation: claim.generation,
            after_seq: claim.commit_seq,
            writes: vec![write],
            checkpoint: None,
        }
    }

    fn commit(store: &SqliteStore, batch: Batch) -> Result<(), StoreError> {
        let (send, receive) = channel();
        store.commit(batch, Box::new(move |result| send.send(result).unwrap()))?;
        receive.recv().unwrap()
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let mut claim = store.claim(&world("town")).unwrap();
        commit(&store, batch("town", claim, "gold", Some(b"7"))).unwrap();
        claim.commit_seq += 1;
        commit(&store, batch("town", claim, "silver", Some(b"1"))).unwrap();
        claim.commit_seq += 1;
        commit(&store, batch("town", claim, "silver", None)).unwrap();
        drop(store);
        let store = SqliteStore::open(dir.path()).unwrap();
        assert_eq!(store.load_keys(&world("town")).unwrap(), [("shop".into(), "gold".into(), b"7".to_vec())]);
        assert_eq!(store.claim(&world("town")).unwrap(), Claim { generation: Generation(2), commit_seq: 3 });
    }

    #[test]
    fn an_older_generation_and_a_repeated_batch_are_refused_and_write_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let old = store.claim(&world("town")).unwrap();
        let new = store.claim(&world("town")).unwrap();
        assert!(matches!(commit(&store, batch("town", old, "gold", Some(b"zombie"))), Err(StoreError::Fenced { .. })));
        commit(&store, batch("town", new, "gold", Some(b"7"))).unwrap();
        assert!(matches!(commit(&store, batch("town", new, "gold", Some(b"8"))), Err(StoreError::Fenced { .. })));
        assert_eq!(store.load_keys(&world("town")).unwrap()[0].2, b"7");
    }

    #[test]
    fn a_refused_batch_does_not_hinder_those_of_other_worlds_in_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let (a, b) = (store.claim(&world("a")).unwrap(), store.claim(&world("b")).unwrap());
        store.claim(&world("a")).unwrap();
        let (send, receive) = channel();
        for (name, claim) in [("a", a), ("b", b)] {
            let send = send.clone();
            store
                .commit(batch(name, claim, "k", Some(b"v")), Box::new(move |result| send.send(result.is_ok()).unwrap()))
                .unwrap();
        }
        assert_eq!((receive.recv().unwrap(), receive.recv().unwrap()), (false, true));
    }

    #[test]
    fn two_checkpoints_are_kept_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let mut claim = store.claim(&world("town")).unwrap();
        for data in [b"1", b"2", b"3"] {
            let batch = Batch { writes: Vec::new(), checkpoint: Some(data.to_vec()), ..batch("town", claim, "", None) };
            commit(&store, batch).unwrap();
            claim.commit_seq += 1;
        }
        assert_eq!(store.load_checkpoints(&world("town")).unwrap(), [(3, b"3".to_vec()), (2, b"2".to_vec())]);
    }

    #[test]
    fn a_second_process_on_one_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _store = SqliteStore::open(dir.path()).unwrap();
        assert!(matches!(SqliteStore::open(dir.path()), Err(StoreError::Locked(_))));
    }
}
