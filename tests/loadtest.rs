//! `aether loadtest`, through the program: the scenarios that Aether comes with, a tiny run, comparing, saying no.

use crate::program::command;
use crate::support::root;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn aether(arguments: &[&str]) -> Output {
    command().arg("loadtest").args(arguments).output().unwrap()
}

fn all(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Two worlds, every kind of action, over in three seconds.
fn tiny(dir: &Path) -> String {
    let scripts = root().join("scripts");
    let text = format!(
        r#"
        name = "tiny"
        about = "two small worlds"
        seed = 11
        duration_seconds = 2.0
        warmup_seconds = 1.0
        ramp_seconds = 0.0
        [limits]
        tick_hz = 20.0
        [[worlds]]
        name = "w"
        count = 2
        scripts_per_world = 4
        scripts_dir = {scripts:?}
        [[worlds.mix]]
        script = "drill"
        count = 3
        [[worlds.mix]]
        script = "weather"
        count = 1
        [players]
        count = 10
        inputs_per_second = 10.0
        [rpc]
        calls_per_second = 50.0
        [faults]
        traps_per_second = 2.0
        reloads_per_minute = 30.0
        reload_script = "weather"
        [expect]
        reloads_failed_max = 0
        worlds_down_max = 0
        "#
    );
    let file = dir.join("tiny.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn every_scenario_that_aether_comes_with_is_good_and_the_issues_are_there() {
    let mut names: Vec<_> = std::fs::read_dir(root().join("cluster-config/loadtest"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    for wanted in ["town", "thousands", "dense", "greedy", "reload-storm", "crash-storm", "players", "soak"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted} in {names:?}");
    }
    for name in names {
        // It is read and checked before anything else is done: a folder that cannot be made ends it then.
        let output = aether(&[&name, "--report", "/proc/nowhere"]);
        assert!(!output.status.success() && all(&output).contains("could not make /proc/nowhere"), "{name}: {}", all(&output));
    }
}

#[test]
fn a_tiny_test_leaves_three_reports_whose_numbers_agree_and_does_not_differ_from_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (tiny(dir.path()), dir.path().join("out"));
    let out = out.to_str().unwrap();
    let output = aether(&[&file, "--report", out, "--output", "json", "--seed", "5"]);
    assert!(output.status.success(), "{}", all(&output));
    let json = std::fs::read_to_string(dir.path().join("out/report.json")).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), report);

    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {json}"));
    assert_eq!((number("/scenario/seed"), number("/started/worlds"), number("/started/scripts")), (5.0, 2.0, 8.0));
    // Every tick whose time was seen is in the histogram and in its bars, and in the only group.
    let ticks = number("/totals/ticks");
    let bars: f64 = report["ticks_ms"]["bars"].as_array().unwrap().iter().map(|bar| bar[1].as_f64().unwrap()).sum();
    assert!(
        ticks > 0.0 && ticks == number("/ticks_ms/count") && ticks == bars && ticks == number("/groups/0/tick_ms/count"),
        "{json}"
    );
    assert!(number("/ticks_ms/p50") <= number("/ticks_ms/p99") && number("/ticks_ms/p99") <= number("/ticks_ms/max"), "{json}");
    // Ticks that ran and those that were missed are what was due, but for what was published a second before and after.
    let (due, by_number) = (number("/groups/0/ticks_due"), number("/totals/ticks_by_number"));
    let edge = 2.0 * 20.0 * 1.5;
    assert!((by_number + number("/totals/missed_ticks") - due).abs() <= edge, "due {due}: {json}");
    assert!(ticks <= by_number + edge, "{json}");
    // 100 inputs and 50 calls a second: five deviations of two seconds of them. What is left out when the machine stands still is said.
    let held_up = report["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("held up"));
    let seconds = number("/measured_seconds");
    for (count, rate) in [(number("/totals/inputs"), 100.0), (number("/totals/calls_asked"), 50.0)] {
        let expected = rate * seconds;
        assert!(held_up || (count - expected).abs() < 5.0 * expected.sqrt() + rate * 0.2, "{count} of {expected}: {json}");
    }
    assert_eq!(number("/totals/inputs_refused"), 0.0);
    assert!(number("/totals/calls_out") > 0.0, "{json}");
    // One reload in the middle, into both worlds; scripts that were trapped came back.
    assert_eq!(report["reloads"].as_array().unwrap().len(), 1, "{json}");
    assert!(report["reloads"][0]["error"].is_null(), "{json}");
    assert!(report["verdicts"].as_array().unwrap().iter().all(|verdict| verdict["passed"] == true), "{json}");

    let (text, page) = (dir.path().join("out/report.txt"), dir.path().join("out/report.html"));
    let (text, page) = (std::fs::read_to_string(text).unwrap(), std::fs::read_to_string(page).unwrap());
    assert!(text.contains("seed 5") && text.contains("swapped in") && text.contains("drill"), "{text}");
    assert!(page.contains("<svg") && !page.contains("<script") && !page.contains("NaN"));

    // Two samples say little, but a report is always like itself.
    let output = aether(&["compare", out, out, "--fail-above", "0"]);
    assert!(output.status.success() && all(&output).contains("no difference beyond noise"), "{}", all(&output));
    let output = aether(&["compare", out, out, "--output", "json"]);
    let comparison: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(comparison["rows"].as_array().unwrap().iter().all(|row| row["outcome"] == "same"), "{comparison}");

    // One that is worse throughout is found, and fails if it is to; of two seconds nothing is told.
    let (short, long) = (report.clone(), repeated(&report, 40));
    let slower = dir.path().join("slow.json");
    for (report, code, wanted) in [(short, 0, "too short to tell"), (long, 1, "WORSE")] {
        let before = dir.path().join("before.json");
        std::fs::write(&before, report.to_string()).unwrap();
        std::fs::write(&slower, slowed(report).to_string()).unwrap();
        let output = aether(&["compare", before.to_str().unwrap(), slower.to_str().unwrap(), "--fail-above", "20"]);
        assert!(output.status.code() == Some(code) && all(&output).contains(wanted), "{}", all(&output));
    }
}

/// As if it had gone on for so many times as long.
fn repeated(report: &Value, times: usize) -> Value {
    let mut long = report.clone();
    let points = report["points"].as_array().unwrap();
    long["points"] = points.iter().cycle().take(points.len() * times).cloned().collect();
    long
}

fn slowed(mut slow: Value) -> Value {
    for point in slow["points"].as_array_mut().unwrap() {
        for field in ["tick_p50_ms", "tick_p99_ms", "tick_max_ms"] {
            point[field] = (point[field].as_f64().unwrap() * 50.0 + 10.0).into();
        }
    }
    slow
}

#[test]
fn what_is_expected_and_does_not_come_is_exit_code_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = tiny(dir.path());
    let text = std::fs::read_to_string(&file).unwrap().replace("worlds_down_max = 0", "tick_p50_ms_max = 0.000001");
    std::fs::write(&file, text).unwrap();
    let output = aether(&[&file, "--seconds", "1"]);
    assert!(output.status.code() == Some(1) && all(&output).contains("FAIL CPU time of a tick, median"), "{}", all(&output));
}

#[test]
fn what_cannot_be_run_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = tiny(dir.path());
    let good = std::fs::read_to_string(&file).unwrap();
    let refused = |text: String, wanted: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let output = aether(&[&file]);
        assert_eq!(output.status.code(), Some(1), "{}", all(&output));
        for wanted in wanted {
            assert!(all(&output).contains(wanted), "{wanted}: {}", all(&output));
        }
    };
    refused(good.replace("seed = 11", "sed = 11"), &["tiny.toml", "sed", "expected one of"]);
    refused(good.replace("count = 2", "count = 0"), &["worlds[0].count is 0, allowed is 1 to 100000"]);
    refused(good.replace("inputs_per_second = 10.0", "inputs_per_second = -1.0"), &["players.inputs_per_second is -1"]);
    refused(good.replace("tick_hz = 20.0", "tick_hz = 0.0"), &["limits.tick_hz is 0"]);
    for (arguments, wanted) in [
        (&["nowhere"][..], "could not read scenario nowhere"),
        (&[][..], "name a scenario"),
        (&["town", "--address", "127.0.0.1:80"][..], "is no admin address"),
        (&["compare", "a", "b"][..], "could not read a"),
    ] {
        let output = aether(arguments);
        assert!(output.status.code() == Some(1) && all(&output).contains(wanted), "{wanted}: {}", all(&output));
    }
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
fn a_running_node_is_looked_at_and_reloaded_by_who_has_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let (data, cache, scripts) = (dir.path().join("data"), dir.path().join("cache"), root().join("scripts"));
    let node_file = dir.path().join("node.toml");
    let text = format!(
        "[node]\ndata_dir = {data:?}\ninstances_small = 50\ninstances_large = 2\n[server]\naot_cache_dir = {cache:?}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [[world]]\nname = \"yard\"\nscripts_dir = {scripts:?}\n[[world.script]]\nscript = \"weather\"\ncount = 2\n"
    );
    std::fs::write(&node_file, text).unwrap();
    let log = dir.path().join("log");
    let out = std::fs::File::create(&log).unwrap();
    let mut node = Running(command().args(["run", "--plain"]).arg(&node_file).stdout(out).spawn().unwrap());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let url = loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if let Some(url) = text.lines().find_map(|line| line.strip_prefix("dashboard at ")) {
            break url.trim_end_matches('/').to_owned();
        }
        assert!(node.0.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline, "{text}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let file = tiny(dir.path());
    let refused = aether(&[&file, "--address", &url]);
    assert!(refused.status.code() == Some(1) && all(&refused).contains("token"), "{}", all(&refused));

    let made = command()
        .args(["token", "make", "test", "--role", "publisher", "--output", "json", "--cluster"])
        .arg(&node_file)
        .output();
    let made: Value = serde_json::from_slice(&made.unwrap().stdout).unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, made["token"].as_str().unwrap_or_else(|| panic!("{made}"))).unwrap();
    let output = aether(&[&file, "--address", &url, "--token-file", token.to_str().unwrap(), "--output", "json"]);
    assert!(output.status.success(), "{}", all(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("no door")), "{report}");
    assert_eq!((&report["totals"]["inputs"], report["reloads"][0]["error"].is_null()), (&Value::from(0), true), "{report}");
    let ticks = report["totals"]["ticks"].as_u64().unwrap();
    assert!(ticks > 0 && ticks == report["ticks_ms"]["count"].as_u64().unwrap(), "{report}");
}
