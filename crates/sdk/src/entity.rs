//! Query, spawn, destroy and modify entities. Reading is open to all; the manifest's `entity_kinds` says what a script may change.

use crate::error::{bytes, count, done, list, string, value};
use crate::raw::call;
use crate::{Body, EntityId, Result, Vec3};

/// The most entities of one batch or one query.
pub const BATCH_MAX: usize = 1024;

/// The entity that this script was started for, [`NotFound`](crate::Error::NotFound) if it has none.
pub fn self_entity() -> Result<EntityId> {
    value(call!(entity::self_entity())).map(EntityId::from_raw)
}

/// Make an entity from a prefab. The script owns it.
pub fn spawn(prefab: &str, at: Vec3) -> Result<EntityId> {
    value(call!(entity::spawn(in prefab.as_bytes(), at.x, at.y, at.z))).map(EntityId::from_raw)
}

/// Remove an entity and its body.
pub fn destroy(entity: EntityId) -> Result<()> {
    done(call!(entity::destroy(entity.lowered())))
}

/// Its kind, as its prefab names it.
pub fn kind(entity: EntityId) -> Result<String> {
    string(|out| call!(entity::get_kind(entity.lowered(), out out)))
}

/// Where it is, in metres.
pub fn position(entity: EntityId) -> Result<Vec3> {
    let mut at = Vec3::ZERO;
    done(call!(entity::get_position(entity.lowered(), put &mut at)))?;
    Ok(at)
}

/// Put it somewhere else, without a collision on the way.
pub fn set_position(entity: EntityId, to: Vec3) -> Result<()> {
    done(call!(entity::set_position(entity.lowered(), to.x, to.y, to.z)))
}

/// Turn it about the vertical axis, radians.
pub fn set_yaw(entity: EntityId, yaw: f32) -> Result<()> {
    done(call!(entity::set_yaw(entity.lowered(), yaw)))
}

/// Position, velocity and yaw of many entities in one call, at most [`BATCH_MAX`]. `bodies` is as long as `entities`, or what
/// does not fit is left out. One that does not exist gets [`EntityId::NONE`] in its place.
pub fn read_bodies<'a>(entities: &[EntityId], bodies: &'a mut [Body]) -> Result<&'a mut [Body]> {
    let there = count(call!(entity::read_bodies(in entities, out bodies)))?;
    let fit = there.min(bodies.len());
    Ok(&mut bodies[..fit])
}

/// Set position, velocity and yaw of many entities in one call, at most [`BATCH_MAX`]. Gives how many were written: one that
/// does not exist or is not the script's is skipped.
pub fn write_bodies(bodies: &[Body]) -> Result<usize> {
    count(call!(entity::write_bodies(in bodies)))
}

/// A component's bytes.
pub fn component(entity: EntityId, name: &str) -> Result<Vec<u8>> {
    bytes(|out| call!(entity::get_component(entity.lowered(), in name.as_bytes(), out out)))
}

/// A component as text, as prefabs write them.
pub fn component_text(entity: EntityId, name: &str) -> Result<String> {
    string(|out| call!(entity::get_component(entity.lowered(), in name.as_bytes(), out out)))
}

/// Set a component: at most 64 bytes of name, 4096 of value, 32 components an entity.
pub fn set_component(entity: EntityId, name: &str, value: &[u8]) -> Result<()> {
    done(call!(entity::set_component(entity.lowered(), in name.as_bytes(), in value)))
}

/// Remove a component; [`NotFound`](crate::Error::NotFound) if there is none.
pub fn remove_component(entity: EntityId, name: &str) -> Result<()> {
    done(call!(entity::remove_component(entity.lowered(), in name.as_bytes())))
}

/// The entities of a kind, by id, at most [`BATCH_MAX`].
pub fn query_kind(kind: &str) -> Result<Vec<EntityId>> {
    list(32, BATCH_MAX, EntityId::NONE, |out| call!(entity::query_kind(in kind.as_bytes(), out out)))
}

/// Like [`query_kind`] into the caller's buffer. Gives how many there are, which may be more than fit.
pub fn query_kind_into(kind: &str, out: &mut [EntityId]) -> Result<usize> {
    count(call!(entity::query_kind(in kind.as_bytes(), out out)))
}

/// The entities within `radius` metres, nearest first, at most [`BATCH_MAX`]; an empty kind means any.
pub fn query_radius(at: Vec3, radius: f32, kind: &str) -> Result<Vec<EntityId>> {
    list(32, BATCH_MAX, EntityId::NONE, |out| call!(entity::query_radius(at.x, at.y, at.z, radius, in kind.as_bytes(), out out)))
}

/// Like [`query_radius`] into the caller's buffer. Gives how many there are, which may be more than fit.
pub fn query_radius_into(at: Vec3, radius: f32, kind: &str, out: &mut [EntityId]) -> Result<usize> {
    count(call!(entity::query_radius(at.x, at.y, at.z, radius, in kind.as_bytes(), out out)))
}

/// The nearest entity within `radius` that is not the script's own; an empty kind means any.
pub fn nearest(at: Vec3, radius: f32, kind: &str) -> Result<EntityId> {
    value(call!(entity::nearest(at.x, at.y, at.z, radius, in kind.as_bytes()))).map(EntityId::from_raw)
}
