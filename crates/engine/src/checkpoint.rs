//! The engine's part of a checkpoint: entities with their ids, bodies, inboxes, topics, open calls. Storage is not in it: the store has it.

use crate::engine::Engine;
use crate::entities::{Entity, EntityKey, id_of};
use crate::network_api::OpenCalls;
use crate::physics::SavedBody;
use aether_scripting::output::Standing;
use aether_scripting::{Call, EntityId, Event, InstanceId, Message};
use aether_types::codec::{self, CodecError};
use serde::{Deserialize, Serialize};
use slotmap::SlotMap;
use std::collections::BTreeMap;

const SCHEMA: u8 = 2;
/// Of builds that did not remember what stands: it is what [`SCHEMA`] has first.
const SCHEMA_BEFORE: u8 = 1;

/// A message or an event that waits.
#[derive(Serialize, Deserialize)]
pub(crate) enum SavedCall {
    Message(Message),
    Event(Event),
}

impl SavedCall {
    fn of(call: &Call) -> Option<SavedCall> {
        match call {
            // The store keeps it until it is done with.
            Call::Message(message) if message.delivery != 0 => None,
            Call::Message(message) => Some(SavedCall::Message((**message).clone())),
            Call::Event(event) => Some(SavedCall::Event((**event).clone())),
            Call::Start | Call::Tick(_) | Call::Stop | Call::Save | Call::Restore { .. } | Call::Test(_) => None,
        }
    }

    pub(crate) fn into_call(self) -> Call {
        match self {
            SavedCall::Message(message) => Call::Message(Box::new(message)),
            SavedCall::Event(event) => Call::Event(Box::new(event)),
        }
    }
}

/// A script as the engine knew it.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedMember {
    pub instance: InstanceId,
    pub self_entity: Option<EntityId>,
    pub topics: Vec<String>,
    pub inbox: Vec<SavedCall>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    entities: SlotMap<EntityKey, Entity>,
    kinds: Vec<String>,
    /// Names of the prefabs that entities refer to by number: another prefab file may number them otherwise.
    prefabs: Vec<String>,
    bodies: Vec<SavedBody>,
    members: Vec<SavedMember>,
    open_calls: OpenCalls,
    now_ns: u64,
    next_sound: u64,
    sounds: BTreeMap<u64, InstanceId>,
}

pub(crate) fn save(engine: &Engine, inboxes: bool) -> Result<Vec<u8>, CodecError> {
    let members = engine.callers.iter().map(|member| SavedMember {
        instance: member.info.instance,
        self_entity: engine.callers.self_entity_of(member.info.instance),
        topics: member.topics.clone(),
        inbox: member.inbox.iter().filter(|_| inboxes).filter_map(SavedCall::of).collect(),
    });
    let saved = Saved {
        entities: engine.entities.slots.clone(),
        kinds: engine.entities.kinds.clone(),
        prefabs: engine.config.prefabs.iter().map(|prefab| prefab.name.clone()).collect(),
        bodies: engine.physics.save(),
        members: members.collect(),
        open_calls: engine.open_calls.clone(),
        now_ns: engine.now_ns,
        next_sound: engine.sounds.next,
        sounds: engine.sounds.owners.clone(),
    };
    codec::encode(SCHEMA, &(saved, &engine.standing))
}

pub(crate) fn restore(engine: &mut Engine, bytes: &[u8]) -> Result<(), CodecError> {
    let (saved, standing): (Saved, Standing) = match codec::decode(SCHEMA, bytes) {
        Err(CodecError::Schema { found: SCHEMA_BEFORE, .. }) => (codec::decode(SCHEMA_BEFORE, bytes)?, Standing::default()),
        decoded => decoded?,
    };
    let damaged = || CodecError::Damaged("an entity of a kind or prefab that the checkpoint does not name".to_owned());
    if saved
        .entities
        .values()
        .any(|entity| entity.kind as usize >= saved.kinds.len() || entity.prefab as usize >= saved.prefabs.len())
    {
        return Err(damaged());
    }
    let prefabs = std::sync::Arc::clone(&engine.config.prefabs);
    engine.entities.slots = saved.entities;
    engine.entities.kinds = saved.kinds;
    // An entity whose prefab is gone from the file goes too.
    let renumbered: Vec<_> = saved.prefabs.iter().map(|name| prefabs.find(name)).collect();
    engine.entities.slots.retain(|_, entity| match renumbered[entity.prefab as usize] {
        Some(number) => {
            entity.prefab = number;
            true
        }
        None => false,
    });
    engine.entities.reindex();
    for prefab in prefabs.iter() {
        engine.entities.kind_id(&prefab.kind);
    }
    for (key, entity) in &mut engine.entities.slots {
        if let Some(prefab) = prefabs.get(entity.prefab) {
            entity.has_body = engine.physics.insert(id_of(key), prefab, entity.position);
        }
    }
    for body in &saved.bodies {
        engine.physics.restore(body);
    }
    engine.returning = saved.members;
    engine.open_calls = saved.open_calls.restored(engine.config.first_call);
    engine.now_ns = saved.now_ns;
    engine.component_bytes = engine.entities.slots.values().map(Entity::component_bytes).sum();
    engine.sounds.next = saved.next_sound;
    engine.sounds.owners = saved.sounds;
    engine.standing = standing;
    Ok(())
}
