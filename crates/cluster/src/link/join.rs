//! How a connection becomes a link: accept or dial, TLS, hello, handing over to ractor.
//!
//! Read [`accept_loop`] and [`dial_loop`]; both end in [`Inner::join`]. A connection that fails before that costs a task and a socket
//! for at most two deadlines, and one more entry in the counts. Only the node with the smaller name dials, so there are never two
//! connections that cross; if a peer dials again (it restarted, or lost the link unnoticed here), the newer connection replaces the
//! older one, and joins only after ractor has let go of that: ractor would otherwise elect one of the two by a random number.
//! Not here: what is said in the hello (`hello`), what happens on a link (`gateway`).

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use ractor_cluster::NodeServerMessage;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;

use super::{
    Inner,
    conn::{Agreed, Conn, Stage},
    credit::{Credit, Queue},
    cut::Cut,
    frame::GatewayMsg,
    guard::Expected,
    hello::{self, Failed, Heard, Introduction},
    identity, pki,
    stream::Watched,
    table::Slot,
};

/// What ractor may take to let go of a session after its stream has failed.
const LETTING_GO: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts to dial; each is drawn from half to one and a half of it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A link that lasted this long was a good one: the next attempt begins with the first pause again.
const LASTED: Duration = Duration::from_secs(10);

/// What the kernel may hold of one connection on each side. Left to itself it holds more than a whole window, and then a frozen peer
/// under load is noticed by its silence only, after the idle limit instead of the stall limit.
const SOCKET_BYTES: u32 = 1 << 20;

/// Handshakes under way, oldest first.
type Pending = Arc<Mutex<VecDeque<(u64, AbortHandle)>>>;

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    Ok(socket)
}

/// Listen at the first address that it is a name for.
pub(super) async fn listen(address: &str) -> io::Result<TcpListener> {
    let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let address = lookup_host(address).await?.next().ok_or(none)?;
    let socket = socket(address)?;
    // A restart need not wait for the kernel to forget the old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Accepted sockets have the listener's buffers.
    socket.listen(128)
}

/// Connect to the first address that answers.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(address).await? {
        match socket(address)?.connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Accept connections until the task is aborted.
pub(super) async fn accept_loop(inner: Arc<Inner>, listener: TcpListener) {
    let pending: Pending = Arc::default();
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would spin.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let id = inner.next_id();
        let mut queue = pending.lock().unwrap_or_else(PoisonError::into_inner);
        // The oldest gives way, not the newest: a handshake takes milliseconds, so the oldest is one that says nothing.
        if queue.len() >= inner.limits.pending_handshakes
            && let Some((_, oldest)) = queue.pop_front()
        {
            oldest.abort();
            inner.strangers.count(Cut::Crowded);
        }
        let task = accepted(inner.clone(), tcp, id, pending.clone());
        let task = async move {
            if let Err((peer, Failed(why, detail))) = task.await {
                tracing::info!(peer, %address, %why, detail, "refused a connection");
            }
        };
        queue.push_back((id, tokio::spawn(task).abort_handle()));
    }
}

async fn accepted(inner: Arc<Inner>, tcp: TcpStream, id: u64, pending: Pending) -> Result<(), (Option<String>, Failed)> {
    let handshake = async {
        let acceptor = inner.identity().acceptor.clone();
        tcp.set_nodelay(true).map_err(|e| (None, e.into()))?;
        let tls = within(inner.limits.tls_ms, acceptor.accept(tcp)).await;
        let mut tls = tls.and_then(|tls| tls.map_err(|e| Failed(Cut::Tls, e.to_string()))).map_err(|e| (None, e))?;
        let peer = identity::peer(tls.get_ref().1.peer_certificates(), &inner.cluster);
        let greeted = greet(&inner, &mut tls, id, peer.as_deref(), None).await;
        match (greeted, peer) {
            (Ok(conn), _) => Ok((tls, conn)),
            (Err(failed), peer) => Err((peer, failed)),
        }
    };
    let done = handshake.await;
    {
        let mut queue = pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = queue.iter().position(|(other, _)| *other == id) else {
            // Gave way while finishing. Counted there.
            return Ok(());
        };
        queue.remove(at);
    }
    let (tls, (conn, slot)) = done.inspect_err(|(peer, Failed(why, detail))| inner.failed(peer.as_deref(), *why, detail))?;
    inner.join(tls, conn, slot, true).await;
    Ok(())
}

/// Keep one peer linked, until the task is aborted.
pub(super) async fn dial_loop(inner: Arc<Inner>, slot: Arc<Slot>) {
    let mut pause = BACKOFF.0;
    loop {
        let began = Instant::now();
        match dial(&inner, &slot).await {
            Ok(conn) => while !conn.reached(Stage::Gone, Duration::from_secs(60)).await {},
            Err(Failed(why, detail)) => {
                inner.failed(Some(&slot.name), why, &detail);
                tracing::info!(peer = slot.name, address = slot.address, %why, detail, "could not link");
            }
        }
        if began.elapsed() >= LASTED {
            pause = BACKOFF.0;
        }
        tokio::time::sleep(pause.mul_f64(inner.jitter())).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

async fn dial(inner: &Arc<Inner>, slot: &Arc<Slot>) -> Result<Arc<Conn>, Failed> {
    let tcp = within(inner.limits.tls_ms, connect(&slot.address)).await??;
    tcp.set_nodelay(true)?;
    let connector = inner.identity().connector.clone();
    let name = ServerName::try_from(pki::LINK_DNS).map_err(|e| Failed(Cut::Identity, e.to_string()))?;
    let tls = within(inner.limits.tls_ms, connector.connect(name, tcp)).await?;
    let mut tls = tls.map_err(|e| Failed(Cut::Tls, e.to_string()))?;
    let peer = identity::peer(tls.get_ref().1.peer_certificates(), &inner.cluster);
    let (conn, slot) = greet(inner, &mut tls, inner.next_id(), peer.as_deref(), Some(slot)).await?;
    inner.join(tls, conn.clone(), slot, false).await;
    Ok(conn)
}

async fn within<T>(ms: u64, what: impl Future<Output = T>) -> Result<T, Failed> {
    let late = |_| Failed(Cut::HandshakeTimeout, format!("not within {ms} ms"));
    timeout(Duration::from_millis(ms), what).await.map_err(late)
}

/// The hello, with every check of who it is. `wanted` is the node that was dialled.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    inner: &Inner,
    stream: &mut S,
    id: u64,
    certified: Option<&str>,
    wanted: Option<&Arc<Slot>>,
) -> Result<(Arc<Conn>, Arc<Slot>), Failed> {
    let limits = &inner.limits;
    let mut token = [0u8; 8];
    getrandom::fill(&mut token).map_err(|e| Failed(Cut::BadHello, format!("no random bytes from the operating system: {e}")))?;
    let mine = Introduction {
        cluster: inner.cluster.clone(),
        node: inner.node.clone(),
        token: u64::from_le_bytes(token),
        window_bytes: limits.window_bytes,
        window_messages: limits.window_messages,
        payload_bytes_max: limits.payload_bytes_max,
    };
    let conversation = async {
        let Heard { version, build, introduction: theirs } = hello::introduce(stream, &mine).await?;
        let slot = certified.and_then(|peer| inner.table.slot(peer));
        let verdict = match (certified, wanted, &slot) {
            _ if inner.is_stopping() => Err(Cut::Stopping),
            (None, ..) => Err(Cut::Identity),
            _ if theirs.cluster != inner.cluster => Err(Cut::Identity),
            (Some(name), ..) if theirs.node != name => Err(Cut::WrongName),
            (Some(name), Some(wanted), _) if wanted.name != name => Err(Cut::WrongName),
            (Some(name), None, _) if name >= inner.node.as_str() => Err(Cut::WrongDirection),
            (_, _, None) => Err(Cut::NotListed),
            (_, _, Some(slot)) => Ok(slot.clone()),
        };
        hello::agree(stream, verdict.as_ref().map(|_| ()).map_err(|why| *why)).await?;
        let slot = verdict.map_err(|why| Failed(why, why.to_string()))?;
        let conn = Conn::new(Agreed {
            id,
            peer: slot.name.clone(),
            version,
            build,
            token: mine.token,
            their_token: theirs.token,
            payload_bytes_max: theirs.payload_bytes_max.min(limits.payload_bytes_max),
            // The smaller of what they allow and what this node wants to keep for them.
            credit: Credit::new(theirs.window_bytes.min(limits.window_bytes), theirs.window_messages.min(limits.window_messages)),
            queue: Queue::new(limits.window_bytes, limits.window_messages),
        });
        Ok((Arc::new(conn), slot))
    };
    within(limits.tls_ms, conversation).await?
}

impl Inner {
    /// Hand a connection to ractor and wait until it is up, or see to its end.
    async fn join<S>(self: &Arc<Inner>, tls: S, conn: Arc<Conn>, slot: Arc<Slot>, is_server: bool)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(actors) = self.actors.get() else { return };
        let limits = &self.limits;
        let deadline = Duration::from_millis(limits.auth_ms);
        // Ends a link, or a join that would hold the turn until its deadline.
        const AGAIN: &str = "the same node connected again";
        slot.current().inspect(|old| _ = old.cut(Cut::Replaced, AGAIN));
        let Ok(_turn) = timeout(deadline * 2, slot.turn.lock()).await else { return };
        if let Some(old) = slot.current() {
            old.cut(Cut::Replaced, AGAIN);
            if !old.reached(Stage::Gone, LETTING_GO).await {
                self.gone(&old);
            }
        }
        slot.set(conn.clone());
        self.table.add(conn.clone());
        if !slot.listed.load(Relaxed) {
            conn.cut(Cut::NotListed, "taken off the list while joining");
        }
        let expected = Expected {
            ractor_name: conn.ractor_name.clone(),
            gateway: actors.gateway.get_id().pid(),
            frame_bytes_max: limits.frame_bytes_max(),
        };
        let stream = Watched {
            inner: tls,
            conn: conn.clone(),
            expected,
            read_idle: Duration::from_millis(limits.read_idle_ms),
            write_stall: Duration::from_millis(limits.write_stall_ms),
        };
        self.to_gateway(GatewayMsg::Joined(conn.clone()));
        let opened = NodeServerMessage::ConnectionOpenedExternal { stream: Box::new(stream), is_server };
        if actors.node_server.cast(opened).is_err() {
            conn.cut(Cut::Stopping, "the node server is gone");
        }
        if conn.why().is_some() || !conn.reached(Stage::Up, deadline).await {
            conn.cut(Cut::AuthTimeout, "both gateways did not find each other in time");
            if !conn.reached(Stage::Gone, LETTING_GO).await {
                self.gone(&conn);
            }
        }
    }
}
