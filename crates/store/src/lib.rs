//! Durable state behind one trait: key-value data and checkpoints of worlds, who owns a world, the catalogue of scripts.
//!
//! Start with [`Store`]. Every write of a world carries the generation that it was claimed with and the number of the commit it
//! expects, and is refused in the same transaction if either is not the store's: a fence protects only its own transaction.
//! [`SqliteStore`] is the embedded one: one file, one writer thread, group commit, and blobs in files of their own (`blobs.rs`).
//! [`PostgresStore`] is that of a cluster, and the cluster's [`Directory`] too: a fence and the data that it protects are in one database.
//! Not here: what the bytes mean, and which versions are worth keeping.

mod blobs;
mod directory;
mod postgres;
mod sqlite;
mod writer;

pub use directory::{Directory, NodeId, NodeInfo, NodeRow, NodeState, ReloadPhase, ReloadRow, WorldRow};
pub use postgres::{Examination, PostgresOptions, PostgresStore};
pub use sqlite::{Options, SqliteStore};

use aether_types::{Blame, Digest, Generation, ScriptId, Version, WorldId};
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

/// How far the messages between a world and one other world have come. Both numbers begin at 0 and count messages, each direction
/// its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The other world.
    pub peer: WorldId,
    /// The last message that was sent to it.
    pub sent: u64,
    /// The last message from it that was taken.
    pub taken: u64,
}

/// A message on its way from or to another world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The other world.
    pub peer: WorldId,
    /// Its number, of those to (outbox) or from (inbox) that world.
    pub number: u64,
    /// What.
    pub data: Vec<u8>,
}

/// What a tick changes about a world's messages to and from other worlds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageWrites {
    /// New values; each peer at most once.
    pub channels: Vec<Channel>,
    /// Sent in this tick, and kept until the other world has them.
    pub sent: Vec<StoredMessage>,
    /// The other world has those up to and with this number: they go.
    pub delivered: Vec<(WorldId, u64)>,
    /// Taken, but no script has done with them yet: kept until then.
    pub taken: Vec<StoredMessage>,
    /// Done with, of those that are kept.
    pub done: Vec<(WorldId, u64)>,
}

impl MessageWrites {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
            && self.sent.is_empty()
            && self.delivered.is_empty()
            && self.taken.is_empty()
            && self.done.is_empty()
    }
}

/// A world's messages, as its store has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    /// By peer.
    pub channels: Vec<Channel>,
    /// Not known to have arrived; by peer and number.
    pub outbox: Vec<StoredMessage>,
    /// Taken and not done with; by peer and number.
    pub inbox: Vec<StoredMessage>,
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
    /// To and from other worlds.
    pub messages: MessageWrites,
    /// A checkpoint, which holds everything up to this commit.
    pub checkpoint: Option<Vec<u8>>,
    /// What an operator calls this checkpoint: it is kept beside those that come by themselves. Nothing without a checkpoint.
    pub checkpoint_name: Option<String>,
}

/// A checkpoint that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The number of its commit.
    pub seq: u64,
    /// What an operator called it; `None`: it was made by itself.
    pub name: Option<String>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// A version of a script in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// The script.
    pub script: ScriptId,
    /// Its number.
    pub version: Version,
    /// The blob of its source.
    pub source: Digest,
    /// Its manifest, as it was published.
    pub manifest: String,
    /// An operator wants it kept.
    pub pinned: bool,
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
        /// What it thought was the last commit, or wanted to be the last checkpoint.
        after_seq: u64,
    },
    /// Another node runs the world, and is not known to be dead.
    #[error("world {world} belongs to node {owner}, which is not dead: it must release it, or its lease must lapse")]
    Owned {
        /// The world.
        world: WorldId,
        /// The node.
        owner: String,
    },
    /// This node's lease was lost: the others think it dead. It must drop its worlds and join again as a new one.
    #[error("node {0} was declared dead: it stops its worlds and joins again")]
    DeclaredDead(String),
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
    /// The writer did not keep up.
    #[error(
        "the store's queue of {queue} was full for {seconds} s: its disk is too slow for the worlds, or another program holds it"
    )]
    Busy {
        /// How much waits.
        queue: usize,
        /// How long there was no place.
        seconds: u64,
    },
    /// A blob is not what its name says.
    #[error("{path} does not hold the bytes of {digest}: publish it again or delete the file")]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// What should be in it.
        digest: Digest,
    },
    /// A blob that nobody should want to keep.
    #[error("{bytes} bytes are over the limit of {limit} for a blob: make it smaller")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most that is kept.
        limit: u64,
    },
    /// A file or directory of blobs cannot be used.
    #[error("could not use {path}: {message}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A version that is not in the catalogue.
    #[error("script {script} has no version {version}: publish it first, or choose one that is listed")]
    NoVersion {
        /// The script.
        script: ScriptId,
        /// Who asked for it meant this one.
        version: Version,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            StoreError::TooLarge { .. } => Blame::Script,
            StoreError::Fenced { .. }
            | StoreError::Owned { .. }
            | StoreError::DeclaredDead(_)
            | StoreError::Locked(_)
            | StoreError::Database { .. }
            | StoreError::Busy { .. }
            | StoreError::Damaged { .. }
            | StoreError::File { .. }
            | StoreError::NoVersion { .. }
            | StoreError::Closed => Blame::Operator,
        }
    }
}

/// A stored key: namespace, key, value.
pub type StoredKey = (String, String, Vec<u8>);

/// A checkpoint in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointEntry {
    /// The number of its commit.
    pub seq: u64,
    /// An operator's name for it.
    pub name: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// When it was written by the database's clock, milliseconds since 1970; `None`: by a build that did not note it.
    pub made_ms: Option<u64>,
}

/// Durable state. What returns no [`Done`] is durable when it returns.
pub trait Store: Send + Sync {
    /// Take a world over: its generation rises, and writes of older ones are refused from now on. In a cluster refused while another
    /// node has it.
    fn claim(&self, world: &WorldId) -> Result<Claim, StoreError>;
    /// Nobody runs it from now on, so that somebody else may. Refused if the generation is not the world's any more. Everything that
    /// was committed for it must be durable before.
    fn release(&self, world: &WorldId, generation: Generation) -> Result<(), StoreError>;
    /// All key-value data of a world.
    fn load_keys(&self, world: &WorldId) -> Result<Vec<StoredKey>, StoreError>;
    /// Its messages to and from other worlds.
    fn load_messages(&self, world: &WorldId) -> Result<Messages, StoreError>;
    /// The checkpoints that are kept, in the order in which a start tries them: newest first. Only after an older one was
    /// restored ([`Store::remove_checkpoints_after`]) do named ones that are newer than that one come last.
    fn load_checkpoints(&self, world: &WorldId) -> Result<Vec<StoredCheckpoint>, StoreError>;
    /// The checkpoints that are kept without their bytes, newest first.
    fn list_checkpoints(&self, world: &WorldId) -> Result<Vec<CheckpointEntry>, StoreError>;
    /// Go back to the checkpoint of commit `seq`: newer ones without a name are removed, newer ones with a name are not tried
    /// first any more. Refused if the generation is not the world's.
    fn remove_checkpoints_after(&self, world: &WorldId, generation: Generation, seq: u64) -> Result<(), StoreError>;
    /// Make a batch durable. Batches of one world are committed in the order they were given. Waits while the store's queue is
    /// full, but ten seconds at most. After an error `done` is not called.
    fn commit(&self, batch: Batch, done: Done) -> Result<(), StoreError>;
    /// Whether less than half of what may wait to be committed does. Who can wait with what it has should, when there is no room.
    fn has_room(&self) -> bool {
        true
    }
    /// Wait until everything given so far is committed or refused.
    fn flush(&self) -> Result<(), StoreError>;

    /// Write down the next version of a script: its number is never used again, also not after it was forgotten.
    fn add_version(&self, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, StoreError>;
    /// The version with this source and manifest, the newest if there are several; a new one, as by [`Store::add_version`], if there is
    /// none. Of those who ask for the same at once one makes it and all get it.
    fn adopt_version(&self, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, StoreError>;
    /// All versions of all scripts, by script and version.
    fn versions(&self) -> Result<Vec<VersionRow>, StoreError>;
    /// Take a version out of the catalogue, if it is there. If it was the active one, the script has none now. Its blob stays.
    fn forget_version(&self, script: ScriptId, version: Version) -> Result<(), StoreError>;
    /// Mark a version as wanted, or not any more. `false`: there is no such version.
    fn pin(&self, script: ScriptId, version: Version, pinned: bool) -> Result<bool, StoreError>;
    /// The version of a script that worlds run from now on. Refused if it is not in the catalogue.
    fn set_active(&self, script: ScriptId, version: Version) -> Result<(), StoreError>;
    /// The active version of each script that has one, by script.
    fn active(&self) -> Result<Vec<(ScriptId, Version)>, StoreError>;

    /// Put bytes under their digest. Nothing happens if they are there already; what is there is replaced if it is damaged.
    fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError>;
    /// The bytes of a digest, checked. `None`: there are none.
    fn get_blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError>;
    /// All digests that have a blob, in order, unchecked.
    fn blobs(&self) -> Result<Vec<Digest>, StoreError>;
    /// Remove a blob, if it is there.
    fn remove_blob(&self, digest: Digest) -> Result<(), StoreError>;
}
