//! Results: each kind of sink, that it gets them whole and once, and each way in which it does not. What is not delivered
//! is not acknowledged.

use std::path::Path;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run, start};

fn rabbitmq<'a>(queue: &'a Queue) -> &'a RabbitMq {
    let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { panic!("for AMQP") };
    rabbitmq
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// The message is where it was, and was not counted as failed.
fn untouched(queue: &Queue, body: &str) {
    queue.wait_for_depth(1);
    let back = queue.take();
    assert_eq!(back.body, body.as_bytes());
    assert!(!back.headers.contains_key("x-wq-outcome"), "{back:?}");
}

#[test]
fn every_sink_has_the_result_before_the_message_is_acknowledged() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let results = queue.beside("results");
        queue.publish(&["to everyone"]);
        let dir = format!("dir:{}", folder.path().display());
        let args =
            ["work", &guest("echo"), "--result", "stdout", "--result", &dir, "--result", &format!("queue:{results}")];
        run(queue.command(&args).env("WQ_FAULT", "recorded:kill"));
        // Killed with all of it delivered, and nothing acknowledged.
        let first = queue.take_from(&results);
        assert_eq!(first.body, b"to everyone");
        let written = files(folder.path());
        assert_eq!((written.len(), written[0].1.as_slice()), (1, &b"to everyone"[..]));
        let again = run(&mut queue.command(&args));
        again.exits(0).prints("to everyone").says("\"redelivered\":true");
        let second = queue.take_from(&results);
        assert_eq!(first.properties["message_id"], second.properties["message_id"]);
        assert_eq!(files(folder.path()), written, "in the place of the first");
        assert_eq!(queue.depth(), 0);
    });
}

#[test]
fn a_result_in_a_queue_says_whose_it_is() {
    on_every_queue(|queue| {
        let results = queue.beside("results");
        let result = format!("queue:{results}");
        run(&mut queue.command(&["publish", "a", "--correlation-id", "order-7"])).exits(0);
        let args = ["work", &guest("echo"), "--result", &result, "--result-content-type", "text/plain"];
        run(&mut queue.command(&args)).exits(0).prints("");
        let found = queue.take_from(&results);
        assert_eq!(found.properties["correlation_id"], "order-7");
        assert_eq!(found.properties["content_type"], "text/plain");
        assert_eq!(found.properties["app_id"], "wq-run");
        assert_eq!(found.properties["message_id"].len(), 64);
        assert!(found.headers["x-wq-guest"].starts_with("sha256:"), "{found:?}");
        assert_eq!(found.headers["x-wq-attempt"], "1");
        if let Broker::Quorum(_) | Broker::Classic(_) = queue.broker {
            assert_eq!(found.properties["delivery_mode"], "2");
        }
        // Without a correlation id it is the message's own id.
        queue.publish(&["b"]);
        let told = run(&mut queue.command(&["work", &guest("environ"), "--result", &result]));
        told.exits(0);
        let found = queue.take_from(&results);
        let id = format!("WQ_MESSAGE_ID={}\0", found.properties["correlation_id"]);
        assert!(String::from_utf8_lossy(&found.body).contains(&id), "{found:?}");
        assert!(!found.properties.contains_key("content_type"));
    });
}

#[test]
fn a_result_has_the_same_id_in_every_run_and_another_one_for_another_guest() {
    on_rabbitmq(|queue| {
        let results = queue.beside("results");
        let result = format!("queue:{results}");
        let ids: Vec<String> = [("m-1", "echo"), ("m-1", "echo"), ("m-1", "obey"), ("m-2", "echo")]
            .into_iter()
            .map(|(id, name)| {
                queue.publish_with(lapin::BasicProperties::default().with_message_id(id.into()), b"x");
                run(&mut queue.command(&["work", &guest(name), "--result", &result])).exits(0);
                queue.take_from(&results).properties["message_id"].clone()
            })
            .collect();
        assert_eq!(ids[0], ids[1]);
        assert!(ids[1] != ids[2] && ids[1] != ids[3] && ids[2] != ids[3], "{ids:?}");
    });
}

#[test]
fn a_result_can_be_the_message_of_the_next_worker_whose_attempts_are_its_own() {
    on_every_queue(|queue| {
        let second = queue.beside("second");
        let fast = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];
        let result = format!("queue:{second}");
        queue.publish(&["f"]);
        // Fails once, and then by another guest does not: a result of the second attempt.
        run(queue.command(&["work", &guest("fail"), "--result", &result]).args(fast)).exits(75);
        run(queue.command(&["work", &guest("echo"), "--result", &result]).args(fast)).exits(0);
        let next =
            run(queue.command(&["work", &guest("fail"), "--max-attempts", "2"]).args(fast).env("QUEUE", &second));
        next.exits(75).says("\"attempt\":1");
        let next =
            run(queue.command(&["work", &guest("echo"), "--max-attempts", "2"]).args(fast).env("QUEUE", &second));
        next.exits(0).says("\"attempt\":2").prints("f");
    });
}

#[test]
fn a_file_is_called_like_its_message_and_never_leaves_its_folder() {
    on_rabbitmq(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let dir = format!("dir:{}", folder.path().display());
        for id in [Some("../escape/ä"), Some("plain-1.2"), None] {
            let properties = lapin::BasicProperties::default();
            let properties = id.map_or(properties.clone(), |id| properties.with_message_id(id.into()));
            queue.publish_with(properties, b"x");
            run(&mut queue.command(&["work", &guest("echo"), "--result", &dir])).exits(0).prints("");
        }
        let names: Vec<String> = files(folder.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names.contains(&"%2E.%2Fescape%2F%C3%A4".into()) && names.contains(&"plain-1.2".into()), "{names:?}");
        assert!(names.iter().any(|name| name.len() == 64), "{names:?}");
    });
}

#[test]
fn a_result_whose_name_is_that_of_a_folder_is_a_dead_letter_and_holds_up_nothing() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("taken")).unwrap();
        queue.publish_as("taken", "bad");
        queue.publish_as("free", "good");
        let dir = format!("dir:{}", folder.path().display());
        let worked = run(&mut queue.command(&["work", &guest("echo"), "--drain", "--result", &dir]));
        worked.exits(65).says("\"outcome\":\"result-unwritable\"");
        assert_eq!(std::fs::read(folder.path().join("free")).unwrap(), b"good");
        let dead = queue.take_dead();
        assert_eq!((dead.body.as_slice(), dead.headers["x-wq-outcome"].as_str()), (&b"bad"[..], "result-unwritable"));
        std::fs::remove_dir(folder.path().join("taken")).unwrap();
        assert_eq!(files(folder.path()).len(), 1, "nothing else is left behind");
    });
}

#[test]
fn results_arrive_byte_for_byte() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    on_every_queue(|queue| {
        let results = queue.beside("results");
        let folder = tempfile::tempdir().unwrap();
        let specs = format!("queue:{results},dir:{}", folder.path().display());
        let file = tempfile::NamedTempFile::new().unwrap();
        for body in [&every_byte[..], b"", b"\0", b"\xff\xfe no text"] {
            std::fs::write(file.path(), body).unwrap();
            run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
            run(queue.command(&["work", &guest("echo")]).env("WQ_RESULT", &specs)).exits(0).prints("");
            // By the command that people have for it.
            let got = run(queue.command(&["queue", "get"]).env("QUEUE", &results));
            assert!(got.exits(0).stdout == body, "{} bytes came back of {}", got.stdout.len(), body.len());
            let written = files(folder.path());
            assert!(written.len() == 1 && written[0].1 == body);
            std::fs::remove_file(folder.path().join(&written[0].0)).unwrap();
        }
    });
}

#[test]
fn a_result_of_64_mebibytes_arrives_whole() {
    let large: Vec<u8> = (0..=250).cycle().take(64 << 20).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &large).unwrap();
    on_every_queue(|queue| {
        let results = queue.beside("results");
        let folder = tempfile::tempdir().unwrap();
        let specs = format!("dir:{},queue:{results}", folder.path().display());
        let published = run(queue.command(&["publish", "--file"]).arg(file.path()));
        // RabbitMQ 4 takes up to 16 MiB, unless it is told to take more.
        if published.code == Some(74) {
            published.says("does not accept a message of this size");
            return;
        }
        let args = ["work", &guest("echo"), "--max-stdout", "64MiB"];
        run(queue.command(&args).env("WQ_RESULT", &specs)).exits(0);
        assert!(files(folder.path())[0].1 == large);
        assert!(queue.take_from(&results).body == large);
    });
}

#[test]
fn a_sink_that_is_not_there_is_said_before_a_message_is_taken() {
    on_every_queue(|queue| {
        queue.publish(&["untouched"]);
        let mut table = vec![
            ("queue:no-such-queue", "wq-run queue declare --queue no-such-queue"),
            ("dir:/no/such/folder", "the folder has to exist"),
            ("dir:/proc", "--result dir:PATH"),
            ("stdout,stdout", "named twice"),
            ("none,stdout", "cannot be combined with another"),
        ];
        let itself = format!("queue:{}", queue.name);
        table.push((&itself, "come back as a message"));
        table.push(match queue.broker {
            Broker::Sqlite(_) | Broker::Redis(_) | Broker::Sqs(_) | Broker::SqsFifo(_) => {
                ("exchange:e/k", "has no exchanges")
            }
            _ => ("exchange:no-such-exchange/k", "there is no exchange `no-such-exchange`"),
        });
        for (spec, text) in table {
            run(&mut queue.command(&["work", &guest("echo"), "--result", spec])).exits(78).says(text).prints("");
        }
        let told = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        assert!(told.contains("WQ_REDELIVERED=false"), "{told}");
    });
}

#[test]
fn no_result_is_asked_for_and_none_is_written() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        run(&mut queue.command(&["work", &guest("echo"), "--result", "none"])).exits(0).prints("");
        assert_eq!(queue.depth(), 0);
    });
}

#[test]
fn a_result_queue_that_vanishes_ends_the_worker_and_never_acks() {
    on_every_queue(|queue| {
        let results = queue.beside("results");
        queue.publish(&["precious"]);
        let args = ["work", &guest("nap"), "--forever", "--result", &format!("queue:{results}")];
        let mut worker = start(&mut queue.command(&args));
        worker.wait_for("started");
        queue.delete(&results);
        worker.end().exits(78).says(&format!("no queue `{results}`")).says("\"settlement\":\"release\"");
        untouched(queue, "precious");
    });
}

#[test]
fn a_result_queue_that_is_full_never_acks() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    for broker in [Broker::Quorum(rabbitmq), Broker::Classic(rabbitmq)] {
        let kind = if let Broker::Quorum(_) = broker { "quorum" } else { "classic" };
        let queue = Queue::new(broker);
        let full = format!("{}.full", queue.name);
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        on_channel(rabbitmq, async |channel| {
            channel.queue_declare(full.as_str().into(), QueueDeclareOptions::durable(), arguments).await.expect("made");
        });
        let work = || run(&mut queue.command(&["work", &guest("echo"), "--result", &format!("queue:{full}")]));
        // A quorum queue refuses a moment after it is full, and takes a few more until then.
        let mut taken = 0;
        let refused = loop {
            queue.publish(&["precious"]);
            let run = work();
            if run.code != Some(0) {
                break run;
            }
            taken += 1;
            assert!(taken < 100, "it is never full");
        };
        refused.exits(74).says("refused it").says("\"settlement\":\"release\"");
        // There is room again, and the message is there.
        for _ in 0..taken {
            queue.take_from(&full);
        }
        queue.wait_for_depth(1);
        work().exits(0);
        assert_eq!(queue.take_from(&full).body, b"precious");
    }
}

#[test]
fn a_result_too_large_for_the_broker_is_a_dead_letter_that_says_so() {
    let Some(rabbitmq) = RabbitMq::start_with("max_message_size = 65536") else { return };
    for broker in [Broker::Quorum(&rabbitmq), Broker::Classic(&rabbitmq)] {
        let queue = Queue::new(broker);
        let results = queue.beside("results");
        queue.publish(&["small"]);
        let args = ["work", &guest("mebibyte"), "--result", &format!("queue:{results}")];
        run(&mut queue.command(&args)).exits(65).says("\"outcome\":\"result-too-large\"");
        let dead = queue.take_dead();
        assert_eq!((dead.body.as_slice(), dead.headers["x-wq-outcome"].as_str()), (&b"small"[..], "result-too-large"));
        assert!(dead.headers["x-wq-error"].contains("larger than"), "{dead:?}");
        assert_eq!(queue.depth_of(&results), 0);
        // After the refusal, the worker still delivers the next results.
        queue.publish(&["x", "small", "y"]);
        let args = ["work", &guest("obey-large"), "--drain", "--result", &format!("queue:{results}")];
        run(&mut queue.command(&args)).exits(65);
        assert_eq!(queue.take_dead().body, b"small");
        assert_eq!([queue.take_from(&results).body, queue.take_from(&results).body], [b"x", b"y"]);
    }
}

#[test]
fn an_exchange_gets_results_and_an_unroutable_result_is_never_acknowledged() {
    on_rabbitmq(|queue| {
        let results = queue.beside("results");
        let exchange = format!("{}.exchange", queue.name);
        on_channel(rabbitmq(queue), async |channel| {
            let (name, options) = (exchange.as_str(), ExchangeDeclareOptions { durable: true, ..Default::default() });
            let table = FieldTable::default;
            channel.exchange_declare(name.into(), ExchangeKind::Topic, options, table()).await.expect("declared");
            let bind = QueueBindOptions::default();
            channel
                .queue_bind(results.as_str().into(), name.into(), "done.#".into(), bind, table())
                .await
                .expect("bound");
        });
        let work = |key: &str| {
            run(&mut queue.command(&["work", &guest("echo"), "--result", &format!("exchange:{exchange}/{key}")]))
        };
        queue.publish(&["routed"]);
        work("done/with.slash").exits(78);
        work("done.today").exits(0);
        assert_eq!(queue.take_from(&results).body, b"routed");
        queue.publish(&["precious"]);
        work("elsewhere").exits(78).says("no queue for the routing key `elsewhere`").says("\"settlement\":\"release\"");
        untouched(queue, "precious");
        // Gone while the guest runs: the channel is closed for it.
        queue.publish(&["precious"]);
        let args = ["work", &guest("nap"), "--result", &format!("exchange:{exchange}/done.today")];
        let mut worker = start(&mut queue.command(&args));
        worker.wait_for("started");
        on_channel(rabbitmq(queue), async |channel| {
            channel.exchange_delete(exchange.as_str().into(), Default::default()).await.expect("deleted");
        });
        worker.end().exits(78).says(&format!("no exchange `{exchange}`"));
        untouched(queue, "precious");
    });
}

#[test]
fn a_right_that_is_missing_never_acks() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let results = queue.beside("results");
    rabbitmq.ctl(&["add_user", "reader", "pw"]);
    rabbitmq.ctl(&["set_permissions", "reader", "", "", ".*"]);
    queue.publish(&["precious"]);
    let url = format!("amqp://reader:pw@127.0.0.1:{}", rabbitmq.port);
    let args = ["work", &guest("echo"), "--result", &format!("queue:{results}")];
    run(queue.command(&args).env("BROKER_URL", url)).exits(77).says("permission to publish to");
    untouched(&queue, "precious");
}

#[test]
fn a_folder_that_is_full_never_acks() {
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder.path()).status();
    let mounted = mounted.is_ok_and(|status| status.success()).then_some(());
    if crate::harness::required(mounted, "can't mount a tmpfs").is_none() {
        return;
    }
    let _unmounted = Mounted(folder.path());
    on_every_queue(|queue| {
        queue.publish(&["precious"]);
        let args = ["work", &guest("mebibyte"), "--result", &format!("dir:{}", folder.path().display())];
        let failed = run(&mut queue.command(&args));
        failed.exits(74).says("cannot deliver the result to the folder").says("No space left");
        untouched(queue, "precious");
        assert!(files(folder.path()).is_empty(), "something half written is left");
    });
}

/// Unmounts when the test is over, whichever way.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_sink_that_fails_after_another_one_did_not_gives_a_second_result_with_the_same_id() {
    on_every_queue(|queue| {
        let first = queue.beside("first");
        let last = queue.beside("last");
        queue.publish(&["twice"]);
        let args = ["work", &guest("nap"), "--result", &format!("queue:{first},queue:{last}")];
        let mut worker = start(&mut queue.command(&args));
        worker.wait_for("started");
        queue.delete(&last);
        worker.end().exits(78);
        queue.wait_for_depth(1);
        queue.beside("last");
        run(&mut queue.command(&args)).exits(0);
        let ids = [&first, &first, &last].map(|name| queue.take_from(name).properties["message_id"].clone());
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    });
}

#[test]
fn results_are_lines_where_that_is_asked_for() {
    on_every_queue(|queue| {
        // `wq-run publish` adds nothing to a body, nor does the guest.
        let work = |more: &[&str]| {
            queue.publish(&["abc", "abc", "abc"]);
            run(queue.command(&["work", &guest("echo"), "--drain"]).args(more)).exits(0).out()
        };
        assert_eq!(work(&[]), "abcabcabc");
        assert_eq!(work(&["--result-format", "raw"]), "abcabcabc");
        assert_eq!(work(&["--result-format", "lines"]), "abc\nabc\nabc\n");
        // One without a result has no line, and one with a newline gets no second one.
        queue.publish(&["", "a\nb\n"]);
        let drain = ["work", &guest("echo"), "--drain"];
        run(queue.command(&drain).env("WQ_RESULT_FORMAT", "lines")).exits(0).prints("a\nb\n");
    });
}

#[test]
fn a_line_of_json_has_the_result_and_whose_it_is() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let beside = queue.beside("results");
        let results = format!("stdout,dir:{},queue:{beside}", folder.path().display());
        queue.publish_as("m-1", "two\nlines");
        // It fails once.
        let fails = ["work", &guest("fail"), "--backoff-initial", "10ms", "--backoff-max", "10ms"];
        run(&mut queue.command(&fails)).exits(75);
        let args = ["work", &guest("echo"), "--wait", "30s", "--result", &results, "--result-format", "json"];
        let ended = run(&mut queue.command(&args));
        let out = ended.exits(0).out();
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        let expected = serde_json::json!({
            "id": "m-1", "attempt": 2, "outcome": "success", "exit_code": 0, "result": "two\nlines"
        });
        assert_eq!((line, out.matches('\n').count()), (expected, 1));
        // A file has the line, and a message in a queue is the result.
        assert_eq!(files(folder.path()), [("m-1".to_owned(), out.into_bytes())]);
        assert_eq!(queue.take_from(&beside).body, b"two\nlines");
    });
}

#[test]
fn a_line_of_json_holds_bytes_that_are_no_text() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\xff\0").unwrap();
    run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
    let ended = run(&mut queue.command(&["work", &guest("echo"), "--result-format", "json"]));
    let line: serde_json::Value = serde_json::from_str(&ended.exits(0).out()).unwrap();
    assert_eq!(line["result_base64"], "/wA=");
    assert!(line["id"].as_str().is_some_and(|id| !id.is_empty()) && line.get("result").is_none(), "{line}");
}

#[test]
fn a_format_that_no_result_follows_is_refused() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let results = format!("queue:{}", queue.beside("results"));
    for result in [&*results, "none", "reply"] {
        let args = ["work", &guest("echo"), "--result", result, "--result-format", "lines"];
        run(&mut queue.command(&args)).exits(78).says("--result-format");
    }
}
