//! Faults: workers that are killed or told to stop, brokers that go away. Nothing is lost, and nothing is called done
//! that is not.

use std::time::Instant;

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{PATIENCE, guest, run, start};

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
        worker.wait_for("SIGINT received");
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
        one_shot.end().exits(74).says("no longer ours").prints("");
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
    service.wait_for("no connection to the broker");
    rabbitmq.restart();
    queue.publish(&["after"]);
    service.wait_for("\"settlement\":\"ack\"");
    service.signal("TERM");
    let run = service.end();
    // An acknowledgement that was sent, and that the broker had not written down when it died, is a duplicate.
    assert!(["before after", "before before after"].contains(&run.exits(0).out().as_str()), "{}", run.out());
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
