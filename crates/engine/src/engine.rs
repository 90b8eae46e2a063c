//! [`Engine`]: one world's entities, bodies, scripts' inboxes, commands and storage, and what happens around a tick.

use crate::callers::{Callers, KindSet, Member};
use crate::checkpoint;
use crate::entities::Entities;
use crate::network_api::OpenCalls;
use crate::output_api::Sounds;
use crate::physics::Physics;
use crate::prefab::PrefabSet;
use crate::storage_api::Storage;
use aether_scripting::output::{ClientCommand, InboundCall, OutboundCall, Standing, WorldOutput};
use aether_scripting::{
    ApiError, ApiResult, Call, Caller, EntityId, EntityState, EntityView, Event, Host, HostStats, InstanceId, PlayerId, Vec3,
};
use aether_types::codec::CodecError;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What can be spawned.
    pub prefabs: Arc<PrefabSet>,
    /// Entities at a time.
    pub entities_max: usize,
    /// Bytes of keys and values in storage.
    pub storage_bytes_max: usize,
    /// Commands to clients in one tick, of all scripts together.
    pub commands_max: usize,
    /// Bytes of all entities' components.
    pub component_bytes_max: usize,
    /// Bytes of all messages and events that wait.
    pub inbox_bytes_max: usize,
    /// The first number of a call. Each owner of a world must have its own range: an answer to a call that a crash undid must not
    /// find another one.
    pub first_call: u64,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            prefabs: Arc::default(),
            entities_max: 20_000,
            storage_bytes_max: 64 << 20,
            commands_max: 20_000,
            component_bytes_max: 32 << 20,
            inbox_bytes_max: 32 << 20,
            first_call: 0,
        }
    }
}

/// One world's engine.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) entities: Entities,
    pub(crate) physics: Physics,
    pub(crate) callers: Callers,
    pub(crate) open_calls: OpenCalls,
    pub(crate) storage: Storage,
    pub(crate) sounds: Sounds,
    pub(crate) standing: Standing,
    pub(crate) commands: Vec<ClientCommand>,
    pub(crate) outbound: Vec<OutboundCall>,
    /// Worlds that do not take what was sent to them: nothing more is called there.
    pub(crate) blocked: HashSet<String>,
    /// Who came out of a checkpoint and has not been added again yet.
    pub(crate) returning: Vec<checkpoint::SavedMember>,
    /// Bytes of all entities' components.
    pub(crate) component_bytes: usize,
    /// Entities that queries looked at and that nobody has paid for yet.
    pub(crate) examined: u64,
    pub(crate) now_ns: u64,
    pub(crate) tick: u64,
}

/// Kinds of `on_event`: see `wit/aether.wit`.
pub(crate) mod event {
    pub(crate) const CONTACT_BEGAN: u32 = 1;
    pub(crate) const CONTACT_ENDED: u32 = 2;
    pub(crate) const TRIGGER_ENTERED: u32 = 3;
    pub(crate) const TRIGGER_LEFT: u32 = 4;
    pub(crate) const BROADCAST: u32 = 5;
    pub(crate) const NO_ANSWER: u32 = 6;
}

impl Engine {
    /// An empty world. `stored` is what its storage holds: namespace, key, value.
    pub fn new(config: EngineConfig, stored: impl IntoIterator<Item = (String, String, Vec<u8>)>) -> Engine {
        let mut entities = Entities::default();
        for prefab in config.prefabs.iter() {
            entities.kind_id(&prefab.kind);
        }
        Engine {
            storage: Storage::new(config.storage_bytes_max, stored),
            entities,
            physics: Physics::default(),
            callers: Callers::new(config.inbox_bytes_max),
            open_calls: OpenCalls::starting_at(config.first_call),
            component_bytes: 0,
            examined: 0,
            sounds: Sounds::default(),
            standing: Standing::default(),
            commands: Vec::new(),
            outbound: Vec::new(),
            blocked: HashSet::new(),
            returning: Vec::new(),
            now_ns: 0,
            tick: 0,
            config,
        }
    }

    pub(crate) fn spawn(&mut self, number: u32, owner: InstanceId, position: Vec3) -> ApiResult<EntityId> {
        if self.entities.len() >= self.config.entities_max {
            return Err(ApiError::Full);
        }
        let prefabs = Arc::clone(&self.config.prefabs);
        let prefab = prefabs.get(number).ok_or(ApiError::NotFound)?;
        let kind = self.entities.kind_id(&prefab.kind);
        let components: std::collections::BTreeMap<_, _> =
            prefab.components.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
        let id = self.entities.insert(number, kind, owner, position, components);
        self.component_bytes += self.entities.get(id).map_or(0, crate::entities::Entity::component_bytes);
        let has_body = self.physics.insert(id, prefab, position);
        if let Some(entity) = self.entities.get_mut(id) {
            entity.has_body = has_body;
        }
        Ok(id)
    }

    pub(crate) fn destroy(&mut self, id: EntityId) {
        if let Some(entity) = self.entities.remove(id) {
            self.component_bytes -= entity.component_bytes();
            if entity.has_body {
                self.physics.remove(id);
            }
        }
        self.command(ClientCommand::Gone { entity: id });
    }

    /// Queue a command for clients. The world's rates bound them long before this does.
    pub(crate) fn command(&mut self, command: ClientCommand) {
        if self.commands.len() < self.config.commands_max {
            self.standing.apply(&command);
            self.commands.push(command);
        } else {
            self.callers.dropped += 1;
        }
    }

    fn kind_set(&mut self, names: &[String]) -> KindSet {
        if names.iter().any(|name| name == "*") {
            return KindSet::any();
        }
        let mut set = KindSet::default();
        for name in names {
            let kind = self.entities.kind_id(name);
            set.insert(kind);
        }
        set
    }

    fn contact_events(&mut self, contacts: Vec<crate::physics::Contact>) {
        for contact in contacts {
            let kind = match (contact.sensor, contact.began) {
                (false, true) => event::CONTACT_BEGAN,
                (false, false) => event::CONTACT_ENDED,
                (true, true) => event::TRIGGER_ENTERED,
                (true, false) => event::TRIGGER_LEFT,
            };
            for (own, other) in [(contact.a, contact.b), (contact.b, contact.a)] {
                let Some(owner) = self.entities.get(own).map(|entity| entity.owner) else { continue };
                let event = Event { kind, a: own.0, b: other.0, topic: String::new(), payload: Vec::new() };
                // A full inbox: counted there. A contact that nobody reads in time is old news.
                let _ = self.callers.push(owner, Call::Event(Box::new(event)));
            }
        }
    }
}

impl Host for Engine {
    #[inline]
    fn enter(&mut self, caller: InstanceId) -> usize {
        self.callers.enter(caller)
    }

    fn take_examined(&mut self) -> u64 {
        std::mem::take(&mut self.examined)
    }

    fn next_call(&mut self) -> Option<Call> {
        self.callers.pop()
    }

    fn add_script(&mut self, mut caller: Caller, entity: Option<(&str, Vec3)>) -> ApiResult<()> {
        let instance = caller.instance;
        // Kept as numbers only.
        let kinds = self.kind_set(&std::mem::take(&mut caller.entity_kinds));
        let (mut returned, mut self_entity) = (Vec::new(), None);
        let mut member = Member { info: caller, inbox: VecDeque::new(), topics: Vec::new() };
        if let Some(at) = self.returning.iter().position(|saved| saved.instance == instance) {
            let saved = self.returning.swap_remove(at);
            self_entity = saved.self_entity;
            member.topics = saved.topics;
            returned = saved.inbox;
        }
        if let Some((prefab, position)) = entity {
            let prefab = self.config.prefabs.find(prefab).ok_or(ApiError::NotFound)?;
            self_entity = Some(self.spawn(prefab, instance, position)?);
        }
        self.callers.insert(member, kinds, self_entity);
        for call in returned {
            self.callers.push(instance, call.into_call())?;
        }
        Ok(())
    }

    fn set_grants(&mut self, instance: InstanceId, entity_kinds: &[String], storage_namespace: Option<String>) {
        let kinds = self.kind_set(entity_kinds);
        self.callers.set_kinds(instance, kinds);
        if let Some(member) = self.callers.get_mut(instance) {
            member.info.storage_namespace = storage_namespace;
        }
    }

    fn reset_script(&mut self, instance: InstanceId) {
        if let Some(member) = self.callers.get_mut(instance) {
            member.topics.clear();
        }
        let keep = self.callers.self_entity_of(instance);
        let spawned: Vec<_> = self
            .entities
            .slots
            .iter()
            .filter(|(_, entity)| entity.owner == instance)
            .map(|(key, _)| crate::entities::id_of(key))
            .collect();
        for id in spawned.into_iter().filter(|id| Some(*id) != keep) {
            self.destroy(id);
        }
        self.open_calls.forget_caller(instance);
        for handle in self.sounds.take_of(instance) {
            self.command(ClientCommand::StopSound { handle });
        }
    }

    fn remove_script(&mut self, instance: InstanceId) {
        self.reset_script(instance);
        let own = self.callers.self_entity_of(instance);
        self.callers.remove(instance);
        if let Some(id) = own {
            self.destroy(id);
        }
    }

    fn begin_tick(&mut self, now_ns: u64, tick: u64) {
        (self.now_ns, self.tick) = (now_ns, tick);
        for (caller, call) in self.open_calls.take_expired(now_ns) {
            let event = Event { kind: event::NO_ANSWER, a: call, b: 0, topic: String::new(), payload: Vec::new() };
            let _ = self.callers.push(caller, Call::Event(Box::new(event)));
        }
    }

    fn end_tick(&mut self, dt: f32) {
        let entities = &mut self.entities;
        let contacts = self.physics.step(dt, |id, position, velocity, yaw| {
            entities.set_position(id, position);
            if let Some(entity) = entities.get_mut(id) {
                (entity.velocity, entity.yaw) = (velocity, yaw);
            }
        });
        self.contact_events(contacts);
    }

    fn take_output(&mut self) -> WorldOutput {
        WorldOutput {
            commands: std::mem::take(&mut self.commands),
            calls: std::mem::take(&mut self.outbound),
            writes: self.storage.take_writes(),
        }
    }

    fn deliver(&mut self, call: InboundCall) -> ApiResult<()> {
        self.deliver_inbound(call)
    }

    fn deliver_reply(&mut self, call: u64, payload: Vec<u8>, delivery: u64) -> ApiResult<bool> {
        self.deliver_answer(call, payload, delivery)
    }

    fn block_calls(&mut self, world: &str, blocked: bool) {
        if blocked {
            self.blocked.insert(world.to_owned());
        } else {
            self.blocked.remove(world);
        }
    }

    fn save(&self, inboxes: bool) -> Result<Vec<u8>, CodecError> {
        checkpoint::save(self, inboxes)
    }

    fn fork(&self) -> Option<Box<dyn Host>> {
        let mut copy = Engine::new(self.config.clone(), self.storage.iter());
        checkpoint::restore(&mut copy, &checkpoint::save(self, false).ok()?).ok()?;
        Some(Box::new(copy))
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), CodecError> {
        checkpoint::restore(self, saved)
    }

    fn finish_restore(&mut self) {
        for gone in std::mem::take(&mut self.returning) {
            self.reset_script(gone.instance);
            if let Some(id) = gone.self_entity {
                self.destroy(id);
            }
        }
    }

    fn look(&self, visit: &mut dyn FnMut(EntityState)) {
        for (key, entity) in &self.entities.slots {
            let id = crate::entities::id_of(key);
            // The lower half of a slot map's key is the slot.
            visit(EntityState { id, slot: id.0 as u32, kind: entity.kind, position: entity.position, yaw: entity.yaw });
        }
    }

    fn standing(&self) -> Option<&Standing> {
        Some(&self.standing)
    }

    fn kind_name(&self, kind: u16) -> &str {
        self.entities.kinds.get(usize::from(kind)).map_or("", String::as_str)
    }

    fn tell(&mut self, player: PlayerId, topic: &str, payload: &[u8], in_part: bool) -> ApiResult<()> {
        self.tell_of_player(player, topic, payload, in_part)
    }

    fn entities(&self, max: usize) -> Vec<EntityView> {
        let view = |(key, entity): (crate::entities::EntityKey, &crate::entities::Entity)| EntityView {
            id: crate::entities::id_of(key).0,
            kind: self.entities.kinds.get(entity.kind as usize).cloned().unwrap_or_default(),
            x: entity.position.x,
            y: entity.position.y,
            z: entity.position.z,
        };
        self.entities.slots.iter().take(max).map(view).collect()
    }

    fn stats(&self) -> HostStats {
        HostStats {
            entities: self.entities.len(),
            dropped: self.callers.dropped,
            open_calls: self.open_calls.len(),
            waiting: self.callers.waiting(),
            storage_bytes: self.storage.bytes(),
        }
    }
}
