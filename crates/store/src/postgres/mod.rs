//! The store of a cluster: PostgreSQL, and what speaks its protocol. Also its directory (`directory.rs`).
//!
//! Start with [`PostgresStore::open`]. One thread, "store", drives all connections and runs the committer (`writer.rs`), which has a
//! connection to itself, as the lease's renewal has one; everything else shares three. A call blocks its thread, which may be any but
//! "store" itself, until it is done or its deadline is over: three times [`PostgresOptions::statement_timeout`]. Connections are made
//! again by themselves. While the database is away, commits wait; they fail only if the fence refuses them or the database never could
//! take them. Every write of a world is by a node that has joined ([`crate::Directory::join`]).
//! Not here: SQL of worlds (`worlds.rs`), of scripts and blobs (`catalogue.rs`), the tables (`schema.rs`), what a URL may say (`url.rs`).

mod catalogue;
mod directory;
mod group;
mod link;
mod schema;
mod session;
mod text;
mod tls;
mod url;
mod worlds;
mod writer;

use crate::blobs::BLOB_BYTES_MAX;
use crate::{Batch, CheckpointEntry, Claim, Done, Messages, NodeId, Store, StoreError, StoredCheckpoint, StoredKey, VersionRow};
use aether_types::{Digest, Generation, ScriptId, Version, WorldId};
use link::{Link, Pool, Twice, block_on};
use session::{Connector, Fault, Session};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use writer::{Committer, Job};

/// Batches that wait for the committer. Past it, tick threads wait with them.
const QUEUE_MAX: usize = 8_192;
/// How long they wait: longer than a disk's hiccup, shorter than an operator's patience.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
/// How often they look for a place meanwhile.
const QUEUE_POLL: Duration = Duration::from_millis(2);
/// How long [`Store::flush`] waits for a database that is away.
const FLUSH_WAIT: Duration = Duration::from_secs(30);
/// Connections for calls. More add latency on the server and no throughput.
const CALL_CONNECTIONS: usize = 3;
/// A call's deadline: one time for it to fail, one to connect, one for the second try.
const CALL_STATEMENTS: u32 = 3;

/// What may be chosen about a store in PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Checkpoints without a name that are kept for each world; 0 counts as 1.
    pub checkpoints_kept: u32,
    /// The PostgreSQL schema that has the tables; it is made if it is not there. `None`: the role's own search path. 1 to 63 of
    /// `a-z 0-9 _`, a letter or `_` first.
    pub schema: Option<String>,
    /// The longest that one statement may take. A commit may take longer: it waits for the synchronous standby.
    pub statement_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> PostgresOptions {
        PostgresOptions { checkpoints_kept: 2, schema: None, statement_timeout: Duration::from_secs(10) }
    }
}

/// A store, and directory, in PostgreSQL.
pub struct PostgresStore {
    connector: Arc<Connector>,
    jobs: Option<mpsc::Sender<Job>>,
    pool: Pool,
    renewal: tokio::sync::Mutex<Link>,
    /// The node that this process is now.
    me: RwLock<Option<NodeId>>,
    closed: watch::Sender<bool>,
    driver: Option<JoinHandle<()>>,
    driver_id: ThreadId,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.connector.place()).finish_non_exhaustive()
    }
}

/// A database server, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// What it says that it is.
    pub version: String,
    /// A question and its answer.
    pub round_trip: Duration,
    /// By how much this machine's clock is ahead of the server's, milliseconds. Nothing depends on it, but who reads both logs does.
    pub clock_ahead_ms: i64,
    /// What may lose acknowledged writes; `true`: a mistake.
    pub findings: Vec<(String, bool)>,
}

impl PostgresStore {
    /// Connect, and make the tables that are missing. What may stand in a URL is said in `url.rs`: `postgres://USER:PASSWORD@HOST/DATABASE`
    /// with `sslmode=verify-full` unless the database is on this machine. Waits up to half a minute for a server that is just starting.
    pub fn open(url: &str, options: PostgresOptions) -> Result<PostgresStore, StoreError> {
        let refuse = |message: String| StoreError::Database { path: PathBuf::from("postgres"), message };
        let target = url::parse(url)?;
        check(&options).map_err(refuse)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| refuse(error.to_string()))?;
        let handle = runtime.handle().clone();
        let connector = Arc::new(Connector::new(target, options.schema, options.statement_timeout, handle));
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (closed, watch) = watch::channel(false);
        let committer = Committer::new(queue, connector.clone(), options.checkpoints_kept, watch);
        let driver = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || runtime.block_on(committer.run()))
            .map_err(|error| refuse(error.to_string()))?;
        let driver_id = driver.thread().id();
        // From here on dropped like any other: the thread ends.
        let store = PostgresStore {
            connector,
            jobs: Some(jobs),
            pool: Pool::new(CALL_CONNECTIONS),
            renewal: tokio::sync::Mutex::new(Link::default()),
            me: RwLock::new(None),
            closed,
            driver: Some(driver),
            driver_id,
        };
        store.blocking(schema::prepare(&store.connector))?;
        store.call(Twice::Harmless, async |session| schema::check_durability(&store.connector, session).await)?;
        Ok(store)
    }

    /// What an operator should know of this server before nodes use it.
    pub fn examine(&self) -> Result<Examination, StoreError> {
        let begun = Instant::now();
        self.call(Twice::Harmless, async |session| session.rows("SELECT 1", &[]).await)?;
        let round_trip = begun.elapsed();
        let (version, server_ms, findings) = self.call(Twice::Harmless, async |session| {
            let sql = "SELECT version(), CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT)";
            let row = session.rows(sql, &[]).await?.pop().ok_or_else(|| Fault::sql("no row"))?;
            Ok((row.get::<_, String>(0), row.get::<_, i64>(1), schema::durability(session).await?))
        })?;
        let here_ms =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
        let finding = |(setting, meaning): (&str, &str)| (format!("{setting}: {meaning}"), setting != schema::NO_STANDBY);
        Ok(Examination {
            version,
            round_trip,
            clock_ahead_ms: here_ms - server_ms,
            findings: findings.into_iter().map(finding).collect(),
        })
    }

    fn blocking<R>(&self, future: impl Future<Output = Result<R, StoreError>>) -> Result<R, StoreError> {
        if std::thread::current().id() == self.driver_id {
            return Err(self.connector.failed("a call from the store's own thread would wait for itself"));
        }
        if self.driver.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(StoreError::Closed);
        }
        block_on(self.connector.runtime(), future)
    }

    /// Something on one of the shared connections.
    fn call<R>(&self, twice: Twice, f: impl AsyncFn(&Session) -> Result<R, Fault>) -> Result<R, StoreError> {
        let deadline = Instant::now() + self.connector.statement_timeout() * CALL_STATEMENTS;
        self.blocking(self.pool.call(&self.connector, deadline, twice, f))
    }

    fn me(&self) -> Result<NodeId, StoreError> {
        let me = self.me.read().unwrap_or_else(PoisonError::into_inner).clone();
        me.ok_or_else(|| self.connector.failed("this process has not joined the cluster: a node joins before it takes worlds"))
    }

    fn send(&self, mut job: Job) -> Result<(), StoreError> {
        use mpsc::error::TrySendError;
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        let mut since = None;
        loop {
            job = match jobs.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(StoreError::Closed),
                Err(TrySendError::Full(job)) => job,
            };
            if since.get_or_insert_with(Instant::now).elapsed() >= QUEUE_WAIT {
                return Err(StoreError::Busy { queue: QUEUE_MAX, seconds: QUEUE_WAIT.as_secs() });
            }
            std::thread::sleep(QUEUE_POLL);
        }
    }
}

/// Whether the options can be used. A schema's name goes into statements as it is.
fn check(options: &PostgresOptions) -> Result<(), String> {
    if let Some(schema) = &options.schema {
        let good = |(i, b): (usize, u8)| b.is_ascii_lowercase() || b == b'_' || (i > 0 && b.is_ascii_digit());
        if schema.is_empty() || schema.len() > 63 || !schema.bytes().enumerate().all(good) {
            return Err(format!("{schema:?} is no schema: 1 to 63 of a-z, 0-9 and _, no digit first"));
        }
    }
    let limits = Duration::from_millis(100)..=Duration::from_secs(600);
    if !limits.contains(&options.statement_timeout) {
        return Err(format!("a statement timeout of {:?} is not between 100 ms and 10 minutes", options.statement_timeout));
    }
    Ok(())
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // The committer ends when its queue is empty, or a little later if the database is away.
        self.jobs = None;
        let _ = self.closed.send(true);
        if std::thread::current().id() == self.driver_id {
            return;
        }
        if let Some(driver) = self.driver.take() {
            let _ = driver.join();
        }
    }
}

impl Store for PostgresStore {
    fn claim(&self, world: &WorldId) -> Result<Claim, StoreError> {
        let me = self.me()?;
        // Twice only raises the generation once more.
        self.call(Twice::Harmless, async |session| worlds::claim(session, &me, world).await)
    }

    fn release(&self, world: &WorldId, generation: Generation) -> Result<(), StoreError> {
        let me = self.me()?;
        self.call(Twice::Harmless, async |session| worlds::release(session, &me, world, generation).await)
    }

    fn load_keys(&self, world: &WorldId) -> Result<Vec<StoredKey>, StoreError> {
        self.call(Twice::Harmless, async |session| worlds::load_keys(session, world).await)
    }

    fn load_messages(&self, world: &WorldId) -> Result<Messages, StoreError> {
        self.call(Twice::Harmless, async |session| worlds::load_messages(session, world).await)
    }

    fn load_checkpoints(&self, world: &WorldId) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.call(Twice::Harmless, async |session| worlds::load_checkpoints(session, world).await)
    }

    fn list_checkpoints(&self, world: &WorldId) -> Result<Vec<CheckpointEntry>, StoreError> {
        self.call(Twice::Harmless, async |session| worlds::list_checkpoints(session, world).await)
    }

    fn remove_checkpoints_after(&self, world: &WorldId, generation: Generation, seq: u64) -> Result<(), StoreError> {
        let me = self.me()?;
        // What was committed before must be there to be removed.
        self.flush()?;
        self.call(Twice::Harmless, async |session| worlds::remove_checkpoints_after(session, &me, world, generation, seq).await)
    }

    fn commit(&self, batch: Batch, done: Done) -> Result<(), StoreError> {
        let NodeId(owner) = self.me()?;
        self.send(Job::Commit(owner, batch, done))
    }

    fn has_room(&self) -> bool {
        self.jobs.as_ref().is_none_or(|jobs| jobs.capacity() > QUEUE_MAX / 2)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let (send, receive) = sync_channel(1);
        self.send(Job::Flush(send))?;
        receive.recv_timeout(FLUSH_WAIT).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                self.connector.failed(format!("not flushed in {} s, commits wait for it", FLUSH_WAIT.as_secs()))
            }
            RecvTimeoutError::Disconnected => StoreError::Closed,
        })
    }

    /// Without an answer it is not tried again: there may be a version that nobody knows of. [`Store::adopt_version`] finds it.
    fn add_version(&self, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, StoreError> {
        self.call(Twice::Never, async |session| catalogue::add_version(session, script, source, manifest).await)
    }

    fn adopt_version(&self, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::adopt_version(session, script, source, manifest).await)
    }

    fn versions(&self) -> Result<Vec<VersionRow>, StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::versions(session).await)
    }

    fn forget_version(&self, script: ScriptId, version: Version) -> Result<(), StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::forget_version(session, script, version).await)
    }

    fn pin(&self, script: ScriptId, version: Version, pinned: bool) -> Result<bool, StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::pin(session, script, version, pinned).await)
    }

    fn set_active(&self, script: ScriptId, version: Version) -> Result<(), StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::set_active(session, script, version).await)
    }

    fn active(&self) -> Result<Vec<(ScriptId, Version)>, StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::active(session).await)
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let len = bytes.len() as u64;
        if len > BLOB_BYTES_MAX {
            return Err(StoreError::TooLarge { bytes: len, limit: BLOB_BYTES_MAX });
        }
        let (digest, place) = (Digest::of(bytes), self.connector.place());
        self.call(Twice::Harmless, async |session| catalogue::put_blob(session, place, digest, bytes).await)?;
        Ok(digest)
    }

    fn get_blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let place = self.connector.place();
        self.call(Twice::Harmless, async |session| catalogue::get_blob(session, place, digest).await)
    }

    fn blobs(&self) -> Result<Vec<Digest>, StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::blobs(session).await)
    }

    fn remove_blob(&self, digest: Digest) -> Result<(), StoreError> {
        self.call(Twice::Harmless, async |session| catalogue::remove_blob(session, digest).await)
    }
}
