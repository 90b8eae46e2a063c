//! Bytes for `save_state`: a version byte, then fields in a fixed order, little-endian.
//!
//! ```
//! use aether_script_sdk::state::{Reader, Writer};
//!
//! let bytes = Writer::new(2).u32(7).f32(0.5).finish();
//! let mut state = Reader::new(&bytes);
//! assert_eq!(state.version(), 2);
//! assert_eq!((state.u32(), state.f32()), (Some(7), Some(0.5)));
//! assert!(state.is_empty());
//! ```

use crate::{EntityId, Vec3};

/// Writes a state.
pub struct Writer(Vec<u8>);

impl Writer {
    /// A state that begins with `version`: raise it when the fields change.
    pub fn new(version: u8) -> Writer {
        Writer(vec![version])
    }

    /// Adds a number.
    pub fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }

    /// Adds a number.
    pub fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds a number.
    pub fn u64(mut self, value: u64) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds a number.
    pub fn f32(mut self, value: f32) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds a vector.
    pub fn vec3(self, v: Vec3) -> Writer {
        self.f32(v.x).f32(v.y).f32(v.z)
    }

    /// Adds an entity.
    pub fn entity(self, entity: EntityId) -> Writer {
        self.u64(entity.raw())
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a state. Every method gives `None` once the bytes have run out, so one `?` each is enough.
pub struct Reader<'a> {
    version: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The version is 0 if there are no bytes.
    pub fn new(state: &'a [u8]) -> Reader<'a> {
        match state.split_first() {
            Some((version, rest)) => Reader { version: *version, rest },
            None => Reader { version: 0, rest: &[] },
        }
    }

    /// The version that the state was written with.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    /// The next number.
    pub fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    /// The next number.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next number.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// The next number.
    pub fn f32(&mut self) -> Option<f32> {
        self.take().map(f32::from_le_bytes)
    }

    /// The next vector.
    pub fn vec3(&mut self) -> Option<Vec3> {
        Some(Vec3::new(self.f32()?, self.f32()?, self.f32()?))
    }

    /// The next entity.
    pub fn entity(&mut self) -> Option<EntityId> {
        self.u64().map(EntityId::from_raw)
    }
}
