//! Faults that are planted on a RabbitMQ.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::{assert_found, assert_nothing_found, check, findings, levels, on_channel};
use crate::harness::queue::{Broker, Queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run};

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn number(value: i64) -> AMQPValue {
    AMQPValue::LongLongInt(value)
}

/// The address of a user who has these rights: to configure, to write, and to read.
fn user(rabbitmq: &RabbitMq, name: &str, rights: [&str; 3]) -> String {
    rabbitmq.ctl(&["add_user", name, "pw"]);
    rabbitmq.ctl(&["set_permissions", name, rights[0], rights[1], rights[2]]);
    format!("amqp://{name}:pw@127.0.0.1:{}", rabbitmq.port)
}

#[test]
fn what_is_wrong_with_the_way_to_the_broker_is_told_with_the_status_of_a_worker() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    rabbitmq.ctl(&["add_vhost", "closed"]);
    let (port, tls_port) = (rabbitmq.port, rabbitmq.tls_port);
    let ca = rabbitmq.ca_file().display().to_string();
    let table = [
        (format!("amqp://guest:wr0ng@127.0.0.1:{port}"), "credentials", 77, "user name or the password"),
        (format!("amqp://nobody:x@127.0.0.1:{port}"), "credentials", 77, "user name or the password"),
        (format!("amqp://guest:guest@127.0.0.1:{port}/none"), "credentials", 78, "there is no virtual host `none`"),
        (
            format!("{}/closed", user(rabbitmq, "checked-vhost", ["", "", ""])),
            "credentials",
            77,
            "virtual host `closed`",
        ),
        ("amqp://guest:guest@127.0.0.1:1".to_owned(), "reach", 69, "127.0.0.1:1"),
        (format!("amqps://guest:guest@127.0.0.1:{port}?cacertfile={ca}"), "tls", 78, "does not speak TLS"),
        (format!("amqps://guest:guest@localhost:{tls_port}"), "tls", 78, "cacertfile"),
        (format!("amqps://guest:guest@localhost:{tls_port}?cacertfile=/no/such.pem"), "tls", 78, "/no/such.pem"),
        (format!("amqp://guest:guest@localhost:{tls_port}"), "tls", 78, "expects TLS on this port"),
    ];
    for (url, about, status, said) in table {
        let checked = run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", &url));
        assert_found(checked.exits(status), "error", about, said);
        assert!(!checked.out().contains("wr0ng"), "{}", checked.out());
        let mut work = queue.command(&["work", &guest("echo"), "--connect-timeout", "100ms"]);
        run(work.env("BROKER_URL", &url)).exits(status);
    }
    let good = format!("amqps://guest:guest@localhost:{tls_port}?cacertfile={ca}");
    let checked = run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", &good));
    assert_nothing_found(&checked);
    assert_found(&checked, "ok", "tls", "encrypted");
}

#[test]
fn a_node_of_a_cluster_that_cannot_be_used_is_a_warning() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    let urls = format!("amqp://guest:guest@127.0.0.1:1,{}", queue.url());
    let checked = run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", urls));
    assert_found(checked.exits(0), "warning", "reach", "127.0.0.1:1");
    assert_found(&checked, "ok", "reach", "RabbitMQ");
}

#[test]
fn a_missing_right_is_found_before_a_message_needs_it() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        let name = &queue.name;
        let exchange = format!("{name}-exchange");
        on_channel(rabbitmq, async |channel| {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let declaring = channel.exchange_declare(
                exchange.as_str().into(),
                lapin::ExchangeKind::Fanout,
                options,
                FieldTable::default(),
            );
            declaring.await.expect("declared");
        });
        let result = format!("exchange:{exchange}/k");
        queue.publish(&["x"]);
        let all = [".*"; 3];
        // The rights of a user, what is found, and the guest with which a worker ends with this status; nothing stops it otherwise.
        let table = [
            ([".*", ".*", "^$"], "error", "rights", "consume from", Some(("echo", 77))),
            ([".*", "^$", ".*"], "error", "rights", "the default exchange", Some(("reject", 77))),
            (["delay", ".*", ".*"], "error", "dead-letters", "make the queue", Some(("reject", 77))),
            (["dead", ".*", ".*"], "warning", "retries", "cannot be created", None),
            ([".*", "amq.default", ".*"], "error", "results", &exchange, None),
        ];
        for (at, (rights, level, about, said, worker)) in table.into_iter().enumerate() {
            let url = user(rabbitmq, &format!("{name}-{at}"), rights);
            let flags = if about == "results" { vec!["--result", &result] } else { Vec::new() };
            let checked = run(check(queue, &guest("echo"), &flags).env("BROKER_URL", &url));
            assert_found(checked.exits(if level == "error" { 77 } else { 0 }), level, about, said);
            if let Some((guest_name, status)) = worker {
                run(queue.command(&["work", &guest(guest_name)]).env("BROKER_URL", &url)).exits(status);
            }
        }
        let url = user(rabbitmq, &format!("{name}-all"), all);
        let checked = run(check(queue, &guest("echo"), &["--result", &result]).env("BROKER_URL", &url));
        assert_nothing_found(&checked);
        assert_eq!(rabbitmq.ctl(&["--silent", "list_queues", "name"]).matches(&format!("{name}.")).count(), 0);
        assert_eq!(queue.take().body, b"x");
    });
}

/// Each row has the arguments of a queue, flags for `check`, and the finding to expect. No row may lead to another warning.
#[test]
fn what_a_queue_was_made_with_is_read_from_refusals() {
    on_rabbitmq(|queue| {
        let is_quorum = matches!(queue.broker, Broker::Quorum(_));
        let queue_type = ("x-queue-type", text(if is_quorum { "quorum" } else { "classic" }));
        type Arguments = Vec<(&'static str, AMQPValue)>;
        let exchange = ("x-dead-letter-exchange", text("amq.fanout"));
        let nowhere = ("x-dead-letter-exchange", text("no-such-exchange"));
        let by_broker: &[&str] = &["--dead-letter-by", "broker"];
        let limit = |limit| vec![("x-delivery-limit", number(limit))];
        // Since RabbitMQ 4.3, a worker asks for as much time as it needs on quorum queues, and classic queues have no timeout.
        let plain = run(&mut check(queue, &guest("echo"), &[]));
        let is_asked = |finding: &serde_json::Value| {
            finding["check"] == "timeout"
                && ["for this broker, wq-run uses", "this broker has no"]
                    .iter()
                    .any(|words| finding.to_string().contains(words))
        };
        let late = if findings(&plain).iter().any(is_asked) { "ok" } else { "warning" };
        let mut table: Vec<(Arguments, &[&str], &str, &str, &str)> = vec![
            (vec![], &["--timeout", "29m"], "ok", "timeout", ""),
            (vec![], &["--timeout", "30m"], late, "timeout", ""),
            (vec![], &["--timeout", "11m", "--prefetch", "3"], late, "timeout", ""),
            (vec![("x-message-ttl", number(60_000))], &[], "warning", "durability", "1m"),
            (vec![("x-max-length", number(10))], &[], "warning", "durability", "drops its oldest"),
            (vec![("x-max-length", number(10)), ("x-overflow", text("reject-publish"))], &[], "ok", "queue", "ready"),
            (vec![("x-expires", number(3_600_000))], &[], "warning", "durability", "1h"),
            (vec![], by_broker, "warning", "dead-letters", "no x-dead-letter-exchange"),
            (vec![nowhere], by_broker, "warning", "dead-letters", "no-such-exchange"),
            (vec![exchange.clone()], by_broker, "ok", "dead-letters", "amq.fanout"),
        ];
        if is_quorum {
            table.extend([
                (limit(2), &[][..], "warning", "delivery-limit", "DELETES"),
                (limit(0), &[], "warning", "delivery-limit", "--max-attempts"),
                (
                    [limit(2), vec![exchange, ("x-dead-letter-routing-key", text("it's 'here'"))]].concat(),
                    &[],
                    "warning",
                    "delivery-limit",
                    "amq.fanout",
                ),
                (
                    limit(2),
                    &["--max-attempts", "2"],
                    "ok",
                    "delivery-limit",
                    "the limit is 2 (the queue's x-delivery-limit)",
                ),
                (limit(3), &[], "ok", "delivery-limit", "the limit is 3 (the queue's x-delivery-limit)"),
                (vec![], &[], "ok", "queue", "is a quorum queue"),
            ]);
        } else {
            table.push((vec![("x-max-priority", number(5))], &[], "note", "delivery-limit", "is a classic queue"));
        }
        for (at, (arguments, flags, level, about, said)) in table.into_iter().enumerate() {
            let arguments: Vec<_> = arguments.into_iter().chain([queue_type.clone()]).collect();
            let name = queue.beside_with(&format!("with-{at}"), &arguments);
            let checked = run(check(queue, &guest("echo"), flags).env("QUEUE", &name));
            assert_found(checked.exits(0), level, about, said);
            let warnings = findings(&checked).iter().filter(|finding| finding["level"] == "warning").count();
            assert_eq!(warnings, usize::from(level == "warning"), "{}", checked.out());
            queue.delete(&name);
        }
    });
}

#[test]
fn a_stream_is_refused_whatever_it_was_made_with() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    let stream = ("x-queue-type", text("stream"));
    let bounded = [stream.clone(), ("x-max-length-bytes", number(1_000_000)), ("x-max-age", text("1h"))];
    for (name, arguments) in [("stream", &[stream][..]), ("bounded", &bounded)] {
        let name = queue.beside_with(name, arguments);
        let checked = run(check(&queue, &guest("echo"), &[]).env("QUEUE", &name));
        assert_found(checked.exits(78), "error", "queue", "is a stream");
        run(queue.command(&["work", &guest("echo")]).env("QUEUE", &name)).exits(78).says("is a stream");
        queue.delete(&name);
    }
}

#[test]
fn a_queue_that_does_not_outlive_its_broker_or_its_consumers_is_warned_of() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    for (durable, auto_delete, said) in
        [(false, false, "not durable"), (true, true, "auto-delete"), (false, true, "auto-delete")]
    {
        let name = format!("{}-{durable}-{auto_delete}", queue.name);
        on_channel(rabbitmq, async |channel| {
            let options = QueueDeclareOptions { durable, auto_delete, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.expect("declared");
        });
        let checked = run(check(&queue, &guest("echo"), &[]).env("QUEUE", &name));
        assert_found(checked.exits(0), "warning", "durability", said);
        assert_eq!(levels(&checked, "delivery-limit"), ["note"], "its arguments are read all the same");
        queue.delete(&name);
    }
}

#[test]
fn dead_letters_and_retries_that_would_not_be_kept_are_warned_of() {
    on_rabbitmq(|queue| {
        let dead = queue.beside_with("dead", &[("x-message-ttl", number(60_000))]);
        let checked = run(&mut check(queue, &guest("echo"), &[]));
        assert_found(checked.exits(0), "warning", "durability", &dead);
        queue.delete(&dead);
        // The one that the longest pause of three attempts uses.
        let delay = queue.beside_with("delay.2s", &[("x-message-ttl", number(500))]);
        let checked = run(&mut check(queue, &guest("echo"), &[]));
        assert_found(checked.exits(0), "warning", "retries", &delay);
        queue.delete(&delay);
        // As wq-run makes it.
        queue.publish(&["x"]);
        run(&mut queue.command(&["work", &guest("fail"), "--backoff-initial", "2s"])).exits(75);
        assert_nothing_found(&run(&mut check(queue, &guest("echo"), &[])));
        run(&mut queue.command(&["work", &guest("echo")])).exits(0);
    });
}

#[test]
fn a_broker_that_takes_no_messages_at_the_moment_is_warned_of() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Quorum(&rabbitmq));
    assert_nothing_found(&run(&mut check(&queue, &guest("echo"), &[])));
    rabbitmq.raise_alarm();
    let checked = run(&mut check(&queue, &guest("echo"), &[]));
    assert_found(checked.exits(0), "warning", "dead-letters", "blocks publishers");
    rabbitmq.lift_alarm();
}
