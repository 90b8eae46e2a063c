//! The program as people start it.

use crate::program::command;
use crate::support::root;
use std::process::Output;

/// Run it with none of our variables but these.
fn aether(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    command().args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_good(output: &Output) {
    assert!(output.status.success(), "{}\n{}{}", output.status, out(output), err(output));
}

/// It failed, said this, and did not panic.
#[track_caller]
fn assert_refused(output: &Output, wanted: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{}{}", out(output), err(output));
    for wanted in wanted {
        assert!(err(output).contains(wanted), "{wanted:?} in {}", err(output));
    }
}

#[test]
fn script_check_describes_every_sample_script() {
    for name in [
        "customer", "door", "drill", "flock", "greedy", "merchant", "patrol", "quest", "thief", "toybox", "weather", "bell",
        "keeper", "crier",
    ] {
        let output = aether(&["script", "check", &format!("scripts/{name}/{name}.wasm")], &[]);
        assert_good(&output);
        assert!(out(&output).contains("is good") && out(&output).contains("SHA-256"), "{name}: {}", out(&output));
    }
}

#[test]
fn script_run_shows_what_a_script_cost() {
    // Greedy wants more than its fuel: out of fuel is what is to be seen, or that it completed.
    let output = aether(&["script", "run", "scripts/greedy/greedy.wasm", "--ticks", "3", "--fuel", "1000000000"], &[]);
    assert!(out(&output).contains("fuel") && out(&output).contains("host calls:"), "{}{}", out(&output), err(&output));
    let output = aether(&["script", "run", "scripts/greedy/greedy.wasm", "--ticks", "3", "--fuel", "2000"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains("out of fuel"), "{}{}", out(&output), err(&output));
}

#[test]
fn script_run_takes_text_format() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hello.wat");
    let text = r#"(module
        (import "aether:script" "log" (func $log (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "hello, world")
        (func (export "aether_abi_1"))
        (func (export "on_start") (drop (call $log (i32.const 2) (i32.const 0) (i32.const 12)))))"#;
    std::fs::write(&file, text).unwrap();
    let output = aether(&["script", "run", file.to_str().unwrap()], &[]);
    assert_good(&output);
    assert!(out(&output).contains("info: hello, world") && out(&output).contains("completed"), "{}", out(&output));
}

#[test]
fn script_check_refuses_what_is_no_script_and_what_has_another_digest() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.wasm");
    std::fs::write(&file, b"\0asm\x01\0\0\0\x01").unwrap();
    assert_refused(&aether(&["script", "check", file.to_str().unwrap()], &[]), &["error: ", "not a valid module"]);
    let digest = "0".repeat(64);
    assert_refused(
        &aether(&["script", "check", "scripts/greedy/greedy.wasm", "--sha256", &digest], &[]),
        &["SHA-256", "changed on the way"],
    );
    assert_refused(&aether(&["script", "check", "no-such-file.wasm"], &[]), &["no-such-file.wasm"]);
}

#[test]
fn a_projects_folder_stands_for_its_module() {
    for name in ["script check", "script run"] {
        let words = |path| [&name.split(' ').collect::<Vec<_>>()[..], &[path]].concat();
        let output = aether(&words("scripts/patrol"), &[]);
        assert!(out(&output).contains("scripts/patrol/patrol.wasm"), "{name}: {}{}", out(&output), err(&output));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert_refused(&aether(&words(path), &[]), &["holds no script", ".wasm"]);
        std::fs::write(dir.path().join("script.toml"), "name = \"walk\"\n").unwrap();
        std::fs::write(dir.path().join("build.toml"), "command = [\"true\"]\noutput = \"out.wasm\"\n").unwrap();
        assert_refused(&aether(&words(path), &[]), &["is not built", "aether script build", ".wasm or .wat"]);
    }
}

#[test]
fn check_config_says_what_is_good_and_what_is_bad() {
    let output = aether(&["check-config", "cluster-config/dev.toml"], &[]);
    assert_good(&output);
    assert!(out(&output).contains("is good"), "{}", out(&output));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[limits]\ntick_hz = 0.0\n").unwrap();
    assert_refused(&aether(&["check-config", path], &[]), &["limits.tick_hz is 0", "allowed is 0.1 to 240"]);
    std::fs::write(&file, "[limits]\ntick_herz = 20.0\n").unwrap();
    assert_refused(&aether(&["check-config", path], &[]), &["tick_herz"]);
    std::fs::write(&file, "[limits\n").unwrap();
    assert_refused(&aether(&["check-config", path], &[]), &["error: "]);
    assert_refused(&aether(&["check-config", "no-such-file.toml"], &[]), &["no-such-file.toml"]);
}

#[test]
fn a_bad_variable_is_named() {
    let file = "cluster-config/dev.toml";
    assert_refused(&aether(&["check-config", file], &[("AETHER_LIMITS__TICK_HZ", "fast")]), &["AETHER_LIMITS__TICK_HZ"]);
    assert_refused(&aether(&["check-config", file], &[("AETHER_SERVER_MAX_MODULES", "many")]), &["AETHER_SERVER_MAX_MODULES"]);
    assert_refused(
        &aether(&["check-config", file], &[("AETHER_SERVER_DEFAULT_MEMORY_MB", "65")]),
        &["server.default_memory_mb is 65", "allowed is 1 to 64"],
    );
    let greedy = ["script", "run", "scripts/greedy/greedy.wasm"];
    assert_refused(&aether(&greedy, &[("AETHER_SCRIPT_MAX_OPS", "none")]), &["AETHER_SCRIPT_MAX_OPS", "a whole number"]);
}

#[test]
fn run_boots_the_sample_worlds_saves_them_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (data, cache) = (dir.path().join("data"), dir.path().join("cache"));
    let variables = [
        ("AETHER_NODE__DATA_DIR", data.to_str().unwrap()),
        ("AETHER_SERVER_AOT_CACHE_DIR", cache.to_str().unwrap()),
        ("AETHER_NODE__INSTANCES_SMALL", "200"),
        ("AETHER_NODE__INSTANCES_LARGE", "20"),
        ("AETHER_GATEWAY__LISTEN", "127.0.0.1:0"),
    ];
    for _ in 0..2 {
        let output = aether(&["run", "cluster-config/dev.toml", "--plain", "--seconds", "2"], &variables);
        assert_good(&output);
        assert!(out(&output).contains("worlds saved"), "{}", out(&output));
        assert!(!out(&output).contains("NOT saved") && !err(&output).contains("panicked"), "{}{}", out(&output), err(&output));
    }
    assert!(data.is_dir() && cache.is_dir());
}

/// A program that runs beside the test and ends with it.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_operator_publishes_saves_and_goes_back_on_a_running_node() {
    let dir = tempfile::tempdir().unwrap();
    let (data, cache) = (dir.path().join("data"), dir.path().join("cache"));
    let file = dir.path().join("node.toml");
    let scripts = root().join("scripts");
    let text = format!(
        "[node]\ndata_dir = {data:?}\ninstances_small = 50\ninstances_large = 2\n[server]\naot_cache_dir = {cache:?}\n\
         [[world]]\nname = \"yard\"\nscripts_dir = {scripts:?}\n[[world.script]]\nscript = \"greedy\"\ncount = 2\n"
    );
    std::fs::write(&file, text).unwrap();
    let ask = |arguments: &[&str]| aether(&[arguments, &["--cluster", file.to_str().unwrap()]].concat(), &[]);
    let silent = ask(&["list"]);
    assert_eq!(silent.status.code(), Some(3), "{}", err(&silent));
    assert!(err(&silent).contains("no node answers") && err(&silent).contains("aether run"), "{}", err(&silent));

    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let node = command().args(["run", "--plain"]).arg(&file).stdout(log).spawn().unwrap();
    let mut node = Running(node);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !ask(&["list"]).status.success() {
        assert!(node.0.try_wait().unwrap().is_none(), "the node ended");
        assert!(std::time::Instant::now() < deadline, "the node does not answer: {}", err(&ask(&["list"])));
    }
    let good = |arguments: &[&str], wanted: &str| {
        let output = ask(arguments);
        assert_good(&output);
        assert!(out(&output).contains(wanted), "{wanted:?} in {arguments:?}: {}", out(&output));
    };
    good(&["list"], "yard");
    good(&["describe", "yard"], "greedy-2");
    good(&["versions"], "active");
    good(&["publish", "scripts/greedy", "--plan"], "rehearsed, would swap");
    good(&["publish", "scripts/greedy"], "v1 -> v2 in 1 world,");
    good(&["checkpoint", "yard", "--name", "noon"], "yard is saved");
    good(&["checkpoints", "yard"], "noon");
    good(&["checkpoints", "yard"], "time");
    good(&["suspend", "yard", "greedy-1"], "is suspended");
    good(&["suspend", "yard", "greedy-1"], "is suspended already");
    good(&["resume", "yard", "greedy-1"], "goes on");
    good(&["resume", "yard", "greedy-1"], "runs already");
    good(&["restore", "yard", "noon"], "goes on from noon");
    good(&["pin", "greedy", "1"], "kept");
    good(&["collect"], "removed 0 versions");
    good(&["set-aside", "yard"], "no message was set aside in yard");
    good(&["resume", "yard"], "yard is not parked");
    let json = ask(&["list", "--output", "json"]);
    assert!(serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap()["worlds"][0]["name"] == "yard");
    assert_refused(&ask(&["describe", "town"]), &["no world town"]);
    assert_refused(&ask(&["suspend", "yard", "thief"]), &["no script thief", "greedy-1, greedy-2"]);
    assert_refused(&ask(&["logs", "yard", "thief"]), &["no script thief", "greedy-1, greedy-2"]);
    assert_good(&ask(&["logs", "yard", "greedy-1"]));
    assert_refused(&ask(&["restore", "yard", "dusk"]), &["no checkpoint", "noon"]);
    assert_refused(&ask(&["rollback", "nobody"]), &["nobody has no version", "there are greedy"]);
    assert_refused(&ask(&["rollback", "greedy", "--to", "9"]), &["greedy has no version 9", "it has 1, 2"]);
    // What it says before it is refused is told to who publishes it.
    let bad = dir.path().join("greedy");
    std::fs::create_dir(&bad).unwrap();
    std::fs::copy(root().join("scripts/greedy/script.toml"), bad.join("script.toml")).unwrap();
    let panics = r#"(module
        (import "aether:script" "log" (func $log (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "the door has no key")
        (func (export "aether_abi_1"))
        (func (export "on_tick") (param f32) (drop (call $log (i32.const 0) (i32.const 0) (i32.const 19))) unreachable))"#;
    std::fs::write(bad.join("greedy.wat"), panics).unwrap();
    let bad = bad.to_str().unwrap();
    assert_refused(&ask(&["publish", bad]), &["rehearsal in world yard", "it logged error: the door has no key"]);
    let planned = ask(&["publish", bad, "--plan"]);
    assert!(
        planned.status.code() == Some(1) && out(&planned).contains("it logged error: the door has no key"),
        "{}",
        out(&planned)
    );
    // It is a warning to everybody else, with its reason.
    let warned = ask(&["logs", "--level", "warn", "--kind", "reload"]);
    assert!(out(&warned).contains("warn  reload of greedy: version 3 rolled back: rehearsal in world yard"), "{}", out(&warned));
    good(&["top", "--once"], "reload of greedy: version 3 rolled back");
    assert_refused(&ask(&["publish", "scripts/nobody"]), &["could not read", "script.toml"]);
}
