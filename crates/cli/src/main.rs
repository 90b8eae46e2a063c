//! `aether`: the composition root. Reads the command line, the cluster file and the variables; everything else is in the crates.
//!
//! Start with [`main`]; each command has a file. Not here: what the commands do to worlds and scripts.

mod cluster;
mod config_file;
mod doctor;
mod operate;
mod player;
mod run;
mod script;
mod token;
mod view;

use aether_scripting::compile::{CompileLimits, Compiler};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// An actor-based script cluster for game worlds: metered WebAssembly scripts, a tick budget that holds, state that survives.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    node: operate::NodeArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a node with its worlds from a cluster file and show what they cost. Ctrl-C saves and stops.
    #[command(
        after_help = "Examples:\n  aether run cluster-config/dev.toml\n  AETHER_LIMITS__TICK_HZ=10 aether run cluster-config/dev.toml --plain --seconds 30"
    )]
    Run(run::RunArgs),
    /// Boot one node of a cluster and show what its worlds cost. Ctrl-C gives the worlds to the other nodes and stops.
    #[command(after_help = "Example:\n  aether node cluster-config/three-node.toml --name a")]
    Node(cluster::NodeCommand),
    /// Certificates of a cluster.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Look for what would keep a node from running well, and say how to mend it.
    #[command(after_help = "Example:\n  aether doctor cluster-config/three-node.toml --name a")]
    Doctor(doctor::DoctorArgs),
    /// Try scripts without a server.
    #[command(subcommand)]
    Script(script::ScriptCommand),
    /// Ask a running node.
    #[command(flatten)]
    Operate(operate::OperateCommand),
    /// Who may use the admin address of a node: make, list and revoke tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Tokens of players, as a game's login server makes them.
    #[command(subcommand)]
    Player(player::PlayerCommand),
    /// Check a cluster file and say what is wrong with it.
    #[command(after_help = "Example:\n  aether check-config cluster-config/dev.toml")]
    CheckConfig {
        /// The cluster file.
        file: PathBuf,
    },
    /// The compiler's child process.
    #[command(name = COMPILE_WORKER, hide = true)]
    CompileWorker {
        /// Target, slot class, canonical NaNs, CPU seconds, bytes of memory.
        args: Vec<String>,
    },
}

/// The hidden command that compiles one module.
const COMPILE_WORKER: &str = "compile-worker";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::CompileWorker { args } = &cli.command {
        return aether_scripting::compile::worker(args);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("AETHER_LOG").unwrap_or_else(|_| "warn".into());
    // At `debug` it prints whole messages, and what nodes prove to each other who they are with.
    let quiet = "ractor_cluster=warn".parse().expect("this is a directive");
    let filter = if filter.to_string().contains("ractor_cluster") { filter } else { filter.add_directive(quiet) };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Node(args) => cluster::node(&args),
        Command::Cluster(command) => cluster::cluster(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Script(command) => script::run(command),
        Command::Operate(command) => operate::run(&command, &cli.node),
        Command::Token(command) => operate::data_dir(&cli.node).and_then(|dir| token::run(&command, &dir, cli.node.is_json())),
        Command::Player(command) => player::run(&command, &cli.node),
        Command::CheckConfig { file } => config_file::load(&file).map(|config| {
            say(&format!("{} is good: {} worlds, {} scripts", file.display(), worlds(&config), scripts(&config)));
            ExitCode::SUCCESS
        }),
        Command::CompileWorker { .. } => Ok(ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        complain(&*error);
        ExitCode::FAILURE
    })
}

fn worlds(config: &aether_cluster::NodeConfig) -> u32 {
    config.world.iter().map(|world| world.count).sum()
}

fn scripts(config: &aether_cluster::NodeConfig) -> u32 {
    config.world.iter().map(|world| world.count * world.script.iter().map(|script| script.count).sum::<u32>()).sum()
}

/// A line on standard output. Nobody who closed it (`| head`) is to see a panic.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// An error with all its causes on standard error.
fn complain(error: &(dyn std::error::Error + 'static)) {
    use std::io::Write;
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error is its own cause.
        if !text.ends_with(&cause_text) {
            text += &format!("\n  because: {cause_text}");
        }
        source = cause.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// This program, as the compiler's child process.
fn compiler() -> Compiler {
    match std::env::current_exe() {
        Ok(program) => Compiler::Child { program, args: vec![COMPILE_WORKER.to_owned()], limits: CompileLimits::default() },
        Err(_) => Compiler::InProcess,
    }
}

type CommandResult = Result<ExitCode, Box<dyn std::error::Error>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
