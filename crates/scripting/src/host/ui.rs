//! `aether:ui`: commands to players' screens.

use super::*;
use crate::abi::limit;
use crate::api::{PlayerId, UIApi};

const MODULE: &str = "aether:ui";
const GROUP: HostGroup = HostGroup::Ui;

pub(super) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, MODULE, "show", |guest, player: i64, element: i32, length: i32, text: i32, text_length: i32| -> i32 {
        enter(guest, GROUP, cost::COMMAND + bytes(text_length, limit::TEXT_BYTES))?;
        Ok(done(call(guest, |memory, api| {
            let (element, text) =
                (memory.text(element, length, limit::NAME_BYTES)?, memory.text(text, text_length, limit::TEXT_BYTES)?);
            api.show_element(PlayerId(player as u64), element, text)
        })))
    });
    costly!(linker, fibre, MODULE, "hide", |guest, player: i64, element: i32, length: i32| -> i32 {
        enter(guest, GROUP, cost::COMMAND)?;
        Ok(done(call(guest, |memory, api| {
            api.hide_element(PlayerId(player as u64), memory.text(element, length, limit::NAME_BYTES)?)
        })))
    });
    costly!(linker, fibre, MODULE, "set_text", |guest,
                                                player: i64,
                                                element: i32,
                                                length: i32,
                                                text: i32,
                                                text_length: i32|
     -> i32 {
        enter(guest, GROUP, cost::COMMAND + bytes(text_length, limit::TEXT_BYTES))?;
        Ok(done(call(guest, |memory, api| {
            let (element, text) =
                (memory.text(element, length, limit::NAME_BYTES)?, memory.text(text, text_length, limit::TEXT_BYTES)?);
            api.update_text(PlayerId(player as u64), element, text)
        })))
    });
    Ok(())
}
