//! Commands of WASI 0.3: the same outcomes, limits, grants and places as for the other kinds, and what only they can do.

use std::path::Path;
use std::process::Command;

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::{Run, commands_of_both, concurrent, concurrent_guest, run, run_with, start, wq_run};
use crate::outcomes::ENDS;

const WHERE: [&str; 2] = ["thread", "process"];

fn exec_in(isolation: &str, path: &str, flags: &[&str], args: &[&str]) -> Command {
    let mut command = wq_run(&["exec", path, "--isolation", isolation]);
    // To compile a guest for each row would take most of the time.
    command.args(["--cache-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache-0.3")]);
    // A guest's process is killed at a system call outside the allowlist. By default, such a call only fails.
    command.args(flags).env("WQ_FAULT", "guest-process:strict").arg("--").args(args);
    command
}

fn exec(isolation: &str, path: &str, flags: &[&str], args: &[&str]) -> Run {
    run(&mut exec_in(isolation, path, flags, args))
}

#[test]
fn a_command_of_wasi_0_3_ends_like_every_other_in_threads_and_processes() {
    let Some(guest) = concurrent_guest() else { return };
    type Row<'a> = (&'a [&'a str], &'a [&'a str], i32, &'a str);
    let table: [Row; 17] = [
        (&["exit", "0"], &[], 0, ""),
        (&["exit", "7"], &[], 7, ""),
        (&["exit", "255"], &[], 255, ""),
        (&["fail"], &[], 1, ""),
        (&["trap"], &[], 134, "unreachable"),
        (&["deep"], &[], 134, "--max-wasm-stack"),
        (&["memory"], &["--max-memory-size", "8MiB"], 137, "--max-memory-size"),
        (&["spin"], &["--timeout", "100ms"], 124, "--timeout"),
        (&["spin"], &["--fuel", "1000000"], 134, "--fuel"),
        (&["yield"], &["--timeout", "100ms"], 124, "--timeout"),
        (&["yield"], &["--fuel", "1000000"], 134, "--fuel"),
        (&["sleep"], &["--timeout", "100ms"], 124, "--timeout"),
        // At once, and not at the timeout.
        (&["deadlock"], &[], 134, "deadlock"),
        (&["write", "2000000"], &["--max-stdout", "1MiB"], 153, "--max-stdout"),
        // It never looks at the error, and would go on forever.
        (&["write-and-spin", "2000000"], &["--max-stdout", "1MiB"], 153, "--max-stdout"),
        // Fewer bytes than were asked for are within the interface.
        (&["random", "2000000"], &["--max-random-size", "1MiB"], 0, "1048576 bytes"),
        (&["echo"], &["--max-instances", "1"], 134, "--max-instances"),
    ];
    for (args, flags, code, text) in table {
        for isolation in WHERE {
            exec(isolation, &guest, flags, args).exits(code).says(text);
        }
    }
}

#[test]
fn a_message_goes_in_and_comes_out_whole_by_streams() {
    let Some(guest) = concurrent_guest() else { return };
    let every_byte: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    for isolation in WHERE {
        for message in [&every_byte[..], b"", b"\0"] {
            let echoed = run_with(&mut exec_in(isolation, &guest, &[], &["echo"]), message);
            assert!(echoed.exits(0).stdout == message, "{} bytes of {}", echoed.stdout.len(), message.len());
        }
    }
}

#[test]
fn what_tasks_write_after_run_has_returned_belongs_to_the_result() {
    let Some(guest) = concurrent_guest() else { return };
    let lines: String = (1..=50).map(|line| format!("line {line}\n")).collect();
    for isolation in WHERE {
        let late = |flags: &[&str], args: &[&str]| exec(isolation, &guest, flags, &[&["late"], args].concat());
        late(&[], &["print", "50"]).exits(0).prints(&lines);
        late(&["--timeout", "200ms"], &["sleep"]).exits(124).says("--timeout");
        late(&[], &["trap"]).exits(134).says("unreachable");
        late(&[], &["exit", "9"]).exits(9);
        // A guest that failed has nothing more to say.
        late(&["--timeout", "50s"], &["fail"]).exits(1);
    }
}

#[test]
fn all_that_the_host_keeps_for_a_guest_is_counted() {
    let Some(guest) = concurrent_guest() else { return };
    for isolation in WHERE {
        for what in ["streams", "futures", "sleepers", "writers", "sockets", "listings"] {
            // Without a grant there would be no socket and no listing to hold.
            let grants = ["--allow-net", "127.0.0.1:1", "--dir", concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")];
            let hold = |many: &str, flags: &[&str]| {
                exec(isolation, &guest, &[&grants[..], flags].concat(), &["hold", what, many])
            };
            hold("5000", &[]).exits(134).says("--max-resources");
            hold("100", &[]).exits(0);
            hold("100", &["--max-resources", "50"]).exits(134).says("--max-resources");
        }
    }
}

#[test]
fn one_huge_write_costs_the_worker_no_more_than_the_limit_of_stdout() {
    const MIB: u64 = 1 << 20;
    let Some(guest) = concurrent_guest() else { return };
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    queue.publish(&["x"]);
    let flags = ["--forever", "--max-attempts", "1", "--max-memory-size", "1GiB"];
    let args = ["--", "write", "268435455"];
    let mut working = start(queue.command(&["work", &guest]).args(flags).args(args));
    working.wait_for("\"settlement\":\"dead-letter\"");
    let status = std::fs::read_to_string(format!("/proc/{}/status", working.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    working.signal("TERM");
    working.end().exits(0);
    assert_eq!(queue.take_dead().headers["x-wq-outcome"], "output");
    // The guest's own copy, and the program.
    assert!(peak < (256 + 100) * MIB, "{} MiB", peak / MIB);
}

#[test]
fn on_every_queue_its_outcomes_are_those_of_the_other_kinds() {
    on_every_queue(|queue| {
        for (name, flags, outcome) in ENDS {
            queue.publish(&["task"]);
            let fast = ["--max-attempts", "1"];
            let failed = run(queue.command(&["work", &concurrent(name)]).args(flags).args(fast));
            failed.exits(65).says(&format!("\"outcome\":\"{outcome}\"")).prints("");
            let dead = queue.take_dead();
            assert_eq!((&dead.body[..], &*dead.headers["x-wq-outcome"]), (&b"task"[..], outcome), "{name}");
        }
        queue.publish(&["whole"]);
        run(&mut queue.command(&["work", &concurrent("echo")])).exits(0).prints("whole");
    });
}

#[test]
fn a_guest_that_is_a_command_of_both_versions_is_run_as_the_newer() {
    // Its `run` of 0.2 is a trap.
    let guest = commands_of_both();
    for isolation in WHERE {
        exec(isolation, &guest, &[], &[]).exits(0);
    }
    assert!(run(&mut wq_run(&["inspect", &guest])).exits(0).out().contains("component, WASI 0.3.0"));
}

#[test]
fn inspect_says_the_exact_version_and_that_it_is_concurrent() {
    let Some(guest) = concurrent_guest() else { return };
    let said = run(&mut wq_run(&["inspect", &guest])).exits(0).out();
    for text in ["component, WASI 0.3.2", "uses       component-model-async\n", "network: --allow-net"] {
        assert!(said.contains(text), "no {text} in:\n{said}");
    }
}

fn text(folder: &Path, text: &str) -> String {
    let path = folder.join("guest.wat");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_command_of_a_draft_and_one_of_0_2_with_asynchronous_functions_are_refused_with_their_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let command = |version: &str, ty: &str| {
        format!(
            r#"(component
                (core module $m (func (export "run") (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func $run {ty} (result (result)) (canon lift (core func $i "run")))
                (instance $r (export "run" (func $run)))
                (export "wasi:cli/run@{version}" (instance $r)))"#
        )
    };
    let exec = |component: &str| exec("thread", &text(folder.path(), component), &[], &[]);
    exec(&command("0.3.0", "async")).exits(0);
    exec(&command("0.3.7", "async")).exits(0);
    exec(&command("0.3.0-rc-2026-01-06", "async")).exits(66).says("draft of WASI");
    exec(&command("0.2.0", "async")).exits(66).says("asynchronous functions").says("of WASI 0.3");
    let handler = command("0.3.0", "async").replace("wasi:cli/run", "wasi:http/handler");
    exec(&handler).exits(66).says("wasi:http/handler@0.3.0").says("is a program");
}

#[test]
fn a_guest_from_the_cache_is_called_by_its_version_and_runs_beside_its_twin_of_0_2() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().display().to_string();
    let twins = [concurrent("echo"), crate::harness::component("echo")];
    for _ in 0..2 {
        for guest in &twins {
            for isolation in WHERE {
                let flags = ["exec", guest, "--isolation", isolation, "--cache-dir", &folder];
                run_with(&mut wq_run(&flags), b"x").exits(0).prints("x");
            }
        }
    }
    let entries = std::fs::read_dir(cache.path()).unwrap().flatten();
    assert_eq!(entries.filter(|entry| entry.file_name().len() == 64).count(), 2, "one for each guest");
}
