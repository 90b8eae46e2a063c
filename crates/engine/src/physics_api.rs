//! [`PhysicsApi`] over rapier. An entity without a body has a velocity that nothing applies.

use crate::engine::Engine;
use crate::physics::to_rapier;
use aether_scripting::{ApiError, ApiResult, EntityId, PhysicsApi, RayHit, Vec3};
use rapier3d::geometry::{Ball, Cuboid};

impl PhysicsApi for Engine {
    fn apply_force(&mut self, id: EntityId, force: Vec3) -> ApiResult<()> {
        self.own_entity(id)?;
        self.physics.with_body(id, |body| body.add_force(to_rapier(force), true)).ok_or(ApiError::BadArgument)
    }

    fn apply_impulse(&mut self, id: EntityId, impulse: Vec3) -> ApiResult<()> {
        self.own_entity(id)?;
        self.physics.with_body(id, |body| body.apply_impulse(to_rapier(impulse), true)).ok_or(ApiError::BadArgument)
    }

    fn set_velocity(&mut self, id: EntityId, velocity: Vec3) -> ApiResult<()> {
        let entity = self.own_entity(id)?;
        entity.velocity = velocity;
        if entity.has_body {
            self.physics.with_body(id, |body| body.set_linvel(to_rapier(velocity), true));
        }
        Ok(())
    }

    fn velocity(&self, id: EntityId) -> ApiResult<Vec3> {
        self.entity(id).map(|entity| entity.velocity)
    }

    fn raycast(&mut self, origin: Vec3, direction: Vec3, max_distance: f32, ignore: EntityId) -> ApiResult<RayHit> {
        self.physics.raycast(origin, direction, max_distance, ignore).ok_or(ApiError::NotFound)
    }

    fn overlap_sphere(&mut self, center: Vec3, radius: f32, found: &mut Vec<EntityId>) -> ApiResult<()> {
        self.physics.overlap(center, &Ball::new(radius), found);
        Ok(())
    }

    fn overlap_box(&mut self, center: Vec3, half: Vec3, found: &mut Vec<EntityId>) -> ApiResult<()> {
        self.physics.overlap(center, &Cuboid::new(to_rapier(half)), found);
        Ok(())
    }
}
