//! What a command takes out of a queue: it goes back when it is dropped, and can be published again as it is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use tokio::runtime::Runtime;
use wq_run::broker::admin::{Admin, Changes, Got};
use wq_run::broker::{Error, Url};

use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue_by_library, on_rabbitmq};
use crate::harness::{eventually, guest, run, within};

/// A command's side of a broker. Its runtime goes on while a test looks at the queue.
struct Desk {
    admin: Box<dyn Admin>,
    runtime: Runtime,
}

impl Desk {
    fn new(queue: &Queue) -> Desk {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Desk { admin: queue.url().parse::<Url>().unwrap().admin(), runtime }
    }

    fn take(&mut self, queue: &str, most: usize) -> Vec<Got> {
        self.runtime.block_on(self.admin.take(queue, most)).unwrap()
    }

    fn take_one(&mut self, queue: &str) -> Got {
        let [got] = self.take(queue, 1).try_into().expect("a message is there");
        got
    }

    fn publish_again(&self, got: &Got, queue: &str, changes: Changes) -> Result<(), Error> {
        self.runtime.block_on(got.publish_again(queue, changes))
    }

    fn forget(&self, got: Got) {
        self.runtime.block_on(got.forget()).unwrap();
    }

    fn close(self) {
        self.runtime.block_on(self.admin.close()).unwrap();
    }
}

/// A quorum queue puts it on each message that it hands over.
const COUNTED_BY_THE_BROKER: &str = "x-delivery-count";

/// Shorter than a lease on SQS, which is 15 s in these tests: a message that is ready by then was given back.
const BEFORE_A_LEASE_ENDS: Duration = Duration::from_secs(10);

/// Asserts how many messages are ready. The embedded queue knows at once, and a server takes a moment.
fn has(queue: &Queue, depth: u64) {
    match queue.broker {
        Broker::Sqlite(_) => assert_eq!(queue.depth(), depth),
        _ => within(BEFORE_A_LEASE_ENDS, "so many are ready", || (queue.depth() == depth).then_some(())),
    }
}

#[test]
fn what_is_dropped_goes_back_and_what_is_forgotten_does_not() {
    on_every_queue_by_library(|queue| {
        queue.publish(&["a", "b", "c", "d"]);
        let mut desk = Desk::new(queue);
        let mut taken = desk.take(&queue.name, 3);
        assert_eq!(taken.iter().map(|got| &got.message.body[..]).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        has(queue, 1);
        desk.forget(taken.remove(1));
        // The connection stands, so what comes back was given back.
        drop(taken.pop());
        has(queue, 2);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _taken = taken;
            panic!("as a bug would");
        }));
        assert!(panicked.is_err());
        has(queue, 3);
        desk.close();
        let mut bodies: Vec<Vec<u8>> = (0..3).map(|_| queue.take().body).collect();
        bodies.sort();
        assert_eq!(bodies, [b"a", b"c", b"d"]);
    });
}

#[test]
fn what_is_taken_goes_back_when_its_command_ends_without_a_word() {
    on_every_queue_by_library(|queue| {
        queue.publish(&["a", "b"]);
        let mut desk = Desk::new(queue);
        let taken = desk.take(&queue.name, usize::MAX);
        assert_eq!(taken.len(), 2);
        assert!(desk.take(&queue.name, 1).is_empty());
        drop(desk);
        drop(taken);
        // Where nothing is left that could give them back, their leases end.
        queue.wait_for_depth(2);
        run(&mut queue.command(&["queue", "purge"])).exits(0);
    });
}

#[test]
fn the_lease_of_a_message_that_a_command_took_is_renewed() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    queue.publish(&["a"]);
    let mut desk = Desk::new(&queue);
    let got = desk.take_one(&queue.name);
    let lease_until = || -> i64 {
        queue.sql().query_row("SELECT lease_until FROM message", [], |row| row.get(0)).expect("it is leased")
    };
    let first = lease_until();
    eventually("the lease is renewed", || (lease_until() > first).then_some(()));
    desk.forget(got);
    desk.close();
}

#[test]
fn a_dead_letter_can_be_moved_back_and_has_all_of_its_attempts_again() {
    on_every_queue_by_library(|queue| {
        let dead = queue.dead_letter_queue();
        queue.publish_as("m1", "a");
        run(&mut queue.command(&["work", &guest("fail"), "--max-attempts", "1"])).exits(65);
        let mut desk = Desk::new(queue);
        let got = desk.take_one(&dead);
        assert!(got.message.headers.contains_key("x-wq-error"));
        // As often as one likes: the message itself stays where it is.
        desk.publish_again(&got, &queue.name, Changes::WITHOUT_FAILURE).unwrap();
        desk.publish_again(&got, &queue.name, Changes::default()).unwrap();
        let missing = desk.publish_again(&got, "no-such-queue", Changes::default()).unwrap_err();
        assert!(matches!(missing, Error::MissingQueue { .. }), "{missing}");
        desk.forget(got);
        desk.close();
        assert_eq!(queue.dead_depth(), 0);
        let told = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        assert!(told.contains("WQ_MESSAGE_ID=m1") && told.contains("WQ_ATTEMPT=1"), "{told}");
        assert_eq!(queue.take().headers["x-wq-attempt"], "1");
    });
}

#[test]
fn a_copy_has_none_of_the_headers_that_it_is_to_be_without() {
    on_every_queue_by_library(|queue| {
        let dead = queue.dead_letter_queue();
        queue.publish(&["a"]);
        run(&mut queue.command(&["work", &guest("reject")])).exits(65);
        let mut desk = Desk::new(queue);
        let got = desk.take_one(&dead);
        desk.publish_again(&got, &queue.name, Changes::WITHOUT_FAILURE).unwrap();
        desk.forget(got);
        desk.close();
        let copy = queue.take();
        assert!(copy.headers.keys().all(|name| name == COUNTED_BY_THE_BROKER), "{copy:?}");
        assert_eq!(copy.body, b"a");
    });
}

/// Each property, and a header of each type.
fn everything() -> BasicProperties {
    let table = |entries: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert((*name).into(), value.clone());
        }
        table
    };
    let headers = table(&[
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("i16", AMQPValue::ShortInt(-16)),
        ("i32", AMQPValue::LongInt(-32)),
        ("u32", AMQPValue::LongUInt(32)),
        ("i64", AMQPValue::LongLongInt(-64)),
        ("double", AMQPValue::Double(0.5)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("text", AMQPValue::LongString("ä".into())),
        ("bytes", AMQPValue::ByteArray(vec![0, 159, 255].into())),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("array", AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::LongInt(1)].into())),
        ("table", AMQPValue::FieldTable(table(&[("deep", AMQPValue::Boolean(false))]))),
        ("void", AMQPValue::Void),
    ]);
    BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("identity".into())
        .with_headers(headers)
        .with_delivery_mode(1)
        .with_priority(7)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("3600000".into())
        .with_message_id("m".into())
        .with_timestamp(1_600_000_000)
        .with_type("t".into())
        .with_user_id("guest".into())
        .with_app_id("a".into())
}

#[test]
fn a_copy_keeps_every_property_and_the_type_of_every_header() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { panic!("for AMQP") };
        let copies = queue.beside("copies");
        queue.publish_with(everything(), b"\0\xff");
        let mut desk = Desk::new(queue);
        let got = desk.take_one(&queue.name);
        desk.publish_again(&got, &copies, Changes::default()).unwrap();
        desk.forget(got);
        desk.close();
        let copy = on_channel(rabbitmq, async |channel| {
            let got = channel.basic_get(copies.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
            got.delivery.ack(BasicAckOptions::default()).await.unwrap();
            got.delivery
        });
        let mut expected = everything();
        if let Broker::Quorum(_) = queue.broker {
            let mut headers = expected.headers().clone().unwrap();
            headers.insert(COUNTED_BY_THE_BROKER.into(), AMQPValue::LongLongInt(0));
            expected = expected.with_headers(headers);
        }
        assert_eq!((copy.properties, copy.data), (expected, b"\0\xff".to_vec()));
    });
}

#[test]
fn a_copy_of_a_message_that_cannot_be_read_is_the_same_to_the_byte() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let copies = queue.beside("copies");
    for (properties, headers) in
        [("{\"priority\": \"high\"}", "no JSON"), ("[", "{\"x-wq-error\": 1}"), ("{\"new\": 1}", "{}")]
    {
        queue.publish(&["a"]);
        let spoil = "UPDATE message SET properties = ?1, headers = ?2";
        assert_eq!(queue.sql().execute(spoil, [properties, headers]).unwrap(), 1);
        let mut desk = Desk::new(&queue);
        let got = desk.take_one(&queue.name);
        desk.publish_again(&got, &copies, Changes::default()).unwrap();
        desk.forget(got);
        desk.close();
        let row = |row: &rusqlite::Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let all = "SELECT queue, properties, headers, bytes FROM message JOIN body ON body.message = message.id";
        let copy: (String, String, String, Vec<u8>) = queue.sql().query_row(all, [], row).unwrap();
        assert_eq!(copy, (copies.clone(), properties.to_owned(), headers.to_owned(), b"a".to_vec()));
        run(&mut queue.command(&["queue", "purge", "-q", &copies])).exits(0);
    }
}
