//! Traces: from the headers of a message to its guest, to its result, and to a collector.

use std::net::TcpListener;
use std::process::Command;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::harness::collector::{Collector, Span};
use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{eventually, guest, run, start};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traced() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(format!("00-{TRACE}-{PARENT}-01").into()));
    headers.insert("tracestate".into(), AMQPValue::LongString("vendor=1".into()));
    BasicProperties::default().with_message_id("m-1".into()).with_headers(headers)
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "one span {name:?} in {spans:#?}");
    found[0]
}

// As the protocol numbers them.
const INTERNAL: i32 = 1;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

#[test]
fn a_trace_goes_on_from_the_message_to_the_guest_and_the_result() {
    on_rabbitmq(|queue| {
        let collector = Collector::start();
        let results = queue.beside("results");
        queue.publish_with(traced(), b"x");
        let args = ["work", &guest("environ"), "--result", &format!("queue:{results}")];
        let done = run(queue.command(&args).env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url));
        done.exits(0).says(&format!("\"trace_id\":\"{TRACE}\""));
        let spans = collector.spans();
        assert_eq!(spans.len(), 4, "{spans:#?}");
        assert!(spans.iter().all(|span| span.trace == TRACE && span.state == "vendor=1" && span.service == "wq-run"));
        let process = named(&spans, &format!("process {}", queue.name));
        assert_eq!((process.parent.as_str(), process.kind), (PARENT, CONSUMER));
        for (name, value) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", &queue.name),
            ("messaging.rabbitmq.destination.routing_key", &queue.name),
            ("messaging.rabbitmq.message.delivery_tag", "1"),
            ("messaging.message.id", "m-1"),
            ("messaging.message.body.size", "1"),
            ("wq.attempt", "1"),
            ("wq.outcome", "success"),
            ("wq.settlement", "ack"),
        ] {
            assert_eq!(process.attributes.get(name).map(String::as_str), Some(value), "{name}: {process:#?}");
        }
        assert_eq!(process.error, None);
        let run = named(&spans, "run environ");
        assert_eq!((&run.parent, run.kind), (&process.id, INTERNAL));
        let publish = named(&spans, &format!("publish {results}"));
        assert_eq!((&publish.parent, publish.kind), (&process.id, PRODUCER));
        assert_eq!(publish.attributes["messaging.operation.type"], "send");
        let ack = named(&spans, &format!("ack {}", queue.name));
        assert_eq!((&ack.parent, ack.kind), (&process.id, CLIENT));
        assert_eq!(ack.attributes["messaging.operation.type"], "settle");

        let result = queue.take_from(&results);
        assert_eq!(result.headers["traceparent"], format!("00-{TRACE}-{}-01", publish.id));
        assert_eq!(result.headers["tracestate"], "vendor=1");
        assert_eq!(result.properties["message_id"], publish.attributes["messaging.message.id"]);
        let told = String::from_utf8(result.body).unwrap();
        assert!(told.contains(&format!("TRACEPARENT=00-{TRACE}-{}-01\0", run.id)), "{told:?}");
        assert!(told.contains("TRACESTATE=vendor=1\0"), "{told:?}");
    });
}

#[test]
fn a_message_without_a_trace_starts_one_and_a_failure_is_seen_in_it() {
    on_every_queue(|queue| {
        let collector = Collector::start();
        queue.publish(&["x"]);
        let mut command = queue.command(&["work", &guest("reject")]);
        let endpoint = format!("{}/v1/traces", collector.url);
        let failed = run(command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint).env("OTEL_SERVICE_NAME", "mine"));
        failed.exits(65);
        let spans = collector.spans();
        assert_eq!(spans.len(), 3, "{spans:#?}");
        let process = named(&spans, &format!("process {}", queue.name));
        assert_eq!((process.parent.as_str(), process.service.as_str()), ("", "mine"));
        assert_eq!(process.error.as_deref(), Some("the guest exited with 3"));
        assert_eq!(process.attributes["error.type"], "exit");
        assert_eq!(named(&spans, &format!("dead-letter {}", queue.name)).trace, process.trace);
        queue.take_dead();
    });
}

#[test]
fn nothing_is_exported_unless_it_is_asked_for() {
    on_rabbitmq(|queue| {
        let collector = Collector::start();
        let results = queue.beside("results");
        let args = ["work", &guest("environ"), "--result", &format!("queue:{results}")];
        for (off, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            queue.publish_with(traced(), b"x");
            let mut command = queue.command(&args);
            run(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url).env(off, value)).exits(0);
            // Handed on as it came.
            let result = queue.take_from(&results);
            assert_eq!(result.headers["traceparent"], format!("00-{TRACE}-{PARENT}-01"));
            assert!(String::from_utf8(result.body).unwrap().contains(&format!("TRACEPARENT=00-{TRACE}-{PARENT}-01\0")));
        }
        assert!(collector.spans().is_empty());
    });
}

#[test]
fn a_collector_that_fails_costs_no_message_and_holds_nothing_up() {
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    on_every_queue(|queue| {
        for (endpoint, says) in [
            (format!("http://{}", silent.local_addr().unwrap()), "the last spans may not have arrived"),
            (format!("http://{nobody}"), "spans could not be sent"),
            ("no address".into(), "no traces are exported"),
        ] {
            queue.publish(&["x"]);
            let mut command = queue.command(&["work", &guest("echo")]);
            run(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)).exits(0).prints("x").says(says);
        }
        queue.publish(&["x"]);
        let mut command = queue.command(&["work", &guest("echo")]);
        let asked = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        run(command.envs(asked)).exits(0).prints("x").says("we speak http/protobuf");
    });
}

#[test]
fn spans_go_over_tls_to_a_collector_that_is_trusted() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let certificate = rabbitmq.ca_file().with_file_name("server.pem");
    let mut server = Command::new("sh");
    // Prints what it is sent, and answers nothing.
    server.args(["-c", r#"exec openssl s_server -accept "$1" -cert "$2" -key "$3" -quiet >&2"#, "sh"]);
    server.arg(format!("127.0.0.1:{port}")).arg(&certificate).arg(certificate.with_file_name("server.key"));
    let mut server = start(&mut server);
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let work = |trusted: bool| {
        queue.publish(&["x"]);
        let mut command = queue.command(&["work", &guest("echo")]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("https://127.0.0.1:{port}"));
        command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "2000");
        if trusted {
            command.env("SSL_CERT_FILE", rabbitmq.ca_file());
        }
        run(&mut command)
    };
    work(false).exits(0).says("spans could not be sent").says("certificate");
    work(true).exits(0);
    server.wait_for("POST /v1/traces");
}
