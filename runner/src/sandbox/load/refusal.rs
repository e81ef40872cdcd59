//! The reasons for which a file is refused as a guest, and what helps.
//!
//! The process that looks into a guest says so to the worker, so all of this is data.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::visible::lines;

/// More than any guest that people ship (an interpreter with its library is 30 MB), and small enough to hold in memory.
/// It holds for what is stored and for what comes out of it, so that a few bytes can't unpack to a full memory.
pub const MAX_GUEST_SIZE: u64 = 256 << 20;

/// A refused guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: Reason,
    pub cause: Option<Cause>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    Empty,
    TooLarge,
    Packed,
    NotWasm,
    Text,
    Invalid,
    /// It uses a proposal of WebAssembly that is off for every guest.
    Off {
        proposal: String,
    },
    /// It has a code that no version of WebAssembly has, as far as we know.
    Unknown,
    Reactor,
    NoStart,
    /// It uses asynchronous functions, which only commands of WASI 0.3 can.
    NotConcurrent,
    NoRun {
        exports: Vec<String>,
    },
    Imports {
        imports: Vec<String>,
    },
    Compile,
    /// There is not enough memory to look into it.
    Memory,
}

/// The text of a library's error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct Cause(pub String);

impl Refusal {
    pub fn because(reason: Reason, cause: impl fmt::Display) -> Refusal {
        Refusal { reason, cause: Some(Cause(cause.to_string())) }
    }

    /// The same refusal, safe for a terminal. Names and causes quote the guest.
    pub fn printable(self) -> Refusal {
        let names = |names: Vec<String>| names.iter().map(|name| printable(name)).collect();
        let reason = match self.reason {
            Reason::NoRun { exports } => Reason::NoRun { exports: names(exports) },
            Reason::Imports { imports } => Reason::Imports { imports: names(imports) },
            other => other,
        };
        Refusal { reason, cause: self.cause.map(|Cause(text)| Cause(printable(&text))) }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Refusal {
        Refusal { reason, cause: None }
    }
}

impl Reason {
    pub fn about(&self, guest: &Path) -> String {
        let guest = format!("the guest {}", guest.display());
        match self {
            Reason::Empty => format!("{guest} is empty"),
            Reason::TooLarge => format!("{guest} is larger than {MAX_GUEST_SIZE} bytes"),
            Reason::Packed => format!("cannot unpack {guest}"),
            Reason::NotWasm => format!("{guest} is neither WebAssembly nor its text form"),
            Reason::Text => format!("the text of {guest} has an error"),
            Reason::Invalid => format!("{guest} is not valid WebAssembly, or was cut short"),
            Reason::Off { proposal } => {
                format!("{guest} uses a part of WebAssembly that is switched off here: {proposal}")
            }
            Reason::Unknown => format!("{guest} has code of a kind that this version of wq-run does not know"),
            Reason::Reactor => format!("{guest} is a reactor: it has `_initialize` and no `_start`"),
            Reason::NoStart => format!("{guest} has no function `_start`"),
            Reason::NotConcurrent => {
                format!("{guest} has asynchronous functions, and exports `wasi:cli/run` of WASI 0.2 only")
            }
            Reason::NoRun { exports } if exports.is_empty() => {
                format!("{guest} is a component that does not export `wasi:cli/run`, nor anything else")
            }
            Reason::NoRun { exports } => {
                format!("{guest} is a component that does not export `wasi:cli/run`, but {}", listed(exports))
            }
            Reason::Imports { imports } => {
                format!("{guest} has imports that wq-run does not provide: {}", listed(imports))
            }
            Reason::Compile => format!("cannot compile {guest}"),
            Reason::Memory => format!("{guest} needs more memory than there is"),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Reason::Empty => "an empty file is often a download or a build that failed".into(),
            Reason::TooLarge => "strip the guest (`-s`, or `strip = true`), or use a smaller runtime for it".into(),
            Reason::Packed => "the file is cut short or damaged: pack it again with gzip or zstd".into(),
            Reason::NotWasm => "a guest is compiled to wasm32-wasip1 or wasm32-wasip2; guest-examples/ shows how".into(),
            Reason::Text => "`.wat` is the text form of WebAssembly".into(),
            Reason::Invalid => "the file is damaged: copy or build it again".into(),
            Reason::Off { proposal } => off_hint(proposal).into(),
            Reason::Unknown => {
                "it was built for a proposal of WebAssembly that came later, or it is damaged: build it for WebAssembly 3.0 \
                 or less"
                    .into()
            }
            Reason::Reactor => {
                "a guest is a program, not a library: build a binary with a `main` (not `-mexec-model=reactor`)".into()
            }
            Reason::NoStart => {
                "a guest is a program with a `main`, built for wasm32-wasip1 (not wasm32-unknown-unknown)".into()
            }
            Reason::NotConcurrent => "a component with asynchronous functions has to export `wasi:cli/run` of WASI 0.3".into(),
            Reason::NoRun { exports } if exports.iter().any(|export| is_draft(export)) => {
                "it was built for a draft of WASI; build it again with a newer toolchain".into()
            }
            Reason::NoRun { exports } if exports.iter().any(|export| export.starts_with("wasi:http/")) => {
                "it is a web server's handler (wasi:http/proxy); a guest is a program with a `main` (wasi:cli/command)"
                    .into()
            }
            Reason::NoRun { .. } => "build a component of the world wasi:cli/command: a program with a `main`".into(),
            Reason::Imports { imports } => imports_hint(imports),
            Reason::Compile => {
                "the guest is valid, but the compiler refuses it; wq-run uses wasmtime, and its limits hold".into()
            }
            Reason::Memory => "raise --compile-memory (WQ_COMPILE_MEMORY)".into(),
        }
    }
}

/// Whether this is an interface of WASI before it was finished.
fn is_draft(name: &str) -> bool {
    name.starts_with("wasi:") && name.split_once('@').is_some_and(|(_, version)| version.contains('-'))
}

/// Whether a module imports this as the core of a component does: by an interface's name, or by one of the component model's own.
fn is_of_a_component(import: &str) -> bool {
    let module = import.split_once("::").map(|(module, _)| module);
    module.is_some_and(|module| module == "$root" || module.starts_with("[export]") || module.starts_with("wasi:"))
}

/// How to build a guest without a proposal.
fn off_hint(proposal: &str) -> &'static str {
    match proposal {
        "threads" => {
            "guests have one thread and a memory of their own: build it without threads (not with -pthread, nor for \
             wasm32-wasip1-threads)"
        }
        "legacy-exceptions" => {
            "it uses the legacy exceptions from before WebAssembly 3.0: build it with the standard ones (with LLVM, \
             -mllvm -wasm-use-legacy-eh=false)"
        }
        _ => {
            "this proposal is not finished: build it for WebAssembly 3.0 or less; docs/security.md says what is off and why"
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
    } else if any("rb-js-abi-host::") {
        "it is a Ruby for JavaScript hosts; build it without the gem `js`"
    // Emscripten's optimised builds have one-letter names, in a module `a`.
    } else if any("env::emscripten")
        || any("env::invoke_")
        || any("env::__")
        || imports.iter().all(|import| import.starts_with("a::"))
    {
        "it looks like a build for a browser by Emscripten; build it with -sSTANDALONE_WASM, or with wasi-libc"
    } else if imports.iter().any(|import| is_of_a_component(import)) {
        "it is the core module of a component: make the component with `wasm-tools component new`, or build it for \
         wasm32-wasip2"
    } else if any("wasi:http/") {
        "of wasi:http, wq-run provides the interfaces that send requests (outgoing-handler, client), but not those that answer them"
    } else if imports.iter().any(|import| is_draft(import)) {
        "it was built for a draft of WASI; build it again with a newer toolchain"
    } else if imports.iter().any(|import| import.starts_with("wasi:") && import.contains("@0.3.")) {
        "it imports WASI 0.3, but exports `wasi:cli/run` of WASI 0.2 only"
    } else {
        "it was made for some other host"
    };
    format!("a guest may import wasi_snapshot_preview1 or, as a component, wasi:cli/command and wasi:http only; {from}")
}

/// The first few names of a list that can be long.
pub fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// Text that came out of a guest, safe for a terminal and of a bounded length. Ends of lines stay: messages about a guest's
/// text point at a column.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 4096;
    let cut = text.floor_char_boundary(LONGEST);
    let end = if cut < text.len() { "…" } else { "" };
    format!("{}{end}", lines(&text[..cut]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_tell_what_a_file_was_made_for() {
        for (import, made_for) in [
            ("wbg::__wbindgen_throw", "wasm-bindgen"),
            ("./task_bg.js::__wbg_log", "wasm-bindgen"),
            ("gojs::runtime.wasmExit", "GOOS=wasip1"),
            ("go::runtime.wasmExit", "GOOS=wasip1"),
            ("env::napi_create_function", "Node.js"),
            ("env::emscripten_notify_memory_growth", "Emscripten"),
            ("env::invoke_vi", "Emscripten"),
            ("wasi_unstable::fd_write", "2019"),
            ("wasi:http/incoming-handler@0.2.0", "those that answer them"),
            ("wasi:cli/stdin@0.3.0-rc-2026-01-06", "draft of WASI"),
            ("wasi:cli/stdin@0.3.0", "exports `wasi:cli/run` of WASI 0.2 only"),
            ("wasi:cli/stdout@0.3.2::write-via-stream", "component new"),
            ("$root::[waitable-join]", "component new"),
            ("env::launch_rocket", "some other host"),
        ] {
            let hint = Reason::Imports { imports: vec!["a::b".into(), import.into()] }.hint();
            assert!(hint.contains(made_for), "{import}: {hint}");
        }
    }

    #[test]
    fn a_guest_can_not_steer_the_terminal_of_who_reads_its_refusal() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\u{202e}d\ne"), "a\\u{1b}[2Jb\\rc\\u{202e}d\ne");
        let refusal = Refusal::because(Reason::Imports { imports: vec!["\u{7}::x".into()] }, "\u{9b}");
        let Refusal { reason, cause } = refusal.printable();
        assert_eq!(reason, Reason::Imports { imports: vec!["\\u{7}::x".into()] });
        assert_eq!(cause, Some(Cause("\\u{9b}".into())));
        assert!(printable(&"ä".repeat(1 << 20)).len() < 5000);
    }
}
