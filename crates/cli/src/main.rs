//! `aether`: the composition root. Reads the command line, the cluster file and the variables; everything else is in the crates.
//!
//! Start with [`main`]; each command has a file. Not here: what the commands do to worlds and scripts.

mod answer;
mod author;
mod cluster;
mod config_file;
mod doctor;
mod exit;
mod loadtest;
mod logs;
mod operate;
mod player;
mod progress;
mod run;
mod script;
mod style;
mod telemetry;
mod token;
mod top;
mod view;

use aether_scripting::compile::{CompileLimits, Compiler};
use aether_types::counted;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// An actor-based script cluster for game worlds: metered WebAssembly scripts, a tick budget that holds, state that survives.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, after_help = exit::HELP)]
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
    /// Load a node or a cluster with a scenario and report how it bore it; compare two reports.
    #[command(
        after_help = "Examples:\n  aether loadtest town --seconds 30 --report before\n  aether loadtest compare before after\n  aether loadtest failover.toml --nodes 3 --store postgres://aether@127.0.0.1:5432/scratch\n\nThe exit code is 1 if anything that the scenario expects does not hold."
    )]
    Loadtest(Box<loadtest::LoadtestArgs>),
    /// Check, try, test and profile scripts without a server.
    #[command(subcommand)]
    Script(script::ScriptCommand),
    /// Make what does not exist yet.
    #[command(subcommand)]
    Init(author::init::InitCommand),
    /// Watch a script, build it when it changes, and bring it into a local world with its state kept.
    #[command(after_help = author::dev::HELP)]
    Dev(author::dev::DevArgs),
    /// Ask a running node.
    #[command(flatten)]
    Operate(operate::OperateCommand),
    /// What scripts wrote and what happened, from the node that is asked.
    #[command(
        after_help = "Examples:\n  aether logs --since 15m\n  aether logs town-1 thief --follow\n  aether logs --level warn --output json"
    )]
    Logs(logs::LogsArgs),
    /// A whole cluster in a terminal: nodes by load, worlds by what troubles them.
    #[command(
        after_help = "Examples:\n  aether top\n  aether top --sort defer --filter town\n  aether top --once --output json\n\nOf worlds on other machines only \
                      the load is known: run it there for more."
    )]
    Top(top::TopArgs),
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
    /// Print what a shell needs to complete this program's commands.
    #[command(after_help = "Examples:\n  aether completions bash\n  aether completions fish")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
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
    // A node starts it with its configuration.
    let _telemetry = match &cli.command {
        Command::Run(_) | Command::Node(_) => None,
        _ => telemetry::start(None).ok(),
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Node(args) => cluster::node(&args),
        Command::Cluster(command) => cluster::cluster(&command),
        Command::Doctor(args) => doctor::run(&args, &cli.node),
        Command::Loadtest(args) => loadtest::run(&args, cli.node.output()),
        Command::Script(command) => script::run(command, cli.node.is_json()),
        Command::Init(command) => author::init::run(&command),
        Command::Dev(args) => author::dev::run(&args),
        Command::Operate(command) => operate::run(&command, &cli.node),
        Command::Token(command) => operate::data_dir(&cli.node).and_then(|dir| token::run(&command, &dir, cli.node.is_json())),
        Command::Player(command) => player::run(&command, &cli.node),
        Command::CheckConfig { file } => config_file::load(&file).map(|config| {
            let (worlds, scripts) = (counted(worlds(&config) as usize, "world"), counted(scripts(&config) as usize, "script"));
            say(&format!("{} is good: {worlds}, {scripts}", file.display()));
            ExitCode::SUCCESS
        }),
        Command::Logs(args) => logs::run(&args, &cli.node),
        Command::Top(args) => top::run(&args, &cli.node),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "aether", &mut text);
            say(String::from_utf8_lossy(&text).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::CompileWorker { .. } => Ok(ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        complain(&*error);
        exit::code(&*error)
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
    let _ = is_said(line);
}

/// The same; `false`: nobody reads any more.
fn is_said(line: &str) -> bool {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").is_ok()
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
    use clap::CommandFactory;

    /// Every command without commands of its own, with the words that lead to it.
    fn leaves(command: &clap::Command, words: &[String], found: &mut Vec<(Vec<String>, clap::Command)>) {
        let mut own = command.get_subcommands().filter(|own| !own.is_hide_set() && own.get_name() != "help").peekable();
        if own.peek().is_none() {
            return found.push((words.to_vec(), command.clone()));
        }
        for command in own {
            leaves(command, &[words, &[command.get_name().to_owned()]].concat(), found);
        }
    }

    #[test]
    fn every_command_has_an_example_and_every_example_is_one_of_it() {
        let mut found = Vec::new();
        leaves(&Cli::command(), &[], &mut found);
        assert!(found.len() > 35, "{}", found.len());
        for (words, command) in found {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> = help.lines().filter(|line| line.starts_with("  ") && line.contains("aether ")).collect();
            assert!(!examples.is_empty(), "`aether {}` has no example in its help", words.join(" "));
            for example in examples {
                // Variables before it are the shell's.
                let typed = example.split_whitespace().skip_while(|word| *word != "aether");
                let parsed = Cli::command().try_get_matches_from(typed).unwrap_or_else(|error| panic!("{example}: {error}"));
                let (mut at, mut path) = (&parsed, Vec::new());
                while let Some((name, inner)) = at.subcommand() {
                    path.push(name.to_owned());
                    at = inner;
                }
                assert_eq!(path, words, "{example}");
            }
        }
    }

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
