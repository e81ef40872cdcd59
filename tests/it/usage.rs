//! What a run used: told by `exec --stats`, by the log's line of its end, and by the headers of what failed.

use serde_json::Value;

use crate::harness::queue::on_every_queue;
use crate::harness::{Run, component, guest, run_with, start, wq_run};

/// What `tests/guests/use.wat` takes, as a module. In bytes.
const TAKES: u64 = 16 << 20;

/// The least time that it computes for, on any machine. In milliseconds.
const COMPUTES: u64 = 20;

/// `exec --stats`, as JSON.
fn stats(guest: &str, args: &[&str], message: &[u8]) -> (Run, Value) {
    let mut command = wq_run(&["exec", guest, "--stats", "--log-format", "json"]);
    let run = run_with(command.args(args), message);
    let line = run.stderr.lines().find(|line| line.contains("peak_memory_bytes"));
    let line = serde_json::from_str(line.unwrap_or_else(|| panic!("no stats: {run:?}"))).expect("it is JSON");
    (run, line)
}

#[test]
fn exec_says_what_a_run_used_and_leaves_stdout_to_the_guest() {
    let run = run_with(&mut wq_run(&["exec", &guest("use"), "--stats", "--fuel", "10000000000"]), b"a result");
    run.exits(0).prints("a result");
    let lines: Vec<&str> = run.stderr.lines().collect();
    let names = ["run time", "CPU time", "peak memory", "fuel", "compile time"];
    assert_eq!(lines.len(), names.len(), "{lines:?}");
    for (line, name) in lines.iter().zip(names) {
        assert!(line.starts_with(name), "{name}: {line}");
    }
    assert!(lines[2].ends_with("16.0 MiB (16777216 bytes)"), "{lines:?}");
    // Nothing unless it is asked for.
    let quiet = run_with(&mut wq_run(&["exec", &guest("use")]), b"");
    assert_eq!(quiet.exits(0).stderr, "");
}

#[test]
fn a_run_is_measured_in_threads_and_in_processes_as_a_module_and_as_a_component() {
    for isolation in ["thread", "process"] {
        for (guest, least) in [(guest("use"), TAKES), (component("use"), TAKES)] {
            for (message, code) in [(&b"x"[..], 0), (b"f", 1), (b"d", 3)] {
                let (run, used) = stats(&guest, &["--isolation", isolation, "--fuel", "10000000000"], message);
                // A component has no codes of its own.
                assert!(run.code == Some(code) || guest.ends_with(".wasm") && run.code == Some(1), "{run:?}");
                let number = |name: &str| used[name].as_u64().unwrap_or_else(|| panic!("no {name}: {used}"));
                // Beside its own memory, a component has that of its adapter, and tables.
                let memory = number("peak_memory_bytes");
                assert!(memory >= least && memory < least + (1 << 20), "{used}");
                assert!(number("cpu_ms") >= COMPUTES, "{used}");
                assert!(number("cpu_ms") <= number("duration_ms") + 100, "{used}");
                // Each turn of its loop takes some.
                assert!(number("fuel") > 200_000_000 && number("fuel") < 10_000_000_000, "{used}");
                assert_eq!((number("compile_ms") > 0, &used["cached"]), (true, &Value::Bool(false)));
            }
        }
    }
}

#[test]
fn a_run_that_was_stopped_or_went_over_a_limit_is_measured_too() {
    for isolation in ["thread", "process"] {
        let (run, used) = stats(&guest("use"), &["--isolation", isolation, "--timeout", "2s"], b"s");
        run.exits(124);
        assert_eq!(used["peak_memory_bytes"], TAKES);
        assert!(used["cpu_ms"].as_u64() > Some(0), "it spun: {used}");
        assert_eq!(used["fuel"], Value::Null);
        let (run, used) = stats(&guest("memory"), &["--isolation", isolation, "--max-memory-size", "8MiB"], b"");
        run.exits(137);
        // It takes a mebibyte at a time, from one page on.
        assert_eq!(used["peak_memory_bytes"], (7 << 20) + (64 << 10));
        let (run, used) = stats(&guest("use"), &["--isolation", isolation, "--fuel", "1000000"], b"");
        run.exits(134);
        assert_eq!(used["fuel"], 1_000_000);
    }
    // It sleeps forever, which takes no processor.
    let (run, used) = stats(&guest("sleep"), &["--timeout", "2s"], b"");
    run.exits(124);
    assert!(used["duration_ms"].as_u64() >= Some(2000) && used["cpu_ms"].as_u64() < Some(500), "{used}");
}

#[test]
fn exec_says_whether_the_guest_was_compiled() {
    let cache = tempfile::tempdir().unwrap();
    let args = ["--cache-dir", cache.path().to_str().unwrap()];
    let (_, first) = stats(&guest("use"), &args, b"");
    assert!(first["compile_ms"].as_u64().is_some(), "{first}");
    let (_, second) = stats(&guest("use"), &args, b"");
    assert_eq!((&second["compile_ms"], &second["cached"]), (&Value::Null, &Value::Bool(true)));
}

#[test]
fn the_log_and_the_dead_letter_say_what_a_run_used() {
    on_every_queue(|queue| {
        for isolation in ["thread", "process"] {
            queue.publish(&["ok", "f"]);
            let args = ["work", &guest("use"), "--max-attempts", "1", "--fuel", "10000000000", "--drain"];
            let mut command = queue.command(&args);
            command.args(["--isolation", isolation, "--wait", "2s"]).env("WQ_LOG_FORMAT", "json");
            let run = start(&mut command).end();
            let ends: Vec<Value> = run
                .stderr
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .filter(|line: &Value| line["outcome"].is_string())
                .collect();
            assert_eq!(ends.len(), 2, "{}", run.stderr);
            for end in &ends {
                assert_eq!(end["peak_memory_bytes"], TAKES, "{end}");
                assert!(end["cpu_ms"].as_u64() >= Some(COMPUTES), "{end}");
                assert!(end["fuel"].as_u64() > Some(200_000_000), "{end}");
            }
            let dead = queue.take_dead();
            let number = |name: &str| dead.headers[name].parse::<u64>().unwrap_or_else(|_| panic!("{name}: {dead:?}"));
            assert_eq!(number("x-wq-peak-memory-bytes"), TAKES);
            assert!(number("x-wq-cpu-ms") >= COMPUTES);
            assert!(number("x-wq-fuel") > 200_000_000);
        }
    });
}
