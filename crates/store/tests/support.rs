//! Stores to test: [`Rig`] is one place where a store is opened again and again, [`both`] runs a test on each kind.

use crate::postgres::{self, Server};
use aether_store::{
    Batch, Claim, Directory, KvWrite, MessageWrites, NodeId, NodeInfo, Options, PostgresOptions, PostgresStore, SqliteStore,
    Store, StoreError,
};
use aether_types::{ScriptId, WorldId};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

pub fn world(name: &str) -> WorldId {
    WorldId::new(name).unwrap()
}

pub fn script(name: &str) -> ScriptId {
    ScriptId::new(name).unwrap()
}

/// One place that keeps a store's data.
pub enum Rig {
    Sqlite(tempfile::TempDir),
    Postgres { server: &'static Server, schema: String, former: Mutex<Option<NodeId>> },
}

impl Rig {
    pub fn postgres() -> Rig {
        let server = postgres::shared();
        Rig::Postgres { server, schema: server.fresh_schema(), former: Mutex::new(None) }
    }

    pub fn open(&self) -> Box<dyn Store> {
        self.open_with(2)
    }

    /// A store as a process that starts has it: in PostgreSQL it is a new node, and the one of the time before is dead.
    pub fn open_with(&self, checkpoints_kept: u32) -> Box<dyn Store> {
        match self {
            Rig::Sqlite(dir) => loop {
                match SqliteStore::open_with(dir.path(), Options { checkpoints_kept }) {
                    // A program that another test starts holds every file of this process for a moment.
                    Err(StoreError::Locked(_)) => std::thread::yield_now(),
                    result => break Box::new(result.unwrap()),
                }
            },
            Rig::Postgres { server, schema, former } => {
                let options = PostgresOptions { checkpoints_kept, schema: Some(schema.clone()), ..PostgresOptions::default() };
                let store = PostgresStore::open(&server.url(), options).unwrap();
                let id = store.join(&info("n1"), LONG).unwrap();
                if let Some(former) = former.lock().unwrap().replace(id) {
                    store.bury(&former).unwrap();
                }
                Box::new(store)
            }
        }
    }
}

/// The rule holds for both.
pub fn both(test: impl Fn(&Rig)) {
    test(&Rig::Sqlite(tempfile::tempdir().unwrap()));
    test(&Rig::postgres());
}

/// A cluster's database: several nodes open it.
pub struct Cluster {
    pub server: &'static Server,
    pub schema: String,
}

impl Cluster {
    pub fn new() -> Cluster {
        let server = postgres::shared();
        Cluster { server, schema: server.fresh_schema() }
    }

    pub fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.server.url(), self.options()).unwrap()
    }

    pub fn options(&self) -> PostgresOptions {
        PostgresOptions { schema: Some(self.schema.clone()), ..PostgresOptions::default() }
    }

    /// A store that has joined.
    pub fn node(&self, name: &str) -> (PostgresStore, NodeId) {
        let store = self.open();
        let id = store.join(&info(name), LONG).unwrap();
        (store, id)
    }

    /// SQL in its schema.
    pub fn sql(&self, sql: &str) -> Vec<String> {
        self.server.sql(&format!("SET search_path TO {}; {sql}", self.schema))
    }
}

pub fn info(name: &str) -> NodeInfo {
    NodeInfo { name: name.into(), address: "127.0.0.1:1".into(), build: "test".into(), worlds_max: 100, capacity: 1.5 }
}

pub fn empty(name: &str, claim: Claim) -> Batch {
    Batch {
        world: world(name),
        generation: claim.generation,
        after_seq: claim.commit_seq,
        writes: Vec::new(),
        messages: MessageWrites::default(),
        checkpoint: None,
        checkpoint_name: None,
    }
}

pub fn batch(name: &str, claim: Claim, key: &str, value: Option<&[u8]>) -> Batch {
    let write = KvWrite { namespace: "shop".into(), key: key.into(), value: value.map(<[u8]>::to_vec) };
    Batch { writes: vec![write], ..empty(name, claim) }
}

/// Begin a commit; its answer comes here.
pub fn start<S: Store + ?Sized>(store: &S, batch: Batch) -> Receiver<Result<(), StoreError>> {
    let (send, receive) = channel();
    store.commit(batch, Box::new(move |result| drop(send.send(result)))).unwrap();
    receive
}

/// A commit and its answer.
pub fn commit<S: Store + ?Sized>(store: &S, batch: Batch) -> Result<(), StoreError> {
    start(store, batch).recv().unwrap()
}

/// A commit that succeeds.
pub fn go<S: Store + ?Sized>(store: &S, batch: Batch, claim: &mut Claim) {
    commit(store, batch).unwrap();
    claim.commit_seq += 1;
}
