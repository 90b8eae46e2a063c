//! Durable state of worlds behind one trait: key-value data, checkpoints, who owns a world.
//!
//! Start with [`Store`]. Every write of a world carries the generation that it was claimed with and the number of the commit it
//! expects, and is refused in the same transaction if either is not the store's: a fence protects only its own transaction.
//! [`SqliteStore`] is the embedded one: one file, one writer thread, group commit. Not here: what the bytes mean.

mod sqlite;

pub use sqlite::SqliteStore;

use aether_types::{Blame, Generation, WorldId};
use std::path::PathBuf;

/// What a claim gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The fencing number: this owner's until somebody claims again.
    pub generation: Generation,
    /// The number of the last commit.
    pub commit_seq: u64,
}

/// One key's new value; `None`: deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvWrite {
    /// Whose.
    pub namespace: String,
    /// What.
    pub key: String,
    /// To what.
    pub value: Option<Vec<u8>>,
}

/// What one tick of a world makes durable. All of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The world.
    pub world: WorldId,
    /// Its owner's generation.
    pub generation: Generation,
    /// The number of the commit before this one.
    pub after_seq: u64,
    /// Keys; each at most once.
    pub writes: Vec<KvWrite>,
    /// A checkpoint, which holds everything up to this commit.
    pub checkpoint: Option<Vec<u8>>,
}

/// Told when a batch is durable, or why it is not. Called on the store's thread: it must be quick.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another owner has claimed the world: whoever asked must stop it.
    #[error(
        "world {world}: generation {generation} is not its owner any more, or commit {after_seq} is not its last: stop the world and claim it again"
    )]
    Fenced {
        /// The world.
        world: WorldId,
        /// Who asked.
        generation: Generation,
        /// What it thought was the last commit.
        after_seq: u64,
    },
    /// Another process has the data directory.
    #[error("{0} is in use by another process: one node has one data directory")]
    Locked(PathBuf),
    /// The database failed. After a failed flush nothing may be taken as written: the node must restart and read what is there.
    #[error("database {path}: {message}")]
    Database {
        /// Its file.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        Blame::Operator
    }
}

/// A stored key: namespace, key, value.
pub type StoredKey = (String, String, Vec<u8>);

/// Durable state.
pub trait Store: Send + Sync {
    /// Take a world over: its generation rises, and writes of older ones are refused from now on.
    fn claim(&self, world: &WorldId) -> Result<Claim, StoreError>;
    /// All key-value data of a world.
    fn load_keys(&self, world: &WorldId) -> Result<Vec<StoredKey>, StoreError>;
    /// The checkpoints that are kept, newest first, each with its commit's number.
    fn load_checkpoints(&self, world: &WorldId) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    /// Make a batch durable. Batches of one world are committed in the order they were given. Waits while the store's queue is full.
    fn commit(&self, batch: Batch, done: Done) -> Result<(), StoreError>;
    /// Wait until everything given so far is committed or refused.
    fn flush(&self) -> Result<(), StoreError>;
}
