//! A script's memory as the host sees it: every address and length comes from the script and is checked here.

use crate::api::{ApiError, ApiResult, Body, EntityId, Vec3};

/// The linear memory of the calling script. Lengths and addresses are unsigned 32-bit numbers that wasm hands over as `i32`.
pub(crate) struct GuestMemory<'a>(pub(crate) &'a mut [u8]);

impl GuestMemory<'_> {
    #[inline]
    pub(crate) fn slice(&self, address: i32, length: usize) -> ApiResult<&[u8]> {
        let start = address as u32 as usize;
        self.0.get(start..).and_then(|rest| rest.get(..length)).ok_or(ApiError::BadPointer)
    }

    #[inline]
    pub(crate) fn slice_mut(&mut self, address: i32, length: usize) -> ApiResult<&mut [u8]> {
        let start = address as u32 as usize;
        self.0.get_mut(start..).and_then(|rest| rest.get_mut(..length)).ok_or(ApiError::BadPointer)
    }

    /// Bytes, at most `limit` of them.
    pub(crate) fn bytes(&self, address: i32, length: i32, limit: usize) -> ApiResult<&[u8]> {
        let bytes = self.slice(address, length as u32 as usize)?;
        if bytes.len() > limit { Err(ApiError::TooLarge) } else { Ok(bytes) }
    }

    /// Text, at most `limit` bytes of it.
    pub(crate) fn text(&self, address: i32, length: i32, limit: usize) -> ApiResult<&str> {
        std::str::from_utf8(self.bytes(address, length, limit)?).map_err(|_| ApiError::BadUtf8)
    }

    #[inline]
    pub(crate) fn write(&mut self, address: u32, bytes: &[u8]) -> ApiResult<()> {
        self.slice_mut(address as i32, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    #[inline]
    pub(crate) fn write_vec3(&mut self, address: i32, v: Vec3) -> ApiResult<()> {
        let out: &mut [u8; 12] = self.slice_mut(address, 12)?.try_into().map_err(|_| ApiError::BadPointer)?;
        out[0..4].copy_from_slice(&v.x.to_le_bytes());
        out[4..8].copy_from_slice(&v.y.to_le_bytes());
        out[8..12].copy_from_slice(&v.z.to_le_bytes());
        Ok(())
    }

    /// Bytes of variable length: the number there are; written only if all of them fit.
    pub(crate) fn write_all_or_nothing(&mut self, address: i32, capacity: i32, bytes: &[u8]) -> ApiResult<u32> {
        let out = self.slice_mut(address, capacity as u32 as usize)?;
        if let Some(out) = out.get_mut(..bytes.len()) {
            out.copy_from_slice(bytes);
        }
        Ok(bytes.len() as u32)
    }
}

/// Bytes of a [`Body`] in guest memory.
pub(crate) const BODY_BYTES: usize = 36;

fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The entity id at an offset of a slice that is long enough.
pub(crate) fn entity_at(bytes: &[u8], at: usize) -> EntityId {
    let mut id = [0; 8];
    id.copy_from_slice(&bytes[at..at + 8]);
    EntityId(u64::from_le_bytes(id))
}

/// Read a body out of its [`BODY_BYTES`] bytes.
pub(crate) fn read_body(bytes: &[u8]) -> Body {
    let vec3 = |at| Vec3::new(f32_at(bytes, at), f32_at(bytes, at + 4), f32_at(bytes, at + 8));
    Body { entity: entity_at(bytes, 0), position: vec3(8), velocity: vec3(20), yaw: f32_at(bytes, 32) }
}

/// A body as its [`BODY_BYTES`] bytes.
pub(crate) fn body_bytes(body: &Body) -> [u8; BODY_BYTES] {
    let mut bytes = [0; BODY_BYTES];
    bytes[..8].copy_from_slice(&body.entity.0.to_le_bytes());
    let (p, v) = (body.position, body.velocity);
    for (i, number) in [p.x, p.y, p.z, v.x, v.y, v.z, body.yaw].into_iter().enumerate() {
        bytes[8 + 4 * i..12 + 4 * i].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_length_outside_the_memory_is_refused_whatever_they_sum_to() {
        let mut bytes = [0; 16];
        let mut memory = GuestMemory(&mut bytes);
        for (address, length) in [(17, 0), (0, 17), (16, 1), (-1, 1), (-1, 0), (8, -8), (i32::MIN, i32::MIN)] {
            assert_eq!(memory.bytes(address, length, 100), Err(ApiError::BadPointer), "{address} {length}");
            assert_eq!(memory.write_all_or_nothing(address, length, b"x"), Err(ApiError::BadPointer));
        }
        assert_eq!(memory.bytes(16, 0, 0), Ok(&[][..]));
        assert_eq!(memory.bytes(0, 16, 15), Err(ApiError::TooLarge));
    }

    #[test]
    fn what_does_not_fit_is_not_written_but_counted() {
        let mut bytes = [7; 4];
        let mut memory = GuestMemory(&mut bytes);
        assert_eq!(memory.write_all_or_nothing(0, 3, b"abcd"), Ok(4));
        assert_eq!(memory.write_all_or_nothing(1, 3, b"ab"), Ok(2));
        assert_eq!(bytes, [7, b'a', b'b', 7]);
    }

    proptest::proptest! {
        #[test]
        fn a_body_survives_the_way_through_guest_memory(id: u64, numbers: [f32; 7]) {
            let [x, y, z, a, b, c, yaw] = numbers;
            let body = Body { entity: EntityId(id), position: Vec3::new(x, y, z), velocity: Vec3::new(a, b, c), yaw };
            let back = read_body(&body_bytes(&body));
            proptest::prop_assert_eq!(body_bytes(&back), body_bytes(&body));
        }
    }
}
