//! Programs that other people have published, as `scripts/programs.sh` got them, and their compiled code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{required, root, wq_run};

/// The file of a program, if it is there.
pub fn published(name: &str) -> Option<PathBuf> {
    let path = root().join(format!("build/programs/{name}.wasm"));
    required(path.is_file().then_some(path), &format!("scripts/programs.sh has not got {name}.wasm"))
}

/// One folder for all tests, so that each program is compiled once for each build of wq-run.
pub fn cache() -> String {
    root().join("build/programs/cache").display().to_string()
}

/// Compiles a program into the cache, for a test that runs it.
pub fn compiled(program: &Path) {
    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // Held while it compiles: whoever else wants the program waits for its code.
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if done.contains(program) {
        return;
    }
    // A development build compiles ten times more slowly than a release.
    let flags = ["--cache-dir", &cache(), "--compile-timeout", "20m", "--compile-memory", "4GiB"];
    let ended = wq_run(&["compile"]).arg(program).args(flags).output().expect("it starts");
    assert!(ended.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&ended.stderr));
    done.insert(program.to_owned());
}
