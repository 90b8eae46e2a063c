//! Scripts that mean harm, each with a healthy neighbour in its world: the neighbour runs in every tick, whatever happens.

use crate::rig::{self, Code, Site};
use crate::support::*;
use aether_cluster::Source;
use aether_scripting::abi::IMPORTS;
use aether_scripting::compile::CompileError;
use aether_scripting::instance::InstanceError;
use aether_scripting::limits::ModuleError;
use aether_scripting::output::InboundCall;
use aether_scripting::server_runtime::RuntimeError;
use aether_scripting::{AotTarget, Budget, MeteringOutcome, ServerResourcePolicy};
use aether_store::{SqliteStore, Store};
use aether_types::WorldId;
use aether_world_runtime::{AddError, Ordered, ScriptState, World};
use std::time::{Duration, Instant};

/// A script whose `on_tick` is this, with one page of memory.
fn ticking(body: &str) -> String {
    scripted("", body)
}

/// The same with imports and more before it.
fn scripted(head: &str, body: &str) -> String {
    format!(
        "(module {head} (memory (export \"memory\") 1) (func (export \"aether_abi_1\")) (func (export \"on_tick\") (param f32) {body}))"
    )
}

fn import(name: &str) -> String {
    let (module, name, signature) = IMPORTS.iter().find(|(_, known, _)| *known == name).unwrap();
    import_text(module, name, signature)
}

/// It never returns: it stays paused, or it is stopped, restarted and parked at last.
#[track_caller]
fn assert_held(text: &str) {
    for pause in MODES {
        let mut world = hostile_world(pause, text);
        let reports = run(&mut world, 100);
        assert_neighbour_ran(&mut world);
        let ends: Vec<_> = reports.iter().flat_map(|report| &report.ends).collect();
        let status = status_of(&mut world, "hostile");
        if pause {
            assert_eq!((ends.len(), status.state), (0, ScriptState::Paused));
            assert!(status.pauses > 10, "{} pauses", status.pauses);
        } else {
            assert_eq!(ends.len(), 6, "{ends:?}");
            assert!(ends.iter().all(|end| end.name == "hostile" && end.end.to_string().contains("stopped: out of")), "{ends:?}");
            assert!(
                matches!(&status.state, ScriptState::Parked { cause } if cause.contains("stopped: out of")),
                "{:?}",
                status.state
            );
        }
    }
}

/// It ends by itself, every time: it is restarted and parked at last, and the cause says why.
#[track_caller]
fn assert_parked(text: &str, wanted: &str) {
    for pause in MODES {
        let mut world = hostile_world(pause, text);
        let reports = run(&mut world, 100);
        assert_neighbour_ran(&mut world);
        let ends: Vec<_> = reports.iter().flat_map(|report| &report.ends).collect();
        assert_eq!(ends.len(), 6, "pause {pause}: {ends:?}");
        assert!(ends.iter().rev().skip(1).all(|end| !end.parked) && ends[5].parked, "{ends:?}");
        let status = status_of(&mut world, "hostile");
        assert!(
            matches!(&status.state, ScriptState::Parked { cause } if cause.contains(wanted)),
            "pause {pause}: {:?}, wanted {wanted}",
            status.state
        );
        assert_eq!((status.restarts, status.memory_bytes), (5, 0));
    }
}

#[test]
fn an_endless_loop_is_held() {
    assert_held(&ticking("(loop (br 0))"));
    assert_held(&ticking("(loop (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1))) (br 0))"));
}

#[test]
fn an_endless_loop_in_on_start_is_held() {
    let text = r#"(module (func (export "aether_abi_1")) (func (export "on_start") (loop (br 0))) (func (export "on_tick") (param f32)))"#;
    assert_held(text);
}

#[test]
fn recursion_without_end_is_a_trap_and_its_script_is_parked() {
    assert_parked(
        &scripted(
            "(func $down (param i64) (result i64) (i64.add (call $down (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))",
            "(drop (call $down (i64.const 0)))",
        ),
        "stack overflowed",
    );
}

#[test]
fn a_script_that_crashes_in_every_tick_is_parked_with_its_cause() {
    assert_parked(&ticking("unreachable"), "unreachable");
    assert_parked(&ticking("(i32.store (i32.const -4) (i32.const 1))"), "outside the memory");
    assert_parked(&ticking("(drop (i32.div_u (i32.const 1) (i32.load (i32.const 0))))"), "division by zero");
    assert_parked(&scripted("(type $t (func)) (table 4 funcref)", "(call_indirect (type $t) (i32.const 2))"), "indirect call");
    assert_parked(&scripted("(type $t (func)) (table 4 funcref)", "(call_indirect (type $t) (i32.const 99))"), "outside a table");
}

#[test]
fn an_operator_can_put_a_parked_script_back() {
    let mut world = hostile_world(false, &ticking("unreachable"));
    run(&mut world, 100);
    assert_eq!(world.resume("hostile"), Ordered::Done);
    assert_eq!(status_of(&mut world, "hostile").state, ScriptState::Running);
    assert_eq!(world.resume("nobody"), Ordered::Unknown);
    run(&mut world, 2);
    assert_neighbour_ran(&mut world);
}

#[test]
fn memory_ends_at_the_cap_and_the_script_sees_minus_one() {
    for pause in MODES {
        let mut world = hostile_world(pause, &ticking("(loop (br_if 0 (i32.ne (memory.grow (i32.const 4)) (i32.const -1))))"));
        let reports = run(&mut world, 60);
        assert_neighbour_ran(&mut world);
        assert!(reports.iter().all(|report| report.ends.is_empty()));
        let status = status_of(&mut world, "hostile");
        assert!((3 << 20..=4 << 20).contains(&status.memory_bytes), "{} bytes", status.memory_bytes);
        assert!(world.memory_bytes() <= 5 << 20);
    }
}

#[test]
fn a_table_ends_at_ten_thousand_entries_and_the_script_sees_minus_one() {
    let body = "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 500)) (i32.const -1))))
        (if (i32.gt_u (table.size $t) (i32.const 10000)) (then unreachable))";
    for pause in MODES {
        let mut world = hostile_world(pause, &scripted("(table $t 1 funcref)", body));
        let reports = run(&mut world, 60);
        assert_neighbour_ran(&mut world);
        assert!(
            reports.iter().all(|report| report.ends.is_empty()),
            "{:?}",
            reports.iter().flat_map(|r| &r.ends).collect::<Vec<_>>()
        );
    }
}

#[test]
fn bulk_memory_operations_in_a_loop_are_held() {
    assert_held(&ticking("(loop (memory.fill (i32.const 0) (i32.const 7) (i32.const 65536)) (br 0))"));
    assert_held(&ticking("(loop (memory.copy (i32.const 0) (i32.const 1) (i32.const 65535)) (br 0))"));
}

#[test]
fn a_storm_of_host_calls_is_held() {
    let query = "(loop (drop (call $query_radius (f32.const 0) (f32.const 0) (f32.const 0) (f32.const 1000) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 1024))) (br 0))";
    assert_held(&scripted(&import("query_radius"), query));
    assert_held(&scripted(&import("tick"), "(loop (drop (call $tick)) (br 0))"));
    let refused = "(loop (drop (call $log (i32.const 0) (i32.const 0) (i32.const 1024))) (br 0))";
    assert_held(&scripted(&import("log"), refused));
}

#[test]
fn a_flood_of_storage_writes_is_held_to_the_rate() {
    let body = "(loop
        (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
        (i32.store (i32.const 8) (i32.or (i32.const 0x41414141) (i32.and (i32.load (i32.const 0)) (i32.const 0x3f3f3f3f))))
        (drop (call $set (i32.const 8) (i32.const 4) (i32.const 16) (i32.const 8)))
        (br 0))";
    for pause in MODES {
        let mut world = hostile_world(pause, &scripted(&import("set"), body));
        let reports = run(&mut world, 40);
        assert_neighbour_ran(&mut world);
        let writes: usize = reports.iter().map(|report| report.output.writes.len()).sum();
        // A burst of one second's worth and two seconds. A restart gives no new burst.
        assert!((1..=20 + 41).contains(&writes), "pause {pause}: {writes} writes");
    }
}

#[test]
fn a_flood_of_spawns_is_held_to_the_rate() {
    let body = "(loop (drop (call $spawn (i32.const 0) (i32.const 5) (f32.const 0) (f32.const 0) (f32.const 0))) (br 0))";
    let mut world = hostile_world(true, &scripted(&format!("{} (data (i32.const 0) \"thing\")", import("spawn")), body));
    run(&mut world, 40);
    assert_neighbour_ran(&mut world);
    let entities = world.host_stats().entities;
    assert!((3..=2 + 20 + 41).contains(&entities), "{entities} entities");
}

#[test]
fn what_a_crashed_script_spawned_goes_with_it() {
    let head = format!("{} (data (i32.const 0) \"thing\")", import("spawn"));
    let body = "(drop (call $spawn (i32.const 0) (i32.const 5) (f32.const 0) (f32.const 0) (f32.const 0))) unreachable";
    let mut world = hostile_world(false, &scripted(&head, body));
    run(&mut world, 100);
    assert_neighbour_ran(&mut world);
    // Its last instance is not rebuilt, so what that one spawned may stay; no earlier one's may.
    assert!(world.host_stats().entities <= 3, "{}", world.host_stats().entities);
}

#[test]
fn the_spawn_past_the_rate_is_refused_with_its_code() {
    let spawn = call("spawn", &format!("{}{}", i32s(&[0, 5]), f32s(&["0", "0", "0"])));
    for pause in MODES {
        let (outcome, codes) = probe(pause, "(data (i32.const 0) \"thing\")", &["thing"], &vec![spawn.clone(); 30]);
        assert_eq!(outcome, MeteringOutcome::Completed);
        assert!(codes[..20].iter().all(|id| *id > 0), "{codes:?}");
        assert!(codes[20..].iter().all(|code| *code == -1), "{codes:?}");
    }
}

/// Arguments for a signature: numbers for the i32s in turn, one for each i64 and f32.
fn arguments(signature: &str, words: &[i64], long: &str, float: &str) -> String {
    let parameters = signature.split_once("->").unwrap().0.trim_matches(['(', ')']);
    let mut next = words.iter().cycle();
    let mut text = String::new();
    for ty in parameters.split(',').filter(|ty| !ty.is_empty()) {
        text += &match ty {
            "i32" => format!("(i32.const {}) ", next.next().unwrap()),
            "i64" => format!("{long} "),
            "f32" => format!("(f32.const {float}) "),
            other => panic!("{other}"),
        };
    }
    text
}

#[test]
fn no_import_traps_whatever_its_arguments_and_bad_pointers_are_errors() {
    const PATTERNS: [&[i64]; 7] = [&[-1], &[0x7fff_ffff], &[-1, 4], &[16, -1], &[65_535, 2], &[65_536, 0], &[0, 0]];
    for (_, name, signature) in IMPORTS {
        let mut calls = Vec::new();
        let mut must_fail = Vec::new();
        for pattern in PATTERNS {
            for long in ["(i64.const 0)", "(i64.const -1)", "(i64.const 0x7fffffffffffffff)", "(i64.const 4294967297)", OWN] {
                for float in ["0", "1", "nan", "inf", "-inf", "3.4e38"] {
                    calls.push(call(name, &arguments(signature, pattern, long, float)));
                    let has_pointer = signature.split_once("->").unwrap().0.contains("i32");
                    must_fail.push(has_pointer && (pattern == [-1] || pattern == [0x7fff_ffff]));
                }
            }
        }
        for pause in MODES {
            let (outcome, codes) = probe(pause, "", &["thing"], &calls);
            assert_eq!(outcome, MeteringOutcome::Completed, "{name}, pause {pause}");
            for ((code, must_fail), call) in codes.iter().zip(&must_fail).zip(&calls) {
                assert!(!must_fail || (-11..0).contains(code), "{call} gave {code}");
                let scalar = ["time", "tick", "random", "fuel_left", "version"].contains(name);
                assert!(scalar || *code >= -11, "{call} gave {code}");
            }
        }
    }
}

#[test]
fn numbers_that_are_nan_infinite_or_outside_the_world_are_refused() {
    let mut calls = Vec::new();
    for (_, name, signature) in IMPORTS.iter().filter(|(_, _, signature)| signature.contains("f32")) {
        for float in ["nan", "-nan", "inf", "-inf", "1e30", "-1e30"] {
            calls.push(call(name, &arguments(signature, &[0, 5, 64, 1], OWN, float)));
        }
    }
    let (outcome, codes) = probe(false, "(data (i32.const 0) \"thing\")", &["thing"], &calls);
    assert_eq!(outcome, MeteringOutcome::Completed);
    for (code, call) in codes.iter().zip(&calls) {
        assert_eq!(*code, -7, "{call}");
    }
}

#[test]
fn a_batch_of_bodies_with_a_nan_is_refused() {
    let body = "(block (result i64) (i64.store (i32.const 0) (call $self_entity)) (f32.store (i32.const 8) (f32.const nan)) (i64.extend_i32_s (call $write_bodies (i32.const 0) (i32.const 1))))";
    assert_eq!(probe(true, "", &["thing"], &[body.to_owned()]), (MeteringOutcome::Completed, vec![-7]));
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    let zeros = ["0", "0", "0"];
    let calls = [
        call("spawn", &format!("{}{}", i32s(&[128, 2]), f32s(&zeros))),
        call("get_component", &format!("{OWN}{}", i32s(&[128, 2, 64, 10]))),
        call("set_component", &format!("{OWN}{}", i32s(&[128, 2, 0, 1]))),
        call("remove_component", &format!("{OWN}{}", i32s(&[128, 2]))),
        call("query_kind", &i32s(&[128, 2, 64, 1])),
        call("query_radius", &format!("{}{}", f32s(&["0", "0", "0", "1"]), i32s(&[128, 2, 64, 1]))),
        call("nearest", &format!("{}{}", f32s(&["0", "0", "0", "1"]), i32s(&[128, 2]))),
        call("show", &format!("(i64.const 0){}", i32s(&[128, 2, 0, 5]))),
        call("show", &format!("(i64.const 0){}", i32s(&[0, 5, 128, 2]))),
        call("hide", &format!("(i64.const 0){}", i32s(&[128, 2]))),
        call("set_text", &format!("(i64.const 0){}", i32s(&[0, 5, 128, 2]))),
        call("play", &format!("{}{}(i32.const 0)", i32s(&[128, 2]), f32s(&["0", "0", "0", "1", "1", "1"]))),
        call("rpc", &i32s(&[128, 2, 0, 5, 0, 5])),
        call("rpc", &i32s(&[0, 5, 128, 2, 0, 5])),
        call("broadcast", &i32s(&[128, 2, 0, 5])),
        call("subscribe", &i32s(&[128, 2])),
        call("send_player", &format!("(i64.const 0){}", i32s(&[128, 2, 0, 5]))),
        call("get", &i32s(&[128, 2, 64, 10])),
        call("set", &i32s(&[128, 2, 0, 5])),
        call("delete", &i32s(&[128, 2])),
        call("keys", &i32s(&[128, 2, 64, 10])),
        call("log", &i32s(&[2, 128, 2])),
    ];
    let (outcome, codes) = probe(true, r#"(data (i32.const 0) "thing") (data (i32.const 128) "\ff\fe")"#, &["thing"], &calls);
    assert_eq!(outcome, MeteringOutcome::Completed);
    for (code, call) in codes.iter().zip(&calls) {
        assert_eq!(*code, -6, "{call}");
    }
}

#[test]
fn others_entities_are_denied_and_nobodys_are_not_found() {
    // The neighbour's entity, looked up by kind once, at address 256.
    let other = "(i64.load (i32.const 256))";
    let find = call("query_kind", &i32s(&[16, 9, 256, 1]));
    let mut calls = vec![find];
    let modify = |entity: &str| {
        [
            call("set_position", &format!("{entity}{}", f32s(&["1", "1", "1"]))),
            call("set_yaw", &format!("{entity}{}", f32s(&["1"]))),
            call("set_component", &format!("{entity}{}", i32s(&[0, 5, 0, 5]))),
            call("remove_component", &format!("{entity}{}", i32s(&[0, 5]))),
            call("apply_force", &format!("{entity}{}", f32s(&["1", "1", "1"]))),
            call("apply_impulse", &format!("{entity}{}", f32s(&["1", "1", "1"]))),
            call("set_velocity", &format!("{entity}{}", f32s(&["1", "1", "1"]))),
            call("destroy", entity),
        ]
    };
    calls.extend(modify(other));
    let nobodies = ["(i64.const 0)", "(i64.const -1)", "(i64.const 987654321)"];
    for nobody in nobodies {
        calls.extend(modify(nobody));
        calls.push(call("get_position", &format!("{nobody}{}", i32s(&[64]))));
    }
    calls.push(call("get_position", &format!("{other}{}", i32s(&[64]))));
    let head = r#"(data (i32.const 0) "thing") (data (i32.const 16) "neighbour")"#;
    let (outcome, codes) = probe(false, head, &["thing"], &calls);
    assert_eq!(outcome, MeteringOutcome::Completed);
    assert_eq!(codes[0], 1, "the neighbour's entity is found");
    for (code, call) in codes[1..9].iter().zip(&calls[1..]) {
        assert_eq!(*code, -3, "{call}");
    }
    for (code, call) in codes[9..codes.len() - 1].iter().zip(&calls[9..]) {
        assert_eq!(*code, -2, "{call}");
    }
    assert_eq!(codes.last(), Some(&0), "everybody may look");
}

#[test]
fn a_batch_that_overlaps_its_own_input_harms_nobody_but_itself() {
    let fill = |n: i64| format!("(block (result i64) (i64.store (i32.const {}) (call $self_entity)) (i64.const 0))", 8 * n);
    let mut calls: Vec<_> = (0..4).map(fill).collect();
    calls.push(call("read_bodies", &i32s(&[0, 4, 0, 4])));
    calls.push("(i64.load (i32.const 0))".to_owned());
    calls.push(OWN.to_owned());
    calls.push("(i64.load (i32.const 144))".to_owned());
    let (outcome, values) = probe(true, r#"(data (i32.const 144) "\01\02\03\04\05\06\07\08")"#, &["thing"], &calls);
    assert_eq!(outcome, MeteringOutcome::Completed);
    assert_eq!(values[4], 4);
    assert_eq!(values[5], values[6], "the first body is right");
    assert_eq!(values[7], 0x0807_0605_0403_0201, "nothing behind the output was touched");
}

#[test]
fn a_start_function_that_does_not_end_well_is_refused_when_its_script_is_added() {
    let module = |body: &str| {
        format!(
            r#"(module (memory (export "memory") 1) (func $s {body}) (start $s) (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#
        )
    };
    for pause in MODES {
        let mut world = world_with_neighbour();
        let error = add(&mut world, "hostile", "thing", manifest(pause), &module("(loop (br 0))")).unwrap_err();
        let wanted = MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: false };
        assert!(
            matches!(error, AddError::Instance(InstanceError::Start(outcome)) if outcome == wanted),
            "pause {pause}: {error}"
        );
        let error = add(&mut world, "hostile", "thing", manifest(pause), &module("unreachable")).unwrap_err();
        assert!(matches!(error, AddError::Instance(InstanceError::Start(MeteringOutcome::Trapped(_)))), "pause {pause}: {error}");
        run(&mut world, 5);
        assert_neighbour_ran(&mut world);
        assert_eq!((world.len(), world.host_stats().entities), (1, 1), "nothing of it is left");
    }
}

fn message() -> InboundCall {
    InboundCall {
        world: None,
        from: 1,
        call: 0,
        script: "hostile".into(),
        method: "greet".into(),
        payload: vec![1; 100],
        delivery: 0,
    }
}

/// A script that gets messages, with this `aether_alloc`.
fn with_alloc(alloc: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 1) (func (export "aether_abi_1")) (func (export "on_tick") (param f32))
           (func (export "on_message") (param i64 i64 i32 i32 i32))
           (func (export "aether_alloc") (param i32) (result i32) {alloc}))"#
    )
}

#[test]
fn an_aether_alloc_that_lies_or_traps_ends_its_script_only() {
    for (alloc, wanted) in [
        ("(i32.const -16)", "aether_alloc gave an address outside the memory"),
        ("(i32.const 65536)", "aether_alloc gave an address outside the memory"),
        ("(i32.const 65500)", "aether_alloc gave an address outside the memory"),
        ("unreachable", "unreachable"),
    ] {
        for pause in MODES {
            let mut world = hostile_world(pause, &with_alloc(alloc));
            run(&mut world, 2);
            world.deliver(message()).unwrap();
            let ends: Vec<_> = run(&mut world, 5).into_iter().flat_map(|report| report.ends).collect();
            assert_eq!(ends.len(), 2, "{alloc}, pause {pause}: once, and when it is tried again");
            assert_eq!(world.set_aside().count(), 1, "not a third time");
            assert!(ends[0].end.to_string().contains(wanted), "{alloc}: {}", ends[0].end);
            assert_neighbour_ran(&mut world);
        }
    }
}

#[test]
fn an_aether_alloc_that_never_returns_is_held_like_any_code() {
    for pause in MODES {
        let mut world = hostile_world(pause, &with_alloc("(loop (br 0)) (i32.const 0)"));
        run(&mut world, 2);
        world.deliver(message()).unwrap();
        run(&mut world, 20);
        assert_neighbour_ran(&mut world);
        if pause {
            assert_eq!(status_of(&mut world, "hostile").state, ScriptState::Paused);
        }
    }
}

/// The first `save_state` of an instance gives `good`, later ones do this.
fn saves_once(then: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 1) (data (i32.const 0) "good") (global $saves (mut i32) (i32.const 0))
           (func (export "aether_abi_1")) (func (export "on_tick") (param f32))
           (func (export "save_state") (result i64)
             (global.set $saves (i32.add (global.get $saves) (i32.const 1)))
             (if (i32.eq (global.get $saves) (i32.const 1)) (then (return (i64.const 4))))
             {then}))"#
    )
}

fn saved(world: &mut World) -> Option<Vec<u8>> {
    world.checkpoint(false).unwrap().scripts.into_iter().find(|script| script.name == "hostile").unwrap().state
}

#[test]
fn a_save_state_that_does_not_end_well_leaves_what_was_saved_before() {
    for then in [
        "(loop (br 0)) (i64.const 0)",
        "unreachable",
        "(i64.const 0x40000000)",
        "(i64.const -1)",
        "(i64.const 0xffff000000000010)",
    ] {
        for pause in MODES {
            let mut world = hostile_world(pause, &saves_once(then));
            run(&mut world, 2);
            assert_eq!(saved(&mut world).as_deref(), Some(&b"good"[..]), "{then}");
            run(&mut world, 1);
            assert_eq!(saved(&mut world).as_deref(), Some(&b"good"[..]), "{then}, pause {pause}");
            run(&mut world, 20);
            assert_neighbour_ran(&mut world);
            let running = !matches!(status_of(&mut world, "hostile").state, ScriptState::Restarting | ScriptState::Parked { .. });
            assert_eq!(world.suspend("hostile") == Ordered::Done, running, "{then}, pause {pause}");
            run(&mut world, 2);
            assert_neighbour_ran(&mut world);
            assert_eq!(saved(&mut world).as_deref(), Some(&b"good"[..]), "{then}, pause {pause}: suspended");
            assert!(world.stop().is_ok());
        }
    }
}

#[test]
fn a_save_state_that_never_returns_costs_a_checkpoint_only_its_own_budget() {
    let text = r#"(module (memory (export "memory") 1) (func (export "aether_abi_1")) (func (export "on_tick") (param f32))
        (func (export "save_state") (result i64) (loop (br 0)) (i64.const 0)))"#;
    for pause in MODES {
        let mut world = hostile_world(pause, text);
        run(&mut world, 2);
        let begin = Instant::now();
        assert_eq!(saved(&mut world), None);
        assert!(begin.elapsed() < Duration::from_secs(5));
        run(&mut world, 20);
        assert_neighbour_ran(&mut world);
    }
}

/// Whether a module is refused, with its reason.
#[track_caller]
fn refused(wasm: &[u8]) -> ModuleError {
    match runtime().compile_aot(wasm, AotTarget::host()) {
        Err(RuntimeError::Compile(CompileError::Module(error))) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_module_that_was_cut_off_anywhere_is_refused() {
    // No names and no data: nothing after the code that could be left out.
    let module = wasm(
        r#"(module (memory (export "memory") 1) (func (export "aether_abi_1")) (func (export "on_tick") (param f32) (loop (br 0))))"#,
    );
    assert!(runtime().compile_aot(&module, AotTarget::host()).is_ok());
    for end in 0..module.len() {
        assert!(runtime().compile_aot(&module[..end], AotTarget::host()).is_err(), "cut at {end}");
    }
}

#[test]
fn a_module_with_a_changed_byte_is_refused_or_a_module_and_never_a_panic() {
    let module = wasm(&ticking("(loop (br 0))"));
    for at in 0..module.len() {
        for mask in [1, 0x80, 0xff] {
            let mut changed = module.clone();
            changed[at] ^= mask;
            let _ = runtime().compile_aot(&changed, AotTarget::host());
        }
    }
}

proptest::proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2_000)) {
        let module = [&b"\0asm\x01\0\0\0"[..], &bytes].concat();
        for wasm in [&bytes, &module] {
            proptest::prop_assert!(runtime().compile_aot(wasm, AotTarget::host()).is_err());
        }
    }
}

fn leb128(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb128(content.len() as u32), content].concat()
}

/// A module of this many functions that do nothing.
fn many_functions(count: u32) -> Vec<u8> {
    let types = section(1, &[1, 0x60, 0, 0]);
    let functions = section(3, &[leb128(count), vec![0; count as usize]].concat());
    let code = section(10, &[leb128(count), [2, 0, 0x0b].repeat(count as usize)].concat());
    [b"\0asm\x01\0\0\0".to_vec(), types, functions, code].concat()
}

#[test]
fn a_module_with_a_million_functions_is_refused_at_once() {
    let begin = Instant::now();
    for module in [
        // Only declared: two mebibytes less 8 bytes of one byte each, so that it is not refused for its size.
        [
            b"\0asm\x01\0\0\0".to_vec(),
            section(1, &[1, 0x60, 0, 0]),
            section(3, &[leb128(1_000_000), vec![0; 1_000_000]].concat()),
        ]
        .concat(),
        many_functions(1_000_000),
        many_functions(10_001),
    ] {
        assert!(matches!(refused(&module), ModuleError::TooMany { .. }));
    }
    assert!(matches!(refused(&many_functions(10_001)), ModuleError::TooMany { what: "functions", found: 10_001, limit: 10_000 }));
    // It says so, and holds nothing.
    let liar = [b"\0asm\x01\0\0\0".to_vec(), section(3, &leb128(u32::MAX))].concat();
    assert!(matches!(refused(&liar), ModuleError::TooMany { what: "functions", .. }));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn an_import_that_no_host_has_is_named() {
    for (module, name) in [
        ("aether:entity", "delete_everything"),
        ("env", "abort"),
        ("wasi_snapshot_preview1", "launch"),
        ("aether:scripts", "tick"),
        ("aether:meter", "exhausted"),
    ] {
        let text = format!("(import \"{module}\" \"{name}\" (func (param i32)))");
        let error = refused(&wasm(&scripted(&text, "")));
        assert_eq!(error, ModuleError::UnknownImport { module: module.into(), name: name.into() });
    }
}

#[test]
fn a_module_that_would_have_the_counters_name_for_itself_is_refused() {
    for name in ["aether:meter left", "aether:meter on_tick"] {
        let error = refused(&wasm(&scripted(&format!("(global (export \"{name}\") (mut i64) (i64.const 9))"), "")));
        assert_eq!(error, ModuleError::ReservedExport { name: name.into() });
    }
}

#[test]
fn fuel_is_counted_for_every_instruction_that_a_hostile_loop_can_be_made_of() {
    let policy = ServerResourcePolicy { memory_cap_mb: 4, ..ServerResourcePolicy::default() };
    for body in [
        "(loop (br 0))",
        "(loop (drop (f64.sqrt (f64.const 2))) (br 0))",
        "(loop (drop (memory.grow (i32.const 0))) (br 0))",
        "(loop (drop (memory.size)) (br 0))",
    ] {
        let report = runtime().execute(&load(&ticking(body)), &policy).unwrap();
        assert_eq!(report.outcome, MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: false }, "{body}");
    }
}

#[test]
fn calls_to_worlds_that_do_not_exist_leave_nothing_behind() {
    // Another name in each tick.
    let code = Code {
        imports: "(import \"aether:network\" \"rpc\" (func $rpc (param i32 i32 i32 i32 i32 i32) (result i64)))
            (data (i32.const 600) \"town-......../door\")",
        on_tick: "(call $hex (i32.const 605) (global.get $count))
            (drop (call $rpc (i32.const 600) (i32.const 18) (i32.const 600) (i32.const 4) (i32.const 600) (i32.const 0)))",
        ..Code::default()
    };
    let manifest = rig::manifest("caller", "pause", rig::FUEL) + "rpcs = 1000.0\n[grants]\napis = [\"network\"]\n";
    let site = Site::new([rig::world("inn", 100.0, &["caller"])]);
    site.put("caller", &Source { manifest, wasm: code.wasm() });
    let node = site.start();
    let refused = || node.status().worlds[0].calls_refused;
    rig::until(&node, "calls to nobody", || (refused() >= 20).then_some(()));
    rig::stop(node);
    let kept = SqliteStore::open(&site.path("data")).unwrap().load_messages(&WorldId::new("inn").unwrap()).unwrap();
    assert_eq!(kept, aether_store::Messages::default());
}
