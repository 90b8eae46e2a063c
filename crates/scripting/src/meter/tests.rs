//! Random programs: with the counter in them they do what they did, and pay what wasmtime's own fuel takes for it.

use super::{COUNTER, Costs, EXHAUSTED, MODULE, metered, source_place};
use proptest::prelude::*;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::fmt::Write;
use wasmparser::{Operator, Parser, Payload, Validator};
use wasmtime::{Caller, Config, Engine, Linker, Module, OperatorCost, Store, Trap, Val};

/// The costs of [`Costs::Measured`] in wasmtime's words.
fn engine_costs() -> OperatorCost {
    let mut cost = OperatorCost::new();
    for dear in [&mut cost.F32Sqrt, &mut cost.F64Sqrt] {
        *dear = 60;
    }
    for dear in [
        &mut cost.F32Div,
        &mut cost.F64Div,
        &mut cost.I32DivS,
        &mut cost.I32DivU,
        &mut cost.I32RemS,
        &mut cost.I32RemU,
        &mut cost.I64DivS,
        &mut cost.I64DivU,
        &mut cost.I64RemS,
        &mut cost.I64RemU,
    ] {
        *dear = 20;
    }
    for dear in [
        &mut cost.MemoryFill,
        &mut cost.MemoryCopy,
        &mut cost.MemoryInit,
        &mut cost.MemoryGrow,
        &mut cost.TableFill,
        &mut cost.TableCopy,
        &mut cost.TableInit,
        &mut cost.TableGrow,
    ] {
        *dear = 255;
    }
    cost.CallIndirect = 10;
    cost.variable.memory_grow_per_page = 255;
    cost
}

fn engine(fuel: bool) -> Engine {
    let mut config = Config::new();
    config.consume_fuel(fuel).wasm_branch_hinting(true);
    if fuel {
        config.operator_cost(engine_costs());
    }
    Engine::new(&config).unwrap()
}

/// Writes random functions that end.
struct Program {
    random: Pcg64Mcg,
    text: String,
}

impl Program {
    fn below(&mut self, n: u32) -> u32 {
        self.random.next_u32() % n
    }

    /// A number that is not known before.
    fn number(&mut self) -> String {
        let (local, constant) = (["$a", "$b", "$p"][self.below(3) as usize], self.below(9));
        format!("(i32.add (local.get {local}) (i32.const {constant}))")
    }

    fn condition(&mut self) -> String {
        let (number, mask) = (self.number(), [1, 3, 6][self.below(3) as usize]);
        format!("(i32.and {number} (i32.const {mask}))")
    }

    fn statements(&mut self, function: u32, depth: u32, loops: u32) {
        for _ in 0..=self.below(3) {
            self.statement(function, depth, loops);
        }
    }

    fn statement(&mut self, function: u32, depth: u32, loops: u32) {
        let (number, condition) = (self.number(), self.condition());
        let simple = depth >= 4;
        match self.below(if simple { 8 } else { 16 }) {
            0 => write!(self.text, "(local.set $a (i32.mul {number} (i32.const 7)))"),
            1 => write!(self.text, "(local.set $b (i32.div_u {number} (i32.const 3)))"),
            2 => write!(self.text, "(local.set $x (f64.sqrt (f64.div (local.get $x) (f64.convert_i32_s {number}))))"),
            3 => write!(self.text, "(i32.store (i32.and {number} (i32.const 1020)) {number})"),
            4 => write!(self.text, "(local.set $y (f32.add (local.get $y) (f32.const 1.5)))"),
            5 => {
                let size = if self.below(2) == 0 { "(i32.const 300)".to_owned() } else { format!("(i32.and {number} (i32.const 63))") };
                write!(self.text, "(memory.fill (i32.const 2048) {number} {size})")
            }
            6 => write!(self.text, "(local.set $v (i64x2.splat (i64.extend_i32_u {number}))) (global.set $seen (i64x2.extract_lane 1 (local.get $v)))"),
            7 if function > 0 => {
                let callee = self.below(function);
                write!(self.text, "(local.set $b (call $f{callee} {number}))")
            }
            7 => write!(self.text, "(nop)"),
            8 | 9 => {
                self.text.push_str("(if ");
                self.text.push_str(&condition);
                self.text.push_str("(then ");
                self.statements(function, depth + 1, loops);
                if self.below(2) == 0 {
                    self.text.push_str(") (else ");
                    self.statements(function, depth + 1, loops);
                }
                write!(self.text, "))")
            }
            10 => {
                self.text.push_str("(block ");
                self.statements(function, depth + 1, loops);
                let target = self.below(2);
                let jump = if target == 1 && depth > 0 && loops == 0 { 1 } else { 0 };
                write!(self.text, "(br_if {jump} {condition}) ").unwrap();
                self.statements(function, depth + 1, loops);
                write!(self.text, ")")
            }
            11 => {
                self.text.push_str("(block (block (block (br_table 0 1 2 1 ");
                self.text.push_str(&condition);
                self.text.push_str(")) ");
                self.statements(function, depth + 1, loops);
                self.text.push_str(") ");
                self.statements(function, depth + 1, loops);
                write!(self.text, ")")
            }
            12 => write!(self.text, "(if (i32.eqz {condition}) (then (return {number})))"),
            _ if loops < 2 => {
                let (rounds, leave) = (self.below(4) + 1, self.below(2));
                write!(self.text, "(local.set $l{loops} (i32.const {rounds})) (block $out{depth} (loop $again{depth} ").unwrap();
                self.statements(function, depth + 2, loops + 1);
                if leave == 0 {
                    write!(self.text, "(br_if $out{depth} {condition})").unwrap();
                    self.statements(function, depth + 2, loops + 1);
                }
                write!(
                    self.text,
                    "(br_if $again{depth} (local.tee $l{loops} (i32.sub (local.get $l{loops}) (i32.const 1))))))"
                )
            }
            _ => write!(self.text, "(drop (memory.grow (i32.const 0)))"),
        }
        .unwrap();
    }

    /// Three functions, each calling those before it.
    fn wasm(seed: u64) -> Vec<u8> {
        let mut program = Program { random: Pcg64Mcg::seed_from_u64(seed), text: String::new() };
        program.text.push_str(
            "(module (memory (export \"memory\") 1 1) (global $seen (export \"seen\") (mut i64) (i64.const 0))
             (table 4 funcref) (elem (i32.const 0) $f0 $f1)",
        );
        for function in 0..3 {
            write!(
                program.text,
                "(func $f{function} (export \"f{function}\") (param $p i32) (result i32)
                   (local $a i32) (local $x f64) (local $y f32) (local $b i32) (local $v v128) (local $l0 i32) (local $l1 i32) "
            )
            .unwrap();
            program.statements(function, 0, 0);
            program.statements(function, 0, 0);
            program.text.push_str("(i32.xor (local.get $a) (local.get $b)))");
        }
        program.text.push(')');
        wat::parse_str(&program.text).unwrap_or_else(|error| panic!("{error}\n{}", program.text))
    }
}

/// What a call did: its result or why it stopped, memory, what is left.
#[derive(Debug, PartialEq)]
struct Done {
    result: Result<i32, Option<Trap>>,
    memory: Vec<u8>,
    seen: i64,
    left: i64,
}

/// By wasmtime's own fuel.
fn by_engine(wasm: &[u8], fuel: u64) -> Done {
    let engine = engine(true);
    let mut store = Store::new(&engine, ());
    store.set_fuel(fuel).unwrap();
    let instance = Linker::new(&engine).instantiate(&mut store, &Module::new(&engine, wasm).unwrap()).unwrap();
    let result = instance.get_typed_func::<i32, i32>(&mut store, "f2").unwrap().call(&mut store, 5);
    let result = result.map_err(|error| error.downcast_ref().copied());
    let memory = instance.get_memory(&mut store, "memory").unwrap().data(&store).to_vec();
    let seen = instance.get_global(&mut store, "seen").unwrap().get(&mut store).unwrap_i64();
    Done { result, memory, seen, left: store.get_fuel().unwrap() as i64 }
}

/// By the counter, which gets `part` at a time.
fn by_counter(engine: &Engine, module: &Module, fuel: i64, part: i64) -> Done {
    // What the counter was not given yet.
    let first = fuel.min(part);
    let mut store = Store::new(engine, fuel - first);
    let mut linker = Linker::new(engine);
    linker
        .func_wrap(MODULE, EXHAUSTED, move |mut caller: Caller<'_, i64>| {
            let counter = caller.get_export(COUNTER).unwrap().into_global().unwrap();
            let left = *caller.data() + counter.get(&mut caller).unwrap_i64();
            if left < 0 {
                return Err(wasmtime::Error::from(Trap::OutOfFuel));
            }
            let next = left.min(part);
            *caller.data_mut() = left - next;
            counter.set(&mut caller, Val::I64(next))
        })
        .unwrap();
    let instance = linker.instantiate(&mut store, module).unwrap();
    let counter = instance.get_global(&mut store, COUNTER).unwrap();
    counter.set(&mut store, Val::I64(first)).unwrap();
    let result = instance.get_typed_func::<i32, i32>(&mut store, "f2").unwrap().call(&mut store, 5);
    let result = result.map_err(|error| error.downcast_ref().copied());
    let memory = instance.get_memory(&mut store, "memory").unwrap().data(&store).to_vec();
    let seen = instance.get_global(&mut store, "seen").unwrap().get(&mut store).unwrap_i64();
    let left = *store.data() + counter.get(&mut store).unwrap_i64();
    Done { result, memory, seen, left }
}

const PLENTY: i64 = 50_000_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_program_does_what_it_did_and_pays_what_the_engines_own_fuel_takes(seed: u64, parts in proptest::collection::vec(1i64..3_000, 3)) {
        let source = Program::wasm(seed);
        let wasm = metered(&source, Costs::Measured, u32::MAX).unwrap();
        prop_assert_eq!(&wasm, &metered(&source, Costs::Measured, u32::MAX).unwrap());
        Validator::new_with_features(crate::limits::features()).validate_all(&wasm).unwrap();
        let wanted = by_engine(&source, PLENTY as u64);
        prop_assert!(wanted.result.is_ok(), "{:?}", wanted.result);
        let engine = engine(false);
        let module = Module::new(&engine, &wasm).unwrap();
        let whole = by_counter(&engine, &module, PLENTY, i64::MAX);
        prop_assert_eq!(&whole, &wanted);
        for part in &parts {
            prop_assert_eq!(&by_counter(&engine, &module, PLENTY, *part), &wanted, "in parts of {}", part);
        }

        // It ends within what it takes exactly, and stops at the same place however it gets its fuel, not far past its end.
        let used = PLENTY - wanted.left;
        prop_assert_eq!(by_counter(&engine, &module, used, 500).left, 0);
        for fuel in [0, used / 3, used / 2, used - 1] {
            let stopped = by_counter(&engine, &module, fuel, i64::MAX);
            prop_assert!(stopped.result == wanted.result || stopped.result == Err(Some(Trap::OutOfFuel)), "{:?}", stopped.result);
            prop_assert!(stopped.result.is_err() || -stopped.left < 2_000, "{} past its fuel", -stopped.left);
            for part in &parts {
                prop_assert_eq!(&by_counter(&engine, &module, fuel, *part), &stopped, "{} in parts of {}", fuel, part);
            }
        }
    }
}

/// Where an instruction is in the bodies of a module: the function, and bytes from its body's beginning.
fn find(wasm: &[u8], wanted: impl Fn(&Operator<'_>) -> bool) -> Vec<(u32, u32)> {
    let (mut found, mut function) = (Vec::new(), 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::ImportSection(reader) => function = reader.into_imports().count() as u32,
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().unwrap().into_iter_with_offsets() {
                    let (operator, at) = operator.unwrap();
                    if wanted(&operator) {
                        found.push((function, (at - body.range().start) as u32));
                    }
                }
                function += 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn a_place_in_what_runs_is_told_as_the_place_in_the_source() {
    // So many functions that the number of one takes a byte more when it moves up.
    let mut text = String::from("(module (import \"aether:script\" \"tick\" (func $tick (result i64))) (memory 1)");
    text.push_str("(func $last (local i32) (loop (if (local.get 0) (then (unreachable))) (call $f125) (call $f126)))");
    (0..130).for_each(|number| write!(text, "(func $f{number})").unwrap());
    text.push_str(
        "(func (param i32) (local i32) (call $f125)
           (memory.fill (i32.const 0) (i32.const 0) (local.get 0)) (loop (call $last) (br_if 0 (local.get 0))) (unreachable)))",
    );
    let source = wat::parse_str(&text).unwrap();
    let wasm = metered(&source, Costs::Measured, u32::MAX).unwrap();
    let [stops, wanted] =
        [&wasm, &source].map(|wasm| find(wasm, |o| matches!(o, Operator::Unreachable | Operator::MemoryFill { .. })));
    assert_eq!((stops.len(), wanted.len()), (3, 3));
    for ((function, offset), (own, at)) in stops.into_iter().zip(wanted) {
        assert_eq!(source_place(&source, Costs::Measured, function, Some(offset)), Some((own, Some(at))));
    }
    assert_eq!(source_place(&source, Costs::Measured, 0, None), Some((0, None)), "imports stay where they are");
    assert_eq!(source_place(&source, Costs::Measured, 1, None), None, "the call for fuel is nobody's");
}

#[test]
fn what_a_loop_keeps_is_there_again_after_the_call_for_fuel() {
    let text = r#"(module (memory (export "memory") 1) (global (export "seen") (mut i64) (i64.const 0))
      (func (export "f2") (param $n i32) (result i32)
        (local $long i64) (local $half f32) (local $whole f64) (local $wide v128) (local $f funcref)
        (local.set $long (i64.const -3)) (local.set $half (f32.const 0.5)) (local.set $whole (f64.const -0.25))
        (local.set $wide (v128.const i64x2 0x0123456789abcdef 0x7edcba9876543210)) (local.set $f (ref.func 0))
        (loop $next
          (local.set $long (i64.sub (local.get $long) (i64.const 1)))
          (local.set $half (f32.add (local.get $half) (f32.const 1)))
          (local.set $whole (f64.add (local.get $whole) (f64.const 1)))
          (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (v128.store (i32.const 0) (local.get $wide))
        (i64.store (i32.const 16) (local.get $long)) (f32.store (i32.const 24) (local.get $half))
        (f64.store (i32.const 32) (local.get $whole)) (i32.store (i32.const 40) (ref.is_null (local.get $f)))
        (local.get $n))
      (elem declare func 0))"#;
    let source = wat::parse_str(text).unwrap();
    let engine = engine(false);
    let module = Module::new(&engine, metered(&source, Costs::Measured, u32::MAX).unwrap()).unwrap();
    assert_eq!(by_counter(&engine, &module, PLENTY, 1), by_engine(&source, PLENTY as u64));
}

#[test]
fn what_nothing_jumps_over_is_paid_for_together() {
    let fuel = |body: &str| {
        let text = format!("(module (memory 1) (func (param i32) {body}))");
        let source = wat::parse_str(&text).unwrap();
        let mut costs = Vec::new();
        for payload in Parser::new(0).parse_all(&source) {
            if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                let charges = super::charges::charges(&body, Costs::Measured).unwrap();
                costs.extend(charges.into_iter().map(|charge| (charge.cost, charge.per_unit, charge.checked)));
            }
        }
        costs
    };
    let get = "(drop (local.get 0))";
    assert_eq!(fuel(&format!("(block {get}) {get}")), [(3, 0, true)]);
    assert_eq!(fuel(&format!("(if (local.get 0) (then {get} {get})) {get}")), [(4, 0, true), (2, 0, false)]);
    assert_eq!(fuel(&format!("(loop {get} (br_if 0 (local.get 0))) {get}")), [(2, 0, true), (3, 0, true)]);
    assert_eq!(fuel(&format!("(block (br_if 0 (local.get 0)) {get}) {get}")), [(4, 0, true), (1, 0, false)]);
    assert_eq!(fuel(&format!("(block (block (br_if 1 (local.get 0))) {get}) {get}")), [(4, 0, true), (1, 0, false)]);
    assert_eq!(fuel(&format!("(if (local.get 0) (then (return))) {get}")), [(3, 0, true), (1, 0, false)]);
    assert_eq!(fuel("(unreachable) (drop (i32.add)) (memory.fill) (loop (br 0))"), [(1, 0, true)], "nothing there is reached");
    let fill = |size: &str| format!("(memory.fill (i32.const 0) (i32.const 0) {size})");
    assert_eq!(fuel(&fill("(i32.const 100)")), [(1 + 3 + 255 + 100, 0, true)]);
    assert_eq!(fuel(&fill("(local.get 0)")), [(1 + 3 + 255, 0, true), (0, 1, true)]);
    let far = format!("(if (local.get 0) (then {}))", fill("(i32.const -1)"));
    assert_eq!(fuel(&far), [(3, 0, true), (3 + 255 + 0xffff_ffff, 0, true)], "a large one is looked at, wherever it is");
}
