//! The log: each message that was taken has its end in it.

use serde_json::Value;

use crate::harness::queue::{Queue, on_every_queue};
use crate::harness::{Run, guest, run, start};

/// There are lines with this text, and all of them name the message, its queue and this attempt.
#[track_caller]
fn names(run: &Run, text: &str, queue: &Queue, id: &str, attempt: u64) {
    let lines: Vec<&str> = run.stderr.lines().filter(|line| line.contains(text)).collect();
    assert!(!lines.is_empty(), "does not say {text:?}:\n{}", run.stderr);
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
fn a_message_whose_processing_panics_has_an_end_in_the_log() {
    on_every_queue(|queue| {
        queue.publish_as("m-6", "x");
        let bug = run(queue.command(&["work", &guest("echo")]).env("WQ_FAULT", "finished:panic"));
        bug.exits(70).says("\"settlement\":\"failed\"").says("\"lost\":1");
        names(&bug, "not done", queue, "m-6", 1);
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
            let line = |line: &&str| line.contains("never begun") && line.contains(&format!("\"message.id\":\"{id}\""));
            let told: Vec<&str> = ended.stderr.lines().filter(line).collect();
            assert_eq!(told.len(), 1, "{id}: {}", ended.stderr);
            assert!(told[0].contains("\"outcome\":\"withdrawn\"") && told[0].contains("\"settlement\":\"release\""));
        }
        queue.wait_for_depth(2);
        queue.take();
        queue.take();
    });
}
