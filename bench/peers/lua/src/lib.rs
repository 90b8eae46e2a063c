//! Luau and LuaJIT through mlua, one of them in each build.
//!
//! - `luau`: a virtual machine a script, stopped by an interrupt that looks at the clock.
//! - `luau-thread`: one virtual machine, a sandboxed thread a script. They share a heap: no script has a memory limit of its own.
//! - `luajit`: a virtual machine a script. Compiled code ignores hooks: what never ends cannot be stopped.
//! - `luajit-off`: the same with the compiler off, so that a count hook can stop it.

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaOptions, StdLib};
use peer_common::{Mood, Peer, Positions, World};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

const SOURCE: &str = include_str!("script.lua");
/// A script's share in W4. Elsewhere it has [`PATIENCE`]: on a busy machine a deadline of 1 ms also stops scripts that did nothing wrong.
const SHARE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(100);

struct Script {
    lua: Lua,
    tick: Function,
    heavy: Function,
    mood: Function,
}

struct Meter {
    deadline: Cell<Instant>,
    share: Cell<Duration>,
}

impl Meter {
    fn refill(&self) {
        self.deadline.set(Instant::now() + self.share.get());
    }

    fn check(&self) -> mlua::Result<mlua::VmState> {
        if Instant::now() > self.deadline.get() { Err(mlua::Error::runtime("over budget")) } else { Ok(mlua::VmState::Continue) }
    }
}

#[derive(Clone)]
struct Kind {
    name: &'static str,
    /// One machine for all, a thread a script.
    threads: bool,
    /// Whether something looks at the clock.
    metered: bool,
    old: Rc<Vec<u8>>,
    new: Rc<Vec<u8>>,
}

#[cfg(feature = "luau")]
fn compile(source: &str) -> Vec<u8> {
    mlua::chunk::Compiler::new().set_optimization_level(2).set_debug_level(1).compile(source).unwrap()
}

#[cfg(not(feature = "luau"))]
fn compile(source: &str) -> Vec<u8> {
    Lua::new().load(source).into_function().unwrap().dump(true)
}

impl Kind {
    fn machine(&self, positions: &Rc<Positions>, meter: &Rc<Meter>) -> Lua {
        #[allow(unused_mut)]
        let mut libraries = StdLib::MATH | StdLib::TABLE | StdLib::STRING;
        #[cfg(feature = "luajit")]
        {
            libraries |= StdLib::JIT;
        }
        let lua = Lua::new_with(libraries, LuaOptions::default()).unwrap();
        let of = Rc::clone(positions);
        let get = lua.create_function(move |_, id: usize| Ok(of.get(id))).unwrap();
        let of = Rc::clone(positions);
        let set = lua.create_function(move |_, (id, x, y): (usize, f32, f32)| Ok(of.set(id, (x, y)))).unwrap();
        lua.globals().set("get_pos", get).unwrap();
        lua.globals().set("set_pos", set).unwrap();
        let meter = Rc::clone(meter);
        #[cfg(feature = "luau")]
        {
            lua.enable_jit(false);
            lua.sandbox(true).unwrap();
            lua.set_memory_limit(if self.threads { 2 << 30 } else { 4 << 20 }).unwrap();
            let looks = Cell::new(0u32);
            lua.set_interrupt(move |_| {
                looks.set(looks.get().wrapping_add(1));
                if looks.get().is_multiple_of(64) { meter.check() } else { Ok(mlua::VmState::Continue) }
            });
        }
        #[cfg(feature = "luajit")]
        if self.metered {
            lua.load("jit.off()").exec().unwrap();
            lua.set_hook(mlua::HookTriggers::new().every_nth_instruction(5_000), move |_, _| meter.check()).unwrap();
        }
        lua
    }

    fn load(&self, lua: &Lua, code: &[u8]) -> (Function, Function, Function) {
        #[cfg(feature = "luau")]
        if self.threads {
            let code = code.to_vec();
            let chunk = lua
                .create_function(move |lua, ()| {
                    lua.load(&code[..]).set_mode(ChunkMode::Binary).eval::<(Function, Function, Function)>()
                })
                .unwrap();
            let thread = lua.create_thread(chunk).unwrap();
            thread.sandbox().unwrap();
            return thread.resume(()).unwrap();
        }
        lua.load(code).set_mode(ChunkMode::Binary).eval().unwrap()
    }

    fn script(&self, shared: Option<&Lua>, positions: &Rc<Positions>, meter: &Rc<Meter>) -> Script {
        meter.deadline.set(Instant::now() + PATIENCE);
        let lua = shared.cloned().unwrap_or_else(|| self.machine(positions, meter));
        let (tick, heavy, mood) = self.load(&lua, &self.old);
        Script { lua, tick, heavy, mood }
    }
}

struct LuaWorld {
    kind: Kind,
    shared: Option<Lua>,
    positions: Rc<Positions>,
    meter: Rc<Meter>,
    scripts: Vec<Script>,
    alive: Vec<bool>,
    stop: Duration,
}

impl World for LuaWorld {
    fn tick(&mut self, dt: f32) -> usize {
        let mut ended = 0;
        for (i, script) in self.scripts.iter().enumerate() {
            if !self.alive[i] {
                continue;
            }
            if self.kind.metered {
                self.meter.refill();
            }
            if script.tick.call::<()>((i, dt)).is_err() {
                ended += 1;
                self.alive[i] = false;
            }
        }
        ended
    }

    fn heavy(&mut self) -> f64 {
        let mut result = 0.0;
        for script in &self.scripts {
            if self.kind.metered {
                self.meter.refill();
            }
            result = script.heavy.call((3.0, 4.0)).unwrap();
        }
        result
    }

    fn positions(&self) -> &Positions {
        &self.positions
    }

    fn set_mood(&mut self, script: usize, mood: Mood) {
        self.meter.refill();
        self.scripts[script].mood.call::<()>(mood as i32).unwrap();
        if mood == Mood::Runaway {
            // One like it, alone: for how long it ran.
            self.meter.share.set(SHARE);
            let other = self.kind.script(self.shared.as_ref(), &self.positions, &self.meter);
            other.mood.call::<()>(mood as i32).unwrap();
            let begun = Instant::now();
            self.meter.refill();
            assert!(other.tick.call::<()>((0, 0.0)).is_err());
            self.stop = begun.elapsed();
        }
    }

    fn last_stop(&self) -> Duration {
        self.stop
    }

    fn prepare_new(&mut self) {
        compile(&new_source());
    }

    fn switch(&mut self, from: usize, to: usize) {
        for script in &mut self.scripts[from..to] {
            // The machine stays; code and the script's own state are new.
            self.meter.refill();
            let (tick, heavy, mood) = self.kind.load(&script.lua, &self.kind.new);
            *script = Script { lua: script.lua.clone(), tick, heavy, mood };
        }
    }

    fn restart_dead(&mut self) -> usize {
        let mut back = 0;
        for i in 0..self.scripts.len() {
            if !self.alive[i] {
                self.scripts[i] = self.kind.script(self.shared.as_ref(), &self.positions, &self.meter);
                self.alive[i] = true;
                back += 1;
            }
        }
        back
    }
}

fn new_source() -> String {
    SOURCE.replace("VX, VY = 1.0, 0.5", "VX, VY = 2.0, 1.0")
}

impl Peer for Kind {
    type World = LuaWorld;

    fn name(&self) -> &'static str {
        self.name
    }

    fn stops_runaways(&self) -> bool {
        self.metered
    }

    fn world(&self, scripts: usize) -> LuaWorld {
        let positions = Positions::new(scripts);
        let meter = Meter { deadline: Cell::new(Instant::now() + PATIENCE), share: Cell::new(PATIENCE) };
        let meter = Rc::new(meter);
        let shared = self.threads.then(|| self.machine(&positions, &meter));
        let all = (0..scripts).map(|_| self.script(shared.as_ref(), &positions, &meter)).collect();
        let alive = vec![true; scripts];
        LuaWorld { kind: self.clone(), shared, positions, meter, scripts: all, alive, stop: Duration::ZERO }
    }
}

/// `WHO WORKLOAD N`.
pub fn main() {
    let Some((who, workload, n)) = peer_common::arguments() else {
        eprintln!("usage: WHO WORKLOAD N");
        std::process::exit(2);
    };
    let names = [("luau", false, true), ("luau-thread", true, true), ("luajit", false, false), ("luajit-off", false, true)];
    let (name, threads, metered) =
        names.into_iter().find(|(name, ..)| *name == who).expect("luau, luau-thread, luajit or luajit-off");
    let (old, new) = (Rc::new(compile(SOURCE)), Rc::new(compile(&new_source())));
    peer_common::run(&Kind { name, threads, metered, old, new }, &workload, n);
}
