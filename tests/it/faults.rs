//! Faults: workers that are killed or told to stop, brokers that go away. Nothing is lost, and nothing is called done
//! that is not.

use std::process::Command;
use std::time::Instant;

use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{PATIENCE, eventually, guest, run, start, wq_run};

#[test]
fn a_message_comes_again_when_its_worker_is_killed() {
    on_every_queue(|queue| {
        queue.publish(&["survivor"]);
        let mut worker = start(&mut queue.command(&["work", &guest("sleep")]));
        worker.wait_for("started");
        worker.signal("KILL");
        assert_eq!(worker.end().code, None);
        let again = run(&mut queue.command(&["work", &guest("echo")]));
        again.exits(0).prints("survivor").says("\"redelivered\":true");
    });
}

#[test]
fn a_lease_is_renewed_for_as_long_as_the_guest_runs() {
    // Longer than one lease of the embedded queue; a second worker watches for the message all the time.
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    queue.publish(&["mine"]);
    let mut first = start(&mut queue.command(&["work", &guest("sleep"), "--timeout", "20s", "--max-attempts", "1"]));
    first.wait_for("started");
    let other = run(&mut queue.command(&["work", &guest("echo"), "--wait", "18s", "--on-empty", "fail"]));
    other.exits(79).prints("");
    first.end().exits(65);
    queue.take_dead();
}

#[test]
fn the_first_signal_lets_the_guest_finish() {
    on_every_queue(|queue| {
        queue.publish(&["last one", "not taken"]);
        let mut worker = start(&mut queue.command(&["work", &guest("nap"), "--forever"]));
        worker.wait_for("started");
        worker.signal("TERM");
        worker.end().exits(0).prints("last one").says("\"acked\":1");
        queue.wait_for_depth(1);
        assert_eq!(queue.take().body, b"not taken");
    });
}

#[test]
fn a_run_for_one_message_that_finishes_after_a_signal_is_a_success() {
    on_every_queue(|queue| {
        queue.publish(&["done in time"]);
        let mut worker = start(&mut queue.command(&["work", &guest("nap")]));
        worker.wait_for("started");
        worker.signal("TERM");
        worker.end().exits(0).prints("done in time");
    });
}

#[test]
fn the_end_of_the_grace_period_gives_the_message_back() {
    on_every_queue(|queue| {
        for guest_name in ["sleep", "spin"] {
            queue.publish(&["unfinished"]);
            let args = ["work", &guest(guest_name), "--shutdown-timeout", "200ms", "--max-attempts", "1"];
            let mut worker = start(&mut queue.command(&args));
            worker.wait_for("started");
            worker.signal("TERM");
            worker.end().exits(143).says("\"settlement\":\"release\"").prints("");
            queue.wait_for_depth(1);
            assert_eq!(queue.take().body, b"unfinished");
        }
    });
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace_period() {
    on_every_queue(|queue| {
        queue.publish(&["unfinished"]);
        let mut worker = start(&mut queue.command(&["work", &guest("sleep"), "--shutdown-timeout", "1h"]));
        worker.wait_for("started");
        worker.signal("INT");
        worker.wait_for_all(&["a signal was received", "SIGINT"]);
        worker.signal("INT");
        worker.end().exits(130);
        queue.wait_for_depth(1);
        queue.take();
    });
}

#[test]
fn an_idle_worker_leaves_at_once_and_does_not_call_that_a_success() {
    on_every_queue(|queue| {
        for (mode, code) in [("--count=1", 143), ("--forever", 0)] {
            let mut worker = start(queue.command(&["work", &guest("echo"), mode]).env("RUST_LOG", "wq_run=debug"));
            worker.wait_for("subscribed");
            worker.signal("TERM");
            worker.end().exits(code);
        }
    });
}

#[test]
fn a_connection_lost_under_a_guest_is_no_success_and_the_message_comes_again() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    for kind in [Broker::Quorum(&rabbitmq), Broker::Classic(&rabbitmq)] {
        let queue = Queue::new(kind);
        queue.publish(&["survivor"]);
        let mut one_shot = start(&mut queue.command(&["work", &guest("sleep")]));
        one_shot.wait_for("started");
        rabbitmq.kill();
        let since = Instant::now();
        one_shot.end().exits(74).says("no longer has the message").prints("");
        assert!(since.elapsed() < PATIENCE);
        rabbitmq.restart();
        run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("survivor");
    }
}

#[test]
fn a_service_outlives_its_broker() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Quorum(&rabbitmq));
    let mut service = start(&mut queue.command(&["work", &guest("echo"), "--forever"]));
    queue.publish(&["before "]);
    service.wait_for("\"settlement\":\"ack\"");
    rabbitmq.kill();
    service.wait_for("the broker is not available; trying again");
    rabbitmq.restart();
    service.wait_for_all(&["connected again", &queue.name, "away_ms"]);
    queue.publish(&["after"]);
    service.wait_for("\"settlement\":\"ack\"");
    service.signal("TERM");
    let run = service.end();
    // If the broker dies before it has stored an acknowledgement, the message comes again.
    assert!(["before after", "before before after"].contains(&run.exits(0).out().as_str()), "{}", run.out());
}

#[test]
fn a_broker_that_stops_in_good_order_is_met_again() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Quorum(&rabbitmq));
    queue.publish(&["under way"]);
    let mut one_shot = start(&mut queue.command(&["work", &guest("sleep")]));
    one_shot.wait_for("started");
    let mut service = start(queue.command(&["work", &guest("echo"), "--forever"]).env("RUST_LOG", "info,wq_run=debug"));
    service.wait_for("subscribed");
    // Every client is told: CONNECTION_FORCED.
    rabbitmq.ctl(&["stop_app"]);
    one_shot.end().exits(74).says("no longer has the message");
    service.wait_for("the broker is not available; trying again");
    rabbitmq.ctl(&["start_app"]);
    service.wait_for("\"settlement\":\"ack\"");
    service.signal("TERM");
    service.end().exits(0).prints("under way");
}

#[test]
fn a_broker_killed_after_the_result_was_written_gives_a_duplicate_and_no_false_success() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    for kind in [Broker::Quorum(&rabbitmq), Broker::Classic(&rabbitmq)] {
        let queue = Queue::new(kind);
        queue.publish(&["written"]);
        // Results are written in this order: when the file is there, stdout has its result.
        let folder = tempfile::tempdir().unwrap();
        let results = format!("stdout,dir:{}", folder.path().display());
        let mut one_shot = queue.command(&["work", &guest("obey"), "--result", &results]);
        let one_shot = start(one_shot.env("WQ_FAULT", "recorded:sleep=12"));
        let written = || std::fs::read_dir(folder.path()).unwrap().flatten().map(|file| file.file_name());
        eventually("the result is written", || {
            written().any(|name| !name.to_string_lossy().ends_with(".part")).then_some(())
        });
        rabbitmq.kill();
        one_shot.end().exits(74).prints("written");
        rabbitmq.restart();
        // The same message once more: at least once.
        run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("written").says("\"redelivered\":true");
    }
}

#[test]
fn a_dead_letter_that_the_broker_refuses_leaves_the_message_where_it_was() {
    use lapin::types::{AMQPValue, FieldTable};
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let full = format!("{}-full", queue.name);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    crate::harness::queue::on_channel(rabbitmq, async |channel| {
        let options = lapin::options::QueueDeclareOptions::durable();
        channel.queue_declare(full.as_str().into(), options, arguments).await.expect("declared");
    });
    run(queue.command(&["publish", "the one that fits"]).env("QUEUE", &full)).exits(0);
    queue.publish(&["bad"]);
    let refused = run(&mut queue.command(&["work", &guest("reject"), "--dead-letter-queue", &full]));
    refused.exits(74).says("refused it");
    queue.wait_for_depth(1);
    assert_eq!(queue.take().body, b"bad");
}

#[test]
fn the_ledgers_service_keeps_its_memory_and_its_descriptors_over_a_thousand_messages() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    let count = |name: &str, pid: u32| -> usize {
        match name {
            "descriptors" => std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            _ => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel tells");
                line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
            }
        }
    };
    on_every_queue(|queue| {
        let send = |messages: usize, last: &str| {
            let text = "a message of some length\n".repeat(messages - 1) + last;
            std::fs::write(&lines, text).unwrap();
            run(queue.command(&["publish", "--lines"]).arg(&lines)).exits(0);
        };
        let args = ["work", &guest("obey"), "--forever", "--concurrency", "2", "--max-attempts", "1"];
        let mut service = start(&mut queue.command(&args));
        let mut measure = |messages| {
            send(messages, "fails, and by that is seen to be the last");
            service.wait_for("\"settlement\":\"dead-letter\"");
            queue.take_dead();
            queue.wait_for_depth(0);
            ["VmRSS", "descriptors", "Threads"].map(|name| count(name, service.id()))
        };
        let [rss, descriptors, threads] = measure(100);
        let [rss_later, descriptors_later, threads_later] = measure(1000);
        service.signal("TERM");
        service.end().exits(0);
        println!(
            "{}: I8 from 100 to 1,100 messages: {rss} to {rss_later} kB, {descriptors} to {descriptors_later} \
             descriptors, {threads} to {threads_later} threads",
            queue.name
        );
        // Allocators keep some; a leak of one message or instance each would be far more.
        assert!(rss_later < rss + 8 * 1024, "{rss} kB became {rss_later} kB");
        assert!(descriptors_later <= descriptors + 1, "{descriptors} descriptors became {descriptors_later}");
        // The pool for calls that block grows with the number of those that fall together: two guests, one queue file.
        assert!(threads_later <= threads + 4, "{threads} threads became {threads_later}");
    });
}

#[test]
fn a_queue_deleted_under_its_worker_ends_it() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    for kind in [Broker::Quorum(rabbitmq), Broker::Classic(rabbitmq)] {
        let queue = Queue::new(kind);
        let mut service =
            start(queue.command(&["work", &guest("echo"), "--forever"]).env("RUST_LOG", "info,wq_run=debug"));
        service.wait_for("subscribed");
        rabbitmq.ctl(&["delete_queue", &queue.name]);
        service.end().exits(78).says(&format!("no queue `{}`", queue.name));
    }
}

#[test]
fn a_worker_killed_at_any_point_of_a_message_loses_nothing() {
    // Each with what the killed worker has printed by then, and whether the message may come again.
    let points = [
        ("idle", "", true),
        ("delivered", "", true),
        ("finished", "", true),
        ("recorded", "x", true),
        ("closed", "x", false),
    ];
    on_rabbitmq(|queue| {
        for (point, printed, again) in points {
            queue.publish(&["x"]);
            let mut command = queue.command(&["work", &guest("echo")]);
            let killed = run(command.env("WQ_FAULT", format!("{point}:kill")));
            assert_eq!((killed.code, killed.out().as_str()), (None, printed), "{point}");
            let next = run(&mut queue.command(&["work", &guest("echo"), "--wait", if again { "30s" } else { "0" }]));
            next.exits(0).prints(if again { "x" } else { "" });
        }
        // The acknowledgement is on its way; whether it arrives is not in our hands.
        queue.publish(&["x"]);
        let killed = run(queue.command(&["work", &guest("echo")]).env("WQ_FAULT", "settled:kill"));
        assert_eq!((killed.code, killed.out().as_str()), (None, "x"));
        let next = run(&mut queue.command(&["work", &guest("echo"), "--wait", "500ms"]));
        assert!(["", "x"].contains(&next.exits(0).out().as_str()));
    });
    let sqlite = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    for (point, printed) in [("finished", ""), ("recorded", "x")] {
        sqlite.publish(&["x"]);
        let killed = run(sqlite.command(&["work", &guest("echo")]).env("WQ_FAULT", format!("{point}:kill")));
        assert_eq!((killed.code, killed.out().as_str()), (None, printed), "{point}");
        run(&mut sqlite.command(&["work", &guest("echo")])).exits(0).prints("x");
    }
    // The embedded queue has stored the settlement at this point, so the message does not come again.
    sqlite.publish(&["x"]);
    let killed = run(sqlite.command(&["work", &guest("echo")]).env("WQ_FAULT", "settled:kill"));
    assert_eq!((killed.code, killed.out().as_str()), (None, "x"));
    run(&mut sqlite.command(&["work", &guest("echo"), "--wait", "16s"])).exits(0).prints("");
}

#[test]
fn a_panic_anywhere_ends_with_70_and_gives_the_message_back() {
    on_every_queue(|queue| {
        for (point, printed) in [("idle", ""), ("delivered", ""), ("running", ""), ("finished", ""), ("recorded", "x")]
        {
            queue.publish(&["x"]);
            let mut command = queue.command(&["work", &guest("echo")]);
            let panicked = run(command.env("WQ_FAULT", format!("{point}:panic")));
            panicked.exits(70).prints(printed).says("a bug in wq-run");
            assert_eq!(queue.take().body, b"x", "{point}");
        }
        // At `closed`, the message is settled and does not come again.
        queue.publish(&["x"]);
        run(queue.command(&["work", &guest("echo")]).env("WQ_FAULT", "closed:panic")).exits(70).prints("x");
    });
    on_rabbitmq(|queue| {
        // In the task that talks to the broker. The original comes again, and the dead letter may be there beside it.
        for point in ["published", "confirmed"] {
            queue.publish(&["x"]);
            let mut command = queue.command(&["work", &guest("reject")]);
            run(command.env("WQ_FAULT", format!("{point}:panic"))).exits(70).says("a bug in wq-run");
            assert_eq!(queue.take().body, b"x", "{point}");
            while queue.dead_depth() > 0 {
                queue.take_dead();
            }
        }
    });
    run(wq_run(&["exec", &guest("echo")]).env("WQ_FAULT", "running:panic")).exits(70).says("a bug in wq-run");
}

#[test]
fn a_worker_killed_while_it_puts_a_message_aside_loses_nothing() {
    on_rabbitmq(|queue| {
        for (point, guest_name) in [("published", "reject"), ("confirmed", "reject"), ("confirmed", "fail")] {
            queue.publish(&["x"]);
            let args = ["work", &guest(guest_name), "--backoff-initial", "10ms", "--backoff-max", "10ms"];
            let killed = run(queue.command(&args).env("WQ_FAULT", format!("{point}:kill")));
            assert_eq!(killed.code, None);
            // The original comes again, and the copy is there beside it, or may be.
            assert_eq!(queue.take().body, b"x");
            match (point, guest_name) {
                (_, "fail") => assert_eq!(queue.take().headers["x-wq-attempt"], "1"),
                ("confirmed", _) => assert_eq!(queue.take_dead().body, b"x"),
                _ => {
                    if queue.dead_depth() > 0 {
                        queue.take_dead();
                    }
                }
            }
        }
    });
}

#[test]
fn a_message_that_kills_its_workers_is_put_aside() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    for broker in [Broker::Quorum(rabbitmq), Broker::Sqlite(tempfile::tempdir().unwrap())] {
        let queue = Queue::new(broker);
        queue.publish(&["poison"]);
        for _ in 0..3 {
            let killed = run(queue.command(&["work", &guest("echo")]).env("WQ_FAULT", "delivered:kill"));
            assert_eq!(killed.code, None);
        }
        let aside = run(&mut queue.command(&["work", &guest("echo")]));
        aside.exits(65).says("\"outcome\":\"abandoned\"").prints("");
        let dead = queue.take_dead();
        assert_eq!((dead.body.as_slice(), dead.headers["x-wq-outcome"].as_str()), (&b"poison"[..], "abandoned"));
    }
}

#[test]
fn an_acknowledgement_timeout_stops_the_guest_and_the_worker_goes_on() {
    // The shortest that RabbitMQ takes; it looks once a minute.
    let Some(rabbitmq) = RabbitMq::start_with("consumer_timeout = 20000") else { return };
    let queue = Queue::new(Broker::Classic(&rabbitmq));
    queue.publish(&["slow"]);
    let mut one_shot = start(&mut queue.command(&["work", &guest("sleep")]));
    one_shot.wait_for("started");
    let mut service = start(&mut queue.command(&["work", &guest("sleep"), "--forever"]));
    queue.publish(&["slow too"]);
    service.wait_for("started");
    one_shot.end_within(3 * PATIENCE).exits(74).says("no longer has the message").prints("");
    // Again, over a new channel: the service took a message up once more.
    service.wait_for_within("started", 3 * PATIENCE);
    service.signal("TERM");
    service.wait_for_all(&["a signal was received", "SIGTERM"]);
    service.signal("TERM");
    service.end();
    let mut back = [queue.take().body, queue.take().body];
    back.sort();
    assert_eq!(back, [b"slow".to_vec(), b"slow too".to_vec()]);
}

#[test]
fn a_message_whose_dead_letter_is_not_confirmed_under_an_alarm_is_given_back() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Classic(&rabbitmq));
    queue.publish(&["bad"]);
    rabbitmq.raise_alarm();
    // Its dead letter is not confirmed as long as the alarm lasts; the message goes back, and is not lost.
    run(&mut queue.command(&["work", &guest("reject")])).exits(74).says("not confirmed within 30s");
    rabbitmq.lift_alarm();
    run(&mut queue.command(&["work", &guest("reject")])).exits(65);
    // What was sent during the alarm may have arrived after it.
    while queue.dead_depth() > 0 {
        assert_eq!(queue.take_dead().body, b"bad");
    }
}

#[test]
fn a_guest_that_nothing_stops_ends_its_process_and_not_its_message() {
    // Its thread is held where neither an epoch nor the clock gets to it, as by one huge instruction.
    on_every_queue(|queue| {
        queue.publish(&["again"]);
        let args = ["work", &guest("echo"), "--timeout", "100ms", "--backoff-initial", "0"];
        let ended = run(queue.command(&args).env("WQ_FAULT", "running:sleep=600"));
        ended.exits(80).says("\"settlement\":\"retry\"").says("could not be stopped");
        queue.wait_for_depth(1);
        let back = queue.take();
        assert_eq!(back.body, b"again");
        if queue.can().retry_headers {
            assert_eq!(back.headers["x-wq-outcome"], "timeout");
        }
    });
}

#[test]
fn a_full_disk_under_the_queue_file_is_an_error_and_no_loss() {
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(folder.path()).status();
    if crate::harness::required(mounted.is_ok_and(|status| status.success()).then_some(()), "can't mount a tmpfs")
        .is_none()
    {
        return;
    }
    let _unmounted = Mounted(folder.path().to_owned());
    let queue = Queue::new(Broker::Sqlite(folder));
    queue.publish(&["kept"]);
    let Broker::Sqlite(folder) = &queue.broker else { unreachable!() };
    let filler = folder.path().join("filler");
    // Fills what is left; that this fails is the point.
    let _ = std::fs::write(&filler, vec![0; 1 << 20]);
    let refused = run(&mut queue.command(&["publish", &"x".repeat(100_000)]));
    refused.exits(74).says("q.db failed");
    std::fs::remove_file(&filler).unwrap();
    run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("kept");
}

/// Unmounts when the test is over, whichever way.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_worker_goes_to_the_next_node_of_a_list() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("amqp://127.0.0.1:{nowhere},{}", queue.url());
    run(queue.command(&["publish", "found"]).env("BROKER_URL", &url)).exits(0);
    run(queue.command(&["work", &guest("echo")]).env("BROKER_URL", &url)).exits(0).prints("found");
}

#[test]
fn the_brokers_own_dead_lettering_is_used_when_it_is_asked_for() {
    use lapin::types::{AMQPValue, FieldTable};
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let name = format!("{}-with-dlx", queue.name);
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(queue.name.as_str().into()));
    crate::harness::queue::on_channel(rabbitmq, async |channel| {
        let options = lapin::options::QueueDeclareOptions::durable();
        channel.queue_declare(name.as_str().into(), options, arguments).await.expect("declared");
    });
    run(queue.command(&["publish", "x"]).env("QUEUE", &name)).exits(0);
    let ended = run(queue.command(&["work", &guest("reject"), "--dead-letter-by", "broker"]).env("QUEUE", &name));
    ended.exits(65).says("\"settlement\":\"reject\"").says("\"dead_lettered\":0,\"rejected\":1");
    assert_eq!(queue.take().body, b"x");
}

#[test]
fn a_system_without_room_for_a_run_costs_no_message_an_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().display().to_string();
    on_every_queue(|queue| {
        queue.publish(&["untouched"]);
        for guest in [guest("environ"), guest("composed")] {
            for isolation in ["thread", "process"] {
                // From "nothing fits" to "one memory fits, and two do not", in KiB.
                for size in ["400000", "2000000", "4400000", "9000000"] {
                    let work = queue.command(&["work", &guest, "--isolation", isolation, "--cache-dir", &cache]);
                    let mut limited = Command::new("sh");
                    limited.args(["-c", r#"ulimit -v "$1"; shift; exec "$@""#, "sh", size]).env_clear();
                    limited.arg(work.get_program()).args(work.get_args()).arg("--max-attempts=1");
                    limited.envs(work.get_envs().filter_map(|(name, value)| Some((name, value?))));
                    let ended = run(&mut limited);
                    assert!(!ended.stderr.contains("dead_lettered\":1"), "{size} {isolation}: {}", ended.stderr);
                    match ended.code {
                        // There was room after all.
                        Some(0) => queue.publish(&["untouched"]),
                        Some(78) => drop(ended.says("ulimit -v")),
                        Some(66 | 74) => {}
                        other => panic!("{size} {isolation}: {other:?} {}", ended.stderr),
                    }
                }
            }
        }
        assert_eq!(queue.take().body, b"untouched");
    });
}
