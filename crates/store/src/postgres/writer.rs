//! The committer: drains its queue and commits what it finds as one transaction (group commit over all worlds).
//!
//! A transaction is two journeys: BEGIN and the fence of all chains in one statement; then the data of those that it let through, and
//! COMMIT. When no answer comes to a commit, the same chains are sent again until one does. Those whose fence then refuses them were
//! either committed the first time or have lost their world: the row knows ([`SETTLE`]). That is also a write: its own commit waits for
//! the synchronous standby, and so for everything before it. Only one of the copies can apply, whatever is still on its way.
//! Start with [`Committer::run`]. Not here: joining batches (`group.rs`), connections (`session.rs`, `link.rs`).

use super::group::{Chain, Group};
use super::link::{Backoff, Link};
use super::session::{Answer, Connector, Fault, Session, in_order};
use crate::{Batch, Done, StoreError};
use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_postgres::Row;

/// Larger values are slow to replicate in databases of several machines, and a part is one statement.
pub(super) const PART_BYTES: usize = 512 << 10;
/// Checkpoints with a name that are kept for each world; the oldest goes.
const NAMED_KEPT: i64 = 16;
/// How long a store that is dropped goes on trying.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// All chains at once: a row for each whose world is its owner's and has the commit that it follows.
const FENCE: &str = "UPDATE world SET commit_seq = f.last, ckpt_seq = COALESCE(f.ckpt, world.ckpt_seq) \
    FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) \
      AS f(world_id, owner, epoch, after, last, ckpt) \
    WHERE world.world_id = f.world_id AND world.owner = f.owner AND world.epoch = f.epoch AND world.commit_seq = f.after \
    RETURNING world.world_id";
/// A row for each chain that was committed before, though nobody heard of it.
const SETTLE: &str = "UPDATE world SET commit_seq = world.commit_seq \
    FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS f(world_id, owner, epoch, last) \
    WHERE world.world_id = f.world_id AND world.owner = f.owner AND world.epoch = f.epoch AND world.commit_seq = f.last \
    RETURNING world.world_id";
const PUT_KEYS: &str = "INSERT INTO world_kv (world_id, ns, k, v, seq) \
    SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[]) \
    ON CONFLICT (world_id, ns, k) DO UPDATE SET v = EXCLUDED.v, seq = EXCLUDED.seq";
const REMOVE_KEYS: &str = "DELETE FROM world_kv USING UNNEST($1::text[], $2::text[], $3::text[]) AS d(world_id, ns, k) \
    WHERE world_kv.world_id = d.world_id AND world_kv.ns = d.ns AND world_kv.k = d.k";
const PUT_CHANNELS: &str = "INSERT INTO channel (world_id, peer, sent, taken) \
    SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[]) \
    ON CONFLICT (world_id, peer) DO UPDATE SET sent = EXCLUDED.sent, taken = EXCLUDED.taken";
const REMOVE_DELIVERED: &str = "DELETE FROM outbox USING UNNEST($1::text[], $2::text[], $3::bigint[]) AS d(world_id, peer, number) \
    WHERE outbox.world_id = d.world_id AND outbox.peer = d.peer AND outbox.number <= d.number";
const PUT_OUTBOX: &str = "INSERT INTO outbox (world_id, peer, number, data) \
    SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bytea[]) \
    ON CONFLICT (world_id, peer, number) DO UPDATE SET data = EXCLUDED.data";
const REMOVE_DONE: &str = "DELETE FROM inbox USING UNNEST($1::text[], $2::text[], $3::bigint[]) AS d(world_id, peer, number) \
    WHERE inbox.world_id = d.world_id AND inbox.peer = d.peer AND inbox.number = d.number";
const PUT_INBOX: &str = "INSERT INTO inbox (world_id, peer, number, data) \
    SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bytea[]) \
    ON CONFLICT (world_id, peer, number) DO UPDATE SET data = EXCLUDED.data";
const PUT_CHECKPOINT: &str = "INSERT INTO checkpoint (world_id, seq, name, size, parts) VALUES ($1, $2, $3, $4, $5)";
const PUT_PART: &str = "INSERT INTO checkpoint_part (world_id, seq, part, data) VALUES ($1, $2, $3, $4)";
/// Those with a name and those without are counted apart.
const FORGET_NAMED: &str = "DELETE FROM checkpoint WHERE world_id = $1 AND name IS NOT NULL AND seq NOT IN \
    (SELECT seq FROM checkpoint WHERE world_id = $1 AND name IS NOT NULL ORDER BY seq DESC LIMIT $2)";
const FORGET_UNNAMED: &str = "DELETE FROM checkpoint WHERE world_id = $1 AND name IS NULL AND seq NOT IN \
    (SELECT seq FROM checkpoint WHERE world_id = $1 AND name IS NULL ORDER BY seq DESC LIMIT $2)";
const FORGET_PARTS: &str = "DELETE FROM checkpoint_part WHERE world_id = $1 AND seq NOT IN \
    (SELECT seq FROM checkpoint WHERE world_id = $1)";
/// Prepared before a transaction begins: what is prepared in the middle would not be sent in one piece.
const STATEMENTS: [&str; 14] = [
    FENCE,
    SETTLE,
    PUT_KEYS,
    REMOVE_KEYS,
    PUT_CHANNELS,
    REMOVE_DELIVERED,
    PUT_OUTBOX,
    REMOVE_DONE,
    PUT_INBOX,
    PUT_CHECKPOINT,
    PUT_PART,
    FORGET_NAMED,
    FORGET_UNNAMED,
    FORGET_PARTS,
];
/// A table that has grown since it was last counted must not be read from end to end for a few of its rows. PostgreSQL only.
const PLANS: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// What the committer is given.
#[expect(clippy::large_enum_variant, reason = "nearly all are commits")]
pub(super) enum Job {
    /// By which node, what, and who is told.
    Commit(String, Batch, Done),
    /// Answered when all that came before is committed or refused.
    Flush(SyncSender<()>),
}

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Durable,
    Refused,
}

pub(super) struct Committer {
    queue: mpsc::Receiver<Job>,
    connector: Arc<Connector>,
    checkpoints_kept: i64,
    /// The store is being dropped.
    closed: watch::Receiver<bool>,
    link: Link,
    /// Taken from the queue, and not for the group that was just gathered.
    next: Option<Job>,
}

impl Committer {
    pub fn new(
        queue: mpsc::Receiver<Job>,
        connector: Arc<Connector>,
        checkpoints_kept: u32,
        closed: watch::Receiver<bool>,
    ) -> Committer {
        Committer {
            queue,
            connector,
            checkpoints_kept: i64::from(checkpoints_kept.max(1)),
            closed,
            link: Link::default(),
            next: None,
        }
    }

    /// Until the queue is closed and empty.
    pub async fn run(mut self) {
        loop {
            let job = match self.next.take() {
                Some(job) => Some(job),
                None => self.queue.recv().await,
            };
            match job {
                None => return,
                Some(Job::Flush(reply)) => {
                    let _ = reply.send(());
                }
                Some(Job::Commit(owner, batch, done)) => {
                    let group = self.gather(owner, batch, done);
                    self.commit_group(group).await;
                }
            }
        }
    }

    fn gather(&mut self, owner: String, batch: Batch, done: Done) -> Group {
        let mut group = Group::default();
        self.next = group.add(owner, batch, done).map(|(owner, batch, done)| Job::Commit(owner, batch, done));
        while self.next.is_none() && !group.is_full() {
            match self.queue.try_recv() {
                Ok(Job::Commit(owner, batch, done)) => {
                    self.next = group.add(owner, batch, done).map(|(owner, batch, done)| Job::Commit(owner, batch, done));
                }
                Ok(flush @ Job::Flush(_)) => self.next = Some(flush),
                Err(_) => break,
            }
        }
        group
    }

    /// Until each is durable, refused or hopeless; or until the store was dropped and the database does not come back.
    async fn commit_group(&mut self, group: Group) {
        let mut waiting = VecDeque::from([group.chains]);
        let mut closed = self.closed.clone();
        let given_up = async move {
            // An error: the store is gone, which is the same.
            let _ = closed.wait_for(|closed| *closed).await;
            tokio::time::sleep(CLOSE_WAIT).await;
        };
        let finished = {
            let work = self.settle(&mut waiting);
            first_of(work, given_up).await
        };
        if !finished {
            let left = waiting.iter().map(Vec::len).sum::<usize>();
            tracing::warn!(
                worlds = left,
                "the store is closed while the database is away: what waits for it is not acknowledged"
            );
            self.link.close();
            waiting.into_iter().flatten().for_each(|chain| chain.fail(&StoreError::Closed));
        }
    }

    async fn settle(&mut self, waiting: &mut VecDeque<Vec<Chain>>) {
        let mut backoff = Backoff::default();
        let mut away = false;
        while let Some(chains) = waiting.front_mut() {
            let fault = match self.attempt(chains).await {
                Ok(fates) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("the database takes commits again");
                    }
                    backoff = Backoff::default();
                    for (chain, fate) in waiting.pop_front().unwrap_or_default().into_iter().zip(fates) {
                        match fate {
                            Fate::Durable => chain.succeed(),
                            Fate::Refused => chain.refuse(),
                        }
                    }
                    continue;
                }
                Err(fault) => fault,
            };
            let message = match fault {
                Fault::Sql { message, .. } => {
                    let mut chains = waiting.pop_front().unwrap_or_default();
                    if chains.len() > 1 {
                        // One of them is at fault, the others shall not suffer for it.
                        chains.drain(..).rev().for_each(|chain| waiting.push_front(vec![chain]));
                    } else {
                        chains.into_iter().for_each(|chain| chain.fail(&self.connector.failed(message.clone())));
                    }
                    continue;
                }
                // Nobody refuses on a connection that commits; if it ever did, the fence would answer the next time.
                Fault::Refused(error) => error.to_string(),
                Fault::Again(message) => message,
                Fault::Lost(message) => {
                    self.link.close();
                    message
                }
                Fault::Doubt(message) => {
                    self.link.close();
                    chains.iter_mut().for_each(|chain| chain.doubt = true);
                    message
                }
            };
            if !std::mem::replace(&mut away, true) {
                tracing::warn!(worlds = chains.len(), reason = message, "a commit is tried again until the database takes it");
            }
            backoff.wait().await;
        }
    }

    /// One transaction, and what became of each chain in it.
    async fn attempt(&mut self, chains: &[Chain]) -> Result<Vec<Fate>, Fault> {
        let session = match self.link.session(&self.connector).await {
            Ok(session) => session,
            // Whatever the reason, it is the connection's and not that of what shall be sent.
            Err(Fault::Sql { message, .. }) => return Err(Fault::Lost(message)),
            Err(fault) => return Err(fault),
        };
        if !session.has_prepared(FENCE) && session.is_postgres() {
            session.batch(PLANS).await?;
        }
        for sql in STATEMENTS {
            session.prepared(sql).await?;
        }
        let result = transact(session, chains, self.checkpoints_kept).await;
        if result.is_err() {
            session.roll_back().await;
        }
        result
    }
}

async fn transact(session: &Session, chains: &[Chain], kept: i64) -> Result<Vec<Fate>, Fault> {
    let ckpt = |chain: &Chain| chain.checkpoints.last().map(|checkpoint| checkpoint.seq);
    let all: Vec<&Chain> = chains.iter().collect();
    let (worlds, owners, epochs) = identity(&all);
    let after: Vec<i64> = all.iter().map(|chain| chain.after).collect();
    let last: Vec<i64> = all.iter().map(|chain| chain.last).collect();
    let ckpts: Vec<Option<i64>> = all.iter().map(|chain| ckpt(chain)).collect();
    let mut first = in_order(vec![
        Box::pin(async { session.batch("BEGIN").await.map(|()| Vec::new()) }),
        Box::pin(session.rows(FENCE, &[&worlds, &owners, &epochs, &after, &last, &ckpts])),
    ])
    .await?;
    let through = named(&first.pop().unwrap_or_default())?;
    let (passed, stopped): (Vec<&Chain>, Vec<&Chain>) = all.iter().partition(|chain| through.contains(chain.world.as_str()));

    let doubtful: Vec<&Chain> = stopped.into_iter().filter(|chain| chain.doubt).collect();
    let mut durable = through;
    if !doubtful.is_empty() {
        let (worlds, owners, epochs) = identity(&doubtful);
        let last: Vec<i64> = doubtful.iter().map(|chain| chain.last).collect();
        durable.extend(named(&session.rows(SETTLE, &[&worlds, &owners, &epochs, &last]).await?)?);
    }
    if durable.is_empty() {
        session.roll_back().await;
    } else {
        let columns = Columns::of(&passed);
        let mut statements = columns.statements(session);
        for chain in &passed {
            statements.extend(checkpoints(session, chain, kept));
        }
        statements.push(Box::pin(async { session.commit().await.map(|()| Vec::new()) }));
        // The commit is on its way with the rest: without an answer to any of it, none is known.
        in_order(statements).await.map_err(Fault::at_commit)?;
    }
    let fate = |chain: &Chain| if durable.contains(chain.world.as_str()) { Fate::Durable } else { Fate::Refused };
    Ok(chains.iter().map(fate).collect())
}

fn identity<'a>(chains: &[&'a Chain]) -> (Vec<&'a str>, Vec<&'a str>, Vec<i64>) {
    let worlds = chains.iter().map(|chain| chain.world.as_str()).collect();
    let owners = chains.iter().map(|chain| chain.owner.as_str()).collect();
    (worlds, owners, chains.iter().map(|chain| chain.generation.0 as i64).collect())
}

fn named(rows: &[Row]) -> Result<HashSet<String>, Fault> {
    rows.iter().map(|row| row.try_get(0).map_err(|error| Fault::sql(error.to_string()))).collect()
}

/// Columns of messages: world, peer, number, data.
type Mail<'a> = (Vec<&'a str>, Vec<&'a str>, Vec<i64>, Vec<&'a [u8]>);
/// Columns of keys: world, namespace, key, value, number of the commit.
type Keys<'a> = (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>, Vec<&'a [u8]>, Vec<i64>);

/// What many worlds write, a column at a time. What was removed comes before what was put: see [`Chain`].
#[derive(Default)]
struct Columns<'a> {
    put_keys: Keys<'a>,
    remove_keys: (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>),
    channels: (Vec<&'a str>, Vec<&'a str>, Vec<i64>, Vec<i64>),
    delivered: (Vec<&'a str>, Vec<&'a str>, Vec<i64>),
    outbox: Mail<'a>,
    done: (Vec<&'a str>, Vec<&'a str>, Vec<i64>),
    inbox: Mail<'a>,
}

impl<'a> Columns<'a> {
    fn of(chains: &[&'a Chain]) -> Columns<'a> {
        let mut columns = Columns::default();
        for chain in chains {
            let world = chain.world.as_str();
            for ((namespace, key), (seq, value)) in &chain.keys {
                match value {
                    Some(value) => {
                        let (worlds, namespaces, keys, values, seqs) = &mut columns.put_keys;
                        worlds.push(world);
                        namespaces.push(namespace);
                        keys.push(key);
                        values.push(value);
                        seqs.push(*seq);
                    }
                    None => {
                        let (worlds, namespaces, keys) = &mut columns.remove_keys;
                        worlds.push(world);
                        namespaces.push(namespace);
                        keys.push(key);
                    }
                }
            }
            for (peer, (sent, taken)) in &chain.channels {
                columns.channels.0.push(world);
                columns.channels.1.push(peer.as_str());
                columns.channels.2.push(*sent);
                columns.channels.3.push(*taken);
            }
            for (peer, number) in &chain.delivered {
                columns.delivered.0.push(world);
                columns.delivered.1.push(peer.as_str());
                columns.delivered.2.push(*number);
            }
            for (peer, number) in &chain.done {
                columns.done.0.push(world);
                columns.done.1.push(peer.as_str());
                columns.done.2.push(*number);
            }
            for (box_of, column) in [(&chain.outbox, &mut columns.outbox), (&chain.inbox, &mut columns.inbox)] {
                for ((peer, number), data) in box_of {
                    column.0.push(world);
                    column.1.push(peer.as_str());
                    column.2.push(*number);
                    column.3.push(data);
                }
            }
        }
        columns
    }

    fn statements<'s>(&'s self, session: &'s Session) -> Vec<Answer<'s>> {
        let mut sent: Vec<Answer<'s>> = Vec::new();
        let (worlds, namespaces, keys) = &self.remove_keys;
        if !worlds.is_empty() {
            sent.push(Box::pin(async move { session.rows(REMOVE_KEYS, &[worlds, namespaces, keys]).await }));
        }
        let (worlds, namespaces, keys, values, seqs) = &self.put_keys;
        if !worlds.is_empty() {
            sent.push(Box::pin(async move { session.rows(PUT_KEYS, &[worlds, namespaces, keys, values, seqs]).await }));
        }
        let (worlds, peers, sents, takens) = &self.channels;
        if !worlds.is_empty() {
            sent.push(Box::pin(async move { session.rows(PUT_CHANNELS, &[worlds, peers, sents, takens]).await }));
        }
        for (sql, (worlds, peers, numbers)) in [(REMOVE_DELIVERED, &self.delivered), (REMOVE_DONE, &self.done)] {
            if !worlds.is_empty() {
                sent.push(Box::pin(async move { session.rows(sql, &[worlds, peers, numbers]).await }));
            }
        }
        for (sql, (worlds, peers, numbers, data)) in [(PUT_OUTBOX, &self.outbox), (PUT_INBOX, &self.inbox)] {
            if !worlds.is_empty() {
                sent.push(Box::pin(async move { session.rows(sql, &[worlds, peers, numbers, data]).await }));
            }
        }
        sent
    }
}

/// The checkpoints of a chain, and those that they push out.
fn checkpoints<'s>(session: &'s Session, chain: &'s Chain, kept: i64) -> Vec<Answer<'s>> {
    let mut sent: Vec<Answer<'s>> = Vec::new();
    let world = chain.world.as_str();
    for checkpoint in &chain.checkpoints {
        let (seq, name, size) = (checkpoint.seq, &checkpoint.name, checkpoint.data.len() as i64);
        let parts = checkpoint.data.len().div_ceil(PART_BYTES) as i64;
        sent.push(Box::pin(async move { session.rows(PUT_CHECKPOINT, &[&world, &seq, name, &size, &parts]).await }));
        for (part, data) in (0i64..).zip(checkpoint.data.chunks(PART_BYTES)) {
            sent.push(Box::pin(async move { session.rows(PUT_PART, &[&world, &seq, &part, &data]).await }));
        }
        let (forget, kept) = if name.is_some() { (FORGET_NAMED, NAMED_KEPT) } else { (FORGET_UNNAMED, kept) };
        sent.push(Box::pin(async move { session.rows(forget, &[&world, &kept]).await }));
    }
    if !chain.checkpoints.is_empty() {
        sent.push(Box::pin(async move { session.rows(FORGET_PARTS, &[&world]).await }));
    }
    sent
}

/// Whether `work` was done before `end` came.
async fn first_of(work: impl Future<Output = ()>, end: impl Future<Output = ()>) -> bool {
    let (mut work, mut end) = (pin!(work), pin!(end));
    std::future::poll_fn(|cx| match (work.as_mut().poll(cx), end.as_mut().poll(cx)) {
        (Poll::Ready(()), _) => Poll::Ready(true),
        (Poll::Pending, Poll::Ready(())) => Poll::Ready(false),
        (Poll::Pending, Poll::Pending) => Poll::Pending,
    })
    .await
}
