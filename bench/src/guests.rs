//! The scripts of the workloads, for Aether and for bare wasmtime alike.

/// Reads its entity's position, moves it, writes it back: two host calls. A message makes it trap in the tick after; what it keeps goes
/// over to its next version.
pub(crate) const MOVER: &str = r#"(module
  (import "aether:entity" "self_entity" (func $self (result i64)))
  (import "aether:entity" "get_position" (func $get (param i64 i32) (result i32)))
  (import "aether:entity" "set_position" (func $set (param i64 f32 f32 f32) (result i32)))
  (memory (export "memory") 1)
  (global $me (mut i64) (i64.const 0))
  (global $fuse (mut i32) (i32.const 0))
  (func (export "aether_abi_1"))
  (func (export "on_start") (global.set $me (call $self)))
  (func (export "on_message") (param i64 i64 i32 i32 i32) (global.set $fuse (i32.const 2)))
  (func (export "aether_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "save_state") (result i64)
    (i64.store (i32.const 96) (global.get $me))
    (i64.const 0x4000000030))
  (func (export "restore_state") (param i32) (param $from i32) (param i32) (result i32)
    (memory.copy (i32.const 64) (local.get $from) (i32.const 48))
    (global.set $me (i64.load (i32.const 96)))
    (i32.const 0))
  (func (export "on_tick") (param $dt f32)
    (if (global.get $fuse) (then
      (global.set $fuse (i32.sub (global.get $fuse) (i32.const 1)))
      (if (i32.eqz (global.get $fuse)) (then (unreachable)))))
    (drop (call $get (global.get $me) (i32.const 64)))
    (drop (call $set (global.get $me)
      (f32.add (f32.load (i32.const 64)) (f32.mul (local.get $dt) (f32.const 0.01)))
      (f32.load (i32.const 68))
      (f32.load (i32.const 72))))))"#;

/// The mover's next version: twice as fast.
pub(crate) fn faster_mover() -> String {
    MOVER.replace("(f32.const 0.01)", "(f32.const 0.02)")
}

/// Never returns.
pub(crate) const RUNAWAY: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "aether_abi_1"))
  (func (export "on_tick") (param f32) (loop (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1))) (br 0))))"#;

/// 400 interactions of neighbours in `f64`, about 10,000 simple operations, in every tick; traps if their sum is not what it is in
/// every language of this comparison.
pub(crate) const MATHS: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "aether_abi_1"))
  (func (export "on_start") (local $j i32) (local $p i32)
    (loop $next
      (local.set $p (i32.shl (local.get $j) (i32.const 5)))
      (f64.store (local.get $p) (f64.convert_i32_u (i32.rem_u (i32.mul (local.get $j) (i32.const 7)) (i32.const 50))))
      (f64.store offset=8 (local.get $p) (f64.convert_i32_u (i32.rem_u (i32.mul (local.get $j) (i32.const 13)) (i32.const 50))))
      (f64.store offset=16 (local.get $p) (f64.mul (f64.convert_i32_u (local.get $j)) (f64.const 0.01)))
      (f64.store offset=24 (local.get $p)
        (f64.mul (f64.convert_i32_u (i32.sub (i32.const 64) (local.get $j))) (f64.const 0.01)))
      (br_if $next (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 64)))))
  (func $heavy (param $x f64) (param $y f64) (result f64)
    (local $i i32) (local $p i32) (local $dx f64) (local $dy f64) (local $d f64) (local $w f64)
    (local $sx f64) (local $sy f64) (local $ax f64) (local $ay f64) (local $cx f64) (local $cy f64) (local $n f64)
    (loop $next
      (local.set $p (i32.shl (i32.and (local.get $i) (i32.const 63)) (i32.const 5)))
      (local.set $dx (f64.sub (f64.load (local.get $p)) (local.get $x)))
      (local.set $dy (f64.sub (f64.load offset=8 (local.get $p)) (local.get $y)))
      (local.set $d (f64.add (f64.mul (local.get $dx) (local.get $dx)) (f64.mul (local.get $dy) (local.get $dy))))
      (if (f64.lt (local.get $d) (f64.const 2500)) (then
        (local.set $w (f64.div (f64.const 1) (f64.add (local.get $d) (f64.const 1))))
        (local.set $sx (f64.sub (local.get $sx) (f64.mul (local.get $dx) (local.get $w))))
        (local.set $sy (f64.sub (local.get $sy) (f64.mul (local.get $dy) (local.get $w))))
        (local.set $ax (f64.add (local.get $ax) (f64.load offset=16 (local.get $p))))
        (local.set $ay (f64.add (local.get $ay) (f64.load offset=24 (local.get $p))))
        (local.set $cx (f64.add (local.get $cx) (f64.load (local.get $p))))
        (local.set $cy (f64.add (local.get $cy) (f64.load offset=8 (local.get $p))))
        (local.set $n (f64.add (local.get $n) (f64.const 1)))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 400))))
    (f64.add (f64.add (f64.add (f64.add (local.get $sx) (f64.mul (local.get $sy) (f64.const 2)))
      (f64.mul (f64.add (local.get $ax) (f64.mul (local.get $ay) (f64.const 2))) (f64.const 0.1)))
      (f64.mul (f64.add (local.get $cx) (f64.mul (local.get $cy) (f64.const 2))) (f64.const 0.01))) (local.get $n)))
  (func (export "on_tick") (param f32)
    (if (f64.gt (f64.abs (f64.sub (call $heavy (f64.const 3) (f64.const 4)) (f64.const 598.922346))) (f64.const 0.00001))
      (then (unreachable)))))"#;

/// How far a caller's entity goes along `x` before it takes a step along `z`: worlds have an end.
pub(crate) const STRIDE: u32 = 1_024;

/// Keeps so many calls to another script open, and moves its entity by one for every answer.
pub(crate) fn caller(target: &str, open: usize) -> String {
    let length = target.len();
    format!(
        r#"(module
  (import "aether:entity" "self_entity" (func $self (result i64)))
  (import "aether:entity" "set_position" (func $place (param i64 f32 f32 f32) (result i32)))
  (import "aether:network" "rpc" (func $rpc (param i32 i32 i32 i32 i32 i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "{target}") (data (i32.const 80) "e")
  (global $me (mut i64) (i64.const 0))
  (global $open (mut i32) (i32.const 0))
  (global $answers (mut i32) (i32.const 0))
  (func (export "aether_abi_1"))
  (func (export "aether_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "on_start") (global.set $me (call $self)))
  (func (export "on_message") (param i64 i64 i32 i32 i32)
    (global.set $open (i32.sub (global.get $open) (i32.const 1)))
    (global.set $answers (i32.add (global.get $answers) (i32.const 1))))
  (func (export "on_tick") (param f32)
    (drop (call $place (global.get $me)
      (f32.convert_i32_u (i32.rem_u (global.get $answers) (i32.const {STRIDE}))) (f32.const 0)
      (f32.convert_i32_u (i32.div_u (global.get $answers) (i32.const {STRIDE})))))
    (block $full (loop $more
      (br_if $full (i32.ge_s (global.get $open) (i32.const {open})))
      (br_if $full (i64.lt_s
        (call $rpc (i32.const 0) (i32.const {length}) (i32.const 80) (i32.const 1) (i32.const 128) (i32.const 8)) (i64.const 0)))
      (global.set $open (i32.add (global.get $open) (i32.const 1)))
      (br $more)))))"#
    )
}

/// Answers with what it is given.
pub(crate) const ECHO: &str = r#"(module
  (import "aether:network" "reply" (func $reply (param i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "aether_abi_1"))
  (func (export "aether_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "on_start"))
  (func (export "on_message") (param i64) (param $call i64) (param $address i32) (param $method i32) (param $payload i32)
    (drop (call $reply (local.get $call) (i32.add (local.get $address) (local.get $method)) (local.get $payload)))))"#;
