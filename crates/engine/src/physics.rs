//! Bodies: rapier behind the few verbs that the engine needs.
//!
//! Made when the first body is: a world without bodies has no physics world and no step. Queries see the world as of the last step.

use crate::prefab::{BodyKind, Prefab, Shape};
use aether_scripting::{EntityId, RayHit, Vec3};
use rapier3d::pipeline::PhysicsWorld;
use rapier3d::prelude::*;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

pub(crate) fn to_rapier(v: Vec3) -> Vector {
    Vector::new(v.x, v.y, v.z)
}

pub(crate) fn from_rapier(v: Vector) -> Vec3 {
    Vec3::new(v.x, v.y, v.z)
}

/// Two entities began or ended to touch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Contact {
    pub a: EntityId,
    pub b: EntityId,
    pub began: bool,
    pub sensor: bool,
}

/// Contacts of one step that are kept: more are the crowd's, not a script's.
const CONTACTS_MAX: usize = 4_096;

#[derive(Default)]
struct Contacts(Mutex<Vec<Contact>>);

impl EventHandler for Contacts {
    fn handle_collision_event(&self, _: &RigidBodySet, colliders: &ColliderSet, event: CollisionEvent, _: Option<&ContactPair>) {
        // An entity that was removed ends its contacts too: its collider is gone, and so is the interest in it.
        let id = |handle| colliders.get(handle).map(|collider| EntityId(collider.user_data as u64));
        let (Some(a), Some(b)) = (id(event.collider1()), id(event.collider2())) else { return };
        let mut contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if a != b && contacts.len() < CONTACTS_MAX {
            contacts.push(Contact { a, b, began: event.started(), sensor: event.sensor() });
        }
    }

    fn handle_soft_body_tear_event(&self, _: &SoftBodySet, _: &SoftBodyTearEvent) {}

    fn handle_contact_force_event(&self, _: Real, _: &RigidBodySet, _: &ColliderSet, _: &ContactPair, _: Real) {}
}

/// The bodies of a world.
#[derive(Default)]
pub(crate) struct Physics {
    world: Option<Box<PhysicsWorld>>,
    bodies: HashMap<EntityId, RigidBodyHandle>,
    contacts: Contacts,
}

/// A body's state in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SavedBody {
    pub entity: EntityId,
    rotation: [f32; 4],
    velocity: [f32; 3],
    spin: [f32; 3],
}

impl Physics {
    fn world(&mut self) -> &mut PhysicsWorld {
        self.world.get_or_insert_with(|| {
            let mut world = Box::new(PhysicsWorld::default());
            world.gravity = Vector::new(0.0, -9.81, 0.0);
            // The ground, wide enough for every coordinate that scripts may use. Entity 0 is nobody.
            let ground = ColliderBuilder::cuboid(10_000.0, 10.0, 10_000.0).translation(Vector::new(0.0, -10.0, 0.0));
            world.insert_collider(ground, None);
            world
        })
    }

    /// Give an entity its prefab's body, if that has one.
    pub fn insert(&mut self, entity: EntityId, prefab: &Prefab, position: Vec3) -> bool {
        let Some(shape) = prefab.shape.filter(|_| prefab.body != BodyKind::None) else { return false };
        let body = match prefab.body {
            BodyKind::Static | BodyKind::None => RigidBodyBuilder::fixed(),
            BodyKind::Kinematic => RigidBodyBuilder::kinematic_velocity_based(),
            BodyKind::Dynamic => RigidBodyBuilder::dynamic(),
        };
        let collider = match shape {
            Shape::Ball { radius } => ColliderBuilder::ball(radius),
            Shape::Cuboid { half: [x, y, z] } => ColliderBuilder::cuboid(x, y, z),
            Shape::Capsule { half_height, radius } => ColliderBuilder::capsule_y(half_height, radius),
        };
        let collider = collider
            .sensor(prefab.sensor)
            .user_data(u128::from(entity.0))
            .active_events(ActiveEvents::COLLISION_EVENTS)
            // Triggers must see kinematic and static bodies too.
            .active_collision_types(ActiveCollisionTypes::all());
        let collider = match prefab.mass {
            Some(mass) => collider.mass(mass),
            None => collider,
        };
        let world = self.world();
        let (body, _) = world.insert(body.translation(to_rapier(position)).user_data(u128::from(entity.0)), collider);
        self.bodies.insert(entity, body);
        true
    }

    pub fn remove(&mut self, entity: EntityId) {
        if let (Some(body), Some(world)) = (self.bodies.remove(&entity), &mut self.world) {
            world.remove_body(body);
        }
    }

    /// Run `f` on an entity's body; `None` if it has none.
    pub fn with_body<R>(&mut self, entity: EntityId, f: impl FnOnce(&mut RigidBody) -> R) -> Option<R> {
        let handle = *self.bodies.get(&entity)?;
        self.world.as_mut()?.bodies.get_mut(handle).map(f)
    }

    /// One step; gives where bodies are now, and what touched.
    pub fn step(&mut self, dt: f32, mut moved: impl FnMut(EntityId, Vec3, Vec3, f32)) -> Vec<Contact> {
        let Some(world) = &mut self.world else { return Vec::new() };
        // A tick that comes late must not throw bodies through walls.
        world.integration_parameters.dt = dt.clamp(0.001, 0.1);
        world.step_with_events(&(), &self.contacts);
        for (_, body) in world.bodies.iter_mut() {
            if body.is_fixed() || body.is_sleeping() {
                continue;
            }
            // A script's force is for one step.
            body.reset_forces(false);
            let forward = *body.rotation() * Vector::new(0.0, 0.0, 1.0);
            moved(
                EntityId(body.user_data as u64),
                from_rapier(body.translation()),
                from_rapier(body.linvel()),
                forward.x.atan2(forward.z),
            );
        }
        std::mem::take(&mut *self.contacts.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first solid body that a ray meets.
    pub fn raycast(&self, origin: Vec3, direction: Vec3, max: f32, ignore: EntityId) -> Option<RayHit> {
        let world = self.world.as_ref()?;
        let passes = |_: ColliderHandle, collider: &Collider| collider.user_data as u64 != ignore.0 || ignore.0 == 0;
        let filter = QueryFilter::default().exclude_sensors().predicate(&passes);
        let ray = Ray::new(to_rapier(origin), to_rapier(direction).normalize());
        let (handle, hit) = world.query_pipeline_with_filter(filter).cast_ray_and_get_normal(&ray, max, true)?;
        let entity = EntityId(world.colliders.get(handle)?.user_data as u64);
        Some(RayHit { entity, distance: hit.time_of_impact, normal: from_rapier(hit.normal) })
    }

    /// Entities whose bodies touch a shape; the ground does not count.
    pub fn overlap(&self, center: Vec3, shape: &dyn rapier3d::geometry::Shape, found: &mut Vec<EntityId>) {
        let Some(world) = &self.world else { return };
        let pose = Pose::from_translation(to_rapier(center));
        let hits = world
            .query_pipeline()
            .intersect_shape(pose, shape)
            .map(|(_, collider)| EntityId(collider.user_data as u64))
            .filter(|id| id.0 != 0)
            .collect::<Vec<_>>();
        found.extend(hits);
        found.sort_unstable();
        found.dedup();
    }

    /// What a position alone does not tell.
    pub fn save(&self) -> Vec<SavedBody> {
        let Some(world) = &self.world else { return Vec::new() };
        let mut saved: Vec<_> = world
            .bodies
            .iter()
            .filter(|(_, body)| !body.is_fixed())
            .map(|(_, body)| SavedBody {
                entity: EntityId(body.user_data as u64),
                rotation: body.rotation().to_array(),
                velocity: body.linvel().to_array(),
                spin: body.angvel().to_array(),
            })
            .collect();
        saved.sort_by_key(|body| body.entity);
        saved
    }

    /// Put a body back as it was.
    pub fn restore(&mut self, saved: &SavedBody) {
        let rotation = Rotation::from_array(saved.rotation);
        self.with_body(saved.entity, |body| {
            if rotation.is_finite() {
                body.set_rotation(rotation.normalize(), true);
            }
            body.set_linvel(Vector::from_array(saved.velocity), true);
            body.set_angvel(AngVector::from_array(saved.spin), true);
        });
    }
}
