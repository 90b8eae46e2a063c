//! Artifacts on disk: compiled once for each source, target and engine.
//!
//! Safe under several processes and a crash in the middle of a write: a file appears whole, by renaming, or not at all; what is
//! read is verified like any artifact, and what fails is removed and made anew. Bounded: the files used longest ago go first.
//! Not here: which version is which artifact (`registry`).

use crate::artifact::{AotArtifact, TrustKey};
use crate::sandbox::{AotTarget, EngineProfile};
use aether_types::{Blame, Digest};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that the cache may take; past it the artifacts used longest ago are removed.
const CACHE_BYTES_MAX: u64 = 2 << 30;

/// Why the cache directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another user could put code there.
    #[error(
        "{path} (user {owner}) can be changed by others than user {us}: who owns it decides what native code runs here; set AETHER_SERVER_AOT_CACHE_DIR to a directory of your own"
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Something else is in the way.
    #[error("{path} is not a directory: set AETHER_SERVER_AOT_CACHE_DIR to a directory")]
    NotADirectory {
        /// What is in the way.
        path: PathBuf,
    },
    /// Disk trouble.
    #[error("could not use {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The key file has been changed.
    #[error("{path} is not a key of 32 bytes: remove it, and artifacts are compiled again")]
    Key {
        /// The key file.
        path: PathBuf,
    },
}

impl CacheError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        Blame::Operator
    }
}

/// A directory of artifacts.
#[derive(Debug)]
pub struct ArtifactCache {
    dir: PathBuf,
    bytes_max: u64,
}

impl ArtifactCache {
    /// Open a directory, make it if it is not there: mode 0700, ours alone.
    pub fn open(dir: &Path) -> Result<ArtifactCache, CacheError> {
        let io = |source| CacheError::Io { path: dir.to_owned(), source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .or_else(|e| if dir.exists() { Ok(()) } else { Err(e) })
            .map_err(io)?;
        // Not followed: a link in a shared /tmp could lead anywhere.
        let metadata = fs::symlink_metadata(dir).map_err(io)?;
        if !metadata.is_dir() {
            return Err(CacheError::NotADirectory { path: dir.to_owned() });
        }
        let us = rustix::process::geteuid().as_raw();
        if metadata.uid() != us {
            return Err(CacheError::Owner { path: dir.to_owned(), owner: metadata.uid(), us });
        }
        check_parents(dir, us)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io)?;
        }
        Ok(ArtifactCache { dir: dir.to_owned(), bytes_max: CACHE_BYTES_MAX })
    }

    /// The same with another bound on its size.
    pub fn with_bytes_max(mut self, bytes_max: u64) -> ArtifactCache {
        self.bytes_max = bytes_max;
        self
    }

    /// The key of this directory; a new one if there is none. Two processes that start at once get the same.
    pub fn key(&self) -> Result<TrustKey, CacheError> {
        let path = self.dir.join("key");
        let io = |source| CacheError::Io { path: path.clone(), source };
        for _ in 0..2 {
            match File::open(&path) {
                Ok(file) => {
                    let mut bytes = Vec::new();
                    file.take(33).read_to_end(&mut bytes).map_err(io)?;
                    return <[u8; 32]>::try_from(bytes).map(TrustKey::new).map_err(|_| CacheError::Key { path: path.clone() });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let key = TrustKey::random().map_err(|e| io(io::Error::other(e.to_string())))?;
                    let temporary = self.write_temporary(key.bytes())?;
                    // A link fails if another process was first: then theirs is read.
                    let linked = fs::hard_link(&temporary, &path);
                    let _ = fs::remove_file(&temporary);
                    match linked {
                        Ok(()) => return Ok(key),
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        Err(error) => return Err(io(error)),
                    }
                }
                Err(error) => return Err(io(error)),
            }
        }
        Err(CacheError::Key { path })
    }

    fn path(&self, source: Digest, target: AotTarget, profile: EngineProfile) -> PathBuf {
        self.dir.join(format!("{source}-{}.aot", profile.fingerprint(target).short()))
    }

    /// The artifact of a source, verified. Whatever is wrong with a file, it is removed and counts as not there.
    pub fn get(&self, key: &TrustKey, source: Digest, target: AotTarget, profile: EngineProfile) -> Option<AotArtifact> {
        let path = self.path(source, target, profile);
        let bytes = fs::read(&path).ok()?;
        let artifact = AotArtifact::from_bytes(&bytes).and_then(|artifact| artifact.verify_origin(key).map(|()| artifact));
        match artifact {
            Ok(artifact)
                if artifact.source_digest() == source && artifact.target() == target && artifact.profile() == profile =>
            {
                // "Used just now", for the sweep. If it fails, the file only looks older than it is.
                let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(artifact)
            }
            Ok(_) => {
                tracing::warn!(path = %path.display(), "cached artifact of something else removed");
                let _ = fs::remove_file(&path);
                None
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cached artifact refused and removed");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keep an artifact.
    pub fn put(&self, artifact: &AotArtifact) -> Result<(), CacheError> {
        let path = self.path(artifact.source_digest(), artifact.target(), artifact.profile());
        let temporary = self.write_temporary(&artifact.to_bytes())?;
        fs::rename(&temporary, &path).map_err(|source| {
            let _ = fs::remove_file(&temporary);
            CacheError::Io { path, source }
        })?;
        self.sweep();
        Ok(())
    }

    fn write_temporary(&self, bytes: &[u8]) -> Result<PathBuf, CacheError> {
        // Random: processes in containers that share this directory have equal process ids.
        let mut number = [0; 8];
        let random = getrandom::fill(&mut number);
        let path = self.dir.join(format!("tmp-{:016x}", u64::from_le_bytes(number)));
        let write = || {
            random.map_err(|e| io::Error::other(e.to_string()))?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(bytes)?;
            // On disk before the name is: after a crash the name must not stand for an empty file.
            file.sync_all()
        };
        match write() {
            Ok(()) => Ok(path),
            Err(source) => {
                // On a full disk it would take what is left.
                let _ = fs::remove_file(&path);
                Err(CacheError::Io { path, source })
            }
        }
    }

    /// Remove what is over the bound, oldest first, and temporary files that a crash left.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified().unwrap_or(now);
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("tmp-") {
                // No write takes an hour.
                if now.duration_since(modified).is_ok_and(|age| age.as_secs() > 3600) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if name.ends_with(".aot") {
                files.push((modified, metadata.len(), entry.path()));
            }
        }
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort();
        for (_, size, path) in files {
            if total <= self.bytes_max {
                break;
            }
            let _ = fs::remove_file(path);
            total -= size;
        }
    }
}

/// Who can rename a folder on the way can put another in its place: each must be ours or root's, and closed to others or sticky.
fn check_parents(dir: &Path, us: u32) -> Result<(), CacheError> {
    let absolute = std::path::absolute(dir).map_err(|source| CacheError::Io { path: dir.to_owned(), source })?;
    for parent in absolute.ancestors().skip(1) {
        let metadata = fs::metadata(parent).map_err(|source| CacheError::Io { path: parent.to_owned(), source })?;
        let mode = metadata.permissions().mode();
        let owned = metadata.uid() == us || metadata.uid() == 0;
        if !owned || (mode & 0o022 != 0 && mode & 0o1000 == 0) {
            return Err(CacheError::Owner { path: parent.to_owned(), owner: metadata.uid(), us });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::SlotClass;

    const PROFILE: EngineProfile = EngineProfile { class: SlotClass::Small, canonical_nans: false, traces: false };

    fn artifact(key: &TrustKey, source: &[u8]) -> AotArtifact {
        AotArtifact::sign(key, source.into(), vec![7; 1000], AotTarget::host(), PROFILE)
    }

    #[test]
    fn what_was_put_is_found_again_and_a_damaged_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ArtifactCache::open(&dir.path().join("cache")).unwrap();
        let key = cache.key().unwrap();
        let made = artifact(&key, b"one");
        cache.put(&made).unwrap();
        let get = || cache.get(&key, made.source_digest(), AotTarget::host(), PROFILE);
        assert_eq!(get().map(|a| a.native_digest()), Some(made.native_digest()));
        let path = cache.path(made.source_digest(), AotTarget::host(), PROFILE);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(get().is_none() && !path.exists());
    }

    #[test]
    fn processes_that_start_together_agree_on_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let open = || ArtifactCache::open(dir.path()).unwrap().key().unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_directory_that_others_can_enter_is_closed_and_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        ArtifactCache::open(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(ArtifactCache::open(&link), Err(CacheError::NotADirectory { .. })));
    }

    #[test]
    fn the_cache_stays_within_its_bound_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ArtifactCache::open(dir.path()).unwrap().with_bytes_max(3_000);
        let key = cache.key().unwrap();
        for source in [b"a", b"b", b"c", b"d"] {
            cache.put(&artifact(&key, source)).unwrap();
        }
        let files = fs::read_dir(dir.path()).unwrap().flatten().filter(|f| f.path().extension().is_some()).count();
        assert!((1..=2).contains(&files), "{files}");
        assert!(cache.get(&key, Digest::of(b"d"), AotTarget::host(), PROFILE).is_some());
    }
}
