//! What comes in on links: parcels for worlds, and questions of other nodes.

use crate::membership::wire::{Answer, Ask, Frame, PART_MAX};
use crate::membership::{Member, lock};
use crate::registry::cluster;
use crate::trace;
use aether_world_runtime::Refusal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tracing::Instrument;

impl Member {
    /// Called by a link, in the order of what the peer sent: it must be quick.
    pub(super) fn receive(self: &Arc<Self>, peer: &str, bytes: &[u8]) {
        let Some(parts) = self.parts.get() else { return };
        match Frame::decode(bytes) {
            // For a world that is not here any more: its sender sends it again, to where it is then.
            Ok(Frame::Parcels(parcels)) => parcels.into_iter().for_each(|parcel| drop(parts.services.post.deliver(parcel))),
            Ok(Frame::Look) => self.look(),
            Ok(Frame::Stage(frame)) => self.on_stage(peer, frame),
            Ok(Frame::Answer { number, answer }) => {
                if let Some((_, asker)) = lock(&self.asks).remove(&number) {
                    let _ = asker.send(answer);
                }
            }
            Ok(Frame::Trace { of, parent }) => lock(&self.traces).announce(peer, of, parent, Instant::now()),
            Ok(Frame::Ask { number, ask }) => {
                let parent = lock(&self.traces).take(peer, number);
                let (member, peer) = (Arc::clone(self), peer.to_owned());
                let Ok(permit) = Arc::clone(&self.answering).try_acquire_owned() else {
                    return self.tell(&peer, number, Answer::Refused("the node is busy".to_owned()));
                };
                self.runtime.spawn(async move {
                    let _permit = permit;
                    let answer = member.answer(ask, parent).await;
                    member.tell(&peer, number, answer);
                });
            }
            Err(error) => {
                self.unknown_frames.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(peer, %error, "a frame that this build does not know");
            }
        }
    }

    fn tell(&self, peer: &str, number: u64, answer: Answer) {
        if let (Some(links), Ok(bytes)) = (self.links.get(), (Frame::Answer { number, answer }).encode()) {
            // Who asked has a deadline.
            let _ = links.try_send(peer, bytes);
        }
    }

    /// Do what a node asks, this one or another. `parent`: the trace of one that asks from elsewhere.
    pub(crate) async fn answer(self: &Arc<Self>, ask: Ask, parent: Option<String>) -> Answer {
        let node = self.me.name.as_str();
        let span = match &ask {
            Ask::Prepare { script, version } => tracing::info_span!("reload.prepare", node, %script, version = version.0),
            Ask::Activate { script, version, .. } => tracing::info_span!("reload.activate", node, %script, version = version.0),
            Ask::End { script, version, rollback, .. } => {
                tracing::info_span!("reload.end", node, %script, version = version.0, rollback)
            }
            Ask::Artifact { .. } | Ask::Linked { .. } => tracing::Span::none(),
        };
        self.answer_now(ask).instrument(trace::adopt(span, parent.as_deref())).await
    }

    async fn answer_now(self: &Arc<Self>, ask: Ask) -> Answer {
        let Some(parts) = self.parts.get() else { return Answer::Refused("the node is starting".to_owned()) };
        let services = &parts.services;
        let done = match ask {
            Ask::Prepare { script, version } => cluster::prepare(self, services, script, version).await.map(|worlds| (worlds, 0)),
            Ask::Activate { reload, script, version, worlds } => {
                cluster::activate(self, services, reload, script, version, worlds.as_deref()).await.map_err(Refusal::from)
            }
            Ask::End { reload, script, version, rollback } => {
                let ended = cluster::end(self, services, reload, script, version, rollback).await;
                ended.map(|worlds| (worlds, 0)).map_err(Refusal::from)
            }
            Ask::Linked { peer } => Ok((usize::from(self.is_linked(&peer)), 0)),
            Ask::Artifact { source, memory_mb, offset } => {
                let inner = Arc::clone(services);
                let bytes = services.blocking(move || inner.registry.export(source, memory_mb)).await;
                let bytes = bytes.ok().flatten().unwrap_or_default();
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let to = from.saturating_add(PART_MAX).min(bytes.len());
                return Answer::Part { total: bytes.len() as u64, bytes: bytes[from..to].to_vec() };
            }
        };
        match done {
            Ok((worlds, swap_ms)) => Answer::Done { worlds: worlds as u64, swap_ms },
            Err(Refusal { reason, log }) if log.is_empty() => Answer::Refused(reason),
            Err(refusal) => Answer::RefusedWith(refusal),
        }
    }

    /// Versions that became active without this node, and reloads whose coordinator is gone.
    pub(super) fn catch_up(self: &Arc<Self>) {
        if self.catching_up.swap(true, Ordering::AcqRel) {
            return;
        }
        let member = Arc::clone(self);
        // It may compile.
        self.runtime.spawn_blocking(move || {
            member.catch_up_now();
            member.catching_up.store(false, Ordering::Release);
        });
    }

    pub(super) fn catch_up_now(self: &Arc<Self>) {
        let Some(parts) = self.parts.get() else { return };
        cluster::finish_orphans(self, &parts.services);
        if let Err(error) = cluster::follow_active(self, &parts.services) {
            tracing::warn!(%error, "could not look for new versions");
        }
    }
}
