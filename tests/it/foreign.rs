//! Messages of strangers: whatever a broker hands on is run or put aside, and those behind it are done.

use crate::harness::queue::{Broker, Queue, on_channel, on_rabbitmq};
use crate::harness::wire::{Raw, Wire, long};
use crate::harness::{guest, run};

fn port(queue: &Queue) -> u16 {
    let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { panic!("for AMQP") };
    rabbitmq.port
}

/// Tables within each other, as the entries of the outermost.
fn nested(depth: usize, kind: u8) -> Vec<u8> {
    let mut entries = vec![];
    for _ in 1..depth {
        let name: &[u8] = if kind == b'F' { b"\x01k" } else { b"" };
        entries = [name, &[kind], &long(&entries)].concat();
    }
    if kind == b'A' { [b"\x01k".as_slice(), &entries].concat() } else { entries }
}

/// What a publisher can send and lapin can't read.
fn foreign() -> Vec<(&'static str, Raw)> {
    // What a frame of 128 KiB holds: its head, the fixed fields and the delivery mode take 40 bytes, each level 7 or 5.
    const ROOM: usize = 131_072 - 40;
    let deepest = nested(ROOM / 7, b'F');
    assert!(deepest.len() <= ROOM);
    vec![
        ("a content type in Latin-1", Raw::content_type(b"text/plain; charset=caf\xe9").message_id(b"m1")),
        ("a header's name in Latin-1", Raw::headers(b"\x04caf\xe9S\0\0\0\x01x")),
        ("a message id in Latin-1", Raw::persistent().message_id(b"caf\xe9")),
        ("tables 3,000 deep", Raw::headers(&nested(3_000, b'F'))),
        ("arrays 3,000 deep", Raw::headers(&nested(3_000, b'A'))),
        ("tables as deep as a frame holds", Raw::headers(&deepest)),
        ("arrays as deep as a frame holds", Raw::headers(&nested(ROOM / 5 - 1, b'A'))),
    ]
}

#[test]
fn a_message_that_lapin_cannot_read_is_run_and_those_behind_it_too() {
    on_rabbitmq(|queue| {
        let mut wire = Wire::connect(port(queue));
        for (what, properties) in foreign() {
            wire.publish(b"", queue.name.as_bytes(), &properties, b"foreign\n").unwrap();
            queue.publish(&["behind\n"]);
            let ended = run(&mut queue.command(&["work", &guest("echo"), "--drain"]));
            assert_eq!((ended.code, ended.out().as_str()), (Some(0), "foreign\nbehind\n"), "{what}: {}", ended.stderr);
            assert_eq!(ended.stderr.matches("the properties of a message hold").count(), 1, "{what}: {}", ended.stderr);
        }
    });
}

#[test]
fn a_message_that_lapin_cannot_read_is_tried_again_and_put_aside() {
    on_rabbitmq(|queue| {
        let mut wire = Wire::connect(port(queue));
        let small = |(_, properties): &(&str, Raw)| properties.size() < 100_000;
        let foreign: Vec<_> = foreign().into_iter().filter(small).collect();
        for (_, properties) in &foreign {
            wire.publish(b"", queue.name.as_bytes(), properties, b"foreign").unwrap();
        }
        let args =
            ["work", &guest("fail"), "--drain", "--wait", "5s", "--max-attempts", "2", "--backoff-initial", "10ms"];
        let ended = run(&mut queue.command(&args));
        ended.exits(65).says("\"retried\":5").says("\"dead_lettered\":5");
        for _ in foreign {
            let dead = queue.take_dead();
            assert_eq!((dead.body.as_slice(), dead.headers["x-wq-attempt"].as_str()), (b"foreign".as_slice(), "2"));
        }
    });
}

#[test]
fn a_routing_key_that_is_not_text_is_no_obstacle() {
    on_rabbitmq(|queue| {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &queue.broker else { return };
        let exchange = format!("{}.topic.{}", queue.name, port(queue));
        on_channel(rabbitmq, async |channel| {
            let (kind, options) = (lapin::ExchangeKind::Topic, lapin::options::ExchangeDeclareOptions::default());
            channel.exchange_declare(exchange.as_str().into(), kind, options, Default::default()).await.unwrap();
        });
        let mut wire = Wire::connect(port(queue));
        wire.bind(&queue.name, &exchange, b"#");
        for body in ["one", "two"] {
            wire.publish(exchange.as_bytes(), b"caf\xe9", &Raw::persistent(), body.as_bytes()).unwrap();
        }
        let ended = run(&mut queue.command(&["work", &guest("echo"), "--metadata"]));
        ended.exits(0).prints("one").says("not UTF-8");
        let ended = run(&mut queue.command(&["queue", "get", "--json"]));
        ended.exits(0).says("not UTF-8");
        assert!(ended.out().contains("\"routing_key\":\"caf?\""), "{}", ended.out());
    });
}

/// What RabbitMQ refuses can't come; what it takes is run.
#[test]
fn a_field_of_any_type_that_the_broker_takes_is_run() {
    on_rabbitmq(|queue| {
        let mut taken = 0;
        for kind in 0..=u8::MAX {
            let length = match kind {
                b't' | b'b' | b'B' => 1,
                b's' | b'u' | b'U' => 2,
                b'D' => 5,
                b'l' | b'L' | b'd' | b'T' => 8,
                b'V' => 0,
                _ => 4,
            };
            let entries = [b"\x01k", &[kind][..], &[0; 8][..length]].concat();
            // What it refuses ends the connection.
            let mut wire = Wire::connect(port(queue));
            taken += usize::from(wire.publish(b"", queue.name.as_bytes(), &Raw::headers(&entries), b"x").is_ok());
        }
        assert!(taken > 10, "{taken}");
        run(&mut queue.command(&["work", &guest("echo"), "--drain"])).exits(0).prints(&"x".repeat(taken));
    });
}
