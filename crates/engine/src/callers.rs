//! The scripts of a world as the engine knows them: grants, inboxes, topics.

use crate::entities::KindId;
use aether_scripting::{ApiError, ApiResult, Call, Caller, EntityId, InstanceId};
use std::collections::{HashMap, VecDeque};

/// Messages and events that wait for one script. More than it can read in a tick is refused at the sender.
pub(crate) const INBOX_MAX: usize = 64;

/// A set of kinds, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct KindSet {
    any: bool,
    bits: [u64; 4],
}

impl KindSet {
    pub fn any() -> KindSet {
        KindSet { any: true, bits: [0; 4] }
    }

    pub fn insert(&mut self, kind: KindId) {
        // Kinds past 256 can be granted only by `*`: no world has so many.
        if let Some(word) = self.bits.get_mut(kind as usize / 64) {
            *word |= 1 << (kind % 64);
        }
    }

    #[inline]
    pub fn contains(&self, kind: KindId) -> bool {
        self.any || self.bits.get(kind as usize / 64).is_some_and(|word| word & (1 << (kind % 64)) != 0)
    }
}

/// One script.
#[derive(Debug)]
pub(crate) struct Member {
    pub info: Caller,
    pub inbox: VecDeque<Call>,
    pub topics: Vec<String>,
}

/// What nearly every host call touches of its caller: less than a cache line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rights {
    pub kinds: KindSet,
    pub self_entity: Option<EntityId>,
    /// Calls in its inbox.
    waiting: u32,
}

/// The scripts of a world. Instances are numbered from 1 in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    members: Vec<Option<Box<Member>>>,
    /// By name: who calls names who is called.
    names: HashMap<String, InstanceId>,
    /// By instance, as `members`.
    rights: Vec<Rights>,
    current: usize,
    pub dropped: u64,
    /// Bytes of all calls that wait, and how many there may be.
    waiting_bytes: usize,
    waiting_bytes_max: usize,
}

/// What a call weighs while it waits.
fn weight(call: &Call) -> usize {
    128 + match call {
        Call::Message(message) => message.method.len() + message.payload.len(),
        Call::Event(event) => event.topic.len() + event.payload.len(),
        Call::Start | Call::Tick(_) | Call::Stop | Call::Save | Call::Restore { .. } | Call::Test(_) => 0,
    }
}

impl Callers {
    pub fn new(waiting_bytes_max: usize) -> Callers {
        Callers { waiting_bytes_max, ..Callers::default() }
    }

    /// Calls in all inboxes.
    pub fn waiting(&self) -> usize {
        self.rights.iter().map(|rights| rights.waiting as usize).sum()
    }

    pub fn pop(&mut self) -> Option<Call> {
        let call = self.current_mut().ok()?.inbox.pop_front()?;
        self.rights[self.current].waiting -= 1;
        self.waiting_bytes -= weight(&call);
        Some(call)
    }

    pub fn clear_inbox(&mut self, instance: InstanceId) {
        let inbox = self.get_mut(instance).map(|member| std::mem::take(&mut member.inbox)).unwrap_or_default();
        self.waiting_bytes -= inbox.iter().map(weight).sum::<usize>();
        if let Some(rights) = self.rights.get_mut(instance.0 as usize) {
            rights.waiting = 0;
        }
    }

    pub fn insert(&mut self, member: Member, kinds: KindSet, self_entity: Option<EntityId>) {
        let at = member.info.instance.0 as usize;
        if self.members.len() <= at {
            self.members.resize_with(at + 1, || None);
            self.rights.resize_with(at + 1, Rights::default);
        }
        self.rights[at] = Rights { kinds, self_entity, waiting: 0 };
        self.names.insert(member.info.name.clone(), member.info.instance);
        self.members[at] = Some(Box::new(member));
    }

    pub fn set_kinds(&mut self, instance: InstanceId, kinds: KindSet) {
        if let Some(rights) = self.rights.get_mut(instance.0 as usize) {
            rights.kinds = kinds;
        }
    }

    pub fn remove(&mut self, instance: InstanceId) -> Option<Box<Member>> {
        self.clear_inbox(instance);
        let member = self.members.get_mut(instance.0 as usize)?.take();
        self.rights[instance.0 as usize] = Rights::default();
        if let Some(member) = member.as_ref().filter(|member| self.names.get(&member.info.name) == Some(&instance)) {
            self.names.remove(&member.info.name);
        }
        member
    }

    #[inline]
    pub fn enter(&mut self, instance: InstanceId) -> usize {
        self.current = instance.0 as usize;
        self.rights.get(self.current).map_or(0, |rights| rights.waiting as usize)
    }

    /// What the caller may modify. A host function without a caller is a mistake of ours; scripts see `Denied`.
    #[inline]
    pub fn rights(&self) -> ApiResult<&Rights> {
        self.rights.get(self.current).ok_or(ApiError::Denied)
    }

    /// The entity that an instance was started for.
    pub fn self_entity_of(&self, instance: InstanceId) -> Option<EntityId> {
        self.rights.get(instance.0 as usize)?.self_entity
    }

    /// Who is calling.
    pub fn current(&self) -> ApiResult<&Member> {
        self.members.get(self.current).and_then(Option::as_deref).ok_or(ApiError::Denied)
    }

    pub fn current_mut(&mut self) -> ApiResult<&mut Member> {
        self.members.get_mut(self.current).and_then(Option::as_deref_mut).ok_or(ApiError::Denied)
    }

    pub fn get_mut(&mut self, instance: InstanceId) -> Option<&mut Member> {
        self.members.get_mut(instance.0 as usize)?.as_deref_mut()
    }

    pub fn find(&self, name: &str) -> Option<InstanceId> {
        self.names.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flatten().map(|member| &**member)
    }

    /// Who gets a topic's broadcasts, but the sender.
    pub fn subscribers(&self, topic: &str, sender: InstanceId) -> Vec<InstanceId> {
        let gets = |member: &&Member| member.info.instance != sender && member.topics.iter().any(|t| t == topic);
        self.iter().filter(gets).map(|member| member.info.instance).collect()
    }

    /// Whether one more fits into an inbox, which is half the answer: all of them together have a bound too.
    pub fn has_room(&self, instance: InstanceId) -> bool {
        self.rights.get(instance.0 as usize).is_some_and(|rights| (rights.waiting as usize) < INBOX_MAX)
    }

    /// Put a call into an inbox; a full one refuses and counts.
    pub fn push(&mut self, to: InstanceId, call: Call) -> ApiResult<()> {
        let waiting_bytes = self.waiting_bytes + weight(&call);
        let fits = waiting_bytes <= self.waiting_bytes_max;
        let member = self.get_mut(to).ok_or(ApiError::NotFound)?;
        if member.inbox.len() >= INBOX_MAX || !fits {
            self.dropped += 1;
            return Err(ApiError::Full);
        }
        member.inbox.push_back(call);
        self.waiting_bytes = waiting_bytes;
        self.rights[to.0 as usize].waiting += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(instance: u64, name: &str) -> Member {
        let info =
            Caller { instance: InstanceId(instance), name: name.to_owned(), entity_kinds: Vec::new(), storage_namespace: None };
        Member { info, inbox: VecDeque::new(), topics: Vec::new() }
    }

    #[test]
    fn a_name_finds_who_bears_it_now_and_nobody_once_that_one_is_gone() {
        let mut callers = Callers::new(1 << 20);
        for (instance, name) in [(1, "guard"), (2, "thief")] {
            callers.insert(member(instance, name), KindSet::any(), None);
        }
        callers.remove(InstanceId(1));
        assert_eq!((callers.find("guard"), callers.find("thief")), (None, Some(InstanceId(2))));
        callers.insert(member(3, "guard"), KindSet::any(), None);
        // It left long ago.
        callers.remove(InstanceId(1));
        assert_eq!(callers.find("guard"), Some(InstanceId(3)));
    }
}
