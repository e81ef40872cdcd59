//! A network that fails: cut at any byte, or silent. What was acknowledged was delivered, and what was not comes again.

use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{eventually, guest, run, start};

fn through(proxy: &Proxy, parameters: &str) -> String {
    format!("amqp://guest:guest@127.0.0.1:{}{parameters}", proxy.port)
}

#[test]
fn a_connection_cut_after_any_byte_loses_nothing_and_is_no_false_success() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let proxy = Proxy::start(rabbitmq.port);
    let url = through(&proxy, "");
    // It does not try again: every run is one connection.
    let args = ["work", &guest("echo"), "--connect-timeout", "0", "--reconnect-timeout", "0"];
    let work = || run(queue.command(&args).env("BROKER_URL", &url));

    queue.publish(&["whole"]);
    work().exits(0).prints("whole");
    let whole = proxy.relayed();
    let (mut successes, mut failures) = (0, 0);
    // A prime, so that the cuts fall everywhere into the frames.
    for bytes in (0..=whole + 64).step_by(23) {
        queue.publish(&["cut"]);
        proxy.cut_after(bytes);
        let cut = work();
        // The broker gives the message back when it sees the end of the connection.
        let left = if cut.code == Some(0) { 0 } else { queue.depth() };
        match cut.code {
            // Called done: then it is written and gone.
            Some(0) => {
                successes += 1;
                assert_eq!((cut.out().as_str(), queue.depth()), ("cut", 0), "cut after {bytes} of {whole} bytes");
            }
            // Not called done: then it is there, or its result is.
            Some(69 | 74) => {
                failures += 1;
                if left == 0 && cut.out() != "cut" {
                    queue.wait_for_depth(1);
                }
            }
            _ => {
                cut.exits(74);
            }
        }
        proxy.cut_after(u64::MAX);
        // A broker that is about to give a message back does so while it closes the connection.
        let url = queue.url();
        run(queue.command(&["work", &guest("echo"), "--drain", "--wait", "100ms"]).env("BROKER_URL", url)).exits(0);
    }
    assert!(successes > 0 && failures > 10, "{successes} whole and {failures} cut sessions of {whole} bytes");
}

#[test]
fn a_silent_network_is_noticed_by_heartbeats_while_the_guest_computes() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    for name in ["spin", "sleep"] {
        let queue = Queue::new(Broker::Quorum(rabbitmq));
        let proxy = Proxy::start(rabbitmq.port);
        queue.publish(&["survivor"]);
        let url = through(&proxy, "?heartbeat=1");
        let mut worker = start(queue.command(&["work", &guest(name)]).env("BROKER_URL", url));
        worker.wait_for("started");
        proxy.go_silent();
        worker.end().exits(74).says("no longer has the message").prints("");
        run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("survivor");
    }
}

#[test]
fn a_guest_that_computes_does_not_keep_heartbeats_from_being_sent() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    queue.publish(&["long"]);
    let url = format!("{}?heartbeat=1", queue.url());
    // Many heartbeats long; the broker would close a silent connection after two or three.
    let args = ["work", &guest("spin"), "--timeout", "8s", "--max-attempts", "1"];
    run(queue.command(&args).env("BROKER_URL", url)).exits(65).says("\"outcome\":\"timeout\"");
    assert_eq!(queue.take_dead().headers["x-wq-outcome"], "timeout");
}

#[test]
fn a_confirm_that_never_comes_is_no_confirm() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let proxy = Proxy::start(rabbitmq.port);
    queue.publish(&["precious"]);
    // The dead letter is published, and then the network is gone: nobody knows whether it arrived.
    let mut worker = start(
        queue
            .command(&["work", &guest("reject")])
            .env("BROKER_URL", through(&proxy, "?heartbeat=2"))
            .env("WQ_FAULT", "published:sleep=0.5"),
    );
    worker.wait_for("exit code is: 3");
    proxy.go_silent();
    worker.end().exits(74);
    let again = queue.take();
    assert_eq!(again.body, b"precious");
    // The copy may be there too: at least once.
    while queue.dead_depth() > 0 {
        assert_eq!(queue.take_dead().body, b"precious");
    }
}

#[test]
fn a_worker_that_was_frozen_settles_nothing_with_an_old_tag() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    queue.publish(&["thawed"]);
    let url = format!("{}?heartbeat=1", queue.url());
    let mut frozen = start(queue.command(&["work", &guest("nap")]).env("BROKER_URL", &url));
    frozen.wait_for("started");
    frozen.signal("STOP");
    // The broker closes the silent connection, and the message is another worker's.
    run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("thawed");
    frozen.signal("CONT");
    frozen.end().exits(74);
}

#[test]
fn a_count_goes_on_after_a_connection_on_which_all_was_settled() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    queue.publish(&["before"]);
    let proxy = Proxy::start(rabbitmq.port);
    let mut work = queue.command(&["work", &guest("echo"), "--count", "2"]);
    let mut worker = start(work.env("BROKER_URL", through(&proxy, "")));
    worker.wait_for("\"settlement\":\"ack\"");
    eventually("the broker has processed the acknowledgement", || {
        let books = rabbitmq.ctl(&["list_queues", "--quiet", "name", "messages"]);
        books.lines().any(|line| line == format!("{}\t0", queue.name)).then_some(())
    });
    proxy.cut();
    worker.wait_for("connected again");
    queue.publish(&["after"]);
    assert_eq!(worker.end().exits(0).out(), "beforeafter");
}

#[test]
fn a_connection_that_is_always_lost_at_once_is_made_again_ever_more_slowly() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    // A quorum queue would put the message aside after the third time.
    let queue = Queue::new(Broker::Classic(rabbitmq));
    queue.publish(&[&"x".repeat(100_000)]);
    let proxy = Proxy::start(rabbitmq.port);
    // More than it takes to subscribe, and less than the message.
    proxy.cut_each_after(50_000);
    let mut work = queue.command(&["work", &guest("echo"), "--forever"]);
    let mut worker = start(work.env("BROKER_URL", through(&proxy, "")));
    let is_slow = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        line["pause_ms"].as_u64() >= Some(1000)
    };
    loop {
        worker.wait_for("the broker is not available; trying again");
        if worker.seen().lines().last().is_some_and(is_slow) {
            break;
        }
    }
    proxy.cut_each_after(u64::MAX);
    worker.wait_for("\"settlement\":\"ack\"");
    worker.signal("TERM");
    assert_eq!(worker.end().exits(0).out().len(), 100_000);
}
