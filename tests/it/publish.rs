//! `wq-run publish` and `wq-run queue`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Instant;

use lapin::options::BasicGetOptions;
use serde_json::Value;

use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{eventually, run, run_with, start};

#[test]
fn an_empty_input_is_an_empty_message_and_said() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let file = tempfile::NamedTempFile::new().unwrap();
    let stdin = run(&mut queue.command(&["publish"]));
    stdin.exits(0).says("stdin is empty: the message has no body");
    let empty = run(queue.command(&["publish", "--file"]).arg(file.path()));
    empty.exits(0).says(&format!("{} is empty: the message has no body", file.path().display()));
    // An empty message that is typed as an argument is no mistake, so there is no warning.
    assert_eq!(run(&mut queue.command(&["publish", ""])).exits(0).stderr, "");
    for _ in 0..3 {
        assert_eq!(queue.take().body, b"");
    }
}

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
    refused.exits(74).says("published 2 messages; not confirmed: messages 3-4; nothing was sent after message 4");
    refused.says("full").prints("");
    run(queue.command(&["queue", "purge"]).env("QUEUE", "small")).exits(0);
    let lines = run_with(&mut queue.command(&["publish", "--queue", "small", "--lines", "-"]), b"1\n2\n3\n");
    lines.exits(74).says("published 2 messages; not confirmed: line 3;").prints("");
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

#[test]
fn a_line_is_published_when_it_is_complete_and_not_later() {
    on_every_queue(|queue| {
        let mut publishing = queue.command(&["publish", "--lines", "-"]);
        let mut child = publishing.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // As `tail -f` does.
        stdin.write_all(b"one\ntw").unwrap();
        queue.wait_for_depth(1);
        assert_eq!(queue.take().body, b"one");
        stdin.write_all(b"o\nthree").unwrap();
        assert_eq!(queue.take().body, b"two");
        drop(stdin);
        let ended = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stdout), format!("published 3 messages to {}\n", queue.name));
        assert_eq!(queue.take().body, b"three");
    });
}

#[test]
fn a_signal_ends_a_stream_with_what_is_confirmed() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        on_every_queue(|queue| {
            let mut publishing = queue.command(&["publish", "--lines", "-"]);
            let mut child =
                publishing.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(b"one\nhalf of a li").unwrap();
            queue.wait_for_depth(1);
            let kill =
                std::process::Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
            assert!(kill.unwrap().success());
            let ended = child.wait_with_output().unwrap();
            drop(stdin);
            assert_eq!(ended.status.code(), Some(code), "{}", String::from_utf8_lossy(&ended.stderr));
            assert_eq!(String::from_utf8_lossy(&ended.stdout), format!("published 1 message to {}\n", queue.name));
            assert_eq!(queue.take().body, b"one");
        });
    }
}

#[test]
fn every_property_and_header_that_is_typed_arrives() {
    on_every_queue(|queue| {
        let typed = [
            ("--message-id", "m", "message_id"),
            ("--correlation-id", "c", "correlation_id"),
            ("--reply-to", "r", "reply_to"),
            ("--content-type", "text/plain", "content_type"),
            ("--type", "t", "type"),
            ("--priority", "7", "priority"),
        ];
        let flags = typed.iter().flat_map(|(flag, value, _)| [*flag, *value]);
        run(queue.command(&["publish", "x", "--header", "a=b=c", "--header", "d="]).args(flags)).exits(0);
        let got = run(&mut queue.command(&["queue", "get", "--json"])).exits(0).out();
        let got: Value = serde_json::from_str(&got).unwrap();
        for (_, value, name) in typed {
            let found = &got["properties"][name];
            assert_eq!(found.as_str().map_or_else(|| found.to_string(), str::to_owned), value, "{name}");
        }
        let headers = &got["properties"]["application_headers"];
        assert_eq!((&headers["a"], &headers["d"]), (&"b=c".into(), &"".into()));
        run(&mut queue.command(&["publish", "--message-id", "m", "x", "y"])).exits(78).says("--message-id");
        run(&mut queue.command(&["publish", "--header", "=x", "y"])).exits(2).says("NAME=VALUE");
    });
}

#[test]
fn what_a_queue_is_read_as_can_be_published_again() {
    on_every_queue(|queue| {
        let copies = queue.beside("copies");
        run(&mut queue.command(&["publish", "text", "--header", "h=\u{e4}", "--type", "t", "--message-id", "m1"]))
            .exits(0);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\xff\x00").unwrap();
        run(queue.command(&["publish", "--message-id", "m2", "--file"]).arg(file.path())).exits(0);
        let read = |command: &str, name: &str| {
            let read = run(queue.command(&["queue", command, "--all", "--json"]).env("QUEUE", name));
            let mut lines: Vec<Value> =
                read.exits(0).out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            for line in &mut lines {
                line.as_object_mut().unwrap().remove("delivery_info");
                // Put there by a quorum queue.
                line["properties"]["application_headers"].as_object_mut().unwrap().remove("x-delivery-count");
            }
            (read.stdout, lines)
        };
        let (peeked, original) = read("peek", &queue.name);
        run_with(queue.command(&["publish", "--json"]).env("QUEUE", &copies), &peeked).exits(0);
        assert_eq!(read("get", &copies).1, original);
        // From a file, and with another property.
        let (got, _) = read("get", &queue.name);
        std::fs::write(file.path(), got).unwrap();
        let mut publishing = queue.command(&["publish", "--json", "--type", "other", "--lines"]);
        run(publishing.arg(file.path()).env("QUEUE", &copies))
            .exits(0)
            .prints(&format!("published 2 messages to {copies}\n"));
        let (_, changed) = read("get", &copies);
        assert_eq!(changed[0]["properties"]["type"], "other");
        assert_eq!(changed[1]["body"], original[1]["body"]);
    });
}

#[test]
fn a_line_that_is_no_message_is_named_and_those_before_it_are_published() {
    on_every_queue(|queue| {
        let lines = b"{\"body\": \"a\"}\n{\"body\": \"b\"}\nnonsense\n{\"body\": \"c\"}\n";
        let ended = run_with(&mut queue.command(&["publish", "--json"]), lines);
        ended.exits(78).says("line 3 is not a message").says("published 2 messages").prints("");
        assert_eq!([queue.take().body, queue.take().body], [b"a", b"b"]);
        if !queue.can().expiration {
            let lines = br#"{"body": "a", "properties": {"expiration": "1000"}}"#;
            run_with(&mut queue.command(&["publish", "--json"]), lines).exits(78).says("line 1").says("expire");
        }
        assert_eq!(queue.depth(), 0);
    });
}

#[test]
fn a_delayed_message_comes_after_its_delay() {
    on_every_queue(|queue| {
        let began = Instant::now();
        run(&mut queue.command(&["publish", "--delay", "3s", "a", "b"])).exits(0);
        run(&mut queue.command(&["publish", "c"])).exits(0);
        let status = run(&mut queue.command(&["queue", "status", "--json"])).exits(0).out();
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!((&status["ready"], &status["delayed"]), (&1.into(), &2.into()), "{status}");
        let args = ["work", &crate::harness::guest("line"), "--count", "3", "--wait", "30s"];
        let mut lines: Vec<String> = run(&mut queue.command(&args)).exits(0).out().lines().map(str::to_owned).collect();
        assert!(began.elapsed().as_secs() >= 3, "{:?}", began.elapsed());
        assert_eq!(lines.remove(0), "c");
        lines.sort();
        assert_eq!(lines, ["a", "b"]);
        run(&mut queue.command(&["publish", "--delay", "3s", "-q", "no-such-queue", "x"]))
            .exits(78)
            .says("no-such-queue");
        if let Some(longest) = queue.can().longest_delay {
            let longer = format!("{}s", longest.as_secs() + 1);
            run(&mut queue.command(&["publish", "--delay", &longer, "x"])).exits(78).says("--delay");
        }
    });
}

#[test]
fn a_message_expires_where_its_broker_can_do_that_and_is_refused_elsewhere() {
    on_every_queue(|queue| {
        let published = run(&mut queue.command(&["publish", "--expiration", "200ms", "x"]));
        if queue.can().expiration {
            published.exits(0);
            eventually("it expires", || (queue.depth() == 0).then_some(()));
        } else {
            published.exits(78).says("--expiration").prints("");
        }
    });
}

/// All bodies of a queue, which is empty afterwards.
fn bodies(rabbitmq: &RabbitMq, name: &str) -> Vec<String> {
    on_channel(rabbitmq, async |channel| {
        let mut bodies = Vec::new();
        while let Some(got) = channel.basic_get(name.into(), BasicGetOptions { no_ack: true }).await.unwrap() {
            bodies.push(String::from_utf8(got.delivery.data).unwrap());
        }
        bodies
    })
}

/// The numbers from 1 on, a line each.
fn numbered(count: usize) -> Vec<u8> {
    (1..=count).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn lines_stay_in_their_order() {
    on_every_queue(|queue| {
        const COUNT: usize = 3000;
        let mut publishing = queue.command(&["publish", "--lines", "-"]);
        run_with(&mut publishing, &numbered(COUNT))
            .exits(0)
            .prints(&format!("published {COUNT} messages to {}\n", queue.name));
        let peeked = run(&mut queue.command(&["queue", "peek", "--all", "--json"])).exits(0).out();
        let body = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        let mut lines: Vec<usize> =
            peeked.lines().map(|line| body(line)["body"].as_str().unwrap().parse().unwrap()).collect();
        if queue.sqs().is_some() {
            // A standard queue promises no order.
            lines.sort_unstable();
        }
        let wrong = lines.iter().zip(1..).find(|(line, expected)| **line != *expected);
        assert_eq!((lines.len(), wrong), (COUNT, None));
        run(&mut queue.command(&["queue", "purge"])).exits(0);
    });
}

#[test]
fn no_line_is_reported_as_sent_that_is_not_there_when_the_broker_is_killed() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    for queue in [Queue::new(Broker::Quorum(&rabbitmq)), Queue::new(Broker::Classic(&rabbitmq))] {
        let mut publishing = start(&mut queue.command(&["publish", "--lines", "-"]));
        let enough = numbered(2_000_000);
        let ended = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                eventually("thousands are there", || (queue.depth() > 5_000).then_some(()));
                rabbitmq.kill();
            });
            publishing.write(&enough);
            killer.join().unwrap();
            publishing.end()
        });
        ended.exits(74).prints("").says("because: ");
        let (_, said) = ended.stderr.split_once("published ").expect("it says how many");
        let confirmed: usize = said.split(' ').next().unwrap().parse().unwrap();
        let (_, unconfirmed) = said.split_once("not confirmed: lines ").unwrap();
        let first: usize = unconfirmed.split(['-', ',', ';']).next().unwrap().parse().unwrap();
        assert!(confirmed >= 1 && first >= 1, "{said}");
        rabbitmq.restart();
        let there: BTreeSet<usize> =
            bodies(&rabbitmq, &queue.name).into_iter().map(|body| body.parse().unwrap()).collect();
        // Up to the first that is not confirmed, all are.
        let lost: Vec<usize> = (1..first).filter(|line| !there.contains(line)).collect();
        assert!(lost.is_empty(), "{} of {confirmed} are not there: {:?}", lost.len(), &lost[..lost.len().min(10)]);
        assert!(there.len() >= confirmed, "{} of {confirmed} are there", there.len());
    }
}

#[test]
fn a_publish_that_is_killed_reports_nothing_although_messages_were_sent() {
    on_every_queue(|queue| {
        const COUNT: usize = 5000;
        let mut publishing = queue.command(&["publish", "--lines", "-"]);
        let killed = run_with(publishing.env("WQ_FAULT", "confirmed@2:kill"), &numbered(COUNT));
        assert_eq!((killed.code, killed.out().as_str()), (None, ""));
        let depth = usize::try_from(queue.depth()).unwrap();
        assert!((1..COUNT).contains(&depth), "{depth}");
        run(&mut queue.command(&["queue", "purge"])).exits(0);
    });
}

#[test]
fn a_queue_is_declared_with_the_arguments_that_its_broker_knows() {
    on_every_queue(|queue| {
        let known: Vec<&str> = queue
            .url()
            .parse::<wq_run::broker::Url>()
            .unwrap()
            .kind()
            .queue_arguments
            .iter()
            .map(|known| known.flag)
            .collect();
        let all = [
            ("dead-letter-exchange", "amq.direct"),
            ("delivery-limit", "7"),
            ("max-priority", "5"),
            ("max-length", "9"),
            ("message-ttl", "1h"),
        ];
        for (flag, value) in all.into_iter().filter(|(flag, _)| !known.contains(flag)) {
            let refused = run(&mut queue.command(&["queue", "declare", &format!("--{flag}"), value, "-q", "refused"]));
            refused.exits(78).says(&format!("--{flag}")).prints("");
        }
    });
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = queue.broker else { panic!("for AMQP") };
        let (queue_type, own, other) = match queue.broker {
            Broker::Quorum(_) => ("quorum", ["--delivery-limit", "7"], ["--max-priority", "5"]),
            _ => ("classic", ["--max-priority", "5"], ["--delivery-limit", "7"]),
        };
        let name = format!("{}.with-arguments", queue.name);
        let typed = ["queue", "declare", "--type", queue_type, "-q", &name, "--dead-letter-exchange", "amq.direct"];
        let typed = [&typed[..], &["--max-length", "9", "--message-ttl", "1h"]].concat();
        run(queue.command(&typed).args(other)).exits(78).says(other[0]).prints("");
        run(queue.command(&typed).args(own)).exits(0);
        // As often as one likes, and with nothing else.
        run(queue.command(&typed).args(own)).exits(0);
        run(queue.command(&typed).args([own[0], "3"])).exits(78).says("does not match");
        let listed = rabbitmq.ctl(&["list_queues", "--quiet", "name", "arguments"]);
        let line = listed.lines().find(|line| line.starts_with(&name)).expect("it is there");
        for argument in ["x-dead-letter-exchange", "amq.direct", "x-max-length", "3600000"] {
            assert!(line.contains(argument), "{argument} is not in {line}");
        }
        queue.delete(&name);
    });
}

#[test]
fn a_status_is_told_as_json_again_and_again_with_what_waits_and_what_is_not_known() {
    on_every_queue(|queue| {
        queue.publish(&["a", "b"]);
        let mut watching = queue.command(&["queue", "status", "--json", "--watch=100ms"]);
        let mut child = watching.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
        assert_eq!((&next()["queue"], &next()["ready"]), (&queue.name.as_str().into(), &2.into()));
        run(&mut queue.command(&["queue", "purge"])).exits(0);
        eventually("the new number", || (next()["ready"] == 0).then_some(()));
        let status = next();
        assert!(status["at"].is_string() && status["delayed"] == 0, "{status}");
        child.kill().unwrap();
        child.wait().unwrap();
        let told = run(&mut queue.command(&["queue", "status"]));
        if status["running"].is_null() {
            assert!(told.exits(0).out().contains("\nrunning unknown\n"), "{}", told.out());
            told.says("messages_unacknowledged");
        } else {
            assert!(told.exits(0).out().contains("\nrunning 0\n"), "{}", told.out());
        }
    });
}
