//! `aether:audio`: sounds in space.

use super::*;
use crate::abi::limit;
use crate::api::{AudioApi, SoundParameters};

const MODULE: &str = "aether:audio";
const GROUP: HostGroup = HostGroup::Audio;

pub(super) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, MODULE, "play", |guest,
                                            sound: i32,
                                            length: i32,
                                            x: f32,
                                            y: f32,
                                            z: f32,
                                            gain: f32,
                                            pitch: f32,
                                            range: f32,
                                            looped: i32|
     -> i64 {
        enter(guest, GROUP, cost::COMMAND)?;
        Ok(status64(call(guest, |memory, api| {
            let sound = memory.text(sound, length, limit::NAME_BYTES)?;
            api.play_sound(sound, vec3(x, y, z), SoundParameters { gain, pitch, range }, looped != 0)
        })))
    });
    costly!(linker, fibre, MODULE, "stop", |guest, handle: i64| -> i32 {
        enter(guest, GROUP, cost::COMMAND)?;
        Ok(done(act(guest, |api| api.stop_sound(handle as u64))))
    });
    costly!(linker, fibre, MODULE, "set_source", |guest, handle: i64, x: f32, y: f32, z: f32| -> i32 {
        enter(guest, GROUP, cost::COMMAND)?;
        Ok(done(act(guest, |api| api.set_sound_position(handle as u64, vec3(x, y, z)))))
    });
    costly!(linker, fibre, MODULE, "set_parameters", |guest, handle: i64, gain: f32, pitch: f32, range: f32| -> i32 {
        enter(guest, GROUP, cost::COMMAND)?;
        Ok(done(act(guest, |api| api.set_sound_parameters(handle as u64, SoundParameters { gain, pitch, range }))))
    });
    Ok(())
}
