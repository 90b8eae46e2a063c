//! The actor of one script: it builds instances, off the tick path, and its world is lent them.
//!
//! Building may run the script's start function, so it is done on threads that may block, as many at a time as there are permits.
//! Not here: when to build (the world says), running (the tick threads).

use crate::world::actor::WorldMessage;
use aether_scripting::ScriptInstance;
use aether_scripting::instance::InstanceError;
use aether_types::Version;
use aether_world_runtime::{BuildOrder, ScriptKey};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its world wants it.
    Run,
    /// It is to take the place of one of an older version.
    Reload(Version),
}

/// What a script actor is told.
#[derive(ractor_cluster::RactorMessage)]
pub(crate) enum ScriptMessage {
    Build(BuildOrder, Purpose),
}

/// An instance, or why there is none.
pub(crate) struct Built {
    /// The world's life that it was ordered in.
    pub world_life: u64,
    pub key: ScriptKey,
    pub life: u32,
    pub purpose: Purpose,
    pub result: Result<ScriptInstance, InstanceError>,
}

pub(crate) struct ScriptActor;

pub(crate) struct ScriptArguments {
    pub world: ActorRef<WorldMessage>,
    pub world_life: u64,
    pub builders: Arc<Semaphore>,
}

impl Actor for ScriptActor {
    type Msg = ScriptMessage;
    type State = ScriptArguments;
    type Arguments = ScriptArguments;

    async fn pre_start(
        &self,
        _: ActorRef<ScriptMessage>,
        arguments: ScriptArguments,
    ) -> Result<ScriptArguments, ActorProcessingErr> {
        Ok(arguments)
    }

    async fn handle(
        &self,
        _: ActorRef<ScriptMessage>,
        message: ScriptMessage,
        state: &mut ScriptArguments,
    ) -> Result<(), ActorProcessingErr> {
        let ScriptMessage::Build(order, purpose) = message;
        let (key, life) = (order.key, order.life);
        let permit = Arc::clone(&state.builders).acquire_owned().await?;
        let building = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            order.build()
        });
        // A panic in host code while it was built: the script cannot be started, whoever is to blame.
        let result = building.await.unwrap_or_else(|error| Err(InstanceError::Engine(error.to_string())));
        state.world.cast(WorldMessage::Built(Built { world_life: state.world_life, key, life, purpose, result }))?;
        Ok(())
    }
}
