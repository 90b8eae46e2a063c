//! `aether script`: try a script without a server, through the client runtime.

use crate::author::project::{Code, Project, read, trace_lines};
use crate::{CommandResult, author, complain, say};
use aether_engine::{Engine, EngineConfig, PrefabSet};
use aether_scripting::abi::HostGroup;
use aether_scripting::client_runtime::ClientError;
use aether_scripting::instance::Step;
use aether_scripting::{
    ActionLimiter, ActionRates, Call, Caller, ClientRuntime, ClientRuntimeConfig, Digest, Host, InstanceId, InstanceSpec,
    MeteringOutcome, OnBudget, Reply, ScriptId, ScriptInstance, ScriptManifest, ScriptModule, ServerResourcePolicy, Trace, Vec3,
    Version, WorldContext,
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
        after_help = "Examples:\n  aether script run scripts/greedy/greedy.wasm --ticks 3\n  aether script run hello.wat --fuel 100000\n\nExit code: 0, or 1 if the script ended badly; then it is shown where."
    )]
    Run(RunArgs),
    /// Check a script: its imports, exports, limits and manifest.
    #[command(after_help = "Example:\n  aether script check scripts/patrol/patrol.wasm")]
    Check {
        /// A .wasm or .wat file, or the folder of a built project.
        file: PathBuf,
        /// SHA-256 that the file must have.
        #[arg(long)]
        sha256: Option<Digest>,
    },
    /// Build a script by its build.toml; NAME.wasm beside it is what `aether publish` takes.
    #[command(after_help = "Example:\n  aether script build my-script\n\nExit code: 0, or 1 if the build failed.")]
    Build {
        /// The script's folder.
        dir: PathBuf,
    },
    /// Run a script's own tests, each in a fresh world: real engine and limits, a clock that only the test moves.
    #[command(
        long_about = "Run a script's own tests, each in a fresh world: real engine and limits, a clock that only the test moves.\n\n\
            Tests are the scenarios in tests/*.toml beside the manifest (steps and what is expected; see the README of \
            `aether init script`), and the exports of the module whose names begin with test_ (no parameters; a trap or a number other \
            than 0 is a failure).",
        after_help = "Examples:\n  aether script test scripts/door\n  aether script test my-script --filter opens\n  \
            aether script test my-script --seed 7 --output json\n\nExit code: 0 if all tests passed, 1 if one failed or nothing could be \
            run, 2 for bad arguments."
    )]
    Test(author::test::TestArgs),
    /// Show where a script's fuel goes: a table of functions and a flame graph. Exact, and the same in every run.
    #[command(
        after_help = "Examples:\n  aether script profile scripts/patrol/patrol.wasm --prefabs cluster-config/town/prefabs.toml --prefab guard\n  \
            aether script profile my-script --ticks 200 --out flame.svg\n\nExit code: 0, or 1 if the script ended badly."
    )]
    Profile(author::profile::ProfileArgs),
}

/// Arguments of `aether script run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A .wasm or .wat file, or the folder of a built project. A script.toml beside it is used.
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
    #[command(flatten)]
    world: WorldArgs,
    /// SHA-256 that the file must have.
    #[arg(long)]
    sha256: Option<Digest>,
}

/// What is around a script that is tried.
#[derive(Debug, Args)]
pub(crate) struct WorldArgs {
    /// Prefabs that it can spawn.
    #[arg(long)]
    pub prefabs: Option<PathBuf>,
    /// The prefab of its own entity.
    #[arg(long, requires = "prefabs")]
    pub prefab: Option<String>,
    /// The seed of its randomness.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

pub(crate) fn run(command: ScriptCommand, json: bool) -> CommandResult {
    match command {
        ScriptCommand::Check { file, sha256 } => check(&file, sha256),
        ScriptCommand::Run(args) => execute(&args),
        ScriptCommand::Build { dir } => author::build::run(&dir),
        ScriptCommand::Test(args) => author::test::run(&args, json),
        ScriptCommand::Profile(args) => author::profile::run(&args, json),
    }
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

fn runtime_for(manifest: &ScriptManifest, written: bool) -> Result<ClientRuntime, Box<dyn std::error::Error>> {
    let config = ClientRuntimeConfig {
        memory_mb: manifest.limits.memory_mb,
        syscalls: manifest.policy().syscall_policy,
        host_costs: true,
        // The limits of a manifest are a server's; without one, AETHER_SCRIPT_MAX_OPS counts instructions.
        server_costs: written,
        ..ClientRuntimeConfig::from_env()
    };
    Ok(ClientRuntime::new(config)?)
}

/// Refuse bytes that are not those that somebody named.
fn refuse_other(bytes: &[u8], wanted: Option<Digest>) -> Result<(), ClientError> {
    let found = Digest::of(bytes);
    match wanted {
        Some(wanted) if wanted != found => Err(ClientError::Integrity { found, wanted }),
        _ => Ok(()),
    }
}

/// The module that is meant: the file itself, or what a project's folder publishes.
fn module_of(path: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let project = Project::open(path)?;
    let published = project.published_file();
    match (published.is_file(), &project.build) {
        (true, _) => Ok(published),
        (false, None) => Ok(project.code_file()),
        (false, Some(_)) => {
            Err(format!("{0} is not built: `aether script build {0}` does it, or name a .wasm or .wat file", path.display())
                .into())
        }
    }
}

fn check(path: &Path, sha256: Option<Digest>) -> CommandResult {
    let file = &module_of(path)?;
    let bytes = read(file)?;
    let (manifest, written) = manifest_of(file)?;
    let runtime = runtime_for(&manifest, written)?;
    refuse_other(&bytes, sha256)?;
    // Debug information does not count: it is left out of what is published.
    let code = Code::new(&bytes)?;
    let info = runtime.check(&code.wasm)?;
    // Compiling finds what only the compiler sees.
    runtime.load(&code.wasm, None)?;
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
    let file = &module_of(&args.file)?;
    let bytes = read(file)?;
    let (manifest, written) = manifest_of(file)?;
    let runtime = runtime_for(&manifest, written)?;
    refuse_other(&bytes, args.sha256)?;
    // Debug information is for us, and may be more than a module may have.
    let code = Project::open(file).and_then(|project| project.code_of(file)).or_else(|_| Code::new(&bytes))?;
    let module = runtime.load(&code.wasm, None)?;
    let fuel = args.fuel.unwrap_or(if written { manifest.limits.fuel } else { runtime.config().max_ops });
    let mut sandbox = Sandbox::new(&runtime, &module, &manifest, &args.world, args.tick_hz, fuel)?;
    let (mut total, mut worst, mut calls) = (0, 0, 0);
    let end = sandbox.run(args.ticks, |_, step, lines| {
        (total, worst, calls) = (total + step.fuel, worst.max(step.fuel), calls + 1);
        lines.iter().for_each(|line| say(line));
    });
    let state = (end == MeteringOutcome::Completed).then(|| sandbox.call(Call::Save));
    sandbox.log().iter().for_each(|line| say(line));
    let counters = sandbox.script.take_counters();
    say(&format!("{}: {end}", file.display()));
    if let Some(trace) = sandbox.trace() {
        for line in trace_lines(&trace, &code.symbols, crate::config_file::folder(file)) {
            say(&format!("  {line}"));
        }
    }
    say(&format!("  calls {calls}, fuel {total} in all, {worst} in the dearest call (limit {fuel})"));
    say(&format!("  memory {} KiB", counters.memory_bytes >> 10));
    let groups = HostGroup::ALL.iter().zip(counters.host_calls).map(|(group, count)| format!("{} {count}", group.name()));
    say(&format!("  host calls: {}", groups.collect::<Vec<_>>().join(", ")));
    say(&format!("  sent: {} commands to clients, {} storage writes", sandbox.commands, sandbox.writes));
    if let Some(Reply::State(state)) = state.as_ref().map(|step| &step.reply) {
        say(&format!("  save_state: {} bytes", state.len()));
    }
    Ok(if end == MeteringOutcome::Completed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One script in an engine, without a world's scheduler: one call at a time, each with all its fuel. What a server would spread over
/// ticks is shown as it is.
pub(crate) struct Sandbox {
    script: ScriptInstance,
    world: Option<Box<WorldContext>>,
    instance: InstanceId,
    dt_ns: u64,
    fuel: u64,
    tick: u64,
    /// What has left it.
    pub commands: usize,
    pub writes: usize,
}

impl Sandbox {
    pub fn new(
        runtime: &ClientRuntime,
        module: &Arc<ScriptModule>,
        manifest: &ScriptManifest,
        args: &WorldArgs,
        tick_hz: f64,
        fuel: u64,
    ) -> Result<Sandbox, Box<dyn std::error::Error>> {
        let instance = InstanceId(1);
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
        let script = runtime.instance(module, &spec)?;
        let engine = engine_for(args, manifest, instance)?;
        let world = Some(WorldContext::new(Box::new(engine), ActionLimiter::new(&ActionRates::world())));
        let dt_ns = (1e9 / tick_hz.clamp(0.1, 1e6)) as u64;
        Ok(Sandbox { script, world, instance, dt_ns, fuel, tick: 0, commands: 0, writes: 0 })
    }

    /// One call. Out of turn: who is asked for waits for no tick.
    pub fn call(&mut self, call: Call) -> Step {
        if let Some(world) = &mut self.world {
            world.host.enter(self.instance);
        }
        self.script.run(&mut self.world, call, self.fuel)
    }

    /// `on_start`, then so many ticks with whatever comes in between. `seen` is told each call, its end and what was logged.
    pub fn run(&mut self, ticks: u32, mut seen: impl FnMut(&Call, &Step, &[String])) -> MeteringOutcome {
        let mut call = Some(Call::Start);
        let dt = self.dt_ns as f32 * 1e-9;
        for tick in 0..=u64::from(ticks) {
            self.tick = tick;
            if let Some(world) = &mut self.world {
                (world.now_ns, world.tick) = (tick * self.dt_ns, tick);
                world.host.begin_tick(world.now_ns, tick);
                world.host.enter(self.instance);
            }
            while let Some(next) = call.take().or_else(|| self.world.as_mut().and_then(|world| world.host.next_call())) {
                let step = self.script.run(&mut self.world, next.clone(), self.fuel);
                let lines = self.log();
                seen(&next, &step, &lines);
                if step.outcome != MeteringOutcome::Completed {
                    return step.outcome;
                }
            }
            if let Some(world) = &mut self.world {
                world.host.end_tick(dt);
                let output = world.host.take_output();
                (self.commands, self.writes) = (self.commands + output.commands.len(), self.writes + output.writes.len());
            }
            call = Some(Call::Tick(dt));
        }
        MeteringOutcome::Completed
    }

    /// Where it was, if its last call ended badly.
    pub fn trace(&mut self) -> Option<Box<Trace>> {
        self.script.take_trace()
    }

    /// What was logged since this was last asked.
    fn log(&mut self) -> Vec<String> {
        let tick = self.tick;
        let lines = self.world.iter_mut().flat_map(|world| std::mem::take(&mut world.log));
        lines.map(|line| format!("tick {tick:>4} {}: {}", level(line.level), line.text)).collect()
    }
}

/// The name of a log line's level.
pub(crate) fn level(level: u8) -> &'static str {
    ["error", "warn", "info", "debug"].get(level as usize).copied().unwrap_or("info")
}

/// The prefabs of a file; none without one.
pub(crate) fn prefabs_of(path: Option<&Path>) -> Result<PrefabSet, Box<dyn std::error::Error>> {
    match path {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
            Ok(PrefabSet::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?)
        }
        None => Ok(PrefabSet::default()),
    }
}

fn engine_for(args: &WorldArgs, manifest: &ScriptManifest, instance: InstanceId) -> Result<Engine, Box<dyn std::error::Error>> {
    let prefabs = prefabs_of(args.prefabs.as_deref())?;
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
