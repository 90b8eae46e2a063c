//! `aether doctor`: what of this machine, its files and its database would keep a node from running well, and how to mend it.
//!
//! Each check is a function that gives what it found; nothing is changed, but the tables of a new database are made. Not here: a node that
//! runs (`operate`).

use crate::{CommandResult, config_file, say};
use aether_cluster::{ClusterSection, MemberSpec, NodeConfig, pki};
use aether_scripting::module::Engines;
use aether_scripting::sandbox::PoolSize;
use aether_store::{PostgresOptions, PostgresStore};
use clap::Args;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

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
type Finding = (Mark, String);

/// Clocks further apart confuse who reads the logs of two machines.
const CLOCK_MS: i64 = 1_000;
/// A commit takes some round trips, and a tick's output waits for it.
const ROUND_TRIP: Duration = Duration::from_millis(20);

fn good(text: impl Into<String>) -> Finding {
    (Mark::Good, text.into())
}

fn warn(text: impl Into<String>) -> Finding {
    (Mark::Warn, text.into())
}

fn bad(text: impl Into<String>) -> Finding {
    (Mark::Bad, text.into())
}

pub(crate) fn run(args: &DoctorArgs) -> CommandResult {
    let mut config = config_file::load(&args.file)?;
    let base = config_file::folder(&args.file);
    if let Some(name) = &args.name {
        config = config.for_member(name)?;
    }
    let mut findings = vec![good(format!("{} can be read, and every field is in its range", args.file.display()))];
    findings.push(instances(&config));
    findings.push(directory("data directory", &base.join(&config.node.data_dir)));
    findings.push(directory("artifact cache", &base.join(&config.server.aot_cache_dir)));
    findings.push(running(&base.join(&config.node.data_dir)));
    findings.extend(scripts(&config, base));
    match &config.cluster {
        Some(section) => {
            match &section.me {
                Some(me) => {
                    findings.push(port(me));
                    findings.push(certificates(section, me, &base.join(&section.identity)));
                }
                None => findings.push(warn("whose port and certificates to look at is not known: add --name NODE")),
            }
            findings.extend(database(section));
        }
        None => findings.push(good("the file has no [cluster] table: one node, with a database of its own")),
    }
    let mut worst = Mark::Good;
    for (mark, text) in findings {
        worst = worst.max(mark);
        say(&format!("{:<5} {text}", ["ok", "warn", "BAD"][mark as usize]));
    }
    Ok(if worst == Mark::Bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether the machine holds as many instances as the file asks for.
fn instances(config: &NodeConfig) -> Finding {
    let pool = PoolSize { small: config.node.instances_small, large: config.node.instances_large };
    match Engines::new(pool) {
        Ok(_) => good(format!("room for {} small and {} large instances", pool.small, pool.large)),
        Err(error) => bad(error.to_string()),
    }
}

fn directory(what: &str, path: &Path) -> Finding {
    let tried = std::fs::create_dir_all(path).and_then(|()| {
        let probe = path.join(format!(".doctor-{}", std::process::id()));
        std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(probe))
    });
    match tried {
        Ok(()) => good(format!("{what} {} can be written", path.display())),
        Err(error) => bad(format!("{what} {} cannot be written ({error}): make it, or let this user own it", path.display())),
    }
}

/// Whether a node has the data directory now.
fn running(data_dir: &Path) -> Finding {
    let lock = data_dir.join("lock");
    match std::fs::OpenOptions::new().write(true).open(&lock) {
        Ok(file) => match file.try_lock() {
            Ok(()) => good("no other process has the data directory"),
            Err(_) => warn(format!("a node runs with {}: a second one would be refused", data_dir.display())),
        },
        Err(_) => good("the data directory was never used"),
    }
}

fn scripts(config: &NodeConfig, base: &Path) -> Vec<Finding> {
    let mut missing = Vec::new();
    for world in &config.world {
        for script in &world.script {
            let folder = base.join(&world.scripts_dir).join(&script.script);
            for file in ["script.toml".to_owned(), format!("{}.wasm", script.script)] {
                let path = folder.join(file);
                if !path.is_file() && !missing.contains(&path) {
                    missing.push(path);
                }
            }
        }
    }
    if missing.is_empty() {
        return vec![good("the scripts of all worlds are there (aether script check FILE looks into one)")];
    }
    missing.into_iter().map(|path| bad(format!("{} is missing: build it, or take it out of the file", path.display()))).collect()
}

/// Whether the address for other nodes is free.
fn port(me: &MemberSpec) -> Finding {
    let address = me.listen.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let Some(address) = address else {
        return bad(format!("{} is no address of this machine: correct `listen`", me.listen));
    };
    match TcpListener::bind(address) {
        Ok(_) => good(format!("{address} is free for links to other nodes")),
        Err(error) => bad(format!("{address} cannot be listened on ({error}): stop who has it, or choose another `listen`")),
    }
}

fn certificates(section: &ClusterSection, me: &MemberSpec, folder: &Path) -> Finding {
    let again = format!("aether cluster issue {} --ca DIR --out {} --host HOST", me.name, folder.display());
    let info = match pki::check(folder) {
        Ok(info) => info,
        Err(error) => return bad(format!("{error}: {again}")),
    };
    if info.cluster != section.name || info.node != me.name {
        let (cluster, node) = (&info.cluster, &info.node);
        return bad(format!(
            "the certificate is of node {node} of cluster {cluster}, not of {} of {}: {again}",
            me.name, section.name
        ));
    }
    match info.not_after.duration_since(SystemTime::now()) {
        Err(_) => bad(format!("the certificate has run out: {again}")),
        Ok(left) if info.renew => warn(format!("the certificate is good for {} days only: {again}", left.as_secs() / 86_400)),
        Ok(left) => good(format!("the certificate is good for {} days", left.as_secs() / 86_400)),
    }
}

fn database(section: &ClusterSection) -> Vec<Finding> {
    let options = PostgresOptions { schema: Some(section.schema.clone()), ..PostgresOptions::default() };
    let examined = PostgresStore::open(&section.store, options).and_then(|store| store.examine());
    let examined = match examined {
        Ok(examined) => examined,
        Err(error) => return vec![bad(format!("{error}: start it, or correct `store` (AETHER_CLUSTER__STORE)"))],
    };
    let version = examined.version.split(',').next().unwrap_or_default().to_owned();
    let mut findings = vec![if examined.round_trip > ROUND_TRIP {
        warn(format!("{version} takes {} ms to answer: every commit does that some times", examined.round_trip.as_millis()))
    } else {
        good(format!("{version} answers in {} us", examined.round_trip.as_micros()))
    }];
    findings.push(if examined.clock_ahead_ms.abs() > CLOCK_MS {
        warn(format!(
            "this machine's clock is {} ms ahead of the database's: no world depends on it, but logs will not fit together; run NTP",
            examined.clock_ahead_ms
        ))
    } else {
        good("this machine's clock and the database's agree")
    });
    let finding = |(text, mistake): (String, bool)| {
        if mistake { bad(format!("database: {text}")) } else { warn(format!("database: {text}")) }
    };
    findings.extend(examined.findings.into_iter().map(finding));
    findings
}
