//! A checkpoint as bytes: a digest, then the codec's. Whatever is cut or changed on its way through a disk is refused as a whole, before
//! a byte of it is believed.

use aether_types::Digest;
use aether_types::codec::{self, CodecError};
use aether_world_runtime::WorldCheckpoint;

/// The schema of what follows the digest.
const SCHEMA: u8 = 2;

pub(crate) fn seal(checkpoint: &WorldCheckpoint) -> Result<Vec<u8>, CodecError> {
    let data = codec::encode(SCHEMA, checkpoint)?;
    let mut sealed = Digest::of(&data).0.to_vec();
    sealed.extend(data);
    Ok(sealed)
}

pub(crate) fn open(sealed: &[u8]) -> Result<WorldCheckpoint, CodecError> {
    let damaged = || CodecError::Damaged("its digest is not that of its bytes".to_owned());
    let (digest, data) = sealed.split_first_chunk::<32>().ok_or_else(damaged)?;
    if Digest::of(data).0 != *digest {
        return Err(damaged());
    }
    codec::decode(SCHEMA, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_types::Tick;

    #[test]
    fn whatever_is_cut_or_changed_is_refused() {
        let checkpoint =
            WorldCheckpoint { tick: Tick(7), now_ns: 1, next_instance: 2, engine: vec![1, 2, 3], scripts: Vec::new() };
        let sealed = seal(&checkpoint).unwrap();
        assert_eq!(open(&sealed).unwrap(), checkpoint);
        for length in 0..sealed.len() {
            assert!(open(&sealed[..length]).is_err(), "cut at {length}");
            let mut changed = sealed.clone();
            changed[length] ^= 1;
            assert!(open(&changed).is_err(), "changed at {length}");
        }
    }
}
