//! Blobs: bytes in files named by their SHA-256 digest, such as the source of a script's version.
//!
//! A file appears whole, by renaming, or not at all, and is on disk when [`BlobFiles::put`] returns. No file is trusted: what is
//! read is compared with its name. Start with `put` and `get`. Not here: who still needs a blob.

use crate::StoreError;
use aether_types::Digest;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest blob: as much as the codec of everything else allows.
pub(crate) const BLOB_BYTES_MAX: u64 = 64 << 20;
/// No digest begins like this.
const TEMPORARY_PREFIX: &str = "tmp-";

/// Makes temporary names different; the store's lock keeps other processes out.
static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A directory of blobs.
pub(crate) struct BlobFiles {
    dir: PathBuf,
}

impl BlobFiles {
    /// Open a directory, make it if it is not there: mode 0700. What a crash left half-written is removed.
    pub fn open(dir: &Path) -> Result<BlobFiles, StoreError> {
        let io = |error: io::Error| failed(dir, &error);
        match DirBuilder::new().mode(0o700).create(dir) {
            // Its name must survive a crash too.
            Ok(()) => sync(&dir.join(".."))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        if fs::metadata(dir).map_err(io)?.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io)?;
        }
        let blobs = BlobFiles { dir: dir.to_owned() };
        for name in blobs.names()? {
            if name.to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                let path = dir.join(&name);
                fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
            }
        }
        Ok(blobs)
    }

    /// Keep bytes. On disk when it returns, also if they were there already.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let len = bytes.len() as u64;
        if len > BLOB_BYTES_MAX {
            return Err(StoreError::TooLarge { bytes: len, limit: BLOB_BYTES_MAX });
        }
        let digest = Digest::of(bytes);
        match self.get(digest) {
            Ok(Some(_)) => {}
            Ok(None) => self.write(&self.path(digest), bytes)?,
            Err(error) => {
                tracing::warn!(%error, "a blob is put again and its file replaced");
                self.write(&self.path(digest), bytes)?;
            }
        }
        // Always: whoever wrote the file may have been killed, or not have come so far yet.
        sync(&self.dir)?;
        Ok(digest)
    }

    /// The bytes of a digest. `None`: there is no file.
    pub fn get(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, &error)),
        };
        let mut bytes = Vec::new();
        // A file that was blown up must not fill the memory: cut off, it does not match.
        file.take(BLOB_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(&path, &error))?;
        if Digest::of(&bytes) == digest { Ok(Some(bytes)) } else { Err(StoreError::Damaged { path, digest }) }
    }

    /// What is there, in order, unchecked.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let mut digests: Vec<Digest> = self.names()?.iter().filter_map(|name| digest_of(name)).collect();
        digests.sort_unstable();
        Ok(digests)
    }

    /// Remove a blob, if it is there.
    pub fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => sync(&self.dir),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    fn names(&self) -> Result<Vec<OsString>, StoreError> {
        let names = || -> io::Result<Vec<OsString>> {
            fs::read_dir(&self.dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
        };
        names().map_err(|error| failed(&self.dir, &error))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let number = TEMPORARY.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{TEMPORARY_PREFIX}{number}"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            // On disk before the name is: after a crash the name must not stand for an empty file.
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            failed(path, &error)
        })
    }
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), message: error.to_string() }
}

/// Names of a directory are on disk only when the directory was flushed.
fn sync(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(dir, &error))
}

/// The digest that a file is named by; another spelling of it is another file.
fn digest_of(name: &OsStr) -> Option<Digest> {
    let name = name.to_str()?;
    name.parse::<Digest>().ok().filter(|digest| digest.to_string() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> BlobFiles {
        BlobFiles::open(&dir.path().join("blobs")).unwrap()
    }

    #[test]
    fn a_blob_is_read_back_after_a_restart_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let digest = open(&dir).put(b"wasm").unwrap();
        assert_eq!(digest, Digest::of(b"wasm"));
        let blobs = open(&dir);
        assert_eq!(blobs.get(digest).unwrap(), Some(b"wasm".to_vec()));
        blobs.remove(digest).unwrap();
        blobs.remove(digest).unwrap();
        assert_eq!(blobs.get(digest).unwrap(), None);
    }

    #[test]
    fn a_tampered_blob_is_refused_and_its_file_named() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir);
        let digest = blobs.put(b"wasm").unwrap();
        for tampered in [&b"wasn"[..], b"was", b"wasm ", b""] {
            fs::write(blobs.path(digest), tampered).unwrap();
            let error = blobs.get(digest).unwrap_err();
            assert!(matches!(&error, StoreError::Damaged { path, digest: d } if *path == blobs.path(digest) && *d == digest));
        }
    }

    #[test]
    fn put_over_a_damaged_file_repairs_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir);
        let digest = blobs.put(b"wasm").unwrap();
        fs::write(blobs.path(digest), b"").unwrap();
        assert_eq!(blobs.put(b"wasm").unwrap(), digest);
        assert_eq!(blobs.get(digest).unwrap(), Some(b"wasm".to_vec()));
    }

    #[test]
    fn put_of_what_is_there_leaves_its_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir);
        let digest = blobs.put(b"wasm").unwrap();
        // Another file would have another mode.
        fs::set_permissions(blobs.path(digest), Permissions::from_mode(0o400)).unwrap();
        blobs.put(b"wasm").unwrap();
        assert_eq!(fs::metadata(blobs.path(digest)).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn a_torn_temporary_file_is_removed_when_the_store_opens() {
        let dir = tempfile::tempdir().unwrap();
        let torn = open(&dir).dir.join("tmp-7");
        fs::write(&torn, b"wa").unwrap();
        let blobs = open(&dir);
        assert!(!torn.exists());
        assert!(blobs.list().unwrap().is_empty());
    }

    #[test]
    fn only_names_that_are_digests_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir);
        let mut digests = [blobs.put(b"a").unwrap(), blobs.put(b"b").unwrap()];
        digests.sort();
        let upper = Digest::of(b"c").to_string().to_uppercase();
        for name in ["README", "tmp-9", &digests[0].to_string()[1..], &upper] {
            fs::write(blobs.dir.join(name), b"").unwrap();
        }
        assert_eq!(blobs.list().unwrap(), digests);
    }

    #[test]
    fn a_blob_over_the_limit_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir);
        let error = blobs.put(&vec![0; BLOB_BYTES_MAX as usize + 1]).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { limit: BLOB_BYTES_MAX, .. }));
        assert_eq!(blobs.names().unwrap().len(), 0);
    }

    #[test]
    fn the_directory_is_its_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = open(&dir).dir;
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        open(&dir);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
