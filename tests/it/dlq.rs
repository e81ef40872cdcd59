//! `wq-run dlq` and `wq-run queue peek`: dead letters are found, understood and sent back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;

use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::sqs::{Emulator, Sqs};
use crate::harness::{Run, guest, installed, run, run_with};

const FAST: [&str; 4] = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];

/// Also on a queue that keeps order.
fn on_every_queue_and_fifo(test: impl Fn(&Queue)) {
    on_every_queue(&test);
    if std::env::var_os("WQ_TEST_QUEUES").is_none()
        && let Some(sqs) = Sqs::shared(Emulator::Ministack)
    {
        test(&Queue::new(Broker::SqsFifo(sqs)));
    }
}

fn dlq(queue: &Queue, args: &[&str]) -> Run {
    run(queue.command(&["dlq"]).args(args))
}

/// The lines of JSON that a command printed.
fn lines(run: &Run) -> Vec<Value> {
    run.out().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn listed(queue: &Queue, filters: &[&str]) -> Vec<Value> {
    let listed = dlq(queue, &[&["list"], filters].concat());
    listed.exits(0);
    lines(&listed)
}

fn ids(lines: &[Value]) -> BTreeSet<&str> {
    lines.iter().map(|line| line["id"].as_str().expect("it has an id")).collect()
}

/// Makes a dead letter.
fn let_die(queue: &Queue, id: &str, guest_name: &str) {
    queue.publish_as(id, id);
    run(&mut queue.command(&["work", &guest(guest_name), "--max-attempts", "1"])).exits(65);
}

/// The next message fails, is tried again, fails again and dies.
fn fail_twice(queue: &Queue) {
    let args = ["work", &guest("fail"), "--max-attempts", "2", "--wait", "30s"];
    run(queue.command(&args).args(FAST)).exits(75).says("\"retried\":1");
    run(queue.command(&args).args(FAST)).exits(65).says("\"dead_lettered\":1");
}

#[test]
fn a_poison_message_is_found_understood_and_sent_back_and_succeeds() {
    on_every_queue_and_fifo(|queue| {
        // No message has died, so that there is no queue for dead letters.
        assert_eq!(listed(queue, &[]), Vec::<Value>::new());
        queue.publish_as("poison", "apple");
        // It fails, is tried again, and dies.
        fail_twice(queue);
        // It is found.
        let found = &listed(queue, &[])[0];
        let expected = [
            ("id", Value::from("poison")),
            ("queue", queue.name.as_str().into()),
            ("outcome", "exit".into()),
            ("exit_code", 1.into()),
            ("attempts", 2.into()),
            ("error", "the guest exited with 1".into()),
            ("body_bytes", 5.into()),
        ];
        for (name, value) in expected {
            assert_eq!(found[name], value, "{name} of {found}");
        }
        // It is understood.
        let shown = dlq(queue, &["show", "--id", "poison"]).exits(0).out();
        for told in
            ["exit code     1", "stderr\n  exit code is: 1", "body          5 bytes\n  apple", "guest         sha256:"]
        {
            assert!(shown.contains(told), "{told:?} is not in\n{shown}");
        }
        // A rehearsal changes nothing.
        let rehearsed = dlq(queue, &["replay", "--dry-run"]).exits(0).out();
        assert_eq!(rehearsed, format!("would replay poison to {0}\nwould replay 1 dead letter to {0}\n", queue.name));
        assert_eq!(ids(&listed(queue, &[])), BTreeSet::from(["poison"]));
        assert_eq!(queue.depth(), 0);
        // It is sent back, and its guest is mended.
        dlq(queue, &["replay"]).exits(0).prints(&format!("replayed 1 dead letter to {}\n", queue.name));
        assert_eq!(listed(queue, &[]), Vec::<Value>::new());
        let told = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        for variable in ["WQ_MESSAGE_ID=poison", "WQ_ATTEMPT=1"] {
            assert!(told.contains(variable), "{variable} is not in\n{told}");
        }
    });
}

#[test]
fn a_replayed_message_has_nothing_of_its_failure_and_all_of_its_attempts() {
    on_every_queue(|queue| {
        let_die(queue, "m", "trap");
        dlq(queue, &["replay", "--id", "m"]).exits(0);
        fail_twice(queue);
        assert_eq!(listed(queue, &[])[0]["outcome"], "exit");
        dlq(queue, &["replay"]).exits(0);
        let found = queue.take();
        let ours: Vec<_> = found.headers.keys().filter(|name| name.starts_with("x-wq-")).collect();
        assert!(ours.is_empty(), "{ours:?}");
        assert_eq!((found.body, found.properties["message_id"].as_str()), (b"m".to_vec(), "m"));
    });
}

#[test]
fn filters_pick_out_dead_letters_and_leave_the_others() {
    on_every_queue(|queue| {
        for (id, guest) in [("m1", "fail"), ("m2", "trap"), ("m3", "reject")] {
            let_die(queue, id, guest);
        }
        let found = |filters: &[&str]| ids(&listed(queue, filters)).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(found(&[]), ["m1", "m2", "m3"]);
        assert_eq!(found(&["--id", "m1", "--id", "m3"]), ["m1", "m3"]);
        assert_eq!(found(&["--outcome", "trap"]), ["m2"]);
        assert_eq!(found(&["--outcome", "exit,trap"]), ["m1", "m2", "m3"]);
        assert_eq!(found(&["--exit-code", "3"]), ["m3"]);
        assert_eq!(found(&["--outcome", "exit", "--exit-code", "1"]), ["m1"]);
        assert_eq!(found(&["--older-than", "1h"]), [""; 0]);
        assert_eq!(found(&["--older-than", "1ms"]).len(), 3);
        assert_eq!(found(&["--limit", "2"]).len(), 2);
        dlq(queue, &["show", "--id", "m1", "--id", "none"]).exits(79).says("no dead letter has the id none");
        // What is not picked out stays, whatever is done with the others.
        let dead = queue.dead_letter_queue();
        dlq(queue, &["purge", "--outcome", "trap", "--dry-run"])
            .exits(0)
            .prints(&format!("would delete m2\nwould delete 1 dead letter from {dead}\n"));
        dlq(queue, &["purge", "--outcome", "trap"]).exits(0).prints(&format!("deleted 1 dead letter from {dead}\n"));
        let replayed = dlq(queue, &["replay", "--exit-code", "3", "--json"]);
        replayed.exits(0);
        let [line] = &lines(&replayed)[..] else { panic!("one line: {replayed:?}") };
        assert_eq!(
            (&line["id"], &line["to"], &line["replayed"]),
            (&"m3".into(), &queue.name.as_str().into(), &true.into())
        );
        assert_eq!(found(&[]), ["m1"]);
        assert_eq!(queue.take().body, b"m3");
        dlq(queue, &["purge"]).exits(0).prints(&format!("deleted 1 dead letter from {dead}\n"));
        assert_eq!(found(&[]), [""; 0]);
    });
}

#[test]
fn dead_letters_go_to_the_queue_that_they_say_or_to_the_one_that_is_named() {
    on_every_queue(|queue| {
        let other = queue.beside("other");
        let dead = queue.dead_letter_queue();
        let work = |name: &str, id: &str| {
            run(queue.command(&["publish", "--message-id", id, id]).env("QUEUE", name)).exits(0);
            let args = ["work", &guest("trap"), "--max-attempts", "1", "--dead-letter-queue", &dead];
            run(queue.command(&args).env("QUEUE", name)).exits(65);
        };
        work(&queue.name, "ours");
        work(&other, "theirs");
        let replayed = dlq(queue, &["replay"]).exits(0).out();
        let mut expected =
            [format!("replayed 1 dead letter to {}", queue.name), format!("replayed 1 dead letter to {other}")];
        expected.sort();
        assert_eq!(replayed.lines().collect::<Vec<_>>(), expected);
        assert_eq!((queue.take().body, queue.take_from(&other).body), (b"ours".to_vec(), b"theirs".to_vec()));
        work(&queue.name, "ours");
        dlq(queue, &["replay", "--to", &other]).exits(0).prints(&format!("replayed 1 dead letter to {other}\n"));
        assert_eq!(queue.take_from(&other).body, b"ours");
        // Nothing is lost for a queue that is not there, or for what would only go round.
        work(&queue.name, "stays");
        dlq(queue, &["replay", "--to", "no-such-queue"]).exits(78).says("no queue `no-such-queue`").prints("");
        dlq(queue, &["replay", "--to", &dead]).exits(78).says("--to");
        assert_eq!(ids(&listed(queue, &[])), BTreeSet::from(["stays"]));
        dlq(queue, &["purge"]).exits(0);
    });
}

#[test]
fn a_queue_that_is_not_there_is_an_error_and_one_without_dead_letters_is_not() {
    on_every_queue(|queue| {
        for command in ["list", "show", "replay", "purge"] {
            dlq(queue, &[command]).exits(0);
            dlq(queue, &[command, "--queue", "no-such-queue"]).exits(78).says("no queue `no-such-queue");
            let mut unnamed = queue.command(&["dlq", command, "--dead-letter-queue", "no-such-queue"]);
            run(unnamed.env_remove("QUEUE")).exits(78).says("no queue `no-such-queue`");
            run(queue.command(&["dlq", command]).env_remove("QUEUE")).exits(78).says("--dead-letter-queue");
        }
    });
}

#[test]
fn no_message_is_lost_by_looking_at_it_however_often() {
    on_every_queue(|queue| {
        queue.publish(&["a", "b", "c"]);
        for _ in 0..5 {
            let peeked = run(&mut queue.command(&["queue", "peek", "--all", "--json"]));
            peeked.exits(0);
            let seen = lines(&peeked);
            let seen: BTreeSet<&str> = seen.iter().map(|line| line["body"].as_str().unwrap()).collect();
            assert_eq!(seen, BTreeSet::from(["a", "b", "c"]));
        }
        let first = run(&mut queue.command(&["queue", "peek"])).exits(0).out();
        assert!(first.ends_with("body          1 byte\n  a\n"), "{first}");
        queue.wait_for_depth(3);
        if queue.sqs().is_some() {
            // It counts each look, and so does the worker.
            run(&mut queue.command(&["queue", "purge"])).exits(0);
        } else {
            let worked = run(&mut queue.command(&["work", &guest("echo"), "--drain"])).exits(0).out();
            assert_eq!(worked.chars().collect::<BTreeSet<_>>(), BTreeSet::from(['a', 'b', 'c']));
        }
        run(&mut queue.command(&["queue", "peek"])).exits(79).prints("");
        run(&mut queue.command(&["queue", "peek", "--on-empty", "success"])).exits(0);
        run(queue.command(&["queue", "peek"]).env("QUEUE", "no-such-queue")).exits(78);
    });
}

#[test]
fn what_a_message_says_cannot_fool_the_terminal_that_shows_it() {
    on_every_queue(|queue| {
        let evil = "one\ntwo\u{1b}[2Jthree\u{202e}";
        run(&mut queue.command(&["publish", evil, "--header", "h=\u{1b}]0;title\u{7}", "--type", "\u{9b}2J"])).exits(0);
        let peeked = run(&mut queue.command(&["queue", "peek"])).exits(0).out();
        run(&mut queue.command(&["work", &guest("trap"), "--max-attempts", "1"])).exits(65);
        let shown = dlq(queue, &["show"]).exits(0).out();
        // Nor can what was typed.
        let none = dlq(queue, &["show", "--id", "no\nsuch\u{1b}[2J"]);
        none.exits(79).says("no dead letter has the id no\\nsuch\\u{1b}[2J\n");
        for text in [peeked, shown] {
            assert!(text.contains("  one\n  two\\u{1b}[2Jthree\\u{202e}\n"), "{text}");
            let harmless = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
            assert!(text.chars().all(harmless), "{text:?}");
        }
        dlq(queue, &["purge"]).exits(0);
    });
}

#[test]
fn a_list_on_a_terminal_is_a_table() {
    let Some(script) = installed("script") else { return };
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let_die(&queue, "m1", "fail");
    let mut terminal = Command::new(script);
    let line = format!("stty cols 60; exec {} dlq list", env!("CARGO_BIN_EXE_wq-run"));
    terminal.args(["-qec", &line, "/dev/null"]).env_clear().envs(queue.environment()).env("SHELL", "/bin/sh");
    let shown = run(terminal.env("PATH", "/usr/bin:/bin")).exits(0).out().replace("\r\n", "\n");
    let rows: Vec<&str> = shown.lines().collect();
    assert_eq!(rows[0], "ID  AGE  OUTCOME  EXIT  ATTEMPTS  ERROR");
    assert!(
        rows[1].starts_with("m1  ") && rows[1].ends_with("  exit     1     1         the guest exited with 1"),
        "{shown}"
    );
    dlq(&queue, &["purge"]).exits(0);
}

/// Lines of dead letters for `publish --json`, as our worker would have put them aside.
fn dead_letters(queue: &str, count: usize) -> String {
    let mut lines = String::new();
    for number in 0..count {
        writeln!(
            lines,
            r#"{{"body": "{number}", "properties": {{"message_id": "m{number}", "application_headers": {{"x-wq-attempt": 3,
            "x-wq-queue": "{queue}", "x-wq-settlement": "dead-letter", "x-wq-outcome": "exit", "x-wq-exit-code": 1,
            "x-wq-last-failed-at": "2026-01-01T00:00:00Z", "x-wq-error": "the guest exited with 1"}}}}}}"#
        )
        .unwrap();
    }
    // A line each.
    lines.replace(",\n", ",")
}

fn fill(queue: &Queue, count: usize) {
    let dead = queue.dead_letter_queue();
    queue.declare(&dead);
    let mut publishing = queue.command(&["publish", "--json"]);
    let published = run_with(publishing.env("QUEUE", &dead), dead_letters(&queue.name, count).as_bytes());
    published.exits(0).prints(&format!("published {count} messages to {dead}\n"));
}

/// Takes everything out of a queue, and counts how often each id was there.
fn take_all(queue: &Queue) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    let mut note = |id: String| *ids.entry(id).or_insert(0) += 1;
    match &queue.broker {
        Broker::Sqlite(_) => {
            let sql = queue.sql();
            let all = "SELECT json_extract(properties, '$.message_id') FROM message WHERE queue = ?1";
            let mut rows = sql.prepare(all).unwrap();
            rows.query_map([&queue.name], |row| row.get(0)).unwrap().for_each(|id| note(id.unwrap()));
            sql.execute("DELETE FROM message WHERE queue = ?1", [&queue.name]).unwrap();
        }
        Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => on_channel(rabbitmq, async |channel| {
            let get = BasicGetOptions { no_ack: true };
            while let Some(got) = channel.basic_get(queue.name.as_str().into(), get).await.unwrap() {
                note(got.delivery.properties.message_id().as_ref().unwrap().to_string());
            }
        }),
        _ => panic!("not for this one"),
    }
    ids
}

/// The two kinds of broker where a replay is one step, and where it is not.
fn on_rabbitmq_and_the_embedded_queue(test: impl Fn(&Queue)) {
    test(&Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap())));
    on_rabbitmq(test);
}

#[test]
fn ten_thousand_dead_letters_are_all_replayed_though_a_replay_is_killed_half_way() {
    const COUNT: usize = 10_000;
    on_rabbitmq_and_the_embedded_queue(|queue| {
        fill(queue, COUNT);
        assert_eq!(listed(queue, &[]).len(), COUNT);
        for (point, at_least) in [("published@5", 0), ("confirmed@9", 1)] {
            let fault = format!("{point}:kill");
            let killed = run(queue.command(&["dlq", "replay"]).env("WQ_FAULT", fault));
            assert_eq!((killed.code, killed.out().as_str()), (None, ""), "{}", killed.stderr);
            // It was killed in the middle.
            let depth = || queue.depth();
            assert!((at_least..COUNT as u64).contains(&depth()), "{}", depth());
        }
        let rest = dlq(queue, &["replay"]).exits(0).out();
        assert!(
            rest.starts_with("replayed ") && rest.ends_with(&format!(" dead letters to {}\n", queue.name)),
            "{rest}"
        );
        assert_eq!(listed(queue, &[]).len(), 0);
        let replayed = take_all(queue);
        let expected: BTreeSet<String> = (0..COUNT).map(|number| format!("m{number}")).collect();
        assert_eq!(replayed.keys().cloned().collect::<BTreeSet<_>>(), expected);
        // What was on its way when it was killed is there twice, with the same id; in one file it is not.
        let twice = replayed.values().filter(|count| **count > 1).count();
        match queue.broker {
            Broker::Sqlite(_) => assert_eq!(twice, 0),
            _ => assert!((1..=1000).contains(&twice), "{twice}"),
        }
    });
}

#[test]
fn a_dead_letter_is_not_lost_to_a_delivery_limit_however_often_it_is_looked_at() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let dead = queue.beside_with("limited", &[quorum, ("x-delivery-limit", AMQPValue::LongLongInt(4))]);
    for id in ["m1", "m2"] {
        queue.publish_as(id, id);
        run(&mut queue.command(&["work", &guest("trap"), "--max-attempts", "1", "--dead-letter-queue", &dead]))
            .exits(65);
    }
    for _ in 0..12 {
        assert_eq!(ids(&listed(&queue, &["--dead-letter-queue", &dead])), BTreeSet::from(["m1", "m2"]));
    }
    let replayed = dlq(&queue, &["replay", "--dead-letter-queue", &dead]);
    replayed.exits(0).prints(&format!("replayed 2 dead letters to {}\n", queue.name));
    for _ in 0..2 {
        let found = queue.take();
        assert!(!found.headers.keys().any(|name| name.starts_with("x-wq-")), "{:?}", found.headers);
    }
}

#[test]
fn what_the_broker_put_aside_by_itself_is_listed_with_its_reason_and_goes_back() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let dead = "by-the-broker.dead";
    let queue = Queue { name: "by-the-broker".to_owned(), broker: Broker::Classic(rabbitmq) };
    on_channel(rabbitmq, async |channel| {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(dead));
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(queue.name.as_str().into(), options, arguments).await.expect("declared");
        channel.queue_declare(dead.into(), options, FieldTable::default()).await.expect("declared");
    });
    queue.publish_as("m", "m");
    let args = ["work", &guest("trap"), "--max-attempts", "1", "--dead-letter-by", "broker"];
    run(&mut queue.command(&args)).exits(65);
    let found = &listed(&queue, &[])[0];
    assert_eq!(
        (&found["id"], &found["outcome"], &found["queue"]),
        (&"m".into(), &"rejected".into(), &"by-the-broker".into())
    );
    assert!(found["died_at"].is_string(), "{found}");
    dlq(&queue, &["replay"]).exits(0).prints("replayed 1 dead letter to by-the-broker\n");
    let found = queue.take();
    assert!(found.headers.is_empty(), "{:?}", found.headers);
}

#[test]
fn dead_letters_can_be_taken_as_lines_and_published_again() {
    on_every_queue(|queue| {
        let_die(queue, "m", "fail");
        let shown = dlq(queue, &["show", "--json"]);
        shown.exits(0);
        run_with(&mut queue.command(&["publish", "--json"]), &shown.stdout).exits(0);
        dlq(queue, &["purge"]).exits(0);
        // With its headers on, it gets all of its attempts.
        let told = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        assert!(told.contains("WQ_MESSAGE_ID=m\0") && told.contains("WQ_ATTEMPT=1\0"), "{told}");
    });
}
