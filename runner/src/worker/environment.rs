//! The environment variables that tell a guest about its message.

use std::borrow::Cow;

use crate::observe::trace::Carried;
use crate::task::{Attempt, Message, Origin};

/// What differs between two runs of one message.
const VARIES: [&str; 8] = [
    "WQ_REDELIVERED",
    "WQ_ATTEMPT",
    "WQ_MAX_ATTEMPTS",
    "WQ_EXCHANGE",
    "WQ_ROUTING_KEY",
    "TRACEPARENT",
    "TRACESTATE",
    "JOB_COMPLETION_INDEX",
];

/// What a guest is told about its message. `completion_index` is that of the pod, in a Job that counts its pods.
pub fn of(
    message: &Message,
    origin: &Origin,
    attempt: Attempt,
    trace: &Carried,
    completion_index: Option<String>,
    deterministic: bool,
) -> Vec<(Cow<'static, str>, String)> {
    let properties = &message.properties;
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let known = [
        ("WQ_MESSAGE_ID", properties.message_id.clone()),
        ("WQ_CORRELATION_ID", properties.correlation_id.clone()),
        ("WQ_REPLY_TO", properties.reply_to.clone()),
        ("WQ_CONTENT_TYPE", properties.content_type.clone()),
        ("WQ_CONTENT_ENCODING", properties.content_encoding.clone()),
        ("WQ_TYPE", properties.kind.clone()),
        ("WQ_PRIORITY", number(properties.priority.map(u64::from))),
        ("WQ_TIMESTAMP", number(properties.timestamp)),
        ("WQ_APP_ID", properties.app_id.clone()),
        ("WQ_EXCHANGE", Some(origin.exchange.clone())),
        ("WQ_ROUTING_KEY", Some(origin.routing_key.clone())),
        ("WQ_QUEUE", Some(origin.queue.clone())),
        ("WQ_REDELIVERED", Some(origin.redelivered.to_string())),
        ("WQ_ATTEMPT", Some(attempt.number.to_string())),
        ("WQ_MAX_ATTEMPTS", Some(attempt.max.to_string())),
        ("TRACEPARENT", trace.traceparent.clone()),
        ("TRACESTATE", trace.tracestate.clone()),
        ("JOB_COMPLETION_INDEX", completion_index),
    ];
    let mut env = Vec::with_capacity(known.len());
    for (name, value) in known {
        // A variable ends at a zero byte: the guest would see another value than the publisher sent.
        let Some(value) = value.filter(|value| !value.contains('\0')) else { continue };
        if !deterministic || !VARIES.contains(&name) {
            env.push((name.into(), value));
        }
    }
    env
}
