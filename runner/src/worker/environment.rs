//! The environment variables that tell a guest about its message.

use crate::observe::trace::Carried;
use crate::sandbox::Env;
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
    completion_index: Option<&str>,
    deterministic: bool,
) -> Env {
    /// Room for all of them, and for what their values mostly have.
    const VARIABLES: usize = 18;
    const BYTES: usize = 160;
    let properties = &message.properties;
    let is_told = |name: &str| !deterministic || !VARIES.contains(&name);
    let mut env = Env::with_capacity(VARIABLES, BYTES);
    let mut text = |name: &'static str, value: Option<&str>| {
        if let Some(value) = value.filter(|_| is_told(name)) {
            env.push(name, value);
        }
    };
    text("WQ_MESSAGE_ID", properties.message_id.as_deref());
    text("WQ_CORRELATION_ID", properties.correlation_id.as_deref());
    text("WQ_REPLY_TO", properties.reply_to.as_deref());
    text("WQ_CONTENT_TYPE", properties.content_type.as_deref());
    text("WQ_CONTENT_ENCODING", properties.content_encoding.as_deref());
    text("WQ_TYPE", properties.kind.as_deref());
    text("WQ_APP_ID", properties.app_id.as_deref());
    text("WQ_EXCHANGE", Some(&origin.exchange));
    text("WQ_ROUTING_KEY", Some(&origin.routing_key));
    text("WQ_QUEUE", Some(&origin.queue));
    text("WQ_REDELIVERED", Some(if origin.redelivered { "true" } else { "false" }));
    text("TRACEPARENT", trace.traceparent.as_deref());
    text("TRACESTATE", trace.tracestate.as_deref());
    text("JOB_COMPLETION_INDEX", completion_index);
    let mut number = |name: &'static str, value: Option<u64>| {
        if let Some(value) = value.filter(|_| is_told(name)) {
            env.push_number(name, value);
        }
    };
    number("WQ_PRIORITY", properties.priority.map(u64::from));
    number("WQ_TIMESTAMP", properties.timestamp);
    number("WQ_ATTEMPT", Some(attempt.number.into()));
    number("WQ_MAX_ATTEMPTS", Some(attempt.max.into()));
    env
}
