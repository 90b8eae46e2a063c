//! What comes in on links: parcels for worlds, and questions of other nodes.

use crate::membership::wire::{Answer, Ask, Frame, PART_MAX};
use crate::membership::{Member, lock};
use crate::registry::cluster;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Member {
    /// Called by a link, in the order of what the peer sent: it must be quick.
    pub(super) fn receive(self: &Arc<Self>, peer: &str, bytes: &[u8]) {
        let Some(parts) = self.parts.get() else { return };
        match Frame::decode(bytes) {
            // For a world that is not here any more: its sender sends it again, to where it is then.
            Ok(Frame::Parcels(parcels)) => parcels.into_iter().for_each(|parcel| drop(parts.services.post.deliver(parcel))),
            Ok(Frame::Look) => self.look(),
            Ok(Frame::Answer { number, answer }) => {
                if let Some(asker) = lock(&self.asks).remove(&number) {
                    let _ = asker.send(answer);
                }
            }
            Ok(Frame::Ask { number, ask }) => {
                let (member, peer) = (Arc::clone(self), peer.to_owned());
                let Ok(permit) = Arc::clone(&self.answering).try_acquire_owned() else {
                    return self.tell(&peer, number, Answer::Refused("the node is busy".to_owned()));
                };
                self.runtime.spawn(async move {
                    let _permit = permit;
                    let answer = member.answer(ask).await;
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

    /// Do what a node asks, this one or another.
    pub(crate) async fn answer(self: &Arc<Self>, ask: Ask) -> Answer {
        let Some(parts) = self.parts.get() else { return Answer::Refused("the node is starting".to_owned()) };
        let services = &parts.services;
        let done = match ask {
            Ask::Prepare { script, version } => cluster::prepare(services, script, version).await,
            Ask::Activate { reload, script, version, worlds } => {
                cluster::activate(self, services, reload, script, version, worlds.as_deref()).await
            }
            Ask::End { reload, script, version, rollback } => {
                cluster::end(self, services, reload, script, version, rollback).await
            }
            Ask::Blob { digest, offset } => {
                let store = Arc::clone(&services.store);
                let blob = services.blocking(move || store.get_blob(digest)).await;
                let bytes = blob.ok().and_then(Result::ok).flatten().unwrap_or_default();
                let from = (offset as usize).min(bytes.len());
                let to = (from + PART_MAX).min(bytes.len());
                return Answer::Part { total: bytes.len() as u64, bytes: bytes[from..to].to_vec() };
            }
        };
        match done {
            Ok(worlds) => Answer::Done { worlds: worlds as u64 },
            Err(reason) => Answer::Refused(reason),
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
            if let Some(parts) = member.parts.get() {
                cluster::finish_orphans(&member, &parts.services);
                if let Err(error) = cluster::follow_active(&member, &parts.services) {
                    tracing::warn!(%error, "could not look for new versions");
                }
            }
            member.catching_up.store(false, Ordering::Release);
        });
    }
}
