//! A real PostgreSQL for tests: a server of this process's own, on a free port of this machine, with its data in a temporary directory.
//!
//! [`shared`] is the one that tests share, each in a schema of its own ([`Server::fresh_schema`]); whoever stops a server or cuts its
//! connections starts one with [`Server::start`]. A shell looks after each server (`guardian.sh`): it hears through a pipe that the test
//! has ended, however it ended, then ends the server and removes its data. Only the standard library is used, so that other test crates
//! can include this folder.

#![allow(dead_code, reason = "not every test binary that includes this needs all of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

const GUARDIAN: &str = include_str!("guardian.sh");
/// Between looking for a free port and taking it, somebody else may.
const START_TRIES: usize = 5;

/// A running server. Dropped, it is gone.
pub struct Server {
    bin: PathBuf,
    port: u16,
    dir: PathBuf,
    guardian: Mutex<Guardian>,
}

struct Guardian {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// The server that the tests of this process share.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[]))
}

impl Server {
    /// A server with settings of its own, such as `ssl=on`.
    pub fn start(settings: &[&str]) -> Server {
        Server::start_with(settings, |_| {})
    }

    /// The same; `prepare` gets the data directory before the server does. Files in it belong to the server's user afterwards.
    pub fn start_with(settings: &[&str], prepare: impl Fn(&Path)) -> Server {
        let bin = programs();
        let mut last = String::new();
        for _ in 0..START_TRIES {
            match Server::try_start(&bin, settings, &prepare) {
                Ok(server) => return server,
                Err(error) => last = error,
            }
        }
        panic!("PostgreSQL of {} did not start in {START_TRIES} tries: {last}", bin.display());
    }

    fn try_start(bin: &Path, settings: &[&str], prepare: &dyn Fn(&Path)) -> Result<Server, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aether-postgres-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(|e| e.to_string())?.port();
        let mut process = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian"])
            .args([bin.as_os_str(), dir.as_os_str()])
            .arg(port.to_string())
            .args(settings)
            // The server's user may not look into the directory of the tests.
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        let (commands, answers) = (process.stdin.take(), BufReader::new(process.stdout.take().expect("it was piped")));
        let guardian = Mutex::new(Guardian { process, commands, answers });
        let server = Server { bin: bin.to_owned(), port, dir, guardian };
        server.tell("init")?;
        prepare(&server.dir.join("data"));
        server.tell("start")?;
        Ok(server)
    }

    /// Where it is, for a store.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same behind another port of this machine.
    pub fn url_at(&self, port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of a schema that nobody uses yet.
    pub fn fresh_schema(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Stop it as an operator does: what runs is broken off, everything is written.
    pub fn stop(&self) {
        self.tell("stop").expect("the server stops");
    }

    /// Stop it as a power failure does: it recovers from its log at the next start.
    pub fn crash(&self) {
        self.tell("crash").expect("the server stops");
    }

    /// Start it again after [`Server::stop`] or [`Server::crash`].
    pub fn start_again(&self) {
        self.tell("start").expect("the server starts again");
    }

    /// Statements by `psql`; gives the rows as text, columns between `|`.
    pub fn sql(&self, sql: &str) -> Vec<String> {
        let output = self.psql(sql).output().expect("psql runs");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// `psql` with some statements, not yet started.
    pub fn psql(&self, sql: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(), "-c", sql]).env_clear().current_dir("/");
        psql
    }

    fn tell(&self, command: &str) -> Result<(), String> {
        let mut guardian = self.guardian.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let commands = guardian.commands.as_mut().expect("it is taken when the server is dropped");
        writeln!(commands, "{command}").map_err(|error| error.to_string())?;
        let mut answer = String::new();
        guardian.answers.read_line(&mut answer).map_err(|error| error.to_string())?;
        match answer.trim_end() {
            "ok" => Ok(()),
            "" => Err("its guardian ended".to_owned()),
            other => Err(other.to_owned()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let guardian = self.guardian.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        guardian.commands = None;
        let _ = guardian.process.wait();
    }
}

/// The directory of `initdb` and `postgres`. Installs them if they are missing and that can be done here.
pub fn programs() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            find().unwrap_or_else(|| {
                let said = install();
                find().unwrap_or_else(|| {
                    panic!(
                        "PostgreSQL is missing, and these tests need it: install the package `postgresql` (15 or newer), or put its \
                         initdb, postgres and psql in PATH. tests/install-postgres.sh said: {said}"
                    )
                })
            })
        })
        .clone()
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    debian.sort();
    let whole = |dir: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|program| dir.join(program).is_file());
    std::env::split_paths(&path).chain(debian.into_iter().rev()).find(whole)
}

fn install() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("tests/install-postgres.sh"))
        .find(|path| path.is_file());
    let Some(script) = script else { return "it was not found".to_owned() };
    match Command::new("sh").arg(script).stdin(Stdio::null()).output() {
        Ok(output) => format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        Err(error) => error.to_string(),
    }
}
