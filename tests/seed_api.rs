//! The API that the seed text names: every name is there and does what the text says.

use crate::support::*;
use aether_scripting::instance::InstanceError;
use aether_scripting::limits::ModuleError;
use aether_scripting::server_runtime::{RuntimeError, all_syscalls};
use aether_scripting::{ActionLimiter, ActionRates};
use aether_scripting::{
    AotArtifact, AotTarget, Budget, Call, HostGroups, InstanceId, InstanceSpec, ManifestVerificationError, MeteringOutcome,
    NoEngine, OnBudget, ReloadOutcome, Reply, ScriptInstance, ServerResourcePolicy, ServerRuntimeConfig, SyscallCategory,
    SyscallPolicy, Version, WorldContext, WorldMemory,
};
use std::time::Duration;

const GOOD: &str = r#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#;
const FOREIGN: AotTarget = match AotTarget::host() {
    AotTarget::LinuxX64 => AotTarget::LinuxAArch64,
    AotTarget::LinuxAArch64 => AotTarget::LinuxX64,
};

/// A good module that differs from the others by this number.
fn numbered(number: u32) -> Vec<u8> {
    wasm(&format!(r#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32) (drop (i32.const {number}))))"#))
}

#[test]
fn a_module_is_compiled_registered_loaded_and_executed() {
    let id = fresh_id("seed");
    let artifact = runtime().compile_aot(&wasm(GOOD), AotTarget::host()).unwrap();
    let version = runtime().register_artifact(id, artifact).unwrap();
    assert_eq!(version, Version(1));
    let module = runtime().load_module(id, version).unwrap();
    let policy = ServerResourcePolicy {
        fuel_budget: 1_000_000,
        memory_cap_mb: 64,
        syscall_policy: SyscallPolicy::deny_all(),
        ..Default::default()
    };
    let report = runtime().execute(&module, &policy).unwrap();
    assert_eq!(report.outcome, MeteringOutcome::Completed);
    assert!(report.fuel_used < 100, "{}", report.fuel_used);
    let manifest = runtime().manifest(id, version).unwrap();
    assert_eq!((manifest.script_id, manifest.version, manifest.target), (id, version, AotTarget::host()));
    assert!(matches!(runtime().load_module(id, Version(9)), Err(RuntimeError::Unknown { version: Version(9), .. })));
}

#[test]
fn both_targets_can_be_compiled_for() {
    for target in [AotTarget::LinuxX64, AotTarget::LinuxAArch64] {
        let artifact = runtime().compile_aot(&numbered(1), target).unwrap();
        assert_eq!(artifact.target(), target);
        assert!(!artifact.native().is_empty());
    }
}

#[test]
fn an_artifact_of_another_machine_is_compiled_again_if_its_source_is_at_hand() {
    let id = fresh_id("seed");
    let artifact = runtime().compile_aot(&numbered(2), FOREIGN).unwrap();
    let version = runtime().register_artifact(id, artifact).unwrap();
    assert_eq!(runtime().manifest(id, version).unwrap().target, FOREIGN);
    let module = runtime().load_module(id, version).unwrap();
    assert_eq!(runtime().execute(&module, &ServerResourcePolicy::default()).unwrap().outcome, MeteringOutcome::Completed);
    assert_eq!(runtime().manifest(id, version).unwrap().target, AotTarget::host());
}

#[test]
fn an_artifact_of_another_machine_without_its_source_is_refused() {
    let id = fresh_id("seed");
    let artifact = runtime().compile_aot(&numbered(3), FOREIGN).unwrap();
    let without = AotArtifact::from_bytes(&artifact.to_bytes()).unwrap();
    assert!(without.source().is_none());
    let version = runtime().register_artifact(id, without).unwrap();
    match runtime().load_module(id, version) {
        Err(RuntimeError::Manifest(ManifestVerificationError::Target { found, wanted })) => {
            assert_eq!((found, wanted), (FOREIGN, AotTarget::host()))
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("loaded"),
    }
}

#[test]
fn an_artifact_goes_through_its_bytes_and_a_changed_one_is_refused() {
    let artifact = runtime().compile_aot(&numbered(4), AotTarget::host()).unwrap();
    let bytes = artifact.to_bytes();
    let load = |bytes: &[u8]| -> Result<(), RuntimeError> {
        let id = fresh_id("seed");
        let version = runtime().register_artifact(id, AotArtifact::from_bytes(bytes)?)?;
        runtime().load_module(id, version).map(drop)
    };
    load(&bytes).unwrap();
    let step = (bytes.len() / 200).max(1);
    for at in (0..300).chain((300..bytes.len()).step_by(step)).chain([bytes.len() - 1]) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(matches!(load(&changed), Err(RuntimeError::Manifest(_))), "byte {at}");
    }
    for end in [0, 7, 8, 12, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(load(&bytes[..end]), Err(RuntimeError::Manifest(_))), "cut at {end}");
    }
}

#[test]
fn the_defaults_are_those_of_the_text() {
    let default = ServerRuntimeConfig::default();
    assert_eq!(default.aot_cache_dir.to_str(), Some("/tmp/aether/aot_cache"));
    assert_eq!((default.max_modules, default.default_fuel, default.default_memory_mb), (256, 1_000_000, 64));
    if !std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("AETHER_SERVER_")) {
        let config = ServerRuntimeConfig::from_env();
        assert_eq!(config.aot_cache_dir, default.aot_cache_dir);
        assert_eq!((config.max_modules, config.default_fuel, config.default_memory_mb), (256, 1_000_000, 64));
        assert!(config.problems.is_empty());
    }
}

#[test]
fn a_reload_swaps_versions_and_the_old_one_drains() {
    let id = fresh_id("seed");
    let compile = |number| runtime().compile_aot(&numbered(number), AotTarget::host()).unwrap();
    assert!(matches!(runtime().hot_reload(id, compile(10)), Err(RuntimeError::NothingToReload { .. })));
    let first = runtime().register_artifact(id, compile(10)).unwrap();
    let executing = runtime().load_module(id, first).unwrap();
    let outcome = runtime().hot_reload(id, compile(11)).unwrap();
    assert_eq!(outcome, ReloadOutcome::Success { old_version: first, new_version: Version(2) });
    assert_eq!(runtime().serving(id), Some((Version(2), vec![first])));
    assert_eq!(runtime().execute(&executing, &ServerResourcePolicy::default()).unwrap().outcome, MeteringOutcome::Completed);
    drop(executing);
    assert_eq!(runtime().serving(id), Some((Version(2), vec![])));
}

#[test]
fn a_reload_that_fails_is_rolled_back_and_the_old_version_serves() {
    let id = fresh_id("seed");
    let compile = |wasm: &[u8]| runtime().compile_aot(wasm, AotTarget::host()).unwrap();
    runtime().register_artifact(id, compile(&numbered(20))).unwrap();
    let success = runtime().hot_reload(id, compile(&numbered(21))).unwrap();
    assert!(matches!(success, ReloadOutcome::Success { .. }));
    for body in ["unreachable", "(loop (br 0))"] {
        let bad = wasm(&format!(
            r#"(module (func $s {body}) (start $s) (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#
        ));
        match runtime().hot_reload(id, compile(&bad)).unwrap() {
            ReloadOutcome::Rollback { reason } => assert!(reason.contains("start function"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(runtime().serving(id), Some((Version(2), vec![])));
        let module = runtime().load_module(id, Version(2)).unwrap();
        assert_eq!(runtime().execute(&module, &ServerResourcePolicy::default()).unwrap().outcome, MeteringOutcome::Completed);
    }
    let next = runtime().hot_reload(id, compile(&numbered(22))).unwrap();
    // Numbers of versions that never served are not used again.
    assert_eq!(next, ReloadOutcome::Success { old_version: Version(2), new_version: Version(5) });
}

#[test]
fn a_version_that_is_damaged_is_rolled_back() {
    let id = fresh_id("seed");
    let artifact = runtime().compile_aot(&numbered(30), AotTarget::host()).unwrap();
    let mut bytes = artifact.to_bytes();
    runtime().register_artifact(id, artifact).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let outcome = runtime().hot_reload(id, AotArtifact::from_bytes(&bytes).unwrap()).unwrap();
    assert!(matches!(outcome, ReloadOutcome::Rollback { .. }), "{outcome:?}");
    assert_eq!(runtime().serving(id), Some((Version(1), vec![])));
}

#[test]
fn versions_that_nobody_uses_are_let_go_and_can_be_loaded_again() {
    let (id, other) = (fresh_id("numbered"), fresh_id("other"));
    let add = |id, number| {
        let artifact = runtime().compile_aot(&numbered(number), AotTarget::host()).unwrap();
        runtime().register_version(id, Version(number), artifact).unwrap();
        runtime().load_module(id, Version(number)).unwrap()
    };
    let used = [1, 2, 3].map(|number| add(id, number))[1].clone();
    add(other, 1);
    runtime().release_unused(id);
    let is_there = |id, number| runtime().load_module(id, Version(number)).is_ok();
    assert_eq!([is_there(id, 1), is_there(id, 2), is_there(id, 3), is_there(other, 1)], [false, true, false, true]);
    drop(used);
    add(id, 3);
    assert!(is_there(id, 3));
}

#[test]
fn an_endless_loop_is_budget_exceeded() {
    let module = load(r#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32) (loop (br 0))))"#);
    for on_budget in [OnBudget::Pause, OnBudget::Terminate] {
        let policy = ServerResourcePolicy { memory_cap_mb: 4, on_budget, ..Default::default() };
        let report = runtime().execute(&module, &policy).unwrap();
        assert_eq!(report.outcome, MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: false });
        assert!((900_000..=1_000_000).contains(&report.fuel_used), "{}", report.fuel_used);
    }
}

#[test]
fn the_cpu_time_backstop_stops_what_fuel_does_not() {
    let module = load(r#"(module (func (export "aether_abi_1")) (func (export "on_tick") (param f32) (loop (br 0))))"#);
    let policy = ServerResourcePolicy {
        memory_cap_mb: 4,
        fuel_budget: u64::MAX / 4,
        cpu_time_limit: Duration::from_millis(20),
        ..Default::default()
    };
    let report = runtime().execute(&module, &policy).unwrap();
    assert_eq!(report.outcome, MeteringOutcome::BudgetExceeded { budget: Budget::CpuTime, paused: false });
}

#[test]
fn memory_ends_at_the_policys_cap() {
    let grow = r#"(module (memory (export "memory") 1) (func (export "aether_abi_1"))
        (func (export "on_tick") (param f32)
          (if (i32.eq (memory.grow (i32.const 15)) (i32.const -1)) (then unreachable))
          (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))))"#;
    let policy = ServerResourcePolicy { memory_cap_mb: 1, ..Default::default() };
    let report = runtime().execute(&load(grow), &policy).unwrap();
    assert_eq!((report.outcome, report.counters.memory_bytes), (MeteringOutcome::Completed, 1 << 20));
    let large = r#"(module (memory (export "memory") 17) (func (export "aether_abi_1")) (func (export "on_tick") (param f32)))"#;
    let error = runtime().execute(&load(large), &policy).unwrap_err();
    assert!(matches!(error, RuntimeError::Instance(InstanceError::Module(ModuleError::Memory { cap_mb: 1, .. }))), "{error}");
}

const WASI: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "notes.txt")
  (data (i32.const 16) "../outside.txt")
  (data (i32.const 32) "remember")
  (data (i32.const 48) "\20\00\00\00\08\00\00\00")
  (func (export "aether_abi_1"))
  (func (export "on_tick") (param f32)
    (i32.store (i32.const 1024) (call $clock (i32.const 0) (i64.const 1) (i32.const 1072)))
    (i32.store (i32.const 1028) (call $random (i32.const 1080) (i32.const 16)))
    (i32.store (i32.const 1032) (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 9) (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 1056)))
    (i32.store (i32.const 1036) (call $write (i32.load (i32.const 1056)) (i32.const 48) (i32.const 1) (i32.const 1060)))
    (i32.store (i32.const 1040) (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 14) (i32.const 9) (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 1056)))
    (i32.store (i32.const 1044) (call $clock (i32.const 0) (i64.const 1) (i32.const -4)))
    (i32.store (i32.const 1048) (call $random (i32.const 65530) (i32.const 16))))
  (func (export "save_state") (result i64) (i64.const 0x40000000048)))"#;

#[test]
fn a_denied_system_call_is_refused_by_its_name_before_anything_runs() {
    let module = load(WASI);
    let error = runtime().execute(&module, &ServerResourcePolicy { memory_cap_mb: 4, ..Default::default() }).unwrap_err();
    assert!(matches!(error, RuntimeError::Instance(InstanceError::Module(ModuleError::SyscallDenied { .. }))), "{error}");
    let most =
        [SyscallCategory::Clock, SyscallCategory::Filesystem].into_iter().fold(SyscallPolicy::deny_all(), SyscallPolicy::allow);
    let error = runtime()
        .execute(&module, &ServerResourcePolicy { memory_cap_mb: 4, syscall_policy: most, ..Default::default() })
        .unwrap_err();
    assert_eq!(error.to_string(), "system call random_get is denied: the policy does not allow the category random");
    let all = ServerResourcePolicy { memory_cap_mb: 4, syscall_policy: all_syscalls(), ..Default::default() };
    assert_eq!(runtime().execute(&module, &all).unwrap().outcome, MeteringOutcome::Completed);
}

#[test]
fn allowed_system_calls_give_the_worlds_clock_seeded_randomness_and_files_of_one_directory() {
    let parent = tempfile::tempdir().unwrap();
    let module = load(WASI);
    let mut random = Vec::new();
    for (pause, seed) in [(true, 1), (false, 1), (false, 2)] {
        let directory = parent.path().join(format!("files-{pause}-{seed}"));
        let on_budget = if pause { OnBudget::Pause } else { OnBudget::Terminate };
        let spec = InstanceSpec {
            instance: InstanceId(1),
            version: Version(1),
            policy: ServerResourcePolicy { memory_cap_mb: 4, syscall_policy: all_syscalls(), on_budget, ..Default::default() },
            groups: HostGroups::ALL,
            rates: ActionRates::default(),
            seed,
            random: None,
            drained_at_ns: None,
            directory: Some(directory.clone()),
        };
        let mut script = ScriptInstance::build(&module, &spec, &WorldMemory::new(u64::MAX)).unwrap();
        let mut context = WorldContext::new(Box::new(NoEngine), ActionLimiter::new(&ActionRates::world()));
        context.now_ns = 123_456_789;
        let mut world = Some(context);
        assert_eq!(finish(&mut script, &mut world, Call::Tick(0.0)).0, MeteringOutcome::Completed);
        let Reply::State(state) = finish(&mut script, &mut world, Call::Save).1 else { panic!("no state") };
        let codes: Vec<_> = state[..28].chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect();
        // Clock, random, open, write, then: a path that leads out (not capable), and two bad addresses (fault).
        assert_eq!(codes, [0, 0, 0, 0, 76, 21, 21]);
        assert_eq!(u64::from_le_bytes(state[48..56].try_into().unwrap()), 123_456_789);
        random.push(state[56..72].to_vec());
        assert_eq!(std::fs::read(directory.join("notes.txt")).unwrap(), b"remember");
        assert!(!parent.path().join("outside.txt").exists());
    }
    assert_eq!(random[0], random[1], "equal seeds");
    assert_ne!(random[1], random[2], "different seeds");
}
