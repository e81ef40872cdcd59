//! WebAssembly's wasi-testsuite, its parts for preview 1 and for 0.3, run by `wq-run exec`.
//!
//! `WASI_TESTSUITE` names the folder `tests` of the suite's branch `prod/testsuite-base`, which has the guests built.
//! Beside each guest there may be a file that says with what to run it and what to expect.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::harness::{run_with, wq_run};

/// What a test of the suite says of itself. The names are the suite's. There are two forms: the fields of a run, or a list of
/// operations.
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
    operations: Vec<Operation>,
    world: Option<String>,
    /// For people.
    proposals: Vec<String>,
    /// What a service would call.
    servers: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Started {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    root: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Operation {
    Run(Started),
    Wait {
        #[serde(default)]
        exit_code: i32,
    },
    Read {
        id: String,
        payload: String,
    },
    /// To stdin.
    Write {
        payload: String,
    },
    /// With a peer.
    #[serde(other)]
    Other,
}

/// What to do, and what to expect, in either form.
#[derive(Debug, Default)]
struct Case {
    run: Started,
    stdin: String,
    exit_code: i32,
    stdout: Option<String>,
    stderr: Option<String>,
}

impl From<Specification> for Case {
    fn from(specification: Specification) -> Case {
        let Specification { args, env, root, exit_code, stdout, stderr, operations, .. } = specification;
        let mut case = Case { run: Started { args, env, root }, exit_code, stdout, stderr, ..Case::default() };
        for operation in operations {
            match operation {
                Operation::Run(run) => case.run = run,
                Operation::Wait { exit_code } => case.exit_code = exit_code,
                Operation::Read { id, payload } => {
                    let stream = if id == "stderr" { &mut case.stderr } else { &mut case.stdout };
                    stream.get_or_insert_default().push_str(&payload);
                }
                // All of it is there when the guest starts.
                Operation::Write { payload, .. } => case.stdin.push_str(&payload),
                Operation::Other => {}
            }
        }
        case
    }
}

/// The tests that do not pass, and why.
const FAILS: [(&str, &str); 0] = [];

/// The same for WASI 0.3.
const FAILS_0_3: [(&str, &str); 12] = [
    (
        "rust/http-request",
        "it wants paths without a slash at their start, which wasmtime refuses: they could name another server",
    ),
    ("rust/sockets-echo", SERVER),
    ("rust/sockets-tcp-bind", SERVER),
    ("rust/sockets-tcp-connect", SERVER),
    ("rust/sockets-tcp-listen", SERVER),
    ("rust/sockets-tcp-receive", SERVER),
    ("rust/sockets-tcp-send", SERVER),
    ("rust/sockets-udp-bind", UDP),
    ("rust/sockets-udp-connect", UDP),
    ("rust/sockets-udp-properties", UDP),
    ("rust/sockets-udp-receive", UDP),
    ("rust/sockets-udp-send", UDP),
];

const SERVER: &str = "it is a server to itself or to others, and no flag grants that";
const UDP: &str = "no flag grants UDP";

/// The folder `tests` of the suite.
fn suite() -> Option<PathBuf> {
    let suite = std::env::var_os("WASI_TESTSUITE").map(PathBuf::from);
    if suite.is_none() {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: WASI_TESTSUITE does not name the suite's folder `tests`");
    }
    suite
}

#[test]
fn exec_passes_the_wasi_testsuite() {
    let Some(suite) = suite() else { return };
    let folders = ["assemblyscript", "c", "rust"].map(|language| suite.join(language).join("testsuite/wasm32-wasip1"));
    try_all("preview 1", &folders, &FAILS);
}

#[test]
fn exec_passes_the_commands_of_the_wasi_testsuite_for_0_3() {
    let Some(suite) = suite() else { return };
    try_all("0.3", &[suite.join("rust/testsuite/wasm32-wasip3")], &FAILS_0_3);
}

fn try_all(version: &str, folders: &[PathBuf], fails: &[(&str, &str)]) {
    let (mut passed, mut services, mut failed) = (0, 0, BTreeMap::new());
    for folder in folders {
        let language = folder.iter().nth_back(2).unwrap().to_string_lossy();
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.extension().is_none_or(|ending| ending != "wasm") {
                continue;
            }
            let specification = std::fs::read_to_string(path.with_extension("json")).unwrap_or_else(|_| "{}".into());
            let specification: Specification =
                serde_json::from_str(&specification).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // They are called by a web server, which wq-run is not.
            if specification.world.as_deref() == Some("wasi:http/service") {
                services += 1;
                continue;
            }
            match try_guest(&path, &specification.into()) {
                Ok(()) => passed += 1,
                Err(problem) => {
                    failed.insert(format!("{language}/{}", path.file_stem().unwrap().to_string_lossy()), problem);
                }
            }
        }
    }
    println!(
        "wasi-testsuite, {version}: {passed} of {} commands pass; {services} services were left out",
        passed + failed.len()
    );
    for (name, problem) in &failed {
        println!("{name}: {problem}");
    }
    assert!(passed > 0, "there is no test in {folders:?}");
    let expected: Vec<&str> = fails.iter().map(|(name, _)| *name).collect();
    assert_eq!(failed.keys().map(String::as_str).collect::<Vec<_>>(), expected, "see CONTRIBUTING.md");
}

fn try_guest(path: &Path, case: &Case) -> Result<(), String> {
    let mut command = wq_run(&["exec", &path.display().to_string(), "--timeout", "60s"]);
    // Some look at the name by which other hosts call them.
    command.arg("--argv0").arg(path.file_name().unwrap());
    // So that sockets can be made at all. Nothing listens there.
    let is_component = std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\0asm\x0d"));
    if is_component {
        command.args(["--allow-net", "127.0.0.1:1"]);
    }
    for (name, value) in &case.run.env {
        command.arg(format!("--env={name}={value}"));
    }
    // A copy, since some tests leave things behind.
    let copy = tempfile::tempdir().unwrap();
    if let Some(root) = &case.run.root {
        copy_folder(&path.with_file_name(root), copy.path());
        command.arg(format!("--dir={}::/:rw", copy.path().display()));
    }
    let ended = run_with(command.arg("--").args(&case.run.args), case.stdin.as_bytes());
    if ended.code != Some(case.exit_code) {
        return Err(format!("ended with {:?}: {}", ended.code, ended.stderr.trim()));
    }
    if case.stdout.as_ref().is_some_and(|stdout| *stdout != ended.out()) {
        return Err(format!("printed {:?}", ended.out()));
    }
    // Lines are read here, so the last end of line says nothing.
    if case.stderr.as_ref().is_some_and(|stderr| stderr.trim_end() != ended.stderr.trim_end()) {
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
