//! Play sounds, adjust spatial audio parameters.

use crate::error::{done, value};
use crate::raw::call;
use crate::{Result, Vec3};

/// A sound that plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sound(u64);

/// How a sound is heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// 0 to 4.
    pub gain: f32,
    /// 0.25 to 4.
    pub pitch: f32,
    /// Heard within so many metres; 0 is everywhere.
    pub range: f32,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { gain: 1.0, pitch: 1.0, range: 30.0 }
    }
}

impl Sound {
    /// A handle that was kept as a number.
    pub const fn from_raw(handle: u64) -> Sound {
        Sound(handle)
    }

    /// The handle as a number, to keep.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Stop it.
    pub fn stop(self) -> Result<()> {
        done(call!(audio::stop(self.0 as i64)))
    }

    /// Move it.
    pub fn set_source(self, at: Vec3) -> Result<()> {
        done(call!(audio::set_source(self.0 as i64, at.x, at.y, at.z)))
    }

    /// Change how it is heard.
    pub fn set_parameters(self, p: Parameters) -> Result<()> {
        done(call!(audio::set_parameters(self.0 as i64, p.gain, p.pitch, p.range)))
    }
}

/// Play a sound at a place, once.
pub fn play(sound: &str, at: Vec3, p: Parameters) -> Result<Sound> {
    start(sound, at, p, false)
}

/// Play a sound at a place until it is stopped.
pub fn play_looped(sound: &str, at: Vec3, p: Parameters) -> Result<Sound> {
    start(sound, at, p, true)
}

fn start(sound: &str, at: Vec3, p: Parameters, looped: bool) -> Result<Sound> {
    value(call!(audio::play(in sound.as_bytes(), at.x, at.y, at.z, p.gain, p.pitch, p.range, i32::from(looped)))).map(Sound)
}
