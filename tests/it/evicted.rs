//! Messages that were given back. A message that a worker hands back, however often, is no nearer to its death.

use lapin::types::{AMQPValue, FieldTable};

use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue, on_rabbitmq};
use crate::harness::{guest, run, start};

/// A worker that runs a message and is told to leave before it can finish it.
fn evict(queue: &Queue, more: &[&str]) {
    let args = ["work", &guest("sleep"), "--forever", "--shutdown-timeout", "100ms", "--max-attempts", "2"];
    let mut worker = start(queue.command(&args).args(more));
    worker.wait_for("started");
    worker.signal("TERM");
    worker.end().exits(143).says("\"settlement\":\"release\"");
}

/// A worker that dies with a message.
fn kill(queue: &Queue) {
    let mut worker = start(&mut queue.command(&["work", &guest("sleep")]));
    worker.wait_for("started");
    worker.signal("KILL");
    worker.end();
}

#[test]
fn a_message_that_is_given_back_five_times_is_at_its_first_attempt() {
    on_every_queue(|queue| {
        if !queue.can().release_uncounted {
            return;
        }
        queue.publish(&["long"]);
        for _ in 0..5 {
            evict(queue, &[]);
        }
        let done = run(&mut queue.command(&["work", &guest("echo"), "--wait", "30s", "--max-attempts", "2"]));
        done.exits(0).prints("long").says("\"attempt\":1");
    });
}

#[test]
fn messages_at_hand_that_were_never_run_go_back_as_they_came() {
    on_every_queue(|queue| {
        if !queue.can().release_uncounted {
            return;
        }
        let bodies: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        queue.publish(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in 0..5 {
            evict(queue, &["--prefetch", "9"]);
        }
        queue.wait_for_depth(12);
        let done = run(&mut queue.command(&["work", &guest("line"), "--drain", "--max-attempts", "2"]));
        assert_eq!(done.exits(0).out().lines().count(), 12);
        assert!(!done.stderr.contains("\"attempt\":2"), "{}", done.stderr);
    });
}

#[test]
fn a_message_that_is_given_back_keeps_the_attempts_that_it_had() {
    on_rabbitmq(|queue| {
        // One run that failed, and on a quorum queue one that nobody knows the end of.
        queue.publish(&["x"]);
        run(&mut queue.command(&["work", &guest("fail"), "--backoff-initial", "10ms"])).exits(75);
        queue.wait_for_depth(1);
        kill(queue);
        queue.wait_for_depth(1);
        let attempt = if let Broker::Quorum(_) = queue.broker { 3 } else { 2 };
        for _ in 0..3 {
            let args = ["work", &guest("sleep"), "--shutdown-timeout", "100ms", "--max-attempts", "9"];
            let mut worker = start(&mut queue.command(&args));
            worker.wait_for("started");
            worker.signal("TERM");
            worker.end().exits(143).says(&format!("\"attempt\":{attempt}"));
        }
        let done = run(&mut queue.command(&["work", &guest("echo"), "--max-attempts", "9"]));
        done.exits(0).prints("x").says(&format!("\"attempt\":{attempt}"));
    });
}

#[test]
fn a_message_that_kills_its_workers_dies_however_often_it_is_given_back_in_between() {
    let Some(rabbitmq) = crate::harness::rabbitmq::RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    queue.publish(&["poison"]);
    for _ in 0..3 {
        kill(&queue);
        queue.wait_for_depth(1);
        // A worker that gives the message back.
        let args = ["work", &guest("release"), "--max-attempts", "9", "--backoff-initial", "10ms"];
        run(&mut queue.command(&args)).exits(75);
        queue.wait_for_depth(1);
    }
    run(&mut queue.command(&["work", &guest("echo"), "--max-attempts", "3"])).exits(65).prints("");
    let dead = queue.take_dead();
    assert_eq!((dead.body.as_slice(), &*dead.headers["x-wq-outcome"]), (&b"poison"[..], "abandoned"));
    assert!(dead.headers["x-wq-error"].contains("delivered 3 times"), "{dead:?}");
    assert!(!dead.headers.contains_key("x-wq-unfinished"), "it begins anew if it is moved back: {dead:?}");
}

#[test]
fn the_brokers_own_limit_on_deliveries_is_not_reached_by_messages_that_are_given_back() {
    let Some(rabbitmq) = crate::harness::rabbitmq::RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    let limited = format!("{}-limited", queue.name);
    on_channel(rabbitmq, async |channel| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(2));
        let options = lapin::options::QueueDeclareOptions::durable();
        channel.queue_declare(limited.as_str().into(), options, arguments).await.expect("declared");
    });
    let queue = Queue { name: limited, broker: Broker::Quorum(rabbitmq) };
    queue.publish(&["long"]);
    for _ in 0..5 {
        evict(&queue, &[]);
    }
    run(&mut queue.command(&["work", &guest("echo"), "--wait", "10s", "--on-empty", "fail"])).exits(0).prints("long");
}

#[test]
fn a_message_that_nobody_can_publish_again_goes_back_as_it_is() {
    let Some(rabbitmq) = crate::harness::rabbitmq::RabbitMq::start() else { return };
    for kind in [Broker::Quorum(&rabbitmq), Broker::Classic(&rabbitmq)] {
        let queue = Queue::new(kind);
        queue.publish(&["long"]);
        let args = ["work", &guest("sleep"), "--shutdown-timeout", "100ms"];
        let mut worker = start(&mut queue.command(&args));
        worker.wait_for("started");
        // The broker takes no messages from now on.
        rabbitmq.raise_alarm();
        worker.signal("TERM");
        worker.end().exits(143).says("\"settlement\":\"release\"");
        rabbitmq.lift_alarm();
        assert_eq!(queue.take().body, b"long");
        // What the broker had read, and took when the alarm was over.
        while queue.try_take(&queue.name).is_some() {}
    }
}
