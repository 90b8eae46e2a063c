//! Commands to a running node: publish, roll back, suspend, resume, save, restore, list.
//!
//! Each is one question to the node's admin socket, which is in its data directory; the cluster file says where that is. Not here: the
//! questions and answers themselves (`aether-admin`), how they look (`answer.rs`).

use crate::answer::{
    checkpoint_lines, describe_lines, flight_lines, limits_lines, list, move_line, node_line, placement_line, plan_lines,
    reload_lines, text, world_line,
};
use crate::{CommandResult, config_file, exit, progress, say};
use aether_admin::{CheckpointBody, Client, ClientError, MoveBody, PinBody, Request, RestoreBody, RollbackBody, socket_path};
use aether_cluster::NodeConfig;
use aether_scripting::{ScriptId, Version};
use aether_types::{WorldId, counted};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Where the node is.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// For commands to a running node: the cluster file that it was started with.
    #[arg(long, global = true, value_name = "FILE", default_value = "cluster-config/dev.toml")]
    pub(crate) cluster: PathBuf,
    /// For commands to a running node of a cluster: which of the file's nodes. The first, if it says nothing.
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    /// For commands to a running node: its admin address, if it is on another machine: https://HOST:PORT. Without it: its socket.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// With --url: a file with a token. Without it: the variable AETHER_TOKEN.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// With --url https://…: the certificates (PEM) of who signed the node's.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// For commands to a running node, `script test` and `script profile`: how the answer is printed.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    output: OutputFormat,
}

impl NodeArgs {
    pub(crate) fn output(&self) -> OutputFormat {
        self.output
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output == OutputFormat::Json
    }

    /// The node's address, if that was given: then no cluster file is needed.
    pub(crate) fn at_address(&self) -> Result<Option<Client>, Box<dyn std::error::Error>> {
        let Some(url) = &self.url else { return Ok(None) };
        let token = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => std::env::var("AETHER_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        Ok(Some(Client::at(url, token, self.ca.as_deref())?))
    }
}

/// The token in a file.
pub(crate) fn read_token(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The cluster file that these arguments name, and which of its nodes they mean; `None`: it is no cluster's.
pub(crate) fn load_for(node: &NodeArgs) -> Result<(NodeConfig, Option<String>), Box<dyn std::error::Error>> {
    let config = config_file::load(&node.cluster)?;
    let first = config.cluster.as_ref().and_then(|cluster| Some(cluster.node.first()?.name.clone()));
    Ok((config, node.node.clone().or(first)))
}

/// The configuration of the node that these arguments name.
pub(crate) fn config(node: &NodeArgs) -> Result<NodeConfig, Box<dyn std::error::Error>> {
    let (config, name) = load_for(node)?;
    Ok(match name {
        Some(name) => config.for_member(&name)?,
        None => config,
    })
}

/// The data directory of the node that these arguments name.
pub(crate) fn data_dir(node: &NodeArgs) -> Result<PathBuf, Box<dyn std::error::Error>> {
    Ok(config_file::folder(&node.cluster).join(&config(node)?.node.data_dir))
}

/// The socket of the node that has this configuration.
pub(crate) fn socket_of(node: &NodeArgs, config: &NodeConfig) -> PathBuf {
    socket_path(&config_file::folder(&node.cluster).join(&config.node.data_dir))
}

/// Who asks the node that these arguments name.
pub(crate) fn client(node: &NodeArgs) -> Result<Client, Box<dyn std::error::Error>> {
    match node.at_address()? {
        Some(client) => Ok(client),
        None => Ok(Client::new(socket_path(&data_dir(node)?))),
    }
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperateCommand {
    /// Make a script's code its next version and bring it into every world that runs it, or into none.
    #[command(
        after_help = "Examples:\n  aether publish scripts/door --plan\n  aether publish scripts/door\n\nThe folder holds NAME.wasm (or .wat) and script.toml."
    )]
    Publish {
        /// The script's folder.
        folder: PathBuf,
        /// Only say what would happen: compile it and try it out on copies of the worlds' states.
        #[arg(long)]
        plan: bool,
        /// In a cluster: swap in so many worlds first, and in the others only if it is well in those.
        #[arg(long, value_name = "WORLDS", conflicts_with = "plan")]
        canary: Option<usize>,
    },
    /// Bring another version of a script into the worlds: the one before, or this one.
    #[command(after_help = "Examples:\n  aether rollback door\n  aether rollback door --to 3")]
    Rollback {
        /// The script.
        script: ScriptId,
        /// The version.
        #[arg(long, value_name = "VERSION")]
        to: Option<u32>,
    },
    /// All versions of all scripts.
    #[command(after_help = "Example:\n  aether versions")]
    Versions,
    /// Keep a version of a script whatever happens.
    #[command(after_help = "Examples:\n  aether pin door 3\n  aether pin door 3 --off")]
    Pin {
        /// The script.
        script: ScriptId,
        /// The version.
        number: u32,
        /// Keep it no longer.
        #[arg(long)]
        off: bool,
    },
    /// Remove old versions that nothing refers to.
    #[command(after_help = "Example:\n  aether collect")]
    Collect,
    /// The cluster's nodes.
    #[command(after_help = "Example:\n  aether --cluster cluster-config/three-node.toml --node a nodes")]
    Nodes,
    /// Which node runs which world of the cluster.
    #[command(after_help = "Example:\n  aether --cluster cluster-config/three-node.toml --node a placement")]
    Placement,
    /// What placement would move now, and why.
    #[command(after_help = "Example:\n  aether --cluster cluster-config/three-node.toml --node a plan")]
    Plan,
    /// Move a world to a node, and leave it there.
    #[command(
        after_help = "Examples:\n  aether --cluster cluster-config/three-node.toml --node a move town-1 b\n  aether --cluster cluster-config/three-node.toml --node a move town-1 b --wait"
    )]
    Move {
        /// The world.
        world: WorldId,
        /// The node's name.
        to: String,
        /// End when it runs there, or after a minute.
        #[arg(long)]
        wait: bool,
    },
    /// Let placement move a world again.
    #[command(after_help = "Example:\n  aether --cluster cluster-config/three-node.toml --node a unpin town-1")]
    Unpin {
        /// The world.
        world: WorldId,
    },
    /// Have a node give its worlds away and take none.
    #[command(
        after_help = "Examples:\n  aether --cluster cluster-config/three-node.toml --node a drain b\n  aether --cluster cluster-config/three-node.toml --node a drain b --wait"
    )]
    Drain {
        /// The node's name.
        name: String,
        /// End when it has no worlds any more, or after ten minutes.
        #[arg(long)]
        wait: bool,
    },
    /// Have a node take worlds again.
    #[command(after_help = "Example:\n  aether --cluster cluster-config/three-node.toml --node a undrain b")]
    Undrain {
        /// The node's name.
        name: String,
    },
    /// The node's worlds.
    #[command(after_help = "Examples:\n  aether list\n  aether list --output json")]
    List,
    /// One world and its scripts.
    #[command(after_help = "Example:\n  aether describe town-1")]
    Describe {
        /// The world.
        world: WorldId,
    },
    /// Take a script out of its world's order, its state saved.
    #[command(after_help = "Example:\n  aether suspend town-1 thief")]
    Suspend {
        /// The world.
        world: WorldId,
        /// The script's name there.
        script: ScriptId,
    },
    /// Put a suspended, parked or finished script back; without a script, start a parked world again.
    #[command(after_help = "Examples:\n  aether resume town-1 thief\n  aether resume town-1")]
    Resume {
        /// The world.
        world: WorldId,
        /// The script's name there.
        script: Option<ScriptId>,
    },
    /// Save a world now.
    #[command(after_help = "Example:\n  aether checkpoint town-1 --name before-the-war")]
    Checkpoint {
        /// The world.
        world: WorldId,
        /// Keep it under this name.
        #[arg(long)]
        name: Option<String>,
    },
    /// The checkpoints of a world.
    #[command(after_help = "Example:\n  aether checkpoints town-1")]
    Checkpoints {
        /// The world.
        world: WorldId,
    },
    /// Start a world again as it was at a checkpoint. Its storage stays as it is.
    #[command(after_help = "Example:\n  aether restore town-1 before-the-war")]
    Restore {
        /// The world.
        world: WorldId,
        /// The checkpoint's name or commit number.
        checkpoint: String,
    },
    /// Messages that ended their script twice and are not given to it again.
    #[command(after_help = "Example:\n  aether set-aside town-1")]
    SetAside {
        /// The world.
        world: WorldId,
    },
    /// The last few hundred things that happened to a world, through all its restarts.
    #[command(
        after_help = "Example:\n  aether flight town-1\n\nWhen a world or one of its scripts is parked, the same is in a file of the node's data directory: \
                      flight/WORLD-TIME.json."
    )]
    Flight {
        /// The world.
        world: WorldId,
    },
    /// What a world and its scripts may use, how much of it they do, and what rate limits refused them; of all worlds of the node, without
    /// their scripts, if none is named.
    #[command(after_help = "Examples:\n  aether limits\n  aether limits town-1")]
    Limits {
        /// The world.
        world: Option<WorldId>,
    },
}

/// A move is a save, a claim and a start; a drain is as many of those as there are worlds.
const MOVE_TIME: Duration = Duration::from_secs(60);
const DRAIN_TIME: Duration = Duration::from_secs(600);

pub(crate) fn run(command: &OperateCommand, node: &NodeArgs) -> CommandResult {
    let client = client(node)?;
    let none = json!({});
    let mut refused = false;
    let (answer, lines) = match command {
        OperateCommand::Publish { folder, plan, canary } => {
            let (manifest, wasm) = read_script(folder)?;
            let what = if *plan { "trying it out" } else { "publishing" };
            let published = progress::during(what, || client.publish(manifest, &wasm, *plan, *canary), || how_far(&client));
            let answer = published?;
            refused = *plan && list(&answer["worlds"]).iter().any(|world| world["refused"].is_string());
            let lines = if *plan { plan_lines(&answer) } else { reload_lines(&answer) };
            (answer, lines)
        }
        OperateCommand::Rollback { script, to } => {
            let body = RollbackBody { version: to.map(Version) };
            let ask = || client.ask(&Request::Rollback(*script), &body);
            let answer = progress::during("rolling back", ask, || how_far(&client))?;
            let lines = reload_lines(&answer);
            (answer, lines)
        }
        OperateCommand::Versions => {
            let answer = client.ask(&Request::Versions, &none)?;
            let line = |v: &Value| {
                let mark = |field: &str| if v[field] == true { format!(" {field}") } else { String::new() };
                format!(
                    "{:<24} v{:<5} {}{}{}",
                    text(&v["script"]),
                    v["version"],
                    text(&v["source"]),
                    mark("active"),
                    mark("pinned")
                )
            };
            let lines = list(&answer).iter().map(line).collect();
            (answer, lines)
        }
        OperateCommand::Pin { script, number, off } => {
            let answer = client.ask(&Request::Pin(*script, Version(*number)), &PinBody { pinned: !off })?;
            (answer, vec![format!("{script} v{number} is {}", if *off { "not kept any longer" } else { "kept" })])
        }
        OperateCommand::Collect => {
            let answer = client.ask(&Request::Collect, &none)?;
            let count = |field: &str, thing| counted(answer[field].as_u64().unwrap_or(0) as usize, thing);
            let line = format!("removed {} and {}", count("versions", "version"), count("sources", "source"));
            (answer, vec![line])
        }
        OperateCommand::Nodes => {
            let answer = client.ask(&Request::Cluster, &none)?["nodes"].clone();
            let lines = list(&answer).iter().map(node_line).collect();
            (answer, lines)
        }
        OperateCommand::Placement => {
            let answer = client.ask(&Request::Cluster, &none)?["worlds"].clone();
            let lines = list(&answer).iter().map(placement_line).collect();
            (answer, lines)
        }
        OperateCommand::Plan => {
            let answer = client.ask(&Request::PlacementPlan, &none)?;
            let mut lines: Vec<_> = list(&answer["moves"]).iter().map(move_line).collect();
            let unplaced = |entry: &Value| format!("{}: no node for it: {}", text(&entry[0]), text(&entry[1]));
            lines.extend(list(&answer["unplaced"]).iter().map(unplaced));
            if lines.is_empty() {
                lines.push("every world is where it should be".to_owned());
            }
            (answer, lines)
        }
        OperateCommand::Move { world, to, wait } => {
            let answer = client.ask(&Request::Move(world.to_string()), &MoveBody { node: to.clone() })?;
            if *wait {
                let there = |row: &Value| row["name"] == world.as_str() && row["owner"] == to.as_str();
                let left = || -> Result<u64, ClientError> {
                    let cluster = client.ask(&Request::Cluster, &none)?;
                    Ok(u64::from(!list(&cluster["worlds"]).iter().any(there)))
                };
                if progress::until_none(&format!("{world} goes to {to}"), MOVE_TIME, left)?.is_err() {
                    let text = format!(
                        "{world} is not on {to} after a minute: `aether placement` says where it is, `aether logs {world}` why"
                    );
                    return Err(text.into());
                }
            }
            (answer, vec![format!("{world} {} {to}", if *wait { "runs on" } else { "goes to" })])
        }
        OperateCommand::Unpin { world } => {
            (client.ask(&Request::Unpin(world.to_string()), &none)?, vec![format!("{world} goes where placement wants it")])
        }
        OperateCommand::Drain { name, wait } => {
            let answer = client.ask(&Request::Drain { node: name.clone(), on: true }, &none)?;
            if *wait {
                let left = || -> Result<u64, ClientError> {
                    let cluster = client.ask(&Request::Cluster, &none)?;
                    // One that nobody has is on its way, if there is a node for it.
                    let leaves = |row: &&Value| {
                        row["owner"] == name.as_str()
                            || row["target"] == name.as_str()
                            || (row["owner"].is_null() && row["target"].is_string())
                    };
                    Ok(list(&cluster["worlds"]).iter().filter(leaves).count() as u64)
                };
                if let Err(left) = progress::until_none(&format!("{name} gives its worlds away"), DRAIN_TIME, left)? {
                    let text = format!(
                        "{name} still has {}: `aether plan` says for which there is no other node",
                        counted(left as usize, "world")
                    );
                    return Err(text.into());
                }
            }
            (answer, vec![format!("{name} {}", if *wait { "has no worlds" } else { "gives its worlds away" })])
        }
        OperateCommand::Undrain { name } => {
            let answer = client.ask(&Request::Drain { node: name.clone(), on: false }, &none)?;
            (answer, vec![format!("{name} takes worlds")])
        }
        OperateCommand::List => {
            let answer = client.ask(&Request::Status, &none)?;
            let lines = list(&answer["worlds"]).iter().map(world_line).collect();
            (answer, lines)
        }
        OperateCommand::Describe { world } => {
            let answer = client.ask(&Request::World(format!("{world}?scripts={SCRIPTS_MAX}")), &none)?;
            let lines = describe_lines(&answer);
            (answer, lines)
        }
        OperateCommand::Suspend { world, script } => {
            let request = Request::Script { world: world.to_string(), script: script.to_string(), suspend: true };
            let answer = client.ask(&request, &none)?;
            let line = format!("{world}/{script} is suspended{}", already(&answer));
            (answer, vec![line])
        }
        OperateCommand::Resume { world, script: Some(script) } => {
            let request = Request::Script { world: world.to_string(), script: script.to_string(), suspend: false };
            let answer = client.ask(&request, &none)?;
            let line = if answer["done"] == false { "runs already" } else { "goes on" };
            (answer, vec![format!("{world}/{script} {line}")])
        }
        OperateCommand::Resume { world, script: None } => {
            let answer = client.ask(&Request::ResumeWorld(world.to_string()), &none)?;
            let line = if answer["done"] == false { "is not parked: there is nothing to resume" } else { "is started" };
            (answer, vec![format!("{world} {line}")])
        }
        OperateCommand::Checkpoint { world, name } => {
            let body = CheckpointBody { name: name.clone() };
            let answer = client.ask(&Request::Checkpoint(world.to_string()), &body)?;
            let line = format!("{world} is saved with commit {}", answer["commit"]);
            (answer, vec![line])
        }
        OperateCommand::Checkpoints { world } => {
            let answer = client.ask(&Request::Checkpoints(world.to_string()), &none)?;
            let lines = checkpoint_lines(world.as_str(), &answer);
            (answer, lines)
        }
        OperateCommand::Restore { world, checkpoint } => {
            let body = RestoreBody { checkpoint: checkpoint.clone() };
            (client.ask(&Request::Restore(world.to_string()), &body)?, vec![format!("{world} goes on from {checkpoint}")])
        }
        OperateCommand::SetAside { world } => {
            let answer = client.ask(&Request::SetAside(world.to_string()), &none)?;
            let line = |aside: &Value| {
                format!("tick {} {}: {}: {}", aside["tick"], text(&aside["script"]), text(&aside["cause"]), text(&aside["call"]))
            };
            let mut lines: Vec<_> = list(&answer).iter().map(line).collect();
            if lines.is_empty() {
                lines.push(format!("no message was set aside in {world}"));
            }
            (answer, lines)
        }
        OperateCommand::Flight { world } => {
            let answer = client.ask(&Request::Flight(world.to_string()), &none)?;
            let lines = flight_lines(&answer);
            (answer, lines)
        }
        OperateCommand::Limits { world } => {
            let answer = client.ask(&Request::Limits(world.as_ref().map(ToString::to_string)), &none)?;
            let lines = match world {
                Some(_) => limits_lines(&answer),
                None => list(&answer).iter().flat_map(limits_lines).collect(),
            };
            (answer, lines)
        }
    };
    if node.output == OutputFormat::Json {
        say(&serde_json::to_string(&answer)?);
    } else {
        lines.iter().for_each(|line| say(line));
    }
    Ok(if refused { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS })
}

/// Scripts of one world in an answer, all of them.
pub(crate) const SCRIPTS_MAX: usize = 20_000;

/// What was so before is done too: no error, and said.
fn already(answer: &Value) -> &'static str {
    if answer["done"] == false { " already" } else { "" }
}

/// How far the reload has come that the node coordinates.
fn how_far(client: &Client) -> Option<String> {
    let reloads = client.ask(&Request::Reloads, &json!({})).ok()?;
    let reload = list(&reloads).first()?;
    let worlds = |field: &str| reload[field].as_u64().unwrap_or(0);
    Some(format!(
        "{} v{} in worlds: swapping {}, watching {}, done {}",
        text(&reload["script"]),
        reload["version"],
        worlds("swapping"),
        worlds("watching"),
        worlds("held")
    ))
}

pub(crate) fn read_script(folder: &Path) -> Result<(String, Vec<u8>), Box<dyn std::error::Error>> {
    let read = |path: PathBuf| std::fs::read(&path).map_err(|error| format!("could not read {}: {error}", path.display()));
    let manifest = String::from_utf8(read(folder.join("script.toml"))?)?;
    let folder = folder.canonicalize()?;
    let name = folder.file_name().and_then(|name| name.to_str()).ok_or("the folder has no name")?;
    let wat = folder.join(format!("{name}.wat"));
    let wasm = folder.join(format!("{name}.wasm"));
    // The binary is what worlds were started with; text alone is fine too.
    Ok((manifest, read(if wasm.exists() || !wat.exists() { wasm } else { wat })?))
}
