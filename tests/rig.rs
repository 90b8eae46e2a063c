//! Nodes of small worlds in a directory of their own, and a script that says what it knows when it is asked.
//!
//! [`Site`] is what a node starts from, [`Code`] the script, [`ask`] the question. Whoever waits does so with [`until`].

use crate::support;
use aether_cluster::config::{NodeSection, ScriptSpec, ServerSection, WorldLimitsOverride};
use aether_cluster::{Inbound, Node, NodeConfig, NodeError, NodeEvent, ReloadReport, Source, WorldSpec};
use aether_scripting::compile::Compiler;
use aether_scripting::output::InboundCall;
use aether_types::ScriptId;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longer than anything takes that happens at all.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Fuel of a tick: four quanta.
pub const FUEL: u64 = 200_000;

/// A script that counts its ticks and the numbers sent to it; the fields are what tests change of it. It answers `say` with
/// what it knows, takes `number`s in order and acknowledges each eighth, does a long piece of `work`, or `hang`s.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// Makes its bytes differ from another's. It says this too.
    pub mark: u32,
    /// Whether it saves and restores its state.
    pub keeps: bool,
    /// Memory at the start, 64 KiB each.
    pub pages: u32,
    /// More imports.
    pub imports: &'static str,
    /// A start function, if this is not empty.
    pub start: &'static str,
    /// In `on_start`.
    pub on_start: &'static str,
    /// At the end of `on_tick`; `$i` is a local, `$age` a global of its own.
    pub on_tick: &'static str,
    /// On a message whose method begins with x.
    pub on_x: &'static str,
    /// In `save_state`.
    pub save: &'static str,
    /// What `restore_state` gives.
    pub restore: &'static str,
}

impl Default for Code {
    fn default() -> Code {
        Code {
            mark: 1,
            keeps: true,
            pages: 1,
            imports: "",
            start: "",
            on_start: "",
            on_tick: "",
            on_x: "",
            save: "",
            restore: "(i32.const 0)",
        }
    }
}

impl Code {
    /// As text. Its lines are written into templates at fixed addresses, its state is at 512, what it is given at 1,024.
    pub fn text(&self) -> String {
        let Code { mark, keeps, pages, imports, start, on_start, on_tick, on_x, save, restore } = self;
        let start = if start.is_empty() { String::new() } else { format!("(func $boot {start}) (start $boot)") };
        // Address 512, 8 bytes.
        let state = format!(
            "(func (export \"save_state\") (result i64)
               (i32.store (i32.const 512) (global.get $count))
               (i32.store (i32.const 516) (global.get $last))
               {save}
               (i64.const 2199023255560))
             (func (export \"restore_state\") (param $from i32) (param $at i32) (param $length i32) (result i32)
               (global.set $count (i32.load (local.get $at)))
               (global.set $last (i32.load offset=4 (local.get $at)))
               (call $hex (i32.const 78) (local.get $from))
               (call $hex (i32.const 90) (call $version))
               (call $note (i32.const 64) (i32.const 34))
               {restore})"
        );
        let state = if *keeps { state } else { String::new() };
        format!(
            "(module
             (import \"aether:script\" \"log\" (func $log (param i32 i32 i32) (result i32)))
             (import \"aether:script\" \"version\" (func $version (result i32)))
             {imports}
             (memory (export \"memory\") {pages})
             (data (i32.const 0) \"count=........ last=........ by=........ mark=........\")
             (data (i32.const 64) \"restored from=........ by=........\")
             (data (i32.const 128) \"begun by=........\")
             (data (i32.const 160) \"done by=........\")
             (data (i32.const 192) \"wrong ........ after=........\")
             (data (i32.const 256) \"ack ........ by=........\")
             (data (i32.const 288) \"stored=........\")
             (global $mark i32 (i32.const {mark}))
             (global $count (mut i32) (i32.const 0))
             (global $last (mut i32) (i32.const 0))
             (global $age (mut i32) (i32.const 0))
             (func (export \"aether_abi_1\"))
             (func (export \"aether_alloc\") (param i32) (result i32) (i32.const 1024))
             (func $note (param $at i32) (param $length i32)
               (drop (call $log (i32.const 2) (local.get $at) (local.get $length))))
             (func $hex (param $at i32) (param $n i32) (local $i i32) (local $digit i32)
               (loop $next
                 (local.set $digit (i32.and (i32.const 15)
                   (i32.shr_u (local.get $n) (i32.sub (i32.const 28) (i32.shl (local.get $i) (i32.const 2))))))
                 (i32.store8 (i32.add (local.get $at) (local.get $i)) (i32.add (local.get $digit)
                   (select (i32.const 87) (i32.const 48) (i32.gt_u (local.get $digit) (i32.const 9)))))
                 (local.set $i (i32.add (local.get $i) (i32.const 1)))
                 (br_if $next (i32.lt_u (local.get $i) (i32.const 8)))))
             (func $say
               (call $hex (i32.const 6) (global.get $count))
               (call $hex (i32.const 20) (global.get $last))
               (call $hex (i32.const 32) (call $version))
               (call $hex (i32.const 46) (global.get $mark))
               (call $note (i32.const 0) (i32.const 54)))
             (func $number (param $n i32)
               (if (i32.ne (local.get $n) (i32.add (global.get $last) (i32.const 1))) (then
                 (call $hex (i32.const 198) (local.get $n))
                 (call $hex (i32.const 213) (global.get $last))
                 (call $note (i32.const 192) (i32.const 29))))
               (global.set $last (local.get $n))
               (if (i32.eqz (i32.and (local.get $n) (i32.const 7))) (then
                 (call $hex (i32.const 260) (local.get $n))
                 (call $hex (i32.const 272) (call $version))
                 (call $note (i32.const 256) (i32.const 24)))))
             (func $begin
               (call $hex (i32.const 137) (call $version))
               (call $note (i32.const 128) (i32.const 17)))
             (func $work (local $i i32)
               (local.set $i (i32.const 700000))
               (loop $more (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
               (call $hex (i32.const 168) (call $version))
               (call $note (i32.const 160) (i32.const 16)))
             (func (export \"on_start\") {on_start})
             (func (export \"on_tick\") (param f32) (local $i i32)
               (global.set $count (i32.add (global.get $count) (i32.const 1)))
               {on_tick})
             (func (export \"on_message\") (param i64 i64) (param $at i32) (param $method i32) (param i32) (local $what i32)
               (local.set $what (i32.load8_u (local.get $at)))
               (if (i32.eq (local.get $what) (i32.const 115)) (then (call $say)))
               (if (i32.eq (local.get $what) (i32.const 110)) (then
                 (call $number (i32.load (i32.add (local.get $at) (local.get $method))))))
               (if (i32.eq (local.get $what) (i32.const 119)) (then (call $begin) (call $work)))
               (if (i32.eq (local.get $what) (i32.const 104)) (then (call $begin) (loop $ever (br $ever))))
               (if (i32.eq (local.get $what) (i32.const 120)) (then {on_x})))
             {state}
             {start})"
        )
    }

    /// As binary.
    pub fn wasm(&self) -> Vec<u8> {
        support::wasm(&self.text())
    }
}

/// A manifest for scripts of up to 1 MiB that may log as much as tests want.
pub fn manifest(name: &str, on_budget: &str, fuel: u64) -> String {
    format!(
        "name = \"{name}\"\n[limits]\nfuel = {fuel}\nmemory_mb = 1\non_budget = \"{on_budget}\"\n\
         [limits.rates]\nlog_lines = 1000.0\n"
    )
}

/// A script that may pause.
pub fn source(name: &str, code: Code) -> Source {
    Source { manifest: manifest(name, "pause", FUEL), wasm: code.wasm() }
}

/// A good version of the script that keeps its state.
pub fn keeper(mark: u32) -> Source {
    source("keeper", Code { mark, ..Code::default() })
}

/// A good version of the script that does not: what it counted is in its memory alone.
pub fn plain(mark: u32) -> Source {
    source("plain", Code { mark, keeps: false, ..Code::default() })
}

/// A world with one of each script.
pub fn world(name: &str, tick_hz: f64, scripts: &[&str]) -> WorldSpec {
    // Nearly the whole time between two ticks at most.
    let tick_budget_ms = (900.0 / tick_hz).min(8.0);
    let limits =
        WorldLimitsOverride { tick_hz: Some(tick_hz), tick_budget_ms: Some(tick_budget_ms), ..WorldLimitsOverride::default() };
    let script = |name: &&str| ScriptSpec { script: (*name).to_owned(), name: None, count: 1, prefab: None, position: [0.0; 3] };
    WorldSpec {
        name: name.to_owned(),
        count: 1,
        prefabs: None,
        scripts_dir: "scripts".into(),
        seed: 0,
        requires: Default::default(),
        together: None,
        apart: None,
        limits: Some(limits),
        script: scripts.iter().map(script).collect(),
    }
}

/// What a node starts from: a configuration, and a directory with its scripts, state and cache.
pub struct Site {
    dir: tempfile::TempDir,
    pub config: NodeConfig,
}

impl Site {
    pub fn new(worlds: impl IntoIterator<Item = WorldSpec>) -> Site {
        let node = NodeSection { tick_threads: 2, instances_small: 200, instances_large: 1, ..NodeSection::default() };
        let server = ServerSection { aot_cache_dir: "cache".into(), ..ServerSection::default() };
        let config = NodeConfig { node, server, world: worlds.into_iter().collect(), ..NodeConfig::default() };
        Site { dir: tempfile::tempdir().unwrap(), config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Put a script into the scripts folder, or another into its place.
    pub fn put(&self, name: &str, source: &Source) {
        let folder = self.path("scripts").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("script.toml"), &source.manifest).unwrap();
        fs::write(folder.join(format!("{name}.wasm")), &source.wasm).unwrap();
    }

    pub fn try_start(&self) -> Result<Node, NodeError> {
        Node::start(&self.config, self.dir.path(), Compiler::InProcess, |_| ())
    }

    #[track_caller]
    pub fn start(&self) -> Node {
        self.try_start().unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn files(&self, dir: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.path(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The names of all blobs, in order.
    pub fn blobs(&self) -> Vec<String> {
        self.files("data/blobs").iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
    }

    /// The files of compiled modules, in order.
    pub fn artifacts(&self) -> Vec<PathBuf> {
        let mut files = self.files("cache");
        files.retain(|path| path.extension().is_some_and(|extension| extension == "aot"));
        files
    }
}

/// Stop a node; everything must have been saved.
#[track_caller]
pub fn stop(node: Node) {
    let report = node.stop();
    assert!(report.failed.is_empty(), "{report:?}");
}

pub fn id(script: &str) -> ScriptId {
    ScriptId::new(script).unwrap()
}

/// Publish what is good.
#[track_caller]
pub fn publish(node: &Node, source: Source) -> ReloadReport {
    node.publish(source).unwrap_or_else(|error| panic!("{error}\n{}", story(node)))
}

/// The numbers of a script's versions.
pub fn numbers(node: &Node, script: &str) -> Vec<u32> {
    let versions = node.versions().unwrap();
    versions.iter().filter(|version| version.script.as_str() == script).map(|version| version.version.0).collect()
}

/// The number of the version that worlds run.
pub fn active(node: &Node, script: &str) -> Option<u32> {
    let versions = node.versions().unwrap();
    versions.iter().find(|version| version.script.as_str() == script && version.active).map(|version| version.version.0)
}

/// What happened on a node, for whoever reads of a failure.
pub fn story(node: &Node) -> String {
    node.events().since(0).0.iter().map(|event| format!("  {event}\n")).collect()
}

/// How many events there have been.
pub fn now(node: &Node) -> u64 {
    node.events().since(u64::MAX).1
}

/// World, script and text of the lines since then.
pub fn lines(node: &Node, seen: &mut u64) -> Vec<(String, String, String)> {
    let (events, count) = node.events().since(*seen);
    *seen = count;
    let line = |event| match event {
        NodeEvent::Log { world, script, text, .. } => Some((world, script, text)),
        _ => None,
    };
    events.into_iter().filter_map(line).collect()
}

/// Look until there is something to see.
#[track_caller]
pub fn until<R>(node: &Node, what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", story(node));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Wait for a line that a script writes after the first `seen` events.
#[track_caller]
pub fn wait_for(node: &Node, seen: u64, world: &str, script: &str, begin: &str) -> String {
    let mut seen = seen;
    until(node, &format!("{world}/{script} says {begin:?}"), || {
        let is_it = |(w, s, text): &(String, String, String)| w == world && s == script && text.starts_with(begin);
        lines(node, &mut seen).into_iter().find(is_it).map(|(_, _, text)| text)
    })
}

/// A message of nobody's.
pub fn message(script: &str, method: &str, payload: &[u8]) -> Inbound {
    let (script, method, payload) = (script.to_owned(), method.to_owned(), payload.to_vec());
    Inbound::Call(InboundCall { world: None, from: 1, call: 0, script, method, payload, delivery: 0 })
}

/// What a script knows: its ticks, the last number it was sent, its version and its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub count: u32,
    pub last: u32,
    pub by: u32,
    pub mark: u32,
}

/// The number after a word of a line.
pub fn number_after(text: &str, word: &str) -> Option<u32> {
    let (_, rest) = text.split_once(word)?;
    u32::from_str_radix(rest.get(..8)?, 16).ok()
}

impl Said {
    fn read(text: &str) -> Option<Said> {
        let number = |word| number_after(text, word);
        Some(Said { count: number("count=")?, last: number("last=")?, by: number("by=")?, mark: number("mark=")? })
    }
}

/// Ask scripts, given by world and name, what they know now; each ticks between two questions.
#[track_caller]
pub fn ask_all(node: &Node, whom: &[(&str, &str)]) -> Vec<Said> {
    let (mut seen, mut sent) = (now(node), None::<Instant>);
    let mut said = BTreeMap::new();
    until(node, &format!("answers of {whom:?}"), || {
        // Again after a while: a script that begins anew has lost its mail.
        if sent.is_none_or(|at| at.elapsed() > Duration::from_secs(2)) {
            for (world, script) in whom.iter().filter(|asked| !said.contains_key(*asked)) {
                node.send(world, message(script, "say", &[]));
            }
            sent = Some(Instant::now());
        }
        for (world, script, text) in lines(node, &mut seen) {
            let asked = whom.iter().find(|(w, s)| *w == world && *s == script);
            if let (Some(asked), Some(answer)) = (asked, Said::read(&text)) {
                said.insert(*asked, answer);
            }
        }
        whom.iter().map(|asked| said.get(asked).copied()).collect()
    })
}

/// Ask one.
#[track_caller]
pub fn ask(node: &Node, world: &str, script: &str) -> Said {
    ask_all(node, &[(world, script)])[0]
}
