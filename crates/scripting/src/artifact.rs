//! Artifacts: a compiled module with what says where it comes from, and the check before its code may run.
//!
//! Start with [`AotArtifact`] and [`AotArtifact::verify`]. A digest says which bytes, not who made them, so every artifact and
//! every manifest carries a MAC of the cluster's [`TrustKey`]. Not here: compiling (`compile`), keeping (`registry`, `cache`).

use crate::sandbox::{AotTarget, EngineProfile};
use aether_types::{Blame, Digest, ScriptId, Version, codec};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::sync::Arc;

/// The largest native code that is accepted.
pub const NATIVE_BYTES_MAX: usize = 16 << 20;
/// The largest header; a real one has about 200 bytes.
const HEADER_BYTES_MAX: usize = 4 << 10;
const HEADER_SCHEMA: u8 = 2;
const MAGIC: &[u8; 8] = b"AETHRAOT";

/// The key that native code is signed with. All nodes that share artifacts share it.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustKey([u8; 32]);

impl TrustKey {
    /// A key from its bytes.
    pub fn new(bytes: [u8; 32]) -> TrustKey {
        TrustKey(bytes)
    }

    /// A new random key.
    pub fn random() -> Result<TrustKey, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(TrustKey(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn mac(&self, purpose: &str, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(message);
        mac
    }
}

impl std::fmt::Debug for TrustKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrustKey(…)")
    }
}

/// Why an artifact was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestVerificationError {
    /// Nobody with our key has signed this.
    #[error("artifact of source {}: its MAC is not of this cluster's key; publish the source again", source_digest.short())]
    Mac {
        /// The source that it claims.
        source_digest: Digest,
    },
    /// The native code is not the one that was signed.
    #[error("artifact: native code has SHA-256 {}, its manifest says {}: damaged or replaced", found.short(), wanted.short())]
    NativeDigest {
        /// What the bytes have.
        found: Digest,
        /// What the manifest says.
        wanted: Digest,
    },
    /// The wasm is not the one that was compiled.
    #[error("artifact: source has SHA-256 {}, its manifest says {}: damaged or replaced", found.short(), wanted.short())]
    SourceDigest {
        /// What the bytes have.
        found: Digest,
        /// What the manifest says.
        wanted: Digest,
    },
    /// Made for another machine.
    #[error("artifact is for {found}, this node is {wanted}: compile the source for {wanted}")]
    Target {
        /// What it was made for.
        found: AotTarget,
        /// What this node is.
        wanted: AotTarget,
    },
    /// Made by another engine or with other settings.
    #[error("artifact was made by another engine version or configuration ({}, this node has {}): compile the source again", found.short(), wanted.short())]
    Engine {
        /// What it was made by.
        found: Digest,
        /// What this node has.
        wanted: Digest,
    },
    /// Not the artifact of this script and version.
    #[error("manifest is for {found_script} version {found_version}, asked for was {script} version {version}")]
    Identity {
        /// What was asked for.
        script: ScriptId,
        /// What was asked for.
        version: Version,
        /// What the manifest is for.
        found_script: ScriptId,
        /// What the manifest is for.
        found_version: Version,
    },
    /// Not an artifact file.
    #[error("not an artifact: {0}")]
    Format(String),
}

impl ManifestVerificationError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        Blame::Operator
    }

    /// Whether compiling the same source again would help.
    pub fn is_mended_by_source(&self) -> bool {
        !matches!(self, ManifestVerificationError::Identity { .. } | ManifestVerificationError::SourceDigest { .. })
    }
}

/// What was compiled, by what, for what. Signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    source_digest: Digest,
    native_digest: Digest,
    target: AotTarget,
    profile: EngineProfile,
    fingerprint: Digest,
}

/// A compiled module: native code, SHA-256 of source and native code, target and engine.
#[derive(Clone, PartialEq, Eq)]
pub struct AotArtifact {
    header: Header,
    mac: [u8; 32],
    native: Arc<[u8]>,
    source: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for AotArtifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AotArtifact").field("header", &self.header).field("native_bytes", &self.native.len()).finish()
    }
}

/// Proof that an artifact may be loaded. See [`crate::native`].
pub(crate) struct Verified<'a>(&'a AotArtifact);

impl Verified<'_> {
    pub(crate) fn native(&self) -> &[u8] {
        &self.0.native
    }
}

impl AotArtifact {
    /// Sign what the compiler gave. Only `compile` may call this: the MAC says that we made these bytes.
    pub(crate) fn sign(
        key: &TrustKey,
        source: Arc<[u8]>,
        native: Vec<u8>,
        target: AotTarget,
        profile: EngineProfile,
    ) -> AotArtifact {
        let header = Header {
            source_digest: Digest::of(&source),
            native_digest: Digest::of(&native),
            target,
            profile,
            fingerprint: profile.fingerprint(target),
        };
        let mac = key.mac("artifact", &header_bytes(&header)).finalize().into_bytes().into();
        AotArtifact { header, mac, native: native.into(), source: Some(source) }
    }

    /// SHA-256 of the wasm that it was made from.
    pub fn source_digest(&self) -> Digest {
        self.header.source_digest
    }

    /// SHA-256 of the native code.
    pub fn native_digest(&self) -> Digest {
        self.header.native_digest
    }

    /// The machine that it was made for.
    pub fn target(&self) -> AotTarget {
        self.header.target
    }

    /// The engine settings that it was made with.
    pub fn profile(&self) -> EngineProfile {
        self.header.profile
    }

    /// The native code.
    pub fn native(&self) -> &[u8] {
        &self.native
    }

    /// The wasm that it was made from, if it is at hand.
    pub fn source(&self) -> Option<&Arc<[u8]>> {
        self.source.as_ref()
    }

    /// Give it its source back, after it was read from a file that does not hold it.
    pub fn with_source(mut self, source: Arc<[u8]>) -> Result<AotArtifact, ManifestVerificationError> {
        let found = Digest::of(&source);
        if found != self.header.source_digest {
            return Err(ManifestVerificationError::SourceDigest { found, wanted: self.header.source_digest });
        }
        self.source = Some(source);
        Ok(self)
    }

    /// Whether this is an artifact of our key, for this machine and this engine, with exactly these bytes.
    pub(crate) fn verify(&self, key: &TrustKey) -> Result<Verified<'_>, ManifestVerificationError> {
        self.verify_origin(key)?;
        let wanted = AotTarget::host();
        if self.header.target != wanted {
            return Err(ManifestVerificationError::Target { found: self.header.target, wanted });
        }
        let wanted = self.header.profile.fingerprint(wanted);
        if self.header.fingerprint != wanted {
            return Err(ManifestVerificationError::Engine { found: self.header.fingerprint, wanted });
        }
        Ok(Verified(self))
    }

    /// Whether our key's holder made it, for whatever machine.
    pub(crate) fn verify_origin(&self, key: &TrustKey) -> Result<(), ManifestVerificationError> {
        // Constant-time comparison. The MAC first: what is not signed is not believed, not even its digest.
        let mac = key.mac("artifact", &header_bytes(&self.header));
        mac.verify_slice(&self.mac).map_err(|_| ManifestVerificationError::Mac { source_digest: self.header.source_digest })?;
        let found = Digest::of(&self.native);
        if found != self.header.native_digest {
            return Err(ManifestVerificationError::NativeDigest { found, wanted: self.header.native_digest });
        }
        Ok(())
    }

    /// As a file: magic, header length, header, MAC, native code. Without the source.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = header_bytes(&self.header);
        let length = (header.len() as u32).to_le_bytes();
        [&MAGIC[..], &length, &header, &self.mac, &self.native].concat()
    }

    /// From a file. Reading it says nothing about whether it may be loaded.
    pub fn from_bytes(bytes: &[u8]) -> Result<AotArtifact, ManifestVerificationError> {
        let bad = |what: &str| ManifestVerificationError::Format(what.to_owned());
        let rest = bytes.strip_prefix(&MAGIC[..]).ok_or_else(|| bad("it does not begin with AETHRAOT"))?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| bad("cut off"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(bad("its header is too long"));
        }
        let (header, rest) = rest.split_at_checked(length).ok_or_else(|| bad("cut off"))?;
        let (mac, native) = rest.split_first_chunk::<32>().ok_or_else(|| bad("cut off"))?;
        if native.len() > NATIVE_BYTES_MAX {
            return Err(bad("its native code is too large"));
        }
        let header = codec::decode(HEADER_SCHEMA, header).map_err(|e| ManifestVerificationError::Format(e.to_string()))?;
        Ok(AotArtifact { header, mac: *mac, native: native.into(), source: None })
    }
}

fn header_bytes(header: &Header) -> Vec<u8> {
    codec::encode(HEADER_SCHEMA, header).expect("a header is small and plain")
}

/// Which artifact is a script's version: SHA-256 of source and native code, version and target. Signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactManifest {
    /// The script.
    pub script_id: ScriptId,
    /// Its version.
    pub version: Version,
    /// SHA-256 of the wasm.
    pub source_digest: Digest,
    /// SHA-256 of the native code.
    pub native_digest: Digest,
    /// The machine it was made for.
    pub target: AotTarget,
    mac: [u8; 32],
}

impl ArtifactManifest {
    pub(crate) fn sign(key: &TrustKey, script_id: ScriptId, version: Version, artifact: &AotArtifact) -> ArtifactManifest {
        let mut manifest = ArtifactManifest {
            script_id,
            version,
            source_digest: artifact.source_digest(),
            native_digest: artifact.native_digest(),
            target: artifact.target(),
            mac: [0; 32],
        };
        manifest.mac = key.mac("manifest", &manifest.signed_bytes()).finalize().into_bytes().into();
        manifest
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let parts = (self.script_id, self.version, self.source_digest, self.native_digest, self.target);
        codec::encode(HEADER_SCHEMA, &parts).expect("a manifest is small and plain")
    }

    /// Whether this manifest is ours, for this script and version, and for this artifact.
    pub fn verify(
        &self,
        key: &TrustKey,
        script: ScriptId,
        version: Version,
        artifact: &AotArtifact,
    ) -> Result<(), ManifestVerificationError> {
        let mac = key.mac("manifest", &self.signed_bytes());
        mac.verify_slice(&self.mac).map_err(|_| ManifestVerificationError::Mac { source_digest: self.source_digest })?;
        if (self.script_id, self.version) != (script, version) {
            return Err(ManifestVerificationError::Identity {
                script,
                version,
                found_script: self.script_id,
                found_version: self.version,
            });
        }
        if self.source_digest != artifact.source_digest() {
            return Err(ManifestVerificationError::SourceDigest { found: artifact.source_digest(), wanted: self.source_digest });
        }
        if self.target == artifact.target() && self.native_digest != artifact.native_digest() {
            return Err(ManifestVerificationError::NativeDigest { found: artifact.native_digest(), wanted: self.native_digest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::SlotClass;

    fn profile() -> EngineProfile {
        EngineProfile { class: SlotClass::Small, canonical_nans: false, traces: false }
    }

    fn artifact(key: &TrustKey, target: AotTarget) -> AotArtifact {
        AotArtifact::sign(key, Arc::from(&b"source"[..]), b"native".to_vec(), target, profile())
    }

    #[test]
    fn any_single_byte_changed_in_a_file_is_refused() {
        let key = TrustKey::random().unwrap();
        let bytes = artifact(&key, AotTarget::host()).to_bytes();
        assert!(AotArtifact::from_bytes(&bytes).unwrap().verify(&key).is_ok());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let refused = AotArtifact::from_bytes(&changed).and_then(|a| a.verify(&key).map(|_| ()));
            assert!(refused.is_err(), "byte {at}");
            assert!(AotArtifact::from_bytes(&bytes[..at]).and_then(|a| a.verify(&key).map(|_| ())).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_artifact_of_another_key_target_or_engine_is_refused_with_the_reason() {
        let key = TrustKey::new([1; 32]);
        let other = artifact(&TrustKey::new([2; 32]), AotTarget::host());
        assert!(matches!(other.verify(&key), Err(ManifestVerificationError::Mac { .. })));
        let foreign = if AotTarget::host() == AotTarget::LinuxX64 { AotTarget::LinuxAArch64 } else { AotTarget::LinuxX64 };
        let wanted = ManifestVerificationError::Target { found: foreign, wanted: AotTarget::host() };
        assert_eq!(artifact(&key, foreign).verify(&key).err(), Some(wanted));
        let mut old = artifact(&key, AotTarget::host());
        old.header.fingerprint = Digest::of(b"wasmtime 47");
        old.mac = key.mac("artifact", &header_bytes(&old.header)).finalize().into_bytes().into();
        assert!(matches!(old.verify(&key), Err(ManifestVerificationError::Engine { .. })));
    }

    #[test]
    fn a_manifest_is_for_one_script_version_and_source() {
        let key = TrustKey::new([1; 32]);
        let artifact = artifact(&key, AotTarget::host());
        let (guard, thief) = (ScriptId::new("guard").unwrap(), ScriptId::new("thief").unwrap());
        let manifest = ArtifactManifest::sign(&key, guard, Version(3), &artifact);
        assert_eq!(manifest.verify(&key, guard, Version(3), &artifact), Ok(()));
        assert!(matches!(manifest.verify(&key, thief, Version(3), &artifact), Err(ManifestVerificationError::Identity { .. })));
        assert!(matches!(manifest.verify(&key, guard, Version(4), &artifact), Err(ManifestVerificationError::Identity { .. })));
        let mut forged = manifest;
        forged.version = Version(4);
        assert!(matches!(forged.verify(&key, guard, Version(4), &artifact), Err(ManifestVerificationError::Mac { .. })));
    }
}
