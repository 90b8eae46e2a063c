//! The audit log: a JSON object a line for every change, with who, what and how it went.
//!
//! Start with [`Audit`]. A change is refused when it could not be written down; the file is renamed to `.1` … `.4` as it grows. Not here:
//! what is a change (`access`), who asks (`gate`).
//!
//! A node is not the only one who writes: `aether token` changes who may use it without asking it. [`Machine`] is its way in.

use crate::access::Role;
use crate::clock;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A line.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    pub time: String,
    /// The token's id; `socket` and `loopback` for those who need none; `uid N` for a command on the machine.
    pub who: &'a str,
    /// The token's name, or the user's.
    pub name: &'a str,
    pub role: Role,
    /// The address that it came from.
    pub from: Option<String>,
    pub method: &'a str,
    pub path: &'a str,
    /// What the request's body said, if that was short.
    pub given: Option<Value>,
    pub status: u16,
    /// What was answered, if that was short: the new version, the reason of a refusal.
    pub answer: Option<Value>,
}

/// Bytes of one file.
const FILE_MAX: u64 = 16 << 20;
/// Files kept besides the one that is written.
const KEPT: u32 = 4;

/// The socket and the address of one node write to one file, and both rename it. Other processes are kept out by a lock file.
static WRITING: Mutex<()> = Mutex::new(());

/// Where a node with this data directory writes its audit log.
pub fn audit_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin").join("audit.jsonl")
}

/// The file that lines are added to.
pub(crate) struct Audit {
    path: PathBuf,
    file_max: u64,
}

impl Audit {
    pub fn new(path: PathBuf) -> Audit {
        Audit { path, file_max: FILE_MAX }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)
    }

    /// Whether a line could be added now.
    pub fn check(&self) -> io::Result<()> {
        self.open().map(drop)
    }

    /// Add a line. Opened for each: changes are rare, and nothing has to be kept in step with renaming.
    pub fn write(&self, record: &Record<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.path.with_extension("lock"))?;
        lock.lock()?;
        let mut file = self.open()?;
        let length = file.metadata()?.len();
        if length > 0 && length + line.len() as u64 > self.file_max {
            self.rename()?;
            file = self.open()?;
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    fn rename(&self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..KEPT).rev() {
            match std::fs::rename(numbered(n), numbered(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))
    }
}

/// A body as a line's field: what is no JSON, or long, is left out, and so is what a script logged when it was refused.
pub(crate) fn brief(bytes: &[u8]) -> Option<Value> {
    const BRIEF: usize = 2_048;
    const READ: usize = 32 << 10;
    let mut value: Value = (bytes.len() <= READ).then(|| serde_json::from_slice(bytes).ok()).flatten()?;
    let short = bytes.len() <= BRIEF
        || value.as_object_mut().is_some_and(|fields| fields.remove("log").is_some()) && value.to_string().len() <= BRIEF;
    short.then_some(value)
}

/// Changes that are made on the machine by a command, without asking the node: whoever may write its files may make them.
pub struct Machine {
    audit: Audit,
    who: String,
    name: String,
}

impl Machine {
    /// The user that this process runs as, at the node with this data directory. Fails if what they do could not be written down.
    pub fn open(data_dir: &Path) -> io::Result<Machine> {
        let audit = Audit::new(audit_path(data_dir));
        if let Some(folder) = audit.path.parent() {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        }
        audit.check()?;
        let uid = rustix::process::getuid().as_raw();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Ok(Machine { audit, who: format!("uid {uid}"), name: user_name(&users, uid).unwrap_or_default().to_owned() })
    }

    /// A command, what it was given, and what came of it: `Err` with the reason if nothing did.
    pub fn note(&self, command: &str, given: Value, outcome: Result<Value, String>) -> io::Result<()> {
        let (status, answer) = match outcome {
            Ok(answer) => (200, answer),
            Err(reason) => (409, json!({ "detail": reason })),
        };
        self.audit.write(&Record {
            time: now(),
            who: &self.who,
            name: &self.name,
            role: Role::Publisher,
            from: None,
            method: "COMMAND",
            path: command,
            given: Some(given),
            status,
            answer: Some(answer),
        })
    }
}

/// The name of a user in the text of a passwd file; users of a directory service have a number only.
fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// Now, as lines have it.
pub(crate) fn now() -> String {
    clock::rfc3339(clock::now_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_loses_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit { path: dir.path().join("audit.jsonl"), file_max: 1_000 };
        let write = |n: u16| {
            let record = Record {
                time: now(),
                who: "socket",
                name: "",
                role: Role::Publisher,
                from: None,
                method: "POST",
                path: "/v1/collect",
                given: None,
                status: n,
                answer: None,
            };
            audit.write(&record).unwrap();
        };
        (0..100).for_each(write);
        let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_none_or(|extension| extension != "lock"));
        files.sort();
        assert_eq!(files.len(), 1 + KEPT as usize);
        let mut seen = Vec::new();
        // .4 is the oldest, the one without a number the newest.
        for file in files[1..].iter().rev().chain(&files[..1]) {
            assert!(std::fs::metadata(file).unwrap().len() <= 1_000);
            for line in std::fs::read_to_string(file).unwrap().lines() {
                seen.push(serde_json::from_str::<Value>(line).unwrap()["status"].as_u64().unwrap());
            }
        }
        assert_eq!(*seen.last().unwrap(), 99);
        assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
    }

    #[test]
    fn a_module_is_not_copied_into_the_log() {
        assert_eq!(brief(&[b'1'; 3_000]), None);
        assert_eq!(brief(b"not json"), None);
        assert_eq!(brief(br#"{"pinned":true}"#), Some(json!({ "pinned": true })));
    }

    #[test]
    fn the_reason_of_a_refusal_is_kept_when_what_was_logged_is_long() {
        let problem = json!({ "detail": "rolled back", "log": vec!["x".repeat(100); 30] });
        assert_eq!(brief(problem.to_string().as_bytes()), Some(json!({ "detail": "rolled back" })));
        let long = json!({ "detail": "x".repeat(3_000), "log": [] });
        assert_eq!(brief(long.to_string().as_bytes()), None);
    }

    #[test]
    fn a_user_is_called_as_the_machine_calls_them() {
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!((user_name(users, 1_000), user_name(users, 0), user_name(users, 7)), (Some("ada"), Some("root"), None));
    }
}
