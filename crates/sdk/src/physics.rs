//! Apply forces, raycasts, overlap tests. Contacts and triggers come as [`Event`](crate::Event)s.

use crate::entity::BATCH_MAX;
use crate::error::{done, list};
use crate::raw::call;
use crate::{EntityId, RayHit, Result, Vec3};

/// Newtons, for the coming physics step.
pub fn apply_force(entity: EntityId, force: Vec3) -> Result<()> {
    done(call!(physics::apply_force(entity.lowered(), force.x, force.y, force.z)))
}

/// Newton seconds, at once.
pub fn apply_impulse(entity: EntityId, impulse: Vec3) -> Result<()> {
    done(call!(physics::apply_impulse(entity.lowered(), impulse.x, impulse.y, impulse.z)))
}

/// Metres a second.
pub fn set_velocity(entity: EntityId, velocity: Vec3) -> Result<()> {
    done(call!(physics::set_velocity(entity.lowered(), velocity.x, velocity.y, velocity.z)))
}

/// Metres a second.
pub fn velocity(entity: EntityId) -> Result<Vec3> {
    let mut velocity = Vec3::ZERO;
    done(call!(physics::get_velocity(entity.lowered(), put &mut velocity)))?;
    Ok(velocity)
}

/// The first solid body that a ray meets, [`NotFound`](crate::Error::NotFound) if none. It passes through `ignore`
/// ([`EntityId::NONE`]: through nobody). At most 1000 metres.
pub fn raycast(from: Vec3, direction: Vec3, max_distance: f32, ignore: EntityId) -> Result<RayHit> {
    let mut hit = RayHit::default();
    done(call!(physics::raycast(
        from.x, from.y, from.z, direction.x, direction.y, direction.z, max_distance, ignore.lowered(), put &mut hit
    )))?;
    Ok(hit)
}

/// The entities whose bodies touch a ball, by id.
pub fn overlap_sphere(at: Vec3, radius: f32) -> Result<Vec<EntityId>> {
    list(32, BATCH_MAX, EntityId::NONE, |out| call!(physics::overlap_sphere(at.x, at.y, at.z, radius, out out)))
}

/// The entities whose bodies touch a box with these half sides, by id.
pub fn overlap_box(at: Vec3, half: Vec3) -> Result<Vec<EntityId>> {
    list(32, BATCH_MAX, EntityId::NONE, |out| call!(physics::overlap_box(at.x, at.y, at.z, half.x, half.y, half.z, out out)))
}
