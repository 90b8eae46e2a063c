//! The versions of a node's scripts: what is published stays, what is refused leaves nothing behind, and no file is trusted.
//!
//! [`rig`] makes the nodes of these tests and of `reload`, and the script that says what it knows: start there. Not here: what a
//! reload does to running worlds (`reload`), artifacts and compilers by themselves (`compile`).

use aether_cluster::config::WorldLimitsOverride;
use aether_cluster::{NodeEvent, PlannedWorld, RegistryError, Source, WorldSpec, WorldState};
use aether_scripting::{Blame, Digest, Version};
use aether_world_runtime::ScriptState;
use rig::*;
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
    let RegistryError::RolledBack { script, version, reason } = &error else { panic!("{error}\n{}", story(&node)) };
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
    let planned = |world: &str, ticks| PlannedWorld { world: world.to_owned(), ticks, refused: None };
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

pub mod rig {
    //! Nodes of small worlds in a directory of their own, and a script that says what it knows when it is asked.
    //!
    //! [`Site`] is what a node starts from, [`Code`] the script, [`ask`] the question. Whoever waits does so with [`until`].

    use crate::support;
    use aether_cluster::config::{NodeSection, ScriptSpec, ServerSection, WorldLimitsOverride};
    use aether_cluster::{Inbound, Node, NodeConfig, NodeError, NodeEvent, ReloadReport, Source, WorldSpec};
    use aether_scripting::compile::Compiler;
    use aether_scripting::output::InboundCall;
    use aether_types::ScriptId;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    /// Longer than anything takes that happens at all.
    pub const PATIENCE: Duration = Duration::from_secs(60);
    /// Fuel of a tick: four quanta.
    pub const FUEL: u64 = 200_000;

    /// A script that counts its ticks and the numbers sent to it; the fields are what tests change of it. It answers `say` with
    /// what it knows, takes `number`s in order and acknowledges each eighth, does a long piece of `work`, or `hang`s.
    #[derive(Debug, Clone, Copy)]
    pub struct Code {
        /// Makes its bytes differ from another's. It says this too.
        pub mark: u32,
        /// Whether it saves and restores its state.
        pub keeps: bool,
        /// Memory at the start, 64 KiB each.
        pub pages: u32,
        /// More imports.
        pub imports: &'static str,
        /// A start function, if this is not empty.
        pub start: &'static str,
        /// In `on_start`.
        pub on_start: &'static str,
        /// At the end of `on_tick`; `$i` is a local, `$age` a global of its own.
        pub on_tick: &'static str,
        /// On a message whose method begins with x.
        pub on_x: &'static str,
        /// In `save_state`.
        pub save: &'static str,
        /// What `restore_state` gives.
        pub restore: &'static str,
    }

    impl Default for Code {
        fn default() -> Code {
            Code {
                mark: 1,
                keeps: true,
                pages: 1,
                imports: "",
                start: "",
                on_start: "",
                on_tick: "",
                on_x: "",
                save: "",
                restore: "(i32.const 0)",
            }
        }
    }

    impl Code {
        /// As text. Its lines are written into templates at fixed addresses, its state is at 512, what it is given at 1,024.
        pub fn text(&self) -> String {
            let Code { mark, keeps, pages, imports, start, on_start, on_tick, on_x, save, restore } = self;
            let start = if start.is_empty() { String::new() } else { format!("(func $boot {start}) (start $boot)") };
            // Address 512, 8 bytes.
            let state = format!(
                "(func (export \"save_state\") (result i64)
                   (i32.store (i32.const 512) (global.get $count))
                   (i32.store (i32.const 516) (global.get $last))
                   {save}
                   (i64.const 2199023255560))
                 (func (export \"restore_state\") (param $from i32) (param $at i32) (param $length i32) (result i32)
                   (global.set $count (i32.load (local.get $at)))
                   (global.set $last (i32.load offset=4 (local.get $at)))
                   (call $hex (i32.const 78) (local.get $from))
                   (call $hex (i32.const 90) (call $version))
                   (call $note (i32.const 64) (i32.const 34))
                   {restore})"
            );
            let state = if *keeps { state } else { String::new() };
            format!(
                "(module
                 (import \"aether:script\" \"log\" (func $log (param i32 i32 i32) (result i32)))
                 (import \"aether:script\" \"version\" (func $version (result i32)))
                 {imports}
                 (memory (export \"memory\") {pages})
                 (data (i32.const 0) \"count=........ last=........ by=........ mark=........\")
                 (data (i32.const 64) \"restored from=........ by=........\")
                 (data (i32.const 128) \"begun by=........\")
                 (data (i32.const 160) \"done by=........\")
                 (data (i32.const 192) \"wrong ........ after=........\")
                 (data (i32.const 256) \"ack ........ by=........\")
                 (data (i32.const 288) \"stored=........\")
                 (global $mark i32 (i32.const {mark}))
                 (global $count (mut i32) (i32.const 0))
                 (global $last (mut i32) (i32.const 0))
                 (global $age (mut i32) (i32.const 0))
                 (func (export \"aether_abi_1\"))
                 (func (export \"aether_alloc\") (param i32) (result i32) (i32.const 1024))
                 (func $note (param $at i32) (param $length i32)
                   (drop (call $log (i32.const 2) (local.get $at) (local.get $length))))
                 (func $hex (param $at i32) (param $n i32) (local $i i32) (local $digit i32)
                   (loop $next
                     (local.set $digit (i32.and (i32.const 15)
                       (i32.shr_u (local.get $n) (i32.sub (i32.const 28) (i32.shl (local.get $i) (i32.const 2))))))
                     (i32.store8 (i32.add (local.get $at) (local.get $i)) (i32.add (local.get $digit)
                       (select (i32.const 87) (i32.const 48) (i32.gt_u (local.get $digit) (i32.const 9)))))
                     (local.set $i (i32.add (local.get $i) (i32.const 1)))
                     (br_if $next (i32.lt_u (local.get $i) (i32.const 8)))))
                 (func $say
                   (call $hex (i32.const 6) (global.get $count))
                   (call $hex (i32.const 20) (global.get $last))
                   (call $hex (i32.const 32) (call $version))
                   (call $hex (i32.const 46) (global.get $mark))
                   (call $note (i32.const 0) (i32.const 54)))
                 (func $number (param $n i32)
                   (if (i32.ne (local.get $n) (i32.add (global.get $last) (i32.const 1))) (then
                     (call $hex (i32.const 198) (local.get $n))
                     (call $hex (i32.const 213) (global.get $last))
                     (call $note (i32.const 192) (i32.const 29))))
                   (global.set $last (local.get $n))
                   (if (i32.eqz (i32.and (local.get $n) (i32.const 7))) (then
                     (call $hex (i32.const 260) (local.get $n))
                     (call $hex (i32.const 272) (call $version))
                     (call $note (i32.const 256) (i32.const 24)))))
                 (func $begin
                   (call $hex (i32.const 137) (call $version))
                   (call $note (i32.const 128) (i32.const 17)))
                 (func $work (local $i i32)
                   (local.set $i (i32.const 700000))
                   (loop $more (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
                   (call $hex (i32.const 168) (call $version))
                   (call $note (i32.const 160) (i32.const 16)))
                 (func (export \"on_start\") {on_start})
                 (func (export \"on_tick\") (param f32) (local $i i32)
                   (global.set $count (i32.add (global.get $count) (i32.const 1)))
                   {on_tick})
                 (func (export \"on_message\") (param i64 i64) (param $at i32) (param $method i32) (param i32) (local $what i32)
                   (local.set $what (i32.load8_u (local.get $at)))
                   (if (i32.eq (local.get $what) (i32.const 115)) (then (call $say)))
                   (if (i32.eq (local.get $what) (i32.const 110)) (then
                     (call $number (i32.load (i32.add (local.get $at) (local.get $method))))))
                   (if (i32.eq (local.get $what) (i32.const 119)) (then (call $begin) (call $work)))
                   (if (i32.eq (local.get $what) (i32.const 104)) (then (call $begin) (loop $ever (br $ever))))
                   (if (i32.eq (local.get $what) (i32.const 120)) (then {on_x})))
                 {state}
                 {start})"
            )
        }

        /// As binary.
        pub fn wasm(&self) -> Vec<u8> {
            support::wasm(&self.text())
        }
    }

    /// A manifest for scripts of up to 1 MiB that may log as much as tests want.
    pub fn manifest(name: &str, on_budget: &str, fuel: u64) -> String {
        format!(
            "name = \"{name}\"\n[limits]\nfuel = {fuel}\nmemory_mb = 1\non_budget = \"{on_budget}\"\n\
             [limits.rates]\nlog_lines = 1000.0\n"
        )
    }

    /// A script that may pause.
    pub fn source(name: &str, code: Code) -> Source {
        Source { manifest: manifest(name, "pause", FUEL), wasm: code.wasm() }
    }

    /// A good version of the script that keeps its state.
    pub fn keeper(mark: u32) -> Source {
        source("keeper", Code { mark, ..Code::default() })
    }

    /// A good version of the script that does not: what it counted is in its memory alone.
    pub fn plain(mark: u32) -> Source {
        source("plain", Code { mark, keeps: false, ..Code::default() })
    }

    /// A world with one of each script.
    pub fn world(name: &str, tick_hz: f64, scripts: &[&str]) -> WorldSpec {
        // Nearly the whole time between two ticks at most.
        let tick_budget_ms = (900.0 / tick_hz).min(8.0);
        let limits = WorldLimitsOverride {
            tick_hz: Some(tick_hz),
            tick_budget_ms: Some(tick_budget_ms),
            ..WorldLimitsOverride::default()
        };
        let script =
            |name: &&str| ScriptSpec { script: (*name).to_owned(), name: None, count: 1, prefab: None, position: [0.0; 3] };
        WorldSpec {
            name: name.to_owned(),
            count: 1,
            prefabs: None,
            scripts_dir: "scripts".into(),
            seed: 0,
            limits: Some(limits),
            script: scripts.iter().map(script).collect(),
        }
    }

    /// What a node starts from: a configuration, and a directory with its scripts, state and cache.
    pub struct Site {
        dir: tempfile::TempDir,
        pub config: NodeConfig,
    }

    impl Site {
        pub fn new(worlds: impl IntoIterator<Item = WorldSpec>) -> Site {
            let node = NodeSection { tick_threads: 2, instances_small: 200, instances_large: 1, ..NodeSection::default() };
            let server = ServerSection { aot_cache_dir: "cache".into(), ..ServerSection::default() };
            let config = NodeConfig { node, server, world: worlds.into_iter().collect(), ..NodeConfig::default() };
            Site { dir: tempfile::tempdir().unwrap(), config }
        }

        pub fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Put a script into the scripts folder, or another into its place.
        pub fn put(&self, name: &str, source: &Source) {
            let folder = self.path("scripts").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("script.toml"), &source.manifest).unwrap();
            fs::write(folder.join(format!("{name}.wasm")), &source.wasm).unwrap();
        }

        pub fn try_start(&self) -> Result<Node, NodeError> {
            Node::start(&self.config, self.dir.path(), Compiler::InProcess, |_| ())
        }

        #[track_caller]
        pub fn start(&self) -> Node {
            self.try_start().unwrap_or_else(|error| panic!("{error:?}"))
        }

        fn files(&self, dir: &str) -> Vec<PathBuf> {
            let mut files: Vec<_> = fs::read_dir(self.path(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            files
        }

        /// The names of all blobs, in order.
        pub fn blobs(&self) -> Vec<String> {
            self.files("data/blobs").iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
        }

        /// The files of compiled modules, in order.
        pub fn artifacts(&self) -> Vec<PathBuf> {
            let mut files = self.files("cache");
            files.retain(|path| path.extension().is_some_and(|extension| extension == "aot"));
            files
        }
    }

    /// Stop a node; everything must have been saved.
    #[track_caller]
    pub fn stop(node: Node) {
        let report = node.stop();
        assert!(report.failed.is_empty(), "{report:?}");
    }

    pub fn id(script: &str) -> ScriptId {
        ScriptId::new(script).unwrap()
    }

    /// Publish what is good.
    #[track_caller]
    pub fn publish(node: &Node, source: Source) -> ReloadReport {
        node.publish(source).unwrap_or_else(|error| panic!("{error}\n{}", story(node)))
    }

    /// The numbers of a script's versions.
    pub fn numbers(node: &Node, script: &str) -> Vec<u32> {
        let versions = node.versions().unwrap();
        versions.iter().filter(|version| version.script.as_str() == script).map(|version| version.version.0).collect()
    }

    /// The number of the version that worlds run.
    pub fn active(node: &Node, script: &str) -> Option<u32> {
        let versions = node.versions().unwrap();
        versions.iter().find(|version| version.script.as_str() == script && version.active).map(|version| version.version.0)
    }

    /// What happened on a node, for whoever reads of a failure.
    pub fn story(node: &Node) -> String {
        node.events().since(0).0.iter().map(|event| format!("  {event}\n")).collect()
    }

    /// How many events there have been.
    pub fn now(node: &Node) -> u64 {
        node.events().since(u64::MAX).1
    }

    /// World, script and text of the lines since then.
    pub fn lines(node: &Node, seen: &mut u64) -> Vec<(String, String, String)> {
        let (events, count) = node.events().since(*seen);
        *seen = count;
        let line = |event| match event {
            NodeEvent::Log { world, script, text, .. } => Some((world, script, text)),
            _ => None,
        };
        events.into_iter().filter_map(line).collect()
    }

    /// Look until there is something to see.
    #[track_caller]
    pub fn until<R>(node: &Node, what: &str, mut look: impl FnMut() -> Option<R>) -> R {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", story(node));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Wait for a line that a script writes after the first `seen` events.
    #[track_caller]
    pub fn wait_for(node: &Node, seen: u64, world: &str, script: &str, begin: &str) -> String {
        let mut seen = seen;
        until(node, &format!("{world}/{script} says {begin:?}"), || {
            let is_it = |(w, s, text): &(String, String, String)| w == world && s == script && text.starts_with(begin);
            lines(node, &mut seen).into_iter().find(is_it).map(|(_, _, text)| text)
        })
    }

    /// A message of nobody's.
    pub fn message(script: &str, method: &str, payload: &[u8]) -> Inbound {
        let (script, method, payload) = (script.to_owned(), method.to_owned(), payload.to_vec());
        Inbound::Call(InboundCall { world: None, from: 1, call: 0, script, method, payload })
    }

    /// What a script knows: its ticks, the last number it was sent, its version and its mark.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Said {
        pub count: u32,
        pub last: u32,
        pub by: u32,
        pub mark: u32,
    }

    /// The number after a word of a line.
    pub fn number_after(text: &str, word: &str) -> Option<u32> {
        let (_, rest) = text.split_once(word)?;
        u32::from_str_radix(rest.get(..8)?, 16).ok()
    }

    impl Said {
        fn read(text: &str) -> Option<Said> {
            let number = |word| number_after(text, word);
            Some(Said { count: number("count=")?, last: number("last=")?, by: number("by=")?, mark: number("mark=")? })
        }
    }

    /// Ask scripts, given by world and name, what they know now; each ticks between two questions.
    #[track_caller]
    pub fn ask_all(node: &Node, whom: &[(&str, &str)]) -> Vec<Said> {
        let (mut seen, mut sent) = (now(node), None::<Instant>);
        let mut said = BTreeMap::new();
        until(node, &format!("answers of {whom:?}"), || {
            // Again after a while: a script that begins anew has lost its mail.
            if sent.is_none_or(|at| at.elapsed() > Duration::from_secs(2)) {
                for (world, script) in whom.iter().filter(|asked| !said.contains_key(*asked)) {
                    node.send(world, message(script, "say", &[]));
                }
                sent = Some(Instant::now());
            }
            for (world, script, text) in lines(node, &mut seen) {
                let asked = whom.iter().find(|(w, s)| *w == world && *s == script);
                if let (Some(asked), Some(answer)) = (asked, Said::read(&text)) {
                    said.insert(*asked, answer);
                }
            }
            whom.iter().map(|asked| said.get(asked).copied()).collect()
        })
    }

    /// Ask one.
    #[track_caller]
    pub fn ask(node: &Node, world: &str, script: &str) -> Said {
        ask_all(node, &[(world, script)])[0]
    }
}
