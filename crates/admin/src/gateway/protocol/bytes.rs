//! Fields of frames as bytes: numbers, texts, places. Not here: which fields a frame has.

use super::FrameError;
use aether_cluster::{Created, Pose};
use aether_scripting::{SoundParameters, Vec3};

/// Takes fields off the front of a frame.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, FrameError> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn text(&mut self, length: usize) -> Result<&'a str, FrameError> {
        str::from_utf8(self.bytes(length)?).map_err(|_| FrameError::Text)
    }

    pub fn str8(&mut self) -> Result<&'a str, FrameError> {
        let length = self.u8()?;
        self.text(length.into())
    }

    pub fn str16(&mut self) -> Result<&'a str, FrameError> {
        let length = self.array().map(u16::from_le_bytes)?;
        self.text(length.into())
    }

    pub fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Long(self.0.len())) }
    }
}

/// Puts fields at its end.
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Writer {
        self.0.push(value);
        self
    }

    pub fn u16(&mut self, value: u16) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    /// What is over is cut off: counts are bounded long before, coordinates by the world.
    pub fn u24(&mut self, value: u32) -> &mut Writer {
        self.raw(&value.to_le_bytes()[..3])
    }

    pub fn u64(&mut self, value: u64) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub fn f32(&mut self, value: f32) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub fn vec3(&mut self, v: Vec3) -> &mut Writer {
        self.f32(v.x).f32(v.y).f32(v.z)
    }

    pub fn sound(&mut self, p: SoundParameters) -> &mut Writer {
        self.f32(p.gain).f32(p.pitch).f32(p.range)
    }

    /// At a character's edge: what is longer than its length can say is cut.
    pub fn str8(&mut self, text: &str) -> &mut Writer {
        let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
        self.u8(text.len() as u8).raw(text.as_bytes())
    }

    pub fn str16(&mut self, text: &str) -> &mut Writer {
        let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
        self.u16(text.len() as u16).raw(text.as_bytes())
    }

    pub fn bytes16(&mut self, bytes: &[u8]) -> &mut Writer {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        self.u16(bytes.len() as u16).raw(bytes)
    }

    pub fn pose(&mut self, pose: Pose) -> &mut Writer {
        self.u24(pose.x as u32).u24(pose.y as u32).u24(pose.z as u32).u16(pose.yaw)
    }

    pub fn kinds(&mut self, kinds: &[(u16, impl AsRef<str>)]) -> &mut Writer {
        self.u16(kinds.len() as u16);
        for (kind, name) in kinds {
            self.u16(*kind).str8(name.as_ref());
        }
        self
    }

    pub fn created<'a>(&mut self, created: impl ExactSizeIterator<Item = &'a Created>) -> &mut Writer {
        self.u24(created.len() as u32);
        for Created { id, slot, kind, pose } in created {
            self.u24(*slot).u64(*id).u16(*kind).pose(*pose);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        let long = "é".repeat(200);
        let mut frame = Writer(Vec::new());
        frame.str8(&long);
        assert_eq!((frame.0[0], frame.0.len()), (254, 255));
        assert!(str::from_utf8(&frame.0[1..]).is_ok());
    }
}
