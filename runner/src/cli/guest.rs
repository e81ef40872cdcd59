//! The flags that say which guest runs, within which limits, and what it may see.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::durations::duration;
use super::limits::{GRANTS, Granted};
use super::numbers::size;
use crate::sandbox::{Digest, Endpoint, Origin};
use crate::task::limits::Limits;

pub(super) const HEADING: &str = "Guest";

#[derive(Debug, Args)]
pub struct Guest {
    /// The guest, a module or a component: a .wasm or .wat file, which gzip or zstd may have compressed, or a folder with its pieces
    #[arg(value_name = "GUEST", env = "WQ_GUEST")]
    pub path: PathBuf,

    /// Arguments of the guest; wq-run passes them on as they are
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,

    /// The guest's own name, argv[0] [default: the name of its file]
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub argv0: Option<String>,

    /// How to treat a guest that exits with 0 but writes nothing to stdout
    #[arg(long, value_name = "RESULT", default_value = "success", help_heading = HEADING)]
    pub empty_output: EmptyOutput,

    /// Refuse a guest with another digest; `wq-run inspect` prints the digest
    #[arg(long, value_name = "sha256:…", env = "WQ_GUEST_DIGEST", help_heading = HEADING)]
    pub guest_digest: Option<Digest>,

    /// Folder for compiled guests [default: $XDG_CACHE_HOME/wq-run or ~/.cache/wq-run]
    #[arg(long, value_name = "PATH", env = "WQ_CACHE_DIR", help_heading = HEADING)]
    pub cache_dir: Option<PathBuf>,

    /// Compile the guest at each start, even if WQ_CACHE_DIR is set
    #[arg(long, help_heading = HEADING)]
    pub no_cache: bool,

    /// How to compile the guest: `optimised` makes fast code; `fast` takes less time, and its code runs about half as fast
    #[arg(long, value_name = "HOW", env = "WQ_COMPILE", default_value = "optimised", help_heading = HEADING)]
    pub compile: Compile,

    #[command(flatten)]
    pub compiling: Compiling,

    /// Name the source line at which the guest crashed, if the guest has debug information (DWARF)
    #[arg(long, help_heading = HEADING)]
    pub debug_info: bool,

    /// Where guests run: in threads of the worker, or in separate processes, whose crash does not end the worker
    #[arg(long, value_name = "WHERE", env = "WQ_ISOLATION", default_value = "thread", help_heading = HEADING)]
    pub isolation: Isolation,

    /// With `--isolation process`: confine guests' processes with landlock and seccomp
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

    /// How much memory checking and compiling the guest may take; less if the container has less
    #[arg(long, value_name = "BYTES", env = "WQ_COMPILE_MEMORY", default_value = "2GiB", value_parser = size, help_heading = HEADING)]
    pub compile_memory: ByteSize,
}

#[derive(Debug, Args)]
pub struct Grants {
    /// Give the guest a folder, read-only unless :rw; may be repeated
    #[arg(long, value_name = "HOST[::GUEST][:ro|:rw]", help_heading = GRANTS)]
    pub dir: Vec<String>,

    #[command(flatten)]
    limited: Granted,

    /// Give the guest an environment variable; without =V, its value is that of wq-run's own; may be repeated
    #[arg(long, value_name = "K[=V]", help_heading = GRANTS)]
    pub env: Vec<String>,

    /// Give the guest the whole environment of wq-run, except the broker's URL
    #[arg(long, help_heading = GRANTS)]
    pub inherit_env: bool,

    /// Allow a component TCP connections to this address or name; may be repeated
    #[arg(long, value_name = "HOST:PORT", help_heading = GRANTS)]
    pub allow_net: Vec<Endpoint>,

    /// Allow a component HTTP requests to this host, with https on port 443 unless a port is given; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", help_heading = GRANTS)]
    pub allow_http: Vec<Origin>,

    /// Give each run of a message the same result: fixed clocks and random numbers, and no writable folders
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
pub enum Compile {
    Optimised,
    /// With Winch if it can compile the guest, otherwise with Cranelift in a single pass; the log says which
    Fast,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Wall {
    /// Use what the system supports; the log names what is missing
    Auto,
    /// Take no message unless the system supports all of it
    Required,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Isolation {
    Thread,
    Process,
}
