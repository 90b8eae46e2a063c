//! Messages between one world and the others: kept until they have arrived, applied once, in order for each pair of worlds.
//!
//! A plain value that its world's tick drives. What scripts send gets a number for its receiver and is part of the tick's commit (the
//! outbox); it goes on its way when that is durable, and again when nobody says that it arrived. What comes in is taken if it is the next
//! one of its sender; that it was taken is part of the commit of the tick that took it, and only then told to the sender. What scripts
//! have not done with at the end of the tick is kept too (the inbox), so that a crash loses nothing. Bounded: [`KEPT_MAX`] for each
//! receiver, past it scripts are refused. Not here: how parcels travel (`post`), the store.

use aether_scripting::output::OutboundCall;
use aether_store::{Channel, MessageWrites, Messages, StoredMessage};
use aether_types::WorldId;
use aether_types::codec::{self, CodecError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Messages to one world that are not known to have arrived; past it its callers are refused until half of them have.
pub(crate) const KEPT_MAX: usize = 1_024;
/// Of these, on their way at a time.
const WINDOW: u64 = 256;
/// Without a word for so long they are sent again, each further time after twice as long.
const AGAIN_NS: u64 = 300_000_000;
const AGAIN_MAX_NS: u64 = 5_000_000_000;
/// A message that its script's full inbox refuses for so long is dropped: those behind it wait.
const REFUSED_NS: u64 = 10_000_000_000;
/// That messages have arrived is written down with the next commit, or when so many have.
const DELIVERED_MAX: usize = 256;
/// The schema of a message in the store and on the wire.
const SCHEMA: u8 = 1;

/// What travels between two worlds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parcel {
    /// A message.
    Message {
        /// Who sends it.
        from: WorldId,
        /// To whom.
        to: WorldId,
        /// Its number, of those from this sender to this receiver.
        number: u64,
        /// The sender keeps none before this one any more.
        first: u64,
        /// The call, as [`seal`] made it.
        data: Arc<[u8]>,
    },
    /// `from` has taken the messages of `to` up to and with this number, durably.
    Taken {
        /// Who has taken them.
        from: WorldId,
        /// Who sent them.
        to: WorldId,
        /// The last of them.
        number: u64,
    },
}

impl Parcel {
    /// Which world it is for.
    pub fn to(&self) -> &WorldId {
        match self {
            Parcel::Message { to, .. } | Parcel::Taken { to, .. } => to,
        }
    }
}

struct Kept {
    number: u64,
    /// The commit that it is part of.
    seq: u64,
    data: Arc<[u8]>,
}

#[derive(Default)]
struct Pair {
    sent: u64,
    taken: u64,
    /// Sent and not known to have arrived.
    kept: VecDeque<Kept>,
    /// The last that is on its way.
    on_way: u64,
    /// When something last arrived or was sent again.
    progress_ns: u64,
    again_ns: u64,
    /// How far we are, for the sender: after which commit, and what. Then what has come since.
    tell: Option<(u64, u64)>,
    tell_next: Option<(u64, u64)>,
    blocked: bool,
}

/// A message that a script has not done with.
struct Open {
    peer: WorldId,
    number: u64,
    /// `None`: the store has it.
    fresh: Option<Arc<[u8]>>,
}

/// See the file.
pub(crate) struct Courier {
    me: WorldId,
    pairs: BTreeMap<WorldId, Pair>,
    /// Pairs with something to send or to tell.
    busy: BTreeSet<WorldId>,
    /// By delivery number.
    open: HashMap<u64, Open>,
    last_delivery: u64,
    changed: BTreeSet<WorldId>,
    writes: MessageWrites,
    /// Scripts with a full inbox, since when. No more than a world has scripts.
    refused: HashMap<String, u64>,
    /// Whose scripts' calls are to be refused, or not any more.
    blocks: Vec<(WorldId, bool)>,
}

pub(crate) fn seal(call: &OutboundCall) -> Result<Arc<[u8]>, CodecError> {
    codec::encode(SCHEMA, call).map(Arc::from)
}

pub(crate) fn open(data: &[u8]) -> Result<OutboundCall, CodecError> {
    codec::decode(SCHEMA, data)
}

impl Courier {
    /// Where the store left it. What it had taken and not done with is in the messages' inbox: deliver it again.
    pub fn new(me: WorldId, messages: &Messages, seq: u64) -> Courier {
        let mut pairs = BTreeMap::<WorldId, Pair>::new();
        for Channel { peer, sent, taken } in &messages.channels {
            let pair = pairs.entry(peer.clone()).or_default();
            (pair.sent, pair.taken, pair.on_way) = (*sent, *taken, *sent);
        }
        let mut busy = BTreeSet::new();
        for StoredMessage { peer, number, data } in &messages.outbox {
            let pair = pairs.entry(peer.clone()).or_default();
            pair.sent = pair.sent.max(*number);
            pair.on_way = pair.on_way.min(number - 1);
            pair.kept.push_back(Kept { number: *number, seq, data: Arc::from(data.as_slice()) });
            busy.insert(peer.clone());
        }
        let mut blocks = Vec::new();
        for (peer, pair) in &mut pairs {
            if pair.kept.len() >= KEPT_MAX {
                pair.blocked = true;
                blocks.push((peer.clone(), true));
            }
        }
        Courier {
            me,
            pairs,
            busy,
            open: HashMap::new(),
            last_delivery: 0,
            changed: BTreeSet::new(),
            writes: MessageWrites::default(),
            refused: HashMap::new(),
            blocks,
        }
    }

    /// A script's call to another world, part of commit `seq`. Dropped if the world's name is none, or the call too large.
    pub fn send(&mut self, call: &OutboundCall, seq: u64) {
        let (Ok(peer), Ok(data)) = (WorldId::new(call.world()), seal(call)) else { return };
        let pair = self.pairs.entry(peer.clone()).or_default();
        pair.sent += 1;
        pair.kept.push_back(Kept { number: pair.sent, seq, data: Arc::clone(&data) });
        if pair.kept.len() >= KEPT_MAX && !std::mem::replace(&mut pair.blocked, true) {
            self.blocks.push((peer.clone(), true));
        }
        self.writes.sent.push(StoredMessage { peer: peer.clone(), number: pair.sent, data: data.to_vec() });
        self.busy.insert(peer.clone());
        self.changed.insert(peer);
    }

    /// A message came: whether it is the next one, to be delivered now. What is older is told to be here; what is newer comes again.
    pub fn arrived(&mut self, from: &WorldId, number: u64, first: u64) -> bool {
        let pair = self.pairs.entry(from.clone()).or_default();
        // A sender that does not take what is sent to it gets nothing taken either: it could make us keep replies without end. One of two
        // worlds at most does so, or both would wait for ever.
        if pair.kept.len() >= 2 * KEPT_MAX && self.me > *from {
            return false;
        }
        if first > pair.taken + 1 {
            pair.taken = first - 1;
            self.changed.insert(from.clone());
        }
        if number <= pair.taken {
            // Nothing is on its way to being told: it has been, and was lost.
            pair.tell.get_or_insert((0, pair.taken));
            self.busy.insert(from.clone());
        }
        number == pair.taken + 1
    }

    /// The number under which the next message is delivered.
    pub fn next_delivery(&self) -> u64 {
        self.last_delivery + 1
    }

    /// The message that [`arrived`](Courier::arrived) is with its script (`queued`), or nobody wants it. Part of commit `seq`.
    pub fn took(&mut self, from: &WorldId, data: Arc<[u8]>, queued: bool, seq: u64) {
        let pair = self.pairs.entry(from.clone()).or_default();
        pair.taken += 1;
        let news = Some((seq, pair.taken));
        if pair.tell.is_none_or(|(before, _)| before == seq) {
            pair.tell = news
        } else {
            pair.tell_next = news
        }
        if queued {
            self.last_delivery += 1;
            self.open.insert(self.last_delivery, Open { peer: from.clone(), number: pair.taken, fresh: Some(data) });
        }
        self.busy.insert(from.clone());
        self.changed.insert(from.clone());
    }

    /// One of the store's inbox is with its script again.
    pub fn took_again(&mut self, message: &StoredMessage, queued: bool) {
        if queued {
            self.last_delivery += 1;
            let open = Open { peer: message.peer.clone(), number: message.number, fresh: None };
            self.open.insert(self.last_delivery, open);
        } else {
            self.writes.done.push((message.peer.clone(), message.number));
        }
    }

    /// The script of the message that [`arrived`](Courier::arrived) has a full inbox. `true`: for so long that the message is to be
    /// dropped, and with it all that come after it until the script takes one again.
    pub fn refused(&mut self, script: &str, now_ns: u64) -> bool {
        let since_ns = *self.refused.entry(script.to_owned()).or_insert(now_ns);
        now_ns.saturating_sub(since_ns) > REFUSED_NS
    }

    /// A script has taken a message.
    pub fn accepted(&mut self, script: &str) {
        if !self.refused.is_empty() {
            self.refused.remove(script);
        }
    }

    /// Scripts have done with these deliveries.
    pub fn done(&mut self, deliveries: &[u64]) {
        for delivery in deliveries {
            if let Some(Open { peer, number, fresh: None }) = self.open.remove(delivery) {
                self.writes.done.push((peer, number));
            }
        }
    }

    /// A receiver has taken our messages up to this number.
    pub fn delivered(&mut self, by: &WorldId, number: u64, now_ns: u64) {
        let Some(pair) = self.pairs.get_mut(by) else { return };
        let before = pair.kept.len();
        while pair.kept.pop_front_if(|kept| kept.number <= number.min(pair.sent)).is_some() {}
        if pair.kept.len() == before {
            return;
        }
        (pair.progress_ns, pair.again_ns) = (now_ns, AGAIN_NS);
        pair.on_way = pair.on_way.max(number.min(pair.sent));
        let arrived = number.min(pair.sent);
        if pair.blocked && pair.kept.len() < KEPT_MAX / 2 {
            pair.blocked = false;
            self.blocks.push((by.clone(), false));
        }
        match self.writes.delivered.iter_mut().find(|(peer, _)| peer == by) {
            Some((_, upto)) => *upto = arrived.max(*upto),
            None => self.writes.delivered.push((by.clone(), arrived)),
        }
    }

    /// There is no such world: what was sent to it goes, and its callers are told when their time to wait is over.
    pub fn nobody(&mut self, peer: &WorldId, now_ns: u64) {
        let sent = self.pairs.get(peer).map_or(0, |pair| pair.sent);
        self.delivered(peer, sent, now_ns);
    }

    /// Whose scripts' calls are to be refused (`true`), or not any more.
    pub fn take_blocks(&mut self) -> Vec<(WorldId, bool)> {
        std::mem::take(&mut self.blocks)
    }

    /// What the commit has to hold. `None`: nothing that could not wait for another one, unless `all` is asked for.
    pub fn take_writes(&mut self, all: bool) -> Option<MessageWrites> {
        let waits = self.changed.is_empty() && self.writes.done.is_empty() && self.writes.delivered.len() < DELIVERED_MAX;
        if waits && (!all || self.writes.is_empty()) {
            return None;
        }
        let mut writes = std::mem::take(&mut self.writes);
        for peer in std::mem::take(&mut self.changed) {
            if let Some(pair) = self.pairs.get(&peer) {
                writes.channels.push(Channel { peer, sent: pair.sent, taken: pair.taken });
            }
        }
        for open in self.open.values_mut() {
            if let Some(data) = open.fresh.take() {
                writes.taken.push(StoredMessage { peer: open.peer.clone(), number: open.number, data: data.to_vec() });
            }
        }
        Some(writes)
    }

    /// Whether nothing is to be sent.
    pub fn is_quiet(&self) -> bool {
        self.busy.is_empty()
    }

    /// Whether nobody waits for anything: all that was sent has arrived.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.open.is_empty()
    }

    /// What may go on its way now that commit `durable` is.
    pub fn parcels(&mut self, durable: u64, now_ns: u64) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        let (me, pairs) = (&self.me, &mut self.pairs);
        self.busy.retain(|peer| {
            let Some(pair) = pairs.get_mut(peer) else { return false };
            if let Some((_, number)) = pair.tell.take_if(|(seq, _)| *seq <= durable) {
                parcels.push(Parcel::Taken { from: me.clone(), to: peer.clone(), number });
                pair.tell = pair.tell_next.take();
            }
            let Some(first) = pair.kept.front().map(|kept| kept.number) else { return pair.tell.is_some() };
            let again_ns = pair.again_ns.max(AGAIN_NS);
            if pair.on_way >= first && now_ns.saturating_sub(pair.progress_ns) > again_ns {
                pair.on_way = first - 1;
                pair.again_ns = (2 * again_ns).min(AGAIN_MAX_NS);
            }
            if pair.on_way < first {
                pair.progress_ns = now_ns;
            }
            // Numbers have no gaps: where the next one is follows from it.
            let skip = (pair.on_way + 1).saturating_sub(first) as usize;
            for kept in pair.kept.iter().skip(skip) {
                if kept.number >= first + WINDOW || kept.seq > durable {
                    break;
                }
                let data = Arc::clone(&kept.data);
                parcels.push(Parcel::Message { from: me.clone(), to: peer.clone(), number: kept.number, first, data });
                pair.on_way = kept.number;
            }
            true
        });
        parcels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn world(name: &str) -> WorldId {
        WorldId::new(name).unwrap()
    }

    fn call(n: u64) -> OutboundCall {
        let (script, method) = ("s".to_owned(), "m".to_owned());
        OutboundCall::Call { world: "east".into(), script, from: 1, call: n, method, payload: Vec::new() }
    }

    /// A world with its store; a crash goes back to what is durable.
    struct Side {
        courier: Courier,
        stored: Messages,
        seq: u64,
        queued: VecDeque<(u64, u64)>,
        /// The calls that its script has done with, by its own durable record, and those of this tick.
        applied: Vec<u64>,
        now: Vec<u64>,
    }

    impl Side {
        fn new(name: &str) -> Side {
            let stored = Messages::default();
            let courier = Courier::new(world(name), &stored, 0);
            Side { courier, stored, seq: 0, queued: VecDeque::new(), applied: Vec::new(), now: Vec::new() }
        }

        fn commit(&mut self) {
            let Some(writes) = self.courier.take_writes(false) else { return };
            self.seq += 1;
            self.applied.append(&mut self.now);
            let stored = &mut self.stored;
            for channel in writes.channels {
                stored.channels.retain(|old| old.peer != channel.peer);
                stored.channels.push(channel);
            }
            stored.outbox.extend(writes.sent);
            stored.inbox.extend(writes.taken);
            stored.inbox.sort_by(|a, b| (&a.peer, a.number).cmp(&(&b.peer, b.number)));
            for (peer, number) in writes.delivered {
                stored.outbox.retain(|message| message.peer != peer || message.number > number);
            }
            for (peer, number) in writes.done {
                stored.inbox.retain(|message| message.peer != peer || message.number != number);
            }
        }

        fn receive(&mut self, parcel: &Parcel, now_ns: u64) {
            match parcel {
                Parcel::Message { from, number, first, data, .. } => {
                    if self.courier.arrived(from, *number, *first) {
                        let OutboundCall::Call { call, .. } = open(data).unwrap() else { panic!() };
                        self.queued.push_back((self.courier.next_delivery(), call));
                        self.courier.took(from, Arc::clone(data), true, self.seq + 1);
                    }
                }
                Parcel::Taken { from, number, .. } => self.courier.delivered(from, *number, now_ns),
            }
        }

        fn run_script(&mut self) {
            if let Some((delivery, call)) = self.queued.pop_front() {
                self.now.push(call);
                self.courier.done(&[delivery]);
                // What it wrote is part of the same commit.
                let me = self.courier.me.clone();
                self.courier.changed.insert(me.clone());
                self.courier.pairs.entry(me).or_default();
            }
        }

        fn crash(&mut self) {
            self.now.clear();
            self.queued.clear();
            self.courier = Courier::new(self.courier.me.clone(), &self.stored, self.seq);
            for message in self.stored.inbox.clone() {
                let OutboundCall::Call { call, .. } = open(&message.data).unwrap() else { panic!() };
                self.queued.push_back((self.courier.next_delivery(), call));
                self.courier.took_again(&message, true);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_lost_doubled_or_crashes_every_message_is_applied_once_and_in_order(
            steps in prop::collection::vec((0..8u8, any::<prop::sample::Index>()), 1..400),
        ) {
            let (mut west, mut east) = (Side::new("west"), Side::new("east"));
            let (mut wire, mut sent, mut now_ns) = (Vec::<Parcel>::new(), Vec::new(), 0u64);
            let mut next = 0;
            let mut uncommitted = Vec::new();
            let run = |what: u8, index: prop::sample::Index, west: &mut Side, east: &mut Side, wire: &mut Vec<Parcel>,
                           now_ns: &mut u64, next: &mut u64, sent: &mut Vec<u64>, uncommitted: &mut Vec<u64>| {
                *now_ns += 100_000_000;
                match what {
                    0 => {
                        *next += 1;
                        uncommitted.push(*next);
                        west.courier.send(&call(*next), west.seq + 1);
                    }
                    1 => {
                        west.commit();
                        sent.append(uncommitted);
                    }
                    2 => east.commit(),
                    3 => {
                        wire.extend(west.courier.parcels(west.seq, *now_ns));
                        wire.extend(east.courier.parcels(east.seq, *now_ns));
                    }
                    // Any of them, and it stays on the wire: it may come again.
                    4 if !wire.is_empty() => {
                        let parcel = wire[index.index(wire.len())].clone();
                        let side = if parcel.to().as_str() == "west" { west } else { east };
                        side.receive(&parcel, *now_ns);
                    }
                    5 if !wire.is_empty() => drop(wire.swap_remove(index.index(wire.len()))),
                    6 => east.run_script(),
                    7 if index.index(8) == 0 => {
                        west.crash();
                        uncommitted.clear();
                    }
                    7 if index.index(8) == 1 => east.crash(),
                    _ => {}
                }
            };
            for (what, index) in steps {
                run(what, index, &mut west, &mut east, &mut wire, &mut now_ns, &mut next, &mut sent, &mut uncommitted);
            }
            // Then all goes well for a while.
            for _ in 0..2_000 {
                now_ns += 500_000_000;
                west.commit();
                sent.append(&mut uncommitted);
                east.run_script();
                east.commit();
                let mut parcels = west.courier.parcels(west.seq, now_ns);
                parcels.extend(east.courier.parcels(east.seq, now_ns));
                for parcel in parcels {
                    if parcel.to().as_str() == "west" { west.receive(&parcel, now_ns) } else { east.receive(&parcel, now_ns) }
                }
                if east.applied.len() == sent.len() && west.courier.busy.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&east.applied, &sent);
            prop_assert!(west.courier.busy.is_empty());
        }
    }

    #[test]
    fn who_sends_more_than_is_taken_is_refused_until_half_of_it_has_arrived() {
        let mut west = Courier::new(world("west"), &Messages::default(), 0);
        (1..=KEPT_MAX as u64).for_each(|n| west.send(&call(n), 1));
        assert_eq!(west.take_blocks(), [(world("east"), true)]);
        assert_eq!(west.parcels(1, 0).len() as u64, WINDOW);
        west.delivered(&world("east"), WINDOW, 1);
        assert!(west.take_blocks().is_empty());
        west.delivered(&world("east"), KEPT_MAX as u64 / 2 + 1, 1);
        assert_eq!(west.take_blocks(), [(world("east"), false)]);
    }

    #[test]
    fn two_worlds_that_both_keep_too_much_for_each_other_still_come_to_an_end() {
        let (mut west, mut east) = (Side::new("west"), Side::new("east"));
        let many = 2 * KEPT_MAX as u64 + 10;
        let to = |world: &str, n| match call(n) {
            OutboundCall::Call { script, from, call, method, payload, .. } => {
                OutboundCall::Call { world: world.to_owned(), script, from, call, method, payload }
            }
            reply => reply,
        };
        for n in 1..=many {
            west.courier.send(&to("east", n), 1);
            east.courier.send(&to("west", n), 1);
        }
        for round in 1..200 {
            for side in [&mut west, &mut east] {
                while !side.queued.is_empty() {
                    side.run_script();
                }
                side.commit();
            }
            let mut parcels = west.courier.parcels(west.seq, round * 500_000_000);
            parcels.extend(east.courier.parcels(east.seq, round * 500_000_000));
            for parcel in parcels {
                let side = if parcel.to().as_str() == "west" { &mut west } else { &mut east };
                side.receive(&parcel, round * 500_000_000);
            }
        }
        let all: Vec<_> = (1..=many).collect();
        assert_eq!((&west.applied, &east.applied), (&all, &all));
    }

    #[test]
    fn nothing_leaves_before_its_commit_is_durable() {
        let mut west = Courier::new(world("west"), &Messages::default(), 4);
        west.send(&call(1), 5);
        assert!(west.parcels(4, 0).is_empty());
        assert_eq!(west.parcels(5, 0).len(), 1);
    }
}
