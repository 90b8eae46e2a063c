//! The other side: asks a node on its socket, or at its address with a token.

use crate::problem::Problem;
use crate::{PublishBody, Request};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Why nothing was answered, or what was.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no node answers on {path}: start it with `aether run` (one of a cluster with `aether node`), or name the cluster file that it was started with"
    )]
    NoNode {
        /// Where.
        path: PathBuf,
        /// What was tried.
        source: std::io::Error,
    },
    /// Nobody listens at the address, or nobody who is trusted.
    #[error("no node answers at {url}: its cluster file's [admin] listen says where it does")]
    NoAddress {
        /// Where.
        url: String,
        /// What was tried.
        source: std::io::Error,
    },
    /// Not an address.
    #[error("{0:?} is no admin address: http://HOST:PORT, or https://HOST:PORT and the certificate of who signed its own")]
    BadAddress(String),
    /// The certificates of who is trusted.
    #[error("{path}: {text}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// It said no.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The connection broke, or what came is no answer.
    #[error("the node's answer could not be read: {0}")]
    Answer(String),
    /// It took too long.
    #[error("the node did not answer within {} s; it may still do what it was asked", .0.as_secs())]
    Late(Duration),
}

/// The largest answer: the status of thousands of worlds.
const ANSWER_MAX: usize = 256 << 20;
/// A reload watches its new version for some seconds, and a busy node takes its time.
const ANSWER_TIME: Duration = Duration::from_secs(180);

/// Until a connection stands.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Asks a node.
#[derive(Debug, Clone)]
pub struct Client(Way);

#[derive(Clone)]
enum Way {
    Socket(PathBuf),
    Address { url: String, host: String, port: u16, tls: Option<Arc<ClientConfig>>, token: Option<String> },
}

impl std::fmt::Debug for Way {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Way::Socket(path) => write!(f, "{}", path.display()),
            Way::Address { url, .. } => write!(f, "{url}"),
        }
    }
}

impl Client {
    /// A node's socket.
    pub fn new(path: PathBuf) -> Client {
        Client(Way::Socket(path))
    }

    /// A node's address: `http://HOST:PORT`, or `https://HOST:PORT` with the certificates (PEM) of who signed the node's.
    pub fn at(url: &str, token: Option<String>, authority: Option<&Path>) -> Result<Client, ClientError> {
        let bad = || ClientError::BadAddress(url.to_owned());
        let parsed: hyper::Uri = url.trim_end_matches('/').parse().map_err(|_| bad())?;
        let (Some(host), Some(port), "/" | "") = (parsed.host(), parsed.port_u16(), parsed.path()) else { return Err(bad()) };
        let tls = match (parsed.scheme_str(), authority) {
            (Some("http"), _) => None,
            (Some("https"), Some(path)) => Some(trust(path)?),
            _ => return Err(bad()),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Client(Way::Address { url: url.to_owned(), host, port, tls, token }))
    }

    /// Ask; gives the answer's JSON.
    pub fn ask(&self, request: &Request, body: &impl Serialize) -> Result<Value, ClientError> {
        let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
        let body = serde_json::to_vec(body).map_err(|e| answer(&e))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| answer(&e))?;
        runtime.block_on(async {
            match tokio::time::timeout(ANSWER_TIME, self.exchange(request, body)).await {
                Ok(answered) => answered,
                Err(_) => Err(ClientError::Late(ANSWER_TIME)),
            }
        })
    }

    async fn exchange(&self, request: &Request, body: Vec<u8>) -> Result<Value, ClientError> {
        match &self.0 {
            Way::Socket(path) => {
                let stream = tokio::net::UnixStream::connect(path).await;
                let stream = stream.map_err(|source| ClientError::NoNode { path: path.clone(), source })?;
                exchange(stream, "node", None, request, body).await
            }
            Way::Address { url, host, port, tls, token } => {
                let nobody = |source| ClientError::NoAddress { url: url.clone(), source };
                let late = || nobody(std::io::ErrorKind::TimedOut.into());
                let connect = tokio::net::TcpStream::connect((host.as_str(), *port));
                let stream = tokio::time::timeout(CONNECT_TIME, connect).await.map_err(|_| late())?.map_err(nobody)?;
                // The node compares it with where it was reached.
                let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                let Some(tls) = tls else { return exchange(stream, &authority, token.as_deref(), request, body).await };
                let name = ServerName::try_from(host.clone()).map_err(|_| ClientError::BadAddress(url.clone()))?;
                let secure = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                let stream = tokio::time::timeout(CONNECT_TIME, secure).await.map_err(|_| late())?.map_err(nobody)?;
                exchange(stream, &authority, token.as_deref(), request, body).await
            }
        }
    }

    /// Publish a script, or say what that would do.
    pub fn publish(&self, manifest: String, wasm: &[u8], plan: bool, canary: Option<usize>) -> Result<Value, ClientError> {
        self.ask(&Request::Publish { plan, canary }, &PublishBody { manifest, wasm: BASE64_STANDARD.encode(wasm) })
    }
}

/// Certificates that are trusted.
fn trust(path: &Path) -> Result<Arc<ClientConfig>, ClientError> {
    let bad = |text: String| ClientError::Authority { path: path.to_owned(), text };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    host: &str,
    token: Option<&str>,
    request: &Request,
    body: Vec<u8>,
) -> Result<Value, ClientError> {
    let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| answer(&e))?;
    tokio::spawn(connection);
    let (method, path) = request.route();
    let mut builder =
        hyper::Request::builder().method(method).uri(path).header("host", host).header("content-type", "application/json");
    if let Some(token) = token {
        builder = builder.header("authorization", format!("Bearer {token}"));
    }
    let request = builder.body(Full::new(Bytes::from(body))).map_err(|e| answer(&e))?;
    let response = sender.send_request(request).await.map_err(|e| answer(&e))?;
    let good = response.status().is_success();
    let bytes = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| answer(&e))?.to_bytes();
    if good {
        return serde_json::from_slice(&bytes).map_err(|e| answer(&e));
    }
    Err(match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => problem.into(),
        Err(_) => answer(&String::from_utf8_lossy(&bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port_and_a_token_is_not_printed() {
        for bad in ["127.0.0.1:80", "http://localhost", "ftp://a:1", "http://a:1/v1", "https://a:1", ""] {
            assert!(matches!(Client::at(bad, None, None), Err(ClientError::BadAddress(_))), "{bad}");
        }
        for good in ["http://127.0.0.1:80", "http://localhost:7411/", "http://[::1]:80"] {
            let client = Client::at(good, Some("secret".into()), None).unwrap();
            assert!(!format!("{client:?}").contains("secret"));
        }
    }
}
