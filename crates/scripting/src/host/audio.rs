//! `aether:audio`: sounds in space.

use super::*;
use crate::abi::limit;
use crate::api::{AudioApi, SoundParameters};

const MODULE: &str = "aether:audio";
const GROUP: HostGroup = HostGroup::Audio;

pub(super) fn link(linker: &mut Linker<ScriptData>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "play",
        |mut guest: Guest<'_>, sound: i32, length: i32, x: f32, y: f32, z: f32, gain: f32, pitch: f32, range: f32, looped: i32| -> Result<i64> {
            enter(&mut guest, GROUP, cost::COMMAND)?;
            Ok(status64(call(&mut guest, |memory, api| {
                let sound = memory.text(sound, length, limit::NAME_BYTES)?;
                api.play_sound(sound, vec3(x, y, z), SoundParameters { gain, pitch, range }, looped != 0)
            })))
        },
    )?;
    linker.func_wrap(MODULE, "stop", |mut guest: Guest<'_>, handle: i64| -> Result<i32> {
        enter(&mut guest, GROUP, cost::COMMAND)?;
        Ok(done(call(&mut guest, |_, api| api.stop_sound(handle as u64))))
    })?;
    linker.func_wrap(MODULE, "set_source", |mut guest: Guest<'_>, handle: i64, x: f32, y: f32, z: f32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::COMMAND)?;
        Ok(done(call(&mut guest, |_, api| api.set_sound_position(handle as u64, vec3(x, y, z)))))
    })?;
    linker.func_wrap(MODULE, "set_parameters", |mut guest: Guest<'_>, handle: i64, gain: f32, pitch: f32, range: f32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::COMMAND)?;
        Ok(done(call(&mut guest, |_, api| api.set_sound_parameters(handle as u64, SoundParameters { gain, pitch, range }))))
    })?;
    Ok(())
}
