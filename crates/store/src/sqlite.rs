//! The embedded store: SQLite with a write-ahead log, flushed at every commit, written by one thread.
//!
//! The writer drains its queue and commits what it finds as one transaction (group commit over all worlds): the slower the disk,
//! the more worlds share a flush. Everything else that writes comes through the same queue: no two transactions want the lock at
//! once. Readers have a connection of their own and never wait for it. Blobs are not in the database.

use crate::blobs::BlobFiles;
use crate::writer::{Job, Queue, Writer};
use crate::{
    Batch, Channel, CheckpointEntry, Claim, Done, Messages, Store, StoreError, StoredCheckpoint, StoredKey, StoredMessage,
    VersionRow,
};
use aether_types::{Digest, Generation, ScriptId, Version, WorldId};
use rusqlite::config::DbConfig;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Batches that wait for the writer. Past it, tick threads wait with them.
const QUEUE_MAX: usize = 8_192;
/// How long they wait: longer than a disk's hiccup, shorter than an operator's patience.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
/// How often they look for a place meanwhile.
const QUEUE_POLL: Duration = Duration::from_millis(2);
/// Pages in the log after which a commit copies them into the file: 4 MiB is quick, and a page written often is copied once.
const LOG_PAGES: i64 = 1_000;
/// The log's file is cut to this when it begins anew: large checkpoints make it large, and it would stay so.
const LOG_BYTES_MAX: i64 = 64 << 20;

/// What may be chosen about a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Checkpoints without a name that are kept for each world; 0 counts as 1.
    pub checkpoints_kept: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { checkpoints_kept: 2 }
    }
}

/// A store in one file, and blobs beside it.
pub struct SqliteStore {
    path: PathBuf,
    jobs: Option<SyncSender<Job>>,
    /// How many of them wait, or are about to.
    waiting: Arc<AtomicUsize>,
    reader: Mutex<Connection>,
    blobs: BlobFiles,
    writer: Option<JoinHandle<()>>,
    /// Held for the life of the store: a second process is refused.
    _lock: File,
}

impl SqliteStore {
    /// Open or make the database in a directory.
    pub fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        SqliteStore::open_with(dir, Options::default())
    }

    /// The same with other options than the default ones.
    pub fn open_with(dir: &Path, options: Options) -> Result<SqliteStore, StoreError> {
        let path = dir.join("aether.sqlite");
        let failed = |error: &dyn std::fmt::Display| StoreError::Database { path: path.clone(), message: error.to_string() };
        std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(|e| failed(&e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Locked(dir.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let blobs = BlobFiles::open(&dir.join("blobs"))?;
        let connection = connect(&path).map_err(|e| failed(&e))?;
        prepare_tables(&connection).map_err(|e| failed(&e))?;
        let reader = Mutex::new(connect(&path).map_err(|e| failed(&e))?);
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let waiting = Arc::<AtomicUsize>::default();
        let queue = Queue { jobs: queue, waiting: Arc::clone(&waiting) };
        let writer = Writer::new(connection, path.clone(), options);
        let writer =
            std::thread::Builder::new().name("store".into()).spawn(move || writer.run(&queue)).map_err(|e| failed(&e))?;
        Ok(SqliteStore { path, jobs: Some(jobs), waiting, reader, blobs, writer: Some(writer), _lock: lock })
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        // Before it can be taken out.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = send_within(self.jobs.as_ref().ok_or(StoreError::Closed)?, job, QUEUE_WAIT);
        if sent.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    fn read<R>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        f(&reader).map_err(|error| StoreError::Database { path: self.path.clone(), message: error.to_string() })
    }

    /// A transaction on the writer's thread; durable when this returns. `f` may run more than once, each time from the beginning.
    fn write<R: Send + 'static>(
        &self,
        f: impl Fn(&Transaction<'_>) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (send, receive) = sync_channel(1);
        self.send(Job::Write(Box::new(move |writer: &mut Writer| {
            let result = writer.transact(&f).map_err(|error| writer.failed(&error));
            let _ = send.send(result);
        })))?;
        receive.recv().map_err(|_| StoreError::Closed)?
    }
}

/// `SyncSender` can wait for ever or not at all; a tick thread must not wait for ever.
fn send_within(jobs: &SyncSender<Job>, mut job: Job, limit: Duration) -> Result<(), StoreError> {
    let mut since = None;
    loop {
        job = match jobs.try_send(job) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Disconnected(_)) => return Err(StoreError::Closed),
            Err(TrySendError::Full(job)) => job,
        };
        if since.get_or_insert_with(Instant::now).elapsed() >= limit {
            return Err(StoreError::Busy { queue: QUEUE_MAX, seconds: limit.as_secs() });
        }
        std::thread::sleep(QUEUE_POLL);
    }
}

pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // Else a statement is planned anew each time that it is given another world, lest another plan were better. There is one plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    if connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))? == 0 {
        // Free pages can be given back to the disk. Only an empty file can be made so, and what comes next writes its first page.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A commit that fills the log empties it (it waits for no reader), so the log is as long as one burst, not as one run.
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    // What one great burst made of the log's file is cut off when the log begins anew.
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
    Ok(connection)
}

/// The tables, and what files of older builds lack.
pub(crate) fn prepare_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(include_str!("schema.sql"))?;
    for (column, of_type) in [("name", "TEXT"), ("made_ms", "BIGINT")] {
        let known = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('world_ckpt') WHERE name = ?1)";
        if !connection.query_row(known, [column], |row| row.get::<_, bool>(0))? {
            connection.execute_batch(&format!("ALTER TABLE world_ckpt ADD COLUMN {column} {of_type}"))?;
        }
    }
    Ok(())
}

/// A column that holds an id or a digest as text.
fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse::<T>().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(crate) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number as u64)
}

fn insert_version(transaction: &Transaction<'_>, script: ScriptId, source: Digest, manifest: &str) -> rusqlite::Result<Version> {
    let version: u32 = transaction.query_row(
        "INSERT INTO script (script_id, last_version) VALUES (?1, 1) \
         ON CONFLICT (script_id) DO UPDATE SET last_version = script.last_version + 1 RETURNING last_version",
        [script.as_str()],
        |row| row.get(0),
    )?;
    transaction.execute(
        "INSERT INTO artifact (script_id, version, source, manifest) VALUES (?1, ?2, ?3, ?4)",
        params![script.as_str(), version, source.to_string(), manifest],
    )?;
    Ok(Version(version))
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
        self.send(Job::Claim(world.clone(), send))?;
        receive.recv().map_err(|_| StoreError::Closed)?
    }

    fn release(&self, world: &WorldId, generation: Generation) -> Result<(), StoreError> {
        // There is nobody else, so nothing is written. On the writer's thread: after what was given before.
        let id = world.clone();
        let owned = self.write(move |transaction| {
            transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM world WHERE world_id = ?1 AND epoch = ?2)",
                params![id.as_str(), generation.0 as i64],
                |row| row.get(0),
            )
        })?;
        if owned { Ok(()) } else { Err(StoreError::Fenced { world: world.clone(), generation, after_seq: 0 }) }
    }

    fn load_keys(&self, world: &WorldId) -> Result<Vec<StoredKey>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached("SELECT ns, k, v FROM world_kv WHERE world_id = ?1 ORDER BY ns, k")?;
            let rows = query.query_map([world.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect()
        })
    }

    fn load_messages(&self, world: &WorldId) -> Result<Messages, StoreError> {
        self.read(|connection| {
            // One snapshot of the three tables.
            let transaction = connection.unchecked_transaction()?;
            let mut query =
                transaction.prepare_cached("SELECT peer, sent, taken FROM channel WHERE world_id = ?1 ORDER BY peer")?;
            let channels = query.query_map([world.as_str()], |row| {
                Ok(Channel { peer: parsed(row, 0)?, sent: number(row, 1)?, taken: number(row, 2)? })
            })?;
            let messages = |sql| -> rusqlite::Result<Vec<StoredMessage>> {
                let mut query = transaction.prepare_cached(sql)?;
                let rows = query.query_map([world.as_str()], |row| {
                    Ok(StoredMessage { peer: parsed(row, 0)?, number: number(row, 1)?, data: row.get(2)? })
                })?;
                rows.collect()
            };
            Ok(Messages {
                channels: channels.collect::<rusqlite::Result<_>>()?,
                outbox: messages("SELECT peer, number, data FROM outbox WHERE world_id = ?1 ORDER BY peer, number")?,
                inbox: messages("SELECT peer, number, data FROM inbox WHERE world_id = ?1 ORDER BY peer, number")?,
            })
        })
    }

    fn load_checkpoints(&self, world: &WorldId) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.read(|connection| {
            let mut query =
                connection.prepare_cached("SELECT seq, name, data FROM world_ckpt WHERE world_id = ?1 ORDER BY seq DESC")?;
            let rows = query.query_map([world.as_str()], |row| {
                Ok(StoredCheckpoint { seq: number(row, 0)?, name: row.get(1)?, data: row.get(2)? })
            })?;
            let mut checkpoints = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let first = connection
                .prepare_cached("SELECT ckpt_seq FROM world WHERE world_id = ?1")?
                .query_row([world.as_str()], |row| number(row, 0))
                .optional()?;
            // Here and not in SQL, which would sort megabytes. The sort is stable.
            if let Some(first) = first {
                checkpoints.sort_by_key(|checkpoint| checkpoint.seq > first);
            }
            Ok(checkpoints)
        })
    }

    fn list_checkpoints(&self, world: &WorldId) -> Result<Vec<CheckpointEntry>, StoreError> {
        self.read(|connection| {
            let list = "SELECT seq, name, length(data), made_ms FROM world_ckpt WHERE world_id = ?1 ORDER BY seq DESC";
            let mut query = connection.prepare(list)?;
            let entry = |row: &Row<'_>| {
                let made_ms = row.get::<_, Option<i64>>(3)?.and_then(|made| u64::try_from(made).ok());
                Ok(CheckpointEntry { seq: number(row, 0)?, name: row.get(1)?, bytes: number(row, 2)?, made_ms })
            };
            query.query_map([world.as_str()], entry)?.collect()
        })
    }

    fn remove_checkpoints_after(&self, world: &WorldId, generation: Generation, seq: u64) -> Result<(), StoreError> {
        let id = world.clone();
        let newest = i64::try_from(seq).unwrap_or(i64::MAX);
        let owned = self.write(move |transaction| {
            let owner = transaction.execute(
                "UPDATE world SET ckpt_seq = ?3 WHERE world_id = ?1 AND epoch = ?2",
                params![id.as_str(), generation.0 as i64, newest],
            )?;
            if owner == 0 {
                return Ok(false);
            }
            transaction.execute(
                "DELETE FROM world_ckpt WHERE world_id = ?1 AND seq > ?2 AND name IS NULL",
                params![id.as_str(), newest],
            )?;
            Ok(true)
        })?;
        if owned { Ok(()) } else { Err(StoreError::Fenced { world: world.clone(), generation, after_seq: seq }) }
    }

    fn commit(&self, batch: Batch, done: Done) -> Result<(), StoreError> {
        // Waits while the queue is full: who fills it are the worlds of the thread that waits.
        self.send(Job::Commit(batch, done))
    }

    fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < QUEUE_MAX / 2
    }

    fn flush(&self) -> Result<(), StoreError> {
        let (send, receive) = sync_channel(1);
        self.send(Job::Flush(send))?;
        receive.recv().map_err(|_| StoreError::Closed)
    }

    fn add_version(&self, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, StoreError> {
        let manifest = manifest.to_owned();
        self.write(move |transaction| insert_version(transaction, script, source, &manifest))
    }

    fn adopt_version(&self, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, StoreError> {
        let manifest = manifest.to_owned();
        // On the writer's thread, and so one after the other.
        self.write(move |transaction| {
            let found: Option<u32> = transaction.query_row(
                "SELECT MAX(version) FROM artifact WHERE script_id = ?1 AND source = ?2 AND manifest = ?3",
                params![script.as_str(), source.to_string(), manifest],
                |row| row.get(0),
            )?;
            found.map_or_else(|| insert_version(transaction, script, source, &manifest), |version| Ok(Version(version)))
        })
    }

    fn versions(&self) -> Result<Vec<VersionRow>, StoreError> {
        self.read(|connection| {
            let mut query = connection
                .prepare("SELECT script_id, version, source, manifest, pinned FROM artifact ORDER BY script_id, version")?;
            let rows = query.query_map([], |row| {
                Ok(VersionRow {
                    script: parsed(row, 0)?,
                    version: Version(row.get(1)?),
                    source: parsed(row, 2)?,
                    manifest: row.get(3)?,
                    pinned: row.get(4)?,
                })
            })?;
            rows.collect()
        })
    }

    fn forget_version(&self, script: ScriptId, version: Version) -> Result<(), StoreError> {
        self.write(move |transaction| {
            transaction
                .execute("DELETE FROM artifact WHERE script_id = ?1 AND version = ?2", params![script.as_str(), version.0])?;
            transaction.execute(
                "UPDATE script SET active = NULL WHERE script_id = ?1 AND active = ?2",
                params![script.as_str(), version.0],
            )?;
            Ok(())
        })
    }

    fn pin(&self, script: ScriptId, version: Version, pinned: bool) -> Result<bool, StoreError> {
        self.write(move |transaction| {
            let rows = transaction.execute(
                "UPDATE artifact SET pinned = ?3 WHERE script_id = ?1 AND version = ?2",
                params![script.as_str(), version.0, pinned],
            )?;
            Ok(rows == 1)
        })
    }

    fn set_active(&self, script: ScriptId, version: Version) -> Result<(), StoreError> {
        let rows = self.write(move |transaction| {
            transaction.execute(
                "UPDATE script SET active = ?2 WHERE script_id = ?1 \
                 AND EXISTS (SELECT 1 FROM artifact WHERE artifact.script_id = ?1 AND artifact.version = ?2)",
                params![script.as_str(), version.0],
            )
        })?;
        if rows == 1 { Ok(()) } else { Err(StoreError::NoVersion { script, version }) }
    }

    fn active(&self) -> Result<Vec<(ScriptId, Version)>, StoreError> {
        self.read(|connection| {
            let mut query =
                connection.prepare("SELECT script_id, active FROM script WHERE active IS NOT NULL ORDER BY script_id")?;
            let rows = query.query_map([], |row| Ok((parsed(row, 0)?, Version(row.get(1)?))))?;
            rows.collect()
        })
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.blobs.put(bytes)
    }

    fn get_blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.blobs.get(digest)
    }

    fn blobs(&self) -> Result<Vec<Digest>, StoreError> {
        self.blobs.list()
    }

    fn remove_blob(&self, digest: Digest) -> Result<(), StoreError> {
        self.blobs.remove(digest)
    }
}

/// What is this store's alone; what every store keeps is in `tests/suite.rs`.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::MessageWrites;
    use std::sync::mpsc::channel;

    fn world(name: &str) -> WorldId {
        WorldId::new(name).unwrap()
    }

    /// A checkpoint of the town in a commit of its own.
    fn checkpoint(store: &SqliteStore, claim: Claim, name: &str, messages: MessageWrites) {
        let (send, receive) = channel();
        let batch = Batch {
            world: world("town"),
            generation: claim.generation,
            after_seq: claim.commit_seq,
            writes: Vec::new(),
            messages,
            checkpoint: Some(b"2".to_vec()),
            checkpoint_name: Some(name.to_owned()),
        };
        store.commit(batch, Box::new(move |result| send.send(result).unwrap())).unwrap();
        receive.recv().unwrap().unwrap();
    }

    #[test]
    fn a_file_from_before_checkpoints_had_names_and_worlds_had_messages_opens() {
        let dir = tempfile::tempdir().unwrap();
        let old = Connection::open(dir.path().join("aether.sqlite")).unwrap();
        old.execute_batch(
            "CREATE TABLE world (world_id TEXT PRIMARY KEY, epoch BIGINT NOT NULL DEFAULT 0, \
               commit_seq BIGINT NOT NULL DEFAULT 0, ckpt_seq BIGINT NOT NULL DEFAULT 0); \
             CREATE TABLE world_ckpt (world_id TEXT NOT NULL, seq BIGINT NOT NULL, data BLOB NOT NULL, \
               PRIMARY KEY (world_id, seq)); \
             INSERT INTO world VALUES ('town', 1, 1, 1); \
             INSERT INTO world_ckpt VALUES ('town', 1, x'31');",
        )
        .unwrap();
        drop(old);
        // Twice: what was added once is not added again.
        drop(SqliteStore::open(dir.path()).unwrap());
        let store = SqliteStore::open(dir.path()).unwrap();
        let claim = store.claim(&world("town")).unwrap();
        let sent = StoredMessage { peer: world("mill"), number: 1, data: b"hello".to_vec() };
        checkpoint(&store, claim, "first", MessageWrites { sent: vec![sent.clone()], ..MessageWrites::default() });
        let kept = store.load_checkpoints(&world("town")).unwrap();
        let kept: Vec<_> = kept.iter().map(|checkpoint| (checkpoint.seq, checkpoint.name.as_deref())).collect();
        assert_eq!(kept, [(2, Some("first")), (1, None)]);
        let made: Vec<_> = store.list_checkpoints(&world("town")).unwrap().iter().map(|entry| entry.made_ms.is_some()).collect();
        assert_eq!(made, [true, false]);
        assert_eq!(store.load_messages(&world("town")).unwrap().outbox, [sent]);
    }

    #[test]
    fn worlds_that_are_claimed_at_once_have_each_generation_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = &SqliteStore::open(dir.path()).unwrap();
        let claimed: Vec<_> = std::thread::scope(|scope| {
            let claims = (0..32).map(|n| (n % 4, scope.spawn(move || store.claim(&world(["a", "b", "c", "d"][n % 4])).unwrap())));
            let claims: Vec<_> = claims.collect();
            claims.into_iter().map(|(of, claim)| (of, claim.join().unwrap().generation.0)).collect()
        });
        for of in 0..4 {
            let mut generations: Vec<_> = claimed.iter().filter(|(world, _)| *world == of).map(|(_, number)| *number).collect();
            generations.sort_unstable();
            assert_eq!(generations, [1, 2, 3, 4, 5, 6, 7, 8]);
        }
    }

    #[test]
    fn a_second_process_on_one_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _store = SqliteStore::open(dir.path()).unwrap();
        assert!(matches!(SqliteStore::open(dir.path()), Err(StoreError::Locked(_))));
    }

    #[test]
    fn blobs_are_found_beside_the_database_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let digest = SqliteStore::open(dir.path()).unwrap().put_blob(b"wasm").unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        assert!(dir.path().join("blobs").join(digest.to_string()).is_file());
        assert_eq!(store.blobs().unwrap(), [digest]);
        assert_eq!(store.get_blob(digest).unwrap(), Some(b"wasm".to_vec()));
        store.remove_blob(digest).unwrap();
        assert!(store.blobs().unwrap().is_empty());
    }

    #[test]
    fn a_full_queue_is_an_error_when_the_time_is_over() {
        let (jobs, queue) = sync_channel(1);
        let flush = || Job::Flush(sync_channel(1).0);
        send_within(&jobs, flush(), Duration::ZERO).unwrap();
        assert!(matches!(send_within(&jobs, flush(), Duration::ZERO), Err(StoreError::Busy { .. })));
        drop(queue);
        assert!(matches!(send_within(&jobs, flush(), Duration::ZERO), Err(StoreError::Closed)));
    }
}
