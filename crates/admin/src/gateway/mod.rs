//! The player gateway: WebSockets of players' clients, and a small browser client that shows how to use them.
//!
//! [`serve_gateway`] serves one address of a node; a player may come to any node's, whichever runs the world. From the socket inwards:
//! `mod` (the listener and its routes), [`protocol`] (every frame, and what it means), [`pass`] (who a player is), `session` (one
//! connection), `outbox` (what waits for a slow one), `follow` (a world, for all sessions that are in it), `counts` (for `/metrics`).
//! `client/` is the browser's side, of which nothing is built. Not here: what a tick shows and when it may be seen (`aether-cluster`:
//! `world/show`, `world/gate`), how it gets from another node (`membership/stage` there), administrators (`crate::http`).

mod client;
mod counts;
mod follow;
mod outbox;
pub mod pass;
pub mod protocol;
pub mod session;

pub use counts::Counts;

use crate::gate::{is_own_page, protect};
use crate::http::{Peer, Room, Secure, accept, bind};
use crate::problem::Problem;
use crate::server::ServeError;
use crate::sources::Sources;
use crate::tls::Certificate;
use aether_cluster::Node;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use follow::Worlds;
use pass::{PassKeys, SecretError};
use protocol::Code;
use session::{House, MESSAGE_MAX};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What is served where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayOptions {
    /// The address; port 0: any that is free.
    pub listen: SocketAddr,
    /// Certificate chain and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether guests need a token too. `false`: who is on this machine may play without; for development only.
    pub require_token: bool,
    /// The file of the secret that players' tokens are signed with; made if it is not there.
    pub secret: PathBuf,
    /// Scripts that players may call, by their names in a world.
    pub scripts: Vec<String>,
    /// Sessions at a time.
    pub sessions_max: u32,
    /// Inputs a second of one session.
    pub inputs_per_second: u32,
    /// Whether the browser client is served at `/`.
    pub client: bool,
}

/// Why a gateway cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address.
    #[error("could not listen on {address}: set another gateway.listen, or stop what has it")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// An address of other machines without TLS.
    #[error(
        "{0} can be reached by other machines: set gateway.tls_cert and gateway.tls_key, or listen on 127.0.0.1 behind what has TLS"
    )]
    NoTls(SocketAddr),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] ServeError),
    /// The secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The runtime.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

/// A gateway that is served until this is dropped; then its sessions are told that the node stops.
pub struct Gateway {
    address: SocketAddr,
    secure: bool,
    house: Arc<House>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Connections that are not sessions: pages, and WebSockets before their upgrade.
const CONNECTIONS_MAX: u32 = 512;
/// Of them, those of one address: a browser opens six.
const CONNECTIONS_OF_SOURCE_MAX: u32 = 64;
/// What is sent to one is taken in that time; a session's messages have a shorter one of their own.
const STALL: Duration = Duration::from_secs(20);
/// A page is loaded in that time, or a WebSocket upgraded.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// WebSockets that have not said who they are, of all sources and of one.
const GREETINGS_MAX: usize = 1_024;
const GREETINGS_OF_SOURCE_MAX: u32 = 64;
/// How long sessions may take to be told that the node stops.
const FAREWELL: Duration = Duration::from_secs(2);

impl Gateway {
    /// The address, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a browser opens.
    pub fn url(&self) -> String {
        format!("{}://{}/", if self.secure { "https" } else { "http" }, self.address)
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.house.counts)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.house.worlds.end_all(Code::Away, "the node stops");
        let begin = Instant::now();
        while self.house.counts.sessions.load(Relaxed) > 0 && begin.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Tasks hold the node: they are dropped before it stops.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// What handlers have.
struct Door {
    house: Arc<House>,
    greetings: Arc<Semaphore>,
    sources: Sources,
    require_token: bool,
}

/// Serve a node's player gateway at an address.
pub fn serve_gateway(node: Arc<Node>, options: GatewayOptions) -> Result<Gateway, GatewayError> {
    let GatewayOptions { listen, tls, require_token, secret, scripts, sessions_max, inputs_per_second, client } = options;
    if !listen.ip().is_loopback() && tls.is_none() {
        return Err(GatewayError::NoTls(listen));
    }
    let keys = PassKeys::open(secret)?;
    let certificate = tls.map(|(chain, key)| Certificate::open(chain, key)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("gateway")
        .enable_all()
        .build()
        .map_err(GatewayError::Thread)?;
    let bound = |source| GatewayError::Bind { address: listen, source };
    let listener = runtime.block_on(async { bind(listen) }).map_err(bound)?;
    let address = listener.local_addr().map_err(bound)?;
    let counts = Arc::<Counts>::default();
    let house = Arc::new(House {
        worlds: Worlds::new(node, Arc::clone(&counts)),
        counts,
        keys,
        scripts: scripts.into_iter().collect(),
        inputs_per_second: NonZeroU32::new(inputs_per_second).unwrap_or(NonZeroU32::MIN),
        players: Mutex::default(),
        places: Arc::new(Semaphore::new(sessions_max as usize)),
    });
    let (greetings, sources) = (Arc::new(Semaphore::new(GREETINGS_MAX)), Sources::new(GREETINGS_OF_SOURCE_MAX));
    let door = Arc::new(Door { house: Arc::clone(&house), greetings, sources, require_token });
    let secure = certificate.is_some();
    let room = Room::new(CONNECTIONS_MAX, CONNECTIONS_OF_SOURCE_MAX, STALL).lasting(CONNECTION_LIFE);
    runtime.spawn(accept(listener, certificate.map(Arc::new), router(door, client), room));
    Ok(Gateway { address, secure, house, runtime: Some(runtime) })
}

fn router(door: Arc<Door>, client: bool) -> Router {
    let mut router = Router::new().route("/play", get(play));
    if client {
        router = router.route("/", get(client::serve)).route("/client/{file}", get(client::serve)).route("/worlds", get(worlds));
    }
    let nothing = || async { Problem::new(StatusCode::NOT_FOUND, "there is nothing here: players connect to /play") };
    router.fallback(nothing).with_state(door).layer(from_fn(guard))
}

async fn guard(request: Request, next: Next) -> Response {
    let secure = request.extensions().get::<Secure>().is_some();
    let mut response = next.run(request).await;
    protect(response.headers_mut(), secure);
    response
}

/// The worlds of this node's file, for the browser client to choose from: first those in which there is something to call.
async fn worlds(State(door): State<Arc<Door>>) -> Json<Vec<String>> {
    let house = &door.house;
    let mut names = house.worlds.names_with(|script| house.scripts.contains(script));
    names.extend(house.worlds.names().into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
    Json(names)
}

async fn play(
    State(door): State<Arc<Door>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let greeting = Arc::clone(&door.greetings).try_acquire_owned().ok().zip(door.sources.enter(peer.ip()));
    let Some(greeting) = greeting else {
        door.house.counts.end(Some(Code::Later));
        let mut problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many have not said yet who they are");
        problem.retry_after = Some(5);
        return problem.into_response();
    };
    // A page elsewhere must not play in the name of who looks at it; a token is in no page's reach.
    let guests = !door.require_token && peer.ip().is_loopback() && is_own_page(&headers);
    let house = Arc::clone(&door.house);
    upgrade.max_message_size(MESSAGE_MAX).max_frame_size(MESSAGE_MAX).read_buffer_size(MESSAGE_MAX).on_upgrade(
        move |socket| async move {
            session::serve(house, socket, guests, greeting).await;
        },
    )
}
