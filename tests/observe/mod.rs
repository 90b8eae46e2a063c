//! What operators see of a node, through the program as they use it: commands, metrics, flight records.
//!
//! Start with [`Yard`]: a node with a world of three scripts, one that crashes, one that says too much, one that is well. What is checked
//! of the files for Prometheus and Grafana is in [`rules`], `aether doctor` in [`doctor`]. Not here: the API and the dashboard (`web`),
//! nodes of a cluster (`tests/cluster`).

mod doctor;
mod rules;

use crate::program::command;
use aether_admin::metrics::{METRICS, Source};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Of every wait: debug builds compile scripts, beside all other tests.
const DEADLINE: Duration = Duration::from_secs(60);

/// A program that runs beside the test and ends with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Traps in every tick.
const CRASHER: &str = r#"(module (memory (export "memory") 1) (func (export "aether_abi_1"))
    (func (export "on_tick") (param f32) unreachable))"#;
/// Five lines a tick: five times as many as it may.
const LOUD: &str = r#"(module (import "aether:script" "log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (data (i32.const 0) "hear, hear") (func (export "aether_abi_1"))
    (func $say (drop (call $log (i32.const 2) (i32.const 0) (i32.const 10))))
    (func (export "on_tick") (param f32) (call $say) (call $say) (call $say) (call $say) (call $say)))"#;
const QUIET: &str =
    r#"(module (memory (export "memory") 1) (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#;

/// A node with one world, `yard`.
struct Yard {
    dir: tempfile::TempDir,
    node: Running,
    admin: SocketAddr,
}

fn lines(node: &mut Child) -> impl Iterator<Item = String> + use<> {
    let out: ChildStdout = node.stdout.take().unwrap();
    BufReader::new(out).lines().map_while(Result::ok)
}

/// The folder of a script.
fn put_script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let folder = dir.join("scripts").join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.wasm")), wat::parse_str(text).unwrap()).unwrap();
    fs::write(folder.join("script.toml"), format!("name = \"{name}\"\n[limits]\nfuel = 100000\nmemory_mb = 1\n")).unwrap();
    folder
}

impl Yard {
    fn start() -> Yard {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("crasher", CRASHER), ("loud", LOUD), ("quiet", QUIET)] {
            put_script(dir.path(), name, text);
        }
        let text = "[node]\nname = \"yard-node\"\ndata_dir = \"data\"\ninstances_small = 40\ninstances_large = 2\n\
             [server]\naot_cache_dir = \"cache\"\n[admin]\nlisten = \"127.0.0.1:0\"\nrequire_token = false\n[gateway]\nlisten = \"127.0.0.1:0\"\n\
             [limits]\nrestart_intensity = 3\nrestart_backoff_ms = 1\ncheckpoint_seconds = 1.0\n\
             [[world]]\nname = \"yard\"\nscripts_dir = \"scripts\"\n\
             [[world.script]]\nscript = \"crasher\"\n[[world.script]]\nscript = \"loud\"\n[[world.script]]\nscript = \"quiet\"\n";
        fs::write(dir.path().join("node.toml"), text).unwrap();
        let mut process =
            command().args(["run", "--plain"]).arg(dir.path().join("node.toml")).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = lines(&mut process);
        let mut node = Running(process);
        let url = said.find_map(|line| line.strip_prefix("dashboard at http://").map(str::to_owned));
        let url = url.unwrap_or_else(|| panic!("the node ended: {:?}", node.0.wait()));
        // Nobody else reads what it prints.
        std::thread::spawn(move || said.for_each(drop));
        Yard { dir, node, admin: url.trim_end_matches('/').parse().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("node.toml")
    }

    /// A command to it, not begun.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut asked = command();
        asked.args(arguments).arg("--cluster").arg(self.file());
        asked
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints, which must be good.
    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Until the script that crashes is parked and written down; the file.
    #[track_caller]
    fn record(&self) -> PathBuf {
        let folder = self.dir.path().join("data/flight");
        let mut found = None;
        wait("a flight record", || {
            let files = fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path());
            found = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "json"));
            found.is_some()
        });
        found.unwrap()
    }
}

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_script_that_keeps_crashing_is_parked_and_the_flight_record_names_the_causes() {
    let yard = Yard::start();
    let path = yard.record();
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("yard-"), "{path:?}");
    let record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((record["world"].as_str(), record["node"].as_str()), (Some("yard"), Some("yard-node")));
    assert!(record["reason"].as_str().unwrap().contains("script crasher parked"), "{record:#}");
    let events = record["events"].as_array().unwrap();
    let of = |kind: &str| events.iter().filter(|event| event["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of("claimed").len(), of("started").len()), (1, 1), "{record:#}");
    assert_eq!((of("script_ended").len(), of("script_parked").len()), (3, 1), "{record:#}");
    for event in of("script_ended").into_iter().chain(of("script_parked")) {
        assert_eq!(event["script"], "crasher");
        assert!(event["text"].as_str().unwrap().contains("trap") && event["tick"].is_u64(), "{event}");
    }
    let times: Vec<_> = events.iter().map(|event| event["time_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 1_600_000_000_000, "{times:?}");
    // On demand too, and later events with it.
    yard.text(&["suspend", "yard", "quiet"]);
    let text = yard.text(&["flight", "yard"]);
    assert!(text.contains("script_parked") && text.contains("suspended by an operator"), "{text}");
    assert!(yard.metrics().contains(r#"aether_parked_total{what="script"} 1"#));
}

/// The metrics of a text in Prometheus' format, each with its labels' names.
pub fn metrics_of(text: &str) -> BTreeSet<(String, Vec<String>)> {
    let sample = |line: &str| {
        let (head, _) = line.rsplit_once(' ')?;
        let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
        let names =
            labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
        Some((name.to_owned(), names.collect()))
    };
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).filter_map(sample).collect()
}

#[test]
fn the_metrics_of_a_node_are_those_of_the_table_and_no_others() {
    let yard = Yard::start();
    yard.record();
    // Until the world has said something of itself twice: what counts begins with the first.
    wait("all metrics", || yard.metrics().contains(r#"aether_script_rate_limited_total{script="loud",action="log"}"#));
    let told: BTreeSet<_> = metrics_of(&yard.metrics());
    let alone = METRICS.iter().filter(|metric| !matches!(metric.source, Source::Cluster));
    let wanted: BTreeSet<_> =
        alone.map(|metric| (metric.name.to_owned(), metric.labels.iter().map(|label| (*label).to_owned()).collect())).collect();
    let missing: Vec<_> = wanted.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&wanted).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not told: {missing:?}, not in the table: {unknown:?}");
}

#[test]
fn what_a_rate_limit_refused_is_told_by_script_and_kind() {
    let yard = Yard::start();
    let refused = || {
        let limits = yard.json(&["limits", "yard"]);
        let loud = limits["scripts"].as_array().unwrap().iter().find(|script| script["name"] == "loud").cloned().unwrap();
        let log = loud["rates"].as_array().unwrap().iter().find(|rate| rate["action"] == "log").cloned().unwrap();
        assert_eq!(log["per_second"], 10.0);
        log["refused"].as_u64().unwrap()
    };
    wait("refused lines", || refused() > 50);
    let all = yard.text(&["limits"]);
    assert!(
        all.contains("entities_max") && all.contains("refused by rate limits, its scripts' own or the world's: log "),
        "{all}"
    );
    // It is the script's, not the world's: its neighbour was refused nothing.
    assert!(yard.text(&["limits", "yard"]).lines().any(|line| line.contains("quiet") && line.ends_with("refused nothing")));
}

#[test]
fn logs_show_what_was_asked_for_and_follow_what_happens() {
    let yard = Yard::start();
    yard.record();
    let text = yard.text(&["logs", "yard", "crasher", "--level", "error"]);
    assert!(text.lines().count() == 1 && text.contains("error yard/crasher: parked: "), "{text}");
    assert!(yard.text(&["logs", "yard", "loud", "-n", "5"]).lines().all(|line| line.ends_with("info  yard/loud: hear, hear")));
    assert_eq!(yard.text(&["logs", "yard", "quiet", "--since", "1h"]), "");
    let last = yard.text(&["logs", "--since", "1d", "--output", "json", "-n", "1"]);
    assert!(serde_json::from_str::<Value>(&last).unwrap()["seq"].is_u64(), "{last}");
    for (arguments, code, wanted) in [
        (&["logs", "nowhere"][..], 1, "no world nowhere"),
        (&["logs", "yard", "--since", "soon"], 2, "15m"),
        (&["logs", "yard&x=1"], 1, "is no name"),
    ] {
        let output = yard.ask(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(wanted), "{arguments:?}: {said}");
    }
    // What happens now comes to who follows.
    let mut process =
        yard.command(&["logs", "yard", "--follow", "--kind", "script", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = lines(&mut process);
    let _following = Running(process);
    assert!(said.next().unwrap().contains("yard/crasher: parked"));
    yard.text(&["resume", "yard", "crasher"]);
    assert!(said.next().unwrap().contains("yard/crasher: ended, comes back"));
}

#[test]
fn top_shows_nodes_and_worlds_once_for_people_and_programs() {
    let yard = Yard::start();
    yard.record();
    wait("the world's status", || yard.json(&["top"])["worlds"][0]["parked"] == 1);
    let told = yard.json(&["top", "--once", "--sort", "defer"]);
    assert_eq!((told["nodes"][0]["name"].as_str(), told["worlds"][0]["name"].as_str()), (Some("yard-node"), Some("yard")));
    assert_eq!(told["worlds"].as_array().unwrap().len(), 1);
    let text = yard.text(&["top", "--once"]);
    assert!(text.starts_with("node yard-node: 1 world, 1 seen ticking") && !text.contains('\x1b'), "{text}");
    assert!(text.contains("last warnings of yard-node") && text.contains("yard/crasher: parked"), "{text}");
    assert_eq!(yard.json(&["top", "--filter", "town"])["worlds"].as_array().unwrap().len(), 0);
}

#[test]
fn a_node_is_asked_at_its_address_without_its_cluster_file() {
    let yard = Yard::start();
    let url = format!("http://{}", yard.admin);
    let ask = |arguments: &[&str], token: &str| {
        command().args(arguments).args(["--url", &url]).env("AETHER_TOKEN", token).current_dir(yard.dir.path()).output().unwrap()
    };
    let out = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let made = yard.json(&["token", "make", "far-away", "--role", "viewer"]);
    let token = made["token"].as_str().unwrap();
    let refused = ask(&["top", "--once"], "");
    assert!(refused.status.code() == Some(1) && out(&refused).contains("a token is needed"), "{}", out(&refused));
    let shown = ask(&["top", "--once"], token);
    assert!(shown.status.success() && out(&shown).starts_with("node yard-node: 1 world"), "{}", out(&shown));
    assert!(out(&ask(&["list"], token)).starts_with("yard "), "{}", out(&ask(&["list"], token)));
    let refused = ask(&["suspend", "yard", "quiet"], token);
    assert!(refused.status.code() == Some(1) && out(&refused).contains("needs the role operator"), "{}", out(&refused));
    let file = yard.dir.path().join("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let by_file = ask(&["describe", "yard", "--token-file", file.to_str().unwrap()], "");
    assert!(by_file.status.success() && out(&by_file).contains("quiet"), "{}", out(&by_file));
}

#[test]
fn who_makes_and_revokes_a_token_is_in_the_audit_log_and_the_token_is_not() {
    let yard = Yard::start();
    let made = yard.json(&["token", "make", "ci", "--role", "publisher", "--days", "3"]);
    yard.json(&["token", "revoke", "ci"]);
    assert_eq!(yard.ask(&["token", "revoke", "ci"]).status.code(), Some(1));
    let log = fs::read_to_string(yard.dir.path().join("data/admin/audit.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| (line["path"].as_str().unwrap(), line["status"].as_u64().unwrap())).collect();
    assert_eq!(told, [("token make", 200), ("token revoke", 200), ("token revoke", 409)], "{log}");
    let uid = fs::metadata(yard.dir.path()).map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata)).unwrap();
    assert!(lines.iter().all(|line| line["who"] == format!("uid {uid}") && line["method"] == "COMMAND"), "{log}");
    assert_eq!((&lines[0]["given"]["role"], &lines[0]["answer"]["id"]), (&Value::from("publisher"), &made["id"]));
    let secret = made["token"].as_str().unwrap().rsplit('_').next().unwrap();
    assert!(!log.contains(secret), "no secret in the log");
    // What cannot be written down is not done.
    fs::remove_file(yard.dir.path().join("data/admin/audit.jsonl")).unwrap();
    fs::create_dir(yard.dir.path().join("data/admin/audit.jsonl")).unwrap();
    let refused = yard.ask(&["token", "make", "other", "--role", "viewer"]);
    assert!(refused.status.code() == Some(1) && String::from_utf8_lossy(&refused.stderr).contains("audit log"), "{refused:?}");
    assert_eq!(yard.json(&["token", "list"]), Value::from(Vec::<Value>::new()));
}

#[test]
fn top_in_a_terminal_says_that_its_node_hangs_ends_when_asked_to_and_respects_no_color() {
    let yard = Yard::start();
    yard.record();
    let script = crate::program::root().join("tests/observe/terminal.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(crate::program::program()).arg(yard.file()).arg(yard.node.0.id().to_string());
    let output = python.output().expect("python3 is there, as for the web tests");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let code = |output: Output| output.status.code();
    let mut yard = Yard::start();
    assert_eq!(code(yard.ask(&["list"])), Some(0));
    assert_eq!(code(yard.ask(&["describe", "nowhere"])), Some(1));
    assert_eq!(code(yard.ask(&["describe"])), Some(2));
    yard.node.0.kill().unwrap();
    yard.node.0.wait().unwrap();
    let silent = yard.ask(&["list"]);
    assert!(String::from_utf8_lossy(&silent.stderr).contains("aether run"), "{silent:?}");
    assert_eq!(code(silent), Some(3));
    let help = command().arg("--help").output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes:"));
}

#[test]
fn shells_are_told_every_command() {
    for (shell, wanted) in
        [("bash", "complete -F"), ("zsh", "#compdef aether"), ("fish", "complete -c aether"), ("elvish", "aether")]
    {
        let output = command().args(["completions", shell]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(wanted), "{shell}: {text}");
        for name in ["publish", "flight", "completions", "set-aside"] {
            assert!(text.contains(name), "{shell} does not know {name}");
        }
    }
    // What bash makes of it.
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(aether fli); COMP_CWORD=1; _aether aether fli aether; echo ${COMPREPLY[@]}";
    let bash = Command::new("bash").args(["-c", script]).arg(crate::program::program()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "flight", "{}", String::from_utf8_lossy(&bash.stderr));
}
