//! Random runs of claims, commits, releases and deaths against a model of what a store has to answer.

use crate::support::{Cluster, LONG, Rig, empty, info, world};
use aether_store::{
    Batch, Channel, Claim, Directory, KvWrite, MessageWrites, NodeId, PostgresStore, Store, StoreError, StoredMessage,
};
use aether_types::Generation;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A key of few, so that they meet.
type Key = u8;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A node claims a world.
    Claim(usize, usize),
    /// A node commits batches of a world one after the other without waiting, with what it last claimed.
    Commit(usize, usize, Vec<Writes>),
    /// The same with a number that is wrong by so much.
    Wrong(usize, usize, u64),
    Release(usize, usize),
    /// A node dies and joins again.
    Rebirth(usize),
}

/// Of one batch.
#[derive(Debug, Clone)]
struct Writes {
    keys: BTreeMap<Key, Option<u8>>,
    send: bool,
    delivered: Option<u64>,
    take: bool,
    done: Option<u64>,
}

fn writes() -> impl Strategy<Value = Writes> {
    let keys = prop::collection::btree_map(0..4u8, prop::option::of(any::<u8>()), 0..3);
    (keys, any::<bool>(), prop::option::of(0..8u64), any::<bool>(), prop::option::of(0..8u64))
        .prop_map(|(keys, send, delivered, take, done)| Writes { keys, send, delivered, take, done })
}

fn step(nodes: usize) -> impl Strategy<Value = Step> {
    let place = || (0..nodes, 0..2usize);
    prop_oneof![
        3 => place().prop_map(|(n, w)| Step::Claim(n, w)),
        6 => (place(), prop::collection::vec(writes(), 1..5)).prop_map(|((n, w), all)| Step::Commit(n, w, all)),
        1 => (place(), 1..3u64).prop_map(|((n, w), by)| Step::Wrong(n, w, by)),
        1 => place().prop_map(|(n, w)| Step::Release(n, w)),
        1 => (0..nodes).prop_map(Step::Rebirth),
    ]
}

/// A world as it has to be.
#[derive(Debug, Default)]
struct Wanted {
    /// The number of a node's life.
    owner: Option<u32>,
    generation: u64,
    seq: u64,
    keys: BTreeMap<Key, u8>,
    sent: u64,
    taken: u64,
    outbox: BTreeMap<u64, u8>,
    inbox: BTreeMap<u64, u8>,
}

impl Wanted {
    /// What a batch writes, and what it makes of the model.
    fn apply(&mut self, writes: &Writes) -> (Vec<KvWrite>, MessageWrites) {
        let peer = || world("peer");
        let kv = |(key, value): (&Key, &Option<u8>)| KvWrite {
            namespace: "ns".into(),
            key: char::from(*key).to_string(),
            value: value.map(|value| vec![value]),
        };
        for (key, value) in &writes.keys {
            match value {
                Some(value) => self.keys.insert(*key, *value),
                None => self.keys.remove(key),
            };
        }
        let mut messages = MessageWrites::default();
        let stored = |number: u64| StoredMessage { peer: peer(), number, data: vec![number as u8] };
        if writes.send {
            self.sent += 1;
            self.outbox.insert(self.sent, self.sent as u8);
            messages.sent.push(stored(self.sent));
        }
        if writes.take {
            self.taken += 1;
            self.inbox.insert(self.taken, self.taken as u8);
            messages.taken.push(stored(self.taken));
        }
        if writes.send || writes.take {
            messages.channels.push(Channel { peer: peer(), sent: self.sent, taken: self.taken });
        }
        if let Some(number) = writes.delivered {
            self.outbox.retain(|sent, _| *sent > number);
            messages.delivered.push((peer(), number));
        }
        if let Some(number) = writes.done {
            self.inbox.remove(&number);
            messages.done.push((peer(), number));
        }
        self.seq += 1;
        (writes.keys.iter().map(kv).collect(), messages)
    }

    fn check(&self, store: &dyn Store, name: &str) {
        let keys: Vec<_> = store.load_keys(&world(name)).unwrap().into_iter().map(|(_, key, value)| (key, value)).collect();
        assert!(keys.iter().cloned().eq(self.keys.iter().map(|(k, v)| (char::from(*k).to_string(), vec![*v]))), "{keys:?}");
        let messages = store.load_messages(&world(name)).unwrap();
        let numbers = |all: &[StoredMessage]| all.iter().map(|m| (m.number, m.data[0])).collect::<Vec<_>>();
        assert!(numbers(&messages.outbox).into_iter().eq(self.outbox.clone()), "{messages:?}");
        assert!(numbers(&messages.inbox).into_iter().eq(self.inbox.clone()), "{messages:?}");
        let channel = messages.channels.first().map_or((0, 0), |channel| (channel.sent, channel.taken));
        assert_eq!(channel, (self.sent, self.taken));
    }
}

/// Stores, and what they think they own.
struct Nodes<'a> {
    stores: Vec<&'a dyn Store>,
    rebirth: &'a dyn Fn(usize),
    /// The number of each node's life now; each is used once.
    lives: Vec<u32>,
    next_life: u32,
    claims: BTreeMap<(usize, usize), Claim>,
    worlds: [Wanted; 2],
}

const NAMES: [&str; 2] = ["a", "b"];

impl Nodes<'_> {
    fn run(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Claim(n, w) => self.claim(n, w),
                Step::Commit(n, w, batches) => self.commit(n, w, &batches),
                Step::Wrong(n, w, by) => {
                    let mut claim = self.known(n, w);
                    claim.commit_seq = claim.commit_seq.wrapping_add(by).max(self.worlds[w].seq + 1);
                    let result = crate::support::commit(self.stores[n], empty(NAMES[w], claim));
                    assert!(matches!(result, Err(StoreError::Fenced { .. })), "{result:?}");
                }
                Step::Release(n, w) => {
                    let claim = self.known(n, w);
                    let wanted = &mut self.worlds[w];
                    let mine = wanted.owner.is_none_or(|owner| owner == self.lives[n]);
                    let there = wanted.generation > 0 && wanted.generation == claim.generation.0;
                    let result = self.stores[n].release(&world(NAMES[w]), claim.generation);
                    assert_eq!(result.is_ok(), mine && there, "{result:?}");
                    if result.is_ok() && self.lives.len() > 1 {
                        wanted.owner = None;
                    }
                }
                Step::Rebirth(n) => {
                    (self.rebirth)(n);
                    self.lives[n] = self.next_life;
                    self.next_life += 1;
                }
            }
        }
        for (wanted, name) in self.worlds.iter().zip(NAMES) {
            self.stores.iter().for_each(|store| wanted.check(*store, name));
        }
    }

    fn known(&self, n: usize, w: usize) -> Claim {
        self.claims.get(&(n, w)).copied().unwrap_or(Claim { generation: Generation(0), commit_seq: 0 })
    }

    fn claim(&mut self, n: usize, w: usize) {
        let wanted = &mut self.worlds[w];
        let free = wanted.owner.is_none_or(|owner| owner == self.lives[n] || !self.lives.contains(&owner));
        match self.stores[n].claim(&world(NAMES[w])) {
            Ok(claim) => {
                assert!(free, "{claim:?} of {wanted:?}");
                wanted.generation += 1;
                wanted.owner = Some(self.lives[n]);
                assert_eq!(claim, Claim { generation: Generation(wanted.generation), commit_seq: wanted.seq });
                self.claims.insert((n, w), claim);
            }
            Err(StoreError::Owned { .. }) => assert!(!free, "{wanted:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    fn commit(&mut self, n: usize, w: usize, batches: &[Writes]) {
        let mut claim = self.known(n, w);
        let wanted = &mut self.worlds[w];
        let owned =
            wanted.owner == Some(self.lives[n]) && wanted.generation == claim.generation.0 && wanted.seq == claim.commit_seq;
        let mut scratch = Wanted::default();
        let answers: Vec<_> = batches
            .iter()
            .map(|writes| {
                let (writes, messages) = if owned { wanted.apply(writes) } else { scratch.apply(writes) };
                let batch = Batch { writes, messages, ..empty(NAMES[w], claim) };
                claim.commit_seq += 1;
                crate::support::start(self.stores[n], batch)
            })
            .collect();
        for answer in answers {
            match answer.recv().unwrap() {
                Ok(()) => assert!(owned),
                Err(StoreError::Fenced { .. }) => assert!(!owned),
                Err(error) => panic!("{error}"),
            }
        }
        if owned {
            self.claims.insert((n, w), claim);
        }
    }
}

/// Whoever runs longer than a few seconds finds nothing more.
fn few(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(few(48))]

    #[test]
    fn sqlite_answers_as_the_model(steps in prop::collection::vec(step(1), 1..40)) {
        let rig = Rig::Sqlite(tempfile::tempdir().unwrap());
        let store = rig.open();
        // The embedded store knows no nodes: its one is always the same.
        let steps = steps.into_iter().filter(|step| !matches!(step, Step::Rebirth(_))).collect();
        Nodes {
            stores: vec![&*store],
            rebirth: &|_| (),
            lives: vec![0],
            next_life: 1,
            claims: BTreeMap::new(),
            worlds: Default::default(),
        }
        .run(steps);
    }
}

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn nodes_on_postgresql_answer_as_the_model(steps in prop::collection::vec(step(3), 1..60)) {
        let cluster = Cluster::new();
        let nodes: Vec<(PostgresStore, std::sync::Mutex<NodeId>)> = (0..3)
            .map(|i| {
                let (store, id) = cluster.node(&format!("n{i}"));
                (store, std::sync::Mutex::new(id))
            })
            .collect();
        let rebirth = |n: usize| {
            let (store, id) = &nodes[n];
            let mut id = id.lock().unwrap();
            let new = store.join(&info(&format!("n{n}")), LONG).unwrap();
            store.bury(&std::mem::replace(&mut *id, new)).unwrap();
        };
        Nodes {
            stores: nodes.iter().map(|(store, _)| store as &dyn Store).collect(),
            rebirth: &rebirth,
            lives: vec![0, 1, 2],
            next_life: 3,
            claims: BTreeMap::new(),
            worlds: Default::default(),
        }
        .run(steps);
    }
}
