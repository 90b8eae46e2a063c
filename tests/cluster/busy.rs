//! Nodes whose tick threads have no rest: leases are renewed and links answer all the same.
//!
//! Not here: what one such node answers to people (`tests/control.rs`).

use super::rig::{CALM, Cluster, NODES};
use crate::records::{COMMON, NO_STATE, put_script};
use aether_admin::{Client, Request, socket_path};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Of a tick of a tenth of a second and more each: many times what three tick threads can do in a second.
const WORLDS: usize = 36;

/// Round trips of a node's links, as it last measured them.
fn round_trips(cluster: &Cluster, node: &str) -> Vec<Duration> {
    let socket = socket_path(&cluster.dir().join(format!("data-{node}")));
    let answer = Client::new(socket).ask(&Request::Cluster, &()).unwrap_or_else(|error| panic!("{error}"));
    let links = answer["links"].as_array().cloned().unwrap_or_else(|| panic!("{answer}"));
    let us = links.iter().filter_map(|link: &Value| link["round_trip_us"].as_f64());
    us.map(|us| Duration::from_secs_f64(us / 1e6)).collect()
}

#[test]
fn nodes_that_tick_without_a_pause_keep_their_leases_and_hear_each_other() {
    let mut cluster = Cluster::prepare(0, CALM);
    cluster.ring = (1..=WORLDS).map(|number| format!("busy-{number}")).collect();
    let text = format!(
        r#"(module {COMMON} {NO_STATE} (data (i32.const 0) "diary") (global $n (mut i64) (i64.const 0))
          (func (export "on_tick") (param f32) (local $i i64) (local.set $i (i64.const 100000000))
            (global.set $n (i64.add (global.get $n) (i64.const 1)))
            (drop (call $show (i32.const 0) (i32.const 5) (global.get $n)))
            (loop $l (br_if $l (i64.ne (local.tee $i (i64.sub (local.get $i) (i64.const 1))) (i64.const 0))))))"#
    );
    put_script(cluster.dir(), "busy", "on_budget = \"terminate\"\nfuel = 1000000000", &text);
    let worlds =
        format!("[[world]]\nname = \"busy\"\ncount = {WORLDS}\nscripts_dir = \"scripts\"\n[[world.script]]\nscript = \"busy\"\n");
    let limits = "tick_hz = 4.0\ntick_budget_ms = 250.0\nsuspend_above = 2.0\nresume_below = 1.5";
    cluster.edit(|text| {
        let at = text.find("[limits]").unwrap();
        let end = at + text[at..].find("[cluster]").unwrap();
        // Loads differ by chance: nothing is to move for that here.
        let rest = text[end..].replace("moves_per_minute = 600", "moves_per_minute = 0");
        format!("{}[limits]\n{limits}\n{rest}{worlds}", &text[..at])
    });
    for node in NODES {
        cluster.start_process(node);
    }
    // Who comes late may find them all taken.
    cluster.until("all worlds tick", |cluster| cluster.ring.iter().all(|world| cluster.owner(world).is_some()).then_some(()));
    let busy: Vec<_> = NODES.into_iter().filter(|node| !cluster.worlds_of(node).is_empty()).collect();
    let (before, begun) = (cluster.generations(), Instant::now());
    let mut longest = Duration::ZERO;
    // Many renewals of each, and as many chances to miss one.
    cluster.until("two leases", |cluster| {
        longest = NODES.into_iter().flat_map(|node| round_trips(cluster, node)).fold(longest, Duration::max);
        (begun.elapsed() > 2 * CALM).then_some(())
    });
    eprintln!("figure: the longest round trip between nodes without a pause: {longest:.1?}");
    assert!(Duration::ZERO < longest && longest < CALM / 2, "{longest:?}");
    assert_eq!(cluster.generations(), before, "a world changed hands, so a lease was over");
    // And they were busy: worlds of each have missed ticks meanwhile.
    for node in busy {
        let answer = cluster.ask(node, &["list"]).unwrap_or_else(|error| panic!("{error}"));
        let own = answer["worlds"].as_array().cloned().unwrap_or_else(|| panic!("{answer}"));
        let missed = own.iter().filter(|world| world["missed_ticks"].as_u64() > Some(0)).count();
        assert!(missed > 0, "{node} had rests: {answer}");
    }
}
