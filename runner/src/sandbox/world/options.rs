//! What a guest is run with: the options that all of its runs share, and the input of one run.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::grants::{Dir, Grants};
use super::stdio::Stderr;
use crate::task::limits::Limits;

/// What a guest is run under. It is handed to the processes that run it, so it holds nothing of a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    pub limits: Limits,
    pub grants: Grants,
    /// Clocks, randomness and floating point are the same in each run of a message.
    pub deterministic: bool,
    /// The guest's argv\[0\], if it is not the name of its file.
    pub argv0: Option<String>,
    /// The guest's argv after argv\[0\].
    pub args: Vec<String>,
    /// A guest that succeeds and writes nothing to stdout has failed.
    pub output_is_due: bool,
    pub stderr: Stderr,
}

#[cfg(any(test, fuzzing))]
impl Default for Options {
    fn default() -> Options {
        let (limits, grants) = Default::default();
        let (argv0, args, output_is_due) = Default::default();
        Options { limits, grants, deterministic: false, argv0, args, output_is_due, stderr: Stderr::Log }
    }
}

/// What differs from run to run.
#[derive(Debug)]
pub struct Input {
    pub stdin: Bytes,
    /// In addition to what `Grants` holds.
    pub env: Vec<(Cow<'static, str>, String)>,
    /// The same for folders.
    pub dirs: Vec<Dir>,
    /// Stops the run, which then ends as `Outcome::Interrupted`.
    pub cancel: CancellationToken,
    /// As long as the run waits for a slot, this ends it as `Outcome::Withdrawn`. One that has begun goes on.
    pub withdraw: CancellationToken,
}
