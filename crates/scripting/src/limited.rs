//! The six API traits with every limit applied: what stands between a script and its host.
//!
//! [`Limited`] checks, in this order: the grant of the host group, sizes and numbers, the action's allowance. Only then the host
//! is asked. The bridge from wasm calls through it, and so can an embedder's own Rust code.
//! Not here: pointers into guest memory and fuel (`host/`).

use crate::abi::{HostGroup, limit};
use crate::api::*;
use crate::rate::{self, ActionLimiter, RateLimitedAction};

/// A set of host groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostGroups(u8);

impl HostGroups {
    /// Every group.
    pub const ALL: HostGroups = HostGroups(u8::MAX);

    /// These groups, and `script`, which needs no grant.
    pub fn of(groups: &[HostGroup]) -> HostGroups {
        HostGroups(groups.iter().fold(1 << HostGroup::Script as u8, |set, group| set | 1 << *group as u8))
    }

    /// Whether a group is granted.
    pub fn contains(self, group: HostGroup) -> bool {
        self.0 & (1 << group as u8) != 0
    }
}

/// A host behind the limits of one script.
pub struct Limited<'a> {
    /// The engine.
    pub host: &'a mut dyn Host,
    /// The script's allowances.
    pub script: &'a mut ActionLimiter,
    /// The world's.
    pub world: &'a mut ActionLimiter,
    /// The host groups that the script was granted.
    pub groups: HostGroups,
    /// The world's clock.
    pub now_ns: u64,
}

impl Limited<'_> {
    #[inline]
    fn granted(&self, group: HostGroup) -> ApiResult<()> {
        if self.groups.contains(group) { Ok(()) } else { Err(ApiError::Denied) }
    }

    fn take(&mut self, action: RateLimitedAction, amount: f32) -> ApiResult<()> {
        Ok(rate::take(self.script, self.world, action, amount, self.now_ns)?)
    }

    fn write(&mut self, bytes: usize) -> ApiResult<()> {
        // Bytes first: if they are refused, the count must not be spent.
        if self.script.left(RateLimitedAction::StorageWrite, self.now_ns) >= 1.0 {
            self.take(RateLimitedAction::StorageBytes, bytes as f32)?;
        }
        self.take(RateLimitedAction::StorageWrite, 1.0)
    }
}

fn at_most(length: usize, limit: usize) -> ApiResult<()> {
    if length > limit { Err(ApiError::TooLarge) } else { Ok(()) }
}

fn name(text: &str) -> ApiResult<()> {
    if text.is_empty() {
        return Err(ApiError::BadArgument);
    }
    at_most(text.len(), limit::NAME_BYTES)
}

#[inline]
fn inside(point: Vec3) -> ApiResult<()> {
    // One comparison a coordinate: NaN fails it too.
    let good = |v: f32| v.abs() <= limit::WORLD;
    if good(point.x) && good(point.y) && good(point.z) { Ok(()) } else { Err(ApiError::BadNumber) }
}

fn vector(v: Vec3) -> ApiResult<()> {
    // Past this, physics would make infinities of it.
    let good = |v: f32| v.abs() <= 1e6;
    if good(v.x) && good(v.y) && good(v.z) { Ok(()) } else { Err(ApiError::BadNumber) }
}

fn reach(radius: f32) -> ApiResult<()> {
    if !radius.is_finite() || radius < 0.0 {
        return Err(ApiError::BadNumber);
    }
    if radius > limit::REACH { Err(ApiError::TooLarge) } else { Ok(()) }
}

fn sound(p: SoundParameters) -> ApiResult<()> {
    let good = (0.0..=4.0).contains(&p.gain) && (0.25..=4.0).contains(&p.pitch) && (0.0..=limit::REACH).contains(&p.range);
    if good { Ok(()) } else { Err(ApiError::BadNumber) }
}

impl EntityApi for Limited<'_> {
    fn find_prefab(&self, prefab: &str) -> ApiResult<PrefabId> {
        self.granted(HostGroup::Entity)?;
        name(prefab)?;
        self.host.find_prefab(prefab)
    }
    fn spawn_entity_at(&mut self, prefab: PrefabId, position: Vec3) -> ApiResult<EntityId> {
        self.granted(HostGroup::Entity)?;
        inside(position)?;
        self.take(RateLimitedAction::Spawn, 1.0)?;
        self.host.spawn_entity_at(prefab, position)
    }
    fn destroy_entity(&mut self, entity: EntityId) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        self.host.destroy_entity(entity)
    }
    fn self_entity(&self) -> ApiResult<EntityId> {
        self.granted(HostGroup::Entity)?;
        self.host.self_entity()
    }
    fn kind(&self, entity: EntityId) -> ApiResult<&str> {
        self.granted(HostGroup::Entity)?;
        self.host.kind(entity)
    }
    #[inline]
    fn position(&self, entity: EntityId) -> ApiResult<Vec3> {
        self.granted(HostGroup::Entity)?;
        self.host.position(entity)
    }
    #[inline]
    fn set_position(&mut self, entity: EntityId, position: Vec3) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        inside(position)?;
        self.host.set_position(entity, position)
    }
    fn set_yaw(&mut self, entity: EntityId, yaw: f32) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        vector(Vec3::new(yaw, 0.0, 0.0))?;
        self.host.set_yaw(entity, yaw)
    }
    fn body(&self, entity: EntityId) -> ApiResult<Body> {
        self.granted(HostGroup::Entity)?;
        self.host.body(entity)
    }
    fn set_body(&mut self, body: Body) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        inside(body.position)?;
        vector(body.velocity)?;
        vector(Vec3::new(body.yaw, 0.0, 0.0))?;
        self.host.set_body(body)
    }
    fn component(&self, entity: EntityId, component: &str) -> ApiResult<&[u8]> {
        self.granted(HostGroup::Entity)?;
        name(component)?;
        self.host.component(entity, component)
    }
    fn set_component(&mut self, entity: EntityId, component: &str, value: &[u8]) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        name(component)?;
        at_most(value.len(), limit::COMPONENT_BYTES)?;
        self.host.set_component(entity, component, value)
    }
    fn remove_component(&mut self, entity: EntityId, component: &str) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        name(component)?;
        self.host.remove_component(entity, component)
    }
    fn query_kind(&mut self, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        name(kind)?;
        self.host.query_kind(kind, found)
    }
    fn query_radius(&mut self, center: Vec3, radius: f32, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()> {
        self.granted(HostGroup::Entity)?;
        inside(center)?;
        reach(radius)?;
        at_most(kind.len(), limit::NAME_BYTES)?;
        self.host.query_radius(center, radius, kind, found)
    }
    fn nearest(&mut self, center: Vec3, radius: f32, kind: &str) -> ApiResult<EntityId> {
        self.granted(HostGroup::Entity)?;
        inside(center)?;
        reach(radius)?;
        at_most(kind.len(), limit::NAME_BYTES)?;
        self.host.nearest(center, radius, kind)
    }
}

impl PhysicsApi for Limited<'_> {
    fn apply_force(&mut self, entity: EntityId, force: Vec3) -> ApiResult<()> {
        self.granted(HostGroup::Physics)?;
        vector(force)?;
        self.host.apply_force(entity, force)
    }
    fn apply_impulse(&mut self, entity: EntityId, impulse: Vec3) -> ApiResult<()> {
        self.granted(HostGroup::Physics)?;
        vector(impulse)?;
        self.host.apply_impulse(entity, impulse)
    }
    fn set_velocity(&mut self, entity: EntityId, velocity: Vec3) -> ApiResult<()> {
        self.granted(HostGroup::Physics)?;
        vector(velocity)?;
        self.host.set_velocity(entity, velocity)
    }
    fn velocity(&self, entity: EntityId) -> ApiResult<Vec3> {
        self.granted(HostGroup::Physics)?;
        self.host.velocity(entity)
    }
    fn raycast(&mut self, origin: Vec3, direction: Vec3, max_distance: f32, ignore: EntityId) -> ApiResult<RayHit> {
        self.granted(HostGroup::Physics)?;
        inside(origin)?;
        vector(direction)?;
        reach(max_distance)?;
        if direction.distance_squared(Vec3::ZERO) < 1e-12 {
            return Err(ApiError::BadNumber);
        }
        self.host.raycast(origin, direction, max_distance, ignore)
    }
    fn overlap_sphere(&mut self, center: Vec3, radius: f32, found: &mut Vec<EntityId>) -> ApiResult<()> {
        self.granted(HostGroup::Physics)?;
        inside(center)?;
        reach(radius)?;
        self.host.overlap_sphere(center, radius, found)
    }
    fn overlap_box(&mut self, center: Vec3, half: Vec3, found: &mut Vec<EntityId>) -> ApiResult<()> {
        self.granted(HostGroup::Physics)?;
        inside(center)?;
        for side in [half.x, half.y, half.z] {
            reach(side)?;
        }
        self.host.overlap_box(center, half, found)
    }
}

impl UIApi for Limited<'_> {
    fn show_element(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()> {
        self.granted(HostGroup::Ui)?;
        name(element)?;
        at_most(text.len(), limit::TEXT_BYTES)?;
        self.take(RateLimitedAction::Ui, 1.0)?;
        self.host.show_element(player, element, text)
    }
    fn hide_element(&mut self, player: PlayerId, element: &str) -> ApiResult<()> {
        self.granted(HostGroup::Ui)?;
        name(element)?;
        self.take(RateLimitedAction::Ui, 1.0)?;
        self.host.hide_element(player, element)
    }
    fn update_text(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()> {
        self.granted(HostGroup::Ui)?;
        name(element)?;
        at_most(text.len(), limit::TEXT_BYTES)?;
        self.take(RateLimitedAction::Ui, 1.0)?;
        self.host.update_text(player, element, text)
    }
}

impl AudioApi for Limited<'_> {
    fn play_sound(&mut self, file: &str, position: Vec3, parameters: SoundParameters, looped: bool) -> ApiResult<u64> {
        self.granted(HostGroup::Audio)?;
        name(file)?;
        inside(position)?;
        sound(parameters)?;
        self.take(RateLimitedAction::Audio, 1.0)?;
        self.host.play_sound(file, position, parameters, looped)
    }
    fn stop_sound(&mut self, handle: u64) -> ApiResult<()> {
        self.granted(HostGroup::Audio)?;
        self.take(RateLimitedAction::Audio, 1.0)?;
        self.host.stop_sound(handle)
    }
    fn set_sound_position(&mut self, handle: u64, position: Vec3) -> ApiResult<()> {
        self.granted(HostGroup::Audio)?;
        inside(position)?;
        self.take(RateLimitedAction::Audio, 1.0)?;
        self.host.set_sound_position(handle, position)
    }
    fn set_sound_parameters(&mut self, handle: u64, parameters: SoundParameters) -> ApiResult<()> {
        self.granted(HostGroup::Audio)?;
        sound(parameters)?;
        self.take(RateLimitedAction::Audio, 1.0)?;
        self.host.set_sound_parameters(handle, parameters)
    }
}

impl NetworkApi for Limited<'_> {
    fn send_rpc(&mut self, target: &str, method: &str, payload: &[u8]) -> ApiResult<u64> {
        self.granted(HostGroup::Network)?;
        at_most(target.len(), limit::TARGET_BYTES)?;
        name(method)?;
        at_most(payload.len(), limit::PAYLOAD_BYTES)?;
        self.take(RateLimitedAction::Rpc, 1.0)?;
        self.host.send_rpc(target, method, payload)
    }
    fn reply_rpc(&mut self, call: u64, payload: &[u8]) -> ApiResult<()> {
        self.granted(HostGroup::Network)?;
        at_most(payload.len(), limit::PAYLOAD_BYTES)?;
        self.take(RateLimitedAction::Rpc, 1.0)?;
        self.host.reply_rpc(call, payload)
    }
    fn broadcast_event(&mut self, topic: &str, payload: &[u8]) -> ApiResult<()> {
        self.granted(HostGroup::Network)?;
        name(topic)?;
        at_most(payload.len(), limit::PAYLOAD_BYTES)?;
        self.take(RateLimitedAction::Rpc, 1.0)?;
        self.host.broadcast_event(topic, payload)
    }
    fn subscribe(&mut self, topic: &str) -> ApiResult<()> {
        self.granted(HostGroup::Network)?;
        name(topic)?;
        self.host.subscribe(topic)
    }
    fn send_player(&mut self, player: PlayerId, topic: &str, payload: &[u8]) -> ApiResult<()> {
        self.granted(HostGroup::Network)?;
        name(topic)?;
        at_most(payload.len(), limit::PAYLOAD_BYTES)?;
        self.take(RateLimitedAction::Rpc, 1.0)?;
        self.host.send_player(player, topic, payload)
    }
}

fn key(text: &str) -> ApiResult<()> {
    if text.is_empty() || text.contains('\0') {
        return Err(ApiError::BadArgument);
    }
    at_most(text.len(), limit::KEY_BYTES)
}

impl StorageApi for Limited<'_> {
    fn read_value(&mut self, storage_key: &str, value: &mut Vec<u8>) -> ApiResult<()> {
        self.granted(HostGroup::Storage)?;
        key(storage_key)?;
        self.host.read_value(storage_key, value)
    }
    fn write_value(&mut self, storage_key: &str, value: &[u8]) -> ApiResult<()> {
        self.granted(HostGroup::Storage)?;
        key(storage_key)?;
        at_most(value.len(), limit::VALUE_BYTES)?;
        self.write(storage_key.len() + value.len())?;
        self.host.write_value(storage_key, value)
    }
    fn delete_value(&mut self, storage_key: &str) -> ApiResult<()> {
        self.granted(HostGroup::Storage)?;
        key(storage_key)?;
        self.write(storage_key.len())?;
        self.host.delete_value(storage_key)
    }
    fn list_keys(&mut self, prefix: &str, most: usize, keys: &mut Vec<String>) -> ApiResult<()> {
        self.granted(HostGroup::Storage)?;
        at_most(prefix.len(), limit::KEY_BYTES)?;
        self.host.list_keys(prefix, most.min(limit::KEYS), keys)
    }
}
