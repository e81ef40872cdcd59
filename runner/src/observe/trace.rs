//! Spans, named by OpenTelemetry's conventions for messaging.
//!
//! A trace goes on across the queue: from the headers of a message to its guest and to its result. Without an exporter a
//! span is nothing, and the headers are handed on as they came.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use serde_json::{Map, Value};

use super::ended::{Ended, Observer, Settled};
use super::otlp;
use crate::task::{Message, Origin, System};

/// The headers that carry a trace, by the W3C's recommendation.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// One span, if spans are exported, and what is handed on of its trace. Ends when it is dropped.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// `None` if nothing is exported.
    context: Option<Context>,
    carried: Carried,
}

/// What a trace is called for those who continue it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

/// In bytes. W3C's Trace Context asks for 512 of a `tracestate`. A result carries both values, and all of its headers have to fit
/// into one frame of the broker, of which the smallest are 8,192.
const MOST_CARRIED: usize = 2048;

impl Carried {
    fn of(headers: &Map<String, Value>) -> Carried {
        let text = |name: &str| {
            let value = headers.get(name).and_then(Value::as_str);
            value.filter(|value| value.len() <= MOST_CARRIED).map(str::to_owned)
        };
        Carried { traceparent: text(TRACEPARENT), tracestate: text(TRACESTATE) }
    }

    /// Puts it into the headers of a message.
    pub fn insert_into(&self, headers: &mut Map<String, Value>) {
        for (name, value) in [(TRACEPARENT, &self.traceparent), (TRACESTATE, &self.tracestate)] {
            if let Some(value) = value {
                headers.insert(name.into(), value.as_str().into());
            }
        }
    }
}

impl Span {
    /// A message's way, from its delivery to its settlement: a child of the span that published it.
    pub fn process(message: &Message, origin: &Origin) -> Span {
        let carried = Carried::of(&message.headers);
        if otlp::provider_if_any().is_none() {
            return Span { context: None, carried };
        }
        let known = [(TRACEPARENT, &carried.traceparent), (TRACESTATE, &carried.tracestate)];
        let known: HashMap<String, String> =
            known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect();
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &known);
        let Origin { queue, exchange, routing_key, delivery_tag, system, .. } = origin;
        let destination = consumed_from(exchange, routing_key, queue);
        let properties = &message.properties;
        let optional = [
            ("messaging.message.id", &properties.message_id),
            ("messaging.message.conversation_id", &properties.correlation_id),
        ];
        let mut attributes = vec![
            KeyValue::new("messaging.system", system.name),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", destination.clone()),
            KeyValue::new("messaging.message.body.size", i64::try_from(message.body.len()).unwrap_or(i64::MAX)),
        ];
        attributes.extend(system.routing_key.map(|name| KeyValue::new(name, routing_key.clone())));
        attributes.extend(system.delivery_tag.map(|name| KeyValue::new(name, delivery_tag.cast_signed())));
        for (name, value) in optional {
            attributes.extend(value.clone().map(|value| KeyValue::new(name, value)));
        }
        start(&parent, carried, format!("process {destination}"), SpanKind::Consumer, attributes)
    }

    /// The run of a guest.
    pub fn run(&self, guest: &str, digest: &str) -> Span {
        self.child(|| {
            let attributes = vec![
                KeyValue::new("wq.guest.name", guest.to_owned()),
                KeyValue::new("wq.guest.digest", digest.to_owned()),
            ];
            (format!("run {guest}"), SpanKind::Internal, attributes)
        })
    }

    /// The publishing of a result.
    pub fn publish(&self, system: System, exchange: &str, routing_key: &str, id: Option<&str>, size: usize) -> Span {
        self.child(|| {
            let destination = published_to(exchange, routing_key);
            let mut attributes = vec![
                KeyValue::new("messaging.system", system.name),
                KeyValue::new("messaging.operation.name", "publish"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", destination.clone()),
                KeyValue::new("messaging.message.body.size", i64::try_from(size).unwrap_or(i64::MAX)),
            ];
            attributes.extend(system.routing_key.map(|name| KeyValue::new(name, routing_key.to_owned())));
            attributes.extend(id.map(|id| KeyValue::new("messaging.message.id", id.to_owned())));
            (format!("publish {destination}"), SpanKind::Producer, attributes)
        })
    }

    /// The settlement of a message.
    pub fn settle(&self, origin: &Origin, settlement: &'static str) -> Span {
        self.child(|| {
            let destination = consumed_from(&origin.exchange, &origin.routing_key, &origin.queue);
            let attributes = vec![
                KeyValue::new("messaging.system", origin.system.name),
                KeyValue::new("messaging.operation.name", settlement),
                KeyValue::new("messaging.operation.type", "settle"),
                KeyValue::new("messaging.destination.name", destination.clone()),
            ];
            (format!("{settlement} {destination}"), SpanKind::Client, attributes)
        })
    }

    /// The name and the attributes are built only if spans are exported.
    fn child(&self, described: impl FnOnce() -> (String, SpanKind, Vec<KeyValue>)) -> Span {
        let carried = self.carried.clone();
        let Some(parent) = &self.context else { return Span { context: None, carried } };
        let (name, kind, attributes) = described();
        start(parent, carried, name, kind, attributes)
    }

    /// What is handed on: this span, or without an exporter what the message came with.
    pub fn carried(&self) -> &Carried {
        &self.carried
    }

    /// For the log, so that a line leads to its trace.
    pub fn trace_id(&self) -> Option<String> {
        self.context.as_ref().map(|context| context.span().span_context().trace_id().to_string())
    }

    pub fn set(&self, name: &'static str, value: impl Into<opentelemetry::Value>) {
        if let Some(context) = &self.context {
            context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// Marks the span as failed: by a word that can be counted, and a sentence.
    pub fn fail(&self, kind: &'static str, description: impl FnOnce() -> String) {
        if let Some(context) = &self.context {
            self.set("error.type", kind);
            context.span().set_status(Status::error(description()));
        }
    }
}

/// A message's span is told of the message's end.
impl Observer for Span {
    fn ended(&self, ended: &Ended) {
        let Ended { verdict, settled, .. } = ended;
        self.set("wq.attempt", i64::from(ended.attempt));
        self.set("wq.outcome", verdict.name());
        self.set("wq.settlement", settled.name());
        match settled {
            Settled::Acked => {}
            Settled::LeaseLost(reason) | Settled::Unsettled(reason) => self.fail("unsettled", || reason.clone()),
            _ => self.fail(verdict.name(), || verdict.to_string()),
        }
    }
}

fn start(parent: &Context, carried: Carried, name: String, kind: SpanKind, attributes: Vec<KeyValue>) -> Span {
    let Some(provider) = otlp::provider_if_any() else { return Span { context: None, carried } };
    let tracer = provider.tracer("wq-run");
    let span =
        tracer.span_builder(name).with_kind(kind).with_attributes(attributes).start_with_context(&tracer, parent);
    let context = parent.with_span(span);
    let carried = carried_by(context.span().span_context());
    Span { context: Some(context), carried }
}

fn carried_by(span: &SpanContext) -> Carried {
    let flags = span.trace_flags().to_u8();
    let state = span.trace_state().header();
    Carried {
        traceparent: Some(format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())),
        tracestate: (!state.is_empty()).then_some(state),
    }
}

/// The name that the conventions give to what a message was consumed from: exchange, routing key and queue, without those
/// that are empty, and without the queue if it is called like the key.
fn consumed_from(exchange: &str, routing_key: &str, queue: &str) -> String {
    let queue = if queue == routing_key { "" } else { queue };
    joined(&[exchange, routing_key, queue])
}

fn published_to(exchange: &str, routing_key: &str) -> String {
    match joined(&[exchange, routing_key]) {
        name if name.is_empty() => "amq.default".into(),
        name => name,
    }
}

fn joined(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_named_by_the_conventions() {
        assert_eq!(consumed_from("", "job1", "job1"), "job1");
        assert_eq!(consumed_from("e", "k", "job1"), "e:k:job1");
        assert_eq!(consumed_from("e", "", "job1"), "e:job1");
        assert_eq!(published_to("", "results"), "results");
        assert_eq!(published_to("e", ""), "e");
        assert_eq!(published_to("", ""), "amq.default");
    }

    #[test]
    fn a_header_of_any_length_is_not_carried_into_a_result() {
        let longest = "x".repeat(MOST_CARRIED);
        let headers = Map::from_iter([
            ("traceparent".into(), longest.clone().into()),
            ("tracestate".into(), format!("{longest}x").into()),
        ]);
        assert_eq!(Carried::of(&headers), Carried { traceparent: Some(longest), tracestate: None });
    }

    #[test]
    fn without_an_exporter_the_headers_are_handed_on_as_they_came() {
        let headers = Map::from_iter([("traceparent".into(), "whatever".into()), ("tracestate".into(), "a=b".into())]);
        let message = Message { headers: headers.clone(), ..Message::default() };
        let span = Span::process(&message, &Origin::default());
        let mut carried = Map::new();
        span.run("g", "d").carried().insert_into(&mut carried);
        assert_eq!(carried, headers);
        assert_eq!(span.trace_id(), None);
    }
}
