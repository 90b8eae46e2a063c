//! The stream that ractor reads and writes, with the limits that ractor does not have.
//!
//! Reading: what comes from TLS goes through [`Guard`] before ractor sees a byte of it, and a peer that sends no whole frame within the
//! idle limit is cut off (ractor pings every five seconds at the latest, so silence means that the peer or the way to it is stuck).
//! Writing: a peer that takes nothing within the stall limit is cut off. Either half, or anyone with the [`Conn`], can end the
//! connection; both halves notice at once, and ractor ends its session because reading fails.
//! Not here: what happens then (`gateway` hears of it from the node server).

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    conn::Conn,
    cut::Cut,
    guard::{Expected, Guard},
};

/// One read from TLS; ractor asks for 8 bytes and then for 8 KiB at a time.
const CHUNK: usize = 32 * 1024;

/// A TLS connection on its way to ractor.
pub(super) struct Watched<S> {
    pub(super) inner: S,
    pub(super) conn: Arc<Conn>,
    pub(super) expected: Expected,
    pub(super) read_idle: Duration,
    pub(super) write_stall: Duration,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ClusterBidiStream for Watched<S> {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = tokio::io::split(self.inner);
        let now = Instant::now();
        let reader = Reader {
            inner: read,
            conn: self.conn.clone(),
            guard: Guard::new(self.expected, now),
            limit: self.read_idle,
            timer: Box::pin(tokio::time::sleep(self.read_idle)),
            chunk: vec![0; CHUNK].into(),
            from: 0,
            to: 0,
        };
        let writer = Writer { inner: write, conn: self.conn, limit: self.write_stall, timer: None };
        (Box::new(reader), Box::new(writer))
    }

    /// How the node server's events find their connection.
    fn peer_label(&self) -> Option<String> {
        Some(self.conn.id.to_string())
    }
}

struct Reader<R> {
    inner: R,
    conn: Arc<Conn>,
    guard: Guard,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    chunk: Box<[u8]>,
    /// What of `chunk` was judged and not yet read.
    from: usize,
    to: usize,
}

fn ended(why: Cut) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why.to_string())
}

impl<R> Reader<R> {
    fn end(&self, why: Cut, detail: &str) -> Poll<io::Result<()>> {
        Poll::Ready(Err(ended(self.conn.cut(why, detail))))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Reader<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.from == me.to {
            me.conn.park(cx.waker());
            // After parking: a cut between the two would wake nobody.
            if let Some(why) = me.conn.why() {
                return Poll::Ready(Err(ended(why)));
            }
            let mut chunk = ReadBuf::new(&mut me.chunk);
            match Pin::new(&mut me.inner).poll_read(cx, &mut chunk) {
                Poll::Ready(Ok(())) if chunk.filled().is_empty() => {
                    me.conn.cut(Cut::Closed, "it closed the connection");
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) => {
                    let judged = me.guard.feed(chunk.filled(), me.conn.is_authenticated(), &me.conn.queue, Instant::now());
                    (me.from, me.to) = (0, chunk.filled().len());
                    if let Err((why, detail)) = judged {
                        me.to = 0;
                        return me.end(why, detail);
                    }
                }
                Poll::Ready(Err(error)) => {
                    // ractor drops streams without TLS's goodbye; a cut-off in the middle of something shows in what is missing.
                    let plain = error.kind() == io::ErrorKind::UnexpectedEof;
                    me.conn.cut(Cut::Closed, if plain { "it closed the connection".into() } else { error.to_string() }.as_str());
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // The timer is set anew only when it rings, not with every frame.
                    while me.timer.as_mut().poll(cx).is_ready() {
                        let until = me.guard.last_frame() + me.limit;
                        if until <= Instant::now() {
                            return me.end(Cut::ReadIdle, "no whole frame within the limit");
                        }
                        me.timer.as_mut().reset(until.into());
                    }
                    return Poll::Pending;
                }
            }
        }
        let n = buf.remaining().min(me.to - me.from);
        buf.put_slice(&me.chunk[me.from..me.from + n]);
        me.from += n;
        Poll::Ready(Ok(()))
    }
}

struct Writer<W> {
    inner: W,
    conn: Arc<Conn>,
    limit: Duration,
    /// Runs while nothing is taken.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    fn watch<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.timer = None;
            return done;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(ended(self.conn.cut(Cut::WriteStall, "nothing was taken within the limit"))))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Writer<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if let Some(why) = me.conn.why() {
            return Poll::Ready(Err(ended(why)));
        }
        #[cfg(test)]
        if let Some(junk) = super::tests::injected() {
            // One write of a few bytes at the start of a batch: the socket takes it, or the test finds nothing and fails.
            let _ = Pin::new(&mut me.inner).poll_write(cx, &junk);
        }
        let done = Pin::new(&mut me.inner).poll_write(cx, bytes);
        me.watch(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let done = Pin::new(&mut me.inner).poll_flush(cx);
        me.watch(cx, done)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let done = Pin::new(&mut me.inner).poll_shutdown(cx);
        me.watch(cx, done)
    }
}
