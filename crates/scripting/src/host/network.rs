//! `aether:network`: calls between scripts, broadcasts, events to players.

use super::*;
use crate::abi::limit;
use crate::api::{NetworkApi, PlayerId};

const MODULE: &str = "aether:network";
const GROUP: HostGroup = HostGroup::Network;

pub(super) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, MODULE, "rpc", |guest,
                                           target: i32,
                                           length: i32,
                                           method: i32,
                                           method_length: i32,
                                           payload: i32,
                                           payload_length: i32|
     -> i64 {
        enter(guest, GROUP, cost::MESSAGE + bytes(payload_length, limit::PAYLOAD_BYTES))?;
        Ok(status64(call(guest, |memory, api| {
            let target = memory.text(target, length, limit::TARGET_BYTES)?;
            let method = memory.text(method, method_length, limit::NAME_BYTES)?;
            api.send_rpc(target, method, memory.bytes(payload, payload_length, limit::PAYLOAD_BYTES)?)
        })))
    });
    costly!(linker, fibre, MODULE, "reply", |guest, number: i64, payload: i32, length: i32| -> i32 {
        enter(guest, GROUP, cost::MESSAGE + bytes(length, limit::PAYLOAD_BYTES))?;
        Ok(done(call(guest, |memory, api| api.reply_rpc(number as u64, memory.bytes(payload, length, limit::PAYLOAD_BYTES)?))))
    });
    costly!(linker, fibre, MODULE, "broadcast", |guest, topic: i32, length: i32, payload: i32, payload_length: i32| -> i32 {
        enter(guest, GROUP, cost::MESSAGE + bytes(payload_length, limit::PAYLOAD_BYTES))?;
        Ok(done(call(guest, |memory, api| {
            let topic = memory.text(topic, length, limit::NAME_BYTES)?;
            api.broadcast_event(topic, memory.bytes(payload, payload_length, limit::PAYLOAD_BYTES)?)
        })))
    });
    costly!(linker, fibre, MODULE, "subscribe", |guest, topic: i32, length: i32| -> i32 {
        enter(guest, GROUP, cost::QUERY)?;
        Ok(done(call(guest, |memory, api| api.subscribe(memory.text(topic, length, limit::NAME_BYTES)?))))
    });
    costly!(linker, fibre, MODULE, "send_player", |guest,
                                                   player: i64,
                                                   topic: i32,
                                                   length: i32,
                                                   payload: i32,
                                                   payload_length: i32|
     -> i32 {
        enter(guest, GROUP, cost::MESSAGE + bytes(payload_length, limit::PAYLOAD_BYTES))?;
        Ok(done(call(guest, |memory, api| {
            let topic = memory.text(topic, length, limit::NAME_BYTES)?;
            api.send_player(PlayerId(player as u64), topic, memory.bytes(payload, payload_length, limit::PAYLOAD_BYTES)?)
        })))
    });
    Ok(())
}
