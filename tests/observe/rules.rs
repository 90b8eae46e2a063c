//! The files for Prometheus and Grafana: valid, tested, and of metrics that there are.

use crate::support::root;
use crate::web::promtool;
use aether_admin::metrics::METRICS;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

fn folder() -> PathBuf {
    root().join("cluster-config/observability")
}

/// Run promtool in a folder; what it printed.
#[track_caller]
fn run(dir: &std::path::Path, arguments: &[&str]) -> String {
    let output = Command::new(promtool()).args(arguments).current_dir(dir).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

fn read(file: &str) -> String {
    std::fs::read_to_string(folder().join(file)).unwrap()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("aether_")).collect()
}

#[track_caller]
fn assert_known(text: &str) {
    let table: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let unknown: Vec<_> = named(text).into_iter().filter(|name| !table.contains(name)).collect();
    assert!(unknown.is_empty(), "no metric of the table: {unknown:?}");
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    let said = run(&folder(), &["test", "rules", "rules-test.yml"]);
    assert!(said.contains("SUCCESS"), "{said}");
    let (rules, tests) = (read("prometheus-rules.yml"), read("rules-test.yml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 18, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("name: {alert} fires")), "{alert} is never seen to fire");
        assert!(alert == "AetherNodeSilent" || tests.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert}");
    }
}

#[test]
fn alerts_are_about_metrics_that_there_are_and_say_what_to_do() {
    let rules = read("prometheus-rules.yml");
    assert_known(&rules);
    assert_known(&read("rules-test.yml"));
    let count = |what: &str| rules.lines().filter(|line| line.trim().starts_with(what)).count();
    assert_eq!([count("action:"), count("summary:"), count("labels:")], [count("- alert:"); 3]);
}

#[test]
fn the_scrape_file_is_good() {
    let dir = tempfile::tempdir().unwrap();
    for node in ["a", "b", "c"] {
        std::fs::write(dir.path().join(format!("aether-{node}.token")), "x").unwrap();
    }
    let config = read("prometheus.yml").replace("/etc/prometheus", dir.path().to_str().unwrap());
    std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    std::fs::copy(folder().join("prometheus-rules.yml"), dir.path().join("prometheus-rules.yml")).unwrap();
    assert!(run(dir.path(), &["check", "config", "prometheus.yml"]).contains("SUCCESS"));
}

/// Every expression of a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn every_expression_of_the_dashboard_is_one_of_metrics_that_there_are() {
    let text = read("grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard["panels"], &mut found);
    assert!(found.len() > 30, "{}", found.len());
    assert_known(&text);
    // As rules, with the variables as Grafana fills them in: promtool then parses each.
    let rule = |(i, expression): (usize, &String)| {
        let filled =
            expression.replace("$__rate_interval", "1m").replace("$node", ".*").replace("$world", ".*").replace("$script", ".*");
        assert!(!filled.contains('$'), "{expression}");
        format!("      - {{ record: \"e:{i}\", expr: {} }}\n", serde_json::to_string(&filled).unwrap())
    };
    let rules: String = found.iter().enumerate().map(rule).collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rules.yml"), format!("groups:\n  - name: dashboard\n    rules:\n{rules}")).unwrap();
    let said = run(dir.path(), &["check", "rules", "rules.yml"]);
    assert!(said.contains(&format!("{} rules found", found.len())), "{said}");
}
