//! From wasm to native code when something goes wrong on the way: a compiler at its limits, many processes on one cache, crashes
//! in the middle of a write, no room left. The compiler is the program itself, as in a node.

use crate::program::{command, program};
use crate::support::*;
use aether_scripting::compile::{CompileError, CompileLimits, Compiler};
use aether_scripting::instance::InstanceError;
use aether_scripting::sandbox::PoolSize;
use aether_scripting::server_runtime::RuntimeError;
use aether_scripting::{
    ActionLimiter, ActionRates, AotTarget, Blame, Call, HostGroups, InstanceId, InstanceSpec, MeteringOutcome, NoEngine,
    OnBudget, ScriptInstance, ScriptModule, ServerResourcePolicy, ServerRuntime, ServerRuntimeConfig, Version, WorldContext,
    WorldMemory,
};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

/// Of every wait for a process, on a machine with much else to do.
const DEADLINE: Duration = Duration::from_secs(120);
/// What has so much memory is in a small slot.
const MEMORY_MB: u64 = 4;
/// Pages that a module starts with.
const PAGES: u64 = 20;

/// A good module that differs from the others by this number, and has this in it too.
fn module(number: u32, more: &str) -> Vec<u8> {
    wasm(&format!(
        r#"(module (memory (export "memory") {PAGES}) (func (export "aether_abi_1"))
           (func (export "on_tick") (param f32) (drop (i32.const {number}))) {more})"#
    ))
}

/// Within all limits on modules, and for the compiler ten seconds and half a gibibyte: a function with many variables that change
/// in nested loops, each of which may go on with any other.
fn hostile() -> Vec<u8> {
    const VARIABLES: usize = 900;
    const NESTED: usize = 120;
    let mut body = String::new();
    for i in 0..4_000 {
        if i < NESTED {
            body += "loop ";
        }
        let [to, a, b] = [7, 13, 29].map(|step| step * i % VARIABLES);
        body += &format!("(local.set {to} (i64.add (local.get {a}) (local.get {b}))) ");
        body += &format!("(br_if {} (i32.wrap_i64 (local.get {a}))) ", i % NESTED.min(i + 1));
    }
    module(0, &format!("(func (local {}) {body} {})", "i64 ".repeat(VARIABLES), "end ".repeat(NESTED)))
}

/// With a mebibyte of data, so that its artifact takes a while to write.
fn large(number: u32) -> Vec<u8> {
    module(number, &format!("(data (i32.const 0) \"{}\")", "x".repeat(1 << 20)))
}

/// The program as compiler.
fn compiler(limits: CompileLimits) -> Compiler {
    Compiler::Child { program: program().to_owned(), args: vec!["compile-worker".to_owned()], limits }
}

/// What cannot compile has only the cache to serve from.
fn no_compiler() -> Compiler {
    Compiler::Child { program: "/nonexistent/compiler".into(), args: Vec::new(), limits: CompileLimits::default() }
}

/// A runtime as after a start, with room for three small scripts and a large one.
fn runtime_on(cache: &Path, compiler: Compiler) -> ServerRuntime {
    let pool = PoolSize { small: 3, large: 1 };
    let config = ServerRuntimeConfig { aot_cache_dir: cache.to_owned(), compiler, pool, ..ServerRuntimeConfig::default() };
    ServerRuntime::new(config).unwrap()
}

#[track_caller]
fn loaded(runtime: &ServerRuntime, wasm: &[u8], memory_mb: u64) -> Arc<ScriptModule> {
    let id = fresh_id("compile");
    let artifact = runtime.compile_for(wasm, AotTarget::host(), memory_mb).unwrap();
    let version = runtime.register_artifact(id, artifact).unwrap();
    runtime.load_module(id, version).unwrap()
}

/// It is loaded, and runs.
#[track_caller]
fn assert_served(runtime: &ServerRuntime, wasm: &[u8]) {
    let module = loaded(runtime, wasm, MEMORY_MB);
    let policy = ServerResourcePolicy { memory_cap_mb: MEMORY_MB, ..ServerResourcePolicy::default() };
    assert_eq!(runtime.execute(&module, &policy).unwrap().outcome, MeteringOutcome::Completed);
}

/// Whether a runtime that cannot compile has it; if not, then because it had to compile.
#[track_caller]
fn is_cached(cold: &ServerRuntime, wasm: &[u8]) -> bool {
    match cold.compile_for(wasm, AotTarget::host(), MEMORY_MB) {
        Ok(_) => true,
        Err(RuntimeError::Compile(CompileError::Spawn { .. })) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Names in a directory that begin and end so.
fn names(dir: &Path, begin: &str, end: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(begin) && name.ends_with(end)).collect()
}

/// Put scripts into `scripts` and write a cluster file whose one world has them. The cache is the directory `cache`.
fn cluster_file(dir: &Path, name: &str, scripts: &[(u32, Vec<u8>)]) -> PathBuf {
    let mut text = format!(
        "[node]\ndata_dir = \"data-{name}\"\ninstances_small = 50\ninstances_large = 1\n\
         [server]\naot_cache_dir = \"cache\"\n[[world]]\nname = \"town\"\n"
    );
    for (number, wasm) in scripts {
        let script = dir.join(format!("scripts/s{number}"));
        fs::create_dir_all(&script).unwrap();
        fs::write(script.join("script.toml"), format!("name = \"s{number}\"\n[limits]\nmemory_mb = {MEMORY_MB}\n")).unwrap();
        fs::write(script.join(format!("s{number}.wasm")), wasm).unwrap();
        text += &format!("[[world.script]]\nscript = \"s{number}\"\n");
    }
    let file = dir.join(format!("{name}.toml"));
    fs::write(&file, text).unwrap();
    file
}

/// `aether run` for a second, as a process of its own. Dropped, it is killed.
struct Process {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Process {
    fn start(cluster_file: &Path) -> Process {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = command();
        command.args(["run", "--plain", "--seconds", "1"]).arg(cluster_file);
        let child = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
        let (send, said) = mpsc::channel();
        // Ends with the process: what else could write to the pipe goes with `command`, at the end of this function.
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = reader.read_to_string(&mut text);
            let _ = send.send(text);
        });
        Process { child, said }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Wait for its end, which must be a good one; what it said.
    #[track_caller]
    fn finish(mut self) -> String {
        let said = self.said.recv_timeout(DEADLINE).expect("it ends by itself");
        let status = self.child.wait().unwrap();
        assert!(status.success() && said.contains("1 world saved"), "{status}\n{said}");
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_compiler_is_stopped_at_each_of_its_limits_and_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (hostile, most) = (hostile(), CompileLimits::default());
    let cases = [
        (CompileLimits { cpu_seconds: 1, ..most }, "1 s of CPU time"),
        (CompileLimits { memory_bytes: 96 << 20, ..most }, "96 MiB of memory"),
        (CompileLimits { deadline: Duration::from_secs(1), ..most }, "1 s of wall time"),
    ];
    for (case, (limits, wanted)) in cases.into_iter().enumerate() {
        let runtime = runtime_on(dir.path(), compiler(limits));
        let begin = Instant::now();
        let error = runtime.compile_for(&hostile, AotTarget::host(), MEMORY_MB).unwrap_err();
        assert!(matches!(error, RuntimeError::Compile(CompileError::Limit(_))), "{wanted}: {error}");
        let text = format!("compiling took more than {wanted}: simplify the module's largest functions");
        assert_eq!((error.to_string(), error.blame()), (text, Blame::Script));
        assert!(begin.elapsed() < DEADLINE, "{wanted}: {:?}", begin.elapsed());
        // One more than may be compiled at a time, under the very same limits.
        for n in 0..3 {
            assert_served(&runtime, &module(3 * case as u32 + n, ""));
        }
    }
    assert_eq!(names(dir.path(), "", ".aot").len(), 9, "of the hostile one nothing is kept");
}

#[test]
fn a_compiler_that_dies_by_itself_or_is_killed_blames_no_script() {
    let dir = tempfile::tempdir().unwrap();
    for end in ["echo thread main panicked >&2; exit 101", "kill -KILL $$", "exit 1"] {
        let args = ["-c", end, "worker"].map(str::to_owned).to_vec();
        let broken = Compiler::Child { program: "/bin/sh".into(), args, limits: CompileLimits::default() };
        let error = runtime_on(dir.path(), broken).compile_for(&module(0, ""), AotTarget::host(), MEMORY_MB).unwrap_err();
        assert!(matches!(error, RuntimeError::Compile(CompileError::Worker { .. })), "{end}: {error}");
        assert_ne!(error.blame(), Blame::Script, "{end}: {error}");
    }
    assert_served(&runtime_on(dir.path(), compiler(CompileLimits::default())), &module(0, ""));
}

#[test]
fn processes_that_share_a_cache_from_its_first_moment_all_succeed_and_leave_it_whole() {
    const PROCESSES: u32 = 6;
    let dir = tempfile::tempdir().unwrap();
    let common: Vec<_> = (0..4).map(|number| (number, large(number))).collect();
    let own: Vec<_> = (0..PROCESSES).map(|process| (10 + process, module(10 + process, ""))).collect();
    let file = |own: &(u32, Vec<u8>)| {
        cluster_file(dir.path(), &format!("p{}", own.0), &[&common[..], std::slice::from_ref(own)].concat())
    };
    let files: Vec<_> = own.iter().map(file).collect();
    // All at once: they make the directory and its key, and compile the same modules in the same order.
    let processes: Vec<_> = files.iter().map(|file| Process::start(file)).collect();
    for process in processes {
        let said = process.finish();
        // No file was refused, and none not kept.
        assert!(!said.contains("artifact"), "{said}");
    }
    let cache = dir.path().join("cache");
    let (all, artifacts) = (names(&cache, "", ""), common.len() + own.len());
    assert_eq!((names(&cache, "", ".aot").len(), all.len()), (artifacts, artifacts + 1), "and the key: {all:?}");
    let cold = runtime_on(&cache, no_compiler());
    common.iter().chain(&own).for_each(|(_, wasm)| assert_served(&cold, wasm));
}

#[test]
fn what_a_crash_leaves_in_the_cache_is_never_loaded_and_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (cold, warm) = (runtime_on(dir.path(), no_compiler()), runtime_on(dir.path(), compiler(CompileLimits::default())));
    let wasm = large(1);
    let made = warm.compile_for(&wasm, AotTarget::host(), MEMORY_MB).unwrap();
    let file = dir.path().join(&names(dir.path(), "", ".aot")[0]);
    let whole = fs::read(&file).unwrap();
    // Cut in the magic, the length, the header, the code, at a page and at its last byte; blocks that never were written.
    let cuts = [0, 7, 11, 100, 400, 4_096, whole.len() / 2, whole.len() - 1];
    let zeroed = |from: usize| [&whole[..from], &vec![0u8; whole.len() - from]].concat();
    for torn in cuts.map(|end| whole[..end].to_vec()).into_iter().chain([zeroed(0), zeroed(4_096), zeroed(whole.len() / 2)]) {
        fs::write(&file, &torn).unwrap();
        assert!(!is_cached(&cold, &wasm) && !file.exists(), "{} bytes", torn.len());
        fs::write(&file, &torn).unwrap();
        assert_eq!(warm.compile_for(&wasm, AotTarget::host(), MEMORY_MB).unwrap(), made, "{} bytes", torn.len());
        assert!(fs::read(&file).unwrap() == whole, "{} bytes", torn.len());
    }
    assert_served(&runtime_on(dir.path(), no_compiler()), &wasm);
    // Another's code under this name is whole, and signed, and not this module's.
    let other = module(2, "");
    warm.compile_for(&other, AotTarget::host(), MEMORY_MB).unwrap();
    let mut files = names(dir.path(), "", ".aot").into_iter().map(|name| dir.path().join(name));
    fs::copy(files.find(|path| *path != file).unwrap(), &file).unwrap();
    assert!(!is_cached(&cold, &wasm));
    // Cut before it had its name, now or long ago: in nobody's way, and not kept for ever.
    let [young, old] = ["tmp-1-0", "tmp-2-0"].map(|name| dir.path().join(name));
    fs::write(&young, &whole[..4_096]).unwrap();
    fs::write(&old, &whole[..4_096]).unwrap();
    File::options().write(true).open(&old).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7_200)).unwrap();
    assert_served(&runtime_on(dir.path(), compiler(CompileLimits::default())), &wasm);
    assert!(young.exists() && !old.exists(), "{:?}", names(dir.path(), "tmp-", ""));
    assert_served(&runtime_on(dir.path(), no_compiler()), &wasm);
}

#[test]
fn a_process_that_is_killed_at_any_moment_leaves_whole_artifacts_or_none() {
    let given = std::env::var("AETHER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("AETHER_TEST_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let scripts: Vec<_> = (0..6).map(|number| (number, large(number))).collect();
    let file = cluster_file(dir.path(), "node", &scripts);
    let mut random = seed;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut killed = 0;
    for round in 0..12 {
        let (files, spins) = (next(6) as usize, next(1_000_000));
        let before = names(&cache, "tmp-", "");
        let mut process = Process::start(&file);
        // It is writing the file after so many: busy, since whoever sleeps here does not see it.
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE && process.is_running() {
            let writes = names(&cache, "tmp-", "").iter().any(|name| !before.contains(name));
            if writes && names(&cache, "", ".aot").len() >= files {
                break;
            }
            std::thread::yield_now();
        }
        (0..spins).for_each(|_| std::hint::spin_loop());
        killed += u32::from(process.is_running());
        drop(process);
        let there = names(&cache, "", ".aot");
        let cold = runtime_on(&cache, no_compiler());
        let whole = scripts.iter().filter(|(_, wasm)| is_cached(&cold, wasm)).count();
        assert_eq!(whole, there.len(), "seed {seed}, round {round}: what is there is whole");
        // The next one has everything to do; what was half written stays where it is.
        there.iter().for_each(|name| fs::remove_file(cache.join(name)).unwrap());
    }
    assert!(killed > 0, "seed {seed}: every process was done before it was killed");
    Process::start(&file).finish();
    let cold = runtime_on(&cache, no_compiler());
    scripts.iter().for_each(|(_, wasm)| assert_served(&cold, wasm));
}

#[test]
fn a_full_pool_refuses_the_next_instance_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for on_budget in [OnBudget::Pause, OnBudget::Terminate] {
        let runtime = runtime_on(dir.path(), Compiler::InProcess);
        let [small, large] = [MEMORY_MB, 64].map(|memory_mb| loaded(&runtime, &module(0, ""), memory_mb));
        let memory = WorldMemory::new(u64::MAX);
        let spec = InstanceSpec {
            instance: InstanceId(1),
            version: Version(1),
            policy: ServerResourcePolicy { memory_cap_mb: MEMORY_MB, on_budget, ..ServerResourcePolicy::default() },
            groups: HostGroups::ALL,
            rates: ActionRates::default(),
            seed: 0,
            random: None,
            drained_at_ns: None,
            directory: None,
        };
        let build = |module| ScriptInstance::build(module, &spec, &memory);
        let mut world = Some(WorldContext::new(Box::new(NoEngine), ActionLimiter::new(&ActionRates::world())));
        let mut scripts: Vec<_> = (0..3).map(|_| build(&small).unwrap()).collect();
        for _ in 0..3 {
            let error = build(&small).err().unwrap();
            assert!(matches!(error, InstanceError::Full { .. }), "{on_budget:?}: {error}");
            assert!(error.to_string().contains("raise instances_small"), "{error}");
            assert_eq!((error.blame(), memory.used_bytes()), (Blame::Operator, (3 * PAGES) << 16));
            for script in &mut scripts {
                assert_eq!(finish(script, &mut world, Call::Tick(0.05)).0, MeteringOutcome::Completed);
            }
            drop(scripts.remove(0));
            scripts.push(build(&small).unwrap());
        }
        // The other class has slots of its own.
        let _large = build(&large).unwrap();
        let error = build(&large).err().unwrap();
        assert!(error.to_string().contains("raise instances_large"), "{error}");
    }
}
