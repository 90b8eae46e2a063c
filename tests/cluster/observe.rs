//! What operators see of a cluster: one trace of what happens on several nodes, every metric of the table, commands that wait.
//!
//! Not here: one node (`tests/observe`), what is done to a cluster (`operate.rs`).

use super::collector::{Collector, Span};
use super::load::{Trap, put_banner};
use super::reload::agree;
use super::rig::{CALM, Cluster, NODES, free_port};
use crate::program::root;
use aether_admin::metrics::METRICS;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// Three nodes that send their traces to a collector.
fn traced() -> (Cluster, Collector) {
    let collector = Collector::start();
    let mut cluster = Cluster::prepare(6, CALM);
    for node in NODES {
        cluster.set_variables(node, &[("AETHER_NODE__OTLP_ENDPOINT", &collector.url), ("OTEL_BSP_SCHEDULE_DELAY", "100")]);
        cluster.start_process(node);
    }
    cluster.settle();
    (cluster, collector)
}

/// The nodes that have a span of this name in a trace.
fn nodes_of<'a>(spans: &'a [Span], trace: &[u8], name: &str) -> BTreeSet<&'a str> {
    spans.iter().filter(|span| span.trace == trace && span.name == name).map(|span| span.node.as_str()).collect()
}

#[test]
fn a_reload_over_nodes_is_one_trace_and_so_is_a_move() {
    let (mut cluster, collector) = traced();
    assert_eq!(agree(&mut cluster), 1);
    let folder = put_banner(cluster.dir(), 2, Trap::Nowhere);
    cluster.ask("b", &["publish", folder.to_str().unwrap()]).unwrap_or_else(|error| panic!("{error}"));
    let all: BTreeSet<_> = NODES.into_iter().collect();
    let spans = cluster.until("all spans of the reload", |_| {
        let spans = collector.spans();
        let trace = spans.iter().find(|span| span.name == "publish")?.trace.clone();
        let phases = ["reload.prepare", "reload.activate", "reload.end"];
        phases.iter().all(|phase| nodes_of(&spans, &trace, phase) == all).then_some(spans)
    });
    let root = spans.iter().find(|span| span.name == "publish").unwrap();
    let own: Vec<_> = spans.iter().filter(|span| span.trace == root.trace).collect();
    assert!(root.parent.is_empty() && root.node == "b" && root.nanoseconds > 0, "{root:?}");
    // The phases are those of the reload, which the asked node coordinates.
    let reload = own.iter().find(|span| span.name == "reload").unwrap();
    assert_eq!((reload.node.as_str(), &reload.parent), ("b", &root.id));
    for phase in own.iter().filter(|span| span.name == "reload.prepare") {
        assert_eq!(phase.parent, reload.id, "{phase:?}");
    }
    assert!(own.iter().any(|span| span.name == "reload.commit" && span.node == "b"), "{own:?}");

    let world = "w1";
    let from = cluster.owner(world).unwrap();
    let to = NODES.into_iter().find(|node| *node != from).unwrap();
    let asked = NODES.into_iter().find(|node| ![from, to].contains(node)).unwrap();
    let answer = cluster.ask(asked, &["move", world, to, "--wait"]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        cluster.ask(asked, &["placement"]).unwrap().as_array().unwrap().iter().find(|row| row["name"] == world).unwrap()["owner"],
        to,
        "{answer}"
    );
    cluster.until("all spans of the move", |_| {
        let spans = collector.spans();
        let moved = spans.iter().find(|span| span.name == "world.move" && span.world.as_deref() == Some(world))?;
        let one = |name| nodes_of(&spans, &moved.trace, name);
        (moved.node == asked && one("world.release") == [from].into() && one("world.claim") == [to].into()).then_some(())
    });
    // Checkpoints are spans too; ticks are none.
    cluster.until("a checkpoint's span", |_| collector.spans().iter().any(|span| span.name == "world.checkpoint").then_some(()));
    let known = ["publish", "reload", "world", "placement", "rollback"];
    let unknown: BTreeSet<_> = collector
        .spans()
        .into_iter()
        .map(|span| span.name)
        .filter(|name| !known.iter().any(|known| name.starts_with(known)))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    cluster.check();
}

fn scrape(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[test]
fn a_node_of_a_cluster_tells_every_metric_of_the_table_and_no_other() {
    let mut cluster = Cluster::prepare(6, CALM);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let variables = [
        ("AETHER_ADMIN__LISTEN", &*listen),
        ("AETHER_ADMIN__REQUIRE_TOKEN", "false"),
        ("AETHER_GATEWAY__LISTEN", "127.0.0.1:0"),
        ("AETHER_GATEWAY__REQUIRE_TOKEN", "false"),
    ];
    cluster.set_variables("a", &variables);
    NODES.into_iter().for_each(|node| cluster.start_process(node));
    cluster.settle();
    // Somebody who is no node: a connection that ends for a reason.
    let mut stranger = TcpStream::connect(("127.0.0.1", cluster.listen("a"))).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let wanted: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let told = |text: &str| -> BTreeSet<String> {
        let names = text.lines().filter(|line| line.starts_with("aether_")).filter_map(|line| line.split(['{', ' ']).next());
        names.map(str::to_owned).collect()
    };
    let begin = Instant::now();
    loop {
        let told = told(&scrape(port));
        let missing: Vec<_> = wanted.iter().filter(|name| !told.contains(**name)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "not told: {missing:?}");
        cluster.go_on(1);
    }
    let unknown: Vec<_> = told(&scrape(port)).into_iter().filter(|name| !wanted.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let text = scrape(port);
    for line in [r#"aether_cluster_node_linked{peer="b"} 1"#, "aether_lease_seconds 10", "aether_cluster_unowned_worlds 0"] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn commands_that_wait_end_when_it_is_done_and_top_knows_all_nodes() {
    let mut cluster = Cluster::start(6, CALM);
    let worlds = cluster.worlds_of("a");
    cluster.ask("b", &["drain", "a", "--wait"]).unwrap_or_else(|error| panic!("{error}"));
    let placed = cluster.ask("b", &["placement"]).unwrap();
    assert!(placed.as_array().unwrap().iter().all(|world| world["owner"].is_string() && world["owner"] != "a"), "{placed}");
    cluster.taken_over(&worlds);
    let top = cluster.ask("b", &["top", "--once"]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((top["nodes"].as_array().unwrap().len(), top["worlds"].as_array().unwrap().len()), (3, cluster.ring.len()));
    // Its own and those of the others on this machine: nobody's ticks are unknown.
    cluster.until("top knows every world's state", |cluster| {
        let top = cluster.ask("b", &["top", "--once"]).ok()?;
        (top["silent"] == serde_json::json!([]) && top["worlds"].as_array()?.iter().all(|world| world["state"] == "ticking"))
            .then_some(())
    });
    let (world, owner) = (cluster.ring[0].clone(), cluster.owner(&cluster.ring[0].clone()).unwrap());
    let other = NODES.into_iter().find(|node| *node != owner && *node != "a").unwrap();
    let refused = cluster.ask(other, &["describe", &world]).unwrap_err();
    assert!(refused.contains(&format!("runs on node {owner}")), "{refused}");
    cluster.check();
}

#[test]
fn the_dashboard_of_a_cluster_works_in_a_browser() {
    let tools = root().join("target/tmp/web");
    let made = Command::new("bash").arg(root().join("tests/web/setup.sh")).arg(&tools).status().unwrap();
    assert!(made.success(), "see above what is missing");
    let mut cluster = Cluster::prepare(6, CALM);
    let port = free_port();
    cluster
        .set_variables("a", &[("AETHER_ADMIN__LISTEN", &format!("127.0.0.1:{port}")), ("AETHER_ADMIN__REQUIRE_TOKEN", "false")]);
    NODES.into_iter().for_each(|node| cluster.start_process(node));
    cluster.settle();
    let world = cluster.worlds_of("a").first().unwrap().0.clone();
    let mut browser = Command::new(tools.join("venv/bin/python"));
    browser.arg(root().join("tests/web/cluster.py")).args([&format!("http://127.0.0.1:{port}"), &world, "b"]).arg(&tools);
    let output = browser.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    cluster.settle();
    cluster.check();
}
