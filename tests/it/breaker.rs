//! The breaker: a dependency that fails costs a handful of attempts, and not the whole queue.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::samples::Samples;
use crate::harness::{Run, Running, eventually, guest, http, run, start};
use crate::metrics::listening;

/// How many messages there are. `WQ_BREAKER_MESSAGES=20000` is a queue in which the breaker is worth something.
fn messages() -> usize {
    std::env::var("WQ_BREAKER_MESSAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

const FAILURES: usize = 5;
const CONCURRENCY: usize = 2;

/// For the settlements of all messages.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the guest depends on: a folder that has a file, or not.
struct Dependency(tempfile::TempDir);

impl Dependency {
    fn new() -> Dependency {
        let dependency = Dependency(tempfile::tempdir().unwrap());
        dependency.mend();
        dependency
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("up")
    }

    fn fail(&self) {
        std::fs::remove_file(self.file()).unwrap();
    }

    fn mend(&self) {
        std::fs::write(self.file(), b"").unwrap();
    }

    /// A worker whose guest depends on this.
    fn work(&self, queue: &Queue, mode: &str) -> Running {
        start(&mut self.command(queue, mode))
    }

    fn command(&self, queue: &Queue, mode: &str) -> Command {
        let (failures, concurrency) = (FAILURES.to_string(), CONCURRENCY.to_string());
        let folder = format!("{}::/dependency", self.0.path().display());
        let mut command = queue.command(&["work", &guest("depends"), mode, "--dir", &folder, "--breaker", &failures]);
        command.args([
            "--concurrency",
            &concurrency,
            "--prefetch",
            "8",
            "--backoff-initial",
            "100ms",
            "--max-attempts",
            "9",
        ]);
        command.env("RUST_LOG", "wq_run=debug");
        command
    }
}

/// Publishes messages with these numbers.
fn publish(queue: &Queue, numbers: std::ops::Range<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    std::fs::write(&lines, numbers.map(|number| format!("{number}\n")).collect::<String>()).unwrap();
    run(queue.command(&["publish", "--lines"]).arg(lines)).exits(0);
}

/// Waits for so many messages that succeed.
fn wait_for_acks(worker: &mut Running, count: usize) {
    for _ in 0..count {
        worker.wait_for_within("\"settlement\":\"ack\"", PATIENCE);
    }
}

/// A number of the summary.
fn counted(ended: &Run, name: &str) -> u64 {
    let summary = ended.stderr.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line[name].as_u64()
    });
    summary.unwrap_or_else(|| panic!("no summary with {name}:\n{}", ended.stderr))
}

#[test]
fn a_dependency_that_fails_costs_a_handful_of_attempts_and_the_work_goes_on_when_it_is_back() {
    on_every_queue(|queue| {
        let (half, all) = (messages() / 2, messages());
        let dependency = Dependency::new();
        let mut worker = dependency.work(queue, "--forever");
        publish(queue, 0..half);
        wait_for_acks(&mut worker, half);
        dependency.fail();
        publish(queue, half..all);
        worker.wait_for("the breaker is open");
        // Each try costs an attempt as well.
        for _ in 0..2 {
            worker.wait_for("the message that was tried did not succeed");
        }
        dependency.mend();
        worker.wait_for("the breaker is closed");
        // One less: the message that closed the breaker was acknowledged before that line.
        wait_for_acks(&mut worker, all - half - 1);
        worker.signal("TERM");
        let ended = worker.end();
        ended.exits(0);
        let retried = counted(&ended, "retried") as usize;
        println!("{}: {all} messages, {retried} attempts that failed", queue.name);
        // One more may have failed before its end was known here.
        let expected = FAILURES + ended.stderr.matches("the message that was tried did not succeed").count();
        assert!((expected..expected + CONCURRENCY).contains(&retried), "{retried} attempts failed");
        assert_eq!(counted(&ended, "dead_lettered"), 0, "{}", ended.stderr);
        let done: BTreeSet<usize> = ended.out().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(done, (0..all).collect());
        assert_eq!(ended.stderr.matches("the breaker is open").count(), 1, "it is said once");
    });
}

#[test]
fn a_worker_with_an_open_breaker_takes_nothing_and_leaves_when_it_is_told_to() {
    on_every_queue(|queue| {
        let dependency = Dependency::new();
        dependency.fail();
        publish(queue, 0..30);
        let mut worker = dependency.work(queue, "--forever");
        worker.wait_for("the breaker is open");
        worker.signal("TERM");
        let ended = worker.end();
        ended.exits(0);
        let failed = counted(&ended, "retried");
        assert!(failed < (FAILURES + CONCURRENCY) as u64, "{}", ended.stderr);
        dependency.mend();
        let after = dependency.work(queue, "--drain").end();
        let done: BTreeSet<usize> = after.exits(0).out().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(done, (0..30).collect(), "{}", after.stderr);
    });
}

#[test]
fn an_open_breaker_is_told_by_the_metrics_and_the_probe() {
    on_every_queue(|queue| {
        let dependency = Dependency::new();
        dependency.fail();
        let (mut worker, address) = listening(&mut dependency.command(queue, "--forever"));
        let told = || (Samples::scrape(address).value("wq_breaker_open", &[]), http::get(address, "/readyz").status);
        eventually("it is ready", || (told() == (Some(0.0), 200)).then_some(()));
        publish(queue, 0..30);
        worker.wait_for("the breaker is open");
        eventually("it is told", || (told() == (Some(1.0), 503)).then_some(()));
        let why = http::get(address, "/readyz").body;
        assert!(why.contains("--breaker"), "{why}");
        assert_eq!(http::get(address, "/healthz").status, 200, "to start it anew would not help");
        dependency.mend();
        worker.wait_for("the breaker is closed");
        eventually("it is told", || (told() == (Some(0.0), 200)).then_some(()));
        // One less: the message that closed the breaker was acknowledged before that line.
        wait_for_acks(&mut worker, 29);
        worker.signal("TERM");
        worker.end().exits(0);
    });
}

#[test]
fn a_job_ends_with_its_own_status_when_its_breaker_stays_open() {
    std::thread::scope(|scope| {
        for mode in ["--drain", "--count=30"] {
            scope.spawn(move || {
                let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
                let dependency = Dependency::new();
                dependency.fail();
                publish(&queue, 0..30);
                let ended = dependency.work(&queue, mode).end();
                ended.exits(82).says("the breaker is open (--breaker), and 5 messages that were tried");
                assert_eq!(queue.in_hand_or_ready(), 30, "nothing is put aside");
                assert!(counted(&ended, "retried") as usize <= FAILURES + CONCURRENCY + 5, "{}", ended.stderr);
                run(&mut queue.command(&["queue", "purge"])).exits(0);
            });
        }
    });
}

#[test]
fn a_connection_that_is_made_again_under_an_open_breaker_takes_nothing() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        let dependency = Dependency::new();
        dependency.fail();
        publish(queue, 0..30);
        let mut worker = dependency.work(queue, "--forever");
        worker.wait_for("the breaker is open");
        // The pauses grow, so that there is time for all that follows.
        for _ in 0..2 {
            worker.wait_for("the message that was tried did not succeed");
        }
        let name = format!("takes {}", queue.name);
        let list = rabbitmq.ctl(&["list_connections", "--quiet", "--no-table-headers", "pid", "client_properties"]);
        let line = list.lines().find(|line| line.contains(&format!("{name} "))).expect("it is connected");
        rabbitmq.ctl(&["close_connection", line.split('\t').next().unwrap(), "a test"]);
        worker.wait_for("the broker is not available; trying again");
        worker.wait_for("subscribed");
        worker.wait_for("the message that was tried did not succeed");
        dependency.mend();
        worker.wait_for("the breaker is closed");
        wait_for_acks(&mut worker, 29);
        worker.signal("TERM");
        let ended = worker.end();
        ended.exits(0);
        let tries = ended.stderr.matches("the message that was tried did not succeed").count();
        assert!(counted(&ended, "retried") as usize <= FAILURES + CONCURRENCY + tries, "{}", ended.stderr);
        let done: BTreeSet<usize> = ended.out().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(done, (0..30).collect());
    });
}
