//! What two nodes say to each other between the TLS handshake and ractor's.
//!
//! Three steps each way, nobody waits for a step the other side has not reached: an opening (magic, version range, build), an
//! introduction in the newest version both know, a verdict. A refused dialler so learns why, which TLS 1.3 alone would not tell it: its
//! handshake succeeds before the other side has looked at the certificate. Opening: `AELK`, oldest and newest version, length of the
//! build name, build name. This part can never change. Introduction: u16 length, [`Introduction`] by the codec, the version its schema.
//! Not here: who may come in (`join` decides and only calls this).

use std::{io, time::Duration};

use aether_types::codec;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cut::Cut;

/// The oldest and the newest version of the link protocol that this build speaks.
pub const VERSIONS: (u8, u8) = (1, 1);
const MAGIC: [u8; 4] = *b"AELK";
/// An introduction holds two names and a few numbers.
const INTRODUCTION_MAX: usize = 512;

/// The range in use: tests pretend to be another release.
pub(super) fn versions() -> (u8, u8) {
    #[cfg(test)]
    if let Some(range) = super::tests::pretended_versions() {
        return range;
    }
    VERSIONS
}

/// What a node says about itself and what the other may send to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Introduction {
    pub(super) cluster: String,
    pub(super) node: String,
    /// Every frame to this node on this link carries it: other peers cannot know it, so they cannot speak in this one's name.
    pub(super) token: u64,
    /// Bytes and messages that may be on the way to this node, not yet acknowledged.
    pub(super) window_bytes: u64,
    pub(super) window_messages: u64,
    /// The largest payload it takes.
    pub(super) payload_bytes_max: u64,
}

/// The other side's part, before the verdict.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) version: u8,
    pub(super) build: String,
    pub(super) introduction: Introduction,
}

/// A conversation that did not come to an end: the reason, and words for the log and the event.
#[derive(Debug)]
pub(super) struct Failed(pub(super) Cut, pub(super) String);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed(Cut::Closed, error.to_string())
    }
}

/// Say who this is and hear who that is.
pub(super) async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, mine: &Introduction) -> Result<Heard, Failed> {
    let bad = |what: String| Failed(Cut::BadHello, what);
    let (oldest, newest) = versions();
    let build = env!("CARGO_PKG_VERSION");
    let mut opening = [&MAGIC[..], &[oldest, newest, u8::try_from(build.len()).unwrap_or(0)]].concat();
    opening.extend_from_slice(build.as_bytes());
    stream.write_all(&opening).await?;
    stream.flush().await?;

    let mut head = [0u8; 7];
    stream.read_exact(&mut head).await?;
    let [magic @ .., theirs_oldest, theirs_newest, length] = head;
    if magic != MAGIC {
        return Err(bad("it does not begin like a hello".into()));
    }
    let mut build = vec![0u8; usize::from(length)];
    stream.read_exact(&mut build).await?;
    let build: String = String::from_utf8_lossy(&build).chars().filter(|c| c.is_ascii_graphic()).collect();
    let version = newest.min(theirs_newest);
    if version < oldest.max(theirs_oldest) {
        return Err(Failed(
            Cut::Version,
            format!(
                "release {build} speaks link protocol {theirs_oldest} to {theirs_newest}, this node {oldest} to {newest}: \
                 update through a release that both know"
            ),
        ));
    }

    let body = codec::encode(version, mine).map_err(|e| bad(e.to_string()))?;
    let length = u16::try_from(body.len()).map_err(|_| bad("its own introduction is too long".into()))?;
    stream.write_all(&[&length.to_le_bytes()[..], &body].concat()).await?;
    stream.flush().await?;
    let mut length = [0u8; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > INTRODUCTION_MAX {
        return Err(bad(format!("an introduction of {length} bytes")));
    }
    let mut body = vec![0u8; length];
    stream.read_exact(&mut body).await?;
    let introduction = codec::decode(version, &body).map_err(|e| bad(e.to_string()))?;
    Ok(Heard { version, build, introduction })
}

/// Tell the verdict and hear theirs. Whoever says no also leaves.
pub(super) async fn agree<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, verdict: Result<(), Cut>) -> Result<(), Failed> {
    let code = match verdict {
        Ok(()) => 0u8,
        Err(why) => CODES.iter().find(|(_, cut)| *cut == why).map_or(u8::MAX, |(code, _)| *code),
    };
    stream.write_all(&[code]).await?;
    stream.flush().await?;
    if let Err(why) = verdict {
        // Leaves in order, so that the code arrives; whether it does matters only to them.
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.shutdown()).await;
        return Err(Failed(why, why.to_string()));
    }
    match stream.read_u8().await? {
        0 => Ok(()),
        code => {
            let why = CODES.iter().find(|(known, _)| *known == code);
            Err(Failed(
                Cut::Refused,
                why.map_or_else(|| format!("it refuses: code {code}"), |(_, cut)| format!("it says: {cut}")),
            ))
        }
    }
}

/// Verdicts on the wire; never renumbered.
const CODES: [(u8, Cut); 5] =
    [(1, Cut::NotListed), (2, Cut::Identity), (3, Cut::WrongName), (4, Cut::WrongDirection), (5, Cut::Stopping)];
