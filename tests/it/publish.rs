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
fn a_queue_can_be_declared_looked_at_and_purged() {
    on_every_queue(|queue| {
        // A second declaration changes nothing.
        let kind = if let Broker::Classic(_) = queue.broker { "classic" } else { "quorum" };
        run(&mut queue.command(&["queue", "declare", "--type", kind])).exits(0);
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
