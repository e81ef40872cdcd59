//! The other end of `--isolation process`: a process that runs guests and knows of no broker.
//!
//! It is this program again, started with the compiled guest as its stdin and a socket as its stdout. What goes over the
//! socket are frames, each a few words as JSON and then bytes as they are:
//!
//! ```text
//! parent ──▶ Setup, then for each message: Run, perhaps Cancel      child ──▶ Ready or Refused, then: Stderr…, Ended
//! ```

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::engine::engine;
use super::guest::Kind;
use super::program::Program;
use super::run::Core;
use super::stdio::{Lines, Stderr};
use super::{Dir, Input, Options, cache};
use crate::task::{Outcome, Report};

/// What the parent asks for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Setup(Box<Setup>),
    /// The bytes are stdin.
    Run {
        env: Vec<(Cow<'static, str>, String)>,
        dirs: Vec<Dir>,
    },
    Cancel,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    pub name: String,
    pub kind: Kind,
    pub options: Options,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Ready,
    Refused(String),
    /// The bytes are what the guest wrote.
    Stderr,
    /// The bytes are stdout.
    Ended {
        outcome: Outcome,
        stderr_tail: String,
        duration: Duration,
    },
}

/// Lengths of the words and of the bytes, before both.
pub const HEADER: usize = 12;

/// More than any words need; a longer claim is no frame of ours.
const MAX_WORDS: usize = 64 << 20;

pub fn header(words: &[u8], bytes: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&u32::try_from(words.len()).unwrap_or(u32::MAX).to_le_bytes());
    header[4..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    header
}

pub fn lengths(header: [u8; HEADER]) -> io::Result<(usize, usize)> {
    let (words, bytes) = header.split_at(4);
    let words = words.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    let bytes = bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    match usize::try_from(bytes) {
        Ok(bytes) if words <= MAX_WORDS => Ok((words, bytes)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame")),
    }
}

/// The socket as the run sees it. Frames come from the run and from the guest's stderr.
#[derive(Clone)]
pub struct Replies(Arc<Mutex<UnixStream>>);

impl Replies {
    pub fn stderr(&self, bytes: &[u8]) {
        self.send(&Reply::Stderr, bytes);
    }

    /// A parent that is gone is noticed by who reads from it.
    fn send(&self, reply: &Reply, bytes: &[u8]) {
        let Ok(words) = serde_json::to_vec(reply) else { return };
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let header = header(&words, bytes);
        let _ = stream.write_all(&[&header[..], &words].concat()).and_then(|()| stream.write_all(bytes));
    }
}

fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let (words, bytes) = lengths(header)?;
    let mut frame = vec![0; words];
    stream.read_exact(&mut frame)?;
    let order = serde_json::from_slice(&frame)?;
    // Not `vec![0; bytes]`: what is claimed has to come before it takes memory.
    let mut body = Vec::new();
    stream.take(bytes as u64).read_to_end(&mut body)?;
    if body.len() < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok((order, body)) }
}

/// Runs guests until the parent hangs up.
///
/// # Errors
/// When this was not started by a parent, or the socket fails.
pub fn serve() -> io::Result<()> {
    let guest = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let stream = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    // Not ours alone to lose: if memory is short, the guest goes and the connection to the broker stays.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let mut orders = stream.try_clone()?;
    let replies = Replies(Arc::new(Mutex::new(stream)));
    let (Order::Setup(setup), _) = receive(&mut orders)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no setup"));
    };
    let core = match core(*setup, &guest) {
        Ok(core) => core,
        Err(error) => {
            replies.send(&Reply::Refused(error), &[]);
            return Ok(());
        }
    };
    drop(guest);
    replies.send(&Reply::Ready, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (runs_tx, runs_rx) = std::sync::mpsc::channel::<Input>();
    // Reads while a guest runs, to hear of a stop and of the parent's end.
    let reader = std::thread::Builder::new().name("orders".into()).spawn(move || read_orders(&mut orders, &runs_tx))?;
    while let Ok(input) = runs_rx.recv() {
        let limit = core.options.limits.stderr;
        let stderr = match core.options.stderr {
            Stderr::Log => Lines::to_parent(replies.clone(), limit),
            Stderr::Inherit => Lines::new(Stderr::Inherit, limit),
        };
        let Report { outcome, stdout, stderr_tail, duration } = runtime.block_on(core.run(input, &stderr));
        replies.send(&Reply::Ended { outcome, stderr_tail, duration }, &stdout);
    }
    // Not waited for: a panic of its own is all that it could still tell.
    drop(reader);
    Ok(())
}

fn core(setup: Setup, guest: &File) -> Result<Core, String> {
    let Setup { name, kind, options } = setup;
    let engine = engine(&options, kind, 1).map_err(|error| format!("{error:#}"))?;
    let compiled = cache::load(&engine, kind, guest).map_err(|error| format!("{error:#}"))?;
    let program = Program::link(&engine, &compiled).map_err(|error| format!("{error:#}"))?;
    Ok(Core::new(name, kind, options, engine, program))
}

fn read_orders(orders: &mut UnixStream, runs: &std::sync::mpsc::Sender<Input>) {
    let mut current = CancellationToken::new();
    while let Ok((order, bytes)) = receive(orders) {
        match order {
            Order::Run { env, dirs } => {
                current = CancellationToken::new();
                // What comes here has begun: nothing waits in a child.
                let withdraw = CancellationToken::new();
                let input = Input { stdin: Bytes::from(bytes), env, dirs, cancel: current.clone(), withdraw };
                if runs.send(input).is_err() {
                    return;
                }
            }
            Order::Cancel => current.cancel(),
            Order::Setup(_) => return,
        }
    }
    // The parent is gone, and with it whoever wanted the result.
    current.cancel();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_comes_out_as_it_went_in() {
        let words =
            serde_json::to_vec(&Order::Run { env: vec![("A".into(), "ä\"\n".into())], dirs: Vec::new() }).unwrap();
        let frame = [&header(&words, b"stdin")[..], &words, b"stdin", b"the next one"].concat();
        let (order, body) = receive::<Order>(&mut frame.as_slice()).unwrap();
        assert!(matches!(order, Order::Run { env, .. } if env == [("A".into(), "ä\"\n".into())]));
        assert_eq!(body, b"stdin");
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_the_reader_panic_or_take_much_memory(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = receive::<Order>(&mut bytes.as_slice());
            let _ = receive::<Reply>(&mut bytes.as_slice());
        }
    }
}
