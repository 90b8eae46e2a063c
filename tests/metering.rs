//! What is counted, in both modes: the same program costs the same fuel whether it runs in one piece or in slices, and ends in the
//! same state.

use crate::support::{MODES, engine, load};
use aether_scripting::sandbox::FIBRE_QUANTUM;
use aether_scripting::{
    ActionLimiter, ActionRates, Budget, Call, Caller, Host, HostGroups, InstanceId, InstanceSpec, MeteringOutcome, OnBudget,
    Reply, ScriptInstance, ServerResourcePolicy, Version, WorldContext, WorldMemory,
};

/// A script, and a world around it.
fn start(pause: bool, fuel: u64, text: &str) -> (ScriptInstance, Option<Box<WorldContext>>) {
    let instance = InstanceId(1);
    let on_budget = if pause { OnBudget::Pause } else { OnBudget::Terminate };
    let policy = ServerResourcePolicy { fuel_budget: fuel, memory_cap_mb: 4, on_budget, pause_limit: 1, ..Default::default() };
    let rates = ActionRates { log_lines: 1e6, ..Default::default() };
    let (version, groups) = (Version(1), HostGroups::ALL);
    let spec =
        InstanceSpec { instance, version, policy, groups, rates, seed: 1, random: None, drained_at_ns: None, directory: None };
    let memory = WorldMemory::new(64 << 20);
    let script = ScriptInstance::build(&load(text), &spec, &memory).unwrap();
    let mut host = engine();
    let caller = Caller { instance, name: "script".into(), entity_kinds: vec!["*".into()], storage_namespace: Some("s".into()) };
    host.add_script(caller, None).unwrap();
    host.enter(instance);
    let world = Some(WorldContext::new(Box::new(host), ActionLimiter::new(&ActionRates::world())));
    (script, world)
}

/// One tick to its end and then its state: how it ended, the fuel of each step, what `save_state` gave.
fn drive(pause: bool, fuel: u64, text: &str) -> (MeteringOutcome, Vec<u64>, Option<Vec<u8>>) {
    let (mut script, mut world) = start(pause, fuel, text);
    let mut step = script.run(&mut world, Call::Tick(0.05), fuel);
    let mut steps = vec![step.fuel];
    while script.is_paused() {
        assert!(steps.len() < 1_000_000, "it does not end");
        step = script.resume(&mut world);
        steps.push(step.fuel);
    }
    let outcome = step.outcome;
    if outcome.is_end() {
        return (outcome, steps, None);
    }
    let mut saved = script.run(&mut world, Call::Save, fuel);
    while script.is_paused() {
        saved = script.resume(&mut world);
    }
    let Reply::State(state) = saved.reply else { panic!("{saved:?}") };
    (outcome, steps, Some(state))
}

/// A loop of `count` rounds around `body`, with a sum in memory that `save_state` gives.
fn program(imports: &str, count: u32, body: &str) -> String {
    format!(
        r#"(module {imports}
          (memory (export "memory") 1)
          (func (export "aether_abi_1"))
          (func (export "on_tick") (param f32) (local $i i32) (local $a i32)
            (loop $next
              (local.set $a (i32.add (i32.mul (local.get $a) (i32.const 31)) (local.get $i)))
              {body}
              (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {count}))))
            (i32.store (i32.const 64) (local.get $a)))
          (func (export "save_state") (result i64) (i64.or (i64.shl (i64.const 64) (i64.const 32)) (i64.const 4))))"#
    )
}

const IMPORTS: &str = r#"
    (import "aether:script" "tick" (func $tick (result i64)))
    (import "aether:entity" "query_radius" (func $query (param f32 f32 f32 f32 i32 i32 i32 i32) (result i32)))"#;
const CHEAP: &str = "(drop (call $tick))";
const DEAR: &str = "(drop (call $query (f32.const 0) (f32.const 0) (f32.const 0) (f32.const 100) (i32.const 0) (i32.const 0) (i32.const 128) (i32.const 8)))";

#[test]
fn a_program_costs_the_same_and_ends_the_same_in_one_piece_and_in_slices() {
    let fuel = 200_000_000;
    for (imports, count, body) in [("", 300_000, ""), (IMPORTS, 20_000, CHEAP), (IMPORTS, 500, DEAR)] {
        let text = program(imports, count, body);
        let [paused, whole] = MODES.map(|pause| drive(pause, fuel, &text));
        assert_eq!((paused.0, whole.0), (MeteringOutcome::Completed, MeteringOutcome::Completed), "{body}");
        assert!(paused.1.len() > 3 && whole.1.len() == 1, "{body}: {} steps", paused.1.len());
        assert_eq!(paused.1.iter().sum::<u64>(), whole.1[0], "{body}: fuel");
        assert_eq!(paused.2, whole.2, "{body}: state");
    }
}

#[test]
fn a_call_completes_with_exactly_the_fuel_that_it_uses_and_is_stopped_with_one_less() {
    let text = program("", 30_000, "");
    for pause in MODES {
        let used: u64 = drive(pause, 200_000_000, &text).1.iter().sum();
        let (outcome, steps, _) = drive(pause, used, &text);
        assert_eq!((outcome, steps.iter().sum()), (MeteringOutcome::Completed, used));
        let (outcome, steps, _) = drive(pause, used - 1, &text);
        let stopped = MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: false };
        assert_eq!((outcome, steps.iter().sum()), (stopped, used - 1));
    }
}

#[test]
fn no_step_of_a_paused_call_is_much_longer_than_a_quantum_whatever_the_host_does_for_it() {
    for (count, body, quanta) in [(300_000, "", 2), (200_000, CHEAP, 12), (5_000, DEAR, 3)] {
        let (_, steps, _) = drive(true, 200_000_000, &program(IMPORTS, count, body));
        let longest = steps.iter().copied().max().unwrap();
        assert!(longest <= quanta * FIBRE_QUANTUM, "{body}: {longest}");
    }
}

#[test]
fn the_whole_of_a_paused_call_is_bounded_by_its_fuel_host_work_included() {
    let fuel = 1_000_000;
    for body in ["", DEAR] {
        let (outcome, steps, _) = drive(true, fuel, &program(IMPORTS, u32::MAX, body));
        assert_eq!(outcome, MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, paused: false }, "{body}");
        let used: u64 = steps.iter().sum();
        assert!(used <= fuel + 2 * FIBRE_QUANTUM, "{body}: {used}");
    }
}

#[test]
fn a_call_that_pauses_is_charged_for_itself_and_what_is_known_of_its_script_is_as_of_the_call_before() {
    // The first tick draws and asks the host for much, and ends in one step; the second draws and pauses.
    let text = r#"(module
        (import "aether:script" "random" (func $random (result i64)))
        (import "aether:entity" "query_radius" (func $query (param f32 f32 f32 f32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (global $tick (mut i32) (i32.const 0))
        (func (export "aether_abi_1"))
        (func (export "on_tick") (param f32) (local $i i32)
          (global.set $tick (i32.add (global.get $tick) (i32.const 1)))
          (drop (call $random))
          (loop $next
            (if (i32.eq (global.get $tick) (i32.const 1)) (then QUERY))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i)
              (select (i32.const 10) (i32.const 100_000) (i32.eq (global.get $tick) (i32.const 1))))))))"#;
    let (mut script, mut world) = start(true, 200_000_000, &text.replace("QUERY", DEAR));
    let seed = script.random();
    let first = script.run(&mut world, Call::Tick(0.05), 0);
    assert_eq!((first.outcome, script.is_paused()), (MeteringOutcome::Completed, false));
    let known = script.random();
    assert_ne!(known, seed, "it drew");
    assert_eq!(script.take_counters().host_calls.iter().sum::<u32>(), 11);
    let second = script.run(&mut world, Call::Tick(0.05), 0);
    assert!(script.is_paused(), "it has more to do than a quantum");
    // It waits where its loop finds the quantum used up.
    let slice = FIBRE_QUANTUM..FIBRE_QUANTUM + 100;
    assert!(slice.contains(&second.fuel), "{}: nothing of the first call, which took {}", second.fuel, first.fuel);
    assert_eq!(script.random(), known);
    assert_eq!(script.take_counters().host_calls, [0; 7]);
    while script.is_paused() {
        script.resume(&mut world);
    }
    assert_ne!(script.random(), known);
    assert_eq!(script.take_counters().host_calls.iter().sum::<u32>(), 1);
}
