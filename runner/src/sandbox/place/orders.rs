//! The orders of the worker to a process that runs guests, and its replies, in the frames of `wire.rs`.
//!
//! ```text
//! worker ──▶ Setup, then for each message: Run, perhaps Cancel     process ──▶ Ready or Refused, then: Stderr…, Ended
//!           and for each Lookup: Addresses                                  and for each name that the guest asks for: Lookup
//! ```

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wall::Standing;
use crate::locks::lock;
use crate::sandbox::isolation::Wall;
use crate::sandbox::known::Nature;
use crate::sandbox::tiers::Tier;
use crate::sandbox::wire::{self, Frame};
use crate::sandbox::world::denials::Door;
use crate::sandbox::world::env::Env;
use crate::sandbox::world::grants::Dir;
use crate::sandbox::world::options::Options;
use crate::task::{Call, Outcome, Usage};

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Setup(Box<Setup>),
    /// The bytes are stdin.
    Run {
        env: Env,
        dirs: Vec<Dir>,
    },
    Cancel,
    /// The addresses of a name that a [`Reply::Lookup`] asked for; `None` if it has none.
    Addresses {
        id: u64,
        addresses: Option<Vec<IpAddr>>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub name: String,
    pub nature: Nature,
    pub tier: Tier,
    pub options: Options,
    /// A folder of the parent's, for the folders of this process's runs; empty if they need none.
    pub room: PathBuf,
    /// A folder where the parent puts what a run may read; empty if there is nothing.
    pub given: PathBuf,
    /// The process id of the worker.
    pub parent: u32,
    pub wall: Wall,
    /// Tests only.
    pub told: Told,
}

/// [`fault::GuestProcess`] in a frame.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    pub strict: bool,
    pub attempt: Option<String>,
}

/// From the process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Ready(Standing),
    Refused(String),
    /// The guest asks for the addresses of a name.
    Lookup {
        id: u64,
        name: String,
    },
    /// The guest was refused at a door, for the first time in its run.
    Denied {
        door: Door,
        what: String,
    },
    /// The bytes are what the guest wrote, at most [`MAX_STDERR`] of them.
    Stderr,
    /// The bytes are stdout.
    Ended {
        outcome: Outcome,
        duration: Duration,
        usage: Usage,
        /// The calls in which the guest crashed.
        stack: Vec<Call>,
        /// A call of the run may go on forever: the process is no good for another run.
        is_last: bool,
    },
}

/// How much of stderr goes into one frame.
pub const MAX_STDERR: usize = 64 << 10;

impl Frame for Order {
    /// These frames are the worker's own, so the bound is wide: an inherited environment can be large.
    const MAX_WORDS: usize = 64 << 20;
}

impl Frame for Reply {
    /// The longest text in a reply is cut at `claims::MAX_TEXT`, and each of its bytes takes at most six in JSON.
    const MAX_WORDS: usize = 64 << 10;
}

/// The socket as the run sees it. Frames come from the run and from the guest's stderr.
#[derive(Clone)]
pub struct Replies(Arc<Mutex<UnixStream>>);

impl Replies {
    pub fn new(stream: UnixStream) -> Replies {
        Replies(Arc::new(Mutex::new(stream)))
    }

    pub fn stderr(&self, bytes: &[u8]) {
        for part in bytes.chunks(MAX_STDERR) {
            self.send(&Reply::Stderr, part);
        }
    }

    /// A parent that is gone is noticed by who reads from it.
    pub fn send(&self, reply: &Reply, bytes: &[u8]) {
        let Ok(words) = wire::words(reply) else { return };
        let mut stream = lock(&self.0);
        let _ = wire::write(&mut *stream, &words, bytes);
    }

    /// Bytes that are no frame.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).write_all(bytes)
    }
}
