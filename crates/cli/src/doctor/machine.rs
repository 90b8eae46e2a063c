//! The machine and its files: instances, open files, memory, threads, disk, directories, scripts.

use super::{Finding, bad, good, warn};
use aether_cluster::NodeConfig;
use aether_scripting::module::Engines;
use aether_scripting::sandbox::PoolSize;
use rustix::process::{Resource, getrlimit};
use std::fs::OpenOptions;
use std::path::Path;

/// Links, players and the store each have some; below the first a node does not come up, below the second it serves few.
const FILES_BAD: u64 = 256;
const FILES_WARN: u64 = 4_096;
/// A checkpoint is written beside the old ones, and flight records and versions take room too.
const DISK_BAD: u64 = 256 << 20;
const DISK_WARN: u64 = 2 << 30;
/// The process itself, before any script has memory.
const MEMORY_WARN: u64 = 512 << 20;

pub(super) fn look(config: &NodeConfig, base: &Path) -> Vec<Finding> {
    let data_dir = base.join(&config.node.data_dir);
    let mut findings = vec![instances(config), files(getrlimit(Resource::Nofile).current)];
    findings.push(overcommit(&read("/proc/sys/vm/overcommit_memory")));
    findings.push(memory(&read("/proc/meminfo")));
    findings.push(threads(config.node.tick_threads, std::thread::available_parallelism().map_or(1, std::num::NonZero::get)));
    findings.push(directory("data directory", &data_dir));
    findings.push(directory("artifact cache", &base.join(&config.server.aot_cache_dir)));
    if let Ok(disk) = rustix::fs::statvfs(&data_dir) {
        findings.push(disk_left(disk.f_bavail.saturating_mul(disk.f_frsize)));
    }
    findings.push(match (runs(&data_dir), data_dir.join("lock").exists()) {
        (true, _) => warn("files", format!("a node runs with {}: a second one would be refused", data_dir.display())),
        (false, true) => good("files", "no other process has the data directory"),
        (false, false) => good("files", "the data directory was never used"),
    });
    findings.extend(scripts(config, base));
    findings
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Whether a node has the data directory now.
pub(super) fn runs(data_dir: &Path) -> bool {
    let lock = OpenOptions::new().write(true).open(data_dir.join("lock"));
    lock.is_ok_and(|file| file.try_lock().is_err())
}

/// Whether the machine holds as many instances as the file asks for: mappings of memory, address space.
fn instances(config: &NodeConfig) -> Finding {
    let pool = PoolSize { small: config.node.instances_small, large: config.node.instances_large };
    match Engines::new(pool) {
        Ok(_) => good("machine", format!("room for {} small and {} large instances", pool.small, pool.large)),
        Err(error) => bad("machine", error.to_string()),
    }
}

/// `limit`: none is no limit.
fn files(limit: Option<u64>) -> Finding {
    let mend = "raise it with LimitNOFILE= in the service's unit, or `ulimit -n 65536` before the start";
    match limit {
        Some(limit) if limit < FILES_BAD => {
            bad("machine", format!("this process may open {limit} files, too few for links and store: {mend}"))
        }
        Some(limit) if limit < FILES_WARN => warn("machine", format!("this process may open {limit} files: {mend}")),
        Some(limit) => good("machine", format!("this process may open {limit} files")),
        None => good("machine", "this process may open any number of files"),
    }
}

/// `setting`: what vm.overcommit_memory is.
fn overcommit(setting: &str) -> Finding {
    match setting.trim() {
        "2" => warn(
            "machine",
            "vm.overcommit_memory is 2: what instances reserve and do not use counts as used, so fewer fit than the file asks for; \
             `sysctl -w vm.overcommit_memory=0`, or fewer instances_small and instances_large",
        ),
        "" => warn("machine", "whether memory may be reserved is not known: /proc/sys/vm/overcommit_memory cannot be read"),
        _ => good("machine", "memory may be reserved before it is used"),
    }
}

/// `meminfo`: the text of /proc/meminfo.
fn memory(meminfo: &str) -> Finding {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map(|kib| kib << 10);
    match free {
        Some(free) if free < MEMORY_WARN => {
            warn("machine", format!("{} MiB of memory are free: a node alone takes some hundred", free >> 20))
        }
        Some(free) => good("machine", format!("{} MiB of memory are free", free >> 20)),
        None => warn("machine", "how much memory is free is not known: /proc/meminfo cannot be read"),
    }
}

fn threads(wanted: usize, cores: usize) -> Finding {
    if wanted > cores {
        return warn(
            "machine",
            format!("{wanted} tick threads on {cores} cores make each other's ticks late: lower node.tick_threads, or 0"),
        );
    }
    let ticking = if wanted == 0 { cores.saturating_sub(1).max(1) } else { wanted };
    good("machine", format!("{ticking} of {cores} cores tick worlds"))
}

fn directory(what: &str, path: &Path) -> Finding {
    let tried = std::fs::create_dir_all(path).and_then(|()| {
        let probe = path.join(format!(".doctor-{}", std::process::id()));
        std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(probe))
    });
    match tried {
        Ok(()) => good("files", format!("{what} {} can be written", path.display())),
        Err(error) => {
            bad("files", format!("{what} {} cannot be written ({error}): make it, or let this user own it", path.display()))
        }
    }
}

fn disk_left(free: u64) -> Finding {
    let text = format!("{} MiB are free on the disk of the data directory", free >> 20);
    if free < DISK_BAD {
        bad("files", format!("{text}: a world whose checkpoint does not fit stops; free some, or move node.data_dir"))
    } else if free < DISK_WARN {
        warn("files", format!("{text}: free some before it is full"))
    } else {
        good("files", text)
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
        return vec![good("files", "the scripts of all worlds are there (aether script check FILE looks into one)")];
    }
    let say =
        |path: std::path::PathBuf| bad("files", format!("{} is missing: build it, or take it out of the file", path.display()));
    missing.into_iter().map(say).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Mark;

    #[test]
    fn a_limit_that_is_too_low_says_how_to_raise_it() {
        assert_eq!([files(Some(100)).mark, files(Some(1_024)).mark, files(None).mark], [Mark::Bad, Mark::Warn, Mark::Good]);
        assert!(files(Some(100)).text.contains("LimitNOFILE"));
        assert_eq!([overcommit("2\n").mark, overcommit("0\n").mark], [Mark::Warn, Mark::Good]);
        assert_eq!([memory("MemAvailable:  1024 kB").mark, memory("MemAvailable: 9000000 kB").mark], [Mark::Warn, Mark::Good]);
        assert_eq!([threads(4, 2).mark, threads(0, 2).mark], [Mark::Warn, Mark::Good]);
        assert_eq!(
            [disk_left(1 << 20).mark, disk_left(1 << 30).mark, disk_left(1 << 40).mark],
            [Mark::Bad, Mark::Warn, Mark::Good]
        );
    }
}
