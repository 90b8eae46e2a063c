//! A disk that is slow, for a process that is tested: a library of ours (`disk.c`) is loaded into it, and delays what it flushes and
//! writes below a directory. Needs no rights, and no other process notices.
//!
//! Start with [`SlowDisk::below`]. The C compiler that builds SQLite builds the library. Not here: a disk that loses what it had said
//! was written; files that a program maps into its memory.

use crate::program::root;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// So long that it is a disk that hangs.
pub const HANGS: Duration = Duration::from_secs(3_600);

/// See the file. As good as any other disk until it is told otherwise.
pub struct SlowDisk {
    library: PathBuf,
    control: PathBuf,
    under: PathBuf,
}

impl SlowDisk {
    /// For what is below `under`, which need not be there yet. The library and what it is told are put into `dir`.
    #[track_caller]
    pub fn below(under: &Path, dir: &Path) -> SlowDisk {
        // It compares the names that the system has for open files.
        let parent = under.parent().unwrap().canonicalize().unwrap();
        let under = parent.join(under.file_name().unwrap());
        let disk = SlowDisk { library: dir.join("slow-disk.so"), control: dir.join("slow-disk"), under };
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut compile = Command::new(&compiler);
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&disk.library).arg(root().join("tests/disk.c"));
        let output = compile.arg("-ldl").output();
        let output = output.unwrap_or_else(|error| panic!("no C compiler {compiler}, which the README asks for: {error}"));
        assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
        disk.heal();
        disk
    }

    /// Of a process that is to have it.
    pub fn variables(&self) -> [(&'static str, &str); 3] {
        let all = [("LD_PRELOAD", &self.library), ("SLOW_DISK", &self.control), ("SLOW_DISK_UNDER", &self.under)];
        all.map(|(name, path)| (name, path.to_str().unwrap()))
    }

    /// From now on each flush and each write takes so long, also those that wait already.
    pub fn takes(&self, flush: Duration, write: Duration) {
        // Whole or not at all: it may be read at any moment.
        let new = self.control.with_extension("new");
        fs::write(&new, format!("{} {}", flush.as_millis(), write.as_millis())).unwrap();
        fs::rename(&new, &self.control).unwrap();
    }

    /// Nothing is flushed any more, and nothing told of it.
    pub fn hang(&self) {
        self.takes(HANGS, Duration::ZERO);
    }

    pub fn heal(&self) {
        self.takes(Duration::ZERO, Duration::ZERO);
    }
}
