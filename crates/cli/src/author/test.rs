//! `aether script test`: finds a script's tests, runs them, says how they went.
//!
//! Start with [`run`]. Not here: what a scenario is (`scenario`), running one (`play`).

use super::build;
use super::play::Outcome;
use super::project::{Code, Project};
use super::report::{Report, Tone};
use super::scenario::ScenarioFile;
use super::stage::Stage;
use crate::{CommandResult, compiler, say};
use aether_scripting::sandbox::PoolSize;
use aether_scripting::{ClientRuntime, ClientRuntimeConfig, ServerRuntime, ServerRuntimeConfig};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Arguments of `aether script test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The script's folder (built first if it has a build.toml), or a .wasm or .wat file.
    path: PathBuf,
    /// Only tests with this in their names.
    #[arg(long)]
    filter: Option<String>,
    /// The seed of all randomness, where a test says nothing.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Do not build first.
    #[arg(long)]
    no_build: bool,
    /// Show the log lines of tests that passed, too.
    #[arg(long)]
    show_log: bool,
}

/// A test that was run.
struct Done {
    name: String,
    outcome: Outcome,
    ms: u128,
}

pub(crate) fn run(args: &TestArgs, json: bool) -> CommandResult {
    let project = Project::open(&args.path)?;
    let report = Report::new();
    let mut told = |line: &str| {
        if !json {
            report.line(Tone::Faint, "build", line);
        }
    };
    let code = match args.path.is_dir() {
        true if args.no_build => project.code()?,
        true => Code::read(&build::build_for_tests(&project, &mut told)?)?,
        false => project.code_of(&args.path)?,
    };
    let runtime = ServerRuntime::new(ServerRuntimeConfig {
        compiler: compiler(),
        traces: true,
        pool: PoolSize { small: 128, large: 128 },
        ..ServerRuntimeConfig::from_env()
    })?;
    let wanted = |name: &str| args.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let mut done = Vec::new();
    let mut found = 0;
    let begin = Instant::now();
    if !json {
        say(&format!("running the tests of {} (seed {})", project.name, args.seed));
    }
    let mut finish = |name: String, outcome: Outcome, begun: Instant| {
        let one = Done { name, outcome, ms: begun.elapsed().as_millis() };
        if !json {
            show(report, &one, args.show_log);
        }
        done.push(one);
    };
    let exports = test_exports(&project, &code)?;
    if !exports.is_empty() {
        let stage = Stage::new(&runtime, &project, &code, None)?;
        for name in exports {
            found += 1;
            if wanted(&name) {
                let begun = Instant::now();
                let outcome = stage.run_export(&name, args.seed);
                finish(name, outcome, begun);
            }
        }
    }
    for path in scenario_files(&project)? {
        let file = ScenarioFile::read(&path)?;
        let stage = Stage::new(&runtime, &project, &code, Some((&path, &file)))?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        for test in &file.test {
            found += 1;
            let name = format!("{stem}: {}", test.name);
            if wanted(&name) {
                let begun = Instant::now();
                finish(name, test.run(&stage, args.seed), begun);
            }
        }
    }
    if found == 0 {
        return Err(format!(
            "{} has no tests: write scenarios in {} (the README of `aether init script` shows how), or export functions test_…",
            project.name,
            project.dir.join("tests").display()
        )
        .into());
    }
    let failed = done.iter().filter(|one| one.outcome.result.is_err()).count();
    if json {
        print_json(&project, args.seed, &done)?;
    } else {
        summary(report, args.seed, found, &done, begin);
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Exports that are tests, in the order of their names.
fn test_exports(project: &Project, code: &Code) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let syscalls = project.manifest.policy().syscall_policy;
    let runtime = ClientRuntime::new(ClientRuntimeConfig { syscalls, ..ClientRuntimeConfig::default() })?;
    let mut names = runtime.check(&code.wasm)?.exports;
    names.retain(|name| name.starts_with("test_"));
    names.sort();
    Ok(names)
}

fn scenario_files(project: &Project) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let dir = project.dir.join("tests");
    let mut files = Vec::new();
    if dir.is_dir() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let toml = path.extension().is_some_and(|extension| extension == "toml");
            // What tests can spawn lies beside them.
            if toml && path.file_stem().is_some_and(|stem| stem != "prefabs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn show(report: Report, one: &Done, show_log: bool) {
    let word = match &one.outcome.result {
        Ok(()) => report.paint(Tone::Good, "ok"),
        Err(_) => report.paint(Tone::Bad, "FAILED"),
    };
    say(&format!("test {} ... {word} ({} ticks, {} ms)", one.name, one.outcome.ticks, one.ms));
    if show_log && one.outcome.result.is_ok() {
        one.outcome.log.iter().for_each(|line| say(&format!("    {line}")));
    }
}

fn summary(report: Report, seed: u64, found: usize, done: &[Done], begin: Instant) {
    for one in done {
        let Err(lines) = &one.outcome.result else { continue };
        say(&format!("\n---- {} ----", one.name));
        lines.iter().for_each(|line| say(line));
        let skip = one.outcome.log.len().saturating_sub(20);
        for line in one.outcome.log.iter().skip(skip) {
            say(&format!("    {line}"));
        }
    }
    let failed = done.iter().filter(|one| one.outcome.result.is_err()).count();
    let word = if failed == 0 { report.paint(Tone::Good, "ok") } else { report.paint(Tone::Bad, "FAILED") };
    say(&format!(
        "\ntest result: {word}. {} passed; {failed} failed; {} filtered out; seed {seed}; in {:.2} s",
        done.len() - failed,
        found - done.len(),
        begin.elapsed().as_secs_f64()
    ));
}

fn print_json(project: &Project, seed: u64, done: &[Done]) -> Result<(), serde_json::Error> {
    let tests: Vec<_> = done
        .iter()
        .map(|one| {
            serde_json::json!({
                "name": one.name,
                "outcome": if one.outcome.result.is_ok() { "ok" } else { "failed" },
                "why": one.outcome.result.as_ref().err(),
                "ticks": one.outcome.ticks,
                "ms": one.ms as u64,
                "log": one.outcome.log,
            })
        })
        .collect();
    let failed = done.iter().filter(|one| one.outcome.result.is_err()).count();
    let value = serde_json::json!({
        "script": project.name, "seed": seed, "passed": done.len() - failed, "failed": failed, "tests": tests,
    });
    say(&serde_json::to_string_pretty(&value)?);
    Ok(())
}
