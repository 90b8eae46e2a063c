//! `aether token`: who may use the admin address of a node.
//!
//! Works on the token file in the node's data directory, whether the node runs or not; a running node reads it again at the next
//! request. Who makes or revokes one is written to the node's audit log. Not here: what a token may do (`aether_admin::access`), the file itself (`aether_admin::TokenFile`).

use crate::{CommandResult, say};
use aether_admin::{Machine, Role, Token, TokenError, TokenFile, access, audit_path, rfc3339, tokens_path};
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it. It is shown this once: the node keeps only its SHA-256.
    #[command(
        after_help = "Examples:\n  aether token make wall-display --role viewer\n  aether token make ci --role publisher --days 90 --cluster prod.toml"
    )]
    Make {
        /// Who it is for: shown in lists and in the audit log.
        name: String,
        /// viewer: sees. operator: also suspends, saves, restores, moves, rolls back. publisher: also brings new code.
        #[arg(long)]
        role: Role,
        /// It ends after so many days; until it is revoked if this says nothing.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// All tokens, without their secrets.
    #[command(after_help = "Example:\n  aether token list")]
    List,
    /// End a token now, given by its id, or by its name if no other has it.
    #[command(after_help = "Example:\n  aether token revoke ci")]
    Revoke {
        /// Its id or name.
        token: String,
    },
    /// What each role may do.
    #[command(after_help = "Example:\n  aether token roles")]
    Roles,
}

/// `data_dir`: the node's. `as_json`: for programs.
pub(crate) fn run(command: &TokenCommand, data_dir: &Path, as_json: bool) -> CommandResult {
    let path = tokens_path(data_dir);
    let file = TokenFile::new(path.clone());
    let (answer, lines) = match command {
        TokenCommand::Make { name, role, days } => {
            let given = json!({ "name": name, "role": role, "days": days });
            // What is written down is all but the token itself.
            let (token, text) =
                audited(data_dir, "token make", given, || file.make(name, *role, *days), |(token, _)| json_of(token))?;
            let mut answer = json_of(&token);
            answer["token"] = text.as_str().into();
            let explain = format!("the token of {name}, {role}{}; it is not shown again:", until(&token));
            (answer, vec![explain, text])
        }
        TokenCommand::List => {
            let tokens = file.list()?;
            let lines = match tokens.is_empty() {
                true => vec![format!("{} has no token: `aether token make NAME --role ROLE` makes one", path.display())],
                false => tokens.iter().map(line).collect(),
            };
            (tokens.iter().map(json_of).collect(), lines)
        }
        TokenCommand::Revoke { token } => {
            let token = audited(data_dir, "token revoke", json!({ "token": token }), || file.revoke(token), json_of)?;
            (json_of(&token), vec![format!("{} ({}) is revoked", token.name, token.id)])
        }
        TokenCommand::Roles => {
            let row = |access: &access::Access| json!({ "method": access.method, "path": access.path, "role": access.role });
            (access::ACCESS.iter().map(row).collect(), access::table().lines().map(str::to_owned).collect())
        }
    };
    if as_json {
        say(&serde_json::to_string(&answer)?);
    } else {
        lines.iter().for_each(|line| say(line));
    }
    Ok(ExitCode::SUCCESS)
}

/// Change something, and write down who did and what came of it. What cannot be written down is not done.
fn audited<R>(
    data_dir: &Path,
    command: &str,
    given: Value,
    change: impl FnOnce() -> Result<R, TokenError>,
    told: impl FnOnce(&R) -> Value,
) -> Result<R, Box<dyn std::error::Error>> {
    let path = audit_path(data_dir);
    let machine = Machine::open(data_dir)
        .map_err(|error| format!("not done: the audit log {} cannot be written: {error}", path.display()))?;
    let changed = change();
    let outcome = changed.as_ref().map(told).map_err(ToString::to_string);
    let noted = machine.note(command, given, outcome);
    noted.map_err(|error| format!("`aether {command}` was done, but not written to {}: {error}", path.display()))?;
    Ok(changed?)
}

fn day(seconds: u64) -> String {
    rfc3339(seconds * 1_000)[..10].to_owned()
}

fn until(token: &Token) -> String {
    token.ends.map_or_else(String::new, |ends| format!(", until {}", day(ends)))
}

fn line(token: &Token) -> String {
    format!("{}  {:<10} {:<32} made {}{}", token.id, token.role, token.name, day(token.made), until(token))
}

/// Without the digest: nobody needs it.
fn json_of(token: &Token) -> Value {
    json!({ "id": token.id, "name": token.name, "role": token.role, "made": token.made, "ends": token.ends })
}
