//! Worlds in both stores: commits and their fence, keys, messages, checkpoints.

use crate::support::{Cluster, batch, both, commit, empty, go, start, world};
use aether_store::{Batch, Channel, Claim, MessageWrites, Messages, Store, StoreError, StoredMessage};
use aether_types::Generation;

/// A checkpoint of the town in a commit of its own; its data is its number.
fn checkpoint(store: &dyn Store, claim: &mut Claim, name: Option<&str>) {
    let data = (claim.commit_seq + 1).to_string().into_bytes();
    let batch = Batch { checkpoint: Some(data), checkpoint_name: name.map(str::to_owned), ..empty("town", *claim) };
    go(store, batch, claim);
}

/// Numbers and names, in the order of a start.
fn kept(store: &dyn Store) -> Vec<(u64, Option<String>)> {
    let checkpoints = store.load_checkpoints(&world("town")).unwrap();
    assert!(checkpoints.iter().all(|checkpoint| checkpoint.data == checkpoint.seq.to_string().into_bytes()));
    checkpoints.into_iter().map(|checkpoint| (checkpoint.seq, checkpoint.name)).collect()
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        for (key, value) in [("gold", Some(&b"7"[..])), ("silver", Some(b"1")), ("silver", None)] {
            go(&*store, batch("town", claim, key, value), &mut claim);
        }
        drop(store);
        let store = rig.open();
        assert_eq!(store.load_keys(&world("town")).unwrap(), [("shop".into(), "gold".into(), b"7".to_vec())]);
        assert_eq!(store.claim(&world("town")).unwrap(), Claim { generation: Generation(2), commit_seq: 3 });
    });
}

#[test]
fn what_was_given_before_the_store_was_closed_is_committed() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        let answers: Vec<_> = (0..100)
            .map(|i| {
                let answer = start(&*store, batch("town", claim, &format!("k{i}"), Some(b"v")));
                claim.commit_seq += 1;
                answer
            })
            .collect();
        drop(store);
        assert!(answers.iter().all(|answer| answer.recv().unwrap().is_ok()));
        assert_eq!(rig.open().load_keys(&world("town")).unwrap().len(), 100);
    });
}

#[test]
fn an_older_generation_and_a_repeated_batch_are_refused_and_write_nothing() {
    both(|rig| {
        let store = rig.open();
        let old = store.claim(&world("town")).unwrap();
        let new = store.claim(&world("town")).unwrap();
        assert!(matches!(commit(&*store, batch("town", old, "gold", Some(b"zombie"))), Err(StoreError::Fenced { .. })));
        commit(&*store, batch("town", new, "gold", Some(b"7"))).unwrap();
        assert!(matches!(commit(&*store, batch("town", new, "gold", Some(b"8"))), Err(StoreError::Fenced { .. })));
        assert_eq!(store.load_keys(&world("town")).unwrap()[0].2, b"7");
    });
}

#[test]
fn a_world_that_was_never_claimed_takes_no_batch() {
    both(|rig| {
        let claim = Claim { generation: Generation(0), commit_seq: 0 };
        assert!(matches!(commit(&*rig.open(), batch("town", claim, "gold", Some(b"7"))), Err(StoreError::Fenced { .. })));
    });
}

#[test]
fn a_refused_batch_does_not_hinder_those_of_other_worlds_in_its_group() {
    both(|rig| {
        let store = rig.open();
        let (a, b) = (store.claim(&world("a")).unwrap(), store.claim(&world("b")).unwrap());
        store.claim(&world("a")).unwrap();
        let answers = [("a", a), ("b", b)].map(|(name, claim)| start(&*store, batch(name, claim, "k", Some(b"v"))));
        assert_eq!(answers.map(|answer| answer.recv().unwrap().is_ok()), [false, true]);
    });
}

#[test]
fn batches_that_wait_together_are_committed_in_their_order_and_the_last_write_of_a_key_stays() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        let writes: [(&str, Option<&[u8]>); 6] =
            [("a", Some(b"1")), ("b", Some(b"1")), ("a", None), ("b", Some(b"2")), ("a", Some(b"3")), ("c", None)];
        let answers: Vec<_> = writes
            .iter()
            .map(|(key, value)| {
                let answer = start(&*store, batch("town", claim, key, *value));
                claim.commit_seq += 1;
                answer
            })
            .collect();
        assert!(answers.iter().all(|answer| answer.recv().unwrap().is_ok()));
        let keys: Vec<(String, Vec<u8>)> =
            store.load_keys(&world("town")).unwrap().into_iter().map(|(_, key, value)| (key, value)).collect();
        assert_eq!(keys, [("a".to_owned(), b"3".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        assert_eq!(store.claim(&world("town")).unwrap().commit_seq, 6);
    });
}

#[test]
fn keys_may_hold_any_character_and_come_in_the_order_of_their_bytes() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        let keys = ["", "\0", "\u{1}", "\u{1}\u{1}", "\u{2}", "A", "B", "a", "a\0b", "ä", "👑"];
        for key in keys.iter().rev() {
            go(&*store, batch("town", claim, key, Some(key.as_bytes())), &mut claim);
        }
        let wanted: Vec<_> = keys.iter().map(|key| ("shop".to_owned(), (*key).to_owned(), key.as_bytes().to_vec())).collect();
        assert_eq!(store.load_keys(&world("town")).unwrap(), wanted);
        go(&*store, batch("town", claim, "\0", None), &mut claim);
        assert_eq!(store.load_keys(&world("town")).unwrap().len(), keys.len() - 1);
    });
}

#[test]
fn a_flush_returns_when_all_before_it_is_answered() {
    both(|rig| {
        let store = rig.open();
        let claim = store.claim(&world("town")).unwrap();
        let answer = start(&*store, batch("town", claim, "gold", Some(b"7")));
        store.flush().unwrap();
        assert!(answer.try_recv().unwrap().is_ok());
    });
}

#[test]
fn messages_are_kept_until_they_are_delivered_or_done_with() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        assert_eq!(store.load_messages(&world("town")).unwrap(), Messages::default());
        let message =
            |peer: &str, number: u64| StoredMessage { peer: world(peer), number, data: format!("{peer}{number}").into_bytes() };
        let channel = |peer: &str, sent, taken| Channel { peer: world(peer), sent, taken };
        let first = MessageWrites {
            channels: vec![channel("mill", 3, 2), channel("farm", 1, 0)],
            sent: vec![message("mill", 1), message("mill", 2), message("mill", 3), message("farm", 1)],
            taken: vec![message("mill", 1), message("mill", 2)],
            // Of the same tick.
            delivered: vec![(world("mill"), 1)],
            done: vec![(world("mill"), 1)],
        };
        go(&*store, Batch { messages: first, ..empty("town", claim) }, &mut claim);
        drop(store);
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        let wanted = Messages {
            channels: vec![channel("farm", 1, 0), channel("mill", 3, 2)],
            outbox: vec![message("farm", 1), message("mill", 2), message("mill", 3)],
            inbox: vec![message("mill", 2)],
        };
        assert_eq!(store.load_messages(&world("town")).unwrap(), wanted);
        let second = MessageWrites {
            channels: vec![channel("mill", 4, 3)],
            sent: vec![message("mill", 4)],
            taken: vec![message("mill", 3)],
            delivered: vec![(world("mill"), 3), (world("farm"), 9)],
            done: vec![(world("mill"), 2), (world("farm"), 1)],
        };
        go(&*store, Batch { messages: second, ..empty("town", claim) }, &mut claim);
        let wanted = Messages {
            channels: vec![channel("farm", 1, 0), channel("mill", 4, 3)],
            outbox: vec![message("mill", 4)],
            inbox: vec![message("mill", 3)],
        };
        assert_eq!(store.load_messages(&world("town")).unwrap(), wanted);
        assert_eq!(store.load_messages(&world("mill")).unwrap(), Messages::default());
    });
}

#[test]
fn a_refused_batch_leaves_no_message() {
    both(|rig| {
        let store = rig.open();
        let old = store.claim(&world("town")).unwrap();
        store.claim(&world("town")).unwrap();
        let messages = MessageWrites {
            channels: vec![Channel { peer: world("mill"), sent: 1, taken: 0 }],
            sent: vec![StoredMessage { peer: world("mill"), number: 1, data: b"hello".to_vec() }],
            ..MessageWrites::default()
        };
        assert!(matches!(commit(&*store, Batch { messages, ..empty("town", old) }), Err(StoreError::Fenced { .. })));
        assert_eq!(store.load_messages(&world("town")).unwrap(), Messages::default());
    });
}

#[test]
fn a_release_needs_the_generation_and_may_be_repeated() {
    both(|rig| {
        let store = rig.open();
        let old = store.claim(&world("town")).unwrap();
        let new = store.claim(&world("town")).unwrap();
        assert!(matches!(store.release(&world("town"), old.generation), Err(StoreError::Fenced { .. })));
        store.release(&world("town"), new.generation).unwrap();
        store.release(&world("town"), new.generation).unwrap();
        let claim = store.claim(&world("town")).unwrap();
        assert_eq!(claim.generation, Generation(3));
        assert!(matches!(store.release(&world("town"), new.generation), Err(StoreError::Fenced { .. })));
        assert!(matches!(store.release(&world("mill"), Generation(0)), Err(StoreError::Fenced { .. })));
    });
}

#[test]
fn two_checkpoints_are_kept_newest_first_unless_more_are_asked_for() {
    for (asked, wanted) in [(2, 3..=4), (3, 2..=4), (0, 4..=4)] {
        both(|rig| {
            let store = rig.open_with(asked);
            let mut claim = store.claim(&world("town")).unwrap();
            for _ in 0..4 {
                checkpoint(&*store, &mut claim, None);
            }
            assert_eq!(kept(&*store), wanted.clone().rev().map(|seq| (seq, None)).collect::<Vec<(u64, Option<String>)>>());
        });
    }
}

#[test]
fn named_checkpoints_survive_retention_and_do_not_count_in_it() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        for name in [None, Some("before"), None, None, Some("after")] {
            checkpoint(&*store, &mut claim, name);
        }
        let wanted = [(5, Some("after")), (4, None), (3, None), (2, Some("before"))];
        assert_eq!(kept(&*store), wanted.map(|(seq, name)| (seq, name.map(str::to_owned))));
        let listed = store.list_checkpoints(&world("town")).unwrap();
        let told: Vec<_> = listed.iter().map(|entry| (entry.seq, entry.name.as_deref(), entry.bytes)).collect();
        assert_eq!(told, wanted.map(|(seq, name)| (seq, name, 1)));
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let recent = |made_ms: Option<u64>| made_ms.is_some_and(|made_ms| now_ms.abs_diff(made_ms) < 600_000);
        assert!(listed.iter().all(|entry| recent(entry.made_ms)), "{listed:?}");
    });
}

#[test]
fn of_the_named_checkpoints_sixteen_are_kept() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        checkpoint(&*store, &mut claim, None);
        for _ in 0..18 {
            checkpoint(&*store, &mut claim, Some("nightly"));
        }
        let seqs: Vec<u64> = kept(&*store).into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(seqs, (4..=19).rev().chain([1]).collect::<Vec<_>>());
    });
}

#[test]
fn a_restored_checkpoint_is_the_first_at_the_next_start_until_a_new_one_is_made() {
    both(|rig| {
        let store = rig.open_with(9);
        let mut claim = store.claim(&world("town")).unwrap();
        for name in [None, None, Some("fair"), None] {
            checkpoint(&*store, &mut claim, name);
        }
        store.remove_checkpoints_after(&world("town"), claim.generation, 2).unwrap();
        let fair = || Some("fair".to_owned());
        assert_eq!(kept(&*store), [(2, None), (1, None), (3, fair())]);
        assert_eq!(store.list_checkpoints(&world("town")).unwrap()[0].seq, 3);
        checkpoint(&*store, &mut claim, None);
        assert_eq!(kept(&*store), [(5, None), (3, fair()), (2, None), (1, None)]);
    });
}

#[test]
fn an_older_generation_removes_no_checkpoint() {
    both(|rig| {
        let store = rig.open();
        let mut claim = store.claim(&world("town")).unwrap();
        checkpoint(&*store, &mut claim, None);
        checkpoint(&*store, &mut claim, None);
        store.claim(&world("town")).unwrap();
        let removed = store.remove_checkpoints_after(&world("town"), claim.generation, 1);
        assert!(matches!(removed, Err(StoreError::Fenced { .. })));
        assert_eq!(kept(&*store), [(2, None), (1, None)]);
    });
}

#[test]
fn checkpoints_of_any_size_come_back_whole() {
    both(|rig| {
        let store = rig.open_with(9);
        let mut claim = store.claim(&world("town")).unwrap();
        let sizes = [0, 1, (512 << 10) - 1, 512 << 10, (512 << 10) + 1, 3 << 20];
        let data = |size: usize| (0..size).map(|i| ((i * 31) >> 7) as u8).collect::<Vec<u8>>();
        // All at once: they share a transaction.
        let answers = sizes.map(|size| {
            let answer = start(&*store, Batch { checkpoint: Some(data(size)), ..empty("town", claim) });
            claim.commit_seq += 1;
            answer
        });
        assert!(answers.iter().all(|answer| answer.recv().unwrap().is_ok()));
        let loaded = store.load_checkpoints(&world("town")).unwrap();
        assert!(
            loaded.iter().map(|checkpoint| &checkpoint.data).eq(sizes
                .iter()
                .rev()
                .map(|size| data(*size))
                .collect::<Vec<_>>()
                .iter())
        );
        let listed = store.list_checkpoints(&world("town")).unwrap();
        assert!(listed.iter().map(|entry| entry.bytes).eq(sizes.iter().rev().map(|size| *size as u64)));
    });
}

#[test]
fn a_checkpoint_that_lost_a_part_is_left_out_and_parts_go_with_their_checkpoint() {
    let cluster = Cluster::new();
    let (store, _) = cluster.node("n1");
    let mut claim = store.claim(&world("town")).unwrap();
    for _ in 0..3 {
        let batch = Batch { checkpoint: Some(vec![7; 600 << 10]), ..empty("town", claim) };
        go(&store, batch, &mut claim);
    }
    assert_eq!(cluster.sql("SELECT count(*) FROM checkpoint_part"), ["4"]);
    cluster.sql("DELETE FROM checkpoint_part WHERE seq = 3 AND part = 1");
    let seqs: Vec<u64> = store.load_checkpoints(&world("town")).unwrap().iter().map(|checkpoint| checkpoint.seq).collect();
    assert_eq!(seqs, [2]);
}
