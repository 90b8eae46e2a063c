//! The cluster's own certificate authority: make it, issue nodes' certificates, look at what a node has.
//!
//! [`init_ca`] once per cluster, on a machine that is no node; [`issue`] for each node and again before its certificate ends; the
//! four files it writes (`ca.pem`, `node.pem`, `node.key`, `cookie`) go to the node's identity folder. [`check`] tells what is there.
//! To change the authority: make a new one, let `ca.pem` of every node hold both, issue all nodes anew, then take the old one out.
//! Not here: handshakes (`identity`). Certificates of another authority work too, if they have the two names of [`node_uri`] and
//! [`LINK_DNS`].

use std::{
    fs,
    io::Write,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

use super::identity;

/// The DNS name in every node's certificate, and the one that is asked for when dialling: the address of a node may change, its
/// certificate need not. Which node it is says the URI.
pub const LINK_DNS: &str = "node.aether.internal";
/// How long an authority lasts.
const CA_DAYS: u64 = 3650;
/// Clocks of machines differ; a certificate made now has to be good on one that is behind.
const BACKDATE: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Why a certificate was not made, or is not good.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Nothing is ever overwritten in an authority's folder.
    #[error(
        "{0} exists: an authority is made once; choose an empty folder, or delete it knowing that every node needs a new certificate"
    )]
    Exists(PathBuf),
    /// A name that cannot be used.
    #[error("{what} {name:?} must be 1 to 47 of a-z, 0-9, '-' and '_', a letter first")]
    Name {
        /// `cluster` or `node`.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// A host that is neither a DNS name nor an address.
    #[error("host {0:?} is neither a DNS name nor an IP address")]
    Host(String),
    /// Validity that makes no sense.
    #[error("{0} days of validity: choose 1 to 825")]
    Days(u32),
    /// The authority is of another cluster.
    #[error("the authority in {dir} is of cluster {found}, not {wanted}: point to the right folder")]
    OtherCluster {
        /// The authority's folder.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose was wanted.
        wanted: String,
    },
    /// A file is missing, or cannot be read or written.
    #[error("could not {verb} {path}")]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {what}; issue the node's certificate again")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A secret that others can read.
    #[error("{0} can be read by other users: chmod 600 it, and issue it again if they may have done so")]
    Mode(PathBuf),
    /// The certificate maker refused.
    #[error("could not make the certificate")]
    Make(#[from] rcgen::Error),
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

/// What is in a node's identity folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityInfo {
    /// The cluster in the certificate.
    pub cluster: String,
    /// The node in the certificate.
    pub node: String,
    /// Host names and addresses in the certificate.
    pub hosts: Vec<String>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// How many authorities `ca.pem` holds: two while changing from one to the other.
    pub authorities: usize,
    /// Less than a third of the validity is left, or none.
    pub renew: bool,
}

/// The URI in a node's certificate that says which node of which cluster it is.
pub fn node_uri(cluster: &str, node: &str) -> String {
    format!("spiffe://{cluster}/node/{node}")
}

/// Make the authority of a cluster and its secret in `dir`: `ca.pem`, `ca.key` and `cookie`.
pub fn init_ca(dir: &Path, cluster: &str) -> Result<(), PkiError> {
    name("cluster", cluster)?;
    fs::create_dir_all(dir).map_err(|source| PkiError::File { verb: "write", path: dir.into(), source })?;
    for file in ["ca.pem", "ca.key", "cookie"] {
        let path = dir.join(file);
        if path.exists() {
            return Err(PkiError::Exists(path));
        }
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, ca_name(cluster));
    (params.not_before, params.not_after) = validity(CA_DAYS);
    // No authority below this one.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(PkiError::Random)?;
    let cookie: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    write_all(
        dir,
        &[("ca.key", key.serialize_pem(), 0o600), ("cookie", cookie + "\n", 0o600), ("ca.pem", certificate.pem(), 0o644)],
    )
}

/// The cluster whose authority is in `ca_dir`.
pub fn authority(ca_dir: &Path) -> Result<String, PkiError> {
    let path = ca_dir.join("ca.pem");
    let names = certificates(&path, &read(&path)?)?;
    let named = names.iter().filter_map(identity::common_name).find_map(|name| Some(name.strip_prefix(CA_PREFIX)?.to_owned()));
    named.ok_or_else(|| PkiError::Content { path, what: "is not the authority of a cluster".into() })
}

/// Make a node's certificate with the authority in `ca_dir` and write all that the node needs to `out_dir`, over what was there.
pub fn issue(ca_dir: &Path, out_dir: &Path, cluster: &str, node: &str, hosts: &[String], days: u32) -> Result<(), PkiError> {
    name("cluster", cluster)?;
    name("node", node)?;
    if !(1..=825).contains(&days) {
        return Err(PkiError::Days(days));
    }
    let (ca_key_path, ca_path) = (ca_dir.join("ca.key"), ca_dir.join("ca.pem"));
    let content = |path: &Path, what: &str| PkiError::Content { path: path.into(), what: what.into() };
    private(&ca_key_path)?;
    let ca_pem = read(&ca_path)?;
    let cookie = cookie(ca_dir)?;
    let ca_key = KeyPair::from_pem(&read(&ca_key_path)?).map_err(|_| content(&ca_key_path, "is not a private key"))?;
    // `ca.pem` may hold a second authority: the one that signs is the one whose key is here.
    let ca = certificates(&ca_path, &ca_pem)?
        .into_iter()
        .find(|der| identity::public_key(der).is_some_and(|found| found == ca_key.subject_public_key_info()))
        .ok_or_else(|| content(&ca_path, "no certificate in it belongs to ca.key"))?;
    let found = identity::common_name(&ca).unwrap_or_default();
    if found != ca_name(cluster) {
        let found = found.strip_prefix(CA_PREFIX).unwrap_or(&found).to_owned();
        return Err(PkiError::OtherCluster { dir: ca_dir.into(), found, wanted: cluster.into() });
    }
    let issuer = Issuer::from_ca_cert_der(&ca, ca_key)?;

    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, node);
    (params.not_before, params.not_after) = validity(u64::from(days));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Either end of a link: who dials is the client.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names =
        vec![SanType::URI(node_uri(cluster, node).as_str().try_into()?), SanType::DnsName(LINK_DNS.try_into()?)];
    for host in hosts {
        let san = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if dns(host) => SanType::DnsName(host.as_str().try_into().map_err(|_| PkiError::Host(host.clone()))?),
            Err(_) => return Err(PkiError::Host(host.clone())),
        };
        params.subject_alt_names.push(san);
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, &issuer)?;
    fs::create_dir_all(out_dir).map_err(|source| PkiError::File { verb: "write", path: out_dir.into(), source })?;
    write_all(
        out_dir,
        &[
            ("ca.pem", ca_pem, 0o644),
            ("cookie", cookie + "\n", 0o600),
            ("node.key", key.serialize_pem(), 0o600),
            ("node.pem", certificate.pem(), 0o644),
        ],
    )
}

/// What is in a node's identity folder, after trying whether it would be accepted: for `doctor`, and before a node starts.
pub fn check(dir: &Path) -> Result<IdentityInfo, PkiError> {
    cookie(dir)?;
    private(&dir.join("node.key"))?;
    let (ca_path, node_path) = (dir.join("ca.pem"), dir.join("node.pem"));
    let authorities = certificates(&ca_path, &read(&ca_path)?)?.len();
    let chain = certificates(&node_path, &read(&node_path)?)?;
    let facts = chain.first().and_then(identity::facts);
    let facts = facts.ok_or_else(|| PkiError::Content {
        path: node_path,
        what: "its certificate does not name one node (spiffe://CLUSTER/node/NAME)".into(),
    })?;
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let (not_before, not_after) = (time(facts.not_before), time(facts.not_after));
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let whole = not_after.duration_since(not_before).unwrap_or_default();
    let (cluster, node, hosts) = (facts.cluster, facts.node, facts.hosts);
    Ok(IdentityInfo { cluster, node, hosts, not_before, not_after, authorities, renew: left * 3 < whole })
}

/// Until when the first certificate of a PEM file is good: for `doctor`.
pub fn expiry(path: &Path) -> Result<SystemTime, PkiError> {
    let chain = certificates(path, &read(path)?)?;
    let parsed = chain.first().and_then(|der| x509_parser::parse_x509_certificate(der).ok());
    let (_, certificate) =
        parsed.ok_or_else(|| PkiError::Content { path: path.into(), what: "holds no certificate that can be read".into() })?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The cluster's secret: 64 hexadecimal digits, readable by nobody else.
pub(super) fn cookie(dir: &Path) -> Result<String, PkiError> {
    let path = dir.join("cookie");
    private(&path)?;
    let text = read(&path)?.trim().to_owned();
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err(PkiError::Content { path, what: "is not 64 hexadecimal digits".into() })
}

pub(super) fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let bad = |what: String| PkiError::Content { path: path.into(), what };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(list) if list.is_empty() => Err(bad("holds no certificate".into())),
        Ok(list) => Ok(list),
        Err(e) => Err(bad(format!("is not PEM ({e})"))),
    }
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { verb: "read", path: path.into(), source })
}

/// Refuse a secret that group or others may read.
pub(super) fn private(path: &Path) -> Result<(), PkiError> {
    let meta = fs::metadata(path).map_err(|source| PkiError::File { verb: "read", path: path.into(), source })?;
    if meta.permissions().mode() & 0o077 == 0 { Ok(()) } else { Err(PkiError::Mode(path.into())) }
}

const CA_PREFIX: &str = "aether cluster ";

fn ca_name(cluster: &str) -> String {
    format!("{CA_PREFIX}{cluster}")
}

fn validity(days: u64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = SystemTime::now();
    ((now - BACKDATE).into(), (now + DAY * u32::try_from(days).unwrap_or(u32::MAX)).into())
}

/// The rule for all names: they stand in URIs, in ractor's `name@host` and on the command line.
pub(super) fn name(what: &'static str, name: &str) -> Result<(), PkiError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let good = name.len() <= 47 && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase) && name.bytes().all(inner);
    if good { Ok(()) } else { Err(PkiError::Name { what, name: name.into() }) }
}

fn dns(host: &str) -> bool {
    !host.is_empty() && host.len() <= 253 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// All files beside their places first, then each to its place: a full disk leaves the old ones as they were. Between the renames a
/// reader can see a certificate of one issue and a key of another; `reload_identity` finds that out and keeps what it had.
fn write_all(dir: &Path, files: &[(&str, String, u32)]) -> Result<(), PkiError> {
    let put = |path: &Path, text: &str, mode: u32| {
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    let failed = |path: PathBuf| move |source| PkiError::File { verb: "write", path, source };
    for (name, text, mode) in files {
        let path = dir.join(format!(".{name}.new"));
        put(&path, text, *mode).map_err(failed(path))?;
    }
    for (name, ..) in files {
        let path = dir.join(name);
        fs::rename(dir.join(format!(".{name}.new")), &path).map_err(failed(path))?;
    }
    fs::File::open(dir).and_then(|folder| folder.sync_all()).map_err(failed(dir.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_issued_checked_and_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, node) = (dir.path().join("ca"), dir.path().join("n"));
        init_ca(&ca, "test").unwrap();
        assert!(matches!(init_ca(&ca, "test"), Err(PkiError::Exists(_))), "never overwritten");
        issue(&ca, &node, "test", "n-1", &["db.example".into(), "10.0.0.7".into()], 30).unwrap();
        let info = check(&node).unwrap();
        assert_eq!((info.cluster.as_str(), info.node.as_str(), info.authorities, info.renew), ("test", "n-1", 1, false));
        assert_eq!(info.hosts, [LINK_DNS, "db.example", "10.0.0.7"]);
        identity::Identity::load(&node, "test", "n-1").unwrap();
        let before = read(&node.join("node.pem")).unwrap();
        issue(&ca, &node, "test", "n-1", &[], 30).unwrap();
        assert_ne!(read(&node.join("node.pem")).unwrap(), before);
        for secret in [ca.join("ca.key"), ca.join("cookie"), node.join("node.key"), node.join("cookie")] {
            assert_eq!(fs::metadata(secret).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(&node).unwrap().count(), 4, "nothing is left beside the four files");
    }

    #[test]
    fn what_cannot_be_issued_is_said_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("n"));
        let none: &[String] = &[];
        assert!(matches!(init_ca(&ca, "Test"), Err(PkiError::Name { what: "cluster", .. })));
        assert!(matches!(issue(&ca, &out, "test", "n", none, 30), Err(PkiError::File { verb: "read", .. })));
        init_ca(&ca, "test").unwrap();
        let other = issue(&ca, &out, "other", "n", none, 30).unwrap_err();
        assert!(other.to_string().ends_with("is of cluster test, not other: point to the right folder"), "{other}");
        assert!(matches!(issue(&ca, &out, "test", "n/x", none, 30), Err(PkiError::Name { what: "node", .. })));
        assert!(matches!(issue(&ca, &out, "test", "n", &["a b".into()], 30), Err(PkiError::Host(_))));
        assert!(matches!(issue(&ca, &out, "test", "n", none, 0), Err(PkiError::Days(0))));
        fs::set_permissions(ca.join("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(issue(&ca, &out, "test", "n", none, 30), Err(PkiError::Mode(_))));
        assert!(!out.exists(), "nothing was written");
    }

    #[test]
    fn an_identity_that_others_would_refuse_is_refused_here() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, other, node) = (dir.path().join("ca"), dir.path().join("other"), dir.path().join("n"));
        init_ca(&ca, "test").unwrap();
        init_ca(&other, "test").unwrap();
        issue(&ca, &node, "test", "n", &[], 30).unwrap();
        let load = |name: &str| match identity::Identity::load(&node, "test", name) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        };
        assert_eq!(load("n"), "");
        assert!(load("m").contains("is of node n in cluster test, but this is node m"));
        let (good_ca, good_key) = (read(&node.join("ca.pem")).unwrap(), read(&node.join("node.key")).unwrap());
        fs::copy(other.join("ca.pem"), node.join("ca.pem")).unwrap();
        assert!(load("n").contains("is not signed by an authority in ca.pem"));
        fs::write(node.join("ca.pem"), good_ca).unwrap();
        fs::copy(other.join("ca.key"), node.join("node.key")).unwrap();
        assert!(load("n").contains("does not fit node.pem"));
        fs::write(node.join("node.key"), good_key).unwrap();
        assert_eq!(load("n"), "");
    }
}
