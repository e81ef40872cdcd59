//! How far guests are kept away from the worker, as the flags ask for it.

use serde::{Deserialize, Serialize};

/// What a guest shares with the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// The process, and nothing else: a slot's thread runs it.
    Thread,
    /// Nothing: a child process runs it.
    Process,
}

/// Whether guests' processes have to be behind the wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wall {
    /// As much of it as the system has.
    #[default]
    Auto,
    /// All of it, or no guest runs.
    Required,
    Off,
}
