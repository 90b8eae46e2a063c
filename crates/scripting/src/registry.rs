//! Which artifact is which version of which script.
//!
//! Artifacts are indexed by (script, version); a manifest, signed when the artifact is registered, is compared with it each time it
//! is loaded. Versions rise and are never used twice, also not after a failed reload. Not here: files (`cache`), loaded code (`module`).

use crate::artifact::{AotArtifact, ArtifactManifest, ManifestVerificationError, TrustKey};
use aether_types::{ScriptId, Version};
use std::collections::{BTreeMap, HashMap};

/// Versions kept for each script; the oldest that nobody runs goes first.
const VERSIONS_MAX: usize = 32;

/// Artifacts by script and version.
#[derive(Debug, Default)]
pub struct ArtifactRegistry {
    scripts: HashMap<ScriptId, Versions>,
}

#[derive(Debug, Default)]
struct Versions {
    last: Version,
    kept: BTreeMap<Version, (ArtifactManifest, AotArtifact)>,
}

impl ArtifactRegistry {
    /// Register an artifact as the next version of a script. It must be ours: whoever it was made for, our key signed it.
    pub fn register(
        &mut self,
        key: &TrustKey,
        script: ScriptId,
        artifact: AotArtifact,
    ) -> Result<Version, ManifestVerificationError> {
        let version = self.scripts.get(&script).map_or(Version::default(), |versions| versions.last).next();
        self.register_as(key, script, version, artifact)?;
        Ok(version)
    }

    /// Register an artifact as a version that a catalogue has given out.
    pub fn register_as(
        &mut self,
        key: &TrustKey,
        script: ScriptId,
        version: Version,
        artifact: AotArtifact,
    ) -> Result<(), ManifestVerificationError> {
        artifact.verify_origin(key)?;
        let versions = self.scripts.entry(script).or_default();
        if let Some((kept, _)) = versions.kept.get(&version)
            && kept.source_digest != artifact.source_digest()
        {
            let (found, wanted) = (artifact.source_digest(), kept.source_digest);
            return Err(ManifestVerificationError::SourceDigest { found, wanted });
        }
        versions.last = versions.last.max(version);
        versions.kept.insert(version, (ArtifactManifest::sign(key, script, version, &artifact), artifact));
        while versions.kept.len() > VERSIONS_MAX {
            versions.kept.pop_first();
        }
        Ok(())
    }

    /// An artifact that matches its manifest; `None` if there is none of that version.
    pub fn get(
        &self,
        key: &TrustKey,
        script: ScriptId,
        version: Version,
    ) -> Option<Result<&AotArtifact, ManifestVerificationError>> {
        let (manifest, artifact) = self.scripts.get(&script)?.kept.get(&version)?;
        Some(manifest.verify(key, script, version, artifact).map(|()| artifact))
    }

    /// A version's manifest.
    pub fn manifest(&self, script: ScriptId, version: Version) -> Option<&ArtifactManifest> {
        self.scripts.get(&script)?.kept.get(&version).map(|(manifest, _)| manifest)
    }

    /// Put an artifact that was compiled again from the same source in the place of one that was refused.
    pub fn replace(
        &mut self,
        key: &TrustKey,
        script: ScriptId,
        version: Version,
        artifact: AotArtifact,
    ) -> Result<(), ManifestVerificationError> {
        artifact.verify_origin(key)?;
        if let Some(kept) = self.scripts.get_mut(&script).and_then(|versions| versions.kept.get_mut(&version)) {
            let wanted = kept.0.source_digest;
            if artifact.source_digest() != wanted {
                return Err(ManifestVerificationError::SourceDigest { found: artifact.source_digest(), wanted });
            }
            *kept = (ArtifactManifest::sign(key, script, version, &artifact), artifact);
        }
        Ok(())
    }

    /// Forget a version that never ran. Its number is not used again.
    pub fn forget(&mut self, script: ScriptId, version: Version) {
        if let Some(versions) = self.scripts.get_mut(&script) {
            versions.kept.remove(&version);
        }
    }

    /// The newest version of a script.
    pub fn newest(&self, script: ScriptId) -> Option<Version> {
        self.scripts.get(&script)?.kept.last_key_value().map(|(version, _)| *version)
    }

    /// The versions of a script, oldest first.
    pub fn versions(&self, script: ScriptId) -> impl Iterator<Item = Version> + '_ {
        self.scripts.get(&script).into_iter().flat_map(|versions| versions.kept.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{AotTarget, EngineProfile, SlotClass};

    fn artifact(key: &TrustKey, source: &[u8]) -> AotArtifact {
        let profile = EngineProfile { class: SlotClass::Small, canonical_nans: false, traces: false };
        AotArtifact::sign(key, source.into(), b"native".to_vec(), AotTarget::host(), profile)
    }

    #[test]
    fn versions_rise_and_are_never_used_twice() {
        let (key, script, mut registry) = (TrustKey::new([1; 32]), ScriptId::new("guard").unwrap(), ArtifactRegistry::default());
        assert_eq!(registry.register(&key, script, artifact(&key, b"a")), Ok(Version(1)));
        assert_eq!(registry.register(&key, script, artifact(&key, b"b")), Ok(Version(2)));
        registry.forget(script, Version(2));
        assert_eq!(registry.newest(script), Some(Version(1)));
        assert_eq!(registry.register(&key, script, artifact(&key, b"c")), Ok(Version(3)));
    }

    #[test]
    fn old_versions_go_when_there_are_too_many() {
        let (key, script, mut registry) = (TrustKey::new([1; 32]), ScriptId::new("guard").unwrap(), ArtifactRegistry::default());
        for n in 0..40u8 {
            registry.register(&key, script, artifact(&key, &[n])).unwrap();
        }
        assert_eq!(registry.versions(script).count(), VERSIONS_MAX);
        assert_eq!(registry.newest(script), Some(Version(40)));
    }

    #[test]
    fn an_artifact_of_another_key_is_not_registered() {
        let mut registry = ArtifactRegistry::default();
        let foreign = artifact(&TrustKey::new([2; 32]), b"a");
        let refused = registry.register(&TrustKey::new([1; 32]), ScriptId::new("guard").unwrap(), foreign);
        assert!(matches!(refused, Err(ManifestVerificationError::Mac { .. })));
    }
}
