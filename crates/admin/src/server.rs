//! The admin API on a Unix socket, for commands on the same machine.

use crate::api::{Api, router};
use crate::audit::Audit;
use crate::gate::{Door, Gate};
use crate::gateway::Gateway;
use aether_cluster::Node;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a node's admin API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error("could not listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The address.
    #[error("could not listen on {address}: set another admin.listen, or stop what has it")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// An address of other machines without TLS.
    #[error("{0} can be reached by other machines: set admin.tls_cert and admin.tls_key, or listen on 127.0.0.1")]
    NoTls(SocketAddr),
    /// An address of other machines before there is a token.
    #[error("{0} can be reached by other machines and there is no token: make one with `aether token make NAME --role ROLE`")]
    NoTokens(SocketAddr),
    /// The certificate or its key.
    #[error("{path}: {text}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The runtime.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

/// A socket that is served until this is dropped.
pub struct Server {
    path: PathBuf,
    api: Arc<Api>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    /// Show what the node's player gateway counts, too.
    pub fn observe(&self, gateway: &Gateway) {
        let _ = self.api.gateway.set(gateway.counts());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(runtime) = self.runtime.take() {
            // Who waits for a tick's edge is not waited for.
            runtime.shutdown_background();
        }
        self.api.rest();
    }
}

/// Serve a node's admin API on a socket. One that a dead process left there is replaced: the data directory is locked by its node.
/// Changes are written to `audit.jsonl` beside it.
pub fn serve(node: Arc<Node>, path: PathBuf) -> Result<Server, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("admin")
        .enable_all()
        .build()
        .map_err(ServeError::Thread)?;
    let listen = || -> std::io::Result<tokio::net::UnixListener> {
        // Who may not enter the folder cannot connect, from the first moment on.
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let _context = runtime.enter();
        tokio::net::UnixListener::bind(&path)
    };
    let listener = listen().map_err(|source| ServeError::Listen { path: path.clone(), source })?;
    let api = Api::new(node, Gate::new(Door::Socket, Audit::new(path.with_file_name("audit.jsonl"))));
    let router = router(Arc::clone(&api));
    runtime.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin socket failed");
        }
    });
    Ok(Server { path, api, runtime: Some(runtime) })
}
