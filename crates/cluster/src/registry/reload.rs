//! A version is brought into all worlds of a node, or into none.
//!
//! 1. Prepare: in every world that runs the script the new version is rehearsed on a copy of the state. Nothing has changed yet.
//! 2. Swap: every world swaps at tick edges and watches the new version for a while.
//! 3. All say that it is well: it is written down as active, then the worlds let the old one go. One does not, or does not answer in
//!    time: all go back.
//!
//! Worlds take no checkpoints meanwhile, so a crash before step 3 ends with the old version and the old state, a crash after it with the
//! new one. Not here: one world's part (`aether_world_runtime`).

use crate::config::NodeSection;
use crate::events::NodeEvent;
use crate::node::Services;
use crate::registry::actor::Source;
use crate::registry::{LoadedScript, RegistryError};
use crate::status::WorldState;
use crate::world::actor::WorldMessage;
use crate::world::mailbox::{Control, Mailbox};
use aether_scripting::{ScriptId, Version};
use aether_types::{Digest, counted};
use aether_world_runtime::{Refusal, ReloadOrder, ReloadPhase, ReloadRule};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

/// How a reload went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    /// The script.
    pub script: ScriptId,
    /// The version that served before; `None`: no world has run the script yet.
    pub from: Option<Version>,
    /// The version that serves now.
    pub to: Version,
    /// Worlds in which it was swapped.
    pub worlds: usize,
    /// From the first rehearsal to the last swap, milliseconds.
    pub swap_ms: u64,
}

/// What publishing would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishPlan {
    /// The script.
    pub script: ScriptId,
    /// The version that serves now.
    pub from: Option<Version>,
    /// SHA-256 of the new wasm.
    pub source: Digest,
    /// Whether code and manifest are those that serve already.
    pub unchanged: bool,
    /// What the manifest would change, a line each.
    pub manifest_changes: Vec<String>,
    /// The worlds that would swap.
    pub worlds: Vec<PlannedWorld>,
}

/// A world's part of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedWorld {
    /// Its name.
    pub world: String,
    /// Whether it would be asked: it ticks.
    pub ticks: bool,
    /// Why the new version would be refused there; `None`: the rehearsal went well.
    pub refused: Option<String>,
    /// What it logged before it was refused, the newest line last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// A world answers at its next tick; a rehearsal takes milliseconds at most.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Worlds that ended say nothing: they are looked at this often.
const LOOK: Duration = Duration::from_millis(200);
/// Beyond the ticks that a reload takes.
const SLACK: Duration = Duration::from_secs(20);

/// The worlds of this node that run a script and tick, and those that do not.
pub(super) fn worlds_of(services: &Services, script: ScriptId) -> (Vec<(String, Arc<Mailbox>)>, Vec<String>) {
    let (mut ticking, mut others) = (Vec::new(), Vec::new());
    let mut specs: Vec<_> =
        services.config.world.iter().filter(|spec| services.registry.scripts_of(spec).contains(&script)).collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    for name in specs.into_iter().flat_map(|spec| spec.names()) {
        let Some(mailbox) = services.post.find(&name) else { continue };
        if matches!(mailbox.status().state, WorldState::Ticking | WorldState::Held) {
            ticking.push((name, mailbox));
        } else {
            others.push(name);
        }
    }
    (ticking, others)
}

async fn ask<R>(mailbox: &Mailbox, control: impl FnOnce(oneshot::Sender<R>) -> Control) -> Result<R, String> {
    let (send, receive) = oneshot::channel();
    mailbox.control(control(send));
    match tokio::time::timeout(ANSWER_TIME, receive).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err("it ended".to_owned()),
        Err(_) => Err("it did not answer in time".to_owned()),
    }
}

pub(super) fn order(services: &Services, script: ScriptId, loaded: &LoadedScript) -> ReloadOrder {
    let NodeSection { reload_watch_ticks: watch_ticks, reload_slower_max: slower_max, .. } = services.config.node;
    ReloadOrder {
        script,
        version: loaded.version,
        module: Arc::clone(&loaded.module),
        manifest: Arc::clone(&loaded.manifest),
        rule: ReloadRule { watch_ticks, slower_max, ..ReloadRule::default() },
    }
}

/// Rehearse in every world at once; the worlds that refuse, and why.
pub(super) async fn rehearse(
    services: &Arc<Services>,
    worlds: &[(String, Arc<Mailbox>)],
    order: &ReloadOrder,
) -> Vec<(String, Refusal)> {
    let tasks: Vec<_> = worlds
        .iter()
        .map(|(name, mailbox)| {
            let (services, mailbox, order) = (Arc::clone(services), Arc::clone(mailbox), Box::new(order.clone()));
            let task = tokio::spawn(async move {
                let rehearsal = ask(&mailbox, |reply| Control::Rehearsal { order, reply }).await?;
                match rehearsal {
                    Some(rehearsal) => {
                        let run = services.blocking(move || rehearsal.run()).await;
                        run.unwrap_or_else(|panic| Err(format!("panic: {panic}").into()))
                    }
                    // Nobody runs it there now.
                    None => Ok(()),
                }
            });
            (name, task)
        })
        .collect();
    let mut refused = Vec::new();
    for (name, task) in tasks {
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => refused.push((name.clone(), reason)),
            Err(error) => refused.push((name.clone(), error.to_string().into())),
        }
    }
    refused
}

/// What publishing would do, tried out as far as that changes nothing.
pub(crate) async fn plan(services: &Arc<Services>, source: Source) -> Result<PublishPlan, RegistryError> {
    let inner = Arc::clone(services);
    let checked = services.blocking(move || {
        let candidate = inner.registry.check(&source.manifest, &source.wasm)?;
        let module = inner.registry.try_out(&candidate)?;
        Ok::<_, RegistryError>((candidate, module))
    });
    let (candidate, module) = checked.await.unwrap_or(Err(RegistryError::Stopping))?;
    let script = candidate.manifest.name;
    let active = services.registry.active(script);
    let manifest_changes = active.as_ref().map_or_else(Vec::new, |active| changes(&active.manifest, &candidate.manifest));
    let unchanged = manifest_changes.is_empty() && active.as_ref().is_some_and(|a| a.module.source_digest() == candidate.digest);
    let next = active.as_ref().map_or(Version(1), |active| active.version.next());
    let loaded = LoadedScript { manifest: Arc::new(candidate.manifest), version: next, module };
    let (ticking, others) = worlds_of(services, script);
    let mut refused: HashMap<_, _> = rehearse(services, &ticking, &order(services, script, &loaded)).await.into_iter().collect();
    let mut worlds: Vec<_> = ticking
        .into_iter()
        .map(|(world, _)| match refused.remove(&world) {
            Some(Refusal { reason, log }) => PlannedWorld { world, ticks: true, refused: Some(reason), log },
            None => PlannedWorld { world, ticks: true, refused: None, log: Vec::new() },
        })
        .collect();
    worlds.extend(others.into_iter().map(|world| PlannedWorld { world, ticks: false, refused: None, log: Vec::new() }));
    Ok(PublishPlan {
        script,
        from: active.map(|active| active.version),
        source: candidate.digest,
        unchanged,
        manifest_changes,
        worlds,
    })
}

/// Fields of two manifests that differ.
fn changes(old: &aether_scripting::ScriptManifest, new: &aether_scripting::ScriptManifest) -> Vec<String> {
    let flat = |manifest| {
        let mut fields = Vec::new();
        if let Ok(value) = toml::Value::try_from(manifest) {
            flatten("", &value, &mut fields);
        }
        fields
    };
    let (mut old, new): (HashMap<_, _>, Vec<_>) = (flat(old).into_iter().collect(), flat(new));
    let mut changes = Vec::new();
    for (field, value) in new {
        match old.remove(&field) {
            Some(before) if before == value => {}
            before => changes.push(format!("{field}: {} becomes {value}", before.as_deref().unwrap_or("unset"))),
        }
    }
    changes.extend(old.into_iter().map(|(field, before)| format!("{field}: {before} becomes unset")));
    changes.sort();
    changes
}

fn flatten(at: &str, value: &toml::Value, fields: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let field = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                flatten(&field, value, fields);
            }
        }
        value => fields.push((at.to_owned(), value.to_string())),
    }
}

/// Bring a loaded version into the worlds.
pub(crate) async fn run(services: &Arc<Services>, script: ScriptId, loaded: LoadedScript) -> Result<ReloadReport, RegistryError> {
    let begun = Instant::now();
    let version = loaded.version;
    let from = services.registry.active(script).map(|active| active.version);
    let (worlds, _) = worlds_of(services, script);
    let tell = |text: String, failed| services.events.push(NodeEvent::Reload { script: script.to_string(), text, failed });
    let order = order(services, script, &loaded);
    let refused =
        rehearse(services, &worlds, &order).instrument(tracing::info_span!("reload.prepare", worlds = worlds.len())).await;
    if let Some((world, Refusal { reason, log })) = refused.into_iter().next() {
        let reason = format!("rehearsal in world {world}: {reason}");
        tell(format!("version {version} rolled back: {reason}"), true);
        return Err(RegistryError::RolledBack { script, version, reason, log });
    }
    match swap(services, &worlds, &order).instrument(tracing::info_span!("reload.activate", worlds = worlds.len())).await {
        Ok(swap_ms) => {
            // Written down before anybody lets the old one go.
            let (inner, active) = (Arc::clone(services), loaded.clone());
            let written = services.blocking(move || inner.registry.activate(script, active)).await;
            if let Err(error) = written.unwrap_or(Err(RegistryError::Stopping)) {
                end(&worlds, script, version, Some(format!("it could not be written down: {error}"))).await;
                return Err(error);
            }
            end(&worlds, script, version, None).await;
            catch_up(services, script, version, &worlds);
            tell(format!("version {version} serves in {}", counted(worlds.len(), "world")), false);
            let swap_ms = swap_ms.unwrap_or(begun.elapsed()).as_millis() as u64;
            Ok(ReloadReport { script, from, to: version, worlds: worlds.len(), swap_ms })
        }
        Err(reason) => {
            end(&worlds, script, version, Some(reason.clone())).await;
            tell(format!("version {version} rolled back: {reason}"), true);
            Err(RegistryError::RolledBack { script, version, reason, log: Vec::new() })
        }
    }
}

/// Worlds that began to tick while the version was tried out in the others, and those that had no version of the script at all, read
/// themselves again.
pub(super) fn catch_up(services: &Services, script: ScriptId, version: Version, done: &[(String, Arc<Mailbox>)]) {
    for (name, mailbox) in worlds_of(services, script).0 {
        let late = !done.iter().any(|(other, _)| *other == name);
        let lacks = mailbox.status().scripts.iter().any(|status| status.script == script && status.version == Version(0));
        if let Some(actor) = mailbox.actor().filter(|_| late || lacks) {
            tracing::info!(world = name, %script, %version, "reads itself again for the new version");
            let _ = actor.cast(WorldMessage::Reread);
        }
    }
}

/// Swap everywhere and watch. Gives when the last world had swapped.
pub(super) async fn swap(
    services: &Services,
    worlds: &[(String, Arc<Mailbox>)],
    order: &ReloadOrder,
) -> Result<Option<Duration>, String> {
    let begun = Instant::now();
    // Bounded by the number of phases of the worlds.
    let (send, mut phases) = mpsc::unbounded_channel();
    let lives: Vec<_> = worlds.iter().map(|(_, mailbox)| mailbox.life()).collect();
    let asked: Vec<_> = worlds
        .iter()
        .map(|(name, mailbox)| {
            let (name, mailbox, order, send) = (name.clone(), Arc::clone(mailbox), order.clone(), send.clone());
            tokio::spawn(async move {
                let actor = mailbox.actor().ok_or_else(|| format!("world {name} ended"))?;
                let _ = actor.cast(WorldMessage::ReloadListener(send));
                let version = order.version;
                let begun = ask(&mailbox, |reply| Control::BeginReload { order: Box::new(order), reply }).await;
                let orders = begun.and_then(|begun| begun).map_err(|error| format!("world {name}: {error}"))?;
                let _ = actor.cast(WorldMessage::BuildReload(version, orders));
                Ok::<_, String>(())
            })
        })
        .collect();
    drop(send);
    // All of them, before anything else is asked: who is told to go back must have begun.
    let mut failed = None;
    for asked in asked {
        if let Err(reason) = asked.await.unwrap_or_else(|error| Err(error.to_string())) {
            failed.get_or_insert(reason);
        }
    }
    if let Some(reason) = failed {
        return Err(reason);
    }
    // One that ended, whatever it had said before, runs the old version when it is back.
    let ended = || {
        let gone = worlds.iter().zip(&lives).find(|((_, mailbox), life)| mailbox.life() != **life);
        gone.map_or(Ok(()), |((name, _), _)| Err(format!("world {name} ended")))
    };
    let slowest = worlds
        .iter()
        .filter_map(|(name, _)| services.config.world.iter().find(|spec| spec.names().contains(name)))
        .map(|spec| spec.limits(&services.config.limits).tick_hz)
        .fold(240.0, f64::min);
    let ticks = order.rule.drain_ticks + order.rule.watch_ticks;
    let deadline = tokio::time::Instant::now() + SLACK + Duration::from_secs_f64(2.0 * f64::from(ticks) / slowest);
    let mut swapped = None;
    let mut far: HashMap<&str, ReloadPhase> = HashMap::new();
    loop {
        let held = |(name, _): &(String, Arc<Mailbox>)| far.get(name.as_str()) == Some(&ReloadPhase::Held);
        ended()?;
        if worlds.iter().all(held) {
            return Ok(swapped);
        }
        let look = deadline.min(tokio::time::Instant::now() + LOOK);
        let next = tokio::time::timeout_at(look, phases.recv()).await;
        if next.is_err() && tokio::time::Instant::now() < deadline {
            continue;
        }
        let Ok(Some((world, version, phase))) = next else {
            let late: Vec<_> = worlds.iter().filter(|world| !held(world)).map(|(name, _)| name.as_str()).collect();
            return Err(format!("world {} did not say that it is done in time", late.join(", ")));
        };
        if version != order.version {
            continue;
        }
        if let ReloadPhase::RolledBack { reason } = phase {
            return Err(format!("world {world}: {reason}"));
        }
        if let Some((name, _)) = worlds.iter().find(|(name, _)| *name == world) {
            far.insert(name, phase);
        }
        let has_swapped = |(name, _): &(String, Arc<Mailbox>)| {
            matches!(far.get(name.as_str()), Some(ReloadPhase::Watching { .. } | ReloadPhase::Held))
        };
        if swapped.is_none() && worlds.iter().all(has_swapped) {
            swapped = Some(begun.elapsed());
            services.events.push(NodeEvent::Live {
                script: order.script.to_string(),
                version: order.version,
                worlds: worlds.len(),
                swap_ms: begun.elapsed().as_millis() as u64,
            });
        }
    }
}

/// Whoever coordinated it is gone: every world goes back.
pub(crate) async fn abandon(services: &Services, script: ScriptId, version: Version) {
    end(&worlds_of(services, script).0, script, version, Some("the reload was abandoned".to_owned())).await;
}

pub(super) async fn end(worlds: &[(String, Arc<Mailbox>)], script: ScriptId, version: Version, rollback: Option<String>) {
    let asked: Vec<_> = worlds
        .iter()
        .map(|(_, mailbox)| {
            let (mailbox, rollback) = (Arc::clone(mailbox), rollback.clone());
            tokio::spawn(async move { ask(&mailbox, |reply| Control::EndReload { script, version, rollback, reply }).await })
        })
        .collect();
    for asked in asked {
        // One that ended meanwhile reads the active version when it comes back.
        let _ = asked.await;
    }
}
