//! The sandbox: compiles, checks, loads, meters and calls the scripts of game worlds.
//!
//! A script is a core wasm module with the imports and exports of `wit/aether.wit`. What it may touch and use is decided outside of
//! it ([`manifest`], [`policy`], [`rate`]); whatever it does comes back as a value ([`metering`]).
//!
//! Start with [`server_runtime`] for the whole pipeline, [`instance`] for one running copy, [`api`] to put your own engine behind it.
//! This is the only crate that names wasmtime, and [`native`](crate) (one function) the only place with `unsafe`.
//! Not here: when scripts run (`aether-world-runtime`), what the host functions do (`aether-engine`).
//!
//! A host's allowances are enforced around it:
//!
//! ```
//! use aether_scripting::{EntityApi, RateLimitedAction};
//! # use aether_scripting::{ActionLimiter, ActionRates, ApiError, HostGroups, Limited, NoEngine, PrefabId};
//! # let (mut script, mut world) = (ActionLimiter::new(&ActionRates { spawns: 1.0, ..Default::default() }), ActionLimiter::new(&ActionRates::world()));
//! # let mut engine = NoEngine;
//! # let mut entity_api = Limited { host: &mut engine, script: &mut script, world: &mut world, groups: HostGroups::ALL, now_ns: 0 };
//! # let prefab_id = PrefabId(0);
//! # let mut spawn = || -> Result<(), ApiError> {
//! // The runtime enforces rate limits transparently.
//! // Exceeding the cap returns an ActionRateLimited error.
//! let entity = entity_api.spawn_entity(prefab_id)?;
//! # let _ = entity;
//! # Ok(())
//! # };
//! # assert_eq!(spawn(), Err(ApiError::Unsupported)); // `NoEngine` has no entities, but the allowance is spent.
//! # let limited = spawn().unwrap_err();
//! # assert!(matches!(limited, ApiError::ActionRateLimited(e) if e.action == RateLimitedAction::Spawn));
//! ```

pub mod abi;
pub mod api;
pub mod artifact;
pub mod cache;
mod call;
pub mod client_runtime;
pub mod compile;
mod data;
mod fibre;
mod host;
pub mod hot_reload;
pub mod instance;
mod instrument;
mod limited;
pub mod limits;
pub mod manifest;
mod meter;
pub mod metering;
pub mod module;
mod native;
pub mod output;
mod patch;
pub mod policy;
pub mod profile;
pub mod rate;
pub mod registry;
pub mod sandbox;
pub mod server_runtime;
pub mod symbols;
pub mod trace;
mod wasi;

pub use aether_types::{Blame, Digest, ScriptId, Version};
pub use api::{
    ApiError, ApiResult, AudioApi, Body, Caller, EntityApi, EntityId, EntityState, EntityView, Host, HostStats, InstanceId,
    NetworkApi, NoEngine, PhysicsApi, PlayerId, PrefabId, RayHit, SoundParameters, StorageApi, UIApi, Vec3,
};
pub use artifact::{AotArtifact, ArtifactManifest, ManifestVerificationError, TrustKey};
pub use call::{Call, Event, Message, Reply};
pub use client_runtime::{ClientRuntime, ClientRuntimeConfig};
pub use data::{Counters, LogLine, WorldContext, WorldMemory};
pub use hot_reload::{HotReloadManager, ModuleSlot, ReloadOutcome};
pub use instance::{InstanceSpec, ScriptInstance};
pub use limited::{HostGroups, Limited};
pub use manifest::ScriptManifest;
pub use metering::{Budget, MeteringOutcome, TrapKind};
pub use module::ScriptModule;
pub use policy::{OnBudget, ServerResourcePolicy, SyscallCategory, SyscallPolicy};
pub use profile::{Profile, Recorder};
pub use rate::{ActionLimiter, ActionRateLimited, ActionRates, RateLimitScope, RateLimitedAction};
pub use registry::ArtifactRegistry;
pub use sandbox::AotTarget;
pub use server_runtime::{ExecutionReport, ServerRuntime, ServerRuntimeConfig};
pub use symbols::Symbols;
pub use trace::{Trace, TraceFrame};
