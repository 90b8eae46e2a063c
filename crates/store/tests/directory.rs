//! The directory of a cluster: nodes and leases, claims between nodes, targets, reloads.

use crate::support::{Cluster, LONG, batch, commit, go, info, script, world};
use aether_store::{Directory, NodeId, NodeState, ReloadPhase, ReloadRow, Store, StoreError, WorldRow};
use aether_types::{Digest, Generation, Version};
use std::time::{Duration, Instant};

/// Ends while one waits, and is long enough to be renewed on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

/// Until the lease of a node is over by the database's clock.
fn lapse(store: &impl Directory, node: &NodeId) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while store.nodes().unwrap().iter().any(|row| row.id == *node && !row.lease_left.is_zero()) {
        assert!(Instant::now() < deadline, "the lease of {node} does not end");
    }
}

#[test]
fn a_process_that_has_not_joined_touches_no_world() {
    let store = Cluster::new().open();
    let claim = aether_store::Claim { generation: Generation(1), commit_seq: 0 };
    let errors = [
        store.claim(&world("town")).unwrap_err(),
        store.release(&world("town"), claim.generation).unwrap_err(),
        store.commit(batch("town", claim, "k", None), Box::new(|_| ())).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.to_string().contains("has not joined the cluster")), "{errors:?}");
    assert!(store.load_keys(&world("town")).unwrap().is_empty());
}

#[test]
fn a_node_is_listed_as_it_joined_and_each_life_is_another_node() {
    let cluster = Cluster::new();
    let (one, first) = cluster.node("n1");
    let second = one.join(&info("n1"), LONG).unwrap();
    assert_ne!(first, second);
    let (_two, other) = cluster.node("a0");
    one.set_state(&second, NodeState::Draining).unwrap();
    one.bury(&first).unwrap();
    let rows = one.nodes().unwrap();
    let listed: Vec<_> = rows.iter().map(|row| (row.id.clone(), row.info.clone(), row.state)).collect();
    let wanted =
        [(other, info("a0"), NodeState::Up), (first, info("n1"), NodeState::Dead), (second, info("n1"), NodeState::Draining)];
    assert_eq!(listed, wanted);
    assert!(rows[0].lease_left > LONG - Duration::from_secs(60) && rows[0].lease_left <= LONG);
    assert_eq!(rows[1].lease_left, Duration::ZERO);
    cluster.sql("UPDATE node SET dead_at = now() - INTERVAL '2 hours' WHERE state = 'dead'");
    assert_eq!(one.nodes().unwrap().len(), 2);
}

#[test]
fn a_node_that_is_dead_never_comes_back() {
    let (store, me) = Cluster::new().node("n1");
    store.renew(&me, LONG).unwrap();
    store.set_state(&me, NodeState::Draining).unwrap();
    store.set_state(&me, NodeState::Up).unwrap();
    store.bury(&me).unwrap();
    store.bury(&me).unwrap();
    let dead = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::DeclaredDead(id)) if id == me.0));
    dead(store.renew(&me, LONG));
    dead(store.set_state(&me, NodeState::Up));
    dead(store.claim(&world("town")).map(drop));
    dead(store.lead(&me).map(drop));
    dead(store.renew(&NodeId("n1-nobody".into()), LONG).map_err(|_| StoreError::DeclaredDead(me.0.clone())));
}

#[test]
fn a_lapsed_node_is_buried_its_worlds_are_claimed_and_its_late_writes_refused() {
    let cluster = Cluster::new();
    let (zombie, dead) = cluster.node("n1");
    let (heir, alive) = cluster.node("n2");
    let mut old = zombie.claim(&world("town")).unwrap();
    go(&zombie, batch("town", old, "gold", Some(b"7")), &mut old);
    assert!(heir.bury_lapsed().unwrap().is_empty());
    assert!(matches!(heir.claim(&world("town")), Err(StoreError::Owned { owner, .. }) if owner == dead.0));
    // A renewal that is not repeated.
    zombie.renew(&dead, SHORT).unwrap();
    lapse(&heir, &dead);
    // Lapsed is not dead yet: it may still renew.
    assert!(matches!(heir.claim(&world("town")), Err(StoreError::Owned { .. })));
    zombie.renew(&dead, SHORT).unwrap();
    lapse(&heir, &dead);
    assert_eq!(heir.bury_lapsed().unwrap(), std::slice::from_ref(&dead));
    assert!(heir.bury_lapsed().unwrap().is_empty());
    assert!(matches!(zombie.renew(&dead, LONG), Err(StoreError::DeclaredDead(_))));
    let new = heir.claim(&world("town")).unwrap();
    assert_eq!((new.generation, new.commit_seq), (Generation(2), 1));
    assert!(matches!(commit(&zombie, batch("town", old, "gold", Some(b"late"))), Err(StoreError::Fenced { .. })));
    assert!(matches!(zombie.release(&world("town"), old.generation), Err(StoreError::Fenced { .. })));
    let removed = zombie.remove_checkpoints_after(&world("town"), old.generation, 0);
    assert!(matches!(removed, Err(StoreError::Fenced { .. })));
    assert_eq!(heir.load_keys(&world("town")).unwrap()[0].2, b"7");
    assert_eq!(heir.worlds().unwrap()[0].owner, Some(alive));
}

#[test]
fn the_right_generation_of_another_node_is_refused() {
    let cluster = Cluster::new();
    let (one, _) = cluster.node("n1");
    let (two, _) = cluster.node("n2");
    let claim = one.claim(&world("town")).unwrap();
    assert!(matches!(commit(&two, batch("town", claim, "k", Some(b"v"))), Err(StoreError::Fenced { .. })));
    assert!(matches!(two.release(&world("town"), claim.generation), Err(StoreError::Fenced { .. })));
    commit(&one, batch("town", claim, "k", Some(b"v"))).unwrap();
}

#[test]
fn a_released_world_is_anybodys() {
    let cluster = Cluster::new();
    let (one, _) = cluster.node("n1");
    let (two, id) = cluster.node("n2");
    let claim = one.claim(&world("town")).unwrap();
    one.release(&world("town"), claim.generation).unwrap();
    assert!(matches!(commit(&one, batch("town", claim, "k", Some(b"v"))), Err(StoreError::Fenced { .. })));
    assert_eq!(one.worlds().unwrap()[0].owner, None);
    assert_eq!(two.claim(&world("town")).unwrap().generation, Generation(2));
    assert_eq!(one.worlds().unwrap()[0].owner, Some(id));
}

#[test]
fn a_dead_node_is_remembered_as_long_as_something_names_it() {
    let cluster = Cluster::new();
    let (one, first) = cluster.node("n1");
    let (two, second) = cluster.node("n2");
    one.claim(&world("town")).unwrap();
    assert!(two.lead(&second).unwrap());
    let (three, _) = cluster.node("n3");
    three.bury(&first).unwrap();
    three.bury(&second).unwrap();
    cluster.sql("UPDATE node SET dead_at = now() - INTERVAL '2 days' WHERE state = 'dead'");
    let me = three.join(&info("n3"), LONG).unwrap();
    assert_eq!(cluster.sql("SELECT count(*) FROM node WHERE state = 'dead'"), ["2"]);
    three.claim(&world("town")).unwrap();
    assert!(three.lead(&me).unwrap());
    three.join(&info("n3"), LONG).unwrap();
    assert_eq!(cluster.sql("SELECT count(*) FROM node WHERE state = 'dead'"), ["0"]);
}

#[test]
fn one_node_leads_until_it_is_dead() {
    let cluster = Cluster::new();
    let (one, first) = cluster.node("n1");
    let (two, second) = cluster.node("n2");
    assert!(one.lead(&first).unwrap());
    assert!(one.lead(&first).unwrap());
    assert!(!two.lead(&second).unwrap());
    two.bury(&first).unwrap();
    assert!(two.lead(&second).unwrap());
    assert!(matches!(one.lead(&first), Err(StoreError::DeclaredDead(_))));
}

#[test]
fn worlds_are_added_once_and_targets_are_the_leaders() {
    let cluster = Cluster::new();
    let (one, first) = cluster.node("n1");
    let (two, second) = cluster.node("n2");
    let (a, b) = (world("a"), world("b"));
    one.claim(&b).unwrap();
    one.add_worlds(&[b.clone(), a.clone(), a.clone()]).unwrap();
    let row = |world: &str, owner: Option<&NodeId>, generation, target: Option<&str>, pinned, load| WorldRow {
        world: crate::support::world(world),
        owner: owner.cloned(),
        generation: Generation(generation),
        target: target.map(str::to_owned),
        pinned,
        load,
    };
    assert_eq!(one.worlds().unwrap(), [row("a", None, 0, None, false, 0.0), row("b", Some(&first), 1, None, false, 0.0)]);
    let n1 = || Some("n1".to_owned());
    assert!(!one.set_targets(Some(&first), &[(a.clone(), n1())], false).unwrap());
    assert!(one.lead(&first).unwrap());
    assert!(!two.set_targets(Some(&second), &[(a.clone(), n1())], false).unwrap());
    assert!(one.set_targets(Some(&first), &[(a.clone(), n1()), (world("nowhere"), n1())], false).unwrap());
    one.report_loads(&first, &[(a.clone(), 0.5), (b.clone(), 0.25)]).unwrap();
    two.report_loads(&second, &[(b.clone(), 9.0)]).unwrap();
    assert_eq!(two.worlds().unwrap(), [row("a", None, 0, Some("n1"), false, 0.0), row("b", Some(&first), 1, None, false, 0.25)]);
    // A dead leader's last word comes too late.
    two.bury(&first).unwrap();
    assert!(!one.set_targets(Some(&first), &[(a, None)], false).unwrap());
    assert_eq!(two.worlds().unwrap()[0].target, n1());
}

#[test]
fn placement_leaves_a_pinned_world_alone_while_its_node_is_up() {
    let cluster = Cluster::new();
    let (one, first) = cluster.node("n1");
    let (_two, second) = cluster.node("n2");
    let town = world("town");
    let target = |name: &str| [(town.clone(), Some(name.to_owned()))];
    let state = || one.worlds().unwrap().into_iter().map(|row| (row.target, row.pinned)).next().unwrap();
    one.add_worlds(std::slice::from_ref(&town)).unwrap();
    assert!(one.lead(&first).unwrap());
    assert!(one.set_targets(None, &target("n2"), true).unwrap());
    assert!(one.set_targets(Some(&first), &target("n1"), false).unwrap());
    assert_eq!(state(), (Some("n2".to_owned()), true));
    one.set_state(&second, NodeState::Draining).unwrap();
    assert!(one.set_targets(Some(&first), &target("n1"), false).unwrap());
    assert_eq!(state(), (Some("n1".to_owned()), false));
    // An operator may also change his mind.
    one.set_targets(None, &target("n1"), true).unwrap();
    one.set_targets(None, &[(town.clone(), None)], false).unwrap();
    assert_eq!(state(), (None, false));
}

#[test]
fn a_reload_goes_forward_only_and_its_version_serves_when_it_is_committed() {
    let (store, me) = Cluster::new().node("n1");
    let patrol = script("patrol");
    for source in [b"1", b"2"] {
        store.add_version(patrol, Digest::of(source), "").unwrap();
    }
    store.set_active(patrol, Version(1)).unwrap();
    let id = store.begin_reload(&me, patrol, Version(2)).unwrap().unwrap();
    assert_eq!(store.begin_reload(&me, patrol, Version(2)).unwrap(), None);
    let row = |phase, reason: &str| ReloadRow {
        id,
        script: patrol,
        version: Version(2),
        coordinator: me.clone(),
        phase,
        reason: reason.to_owned(),
    };
    assert_eq!(store.open_reloads().unwrap(), [row(ReloadPhase::Prepare, "")]);
    for (from, to) in [
        (ReloadPhase::Activate, ReloadPhase::Committed),
        (ReloadPhase::Prepare, ReloadPhase::Prepare),
        (ReloadPhase::Aborted, ReloadPhase::Prepare),
    ] {
        assert!(!store.advance_reload(id, from, to, "").unwrap(), "{from:?} {to:?}");
    }
    assert!(store.advance_reload(id, ReloadPhase::Prepare, ReloadPhase::Activate, "").unwrap());
    assert!(!store.advance_reload(id, ReloadPhase::Prepare, ReloadPhase::Aborted, "").unwrap());
    assert_eq!(store.active().unwrap(), [(patrol, Version(1))]);
    assert!(store.advance_reload(id, ReloadPhase::Activate, ReloadPhase::Committed, "it serves\0").unwrap());
    assert_eq!(store.active().unwrap(), [(patrol, Version(2))]);
    assert!(store.open_reloads().unwrap().is_empty());
    assert_eq!(store.reload(id).unwrap(), Some(row(ReloadPhase::Committed, "it serves\u{fffd}")));
    assert!(!store.advance_reload(id, ReloadPhase::Committed, ReloadPhase::Aborted, "").unwrap());
    assert!(!store.advance_reload(id + 1, ReloadPhase::Prepare, ReloadPhase::Activate, "").unwrap());
    let next = store.begin_reload(&me, patrol, Version(1)).unwrap().unwrap();
    assert!(next > id);
    assert!(store.advance_reload(next, ReloadPhase::Prepare, ReloadPhase::Aborted, "no").unwrap());
    assert_eq!(store.active().unwrap(), [(patrol, Version(2))]);
}

#[test]
fn a_reload_of_a_version_that_is_gone_cannot_be_committed() {
    let (store, me) = Cluster::new().node("n1");
    let patrol = script("patrol");
    let version = store.add_version(patrol, Digest::of(b"1"), "").unwrap();
    let id = store.begin_reload(&me, patrol, version).unwrap().unwrap();
    store.forget_version(patrol, version).unwrap();
    let committed = store.advance_reload(id, ReloadPhase::Prepare, ReloadPhase::Committed, "");
    assert!(matches!(committed, Err(StoreError::NoVersion { .. })));
    assert_eq!(store.reload(id).unwrap().unwrap().phase, ReloadPhase::Prepare);
    assert!(store.advance_reload(id, ReloadPhase::Prepare, ReloadPhase::Aborted, "its version is gone").unwrap());
    assert!(store.open_reloads().unwrap().is_empty());
}

#[test]
fn reloads_that_ended_long_ago_are_forgotten_and_their_numbers_are_not_used_again() {
    let cluster = Cluster::new();
    let (store, me) = cluster.node("n1");
    let old = store.begin_reload(&me, script("patrol"), Version(1)).unwrap().unwrap();
    store.advance_reload(old, ReloadPhase::Prepare, ReloadPhase::Aborted, "").unwrap();
    cluster.sql("UPDATE reload SET ended_at = now() - INTERVAL '2 days'");
    let new = store.begin_reload(&me, script("door"), Version(1)).unwrap().unwrap();
    assert!(new > old);
    assert_eq!(store.reload(old).unwrap(), None);
}
