//! `aether script`: try a script without a server, through the client runtime.

use crate::{CommandResult, complain, say};
use aether_engine::{Engine, EngineConfig, PrefabSet};
use aether_scripting::abi::HostGroup;
use aether_scripting::{
    ActionLimiter, ActionRates, Call, Caller, ClientRuntime, ClientRuntimeConfig, Digest, Host, InstanceId, InstanceSpec,
    MeteringOutcome, OnBudget, Reply, ScriptId, ScriptManifest, ServerResourcePolicy, Vec3, Version, WorldContext,
};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Commands of `aether script`.
#[derive(Debug, Subcommand)]
pub(crate) enum ScriptCommand {
    /// Run a script for some ticks and show what it cost: fuel, memory, host calls, log lines.
    #[command(
        after_help = "Examples:\n  aether script run scripts/greedy/greedy.wasm --ticks 3\n  aether script run hello.wat --fuel 100000"
    )]
    Run(RunArgs),
    /// Check a script: its imports, exports, limits and manifest.
    #[command(after_help = "Example:\n  aether script check scripts/patrol/patrol.wasm")]
    Check {
        /// A .wasm or .wat file.
        file: PathBuf,
        /// SHA-256 that the file must have.
        #[arg(long)]
        sha256: Option<Digest>,
    },
}

/// Arguments of `aether script run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A .wasm or .wat file. A script.toml beside it is used.
    file: PathBuf,
    /// Ticks to run after on_start.
    #[arg(long, default_value_t = 10)]
    ticks: u32,
    /// Ticks a second of the script's world.
    #[arg(long, default_value_t = 20.0)]
    tick_hz: f64,
    /// Fuel of one call. Default: the manifest's, else AETHER_SCRIPT_MAX_OPS.
    #[arg(long)]
    fuel: Option<u64>,
    /// Prefabs that it can spawn.
    #[arg(long)]
    prefabs: Option<PathBuf>,
    /// The prefab of its own entity.
    #[arg(long, requires = "prefabs")]
    prefab: Option<String>,
    /// The seed of its randomness.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// SHA-256 that the file must have.
    #[arg(long)]
    sha256: Option<Digest>,
}

pub(crate) fn run(command: ScriptCommand) -> CommandResult {
    match command {
        ScriptCommand::Check { file, sha256 } => check(&file, sha256),
        ScriptCommand::Run(args) => execute(&args),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    std::fs::read(file).map_err(|error| format!("could not read {}: {error}", file.display()).into())
}

/// The `script.toml` beside a file; without one, everything is granted.
fn manifest_of(file: &Path) -> Result<(ScriptManifest, bool), Box<dyn std::error::Error>> {
    let path = file.with_file_name("script.toml");
    if path.is_file() {
        let text = std::fs::read_to_string(&path)?;
        return Ok((ScriptManifest::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?, true));
    }
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = ScriptId::new(&stem).or_else(|_| ScriptId::new("script"))?;
    Ok((ScriptManifest::permissive(name), false))
}

fn runtime_for(manifest: &ScriptManifest) -> Result<ClientRuntime, Box<dyn std::error::Error>> {
    let config = ClientRuntimeConfig {
        memory_mb: manifest.limits.memory_mb,
        syscalls: manifest.policy().syscall_policy,
        host_costs: true,
        ..ClientRuntimeConfig::from_env()
    };
    Ok(ClientRuntime::new(config)?)
}

fn check(file: &Path, sha256: Option<Digest>) -> CommandResult {
    let bytes = read(file)?;
    let (manifest, written) = manifest_of(file)?;
    let runtime = runtime_for(&manifest)?;
    let info = runtime.check(&bytes)?;
    // Compiling finds what only the compiler sees.
    runtime.load(&bytes, sha256)?;
    say(&format!("{} is good: {} bytes, SHA-256 {}", file.display(), bytes.len(), Digest::of(&bytes)));
    say(&format!(
        "  functions {}, variables {}, memory at start {} KiB{}",
        info.functions,
        info.globals,
        info.initial_memory_bytes >> 10,
        if info.has_start { ", a start function" } else { "" }
    ));
    let abi = info.exports.iter().filter(|name| aether_scripting::abi::EXPORTS.iter().any(|(export, _)| export == name));
    say(&format!("  exports {}", abi.cloned().collect::<Vec<_>>().join(" ")));
    say(&format!("  imports {}", if info.imports.is_empty() { "none".to_owned() } else { info.imports.join(" ") }));
    let mut good = true;
    for group in HostGroup::ALL {
        let used = info.imports.iter().any(|import| import.starts_with(&format!("aether:{}.", group.name())));
        if used && !manifest.groups().contains(group) {
            good = false;
            complain(&*Box::<dyn std::error::Error>::from(format!(
                "it imports aether:{0}, its script.toml does not grant {0}: every call would be denied; add {0:?} to [grants] apis",
                group.name()
            )));
        }
    }
    if !written {
        say("  no script.toml beside it: everything is granted");
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn execute(args: &RunArgs) -> CommandResult {
    let bytes = read(&args.file)?;
    let (manifest, written) = manifest_of(&args.file)?;
    let runtime = runtime_for(&manifest)?;
    let module = runtime.load(&bytes, args.sha256)?;
    let fuel = args.fuel.unwrap_or(if written { manifest.limits.fuel } else { runtime.config().max_ops });
    let instance = InstanceId(1);
    // One call at a time, each with all its fuel: what a server would spread over ticks is shown as it is.
    let policy = ServerResourcePolicy { fuel_budget: fuel, on_budget: OnBudget::Terminate, ..manifest.policy() };
    let spec = InstanceSpec {
        instance,
        version: Version(1),
        policy,
        groups: manifest.groups(),
        rates: manifest.limits.rates,
        seed: args.seed,
        random: None,
        drained_at_ns: None,
        directory: None,
    };
    let mut script = runtime.instance(&module, &spec)?;
    let mut world =
        Some(WorldContext::new(Box::new(engine_for(args, &manifest, instance)?), ActionLimiter::new(&ActionRates::world())));
    let dt_ns = (1e9 / args.tick_hz.clamp(0.1, 1e6)) as u64;
    let (mut total, mut worst, mut calls, mut commands, mut writes) = (0, 0, 0, 0, 0);
    let mut end = MeteringOutcome::Completed;
    let mut call = Some(Call::Start);
    'ticks: for tick in 0..=u64::from(args.ticks) {
        if let Some(world) = &mut world {
            (world.now_ns, world.tick) = (tick * dt_ns, tick);
            world.host.begin_tick(world.now_ns, tick);
            world.host.enter(instance);
        }
        while let Some(next) = call.take().or_else(|| world.as_mut().and_then(|world| world.host.next_call())) {
            let step = script.run(&mut world, next, fuel);
            (total, worst, calls, end) = (total + step.fuel, worst.max(step.fuel), calls + 1, step.outcome);
            show_log(&mut world, tick);
            if end != MeteringOutcome::Completed {
                break 'ticks;
            }
        }
        if let Some(world) = &mut world {
            world.host.end_tick(dt_ns as f32 * 1e-9);
            let output = world.host.take_output();
            (commands, writes) = (commands + output.commands.len(), writes + output.writes.len());
        }
        call = Some(Call::Tick(dt_ns as f32 * 1e-9));
    }
    let state = match end {
        MeteringOutcome::Completed => Some(script.run(&mut world, Call::Save, fuel)),
        _ => None,
    };
    show_log(&mut world, u64::from(args.ticks));
    let counters = script.take_counters();
    say(&format!("{}: {end}", args.file.display()));
    say(&format!("  calls {calls}, fuel {total} in all, {worst} in the dearest call (limit {fuel})"));
    say(&format!("  memory {} KiB", counters.memory_bytes >> 10));
    let groups = HostGroup::ALL.iter().zip(counters.host_calls).map(|(group, count)| format!("{} {count}", group.name()));
    say(&format!("  host calls: {}", groups.collect::<Vec<_>>().join(", ")));
    say(&format!("  sent: {commands} commands to clients, {writes} storage writes"));
    if let Some(Reply::State(state)) = state.as_ref().map(|step| &step.reply) {
        say(&format!("  save_state: {} bytes", state.len()));
    }
    Ok(if end == MeteringOutcome::Completed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn engine_for(args: &RunArgs, manifest: &ScriptManifest, instance: InstanceId) -> Result<Engine, Box<dyn std::error::Error>> {
    let prefabs = match &args.prefabs {
        Some(path) => PrefabSet::parse(
            &std::fs::read_to_string(path).map_err(|error| format!("could not read {}: {error}", path.display()))?,
        )?,
        None => PrefabSet::default(),
    };
    let mut engine = Engine::new(EngineConfig { prefabs: Arc::new(prefabs), ..EngineConfig::default() }, []);
    let caller = Caller {
        instance,
        name: manifest.name.to_string(),
        entity_kinds: manifest.grants.entity_kinds.clone(),
        storage_namespace: manifest.grants.storage_namespace.clone(),
    };
    let entity = args.prefab.as_deref().map(|prefab| (prefab, Vec3::ZERO));
    engine
        .add_script(caller, entity)
        .map_err(|error| format!("prefab {:?}: {error}", args.prefab.as_deref().unwrap_or_default()))?;
    Ok(engine)
}

fn show_log(world: &mut Option<Box<WorldContext>>, tick: u64) {
    for line in world.iter_mut().flat_map(|world| std::mem::take(&mut world.log)) {
        let level = ["error", "warn", "info", "debug"].get(line.level as usize).unwrap_or(&"info");
        say(&format!("tick {tick:>4} {level}: {}", line.text));
    }
}
