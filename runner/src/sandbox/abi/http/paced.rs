//! A connection over which a server can't keep a run busy: reads yield now and then, and are bounded until the answer begins.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};

/// A read returns no more bytes than this, and the next one yields, so that everything else in the run has its turn, its timeout
/// included. A server can send data that takes long to parse and never becomes an answer.
const TURN: u64 = 16 << 10;

/// The most bytes that are read before an answer has begun. Servers can announce it as often as they like (`100 Continue`).
pub const MAX_BEFORE: usize = 512 << 10;

pub struct Paced<S> {
    /// Its limit is what is left of this turn.
    stream: Take<S>,
    left: Left,
}

/// How many bytes may be read until the answer begins.
#[derive(Clone)]
pub struct Left(Arc<AtomicUsize>);

impl<S: AsyncRead> Paced<S> {
    pub fn new(stream: S) -> (Paced<S>, Left) {
        let left = Left(Arc::new(AtomicUsize::new(MAX_BEFORE)));
        (Paced { stream: stream.take(TURN), left: left.clone() }, left)
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
        if self.stream.limit() == 0 {
            self.stream.set_limit(TURN);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.left.take(buffer.filled().len().saturating_sub(before)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_server_that_sends_without_end_gets_a_turn_at_a_time() {
        let (mut paced, left) = Paced::new(tokio::io::repeat(b'0'));
        left.lift();
        let mut room = vec![0; 1 << 20];
        let mut read = || {
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut paced).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Ready(read) => Some(read.map(|()| buffer.filled().len() as u64).unwrap()),
                Poll::Pending => None,
            }
        };
        for _ in 0..3 {
            assert_eq!((read(), read()), (Some(TURN), None));
        }
    }

    #[test]
    fn an_answer_that_never_begins_is_an_error() {
        let (mut paced, _left) = Paced::new(tokio::io::repeat(b'0'));
        let mut room = vec![0; 1 << 20];
        let mut total = 0;
        let error = loop {
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut paced).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Ready(Ok(())) => total += buffer.filled().len(),
                Poll::Ready(Err(error)) => break error,
                Poll::Pending => {}
            }
            assert!(total <= MAX_BEFORE);
        };
        assert_eq!((error.kind(), total), (io::ErrorKind::QuotaExceeded, MAX_BEFORE));
    }
}
