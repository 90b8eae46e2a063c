//! The actor of a script that is to be built: it builds its instance, off the tick path, and its world is lent it.
//!
//! It lives while it builds. One that waited for the next order would cost ten KiB, more than its instance, and a script is in order for
//! nearly all of its time. Building may run a script's start function, so it is done on threads that may block, as many at a time as there are
//! permits. Not here: when to build (the world says), running (the tick threads).

use crate::ticker::panic_text;
use crate::world::actor::WorldMessage;
use aether_scripting::ScriptInstance;
use aether_scripting::instance::InstanceError;
use aether_types::Version;
use aether_world_runtime::{BuildOrder, ScriptKey};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// What an actor builds.
pub(crate) struct Build {
    /// The world's life that it was ordered in.
    pub world_life: u64,
    pub purpose: Purpose,
    pub order: BuildOrder,
}

/// What a script actor is told.
#[derive(ractor_cluster::RactorMessage)]
pub(crate) enum ScriptMessage {
    Build(Arc<Build>),
}

/// An instance, or why there is none.
pub(crate) struct Built {
    pub key: ScriptKey,
    pub life: u32,
    pub result: Result<ScriptInstance, InstanceError>,
}

pub(crate) struct ScriptActor;

pub(crate) struct ScriptArguments {
    pub world: ActorRef<WorldMessage>,
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
        myself: ActorRef<ScriptMessage>,
        message: ScriptMessage,
        state: &mut ScriptArguments,
    ) -> Result<(), ActorProcessingErr> {
        let ScriptMessage::Build(what) = message;
        let permit = Arc::clone(&state.builders).acquire_owned().await?;
        let ordered = Arc::clone(&what);
        let building = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            build(&ordered.order)
        });
        let built = building.await.unwrap_or_else(|error| unbuilt(&what.order, error.to_string()));
        state.world.cast(WorldMessage::Built { by: myself.get_id(), what, built })?;
        Ok(())
    }
}

fn build(order: &BuildOrder) -> Built {
    // A panic in host code while one is built: that script cannot be started, whoever is to blame.
    match catch_unwind(AssertUnwindSafe(|| order.build())) {
        Ok(result) => Built { key: order.key, life: order.life, result },
        Err(panic) => unbuilt(order, format!("panic: {}", panic_text(&*panic))),
    }
}

fn unbuilt(order: &BuildOrder, why: String) -> Built {
    Built { key: order.key, life: order.life, result: Err(InstanceError::Engine(why)) }
}
