//! `aether loadtest`: does what a scenario says to a node, and reports what came of it.
//!
//! Start with [`LoadtestArgs`]. A scenario file ([`scenario`]) is planned without a clock ([`plan`]), played against a [`driver`]
//! ([`play`]), watched ([`look`], [`usage`]), and told as one [`report`] in three forms ([`text`], [`html`], JSON); two reports are compared
//! ([`mod@compare`]), by the statistics of [`stats`]. Not here: benchmarks of parts (`bench`), tests of what must hold under faults (`tests`).

mod compare;
mod driver;
mod html;
mod look;
mod plan;
mod play;
mod remote;
mod report;
mod sampler;
mod scenario;
mod stats;
mod text;
mod usage;

use crate::operate::{OutputFormat, read_token};
use crate::{CommandResult, config_file, say};
use aether_admin::Client;
use clap::{Args, Subcommand};
use driver::{Driver, InProcess};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use remote::{Running, Spawned};
use report::Report;
use scenario::Scenario;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Arguments of `aether loadtest`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LoadtestArgs {
    #[command(subcommand)]
    command: Option<LoadtestCommand>,
    /// The scenario's file, or the name of one in cluster-config/loadtest.
    scenario: Option<String>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum LoadtestCommand {
    /// Say what differs between two reports, and whether that is more than noise.
    #[command(after_help = "Example:\n  aether loadtest compare before/report.json after/report.json --fail-above 10")]
    Compare {
        /// The report.json of the first run, or its folder.
        before: PathBuf,
        /// The report.json of the second.
        after: PathBuf,
        /// Fail (exit code 1) if anything is worse by more than so many percent, and not by chance.
        #[arg(long, value_name = "PERCENT")]
        fail_above: Option<f64>,
    },
    /// The long run: a town with reloads, crashes and players, in which nothing may grow.
    #[command(after_help = "Example:\n  aether loadtest soak --minutes 30 --report soak")]
    Soak {
        /// How long is measured.
        #[arg(long, value_name = "N", default_value_t = 60.0, value_parser = minutes)]
        minutes: f64,
        #[command(flatten)]
        run: RunArgs,
    },
}

/// How a scenario is run.
#[derive(Debug, Args)]
struct RunArgs {
    /// Measure for so long instead of what the scenario says.
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<f64>,
    /// Choose who and when by this number instead of the scenario's.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write report.json, report.txt and report.html into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Run against so many node processes that the test starts on this machine, and kills if the scenario says so.
    #[arg(long, value_name = "N", requires = "store", value_parser = clap::value_parser!(u32).range(1..=16))]
    nodes: Option<u32>,
    /// With --nodes: their database, postgres://USER@HOST:PORT/DATABASE. Each test makes a schema of its own there, and leaves it.
    #[arg(long, value_name = "URL", requires = "nodes")]
    store: Option<String>,
    /// Run against a running cluster: the admin address of each of its nodes. Its worlds are its own; only reloads are played.
    #[arg(long, value_name = "URL", conflicts_with = "nodes")]
    address: Vec<String>,
    /// With --address: a file with a token whose role is publisher.
    #[arg(long, value_name = "FILE", requires = "address")]
    token_file: Option<PathBuf>,
    /// With --address https://…: the certificates (PEM) of who signed the nodes'.
    #[arg(long, value_name = "FILE", requires = "address")]
    ca: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1.0..=604_800.0).contains(&seconds) { Ok(seconds) } else { Err("allowed is 1 to 604800".to_owned()) }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    seconds(&(minutes * 60.0).to_string()).map(|_| minutes).map_err(|_| "allowed is 0.02 to 10080".to_owned())
}

/// Where the scenarios are that Aether comes with.
const SHIPPED: &str = "cluster-config/loadtest";

pub(crate) fn run(args: &LoadtestArgs, output: OutputFormat) -> CommandResult {
    match (&args.command, &args.scenario) {
        (Some(LoadtestCommand::Compare { before, after, fail_above }), _) => compare(before, after, *fail_above, output),
        (Some(LoadtestCommand::Soak { minutes, run }), _) => test("soak", Some(minutes * 60.0), run, output),
        (None, Some(name)) => test(name, None, &args.run, output),
        (None, None) => Err(format!("name a scenario: a file, or one of {SHIPPED} ({})", shipped().join(", ")).into()),
    }
}

/// The names of the scenarios here.
fn shipped() -> Vec<String> {
    let files = std::fs::read_dir(SHIPPED).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

fn test(name: &str, seconds: Option<f64>, args: &RunArgs, output: OutputFormat) -> CommandResult {
    let named = Path::new(SHIPPED).join(format!("{name}.toml"));
    let file = if !Path::new(name).is_file() && named.is_file() { named } else { PathBuf::from(name) };
    let mut scenario = Scenario::load(&file)?;
    scenario.duration_seconds = args.seconds.or(seconds).unwrap_or(scenario.duration_seconds);
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    let scratch = tempfile::Builder::new().prefix("aether-loadtest-").tempdir()?;
    let base = config_file::folder(&file);
    let config = plan::node_config(&scenario, &scratch.path().join("data"));
    // What it says of limits is the cluster file's to check.
    config.check().map_err(|error| format!("{}: {error}", file.display()))?;
    // Before the test: nobody wants to run it for nothing.
    if let Some(dir) = &args.report {
        std::fs::create_dir_all(dir).map_err(|error| format!("could not make {}: {error}", dir.display()))?;
    }
    let signals = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&signals);
    ctrlc::set_handler(move || {
        // The first asks for the report so far; who presses twice more does not want it.
        if seen.fetch_add(1, Ordering::Relaxed) >= 2 {
            std::process::exit(130);
        }
    })?;
    let bar = progress_bar();
    bar.set_message(format!("{}, seed {}: starting", scenario.name, scenario.seed));
    let driver: Box<dyn Driver> = match (args.nodes, &args.store) {
        (Some(nodes), Some(store)) => Box::new(Spawned::start(&scenario, config.clone(), base, nodes, store)?),
        _ if !args.address.is_empty() => Box::new(Running::connect(clients(args)?)?),
        _ => Box::new(InProcess::start(&config, base, |what| bar.set_message(what.to_owned()))?),
    };
    let report = play::play(&scenario, &config, base, driver, &bar, &signals)?;
    bar.finish_and_clear();
    let json = serde_json::to_string(&report)?;
    if let Some(dir) = &args.report {
        for (name, content) in
            [("report.json", &json), ("report.txt", &text::render(&report)), ("report.html", &html::render(&report))]
        {
            let path = dir.join(name);
            std::fs::write(&path, content).map_err(|error| format!("could not write {}: {error}", path.display()))?;
        }
    }
    match output {
        OutputFormat::Json => say(&json),
        OutputFormat::Text => say(text::render(&report).trim_end()),
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn clients(args: &RunArgs) -> Result<Vec<Client>, Box<dyn std::error::Error>> {
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let client = |url: &String| Ok(Client::at(url, token.clone(), args.ca.as_deref())?);
    args.address.iter().map(client).collect()
}

/// On a terminal only.
fn progress_bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(1), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}%  {msg}") {
        bar.set_style(style);
    }
    bar
}

fn read_report(path: &Path) -> Result<Report, Box<dyn std::error::Error>> {
    let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    let text = std::fs::read_to_string(&path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
    let report: Report = serde_json::from_str(&text).map_err(|error| format!("{} is no report: {error}", path.display()))?;
    if report.format != report::FORMAT {
        return Err(format!("{} has format {}, this program reads {}", path.display(), report.format, report::FORMAT).into());
    }
    Ok(report)
}

fn compare(before: &Path, after: &Path, fail_above: Option<f64>, output: OutputFormat) -> CommandResult {
    let comparison = compare::compare(&read_report(before)?, &read_report(after)?);
    match output {
        OutputFormat::Json => say(&serde_json::to_string(&comparison)?),
        OutputFormat::Text => comparison.lines().iter().for_each(|line| say(line)),
    }
    let worse = fail_above.map(|percent| comparison.worse_than(percent)).unwrap_or_default();
    for row in &worse {
        tracing::error!(what = row.label, percent = row.percent, "worse, and not by chance");
    }
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
