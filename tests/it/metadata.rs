//! What a guest is told of its message, and in which form it gets it.

use std::io::Write as _;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::harness::queue::{on_every_queue, on_rabbitmq};
use crate::harness::{guest, run};

fn properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString("00-abc-def-01".into()));
    headers.insert("tracestate".into(), AMQPValue::LongString("a=b".into()));
    headers.insert("pages".into(), AMQPValue::LongUInt(7));
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_content_type("text/plain".into())
        .with_content_encoding("utf-8".into())
        .with_type("fruit".into())
        .with_priority(4)
        .with_timestamp(1_700_000_000)
        .with_expiration("3600000".into())
        .with_user_id("guest".into())
        .with_app_id("tests".into())
        .with_headers(headers)
}

#[test]
fn the_environment_is_whole() {
    on_rabbitmq(|queue| {
        queue.publish_with(properties(), b"x");
        let told = run(queue.command(&["work", &guest("environ")]).env("JOB_COMPLETION_INDEX", "3")).exits(0).out();
        let mut told: Vec<&str> = told.split_terminator('\0').collect();
        // What is left is its argv.
        assert_eq!(told.pop(), Some("environ"));
        told.sort_unstable();
        let in_queue = format!("WQ_QUEUE={}", queue.name);
        let by_key = format!("WQ_ROUTING_KEY={}", queue.name);
        let mut expected = vec![
            "JOB_COMPLETION_INDEX=3",
            "TRACEPARENT=00-abc-def-01",
            "TRACESTATE=a=b",
            "WQ_APP_ID=tests",
            "WQ_ATTEMPT=1",
            "WQ_CONTENT_ENCODING=utf-8",
            "WQ_CONTENT_TYPE=text/plain",
            "WQ_CORRELATION_ID=c-1",
            "WQ_EXCHANGE=",
            "WQ_MAX_ATTEMPTS=3",
            "WQ_MESSAGE_ID=m-1",
            "WQ_PRIORITY=4",
            &in_queue,
            "WQ_REDELIVERED=false",
            "WQ_REPLY_TO=answers",
            &by_key,
            "WQ_TIMESTAMP=1700000000",
            "WQ_TYPE=fruit",
        ];
        expected.sort_unstable();
        assert_eq!(told, expected);
    });
}

#[test]
fn a_guest_reads_all_that_is_known_of_its_message_from_a_file() {
    on_rabbitmq(|queue| {
        queue.publish_with(properties(), b"x");
        queue.publish_with(properties(), b"x");
        let told = ["thread", "process"].map(|isolation| {
            let mut work = queue.command(&["work", &guest("metadata"), "--metadata", "--isolation", isolation]);
            run(work.env("WQ_FAULT", "guest-process:strict")).exits(0).out()
        });
        assert_eq!(told[0], told[1]);
        let told = &told[0];
        let told: serde_json::Value = serde_json::from_str(told.strip_prefix("/wq").expect("its folder")).unwrap();
        let expected = json!({
            "properties": {
                "message_id": "m-1",
                "correlation_id": "c-1",
                "reply_to": "answers",
                "content_type": "text/plain",
                "content_encoding": "utf-8",
                "type": "fruit",
                "priority": 4,
                "timestamp": 1_700_000_000,
                "expiration": "3600000",
                "user_id": "guest",
                "app_id": "tests",
                "delivery_mode": 2,
                "application_headers": {"traceparent": "00-abc-def-01", "tracestate": "a=b", "pages": 7},
            },
            "delivery_info": {
                "queue": queue.name,
                "exchange": "",
                "routing_key": queue.name,
                "redelivered": false,
                "delivery_tag": 1,
                "attempt": 1,
                "max_attempts": 3,
            },
        });
        assert_eq!(told, expected);
    });
}

#[test]
fn the_file_is_there_for_the_run_only_and_can_not_be_changed() {
    on_every_queue(|queue| {
        let temporary = tempfile::tempdir().unwrap();
        for isolation in ["thread", "process"] {
            queue.publish(&["x"]);
            // Its exit code says whether it could write.
            let mut command = queue.command(&["work", &guest("metadata"), "--metadata", "--isolation", isolation]);
            run(command.env("TMPDIR", temporary.path())).exits(0);
            assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "it is left");
        }
        // Only who asks for it gets it.
        queue.publish(&["x"]);
        run(&mut queue.command(&["work", &guest("metadata"), "--exit-map", "11=dead-letter"])).exits(65);
        queue.take_dead();
    });
}

#[test]
fn a_file_that_can_not_be_made_is_said_before_a_message_is_taken() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        let mut command = queue.command(&["work", &guest("echo"), "--metadata"]);
        run(command.env("TMPDIR", "/proc")).exits(78).says("TMPDIR");
        run(&mut queue.command(&["work", &guest("echo"), "--metadata", "--dir", "/tmp::/wq"])).exits(78).says("--dir");
        run(&mut queue.command(&["work", &guest("environ")])).exits(0);
    });
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(body).unwrap();
    packed.finish().unwrap()
}

#[test]
fn a_packed_message_is_unpacked_when_that_is_asked_for() {
    on_rabbitmq(|queue| {
        let body = "unpacked ".repeat(1000);
        let encoded = |encoding: &str| BasicProperties::default().with_content_encoding(encoding.into());
        for (encoding, packed) in
            [("gzip", gzip(body.as_bytes())), ("zstd", zstd::encode_all(body.as_bytes(), 0).unwrap())]
        {
            queue.publish_with(encoded(encoding), &packed);
            run(&mut queue.command(&["work", &guest("echo"), "--decode"])).exits(0).prints(&body);
            // The guest is not told of an encoding that it does not see.
            queue.publish_with(encoded(encoding), &packed);
            let told = run(&mut queue.command(&["work", &guest("environ"), "--decode"])).exits(0).out();
            assert!(!told.contains("WQ_CONTENT_ENCODING"), "{told}");
            // Not asked for: as it is.
            queue.publish_with(encoded(encoding), &packed);
            assert_eq!(run(&mut queue.command(&["work", &guest("echo")])).exits(0).stdout, packed);
            // Small as it comes, and large as it is.
            queue.publish_with(encoded(encoding), &packed);
            let args = ["work", &guest("echo"), "--decode", "--max-message", "8999"];
            run(&mut queue.command(&args)).exits(65).says("--max-message").prints("");
            let dead = queue.take_dead();
            assert_eq!((&dead.body, dead.headers["x-wq-outcome"].as_str()), (&packed, "message"));
            // Not what it says.
            queue.publish_with(encoded(encoding), b"not packed");
            run(&mut queue.command(&["work", &guest("echo"), "--decode"])).exits(65).says("--decode");
            assert_eq!(queue.take_dead().headers["x-wq-outcome"], "encoding");
        }
        // What other clients write there is the guest's.
        queue.publish_with(encoded("utf-8"), b"text");
        run(&mut queue.command(&["work", &guest("echo"), "--decode"])).exits(0).prints("text");
    });
}
