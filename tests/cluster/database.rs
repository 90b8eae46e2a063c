//! A private PostgreSQL that can be stopped and goes on, and what it has of what scripts wrote.
//!
//! Start with [`Database::start`]. It has a folder and a port of its own and ends with the test. It does not wait for the disk: a process
//! that is killed loses nothing that the system has, and nobody switches the machine off here. One [`on_slow_disk`](Database::on_slow_disk)
//! does. Not here: the store's own tests.

use super::checker::{Kept, Worlds};
use super::disk::SlowDisk;
use super::postgres::programs;
use super::rig::{DEADLINE, free_port};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The schema that the nodes are told to use.
pub const SCHEMA: &str = "aether";

/// Ends when it is dropped.
pub struct Database {
    dir: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    /// PostgreSQL does not run as root: it runs as this user then.
    user: Option<(u32, u32)>,
    /// What it writes to and waits for, if it waits for the disk at all.
    disk: Option<SlowDisk>,
    server: Option<Child>,
}

/// User and group of `postgres`, if we are root.
fn user() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then(|| {
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let fields = users.lines().find_map(|line| line.strip_prefix("postgres:")).expect("there is a user postgres");
        let mut fields = fields.split(':').skip(1).map(|field| field.parse().unwrap());
        (fields.next().unwrap(), fields.next().unwrap())
    })
}

impl Database {
    pub fn start() -> Database {
        let mut database = Database::made();
        database.begin();
        database
    }

    /// The same on a disk that may be slow, or hang.
    pub fn on_slow_disk() -> Database {
        let mut database = Database::made();
        database.disk = Some(SlowDisk::below(&database.data(), database.dir.path()));
        database.begin();
        database
    }

    /// Its disk, if it has one that may be slow.
    pub fn disk(&self) -> &SlowDisk {
        self.disk.as_ref().expect("it was started on a slow disk")
    }

    fn made() -> Database {
        let dir = tempfile::Builder::new().prefix("aether-postgres-").tempdir().unwrap();
        let database = Database { dir, bin: programs(), port: free_port(), user: user(), disk: None, server: None };
        if let Some((user, group)) = database.user {
            chown(database.dir.path(), Some(user), Some(group)).unwrap();
        }
        let data = database.data();
        let mut command = database.program("initdb");
        command.args(["-A", "trust", "-U", "aether", "-E", "UTF8", "--no-locale", "--no-sync", "-D"]).arg(&data);
        let output = command.output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        database
    }

    /// A second server that has all that this one has, and gets what is committed here before that is acknowledged.
    #[track_caller]
    pub fn standby(&self) -> Database {
        let dir = tempfile::Builder::new().prefix("aether-standby-").tempdir().unwrap();
        let mut standby = Database { dir, bin: self.bin.clone(), port: free_port(), user: self.user, disk: None, server: None };
        if let Some((user, group)) = standby.user {
            chown(standby.dir.path(), Some(user), Some(group)).unwrap();
        }
        let mut copy = standby.program("pg_basebackup");
        let primary = format!("host=127.0.0.1 port={} user=aether application_name=standby", self.port);
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", &primary, "-D"]).arg(standby.data());
        let output = copy.output().unwrap();
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        standby.begin();
        self.wait_for_standbys(true);
        let deadline = Instant::now() + DEADLINE;
        while self.query("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").unwrap().trim() != "1" {
            assert!(Instant::now() < deadline, "the standby does not follow\n{}", standby.log());
            sleep(Duration::from_millis(20));
        }
        standby
    }

    /// From now on a commit is over only when a standby has it too: never, if there is none. As a disk that hangs.
    #[track_caller]
    pub fn wait_for_standbys(&self, wait: bool) {
        let names = if wait { "*" } else { "" };
        // Two statements: the first is not allowed in a transaction with another.
        self.query(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).unwrap();
        self.query("SELECT pg_reload_conf()").unwrap();
    }

    /// A standby becomes the server that is written to.
    #[track_caller]
    pub fn promote(&self) {
        let promoted = self.query("SELECT pg_promote()").unwrap();
        assert_eq!(promoted.trim(), "t", "{}", self.log());
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A program of PostgreSQL's, as the right user; it dies with the test's thread.
    fn program(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        let setpriv = Path::new("/usr/bin/setpriv");
        if !setpriv.exists() {
            return Command::new(program);
        }
        let mut command = Command::new(setpriv);
        if let Some((user, group)) = self.user {
            command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups"]);
        }
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to reach it, directly or by a proxy's port.
    pub fn url(&self, port: u16) -> String {
        format!("postgres://aether@127.0.0.1:{port}/postgres")
    }

    pub fn is_up(&self) -> bool {
        self.server.is_some()
    }

    /// Start it where it stopped, and wait until it answers.
    #[track_caller]
    pub fn begin(&mut self) {
        assert!(self.server.is_none(), "it runs");
        // Nobody may have reaped the old one, whose number then looks alive.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        for setting in ["unix_socket_directories=", "max_connections=300", "shared_buffers=32MB"] {
            command.args(["-c", setting]);
        }
        match &self.disk {
            Some(disk) => command.envs(disk.variables()),
            None => command.args(["-c", "fsync=off"]),
        };
        self.server = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = self.query("SELECT 1") {
            assert!(Instant::now() < deadline, "PostgreSQL does not answer: {error}\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// Stop it, and wait for its end. `immediate`: as by a crash, after which it has to recover; else it only ends its connections.
    #[track_caller]
    pub fn stop(&mut self, immediate: bool) {
        let mut server = self.server.take().expect("it runs");
        kill_process(Pid::from_child(&server), if immediate { Signal::QUIT } else { Signal::INT }).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while server.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "PostgreSQL does not stop\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// One statement, and so one snapshot; what it gives, as text.
    pub fn query(&self, sql: &str) -> Result<String, String> {
        let mut command = Command::new("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.url(self.port), "-c", sql]).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("psql: {error}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// What it has of all worlds.
    #[track_caller]
    pub fn kept(&self) -> Worlds<Kept> {
        let sql = format!(
            "SELECT json_build_object(
               'worlds', (SELECT coalesce(json_agg(json_build_array(world_id, epoch, commit_seq)), '[]') FROM {SCHEMA}.world),
               'keys', (SELECT coalesce(json_agg(json_build_array(world_id, ns, k, encode(v, 'hex'))), '[]')
                          FROM {SCHEMA}.world_kv WHERE v IS NOT NULL AND NOT (ns = 'sender' AND k LIKE 'o%')))"
        );
        let text = self.query(&sql).unwrap_or_else(|error| panic!("{error}"));
        read(&serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Its children see that it has gone.
            let _ = kill_process(Pid::from_child(&server), Signal::QUIT);
            let deadline = Instant::now() + Duration::from_secs(10);
            while server.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
                sleep(Duration::from_millis(5));
            }
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Numbers are eight bytes, the lowest first.
fn read(snapshot: &Value) -> Worlds<Kept> {
    let rows = |what: &str| snapshot[what].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned();
    let mut worlds = Worlds::new();
    for row in rows("worlds") {
        let [generation, commits] = [1, 2].map(|field| row[field].as_u64().unwrap_or_else(|| panic!("{row}")));
        worlds.insert(text(&row[0]), Kept { generation, commits, ..Kept::default() });
    }
    for row in rows("keys") {
        let number = u64::from_str_radix(&text(&row[3]), 16).unwrap_or_else(|error| panic!("{error}: {row}")).swap_bytes();
        worlds.get_mut(&text(&row[0])).expect("a world").put(&text(&row[1]), &text(&row[2]), number);
    }
    worlds
}

#[test]
fn the_database_of_the_tests_stops_goes_on_and_tells_what_scripts_wrote() {
    let mut database = Database::start();
    let made = "CREATE SCHEMA aether; CREATE TABLE aether.world (world_id TEXT, epoch BIGINT, commit_seq BIGINT);
                CREATE TABLE aether.world_kv (world_id TEXT, ns TEXT, k TEXT, v BYTEA);
                INSERT INTO aether.world VALUES ('w1', 3, 7), ('w2', 1, 0);
                INSERT INTO aether.world_kv VALUES ('w1', 'ledger', 'counter', '\\x0102000000000000'),
                  ('w1', 'sender', 'oaaa', '\\x00'), ('w2', 'ledger', 'counter', NULL)";
    database.query(made).unwrap();
    for immediate in [true, false] {
        database.stop(immediate);
        assert!(database.query("SELECT 1").is_err());
        database.begin();
        let kept = database.kept();
        assert_eq!(kept["w1"], Kept { generation: 3, commits: 7, counter: 0x201, ..Kept::default() });
        assert_eq!(kept["w2"], Kept { generation: 1, ..Kept::default() });
    }
}
