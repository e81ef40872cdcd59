//! Tells where in its source code a guest crashed, for `--debug-info`.
//!
//! It reads the guest once more, and asks a process that may die of its debug information.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::compiler::{Bounds, Compiler};
use super::error::Error;
use super::lines::Line;
use super::prepare::{Guest, open};
use super::source;
use crate::causes;
use crate::sandbox::known::Digest;
use crate::task::{Call, Position};

pub struct Locator {
    guest: PathBuf,
    digest: Digest,
    bounds: Bounds,
    /// One look at a time. A guest that crashes at one place with each message is looked into once.
    known: Mutex<Known>,
    /// Whether people were told why there are no lines.
    told: AtomicBool,
    /// Reading the guest does not come back. Each further try would cost a thread.
    hangs: AtomicBool,
}

type Known = HashMap<Vec<Position>, Vec<Vec<Line>>>;

/// How long it may take to look for the lines of a crash, and to wait until that begins. Without them, the error has the
/// functions' names.
const LONGEST: Duration = Duration::from_secs(10);

/// What is added to the compiler's own timeout, which should come first, since its error is more exact.
const GRACE: Duration = Duration::from_secs(1);

/// Crashes whose lines are kept.
const MAX_KNOWN: usize = 64;

impl Locator {
    pub fn new(guest: PathBuf, digest: Digest, bounds: Bounds) -> Locator {
        let bounds = Bounds { timeout: bounds.timeout.min(LONGEST), ..bounds };
        Locator {
            guest,
            digest,
            bounds,
            known: Mutex::default(),
            told: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
        }
    }

    /// The lines of each call, innermost first; nothing if they can't be had.
    pub async fn lines(&self, stack: &[Call]) -> Vec<Vec<Line>> {
        let positions: Vec<Position> = stack.iter().filter_map(|call| call.position).collect();
        if positions.is_empty() || positions.len() != stack.len() || self.hangs.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.found(positions).await.unwrap_or_else(|why| {
            self.tell(&why);
            Vec::new()
        })
    }

    async fn found(&self, positions: Vec<Position>) -> Result<Vec<Vec<Line>>, String> {
        let mut known = timeout(LONGEST, self.known.lock()).await.map_err(|_| "others are looked for".to_owned())?;
        if let Some(lines) = known.get(&positions) {
            return Ok(lines.clone());
        }
        let (guest, digest, bounds, asked) = (self.guest.clone(), self.digest, self.bounds, positions.clone());
        let looking = tokio::task::spawn_blocking(move || look(guest, digest, bounds, asked));
        let looked = timeout(LONGEST + GRACE, looking).await.map_err(|_| {
            self.hangs.store(true, Ordering::Relaxed);
            "the guest can't be read: its file system does not answer".to_owned()
        })?;
        let lines = looked.map_err(|panic| panic.to_string())?.map_err(|error| causes::chain(&error))?;
        if lines.iter().all(Vec::is_empty) {
            self.tell("it has no debug information for them: build it with -g or debug = true, and do not strip it");
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(positions, lines.clone());
        Ok(lines)
    }

    fn tell(&self, why: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "cannot find the source lines of a crash (--debug-info)");
        }
    }
}

fn look(path: PathBuf, digest: Digest, bounds: Bounds, positions: Vec<Position>) -> Result<Vec<Vec<Line>>, Error> {
    let compiler = Compiler::new(&path, bounds);
    let Guest { digest: found, wasm, .. } = open(source::read(&path)?, &compiler)?;
    if found != digest {
        return Err(Error::Changed { path });
    }
    compiler.lines(&wasm, positions)
}
