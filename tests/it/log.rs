//! The log: whatever concerns a message says which one, at every level; and each message that was taken has its end in it.

use std::process::Command;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

pub mod contract;

use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::{Run, guest, run, start};

const FAST: [&str; 4] = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];

/// Both formats. Guests' own lines are let through, so that a test can wait for one.
fn in_both_formats(queue: &Queue, level: &str, test: impl Fn(&dyn Fn(&[&str]) -> Command)) {
    for format in ["json", "text"] {
        test(&|args| {
            let mut command = queue.command(args);
            command.env("RUST_LOG", format!("{level},guest=info")).env("WQ_LOG_FORMAT", format);
            command
        });
    }
}

/// There are lines with this text, and all of them name the message, its queue and this attempt.
#[track_caller]
fn names(run: &Run, text: &str, queue: &Queue, id: &str, attempt: u64) {
    names_all(run, &[text], queue, id, attempt);
}

/// The same for lines with all of these texts.
#[track_caller]
fn names_all(run: &Run, texts: &[&str], queue: &Queue, id: &str, attempt: u64) {
    let lines: Vec<&str> = run.stderr.lines().filter(|line| texts.iter().all(|text| line.contains(text))).collect();
    assert!(!lines.is_empty(), "does not say {texts:?}:\n{}", run.stderr);
    for line in lines {
        let named = match serde_json::from_str::<Value>(line) {
            Ok(line) => {
                let span = &line["span"];
                (span["queue"] == queue.name, span["message.id"] == id, span["attempt"] == attempt)
            }
            Err(_) => (
                line.contains(&format!("queue=\"{}\"", queue.name)),
                line.contains(&format!("message.id=\"{id}\"")),
                line.contains(&format!("attempt={attempt}")),
            ),
        };
        assert_eq!(named, (true, true, true), "queue, id {id} and attempt {attempt} in {line}");
    }
}

#[test]
fn a_filter_that_names_the_span_of_messages_finds_what_was_logged_in_it() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        let mut command = queue.command(&["work", &guest("echo"), "--wait", "30s"]);
        let filtered = run(command.env("RUST_LOG", "error,[message{attempt=1}]=debug"));
        filtered.exits(0).says("taken");
        assert!(!filtered.stderr.contains("subscribed"), "{}", filtered.stderr);
    });
}

#[test]
fn a_retry_and_a_dead_letter_name_their_message_in_warnings() {
    on_every_queue(|queue| {
        in_both_formats(queue, "warn", |command| {
            queue.publish_as("m-1", "x");
            let args = ["work", &guest("fail"), "--max-attempts", "2", "--wait", "30s", "--max-stderr", "1"];
            let work = || run(command(&args).args(FAST));
            let (retry, dead) = (work(), work());
            names_all(retry.exits(75), &["WARN", "retried", "the guest exited with"], queue, "m-1", 1);
            names_all(dead.exits(65), &["ERROR", "dead-lettered", "the guest exited with"], queue, "m-1", 2);
            queue.take_dead();
        });
    });
}

#[test]
fn a_guest_that_says_too_much_is_named_in_the_warning() {
    on_every_queue(|queue| {
        in_both_formats(queue, "wq_run=warn", |command| {
            for isolation in ["thread", "process"] {
                queue.publish_as("m-2", "x");
                let args = ["work", &guest("nap"), "--max-stderr", "2", "--isolation", isolation];
                let run = run(&mut command(&args));
                names(run.exits(0), "stderr is over its limit", queue, "m-2", 1);
            }
        });
    });
}

#[test]
fn a_result_that_is_refused_names_its_message_in_the_warning() {
    on_every_queue(|queue| {
        in_both_formats(queue, "warn", |command| {
            let results = queue.beside("results");
            queue.publish_as("m-3", "x");
            let mut worker = start(&mut command(&["work", &guest("nap"), "--result", &format!("queue:{results}")]));
            worker.wait_for("started");
            queue.delete(&results);
            let ended = worker.end();
            names_all(ended.exits(78), &["WARN", "released", "cannot deliver the result"], queue, "m-3", 1);
            queue.wait_for_depth(1);
            queue.take();
        });
    });
}

#[test]
fn a_message_that_is_lost_is_named_in_the_warning_and_told_once() {
    on_every_queue(|queue| {
        // On SQS nobody can take a message from its worker.
        if let Broker::Sqs(_) | Broker::SqsFifo(_) = queue.broker {
            return;
        }
        in_both_formats(queue, "warn", |command| {
            queue.publish_as("m-4", "x");
            let mut command = command(&["work", &guest("sleep")]);
            let lost = match &queue.broker {
                Broker::Sqlite(_) | Broker::Redis(_) => {
                    let mut worker = start(&mut command);
                    worker.wait_for("started");
                    queue.take_over();
                    let lost = worker.end();
                    names(&lost, "the lease ran out", queue, "m-4", 1);
                    queue.end_leases();
                    lost
                }
                Broker::Sqs(_) | Broker::SqsFifo(_) => unreachable!("left out above"),
                Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => {
                    let proxy = Proxy::start(rabbitmq.port);
                    let url = format!("amqp://guest:guest@127.0.0.1:{}?heartbeat=1", proxy.port);
                    let mut worker = start(command.env("BROKER_URL", url));
                    worker.wait_for("started");
                    proxy.go_silent();
                    worker.end()
                }
            };
            names_all(lost.exits(74), &["WARN", "unsettled", "this worker no longer has the message"], queue, "m-4", 1);
            let ends = lost.stderr.lines().filter(|line| line.contains("unsettled"));
            assert_eq!(ends.count(), 1, "{}", lost.stderr);
            queue.wait_for_depth(1);
            queue.take();
        });
    });
}

#[test]
fn a_bug_names_its_message_where_only_errors_are_logged() {
    on_every_queue(|queue| {
        for filter in ["error", "off,wq_run::observe=error"] {
            in_both_formats(queue, filter, |command| {
                queue.publish_as("m-5", "x");
                let bug = run(command(&["work", &guest("echo")]).env("WQ_FAULT", "finished:panic"));
                names(bug.exits(70), "a bug in wq-run", queue, "m-5", 1);
                queue.wait_for_depth(1);
                queue.take();
            });
        }
    });
}

#[test]
fn a_message_whose_processing_panics_has_an_end_in_the_log() {
    on_every_queue(|queue| {
        queue.publish_as("m-6", "x");
        let bug = run(queue.command(&["work", &guest("echo")]).env("WQ_FAULT", "finished:panic"));
        // It is back in its queue, which is not called lost.
        bug.exits(70).says("\"settlement\":\"release\"").says("\"released\":1").says("\"unsettled\":0");
        names_all(&bug, &["WARN", "\"message\":\"released\"", "\"error\":\"a bug in wq-run\""], queue, "m-6", 1);
        queue.wait_for_depth(1);
        queue.take();
    });
}

#[test]
fn a_message_that_was_taken_and_not_begun_has_an_end_in_the_log() {
    on_every_queue(|queue| {
        for body in ["1", "2", "3"] {
            queue.publish_as(body, body);
        }
        let args = ["work", &guest("nap"), "--forever", "--prefetch", "3"];
        let mut worker = start(queue.command(&args).env("RUST_LOG", "info,wq_run=debug"));
        worker.wait_for("started");
        worker.signal("TERM");
        let ended = worker.end();
        ended.exits(0).prints("1").says("\"acked\":1").says("\"withdrawn\":2");
        for id in ["2", "3"] {
            let line =
                |line: &&str| line.contains("never started") && line.contains(&format!("\"message.id\":\"{id}\""));
            let told: Vec<&str> = ended.stderr.lines().filter(line).collect();
            assert_eq!(told.len(), 1, "{id}: {}", ended.stderr);
            assert!(told[0].contains("\"outcome\":\"withdrawn\"") && told[0].contains("\"settlement\":\"release\""));
        }
        queue.wait_for_depth(2);
        queue.take();
        queue.take();
    });
}

#[test]
fn what_the_broker_has_no_room_for_is_named_in_the_warnings() {
    on_rabbitmq(|queue| {
        in_both_formats(queue, "warn", |command| {
            let mut headers = FieldTable::default();
            // Just below `frame_max`.
            headers.insert("large".into(), AMQPValue::LongString("x".repeat(130_980).into()));
            let properties = BasicProperties::default().with_message_id("m-7".into()).with_headers(headers);
            queue.publish_with(properties, b"x");
            let dead = run(&mut command(&["work", &guest("fail")]));
            // Said by the worker, and by what publishes for it.
            names(dead.exits(65), "no room for a retry", queue, "m-7", 1);
            names(&dead, "the dead letter has none", queue, "m-7", 1);
            queue.take_dead();
        });
    });
}

#[test]
fn a_worker_says_that_it_works_only_when_messages_can_come() {
    on_every_queue(|queue| {
        in_both_formats(queue, "info", |command| {
            let mut missing = command(&["work", &guest("echo")]);
            let missing = run(missing.env("QUEUE", format!("unknown-{}", queue.name)));
            let said = &missing.exits(78).stderr;
            assert!(!said.contains("working"), "{said}");
            assert!(!["no broker", " connected", "\"connected"].iter().any(|word| said.contains(word)), "{said}");
            let works = run(&mut command(&["work", &guest("echo"), "--wait", "0"]));
            let said = &works.exits(0).stderr;
            let [connected, working] = [" connected ", " working "].map(|event| {
                let json = format!("\"message\":\"{}\"", event.trim());
                let at = said.find(event).or(said.find(&json));
                at.unwrap_or_else(|| panic!("no {event}: {said}"))
            });
            assert!(connected < working, "{said}");
        });
    });
}
