//! [`NetworkApi`]: calls between scripts of a world and outward, broadcasts, events to players.
//!
//! A call has a number; its answer comes back under it. Calls to other worlds leave with the tick's output and come in through
//! [`Engine::deliver_inbound`]. A call that is not answered in time ends with an event.

use crate::engine::{Engine, event};
use aether_scripting::abi::limit;
use aether_scripting::output::{ClientCommand, InboundCall, OutboundCall};
use aether_scripting::{ApiError, ApiResult, Call, Event, InstanceId, Message, NetworkApi, PlayerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long a caller waits for an answer, in the world's time.
const ANSWER_NS: u64 = 10_000_000_000;
/// Calls of a world that wait for an answer.
const OPEN_CALLS_MAX: usize = 8_192;
/// Marks a player in `on_message`'s `from`.
const PLAYER: u64 = 1 << 62;
/// Marks a script of another world there.
const ELSEWHERE: u64 = 1 << 61;

/// Who gets the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Caller {
    Here(InstanceId),
    Elsewhere { world: String, call: u64 },
}

/// Who is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Callee {
    Here(InstanceId),
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenCall {
    caller: Caller,
    callee: Callee,
    since_ns: u64,
}

/// Calls that wait for an answer, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenCalls {
    next: u64,
    calls: BTreeMap<u64, OpenCall>,
}

impl OpenCalls {
    pub fn starting_at(first: u64) -> OpenCalls {
        OpenCalls { next: first, calls: BTreeMap::new() }
    }

    /// What a checkpoint held, in this owner's range of numbers.
    pub fn restored(self, first: u64) -> OpenCalls {
        OpenCalls { next: self.next.max(first), ..self }
    }

    fn open(&mut self, caller: Caller, callee: Callee, since_ns: u64) -> ApiResult<u64> {
        if self.calls.len() >= OPEN_CALLS_MAX {
            return Err(ApiError::Full);
        }
        self.next += 1;
        self.calls.insert(self.next, OpenCall { caller, callee, since_ns });
        Ok(self.next)
    }

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn forget_caller(&mut self, instance: InstanceId) {
        self.calls.retain(|_, call| call.caller != Caller::Here(instance));
    }

    /// Calls of scripts of this world whose answer did not come; those from elsewhere are watched there.
    pub fn take_expired(&mut self, now_ns: u64) -> Vec<(InstanceId, u64)> {
        let mut expired = Vec::new();
        while let Some(first) = self.calls.first_entry() {
            if now_ns.saturating_sub(first.get().since_ns) < ANSWER_NS {
                break;
            }
            let (number, call) = first.remove_entry();
            if let Caller::Here(instance) = call.caller {
                expired.push((instance, number));
            }
        }
        expired
    }
}

impl Engine {
    pub(crate) fn deliver_inbound(&mut self, inbound: InboundCall) -> ApiResult<()> {
        let InboundCall { world, from, call, script, method, payload, delivery } = inbound;
        let to = self.callers.find(&script).ok_or(ApiError::NotFound)?;
        let (from, number) = match world {
            // A player gets no answer by call: scripts send events.
            None => (from | PLAYER, 0),
            Some(world) => {
                (from | ELSEWHERE, self.open_calls.open(Caller::Elsewhere { world, call }, Callee::Here(to), self.now_ns)?)
            }
        };
        let pushed = self.callers.push(to, Call::Message(Box::new(Message { from, call: number, method, payload, delivery })));
        if pushed.is_err() {
            self.open_calls.calls.remove(&number);
        }
        pushed
    }

    /// Players come as broadcasts, whose sender is the player: scripts that forge one are known by their number.
    pub(crate) fn tell_of_player(&mut self, player: PlayerId, topic: &str, payload: &[u8], in_part: bool) -> ApiResult<()> {
        let nobody = InstanceId(0);
        let to = self.callers.subscribers(topic, nobody);
        if !in_part && !to.iter().all(|to| self.callers.has_room(*to)) {
            return Err(ApiError::Full);
        }
        for to in to {
            let (kind, a) = (event::BROADCAST, player.0 | PLAYER);
            let event = Event { kind, a, b: 0, topic: topic.to_owned(), payload: payload.to_vec() };
            // Counted there.
            let _ = self.callers.push(to, Call::Event(Box::new(event)));
        }
        Ok(())
    }

    /// `false`: nobody waits for it. Full: the call stays open, and the answer can be given again.
    pub(crate) fn deliver_answer(&mut self, call: u64, payload: Vec<u8>, delivery: u64) -> ApiResult<bool> {
        // An answer that comes twice or too late finds no call.
        let Some(open) = self.open_calls.calls.get(&call).filter(|open| open.callee == Callee::Elsewhere) else {
            return Ok(false);
        };
        let Caller::Here(instance) = open.caller else { return Ok(false) };
        let answer = Message { from: 0, call, method: String::new(), payload, delivery };
        let queued = match self.callers.push(instance, Call::Message(Box::new(answer))) {
            Ok(()) => true,
            // The caller has left the world.
            Err(ApiError::NotFound) => false,
            Err(error) => return Err(error),
        };
        self.open_calls.calls.remove(&call);
        Ok(queued)
    }
}

impl NetworkApi for Engine {
    fn send_rpc(&mut self, target: &str, method: &str, payload: &[u8]) -> ApiResult<u64> {
        let from = self.callers.current()?.info.instance;
        let (method, payload) = (method.to_owned(), payload.to_vec());
        if let Some((world, script)) = target.split_once('/') {
            if world.is_empty() || script.is_empty() {
                return Err(ApiError::BadArgument);
            }
            if self.blocked.contains(world) {
                return Err(ApiError::Full);
            }
            let call = self.open_calls.open(Caller::Here(from), Callee::Elsewhere, self.now_ns)?;
            self.outbound.push(OutboundCall::Call {
                world: world.to_owned(),
                script: script.to_owned(),
                from: from.0,
                call,
                method,
                payload,
            });
            return Ok(call);
        }
        let to = self.callers.find(target).ok_or(ApiError::NotFound)?;
        let call = self.open_calls.open(Caller::Here(from), Callee::Here(to), self.now_ns)?;
        let pushed = self.callers.push(to, Call::Message(Box::new(Message { from: from.0, call, method, payload, delivery: 0 })));
        if let Err(error) = pushed {
            self.open_calls.calls.remove(&call);
            return Err(error);
        }
        Ok(call)
    }

    fn reply_rpc(&mut self, call: u64, payload: &[u8]) -> ApiResult<()> {
        let from = self.callers.current()?.info.instance;
        let open = self.open_calls.calls.get(&call).ok_or(ApiError::NotFound)?;
        if open.callee != Callee::Here(from) {
            return Err(ApiError::Denied);
        }
        match open.caller.clone() {
            // Full: the call stays open, and the script can try again.
            Caller::Here(to) => self.callers.push(
                to,
                Call::Message(Box::new(Message {
                    from: from.0,
                    call,
                    method: String::new(),
                    payload: payload.to_vec(),
                    delivery: 0,
                })),
            )?,
            Caller::Elsewhere { world, call } => {
                self.outbound.push(OutboundCall::Reply { world, call, payload: payload.to_vec() })
            }
        }
        self.open_calls.calls.remove(&call);
        Ok(())
    }

    fn broadcast_event(&mut self, topic: &str, payload: &[u8]) -> ApiResult<()> {
        let from = self.callers.current()?.info.instance;
        for to in self.callers.subscribers(topic, from) {
            let event = Event { kind: event::BROADCAST, a: from.0, b: 0, topic: topic.to_owned(), payload: payload.to_vec() };
            // A full inbox is its owner's loss, and counted.
            let _ = self.callers.push(to, Call::Event(Box::new(event)));
        }
        Ok(())
    }

    fn subscribe(&mut self, topic: &str) -> ApiResult<()> {
        let topics = &mut self.callers.current_mut()?.topics;
        if topics.iter().any(|t| t == topic) {
            return Ok(());
        }
        if topics.len() >= limit::TOPICS {
            return Err(ApiError::Full);
        }
        topics.push(topic.to_owned());
        Ok(())
    }

    fn send_player(&mut self, player: PlayerId, topic: &str, payload: &[u8]) -> ApiResult<()> {
        self.command(ClientCommand::Event {
            player: PlayerId(player.0 & !PLAYER),
            topic: topic.to_owned(),
            payload: payload.to_vec(),
        });
        Ok(())
    }
}
