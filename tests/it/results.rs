//! Results under faults, and how other programs see them: kills between the end of a run and its acknowledgement, a broker
//! in need, a network that fails; readers that drop duplicates, requesters that wait for an answer.

use std::process::Command;

use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;

use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::redis::Redis;
use crate::harness::{eventually, guest, required, root, run, run_with, start};

/// A program of `examples/`, by the Python of `build/venv`.
fn example(name: &str) -> Option<Command> {
    let python = root().join("build/venv/bin/python");
    let has_pika =
        Command::new(&python).args(["-c", "import pika"]).output().is_ok_and(|output| output.status.success());
    required(has_pika.then_some(()), "no pika: run scripts/install.sh pika")?;
    let mut command = Command::new(python);
    command.arg(root().join("examples").join(name));
    Some(command)
}

#[test]
fn a_worker_killed_between_the_end_of_a_run_and_its_acknowledgement_loses_no_result() {
    // Where it is killed; whether the result is in the queue by then; whether the message is delivered again. `None`: either.
    let points = [
        ("finished", Some(false), Some(true)),
        ("published", None, Some(true)),
        ("confirmed", Some(true), Some(true)),
        ("recorded", Some(true), Some(true)),
        ("settled", Some(true), None),
        ("closed", Some(true), Some(false)),
    ];
    let kinds: [fn() -> Option<Broker<'static>>; 4] = [
        || RabbitMq::shared().map(Broker::Quorum),
        || RabbitMq::shared().map(Broker::Classic),
        || Redis::shared().map(Broker::Redis),
        || Some(Broker::Sqlite(tempfile::tempdir().unwrap())),
    ];
    // Side by side, since most of it is waiting for leases to run out and for connections to be given up.
    std::thread::scope(|scope| {
        for kind in kinds {
            for (point, written, again) in points {
                scope.spawn(move || {
                    let Some(broker) = kind() else { return };
                    let queue = Queue::new(broker);
                    let results = queue.beside("results");
                    for _ in 0..KILLS {
                        killed_at(&queue, &results, point, written, again);
                    }
                });
            }
        }
    });
}

/// How often at each point, on each kind of queue.
const KILLS: usize = 2;

fn killed_at(queue: &Queue, results: &str, point: &str, written: Option<bool>, again: Option<bool>) {
    queue.publish(&["result"]);
    let result = format!("queue:{results}");
    let args = ["work", &guest("echo"), "--result", &result];
    let killed = run(queue.command(&args).env("WQ_FAULT", format!("{point}:kill")));
    assert_eq!(killed.code, None, "{point}: {}", killed.stderr);
    // On brokers that answer each settlement, a message does not come again after `settled`.
    let answered = matches!(queue.broker, Broker::Sqlite(_) | Broker::Redis(_));
    let again = if point == "settled" && answered { Some(false) } else { again };
    let wait = match again {
        Some(true) => "30s",
        Some(false) => "0",
        None => "1s",
    };
    let next = run(&mut queue.command(&["work", &guest("echo"), "--result", &result, "--wait", wait]));
    let came_again = next.exits(0).stderr.contains("\"settlement\":\"ack\"");
    assert!(again.is_none_or(|again| again == came_again), "{point}: {}", next.stderr);
    assert_eq!(queue.depth(), 0, "{point}");
    let mut ids = Vec::new();
    while let Some(found) = queue.try_take(results) {
        assert_eq!(found.body, b"result");
        ids.push(found.properties["message_id"].clone());
    }
    let again = usize::from(came_again);
    match written {
        Some(written) => assert_eq!(ids.len(), usize::from(written) + again, "{point}"),
        None => assert!((again..=again + 1).contains(&ids.len()), "{point}: {ids:?}"),
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{point}: {ids:?}");
}

#[test]
fn a_result_waits_for_the_end_of_an_alarm_until_the_publish_timeout() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Quorum(&rabbitmq));
    let results = queue.beside("results");
    let result = format!("queue:{results}");
    queue.publish(&["patient"]);
    rabbitmq.raise_alarm();
    let args = ["work", &guest("echo"), "--result", &result, "--publish-timeout", "2s"];
    run(&mut queue.command(&args)).exits(74).says("not confirmed within 2s").says("\"settlement\":\"release\"");
    queue.wait_for_depth(1);
    // The same alarm, and more patience: it ends while the worker waits, whose heartbeats go on.
    let url = format!("{}?heartbeat=1", queue.url());
    let mut worker = start(queue.command(&["work", &guest("echo"), "--result", &result]).env("BROKER_URL", url));
    worker.wait_for("the broker takes no messages at the moment");
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(worker.is_running());
    rabbitmq.lift_alarm();
    worker.end().exits(0);
    // That of the second run, and maybe that of the first, which the broker read when the alarm was over.
    let first = queue.take_from(&results);
    assert_eq!(first.body, b"patient");
    while let Some(more) = queue.try_take(&results) {
        assert_eq!(more.properties["message_id"], first.properties["message_id"]);
    }
    assert_eq!(queue.depth(), 0);
}

#[test]
fn a_worker_that_waits_for_the_broker_ends_with_its_grace_period() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Classic(&rabbitmq));
    let results = queue.beside("results");
    queue.publish(&["given back"]);
    rabbitmq.raise_alarm();
    let result = format!("queue:{results}");
    let args = ["work", &guest("echo"), "--result", &result, "--publish-timeout", "10m", "--shutdown-timeout", "1s"];
    let mut worker = start(&mut queue.command(&args));
    worker.wait_for("the broker takes no messages at the moment");
    worker.signal("TERM");
    worker.end().exits(143).says("\"settlement\":\"release\"");
    rabbitmq.lift_alarm();
    queue.wait_for_depth(1);
    assert_eq!(queue.take().body, b"given back");
    while queue.try_take(&results).is_some() {}
}

#[test]
fn a_result_whose_confirm_never_comes_is_not_delivered() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let results = queue.beside("results");
    let proxy = Proxy::start(rabbitmq.port);
    queue.publish(&["precious"]);
    let url = format!("amqp://guest:guest@127.0.0.1:{}?heartbeat=2", proxy.port);
    let args = ["work", &guest("obey"), "--result", &format!("queue:{results}")];
    let fault = "published:sleep=1";
    let mut worker = start(queue.command(&args).env("BROKER_URL", url).env("WQ_FAULT", fault));
    worker.wait_for("working");
    eventually("the message is taken", || (queue.depth() == 0).then_some(()));
    proxy.go_silent();
    worker.end().exits(74);
    queue.wait_for_depth(1);
    assert_eq!(queue.take().body, b"precious");
    while queue.try_take(&results).is_some() {}
}

#[test]
fn a_connection_for_results_that_was_lost_is_made_again() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let results = queue.beside("results");
    let args = ["work", &guest("echo"), "--forever", "--result", &format!("queue:{results}")];
    let mut service = start(&mut queue.command(&args));
    queue.publish(&["before"]);
    service.wait_for("\"settlement\":\"ack\"");
    let name = format!("results of {}", queue.name);
    let pid = || {
        let list = rabbitmq.ctl(&["list_connections", "--quiet", "--no-table-headers", "pid", "client_properties"]);
        let line = list.lines().find(|line| line.contains(&name)).map(str::to_owned);
        line.and_then(|line| line.split('\t').next().map(str::to_owned))
    };
    let first = pid().expect("a connection for results");
    rabbitmq.ctl(&["close_connection", &first, "a test"]);
    eventually("the connection is closed", || (pid().as_ref() != Some(&first)).then_some(()));
    queue.publish(&["after"]);
    service.wait_for("\"settlement\":\"ack\"");
    service.signal("TERM");
    service.end().exits(0);
    assert_eq!([queue.take_from(&results).body, queue.take_from(&results).body], [&b"before"[..], b"after"]);
}

#[test]
fn results_of_guests_side_by_side_are_each_confirmed_for_themselves() {
    on_every_queue(|queue| {
        let results = queue.beside("results");
        let bodies: Vec<String> = (0..60).map(|number| format!("result {number}")).collect();
        queue.publish(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
        let args = ["work", &guest("echo"), "--drain", "--concurrency", "8", "--result", &format!("queue:{results}")];
        run(&mut queue.command(&args)).exits(0).says("\"acked\":60");
        let mut found: Vec<String> =
            bodies.iter().map(|_| String::from_utf8(queue.take_from(&results).body).unwrap()).collect();
        found.sort();
        let mut published = bodies.clone();
        published.sort();
        assert_eq!(found, published);
        assert!(queue.try_take(&results).is_none());
    });
}

#[test]
fn a_reader_that_drops_duplicates_has_each_result_once() {
    on_rabbitmq(|queue| {
        let Some(mut reader) = example("read_results.py") else { return };
        let results = queue.beside("results");
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("results.db");
        reader.arg(queue.url()).args([&results]).arg(&kept);
        queue.publish(&["a", "b"]);
        let args = ["work", &guest("echo"), "--count", "2", "--result", &format!("queue:{results}")];
        // `a` is delivered, and its message comes again.
        assert_eq!(run(queue.command(&args).env("WQ_FAULT", "recorded:kill")).code, None);
        run(&mut reader).exits(0).prints("1 new, 0 known\n");
        run(&mut queue.command(&args)).exits(0);
        run(&mut reader).exits(0).prints("1 new, 1 known\n");
        let kept = rusqlite::Connection::open(&kept).unwrap();
        let mut rows = kept.prepare("SELECT body FROM result ORDER BY body").unwrap();
        let rows: Vec<Vec<u8>> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, [b"a", b"b"]);
    });
}

#[test]
fn another_clients_request_gets_its_answer() {
    on_rabbitmq(|queue| {
        let args = ["work", &guest("echo"), "--forever", "--result", "reply"];
        let service = start(&mut queue.command(&args));
        for options in [&[][..], &["--direct"]] {
            for body in [&b"a question"[..], b"", b"\xff\0\xfe"] {
                let Some(mut ask) = example("ask.py") else { return };
                let answer = run_with(ask.args([&queue.url(), &queue.name]).args(options), body);
                assert_eq!(answer.exits(0).stdout, body, "{options:?}");
            }
        }
        service.signal("TERM");
        service.end().exits(0);
    });
}

#[test]
fn an_answer_carries_the_correlation_id_of_its_request() {
    on_every_queue(|queue| {
        let answers = queue.beside("answers");
        let request = ["publish", "q", "--reply-to", &answers, "--correlation-id", "request-9"];
        run(&mut queue.command(&request)).exits(0);
        run(&mut queue.command(&["work", &guest("echo"), "--result", "reply"])).exits(0).prints("");
        let answer = queue.take_from(&answers);
        assert_eq!((answer.body.as_slice(), answer.properties["correlation_id"].as_str()), (&b"q"[..], "request-9"));
    });
}

#[test]
fn a_message_that_asks_for_no_answer_is_put_aside_and_not_run() {
    on_every_queue(|queue| {
        queue.publish(&["no reply_to"]);
        let refused = run(&mut queue.command(&["work", &guest("fail"), "--result", "reply"]));
        refused.exits(65).says("\"outcome\":\"no-reply-to\"");
        assert!(!refused.stderr.contains("exit code is"), "it ran: {}", refused.stderr);
        let dead = queue.take_dead();
        assert_eq!((dead.body.as_slice(), dead.headers["x-wq-outcome"].as_str()), (&b"no reply_to"[..], "no-reply-to"));
    });
}

#[test]
fn a_request_whose_requester_has_gone_is_put_aside() {
    on_every_queue(|queue| {
        run(&mut queue.command(&["publish", "q", "--reply-to", "no-such-queue"])).exits(0);
        run(&mut queue.command(&["work", &guest("echo"), "--result", "reply"])).exits(65);
        let dead = queue.take_dead();
        assert_eq!(dead.headers["x-wq-outcome"], "no-requester");
        assert!(dead.headers["x-wq-error"].contains("no-such-queue"), "{dead:?}");
    });
}

#[test]
fn a_direct_reply_to_a_requester_that_has_gone_is_put_aside_and_the_next_one_is_answered() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        // The connection ends with the request sent and the answer not there.
        on_channel(rabbitmq, async |channel| {
            let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let (direct, table) = ("amq.rabbitmq.reply-to", FieldTable::default());
            let _answers = channel.basic_consume(direct.into(), "".into(), no_ack, table).await.expect("consumes");
            let properties = BasicProperties::default().with_reply_to(direct.into());
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish("".into(), queue.name.as_str().into(), options, b"q", properties).await;
            sent.expect("published").await.expect("confirmed");
        });
        let answers = queue.beside("answers");
        run(&mut queue.command(&["publish", "next", "--reply-to", &answers])).exits(0);
        run(&mut queue.command(&["work", &guest("echo"), "--drain", "--result", "reply"])).exits(65);
        assert_eq!(queue.take_dead().headers["x-wq-outcome"], "no-requester");
        assert_eq!(queue.take_from(&answers).body, b"next");
    });
}
