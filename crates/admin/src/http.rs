//! The admin API at an address: TCP or TLS, connections with bounds.
//!
//! Start with [`serve_http`]. An address that other machines reach needs TLS and tokens, or it is not served. A connection has a time for
//! its handshake, for each request's head and for what is sent to it ([`Stall`]); a stream's listener that does not keep up is closed by
//! [`Kill`]. [`Room`] bounds how many there are, in all and of one address. Not here: routes (`api`), who may ask (`gate`).

use crate::api::{Api, router};
use crate::audit::Audit;
pub(crate) use crate::gate::Peer;
use crate::gate::{Door, Gate};
use crate::gateway::Gateway;
use crate::server::ServeError;
use crate::sources::Sources;
use crate::stall::Stall;
use crate::tls::Certificate;
use crate::token::{Known, TokenStore};
use aether_cluster::Node;
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;

/// What is served where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOptions {
    /// The address; port 0: any that is free.
    pub listen: SocketAddr,
    /// Certificate chain and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The token file.
    pub tokens: PathBuf,
    /// The audit log.
    pub audit: PathBuf,
    /// Whether a token is needed also on loopback before any was ever made. `false`: whoever is on this machine may see and operate the
    /// node until the first token is made; for development only.
    pub require_token: bool,
    /// Connections at a time.
    pub connections_max: u32,
    /// Of them, those of one address (of an IPv6 network of 64 bits).
    pub connections_per_address: u32,
    /// A connection that takes nothing of what is sent to it for so long is closed.
    pub stall: Duration,
}

/// An address that is served until this is dropped.
pub struct HttpServer {
    address: SocketAddr,
    secure: bool,
    api: Arc<Api>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl HttpServer {
    /// The address, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Show what the node's player gateway counts, too.
    pub fn observe(&self, gateway: &Gateway) {
        let _ = self.api.gateway.set(gateway.counts());
    }

    /// What a browser opens.
    pub fn url(&self) -> String {
        format!("{}://{}/", if self.secure { "https" } else { "http" }, self.address)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Who waits for a tick's edge is not waited for.
            runtime.shutdown_background();
        }
        self.api.rest();
    }
}

/// Closes the connection of a request.
#[derive(Debug, Clone)]
pub(crate) struct Kill(pub Arc<Notify>);

/// Of a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secure;

/// Bytes of a connection's answers that the kernel may keep: what it does not take is noticed when they are full.
const SEND_BUFFER: u32 = 128 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Until a TLS handshake is done, and until a request's head has come; an idle connection has as long.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// After an accept failed, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serve a node's admin API and dashboard at an address.
pub fn serve_http(node: Arc<Node>, options: HttpOptions) -> Result<HttpServer, ServeError> {
    let HttpOptions { listen, tls, tokens, audit, require_token, connections_max, connections_per_address, stall } = options;
    let tokens = TokenStore::new(tokens);
    if !listen.ip().is_loopback() {
        if tls.is_none() {
            return Err(ServeError::NoTls(listen));
        }
        if !matches!(&*tokens.known(), Known::Tokens(tokens) if !tokens.is_empty()) {
            return Err(ServeError::NoTokens(listen));
        }
    }
    let certificate = tls.map(|(chain, key)| Certificate::open(chain, key)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("admin-http")
        .enable_all()
        .build()
        .map_err(ServeError::Thread)?;
    let bound = |source| ServeError::Bind { address: listen, source };
    let listener = runtime.block_on(async { bind(listen) }).map_err(bound)?;
    let address = listener.local_addr().map_err(bound)?;
    let api = Api::new(node, Gate::new(Door::Address { tokens, require_token }, Audit::new(audit)));
    // Readiness and history begin now, not with the first who asks.
    api.hub().map_err(|problem| ServeError::Thread(std::io::Error::other(problem)))?;
    let secure = certificate.is_some();
    let room = Room::new(connections_max, connections_per_address, stall);
    runtime.spawn(accept(listener, certificate.map(Arc::new), router(Arc::clone(&api)), room));
    Ok(HttpServer { address, secure, api, runtime: Some(runtime) })
}

/// Listen, in a runtime. Connections inherit the size of the send buffer.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How many connections there may be, and how patient one is.
pub(crate) struct Room {
    places: Arc<Semaphore>,
    /// Those of one source.
    sources: Sources,
    /// How long a write may wait.
    stall: Duration,
    /// How long one may last.
    lifetime: Option<Duration>,
}

impl Room {
    pub fn new(connections_max: u32, of_one_source: u32, stall: Duration) -> Room {
        let places = Arc::new(Semaphore::new(connections_max as usize));
        Room { places, sources: Sources::new(of_one_source), stall, lifetime: None }
    }

    /// For strangers: none for longer than this.
    pub fn lasting(self, lifetime: Duration) -> Room {
        Room { lifetime: Some(lifetime), ..self }
    }
}

/// Accept connections while there is room. One that is upgraded to a WebSocket is no connection of these any more.
pub(crate) async fn accept(listener: TcpListener, certificate: Option<Arc<Certificate>>, router: Router, room: Room) {
    loop {
        let Ok(place) = Arc::clone(&room.places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Closed without a word: an answer would take the place that there is not.
                let Some(one) = room.sources.enter(peer.ip()) else { continue };
                let _ = stream.set_nodelay(true);
                let stream = Stall::new(stream, room.stall);
                let connection = connection(stream, peer, certificate.clone(), router.clone());
                let lifetime = room.lifetime;
                tokio::spawn(async move {
                    match lifetime {
                        // Who reads no answers is not waited for.
                        Some(lifetime) => _ = tokio::time::timeout(lifetime, connection).await,
                        None => connection.await,
                    }
                    drop((place, one));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: Stall<TcpStream>, peer: SocketAddr, certificate: Option<Arc<Certificate>>, router: Router) {
    let router = router.layer(Extension(Peer(peer)));
    let Some(certificate) = certificate else { return converse(stream, router).await };
    let acceptor = TlsAcceptor::from(certificate.config());
    // Who speaks no TLS is not worth a line.
    if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIME, acceptor.accept(stream)).await {
        converse(stream, router.layer(Extension(Secure))).await;
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let kill = Arc::new(Notify::new());
    let service = TowerToHyperService::new(router.layer(Extension(Kill(Arc::clone(&kill)))));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(64 << 10);
    let talk = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        // A peer that goes away is none of our faults.
        _ = talk => {}
        () = kill.notified() => {}
    }
}
