//! The scripts of a world as the engine knows them: grants, inboxes, topics.

use crate::entities::KindId;
use aether_scripting::{ApiError, ApiResult, Call, Caller, EntityId, InstanceId};
use std::collections::VecDeque;

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
    pub kinds: KindSet,
    pub self_entity: Option<EntityId>,
    pub inbox: VecDeque<Call>,
    pub topics: Vec<String>,
}

/// The scripts of a world. Instances are numbered from 1 in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    members: Vec<Option<Box<Member>>>,
    current: usize,
    pub dropped: u64,
}

impl Callers {
    pub fn insert(&mut self, member: Member) {
        let at = member.info.instance.0 as usize;
        if self.members.len() <= at {
            self.members.resize_with(at + 1, || None);
        }
        self.members[at] = Some(Box::new(member));
    }

    pub fn remove(&mut self, instance: InstanceId) -> Option<Box<Member>> {
        self.members.get_mut(instance.0 as usize)?.take()
    }

    #[inline]
    pub fn enter(&mut self, instance: InstanceId) -> usize {
        self.current = instance.0 as usize;
        self.members.get(self.current).and_then(Option::as_ref).map_or(0, |member| member.inbox.len())
    }

    /// Who is calling. A host function without a caller is a mistake of ours; scripts see `Denied`.
    #[inline]
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
        self.iter().find(|member| member.info.name == name).map(|member| member.info.instance)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flatten().map(|member| &**member)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut().flatten().map(|member| &mut **member)
    }

    /// Put a call into an inbox; a full one refuses and counts.
    pub fn push(&mut self, to: InstanceId, call: Call) -> ApiResult<()> {
        let member = self.get_mut(to).ok_or(ApiError::NotFound)?;
        if member.inbox.len() >= INBOX_MAX {
            self.dropped += 1;
            return Err(ApiError::Full);
        }
        member.inbox.push_back(call);
        Ok(())
    }
}
