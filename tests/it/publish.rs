//! `wq-run publish` and `wq-run queue`.

use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{run, run_with};

#[test]
fn messages_come_from_arguments_files_lines_and_stdin() {
    on_every_queue(|queue| {
        let published = run(&mut queue.command(&["publish", "one", "two"]));
        published.exits(0).prints(&format!("published 2 messages to {}\n", queue.name));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"a\n\xff\xfe\n\nlast without an end").unwrap();
        run(queue.command(&["publish", "--lines"]).arg(file.path())).exits(0);
        run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
        run_with(&mut queue.command(&["publish"]), b"from\nstdin").exits(0);
        run_with(&mut queue.command(&["publish", "--lines", "-"]), b"x\ny\n").exits(0);
        let expected: [&[u8]; 10] = [
            b"one",
            b"two",
            b"a",
            b"\xff\xfe",
            b"",
            b"last without an end",
            b"a\n\xff\xfe\n\nlast without an end",
            b"from\nstdin",
            b"x",
            b"y",
        ];
        for body in expected {
            assert_eq!(queue.take().body, body);
        }
    });
}

#[test]
fn publishing_to_a_queue_that_does_not_exist_is_an_error_and_no_loss() {
    on_every_queue(|queue| {
        let lost = run(&mut queue.command(&["publish", "--queue", "no-such-queue", "x"]));
        lost.exits(78).says("no queue `no-such-queue`").says("queue declare").prints("");
    });
}

#[test]
fn a_message_that_the_broker_refuses_is_not_reported_as_sent() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    use lapin::types::{AMQPValue, FieldTable};
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(2));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    crate::harness::queue::on_channel(rabbitmq, async |channel| {
        let options = lapin::options::QueueDeclareOptions::durable();
        channel.queue_declare("small".into(), options, arguments).await.expect("declared");
    });
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let refused = run(&mut queue.command(&["publish", "--queue", "small", "1", "2", "3", "4"]));
    refused.exits(74).says("published 2 of 4 messages").says("full").prints("");
}

#[test]
fn a_message_that_is_never_confirmed_is_an_error_that_names_no_flag_of_another_command() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Classic(&rabbitmq));
    rabbitmq.raise_alarm();
    let unconfirmed = run(&mut queue.command(&["publish", "x"]));
    unconfirmed.exits(74).says("not confirmed within 30s");
    assert!(!unconfirmed.stderr.contains("--publish-timeout"), "{}", unconfirmed.stderr);
}

#[test]
fn a_queue_can_be_declared_looked_at_and_purged() {
    on_every_queue(|queue| {
        // A second declaration changes nothing.
        queue.declare(&queue.name);
        queue.publish(&["a", "b", "c"]);
        let status = run(&mut queue.command(&["queue", "status"]));
        assert!(status.exits(0).out().starts_with(&format!("queue {}\nready 3\n", queue.name)), "{}", status.out());
        let purged = run(&mut queue.command(&["queue", "purge"]));
        purged.exits(0).prints(&format!("purged 3 from {}\n", queue.name));
        assert_eq!(queue.depth(), 0);
        for command in ["status", "purge"] {
            run(&mut queue.command(&["queue", command, "-q", "no-such-queue"])).exits(78).says("queue declare");
        }
    });
}

#[test]
fn a_queue_of_another_type_is_not_taken_for_the_one_that_was_asked_for() {
    on_rabbitmq(|queue| {
        let other = if let Broker::Classic(_) = queue.broker { "quorum" } else { "classic" };
        run(&mut queue.command(&["queue", "declare", "--type", other])).exits(78).says("does not match");
    });
}

#[test]
fn what_is_got_from_a_queue_is_printed_and_then_gone() {
    on_every_queue(|queue| {
        queue.publish(&["a", "b", "c"]);
        run(&mut queue.command(&["queue", "get"])).exits(0).prints("a");
        run(&mut queue.command(&["queue", "get", "--all"])).exits(0).prints("bc");
        run(&mut queue.command(&["queue", "get"])).exits(79).prints("");
        run(&mut queue.command(&["queue", "get", "--on-empty", "success"])).exits(0).prints("");
        run(queue.command(&["queue", "get"]).env("QUEUE", "no-such-queue")).exits(78);
        assert_eq!(queue.depth(), 0);
    });
}

#[test]
fn what_could_not_be_printed_stays_in_the_queue() {
    on_every_queue(|queue| {
        queue.publish(&["precious"]);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", r#"exec "$0" queue get >/dev/full"#, env!("CARGO_BIN_EXE_wq-run")]);
        command.env_clear().envs(queue.environment());
        run(&mut command).exits(74).says("cannot write the message to stdout");
        queue.wait_for_depth(1);
        assert_eq!(queue.take().body, b"precious");
    });
}

#[test]
fn a_queue_is_read_as_json_with_all_that_is_known_of_a_message() {
    on_every_queue(|queue| {
        run(&mut queue.command(&["publish", "text", "--correlation-id", "c", "--content-type", "text/plain"])).exits(0);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\xff\x00").unwrap();
        run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
        let got = run(&mut queue.command(&["queue", "get", "--json", "--count", "2"])).exits(0).out();
        let lines: Vec<serde_json::Value> = got.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["body"], &lines[0]["body_encoding"]), (&"text".into(), &"utf-8".into()));
        assert_eq!(lines[0]["properties"]["correlation_id"], "c");
        assert_eq!(lines[0]["properties"]["content_type"], "text/plain");
        assert_eq!(lines[0]["delivery_info"]["queue"], queue.name.as_str());
        assert_eq!((&lines[1]["body"], &lines[1]["body_encoding"]), (&"/wA=".into(), &"base64".into()));
    });
}
