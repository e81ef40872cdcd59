//! The flags that say which guest runs, within which limits, and what it may see.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::durations::duration;
use crate::sandbox::{Digest, Endpoint};

pub(super) const HEADING: &str = "Guest";
const LIMITS: &str = "Limits of a run";
const GRANTS: &str = "Grants";

#[derive(Debug, Args)]
pub struct Guest {
    /// The guest: a module or a component, as .wasm or .wat, packed by gzip or zstd, in one piece or in pieces
    #[arg(value_name = "GUEST", env = "WQ_GUEST")]
    pub path: PathBuf,

    /// The guest's own arguments; never looked at by wq-run
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,

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
pub struct Limits {
    /// How long one run may take
    #[arg(long, value_name = "DURATION", env = "WQ_TIMEOUT", default_value = "25m", value_parser = duration, help_heading = LIMITS)]
    pub timeout: Duration,

    /// Memory, all memories and tables together
    #[arg(long, value_name = "BYTES", default_value = "512MiB", help_heading = LIMITS)]
    pub max_memory_size: ByteSize,

    /// What a guest may write to stdout; more fails the run
    #[arg(long, value_name = "BYTES", default_value = "16MiB", help_heading = LIMITS)]
    pub max_stdout: ByteSize,

    /// What a guest may write to stderr; the rest is dropped
    #[arg(long, value_name = "BYTES", default_value = "1MiB", help_heading = LIMITS)]
    pub max_stderr: ByteSize,

    /// A larger message is not run
    #[arg(long, value_name = "BYTES", default_value = "128MiB", help_heading = LIMITS)]
    pub max_message: ByteSize,

    /// Units of work, about one an instruction; the same for each run of a message [default: not counted]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = LIMITS)]
    pub fuel: Option<u64>,

    /// Stack of the guest's calls
    #[arg(long, value_name = "BYTES", default_value = "512KiB", help_heading = LIMITS)]
    pub max_wasm_stack: ByteSize,

    /// Files, sockets and other handles that are open at once
    #[arg(long, value_name = "N", default_value = "1000", help_heading = LIMITS)]
    pub max_resources: u64,

    /// What the guest may hand to the host in one call
    #[arg(long, value_name = "BYTES", default_value = "128MiB", help_heading = LIMITS)]
    pub max_hostcall: ByteSize,

    /// Random bytes that the guest may ask for in one call
    #[arg(long, value_name = "BYTES", default_value = "16MiB", help_heading = LIMITS)]
    pub max_random_size: ByteSize,

    /// Instances, and memories, and tables, that a component may be made of
    #[arg(long, value_name = "N", default_value = "200", help_heading = LIMITS)]
    pub max_instances: u64,
}

#[derive(Debug, Args)]
pub struct Grants {
    /// Let the guest see a folder, read-only unless :rw; may be repeated
    #[arg(long, value_name = "HOST[::GUEST][:ro|:rw]", help_heading = GRANTS)]
    pub dir: Vec<String>,

    /// Give each run an empty folder /tmp for so much, gone afterwards
    #[arg(long, value_name = "BYTES", help_heading = GRANTS)]
    pub scratch: Option<ByteSize>,

    /// Give the guest an environment variable, by value or from our environment; may be repeated
    #[arg(long, value_name = "K[=V]", help_heading = GRANTS)]
    pub env: Vec<String>,

    /// Give the guest our whole environment but for the broker's URL
    #[arg(long, help_heading = GRANTS)]
    pub inherit_env: bool,

    /// Let a component open TCP connections to this address or name; may be repeated
    #[arg(long, value_name = "HOST:PORT", help_heading = GRANTS)]
    pub allow_net: Vec<Endpoint>,

    /// Fixed clocks and randomness, and no folder to write to: each run of a message gives the same result
    #[arg(long, conflicts_with = "allow_net", help_heading = GRANTS)]
    pub deterministic: bool,
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
