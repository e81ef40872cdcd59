//! The preview 1 part of WebAssembly's wasi-testsuite, run by `wq-run exec`.
//!
//! `WASI_TESTSUITE` names the folder `tests` of the suite's branch `prod/testsuite-base`, which has the guests built.
//! Beside each guest there may be a file that says with what to run it and what to expect.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::harness::{run, wq_run};

/// What a test of the suite says of itself. The names are the suite's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Specification {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    /// A folder beside the guest, which sees it as `/`.
    root: Option<String>,
    exit_code: i32,
    stdout: Option<String>,
    stderr: Option<String>,
}

/// The tests that do not pass, and why.
const FAILS: [(&str, &str); 0] = [];

#[test]
fn exec_passes_the_wasi_testsuite() {
    let Some(suite) = std::env::var_os("WASI_TESTSUITE").map(PathBuf::from) else {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: WASI_TESTSUITE does not name the suite's folder `tests`");
        return;
    };
    let (mut passed, mut failed) = (0, BTreeMap::new());
    for language in ["assemblyscript", "c", "rust"] {
        let folder = suite.join(language).join("testsuite/wasm32-wasip1");
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|ending| ending == "wasm") {
                let name = format!("{language}/{}", path.file_stem().unwrap().to_string_lossy());
                match try_guest(&path) {
                    Ok(()) => passed += 1,
                    Err(problem) => drop(failed.insert(name, problem)),
                }
            }
        }
    }
    println!("wasi-testsuite, preview 1: {passed} of {} pass", passed + failed.len());
    for (name, problem) in &failed {
        println!("{name}: {problem}");
    }
    assert!(passed > 0, "there is no test in {}", suite.display());
    let expected: Vec<&str> = FAILS.iter().map(|(name, _)| *name).collect();
    assert_eq!(failed.keys().map(String::as_str).collect::<Vec<_>>(), expected, "see CONTRIBUTING.md");
}

fn try_guest(path: &Path) -> Result<(), String> {
    let specification = std::fs::read_to_string(path.with_extension("json")).unwrap_or_else(|_| "{}".into());
    let specification: Specification =
        serde_json::from_str(&specification).map_err(|error| format!("its specification: {error}"))?;
    let mut command = wq_run(&["exec", &path.display().to_string(), "--timeout", "60s"]);
    for (name, value) in &specification.env {
        command.arg(format!("--env={name}={value}"));
    }
    // A copy, since some tests leave things behind.
    let copy = tempfile::tempdir().unwrap();
    if let Some(root) = &specification.root {
        copy_folder(&path.with_file_name(root), copy.path());
        command.arg(format!("--dir={}::/:rw", copy.path().display()));
    }
    let ended = run(command.arg("--").args(&specification.args));
    if ended.code != Some(specification.exit_code) {
        return Err(format!("ended with {:?}: {}", ended.code, ended.stderr.trim()));
    }
    if specification.stdout.is_some_and(|stdout| stdout != ended.out()) {
        return Err(format!("printed {:?}", ended.out()));
    }
    if specification.stderr.is_some_and(|stderr| stderr != ended.stderr) {
        return Err(format!("said {:?}", ended.stderr));
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
