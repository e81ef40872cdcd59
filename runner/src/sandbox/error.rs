//! Why something is no guest for us, and what helps.

use std::path::PathBuf;
use std::time::Duration;

use super::guest::Digest;
use super::source::MAX_GUEST_SIZE;

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
    #[error("the guest {} is empty", .0.display())]
    Empty(PathBuf),
    #[error("the guest {} is larger than {MAX_GUEST_SIZE} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("cannot unpack the guest {}", path.display())]
    Packed { path: PathBuf, source: std::io::Error },
    #[error("the guest {} is neither WebAssembly nor its text form", .0.display())]
    NotWasm(PathBuf),
    #[error("the text of the guest {} has an error", path.display())]
    Text { path: PathBuf, source: wat::Error },
    #[error("the guest {} is not valid WebAssembly, or was cut short", path.display())]
    Invalid { path: PathBuf, source: wasmparser::BinaryReaderError },
    #[error("the guest {} is a reactor: it has `_initialize` and no `_start`", .0.display())]
    Reactor(PathBuf),
    #[error("the guest {} has no function `_start`", .0.display())]
    NoStart(PathBuf),
    #[error("the guest {} is a component that does not export `wasi:cli/run`", path.display())]
    NoRun { path: PathBuf, exports: Vec<String> },
    #[error("the guest {} imports what no guest gets here: {}", path.display(), listed(imports))]
    Imports { path: PathBuf, imports: Vec<String> },
    #[error("the guest {} has the digest {found}", path.display())]
    Digest { path: PathBuf, found: Digest },
    /// Not the guest's fault; what it was promised can't be had.
    #[error("{0}")]
    Grant(String),
    #[error("cannot compile the guest {}", path.display())]
    Compile { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the guest {} is not compiled after {}", path.display(), humantime::format_duration(*after))]
    CompileTimeout { path: PathBuf, after: Duration },
    #[error("cannot write to the cache {}", path.display())]
    Cache { path: PathBuf, source: std::io::Error },
    #[error("loading the guest failed in a way that it should not: {0}")]
    Panic(String),
    #[error("cannot start a thread for guests")]
    Thread(#[source] std::io::Error),
    #[error("the wall around guests' processes is not whole: {0}")]
    Wall(String),
    #[error("cannot start the process that runs the guest")]
    Isolation(#[source] std::io::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "GUEST (or WQ_GUEST) is the path of a .wasm or .wat file, packed or not; in a pod, look at the volume's \
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
            Error::Empty(_) => "an empty file is often a download or a build that failed".into(),
            Error::TooLarge(_) => "strip the guest (`-s`, or `strip = true`), or use a smaller runtime for it".into(),
            Error::Packed { .. } => "the file is cut short or damaged: pack it again with gzip or zstd".into(),
            Error::NotWasm(_) => {
                "a guest is compiled to wasm32-wasip1 or wasm32-wasip2; guest-examples/ shows how".into()
            }
            Error::Text { .. } => "`.wat` is the text form of WebAssembly".into(),
            Error::Invalid { .. } => {
                "copy or build it again; a guest may not use threads, exceptions, garbage collection, `externref` or 64-bit \
                 memory"
                    .into()
            }
            Error::Reactor(_) => {
                "a guest is a program, not a library: build a binary with a `main` (not `-mexec-model=reactor`)".into()
            }
            Error::NoStart(_) => {
                "a guest is a program with a `main`, built for wasm32-wasip1 (not wasm32-unknown-unknown)".into()
            }
            Error::NoRun { exports, .. } if exports.iter().any(|export| export.starts_with("wasi:cli/run@0.3")) => {
                "it was built for WASI 0.3; build it for WASI 0.2 (wasm32-wasip2)".into()
            }
            Error::NoRun { exports, .. } if exports.iter().any(|export| export.starts_with("wasi:http/")) => {
                "it is a web server's handler (wasi:http/proxy); a guest is a program with a `main` (wasi:cli/command)"
                    .into()
            }
            Error::NoRun { .. } => "a component has to be of the world wasi:cli/command, which a `main` makes".into(),
            Error::Imports { imports, .. } => imports_hint(imports),
            Error::Digest { .. } => "another one was asked for by --guest-digest (WQ_GUEST_DIGEST)".into(),
            Error::Grant(_) => {
                "every folder of --dir is opened for each run; `ulimit -n` is the limit of open files".into()
            }
            Error::Compile { .. } => "the guest is valid, so this may be a bug of ours: please report it".into(),
            Error::CompileTimeout { .. } => {
                "--compile-timeout gives it more time; `wq-run compile` can do it once, ahead".into()
            }
            Error::Cache { .. } => "name a folder that can be written with --cache-dir (WQ_CACHE_DIR)".into(),
            Error::Panic(_) => "this is a bug of ours: please report it".into(),
            Error::Thread(_) => "`ulimit -u` and the container's limit of processes count threads, too".into(),
            Error::Wall(_) => {
                "--wall auto (WQ_WALL) does with what there is; a container's seccomp profile has to allow landlock and \
                 seccomp"
                    .into()
            }
            Error::Isolation(_) => "--isolation thread does without".into(),
        }
    }
}

/// Says where a module with foreign imports most likely comes from.
fn imports_hint(imports: &[String]) -> String {
    let any = |prefix: &str| imports.iter().any(|import| import.starts_with(prefix));
    let from = if any("wbg::") || any("__wbindgen") || any("./") {
        "it was made for a browser by wasm-bindgen"
    } else if any("gojs::") || any("go::") {
        "it was built with GOOS=js; build it with GOOS=wasip1"
    } else if any("wasi_unstable::") {
        "it was built for the WASI of 2019, before preview 1; build it again with a newer toolchain"
    } else if any("env::napi_") {
        "it is an add-on for Node.js"
    } else if any("env::emscripten") || any("env::invoke_") || any("env::__") {
        "it looks like a build for a browser by Emscripten; build it with -sSTANDALONE_WASM, or with wasi-libc"
    } else if any("wasi:http/") {
        "HTTP is not among what a guest gets"
    } else if imports.iter().any(|import| import.starts_with("wasi:") && import.contains("@0.3")) {
        "it was built for WASI 0.3; build it for WASI 0.2 (wasm32-wasip2)"
    } else if imports.iter().any(|import| import.starts_with("wasi:") && import.contains("@0.2.0-")) {
        "it was built for a draft of WASI 0.2; build it again with a newer toolchain"
    } else {
        "it was made for some other host"
    };
    format!("a guest may import wasi_snapshot_preview1 or, as a component, wasi:cli/command only; {from}")
}

/// The first few names of a list that can be long.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
