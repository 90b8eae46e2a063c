//! Commands to a running node: publish, roll back, suspend, resume, save, restore, list.
//!
//! Each is one question to the node's admin socket, which is in its data directory; the cluster file says where that is. Not here: the
//! questions and answers themselves (`aether-admin`).

use crate::{CommandResult, config_file, say};
use aether_admin::{CheckpointBody, Client, MoveBody, PinBody, Request, RestoreBody, RollbackBody, socket_path};
use aether_cluster::NodeConfig;
use aether_scripting::{ScriptId, Version};
use aether_types::WorldId;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the node is.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// For commands to a running node: the cluster file that it was started with.
    #[arg(long, global = true, value_name = "FILE", default_value = "cluster-config/dev.toml")]
    pub(crate) cluster: PathBuf,
    /// For commands to a running node of a cluster: which of the file's nodes. The first, if it says nothing.
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    /// For commands to a running node: how the answer is printed.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    output: OutputFormat,
}

impl NodeArgs {
    pub(crate) fn is_json(&self) -> bool {
        self.output == OutputFormat::Json
    }
}

/// The configuration of the node that these arguments name.
pub(crate) fn config(node: &NodeArgs) -> Result<NodeConfig, Box<dyn std::error::Error>> {
    let config = config_file::load(&node.cluster)?;
    let first = config.cluster.as_ref().and_then(|cluster| Some(cluster.node.first()?.name.clone()));
    Ok(match node.node.clone().or(first) {
        Some(name) => config.for_member(&name)?,
        None => config,
    })
}

/// The data directory of the node that these arguments name.
pub(crate) fn data_dir(node: &NodeArgs) -> Result<PathBuf, Box<dyn std::error::Error>> {
    Ok(config_file::folder(&node.cluster).join(&config(node)?.node.data_dir))
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
    Versions,
    /// Keep a version of a script whatever happens.
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
    Collect,
    /// The cluster's nodes.
    Nodes,
    /// Which node runs which world of the cluster.
    Placement,
    /// What placement would move now, and why.
    Plan,
    /// Move a world to a node, and leave it there.
    #[command(after_help = "Example:\n  aether --cluster cluster-config/three-node.toml --node a move town-1 b")]
    Move {
        /// The world.
        world: WorldId,
        /// The node's name.
        to: String,
    },
    /// Let placement move a world again.
    Unpin {
        /// The world.
        world: WorldId,
    },
    /// Have a node give its worlds away and take none.
    Drain {
        /// The node's name.
        name: String,
    },
    /// Have a node take worlds again.
    Undrain {
        /// The node's name.
        name: String,
    },
    /// The node's worlds.
    List,
    /// One world and its scripts.
    Describe {
        /// The world.
        world: WorldId,
    },
    /// Take a script out of its world's order, its state saved.
    Suspend {
        /// The world.
        world: WorldId,
        /// The script's name there.
        script: ScriptId,
    },
    /// Put a suspended, parked or finished script back; without a script, start a parked world again.
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
    SetAside {
        /// The world.
        world: WorldId,
    },
}

pub(crate) fn run(command: &OperateCommand, node: &NodeArgs) -> CommandResult {
    let client = Client::new(socket_path(&data_dir(node)?));
    let none = json!({});
    let (answer, lines) = match command {
        OperateCommand::Publish { folder, plan, canary } => {
            let (manifest, wasm) = read_script(folder)?;
            let answer = client.publish(manifest, &wasm, *plan, *canary)?;
            let lines = if *plan { plan_lines(&answer) } else { reload_lines(&answer) };
            (answer, lines)
        }
        OperateCommand::Rollback { script, to } => {
            let body = RollbackBody { version: to.map(Version) };
            let answer = client.ask(&Request::Rollback(*script), &body)?;
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
            let line = format!("removed {} versions and {} sources", answer["versions"], answer["sources"]);
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
        OperateCommand::Move { world, to } => {
            let answer = client.ask(&Request::Move(world.to_string()), &MoveBody { node: to.clone() })?;
            (answer, vec![format!("{world} goes to {to}")])
        }
        OperateCommand::Unpin { world } => {
            (client.ask(&Request::Unpin(world.to_string()), &none)?, vec![format!("{world} goes where placement wants it")])
        }
        OperateCommand::Drain { name } => {
            let answer = client.ask(&Request::Drain { node: name.clone(), on: true }, &none)?;
            (answer, vec![format!("{name} gives its worlds away")])
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
        OperateCommand::Describe { world } => describe(&client, world)?,
        OperateCommand::Suspend { world, script } => {
            let request = Request::Script { world: world.to_string(), script: script.to_string(), suspend: true };
            (client.ask(&request, &none)?, vec![format!("{world}/{script} is suspended")])
        }
        OperateCommand::Resume { world, script: Some(script) } => {
            let request = Request::Script { world: world.to_string(), script: script.to_string(), suspend: false };
            (client.ask(&request, &none)?, vec![format!("{world}/{script} goes on")])
        }
        OperateCommand::Resume { world, script: None } => {
            (client.ask(&Request::ResumeWorld(world.to_string()), &none)?, vec![format!("{world} is started")])
        }
        OperateCommand::Checkpoint { world, name } => {
            let body = CheckpointBody { name: name.clone() };
            let answer = client.ask(&Request::Checkpoint(world.to_string()), &body)?;
            let line = format!("{world} is saved with commit {}", answer["commit"]);
            (answer, vec![line])
        }
        OperateCommand::Checkpoints { world } => {
            let answer = client.ask(&Request::Checkpoints(world.to_string()), &none)?;
            let line = |c: &Value| format!("{:>8} {:>10} bytes {}", c["commit"], c["bytes"], text(&c["name"]));
            let lines = list(&answer).iter().map(line).collect();
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
            let lines = list(&answer).iter().map(line).collect();
            (answer, lines)
        }
    };
    if node.output == OutputFormat::Json {
        say(&serde_json::to_string(&answer)?);
    } else {
        lines.iter().for_each(|line| say(line));
    }
    Ok(ExitCode::SUCCESS)
}

fn read_script(folder: &std::path::Path) -> Result<(String, Vec<u8>), Box<dyn std::error::Error>> {
    let read = |path: PathBuf| std::fs::read(&path).map_err(|error| format!("could not read {}: {error}", path.display()));
    let manifest = String::from_utf8(read(folder.join("script.toml"))?)?;
    let folder = folder.canonicalize()?;
    let name = folder.file_name().and_then(|name| name.to_str()).ok_or("the folder has no name")?;
    let wat = folder.join(format!("{name}.wat"));
    let wasm = folder.join(format!("{name}.wasm"));
    // The binary is what worlds were started with; text alone is fine too.
    Ok((manifest, read(if wasm.exists() || !wat.exists() { wasm } else { wat })?))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "none".to_owned(), |number| format!("v{number}"))
}

fn reload_lines(report: &Value) -> Vec<String> {
    let (from, to) = (number(&report["from"]), number(&report["to"]));
    vec![format!(
        "{}: {from} -> {to} in {} worlds, swapped in {} ms",
        text(&report["script"]),
        report["worlds"],
        report["swap_ms"]
    )]
}

fn plan_lines(plan: &Value) -> Vec<String> {
    let mut lines = vec![format!("{}: from {}, source {}", text(&plan["script"]), number(&plan["from"]), text(&plan["source"]))];
    if plan["unchanged"] == true {
        lines.push("code and manifest are those that serve already".to_owned());
    }
    lines.extend(list(&plan["manifest_changes"]).iter().map(|change| format!("manifest: {}", text(change))));
    for world in list(&plan["worlds"]) {
        let what = match (world["refused"].as_str(), world["ticks"] == true) {
            (Some(reason), _) => format!("REFUSED: {reason}"),
            (None, true) => "rehearsed, would swap".to_owned(),
            (None, false) => "does not tick: would start with it".to_owned(),
        };
        lines.push(format!("world {}: {what}", text(&world["world"])));
    }
    lines
}

fn node_line(node: &Value) -> String {
    format!(
        "{:<12} {:<9} {:<22} worlds {:>5}  load {:.2} of {:.0}  lease {:>6} ms{}",
        text(&node["name"]),
        text(&node["state"]),
        text(&node["address"]),
        node["worlds"],
        node["load"].as_f64().unwrap_or(0.0),
        node["capacity"].as_f64().unwrap_or(0.0),
        node["lease_left_ms"],
        if node["linked"] == true { "  linked" } else { "" },
    )
}

fn placement_line(world: &Value) -> String {
    format!(
        "{:<20} {:<12} generation {:>5}  load {:.4}{}{}",
        text(&world["name"]),
        world["owner"].as_str().unwrap_or("nobody"),
        world["generation"],
        world["load"].as_f64().unwrap_or(0.0),
        if world["target"] == world["owner"] { String::new() } else { format!("  goes to {}", text(&world["target"])) },
        if world["pinned"] == true { "  pinned" } else { "" },
    )
}

fn move_line(step: &Value) -> String {
    let from = step["from"].as_str().unwrap_or("nobody");
    format!("{:<20} {from} -> {}  ({})", text(&step["world"]), text(&step["to"]), text(&step["why"]))
}

fn world_line(world: &Value) -> String {
    format!(
        "{:<20} {:<10} tick {:>8}  p99 {:>8.1} us  scripts {:>4}  parked {}  restarts {}{}",
        text(&world["name"]),
        text(&world["state"]),
        world["tick"],
        world["tick_p99_us"].as_f64().unwrap_or(0.0),
        list(&world["scripts"]).len(),
        world["parked"],
        world["restarts"],
        world["cause"].as_str().map_or_else(String::new, |cause| format!("  {cause}")),
    )
}

fn describe(client: &Client, world: &WorldId) -> Result<(Value, Vec<String>), Box<dyn std::error::Error>> {
    let status = client.ask(&Request::Status, &json!({}))?;
    let found = list(&status["worlds"]).iter().find(|status| status["name"] == world.as_str());
    let found = found.ok_or_else(|| format!("there is no world {world} on this node"))?.clone();
    let mut lines = vec![world_line(&found)];
    for script in list(&found["scripts"]) {
        let state = &script["state"];
        let cause = state["cause"].as_str().map_or_else(String::new, |cause| format!(": {cause}"));
        lines.push(format!(
            "  {:<20} {:<12} v{:<4} fuel {:>10}  turns {:>5}  restarts {:>3}  {}{cause}",
            text(&script["name"]),
            text(&script["script"]),
            script["version"],
            script["fuel"],
            script["turns"],
            script["restarts"],
            state["state"].as_str().unwrap_or_else(|| text(state)),
        ));
    }
    Ok((found, lines))
}
