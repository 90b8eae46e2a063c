//! `aether script profile`: where a script's fuel goes, as a table and as a flame graph.

use super::project::{Project, trace_lines};
use crate::script::Sandbox;
use crate::{CommandResult, say};
use aether_scripting::{Call, ClientRuntime, ClientRuntimeConfig, MeteringOutcome};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Fuel of one call with its probes, and CPU time: bounds for a script without end, far beyond what any world gives.
const FUEL_MAX: u64 = 50_000_000_000;
const TIME_MAX: Duration = Duration::from_secs(60);

/// Arguments of `aether script profile`.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// A .wasm or .wat file, or a project's folder. A script.toml beside it is used.
    file: PathBuf,
    /// Ticks to run after on_start.
    #[arg(long, default_value_t = 100)]
    ticks: u32,
    /// Ticks a second of the script's world.
    #[arg(long, default_value_t = 20.0)]
    tick_hz: f64,
    /// Where the flame graph goes.
    #[arg(long, default_value = "profile.svg")]
    out: PathBuf,
    /// Also write the stacks as text, a line each, for other tools.
    #[arg(long, value_name = "FILE")]
    folded: Option<PathBuf>,
    /// Functions in the table.
    #[arg(long, default_value_t = 20)]
    top: usize,
    #[command(flatten)]
    world: crate::script::WorldArgs,
}

pub(crate) fn run(args: &ProfileArgs, json: bool) -> CommandResult {
    let project = Project::open(&args.file)?;
    let code = if args.file.is_dir() { project.code()? } else { project.code_of(&args.file)? };
    let config = ClientRuntimeConfig {
        memory_mb: project.manifest.limits.memory_mb,
        syscalls: project.manifest.policy().syscall_policy,
        host_costs: true,
        server_costs: true,
        ..ClientRuntimeConfig::from_env()
    };
    let runtime = ClientRuntime::new(config)?;
    let (module, recorder) = runtime.load_profiled(&code.wasm)?;
    let mut manifest = project.manifest.clone();
    let limit = manifest.limits.fuel;
    manifest.limits.fuel = 1_000_000_000;
    manifest.limits.cpu_ms = TIME_MAX.as_millis() as u64;
    let mut sandbox = Sandbox::new(&runtime, &module, &manifest, &args.world, args.tick_hz, FUEL_MAX)?;
    let (mut worst, mut over, mut calls) = (0, 0, 0);
    // A start function has run already: it is no part of the first call.
    recorder.end_call(0);
    let mut end = MeteringOutcome::Completed;
    let mut last = "on_start";
    sandbox.run(args.ticks, |call, step, _| {
        let used = recorder.end_call(step.fuel);
        (calls, end) = (calls + 1, step.outcome);
        worst = worst.max(used);
        over += u64::from(used > limit);
        last = name_of(call);
    });
    let profile = recorder.profile();
    let (fuel, functions) = (profile.fuel(), profile.functions(&code.symbols));
    if fuel == 0 {
        return Err("nothing was used: the script exports no on_start or on_tick that does anything".into());
    }
    let folded = profile.folded(&code.symbols);
    let mut options = inferno::flamegraph::Options::default();
    options.title = format!("{}: {fuel} fuel in {calls} calls", project.name);
    options.count_name = "fuel".to_owned();
    options.hash = true;
    let mut svg = Vec::new();
    inferno::flamegraph::from_lines(&mut options, folded.iter().map(String::as_str), &mut svg)?;
    let write = |path: &PathBuf, bytes: &[u8]| {
        std::fs::write(path, bytes).map_err(|error| format!("could not write {}: {error}: give another --out", path.display()))
    };
    write(&args.out, &svg)?;
    if let Some(path) = &args.folded {
        write(path, (folded.join("\n") + "\n").as_bytes())?;
    }
    let trace = match end {
        MeteringOutcome::Completed => Vec::new(),
        _ => {
            // Where it ended, without the probes: they are not in the symbols. It does the same again.
            let module = runtime.load(&code.wasm, None)?;
            let mut plain = Sandbox::new(&runtime, &module, &manifest, &args.world, args.tick_hz, FUEL_MAX)?;
            plain.run(args.ticks, |_, _, _| ());
            plain.trace().map(|trace| trace_lines(&trace, &code.symbols, &project.dir)).unwrap_or_default()
        }
    };
    if json {
        let rows: Vec<_> = functions
            .iter()
            .map(|f| serde_json::json!({"function": f.function, "calls": f.calls, "own": f.own, "total": f.total}))
            .collect();
        let value = serde_json::json!({
            "script": project.name, "calls": calls, "fuel": fuel, "worst_call": worst, "limit": limit, "calls_over_limit": over,
            "outcome": end.to_string(), "trace": trace, "svg": args.out, "functions": rows,
        });
        say(&serde_json::to_string_pretty(&value)?);
    } else {
        say(&format!("{}: {fuel} fuel in {calls} calls; the dearest took {worst}, its limit is {limit}", project.name));
        if over > 0 {
            say(&format!("  {over} calls took more than the limit: a world pauses or ends them (on_budget in script.toml)"));
        }
        say(&format!("{:>14} {:>6} {:>14} {:>10}  function", "own fuel", "", "with callees", "calls"));
        for f in functions.iter().take(args.top) {
            let percent = 100.0 * f.own as f64 / fuel as f64;
            say(&format!("{:>14} {percent:>5.1}% {:>14} {:>10}  {}", f.own, f.total, f.calls, f.function));
        }
        if functions.len() > args.top {
            say(&format!("  … and {} functions more (--top)", functions.len() - args.top));
        }
        if end != MeteringOutcome::Completed {
            say(&format!("{last} {end}"));
            trace.iter().for_each(|line| say(&format!("  {line}")));
        }
        say(&format!("flame graph written to {}", args.out.canonicalize().unwrap_or_else(|_| args.out.clone()).display()));
    }
    Ok(if end == MeteringOutcome::Completed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name_of(call: &Call) -> &'static str {
    match call {
        Call::Start => "on_start",
        Call::Tick(_) => "on_tick",
        Call::Message(_) => "on_message",
        Call::Event(_) => "on_event",
        Call::Stop => "on_stop",
        Call::Save => "save_state",
        Call::Restore { .. } => "restore_state",
        Call::Test(_) => "a test",
    }
}
