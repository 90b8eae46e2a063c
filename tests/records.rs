//! Scripts that keep records of themselves in storage and show them, for runs that are killed or cut: what they kept and what they
//! showed must agree. Not here: what follows from them (`survive.rs`, `cluster/checker.rs`).

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// What the scripts have in common. They keep numbers of eight bytes under keys of text.
pub const COMMON: &str = r#"
  (import "aether:storage" "get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "aether:storage" "set" (func $set (param i32 i32 i32 i32) (result i32)))
  (import "aether:ui" "set_text" (func $set_text (param i64 i32 i32 i32 i32) (result i32)))
  (import "aether:network" "rpc" (func $rpc (param i32 i32 i32 i32 i32 i32) (result i64)))
  (import "aether:network" "reply" (func $reply (param i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "aether_abi_1"))
  ;; What is handed over begins at 1024. Digits end at 128, and a number that is read or written is there.
  (func (export "aether_alloc") (param i32) (result i32) (i32.const 1024))
  ;; The number under a key, 0 if there is none.
  (func $read (param $key i32) (param $length i32) (result i64)
    (i64.store (i32.const 128) (i64.const 0))
    (drop (call $get (local.get $key) (local.get $length) (i32.const 128) (i32.const 8)))
    (i64.load (i32.const 128)))
  ;; Whether it was written.
  (func $write (param $key i32) (param $length i32) (param $number i64) (result i32)
    (i64.store (i32.const 128) (local.get $number))
    (i32.eqz (call $set (local.get $key) (local.get $length) (i32.const 128) (i32.const 8))))
  (func $count (param $key i32) (param $length i32) (result i32)
    (call $write (local.get $key) (local.get $length)
      (i64.add (call $read (local.get $key) (local.get $length)) (i64.const 1))))
  ;; Where its digits begin.
  (func $text (param $number i64) (result i32)
    (local $at i32)
    (local.set $at (i32.const 128))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
      (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
      (br_if $next (i64.ne (local.get $number) (i64.const 0))))
    (local.get $at))
  ;; Whether it will be shown.
  (func $show (param $element i32) (param $length i32) (param $number i64) (result i32)
    (local $at i32)
    (local.set $at (call $text (local.get $number)))
    (i32.eqz (call $set_text (i64.const 7) (local.get $element) (local.get $length)
      (local.get $at) (i32.sub (i32.const 128) (local.get $at)))))"#;

/// One with a state, if an empty one, goes on when its world starts: its calls are still open then, and their answers reach it.
pub const NO_STATE: &str = r#"
  (func (export "save_state") (result i64) (i64.const 0))
  (func (export "restore_state") (param i32 i32 i32) (result i32) (i32.const 0))"#;

/// Counts its ticks in storage and shows what it counted.
pub const LEDGER: &str = r#"
  (data (i32.const 0) "countertwinledger")
  (func (export "on_tick") (param f32)
    (local $number i64)
    (local.set $number (i64.add (call $read (i32.const 0) (i32.const 7)) (i64.const 1)))
    (if (i32.eqz (call $write (i32.const 0) (i32.const 7) (local.get $number))) (then (return)))
    (if (i32.eqz (call $write (i32.const 7) (i32.const 4) (local.get $number))) (then (return)))
    (drop (call $show (i32.const 11) (i32.const 6) (local.get $number))))"#;

/// Counts its ticks in memory and shows what it counted.
pub const DIARY: &str = r#"
  (data (i32.const 0) "diary") (data (i32.const 256) "DIARY-IS")
  (global $number (mut i64) (i64.const 0))
  (func (export "on_tick") (param f32)
    (if (call $show (i32.const 0) (i32.const 5) (i64.add (global.get $number) (i64.const 1)))
      (then (global.set $number (i64.add (global.get $number) (i64.const 1))))))
  (func (export "save_state") (result i64)
    (i64.store (i32.const 264) (global.get $number))
    (i64.or (i64.shl (i64.const 256) (i64.const 32)) (i64.const 16)))
  (func (export "restore_state") (param i32) (param $address i32) (param i32) (result i32)
    (global.set $number (i64.load offset=8 (local.get $address)))
    (i32.const 0))"#;

/// Its allowances are so large that no tick, however short after a start, has half of what it needs.
pub fn put_script(dir: &Path, name: &str, limits: &str, text: &str) {
    let namespace = name.split('-').next().unwrap();
    let manifest = format!(
        "name = \"{name}\"\n\
         [grants]\napis = [\"network\", \"storage\", \"ui\"]\nstorage_namespace = \"{namespace}\"\n\
         [limits]\nmemory_mb = 1\ncpu_ms = 10000\n{limits}\n\
         [limits.rates]\nrpcs = 1e9\nstorage_writes = 1e9\nstorage_bytes = 1e9\nui_commands = 1e9\n"
    );
    let dir = dir.join("scripts").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("script.toml"), manifest).unwrap();
    fs::write(dir.join(format!("{name}.wasm")), wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))).unwrap();
}

/// A run's random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// The moment of a kill is not waited for: any is good.
    #[allow(dead_code, reason = "not both test binaries need it")]
    pub fn pause(&mut self, below_ms: u64) {
        sleep(Duration::from_millis(self.below(below_ms)));
    }

    #[allow(dead_code, reason = "not both test binaries need it")]
    pub fn lines(&mut self, most: u64) -> usize {
        1 + self.below(most) as usize
    }
}

/// Whether a long run is asked for.
pub fn is_long() -> bool {
    std::env::var_os("AETHER_LONG").is_some()
}
