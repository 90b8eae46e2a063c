//! Call scripts, answer their calls, broadcast. What comes in is a [`Message`](crate::Message) or an [`Event`](crate::Event).

use crate::error::{done, value};
use crate::raw::call;
use crate::{CallId, PlayerId, Result};

/// Call a script: `merchant` in this world, `harbour/merchant` in another. Its answer comes as a message with the same call
/// number, or an [`Event::Unanswered`](crate::Event::Unanswered) does. Method at most 64 bytes, payload at most 4096.
pub fn rpc(target: &str, method: &str, payload: &[u8]) -> Result<CallId> {
    value(call!(network::rpc(in target.as_bytes(), in method.as_bytes(), in payload))).map(CallId)
}

/// Answer a call, once, now or in a later tick.
pub fn reply(to: CallId, payload: &[u8]) -> Result<()> {
    done(call!(network::reply(to.0 as i64, in payload)))
}

/// Tell every script of the world that subscribed to the topic.
pub fn broadcast(topic: &str, payload: &[u8]) -> Result<()> {
    done(call!(network::broadcast(in topic.as_bytes(), in payload)))
}

/// Get a topic's broadcasts as events. At most 16 topics a script.
pub fn subscribe(topic: &str) -> Result<()> {
    done(call!(network::subscribe(in topic.as_bytes())))
}

/// Send an event to a player.
pub fn send_player(player: PlayerId, topic: &str, payload: &[u8]) -> Result<()> {
    done(call!(network::send_player(player.lowered(), in topic.as_bytes(), in payload)))
}
