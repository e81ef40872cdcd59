//! The errors of loading and starting a guest, and what helps.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::refusal::{Cause, Reason, Refusal, listed};
use crate::sandbox::known::Digest;

/// Why a guest was refused. Nothing was taken from a queue then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the guest {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the guest {} is a folder without a guest in it", .0.display())]
    EmptyFolder(PathBuf),
    #[error("the guest {} is a folder with more than one guest in it: {}", path.display(), listed(names))]
    SeveralGuests { path: PathBuf, names: Vec<String> },
    #[error("the guest {} lacks a piece: {missing} is not there", path.display())]
    MissingPiece { path: PathBuf, missing: String },
    #[error("{}", reason.about(path))]
    Refused {
        path: PathBuf,
        reason: Reason,
        #[source]
        cause: Option<Cause>,
    },
    #[error("the guest {} has the digest {found}", path.display())]
    Digest { path: PathBuf, found: Digest },
    #[error("the guest {} is no longer the one that was loaded", path.display())]
    Changed { path: PathBuf },
    #[error("the guest {} is a WASI preview 1 module, which can't open connections ({flag})", path.display())]
    NoSockets { path: PathBuf, flag: &'static str },
    /// Not the guest's fault; what it was promised can't be had.
    #[error("{0}")]
    Grant(String),
    #[error("cannot compile the guest {}", path.display())]
    Compile { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("compiling the guest {} took longer than {}", path.display(), humantime::format_duration(*after))]
    CompileTimeout { path: PathBuf, after: Duration },
    #[error("the guest {} needs more than {limit} bytes of memory to be compiled", path.display())]
    CompileMemory { path: PathBuf, limit: u64, by: Bound },
    /// The process that compiles died of this guest: what is known of its end.
    #[error("the compiler failed on the guest {}", path.display())]
    CompilerFailed {
        path: PathBuf,
        #[source]
        how: Cause,
    },
    #[error("the system has no room for so many runs at the same time")]
    NoRoom(#[source] Cause),
    #[error("cannot start the process that compiles the guest")]
    NoCompiler(#[source] std::io::Error),
    #[error("cannot write to the cache {}", path.display())]
    Cache { path: PathBuf, source: std::io::Error },
    #[error("wq-run failed while it loaded the guest: {0}")]
    Panic(String),
    #[error("--allow-http: there are no CA certificates to verify servers with: {0}")]
    Certificates(String),
    #[error("cannot start a thread for guests")]
    Thread(#[source] std::io::Error),
    #[error("the second wall around guests' processes is incomplete: {0}")]
    Wall(String),
    #[error("cannot start the process that runs the guest")]
    Isolation(#[source] std::io::Error),
}

/// The source of the limit on the compiler's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Flag,
    /// The limit of the container, which the worker itself has to fit into as well.
    Cgroup,
}

impl Error {
    pub fn refused(path: &Path, refusal: impl Into<Refusal>) -> Error {
        let Refusal { reason, cause } = refusal.into();
        Error::Refused { path: path.to_owned(), reason, cause }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "GUEST (or WQ_GUEST) is the path of a .wasm or .wat file, compressed or not; in a pod, look at the volume's \
                 mountPath"
                    .into()
            }
            Error::Unreadable { .. } => "look at the file's permissions: the image runs as user 65532".into(),
            Error::EmptyFolder(_) => {
                "it may hold one .wasm, .wat, .gz or .zst file, or the pieces NAME.000, NAME.001, … of one".into()
            }
            Error::SeveralGuests { .. } => "name the file (GUEST, WQ_GUEST)".into(),
            Error::MissingPiece { .. } => {
                "the pieces are numbered from 000 without a gap; each ConfigMap of the volume has to be there".into()
            }
            Error::Refused { reason, .. } => reason.hint(),
            Error::Digest { .. } => "--guest-digest (WQ_GUEST_DIGEST) requires another digest: use the guest that has it, or change the flag".into(),
            Error::Changed { .. } => "start the worker again with the new guest".into(),
            Error::NoSockets { flag, .. } => {
                format!("build the guest as a component, for example for wasm32-wasip2, or leave {flag} out")
            }
            Error::Grant(what) if what.contains("--scratch") => {
                "set TMPDIR to a folder that can be written to; a pod with a read-only root needs a volume at /tmp, such \
                 as `wq-run manifest` prints"
                    .into()
            }
            Error::Grant(_) => {
                "every folder of --dir is opened for each run; `ulimit -n` is the limit of open files".into()
            }
            Error::Compile { .. } => {
                "the code was made for another engine: this is a bug in wq-run, please report it".into()
            }
            Error::CompileTimeout { .. } => {
                "raise --compile-timeout, or run `wq-run compile` where there is more time; an unoptimised build of wq-run compiles slowly".into()
            }
            Error::CompileMemory { by: Bound::Flag, .. } => {
                "raise --compile-memory (WQ_COMPILE_MEMORY), or compile the guest elsewhere with `wq-run compile`".into()
            }
            Error::CompileMemory { by: Bound::Cgroup, .. } => {
                "this is what the memory limit of the container leaves: raise that limit, or run `wq-run compile` where \
                 there is more memory, into a cache that the worker reads (--cache-dir, WQ_CACHE_DIR)"
                    .into()
            }
            Error::CompilerFailed { .. } => {
                "no message was taken; this is a bug in wq-run or in the compiler: please report it with the guest".into()
            }
            Error::NoRoom(_) => {
                "each run reserves 4 GiB of address space, which takes no memory: `ulimit -v unlimited`, or fewer runs \
                 (--concurrency, WQ_CONCURRENCY)"
                    .into()
            }
            Error::NoCompiler(_) => {
                "guests are compiled in a separate process, which needs /proc and room for one more process \
                 (`ulimit -u`, `ulimit -v`, the container's pids limit); a guest from the cache needs none"
                    .into()
            }
            Error::Cache { .. } => "set --cache-dir (WQ_CACHE_DIR) to a folder that can be written to".into(),
            Error::Panic(_) => "this is a bug in wq-run: please report it".into(),
            Error::Certificates(_) => {
                "install the CA certificates of the system (ca-certificates), or set SSL_CERT_FILE to a file that holds them".into()
            }
            // The system has the same error for a stack that there is no address space for.
            Error::Thread(_) => {
                "`ulimit -u` and the container's limit of processes count threads too, and `ulimit -v` their stacks".into()
            }
            Error::Wall(_) => {
                "--wall auto (WQ_WALL) uses the parts that the system has; a container's seccomp profile has to allow \
                 landlock and seccomp"
                    .into()
            }
            Error::Isolation(_) => "--isolation thread (WQ_ISOLATION) needs no such process".into(),
        }
    }
}
