//! A version is brought into all worlds of a cluster, or into none.
//!
//! Start with [`run`], the coordinator: the intent is written down, every node prepares (loads and rehearses), then every node activates
//! (its worlds swap and watch), then the directory says in one transaction that the version serves, and the nodes let the old one go.
//! Whatever fails before that ends with the old version everywhere. A node that has activated and hears no more reads in the directory how
//! it ended ([`finish_orphans`]); a coordinator that died has not committed, and its reload is aborted by whoever sees that first.
//! Not here: one node's worlds (`reload`), links (`membership`).

use crate::events::NodeEvent;
use crate::membership::Member;
use crate::membership::wire::{Answer, Ask};
use crate::node::Services;
use crate::registry::actor::Published;
use crate::registry::reload::{self, ReloadReport};
use crate::registry::{LoadedScript, RegistryError};
use crate::world::mailbox::Mailbox;
use aether_scripting::{ScriptId, Version};
use aether_store::{NodeId, NodeRow, ReloadPhase, StoreError};
use aether_types::{Digest, counted};
use aether_world_runtime::Refusal;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// Loading may compile.
const PREPARE_TIME: Duration = Duration::from_secs(60);
/// Swapping and watching take some ticks of every world.
const ACTIVATE_TIME: Duration = Duration::from_secs(120);
const PART_TIME: Duration = Duration::from_secs(5);
/// Native code of the largest module that may be compiled.
const ARTIFACT_MAX: u64 = 64 << 20;
/// After a failure, to learn how it is written down.
const SETTLE_TIME: Duration = Duration::from_secs(60);
const END_TIME: Duration = Duration::from_secs(15);
/// A world in which a version is tried out moves when that is over, but waits no longer than this from its begin: then it goes, and the
/// reload is rolled back. Longer than the ticks for which a version is watched take at 2 Hz.
const MOVES_WAIT: Duration = Duration::from_secs(40);
/// Between two attempts to learn whether the directory took the last step.
const DOUBT: Duration = Duration::from_millis(200);

/// A node's part in a reload that has not ended.
pub(crate) struct Holding {
    loaded: LoadedScript,
    /// With the life that swapped.
    worlds: Vec<(String, Arc<Mailbox>, u64)>,
    since: Instant,
}

impl Holding {
    /// Whether a world that is to move waits for the end of this.
    pub fn keeps(&self, world: &str) -> bool {
        self.since.elapsed() < MOVES_WAIT && self.worlds.iter().any(|(name, ..)| name == world)
    }
}

/// The worlds here that run a script and are not about to leave: those read the version that serves where they come to.
fn worlds_of(member: &Member, services: &Services, script: ScriptId) -> Vec<(String, Arc<Mailbox>)> {
    let mut worlds = reload::worlds_of(services, script).0;
    worlds.retain(|(name, _)| !member.is_releasing(name));
    worlds
}

/// One node's part: load a version and rehearse it in its worlds. Gives how many would swap.
pub(crate) async fn prepare(
    member: &Member,
    services: &Arc<Services>,
    script: ScriptId,
    version: Version,
) -> Result<usize, Refusal> {
    let loaded = load(member, services, script, version).await?;
    let worlds = worlds_of(member, services, script);
    let refused = reload::rehearse(services, &worlds, &reload::order(services, script, &loaded)).await;
    match refused.into_iter().next() {
        Some((world, Refusal { reason, log })) => Err(Refusal { reason: format!("rehearsal in world {world}: {reason}"), log }),
        None => Ok(worlds.len()),
    }
}

/// A version, with native code that another node has compiled if there is any: its signature says that it was one of ours.
async fn load(member: &Member, services: &Arc<Services>, script: ScriptId, version: Version) -> Result<LoadedScript, String> {
    let inner = Arc::clone(services);
    let lacks = services.blocking(move || inner.registry.lacks(script, version)).await?.map_err(|error| error.to_string())?;
    if let Some((source, memory_mb)) = lacks
        && let Some(bytes) = fetch(member, source, memory_mb).await
    {
        let inner = Arc::clone(services);
        let imported = services.blocking(move || inner.registry.import(source, memory_mb, &bytes)).await?;
        match imported {
            Ok(()) => tracing::info!(%script, %version, "native code from another node"),
            Err(error) => tracing::warn!(%script, %version, %error, "native code of another node is not used"),
        }
    }
    let inner = Arc::clone(services);
    let found = services.blocking(move || inner.registry.find(script, version)).await;
    found?.map_err(|error| error.to_string())
}

/// Native code of a source from the first node that has it, part by part. `None`: it is compiled here.
async fn fetch(member: &Member, source: Digest, memory_mb: u64) -> Option<Vec<u8>> {
    for peer in member.linked_peers() {
        let mut whole = Vec::new();
        loop {
            let ask = Ask::Artifact { source, memory_mb, offset: whole.len() as u64 };
            let Ok(Answer::Part { total, bytes }) = member.ask(&peer, ask, PART_TIME).await else { break };
            if bytes.is_empty() || total > ARTIFACT_MAX {
                break;
            }
            whole.extend(bytes);
            if whole.len() as u64 >= total {
                return Some(whole);
            }
        }
    }
    None
}

/// One node's part: swap in its worlds, those of them that are named if any are, and watch. Gives how many did.
pub(crate) async fn activate(
    member: &Member,
    services: &Arc<Services>,
    reload: u64,
    script: ScriptId,
    version: Version,
    named: Option<&[String]>,
) -> Result<(usize, u64), String> {
    let begun = Instant::now();
    let loaded = load(member, services, script, version).await?;
    let held: Vec<_> = member.with_holding(|all| all.get(&reload).map(|holding| holding.worlds.clone()).unwrap_or_default());
    if let Some((name, ..)) = held.iter().find(|(_, mailbox, life)| mailbox.life() != *life) {
        return Err(format!("world {name} ended while the version was tried out in it"));
    }
    let held: Vec<String> = held.into_iter().map(|(name, ..)| name).collect();
    let wanted = |(name, _): &(String, Arc<Mailbox>)| named.is_none_or(|named| named.contains(name)) && !held.contains(name);
    let worlds: Vec<_> = worlds_of(member, services, script).into_iter().filter(wanted).collect();
    // Before they begin: whatever becomes of us, they must be told how it ended.
    member.with_holding(|all| {
        let holding = Holding { loaded: loaded.clone(), worlds: Vec::new(), since: Instant::now() };
        let with_life = |(name, mailbox): &(String, Arc<Mailbox>)| (name.clone(), Arc::clone(mailbox), mailbox.life());
        all.entry(reload).or_insert(holding).worlds.extend(worlds.iter().map(with_life));
    });
    let swapped = reload::swap(services, &worlds, &reload::order(services, script, &loaded)).await?;
    Ok((worlds.len(), swapped.unwrap_or(begun.elapsed()).as_millis() as u64))
}

/// One node's part: keep the version, or go back. Gives how many worlds were told.
pub(crate) async fn end(
    member: &Member,
    services: &Arc<Services>,
    reload: u64,
    script: ScriptId,
    version: Version,
    rollback: Option<String>,
) -> Result<usize, String> {
    let holding = member.with_holding(|all| all.remove(&reload));
    let worlds = holding.as_ref().map(|holding| holding.worlds.clone()).unwrap_or_default();
    // One that has ended since has read the old version, and reads again.
    let lives = worlds.iter().filter(|(_, mailbox, life)| mailbox.life() == *life);
    let worlds: Vec<_> = lives.map(|(name, mailbox, _)| (name.clone(), Arc::clone(mailbox))).collect();
    if rollback.is_none() {
        let loaded = match holding {
            Some(Holding { loaded, .. }) => loaded,
            None => load(member, services, script, version).await?,
        };
        services.registry.serve(script, loaded);
    }
    let (kept, count) = (rollback.is_none(), worlds.len());
    reload::end(&worlds, script, version, rollback).await;
    if kept {
        reload::catch_up(services, script, version, &worlds);
    }
    // Who waited for this to move.
    member.look();
    Ok(count)
}

/// Bring a loaded version into the worlds of all nodes. `canary`: so many worlds first, the others when these are well.
pub(crate) async fn run(
    member: &Arc<Member>,
    services: &Arc<Services>,
    script: ScriptId,
    loaded: &LoadedScript,
    canary: Option<usize>,
) -> Published {
    member.coordinating.store(true, Ordering::Release);
    let outcome = coordinate(member, services, script, loaded, canary).await;
    member.coordinating.store(false, Ordering::Release);
    outcome
}

async fn coordinate(
    member: &Arc<Member>,
    services: &Arc<Services>,
    script: ScriptId,
    loaded: &LoadedScript,
    canary: Option<usize>,
) -> Published {
    let (begun, version) = (Instant::now(), loaded.version);
    let from = services.registry.active(script).map(|active| active.version);
    let Some(me) = member.my_id() else { return Err(RegistryError::Stopping) };
    let directory = Arc::clone(member.directory());
    let id = on_store(services, move || directory.begin_reload(&me, script, version)).await?;
    let Some(id) = id else { return Err(RegistryError::Busy(script)) };
    let tell = |text: String, failed| services.events.push(NodeEvent::Reload { script: script.to_string(), text, failed });
    let members = member.members();
    tell(format!("version {version} is prepared on {}", counted(members.len(), "node")), false);

    let mut phase = ReloadPhase::Prepare;
    let outcome = async {
        all(member, &members, &Ask::Prepare { script, version }, PREPARE_TIME).await?;
        advance(member, services, id, phase, ReloadPhase::Activate, "").instrument(tracing::info_span!("reload.intent")).await?;
        phase = ReloadPhase::Activate;
        let mut worlds = 0;
        if let Some(count) = canary {
            let chosen = canaries(services, member, script, count);
            tell(format!("version {version} is tried out in {}", chosen.join(", ")), false);
            let ask = Ask::Activate { reload: id, script, version, worlds: Some(chosen) };
            worlds += all(member, &members, &ask, ACTIVATE_TIME).await?.0;
        }
        let before = begun.elapsed().as_millis() as u64;
        let ask = Ask::Activate { reload: id, script, version, worlds: None };
        let (more, swap_ms) = all(member, &members, &ask, ACTIVATE_TIME).await?;
        worlds += more;
        let swapped = before + swap_ms;
        advance(member, services, id, phase, ReloadPhase::Committed, "").instrument(tracing::info_span!("reload.commit")).await?;
        Ok::<_, Refusal>((worlds, swapped))
    };
    let outcome = outcome.await;
    let settled = match &outcome {
        Ok(_) => Some(ReloadPhase::Committed),
        Err(refusal) => settle(member, services, id, &refusal.reason).await,
    };
    match (outcome, settled) {
        (outcome, Some(ReloadPhase::Committed)) => {
            // Who does not hear it reads it.
            let ended = all(member, &members, &Ask::End { reload: id, script, version, rollback: None }, END_TIME).await;
            let (worlds, swap_ms) = outcome.unwrap_or((ended.unwrap_or_default().0, begun.elapsed().as_millis() as u64));
            let (on, members) = (counted(worlds, "world"), counted(members.len(), "node"));
            tell(format!("version {version} serves in {on} on {members}"), false);
            Ok(ReloadReport { script, from, to: version, worlds, swap_ms })
        }
        // Nobody is told anything: what is written decides, when it can be read.
        (_, None) => Err(RegistryError::InDoubt { script, version }),
        (outcome, Some(_)) => {
            let Refusal { reason, log } = outcome.err().unwrap_or_default();
            let ask = Ask::End { reload: id, script, version, rollback: Some(reason.clone()) };
            let _ = all(member, &members, &ask, END_TIME).await;
            tell(format!("version {version} rolled back: {reason}"), true);
            Err(RegistryError::RolledBack { script, version, reason, log })
        }
    }
}

/// The worlds that try it first: of each node's in turn, by name.
fn canaries(services: &Services, member: &Member, script: ScriptId, count: usize) -> Vec<String> {
    let runs = |name: &String| {
        let spec = services.config.world.iter().find(|spec| spec.names().contains(name));
        spec.is_some_and(|spec| services.registry.scripts_of(spec).contains(&script))
    };
    let mut by_node: HashMap<String, Vec<String>> = HashMap::new();
    for world in member.status().worlds {
        if let Some(owner) = world.owner.filter(|_| runs(&world.name)) {
            by_node.entry(owner).or_default().push(world.name);
        }
    }
    let mut nodes: Vec<_> = by_node.into_iter().collect();
    nodes.sort();
    let mut chosen = Vec::new();
    for turn in 0..count {
        for (_, worlds) in &nodes {
            if chosen.len() < count {
                chosen.extend(worlds.get(turn).cloned());
            }
        }
    }
    chosen
}

/// Ask all nodes at once. The first that refuses or is not heard decides, unless it died meanwhile: its worlds are read by others.
async fn all(member: &Arc<Member>, members: &[NodeRow], ask: &Ask, time: Duration) -> Result<(usize, u64), Refusal> {
    let mut answers = Vec::new();
    for row in members {
        let mine = member.is_me(row);
        let (member, ask, name, id) = (Arc::clone(member), ask.clone(), row.info.name.clone(), row.id.clone());
        let asked = async move {
            if mine { Ok(member.answer(ask, None).await) } else { ask_living(&member, &name, &id, ask, time).await }
        };
        answers.push(tokio::spawn(asked.in_current_span()));
    }
    let (mut worlds, mut swap_ms, mut failed) = (0, 0, None::<Refusal>);
    for (row, answer) in members.iter().zip(answers) {
        match answer.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(Answer::Done { worlds: done, swap_ms: took }) => {
                worlds += done as usize;
                swap_ms = swap_ms.max(took);
            }
            Ok(Answer::Refused(reason)) => {
                failed.get_or_insert(format!("node {}: {reason}", row.info.name).into());
            }
            Ok(Answer::RefusedWith(Refusal { reason, log })) => {
                failed.get_or_insert(Refusal { reason: format!("node {}: {reason}", row.info.name), log });
            }
            Ok(Answer::Part { .. }) => {
                failed.get_or_insert(format!("node {} answered another question", row.info.name).into());
            }
            Err(_) if member.is_dead(&row.id) => {}
            Err(error) => {
                failed.get_or_insert(format!("node {}: {error}", row.info.name).into());
            }
        }
    }
    failed.map_or(Ok((worlds, swap_ms)), Err)
}

/// Who is dead answers no more: that is not waited for.
async fn ask_living(member: &Arc<Member>, name: &str, id: &NodeId, ask: Ask, time: Duration) -> Result<Answer, String> {
    let answer = member.ask(name, ask, time);
    tokio::pin!(answer);
    loop {
        match tokio::time::timeout(DOUBT, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) if member.is_dead(id) => return Err("it died".to_owned()),
            Err(_) => {}
        }
    }
}

async fn on_store<R: Send + 'static>(
    services: &Services,
    f: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, RegistryError> {
    match services.blocking(f).await {
        Ok(result) => Ok(result?),
        Err(panic) => {
            tracing::error!(panic, "the registry panicked");
            Err(RegistryError::Stopping)
        }
    }
}

/// One step in the directory. If it is not known whether it was taken, look until it is: the others act on what is written there.
async fn advance(
    member: &Arc<Member>,
    services: &Services,
    id: u64,
    from: ReloadPhase,
    to: ReloadPhase,
    reason: &str,
) -> Result<(), String> {
    let (directory, text) = (Arc::clone(member.directory()), reason.to_owned());
    match on_store(services, move || directory.advance_reload(id, from, to, &text)).await {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "not known whether a reload's step was written down"),
    }
    let deadline = Instant::now() + END_TIME;
    loop {
        let directory = Arc::clone(member.directory());
        match on_store(services, move || directory.reload(id)).await {
            Ok(Some(row)) if row.phase == to => return Ok(()),
            Ok(Some(row)) if row.phase != from => return Err(format!("it was ended by another node: {}", row.reason)),
            Ok(Some(_)) => {
                let (directory, text) = (Arc::clone(member.directory()), reason.to_owned());
                if let Ok(true) = on_store(services, move || directory.advance_reload(id, from, to, &text)).await {
                    return Ok(());
                }
            }
            Ok(None) => return Err("it is not in the directory any more".to_owned()),
            Err(_) => {}
        }
        if Instant::now() > deadline {
            return Err("the directory does not answer".to_owned());
        }
        tokio::time::sleep(DOUBT).await;
    }
}

/// How a reload ends that could not go on: aborted, unless its last step was taken after all. `None`: the directory does not say.
async fn settle(member: &Arc<Member>, services: &Services, id: u64, reason: &str) -> Option<ReloadPhase> {
    let deadline = Instant::now() + SETTLE_TIME;
    while Instant::now() < deadline {
        let directory = Arc::clone(member.directory());
        match on_store(services, move || directory.reload(id)).await {
            Ok(None) => return Some(ReloadPhase::Aborted),
            Ok(Some(row)) if matches!(row.phase, ReloadPhase::Committed | ReloadPhase::Aborted) => return Some(row.phase),
            Ok(Some(row)) => {
                let (directory, text) = (Arc::clone(member.directory()), reason.to_owned());
                if let Ok(true) =
                    on_store(services, move || directory.advance_reload(id, row.phase, ReloadPhase::Aborted, &text)).await
                {
                    return Some(ReloadPhase::Aborted);
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(DOUBT).await;
    }
    None
}

/// Reloads that this node has a part in and has not heard the end of; and those whose coordinator is gone. May wait for the store.
pub(crate) fn finish_orphans(member: &Arc<Member>, services: &Arc<Services>) {
    let directory = member.directory();
    for row in directory.open_reloads().unwrap_or_default() {
        // One of this node's own that it knows nothing of: it did not learn that it had begun, or gave up on it.
        let mine = member.my_id().as_ref() == Some(&row.coordinator);
        let given_up = mine && !member.coordinating.load(Ordering::Acquire);
        if given_up || (!mine && member.is_dead(&row.coordinator)) {
            let reason = format!("its coordinator, node {}, does not go on with it", row.coordinator);
            let _ = directory.advance_reload(row.id, row.phase, ReloadPhase::Aborted, &reason);
        }
    }
    let held: Vec<_> = member.with_holding(|all| {
        let old = |(_, holding): &(&u64, &mut Holding)| holding.since.elapsed() > DOUBT;
        all.iter_mut().filter(old).map(|(id, holding)| (*id, holding.loaded.manifest.name, holding.loaded.version)).collect()
    });
    for (id, script, version) in held {
        let rollback = match directory.reload(id) {
            Ok(Some(row)) => match row.phase {
                ReloadPhase::Committed => None,
                ReloadPhase::Aborted => Some(row.reason),
                ReloadPhase::Prepare | ReloadPhase::Activate => continue,
            },
            Ok(None) => Some("it is not in the directory any more".to_owned()),
            Err(_) => continue,
        };
        let (member, inner) = (Arc::clone(member), Arc::clone(services));
        services.control.spawn(async move { end(&member, &inner, id, script, version, rollback).await });
    }
}

/// Versions that became active elsewhere while this node did not hear of it.
pub(crate) fn follow_active(member: &Arc<Member>, services: &Arc<Services>) -> Result<(), RegistryError> {
    let open = member.directory().open_reloads()?;
    for (script, version) in services.store.active()? {
        let serves = services.registry.active(script).is_none_or(|active| active.version == version);
        let busy = open.iter().any(|row| row.script == script);
        let held = member.with_holding(|all| all.values().any(|holding| holding.loaded.manifest.name == script));
        if !serves && !busy && !held {
            match services.control.block_on(load(member, services, script, version)) {
                Ok(loaded) => {
                    services.registry.serve(script, loaded);
                    reload::catch_up(services, script, version, &[]);
                }
                Err(error) => tracing::warn!(%script, %version, error, "a new version could not be loaded, it is tried again"),
            }
        }
    }
    Ok(())
}
