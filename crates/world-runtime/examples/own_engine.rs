//! An engine of one's own behind the six API traits, small but whole: a map of entities, straight movement, a table for storage.
//!
//! `cargo run -p aether-world-runtime --example own_engine` runs the sample script `thief` in it: the thief sneaks to the merchant, a guard
//! comes, the thief runs. Start with [`OwnEngine`] and its `Host`; [`play`] is the embedder's part. `docs/src/embedding.md` goes through it.
//! Not here: collisions, calls between scripts, checkpoints. What this engine does not have, it says so.

#![allow(clippy::print_stdout, missing_docs, reason = "an example prints, and its documentation is the guide")]

use aether_scripting::output::{ClientCommand, StorageWrite, WorldOutput};
use aether_scripting::sandbox::PoolSize;
use aether_scripting::{
    AotTarget, ApiError, ApiResult, AudioApi, Body, Call, Caller, EntityApi, EntityId, Event, Host, InstanceId, NetworkApi,
    PhysicsApi, PlayerId, PrefabId, RayHit, ScriptManifest, ServerRuntime, ServerRuntimeConfig, SoundParameters, StorageApi,
    UIApi, Vec3,
};
use aether_types::WorldId;
use aether_world_runtime::{ScriptParts, World, WorldConfig, tick_cpu_ns};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// What can be spawned; a prefab's number is its place.
const PREFABS: [&str; 3] = ["thief", "merchant", "guard"];
/// Entities at a time.
const ENTITIES_MAX: usize = 1_000;
/// Events that wait for one script.
const INBOX_MAX: usize = 64;
/// The kind of a broadcast, as `wit/aether.wit` numbers it.
const BROADCAST: u32 = 5;

#[derive(Default)]
struct Thing {
    kind: &'static str,
    body: Body,
    components: HashMap<String, Vec<u8>>,
}

/// A script, as the engine knows it.
struct Guest {
    caller: Caller,
    entity: Option<EntityId>,
    topics: BTreeSet<String>,
    inbox: VecDeque<Call>,
}

/// The engine. Sorted maps: queries answer by id, and two runs are alike.
#[derive(Default)]
struct OwnEngine {
    things: BTreeMap<EntityId, Thing>,
    last_id: u64,
    guests: BTreeMap<InstanceId, Guest>,
    /// Whose turn it is: set by `enter`.
    current: InstanceId,
    stored: BTreeMap<(String, String), Vec<u8>>,
    sounds: u64,
    output: WorldOutput,
}

impl OwnEngine {
    /// The embedder's own way to make an entity: no script, no grant.
    fn place(&mut self, prefab: PrefabId, position: Vec3) -> ApiResult<EntityId> {
        let kind = PREFABS.get(prefab.0 as usize).ok_or(ApiError::NotFound)?;
        if self.things.len() >= ENTITIES_MAX {
            return Err(ApiError::Full);
        }
        self.last_id += 1;
        let entity = EntityId(self.last_id);
        let body = Body { entity, position, ..Body::default() };
        self.things.insert(entity, Thing { kind, body, components: HashMap::new() });
        Ok(entity)
    }

    fn guest(&self) -> ApiResult<&Guest> {
        self.guests.get(&self.current).ok_or(ApiError::Unsupported)
    }

    fn thing(&self, entity: EntityId) -> ApiResult<&Thing> {
        self.things.get(&entity).ok_or(ApiError::NotFound)
    }

    /// What the sandbox leaves to an engine: that the entity exists, and that this script may modify it.
    fn own(&mut self, entity: EntityId) -> ApiResult<&mut Thing> {
        let thing = self.things.get_mut(&entity).ok_or(ApiError::NotFound)?;
        let guest = self.guests.get(&self.current).ok_or(ApiError::Unsupported)?;
        let granted = guest.caller.entity_kinds.iter().any(|kind| kind == "*" || kind == thing.kind);
        if granted || guest.entity == Some(entity) { Ok(thing) } else { Err(ApiError::Denied) }
    }

    fn key(&self, key: &str) -> ApiResult<(String, String)> {
        let namespace = self.guest()?.caller.storage_namespace.clone().ok_or(ApiError::Denied)?;
        Ok((namespace, key.to_owned()))
    }

    fn write(&mut self, key: &str, value: Option<&[u8]>) -> ApiResult<()> {
        let (namespace, key) = self.key(key)?;
        let value = value.map(<[u8]>::to_vec);
        match &value {
            Some(value) => drop(self.stored.insert((namespace.clone(), key.clone()), value.clone())),
            None => drop(self.stored.remove(&(namespace.clone(), key.clone())).ok_or(ApiError::NotFound)?),
        }
        // To be made durable by whoever takes the tick's output.
        self.output.writes.push(StorageWrite { namespace, key, value });
        Ok(())
    }

    fn send(&mut self, command: ClientCommand) -> ApiResult<()> {
        self.output.commands.push(command);
        Ok(())
    }
}

impl EntityApi for OwnEngine {
    fn find_prefab(&self, name: &str) -> ApiResult<PrefabId> {
        PREFABS.iter().position(|prefab| *prefab == name).map(|at| PrefabId(at as u32)).ok_or(ApiError::NotFound)
    }
    fn spawn_entity_at(&mut self, prefab: PrefabId, position: Vec3) -> ApiResult<EntityId> {
        let kind = PREFABS.get(prefab.0 as usize).ok_or(ApiError::NotFound)?;
        if !self.guest()?.caller.entity_kinds.iter().any(|granted| granted == "*" || granted == kind) {
            return Err(ApiError::Denied);
        }
        self.place(prefab, position)
    }
    fn destroy_entity(&mut self, entity: EntityId) -> ApiResult<()> {
        self.own(entity)?;
        self.things.remove(&entity);
        Ok(())
    }
    fn self_entity(&self) -> ApiResult<EntityId> {
        self.guest()?.entity.filter(|entity| self.things.contains_key(entity)).ok_or(ApiError::NotFound)
    }
    fn kind(&self, entity: EntityId) -> ApiResult<&str> {
        Ok(self.thing(entity)?.kind)
    }
    fn position(&self, entity: EntityId) -> ApiResult<Vec3> {
        Ok(self.thing(entity)?.body.position)
    }
    fn set_position(&mut self, entity: EntityId, position: Vec3) -> ApiResult<()> {
        self.own(entity)?.body.position = position;
        Ok(())
    }
    fn set_yaw(&mut self, entity: EntityId, yaw: f32) -> ApiResult<()> {
        self.own(entity)?.body.yaw = yaw;
        Ok(())
    }
    fn body(&self, entity: EntityId) -> ApiResult<Body> {
        Ok(self.thing(entity)?.body)
    }
    fn set_body(&mut self, body: Body) -> ApiResult<()> {
        self.own(body.entity)?.body = body;
        Ok(())
    }
    fn component(&self, entity: EntityId, name: &str) -> ApiResult<&[u8]> {
        self.thing(entity)?.components.get(name).map(Vec::as_slice).ok_or(ApiError::NotFound)
    }
    fn set_component(&mut self, entity: EntityId, name: &str, value: &[u8]) -> ApiResult<()> {
        let components = &mut self.own(entity)?.components;
        if components.len() >= aether_scripting::abi::limit::COMPONENTS && !components.contains_key(name) {
            return Err(ApiError::Full);
        }
        components.insert(name.to_owned(), value.to_vec());
        Ok(())
    }
    fn remove_component(&mut self, entity: EntityId, name: &str) -> ApiResult<()> {
        self.own(entity)?.components.remove(name).map(drop).ok_or(ApiError::NotFound)
    }
    fn query_kind(&mut self, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()> {
        found.extend(self.things.iter().filter(|(_, thing)| thing.kind == kind).map(|(entity, _)| *entity));
        Ok(())
    }
    fn query_radius(&mut self, center: Vec3, radius: f32, kind: &str, found: &mut Vec<EntityId>) -> ApiResult<()> {
        let distance = |thing: &Thing| thing.body.position.distance_squared(center);
        let within = |thing: &&Thing| (kind.is_empty() || thing.kind == kind) && distance(thing) <= radius * radius;
        let mut near: Vec<_> = self.things.values().filter(within).map(|thing| (distance(thing), thing.body.entity)).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        found.extend(near.into_iter().map(|(_, entity)| entity));
        Ok(())
    }
    fn nearest(&mut self, center: Vec3, radius: f32, kind: &str) -> ApiResult<EntityId> {
        let (own, mut found) = (self.guest()?.entity, Vec::new());
        self.query_radius(center, radius, kind, &mut found)?;
        found.into_iter().find(|entity| Some(*entity) != own).ok_or(ApiError::NotFound)
    }
}

impl PhysicsApi for OwnEngine {
    fn apply_force(&mut self, _: EntityId, _: Vec3) -> ApiResult<()> {
        Err(ApiError::Unsupported)
    }
    /// Everything weighs a kilogram.
    fn apply_impulse(&mut self, entity: EntityId, impulse: Vec3) -> ApiResult<()> {
        let velocity = &mut self.own(entity)?.body.velocity;
        *velocity = Vec3::new(velocity.x + impulse.x, velocity.y + impulse.y, velocity.z + impulse.z);
        Ok(())
    }
    fn set_velocity(&mut self, entity: EntityId, velocity: Vec3) -> ApiResult<()> {
        self.own(entity)?.body.velocity = velocity;
        Ok(())
    }
    fn velocity(&self, entity: EntityId) -> ApiResult<Vec3> {
        Ok(self.thing(entity)?.body.velocity)
    }
    fn raycast(&mut self, _: Vec3, _: Vec3, _: f32, _: EntityId) -> ApiResult<RayHit> {
        Err(ApiError::Unsupported)
    }
    fn overlap_sphere(&mut self, _: Vec3, _: f32, _: &mut Vec<EntityId>) -> ApiResult<()> {
        Err(ApiError::Unsupported)
    }
    fn overlap_box(&mut self, _: Vec3, _: Vec3, _: &mut Vec<EntityId>) -> ApiResult<()> {
        Err(ApiError::Unsupported)
    }
}

impl UIApi for OwnEngine {
    fn show_element(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()> {
        self.send(ClientCommand::ShowElement { player, element: element.to_owned(), text: text.to_owned() })
    }
    fn hide_element(&mut self, player: PlayerId, element: &str) -> ApiResult<()> {
        self.send(ClientCommand::HideElement { player, element: element.to_owned() })
    }
    fn update_text(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()> {
        self.send(ClientCommand::SetText { player, element: element.to_owned(), text: text.to_owned() })
    }
}

impl AudioApi for OwnEngine {
    fn play_sound(&mut self, sound: &str, position: Vec3, parameters: SoundParameters, looped: bool) -> ApiResult<u64> {
        self.sounds += 1;
        let (handle, sound) = (self.sounds, sound.to_owned());
        self.send(ClientCommand::PlaySound { handle, sound, position, parameters, looped })?;
        Ok(handle)
    }
    fn stop_sound(&mut self, handle: u64) -> ApiResult<()> {
        self.send(ClientCommand::StopSound { handle })
    }
    fn set_sound_position(&mut self, handle: u64, position: Vec3) -> ApiResult<()> {
        self.send(ClientCommand::MoveSound { handle, position })
    }
    fn set_sound_parameters(&mut self, handle: u64, parameters: SoundParameters) -> ApiResult<()> {
        self.send(ClientCommand::TuneSound { handle, parameters })
    }
}

impl NetworkApi for OwnEngine {
    fn send_rpc(&mut self, _: &str, _: &str, _: &[u8]) -> ApiResult<u64> {
        Err(ApiError::Unsupported)
    }
    fn reply_rpc(&mut self, _: u64, _: &[u8]) -> ApiResult<()> {
        Err(ApiError::Unsupported)
    }
    fn broadcast_event(&mut self, topic: &str, payload: &[u8]) -> ApiResult<()> {
        let from = self.current;
        for (instance, guest) in &mut self.guests {
            // A full inbox loses the event; every queue has an end.
            if *instance != from && guest.topics.contains(topic) && guest.inbox.len() < INBOX_MAX {
                let event = Event { kind: BROADCAST, a: from.0, b: 0, topic: topic.to_owned(), payload: payload.to_vec() };
                guest.inbox.push_back(Call::Event(Box::new(event)));
            }
        }
        Ok(())
    }
    fn subscribe(&mut self, topic: &str) -> ApiResult<()> {
        let topics = &mut self.guests.get_mut(&self.current).ok_or(ApiError::Unsupported)?.topics;
        if topics.len() >= aether_scripting::abi::limit::TOPICS && !topics.contains(topic) {
            return Err(ApiError::Full);
        }
        topics.insert(topic.to_owned());
        Ok(())
    }
    fn send_player(&mut self, player: PlayerId, topic: &str, payload: &[u8]) -> ApiResult<()> {
        self.send(ClientCommand::Event { player, topic: topic.to_owned(), payload: payload.to_vec() })
    }
}

impl StorageApi for OwnEngine {
    fn read_value(&mut self, key: &str, value: &mut Vec<u8>) -> ApiResult<()> {
        let stored = self.stored.get(&self.key(key)?).ok_or(ApiError::NotFound)?;
        value.clear();
        value.extend_from_slice(stored);
        Ok(())
    }
    fn write_value(&mut self, key: &str, value: &[u8]) -> ApiResult<()> {
        self.write(key, Some(value))
    }
    fn delete_value(&mut self, key: &str) -> ApiResult<()> {
        self.write(key, None)
    }
    fn list_keys(&mut self, prefix: &str, limit: usize, keys: &mut Vec<String>) -> ApiResult<()> {
        let (namespace, prefix) = self.key(prefix)?;
        let own = self.stored.keys().filter(|(space, key)| *space == namespace && key.starts_with(&prefix));
        keys.extend(own.take(limit).map(|(_, key)| key.clone()));
        Ok(())
    }
}

impl Host for OwnEngine {
    fn enter(&mut self, caller: InstanceId) -> usize {
        self.current = caller;
        self.guests.get(&caller).map_or(0, |guest| guest.inbox.len())
    }
    fn next_call(&mut self) -> Option<Call> {
        self.guests.get_mut(&self.current)?.inbox.pop_front()
    }
    fn add_script(&mut self, caller: Caller, entity: Option<(&str, Vec3)>) -> ApiResult<()> {
        let entity = match entity {
            Some((prefab, position)) => Some(self.place(self.find_prefab(prefab)?, position)?),
            None => None,
        };
        let guest = Guest { entity, topics: BTreeSet::new(), inbox: VecDeque::new(), caller };
        self.guests.insert(guest.caller.instance, guest);
        Ok(())
    }
    fn remove_script(&mut self, instance: InstanceId) {
        if let Some(entity) = self.guests.remove(&instance).and_then(|guest| guest.entity) {
            self.things.remove(&entity);
        }
    }
    fn end_tick(&mut self, dt: f32) {
        for Body { position, velocity, .. } in self.things.values_mut().map(|thing| &mut thing.body) {
            *position = Vec3::new(position.x + velocity.x * dt, position.y + velocity.y * dt, position.z + velocity.z * dt);
        }
    }
    fn take_output(&mut self) -> WorldOutput {
        std::mem::take(&mut self.output)
    }
}

/// A second of the run.
#[derive(Debug)]
struct Second {
    thief: Vec3,
    guard: Vec3,
    /// Commands to clients.
    commands: usize,
    /// Fuel of the second's ticks.
    fuel: u64,
}

/// Compile the thief, put it into a world on this engine, and tick that for some seconds.
fn play(seconds: u32) -> Result<Vec<Second>, Box<dyn Error>> {
    const HZ: u32 = 20;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/thief");
    let cache = std::env::temp_dir().join(format!("aether-own-engine-{}", std::process::id()));
    let config = ServerRuntimeConfig {
        aot_cache_dir: cache.clone(),
        pool: PoolSize { small: 8, large: 0 },
        ..ServerRuntimeConfig::default()
    };
    let runtime = ServerRuntime::new(config)?;
    let manifest = Arc::new(ScriptManifest::parse(&std::fs::read_to_string(scripts.join("script.toml"))?)?);
    let wasm = std::fs::read(scripts.join("thief.wasm"))?;
    let artifact = runtime.compile_for(&wasm, AotTarget::host(), manifest.limits.memory_mb)?;
    let version = runtime.register_artifact(manifest.name, artifact)?;
    let module = runtime.load_module(manifest.name, version)?;

    // What is there before any script comes: a merchant to the south, and far behind it a guard that walks north.
    let mut engine = OwnEngine::default();
    engine.place(engine.find_prefab("merchant")?, Vec3::new(0.0, 0.0, 8.0))?;
    let guard = engine.place(engine.find_prefab("guard")?, Vec3::new(0.0, 0.0, 30.0))?;
    engine.things.get_mut(&guard).ok_or("the guard was placed")?.body.velocity = Vec3::new(0.0, 0.0, -1.2);

    let mut world = World::new(WorldConfig::new(WorldId::new("alley")?), Box::new(engine));
    let parts = ScriptParts {
        name: "thief".into(),
        manifest,
        version,
        module,
        entity: Some(("thief".into(), Vec3::ZERO)),
        directory: None,
    };
    world.add_script(parts, None)?;

    let mut run = Vec::new();
    for _ in 0..seconds {
        let mut commands = 0;
        for _ in 0..HZ {
            // Your clock; the last argument is the CPU clock of this thread, by which the tick budget is held.
            let now_ns = world.now_ns() + u64::from(1_000_000_000 / HZ);
            let report = world.tick(now_ns, 1.0 / HZ as f32, &mut tick_cpu_ns);
            commands += report.output.commands.len();
            if let Some(end) = report.ends.first() {
                return Err(format!("a script ended: {end:?}").into());
            }
        }
        let fuel = world.status().iter().map(|script| script.fuel).sum();
        let mut found = Vec::new();
        world.host().query_kind("thief", &mut found)?;
        let thief = world.host().position(*found.first().ok_or("the thief is there")?)?;
        run.push(Second { thief, guard: world.host().position(guard)?, commands, fuel });
    }
    drop(world);
    std::fs::remove_dir_all(cache)?;
    Ok(run)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("second  thief z  guard z  commands     fuel");
    for (second, Second { thief, guard, commands, fuel }) in (1..).zip(play(20)?) {
        println!("{second:>6}  {:>7.1}  {:>7.1}  {commands:>8}  {fuel:>7}", thief.z, guard.z);
    }
    Ok(())
}

#[test]
fn a_sample_script_runs_on_an_engine_of_ones_own() {
    let run = play(20).unwrap();
    let farthest = run.iter().map(|second| second.thief.z).fold(0.0, f32::max);
    assert!(farthest > 6.0, "it came near the merchant at 8: {run:?}");
    assert!(run.last().unwrap().thief.z < farthest - 5.0, "it ran from the guard: {run:?}");
    assert!(run.iter().all(|second| second.guard.z - second.thief.z > 3.0), "the guard never had it: {run:?}");
}
