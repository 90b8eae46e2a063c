//! A script as its world holds it: what it is made of, what it is doing, what is kept of it.
//!
//! Start with [`ScriptParts`] and [`ScriptState`]. Not here: running it (`world`), ending and coming back (`lifecycle`).

use crate::scheduler::ScriptKey;
use crate::supervision::{End, Restarts};
use aether_scripting::instance::{InstanceError, RandomState};
use aether_scripting::manifest::ScriptManifest;
use aether_scripting::{
    ApiError, Call, InstanceSpec, MeteringOutcome, Reply, ScriptInstance, ScriptModule, Trace, Vec3, WorldContext, WorldMemory,
};
use aether_types::{InstanceId, ScriptId, Tick, Version};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a script is added from.
#[derive(Clone)]
pub struct ScriptParts {
    /// Its name in this world.
    pub name: String,
    /// What it may touch and use.
    pub manifest: Arc<ScriptManifest>,
    /// The version of its artifact.
    pub version: Version,
    /// Its code.
    pub module: Arc<ScriptModule>,
    /// The prefab and place of its own entity.
    pub entity: Option<(String, Vec3)>,
    /// The directory of its WASI files, if it may have any.
    pub directory: Option<std::path::PathBuf>,
}

/// The part of it that a new version replaces.
#[derive(Clone)]
pub(crate) struct Code {
    pub manifest: Arc<ScriptManifest>,
    pub version: Version,
    pub module: Arc<ScriptModule>,
}

impl ScriptParts {
    /// Take other code; gives what it had.
    pub(crate) fn replace(&mut self, code: Code) -> Code {
        Code {
            manifest: std::mem::replace(&mut self.manifest, code.manifest),
            version: std::mem::replace(&mut self.version, code.version),
            module: std::mem::replace(&mut self.module, code.module),
        }
    }
}

/// Why a script could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// A name must be one script's.
    #[error("there is a script named {0:?} in this world already")]
    NameTaken(String),
    /// Too many scripts.
    #[error("the world has {0} scripts, more are not allowed: raise scripts_max")]
    TooManyScripts(usize),
    /// Too many different modules.
    #[error("the world has {0} different modules, more are not allowed: raise AETHER_SERVER_MAX_MODULES")]
    TooManyModules(usize),
    /// Its instance could not be built.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The engine refused it.
    #[error("the engine refused it: its prefab {prefab:?}: {error}")]
    Engine {
        /// The prefab asked for.
        prefab: Option<String>,
        /// Why.
        error: ApiError,
    },
}

/// What a script is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum ScriptState {
    /// It has a turn in every tick that has room.
    Running,
    /// Out of fuel in the middle of a call.
    Paused,
    /// Taken out of the order by overload protection or an operator; its state is saved.
    Suspended,
    /// It failed and comes back.
    Restarting,
    /// It finishes the call that it is paused in, then a new version takes its place.
    Draining,
    /// It is not to be started again: it finished, or is temporary.
    Finished {
        /// How it ended.
        cause: String,
    },
    /// It kept failing.
    Parked {
        /// How it failed the last time.
        cause: String,
    },
}

/// What came of an operator's order to one script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ordered {
    /// It was done.
    Done,
    /// It was so already.
    Already,
    /// It cannot be done to one that is so.
    Not(ScriptState),
    /// The world has no script of that name.
    Unknown,
}

/// A script's part of a status.
#[derive(Debug, Clone, Serialize)]
pub struct ScriptStatus {
    /// Its name.
    pub name: String,
    /// Its script.
    pub script: ScriptId,
    /// Its version.
    pub version: Version,
    /// What it is doing.
    pub state: ScriptState,
    /// Its priority.
    pub priority: u32,
    /// Fuel since the last status.
    pub fuel: u64,
    /// Turns since the last status.
    pub turns: u32,
    /// Turns since the last status at whose end it was paused.
    pub pauses: u32,
    /// Ticks in a row that it has been deferred.
    pub deferred_ticks: u32,
    /// Ticks since the last status in which it was deferred.
    pub deferrals: u32,
    /// Nanoseconds of a turn, smoothed.
    pub cost_ns: f32,
    /// Host calls by group since the last status.
    pub host_calls: [u32; 7],
    /// Actions refused by a rate limit since the world started, in the order of [`aether_scripting::RateLimitedAction::ALL`].
    pub refused: [u32; 7],
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Restarts since the world started.
    pub restarts: u32,
}

/// How a script ended, and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptEnd {
    /// Its name.
    pub name: String,
    /// Its script.
    pub script: ScriptId,
    /// Its version.
    pub version: Version,
    /// How.
    pub end: End,
    /// Whether it kept failing, and is left alone.
    pub parked: bool,
    /// Whether it comes back by itself.
    pub again: bool,
    /// Where it was, if its engine knows.
    pub trace: Option<Box<Trace>>,
}

/// A message or event that ended its script twice: it is not given to it a third time.
#[derive(Debug, Clone, PartialEq)]
pub struct SetAside {
    /// The script's name.
    pub script: String,
    /// The tick of the second time.
    pub tick: Tick,
    /// How the script ended.
    pub end: End,
    /// What it was.
    pub call: Call,
}

/// A script's part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptCheckpoint {
    /// Its name.
    pub name: String,
    /// Its number: what entities and calls in the engine's part refer to.
    pub instance: InstanceId,
    /// The version that saved it.
    pub version: Version,
    /// What it saved; `None`: it had nothing to save.
    pub state: Option<Vec<u8>>,
    /// Its randomness.
    pub random: Option<RandomState>,
    /// Whether it is to run.
    pub standing: Standing,
}

/// Whether a script of a checkpoint is to run when its world comes back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Standing {
    /// It ran, or was about to.
    #[default]
    Runs,
    /// An operator suspended it.
    Suspended,
    /// It kept failing. A version other than this one is another chance.
    Parked {
        /// How it failed.
        cause: String,
        /// The version that did.
        version: Version,
    },
    /// It was done. A version other than this one begins anew.
    Finished {
        /// How it ended.
        cause: String,
        /// The version that did.
        version: Version,
    },
}

impl Standing {
    /// The state to come back in, of a script whose version is this one now; `None`: it runs.
    pub(crate) fn rests_as(&self, now: Version) -> Option<ScriptState> {
        match self {
            Standing::Suspended => Some(ScriptState::Suspended),
            Standing::Parked { cause, version } if *version == now => Some(ScriptState::Parked { cause: cause.clone() }),
            Standing::Finished { cause, version } if *version == now => Some(ScriptState::Finished { cause: cause.clone() }),
            _ => None,
        }
    }
}

/// What an instance is built from. A world gives it out, whoever has time builds, and the world is lent the instance.
#[derive(Clone)]
pub struct BuildOrder {
    /// For which script.
    pub key: ScriptKey,
    /// Which of its lives: an instance of an earlier one is not taken.
    pub life: u32,
    /// Its code.
    pub module: Arc<ScriptModule>,
    /// What it may.
    pub spec: InstanceSpec,
    /// The world's account.
    pub memory: Arc<WorldMemory>,
}

impl BuildOrder {
    /// Build it. Its start function runs here, if it has one: microseconds as a rule, a bounded time at worst.
    pub fn build(&self) -> Result<ScriptInstance, InstanceError> {
        ScriptInstance::build(&self.module, &self.spec, &self.memory)
    }
}

/// What every turn touches. A world of ten thousand walks over all of them twenty times a second.
#[derive(Default)]
pub(crate) struct Hot {
    pub instance: Option<ScriptInstance>,
    pub id: InstanceId,
    /// The first call of a fresh instance: `on_start` or `restore_state`; or one that it is to try a second time.
    pub boot: Option<Box<Boot>>,
    /// It finishes the call that it is in, and takes nothing new.
    pub draining: bool,
    /// It has finished a call since somebody last wanted to know.
    pub completed: bool,
    pub fuel: u64,
    pub turns: u32,
    pub pauses: u32,
}

/// What a fresh instance does before anything else.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub first: Option<Call>,
    pub again: Option<Call>,
}

impl Boot {
    /// The next call, and whether it is the one that is tried again.
    pub fn next(boot: &mut Option<Box<Boot>>) -> Option<(Call, bool)> {
        let calls = boot.as_mut()?;
        let call = calls.first.take().map(|call| (call, false)).or_else(|| calls.again.take().map(|call| (call, true)));
        if boot.as_ref().is_some_and(|calls| calls.first.is_none() && calls.again.is_none()) {
            *boot = None;
        }
        call
    }
}

/// The rest of a script.
pub(crate) struct Slot {
    pub key: ScriptKey,
    pub id: InstanceId,
    /// Without its entity: that is the engine's.
    pub parts: ScriptParts,
    pub next: Next,
    pub life: u32,
    pub state: ScriptState,
    pub saved: Option<(Version, Vec<u8>)>,
    pub restarts: Restarts,
    pub deferrals_seen: u32,
    /// Actions refused by a rate limit, of all its instances so far.
    pub refused: [u32; 7],
    /// What ended it, and is tried once more.
    pub suspect: Option<Call>,
    /// The delivery number of the message that it is in the middle of, if that has one.
    pub in_hand: u64,
    /// It has had an instance.
    pub seated: bool,
}

/// What its next instance begins with, besides what its parts say. See [`InstanceSpec`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Next {
    pub random: Option<Box<RandomState>>,
    pub drained_at_ns: Option<u64>,
}

impl Slot {
    /// The first call of a fresh instance.
    pub fn boot(&self) -> Boot {
        let first = match &self.saved {
            Some((from, state)) => Call::Restore { from: *from, state: state.clone().into() },
            None => Call::Start,
        };
        Boot { first: Some(first), again: self.suspect.clone() }
    }
}

/// How a call outside of a tick went.
pub(crate) enum Bounded {
    Completed(Reply),
    /// The script is not there, not started yet, or in the middle of another call.
    NotNow,
    Failed(MeteringOutcome),
}

/// A call outside of a script's turn, with a bound of its own.
pub(crate) fn call_bounded(
    instance: Option<&mut ScriptInstance>,
    id: InstanceId,
    context: &mut Option<Box<WorldContext>>,
    call: Call,
    fuel: u64,
) -> Bounded {
    let Some(instance) = instance else { return Bounded::NotNow };
    if instance.is_paused() || instance.has_ended() {
        return Bounded::NotNow;
    }
    if let Some(context) = context {
        context.host.enter(id);
    }
    let mut step = instance.run(context, call, fuel);
    let mut used = step.fuel;
    while instance.is_paused() && used < fuel {
        step = instance.resume(context);
        used += step.fuel;
    }
    if step.outcome == MeteringOutcome::Completed { Bounded::Completed(step.reply) } else { Bounded::Failed(step.outcome) }
}
