//! What happens when several nodes want the same at once: one gets it.

use crate::support::{Cluster, batch, commit, script, world};
use aether_store::{Directory, NodeId, PostgresStore, ReloadPhase, Store, StoreError};
use aether_types::{Digest, Version};
use std::collections::HashSet;
use std::sync::Barrier;

/// All at the same time; the answers, in the order of the stores.
fn at_once<T: Send>(nodes: &[(PostgresStore, NodeId)], f: impl Fn(&PostgresStore, &NodeId) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(nodes.len());
    std::thread::scope(|scope| {
        let run = |(store, id)| {
            let (barrier, f) = (&barrier, &f);
            scope.spawn(move || {
                barrier.wait();
                f(store, id)
            })
        };
        let threads: Vec<_> = nodes.iter().map(|(store, id)| run((store, id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn nodes(cluster: &Cluster) -> Vec<(PostgresStore, NodeId)> {
    (0..4).map(|i| cluster.node(&format!("n{i}"))).collect()
}

#[test]
fn four_that_open_an_empty_database_at_once_make_its_tables_together() {
    for _ in 0..5 {
        let cluster = Cluster::new();
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    cluster.open()
                });
            }
        });
        assert_eq!(cluster.sql("SELECT number, readable_from FROM migration"), ["1|1", "2|1"]);
    }
}

#[test]
fn of_those_who_claim_a_world_at_once_one_gets_it() {
    let cluster = Cluster::new();
    let nodes = nodes(&cluster);
    for round in 0..20 {
        let name = format!("w{round}");
        let claims = at_once(&nodes, |store, _| store.claim(&world(&name)));
        assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1, "{claims:?}");
        assert!(claims.iter().all(|claim| matches!(claim, Ok(_) | Err(StoreError::Owned { .. }))), "{claims:?}");
    }
}

#[test]
fn of_those_who_inherit_a_world_at_once_one_gets_it_and_nobody_elses_writes_count() {
    let cluster = Cluster::new();
    let nodes = nodes(&cluster);
    for round in 0..20 {
        let name = format!("w{round}");
        let (dead, id) = cluster.node("dead");
        let mut last = dead.claim(&world(&name)).unwrap();
        nodes[0].0.bury(&id).unwrap();
        // The zombie writes until it is refused, in the middle of the claims.
        let claims = std::thread::scope(|scope| {
            let zombie = scope.spawn(|| {
                while commit(&dead, batch(&name, last, "k", Some(b"zombie"))).is_ok() {
                    last.commit_seq += 1;
                }
                last.commit_seq
            });
            let claims = at_once(&nodes, |store, _| store.claim(&world(&name)));
            let won: Vec<_> = claims.iter().filter_map(|claim| claim.as_ref().ok()).collect();
            assert_eq!(won.len(), 1, "{claims:?}");
            // What the heir was told is all there ever was of the zombie.
            assert_eq!(won[0].commit_seq, zombie.join().unwrap());
            claims
        });
        for ((store, _), claim) in nodes.iter().zip(claims) {
            if let Ok(claim) = claim {
                commit(store, batch(&name, claim, "k", Some(b"heir"))).unwrap();
            }
        }
        assert_eq!(nodes[0].0.load_keys(&world(&name)).unwrap()[0].2, b"heir");
    }
}

#[test]
fn of_those_who_would_lead_at_once_one_does() {
    let cluster = Cluster::new();
    let nodes = nodes(&cluster);
    for _ in 0..20 {
        let (former, id) = cluster.node("former");
        assert!(former.lead(&id).unwrap());
        former.bury(&id).unwrap();
        let leads = at_once(&nodes, |store, id| store.lead(id).unwrap());
        assert_eq!(leads.iter().filter(|leads| **leads).count(), 1);
        cluster.sql("UPDATE role SET holder = NULL");
    }
}

#[test]
fn a_leader_that_loses_its_role_meanwhile_sets_no_target() {
    let cluster = Cluster::new();
    let (old, old_id) = cluster.node("n1");
    let (new, new_id) = cluster.node("n2");
    old.add_worlds(&[world("town")]).unwrap();
    for _ in 0..20 {
        cluster.sql("UPDATE role SET holder = NULL");
        assert!(old.lead(&old_id).unwrap());
        std::thread::scope(|scope| {
            let setting = scope.spawn(|| old.set_targets(Some(&old_id), &[(world("town"), Some("n1".into()))], false).unwrap());
            cluster.sql("UPDATE role SET holder = NULL");
            assert!(new.lead(&new_id).unwrap());
            assert!(new.set_targets(Some(&new_id), &[(world("town"), Some("n2".into()))], false).unwrap());
            setting.join().unwrap();
        });
        assert_eq!(new.worlds().unwrap()[0].target.as_deref(), Some("n2"));
    }
}

#[test]
fn those_who_adopt_the_same_version_at_once_get_the_same() {
    let cluster = Cluster::new();
    let nodes = nodes(&cluster);
    for round in 0..20u8 {
        let source = Digest::of(&[round]);
        let got = at_once(&nodes, |store, _| store.adopt_version(script("patrol"), source, "m").unwrap());
        assert_eq!(got, vec![Version(u32::from(round) + 1); 4]);
    }
    let added = at_once(&nodes, |store, _| store.add_version(script("patrol"), Digest::of(b"x"), "m").unwrap());
    assert_eq!(added.iter().collect::<HashSet<_>>().len(), 4);
}

#[test]
fn of_the_reloads_of_a_script_that_begin_at_once_one_does() {
    let cluster = Cluster::new();
    let nodes = nodes(&cluster);
    for _ in 0..20 {
        let begun = at_once(&nodes, |store, id| store.begin_reload(id, script("patrol"), Version(1)).unwrap());
        let ids: Vec<u64> = begun.into_iter().flatten().collect();
        assert_eq!(ids.len(), 1);
        let ended =
            at_once(&nodes, |store, _| store.advance_reload(ids[0], ReloadPhase::Prepare, ReloadPhase::Aborted, "").unwrap());
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 1);
    }
}

#[test]
fn blobs_that_are_put_by_all_at_once_are_whole() {
    let cluster = Cluster::new();
    let nodes = nodes(&cluster);
    for round in 0..5u8 {
        let bytes = vec![round; 2 << 20];
        let digests = at_once(&nodes, |store, _| store.put_blob(&bytes).unwrap());
        assert!(nodes[0].0.get_blob(digests[0]).unwrap() == Some(bytes));
    }
}
