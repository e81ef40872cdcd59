//! The other end of `--isolation process`: a process that runs guests and knows of no broker.
//!
//! It is this program again, started with the compiled guest as its stdin and a socket as its stdout. Over the socket go
//! frames (`wire.rs`):
//!
//! ```text
//! parent ──▶ Setup, then for each message: Run, perhaps Cancel      child ──▶ Ready or Refused, then: Stderr…, Ended
//! ```

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::engine::engine;
use super::guest::Kind;
use super::program::Program;
use super::room::Room;
use super::run::Core;
use super::stdio::Lines;
use super::wire::{self, Frame};
use super::{Dir, Input, Options, cache, claims};
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

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub name: String,
    pub kind: Kind,
    pub options: Options,
    /// A folder of the parent's, for the folders of this process's runs.
    pub room: PathBuf,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Ready,
    Refused(String),
    /// The bytes are what the guest wrote, at most [`MAX_STDERR`] of them.
    Stderr,
    /// The bytes are stdout.
    Ended {
        outcome: Outcome,
        duration: Duration,
    },
}

/// How much of stderr goes into one frame.
pub const MAX_STDERR: usize = 64 << 10;

impl Frame for Order {
    /// What the worker sends is its own: messages can have large headers, and an environment can be inherited.
    const MAX_WORDS: usize = 64 << 20;
}

impl Frame for Reply {
    /// The longest text in a reply is cut at [`claims::MAX_TEXT`], and each of its bytes takes at most six in JSON.
    const MAX_WORDS: usize = 64 << 10;
}

/// The socket as the run sees it. Frames come from the run and from the guest's stderr.
#[derive(Clone)]
pub struct Replies(Arc<Mutex<UnixStream>>);

impl Replies {
    pub fn stderr(&self, bytes: &[u8]) {
        for part in bytes.chunks(MAX_STDERR) {
            self.send(&Reply::Stderr, part);
        }
    }

    /// A parent that is gone is noticed by who reads from it.
    fn send(&self, reply: &Reply, bytes: &[u8]) {
        let Ok(words) = wire::words(reply) else { return };
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = wire::write(&mut *stream, &words, bytes);
    }
}

fn receive(stream: &mut UnixStream) -> io::Result<(Order, bytes::Bytes)> {
    // The parent holds messages to their limit.
    wire::read(stream, |_| u64::MAX)
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
            replies.send(&Reply::Refused(claims::cut(error)), &[]);
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
        let stderr = Lines::to_parent(replies.clone(), core.options.limits.stderr);
        let Report { outcome, stdout, duration, .. } = runtime.block_on(core.run(input, &stderr));
        replies.send(&Reply::Ended { outcome: claims::sayable(outcome), duration }, &stdout);
    }
    // Not waited for: a panic of its own is all that it could still tell.
    drop(reader);
    Ok(())
}

fn core(setup: Setup, guest: &File) -> Result<Core, String> {
    let Setup { name, kind, options, room } = setup;
    let room = Room::at(room);
    if options.grants.scratch.is_some() {
        room.enter().map_err(|error| format!("cannot open the folder for scratch folders: {error}"))?;
    }
    let engine = engine(&options, kind, 1).map_err(|error| format!("{error:#}"))?;
    let compiled = cache::load(&engine, kind, guest).map_err(|error| format!("{error:#}"))?;
    let program = Program::link(&engine, &compiled).map_err(|error| format!("{error:#}"))?;
    Core::new(name, kind, options, engine, program, room).map_err(|error| format!("cannot start its clock: {error}"))
}

fn read_orders(orders: &mut UnixStream, runs: &std::sync::mpsc::Sender<Input>) {
    let mut current = CancellationToken::new();
    while let Ok((order, bytes)) = receive(orders) {
        match order {
            Order::Run { env, dirs } => {
                current = CancellationToken::new();
                // What comes here has begun: nothing waits in a child.
                let withdraw = CancellationToken::new();
                let input = Input { stdin: bytes, env, dirs, cancel: current.clone(), withdraw };
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
