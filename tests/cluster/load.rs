//! What the worlds of a test cluster do: a ring of worlds, each of which calls the next with a number a tick, and records what came to it.
//!
//! Everything that the checker knows comes from here: what scripts keep in storage (`ledger`, `sender`, `receiver`, `banner`), and what
//! they show (`ledger`, `diary`, `banner`). Ledger and diary are those of `survive.rs`. The receiver judges order itself, in the same
//! commits in which it applies a call: a call lost or applied twice by a failover shows as a gap or a repetition that stays.

use crate::records::{COMMON, DIARY, LEDGER, NO_STATE, put_script};
use std::fs;
use std::path::Path;

/// Ticks a second.
pub const TICK_HZ: u32 = 20;
/// Whole ticks or none, so that a commit never shows half a tick.
const WHOLE: &str = "on_budget = \"terminate\"\nfuel = 100000";
/// Those that get messages may pause between two.
const PAUSING: &str = "on_budget = \"pause\"\nfuel = 1000000";

/// What sender and receiver have in common besides: the number that digits say.
const NUMBER: &str = r#"
  (func $number (param $at i32) (param $end i32) (result i64)
    (local $number i64)
    (loop $next
      (local.set $number (i64.add (i64.mul (local.get $number) (i64.const 10))
        (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (local.get $number))"#;

/// Calls the receiver of the next world with a number a tick, whose digits are the payload; the method is `WORLD/`. A number is only taken
/// if the call was: one that is refused (the way is full) comes again. The answer is the number. It must belong to its call (`mixed`
/// counts those that don't) and come once (`again`).
fn sender(world: &str, next: &str) -> String {
    let (target, own) = (format!("{next}/receiver"), format!("{world}/"));
    let (target_length, own_length) = (target.len(), own.len());
    format!(
        r#"{NO_STATE} {NUMBER}
  (data (i32.const 0) "sentansweredagainmixed") (data (i32.const 32) "{target}") (data (i32.const 80) "{own}")
  (data (i32.const 600) "o----")
  ;; The key of a call's number: `o`, three letters, and one of its generation, whose numbers begin anew above bit 32. More calls than
  ;; there are keys are never open at a time.
  (func $slot (param $call i64) (result i32)
    (local $low i32)
    (local.set $low (i32.wrap_i64 (local.get $call)))
    (i32.store8 (i32.const 601) (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $low) (i32.const 8)) (i32.const 3))))
    (i32.store8 (i32.const 602) (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $low) (i32.const 4)) (i32.const 15))))
    (i32.store8 (i32.const 603) (i32.add (i32.const 97) (i32.and (local.get $low) (i32.const 15))))
    (i32.store8 (i32.const 604)
      (i32.add (i32.const 97) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $call) (i64.const 32))) (i32.const 15))))
    (i32.const 600))
  (func (export "on_tick") (param f32)
    (local $number i64) (local $call i64) (local $at i32)
    (local.set $number (i64.add (call $read (i32.const 0) (i32.const 4)) (i64.const 1)))
    (local.set $at (call $text (local.get $number)))
    (local.set $call (call $rpc (i32.const 32) (i32.const {target_length}) (i32.const 80) (i32.const {own_length})
      (local.get $at) (i32.sub (i32.const 128) (local.get $at))))
    (if (i64.lt_s (local.get $call) (i64.const 0)) (then (return)))
    (drop (call $write (i32.const 0) (i32.const 4) (local.get $number)))
    (drop (call $write (call $slot (local.get $call)) (i32.const 5) (local.get $number))))
  (func (export "on_message") (param i64) (param $call i64) (param $address i32) (param $method i32) (param $payload i32)
    (local $number i64)
    (local.set $address (i32.add (local.get $address) (local.get $method)))
    (local.set $number (call $number (local.get $address) (i32.add (local.get $address) (local.get $payload))))
    (if (i64.ne (local.get $number) (call $read (call $slot (local.get $call)) (i32.const 5)))
      (then (drop (call $count (i32.const 17) (i32.const 5)))))
    (if (i64.le_u (local.get $number) (call $read (i32.const 4) (i32.const 8)))
      (then (drop (call $count (i32.const 12) (i32.const 5))))
      (else (drop (call $write (i32.const 4) (i32.const 8) (local.get $number))))))"#
    )
}

/// Applies calls and answers each with its number. Under the method, which is `WORLD/`, it keeps the last number applied (`last`), how often
/// a number did not follow the one before (`gap`), and how often one came that had been applied (`again`).
const RECEIVER: &str = r#"
  (data (i32.const 560) "last") (data (i32.const 564) "gap-") (data (i32.const 568) "agai")
  (func (export "on_start"))
  ;; The method lies at 512. The word's four letters follow it.
  (func $key (param $method i32) (param $word i32) (result i32)
    (i32.store (i32.add (i32.const 512) (local.get $method)) (i32.load (local.get $word)))
    (i32.const 512))
  (func (export "on_message") (param i64) (param $call i64) (param $address i32) (param $method i32) (param $payload i32)
    (local $number i64) (local $last i64) (local $length i32)
    (memory.copy (i32.const 512) (local.get $address) (local.get $method))
    (local.set $length (i32.add (local.get $method) (i32.const 4)))
    (local.set $address (i32.add (local.get $address) (local.get $method)))
    (local.set $number (call $number (local.get $address) (i32.add (local.get $address) (local.get $payload))))
    (local.set $last (call $read (call $key (local.get $method) (i32.const 560)) (local.get $length)))
    (if (i64.le_u (local.get $number) (local.get $last))
      (then (drop (call $count (call $key (local.get $method) (i32.const 568)) (local.get $length))))
      (else
        (if (i64.ne (local.get $number) (i64.add (local.get $last) (i64.const 1)))
          (then (drop (call $count (call $key (local.get $method) (i32.const 564)) (local.get $length)))))
        (drop (call $write (call $key (local.get $method) (i32.const 560)) (local.get $length) (local.get $number)))))
    (drop (call $reply (local.get $call) (local.get $address) (local.get $payload))))"#;

/// Shows and keeps its mark, which tells versions apart. `trap`: what it does wrong, in `on_tick` or in `restore_state`.
pub fn banner(mark: u32, trap: Trap) -> String {
    let [tick, restore] = [Trap::InTick, Trap::InRestore].map(|place| if trap == place { "(unreachable)" } else { "" });
    // After as many ticks as are sure to be seen, and before a reload is over.
    let later = match trap {
        Trap::Later => {
            "(global.set $ticks (i32.add (global.get $ticks) (i32.const 1)))
      (if (i32.gt_u (global.get $ticks) (i32.const 30)) (then (unreachable)))"
        }
        _ => "",
    };
    format!(
        r#"(module {COMMON}
  (data (i32.const 0) "markbanner")
  (global $ticks (mut i32) (i32.const 0))
  (func (export "on_tick") (param f32)
    {tick} {later}
    (drop (call $write (i32.const 0) (i32.const 4) (i64.const {mark})))
    (drop (call $show (i32.const 4) (i32.const 6) (i64.const {mark}))))
  (func (export "save_state") (result i64) (i64.const 0))
  (func (export "restore_state") (param i32 i32 i32) (result i32) {restore} (i32.const 0)))"#
    )
}

/// Where a bad version fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    Nowhere,
    /// After it has come into worlds.
    InTick,
    /// After some ticks in which it shows its mark.
    Later,
    /// When it is tried out.
    InRestore,
}

/// A state as large as one may be (1 MiB), and no more: the first world has it.
const BALLAST_SCRIPT: &str = r#"(module
  (memory (export "memory") 17)
  (func (export "aether_abi_1"))
  (func (export "on_tick") (param f32) (i64.store (i32.const 65536) (i64.add (i64.load (i32.const 65536)) (i64.const 1))))
  (func (export "aether_alloc") (param i32) (result i32) (i32.const 65536))
  (func (export "save_state") (result i64) (i64.or (i64.shl (i64.const 65536) (i64.const 32)) (i64.const 1048576)))
  (func (export "restore_state") (param i32 i32 i32) (result i32) (i32.const 0)))"#;

/// The names of a ring's worlds.
pub fn ring(worlds: usize) -> Vec<String> {
    (1..=worlds).map(|number| format!("w{number}")).collect()
}

/// Write the scripts into `DIR/scripts` and give the `[[world]]` tables.
pub fn put_worlds(dir: &Path, ring: &[String]) -> String {
    put_script(dir, "ledger", WHOLE, &format!("(module {COMMON} {LEDGER})"));
    put_script(dir, "diary", WHOLE, &format!("(module {COMMON} {DIARY})"));
    put_script(dir, "receiver", PAUSING, &format!("(module {COMMON} {NO_STATE} {NUMBER} {RECEIVER})"));
    put_script(dir, "banner", WHOLE, &banner(1, Trap::Nowhere));
    put_script(dir, "ballast", &WHOLE.replace("100000", "1000000"), BALLAST_SCRIPT);
    // It saves a whole MiB, and has to hold it.
    let manifest = dir.join("scripts/ballast/script.toml");
    let text = fs::read_to_string(&manifest).unwrap().replace("memory_mb = 1\n", "memory_mb = 4\n");
    fs::write(&manifest, text).unwrap();
    let mut text = String::new();
    for (i, world) in ring.iter().enumerate() {
        let own = format!("sender-{world}");
        put_script(dir, &own, PAUSING, &format!("(module {COMMON} {})", sender(world, &ring[(i + 1) % ring.len()])));
        text += &format!("[[world]]\nname = \"{world}\"\nscripts_dir = \"scripts\"\n");
        let ballast = if i == 0 { &[("ballast", "ballast")][..] } else { &[] };
        let all = [("ledger", "ledger"), (&own, "sender"), ("receiver", "receiver"), ("diary", "diary"), ("banner", "banner")];
        for (script, name) in all.iter().chain(ballast) {
            text += &format!("[[world.script]]\nscript = \"{script}\"\nname = \"{name}\"\n");
        }
    }
    text
}

/// A folder with a version of `banner`, to publish.
pub fn put_banner(dir: &Path, mark: u32, trap: Trap) -> std::path::PathBuf {
    let dir = dir.join(format!("banner-{mark}"));
    put_script(&dir, "banner", WHOLE, &banner(mark, trap));
    dir.join("scripts/banner")
}
