//! What a transaction of the committer writes: batches of many worlds, those of one world joined to a chain.
//!
//! A batch joins the chain of its world if it follows its last one; what it writes replaces what came before. So each row is written once,
//! and a chain is applied as a whole or refused as a whole: a store that has the first batch's predecessor as its last commit takes all,
//! any other none. Start with [`Group::add`]. Not here: statements and answers (`writer.rs`).

use super::text::encode;
use crate::{Batch, Done, StoreError};
use aether_types::{Generation, WorldId};
use std::collections::{BTreeMap, HashMap};

/// Batches in one transaction: bounds how long the first waits for the last.
const BATCHES_MAX: usize = 512;
/// And bytes of them; the last one may pass it.
const BYTES_MAX: usize = 4 << 20;

/// A checkpoint in a chain.
pub(super) struct Checkpoint {
    pub seq: i64,
    pub name: Option<String>,
    pub data: Vec<u8>,
}

/// What a key was last given: the number of the commit, and the value.
pub(super) type Written = (i64, Option<Vec<u8>>);

/// Following batches of one world, by one owner.
pub(super) struct Chain {
    pub world: WorldId,
    /// The node that was this store's when they were given.
    pub owner: String,
    pub generation: Generation,
    /// The number of the commit before the first.
    pub after: i64,
    /// The number of the last.
    pub last: i64,
    /// By namespace and key.
    pub keys: BTreeMap<(String, String), Written>,
    /// Peer; sent, taken.
    pub channels: BTreeMap<WorldId, (i64, i64)>,
    /// To be removed before `outbox` is written: all up to a number.
    pub delivered: BTreeMap<WorldId, i64>,
    pub outbox: BTreeMap<(WorldId, i64), Vec<u8>>,
    /// To be removed before `inbox` is written.
    pub done: Vec<(WorldId, i64)>,
    pub inbox: BTreeMap<(WorldId, i64), Vec<u8>>,
    pub checkpoints: Vec<Checkpoint>,
    /// A commit of it was sent, and no answer came.
    pub doubt: bool,
    /// Who is told: the number of the commit before, and how.
    told: Vec<(u64, Done)>,
}

impl Chain {
    fn new(owner: String, batch: &Batch) -> Chain {
        Chain {
            world: batch.world.clone(),
            owner,
            generation: batch.generation,
            after: batch.after_seq as i64,
            last: batch.after_seq as i64,
            keys: BTreeMap::new(),
            channels: BTreeMap::new(),
            delivered: BTreeMap::new(),
            outbox: BTreeMap::new(),
            done: Vec::new(),
            inbox: BTreeMap::new(),
            checkpoints: Vec::new(),
            doubt: false,
            told: Vec::new(),
        }
    }

    fn add(&mut self, batch: Batch, done: Done) {
        self.last += 1;
        let seq = self.last;
        for write in batch.writes {
            self.keys.insert((encode(write.namespace), encode(write.key)), (seq, write.value));
        }
        let messages = batch.messages;
        for channel in messages.channels {
            self.channels.insert(channel.peer, (channel.sent as i64, channel.taken as i64));
        }
        for message in messages.sent {
            self.outbox.insert((message.peer, message.number as i64), message.data);
        }
        for (peer, number) in messages.delivered {
            let number = number as i64;
            self.outbox.retain(|(to, sent), _| *to != peer || *sent > number);
            let upto = self.delivered.entry(peer).or_insert(number);
            *upto = number.max(*upto);
        }
        for message in messages.taken {
            self.inbox.insert((message.peer, message.number as i64), message.data);
        }
        for (peer, number) in messages.done {
            let key = (peer, number as i64);
            self.inbox.remove(&key);
            self.done.push(key);
        }
        if let Some(data) = batch.checkpoint {
            self.checkpoints.push(Checkpoint { seq, name: batch.checkpoint_name.map(encode), data });
        }
        self.told.push((batch.after_seq, done));
    }

    /// All of it is durable.
    pub fn succeed(self) {
        self.told.into_iter().for_each(|(_, done)| done(Ok(())));
    }

    /// None of it is, and it is not its owner's any more.
    pub fn refuse(self) {
        let (world, generation) = (self.world, self.generation);
        for (after_seq, done) in self.told {
            done(Err(StoreError::Fenced { world: world.clone(), generation, after_seq }));
        }
    }

    pub fn fail(self, error: &StoreError) {
        self.told.into_iter().for_each(|(_, done)| done(Err(error.clone())));
    }
}

/// Batches that are committed together.
#[derive(Default)]
pub(super) struct Group {
    pub chains: Vec<Chain>,
    /// Where the chain of a world is.
    index: HashMap<WorldId, usize>,
    batches: usize,
    bytes: usize,
}

impl Group {
    pub fn is_full(&self) -> bool {
        self.batches >= BATCHES_MAX || self.bytes >= BYTES_MAX
    }

    /// Take a batch in; it comes back if it does not follow what its world has here: it waits for the next group.
    pub fn add(&mut self, owner: String, batch: Batch, done: Done) -> Option<(String, Batch, Done)> {
        let bytes = bytes(&batch);
        match self.index.get(&batch.world).and_then(|i| self.chains.get_mut(*i)) {
            None => {
                self.index.insert(batch.world.clone(), self.chains.len());
                let mut chain = Chain::new(owner, &batch);
                chain.add(batch, done);
                self.chains.push(chain);
            }
            Some(chain)
                if chain.owner == owner && chain.generation == batch.generation && chain.last == batch.after_seq as i64 =>
            {
                chain.add(batch, done);
            }
            Some(_) => return Some((owner, batch, done)),
        }
        self.batches += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        None
    }
}

fn bytes(batch: &Batch) -> usize {
    let keys: usize = batch.writes.iter().map(|write| write.key.len() + write.value.as_ref().map_or(0, Vec::len)).sum();
    let messages: usize = batch.messages.sent.iter().chain(&batch.messages.taken).map(|message| message.data.len()).sum();
    keys + messages + batch.checkpoint.as_ref().map_or(0, Vec::len)
}
