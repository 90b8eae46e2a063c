//! Nodes as processes: ractor's groups, ids and names are per process, so two nodes cannot be in one.
//!
//! [`Node::start`] runs this test binary again with one test selected, [`child_node`], which is a node that obeys lines on its input
//! and reports lines on its output (`node.rs`). Tests wait for such lines with a deadline, never for time to pass.
//! Not here: the hostile side (`hostile.rs`), figures (`measure.rs`), units (beside the code).

mod hostile;
mod links;
mod measure;
mod node;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use super::pki;

pub(super) use node::{cheats, injected, pretended_versions};

/// The longest anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "AETHER_TEST_LINK_NODE";

/// A folder with an authority and an identity for each node.
struct Cluster {
    dir: tempfile::TempDir,
}

impl Cluster {
    fn new(nodes: &[&str]) -> Cluster {
        let cluster = Cluster { dir: tempfile::tempdir().unwrap() };
        pki::init_ca(&cluster.path("ca"), "test").unwrap();
        nodes.iter().for_each(|node| cluster.issue("ca", node));
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, ca: &str, node: &str) {
        pki::issue(&self.path(ca), &self.path(node), "test", node, &["localhost".into(), "127.0.0.1".into()], 30).unwrap();
    }

    fn start(&self, node: &str) -> Node {
        Node::start(node, &self.path(node), &[])
    }

    /// Two nodes that know each other.
    fn pair(&self) -> (Node, Node) {
        let (mut a, mut b) = (self.start("a"), self.start("b"));
        a.knows(&[&b]);
        b.knows(&[&a]);
        a.wait("up b");
        b.wait("up a");
        (a, b)
    }
}

/// A node in a process of its own; killed when dropped.
struct Node {
    name: String,
    address: String,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(name: &str, dir: &Path, settings: &[(&str, &str)]) -> Node {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = format!("{}::node::child_node", module_path!().split_once("::").unwrap().1);
        command.args([&test, "--exact", "--nocapture", "--test-threads=1"]).env(NODE, name).env("AETHER_TEST_LINK_DIR", dir);
        for (key, value) in settings {
            command.env(format!("AETHER_TEST_LINK_{key}"), value);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The harness prints too, and not always a whole line.
                if let Some((_, line)) = line.split_once("@ ") {
                    let _ = to.send(line.to_owned());
                }
            }
        });
        let mut node = Node { name: name.into(), address: String::new(), child, input, lines, seen: Vec::new() };
        node.address = node.wait("listening")[0].clone();
        node
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn knows(&mut self, nodes: &[&Node]) {
        let list: Vec<_> = nodes.iter().map(|node| format!("{}={}", node.name, node.address)).collect();
        self.tell(&format!("peers {}", list.join(" ")));
    }

    /// The rest of the next line that begins with these words.
    #[track_caller]
    fn wait(&mut self, words: &str) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("{} never said {words:?}; it said {:#?}", self.name, self.seen);
            };
            self.seen.push(line.clone());
            let rest = line.strip_prefix(words).filter(|rest| rest.is_empty() || rest.starts_with(' '));
            if let Some(rest) = rest {
                return rest.split_whitespace().map(str::to_owned).collect();
            }
        }
    }

    /// Ask until the status (of a peer, or of `strangers`) has this text in it.
    #[track_caller]
    fn wait_status(&mut self, of: &str, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            self.tell(&format!("status {of}"));
            let status = self.wait("status").join(" ");
            if status.contains(text) {
                return status;
            }
            assert!(Instant::now() < until, "{}: the status of {of} stayed {status}, wanted {text}", self.name);
            std::thread::yield_now();
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Resident memory in MiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}
