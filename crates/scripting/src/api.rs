//! The six API traits: what a script may ask of the engine it runs in.
//!
//! An engine team implements them over its own engine; `aether-engine` is a real default. A [`Host`] is all six together.
//! The sandbox stands between a script and its host: it has checked pointers, text, numbers, sizes, grants of host groups
//! and rate limits before a method here is called (see [`crate::limited`]). What is left to the host: that an entity exists,
//! and that the script may modify it.
//!
//! Start with [`Host`] and [`EntityApi`]. Units: metres, seconds, newtons, radians; y is up.
//! Not here: how a call gets from wasm to here (`host/`).

pub use aether_types::{EntityId, InstanceId, PlayerId};

use crate::call::Call;
use crate::output::{InboundCall, Standing, WorldOutput};
use crate::rate::ActionRateLimited;
use aether_types::codec::CodecError;
use serde::Serialize;

/// A point, direction or velocity.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Vec3 {
    /// East.
    pub x: f32,
    /// Up.
    pub y: f32,
    /// South.
    pub z: f32,
}

impl Vec3 {
    /// The origin.
    pub const ZERO: Vec3 = Vec3 { x: 0.0, y: 0.0, z: 0.0 };

    /// A point from its coordinates.
    pub const fn new(x: f32, y: f32, z: f32) -> Vec3 {
        Vec3 { x, y, z }
    }

    /// Whether no coordinate is NaN or infinite.
    pub fn is_finite(self) -> bool {
        self.x.is_finite() && self.y.is_finite() && self.z.is_finite()
    }

    /// The square of the distance to another point.
    pub fn distance_squared(self, other: Vec3) -> f32 {
        let (x, y, z) = (self.x - other.x, self.y - other.y, self.z - other.z);
        x * x + y * y + z * z
    }
}

/// Where an entity is and how it moves.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Body {
    /// Whose body.
    pub entity: EntityId,
    /// Metres.
    pub position: Vec3,
    /// Metres a second.
    pub velocity: Vec3,
    /// Radians about the vertical axis.
    pub yaw: f32,
}

/// What a ray met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RayHit {
    /// Whose body.
    pub entity: EntityId,
    /// Metres from the ray's origin.
    pub distance: f32,
    /// The surface's direction at the hit.
    pub normal: Vec3,
}

/// A kind of entity that can be spawned, as the host numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefabId(pub u32);

/// A sound to play in space.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, serde::Deserialize)]
pub struct SoundParameters {
    /// Loudness, 0 to 4, 1 as recorded.
    pub gain: f32,
    /// Speed, 0.25 to 4, 1 as recorded.
    pub pitch: f32,
    /// Metres within which it is heard; 0 means everywhere.
    pub range: f32,
}

/// Why a host function did not do what it was asked. Scripts see [`ApiError::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The script or its world has used up its allowance for this action.
    #[error(transparent)]
    ActionRateLimited(#[from] ActionRateLimited),
    /// No such entity, prefab, key, script or sound.
    #[error("not found")]
    NotFound,
    /// The script's manifest does not grant this.
    #[error("denied: the script's manifest does not grant this")]
    Denied,
    /// A string, value, list or radius over its limit.
    #[error("too large")]
    TooLarge,
    /// An address or length outside the script's memory.
    #[error("address or length outside the script's memory")]
    BadPointer,
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    BadUtf8,
    /// A NaN or infinite number, or a coordinate outside the world.
    #[error("a number is NaN, infinite or outside the world")]
    BadNumber,
    /// A value that the function does not take.
    #[error("a value that this function does not take")]
    BadArgument,
    /// The world, an inbox or a store is full.
    #[error("full")]
    Full,
    /// This host does not have this function.
    #[error("this host does not have this function")]
    Unsupported,
    /// The store could not be read.
    #[error("the store could not be read")]
    Unavailable,
}

impl ApiError {
    /// The code that a script sees: minus the error's place in `wit/aether.wit`.
    pub fn code(self) -> i32 {
        match self {
            ApiError::ActionRateLimited(_) => -1,
            ApiError::NotFound => -2,
            ApiError::Denied => -3,
            ApiError::TooLarge => -4,
            ApiError::BadPointer => -5,
            ApiError::BadUtf8 => -6,
            ApiError::BadNumber => -7,
            ApiError::BadArgument => -8,
            ApiError::Full => -9,
            ApiError::Unsupported => -10,
            ApiError::Unavailable => -11,
        }
    }
}

/// What an API call gives.
pub type ApiResult<T> = Result<T, ApiError>;

/// Query, spawn, destroy and modify entities.
pub trait EntityApi {
    /// The prefab of a name.
    fn find_prefab(&self, name: &str) -> ApiResult<PrefabId>;
    /// Make an entity at the origin. The calling script owns it.
    fn spawn_entity(&mut self, prefab: PrefabId) -> ApiResult<EntityId> {
        self.spawn_entity_at(prefab, Vec3::ZERO)
    }
    /// Make an entity. The calling script owns it.
    fn spawn_entity_at(&mut self, prefab: PrefabId, position: Vec3) -> ApiResult<EntityId>;
    /// Remove an entity and its body.
    fn destroy_entity(&mut self, entity: EntityId) -> ApiResult<()>;
    /// The entity that the calling script was started for.
    fn self_entity(&self) -> ApiResult<EntityId>;
    /// Its kind, as its prefab names it.
    fn kind(&self, entity: EntityId) -> ApiResult<&str>;
    /// Where it is.
    fn position(&self, entity: EntityId) -> ApiResult<Vec3>;
    /// Put it somewhere else.
    fn set_position(&mut self, entity: EntityId, position: Vec3) -> ApiResult<()>;
    /// Turn it.
    fn set_yaw(&mut self, entity: EntityId, yaw: f32) -> ApiResult<()>;
    /// Position, velocity and yaw.
    fn body(&self, entity: EntityId) -> ApiResult<Body>;
    /// Set position, velocity and yaw.
    fn set_body(&mut self, body: Body) -> ApiResult<()>;
    /// A component's bytes.
    fn component(&self, entity: EntityId, name: &str) -> ApiResult<&[u8]>;
    /// Set a component's bytes.
    fn set_component(&mut self, entity: EntityId, name: &str, value: &[u8]) -> ApiResult<()>;
    /// Remove a component.
    fn remove_component(&mut self, entity: EntityId, name: &str) -> ApiResult<()>;
    /// Entities of a kind by id, at most `found.len()`; gives how many there are.
    fn query_kind(&mut self, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()>;
    /// Entities within a radius, nearest first; an empty kind means any.
    fn query_radius(&mut self, center: Vec3, radius: f32, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()>;
    /// The nearest entity within a radius that is not the script's own.
    fn nearest(&mut self, center: Vec3, radius: f32, kind: &str) -> ApiResult<EntityId>;
}

/// Apply forces, raycasts, overlap tests.
pub trait PhysicsApi {
    /// Newtons, for the coming physics step.
    fn apply_force(&mut self, entity: EntityId, force: Vec3) -> ApiResult<()>;
    /// Newton seconds, at once.
    fn apply_impulse(&mut self, entity: EntityId, impulse: Vec3) -> ApiResult<()>;
    /// Metres a second.
    fn set_velocity(&mut self, entity: EntityId, velocity: Vec3) -> ApiResult<()>;
    /// Metres a second.
    fn velocity(&self, entity: EntityId) -> ApiResult<Vec3>;
    /// The first solid body that a ray meets; `ignore` is passed through.
    fn raycast(&mut self, origin: Vec3, direction: Vec3, max_distance: f32, ignore: EntityId) -> ApiResult<RayHit>;
    /// Entities whose bodies touch a ball, by id.
    fn overlap_sphere(&mut self, center: Vec3, radius: f32, found: &mut Vec<EntityId>) -> ApiResult<()>;
    /// Entities whose bodies touch a box with these half sides, by id.
    fn overlap_box(&mut self, center: Vec3, half: Vec3, found: &mut Vec<EntityId>) -> ApiResult<()>;
}

/// Show and hide UI elements, update text. Player 0 is everybody in the world.
pub trait UIApi {
    /// Show an element.
    fn show_element(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()>;
    /// Hide an element.
    fn hide_element(&mut self, player: PlayerId, element: &str) -> ApiResult<()>;
    /// Change an element's text.
    fn update_text(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()>;
}

/// Play sounds, adjust spatial audio parameters.
pub trait AudioApi {
    /// Play a sound at a place; gives a handle.
    fn play_sound(&mut self, sound: &str, position: Vec3, parameters: SoundParameters, looped: bool) -> ApiResult<u64>;
    /// Stop a sound.
    fn stop_sound(&mut self, handle: u64) -> ApiResult<()>;
    /// Move a sound's source.
    fn set_sound_position(&mut self, handle: u64, position: Vec3) -> ApiResult<()>;
    /// Change a sound's parameters.
    fn set_sound_parameters(&mut self, handle: u64, parameters: SoundParameters) -> ApiResult<()>;
}

/// Send RPCs, broadcast events.
pub trait NetworkApi {
    /// Call a script by its instance's name, `world/name` in another world; gives the call's number.
    fn send_rpc(&mut self, target: &str, method: &str, payload: &[u8]) -> ApiResult<u64>;
    /// Answer a call, once.
    fn reply_rpc(&mut self, call: u64, payload: &[u8]) -> ApiResult<()>;
    /// Tell every subscriber of the world.
    fn broadcast_event(&mut self, topic: &str, payload: &[u8]) -> ApiResult<()>;
    /// Get a topic's broadcasts.
    fn subscribe(&mut self, topic: &str) -> ApiResult<()>;
    /// Send an event to a player.
    fn send_player(&mut self, player: PlayerId, topic: &str, payload: &[u8]) -> ApiResult<()>;
}

/// Read and write persistent key-value data in the calling script's namespace.
pub trait StorageApi {
    /// A value; [`ApiError::NotFound`] if there is none. A script sees its own writes at once.
    fn read_value(&mut self, key: &str, value: &mut Vec<u8>) -> ApiResult<()>;
    /// Write a value.
    fn write_value(&mut self, key: &str, value: &[u8]) -> ApiResult<()>;
    /// Remove a value.
    fn delete_value(&mut self, key: &str) -> ApiResult<()>;
    /// The keys that begin with `prefix`, in order, at most `limit`.
    fn list_keys(&mut self, prefix: &str, limit: usize, keys: &mut Vec<String>) -> ApiResult<()>;
}

/// A script instance as its host must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its number.
    pub instance: InstanceId,
    /// Its name in the world: what RPCs are addressed to.
    pub name: String,
    /// Kinds of entities that it may spawn, modify and destroy; `*` is any.
    pub entity_kinds: Vec<String>,
    /// The namespace of its storage.
    pub storage_namespace: Option<String>,
}

/// What a host counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct HostStats {
    /// Entities in the world.
    pub entities: usize,
    /// Messages and events refused because an inbox was full.
    pub dropped: u64,
    /// Calls that wait for an answer.
    pub open_calls: usize,
    /// Messages and events that wait for their script.
    pub waiting: usize,
    /// Bytes of keys and values in storage.
    pub storage_bytes: usize,
}

/// An engine: all six API traits, and what a world needs of it around a tick. What has a default can be left out by a host that
/// has no such thing: then there are no messages, no physics step, nothing to save.
pub trait Host: EntityApi + PhysicsApi + UIApi + AudioApi + NetworkApi + StorageApi + Send + Sync {
    /// The calls that follow are made by this instance. A host refuses it (with [`ApiError::Denied`]) what its grants do not
    /// allow: entities of other kinds, another's storage namespace. Gives how many messages and events wait for it.
    fn enter(&mut self, caller: InstanceId) -> usize;
    /// Entities that queries looked at since this was last asked: they are paid for.
    fn take_examined(&mut self) -> u64 {
        0
    }
    /// The next message or event of the instance that was entered.
    fn next_call(&mut self) -> Option<Call> {
        None
    }
    /// A script comes into the world; with a prefab and a place it gets an entity of its own.
    fn add_script(&mut self, caller: Caller, entity: Option<(&str, Vec3)>) -> ApiResult<()> {
        let _ = (caller, entity);
        Ok(())
    }
    /// A script's grants are other ones from now on: it runs another version.
    fn set_grants(&mut self, instance: InstanceId, entity_kinds: &[String], storage_namespace: Option<String>) {
        let _ = (instance, entity_kinds, storage_namespace);
    }
    /// A script begins anew, with nothing of what it made before: what it spawned, subscribed to and called is gone; its own entity
    /// stays, and so do the messages that wait for it.
    fn reset_script(&mut self, instance: InstanceId) {
        let _ = instance;
    }
    /// A script leaves the world, and its entities with it.
    fn remove_script(&mut self, instance: InstanceId) {
        let _ = instance;
    }
    /// A tick begins.
    fn begin_tick(&mut self, now_ns: u64, tick: u64) {
        let _ = (now_ns, tick);
    }
    /// All scripts had their turn: step physics, collect contacts.
    fn end_tick(&mut self, dt: f32) {
        let _ = dt;
    }
    /// What leaves the world since this was last asked.
    fn take_output(&mut self) -> WorldOutput {
        WorldOutput::default()
    }
    /// A call from another world or a player reaches a script of this one.
    fn deliver(&mut self, call: InboundCall) -> ApiResult<()> {
        let _ = call;
        Err(ApiError::Unsupported)
    }
    /// The answer to a call that left this world. `false`: nobody waits for it any more. `delivery`: see [`crate::Message::delivery`].
    fn deliver_reply(&mut self, call: u64, payload: Vec<u8>, delivery: u64) -> ApiResult<bool> {
        let _ = (call, payload, delivery);
        Err(ApiError::Unsupported)
    }
    /// Refuse calls to another world, since it does not take what was sent to it, or take them again.
    fn block_calls(&mut self, world: &str, blocked: bool) {
        let _ = (world, blocked);
    }
    /// Everything that a checkpoint must hold; messages that wait in inboxes only if asked for.
    fn save(&self, inboxes: bool) -> Result<Vec<u8>, CodecError> {
        let _ = inboxes;
        Ok(Vec::new())
    }
    /// A copy in which something can be tried out; nothing of it reaches the world or its storage. `None`: it cannot be copied.
    fn fork(&self) -> Option<Box<dyn Host>> {
        None
    }
    /// Go on from a checkpoint. Before scripts are added.
    fn restore(&mut self, saved: &[u8]) -> Result<(), CodecError> {
        let _ = saved;
        Ok(())
    }
    /// Every script that is to go on has been added: what belongs to the others goes.
    fn finish_restore(&mut self) {}
    /// Every entity, for those who show the world to players.
    fn look(&self, visit: &mut dyn FnMut(EntityState)) {
        let _ = visit;
    }
    /// What everybody sees and hears until it is taken away, for those who come later. `None`: this host does not know.
    fn standing(&self) -> Option<&Standing> {
        None
    }
    /// What a kind's number stands for.
    fn kind_name(&self, kind: u16) -> &str {
        let _ = kind;
        ""
    }
    /// Tell the scripts that subscribed to a topic something of a player. Full: not all of them have room, and none was told, unless
    /// `in_part`.
    fn tell(&mut self, player: PlayerId, topic: &str, payload: &[u8], in_part: bool) -> ApiResult<()> {
        let _ = (player, topic, payload, in_part);
        Ok(())
    }
    /// What is where, for people: so many entities at most.
    fn entities(&self, max: usize) -> Vec<EntityView> {
        let _ = max;
        Vec::new()
    }
    /// Counters for people.
    fn stats(&self) -> HostStats {
        HostStats::default()
    }
}

/// An entity as it is shown to players.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntityState {
    /// Its number.
    pub id: EntityId,
    /// A small number that no other entity has at the moment; one that comes after it may.
    pub slot: u32,
    /// Its kind's number: [`Host::kind_name`].
    pub kind: u16,
    /// Metres.
    pub position: Vec3,
    /// Radians about the vertical axis.
    pub yaw: f32,
}

/// An entity, for people who look at a world from above.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct EntityView {
    /// Its number.
    pub id: u64,
    /// Its kind.
    pub kind: String,
    /// East, metres.
    pub x: f32,
    /// Up, metres.
    pub y: f32,
    /// South, metres.
    pub z: f32,
}

/// A host without an engine: every call is [`ApiError::Unsupported`]. For running a script outside a world.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEngine;

macro_rules! unsupported {
    ($trait:ident { $(fn $name:ident(&mut self $(, $arg:ident: $ty:ty)*) -> $result:ty;)* $(ref fn $rname:ident(&self $(, $rarg:ident: $rty:ty)*) -> $rresult:ty;)* }) => {
        impl $trait for NoEngine {
            $(fn $name(&mut self $(, $arg: $ty)*) -> ApiResult<$result> { $(let _ = $arg;)* Err(ApiError::Unsupported) })*
            $(fn $rname(&self $(, $rarg: $rty)*) -> ApiResult<$rresult> { $(let _ = $rarg;)* Err(ApiError::Unsupported) })*
        }
    };
}
unsupported!(EntityApi {
    fn spawn_entity_at(&mut self, prefab: PrefabId, position: Vec3) -> EntityId;
    fn destroy_entity(&mut self, entity: EntityId) -> ();
    fn set_position(&mut self, entity: EntityId, position: Vec3) -> ();
    fn set_yaw(&mut self, entity: EntityId, yaw: f32) -> ();
    fn set_body(&mut self, body: Body) -> ();
    fn set_component(&mut self, entity: EntityId, name: &str, value: &[u8]) -> ();
    fn remove_component(&mut self, entity: EntityId, name: &str) -> ();
    fn query_kind(&mut self, kind: &str, found: &mut Vec<EntityId>) -> ();
    fn query_radius(&mut self, center: Vec3, radius: f32, kind: &str, found: &mut Vec<EntityId>) -> ();
    fn nearest(&mut self, center: Vec3, radius: f32, kind: &str) -> EntityId;
    ref fn find_prefab(&self, name: &str) -> PrefabId;
    ref fn self_entity(&self) -> EntityId;
    ref fn kind(&self, entity: EntityId) -> &str;
    ref fn position(&self, entity: EntityId) -> Vec3;
    ref fn body(&self, entity: EntityId) -> Body;
    ref fn component(&self, entity: EntityId, name: &str) -> &[u8];
});
unsupported!(PhysicsApi {
    fn apply_force(&mut self, entity: EntityId, force: Vec3) -> ();
    fn apply_impulse(&mut self, entity: EntityId, impulse: Vec3) -> ();
    fn set_velocity(&mut self, entity: EntityId, velocity: Vec3) -> ();
    fn raycast(&mut self, origin: Vec3, direction: Vec3, max_distance: f32, ignore: EntityId) -> RayHit;
    fn overlap_sphere(&mut self, center: Vec3, radius: f32, found: &mut Vec<EntityId>) -> ();
    fn overlap_box(&mut self, center: Vec3, half: Vec3, found: &mut Vec<EntityId>) -> ();
    ref fn velocity(&self, entity: EntityId) -> Vec3;
});
unsupported!(UIApi {
    fn show_element(&mut self, player: PlayerId, element: &str, text: &str) -> ();
    fn hide_element(&mut self, player: PlayerId, element: &str) -> ();
    fn update_text(&mut self, player: PlayerId, element: &str, text: &str) -> ();
});
unsupported!(AudioApi {
    fn play_sound(&mut self, sound: &str, position: Vec3, parameters: SoundParameters, looped: bool) -> u64;
    fn stop_sound(&mut self, handle: u64) -> ();
    fn set_sound_position(&mut self, handle: u64, position: Vec3) -> ();
    fn set_sound_parameters(&mut self, handle: u64, parameters: SoundParameters) -> ();
});
unsupported!(NetworkApi {
    fn send_rpc(&mut self, target: &str, method: &str, payload: &[u8]) -> u64;
    fn reply_rpc(&mut self, call: u64, payload: &[u8]) -> ();
    fn broadcast_event(&mut self, topic: &str, payload: &[u8]) -> ();
    fn subscribe(&mut self, topic: &str) -> ();
    fn send_player(&mut self, player: PlayerId, topic: &str, payload: &[u8]) -> ();
});
unsupported!(StorageApi {
    fn read_value(&mut self, key: &str, value: &mut Vec<u8>) -> ();
    fn write_value(&mut self, key: &str, value: &[u8]) -> ();
    fn delete_value(&mut self, key: &str) -> ();
    fn list_keys(&mut self, prefix: &str, limit: usize, keys: &mut Vec<String>) -> ();
});
impl Host for NoEngine {
    fn enter(&mut self, _caller: InstanceId) -> usize {
        0
    }
}
