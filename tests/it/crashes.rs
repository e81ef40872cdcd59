//! Crashes that can be understood: where they happened, and how the guest's language calls them.

use std::path::Path;

use wasmparser::{Parser, Payload};

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::{component, concurrent, crash_lines_guests, guest, run, run_with, start, wq_run};

const WHERE: [&str; 2] = ["thread", "process"];

#[test]
fn a_trap_says_in_which_functions_it_happened() {
    const STACK: &str = "stack: task::parse <- middle <- main";
    for path in [guest("crash"), component("crash"), concurrent("crash")] {
        for isolation in WHERE {
            let crashed = run(&mut wq_run(&["exec", &path, "--isolation", isolation]));
            crashed.exits(134).says("unreachable").says("stack: task::parse").says("<- middle <- ");
        }
    }
    on_every_queue(|queue| {
        queue.publish(&["task"]);
        run(&mut queue.command(&["work", &guest("crash"), "--max-attempts", "1"])).exits(65).says(STACK);
        let dead = queue.take_dead();
        assert!(dead.headers["x-wq-error"].ends_with(STACK), "{dead:?}");
        assert_eq!(dead.headers["x-wq-outcome"], "trap");
    });
    // A stack that is too deep has the same functions all the way.
    run(&mut wq_run(&["exec", &guest("deep")])).exits(134).says("--max-wasm-stack");
}

/// The number of the line of the guest's source code that has this remark.
fn line_with(remark: &str) -> usize {
    let source = include_str!("../guests/crash-lines/src/main.rs");
    source.lines().position(|line| line.ends_with(remark)).expect("the line is there") + 1
}

/// The guest without its debug information.
fn stripped(folder: &Path, guest: &str) -> String {
    let wasm = std::fs::read(guest).unwrap();
    let mut rest = wasm.clone();
    let sections = Parser::new(0).parse_all(&wasm).map(Result::unwrap);
    let debug = sections.filter_map(|payload| match payload {
        Payload::CustomSection(section) if section.name().starts_with(".debug_") => Some(section.range()),
        _ => None,
    });
    for section in debug.collect::<Vec<_>>().into_iter().rev() {
        // A section's content follows its id, of one byte, and its size, a LEB128 of one to five bytes.
        let size = section.len();
        let leb = (1..=5).find(|bytes| size >> (7 * bytes) == 0).unwrap();
        rest.drain(section.start - leb - 1..section.end);
    }
    let path = folder.join("stripped.wasm");
    std::fs::write(&path, rest).unwrap();
    path.display().to_string()
}

#[test]
fn with_debug_info_a_crash_says_in_which_lines_it_happened() {
    let Some(guests) = crash_lines_guests() else { return };
    let trap = [
        "crash_lines::measured (".to_owned(),
        format!("/src/main.rs:{}) <- crash_lines::outer (", line_with("// the line of the trap")),
        format!("/src/main.rs:{}) <- crash_lines::main (", line_with("// the line of the call")),
    ];
    let panic = format!("/src/main.rs:{}) <- crash_lines::outer (", line_with("// the line of the panic"));
    let is_in = |text: &str| trap.iter().for_each(|part| assert!(text.contains(part), "no {part} in {text}"));
    for guest in &guests {
        for isolation in WHERE {
            let exec = |flags: &[&str], message: &[u8]| {
                run_with(wq_run(&["exec", guest, "--isolation", isolation]).args(flags), message)
            };
            is_in(&exec(&["--debug-info"], b"x").exits(134).stderr);
            exec(&["--debug-info"], b"panic").exits(134).says("<- crash_lines::measured (").says(&panic);
            // Nobody asked for them.
            let without = exec(&[], b"x");
            without.exits(134).says("crash_lines::outer <- crash_lines::main <- ");
            assert!(!without.stderr.contains("main.rs"), "{}", without.stderr);
        }
    }
    on_every_queue(|queue| {
        queue.publish(&["x", "x"]);
        let args = ["work", &guests[0], "--debug-info", "--max-attempts", "1", "--drain"];
        is_in(&run(&mut queue.command(&args)).exits(65).stderr);
        for _ in 0..2 {
            let dead = queue.take_dead();
            is_in(&dead.headers["x-wq-error"]);
        }
    });
}

#[test]
fn a_guest_without_debug_information_crashes_with_its_names_and_people_are_told_once() {
    let Some(guests) = crash_lines_guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let guest = stripped(folder.path(), &guests[0]);
    on_every_queue(|queue| {
        queue.publish(&["x", "x", "panic"]);
        let args = ["work", &guest, "--debug-info", "--max-attempts", "1", "--drain"];
        let worked = run(&mut queue.command(&args));
        worked.exits(65).says("crash_lines::outer <- crash_lines::main <- ");
        assert_eq!(worked.stderr.matches("it has no debug information").count(), 1, "{}", worked.stderr);
        for _ in 0..3 {
            queue.take_dead();
        }
    });
}

#[test]
fn a_guest_that_was_replaced_while_its_worker_runs_has_no_lines() {
    let Some(guests) = crash_lines_guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.wasm");
    std::fs::copy(&guests[0], &path).unwrap();
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let guest = path.display().to_string();
    let args = ["work", &guest, "--debug-info", "--max-attempts", "1", "--forever"];
    let mut working = start(&mut queue.command(&args));
    working.wait_for("working");
    std::fs::copy(&guests[1], &path).unwrap();
    queue.publish(&["x"]);
    working.wait_for("is no longer the one that was loaded");
    working.wait_for("crash_lines::outer <- crash_lines::main <- ");
    working.signal("TERM");
    working.end().exits(0);
    queue.take_dead();
}

#[test]
fn a_language_that_aborts_by_an_impossible_exit_code_is_understood() {
    for isolation in WHERE {
        let aborted = run(&mut wq_run(&["exec", &guest("abort"), "--isolation", isolation]));
        aborted.exits(134).says("it aborted").says("AssemblyScript").says("Index out of range in task.ts(114,42)");
        // Without AssemblyScript's message on stderr, it is a trap with an invalid exit status.
        run(&mut wq_run(&["exec", &guest("exit-200"), "--isolation", isolation]))
            .exits(134)
            .says("invalid exit status");
    }
}

#[test]
fn what_an_exit_code_stands_for_is_said_once() {
    const NO_CODE: &str = "wq-run-exit: CODE";
    const GO: &str = "a Go program that panics";
    on_every_queue(|queue| {
        let work = |path: &str, isolation: &str| {
            queue.publish(&["a", "b", "c"]);
            let args = ["work", path, "--drain", "--max-attempts", "1", "--isolation", isolation];
            let worked = run(&mut queue.command(&args));
            worked.exits(65);
            for _ in 0..3 {
                queue.take_dead();
            }
            worked.stderr
        };
        for isolation in WHERE {
            let told = |path: &str, text: &str| work(path, isolation).matches(text).count();
            assert_eq!(told(&component("fail"), NO_CODE), 1);
            assert_eq!(told(&guest("go-panic"), GO), 1);
            // No hint: a module has its own exit codes, `say-exit` already says its code, and WASI 0.3 has a call for codes. A Go
            // component exits with 1, not 2.
            assert_eq!(told(&guest("fail"), NO_CODE), 0);
            assert_eq!(told(&component("say-exit"), NO_CODE), 0);
            assert_eq!(told(&concurrent("fail"), NO_CODE), 0);
            assert_eq!(told(&component("go-panic"), GO), 0);
        }
    });
}
