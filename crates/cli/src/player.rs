//! `aether player`: a token for one player, as a game's login server makes it.
//!
//! For trying things out, and for login servers that would rather call a program than sign by themselves. What is in a token:
//! `aether_admin::gateway::pass`.

use crate::operate::{self, NodeArgs};
use crate::run::players_secret;
use crate::{CommandResult, config_file, say};
use aether_admin::gateway::pass::{GUEST, Pass, PassKeys};
use clap::Subcommand;
use serde_json::json;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Subcommand)]
pub(crate) enum PlayerCommand {
    /// Sign a token with the secret of the node's file, which is made if it is not there, and print it.
    #[command(after_help = "Example:\n  aether player token --player 7 --name Ada --world town-1 --minutes 60")]
    Token {
        /// The player's number: what scripts know the player by.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..GUEST))]
        player: u64,
        /// What the player is called, 47 bytes at most.
        #[arg(long, default_value = "")]
        name: String,
        /// The only world that it opens; all if this says nothing.
        #[arg(long)]
        world: Option<String>,
        /// How long it is good. A session that has begun goes on after that.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=525_600))]
        minutes: u64,
    },
}

pub(crate) fn run(command: &PlayerCommand, node: &NodeArgs) -> CommandResult {
    let PlayerCommand::Token { player, name, world, minutes } = command;
    let config = operate::config(node)?;
    let keys = PassKeys::open(players_secret(&config, config_file::folder(&node.cluster)))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let pass = Pass { sub: player.to_string(), name: name.clone(), world: world.clone(), exp: now + 60 * minutes, nbf: None };
    let token = keys.sign(&pass)?;
    if node.is_json() {
        say(&json!({ "player": player, "name": name, "world": world, "exp": pass.exp, "token": token }).to_string());
    } else {
        say(&token);
    }
    Ok(ExitCode::SUCCESS)
}
