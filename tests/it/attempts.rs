//! What counts as an attempt, and what a message carries from one to the next.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run};

const FAST: [&str; 4] = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];

fn with_headers(headers: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(name.into(), value);
    }
    BasicProperties::default().with_delivery_mode(2).with_headers(table)
}

#[test]
fn a_count_that_a_client_copied_is_not_believed() {
    on_rabbitmq(|queue| {
        queue.publish_with(with_headers([("x-delivery-count", AMQPValue::LongLongInt(5))]), b"first");
        let work = run(&mut queue.command(&["work", &guest("echo"), "--max-attempts", "3"]));
        work.exits(0).prints("first").says("\"attempt\":1");
    });
}

#[test]
fn an_exit_code_is_that_of_the_last_run_or_of_none() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        run(queue.command(&["work", &guest("fail")]).args(FAST)).exits(75);
        let args = ["work", &guest("spin"), "--timeout", "100ms", "--max-attempts", "2", "--wait", "30s"];
        run(queue.command(&args).args(FAST)).exits(65);
        let dead = queue.take_dead();
        assert_eq!((&*dead.headers["x-wq-outcome"], &*dead.headers["x-wq-attempt"]), ("timeout", "2"));
        assert_eq!(dead.headers.get("x-wq-exit-code"), None);
    });
}

#[test]
fn a_dead_letter_that_is_moved_back_gets_all_of_its_attempts_again() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        let args = ["work", &guest("fail"), "--max-attempts", "2", "--drain"];
        for _ in 0..2 {
            let ended = run(queue.command(&args).args(FAST));
            ended.exits(65).says("\"retried\":1").says("\"dead_lettered\":1");
            queue.move_back();
        }
        run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("x").says("\"attempt\":1");
    });
}

#[test]
fn a_message_that_the_broker_dead_lettered_gets_all_of_its_attempts_again() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    // Its name comes from the queue's, and no test takes the queue of another's.
    let name = format!("{}-to-dead", queue.name);
    let dead = format!("{name}.dead");
    on_channel(rabbitmq, async |channel| {
        let options = lapin::options::QueueDeclareOptions::durable();
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(dead.as_str().into()));
        channel.queue_declare(name.as_str().into(), options, arguments).await.expect("declared");
        channel.queue_declare(dead.as_str().into(), options, FieldTable::default()).await.expect("declared");
    });
    let queue = Queue { name, broker: Broker::Classic(rabbitmq) };
    queue.publish(&["x"]);
    let args = ["work", &guest("fail"), "--max-attempts", "3", "--drain", "--dead-letter-by", "broker"];
    for _ in 0..2 {
        run(queue.command(&args).args(FAST)).exits(65).says("\"retried\":2");
        queue.move_back();
    }
    run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("x").says("\"attempt\":1");
}

#[test]
fn a_retry_of_an_earlier_version_goes_on_where_it_was() {
    on_rabbitmq(|queue| {
        // It wrote the number of the next run.
        let of = AMQPValue::LongString(queue.name.as_str().into());
        queue.publish_with(with_headers([("x-wq-attempt", AMQPValue::LongUInt(2)), ("x-wq-queue", of)]), b"x");
        run(&mut queue.command(&["work", &guest("fail"), "--max-attempts", "2"])).exits(65).says("\"attempt\":2");
        assert_eq!(queue.take_dead().headers["x-wq-attempt"], "2");
    });
}

/// Headers of about this many bytes.
fn large_headers(size: usize) -> BasicProperties {
    with_headers([("large", AMQPValue::LongString("x".repeat(size).into()))])
}

#[test]
fn a_message_whose_headers_leave_no_room_for_those_of_a_retry_is_put_aside() {
    on_rabbitmq(|queue| {
        // Just below `frame_max`, which is 131,072 bytes unless it is set.
        queue.publish_with(large_headers(130_990), b"large");
        queue.publish(&["behind"]);
        let ended = run(queue.command(&["work", &guest("fail"), "--drain", "--max-attempts", "2"]).args(FAST));
        ended.exits(65).says("no room for a retry").says("the dead letter has none");
        ended.says("\"retried\":1").says("\"dead_lettered\":2");
        let mut dead = [queue.take_dead(), queue.take_dead()];
        dead.sort_by_key(|dead| dead.body.len());
        assert_eq!((dead[0].body.as_slice(), dead[0].headers["large"].len()), (&b"large"[..], 130_990));
        assert_eq!(dead[0].headers.get("x-wq-outcome"), None);
        assert_eq!((dead[1].body.as_slice(), &*dead[1].headers["x-wq-attempt"]), (&b"behind"[..], "2"));
    });
}

#[test]
fn a_message_with_large_headers_is_tried_again_with_what_fits_beside_them() {
    on_rabbitmq(|queue| {
        // From no room for all, byte by byte almost, to room for everything: each is retried twice, or put aside.
        for spare in (0..2_400).step_by(150) {
            queue.publish_with(large_headers(131_000 - spare), b"large");
        }
        let ended = run(queue.command(&["work", &guest("fail"), "--drain", "--max-attempts", "3"]).args(FAST));
        ended.exits(65).says("\"dead_lettered\":16").says("\"unsettled\":0");
        let dead: Vec<_> = (0..16).map(|_| queue.take_dead()).collect();
        let whole = dead.iter().filter(|dead| dead.headers.get("x-wq-attempt").is_some_and(|attempt| attempt == "3"));
        assert!((4..16).contains(&whole.count()));
        assert!(dead.iter().all(|dead| dead.headers["large"].len() > 128_000));
    });
}
