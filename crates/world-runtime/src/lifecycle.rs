//! How scripts come, end and come back: adding, restarts by rule, suspension, and the instances that are built for it.
//!
//! A world decides (`supervision`), and says what it wants built; it builds itself only if nobody else does
//! ([`WorldConfig::builds_itself`]). Not here: turns (`world`), swapping versions (`reload`).

use crate::scheduler::{ScriptKey, ScriptTraits};
use crate::script::{
    AddError, Bounded, BuildOrder, Code, Hot, Next, Ordered, ScriptCheckpoint, ScriptEnd, ScriptParts, ScriptState, ScriptStatus,
    SetAside, Slot, call_bounded,
};
use crate::supervision::{Decision, End, Restarts, Strategy};
use crate::world::{TickReport, World};
use aether_scripting::instance::InstanceError;
use aether_scripting::{Call, Caller, InstanceSpec, OnBudget, Reply, ScriptInstance};
use aether_types::{InstanceId, ScriptId, Version};
use std::sync::Arc;

/// Building an instance takes microseconds; this many in one tick do not hurt it.
const REBUILDS_PER_TICK: usize = 32;
/// Messages and events set aside; the oldest goes.
const SET_ASIDE_MAX: usize = 64;

#[cfg(doc)]
use crate::world::WorldConfig;

impl World {
    /// Add a script. With its part of a checkpoint it goes on from there, else it starts.
    pub fn add_script(&mut self, mut parts: ScriptParts, checkpoint: Option<&ScriptCheckpoint>) -> Result<ScriptKey, AddError> {
        if self.names.contains(&parts.name) {
            return Err(AddError::NameTaken(parts.name));
        }
        let count = self.names.len();
        if count >= self.config.scripts_max {
            return Err(AddError::TooManyScripts(count));
        }
        let (digest, version) = (parts.module.source_digest(), parts.version);
        if !self.modules.contains(&digest) && self.modules.len() >= self.config.modules_max {
            return Err(AddError::TooManyModules(self.modules.len()));
        }
        let instance = checkpoint.map_or(InstanceId(self.next_instance), |checkpoint| checkpoint.instance);
        let random = checkpoint.and_then(|checkpoint| checkpoint.random.clone()).map(Box::new);
        let next = Next { random, drained_at_ns: None };
        // Another's to build: then what is wrong with it is seen when it is installed.
        let built = match self.config.builds_itself {
            true => Some(ScriptInstance::build(&parts.module, &self.spec_of(&parts, instance, &next), &self.memory)?),
            false => None,
        };
        let caller = Caller {
            instance,
            name: parts.name.clone(),
            entity_kinds: parts.manifest.grants.entity_kinds.clone(),
            storage_namespace: parts.manifest.grants.storage_namespace.clone(),
        };
        let entity = parts.entity.take();
        // A script that comes back has its entities already: they are in the engine's part of the checkpoint.
        let spawned = entity.as_ref().filter(|_| checkpoint.is_none()).map(|(prefab, position)| (prefab.as_str(), *position));
        let added = self.context().host.add_script(caller, spawned);
        added.map_err(|error| AddError::Engine { prefab: entity.map(|(prefab, _)| prefab), error })?;
        if checkpoint.is_some_and(|checkpoint| checkpoint.state.is_none()) {
            self.context().host.reset_script(instance);
        }
        self.next_instance = self.next_instance.max(instance.0 + 1);
        self.modules.insert(digest);
        self.names.insert(parts.name.clone());
        let key = self.scheduler.add(traits_of(&parts));
        let saved = checkpoint.and_then(|checkpoint| checkpoint.state.clone().map(|state| (checkpoint.version, state)));
        let slot = Slot {
            key,
            id: instance,
            parts,
            next,
            life: 0,
            state: ScriptState::Running,
            saved,
            restarts: Restarts::default(),
            // One that goes on from a checkpoint was not deferred in all ticks before it.
            deferrals_seen: self.tick.0 as u32,
            refused: [0; 7],
            suspect: None,
            in_hand: 0,
            seated: false,
        };
        let at = key.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
            self.hot.resize_with(at + 1, Hot::default);
        }
        self.hot[at] = Hot { id: instance, ..Hot::default() };
        self.slots[at] = Some(Box::new(slot));
        match (checkpoint.and_then(|checkpoint| checkpoint.standing.rests_as(version)), built) {
            (Some(state), _) => {
                if let Some(slot) = self.slot_mut(key) {
                    (slot.state, slot.seated) = (state, true);
                }
                self.scheduler.set_runnable(key, false);
            }
            (None, Some(instance)) => self.seat(key, instance),
            (None, None) => self.want(key),
        }
        Ok(key)
    }

    /// What an instance is built from. Not kept: it follows from what is.
    pub(crate) fn spec_of(&self, parts: &ScriptParts, instance: InstanceId, next: &Next) -> InstanceSpec {
        InstanceSpec {
            instance,
            version: parts.version,
            policy: parts.manifest.policy(),
            groups: parts.manifest.groups(),
            rates: parts.manifest.limits.rates,
            seed: self.config.seed ^ instance.0.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            random: next.random.as_deref().cloned(),
            drained_at_ns: next.drained_at_ns,
            directory: parts.directory.clone(),
        }
    }

    fn order_of(&self, slot: &Slot) -> BuildOrder {
        BuildOrder {
            key: slot.key,
            life: slot.life,
            module: Arc::clone(&slot.parts.module),
            spec: self.spec_of(&slot.parts, slot.id, &slot.next),
            memory: Arc::clone(&self.memory),
        }
    }

    /// Give a script other code, and get back what it had: what runs goes on, what is built next is the new one.
    pub(crate) fn replace_code(&mut self, key: ScriptKey, code: Code, next: Next) -> Option<(Code, Next)> {
        let slot = self.slots.get_mut(key.0 as usize).and_then(Option::as_deref_mut)?;
        let old = (slot.parts.replace(code), std::mem::replace(&mut slot.next, next));
        slot.life += 1;
        let grants = &slot.parts.manifest.grants;
        if *grants != old.0.manifest.grants
            && let Some(context) = &mut self.context
        {
            context.host.set_grants(slot.id, &grants.entity_kinds, grants.storage_namespace.clone());
        }
        self.scheduler.set_traits(key, traits_of(&slot.parts));
        if slot.parts.module.source_digest() != old.0.module.source_digest() {
            self.modules.insert(slot.parts.module.source_digest());
        }
        Some(old)
    }

    /// A script that could not be loaded or added is shown as parked: one bad script must not keep a world from starting.
    pub fn add_failed(&mut self, name: String, script: ScriptId, version: Version, cause: String) {
        self.ends.push(ScriptEnd {
            name: name.clone(),
            script,
            version,
            end: End::NotStarted(cause.clone()),
            parked: true,
            again: false,
            trace: None,
        });
        self.failed.push(ScriptStatus::of_failed(name, script, version, cause));
    }

    /// Put an instance into its place; it begins with `on_start` or `restore_state`.
    pub(crate) fn seat(&mut self, key: ScriptKey, instance: ScriptInstance) {
        let Some(slot) = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut) else { return };
        let hot = &mut self.hot[key.0 as usize];
        hot.instance = Some(instance);
        hot.boot = Some(Box::new(slot.boot()));
        slot.state = ScriptState::Running;
        // What it had made before is not part of a start from nothing.
        if std::mem::replace(&mut slot.seated, true)
            && slot.saved.is_none()
            && let Some(context) = &mut self.context
        {
            context.host.reset_script(slot.id);
        }
        self.scheduler.set_runnable(key, true);
    }

    /// Ask for an instance.
    pub(crate) fn want(&mut self, key: ScriptKey) {
        let now_ns = self.now_ns();
        // One that an operator or a new version brings back waits for nothing any more.
        self.resting.retain(|(_, other)| *other != key);
        if let Some(slot) = self.slot_mut(key) {
            slot.state = ScriptState::Restarting;
            slot.life += 1;
            // Who fails must not act more: a restarted script begins with empty allowances.
            if slot.seated {
                slot.next.drained_at_ns = Some(now_ns);
            }
            self.wanted.push(key);
        }
        self.scheduler.set_runnable(key, false);
    }

    /// Instances that somebody must build and [`install`](World::install).
    pub fn take_wanted(&mut self) -> Vec<BuildOrder> {
        let wanted = std::mem::take(&mut self.wanted);
        wanted.into_iter().filter_map(|key| Some(self.order_of(self.slot(key)?))).collect()
    }

    /// Whether instances are to be built.
    pub fn wants_instances(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// An instance that was wanted, or why it could not be built. One of an earlier life is given back.
    pub fn install(&mut self, key: ScriptKey, life: u32, built: Result<ScriptInstance, InstanceError>) -> Option<ScriptInstance> {
        let waits = self.slot(key).is_some_and(|slot| slot.life == life && slot.state == ScriptState::Restarting);
        match built {
            Ok(instance) if waits => self.seat(key, instance),
            Ok(instance) => return Some(instance),
            Err(error) if waits => {
                let end = end_of_build(&error);
                let mut report = TickReport::default();
                self.script_ended(key, end, None, &mut report);
                self.ends.append(&mut report.ends);
            }
            Err(_) => {}
        }
        None
    }

    /// A script ended: it comes back with its last saved state, or is parked if it keeps failing. `during`: what it was doing.
    pub(crate) fn script_ended(&mut self, key: ScriptKey, end: End, during: Option<Call>, report: &mut TickReport) {
        let (now_ns, tick, rule) = (self.now_ns(), self.tick, self.config.restarts);
        let Some(slot) = self.slots[key.0 as usize].as_mut() else { return };
        let mut ended = self.hot[key.0 as usize].instance.take();
        let trace = ended.as_mut().and_then(ScriptInstance::take_trace);
        self.discarded.extend(ended);
        let version = slot.parts.version;
        if let Some(call @ (Call::Message(_) | Call::Event(_))) = during
            && end.blames_message()
        {
            if slot.suspect.as_ref() == Some(&call) {
                slot.suspect = None;
                if self.set_aside.len() >= SET_ASIDE_MAX {
                    self.set_aside.pop_front();
                }
                let script = slot.parts.name.clone();
                self.set_aside.push_back(SetAside { script, tick, end: end.clone(), call });
            } else {
                slot.suspect = Some(call);
            }
        }
        let (in_hand, suspect) = (std::mem::take(&mut slot.in_hand), slot.suspect.as_ref());
        let again = suspect.is_some_and(|call| matches!(call, Call::Message(message) if message.delivery == in_hand));
        if in_hand != 0 && !again {
            self.done.push(in_hand);
        }
        let restart = slot.parts.manifest.supervision.restart;
        let decision = slot.restarts.ended(&rule, restart, &end, now_ns, slot.id.0);
        match decision {
            Decision::Restart { after_ns } => {
                slot.state = ScriptState::Restarting;
                self.resting.push((now_ns + after_ns, key));
            }
            Decision::Park => slot.state = ScriptState::Parked { cause: end.to_string() },
            Decision::Leave => slot.state = ScriptState::Finished { cause: end.to_string() },
        }
        let (name, script) = (slot.parts.name.clone(), slot.parts.manifest.name);
        // What a version does that is being tried out is held against the version.
        let trial = self.is_trial(key, version);
        if decision == Decision::Park && self.config.escalates && !trial {
            self.escalated.get_or_insert(End::Escalated { child: name.clone(), cause: end.to_string() });
        }
        self.scheduler.forget_pause(key);
        self.scheduler.set_runnable(key, false);
        self.overload.forget(key);
        self.reload_saw_end(key, version, &end);
        let sibling = matches!(end, End::WithSibling(_));
        let (parked, again) = (decision == Decision::Park, matches!(decision, Decision::Restart { .. }));
        report.ends.push(ScriptEnd { name: name.clone(), script, version, end, parked, again, trace });
        if self.config.strategy == Strategy::All && !sibling && !trial && decision != Decision::Leave {
            self.end_siblings(key, &name, report);
        }
    }

    /// All others go with it, and come back from their last saved states. It does not count against them.
    fn end_siblings(&mut self, key: ScriptKey, name: &str, report: &mut TickReport) {
        let running = |slot: &Slot| slot.key != key && slot.state == ScriptState::Running;
        let keys: Vec<_> = self.slots.iter().flatten().filter(|slot| running(slot)).map(|slot| slot.key).collect();
        for other in keys {
            self.discarded.extend(self.hot[other.0 as usize].instance.take());
            self.let_go(other);
            self.scheduler.forget_pause(other);
            self.want(other);
            if let Some(slot) = self.slot(other) {
                let (script, version) = (slot.parts.manifest.name, slot.parts.version);
                let end = End::WithSibling(name.to_owned());
                let name = slot.parts.name.clone();
                report.ends.push(ScriptEnd { name, script, version, end, parked: false, again: true, trace: None });
            }
        }
    }

    /// Those whose wait is over are wanted again; if nobody else builds, a few are built here.
    pub(crate) fn restart_due(&mut self, now_ns: u64, report: &mut TickReport) {
        let due: Vec<_> = self.resting.extract_if(.., |(at_ns, _)| *at_ns <= now_ns).map(|(_, key)| key).collect();
        for key in due {
            // It may have been resumed or replaced meanwhile.
            if self.slot(key).is_some_and(|slot| slot.state == ScriptState::Restarting) {
                self.want(key);
            }
        }
        if self.config.builds_itself {
            let count = self.wanted.len().min(REBUILDS_PER_TICK);
            for key in self.wanted.drain(..count).collect::<Vec<_>>() {
                let Some(order) = self.slot(key).map(|slot| self.order_of(slot)) else { continue };
                match order.build() {
                    Ok(instance) => self.seat(key, instance),
                    Err(error) => self.script_ended(key, end_of_build(&error), None, report),
                }
            }
        }
    }

    /// An operator takes a script out of the order; its state is saved.
    pub fn suspend(&mut self, name: &str) -> Ordered {
        let Some((key, slot)) = self.find(name).and_then(|key| Some((key, self.slot(key)?))) else { return Ordered::Unknown };
        if self.hot[key.0 as usize].instance.is_some() {
            self.suspend_now(key);
            return Ordered::Done;
        }
        match &slot.state {
            ScriptState::Suspended => Ordered::Already,
            // One without an instance is on its way to one, whatever it is called.
            ScriptState::Running | ScriptState::Paused | ScriptState::Restarting | ScriptState::Draining => {
                Ordered::Not(ScriptState::Restarting)
            }
            state @ (ScriptState::Parked { .. } | ScriptState::Finished { .. }) => Ordered::Not(state.clone()),
        }
    }

    /// An operator puts a suspended, parked or finished script back.
    pub fn resume(&mut self, name: &str) -> Ordered {
        let Some((key, slot)) = self.find(name).and_then(|key| Some((key, self.slot(key)?))) else { return Ordered::Unknown };
        match &slot.state {
            ScriptState::Suspended | ScriptState::Parked { .. } | ScriptState::Finished { .. } => {
                self.resume_now(key);
                Ordered::Done
            }
            ScriptState::Running | ScriptState::Paused | ScriptState::Restarting | ScriptState::Draining => Ordered::Already,
        }
    }

    pub(crate) fn suspend_now(&mut self, key: ScriptKey) {
        self.save(key);
        self.discarded.extend(self.hot[key.0 as usize].instance.take());
        self.let_go(key);
        if let Some(slot) = self.slot_mut(key) {
            slot.state = ScriptState::Suspended;
            slot.life += 1;
        }
        self.scheduler.forget_pause(key);
        self.scheduler.set_runnable(key, false);
    }

    /// The message that a script was in the middle of goes with its instance.
    pub(crate) fn let_go(&mut self, key: ScriptKey) {
        let in_hand = self.slot_mut(key).map_or(0, |slot| std::mem::take(&mut slot.in_hand));
        if in_hand != 0 {
            self.done.push(in_hand);
        }
    }

    pub(crate) fn resume_now(&mut self, key: ScriptKey) {
        self.overload.forget(key);
        if let Some(slot) = self.slot_mut(key) {
            slot.restarts.forgive();
        }
        self.want(key);
        if self.config.builds_itself {
            let mut report = TickReport::default();
            self.restart_due(0, &mut report);
            self.ends.append(&mut report.ends);
        }
    }

    /// Call `save_state` with its own small budget and keep what it gives. A script that is in the middle of a call keeps what it saved
    /// the last time. `false`: it trapped or took too long.
    pub(crate) fn save(&mut self, key: ScriptKey) -> bool {
        let fuel = self.config.save_fuel;
        let hot = &mut self.hot[key.0 as usize];
        if hot.boot.is_some() {
            return true;
        }
        let saved = call_bounded(hot.instance.as_mut(), hot.id, &mut self.context, Call::Save, fuel);
        match saved {
            Bounded::Completed(Reply::State(state)) => {
                if let Some(slot) = self.slot_mut(key) {
                    slot.saved = Some((slot.parts.version, state));
                }
                true
            }
            Bounded::Completed(_) | Bounded::NotNow => true,
            Bounded::Failed(_) => false,
        }
    }

    /// [`save`](Self::save); a script that cannot has ended, as it would have at a checkpoint.
    pub(crate) fn save_or_end(&mut self, key: ScriptKey) {
        if !self.save(key) {
            let mut report = TickReport::default();
            self.script_ended(key, End::NotSaved { fuel: self.config.save_fuel }, None, &mut report);
            self.ends.append(&mut report.ends);
        }
    }

    /// Messages and events that ended their script twice, oldest first.
    pub fn set_aside(&self) -> impl Iterator<Item = &SetAside> {
        self.set_aside.iter()
    }

    /// Instances that are not needed any more: dropping one takes as long as building one, so it is not done in a tick.
    pub fn take_discarded(&mut self) -> Vec<ScriptInstance> {
        std::mem::take(&mut self.discarded)
    }

    /// A script was parked whose rule says that its world goes with it.
    pub fn escalated(&self) -> Option<&End> {
        self.escalated.as_ref()
    }

    pub(crate) fn slot(&self, key: ScriptKey) -> Option<&Slot> {
        self.slots.get(key.0 as usize)?.as_deref()
    }

    pub(crate) fn slot_mut(&mut self, key: ScriptKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.0 as usize)?.as_deref_mut()
    }

    pub(crate) fn find(&self, name: &str) -> Option<ScriptKey> {
        self.slots.iter().flatten().find(|slot| slot.parts.name == name).map(|slot| slot.key)
    }
}

fn traits_of(parts: &ScriptParts) -> ScriptTraits {
    let limits = &parts.manifest.limits;
    ScriptTraits { priority: limits.priority, fuel: limits.fuel, may_pause: limits.on_budget == OnBudget::Pause }
}

fn end_of_build(error: &InstanceError) -> End {
    match error {
        InstanceError::WorldMemory { .. } => End::OutOfMemory(error.to_string()),
        InstanceError::Start(outcome) => End::of(*outcome).unwrap_or_else(|| End::NotStarted(error.to_string())),
        _ => End::NotStarted(error.to_string()),
    }
}

impl ScriptStatus {
    fn of_failed(name: String, script: ScriptId, version: Version, cause: String) -> ScriptStatus {
        ScriptStatus {
            name,
            script,
            version,
            state: ScriptState::Parked { cause },
            priority: 0,
            fuel: 0,
            turns: 0,
            pauses: 0,
            deferred_ticks: 0,
            deferrals: 0,
            cost_ns: 0.0,
            host_calls: [0; 7],
            refused: [0; 7],
            memory_bytes: 0,
            restarts: 0,
        }
    }
}
