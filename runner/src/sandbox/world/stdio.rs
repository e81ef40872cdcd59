//! The guest's standard streams: stdout is captured whole or not at all, stderr goes where people read, line by line.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tokio_util::sync::ReusableBoxFuture;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use crate::locks::lock;
use crate::streams;

/// Where a guest's stderr goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stderr {
    /// To the log, a line an event, in the span of the message.
    Log,
    /// To our own stderr, as it comes.
    Inherit,
}

/// The same, seen from the run.
enum To {
    Nowhere,
    Log,
    Inherit,
    /// To whoever asked for this run and has the log, as it comes.
    HandedOn(Taker),
}

/// Takes what a guest writes.
type Taker = Box<dyn Fn(&[u8]) + Send>;

/// How much of the end of stderr a dead letter carries, in bytes: enough for an error and a short backtrace, and small beside a
/// broker's frame (128 KiB), since all headers must fit into one frame.
const TAIL: usize = 4096;

/// A line without an end is logged in pieces of this size.
const MAX_LINE: usize = 8192;

/// What one write may carry. wasmtime-wasi copies a write into a buffer of its own of at most 64 KiB anyway.
const MAX_WRITE: usize = 64 * 1024;

/// A write of at least this is kept as it came. Smaller ones are put together, since a piece costs memory beside its bytes.
const PIECE: usize = 16 * 1024;

/// Captures up to `limit` bytes. One byte more ends the run, whether the guest looks at the error or not.
#[derive(Clone)]
pub struct Capture(Arc<Captured>);

struct Captured {
    state: Mutex<CaptureState>,
    /// Told once, when there was too much.
    exceeded: Notify,
}

struct CaptureState {
    /// In their order, and before `tail`.
    pieces: Vec<Bytes>,
    tail: BytesMut,
    left: u64,
    exceeded: bool,
}

/// Forwards what a guest writes to stderr: to the log line by line, elsewhere as it comes. Drops what is over the limit, and
/// keeps the tail.
#[derive(Clone)]
pub struct Lines(Arc<Mutex<LinesState>>);

struct LinesState {
    to: To,
    line: Vec<u8>,
    tail: Vec<u8>,
    left: u64,
    truncated: bool,
}

// === impl Capture ===

impl Capture {
    pub fn new(limit: u64) -> Capture {
        let state = CaptureState { pieces: Vec::new(), tail: BytesMut::new(), left: limit, exceeded: false };
        Capture(Arc::new(Captured { state: Mutex::new(state), exceeded: Notify::new() }))
    }

    pub fn exceeded(&self) -> bool {
        lock(&self.0.state).exceeded
    }

    /// Returns when there was too much. One can wait for it.
    pub async fn exceeds(&self) {
        self.0.exceeded.notified().await;
    }

    pub fn take(&self) -> Bytes {
        let mut state = lock(&self.0.state);
        state.end_piece();
        let mut pieces = std::mem::take(&mut state.pieces);
        match pieces.len() {
            0 | 1 => pieces.pop().unwrap_or_default(),
            _ => pieces.concat().into(),
        }
    }
}

impl CaptureState {
    fn end_piece(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Sink for Capture {
    fn write(&self, bytes: Bytes) -> Result<(), StreamError> {
        let mut state = lock(&self.0.state);
        let Some(left) = state.left.checked_sub(bytes.len() as u64) else {
            state.exceeded = true;
            self.0.exceeded.notify_one();
            // A trap and not an error code: with an error code the guest could go on and exit with 0. Streams of WASI 0.3 know
            // no trap, so whoever waits for the run is told as well.
            return Err(StreamError::trap("stdout is over its limit"));
        };
        state.left = left;
        if bytes.len() < PIECE {
            state.tail.extend_from_slice(&bytes);
        } else {
            state.end_piece();
            state.pieces.push(bytes);
        }
        Ok(())
    }
}

// === impl Lines ===

impl Lines {
    pub fn new(to: Stderr, limit: u64) -> Lines {
        let to = match to {
            Stderr::Log => To::Log,
            Stderr::Inherit => To::Inherit,
        };
        Lines::with(to, limit)
    }

    pub fn null() -> Lines {
        Lines::with(To::Nowhere, 0)
    }

    /// For a run on behalf of another process. One byte more than the limit is handed on, so that the other end sees
    /// that there was more, and says so.
    pub fn handed_on(to: impl Fn(&[u8]) + Send + 'static, limit: u64) -> Lines {
        Lines::with(To::HandedOn(Box::new(to)), limit.saturating_add(1))
    }

    fn with(to: To, limit: u64) -> Lines {
        let state = LinesState { to, line: Vec::new(), tail: Vec::new(), left: limit, truncated: false };
        Lines(Arc::new(Mutex::new(state)))
    }

    /// Takes what the guest wrote.
    pub fn write(&self, bytes: &[u8]) {
        let mut state = lock(&self.0);
        let fits = usize::try_from(state.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        state.left -= fits as u64;
        state.forward(&bytes[..fits]);
        if fits < bytes.len() && !state.truncated {
            state.truncated = true;
            state.end_line();
            if matches!(state.to, To::Log | To::Inherit) {
                tracing::warn!("the guest's stderr is over its limit (--max-stderr): the rest is dropped");
            }
        }
    }

    /// Returns when there is room for more.
    pub async fn room(&self) {
        if self.is_inherited() {
            streams::err::room().await;
        }
    }

    /// Returns when all output is written, where that depends on a reader.
    pub async fn written(&self) {
        if self.is_inherited() {
            streams::err::written().await;
        }
    }

    fn is_inherited(&self) -> bool {
        matches!(lock(&self.0).to, To::Inherit)
    }

    /// Ends the last line, and returns the tail.
    pub fn finish(&self) -> String {
        let mut state = lock(&self.0);
        state.end_line();
        String::from_utf8_lossy(&state.tail).into_owned()
    }
}

impl LinesState {
    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.line);
        tracing::info!(target: "guest", "{}", text.trim_end_matches(['\r', '\n']));
        self.line.clear();
    }

    fn forward(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
        match &self.to {
            To::Nowhere => {}
            To::Inherit => streams::err::push(bytes),
            To::HandedOn(to) => to(bytes),
            To::Log => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    for part in piece.chunks(MAX_LINE) {
                        if self.line.len() + part.len() > MAX_LINE {
                            self.end_line();
                        }
                        self.line.extend_from_slice(part);
                    }
                    if piece.ends_with(b"\n") {
                        self.end_line();
                    }
                }
            }
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Sink for Lines {
    fn write(&self, bytes: Bytes) -> Result<(), StreamError> {
        Lines::write(self, &bytes);
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.is_inherited() || streams::err::has_room()
    }

    async fn room(&self) {
        Lines::room(self).await;
    }
}

// === the streams that wasmtime-wasi wants ===

/// Takes bytes without ever blocking. The two streams differ in nothing else.
#[wasmtime_wasi::async_trait]
trait Sink: Clone + Send + Sync + Unpin + 'static {
    fn write(&self, bytes: Bytes) -> Result<(), StreamError>;

    /// Whether the guest may write more.
    fn has_room(&self) -> bool {
        true
    }

    /// Returns when it may.
    async fn room(&self) {}
}

/// A stream handle for the guest; all handles share one sink.
pub struct Stream<S>(pub S);

/// The same for WASI 0.3.
struct Asynchronous<S> {
    sink: S,
    /// Whoever waits for room.
    waiting: Option<ReusableBoxFuture<'static, ()>>,
}

impl<S> IsTerminal for Stream<S> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<S: Sink> StdoutStream for Stream<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Asynchronous { sink: self.0.clone(), waiting: None })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Stream(self.0.clone()))
    }
}

#[wasmtime_wasi::async_trait]
impl<S: Sink> Pollable for Stream<S> {
    async fn ready(&mut self) {
        if !self.0.has_room() {
            self.0.room().await;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl<S: Sink> OutputStream for Stream<S> {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(if self.0.has_room() { MAX_WRITE } else { 0 })
    }
}

impl<S: Sink> AsyncWrite for Asynchronous<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        while !self.sink.has_room() {
            let sink = self.sink.clone();
            let waiting = self.waiting.get_or_insert_with(|| ReusableBoxFuture::new(async move { sink.room().await }));
            ready!(waiting.poll(context));
            self.waiting = None;
        }
        // What the guest writes at once can be hundreds of megabytes, whatever the limit is.
        let bytes = &bytes[..bytes.len().min(MAX_WRITE)];
        Poll::Ready(match self.sink.write(Bytes::copy_from_slice(bytes)) {
            Ok(()) => Ok(bytes.len()),
            // wasmtime-wasi would log any other kind of error.
            Err(error) => Err(std::io::Error::new(std::io::ErrorKind::BrokenPipe, error.to_string())),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stdout_takes_its_limit_exactly_and_not_a_byte_more() {
        let capture = Capture::new(5);
        Sink::write(&capture, "abc".into()).unwrap();
        Sink::write(&capture, "de".into()).unwrap();
        assert!(!capture.exceeded());
        assert!(matches!(Sink::write(&capture, "f".into()), Err(StreamError::Trap(_))));
        assert!(capture.exceeded());
        assert_eq!(capture.take(), "abcde");
    }

    #[tokio::test]
    async fn who_waits_for_too_much_output_is_told_even_if_it_came_before() {
        let capture = Capture::new(5);
        assert!(Sink::write(&capture, "abcdef".into()).is_err());
        capture.exceeds().await;
    }

    #[tokio::test]
    async fn one_large_write_of_wasi_0_3_is_taken_in_pieces_and_no_further_than_the_limit() {
        use tokio::io::AsyncWriteExt as _;
        let capture = Capture::new(3 * MAX_WRITE as u64);
        let mut stream = Box::into_pin(Stream(capture.clone()).async_stream());
        let bytes = vec![b'x'; 100 * MAX_WRITE];
        assert_eq!(stream.write(&bytes).await.unwrap(), MAX_WRITE);
        let error = stream.write_all(&bytes).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        assert!(capture.exceeded());
        assert_eq!(capture.take().len(), 3 * MAX_WRITE);
    }

    proptest! {
        #[test]
        fn stdout_is_what_was_written_in_its_order(
            sizes in prop::collection::vec(prop::sample::select(vec![0, 1, 7, PIECE - 1, PIECE, PIECE + 1, MAX_WRITE]), 0..9),
        ) {
            let capture = Capture::new(u64::MAX);
            let mut expected = Vec::new();
            for (number, size) in sizes.into_iter().enumerate() {
                let bytes = vec![number as u8; size];
                expected.extend_from_slice(&bytes);
                Sink::write(&capture, bytes.into()).unwrap();
            }
            prop_assert!(capture.take() == expected);
            prop_assert!(capture.take().is_empty());
        }
    }

    #[test]
    fn stderr_over_its_limit_is_cut_and_never_an_error() {
        let lines = Lines::new(Stderr::Log, 10);
        for _ in 0..5 {
            lines.write(b"0123\n67");
        }
        assert_eq!(lines.finish(), "0123\n67012");
        assert!(lock(&lines.0).truncated);
    }

    #[test]
    fn the_tail_is_the_end_and_bounded() {
        let lines = Lines::new(Stderr::Log, 1 << 20);
        lines.write(&vec![b'x'; 3 * TAIL]);
        lines.write(b"the end");
        let tail = lines.finish();
        assert_eq!(tail.len(), TAIL);
        assert!(tail.ends_with("xthe end"));
        assert!(lock(&lines.0).line.capacity() <= 2 * MAX_LINE, "a line without an end is not gathered forever");
    }
}
