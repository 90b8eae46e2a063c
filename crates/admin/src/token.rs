//! Bearer tokens: made, listed and revoked by `aether token`, kept as digests, read again by a running node when they change.
//!
//! A token is `aether_ID_SECRET`. The secret is 256 random bits, so its plain SHA-256 is enough: there is nothing to guess. Start with
//! [`TokenFile`] (the command's side) and [`TokenStore`] (the node's). Not here: what a role may do (`access`).

use crate::access::Role;
use crate::clock;
use aether_types::Digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Names it in lists and in the audit log.
    pub id: String,
    /// Who has it.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// SHA-256 of its secret.
    pub sha256: Digest,
    /// When it was made, seconds since 1970.
    pub made: u64,
    /// When it ends, seconds since 1970; `None`: when it is revoked.
    #[serde(default)]
    pub ends: Option<u64>,
}

impl Token {
    /// Whether it is good at this time, in seconds since 1970.
    pub fn is_good_at(&self, now: u64) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }
}

/// Why tokens could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file.
    #[error("could not use the token file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in it.
    #[error("{path} is no token file: repair it, or remove it and make new tokens")]
    Text {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A name that would not be readable in a list.
    #[error("a token's name has 1 to 47 printable characters, {0:?} does not")]
    Name(String),
    /// Nobody's.
    #[error("there is no token {0}: `aether token list` shows those that are there")]
    Unknown(String),
    /// A name of several.
    #[error("there are {count} tokens named {name}: give the id of one")]
    Several {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tokens: Vec<Token>,
}

/// Where a node with this data directory keeps its tokens.
pub fn tokens_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin").join("tokens.json")
}

/// The file, for the command that changes it.
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The file at a path; it need not be there yet.
    pub fn new(path: PathBuf) -> TokenFile {
        TokenFile(path)
    }

    /// All tokens, the oldest first. None if there is no file.
    pub fn list(&self) -> Result<Vec<Token>, TokenError> {
        Ok(read(&self.0)?.unwrap_or_default().tokens)
    }

    /// Make a token; gives it and the text that its owner sends, which is not kept.
    pub fn make(&self, name: &str, role: Role, days: Option<u32>) -> Result<(Token, String), TokenError> {
        if name.is_empty() || name.chars().count() > 47 || name.chars().any(char::is_control) {
            return Err(TokenError::Name(name.to_owned()));
        }
        let mut secret = [0; 32];
        let mut id = [0; 5];
        getrandom::fill(&mut secret).and_then(|()| getrandom::fill(&mut id)).map_err(|error| self.error(error.into()))?;
        let secret = BASE64_URL_SAFE_NO_PAD.encode(secret);
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let made = clock::now_s();
        let ends = days.map(|days| made + u64::from(days) * 86_400);
        let token = Token { id, name: name.to_owned(), role, sha256: Digest::of(secret.as_bytes()), made, ends };
        self.change(|tokens| {
            tokens.push(token.clone());
            Ok(())
        })?;
        let text = format!("aether_{}_{secret}", token.id);
        Ok((token, text))
    }

    /// Revoke a token, given by id or by a name that only it has. A node that runs notices at the next request.
    pub fn revoke(&self, which: &str) -> Result<Token, TokenError> {
        self.change(|tokens| {
            let by_id = tokens.iter().position(|token| token.id == which);
            let named: Vec<_> = (0..tokens.len()).filter(|i| tokens[*i].name == which).collect();
            match (by_id, named.as_slice()) {
                (Some(at), _) => Ok(tokens.remove(at)),
                (None, [at]) => Ok(tokens.remove(*at)),
                (None, []) => Err(TokenError::Unknown(which.to_owned())),
                (None, several) => Err(TokenError::Several { name: which.to_owned(), count: several.len() }),
            }
        })
    }

    fn error(&self, source: io::Error) -> TokenError {
        TokenError::File { path: self.0.clone(), source }
    }

    /// Read, change, replace: two commands at a time wait for each other, a crash leaves the old file or the new one.
    fn change<R>(&self, change: impl FnOnce(&mut Vec<Token>) -> Result<R, TokenError>) -> Result<R, TokenError> {
        let lock = prepare(&self.0).map_err(|source| self.error(source))?;
        let mut content = read(&self.0)?.unwrap_or_default();
        let changed = change(&mut content.tokens)?;
        let text = serde_json::to_vec_pretty(&content).map_err(|source| TokenError::Text { path: self.0.clone(), source })?;
        replace(&self.0, &text).map_err(|source| self.error(source))?;
        drop(lock);
        Ok(changed)
    }
}

/// Make the folder, which only its user may enter, and take the lock that is held until the file is dropped.
fn prepare(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.with_extension("lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn read(path: &Path) -> Result<Option<Content>, TokenError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| TokenError::Text { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenError::File { path: path.to_owned(), source }),
    }
}

/// What the node knows of the file.
pub(crate) enum Known {
    /// There is none: no token was ever made here.
    NeverMade,
    /// It is there and cannot be read: nobody is let in until it can.
    Unreadable,
    /// These.
    Tokens(Vec<Token>),
}

/// Which file was read: a replaced one has another inode.
type Stamp = (u64, i64, i64, u64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len())
}

/// The node's side: what is in the file now.
pub(crate) struct TokenStore {
    path: PathBuf,
    seen: Mutex<(Option<Stamp>, Arc<Known>)>,
}

impl TokenStore {
    pub fn new(path: PathBuf) -> TokenStore {
        TokenStore { path, seen: Mutex::new((None, Arc::new(Known::NeverMade))) }
    }

    /// The tokens. Looks at the file's time each time, and into the file when that has changed.
    pub fn known(&self) -> Arc<Known> {
        let found = match std::fs::metadata(&self.path) {
            Ok(metadata) => Some(stamp(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => return Arc::new(Known::Unreadable),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != found {
            let known = match read(&self.path) {
                Ok(Some(content)) => Known::Tokens(content.tokens),
                Ok(None) => Known::NeverMade,
                Err(error) => {
                    tracing::error!(%error, cause = std::error::Error::source(&error), "nobody is let in: the tokens cannot be read");
                    Known::Unreadable
                }
            };
            *seen = (found, Arc::new(known));
        }
        Arc::clone(&seen.1)
    }

    /// The token that this text is, if it is a good one.
    pub fn check(&self, text: &str) -> Option<Token> {
        let (id, secret) = text.strip_prefix("aether_")?.split_once('_')?;
        let Known::Tokens(tokens) = &*self.known() else { return None };
        let token = tokens.iter().find(|token| token.id == id)?;
        let same: bool = token.sha256.0.ct_eq(&Digest::of(secret.as_bytes()).0).into();
        (same && token.is_good_at(clock::now_s())).then(|| token.clone())
    }

    /// Whether a token that was let in may stay.
    pub fn is_good(&self, id: &str) -> bool {
        let now = clock::now_s();
        matches!(&*self.known(), Known::Tokens(tokens) if tokens.iter().any(|token| token.id == id && token.is_good_at(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, TokenFile, TokenStore) {
        let dir = tempfile::tempdir().unwrap();
        let path = tokens_path(dir.path());
        (dir, TokenFile::new(path.clone()), TokenStore::new(path))
    }

    #[test]
    fn a_running_node_knows_a_token_from_when_it_is_made_until_it_is_revoked() {
        let (_dir, file, store) = file();
        assert!(matches!(*store.known(), Known::NeverMade));
        let (token, text) = file.make("ci", Role::Publisher, None).unwrap();
        assert_eq!(store.check(&text).as_ref(), Some(&token));
        assert!(store.is_good(&token.id));
        assert_eq!(file.revoke("ci").unwrap(), token);
        assert_eq!((store.check(&text), store.is_good(&token.id)), (None, false));
        assert!(matches!(&*store.known(), Known::Tokens(tokens) if tokens.is_empty()), "tokens were made here: they are needed");
    }

    #[test]
    fn the_secret_is_not_in_the_file_and_only_its_user_reads_it() {
        let (_dir, file, _) = file();
        let (token, text) = file.make("wall", Role::Viewer, Some(30)).unwrap();
        let kept = std::fs::read_to_string(&file.0).unwrap();
        let secret = text.rsplit_once(&format!("{}_", token.id)).unwrap().1;
        assert!(secret.len() == 43 && !kept.contains(secret) && kept.contains(&token.sha256.to_string()));
        assert_eq!(std::fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(token.ends, Some(token.made + 30 * 86_400));
        assert!(token.is_good_at(token.made) && !token.is_good_at(token.made + 30 * 86_400));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let (_dir, file, store) = file();
        let (token, text) = file.make("ci", Role::Viewer, None).unwrap();
        let other = file.make("other", Role::Viewer, None).unwrap().1;
        let swapped = format!("aether_{}_{}", token.id, other.splitn(3, '_').nth(2).unwrap());
        for bad in [
            "",
            "aether",
            "aether_",
            "aether__",
            &text[..text.len() - 1],
            &swapped,
            &text.to_uppercase(),
            &token.sha256.to_string(),
        ] {
            assert_eq!(store.check(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_lets_nobody_in() {
        let (_dir, file, store) = file();
        let text = file.make("ci", Role::Viewer, None).unwrap().1;
        std::fs::write(&file.0, "{").unwrap();
        assert!(matches!(*store.known(), Known::Unreadable));
        assert_eq!(store.check(&text), None);
        assert!(matches!(file.make("x", Role::Viewer, None), Err(TokenError::Text { .. })));
    }

    #[test]
    fn a_name_of_several_tokens_revokes_none() {
        let (_dir, file, _) = file();
        let first = file.make("ci", Role::Viewer, None).unwrap().0;
        file.make("ci", Role::Viewer, None).unwrap();
        assert!(matches!(file.revoke("ci"), Err(TokenError::Several { count: 2, .. })));
        assert!(matches!(file.revoke("nobody"), Err(TokenError::Unknown(_))));
        assert_eq!(file.revoke(&first.id).unwrap(), first);
        assert_eq!(file.list().unwrap().len(), 1);
        assert!(matches!(file.make("", Role::Viewer, None), Err(TokenError::Name(_))));
    }
}
