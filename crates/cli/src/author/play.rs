//! Runs scenarios: each in a fresh world, with a clock that only the test moves.
//!
//! The test is a member of its world, a script named `test` with every right: it calls, subscribes, spawns and stores as one, through the
//! same engine. Start with [`Run::step`]. Not here: what the world begins with (`stage`), what a scenario looks like (`scenario`), exported
//! tests (`exported`), the command line (`test`).

use super::expect::{Expect, Heard};
use super::project::trace_lines;
use super::scenario::{Scenario, Step};
use super::stage::{Stage, vec3};
use aether_scripting::output::{InboundCall, OutboundCall};
use aether_scripting::{ApiError, Call, EntityId, Host, InstanceId};
use aether_types::WorldId;
use aether_world_runtime::{World, WorldCheckpoint, WorldConfig};
use std::collections::{BTreeSet, HashMap};

/// Ticks of one test at most: a day at 20 Hz is for another place.
const TICKS_MAX: u64 = 200_000;
/// A call's answer is waited for so long.
const ANSWER_TICKS: u64 = 40;
/// The test's own number in the world; scripts are numbered from 1.
pub(super) const TESTER: InstanceId = InstanceId(63);
/// Keys of each script's storage that outlive a `reload`.
const KEYS_MAX: usize = 1_024;

/// How a test went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `Err`: what was wrong, a line each.
    pub result: Result<(), Vec<String>>,
    pub ticks: u64,
    /// What scripts logged.
    pub log: Vec<String>,
}

/// A test that runs.
struct Run<'a> {
    stage: &'a Stage,
    world: World,
    now_ns: u64,
    dt_ns: u64,
    seed: u64,
    ticks: u64,
    /// CPU time that the world sees: it does not depend on the machine.
    cpu_ns: u64,
    heard: Heard,
    named: HashMap<String, EntityId>,
    topics: Vec<String>,
    /// An end that was not expected.
    ended: Option<Vec<String>>,
    /// The next end is expected.
    end_wanted: bool,
}

/// The CPU clock moves so much with each look: the same on every machine, and no tick is ever over its budget for it.
const LOOK_NS: u64 = 100;

impl Scenario {
    /// Run it in a fresh world.
    pub fn run(&self, stage: &Stage, seed: u64) -> Outcome {
        let seed = self.seed.unwrap_or(seed);
        let mut run = match Run::new(stage, seed) {
            Ok(run) => run,
            Err(error) => return Outcome { result: Err(vec![error]), ticks: 0, log: Vec::new() },
        };
        let mut result = Ok(());
        for (i, step) in self.steps.iter().enumerate() {
            result = run.step(step).map_err(|mut lines| {
                if let Some(first) = lines.first_mut() {
                    *first = format!("step {}, {}: {first}", i + 1, step.action().unwrap_or("nothing"));
                }
                lines
            });
            if result.is_err() {
                break;
            }
        }
        Outcome { result, ticks: run.ticks, log: run.heard.log }
    }
}

impl<'a> Run<'a> {
    fn new(stage: &'a Stage, seed: u64) -> Result<Run<'a>, String> {
        let (world, heard) = (World::new(config(seed)?, Box::new(stage.engine_with([]))), Heard::default());
        let dt_ns = (1e9 / stage.tick_hz) as u64;
        let mut run = Run {
            stage,
            world,
            now_ns: 0,
            dt_ns,
            seed,
            ticks: 0,
            cpu_ns: 0,
            heard,
            named: HashMap::new(),
            topics: Vec::new(),
            ended: None,
            end_wanted: false,
        };
        run.populate(None)?;
        Ok(run)
    }

    fn populate(&mut self, checkpoint: Option<&WorldCheckpoint>) -> Result<(), String> {
        for member in &self.stage.members {
            let saved = checkpoint.and_then(|all| all.scripts.iter().find(|script| script.name == member.parts.name));
            let added = self.world.add_script(member.parts.clone(), saved);
            added.map_err(|error| format!("{} could not be added: {error}", member.parts.name))?;
        }
        let added = self.world.host().add_script(self.stage.tester(), None);
        added.map_err(|error| format!("the test could not be added: {error}"))
    }

    fn host(&mut self) -> &mut dyn Host {
        let host = self.world.host();
        host.enter(TESTER);
        host
    }

    fn tick(&mut self) -> Result<(), Vec<String>> {
        if self.ticks >= TICKS_MAX {
            return Err(vec![format!("the test took more than {TICKS_MAX} ticks")]);
        }
        self.ticks += 1;
        self.now_ns += self.dt_ns;
        let cpu = &mut self.cpu_ns;
        let report = self.world.tick(self.now_ns, self.dt_ns as f32 * 1e-9, &mut || {
            *cpu += LOOK_NS;
            *cpu
        });
        for line in report.log {
            let script = self.world.name_of(line.instance).unwrap_or("?");
            self.heard.log.push(format!("tick {} {script} {}: {}", self.ticks, crate::script::level(line.level), line.text));
        }
        for call in report.output.calls {
            match call {
                OutboundCall::Reply { payload, .. } => self.heard.answers.push(lossy(&payload)),
                call => self.heard.outbound.extend(serde_json::to_value(readable(&call))),
            }
        }
        self.heard.commands.extend(report.output.commands.iter().filter_map(|command| serde_json::to_value(command).ok()));
        self.listen();
        for status in self.world.status() {
            if let Some(each) = status.fuel.checked_div(status.turns.into())
                && status.name == self.own_name()
            {
                self.heard.fuel_max = self.heard.fuel_max.max(each);
            }
            self.heard.states.insert(status.name, status.state);
        }
        for end in report.ends {
            let member = self.stage.members.iter().find(|member| member.parts.name == end.name);
            let mut lines = vec![format!("{} {}", end.name, end.end)];
            if let (Some(member), Some(trace)) = (member, end.trace) {
                lines.extend(trace_lines(&trace, &member.code.symbols, &member.dir));
            }
            self.heard.ends.push(lines.join("\n"));
            if !self.end_wanted {
                self.ended.get_or_insert(lines);
            }
        }
        self.ended.take().map_or(Ok(()), Err)
    }

    fn own_name(&self) -> &str {
        self.stage.members.first().map_or("", |member| member.parts.name.as_str())
    }

    /// What reached the test as a member of the world.
    fn listen(&mut self) {
        let host = self.world.host();
        host.enter(TESTER);
        let mut got = Vec::new();
        while let Some(call) = host.next_call() {
            got.push(call);
        }
        for call in got {
            match call {
                Call::Message(message) if message.method.is_empty() => self.heard.answers.push(lossy(&message.payload)),
                Call::Message(message) => self.heard.calls.push(format!("{} {}", message.method, lossy(&message.payload))),
                Call::Event(event) if !event.topic.is_empty() => self.heard.broadcasts.push((event.topic, lossy(&event.payload))),
                _ => {}
            }
        }
    }

    fn run_ticks(&mut self, count: u64) -> Result<(), Vec<String>> {
        (0..count).try_for_each(|_| self.tick())
    }

    fn entity(&self, name: &str) -> Result<EntityId, String> {
        self.named.get(name).copied().ok_or_else(|| format!("no entity was spawned with the name {name:?}"))
    }

    fn step(&mut self, step: &Step) -> Result<(), Vec<String>> {
        let one = |text: String| vec![text];
        self.end_wanted = step.expect.as_ref().is_some_and(Expect::wants_end);
        let refused = |what: &str, error: ApiError| one(format!("{what}: {error}"));
        let target = self.own_name().to_owned();
        let mut patience = step.within_ticks.unwrap_or(0);
        if let Some(ticks) = step.ticks {
            self.run_ticks(ticks)?;
        } else if let Some(seconds) = step.seconds {
            let ticks = (seconds * self.stage.tick_hz).ceil().clamp(0.0, 1e9);
            self.run_ticks(ticks as u64)?;
        } else if let Some(method) = &step.call {
            for _ in 0..step.times.unwrap_or(1) {
                self.host().send_rpc(&target, method, step.payload.as_bytes()).map_err(|error| refused("the call", error))?;
            }
            patience = step.within_ticks.unwrap_or(ANSWER_TICKS);
            self.tick()?;
        } else if let Some(method) = &step.input {
            let call = InboundCall {
                world: None,
                from: step.player.unwrap_or(1),
                call: 0,
                script: target,
                method: method.clone(),
                payload: step.payload.clone().into_bytes(),
                delivery: 0,
            };
            self.world.deliver(call).map_err(|error| refused("the input", error))?;
            self.tick()?;
        } else if let Some(topic) = &step.subscribe {
            self.host().subscribe(topic).map_err(|error| refused("subscribing", error))?;
            self.topics.push(topic.clone());
        } else if let Some(topic) = &step.broadcast {
            self.host().broadcast_event(topic, step.payload.as_bytes()).map_err(|error| refused("the broadcast", error))?;
            self.tick()?;
        } else if let Some(prefab) = &step.spawn {
            let at = vec3(step.at.unwrap_or_default());
            let host = self.host();
            let spawned = host.find_prefab(prefab).and_then(|prefab| host.spawn_entity_at(prefab, at));
            let entity = spawned.map_err(|error| refused(&format!("prefab {prefab:?}"), error))?;
            self.named.insert(step.name.clone().unwrap_or_else(|| prefab.clone()), entity);
        } else if let Some(name) = &step.r#move {
            let (entity, at) = (self.entity(name).map_err(one)?, vec3(step.at.unwrap_or_default()));
            self.host().set_position(entity, at).map_err(|error| refused(name, error))?;
        } else if let Some(name) = &step.destroy {
            let entity = self.entity(name).map_err(one)?;
            self.host().destroy_entity(entity).map_err(|error| refused(name, error))?;
        } else if let Some(key) = &step.store {
            let value = step.value.clone().unwrap_or_default();
            self.host().write_value(key, value.as_bytes()).map_err(|error| refused("the storage", error))?;
        } else if step.reload {
            self.reload().map_err(one)?;
        }
        let Some(expect) = &step.expect else { return Ok(()) };
        loop {
            let missing = self.check(expect);
            match missing {
                Ok(()) => return Ok(()),
                Err(_) if patience > 0 && !expect.is_never() => {
                    patience -= 1;
                    self.tick()?;
                }
                Err(lines) => return Err(lines),
            }
        }
    }

    fn check(&mut self, expect: &Expect) -> Result<(), Vec<String>> {
        let Run { world, heard, named, .. } = self;
        let own = self.stage.members.first().map_or("", |member| member.parts.name.as_str());
        let host = world.host();
        host.enter(TESTER);
        expect.check(heard, host, named, own)
    }

    /// Save, and go on in a new world with new instances.
    fn reload(&mut self) -> Result<(), String> {
        let checkpoint = self.world.checkpoint(true).map_err(|error| error.to_string())?;
        let missing = checkpoint.scripts.first().is_none_or(|script| script.state.is_none());
        if missing {
            return Err("the script saved no state: export save_state".to_owned());
        }
        // Storage outlives a world; it is no part of a checkpoint.
        let namespaces = self.stage.members.iter().filter_map(|m| m.parts.manifest.grants.storage_namespace.clone());
        let mut stored = Vec::new();
        for namespace in namespaces.collect::<BTreeSet<_>>() {
            let host = self.host();
            host.set_grants(TESTER, &["*".to_owned()], Some(namespace.clone()));
            let mut keys = Vec::new();
            let _ = host.list_keys("", KEYS_MAX, &mut keys);
            for key in keys {
                let mut value = Vec::new();
                if host.read_value(&key, &mut value).is_ok() {
                    stored.push((namespace.clone(), key, value));
                }
            }
        }
        self.world = World::new(config(self.seed)?, Box::new(self.stage.engine_with(stored)));
        self.world.restore(&checkpoint).map_err(|error| error.to_string())?;
        self.populate(Some(&checkpoint))?;
        self.world.finish_restore();
        for topic in self.topics.clone() {
            self.host().subscribe(&topic).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

fn config(seed: u64) -> Result<WorldConfig, String> {
    let id = WorldId::new("test").map_err(|error| error.to_string())?;
    Ok(WorldConfig { seed, ..WorldConfig::new(id) })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A call to another world, its payload as text.
fn readable(call: &OutboundCall) -> serde_json::Value {
    match call {
        OutboundCall::Call { world, script, method, payload, .. } => {
            serde_json::json!({"world": world, "script": script, "method": method, "payload": lossy(payload)})
        }
        OutboundCall::Reply { world, payload, .. } => serde_json::json!({"world": world, "payload": lossy(payload)}),
    }
}
