//! Who this node is, and whom it believes: TLS 1.3 with certificates on both sides.
//!
//! [`Identity::load`] reads the folder once; the result is swapped whole when it is reloaded, so a handshake sees either the old files
//! or the new ones. [`peer`] reads the other side's name after the handshake. No session is ever resumed: a resumed one would skip the
//! certificate check, and an expired or replaced authority would go on being believed.
//! Not here: making certificates (`pki`), what the two nodes say to each other next (`hello`).

use std::{net::IpAddr, path::Path, sync::Arc};

use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        client::Resumption,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
        sign::CertifiedKey,
        version::TLS13,
    },
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::pki::{self, PkiError};

/// Two programs that speak TLS on the same port by mistake part in the handshake.
const ALPN: &[u8] = b"aether-link";

/// The loaded folder.
pub(super) struct Identity {
    pub(super) cookie: String,
    pub(super) acceptor: TlsAcceptor,
    pub(super) connector: TlsConnector,
}

/// What a node's certificate says.
pub(super) struct Facts {
    pub(super) cluster: String,
    pub(super) node: String,
    pub(super) hosts: Vec<String>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Identity {
    /// Read `dir` and refuse what other nodes would refuse.
    pub(super) fn load(dir: &Path, cluster: &str, node: &str) -> Result<Identity, PkiError> {
        let info = pki::check(dir)?;
        let (ca_path, node_path, key_path) = (dir.join("ca.pem"), dir.join("node.pem"), dir.join("node.key"));
        let bad = |path: &Path, what: String| PkiError::Content { path: path.into(), what };
        if (info.cluster.as_str(), info.node.as_str()) != (cluster, node) {
            let what = format!(
                "is of node {} in cluster {}, but this is node {node} in cluster {cluster} by its settings",
                info.node, info.cluster
            );
            return Err(bad(&node_path, what));
        }
        let now = std::time::SystemTime::now();
        if now > info.not_after || now < info.not_before {
            return Err(bad(&node_path, "is not valid at this time: look at the certificate's dates and at the clock".into()));
        }
        if info.renew {
            tracing::warn!(node, "less than a third of the certificate's validity is left: issue a new one");
        }
        let chain = pki::certificates(&node_path, &pki::read(&node_path)?)?;
        let key = PrivateKeyDer::from_pem_slice(pki::read(&key_path)?.as_bytes())
            .map_err(|e| bad(&key_path, format!("is not a private key ({e})")))?;
        let mut roots = RootCertStore::empty();
        for ca in pki::certificates(&ca_path, &pki::read(&ca_path)?)? {
            roots.add(ca).map_err(|e| bad(&ca_path, format!("holds what is not an authority ({e})")))?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(aws_lc_rs::default_provider()));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| bad(&ca_path, e.to_string()))?;
        // Would another node believe this certificate? Found out here rather than as a refusal there.
        let time = tokio_rustls::rustls::pki_types::UnixTime::now();
        if let Some((leaf, rest)) = chain.split_first() {
            verifier
                .verify_client_cert(leaf, rest, time)
                .map_err(|e| bad(&node_path, format!("is not signed by an authority in ca.pem, or not for this use ({e})")))?;
        }
        let mismatch = |e| bad(&key_path, format!("does not fit node.pem ({e})"));
        let mut server = versions(ServerConfig::builder_with_provider(provider.clone()))
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(mismatch)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(mismatch)?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Identity {
            cookie: pki::cookie(dir)?,
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

/// For ractor's own listener, which cannot be switched off: no handshake with it ever succeeds.
pub(super) fn refuse_everyone() -> TlsAcceptor {
    #[derive(Debug)]
    struct Nothing;
    impl ResolvesServerCert for Nothing {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let config =
        versions(ServerConfig::builder_with_provider(provider)).with_no_client_auth().with_cert_resolver(Arc::new(Nothing));
    TlsAcceptor::from(Arc::new(config))
}

fn versions(
    builder: tokio_rustls::rustls::ConfigBuilder<ServerConfig, tokio_rustls::rustls::WantsVersions>,
) -> tokio_rustls::rustls::ConfigBuilder<ServerConfig, tokio_rustls::rustls::WantsVerifier> {
    builder.with_protocol_versions(&[&TLS13]).expect("the provider has TLS 1.3")
}

/// The node that the other side's certificate names, if it is one of `cluster`.
pub(super) fn peer(chain: Option<&[CertificateDer<'_>]>, cluster: &str) -> Option<String> {
    let found = facts(chain?.first()?)?;
    (found.cluster == cluster).then_some(found.node)
}

/// A certificate with exactly one URI, which names a node.
pub(super) fn facts(der: &CertificateDer<'_>) -> Option<Facts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let (mut uri, mut hosts) = (None, Vec::new());
    for name in names {
        match name {
            GeneralName::URI(_) if uri.is_some() => return None,
            GeneralName::URI(text) => uri = Some(*text),
            GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                hosts.extend(v4.or(<[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string()));
            }
            _ => {}
        }
    }
    let (cluster, node) = uri?.strip_prefix("spiffe://")?.split_once("/node/")?;
    pki::name("cluster", cluster).and(pki::name("node", node)).ok()?;
    let (not_before, not_after) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    Some(Facts { cluster: cluster.into(), node: node.into(), hosts, not_before, not_after })
}

/// A certificate's public key, as in its request.
pub(super) fn public_key(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Some(X509Certificate::from_der(der).ok()?.1.public_key().raw.to_vec())
}

/// The name a certificate is made out to.
pub(super) fn common_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}
