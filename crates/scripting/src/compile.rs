//! From wasm to an artifact, for either target, with the compiler on a leash.
//!
//! `limits` has refused what is known to hold a compiler; against what is not known, a [`Compiler::Child`] compiles in a process
//! of its own with a limit on CPU time and memory, and is killed at a deadline. A library has no binary of its own to start, so
//! its default is [`Compiler::InProcess`]; `aether` uses the child. Not here: keeping artifacts (`cache`, `registry`).

use crate::artifact::{AotArtifact, NATIVE_BYTES_MAX, TrustKey};
use crate::limits::{self, ModuleError, ModuleLimits};
use crate::meter::{Costs, metered};
use crate::policy::SyscallPolicy;
use crate::sandbox::{AotTarget, EngineProfile, SlotClass};
use aether_types::Blame;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

/// Compilations at a time: more would only share the cores that ticks need.
const AT_ONCE: usize = 2;

/// Where modules are compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In this process: no limit on CPU time and memory but those of the module.
    #[default]
    InProcess,
    /// In a child process with limits: `program args… TARGET CLASS NANS TRACES CPU_SECONDS MEMORY_BYTES`, wasm on its standard input,
    /// native code on its standard output. See [`worker`].
    Child {
        /// The program, usually this one.
        program: PathBuf,
        /// What makes it a worker.
        args: Vec<String>,
        /// What each compilation may take.
        limits: CompileLimits,
    },
}

/// What one compilation in a child process may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// CPU time, whole seconds.
    pub cpu_seconds: u64,
    /// Address space.
    pub memory_bytes: u64,
    /// Wall time: more than the CPU time, for machines that do other things too.
    pub deadline: Duration,
}

impl Default for CompileLimits {
    fn default() -> CompileLimits {
        CompileLimits { cpu_seconds: 20, memory_bytes: 2 << 30, deadline: Duration::from_secs(60) }
    }
}

/// The limit at which a compilation was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompileLimit {
    /// CPU time, seconds.
    Cpu(u64),
    /// Address space, bytes.
    Memory(u64),
    /// Wall time.
    Wall(Duration),
}

impl std::fmt::Display for CompileLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CompileLimit::Cpu(seconds) => write!(f, "{seconds} s of CPU time"),
            CompileLimit::Memory(bytes) => write!(f, "{} MiB of memory", bytes >> 20),
            CompileLimit::Wall(time) => write!(f, "{} s of wall time", time.as_secs_f64()),
        }
    }
}

/// Why a module could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The module may not be compiled.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The compiler refused it.
    #[error("the compiler refused the module: {0}")]
    Refused(String),
    /// The compiler took too long or too much memory.
    #[error("compiling took more than {0}: simplify the module's largest functions")]
    Limit(CompileLimit),
    /// The child process ended in a way that is none of its answers: a fault of ours, or somebody killed it.
    #[error("the compiler's process ended with {status}: {said}")]
    Worker {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard error.
        said: String,
    },
    /// The native code is too large.
    #[error("the native code has {bytes} bytes, at most {NATIVE_BYTES_MAX} are allowed")]
    NativeSize {
        /// How large it is.
        bytes: usize,
    },
    /// The compiler could not be started.
    #[error("could not run the compiler {program}")]
    Spawn {
        /// What was to be started.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl CompileError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            CompileError::Spawn { .. } => Blame::Operator,
            CompileError::Worker { .. } => Blame::Host,
            CompileError::Refused(_) | CompileError::Module(_) | CompileError::Limit(_) | CompileError::NativeSize { .. } => {
                Blame::Script
            }
        }
    }
}

/// Text format to binary, binary as it is.
pub fn to_binary(bytes: &[u8]) -> Result<Vec<u8>, ModuleError> {
    if bytes.starts_with(b"\0asm") || bytes.len() > ModuleLimits::default().module_bytes {
        return Ok(bytes.to_vec());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.trim_start().starts_with(['(', ';']) => {
            wat::parse_str(text).map_err(|error| ModuleError::Text(error.to_string()))
        }
        _ => Ok(bytes.to_vec()),
    }
}

/// Check a module against the limits and compile it.
pub fn compile(
    compiler: &Compiler,
    key: &TrustKey,
    wasm: &[u8],
    target: AotTarget,
    profile: EngineProfile,
    limits: &ModuleLimits,
    syscalls: &SyscallPolicy,
) -> Result<AotArtifact, CompileError> {
    limits::inspect(wasm, limits, syscalls)?;
    let native = match compiler {
        Compiler::InProcess => precompile(wasm, target, profile).map_err(CompileError::Refused)?,
        Compiler::Child { program, args, limits } => {
            let _permit = Permit::wait();
            in_child(program, args, *limits, wasm, target, profile)?
        }
    };
    if native.len() > NATIVE_BYTES_MAX {
        return Err(CompileError::NativeSize { bytes: native.len() });
    }
    Ok(AotArtifact::sign(key, wasm.into(), native, target, profile))
}

fn precompile(wasm: &[u8], target: AotTarget, profile: EngineProfile) -> Result<Vec<u8>, String> {
    let wasm = metered(wasm, Costs::Measured, u32::MAX).map_err(|e| e.to_string())?;
    let engine = profile.compiler(target).and_then(|config| wasmtime::Engine::new(&config)).map_err(|e| format!("{e:#}"))?;
    engine.precompile_module(&wasm).map_err(|e| format!("{e:#}"))
}

/// One of [`AT_ONCE`] compilations of this process.
struct Permit;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Permit {
    fn wait() -> Permit {
        let lock = RUNNING.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Ends: every holder ends at its deadline.
        let mut running =
            RUNNING.1.wait_while(lock, |running| *running >= AT_ONCE).unwrap_or_else(std::sync::PoisonError::into_inner);
        *running += 1;
        Permit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) -= 1;
        RUNNING.1.notify_one();
    }
}

fn in_child(
    program: &PathBuf,
    args: &[String],
    limits: CompileLimits,
    wasm: &[u8],
    target: AotTarget,
    profile: EngineProfile,
) -> Result<Vec<u8>, CompileError> {
    let spawn = |source| CompileError::Spawn { program: program.clone(), source };
    let mut child = Command::new(program)
        .args(args)
        .args([
            target.to_string(),
            format!("{:?}", profile.class).to_lowercase(),
            profile.canonical_nans.to_string(),
            profile.traces.to_string(),
        ])
        .args([limits.cpu_seconds, limits.memory_bytes].map(|limit| limit.to_string()))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawn)?;
    let (Some(mut input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        return Err(spawn(std::io::Error::other("no pipes")));
    };
    let module: Arc<[u8]> = wasm.into();
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A worker that gave up early closes its input: its exit code says why.
            let _ = input.write_all(&module);
        });
        let errors = scope.spawn(move || read_bounded(errors, 4 << 10));
        scope.spawn(move || {
            let _ = send.send(read_bounded(output, NATIVE_BYTES_MAX + 1));
        });
        // The worker closes its output when it is done, whichever way.
        let native = receive.recv_timeout(limits.deadline);
        if native.as_ref().map_or(true, |native| native.len() > NATIVE_BYTES_MAX) {
            let _ = child.kill();
        }
        let status = child.wait().map_err(spawn)?;
        let said = String::from_utf8_lossy(&errors.join().unwrap_or_default()).trim().to_owned();
        let native = native.map_err(|_| CompileError::Limit(CompileLimit::Wall(limits.deadline)))?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(native),
            _ if native.len() > NATIVE_BYTES_MAX => Err(CompileError::NativeSize { bytes: native.len() }),
            (Some(WORKER_REFUSED), _) => Err(CompileError::Refused(said)),
            (_, Some(SIGXCPU)) => Err(CompileError::Limit(CompileLimit::Cpu(limits.cpu_seconds))),
            // What Rust says before it aborts because it got no memory.
            (_, Some(SIGABRT)) if said.contains("memory allocation of") => {
                Err(CompileError::Limit(CompileLimit::Memory(limits.memory_bytes)))
            }
            _ => Err(CompileError::Worker { status, said }),
        }
    })
}

fn read_bounded(stream: impl Read, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.take(limit as u64).read_to_end(&mut bytes);
    bytes
}

/// Exit code of a worker whose compiler refused the module.
const WORKER_REFUSED: i32 = 3;
/// Exit code of a worker that could not do its work, whatever the module.
const WORKER_FAILED: i32 = 4;
const SIGXCPU: i32 = rustix::process::Signal::XCPU.as_raw();
const SIGABRT: i32 = rustix::process::Signal::ABORT.as_raw();

/// What the child does: limit itself, read wasm, write native code. `args` are what [`Compiler::Child`] adds to its own.
pub fn worker(args: &[String]) -> ExitCode {
    let refused = |error: String| (WORKER_REFUSED, error);
    let failed = |error: String| (WORKER_FAILED, error);
    let run = || -> Result<(), (i32, String)> {
        let usage =
            || failed("a worker takes a target, a class, true or false twice, CPU seconds and bytes of memory".to_owned());
        let [target, class, nans, traces, cpu_seconds, memory_bytes] = args else { return Err(usage()) };
        let target =
            [AotTarget::LinuxX64, AotTarget::LinuxAArch64].into_iter().find(|t| t.to_string() == *target).ok_or_else(usage)?;
        let class = if class == "small" { SlotClass::Small } else { SlotClass::Large };
        let [cpu_seconds, memory_bytes] = [cpu_seconds, memory_bytes].map(|number| number.parse::<u64>().ok());
        let (Some(cpu_seconds), Some(memory_bytes)) = (cpu_seconds, memory_bytes) else { return Err(usage()) };
        limit_self(cpu_seconds, memory_bytes).map_err(|e| failed(format!("could not limit the compiler: {e}")))?;
        let wasm = read_bounded(std::io::stdin(), ModuleLimits::default().module_bytes + 1);
        // Checked once more: a worker trusts nobody.
        limits::inspect(&wasm, &ModuleLimits::default(), &crate::server_runtime::all_syscalls())
            .map_err(|e| refused(e.to_string()))?;
        let profile = EngineProfile { class, canonical_nans: nans == "true", traces: traces == "true" };
        let native = precompile(&wasm, target, profile).map_err(refused)?;
        std::io::stdout().write_all(&native).map_err(|e| failed(e.to_string()))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            let _ = std::io::stderr().write_all(error.as_bytes());
            ExitCode::from(code as u8)
        }
    }
}

fn limit_self(cpu_seconds: u64, memory_bytes: u64) -> Result<(), rustix::io::Errno> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = |resource, current: u64, maximum: u64| {
        // Whoever started us may have set a lower one, which only root could raise.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, Rlimit { current: Some(current.min(most)), maximum: Some(maximum.min(most)) })
    };
    // At the first the kernel sends SIGXCPU, at the second SIGKILL; if they are equal, only SIGKILL, which says nothing.
    limit(Resource::Cpu, cpu_seconds, cpu_seconds.saturating_add(1))?;
    limit(Resource::As, memory_bytes, memory_bytes)?;
    limit(Resource::Core, 0, 0)
}
