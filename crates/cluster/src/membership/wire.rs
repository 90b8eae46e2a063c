//! What nodes say to each other: values, and how they become bytes.
//!
//! A frame that this build does not know is dropped and counted: new kinds are added at the end, so two neighbouring builds understand
//! each other in all that both know. Not here: links (`link`), what is done with a frame (`mod.rs`).

use crate::membership::stage::StageFrame;
use crate::world::courier::Parcel;
use aether_types::codec::{self, CodecError};
use aether_types::{Digest, ScriptId, Version, WorldId};
use aether_world_runtime::Refusal;
use serde::{Deserialize, Serialize};

/// One message on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// For worlds of the receiver.
    Parcels(Vec<Parcel>),
    /// The directory has changed: read it.
    Look,
    /// A question; its answer has the same number.
    Ask { number: u64, ask: Ask },
    /// An answer.
    Answer { number: u64, answer: Answer },
    /// What comes next is part of this trace, a W3C `traceparent`. Only between nodes whose traces are exported.
    Trace { of: TraceOf, parent: String },
    /// About what players are shown and do.
    Stage(StageFrame),
}

/// What is part of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum TraceOf {
    /// The question with this number, of the same sender.
    Ask(u64),
    /// The move of a world, which the directory carries.
    World(WorldId),
}

/// What a node asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Load a version and rehearse it in the worlds that run the script.
    Prepare { script: ScriptId, version: Version },
    /// Swap in these worlds (all, if none are named) and watch.
    Activate { reload: u64, script: ScriptId, version: Version, worlds: Option<Vec<String>> },
    /// It is over: the version serves, or all go back.
    End { reload: u64, script: ScriptId, version: Version, rollback: Option<String> },
    /// A part of the native code of a source, for scripts with so much memory, from this byte on.
    Artifact { source: Digest, memory_mb: u64, offset: u64 },
    /// Whether there is a link to this node: `Done` with 1 world if there is, with 0 if not.
    Linked { peer: String },
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done; how many worlds took part, and milliseconds until the last of them had swapped, if they were asked to.
    Done { worlds: u64, swap_ms: u64 },
    /// Not done, and why.
    Refused(String),
    /// A part, and how long the whole is. 0: it is not here.
    Part { total: u64, bytes: Vec<u8> },
    /// Not done, why, and what the version logged when it was tried out. Without a log it is [`Answer::Refused`], which all builds know.
    RefusedWith(Refusal),
}

const SCHEMA: u8 = 1;

/// Bytes of parcels in one frame: a link takes a mebibyte, and what comes behind a large one waits.
pub(crate) const PARCELS_MAX: usize = 128 << 10;
/// Bytes of an artifact in one frame.
pub(crate) const PART_MAX: usize = 256 << 10;

impl Frame {
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(SCHEMA, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Frame, CodecError> {
        codec::decode(SCHEMA, bytes)
    }
}

/// Parcels as frames of at most [`PARCELS_MAX`] bytes, in their order; one that is larger alone travels alone.
pub(crate) fn frames(parcels: Vec<Parcel>) -> Vec<Frame> {
    let (mut frames, mut now, mut size) = (Vec::new(), Vec::new(), 0);
    for parcel in parcels {
        let bytes = match &parcel {
            Parcel::Message { data, .. } => 128 + data.len(),
            Parcel::Taken { .. } => 128,
        };
        if size + bytes > PARCELS_MAX && !now.is_empty() {
            frames.push(Frame::Parcels(std::mem::take(&mut now)));
            size = 0;
        }
        size += bytes;
        now.push(parcel);
    }
    if !now.is_empty() {
        frames.push(Frame::Parcels(now));
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_do_more_than_be_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frame::decode(&bytes);
        }

        #[test]
        fn parcels_keep_their_order_and_frames_their_size(sizes in prop::collection::vec(0..90_000usize, 0..40)) {
            let world = |name| WorldId::new(name).unwrap();
            let parcel = |(n, size): (usize, &usize)| Parcel::Message {
                from: world("a"),
                to: world("b"),
                number: n as u64,
                first: 0,
                data: vec![0; *size].into(),
            };
            let parcels: Vec<_> = sizes.iter().enumerate().map(parcel).collect();
            let mut back = Vec::new();
            for frame in frames(parcels.clone()) {
                let bytes = frame.encode().unwrap();
                prop_assert!(bytes.len() <= PARCELS_MAX + 64);
                let Frame::Parcels(parcels) = Frame::decode(&bytes).unwrap() else { panic!() };
                back.extend(parcels);
            }
            prop_assert_eq!(back, parcels);
        }
    }
}
