//! A database that is more than one server, and one whose disk hangs: what was acknowledged is there, and no world moves for it.
//!
//! Not here: a database that stops and comes back (`faults.rs`).

use super::rig::{CALM, Cluster, NODES};
use std::time::{Duration, Instant};

const WORLDS: usize = 6;

#[test]
fn a_standby_that_takes_over_from_a_killed_database_has_all_that_was_acknowledged() {
    let mut cluster = Cluster::prepare(WORLDS, CALM);
    let standby = cluster.database.standby();
    let [first, second] = [cluster.database.port(), standby.port()];
    cluster.store = Some(format!("postgres://aether@127.0.0.1:{first},127.0.0.1:{second}/postgres"));
    for node in NODES {
        cluster.start_process(node);
    }
    cluster.settle();
    cluster.go_on(10);
    cluster.check();
    let before = cluster.generations();
    cluster.clean = false;
    cluster.database.stop(true);
    let stopped = Instant::now();
    standby.promote();
    cluster.database = standby;
    cluster.go_on(1);
    eprintln!("all worlds ticked {:?} after the database was killed", stopped.elapsed());
    // What was shown before it is in the new one, and the leases held meanwhile.
    cluster.check();
    cluster.go_on(20);
    assert_eq!(cluster.generations(), before);
    cluster.settle();
    cluster.deliver();
    cluster.check();
}

#[test]
fn while_the_databases_disk_hangs_nothing_leaves_a_world_and_afterwards_all_go_on() {
    let mut cluster = Cluster::start(WORLDS, CALM);
    let before = cluster.generations();
    let shown =
        |cluster: &Cluster| -> Vec<u64> { cluster.ring.iter().map(|world| cluster.watch.newest(world).1.lines).collect() };
    for seconds in [1, 3] {
        cluster.database.wait_for_standbys(true);
        // What was committed before that may still be on its way out.
        let mut last = (shown(&cluster), Instant::now());
        cluster.until("nothing leaves any more", |cluster| {
            let now = shown(cluster);
            if now != last.0 {
                last = (now, Instant::now());
            }
            (last.1.elapsed() > Duration::from_secs(seconds)).then_some(())
        });
        cluster.database.wait_for_standbys(false);
        cluster.go_on(10);
        assert_eq!(cluster.generations(), before);
        cluster.check();
    }
    cluster.settle();
    cluster.deliver();
    cluster.check();
}
