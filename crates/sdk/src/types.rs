//! Ids, vectors and the records that the host reads and writes in place.
//!
//! The layouts are those of the WIT: little-endian, no padding. The sizes are checked below.

use core::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

/// An entity of the world. 0 is nobody.
// `packed(4)`: a body holds one at 36 bytes without padding, and the ABI asks for no alignment.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(u64);

impl EntityId {
    /// Where an id is wanted and there is no entity.
    pub const NONE: EntityId = EntityId(0);

    /// An id that was kept as a number, in saved state for instance.
    pub const fn from_raw(id: u64) -> EntityId {
        EntityId(id)
    }

    /// The id as a number, to keep.
    pub const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) const fn lowered(self) -> i64 {
        self.0 as i64
    }
}

/// A place, direction or velocity. y is up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vec3 {
    /// East.
    pub x: f32,
    /// Up.
    pub y: f32,
    /// North.
    pub z: f32,
}

impl Vec3 {
    /// All zero.
    pub const ZERO: Vec3 = Vec3::new(0.0, 0.0, 0.0);
    /// Up, one metre.
    pub const UP: Vec3 = Vec3::new(0.0, 1.0, 0.0);

    /// From its parts.
    pub const fn new(x: f32, y: f32, z: f32) -> Vec3 {
        Vec3 { x, y, z }
    }

    /// The sum of the products.
    pub fn dot(self, other: Vec3) -> f32 {
        self.x * other.x + self.y * other.y + self.z * other.z
    }

    /// Its length.
    pub fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// How far it is to `other`.
    pub fn distance(self, other: Vec3) -> f32 {
        (other - self).length()
    }

    /// The same without its height.
    pub fn flat(self) -> Vec3 {
        Vec3 { y: 0.0, ..self }
    }

    /// The same direction with length 1; zero stays zero.
    pub fn normalized(self) -> Vec3 {
        let length = self.length();
        if length > 1e-6 { self / length } else { Vec3::ZERO }
    }

    /// The same direction, no longer than `most`.
    pub fn limited(self, most: f32) -> Vec3 {
        if self.dot(self) > most * most { self.normalized() * most } else { self }
    }

    /// The angle about the vertical axis that faces this way, as `set_yaw` takes it.
    pub fn yaw(self) -> f32 {
        self.x.atan2(self.z)
    }
}

impl Add for Vec3 {
    type Output = Vec3;
    fn add(self, o: Vec3) -> Vec3 {
        Vec3::new(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl Sub for Vec3 {
    type Output = Vec3;
    fn sub(self, o: Vec3) -> Vec3 {
        Vec3::new(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Vec3;
    fn mul(self, s: f32) -> Vec3 {
        Vec3::new(self.x * s, self.y * s, self.z * s)
    }
}

impl Div<f32> for Vec3 {
    type Output = Vec3;
    fn div(self, s: f32) -> Vec3 {
        self * (1.0 / s)
    }
}

impl Neg for Vec3 {
    type Output = Vec3;
    fn neg(self) -> Vec3 {
        self * -1.0
    }
}

impl AddAssign for Vec3 {
    fn add_assign(&mut self, o: Vec3) {
        *self = *self + o;
    }
}

impl SubAssign for Vec3 {
    fn sub_assign(&mut self, o: Vec3) {
        *self = *self - o;
    }
}

/// How one entity moves, as [`entity::read_bodies`](crate::entity::read_bodies) gives it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Body {
    /// Whose it is; [`EntityId::NONE`] if there was no such entity.
    pub entity: EntityId,
    /// Metres.
    pub position: Vec3,
    /// Metres a second.
    pub velocity: Vec3,
    /// Radians about the vertical axis.
    pub yaw: f32,
}

/// What a ray met.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RayHit {
    /// Whose body it is.
    pub entity: EntityId,
    /// Metres from where the ray began.
    pub distance: f32,
    /// The direction that the surface faces.
    pub normal: Vec3,
}

/// What is left of the script's allowances in this tick, in whole actions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances {
    /// Fuel of this call.
    pub fuel: u64,
    /// Entities to spawn.
    pub spawns: u32,
    /// Calls to other scripts.
    pub rpcs: u32,
    /// Writes to storage.
    pub storage_writes: u32,
    /// Bytes of those writes.
    pub storage_bytes: u32,
    /// UI commands.
    pub ui_commands: u32,
    /// Audio commands.
    pub audio_commands: u32,
    /// Lines to log.
    pub log_lines: u32,
    /// Bytes by which memory may grow.
    pub memory_bytes: u32,
}

// The sizes that the WIT names.
const _: () = assert!(size_of::<EntityId>() == 8 && align_of::<EntityId>() == 4);
const _: () = assert!(size_of::<Vec3>() == 12);
const _: () = assert!(size_of::<Body>() == 36);
const _: () = assert!(size_of::<RayHit>() == 24);
const _: () = assert!(size_of::<Allowances>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_vector_has_no_direction_and_no_nan() {
        assert_eq!(Vec3::ZERO.normalized(), Vec3::ZERO);
        assert_eq!(Vec3::ZERO.limited(3.0), Vec3::ZERO);
    }

    #[test]
    fn limiting_keeps_the_direction() {
        assert_eq!(Vec3::new(0.0, 0.0, 8.0).limited(2.0), Vec3::new(0.0, 0.0, 2.0));
        assert_eq!(Vec3::new(0.0, 1.0, 0.0).limited(2.0), Vec3::UP);
    }
}
