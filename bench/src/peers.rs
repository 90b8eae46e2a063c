//! The other systems: which there are, how each is built, how a cell of it is run.
//!
//! Their programs are in `bench/peers`, a workspace of its own. What cannot be built or is not installed is left out, and said.

use crate::record::{Record, read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A row of the tables that another system fills.
pub(crate) struct Peer {
    /// As the tables name it.
    pub(crate) who: &'static str,
    program: Program,
    /// The workloads that it can do, and with how many.
    pub(crate) cells: &'static [(&'static str, usize)],
}

#[derive(Clone, Copy, PartialEq)]
enum Program {
    Actors,
    Luau,
    LuaJit,
    Erlang,
}

const LUA: &[(&str, usize)] = &[
    ("W1", 100),
    ("W1", 1_000),
    ("W1", 10_000),
    ("W2", 200),
    ("W3", 1_000),
    ("W3w", 500),
    ("W4", 1_000),
    ("W5", 1_000),
    ("W6", 1_000),
];
const ERLANG: &[(&str, usize)] = &[
    ("W1", 100),
    ("W1", 1_000),
    ("W1", 10_000),
    ("W2", 200),
    ("W3", 1_000),
    ("W3", 10_000),
    ("W3w", 500),
    ("W4", 1_000),
    ("W5", 1_000),
    ("W6", 1_000),
    ("W7", 1),
];
const RACTOR: &[(&str, usize)] =
    &[("W1", 100), ("W1", 1_000), ("W1", 10_000), ("W3", 1_000), ("W3", 10_000), ("W3w", 500), ("W6", 1_000), ("W7", 1)];

pub(crate) const PEERS: &[Peer] = &[
    Peer { who: "luau-thread", program: Program::Luau, cells: LUA },
    Peer { who: "luau", program: Program::Luau, cells: LUA },
    Peer { who: "luajit", program: Program::LuaJit, cells: LUA },
    Peer { who: "luajit-off", program: Program::LuaJit, cells: LUA },
    Peer { who: "erlang", program: Program::Erlang, cells: ERLANG },
    Peer { who: "ractor", program: Program::Actors, cells: RACTOR },
    Peer { who: "tokio", program: Program::Actors, cells: &[("W1", 1_000), ("W7", 1)] },
    Peer { who: "tls", program: Program::Actors, cells: &[("W7n", 1)] },
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn built() -> PathBuf {
    folder().join("target/release")
}

fn works(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it said nothing").to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    // Its own target directory, whatever the one of this build is.
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked"]).args(arguments).current_dir(folder());
    works(command.env_remove("CARGO_TARGET_DIR").env("CARGO_TARGET_DIR", folder().join("target")))
}

/// Builds what can be built; gives those that cannot be used, and why.
pub(crate) fn build() -> Vec<(&'static str, String)> {
    let mut missing = Vec::new();
    for (program, result) in [
        (Program::Actors, cargo(&["-p", "peer-actors"])),
        (Program::Luau, cargo(&["-p", "peer-lua", "--features", "luau", "--bin", "peer-luau"])),
        (Program::LuaJit, cargo(&["-p", "peer-lua", "--features", "luajit", "--bin", "peer-luajit"])),
        (Program::Erlang, erlang()),
    ] {
        if let Err(reason) = result {
            missing.extend(PEERS.iter().filter(|peer| peer.program == program).map(|peer| (peer.who, reason.clone())));
        }
    }
    missing
}

fn erlang() -> Result<(), String> {
    std::fs::create_dir_all(built()).map_err(|error| error.to_string())?;
    works(Command::new("erlc").arg("-o").arg(built()).arg(folder().join("erlang/bench.erl")))
        .map_err(|reason| format!("erlc, of erlang-base: {reason}"))
}

impl Peer {
    /// Measure one cell.
    pub(crate) fn measure(&self, w: &str, n: usize) -> Result<Vec<Record>, String> {
        let mut command = match self.program {
            Program::Erlang => {
                let mut command = Command::new("erl");
                command.args(["+S", "1:1", "+P", "2000000", "-noshell", "-s", "bench", "main", w]).current_dir(built());
                command
            }
            program => {
                let name = match program {
                    Program::Luau => "peer-luau",
                    Program::LuaJit => "peer-luajit",
                    Program::Actors | Program::Erlang => "peer-actors",
                };
                let mut command = Command::new(built().join(name));
                command.args([self.who, w]);
                command
            }
        };
        records(command.arg(n.to_string()))
    }
}

/// What a program says of a cell.
pub(crate) fn records(command: &mut Command) -> Result<Vec<Record>, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason =
            said.lines().find(|line| !line.trim().is_empty() && !line.contains("panicked at")).unwrap_or("it said nothing");
        return Err(reason.to_owned());
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)).collect())
}
