//! `aether doctor`: what of this machine, its files, its network and its database would keep a node from running well, and how to mend it.
//!
//! Each check is a function that gives what it found ([`Finding`]); nothing is changed, but the tables of a new database are made. The
//! machine and its files are in [`machine`], ports, certificates and the other nodes in [`network`], the database in [`database`].
//! Not here: a node that runs (`operate`).

mod database;
mod machine;
mod network;

use crate::operate::NodeArgs;
use crate::style::paint;
use crate::{CommandResult, config_file, say};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `aether doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The cluster file.
    file: PathBuf,
    /// Which of its nodes this machine is to be.
    #[arg(long)]
    name: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Good,
    Warn,
    Bad,
}

/// What was looked at, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    mark: Mark,
    /// `config`, `machine`, `files`, `port`, `certificate`, `clock`, `peer` or `database`.
    check: &'static str,
    text: String,
}

fn good(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { mark: Mark::Good, check, text: text.into() }
}

fn warn(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { mark: Mark::Warn, check, text: text.into() }
}

fn bad(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { mark: Mark::Bad, check, text: text.into() }
}

pub(crate) fn run(args: &DoctorArgs, output: &NodeArgs) -> CommandResult {
    let mut config = config_file::load(&args.file)?;
    let base = config_file::folder(&args.file);
    if let Some(name) = &args.name {
        config = config.for_member(name)?;
    }
    let mut findings = vec![good("config", format!("{} can be read, and every field is in its range", args.file.display()))];
    findings.extend(machine::look(&config, base));
    // One that runs has its ports: that they are taken is as it should be.
    let runs = machine::runs(&base.join(&config.node.data_dir));
    findings.extend(network::look(&config, base, runs));
    findings.extend(database::look(&config));
    let worst = findings.iter().map(|finding| finding.mark).max().unwrap_or(Mark::Good);
    let word = |mark: Mark| ["ok", "warn", "BAD"][mark as usize];
    if output.is_json() {
        let row = |finding: &Finding| json!({ "mark": word(finding.mark).to_lowercase(), "check": finding.check, "text": finding.text });
        say(&serde_json::to_string(&findings.iter().map(row).collect::<Vec<_>>())?);
    } else {
        let paint = paint();
        for Finding { mark, check, text } in &findings {
            let word = format!("{:<4}", word(*mark));
            let word = match mark {
                Mark::Good => paint.good(&word),
                Mark::Warn => paint.warn(&word),
                Mark::Bad => paint.bad(&word),
            };
            say(&format!("{word} {check:<11} {text}"));
        }
    }
    Ok(if worst == Mark::Bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
