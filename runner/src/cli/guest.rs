//! The flags that say which guest runs, within which limits, and what it may see.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::durations::duration;
use super::limits::{GRANTS, Granted};
use crate::sandbox::{Digest, Endpoint, Origin};
use crate::task::limits::Limits;

pub(super) const HEADING: &str = "Guest";

#[derive(Debug, Args)]
pub struct Guest {
    /// The guest: a module or a component, as .wasm or .wat, packed by gzip or zstd, in one piece or in pieces
    #[arg(value_name = "GUEST", env = "WQ_GUEST")]
    pub path: PathBuf,

    /// The guest's own arguments; never looked at by wq-run
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,

    /// What the guest finds as its own name (argv[0]) [default: the name of its file]
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub argv0: Option<String>,

    /// What it means that the guest exits with 0 and writes nothing to stdout
    #[arg(long, value_name = "RESULT", default_value = "success", help_heading = HEADING)]
    pub empty_output: EmptyOutput,

    /// Refuse any other guest; `wq-run inspect` says the digest
    #[arg(long, value_name = "sha256:…", env = "WQ_GUEST_DIGEST", help_heading = HEADING)]
    pub guest_digest: Option<Digest>,

    /// Where compiled guests are kept [default: $XDG_CACHE_HOME/wq-run or ~/.cache/wq-run]
    #[arg(long, value_name = "PATH", env = "WQ_CACHE_DIR", help_heading = HEADING)]
    pub cache_dir: Option<PathBuf>,

    /// Compile the guest each time, whatever WQ_CACHE_DIR says
    #[arg(long, help_heading = HEADING)]
    pub no_cache: bool,

    #[command(flatten)]
    pub compiling: Compiling,

    /// Where guests run: in threads of the worker, or in processes of their own that may die without it
    #[arg(long, value_name = "WHERE", env = "WQ_ISOLATION", default_value = "thread", help_heading = HEADING)]
    pub isolation: Isolation,

    /// With `--isolation process`: landlock and seccomp around guests' processes, as far as the system has them
    #[arg(long, value_name = "WHEN", env = "WQ_WALL", default_value = "auto", help_heading = HEADING)]
    pub wall: Wall,

    #[command(flatten)]
    pub limits: Limits,

    #[command(flatten)]
    pub grants: Grants,
}

#[derive(Debug, Args)]
pub struct Compiling {
    /// How long reading, checking and compiling the guest may take
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = HEADING)]
    pub compile_timeout: Duration,

    /// How much memory checking and compiling the guest may take, less where the container has less
    #[arg(long, value_name = "BYTES", env = "WQ_COMPILE_MEMORY", default_value = "2GiB", help_heading = HEADING)]
    pub compile_memory: ByteSize,
}

#[derive(Debug, Args)]
pub struct Grants {
    /// Let the guest see a folder, read-only unless :rw; may be repeated
    #[arg(long, value_name = "HOST[::GUEST][:ro|:rw]", help_heading = GRANTS)]
    pub dir: Vec<String>,

    #[command(flatten)]
    limited: Granted,

    /// Give the guest an environment variable, by value or from our environment; may be repeated
    #[arg(long, value_name = "K[=V]", help_heading = GRANTS)]
    pub env: Vec<String>,

    /// Give the guest our whole environment but for the broker's URL
    #[arg(long, help_heading = GRANTS)]
    pub inherit_env: bool,

    /// Let a component open TCP connections to this address or name; may be repeated
    #[arg(long, value_name = "HOST:PORT", help_heading = GRANTS)]
    pub allow_net: Vec<Endpoint>,

    /// Let a component send HTTP requests there, by https on 443 unless a port says otherwise; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", help_heading = GRANTS)]
    pub allow_http: Vec<Origin>,

    /// Fixed clocks and randomness, and no folder to write to: each run of a message gives the same result
    #[arg(long, conflicts_with_all = ["allow_net", "allow_http"], help_heading = GRANTS)]
    pub deterministic: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum EmptyOutput {
    Success,
    /// The run has failed, and the message is tried again
    Fail,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Wall {
    /// As much of the wall as the system has; the log says what is missing
    Auto,
    /// Take no message unless all of it stands
    Required,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Isolation {
    Thread,
    Process,
}
