//! The commit that this program was built from.

use std::sync::OnceLock;

/// Set by `main` alone: a build of another commit then compiles `main` anew, and not the library.
static COMMIT: OnceLock<&'static str> = OnceLock::new();

/// Says what `WQ_COMMIT` was in the environment of the compiler. To be called before the command line is read.
pub fn built_from(commit: Option<&'static str>) {
    if let Some(commit) = commit.filter(|commit| !commit.is_empty()) {
        let _ = COMMIT.set(commit);
    }
}

/// `unknown` if nobody told the compiler.
pub fn commit() -> &'static str {
    COMMIT.get().copied().unwrap_or("unknown")
}
