//! [`EntityApi`] over the slot map and the grid.

use crate::engine::Engine;
use crate::entities::{Entity, KindId};
use crate::physics::to_rapier;
use aether_scripting::abi::limit;
use aether_scripting::{ApiError, ApiResult, Body, EntityApi, EntityId, PrefabId, Vec3};

impl Engine {
    /// An entity that the calling script may modify: its own, or one of a kind that it was granted.
    #[inline]
    pub(crate) fn own_entity(&mut self, id: EntityId) -> ApiResult<&mut Entity> {
        let entity = self.entities.get_mut(id).ok_or(ApiError::NotFound)?;
        let rights = self.callers.rights()?;
        if rights.self_entity == Some(id) || rights.kinds.contains(entity.kind) { Ok(entity) } else { Err(ApiError::Denied) }
    }

    #[inline]
    pub(crate) fn entity(&self, id: EntityId) -> ApiResult<&Entity> {
        self.entities.get(id).ok_or(ApiError::NotFound)
    }

    /// A kind in a query: none is any; one that nobody has finds nothing.
    fn query_of(&self, kind: &str) -> ApiResult<Option<KindId>> {
        if kind.is_empty() { Ok(None) } else { self.entities.find_kind(kind).map(Some).ok_or(ApiError::NotFound) }
    }
}

impl EntityApi for Engine {
    fn find_prefab(&self, name: &str) -> ApiResult<PrefabId> {
        self.config.prefabs.find(name).map(PrefabId).ok_or(ApiError::NotFound)
    }

    fn spawn_entity_at(&mut self, prefab: PrefabId, position: Vec3) -> ApiResult<EntityId> {
        let kind = &self.config.prefabs.get(prefab.0).ok_or(ApiError::NotFound)?.kind;
        let kind = self.entities.find_kind(kind).ok_or(ApiError::NotFound)?;
        if !self.callers.rights()?.kinds.contains(kind) {
            return Err(ApiError::Denied);
        }
        let owner = self.callers.current()?.info.instance;
        self.spawn(prefab.0, owner, position)
    }

    fn destroy_entity(&mut self, id: EntityId) -> ApiResult<()> {
        self.own_entity(id)?;
        self.destroy(id);
        Ok(())
    }

    fn self_entity(&self) -> ApiResult<EntityId> {
        let own = self.callers.rights()?.self_entity.ok_or(ApiError::NotFound)?;
        self.entity(own).map(|_| own)
    }

    fn kind(&self, id: EntityId) -> ApiResult<&str> {
        Ok(&self.entities.kinds[self.entity(id)?.kind as usize])
    }

    #[inline]
    fn position(&self, id: EntityId) -> ApiResult<Vec3> {
        self.entity(id).map(|entity| entity.position)
    }

    #[inline]
    fn set_position(&mut self, id: EntityId, position: Vec3) -> ApiResult<()> {
        let entity = self.own_entity(id)?;
        let (has_body, in_cell) = (entity.has_body, entity.move_within_cell(position));
        if !in_cell {
            self.entities.change_cell(id);
        }
        if has_body {
            self.physics.with_body(id, |body| body.set_translation(to_rapier(position), true));
        }
        Ok(())
    }

    fn set_yaw(&mut self, id: EntityId, yaw: f32) -> ApiResult<()> {
        let entity = self.own_entity(id)?;
        entity.yaw = yaw;
        if entity.has_body {
            let rotation = rapier3d::math::Rotation::from_rotation_y(yaw);
            self.physics.with_body(id, |body| body.set_rotation(rotation, true));
        }
        Ok(())
    }

    fn body(&self, id: EntityId) -> ApiResult<Body> {
        let entity = self.entity(id)?;
        Ok(Body { entity: id, position: entity.position, velocity: entity.velocity, yaw: entity.yaw })
    }

    fn set_body(&mut self, body: Body) -> ApiResult<()> {
        let entity = self.own_entity(body.entity)?;
        (entity.velocity, entity.yaw) = (body.velocity, body.yaw);
        let (has_body, in_cell) = (entity.has_body, entity.move_within_cell(body.position));
        if !in_cell {
            self.entities.change_cell(body.entity);
        }
        if has_body {
            let rotation = rapier3d::math::Rotation::from_rotation_y(body.yaw);
            self.physics.with_body(body.entity, |rigid| {
                rigid.set_position(rapier3d::math::Pose::from_parts(to_rapier(body.position), rotation), true);
                rigid.set_linvel(to_rapier(body.velocity), true);
            });
        }
        Ok(())
    }

    fn component(&self, id: EntityId, name: &str) -> ApiResult<&[u8]> {
        self.entity(id)?.components.get(name).map(Vec::as_slice).ok_or(ApiError::NotFound)
    }

    fn set_component(&mut self, id: EntityId, name: &str, value: &[u8]) -> ApiResult<()> {
        let (bytes, bytes_max) = (self.component_bytes, self.config.component_bytes_max);
        let components = &mut self.own_entity(id)?.components;
        let old = components.get(name).map(|old| name.len() + old.len());
        let new = name.len() + value.len();
        let grown = bytes - old.unwrap_or(0) + new;
        if (old.is_none() && components.len() >= limit::COMPONENTS) || (grown > bytes_max && grown > bytes) {
            return Err(ApiError::Full);
        }
        match components.get_mut(name) {
            Some(old) => {
                old.clear();
                old.extend_from_slice(value);
            }
            None => {
                components.insert(name.to_owned(), value.to_vec());
            }
        }
        self.component_bytes = grown;
        Ok(())
    }

    fn remove_component(&mut self, id: EntityId, name: &str) -> ApiResult<()> {
        let removed = self.own_entity(id)?.components.remove(name).ok_or(ApiError::NotFound)?;
        self.component_bytes -= name.len() + removed.len();
        Ok(())
    }

    fn query_kind(&mut self, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()> {
        if let Some(kind) = self.entities.find_kind(kind) {
            found.extend(self.entities.of_kind(kind).take(limit::BATCH));
        }
        Ok(())
    }

    fn query_radius(&mut self, center: Vec3, radius: f32, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()> {
        let Ok(kind) = self.query_of(kind) else { return Ok(()) };
        let mut near = Vec::new();
        self.examined += self.entities.within(center, radius, kind, |id, distance| near.push((distance, id)));
        let order = |a: &(f32, EntityId), b: &(f32, EntityId)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if near.len() > limit::BATCH {
            near.select_nth_unstable_by(limit::BATCH, order);
            near.truncate(limit::BATCH);
        }
        near.sort_unstable_by(order);
        found.extend(near.into_iter().map(|(_, id)| id));
        Ok(())
    }

    fn nearest(&mut self, center: Vec3, radius: f32, kind: &str) -> ApiResult<EntityId> {
        let kind = self.query_of(kind)?;
        let own = self.callers.rights()?.self_entity;
        let mut best: Option<(f32, EntityId)> = None;
        self.examined += self.entities.within(center, radius, kind, |id, distance| {
            if Some(id) != own && best.is_none_or(|(d, b)| (distance, id) < (d, b)) {
                best = Some((distance, id));
            }
        });
        best.map(|(_, id)| id).ok_or(ApiError::NotFound)
    }
}
