//! How a run can end, and what becomes of its message: the contract's table, on every kind of queue.

use crate::harness::queue::{on_every_queue, on_rabbitmq};
use crate::harness::{guest, run, start, wq_run};

/// Short pauses, so that a retried message is back at once.
const FAST: [&str; 4] = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];

/// Guests for each way to end that guests of all kinds have, with the flags that they need, and their outcomes.
pub const ENDS: [(&str, &[&str], &str); 7] = [
    ("fail", &[], "exit"),
    ("trap", &[], "trap"),
    ("deep", &[], "stack"),
    ("spin", &["--timeout", "100ms"], "timeout"),
    ("sleep", &["--timeout", "100ms"], "timeout"),
    ("memory", &["--max-memory-size", "4MiB"], "memory"),
    ("flood", &["--max-stdout", "1MiB"], "output"),
];

#[test]
fn every_way_to_end_has_its_own_outcome_and_is_tried_again() {
    // Preview 1 knows no such code.
    let unknown: (&str, &[&str], &str) = ("exit-200", &[], "trap");
    on_every_queue(|queue| {
        for (name, flags, outcome) in ENDS.into_iter().chain([unknown]) {
            queue.publish(&["task"]);
            let failed = run(queue.command(&["work", &guest(name)]).args(flags).args(FAST));
            failed.exits(75).says(&format!("\"outcome\":\"{outcome}\"")).says("\"settlement\":\"retry\"").prints("");
            let back = queue.take();
            assert_eq!(back.body, b"task", "{name}");
            if !queue.can().retry_headers {
                continue;
            }
            assert_eq!(back.headers["x-wq-outcome"], outcome);
            assert_eq!((&*back.headers["x-wq-attempt"], &*back.headers["x-wq-settlement"]), ("1", "retry"));
            assert_eq!(back.headers.get("x-wq-exit-code").map(String::as_str), (name == "fail").then_some("1"));
        }
    });
}

#[test]
fn a_failed_task_is_tried_again_until_its_last_attempt_and_then_kept() {
    on_every_queue(|queue| {
        queue.publish(&["poison"]);
        let work = || run(queue.command(&["work", &guest("fail"), "--max-attempts", "3", "--wait", "30s"]).args(FAST));
        work().exits(75).says("\"attempt\":1");
        work().exits(75).says("\"attempt\":2");
        work().exits(65).says("\"attempt\":3").says("\"settlement\":\"dead-letter\"");
        let dead = queue.take_dead();
        assert_eq!(dead.body, b"poison");
        let header = |name: &str| dead.headers[name].as_str();
        assert_eq!(header("x-wq-outcome"), "exit");
        assert_eq!(header("x-wq-exit-code"), "1");
        assert_eq!(header("x-wq-attempt"), "3");
        assert_eq!(header("x-wq-settlement"), "dead-letter");
        assert_eq!(header("x-wq-queue"), queue.name);
        assert_eq!(header("x-wq-error"), "the guest exited with 1");
        assert_eq!(header("x-wq-stderr"), "exit code is: 1\n");
        assert!(header("x-wq-guest").starts_with("sha256:"));
        if queue.can().retry_headers {
            assert!(header("x-wq-first-failed-at") < header("x-wq-last-failed-at"));
        }
    });
}

#[test]
fn a_rejected_message_is_not_tried_again() {
    on_every_queue(|queue| {
        queue.publish(&["bad data"]);
        run(&mut queue.command(&["work", &guest("reject")])).exits(65);
        assert_eq!(queue.depth(), 0);
        assert_eq!(queue.take_dead().headers["x-wq-exit-code"], "3");
    });
}

#[test]
fn a_released_message_is_back_at_once_and_its_attempt_is_not_counted() {
    on_every_queue(|queue| {
        queue.publish(&["not for me"]);
        let released = run(queue.command(&["work", &guest("release"), "--max-attempts", "1"]).args(FAST));
        released.exits(75).says("\"settlement\":\"release\"");
        queue.wait_for_depth(1);
        let back = queue.take();
        assert_eq!(back.body, b"not for me");
        assert!(!back.headers.contains_key("x-wq-outcome"));
    });
}

#[test]
fn a_guest_that_succeeds_and_says_nothing_has_failed_where_output_is_due() {
    on_every_queue(|queue| {
        queue.publish(&["task"]);
        for isolation in ["thread", "process"] {
            let work = || {
                let args =
                    ["work", &guest("nothing"), "--empty-output", "fail", "--isolation", isolation, "--wait", "30s"];
                run(queue.command(&args).args(FAST))
            };
            work().exits(75).says("\"outcome\":\"empty-output\"").says("\"settlement\":\"retry\"").prints("");
        }
        let args = ["work", &guest("echo"), "--empty-output", "fail", "--wait", "30s"];
        run(queue.command(&args).args(FAST)).exits(0).prints("task");
        queue.publish(&["task"]);
        let args = ["work", &guest("nothing"), "--empty-output", "fail", "--max-attempts", "1"];
        run(&mut queue.command(&args)).exits(65);
        let dead = queue.take_dead();
        assert_eq!((&*dead.headers["x-wq-outcome"], &*dead.headers["x-wq-exit-code"]), ("empty-output", "0"));
        assert!(dead.headers["x-wq-error"].contains("--empty-output"), "{dead:?}");
        // By default, as with any other program.
        queue.publish(&["task"]);
        run(&mut queue.command(&["work", &guest("nothing")])).exits(0).prints("");
    });
    // The same for `exec`. A guest that fails by itself keeps its exit code.
    run(&mut wq_run(&["exec", &guest("nothing"), "--empty-output", "fail"])).exits(1).says("--empty-output");
    run(&mut wq_run(&["exec", &guest("reject"), "--empty-output", "fail"])).exits(3);
}

#[test]
fn a_guest_is_called_by_the_name_of_its_file_or_by_another() {
    on_every_queue(|queue| {
        for isolation in ["thread", "process"] {
            for (flags, name) in [(&[][..], "environ"), (&["--argv0", "clang++"], "clang++"), (&["--argv0", ""], "")] {
                queue.publish(&["x"]);
                let args = ["work", &guest("environ"), "--isolation", isolation];
                let told = run(queue.command(&args).args(flags).args(["--", "-v"])).exits(0).out();
                let strings: Vec<&str> = told.split_terminator('\0').collect();
                assert_eq!(strings[strings.len() - 2..], [name, "-v"]);
            }
        }
    });
    run(&mut wq_run(&["exec", &guest("environ"), "--argv0", "clang"])).exits(0).prints("clang\0");
}

#[test]
fn the_exit_map_changes_what_a_code_means() {
    on_every_queue(|queue| {
        queue.publish(&["a"]);
        run(&mut queue.command(&["work", &guest("fail"), "--exit-map", "1=ack"])).exits(0);
        assert_eq!(queue.depth(), 0);
        queue.publish(&["b"]);
        run(&mut queue.command(&["work", &guest("fail"), "--exit-map", "1-5=dead-letter"])).exits(65);
        assert_eq!(queue.take_dead().body, b"b");
    });
}

#[test]
fn a_guest_that_ignores_its_stdin_is_fine() {
    // As large as every broker takes it, with what describes it.
    let large = "x".repeat((1 << 20) - 1024);
    on_every_queue(|queue| {
        for name in ["nothing", "exit-0"] {
            // From a file: an argument can't be that long everywhere.
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &large).unwrap();
            run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
            run(&mut queue.command(&["work", &guest(name)])).exits(0).prints("");
            assert_eq!(queue.depth(), 0);
        }
    });
}

#[test]
fn a_message_reaches_the_guest_and_its_result_byte_for_byte() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for body in [&every_byte[..], b"", b"\0", b"no newline at the end", "späße\n".as_bytes()] {
        on_every_queue(|queue| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), body).unwrap();
            run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
            let run = run(&mut queue.command(&["work", &guest("echo")]));
            run.exits(0);
            assert!(run.stdout == body, "{} bytes came back of {}", run.stdout.len(), body.len());
        });
    }
}

#[test]
fn a_large_message_is_carried_whole() {
    let large: Vec<u8> = (0..=250).cycle().take(20 << 20).collect();
    on_every_queue(|queue| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &large).unwrap();
        // RabbitMQ 4 takes up to 16 MiB, unless it is told to take more.
        let published = run(queue.command(&["publish", "--file"]).arg(file.path()));
        if queue.can().max_message.is_some_and(|most| most < large.len() as u64) {
            published.exits(74).says("does not accept a message of this size");
            return;
        }
        if published.code == Some(74) {
            published.says("is larger than configured max size");
            return;
        }
        let run = run(&mut queue.command(&["work", &guest("echo"), "--max-stdout", "20MiB"]));
        assert!(run.exits(0).stdout == large, "{} bytes came back", run.stdout.len());
    });
}

#[test]
fn a_message_over_its_limit_is_a_dead_letter_and_never_runs() {
    on_every_queue(|queue| {
        queue.publish(&["12345678901"]);
        let refused = run(&mut queue.command(&["work", &guest("echo"), "--max-message", "10"]));
        refused.exits(65).says("--max-message").prints("");
        assert_eq!(queue.take_dead().headers["x-wq-outcome"], "message");
        queue.publish(&["1234567890"]);
        run(&mut queue.command(&["work", &guest("echo"), "--max-message", "10"])).exits(0).prints("1234567890");
    });
}

#[test]
fn a_failed_sink_never_acks() {
    on_every_queue(|queue| {
        queue.publish(&["precious"]);
        let mut command = std::process::Command::new("sh");
        // A stdout that is always full.
        command.args(["-c", r#"exec "$0" work "$1" >/dev/full"#, env!("CARGO_BIN_EXE_wq-run"), &guest("echo")]);
        command.env_clear().envs(queue.environment());
        run(&mut command).exits(74).says("cannot deliver the result to stdout").says("\"settlement\":\"release\"");
        queue.wait_for_depth(1);
        assert_eq!(queue.take().body, b"precious");
    });
}

#[test]
fn stderr_goes_to_the_log_with_the_message_it_belongs_to() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        let failed = run(queue.command(&["work", &guest("fail"), "--log-format", "json"]).args(FAST));
        let line = failed.stderr.lines().find(|line| line.contains("exit code is: 1")).expect("it is logged");
        let event: serde_json::Value = serde_json::from_str(line).expect("a log line is JSON");
        assert_eq!(event["target"], "guest");
        assert_eq!(event["span"]["queue"], queue.name.as_str());
        assert!(event["span"]["message.id"].as_str().is_some_and(|id| id.len() == 36), "{line}");
        queue.take();
    });
}

#[test]
fn a_drain_waits_for_its_own_retries_and_says_what_became_of_them() {
    on_every_queue(|queue| {
        queue.publish(&["a", "b"]);
        let drained = run(queue.command(&["work", &guest("fail"), "--drain", "--max-attempts", "2"]).args(FAST));
        drained.exits(65).says("\"retried\":2").says("\"dead_lettered\":2");
        queue.take_dead();
        queue.take_dead();
    });
}

#[test]
fn a_guest_knows_its_message_and_nothing_else_of_the_host() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        let mut command =
            queue.command(&["work", &guest("environ"), "--env", "GIVEN=1", "--env", "TAKEN", "--", "-v", "--drain"]);
        let told = run(command.env("TAKEN", "from us").env("SECRET", "password"));
        let told = told.exits(0).out();
        let strings: Vec<&str> = told.split_terminator('\0').collect();
        for expected in ["GIVEN=1", "TAKEN=from us", "WQ_ATTEMPT=1", "WQ_MAX_ATTEMPTS=3", "WQ_REDELIVERED=false"] {
            assert!(strings.contains(&expected), "no {expected} in {strings:?}");
        }
        assert!(strings.contains(&format!("WQ_QUEUE={}", queue.name).as_str()), "{strings:?}");
        assert!(strings.iter().any(|string| string.starts_with("WQ_MESSAGE_ID=")), "{strings:?}");
        assert_eq!(strings[strings.len() - 3..], ["environ", "-v", "--drain"]);
        assert!(!told.contains("password") && !told.contains("amqp://") && !told.contains("sqlite:"), "{strings:?}");
    });
}

#[test]
fn amqp_properties_and_trace_headers_reach_the_guest() {
    use lapin::types::{AMQPValue, FieldTable};
    on_rabbitmq(|queue| {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString("00-abc-def-01".into()));
        let properties = lapin::BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id("m-1".into())
            .with_correlation_id("c-1".into())
            .with_reply_to("answers".into())
            .with_content_type("text/plain".into())
            .with_type("fruit".into())
            .with_priority(4)
            .with_timestamp(1_700_000_000)
            .with_app_id("tests".into())
            .with_headers(headers);
        queue.publish_with(properties, b"x");
        let told = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        for expected in [
            "WQ_MESSAGE_ID=m-1",
            "WQ_CORRELATION_ID=c-1",
            "WQ_REPLY_TO=answers",
            "WQ_CONTENT_TYPE=text/plain",
            "WQ_TYPE=fruit",
            "WQ_PRIORITY=4",
            "WQ_TIMESTAMP=1700000000",
            "WQ_APP_ID=tests",
            "WQ_EXCHANGE=",
            "TRACEPARENT=00-abc-def-01",
        ] {
            assert!(told.split('\0').any(|string| string == expected), "no {expected} in {told:?}");
        }
    });
}

#[test]
fn what_a_publisher_wrote_survives_a_retry() {
    use lapin::types::{AMQPValue, FieldTable};
    on_rabbitmq(|queue| {
        let mut headers = FieldTable::default();
        headers.insert("colour".into(), AMQPValue::LongString("red".into()));
        // A copy for another queue must not be made a second time, and an expired dead letter would be a lost one.
        headers.insert("CC".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("elsewhere".into())].into()));
        let properties = lapin::BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id("m-2".into())
            .with_expiration("60000".into())
            .with_user_id("guest".into())
            .with_headers(headers);
        queue.publish_with(properties, b"x");
        run(queue.command(&["work", &guest("fail"), "--max-attempts", "2"]).args(FAST)).exits(75);
        let again = queue.command(&["work", &guest("environ"), "--max-attempts", "2", "--wait", "30s"]);
        let told = {
            let mut again = again;
            run(&mut again).exits(0).out()
        };
        for expected in ["WQ_MESSAGE_ID=m-2", "WQ_ATTEMPT=2"] {
            assert!(told.split('\0').any(|string| string == expected), "no {expected} in {told:?}");
        }
        queue.publish_with(lapin::BasicProperties::default().with_expiration("60000".into()), b"y");
        run(&mut queue.command(&["work", &guest("reject")])).exits(65);
        let dead = queue.take_dead();
        assert_eq!((dead.body.as_slice(), dead.expires), (&b"y"[..], false));
    });
}

#[test]
fn two_messages_with_one_id_are_two_messages() {
    // No deduplication is claimed: who publishes twice gets two results, and can tell by the id that they belong together.
    on_every_queue(|queue| {
        queue.publish_as("m-3", "first\n");
        queue.publish_as("m-3", "second\n");
        let both = run(&mut queue.command(&["work", &guest("echo"), "--drain"]));
        both.exits(0).prints("first\nsecond\n").says("\"acked\":2");
        let told = |line: &&str| line.contains("\"message.id\":\"m-3\"") && line.contains("\"settlement\":\"ack\"");
        assert_eq!(both.stderr.lines().filter(told).count(), 2, "{}", both.stderr);
        // One after the other, too: nothing remembers an id.
        for body in ["third", "fourth"] {
            queue.publish_as("m-3", body);
            let told = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
            assert!(told.split('\0').any(|string| string == "WQ_MESSAGE_ID=m-3"), "{told:?}");
        }
    });
}

#[test]
fn a_count_takes_as_many_messages_as_it_counts_and_no_more() {
    // With more than one at a time the broker would push more than are wanted; what is given back shows that it was
    // handed over, and a quorum queue counts that.
    on_every_queue(|queue| {
        let bodies = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
        queue.publish(&bodies);
        let flags = ["--count", "5", "--concurrency", "3", "--prefetch", "4"];
        let taken = run(queue.command(&["work", &guest("line")]).args(flags));
        taken.exits(0).says("\"acked\":5");
        queue.wait_for_depth(4);
        let mut left = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let message = queue.take();
            assert!(!message.redelivered, "{message:?}");
            left.insert(String::from_utf8(message.body).unwrap());
        }
        left.extend(taken.out().lines().map(str::to_owned));
        assert_eq!(left.len(), bodies.len(), "{left:?}");

        // The same for messages that come one by one.
        let mut worker = start(queue.command(&["work", &guest("line")]).args(flags));
        for _ in 0..4 {
            queue.publish(&["early"]);
            worker.wait_for("\"settlement\":\"ack\"");
        }
        queue.publish(&["last", "late", "late", "late"]);
        let run = worker.end();
        assert_eq!(run.exits(0).says("\"acked\":5").out().lines().count(), 5);
        queue.wait_for_depth(3);
        for _ in 0..3 {
            let message = queue.take();
            assert!(message.body == b"late" && !message.redelivered, "{message:?}");
        }
    });
}
