//! The certificate of the admin address, read again when its files change: those who renew certificates do not restart nodes.

use crate::server::ServeError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(30);

/// A certificate chain and its key.
pub(crate) struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    now: Mutex<Now>,
}

struct Now {
    config: Arc<ServerConfig>,
    /// When the files were written.
    written: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Certificate {
    /// Read and check the files.
    pub fn open(chain: PathBuf, key: PathBuf) -> Result<Certificate, ServeError> {
        let now = Now { config: load(&chain, &key)?, written: written(&chain, &key), looked: Instant::now() };
        Ok(Certificate { chain, key, now: Mutex::new(now) })
    }

    /// For the next connection. Files that changed and are not good leave the old certificate in use.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.looked.elapsed() >= LOOK {
            now.looked = Instant::now();
            let written = written(&self.chain, &self.key);
            if written != now.written {
                match load(&self.chain, &self.key) {
                    Ok(config) => (now.config, now.written) = (config, written),
                    Err(error) => tracing::error!(%error, "the new certificate is not used"),
                }
            }
        }
        Arc::clone(&now.config)
    }
}

fn written(chain: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [chain, key].map(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}

/// Whether an address could be served with these files: both can be read, and the key is that of the certificate.
pub fn check_certificate(chain: &Path, key: &Path) -> Result<(), ServeError> {
    load(chain, key).map(drop)
}

fn load(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, ServeError> {
    let bad = |path: &Path, text: String| ServeError::Certificate { path: path.to_owned(), text };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(chain).map_err(|error| bad(chain, error.to_string()))?.collect();
    let certificates = certificates.map_err(|error| bad(chain, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, secret))
        .map_err(|error| bad(chain, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
