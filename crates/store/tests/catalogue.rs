//! Versions and blobs in both stores.

use crate::support::{Cluster, both, script};
use aether_store::{Store, StoreError, VersionRow};
use aether_types::{Digest, Version};

#[test]
fn versions_rise_survive_a_restart_and_are_never_used_again() {
    both(|rig| {
        let (a, b) = (script("patrol"), script("door"));
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let store = rig.open();
        assert_eq!(store.add_version(a, one, "m1").unwrap(), Version(1));
        assert_eq!(store.add_version(a, two, "m2").unwrap(), Version(2));
        assert_eq!(store.add_version(b, one, "d1").unwrap(), Version(1));
        store.forget_version(a, Version(2)).unwrap();
        store.forget_version(a, Version(7)).unwrap();
        drop(store);
        let store = rig.open();
        assert_eq!(store.add_version(a, two, "m3").unwrap(), Version(3));
        let row = |script, version, source, manifest: &str| VersionRow {
            script,
            version: Version(version),
            source,
            manifest: manifest.to_owned(),
            pinned: false,
        };
        assert_eq!(store.versions().unwrap(), [row(b, 1, one, "d1"), row(a, 1, one, "m1"), row(a, 3, two, "m3")]);
    });
}

#[test]
fn the_same_source_and_manifest_are_one_version_until_it_is_forgotten() {
    both(|rig| {
        let (patrol, one, two) = (script("patrol"), Digest::of(b"1"), Digest::of(b"2"));
        let store = rig.open();
        assert_eq!(store.adopt_version(patrol, one, "m").unwrap(), Version(1));
        assert_eq!(store.adopt_version(patrol, one, "m").unwrap(), Version(1));
        assert_eq!(store.adopt_version(patrol, one, "other").unwrap(), Version(2));
        assert_eq!(store.adopt_version(patrol, two, "m").unwrap(), Version(3));
        assert_eq!(store.adopt_version(script("door"), one, "m").unwrap(), Version(1));
        assert_eq!(store.add_version(patrol, one, "m").unwrap(), Version(4));
        assert_eq!(store.adopt_version(patrol, one, "m").unwrap(), Version(4));
        store.forget_version(patrol, Version(4)).unwrap();
        assert_eq!(store.adopt_version(patrol, one, "m").unwrap(), Version(1));
        store.forget_version(patrol, Version(1)).unwrap();
        assert_eq!(store.adopt_version(patrol, one, "m").unwrap(), Version(5));
    });
}

#[test]
fn a_pin_survives_a_restart_and_needs_a_version() {
    both(|rig| {
        let store = rig.open();
        let version = store.add_version(script("patrol"), Digest::of(b""), "").unwrap();
        assert!(store.pin(script("patrol"), version, true).unwrap());
        assert!(!store.pin(script("patrol"), version.next(), true).unwrap());
        assert!(!store.pin(script("door"), version, true).unwrap());
        drop(store);
        let store = rig.open();
        assert!(store.versions().unwrap()[0].pinned);
        assert!(store.pin(script("patrol"), version, false).unwrap());
        assert!(!store.versions().unwrap()[0].pinned);
    });
}

#[test]
fn the_active_version_survives_a_restart_and_later_versions() {
    both(|rig| {
        let store = rig.open();
        let version = store.add_version(script("patrol"), Digest::of(b""), "").unwrap();
        assert!(store.active().unwrap().is_empty());
        store.set_active(script("patrol"), version).unwrap();
        store.add_version(script("patrol"), Digest::of(b"2"), "").unwrap();
        drop(store);
        assert_eq!(rig.open().active().unwrap(), [(script("patrol"), version)]);
    });
}

#[test]
fn a_version_that_is_not_there_is_not_active() {
    both(|rig| {
        let store = rig.open();
        let version = store.add_version(script("patrol"), Digest::of(b""), "").unwrap();
        store.set_active(script("patrol"), version).unwrap();
        for (name, version) in [("patrol", version.next()), ("door", version)] {
            assert!(matches!(store.set_active(script(name), version), Err(StoreError::NoVersion { .. })));
        }
        assert_eq!(store.active().unwrap(), [(script("patrol"), version)]);
        store.forget_version(script("patrol"), version).unwrap();
        assert!(store.active().unwrap().is_empty());
    });
}

#[test]
fn blobs_of_any_size_come_back_after_a_restart_until_they_are_removed() {
    both(|rig| {
        let sizes = [0, 4, 512 << 10, (512 << 10) + 1, 5 << 20];
        let bytes = |size: usize| (0..size).map(|i| ((i * 17) >> 5) as u8).collect::<Vec<u8>>();
        let mut digests = sizes.map(|size| rig.open().put_blob(&bytes(size)).unwrap());
        let store = rig.open();
        for (size, digest) in sizes.iter().zip(&digests) {
            assert_eq!(store.put_blob(&bytes(*size)).unwrap(), *digest);
            assert!(store.get_blob(*digest).unwrap() == Some(bytes(*size)), "{size} bytes");
        }
        digests.sort();
        assert_eq!(store.blobs().unwrap(), digests);
        for digest in digests {
            store.remove_blob(digest).unwrap();
            store.remove_blob(digest).unwrap();
            assert_eq!(store.get_blob(digest).unwrap(), None);
        }
        assert!(store.blobs().unwrap().is_empty());
    });
}

#[test]
fn a_blob_over_the_limit_is_refused_and_leaves_nothing() {
    both(|rig| {
        let store = rig.open();
        assert!(matches!(store.put_blob(&vec![0; (64 << 20) + 1]), Err(StoreError::TooLarge { .. })));
        assert!(store.blobs().unwrap().is_empty());
    });
}

#[test]
fn a_tampered_blob_in_the_database_is_refused_and_put_again() {
    let cluster = Cluster::new();
    let (store, _) = cluster.node("n1");
    let bytes = vec![7; 600 << 10];
    let digest = store.put_blob(&bytes).unwrap();
    for tampering in [
        "UPDATE blob SET data = 'x' WHERE part = 1",
        "DELETE FROM blob WHERE part = 0",
        "INSERT INTO blob SELECT digest, 2, parts, 'more' FROM blob WHERE part = 1",
    ] {
        cluster.sql(tampering);
        let error = store.get_blob(digest).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { digest: d, .. } if *d == digest), "{tampering}");
        assert_eq!(store.put_blob(&bytes).unwrap(), digest);
        assert!(store.get_blob(digest).unwrap() == Some(bytes.clone()), "{tampering}");
    }
}
