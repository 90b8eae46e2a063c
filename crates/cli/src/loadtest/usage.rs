//! What processes of this machine use, read from `/proc`. Not here: what becomes of it (`look`).

use std::path::{Path, PathBuf};

/// What processes use, added up; what is not known is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub files: Option<u64>,
    pub tasks: Option<u64>,
    pub disk_bytes: Option<u64>,
}

impl Usage {
    /// Of processes of this machine and what is in their data directories.
    pub fn of(processes: &[u32], dirs: &[PathBuf]) -> Usage {
        let sum = |one: fn(u32) -> Option<u64>| processes.iter().map(|id| one(*id)).sum::<Option<u64>>();
        Usage {
            // Ticks of the scheduler's clock are hundredths everywhere.
            cpu_seconds: sum(cpu_ticks).map(|ticks| ticks as f64 / 100.0),
            resident_bytes: sum(|id| Some(status(id, "VmRSS:")? << 10)),
            threads: sum(|id| status(id, "Threads:")),
            files: sum(|id| Some(std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count() as u64)),
            tasks: None,
            disk_bytes: Some(dirs.iter().map(|dir| size(dir)).sum()),
        }
    }
}

fn cpu_ticks(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name is in brackets and may hold anything; after it, user and system time are fields 12 and 13.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn status(process: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes of files below a directory. Files that go meanwhile do not count.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let Ok(entry) = entry else { return 0 };
        match entry.metadata() {
            Ok(data) if data.is_dir() => size(&entry.path()),
            Ok(data) if data.is_file() => data.len(),
            _ => 0,
        }
    };
    entries.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), [0; 1_000]).unwrap();
        let usage = Usage::of(&[std::process::id()], &[dir.path().to_owned()]);
        assert!(usage.cpu_seconds.is_some() && usage.resident_bytes > Some(1 << 20) && usage.threads >= Some(1), "{usage:?}");
        assert!(usage.files >= Some(3) && usage.disk_bytes == Some(1_000), "{usage:?}");
        assert_eq!(Usage::of(&[u32::MAX], &[]).cpu_seconds, None);
    }
}
