//! The versions of a node's scripts: what is published stays, what is refused leaves nothing behind, and no file is trusted.
//!
//! [`rig`] makes the nodes of these tests and of `reload`, and the script that says what it knows: start there. Not here: what a
//! reload does to running worlds (`reload`), artifacts and compilers by themselves (`compile`).

use crate::rig::*;
use aether_cluster::config::WorldLimitsOverride;
use aether_cluster::{NodeEvent, PlannedWorld, RegistryError, Source, WorldSpec, WorldState};
use aether_scripting::{Blame, Digest, Version};
use aether_world_runtime::ScriptState;
use std::fs;

/// One world with one script; what its scripts folder holds has mark 1.
fn site() -> Site {
    let site = Site::new([world("arena", 120.0, &["keeper"])]);
    site.put("keeper", &keeper(1));
    site
}

/// The same source with other limits.
fn with_other_fuel(mark: u32) -> Source {
    Source { manifest: manifest("keeper", "pause", FUEL + 1), ..keeper(mark) }
}

#[test]
fn versions_rise_and_survive_a_restart() {
    let site = site();
    let node = site.start();
    for number in 2..=3 {
        let report = publish(&node, keeper(number));
        assert_eq!((report.from, report.to, report.worlds), (Some(Version(number - 1)), Version(number), 1));
    }
    let before = node.versions().unwrap();
    assert_eq!((numbers(&node, "keeper"), active(&node, "keeper")), (vec![1, 2, 3], Some(3)));
    stop(node);

    let node = site.start();
    assert_eq!(node.versions().unwrap(), before);
    let said = ask(&node, "arena", "keeper");
    assert_eq!((said.by, said.mark), (3, 3), "{said:?}");
    assert_eq!(publish(&node, keeper(4)).to, Version(4));
    stop(node);
}

#[test]
fn a_file_that_was_not_changed_undoes_nothing_and_a_changed_one_is_the_next_version() {
    let site = site();
    let node = site.start();
    publish(&node, keeper(2));
    stop(node);
    let serves = |versions: &[u32], mark: u32| {
        let node = site.start();
        let newest = versions[versions.len() - 1];
        assert_eq!((numbers(&node, "keeper"), active(&node, "keeper")), (versions.to_vec(), Some(newest)));
        let said = ask(&node, "arena", "keeper");
        assert_eq!((said.by, said.mark), (newest, mark), "{said:?}");
        stop(node);
    };
    serves(&[1, 2], 2);
    site.put("keeper", &keeper(3));
    serves(&[1, 2, 3], 3);
    serves(&[1, 2, 3], 3);
    // Only what it may use is another.
    site.put("keeper", &with_other_fuel(3));
    serves(&[1, 2, 3, 4], 3);
    serves(&[1, 2, 3, 4], 3);
}

#[test]
fn an_unchanged_file_whose_version_was_collected_undoes_nothing_either() {
    let site = Site::new([world("arena", 240.0, &["keeper"])]);
    site.put("keeper", &keeper(1));
    let node = site.start();
    for number in 2..=11 {
        publish(&node, keeper(number));
    }
    node.collect().unwrap();
    stop(node);
    let node = site.start();
    let said = ask(&node, "arena", "keeper");
    assert_eq!((said.by, said.mark), (11, 11), "nobody changed the file since version 11 was published: {said:?}");
    assert_eq!(active(&node, "keeper"), Some(11));
    stop(node);
}

#[test]
fn the_same_source_is_one_blob() {
    let site = site();
    let node = site.start();
    let digest = Digest::of(&keeper(1).wasm);
    assert_eq!(site.blobs(), [digest.to_string()]);
    publish(&node, with_other_fuel(1));
    // Text is made binary first.
    publish(&node, Source { wasm: Code::default().text().into_bytes(), ..keeper(1) });
    assert_eq!(numbers(&node, "keeper"), [1, 2, 3]);
    assert!(node.versions().unwrap().iter().all(|version| version.source == digest), "{:?}", node.versions());
    assert_eq!(site.blobs(), [digest.to_string()]);
    publish(&node, keeper(2));
    assert_eq!(site.blobs().len(), 2);
    stop(node);
}

#[test]
fn a_version_that_is_rolled_back_is_forgotten_and_its_number_is_not_used_again() {
    let site = site();
    let node = site.start();
    let bad = || source("keeper", Code { on_tick: "unreachable", mark: 2, ..Code::default() });
    let error = node.publish(bad()).unwrap_err();
    let RegistryError::RolledBack { script, version, reason, .. } = &error else { panic!("{error}\n{}", story(&node)) };
    assert_eq!((*script, *version), (id("keeper"), Version(2)));
    assert!(reason.contains("on_tick") && reason.contains("arena"), "{reason}");
    assert_eq!((numbers(&node, "keeper"), active(&node, "keeper")), (vec![1], Some(1)));
    let error = node.rollback(id("keeper"), Some(Version(2))).unwrap_err();
    assert!(matches!(error, RegistryError::Unknown { version: Version(2), .. }), "{error}");
    assert_eq!(publish(&node, keeper(3)).to, Version(3));
    assert!(node.publish(bad()).is_err());
    stop(node);

    let node = site.start();
    assert_eq!(numbers(&node, "keeper"), [1, 3]);
    assert_eq!(publish(&node, keeper(5)).to, Version(5));
    stop(node);
}

#[test]
fn a_file_that_was_published_and_refused_does_not_come_back_with_the_next_start() {
    let site = site();
    let bad = || source("keeper", Code { on_tick: "unreachable", mark: 2, ..Code::default() });
    let node = site.start();
    publish(&node, keeper(3));
    site.put("keeper", &bad());
    assert!(node.publish(bad()).is_err());
    node.collect().unwrap();
    stop(node);

    for _ in 0..2 {
        let node = site.start();
        assert_eq!(active(&node, "keeper"), Some(2));
        let said = ask(&node, "arena", "keeper");
        assert_eq!((said.by, said.mark), (2, 3), "{said:?}");
        assert!(story(&node).contains("was published before and was refused"), "{}", story(&node));
        // What removes old sources leaves the one that the file has: it would be a new one.
        node.collect().unwrap();
        stop(node);
    }
    site.put("keeper", &keeper(5));
    let node = site.start();
    assert_eq!(ask(&node, "arena", "keeper").mark, 5);
    stop(node);
}

#[test]
fn a_rollback_brings_back_the_version_before_with_the_state_and_it_lasts() {
    let site = site();
    let node = site.start();
    publish(&node, keeper(2));
    publish(&node, keeper(3));
    let mut before = ask(&node, "arena", "keeper");
    for wanted in [2, 1] {
        let report = node.rollback(id("keeper"), None).unwrap_or_else(|error| panic!("{error}\n{}", story(&node)));
        assert_eq!((report.from, report.to), (Some(Version(wanted + 1)), Version(wanted)));
        let said = ask(&node, "arena", "keeper");
        assert_eq!((said.by, said.mark), (wanted, wanted), "{said:?}");
        assert!(said.count > before.count, "{said:?} after {before:?}");
        assert_eq!((numbers(&node, "keeper"), active(&node, "keeper")), (vec![1, 2, 3], Some(wanted)));
        before = said;
    }
    let error = node.rollback(id("keeper"), None).unwrap_err();
    assert!(matches!(error, RegistryError::NothingBefore { version: Version(1), .. }), "{error}");
    stop(node);

    let node = site.start();
    assert_eq!(ask(&node, "arena", "keeper").by, 1);
    assert_eq!(node.rollback(id("keeper"), Some(Version(3))).unwrap().to, Version(3));
    assert_eq!(ask(&node, "arena", "keeper").mark, 3);
    stop(node);
}

/// Ways to change a file.
fn tampered(whole: &[u8], other: &[u8]) -> Vec<Vec<u8>> {
    let flipped = |at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let longer = [whole, &[0]].concat();
    vec![flipped(0), flipped(whole.len() / 2), whole[..whole.len() / 2].to_vec(), Vec::new(), longer, other.to_vec()]
}

#[test]
fn a_tampered_blob_is_refused_when_nothing_mends_it_and_mended_from_the_scripts_folder() {
    let site = site();
    let node = site.start();
    publish(&node, keeper(2));
    stop(node);
    let (folders, published) = (keeper(1).wasm, keeper(2).wasm);
    let blob = |wasm: &[u8]| site.path("data/blobs").join(Digest::of(wasm).to_string());
    assert!(fs::read(blob(&published)).unwrap() == published && fs::read(blob(&folders)).unwrap() == folders);

    // What serves is not what the folder holds.
    for tampered in tampered(&published, &folders) {
        fs::write(blob(&published), &tampered).unwrap();
        let error = site.try_start().err().unwrap_or_else(|| panic!("{} bytes of something else were taken", tampered.len()));
        let text = error.to_string();
        assert!(text.contains(&Digest::of(&published).to_string()) && text.contains("publish it again"), "{text}");
        assert_eq!(error.blame(), Blame::Operator, "{text}");
        assert!(fs::read(blob(&published)).unwrap() == tampered, "what an operator may want to look at stays");
    }
    fs::remove_file(blob(&published)).unwrap();
    let error = site.try_start().err().expect("there is no source").to_string();
    assert!(error.contains("is not in the store") && error.contains("publish it again"), "{error}");

    // Now it is.
    site.put("keeper", &keeper(2));
    for tampered in tampered(&published, &folders) {
        fs::write(blob(&published), &tampered).unwrap();
        let node = site.start();
        assert!(fs::read(blob(&published)).unwrap() == published, "{} bytes", tampered.len());
        assert_eq!((numbers(&node, "keeper"), active(&node, "keeper")), (vec![1, 2], Some(2)));
        assert_eq!(ask(&node, "arena", "keeper").mark, 2);
        stop(node);
    }
}

#[test]
fn a_tampered_artifact_is_never_loaded_and_is_made_again() {
    let site = Site::new([world("arena", 120.0, &["keeper", "plain"])]);
    site.put("keeper", &keeper(1));
    site.put("plain", &plain(2));
    let run = || {
        let node = site.start();
        for (script, mark) in [("keeper", 1), ("plain", 2)] {
            let said = ask(&node, "arena", script);
            assert_eq!((said.by, said.mark), (1, mark), "{script}: {said:?}");
        }
        stop(node);
    };
    run();
    let files = site.artifacts();
    let [one, other] = &files[..] else { panic!("{files:?}") };
    let whole = [fs::read(one).unwrap(), fs::read(other).unwrap()];
    // The last way is the other's: signed, whole, and not this script's.
    let ways = tampered(&whole[0], &whole[1]).into_iter().zip(tampered(&whole[1], &whole[0]));
    for (way, (first, second)) in ways.enumerate() {
        fs::write(one, &first).unwrap();
        fs::write(other, &second).unwrap();
        run();
        assert!(fs::read(one).unwrap() == whole[0] && fs::read(other).unwrap() == whole[1], "way {way}");
    }
}

#[test]
fn versions_that_are_active_pinned_or_young_stay_and_the_others_go_with_their_sources() {
    let site = site();
    let node = site.start();
    // No world runs it, so nothing is watched. Marks of its own: equal sources are one blob.
    let loner = |mark: u32| source("loner", Code { mark: 100 + mark, ..Code::default() });
    for number in 1..=14 {
        // The fourth and the thirteenth have one source.
        let mark = if number == 13 { 4 } else { number };
        assert_eq!(publish(&node, loner(mark)).to, Version(number));
    }
    node.pin(id("loner"), Version(2), true).unwrap();
    let nobodys = site.path("data/blobs").join(Digest::of(b"nobody's").to_string());
    fs::write(&nobodys, b"nobody's").unwrap();

    assert_eq!(node.collect().unwrap(), (4, 4), "versions 1, 3, 4, 5; the sources of 1, 3, 5, and nobody's");
    assert_eq!(numbers(&node, "loner"), [2, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    assert_eq!(active(&node, "loner"), Some(14));
    let kept: Vec<_> = node.versions().unwrap().iter().map(|version| version.source.to_string()).collect();
    assert!(!nobodys.exists() && kept.iter().all(|digest| site.blobs().contains(digest)), "{kept:?} {:?}", site.blobs());
    assert_eq!(site.blobs().len(), kept.len());
    assert_eq!(node.collect().unwrap(), (0, 0));

    // The oldest of all is active now, and eight others are younger.
    node.pin(id("loner"), Version(2), false).unwrap();
    node.rollback(id("loner"), Some(Version(2))).unwrap();
    assert_eq!(node.collect().unwrap(), (1, 1), "one of nine others");
    assert_eq!(numbers(&node, "loner"), [2, 7, 8, 9, 10, 11, 12, 13, 14]);
    assert!(matches!(node.pin(id("loner"), Version(6), true), Err(RegistryError::Unknown { .. })));
    let said = ask(&node, "arena", "keeper");
    assert_eq!((said.by, numbers(&node, "keeper")), (1, vec![1]), "the other script has what it had");
    stop(node);
    let node = site.start();
    assert_eq!(numbers(&node, "loner"), [2, 7, 8, 9, 10, 11, 12, 13, 14]);
    stop(node);
}

#[test]
fn a_plan_says_what_would_change_and_changes_nothing() {
    let sleeps = WorldLimitsOverride { hibernate_seconds: Some(0.2), tick_hz: Some(60.0), ..Default::default() };
    let inn = WorldSpec { limits: Some(sleeps), ..world("inn", 60.0, &["keeper"]) };
    let site = Site::new([world("arena", 60.0, &["keeper"]), inn]);
    site.put("keeper", &keeper(1));
    let node = site.start();
    let is_asleep = || node.watch("inn").unwrap().borrow().state == WorldState::Asleep;
    until(&node, "the inn sleeps", || is_asleep().then_some(()));
    let said = ask(&node, "arena", "keeper");
    let (versions, blobs, seen) = (node.versions().unwrap(), site.blobs(), now(&node));

    let changed = Source { manifest: manifest("keeper", "terminate", FUEL + 100), ..keeper(2) };
    let plan = node.plan(changed).unwrap();
    assert_eq!((plan.script, plan.from, plan.unchanged), (id("keeper"), Some(Version(1)), false));
    assert_eq!(plan.source, Digest::of(&keeper(2).wasm));
    let mut changes = plan.manifest_changes;
    changes.sort();
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(changes[0], format!("limits.fuel: {FUEL} becomes {}", FUEL + 100));
    assert!(changes[1].starts_with("limits.on_budget: ") && changes[1].contains("terminate"), "{changes:?}");
    let planned = |world: &str, ticks| PlannedWorld { world: world.to_owned(), ticks, refused: None, log: Vec::new() };
    assert_eq!(plan.worlds, [planned("arena", true), planned("inn", false)]);

    let plan = node.plan(keeper(1)).unwrap();
    assert!(plan.unchanged && plan.manifest_changes.is_empty(), "{plan:?}");
    for (code, reason) in [
        (Code { on_tick: "unreachable", ..Code::default() }, "its first on_tick: trapped"),
        (Code { restore: "(i32.const 1)", ..Code::default() }, "restore_state refused the state of version 1"),
    ] {
        let plan = node.plan(source("keeper", code)).unwrap();
        let refused = plan.worlds[0].refused.as_deref().unwrap_or_default();
        assert!(refused.contains(reason) && plan.worlds[1].refused.is_none(), "{plan:?}");
    }
    assert!(node.plan(Source { wasm: b"\0asm, or not".to_vec(), ..keeper(1) }).is_err());
    let large = node.plan(source("keeper", Code { pages: 32, ..Code::default() })).unwrap_err().to_string();
    assert!(large.contains("2 MiB of memory, its cap is 1 MiB"), "{large}");

    let mut news = node.events().since(seen).0;
    // An answer may have come twice.
    news.retain(|event| !matches!(event, NodeEvent::Log { text, .. } if text.starts_with("count=")));
    assert!(news.is_empty(), "what is tried out is seen by nobody: {news:?}");
    assert_eq!((node.versions().unwrap(), site.blobs(), is_asleep()), (versions, blobs, true));
    let after = ask(&node, "arena", "keeper");
    assert!(after.count > said.count && (after.by, after.mark) == (1, 1), "{after:?} after {said:?}");
    let status = node.watch("arena").unwrap().borrow().clone();
    assert!(status.reload.is_none() && status.scripts.iter().all(|script| script.restarts == 0), "{status:?}");
    stop(node);
}

#[test]
fn a_field_that_a_manifest_loses_is_named_in_a_plan_too() {
    let site = Site::new([world("arena", 60.0, &["keeper"])]);
    let granted = format!("{}[grants]\nstorage_namespace = \"shop\"\n", keeper(1).manifest);
    site.put("keeper", &Source { manifest: granted, ..keeper(1) });
    let node = site.start();
    let plan = node.plan(keeper(1)).unwrap();
    assert!(!plan.unchanged && plan.manifest_changes.len() == 1, "{plan:?}");
    assert!(plan.manifest_changes[0].contains("grants.storage_namespace"), "{plan:?}");
    stop(node);
}

/// Files that no world can run.
fn bad_files() -> [Source; 4] {
    let code = |code: Code| source("keeper", code);
    [
        Source { wasm: b"\0asm, or not".to_vec(), ..keeper(1) },
        code(Code { imports: "(import \"aether:entity\" \"delete_all\" (func))", ..Code::default() }),
        // More than any instance of its class can have.
        code(Code { pages: 80, ..Code::default() }),
        Source { manifest: "name = \"keeper\"\n[limits]\nfeul = 1\n".to_owned(), ..keeper(1) },
    ]
}

#[test]
fn a_bad_file_is_shown_by_its_world_and_keeps_no_node_from_starting() {
    for (i, bad) in bad_files().iter().enumerate() {
        let site = Site::new([world("arena", 60.0, &["keeper", "plain"])]);
        site.put("keeper", bad);
        site.put("plain", &plain(1));
        let node = site.try_start().unwrap_or_else(|error| panic!("file {i}: {error}"));
        let parked = || {
            let status = node.watch("arena").unwrap().borrow().clone();
            status.scripts.iter().find(|script| script.name == "keeper").map(|script| script.state.clone())
        };
        let state = until(&node, "a status of the bad script", parked);
        assert!(matches!(&state, ScriptState::Parked { cause } if !cause.is_empty()), "file {i}: {state:?}");
        assert_eq!(ask(&node, "arena", "plain").by, 1, "file {i}");
        stop(node);
    }
}

#[test]
fn a_published_version_reaches_the_worlds_whose_file_was_refused() {
    let [malformed, ..] = bad_files();
    let site = Site::new([world("arena", 60.0, &["keeper", "plain"])]);
    site.put("keeper", &malformed);
    site.put("plain", &plain(1));
    let node = site.start();
    publish(&node, keeper(7));
    let said = ask(&node, "arena", "keeper");
    assert_eq!(said.mark, 7, "{said:?}");
    assert_eq!(ask(&node, "arena", "plain").by, 1);
    stop(node);
    let node = site.start();
    assert_eq!(ask(&node, "arena", "keeper").mark, 7, "the file is still bad, what was published serves");
    stop(node);
}
