//! What metering and canonical NaNs cost on a float kernel: 400 interactions of neighbours, about 10,000 simple operations.

use crate::bare::config;
use crate::{cpu_ns, interleave, row};
use wasmtime::{Engine, Instance, Module, Store};

const KERNEL: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "heavy") (param $x f64) (param $y f64) (result f64)
    (local $i i32) (local $p i32) (local $dx f64) (local $dy f64) (local $d f64) (local $w f64) (local $sx f64) (local $sy f64) (local $n f64)
    (loop $next
      (local.set $p (i32.shl (i32.and (local.get $i) (i32.const 63)) (i32.const 4)))
      (local.set $dx (f64.sub (f64.load (local.get $p)) (local.get $x)))
      (local.set $dy (f64.sub (f64.load offset=8 (local.get $p)) (local.get $y)))
      (local.set $d (f64.add (f64.mul (local.get $dx) (local.get $dx)) (f64.mul (local.get $dy) (local.get $dy))))
      (if (f64.lt (local.get $d) (f64.const 2500)) (then
        (local.set $w (f64.div (f64.const 1) (f64.add (local.get $d) (f64.const 1))))
        (local.set $sx (f64.sub (local.get $sx) (f64.mul (local.get $dx) (local.get $w))))
        (local.set $sy (f64.sub (local.get $sy) (f64.mul (local.get $dy) (local.get $w))))
        (local.set $n (f64.add (local.get $n) (f64.const 1)))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 400))))
    (f64.add (local.get $sx) (f64.add (local.get $sy) (local.get $n)))))"#;

pub(crate) fn run() {
    println!("\n## Metering and canonical NaNs on a float kernel (ns a call)\n\n| | ns | ratio |\n|---|---|---|");
    let kernel = |metered: bool, nans: bool| {
        let engine = Engine::new(&config(metered, nans)).unwrap();
        let mut store = Store::new(&engine, ());
        if metered {
            store.set_fuel(u64::MAX).unwrap();
            store.set_epoch_deadline(u64::MAX / 2);
        }
        let instance = Instance::new(&mut store, &Module::new(&engine, KERNEL).unwrap(), &[]).unwrap();
        let heavy = instance.get_typed_func::<(f64, f64), f64>(&mut store, "heavy").unwrap();
        move || {
            let t = cpu_ns();
            for _ in 0..2_000 {
                std::hint::black_box(heavy.call(&mut store, (3.0, 4.0)).unwrap());
            }
            (cpu_ns() - t) as f64 / 2_000.0
        }
    };
    let (mut plain, mut fuel, mut nans, mut both) =
        (kernel(false, false), kernel(true, false), kernel(false, true), kernel(true, true));
    let times = interleave(21, &mut [&mut plain, &mut fuel, &mut nans, &mut both]);
    let names =
        ["no metering", "fuel and epochs (the default)", "canonical NaNs, no metering", "fuel, epochs and canonical NaNs"];
    for (name, time) in names.into_iter().zip(&times) {
        row(name, *time, times[0]);
    }
}
