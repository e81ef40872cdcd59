//! What a guest is run with: the options that all of its runs share, and the input of one run.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::env::Env;
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
    pub env: Env,
    /// The same for folders.
    pub dirs: Vec<Dir>,
    /// Stops the run, which then ends as `Outcome::Interrupted`.
    pub cancel: Cancel,
    /// As long as the run waits for a slot, this ends it as `Outcome::Withdrawn`. One that has begun goes on.
    pub withdraw: CancellationToken,
}

impl Input {
    /// Of a run that gets nothing but its stdin, and that nobody stops.
    pub fn of(stdin: impl Into<Bytes>) -> Input {
        let (env, dirs, cancel, withdraw) = <(Env, Vec<Dir>, CancellationToken, CancellationToken)>::default();
        Input { stdin: stdin.into(), env, dirs, cancel: cancel.into(), withdraw }
    }
}

/// Stops a run when one of two tokens is cancelled: that of all runs, or the run's own. A child token of the first would do the
/// same, but each run's would be added to the tree of tokens, and removed from it again, under the tree's lock.
#[derive(Clone, Debug)]
pub struct Cancel {
    all: CancellationToken,
    own: Option<CancellationToken>,
}

impl Cancel {
    pub fn any(all: &CancellationToken, own: &CancellationToken) -> Cancel {
        Cancel { all: all.clone(), own: Some(own.clone()) }
    }

    pub fn is_cancelled(&self) -> bool {
        self.all.is_cancelled() || self.own.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Returns when one of them is cancelled.
    pub async fn cancelled(&self) {
        match &self.own {
            None => self.all.cancelled().await,
            Some(own) => tokio::select! {
                biased;
                () = self.all.cancelled() => {}
                () = own.cancelled() => {}
            },
        }
    }
}

impl From<CancellationToken> for Cancel {
    fn from(all: CancellationToken) -> Cancel {
        Cancel { all, own: None }
    }
}
