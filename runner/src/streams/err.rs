//! stderr: output goes into a queue, and a thread of its own writes it.
//!
//! No other thread waits for a reader of stderr that is slow or does not read at all.
//!
//! When the queue is full, lines of the log are dropped and counted. A guest's output to an inherited stderr is not dropped:
//! the guest waits until there is room.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::last_line::{DRAWN_EVERY, LastLine};
use super::write::write_all;
use crate::locks::{anyway, lock};

/// How much of the log waits to be written before more is dropped.
const LOG_LIMIT: usize = 1 << 20;

/// How much waits to be written before a guest that writes to our stderr has to wait, too.
const GUEST_LIMIT: usize = 256 << 10;

/// `PIPE_BUF` of Linux, in bytes: writes to a pipe that are no larger are atomic, so those of several processes do not mix.
const PIECE: usize = 4096;

/// How much memory the queue may keep after a flood.
const KEPT: usize = 64 << 10;

/// How long the end of the process waits for a reader that takes nothing.
const FLUSH_IDLE: Duration = Duration::from_secs(1);

/// How long it waits for a slow one in all.
const FLUSH_ALL: Duration = Duration::from_secs(5);

static JSON: AtomicBool = AtomicBool::new(false);

/// Whether there is a last line, so that nobody has to look for one where there is none.
static HAS_LAST_LINE: AtomicBool = AtomicBool::new(false);

/// Tells guests that something was written.
static LESS: Notify = Notify::const_new();

static QUEUE: Queue = Queue::new();

struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

struct State {
    waiting: Vec<u8>,
    /// Bytes that the thread has taken out, and not written yet.
    writing: usize,
    /// Lines for which there was no room.
    dropped: u64,
    /// Counts what was written, to see whether a reader takes anything.
    progress: u64,
    /// The thread waits for something to write.
    sleeps: bool,
    started: bool,
    last_line: Option<Arc<dyn LastLine>>,
    /// The thread is to take the last line away.
    last_line_ends: bool,
}

/// Starts the thread that writes. Before that, each caller writes its own output and waits for the reader.
///
/// # Errors
/// When the thread can't be started.
pub fn start() -> io::Result<()> {
    std::thread::Builder::new().name("stderr".into()).spawn(|| QUEUE.write_for_ever())?;
    QUEUE.lock().started = true;
    Ok(())
}

/// Puts a line of the log into the queue, or drops and counts it if there is no room. Never waits for a reader.
pub fn offer(line: &[u8]) {
    let mut state = QUEUE.lock();
    if state.waiting.len() + line.len() > LOG_LIMIT {
        state.dropped += 1;
    } else {
        QUEUE.push(state, line);
    }
}

/// Puts bytes into the queue, whatever waits there. For what is bounded in itself.
pub fn push(bytes: &[u8]) {
    QUEUE.push(QUEUE.lock(), bytes);
}

/// Whether a guest may write more.
pub fn has_room() -> bool {
    QUEUE.lock().pending() < GUEST_LIMIT
}

/// Returns when a guest may write more.
pub async fn room() {
    pending_is(|pending| pending < GUEST_LIMIT).await;
}

/// Returns when all is written.
pub async fn written() {
    pending_is(|pending| pending == 0).await;
}

async fn pending_is(small_enough: impl Fn(usize) -> bool) {
    loop {
        // Before the look, so that what is written in between is not missed.
        let less = LESS.notified();
        if small_enough(QUEUE.lock().pending()) {
            return;
        }
        less.await;
    }
}

/// Waits until all is written, or until nobody seems to read it.
pub fn flush() {
    QUEUE.flush(FLUSH_IDLE, FLUSH_ALL);
}

/// Says that the log is one of JSON.
pub fn speak_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Whether the log is one of JSON.
pub fn speaks_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// A last line that is there until this is dropped.
#[derive(Debug)]
#[must_use = "the line goes when this is dropped"]
pub struct Shown(());

/// Shows a line below what is written from now on. There is one at a time.
pub fn show_last_line(line: Arc<dyn LastLine>) -> Shown {
    let mut state = QUEUE.lock();
    state.last_line = Some(line);
    state.last_line_ends = false;
    HAS_LAST_LINE.store(true, Ordering::Relaxed);
    QUEUE.wake(state);
    Shown(())
}

impl Drop for Shown {
    /// Has the thread take it away, before it writes what comes after this.
    fn drop(&mut self) {
        let mut state = QUEUE.lock();
        state.last_line_ends = state.last_line.is_some();
        QUEUE.wake(state);
    }
}

/// The last line, as long as it may be on the terminal.
pub(super) fn last_line() -> Option<Arc<dyn LastLine>> {
    if !HAS_LAST_LINE.load(Ordering::Relaxed) {
        return None;
    }
    QUEUE.lock().last_line.clone()
}

/// To the beginning of the line, and what is on it away.
const CLEAR_LINE: &[u8] = b"\r\x1b[2K";

/// As the log calls this part of the program.
const TARGET: &str = "wq_run::streams::err";

/// Writes a line without the queue and without the log, and waits for the reader. For a thread that nothing depends on.
pub fn last_words(text: &str, exit_status: u8) {
    let time = humantime::format_rfc3339_micros(SystemTime::now());
    let line = if speaks_json() {
        let line = serde_json::json!({
            "timestamp": time.to_string(), "level": "ERROR", "message": text, "exit_status": exit_status, "target": TARGET,
        });
        format!("{line}\n")
    } else {
        format!("{time} ERROR {text} exit_status={exit_status}\n")
    };
    if HAS_LAST_LINE.load(Ordering::Relaxed) {
        let _ = write_all(io::stderr().as_fd(), CLEAR_LINE);
    }
    let _ = write_all(io::stderr().as_fd(), line.as_bytes());
}

impl State {
    /// What is still to be done. A line that has to go counts like a byte.
    fn pending(&self) -> usize {
        self.waiting.len() + self.writing + usize::from(self.last_line_ends)
    }
}

impl Queue {
    const fn new() -> Queue {
        let state = State {
            waiting: Vec::new(),
            writing: 0,
            dropped: 0,
            progress: 0,
            sleeps: false,
            started: false,
            last_line: None,
            last_line_ends: false,
        };
        Queue { state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() }
    }

    /// A panic while the lock is held leaves plain bytes and numbers behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn push(&self, mut state: MutexGuard<'_, State>, bytes: &[u8]) {
        if !state.started {
            drop(state);
            let _ = write_all(io::stderr().as_fd(), bytes);
            return;
        }
        state.waiting.extend_from_slice(bytes);
        self.wake(state);
    }

    /// A thread that writes looks by itself when it is done; to wake nobody is a system call too.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let sleeps = std::mem::take(&mut state.sleeps);
        drop(state);
        if sleeps {
            self.filled.notify_one();
        }
    }

    fn write_for_ever(&self) -> ! {
        let mut batch = Vec::new();
        loop {
            match self.take(&mut batch) {
                Some(line) if batch.is_empty() => line.draw(),
                Some(line) => line.aside(&mut || self.write(&batch)),
                None => self.write(&batch),
            }
            batch.clear();
            batch.shrink_to(KEPT);
            let dropped = std::mem::take(&mut self.lock().dropped);
            if dropped > 0 {
                tracing::warn!(dropped, "lines of the log were dropped: stderr was not read for a while");
            }
        }
    }

    fn write(&self, batch: &[u8]) {
        for piece in pieces(batch) {
            // If stderr is closed, or its reader has gone, there is nobody to tell.
            let _ = write_all(io::stderr().as_fd(), piece);
            let mut state = self.lock();
            state.writing -= piece.len();
            state.progress += 1;
            drop(state);
            self.written.notify_all();
            LESS.notify_waiters();
        }
    }

    /// Waits for something, or until it is time to draw the last line, and takes all that is there. Returns the line if it
    /// stays.
    fn take(&self, batch: &mut Vec<u8>) -> Option<Arc<dyn LastLine>> {
        let mut state = self.lock();
        while state.waiting.is_empty() && !state.last_line_ends {
            state.sleeps = true;
            if state.last_line.is_none() {
                state = anyway(self.filled.wait(state));
                continue;
            }
            let (woken, waited) = anyway(self.filled.wait_timeout(state, DRAWN_EVERY));
            state = woken;
            if waited.timed_out() {
                break;
            }
        }
        state.sleeps = false;
        if state.last_line_ends {
            state = self.take_last_line(state);
        }
        std::mem::swap(&mut state.waiting, batch);
        state.writing = batch.len();
        state.last_line.clone()
    }

    /// Takes the last line away for good. Whoever writes to the same terminal goes through it until that is done.
    fn take_last_line<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let line = state.last_line.clone();
        drop(state);
        line.iter().for_each(|line| line.end());
        let mut state = self.lock();
        state.last_line = None;
        state.last_line_ends = false;
        HAS_LAST_LINE.store(false, Ordering::Relaxed);
        drop(state);
        self.written.notify_all();
        LESS.notify_waiters();
        self.lock()
    }

    /// Returns when all is written, when the reader took nothing for `idle`, or after `all`.
    fn flush(&self, idle: Duration, all: Duration) {
        let until = Instant::now() + all;
        let mut state = self.lock();
        let (mut progress, mut since) = (state.progress, Instant::now());
        while state.pending() > 0 {
            if state.progress != progress {
                (progress, since) = (state.progress, Instant::now());
            }
            let left = (since + idle).min(until).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = anyway(self.written.wait_timeout(state, left));
        }
    }
}

/// Pieces that end where a line ends, as far as a line fits into one.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = if bytes.len() <= PIECE {
            bytes.len()
        } else {
            let newline = |byte: &u8| *byte == b'\n';
            let last = bytes[..PIECE].iter().rposition(newline);
            last.or_else(|| bytes.iter().position(newline)).map_or(bytes.len(), |at| at + 1)
        };
        let (piece, rest) = bytes.split_at(length);
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_whole_lines_and_nothing_is_left_out(
            lines in prop::collection::vec(prop::sample::select(vec![0, 1, 80, PIECE - 1, PIECE, 3 * PIECE]), 0..20),
            ended: bool,
        ) {
            let mut text: Vec<u8> = lines.iter().flat_map(|length| [vec![b'x'; *length], vec![b'\n']].concat()).collect();
            if !ended {
                text.extend_from_slice(b"no end");
            }
            let found: Vec<&[u8]> = pieces(&text).collect();
            prop_assert!(found.concat() == text);
            for piece in &found[..found.len().saturating_sub(1)] {
                prop_assert!(piece.ends_with(b"\n"));
                prop_assert!(piece.len() <= PIECE || piece.iter().filter(|byte| **byte == b'\n').count() == 1);
            }
        }
    }
}
