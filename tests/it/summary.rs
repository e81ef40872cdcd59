//! What a worker says of its work: progress while it goes on, a summary at its end, and why it ended in the termination log.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::terminal::start_on_terminal;
use crate::harness::{Run, eventually, guest, http, installed, required, run, start, wq_run};
use crate::log::contract::keeps_the_contract;

const FAST: [&str; 4] = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];

fn embedded() -> Queue<'static> {
    Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()))
}

/// The lines of JSON with this event.
fn events(run: &Run, message: &str) -> Vec<Value> {
    let lines = run.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

#[track_caller]
fn the_summary(run: &Run) -> Value {
    let [summary] = <[Value; 1]>::try_from(events(run, "stopped")).expect("one summary");
    summary
}

fn folder_and_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("termination-log");
    (folder, file)
}

// === the summary ===

#[test]
fn a_summary_counts_each_message_by_its_outcome_and_says_how_long_runs_took() {
    on_every_queue(|queue| {
        // Two that succeed, two that fail twice and die, one that is a dead letter at once.
        queue.publish(&["a", "b", "f1", "f2", "d"]);
        let args = ["work", &guest("obey"), "--drain", "--max-attempts", "2", "--result", "none"];
        let ended = run(queue.command(&args).args(FAST));
        keeps_the_contract(ended.exits(65));
        let summary = the_summary(&ended);
        let counts = ["acked", "retried", "dead_lettered", "rejected", "released", "unsettled", "withdrawn"];
        assert_eq!(counts.map(|name| summary[name].as_u64().unwrap()), [2, 2, 3, 0, 0, 0, 0], "{summary}");
        assert_eq!(summary["outcomes"], serde_json::json!({"success": 2, "exit": 5}));
        assert_eq!((&summary["exit_status"], &summary["level"]), (&65.into(), &"INFO".into()));
        assert_eq!(summary["reason"], "the queue is empty");
        assert_eq!(summary["queue"], queue.name.as_str());
        let number = |name: &str| summary[name].as_f64().unwrap_or_else(|| panic!("no {name}: {summary}"));
        let durations = ["p50_ms", "p95_ms", "p99_ms", "longest_ms"].map(number);
        assert!(durations.is_sorted() && durations[0] > 0.0, "{summary}");
        // Five left the queue in this time.
        let rate = 5.0 / (number("elapsed_ms") / 1e3);
        assert!((number("rate") - rate).abs() < 0.05 * rate, "{summary}");
        for _ in 0..3 {
            queue.take_dead();
        }
    });
}

#[test]
fn a_signal_that_comes_while_the_guest_is_loaded_ends_with_a_summary_like_any_other() {
    let queue = embedded();
    let (folder, file) = folder_and_file();
    let pipe = folder.path().join("guest.wasm");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = queue.command(&["work", pipe.to_str().unwrap(), "--forever"]);
    let (worker, address) = crate::metrics::listening(command.env("WQ_TERMINATION_LOG", &file));
    eventually("the guest is being loaded", || {
        http::get(address, "/readyz").body.contains("the guest is being loaded").then_some(())
    });
    worker.signal("TERM");
    let ended = worker.end();
    keeps_the_contract(ended.exits(143));
    let summary = the_summary(&ended);
    let at = |event: &str| ended.stderr.find(&format!("\"message\":\"{event}")).unwrap_or_else(|| panic!("no {event}"));
    assert!(at("a signal was received") < at("stopped"), "first what came, then what came of it: {}", ended.stderr);
    assert_eq!(
        (&summary["reason"], &summary["exit_status"], &summary["acked"], &summary["queue"]),
        (&"SIGTERM".into(), &143.into(), &0.into(), &queue.name.as_str().into())
    );
    let said = fs::read_to_string(&file).unwrap();
    let first = format!("wq-run: stopped: SIGTERM (queue {}, exit status 143)\n  messages  0 done\n", queue.name);
    assert!(said.starts_with(&first), "{said}");
}

#[test]
fn percentiles_tell_slow_runs_from_fast_ones() {
    let queue = embedded();
    queue.publish(&["1", "2"]);
    let slow = run(&mut queue.command(&["work", &guest("nap"), "--drain"]));
    // Each sleeps for a second.
    let summary = the_summary(slow.exits(0));
    for name in ["p50_ms", "p99_ms", "longest_ms"] {
        assert!(summary[name].as_f64().unwrap() >= 1000.0, "{name}: {summary}");
    }
    let nothing = run(&mut queue.command(&["work", &guest("nap"), "--drain"]));
    let summary = the_summary(nothing.exits(0));
    assert_eq!((summary.get("p50_ms"), summary.get("longest_ms")), (None, None), "nothing was run: {summary}");
}

#[test]
fn people_get_the_summary_in_lines_and_the_error_after_it() {
    let queue = embedded();
    queue.publish(&["a", "f"]);
    let args = ["work", &guest("obey"), "--drain", "--max-attempts", "1", "--result", "none", "--log-format", "text"];
    let ended = run(&mut queue.command(&args));
    let (_, summary) = ended.exits(65).stderr.split_once("wq-run: stopped: ").expect("a summary");
    let lines: Vec<&str> = summary.lines().collect();
    assert_eq!(lines[0], format!("the queue is empty (queue {}, exit status 65)", queue.name));
    assert_eq!(lines[1..3], ["  messages  1 done, 1 dead-lettered", "  outcomes  exit 1, success 1"]);
    assert!(lines[3].starts_with("  time      ") && lines[3].ends_with(" messages/s"), "{summary}");
    assert!(lines[4].starts_with("  runs      p50 ") && lines[4].contains(", longest "), "{summary}");
    queue.take_dead();
    let ended = run(queue.command(&["work", &guest("obey"), "--log-format", "text"]).env("QUEUE", "missing"));
    // Where no work began there is none to sum up.
    let said = &ended.exits(78).stderr;
    assert!(said.starts_with("wq-run: there is no queue `missing`\n  hint: ") && !said.contains("stopped"), "{said}");
}

#[test]
fn a_start_that_failed_has_an_error_and_no_summary() {
    on_every_queue(|queue| {
        let failed = run(queue.command(&["work", &guest("echo")]).env("QUEUE", "missing"));
        assert_eq!(
            ["stopped", "failed"].map(|event| events(failed.exits(78), event).len()),
            [0, 1],
            "{}",
            failed.stderr
        );
    });
    let args = ["work", &guest("echo"), "--connect-timeout", "100ms"];
    let failed = run(wq_run(&args).env("BROKER_URL", "amqp://127.0.0.1:1").env("QUEUE", "q"));
    assert_eq!(["stopped", "failed"].map(|event| events(failed.exits(69), event).len()), [0, 1], "{}", failed.stderr);
}

#[test]
fn the_level_of_the_log_decides_about_the_summary_as_about_every_event() {
    let queue = embedded();
    for format in ["text", "json"] {
        let args = ["work", &guest("echo"), "--drain", "--log-format", format];
        assert_eq!(run(queue.command(&args).env("RUST_LOG", "warn")).exits(0).stderr, "");
    }
}

#[test]
fn a_quiet_log_leaves_out_what_succeeded_and_nothing_else() {
    on_every_queue(|queue| {
        queue.publish(&["a", "f"]);
        let args = ["work", &guest("obey"), "--drain", "--max-attempts", "2", "--result", "none", "--quiet"];
        let ended = run(queue.command(&args).args(FAST));
        let count = |message| events(ended.exits(65), message).len();
        assert_eq!(["done", "retried", "dead-lettered", "stopped"].map(count), [0, 1, 1, 1], "{}", ended.stderr);
        assert_eq!(the_summary(&ended)["acked"], 1);
        queue.take_dead();
    });
}

// === the termination log ===

#[test]
fn a_termination_log_says_what_was_done() {
    on_every_queue(|queue| {
        let (_folder, file) = folder_and_file();
        fs::write(&file, "what was there, and is longer than all that follows. ".repeat(99)).unwrap();
        queue.publish(&["a"]);
        let args = ["work", &guest("echo"), "--termination-log", &file.display().to_string()];
        run(&mut queue.command(&args)).exits(0);
        let said = fs::read_to_string(&file).unwrap();
        let first = format!("wq-run: stopped: the count is reached (queue {}, exit status 0)\n", queue.name);
        assert!(said.starts_with(&(first + "  messages  1 done\n  outcomes  success 1\n")), "{said}");
    });
}

#[test]
fn a_termination_log_has_the_error_and_its_hint() {
    let queue = embedded();
    let (_folder, file) = folder_and_file();
    let work = |flags: &[&str], queue_name: &str| {
        let _ = fs::remove_file(&file);
        let mut command = queue.command(&["work"]);
        command.args(flags).env("QUEUE", queue_name).env("WQ_TERMINATION_LOG", &file);
        let run = run(&mut command);
        (run.code.unwrap(), fs::read_to_string(&file).unwrap_or_default())
    };
    // The queue is missing, which the broker says; the guest is missing; the command line is wrong.
    let (status, said) = work(&[&guest("echo")], "missing");
    let error = "wq-run: there is no queue `missing`\n  hint: `wq-run queue declare --queue missing` creates it";
    assert!(status == 78 && said.starts_with(error) && said.ends_with("exit status: 78\n"), "{said}");
    let (status, said) = work(&["/no/such/guest.wasm"], &queue.name);
    assert!(status == 66 && said.contains("/no/such/guest.wasm") && said.contains("  exit status: 66\n"), "{said}");
    let (status, said) = work(&[&guest("echo"), "--no-such-flag"], &queue.name);
    assert!(status == 2 && said.contains("unexpected argument '--no-such-flag'"), "{said}");
}

#[test]
fn a_termination_log_tells_of_a_bug() {
    on_every_queue(|queue| {
        let (_folder, file) = folder_and_file();
        queue.publish(&["in hand"]);
        let mut command = queue.command(&["work", &guest("echo"), "--termination-log", &file.display().to_string()]);
        run(command.env("WQ_FAULT", "finished:panic")).exits(70);
        let said = fs::read_to_string(&file).unwrap();
        assert!(
            said.starts_with("wq-run: a bug in wq-run: panicked at ") && said.contains("exit status: 70"),
            "{said}"
        );
        assert!(said.contains("  messages  0 done, 1 released\n"), "{said}");
        queue.wait_for_depth(1);
        queue.take();
    });
}

#[test]
fn a_termination_log_tells_of_a_worker_that_had_to_end_itself() {
    let queue = embedded();
    let (_folder, file) = folder_and_file();
    queue.publish(&["done", "in hand"]);
    let mut command = queue.command(&["work", &guest("echo"), "--drain", "--shutdown-timeout", "1h"]);
    command.env("WQ_FAULT", "delivered@2:sleep=3600").env("RUST_LOG", "wq_run=debug");
    let mut worker = start(command.env("WQ_TERMINATION_LOG", &file));
    worker.wait_for_all(&["taken", "\"delivery.tag\":2"]);
    eventually("it ends", || {
        // Pending signals of the same kind are merged into one, so these alternate.
        for signal in ["TERM", "INT"] {
            if worker.is_running() {
                worker.signal(signal);
            }
        }
        (!worker.is_running()).then_some(())
    });
    let ended = worker.end();
    let last = events(ended.exits(80), "a third signal came before the worker had stopped");
    let last = last.first().unwrap_or_else(|| panic!("no last words: {}", ended.stderr));
    assert_eq!((&last["level"], &last["exit_status"]), (&"ERROR".into(), &80.into()));
    // With all that was done until then.
    let said = fs::read_to_string(&file).unwrap();
    let expected = "wq-run: a third signal came before the worker had stopped\n  exit status: 80\n  messages  1 done\n";
    assert!(said.starts_with(expected), "{said}");
    queue.take();
}

#[test]
fn the_default_termination_log_is_written_only_if_it_is_there() {
    let Some(unshare) = installed("unshare") else { return };
    let queue = embedded();
    let work = queue.command(&["work", &guest("echo"), "--drain"]);
    // A /dev of its own, as a container has it.
    let in_container = |script: &str| {
        let mut shell = Command::new(&unshare);
        let script = format!("mount -t tmpfs dev /dev && : >/dev/null && {script}");
        shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        shell.arg(work.get_program()).args(work.get_args()).stdin(Stdio::null());
        shell.envs(work.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut shell)
    };
    if required(in_container("true").code.filter(|code| *code == 0), "`unshare` makes no namespaces here").is_none() {
        return;
    }
    queue.publish(&["a"]);
    let pod = in_container(": >/dev/termination-log && \"$@\" && cat /dev/termination-log");
    assert!(pod.exits(0).out().contains(", exit status 0)\n  messages  1 done\n"), "{}", pod.out());
    let elsewhere = in_container("\"$@\" && ! ls /dev/termination-log");
    assert!(!elsewhere.exits(0).out().contains("messages"), "{}", elsewhere.out());
}

#[test]
fn a_termination_log_that_can_not_be_written_changes_nothing() {
    let queue = embedded();
    let (folder, pipe) = folder_and_file();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for useless in [folder.path().to_owned(), folder.path().join("no/such/folder"), pipe] {
        queue.publish(&["a"]);
        let args = ["work", &guest("echo"), "--termination-log", &useless.display().to_string()];
        run(&mut queue.command(&args)).exits(0).prints("a");
    }
}

// === progress ===

#[test]
fn a_drain_on_a_terminal_shows_how_far_it_is() {
    let queue = embedded();
    queue.publish(&["1", "2", "3", "4", "5"]);
    let drain = queue.command(&["work", &guest("nap"), "--drain", "--result", "none", "--quiet"]);
    let Some(drain) = start_on_terminal(&drain, 24, 80) else { return };
    // The depth is known after a second.
    let line = drain.wait_for_last_line("2 of 5 done");
    for part in ["[====>", "0 failed", "1 running", "/s", "s left"] {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
    assert!(line.chars().count() <= 80);
    let ended = drain.end();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.rows.iter().any(|row| row.contains("of 5 done")), "the line is gone: {:#?}", ended.rows);
    assert!(ended.rows.iter().any(|row| row.contains("stopped: the queue is empty")), "{:#?}", ended.rows);
}

#[test]
fn a_count_on_a_terminal_knows_its_end_from_the_start_and_counts_failures() {
    let queue = embedded();
    queue.publish(&["f", "f", "f", "1"]);
    let args = ["work", &guest("obey"), "--count", "5", "--max-attempts", "1", "--result", "none"];
    let Some(count) = start_on_terminal(&queue.command(&args), 24, 80) else { return };
    let line = count.wait_for_last_line("1 of 5 done");
    assert!(line.contains("3 failed, 0 running"), "{line:?}");
    queue.publish(&["2"]);
    assert_eq!(count.end().code, Some(65));
    (0..3).for_each(|_| drop(queue.take_dead()));
}

#[test]
fn results_and_the_log_go_past_above_the_line_and_none_is_torn() {
    const MESSAGES: usize = 24;
    let queue = embedded();
    // The results have no line feed of their own.
    let bodies: Vec<String> = (0..MESSAGES).map(|at| format!("result-{at}")).collect();
    queue.publish(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
    let drain = queue.command(&["work", &guest("nap"), "--drain", "--concurrency", "8"]);
    let Some(drain) = start_on_terminal(&drain, 500, 1000) else { return };
    let ended = drain.end();
    assert_eq!(ended.code, Some(0));
    let drawn = String::from_utf8_lossy(&ended.bytes).matches(" running, ").count();
    assert!(drawn > 10, "the line was drawn {drawn} times");
    // Each row is recognised by its beginning, and no other text follows on the row.
    let is_of_the_log = |row: &&String| row.starts_with("20") && row.get(26..28) == Some("Z ");
    let (log, others): (Vec<_>, Vec<_>) = ended.rows.iter().partition(is_of_the_log);
    let of_the_log = |text: &str| log.iter().filter(|row| row.contains(text)).count();
    assert_eq!((of_the_log("}: done "), of_the_log("}: started")), (MESSAGES, MESSAGES), "{log:#?}");
    assert!(!log.iter().any(|row| row.contains("running,")), "{log:#?}");
    let (mut results, summary): (Vec<&String>, Vec<&String>) =
        others.into_iter().partition(|row| row.starts_with("result"));
    results.sort_by_key(|row| row.trim_start_matches("result-").parse::<usize>().ok());
    assert_eq!(results, bodies.iter().collect::<Vec<_>>());
    assert!(summary[0].starts_with("wq-run: stopped: ") && summary.len() == 6, "{summary:#?}");
}

#[test]
fn publish_on_a_terminal_shows_how_many_are_confirmed() {
    let queue = embedded();
    let (_folder, pipe) = folder_and_file();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let publish = queue.command(&["publish", "--lines", pipe.to_str().unwrap()]);
    let Some(publish) = start_on_terminal(&publish, 24, 80) else { return };
    let mut lines = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    for (line, shown) in [("one\n", "1 done, "), ("two\nthree\nhalf", "3 done, ")] {
        std::io::Write::write_all(&mut lines, line.as_bytes()).unwrap();
        let line = publish.wait_for_last_line(shown);
        assert!(line.ends_with("/s") && !line.contains("failed") && !line.contains("running"), "{line:?}");
    }
    drop(lines);
    let ended = publish.end();
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.rows, [format!("published 4 messages to {}", queue.name)], "the line is gone");
    let drawn = String::from_utf8_lossy(&ended.bytes);
    assert!(drawn.contains("0 done") && !drawn.contains("0/0"), "it begins as it goes on: {drawn:?}");
    run(&mut queue.command(&["queue", "purge"])).exits(0);
}

#[test]
fn publish_without_a_terminal_tells_of_its_progress_every_30_seconds() {
    let queue = embedded();
    let (_folder, pipe) = folder_and_file();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let args = ["publish", "--lines", pipe.to_str().unwrap(), "--log-format", "json"];
    let mut publish = start(&mut queue.command(&args));
    let mut lines = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    std::io::Write::write_all(&mut lines, b"one\ntwo\n").unwrap();
    publish.wait_for("\"message\":\"progress\"");
    drop(lines);
    let ended = publish.end();
    keeps_the_contract(ended.exits(0));
    let [progress] = <[Value; 1]>::try_from(events(&ended, "progress")).expect("one in 30 seconds");
    assert_eq!((&progress["done"], &progress["failed"], &progress["running"]), (&2.into(), &Value::Null, &Value::Null));
    run(&mut queue.command(&["queue", "purge"])).exits(0);
}

#[test]
fn a_line_that_nobody_can_see_is_not_drawn() {
    let queue = embedded();
    for (terminal, format) in [("dumb", "text"), ("xterm", "json")] {
        queue.publish(&["1", "2"]);
        let mut drain = queue.command(&["work", &guest("nap"), "--drain", "--log-format", format]);
        let Some(drain) = start_on_terminal(drain.env("TERM", terminal), 24, 80) else { return };
        let ended = drain.end();
        assert_eq!(ended.code, Some(0));
        assert!(!String::from_utf8_lossy(&ended.bytes).contains("running"), "{terminal} {format}: {:#?}", ended.rows);
    }
}

#[test]
fn without_a_terminal_an_event_tells_of_progress_every_30_seconds() {
    let queue = embedded();
    let bodies: Vec<String> = (0..40).map(|at| at.to_string()).collect();
    queue.publish(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
    let mut drain = start(&mut queue.command(&["work", &guest("nap"), "--drain", "--quiet", "--result", "none"]));
    drain.wait_for("\"message\":\"progress\"");
    let drain = {
        drain.signal("TERM");
        drain.end()
    };
    keeps_the_contract(drain.exits(143));
    let [progress] = <[Value; 1]>::try_from(events(&drain, "progress")).expect("one in 30 seconds");
    let number = |name: &str| progress[name].as_f64().unwrap_or_else(|| panic!("no {name}: {progress}"));
    // Each takes a second, and there is one at a time.
    let (done, left) = (number("done"), number("left"));
    assert!((20.0..=30.0).contains(&done) && (39.0..=41.0).contains(&(done + left)), "{progress}");
    assert_eq!((number("failed"), number("running")), (0.0, 1.0), "{progress}");
    let rate = number("rate");
    assert!((0.6..=1.0).contains(&rate) && (number("time_left_ms") - left / rate * 1e3).abs() < 50.0, "{progress}");
    while queue.depth() > 0 {
        queue.take();
    }
}
