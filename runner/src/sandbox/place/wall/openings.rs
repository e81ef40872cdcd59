//! What the wall leaves open for a run.

use std::path::PathBuf;

use crate::sandbox::world::grants::Dir;
use crate::task::limits::Limits;

/// The needs of a process behind the wall.
#[derive(Debug)]
pub struct Openings<'a> {
    pub dirs: &'a [Dir],
    /// Folders that runs may write to.
    pub own: Vec<PathBuf>,
    /// Folders that runs may read.
    pub given: Vec<PathBuf>,
    /// Ports that may be connected to.
    pub ports: Vec<u16>,
    pub limits: &'a Limits,
    /// The stack of a run, in bytes: larger than its limit for a tier whose code needs more for the same recursion.
    pub stack: u64,
    /// The initial size of the guest's memory, which may be over its limit. The limiter has to refuse it, and not the system.
    pub initial_memory: u64,
    /// Kills the process at each call that is not known, and not only at those that no guest makes. For tests: a call that
    /// a new version of a library makes has to be seen.
    pub kill_at_unknown: bool,
}
