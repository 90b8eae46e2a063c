//! Who a player is: a signed token that a game's login server gives out, checked here without asking anybody.
//!
//! It is a JSON Web Token with HS256 (RFC 7519), so every language has a library that makes one:
//! `{"alg":"HS256"}` and `{"sub":"7","name":"Ada","world":"town-1","exp":1893456000}`. `sub` is the player's number, 1 to 2^60 - 1, which
//! scripts know it by; `name` is shown; `world` is the only one it opens (all, if it is left out); `exp` is needed, `nbf` is heeded. The
//! secret is a line of a file that nodes and login server share, of at least 32 bytes; a file may have two lines while it is changed:
//! the first signs, all are good. Start with [`PassKeys`]. Not here: administrators' tokens (`crate::token`).

use crate::clock;
use aether_scripting::PlayerId;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Players with numbers from here on are guests: no login server gives them out.
pub const GUEST: u64 = 1 << 60;
/// What a name may have, in bytes.
pub const NAME_MAX: usize = 47;
/// Bytes of a secret at least.
const SECRET_MIN: usize = 32;
/// Lines of a secret file.
const SECRETS_MAX: usize = 4;
/// Seconds that clocks of two machines may differ.
const SKEW: u64 = 30;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The player's number, as text.
    pub sub: String,
    /// What the player is called.
    #[serde(default)]
    pub name: String,
    /// The world that it opens; all, if it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<String>,
    /// When it ends, seconds since 1970.
    pub exp: u64,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
}

/// Why a token is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// No token, and guests are not let in.
    #[error("a token is needed: the game's login server gives it")]
    Missing,
    /// Not such a token at all.
    #[error("this is no token of version JWT with HS256")]
    Form,
    /// Signed by somebody else, or changed.
    #[error("the token's signature is not of this game")]
    Signature,
    /// Over.
    #[error("the token has ended: get another")]
    Ended,
    /// Not yet.
    #[error("the token is not good yet")]
    Early,
    /// For another world.
    #[error("the token does not open this world")]
    World,
    /// A number or name that players do not have.
    #[error("the token names no player: sub is 1 to 2^60 - 1, a name has at most {NAME_MAX} bytes and no control characters")]
    Player,
    /// The secret cannot be read.
    #[error("this node cannot check tokens at the moment")]
    NoSecret,
}

/// Why the secrets could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file.
    #[error("could not use the players' secret {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in it.
    #[error("{0} has no good secret: a line of at least {SECRET_MIN} bytes, at most {SECRETS_MAX} lines")]
    Content(PathBuf),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood: we understand none.
    crit: Option<serde_json::Value>,
}

/// The file of secrets. Read anew for each token: a change counts at once.
#[derive(Debug, Clone)]
pub struct PassKeys(PathBuf);

/// Where a node with this data directory keeps its secret, if its file names no other.
pub fn secret_path(data_dir: &Path) -> PathBuf {
    data_dir.join("gateway").join("secret")
}

impl PassKeys {
    /// The file at a path, which is made with a secret of its own if it is not there.
    pub fn open(path: PathBuf) -> Result<PassKeys, SecretError> {
        let made = make(&path);
        made.map_err(|source| SecretError::File { path: path.clone(), source })?;
        let keys = PassKeys(path);
        keys.read().map(|_| keys)
    }

    fn read(&self) -> Result<Vec<String>, SecretError> {
        let text = std::fs::read_to_string(&self.0).map_err(|source| SecretError::File { path: self.0.clone(), source })?;
        let secrets: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let good = (1..=SECRETS_MAX).contains(&secrets.len()) && secrets.iter().all(|secret| secret.len() >= SECRET_MIN);
        if good { Ok(secrets) } else { Err(SecretError::Content(self.0.clone())) }
    }

    /// Sign one, as a login server does.
    pub fn sign(&self, pass: &Pass) -> Result<String, SecretError> {
        let secrets = self.read()?;
        let claims = serde_json::to_vec(pass).unwrap_or_default();
        let signed = format!("{}.{}", BASE64.encode(br#"{"alg":"HS256","typ":"JWT"}"#), BASE64.encode(claims));
        let signature = mac(&secrets[0], &signed).finalize().into_bytes();
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// Who this is, at a world's door.
    pub fn check(&self, token: &str, world: &str) -> Result<(PlayerId, String), PassError> {
        let secrets = self.read().map_err(|error| {
            tracing::error!(%error, "no player's token can be checked");
            PassError::NoSecret
        })?;
        check_at(&secrets, token, world, clock::now_s())
    }
}

fn make(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    // Beside it first, then under its name unless somebody was quicker: nobody reads half of it.
    let mut number = [0; 8];
    getrandom::fill(&mut number)?;
    let new = path.with_extension(format!("{:016x}", u64::from_le_bytes(number)));
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{}", BASE64.encode(secret))?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&new, path);
    std::fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()),
    }
}

fn mac(secret: &str, signed: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    mac
}

/// Whether a player may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX && !name.chars().any(char::is_control)
}

fn check_at(secrets: &[String], token: &str, world: &str, now: u64) -> Result<(PlayerId, String), PassError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(PassError::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(PassError::Form)?;
    let decode = |text: &str| BASE64.decode(text).map_err(|_| PassError::Form);
    // Never what a token says of its algorithm: only this one is spoken here.
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| PassError::Form)?;
    if header.alg != "HS256" || header.crit.is_some() {
        return Err(PassError::Form);
    }
    let signature = decode(signature)?;
    // In constant time.
    if !secrets.iter().any(|secret| mac(secret, signed).verify_slice(&signature).is_ok()) {
        return Err(PassError::Signature);
    }
    let pass: Pass = serde_json::from_slice(&decode(claims)?).map_err(|_| PassError::Form)?;
    if pass.exp <= now.saturating_sub(SKEW) {
        return Err(PassError::Ended);
    }
    if pass.nbf.is_some_and(|nbf| nbf > now.saturating_add(SKEW)) {
        return Err(PassError::Early);
    }
    if pass.world.is_some_and(|only| only != world) {
        return Err(PassError::World);
    }
    let player = pass.sub.parse().ok().filter(|player| (1..GUEST).contains(player)).ok_or(PassError::Player)?;
    if !is_name(&pass.name) {
        return Err(PassError::Player);
    }
    let name = if pass.name.is_empty() { format!("player {player}") } else { pass.name };
    Ok((PlayerId(player), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 2_000_000_000;

    fn pass() -> Pass {
        Pass { sub: "7".into(), name: "Ada".into(), world: Some("town".into()), exp: NOW + 60, nbf: None }
    }

    fn keys() -> (tempfile::TempDir, PassKeys) {
        let dir = tempfile::tempdir().unwrap();
        let keys = PassKeys::open(secret_path(dir.path())).unwrap();
        (dir, keys)
    }

    fn check(keys: &PassKeys, pass: &Pass, world: &str) -> Result<(PlayerId, String), PassError> {
        check_at(&keys.read().unwrap(), &keys.sign(pass).unwrap(), world, NOW)
    }

    #[test]
    fn a_token_opens_what_it_says_as_long_as_it_says() {
        let (_dir, keys) = keys();
        assert_eq!(check(&keys, &pass(), "town"), Ok((PlayerId(7), "Ada".to_owned())));
        assert_eq!(check(&keys, &pass(), "other"), Err(PassError::World));
        assert!(check(&keys, &Pass { world: None, ..pass() }, "other").is_ok());
        assert_eq!(check(&keys, &Pass { exp: NOW - SKEW, ..pass() }, "town"), Err(PassError::Ended));
        assert_eq!(check(&keys, &Pass { nbf: Some(NOW + SKEW + 1), ..pass() }, "town"), Err(PassError::Early));
        for sub in ["0", "-1", "", "seven", &GUEST.to_string()] {
            assert_eq!(check(&keys, &Pass { sub: sub.to_owned(), ..pass() }, "town"), Err(PassError::Player), "{sub}");
        }
        assert_eq!(check(&keys, &Pass { name: "a\nb".into(), ..pass() }, "town"), Err(PassError::Player));
    }

    #[test]
    fn what_somebody_else_signed_or_changed_is_refused() {
        let ((_dir, own), (_other, stranger)) = (keys(), keys());
        let secrets = own.read().unwrap();
        let good = own.sign(&pass()).unwrap();
        let refused = |token: &str| check_at(&secrets, token, "town", NOW).unwrap_err();
        assert_eq!(refused(&stranger.sign(&pass()).unwrap()), PassError::Signature);
        let claims = BASE64.encode(serde_json::to_vec(&Pass { sub: "8".into(), ..pass() }).unwrap());
        let parts: Vec<_> = good.split('.').collect();
        assert_eq!(refused(&format!("{}.{claims}.{}", parts[0], parts[2])), PassError::Signature);
        assert_eq!(refused(&format!("{}.{}.", parts[0], parts[1])), PassError::Signature);
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS384"}"#, r#"{"alg":"HS256","crit":["b64"]}"#, "{}", "x"] {
            let token = format!("{}.{}.{}", BASE64.encode(header), parts[1], parts[2]);
            assert_eq!(refused(&token), PassError::Form, "{header}");
        }
        for token in ["", ".", "..", "a.b", "a.b.c.d", &good[1..]] {
            assert!(check_at(&secrets, token, "town", NOW).is_err(), "{token}");
        }
    }

    #[test]
    fn signatures_are_those_of_other_libraries() {
        // The example of jwt.io. It never ends, which a player's token must.
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ\
                     .SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
        let secret = "your-256-bit-secret";
        let (signed, signature) = token.rsplit_once('.').unwrap();
        assert!(mac(secret, signed).verify_slice(&BASE64.decode(signature).unwrap()).is_ok());
        assert_eq!(check_at(&[secret.to_owned()], token, "town", NOW), Err(PassError::Form));
    }

    #[test]
    fn a_secret_is_made_once_for_its_user_alone_and_can_be_changed_with_both_good() {
        let (_dir, keys) = keys();
        assert_eq!(std::fs::metadata(&keys.0).unwrap().permissions().mode() & 0o777, 0o600);
        let old = keys.sign(&pass()).unwrap();
        let before = keys.read().unwrap();
        assert_eq!(PassKeys::open(keys.0.clone()).unwrap().read().unwrap(), before);
        std::fs::write(&keys.0, format!("{}\n{}\n", "n".repeat(32), before[0])).unwrap();
        let both = keys.read().unwrap();
        assert!(check_at(&both, &old, "town", NOW).is_ok() && check(&keys, &pass(), "town").is_ok());
        assert_eq!(check_at(&both[..1], &old, "town", NOW), Err(PassError::Signature));
        std::fs::write(&keys.0, "short").unwrap();
        assert!(matches!(PassKeys::open(keys.0.clone()), Err(SecretError::Content(_))));
        assert_eq!(keys.check(&old, "town"), Err(PassError::NoSecret));
    }
}
