//! Settlements that the broker holds up, and brokers that leave a request unanswered. A worker waits for neither without a
//! bound, and its end depends on neither.

use std::time::Duration;

use lapin::types::AMQPValue;

use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run, start};

/// Enough for each bound that is tested here, on a machine that has other things to do too.
const IN_TIME: Duration = Duration::from_secs(25);

const CANCEL_OK: (u16, u16) = (60, 31);
const DECLARE_OK: (u16, u16) = (50, 11);

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Raises the memory alarm: a node that takes nothing from those who publish.
fn raise_alarm(rabbitmq: &RabbitMq) {
    rabbitmq.ctl(&["set_vm_memory_high_watermark", "0.0001"]);
}

/// Lifts the alarm, and takes out what is there: the originals, and copies that the node had not taken during the alarm.
fn take_all_after_alarm(rabbitmq: &RabbitMq, queue: &Queue, expected: &[&str]) {
    rabbitmq.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    // Given back side by side, in any order.
    let mut originals: Vec<_> = expected.iter().map(|_| queue.take().body).collect();
    originals.sort();
    assert_eq!(originals, expected.iter().map(|body| body.as_bytes()).collect::<Vec<_>>());
    while let Some(copy) = queue.try_take(&queue.name).or_else(|| queue.try_take(&queue.dead_letter_queue())) {
        assert!(expected.iter().any(|body| body.as_bytes() == copy.body));
    }
}

#[test]
fn settlements_that_an_alarm_holds_up_end_together_within_their_bound() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    for kind in [Broker::Quorum(&rabbitmq), Broker::Classic(&rabbitmq)] {
        let queue = Queue::new(kind);
        queue.publish(&["1", "2"]);
        raise_alarm(&rabbitmq);
        let args = ["work", &guest("reject"), "--drain", "--concurrency", "2", "--publish-timeout", "10s"];
        let ended = start(&mut queue.command(&args)).end_within(IN_TIME);
        ended.exits(74).says("not confirmed within 10s").says("\"unsettled\":2");
        take_all_after_alarm(&rabbitmq, &queue, &["1", "2"]);
    }
}

#[test]
fn a_worker_leaves_in_time_while_an_alarm_holds_up_its_settlements() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    let queue = Queue::new(Broker::Classic(&rabbitmq));
    queue.publish(&["1", "2"]);
    raise_alarm(&rabbitmq);
    let reject = guest("reject");
    let args = ["work", &reject, "--forever", "--publish-timeout", "10m"];
    let mut worker = start(queue.command(&args).args(["--concurrency", "2", "--shutdown-timeout", "1s"]));
    worker.wait_for("takes no messages at the moment");
    worker.signal("TERM");
    worker.end_within(IN_TIME).exits(143).says("\"released\":2");
    // A second signal does not even wait for the end of the grace.
    let mut worker = start(queue.command(&args).args(["--shutdown-timeout", "1h"]));
    worker.wait_for("takes no messages at the moment");
    worker.signal("INT");
    worker.wait_for_all(&["a signal was received", "SIGINT"]);
    worker.signal("INT");
    worker.end_within(IN_TIME).exits(130).says("\"released\":1");
    queue.wait_for_depth(2);
    take_all_after_alarm(&rabbitmq, &queue, &["1", "2"]);
}

#[test]
fn acknowledgements_do_not_wait_for_a_settlement_that_an_alarm_holds_up() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    for kind in [Broker::Quorum(&rabbitmq), Broker::Classic(&rabbitmq)] {
        let queue = Queue::new(kind);
        queue.publish(&["d", "x1 ", "x2 ", "x3 "]);
        raise_alarm(&rabbitmq);
        let args = ["work", &guest("obey"), "--forever", "--concurrency", "2", "--publish-timeout", "10m"];
        let mut worker = start(&mut queue.command(&args));
        for _ in 0..3 {
            worker.wait_for("\"settlement\":\"ack\"");
        }
        worker.signal("TERM");
        worker.wait_for_all(&["a signal was received", "SIGTERM"]);
        worker.signal("TERM");
        worker.end_within(IN_TIME).says("\"acked\":3").says("\"released\":1").prints("x1 x2 x3 ");
        take_all_after_alarm(&rabbitmq, &queue, &["d"]);
    }
}

#[test]
fn a_broker_that_never_answers_a_cancel_does_not_keep_its_worker() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        let proxy = Proxy::start(rabbitmq.port);
        proxy.withhold(&[CANCEL_OK]);
        let url = format!("amqp://guest:guest@127.0.0.1:{}", proxy.port);
        queue.publish(&["again"]);
        let mut one_shot = queue.command(&["work", &guest("echo")]);
        let ended = start(one_shot.env("BROKER_URL", &url)).end_within(IN_TIME);
        ended.exits(74).says("did not answer when it was asked to cancel a consumer");
        // The bound of an answer is longer than this shutdown.
        let mut slow = queue.command(&["work", &guest("sleep"), "--shutdown-timeout", "1s"]);
        let mut worker = start(slow.env("BROKER_URL", &url));
        worker.wait_for("started");
        worker.signal("TERM");
        assert_ne!(worker.end_within(IN_TIME).code, Some(0));
        queue.wait_for_depth(1);
        queue.take();
    });
}

#[test]
fn a_broker_that_takes_no_new_connection_for_a_moment_ends_no_worker() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        let proxy = Proxy::start(rabbitmq.port);
        let url = format!("amqp://guest:guest@127.0.0.1:{}", proxy.port);
        let mut service = queue.command(&["work", &guest("reject"), "--forever"]);
        let mut worker = start(service.env("BROKER_URL", &url).env("RUST_LOG", "wq_run=debug"));
        worker.wait_for("subscribed");
        proxy.refuse(true);
        // Its dead letter needs a connection of its own.
        queue.publish(&["bad"]);
        worker.wait_for("the broker is not available to publish to; trying again");
        proxy.refuse(false);
        worker.wait_for("\"settlement\":\"dead-letter\"");
        worker.signal("TERM");
        worker.end_within(IN_TIME).exits(0);
        assert_eq!(queue.take_dead().body, b"bad");
    });
}

#[test]
fn a_broker_that_never_counts_a_queue_does_not_keep_its_worker() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        let url = |proxy: &Proxy| format!("amqp://guest:guest@127.0.0.1:{}", proxy.port);
        let drain = |proxy: &Proxy, more: &[&str]| {
            let mut drain = queue.command(&["work", &guest("echo"), "--drain", "--wait", "3s"]);
            let mut drain = start(drain.args(more).env("BROKER_URL", url(proxy)).env("RUST_LOG", "wq_run=debug"));
            drain.wait_for("subscribed");
            proxy.withhold(&[DECLARE_OK]);
            drain
        };
        let proxy = Proxy::start(rabbitmq.port);
        let mut leaves = drain(&proxy, &["--shutdown-timeout", "1s"]);
        leaves.wait_for("did not answer when it was asked to count the messages");
        leaves.signal("TERM");
        leaves.end_within(IN_TIME).exits(143);
        let proxy = Proxy::start(rabbitmq.port);
        let gives_up = drain(&proxy, &["--reconnect-timeout", "1s"]);
        gives_up.end_within(2 * IN_TIME).exits(69).says("did not answer when it was asked to look at the queue");
    });
}

#[test]
fn a_missing_right_that_a_settlement_finds_is_77() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        let user = format!("reader-{}", queue.name);
        rabbitmq.ctl(&["add_user", &user, "secret"]);
        rabbitmq.ctl(&["set_permissions", &user, "^$", "^$", ".*"]);
        let url = format!("amqp://{user}:secret@127.0.0.1:{}", rabbitmq.port);
        for guest_name in ["reject", "fail"] {
            queue.publish(&["kept"]);
            let refused = run(queue.command(&["work", &guest(guest_name)]).env("BROKER_URL", &url));
            refused.exits(77).says("refused permission to");
            queue.wait_for_depth(1);
            assert_eq!(queue.take().body, b"kept");
        }
    });
}

#[test]
fn a_stream_is_refused_before_anything_is_taken() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let stream = queue.beside_with("stream", &[("x-queue-type", text("stream"))]);
    for published in [false, true] {
        if published {
            run(queue.command(&["publish", "a", "b"]).env("QUEUE", &stream)).exits(0);
        }
        for mode in ["--drain", "--forever", "--count=1"] {
            let refused = run(queue.command(&["work", &guest("echo"), mode]).env("QUEUE", &stream));
            refused.exits(78).says("is a stream").says("queue declare").prints("");
        }
    }
}

#[test]
fn messages_that_another_consumer_has_to_itself_are_not_waited_for_without_end() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    for kind in ["classic", "quorum"] {
        let queue = Queue::new(Broker::Classic(rabbitmq));
        let arguments = [("x-queue-type", text(kind)), ("x-single-active-consumer", AMQPValue::Boolean(true))];
        let single = queue.beside_with("single", &arguments);
        let command = |args: &[&str]| {
            let mut command = queue.command(args);
            command.env("QUEUE", &single);
            command
        };
        run(&mut command(&["publish", "1", "2", "3"])).exits(0);
        let mut holder = start(&mut command(&["work", &guest("sleep"), "--forever"]));
        holder.wait_for("started");
        let one_shot = |more: &[&str]| run(command(&["work", &guest("echo"), "--wait", "1s"]).args(more));
        one_shot(&[]).exits(0).says("2 messages are ready").says("single active consumer").prints("");
        one_shot(&["--on-empty", "fail"]).exits(79).prints("");
        let drain = run(&mut command(&["work", &guest("echo"), "--drain"]));
        drain.exits(75).says("2 messages are ready").prints("");
        holder.signal("TERM");
        holder.wait_for_all(&["a signal was received", "SIGTERM"]);
        holder.signal("TERM");
        holder.end();
        run(&mut command(&["work", &guest("echo"), "--drain"])).exits(0);
    }
}
