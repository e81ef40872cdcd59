//! Proposals of WebAssembly that are switched on for the guest that uses them, and the refusal of all others.

use std::path::Path;

use crate::harness::queue::on_every_queue;
use crate::harness::{Run, component, concurrent, guest, run, run_with, wq_run};

const WHERE: [&str; 2] = ["thread", "process"];

fn exec(path: &str, flags: &[&str], stdin: &[u8]) -> Run {
    // A guest's process is killed at a system call outside the allowlist. By default, such a call only fails.
    run_with(wq_run(&["exec", path]).args(flags).env("WQ_FAULT", "guest-process:strict"), stdin)
}

#[test]
fn what_a_proposal_makes_is_limited_like_all_else_as_a_module_and_as_a_component_in_threads_and_processes() {
    type Row<'a> = (&'a str, &'a [&'a str], &'a [u8], i32, &'a str);
    let table: [Row; 12] = [
        ("throw", &[], b"", 0, ""),
        ("throw", &[], b"x", 134, "an exception that it did not catch"),
        ("throw-for-ever", &["--timeout", "100ms"], b"", 124, "--timeout"),
        ("throw-for-ever", &["--fuel", "1000000"], b"", 134, "--fuel"),
        ("keep-exceptions", &["--max-memory-size", "4MiB"], b"", 137, "--max-memory-size"),
        ("keep-objects", &["--max-memory-size", "4MiB"], b"", 137, "--max-memory-size"),
        ("drop-objects", &["--max-memory-size", "4MiB"], b"", 0, ""),
        ("large-object", &[], b"", 137, "--max-memory-size"),
        ("memory64", &["--max-memory-size", "64MiB"], b"", 137, "--max-memory-size"),
        ("memory64", &["--max-instances", "1"], b"", 134, "--max-instances"),
        ("finished-proposals", &[], b"", 0, ""),
        ("finished-proposals", &["--deterministic"], b"", 0, ""),
    ];
    for (name, flags, stdin, code, text) in table {
        for path in [guest(name), component(name), concurrent(name)] {
            for isolation in WHERE {
                let flags = [flags, &["--isolation", isolation]].concat();
                exec(&path, &flags, stdin).exits(code).says(text);
            }
        }
    }
}

#[test]
fn inspect_lists_what_is_switched_on_for_a_guest() {
    let uses = |path: &str| {
        let printed = run(&mut wq_run(&["inspect", path, "--json"]));
        let inspection: serde_json::Value = serde_json::from_slice(&printed.exits(0).stdout).unwrap();
        let names = inspection["proposals"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(uses(&guest("echo")), [""; 0]);
    assert_eq!(uses(&guest("throw")), ["exceptions"]);
    assert_eq!(uses(&component("throw")), ["exceptions"]);
    assert_eq!(uses(&guest("keep-objects")), ["gc"]);
    assert_eq!(uses(&guest("twenty-memories")), ["multi-memory"]);
    let all = ["gc", "exceptions", "memory64", "multi-memory", "relaxed-simd"];
    assert_eq!(uses(&guest("finished-proposals")), all);
    let said = run(&mut wq_run(&["inspect", &guest("throw")])).exits(0).out();
    assert!(said.contains("uses       exceptions\n"), "{said}");
}

#[test]
fn a_guest_from_the_cache_has_its_proposals_and_runs_beside_others() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().display().to_string();
    for _ in 0..2 {
        for (name, code) in [("throw", 0), ("echo", 0), ("drop-objects", 0), ("memory-coped", 0)] {
            for isolation in WHERE {
                let flags = ["--cache-dir", &folder, "--isolation", isolation];
                exec(&guest(name), &flags, b"").exits(code);
            }
        }
    }
    let entries = std::fs::read_dir(cache.path()).unwrap().flatten();
    let codes = entries.filter(|entry| entry.file_name().len() == 64).count();
    assert_eq!(codes, 4, "one for each guest");
}

#[test]
fn several_runs_with_exceptions_have_their_memories_side_by_side() {
    on_every_queue(|queue| {
        queue.publish(&["a"; 40]);
        let args = ["work", &guest("throw"), "--concurrency", "8", "--drain"];
        run(&mut queue.command(&args)).exits(0).prints(&"caught\n".repeat(40));
    });
}

fn text(folder: &Path, text: &str) -> String {
    let path = folder.join("guest.wat");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_proposal_that_is_off_is_named_and_the_file_is_not_called_invalid() {
    let folder = tempfile::tempdir().unwrap();
    let table = [
        (r#"(memory 1 2 shared)"#, "threads", "-pthread"),
        (r#"(memory 1) (func (drop (i32.atomic.load (i32.const 0))))"#, "threads", "-pthread"),
        (r#"(memory 1) (func try catch_all end)"#, "legacy-exceptions", "-wasm-use-legacy-eh=false"),
        (r#"(memory 1 (pagesize 1))"#, "custom-page-sizes", "docs/security.md"),
        (r#"(type $f (func)) (type $c (cont $f))"#, "stack-switching", "docs/security.md"),
    ];
    for (body, name, hint) in table {
        let path = text(folder.path(), &format!(r#"(module {body} (func (export "_start")))"#));
        let refused = exec(&path, &[], b"");
        refused.exits(66).says(&format!("switched off here: {name}")).says(hint);
        assert!(!refused.stderr.contains("not valid"), "{}", refused.stderr);
        let printed = run(&mut wq_run(&["inspect", &path])).exits(66).out();
        assert!(printed.contains(&format!("REFUSED    the guest {path} uses")) && printed.contains(name), "{printed}");
    }
}
