//! A connection whose other side must go on taking what is sent.
//!
//! [`Stall`] stands between a socket and what writes to it: a write that has waited for too long is an error, which ends the connection.
//! So an answer, an event stream and a WebSocket alike have a deadline for who stops reading, however much is left to send. Not here: how
//! much may wait in memory before that (`hub`, the gateway's `outbox`), how long a connection may be idle (`http`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// See the file.
pub(crate) struct Stall<S> {
    stream: S,
    limit: Duration,
    /// While a write waits: until when.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Stall<S> {
    pub fn new(stream: S, limit: Duration) -> Stall<S> {
        Stall { stream, limit, waits: None }
    }

    /// What came of a try to write.
    fn tried<T>(&mut self, context: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.waits = None;
            return tried;
        }
        let limit = self.limit;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        ready!(waits.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "what was sent was not taken")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stall<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stall<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.tried(context, tried)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.tried(context, tried)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_flush(context);
        self.tried(context, tried)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_shutdown(context);
        self.tried(context, tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn who_stops_reading_ends_a_write_and_who_reads_slowly_does_not() {
        let (mine, mut theirs) = tokio::io::duplex(64);
        let mut stream = Stall::new(mine, LIMIT);
        // Each byte that is taken gives the next one as long again.
        let reads = tokio::spawn(async move {
            for _ in 0..8 {
                tokio::time::sleep(LIMIT / 2).await;
                theirs.read_exact(&mut [0; 32]).await.unwrap();
            }
            theirs
        });
        stream.write_all(&[1; 8 * 32]).await.unwrap();
        let _theirs = reads.await.unwrap();
        let begin = Instant::now();
        let error = stream.write_all(&[1; 1_000]).await.unwrap_err();
        assert!(error.kind() == io::ErrorKind::TimedOut && begin.elapsed() >= LIMIT, "{error}");
    }
}
