//! A collector of spans, as OTLP over HTTP has it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;

pub struct Collector {
    pub url: String,
    spans: Receiver<Span>,
}

/// A span as it was exported; ids in hexadecimal digits, attributes as text.
#[derive(Debug)]
pub struct Span {
    pub name: String,
    pub kind: i32,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub state: String,
    pub attributes: BTreeMap<String, String>,
    /// What failed, if something did.
    pub error: Option<String>,
    pub service: String,
}

impl Collector {
    pub fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (span_tx, spans) = channel();
        // Ends with the test process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let span_tx = span_tx.clone();
                std::thread::spawn(move || serve(client, &span_tx));
            }
        });
        Collector { url, spans }
    }

    /// The spans that have come. Those of a process that has ended are all here.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.try_iter().collect()
    }
}

fn serve(client: TcpStream, spans: &Sender<Span>) {
    let mut reader = BufReader::new(client.try_clone().expect("a handle"));
    let mut line = String::new();
    while matches!(reader.read_line(&mut line), Ok(1..)) {
        assert!(line.starts_with("POST /v1/traces "), "{line}");
        let mut length = 0;
        loop {
            line.clear();
            reader.read_line(&mut line).expect("a header");
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if let Some(value) = header.strip_prefix("content-type:") {
                assert_eq!(value.trim(), "application/x-protobuf");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("it is a request");
        // Before the answer: whoever has it has been heard.
        for span in read(request) {
            let _ = spans.send(span);
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        (&client).write_all(answer.as_bytes()).expect("it is answered");
        line.clear();
    }
}

fn read(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in request.resource_spans {
        let resource = attributes(resource_spans.resource.expect("a resource").attributes);
        for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let status = span.status.unwrap_or_default();
            spans.push(Span {
                name: span.name,
                kind: span.kind,
                trace: HEXLOWER.encode(&span.trace_id),
                id: HEXLOWER.encode(&span.span_id),
                parent: HEXLOWER.encode(&span.parent_span_id),
                state: span.trace_state,
                attributes: attributes(span.attributes),
                error: (status.code == 2).then_some(status.message),
                service: resource["service.name"].clone(),
            });
        }
    }
    spans
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?.value?)))).collect()
}
