//! Runs a module's own tests, its exports `test_…`: each in an instance of its own, with no world's scheduler around it.
//!
//! Not here: scenarios (`play`).

use super::play::Outcome;
use super::project::trace_lines;
use super::stage::Stage;
use aether_scripting::{
    ActionLimiter, ActionRates, Call, Caller, Host, InstanceId, InstanceSpec, MeteringOutcome, Reply, ScriptInstance, Version,
    WorldContext, WorldMemory,
};

impl Stage {
    /// Run an export `test_…`: in an instance of its own, after `on_start`, with the fuel and the limits of the manifest.
    pub fn run_export(&self, export: &str, seed: u64) -> Outcome {
        let mut log = Vec::new();
        let result = self.export(export, seed, &mut log);
        Outcome { result, ticks: 0, log }
    }

    fn export(&self, export: &str, seed: u64, log: &mut Vec<String>) -> Result<(), Vec<String>> {
        let one = |text: String| vec![text];
        let member = self.members.first().ok_or_else(|| one("no script".to_owned()))?;
        let instance = InstanceId(1);
        let manifest = &member.parts.manifest;
        let spec = InstanceSpec {
            instance,
            version: Version(1),
            policy: manifest.policy(),
            groups: manifest.groups(),
            rates: manifest.limits.rates,
            seed,
            random: None,
            drained_at_ns: None,
            directory: None,
        };
        let mut engine = self.engine_with([]);
        let caller = Caller {
            instance,
            name: member.parts.name.clone(),
            entity_kinds: manifest.grants.entity_kinds.clone(),
            storage_namespace: manifest.grants.storage_namespace.clone(),
        };
        let entity = member.parts.entity.as_ref().map(|(prefab, at)| (prefab.as_str(), *at));
        engine.add_script(caller, entity).map_err(|error| one(format!("its entity: {error}")))?;
        let memory = WorldMemory::new(1 << 30);
        let mut script = ScriptInstance::build(&member.parts.module, &spec, &memory).map_err(|error| one(error.to_string()))?;
        let mut world = Some(WorldContext::new(Box::new(engine), ActionLimiter::new(&ActionRates::world())));
        for call in [Call::Start, Call::Test(export.into())] {
            if let Some(world) = &mut world {
                world.host.enter(instance);
            }
            let name = if call == Call::Start { "on_start" } else { export };
            let mut step = script.run(&mut world, call, manifest.limits.fuel);
            // Ends: a paused call has a bound on its whole fuel.
            while script.is_paused() {
                step = script.resume(&mut world);
            }
            for line in world.iter_mut().flat_map(|world| std::mem::take(&mut world.log)) {
                log.push(format!("{}: {}", crate::script::level(line.level), line.text));
            }
            match (step.outcome, step.reply) {
                (MeteringOutcome::Completed, Reply::Tested(given)) if given != 0 => {
                    return Err(one(format!("{name} gave {given}; 0 is good")));
                }
                (MeteringOutcome::Completed, _) => {}
                (end, _) => {
                    let mut lines = one(format!("{name} {end}"));
                    if let Some(trace) = script.take_trace() {
                        lines.extend(trace_lines(&trace, &member.code.symbols, &member.dir));
                    }
                    return Err(lines);
                }
            }
        }
        Ok(())
    }
}
