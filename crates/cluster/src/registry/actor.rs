//! The registry's actor: it publishes, pins and collects, one thing at a time, and begins reloads, which go on by themselves.
//!
//! Compiling and the store are not waited for on the control threads. Not here: what is read of the registry without asking (`mod.rs`).

use crate::node::Services;
use crate::registry::cluster;
use crate::registry::reload::{self, PublishPlan, ReloadReport};
use crate::registry::{LoadedScript, RegistryError};
use crate::status::count;
use aether_scripting::{ScriptId, Version};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use tokio::sync::oneshot;
use tracing::Instrument;

/// How a publication ended.
pub(crate) type Published = Result<ReloadReport, RegistryError>;

/// A manifest and a module, as an author gives them.
#[derive(Debug, Clone)]
pub struct Source {
    /// The text of `script.toml`.
    pub manifest: String,
    /// The module, binary or text.
    pub wasm: Vec<u8>,
}

/// What the registry's actor is told.
#[derive(ractor_cluster::RactorMessage)]
pub(crate) enum RegistryMessage {
    /// Make it the next version, and bring it into the worlds.
    Publish { source: Source, canary: Option<usize>, reply: oneshot::Sender<Published> },
    /// Say what publishing would do.
    Plan(Source, oneshot::Sender<Result<PublishPlan, RegistryError>>),
    /// Bring another version into the worlds: this one, or the one before.
    Activate(ScriptId, Option<Version>, oneshot::Sender<Published>),
    /// A reload is over.
    Over,
    /// Keep a version, or no longer.
    Pin(ScriptId, Version, bool, oneshot::Sender<Result<(), RegistryError>>),
    /// Remove what nothing refers to.
    Collect(oneshot::Sender<Result<(usize, usize), RegistryError>>),
}

pub(crate) struct RegistryActor;

pub(crate) struct RegistryState {
    services: Arc<Services>,
    /// The script that is being reloaded: one at a time, a world can only be in one reload.
    reloading: Option<ScriptId>,
}

impl Actor for RegistryActor {
    type Msg = RegistryMessage;
    type State = RegistryState;
    type Arguments = Arc<Services>;

    async fn pre_start(
        &self,
        _: ActorRef<RegistryMessage>,
        services: Arc<Services>,
    ) -> Result<RegistryState, ActorProcessingErr> {
        Ok(RegistryState { services, reloading: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<RegistryMessage>,
        message: RegistryMessage,
        state: &mut RegistryState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistryMessage::Publish { source, canary, reply } => {
                let services = Arc::clone(&state.services);
                // From the check of what came to the end of its reload.
                let span = tracing::info_span!("publish", script = tracing::field::Empty, version = tracing::field::Empty);
                let inner = span.clone();
                let added = off_control(&state.services, move || {
                    let _entered = inner.entered();
                    let _check = tracing::info_span!("publish.check", bytes = source.wasm.len()).entered();
                    let candidate = services.registry.check(&source.manifest, &source.wasm)?;
                    let script = candidate.manifest.name;
                    Ok((script, services.registry.add(&candidate)?.1))
                });
                match added.await {
                    Ok((script, loaded)) => {
                        span.record("script", tracing::field::display(script));
                        span.record("version", loaded.version.0);
                        state.begin(&myself, script, loaded, Begin { fresh: true, canary, span }, reply);
                    }
                    Err(error) => answer(reply, Err(error)),
                }
            }
            RegistryMessage::Plan(source, reply) => {
                let services = Arc::clone(&state.services);
                // Nothing is changed, so nobody has to wait for it.
                tokio::spawn(async move { answer(reply, reload::plan(&services, source).await) });
            }
            RegistryMessage::Activate(script, version, reply) => {
                let services = Arc::clone(&state.services);
                let found = off_control(&state.services, move || {
                    let version = version.map_or_else(|| services.registry.before_active(script), Ok)?;
                    services.registry.find(script, version)
                });
                match found.await {
                    Ok(loaded) => {
                        let span = tracing::info_span!("rollback", %script, version = loaded.version.0);
                        state.begin(&myself, script, loaded, Begin { fresh: false, canary: None, span }, reply);
                    }
                    Err(error) => answer(reply, Err(error)),
                }
            }
            RegistryMessage::Over => state.reloading = None,
            RegistryMessage::Pin(script, version, pinned, reply) => {
                let services = Arc::clone(&state.services);
                answer(reply, off_control(&state.services, move || services.registry.pin(script, version, pinned)).await);
            }
            RegistryMessage::Collect(reply) => {
                let services = Arc::clone(&state.services);
                // A version that is being tried out is not active yet.
                let quiet = state.reloading.is_none();
                let collected =
                    off_control(&state.services, move || if quiet { services.registry.collect() } else { Ok((0, 0)) });
                answer(reply, collected.await);
            }
        }
        Ok(())
    }
}

/// How a reload begins.
struct Begin {
    /// The version has never served, and is forgotten if it does not now.
    fresh: bool,
    /// So many worlds first.
    canary: Option<usize>,
    /// What it is a part of.
    span: tracing::Span,
}

impl RegistryState {
    fn begin(
        &mut self,
        myself: &ActorRef<RegistryMessage>,
        script: ScriptId,
        loaded: LoadedScript,
        Begin { fresh, canary, span }: Begin,
        reply: oneshot::Sender<Published>,
    ) {
        if let Some(busy) = self.reloading {
            if fresh {
                self.services.registry.forget(script, loaded.version);
            }
            return answer(reply, Err(RegistryError::Busy(busy)));
        }
        self.reloading = Some(script);
        let (services, actor) = (Arc::clone(&self.services), myself.clone());
        tokio::spawn(async move {
            let version = loaded.version;
            let inner = Arc::clone(&services);
            let reloaded = async move {
                match inner.member() {
                    Some(member) => cluster::run(&member, &inner, script, &loaded, canary).await,
                    None => reload::run(&inner, script, loaded).await,
                }
            };
            let reload = tracing::info_span!(parent: &span, "reload", %script, version = version.0);
            let outcome = tokio::spawn(reloaded.instrument(reload)).await;
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    // A mistake of ours must not leave worlds waiting for us.
                    tracing::error!(%error, "a reload panicked");
                    reload::abandon(&services, script, version).await;
                    Err(RegistryError::RolledBack { script, version, reason: error.to_string(), log: Vec::new() })
                }
            };
            if outcome.is_err() && fresh && !matches!(outcome, Err(RegistryError::InDoubt { .. })) {
                services.registry.forget(script, version);
            }
            match &outcome {
                Ok(_) => count(&services.counting.reloads_served),
                Err(RegistryError::RolledBack { .. }) => count(&services.counting.reloads_rolled_back),
                Err(_) => {}
            }
            let _ = actor.cast(RegistryMessage::Over);
            answer(reply, outcome);
        });
    }
}

async fn off_control<R: Send + 'static>(
    services: &Arc<Services>,
    f: impl FnOnce() -> Result<R, RegistryError> + Send + 'static,
) -> Result<R, RegistryError> {
    match services.blocking(f).await {
        Ok(result) => result,
        Err(panic) => {
            tracing::error!(panic, "the registry panicked");
            Err(RegistryError::Stopping)
        }
    }
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
