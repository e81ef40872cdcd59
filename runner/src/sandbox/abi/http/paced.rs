//! A connection over which a server can't keep a run busy: reads yield now and then, and are bounded until the answer begins.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After so many bytes, a read yields, so that everything else in the run has its turn, its timeout included. A server can send
/// data that takes long to parse and never becomes an answer.
const TURN: usize = 64 << 10;

/// The most bytes that are read before an answer has begun. Servers can announce it as often as they like (`100 Continue`).
pub const MAX_BEFORE: usize = 512 << 10;

pub struct Paced<S> {
    stream: S,
    /// Read since the last pause.
    turn: usize,
    left: Left,
}

/// How many bytes may be read until the answer begins.
#[derive(Clone)]
pub struct Left(Arc<AtomicUsize>);

impl<S> Paced<S> {
    pub fn new(stream: S) -> (Paced<S>, Left) {
        let left = Left(Arc::new(AtomicUsize::new(MAX_BEFORE)));
        (Paced { stream, turn: 0, left: left.clone() }, left)
    }
}

impl Left {
    /// The answer has begun. Its body has a limit of its own.
    pub fn lift(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            usize::MAX => Ok(()),
            left => {
                let left = left.checked_sub(bytes).ok_or(io::ErrorKind::QuotaExceeded)?;
                self.0.store(left, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn >= TURN {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        self.turn += read;
        Poll::Ready(self.left.take(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
