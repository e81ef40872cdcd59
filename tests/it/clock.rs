//! A clock that is set by an hour while messages run and wait, for all processes as on a real host: nothing ends early,
//! nothing waits for the difference, nothing is lost.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::{Run, guest, installed, required, run, start};

/// A time of day that can be set, for the processes that are given it.
struct Clock {
    folder: tempfile::TempDir,
    library: PathBuf,
}

impl Clock {
    fn new() -> Option<Clock> {
        installed("faketime")?;
        let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library =
            libraries.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
        let library = required(library, "there is no libfaketimeMT.so.1 below /usr/lib")?;
        let clock = Clock { folder: tempfile::tempdir().unwrap(), library };
        clock.set("+0");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("time")
    }

    /// Sets the clock to this offset from the real time, also for processes that are already running.
    fn set(&self, offset: &str) {
        // Never half written: it is read at every look at the clock.
        let next = self.folder.path().join("next");
        std::fs::write(&next, offset).unwrap();
        std::fs::rename(next, self.file()).unwrap();
    }

    fn given(&self, mut command: Command) -> Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_NO_CACHE", "1")
            // Nobody sets this one on a real host either.
            .env("DONT_FAKE_MONOTONIC", "1");
        command
    }
}

/// Whether the process saw the clock jump: by the times in its own log.
#[track_caller]
fn assert_jumped(run: &Run) {
    let times: Vec<SystemTime> = run
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|line| humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).unwrap())
        .collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    let jump = last.duration_since(first).unwrap_or_else(|error| error.duration());
    assert!(jump > Duration::from_secs(45 * 60), "the clock did not jump:\n{}", run.stderr);
}

#[test]
fn a_clock_that_is_set_ends_no_run_and_no_wait() {
    let Some(clock) = Clock::new() else { return };
    on_every_queue(|queue| {
        for jump in ["+1h", "-1h"] {
            clock.set("+0");
            let flags = ["--count", "2", "--timeout", "30m", "--wait", "30m", "--on-empty", "fail"];
            let mut command = queue.command(&["work", &guest("nap")]);
            command.args(flags);
            let mut worker = start(&mut clock.given(command));
            publish(queue, &clock, "under way ");
            worker.wait_for("started");
            clock.set(jump);
            worker.wait_for("\"settlement\":\"ack\"");
            // It waits now, and the clock is set once more.
            clock.set(if jump == "+1h" { "+2h" } else { "-2h" });
            publish(queue, &clock, "and later");
            let run = worker.end();
            assert_jumped(run.exits(0).prints("under way and later"));
        }
    });
}

#[test]
fn a_clock_that_is_set_neither_ends_a_lease_nor_keeps_a_message_from_being_taken() {
    let Some(clock) = Clock::new() else { return };
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let command = |args: &[&str]| clock.given(queue.command(args));
    let work = |name: &str, flags: &[&str]| {
        let mut command = command(&["work", &guest(name), "--on-empty", "fail"]);
        command.args(flags);
        command
    };

    // Forward, under a lease: it goes on, and nobody else gets the message.
    publish(&queue, &clock, "held");
    let mut holder = start(&mut work("sleep", &["--shutdown-timeout", "0"]));
    holder.wait_for("started");
    clock.set("+1h");
    run(&mut work("echo", &["--wait", "2s"])).exits(79).prints("");
    holder.signal("TERM");
    let held = holder.end();
    assert_jumped(held.exits(143).says("\"settlement\":\"release\""));
    assert_eq!(queue.take().body, b"held");

    // Back, after the worker has died: its lease ends when it would have.
    publish(&queue, &clock, "orphan");
    let mut dies = start(&mut work("sleep", &[]));
    dies.wait_for("started");
    dies.signal("KILL");
    dies.end();
    clock.set("-1h");
    run(&mut work("echo", &["--wait", "40s"])).exits(0).prints("orphan").says("\"redelivered\":true");

    // Back, while a message waits: for its turn, and for the end of a pause.
    clock.set("+0");
    publish(&queue, &clock, "waits");
    clock.set("-1h");
    run(&mut work("echo", &["--wait", "0"])).exits(0).prints("waits");
    clock.set("+0");
    publish(&queue, &clock, "paused");
    run(&mut work("fail", &["--backoff-initial", "1s"])).exits(75);
    clock.set("-1h");
    run(&mut work("echo", &["--wait", "30s"])).exits(0).prints("paused");
}

fn publish(queue: &Queue, clock: &Clock, body: &str) {
    run(&mut clock.given(queue.command(&["publish", body]))).exits(0);
}
