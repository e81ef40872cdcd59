//! Retries on their way back: none is lost, and a drain waits for them.

use lapin::types::AMQPValue;

use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run, start};

#[test]
fn a_drain_waits_for_a_retry_that_lies_behind_longer_ones() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    queue.publish(&["1", "2", "3", "4", "5"]);
    let fail = guest("fail");
    let longer = ["work", &fail, "--count", "5", "--concurrency", "5", "--backoff-initial", "28s"];
    run(&mut queue.command(&longer)).exits(75).says("\"retried\":5");
    queue.publish(&["shorter"]);
    // Its pause is between 10 and 20 s, and those of the others are between 14 and 28 s. They once shared a delay queue, in
    // which a message expires only behind the ones before it.
    let shorter = ["work", &fail, "--drain", "--max-attempts", "2", "--backoff-initial", "20100ms"];
    run(&mut queue.command(&shorter)).exits(65).says("\"dead_lettered\":6");
    (0..6).for_each(|_| drop(queue.take_dead()));
}

#[test]
fn a_drain_waits_for_the_retries_of_others() {
    on_every_queue(|queue| {
        queue.publish(&["again"]);
        let backoff = ["--backoff-initial", "3s", "--backoff-max", "3s"];
        run(queue.command(&["work", &guest("fail")]).args(backoff)).exits(75);
        let drain = run(queue.command(&["work", &guest("echo"), "--drain"]).args(backoff));
        drain.exits(0).prints("again");
    });
}

#[test]
fn a_drain_waits_for_a_retry_that_its_full_queue_has_refused() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    // How soon RabbitMQ tries again; in an operator's it is three minutes.
    rabbitmq.ctl(&["eval", "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 12000)."]);
    let queue = Queue::new(Broker::Classic(&rabbitmq));
    let arguments =
        [("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", AMQPValue::LongString("reject-publish".into()))];
    let small = queue.beside_with("small", &arguments);
    let command = |args: &[&str]| {
        let mut command = queue.command(args);
        command.env("QUEUE", &small).env("WQ_DEAD_LETTER_QUEUE", queue.dead_letter_queue());
        command
    };
    let publish = |body: &str| {
        run(&mut command(&["publish", body])).exits(0);
    };
    publish("fails");
    let mut drain =
        start(&mut command(&["work", &guest("obey-slowly"), "--drain", "--wait", "3s", "--max-attempts", "2"]));
    drain.wait_for("\"settlement\":\"retry\"");
    publish("1");
    drain.wait_for("started");
    // Ready, until the first one is done: the queue is full when the pause of the retry is over.
    publish("2");
    drain.wait_for("waiting for retries that are not back yet");
    drain.end().exits(65).says("\"acked\":2,\"retried\":1,\"dead_lettered\":1").prints("12");
    assert_eq!(queue.take_dead().body, b"fails");
}

#[test]
fn no_queue_in_which_a_retry_waits_is_ever_deleted_with_it() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { unreachable!() };
        queue.publish(&["kept"]);
        run(&mut queue.command(&["work", &guest("fail")])).exits(75);
        let queues = rabbitmq.ctl(&["list_queues", "--quiet", "name", "arguments", "durable", "auto_delete"]);
        let delay = queues.lines().find(|line| line.starts_with(&format!("{}.delay.1s\t", queue.name)));
        let delay = delay.unwrap_or_else(|| panic!("there is no delay queue:\n{queues}"));
        assert!(delay.contains("x-dead-letter-strategy") && delay.ends_with("\ttrue\tfalse"), "{delay}");
        assert!(!delay.contains("x-expires"), "{delay}");
        assert_eq!(queue.take().body, b"kept");
    });
}

#[test]
fn a_delay_queue_that_somebody_made_otherwise_is_passed_over_and_the_pause_is_kept() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(_) | Broker::Classic(_)) = &queue.broker else { unreachable!() };
        // What expires here is lost.
        let foreign = queue.beside_with("delay.1s", &[]);
        queue.publish(&["kept"]);
        run(&mut queue.command(&["work", &guest("fail")])).exits(75);
        assert_eq!(queue.depth_of(&foreign), 0);
        assert_eq!(queue.take().headers["x-wq-attempt"], "1");
        assert_eq!(queue.depth_of(&format!("{}.delay.2s", queue.name)), 0);
    });
}
