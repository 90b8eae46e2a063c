//! The script author's loop, through the program: projects, traces, profiles, tests, `aether dev`.

use crate::program::{command, root};
use crate::support;
use aether_engine::{Engine, EngineConfig, PrefabSet};
use aether_scripting::{
    ActionLimiter, ActionRates, Call, Caller, ClientRuntime, ClientRuntimeConfig, Host, InstanceId, InstanceSpec,
    MeteringOutcome, OnBudget, ScriptInstance, ScriptManifest, ServerResourcePolicy, Symbols, Vec3, Version, WorldContext,
};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn aether(arguments: &[&str], dir: &Path) -> Output {
    command().args(arguments).current_dir(dir).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[track_caller]
fn good(arguments: &[&str], dir: &Path) -> String {
    let output = aether(arguments, dir);
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, all(&output));
    all(&output)
}

#[track_caller]
fn refused(arguments: &[&str], dir: &Path, wanted: &[&str]) {
    let output = aether(arguments, dir);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}\n{}", all(&output));
    for wanted in wanted {
        assert!(all(&output).contains(wanted), "{wanted:?} in {}", all(&output));
    }
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Whether a language's compiler is on this machine; if not, that is said.
fn can_build(language: &str, project: &Path) -> bool {
    let can = match language {
        "rust" => {
            let libdir = Command::new("rustc").args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"]).output();
            libdir.is_ok_and(|output| Path::new(text(&output.stdout).trim()).is_dir())
        }
        "c" => runs("clang") && runs("wasm-ld"),
        _ => {
            // npm would fetch it; a test takes what is here.
            let modules = root().join("sdk/assemblyscript/node_modules");
            let there = runs("node") && modules.is_dir();
            if there {
                std::os::unix::fs::symlink(&modules, project.join("node_modules")).unwrap();
            }
            there
        }
    };
    if !can {
        eprintln!("the compiler of {language} is not here: its project is made, not built");
    }
    can
}

#[test]
fn a_new_project_builds_passes_its_tests_and_runs_in_every_language() {
    let dir = tempfile::tempdir().unwrap();
    for language in ["rust", "c", "assemblyscript"] {
        let name = format!("lantern-{language}");
        let said = good(&["init", "script", &name, "--lang", language], dir.path());
        assert!(said.contains("aether dev") && said.contains("script test"), "{said}");
        let project = dir.path().join(&name);
        for file in ["script.toml", "build.toml", "README.md", ".gitignore", "sdk", "tests"] {
            assert!(project.join(file).exists(), "{language}: {file}");
        }
        if !can_build(language, &project) {
            continue;
        }
        let said = good(&["script", "build", "."], &project);
        assert!(said.contains("SHA-256"), "{said}");
        let file = format!("{name}.wasm");
        assert!(good(&["script", "check", &file], &project).contains("is good"));
        let said = good(&["script", "run", &file], &project);
        assert!(said.contains(&format!("{name} begins")) && said.contains("completed"), "{said}");
        let said = good(&["script", "test", "."], &project);
        assert!(said.contains("2 passed; 0 failed"), "{said}");
        if language == "rust" {
            let tested = Command::new("cargo").args(["test", "--quiet", "--offline"]).current_dir(&project).output().unwrap();
            assert!(tested.status.success(), "{}", all(&tested));
        }
    }
}

#[test]
fn a_project_is_not_made_over_what_is_there_nor_with_a_bad_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    good(&["init", "script", "bell", "--lang", "c"], at);
    std::fs::write(at.join("bell/src/bell.c"), "mine").unwrap();
    refused(&["init", "script", "bell", "--lang", "rust"], at, &["is there already", "nothing is overwritten"]);
    assert_eq!(std::fs::read_to_string(at.join("bell/src/bell.c")).unwrap(), "mine");
    refused(&["init", "script", "Bell", "--lang", "c"], at, &["no name for a script", "a-z"]);
    refused(&["init", "script", "../bell", "--lang", "c"], at, &["no name for a script"]);
    assert_eq!(aether(&["init", "script", "horn", "--lang", "cobol"], at).status.code(), Some(2));
}

/// A script in text format that counts, and says so when it is restored.
fn counter(mark: &str, on_tick: &str) -> String {
    format!(
        r#"(module
          (import "aether:script" "log" (func $log (param i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "{mark}")
          (data (i32.const 64) "kept=........")
          (global $count (mut i32) (i32.const 0))
          (func (export "aether_abi_1"))
          (func (export "aether_alloc") (param i32) (result i32) (i32.const 1024))
          (func $hex (param $at i32) (param $n i32) (local $i i32) (local $digit i32)
            (loop $next
              (local.set $digit (i32.and (i32.const 15)
                (i32.shr_u (local.get $n) (i32.sub (i32.const 28) (i32.shl (local.get $i) (i32.const 2))))))
              (i32.store8 (i32.add (local.get $at) (local.get $i)) (i32.add (local.get $digit)
                (select (i32.const 87) (i32.const 48) (i32.gt_u (local.get $digit) (i32.const 9)))))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $i) (i32.const 8)))))
          (func $say (drop (call $log (i32.const 2) (i32.const 0) (i32.const {length}))))
          (func $stumble (unreachable))
          (func $step {on_tick})
          (func (export "on_start") (call $say))
          (func (export "on_tick") (param f32)
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (call $step))
          (func (export "save_state") (result i64)
            (i32.store (i32.const 512) (global.get $count))
            (i64.const 2199023255556))
          (func (export "restore_state") (param i32) (param $at i32) (param i32) (result i32)
            (global.set $count (i32.load (local.get $at)))
            (call $say)
            (call $hex (i32.const 69) (global.get $count))
            (drop (call $log (i32.const 2) (i32.const 64) (i32.const 13)))
            (i32.const 0)))"#,
        length = mark.len()
    )
}

#[test]
fn a_trap_names_the_functions_that_it_was_in() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("fall.wat"), counter("begin", "(call $stumble)")).unwrap();
    let output = aether(&["script", "run", "fall.wat"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    let said = all(&output);
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what:?} in {said}"));
    assert!(
        at("trapped: unreachable") < at("at stumble") && at("at stumble") < at("at step") && at("at step") < at("at on_tick")
    );
}

#[test]
fn a_trap_names_source_lines_where_the_build_knows_them() {
    let dir = tempfile::tempdir().unwrap();
    good(&["init", "script", "bell", "--lang", "c"], dir.path());
    let project = dir.path().join("bell");
    if !can_build("c", &project) {
        return;
    }
    let source = project.join("src/bell.c");
    let text = std::fs::read_to_string(&source).unwrap();
    let broken = "__attribute__((noinline)) static void ring(int n) {\n    if (n) __builtin_trap();\n}\n";
    let text = text.replace("AETHER_EXPORT(on_tick)", &format!("{broken}\nAETHER_EXPORT(on_tick)"));
    let text = text.replace("{ state.seconds += dt; }", "{\n    state.seconds += dt;\n    ring(1);\n}");
    std::fs::write(&source, &text).unwrap();
    let line = |what: &str| text.lines().position(|line| line.contains(what)).unwrap() + 1;
    good(&["script", "build", "."], &project);
    let wanted =
        [format!("at ring (src/bell.c:{})", line("__builtin_trap")), format!("at on_tick (src/bell.c:{})", line("ring(1)"))];
    let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    // What is published has no debug information; that of the build beside it is used.
    refused(&["script", "run", "bell.wasm"], &project, &wanted);
    refused(&["script", "test", "."], &project, &[&["1, call: bell trapped"], &wanted[..]].concat());
    let wasm = std::fs::read(project.join("bell.wasm")).unwrap();
    assert!(!Symbols::read(&wasm).has_lines() && wasm.len() < 2_000, "{} bytes", wasm.len());
}

/// Each script of the repository, and the prefab of its entity.
const SAMPLES: [(&str, Option<&str>); 10] = [
    ("customer", Some("customer")),
    ("door", Some("door")),
    ("flock", Some("roost")),
    ("greedy", None),
    ("merchant", Some("merchant")),
    ("patrol", Some("guard")),
    ("quest", Some("quest-board")),
    ("thief", Some("thief")),
    ("toybox", Some("toybox")),
    ("weather", None),
];

/// Call `on_start` and some ticks; `seen` is told the fuel of each call.
fn run_sample(
    runtime: &ClientRuntime,
    module: &Arc<aether_scripting::ScriptModule>,
    name: &str,
    prefab: Option<&str>,
    built: impl FnOnce(),
    mut seen: impl FnMut(u64),
) {
    let manifest = ScriptManifest::parse(&std::fs::read_to_string(root().join(format!("scripts/{name}/script.toml"))).unwrap());
    let manifest = manifest.unwrap();
    let fuel = 1 << 40;
    let mut policy = ServerResourcePolicy { fuel_budget: fuel, on_budget: OnBudget::Terminate, ..manifest.policy() };
    policy.cpu_time_limit = Duration::from_secs(60);
    let instance = InstanceId(1);
    let spec = InstanceSpec {
        instance,
        version: Version(1),
        policy,
        groups: manifest.groups(),
        rates: manifest.limits.rates,
        seed: 7,
        random: None,
        drained_at_ns: None,
        directory: None,
    };
    let mut script: ScriptInstance = runtime.instance(module, &spec).unwrap();
    built();
    let prefabs = std::fs::read_to_string(root().join("cluster-config/town/prefabs.toml")).unwrap();
    let prefabs = Arc::new(PrefabSet::parse(&prefabs).unwrap());
    let mut engine = Engine::new(EngineConfig { prefabs, ..EngineConfig::default() }, []);
    let caller = Caller {
        instance,
        name: name.to_owned(),
        entity_kinds: manifest.grants.entity_kinds.clone(),
        storage_namespace: manifest.grants.storage_namespace.clone(),
    };
    engine.add_script(caller, prefab.map(|prefab| (prefab, Vec3::ZERO))).unwrap();
    let mut world = Some(WorldContext::new(Box::new(engine), ActionLimiter::new(&ActionRates::world())));
    let mut call = Call::Start;
    for tick in 0..20 {
        let context = world.as_mut().unwrap();
        (context.now_ns, context.tick) = (tick * 50_000_000, tick);
        context.host.begin_tick(context.now_ns, tick);
        context.host.enter(instance);
        let step = script.run(&mut world, call, fuel);
        assert_eq!(step.outcome, MeteringOutcome::Completed, "{name}");
        seen(step.fuel);
        world.as_mut().unwrap().host.end_tick(0.05);
        call = Call::Tick(0.05);
    }
}

#[test]
fn a_profile_adds_up_to_what_the_script_uses_without_it() {
    for (name, prefab) in SAMPLES {
        let config = ClientRuntimeConfig { host_costs: true, server_costs: true, ..ClientRuntimeConfig::default() };
        let runtime = ClientRuntime::new(config).unwrap();
        let wasm = std::fs::read(root().join(format!("scripts/{name}/{name}.wasm"))).unwrap();
        let module = runtime.load(&wasm, None).unwrap();
        let mut plain = Vec::new();
        run_sample(&runtime, &module, name, prefab, || (), |fuel| plain.push(fuel));
        let (module, recorder) = runtime.load_profiled(&wasm).unwrap();
        let (mut profiled, before) = (Vec::new(), Cell::new(0));
        // A start function belongs to no call.
        let built = || {
            recorder.end_call(0);
            before.set(recorder.profile().fuel());
        };
        run_sample(&runtime, &module, name, prefab, built, |fuel| {
            let so_far = recorder.profile().fuel();
            profiled.push(so_far - before.replace(so_far));
            // Nothing is left over, and what the probes used is no part of it.
            assert_eq!(Some(&recorder.end_call(fuel)), profiled.last(), "{name}");
        });
        assert_eq!(profiled, plain, "{name}");
        let functions = recorder.profile().functions(&Symbols::read(&wasm));
        assert_eq!(functions.iter().map(|function| function.own).sum::<u64>(), before.get(), "{name}");
    }
}

#[test]
fn what_a_stopped_call_used_is_in_the_profile_where_it_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let work = "(local $i i32) (local.set $i (i32.const 1000)) (loop $more (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
        (call $stumble)";
    std::fs::write(dir.path().join("fall.wat"), counter("begin", work)).unwrap();
    let output = aether(&["script", "profile", "fall.wat", "--out", "a.svg", "--output", "json"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", all(&output)));
    assert!(value["outcome"].as_str().unwrap().contains("unreachable"), "{value}");
    assert_eq!(value["trace"][0], "at stumble");
    let own =
        |name: &str| value["functions"].as_array().unwrap().iter().find(|row| row["function"] == name).unwrap()["own"].as_u64();
    assert!(own("step") > Some(5_000) && own("stumble") > Some(0), "{value}");
}

#[test]
fn a_profile_is_a_table_and_a_flame_graph_and_repeats() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("walk.wat"), counter("begin", "(call $say)")).unwrap();
    let profile =
        |file: &str| good(&["script", "profile", "walk.wat", "--ticks", "3", "--out", file, "--output", "json"], dir.path());
    let value: serde_json::Value = serde_json::from_str(&profile("a.svg")).unwrap();
    let rows = value["functions"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["function"] == name).unwrap_or_else(|| panic!("{name} in {value}")).clone();
    assert_eq!((&row("say")["calls"], &row("on_tick")["calls"]), (&4.into(), &3.into()));
    let sum: u64 = rows.iter().map(|row| row["own"].as_u64().unwrap()).sum();
    assert_eq!(value["fuel"].as_u64(), Some(sum));
    profile("b.svg");
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    assert!(read("a.svg").contains("<svg") && read("a.svg").contains("step") && read("a.svg").contains("aether:script.log"));
    assert_eq!(read("a.svg"), read("b.svg"));
    let said = good(&["script", "profile", "walk.wat", "--out", "c.svg"], dir.path());
    assert!(said.contains("own fuel") && said.contains("flame graph written to") && said.contains("c.svg"), "{said}");
}

#[test]
fn the_sample_scripts_pass_their_own_tests() {
    for name in ["door", "merchant", "weather"] {
        let said = good(&["script", "test", &format!("scripts/{name}")], &root());
        assert!(said.contains("test result: ok.") && said.contains(" 0 failed;"), "{said}");
    }
}

#[test]
fn a_run_of_tests_repeats_and_shows_its_seed() {
    let run = |seed: &str| {
        let said =
            good(&["script", "test", "scripts/weather", "--filter", "twice-", "--seed", seed, "--output", "json"], &root());
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    assert_eq!(run("3")["passed"], 0);
    let log = |seed: &str| {
        let dir = tempfile::tempdir().unwrap();
        for file in ["script.toml", "weather.wasm"] {
            std::fs::copy(root().join("scripts/weather").join(file), dir.path().join(file)).unwrap();
        }
        std::fs::create_dir(dir.path().join("tests")).unwrap();
        std::fs::write(dir.path().join("tests/a.toml"), "[[test]]\nname = \"drifts\"\nsteps = [{ seconds = 120.0 }]\n").unwrap();
        let said = good(&["script", "test", ".", "--seed", seed, "--output", "json"], dir.path());
        let value: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(value["seed"].to_string(), seed);
        value["tests"][0]["log"].clone()
    };
    assert_eq!(log("3"), log("3"));
    assert_ne!(log("3"), log("4"));
}

#[test]
fn a_test_that_fails_says_which_step_and_what_was_instead() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("walk.wat"), counter("begin", "")).unwrap();
    refused(&["script", "test", "."], at, &["has no tests", "tests"]);
    std::fs::create_dir(at.join("tests")).unwrap();
    let scenario = |text: &str| std::fs::write(at.join("tests/a.toml"), text).unwrap();
    scenario(
        "[[test]]\nname = \"good\"\nsteps = [{ ticks = 2, expect = { log = \"begin\", state = \"running\" } }]\n\n\
        [[test]]\nname = \"bad\"\nsteps = [{ ticks = 2 }, { expect = { log = \"end\" } }]\n",
    );
    refused(
        &["script", "test", "."],
        at,
        &[
            "a: good ... ok",
            "a: bad ... FAILED",
            "step 2, expect: no log line with \"end\"",
            "there was tick 1 walk info: begin",
            "1 passed; 1 failed",
        ],
    );
    assert!(good(&["script", "test", ".", "--filter", "good"], at).contains("1 passed; 0 failed; 1 filtered out"));
    scenario("[[test]]\nname = \"odd\"\nsteps = [{ tick = 2 }]\n");
    refused(&["script", "test", "."], at, &["a.toml", "unknown field `tick`", "ticks"]);
    scenario("[[test]]\nname = \"odd\"\nsteps = [{ ticks = 2, reload = true }]\n");
    refused(&["script", "test", "."], at, &["step 1", "ticks and reload at once"]);
}

#[test]
fn exports_named_test_are_tests() {
    let dir = tempfile::tempdir().unwrap();
    let more = r#"(func (export "test_good")) (func (export "test_number") (result i32) (i32.const 7))
        (func (export "test_trap") (call $stumble)) (func (export "test_zero") (result i32) (i32.const 0)))"#;
    let text = counter("begin", "");
    let text = format!("{}{more}", text.trim_end().strip_suffix(')').unwrap());
    std::fs::write(dir.path().join("walk.wat"), text).unwrap();
    refused(
        &["script", "test", "walk.wat"],
        dir.path(),
        &["test_good ... ok", "test_zero ... ok", "test_number gave 7", "test_trap trapped", "at stumble", "2 passed; 2 failed"],
    );
}

/// `aether dev`, its lines in a file, ended with the test.
struct Dev {
    child: Child,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Longer than anything takes that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);

impl Dev {
    fn start(project: &Path, more: &[&str]) -> Dev {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let out = std::fs::File::create(&log).unwrap();
        let mut command = command();
        command.arg("dev").arg(project).args(more).env("AETHER_SERVER_AOT_CACHE_DIR", dir.path().join("cache"));
        let child = command.stderr(out.try_clone().unwrap()).stdout(out).spawn().unwrap();
        Dev { child, log, _dir: dir }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Wait until it has said something after what it had said first, and give what it said since.
    #[track_caller]
    fn until(&mut self, from: usize, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said();
            let fresh = said.get(from..).unwrap_or_default();
            // Whole lines only.
            if fresh.split_inclusive('\n').any(|line| line.ends_with('\n') && line.contains(wanted)) {
                return fresh.to_owned();
            }
            assert!(self.child.try_wait().unwrap().is_none(), "it ended:\n{}", self.said());
            assert!(Instant::now() < deadline, "{wanted:?} does not come:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Put a file in place as an editor does, and wait for what follows.
    #[track_caller]
    fn save(&mut self, file: &Path, text: &str, wanted: &str) -> String {
        let from = self.said().len();
        let new = file.with_extension("part");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, file).unwrap();
        self.until(from, wanted)
    }

    /// Ctrl-C.
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}\n{}", self.said());
        self.said()
    }
}

/// The number that a restored script says it was given.
fn kept(said: &str) -> u32 {
    let at = said.find("kept=").unwrap_or_else(|| panic!("no state in {said}")) + 5;
    u32::from_str_radix(&said[at..at + 8], 16).unwrap()
}

#[test]
fn dev_brings_each_good_save_into_the_world_with_its_state_and_keeps_the_last_good_version() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("walk.wat");
    std::fs::write(&file, counter("one", "")).unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let said = dev.until(0, "live v1");
    assert!(said.contains("dashboard at http://127.0.0.1:"), "{said}");
    dev.until(0, "info dev/walk: one");
    // A status says what a tick costs.
    dev.until(0, "fuel v1:");

    dev.save(&file, &counter("two", ""), "live v2");
    let said = dev.until(0, "kept=");
    assert!(kept(&said) > 0, "{said}");

    // Not a module: the old one goes on.
    let said = dev.save(&file, "(module (func $broken", "the last good version goes on");
    assert!(said.contains("not a valid module in text format"), "{said}");
    // One that falls at its first tick is refused, with the functions.
    let said = dev.save(&file, &counter("three", "(call $stumble)"), "the last good version goes on");
    assert!(said.contains("on_tick") && said.contains("stumble") && said.contains("unreachable"), "{said}");
    // So is what it wrote before: nobody else hears a rehearsal.
    assert!(said.contains("it logged info: kept="), "{said}");
    // One that falls later is live, and where it fell is shown.
    let late = "(if (i32.gt_u (i32.rem_u (global.get $count) (i32.const 60)) (i32.const 58)) (then (call $stumble)))";
    let from = dev.said().len();
    dev.save(&file, &counter("four", late), "live v");
    let said = dev.until(from, "at stumble");
    assert!(said.contains("trapped: unreachable") && said.contains("at step") && said.contains("at on_tick"), "{said}");
    let said = dev.save(&file, &counter("five", ""), "ms from save to live");
    assert!(said.contains("live v"), "{said}");
    let said = dev.stop();
    assert!(said.contains("1 world saved") && !said.contains("panicked"), "{said}");

    // What the world knew is there when it is started again.
    let mut dev = Dev::start(dir.path(), &[]);
    dev.until(0, "info dev/walk: kept=");
    dev.stop();
}

#[test]
fn dev_builds_by_the_projects_command_and_shows_what_the_compiler_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    // The compiler of this project copies, or complains.
    let build = "command = [\"sh\", \"-c\", \"grep -q wrong src.wat && { echo src.wat: wrong word; exit 3; } ; cp src.wat out.wat\"]\n\
                 output = \"out.wat\"\nwatch = [\"src.wat\", \"script.toml\"]\n";
    std::fs::write(at.join("build.toml"), build).unwrap();
    std::fs::write(at.join("script.toml"), "name = \"walk\"\n[limits]\nmemory_mb = 1\n").unwrap();
    std::fs::write(at.join("src.wat"), counter("one", "")).unwrap();
    let mut dev = Dev::start(at, &[]);
    dev.until(0, "live v1");
    let said = dev.save(&at.join("src.wat"), ";; wrong", "the last good version goes on");
    assert!(said.contains("src.wat: wrong word") && said.contains("exit status: 3"), "{said}");
    dev.save(&at.join("src.wat"), &counter("two", ""), "live v2");
    // A manifest is part of a version.
    dev.save(&at.join("script.toml"), "name = \"walk\"\n[limits]\nmemory_mb = 1\npriority = 7\n", "live v3");
    let said = dev.save(&at.join("script.toml"), "name = \"walk\"\n[limits]\nmemory_mb = 0\n", "the last good version goes on");
    assert!(said.contains("limits.memory_mb is 0"), "{said}");
    assert!(at.join("walk.wasm").is_file());
    dev.stop();
}

/// Whether a process is there, and is no zombie.
fn lives(process: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn ctrl_c_ends_a_build_with_all_that_it_has_started() {
    let ends = Duration::from_secs(60);
    for (command, code, setup) in [("build", 130, false), ("test", 130, false), ("dev", 0, false), ("dev", 0, true)] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        // A compiler with a child of its own, both of which take their time.
        let slow = "[\"sh\", \"-c\", \"sleep 600 & echo $$ $! > begun.new; mv begun.new begun; wait\"]";
        let build = match setup {
            false => format!("command = {slow}\noutput = \"out.wat\"\nwatch = [\"script.toml\"]\n"),
            true => format!(
                "command = [\"true\"]\noutput = \"out.wat\"\nwatch = [\"script.toml\"]\n[setup]\ncommand = {slow}\ncreates = \"made\"\n"
            ),
        };
        std::fs::write(at.join("build.toml"), build).unwrap();
        std::fs::write(at.join("script.toml"), "name = \"walk\"\n").unwrap();
        let words: &[&str] = if command == "dev" { &["dev", "."] } else { &["script", command, "."] };
        let quiet = || std::process::Stdio::null();
        let mut running = crate::program::command();
        let mut running = Running(running.args(words).current_dir(at).stdout(quiet()).stderr(quiet()).spawn().unwrap());
        let deadline = Instant::now() + ends;
        let begun = loop {
            if let Ok(begun) = std::fs::read_to_string(at.join("begun")) {
                break begun;
            }
            assert!(running.0.try_wait().unwrap().is_none() && Instant::now() < deadline, "{words:?}: no build began");
            std::thread::sleep(Duration::from_millis(20));
        };
        let processes: Vec<_> = begun.split_whitespace().collect();
        assert!(processes.len() == 2 && processes.iter().all(|process| lives(process)), "{begun}");
        assert!(Command::new("kill").args(["-INT", &running.0.id().to_string()]).status().unwrap().success());
        let status = loop {
            if let Some(status) = running.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{words:?} does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(code), "{words:?}, setup {setup}");
        while processes.iter().any(|process| lives(process)) {
            assert!(Instant::now() < deadline, "{words:?}, setup {setup}: {begun} still run");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A program that runs beside the test and ends with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dev_runs_the_worlds_of_a_cluster_file() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("scripts/walk");
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(project.join("walk.wasm"), support::wasm(&counter("one", ""))).unwrap();
    std::fs::write(project.join("script.toml"), "name = \"walk\"\n[limits]\nmemory_mb = 1\n").unwrap();
    let file = dir.path().join("yards.toml");
    let text = "[node]\ninstances_small = 50\ninstances_large = 2\n[[world]]\nname = \"yard\"\ncount = 2\n[[world.script]]\nscript = \"walk\"\n";
    std::fs::write(&file, text).unwrap();
    let mut dev = Dev::start(&project, &["--world", file.to_str().unwrap()]);
    dev.until(0, "live v1 in 2 worlds");
    let wasm = support::wasm(&counter("two", ""));
    let from = dev.said().len();
    std::fs::write(project.join("walk.wasm"), wasm).unwrap();
    dev.until(from, "live v2 in 2 worlds");
    let said = dev.stop();
    assert!(said.contains("2 worlds saved"), "{said}");
    std::fs::write(&file, "[[world]]\nname = \"yard\"\n").unwrap();
    refused(&["dev", ".", "--world", file.to_str().unwrap()], &project, &["no world of", "[[world.script]]"]);
}

/// From save to live, for the figures: `just live`.
#[test]
#[ignore = "a measurement"]
fn figures_from_save_to_live() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("walk.wat");
    std::fs::write(&file, counter("one", "")).unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    dev.until(0, "live v1");
    for (what, pause) in
        [("each save after a pause", Duration::from_secs(1)), ("each save as soon as the last is live", Duration::ZERO)]
    {
        let mut times = Vec::new();
        for round in 0..30 {
            std::thread::sleep(pause);
            let said = dev.save(&file, &counter(&format!("{round} {what}"), ""), "ms from save to live");
            let words: Vec<_> = said.lines().find(|line| line.contains("from save to live")).unwrap().split(' ').collect();
            times.push(words[words.iter().position(|word| *word == "ms").unwrap() - 1].parse::<u64>().unwrap());
        }
        times.sort_unstable();
        eprintln!("{what}: p50 {} ms, p90 {} ms, worst {} ms of {}", times[15], times[27], times[29], times.len());
    }
    dev.stop();
}
