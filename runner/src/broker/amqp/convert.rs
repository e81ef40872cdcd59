//! Between AMQP's properties and tables and our own vocabulary.

use std::time::SystemTime;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Value};

use crate::task::{Failure, Properties};

/// Written by us on a message that is tried again: the number of its next run.
pub const ATTEMPT: &str = "x-wq-attempt";
/// Written by us beside it: the queue in which the message failed.
const QUEUE: &str = "x-wq-queue";
const FIRST_FAILED_AT: &str = "x-wq-first-failed-at";
/// Set by quorum queues: how often this message was handed over before, as far as the broker counts that.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Headers that would be wrong on a message that is published again: the broker's counters start anew, and `CC`
/// would send copies to the other queues once more.
const NOT_REPUBLISHED: [&str; 4] = [DELIVERY_COUNT, "x-acquired-count", "CC", "BCC"];

pub fn properties(native: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    Properties {
        message_id: text(native.message_id()),
        correlation_id: text(native.correlation_id()),
        reply_to: text(native.reply_to()),
        content_type: text(native.content_type()),
        content_encoding: text(native.content_encoding()),
        kind: text(native.kind()),
        priority: *native.priority(),
        timestamp: *native.timestamp(),
        app_id: text(native.app_id()),
        delivery_mode: *native.delivery_mode(),
        expiration: text(native.expiration()),
        user_id: text(native.user_id()),
    }
}

pub fn headers(native: &BasicProperties) -> Map<String, Value> {
    native.headers().as_ref().map(table).unwrap_or_default()
}

/// The number of the run that this delivery is for, and how many of the runs before it nobody has told the end of: what
/// we wrote on the message when a run failed, and the hand-overs since then.
///
/// A count from another queue is another message's: a result carries the number of the run that it comes from, and may
/// be the message of the next worker.
pub fn attempt(native: &BasicProperties, queue: &str) -> (u32, u32) {
    let header = |name: &str| native.headers().as_ref().and_then(|headers| headers.inner().get(name)).map(json);
    let number = |name: &str| header(name)?.as_u64().and_then(|value| u32::try_from(value).ok());
    let unfinished = number(DELIVERY_COUNT).unwrap_or(0);
    let ours = header(QUEUE).is_some_and(|counted_in| counted_in == queue);
    let written = if ours { number(ATTEMPT) } else { None };
    (written.unwrap_or(1).max(1).saturating_add(unfinished), unfinished)
}

/// Our properties as AMQP has them, for a message of our own: persistent, never expiring, and without a user's name, of
/// which the broker refuses any but the publisher's.
///
/// # Errors
/// When a value is longer than the 255 bytes of an AMQP short string; says which.
pub fn native(properties: &Properties, headers: FieldTable) -> Result<BasicProperties, String> {
    let short = |name: &str, value: &String| {
        ShortString::try_new(value.clone()).map_err(|_| format!("the {name} is longer than 255 bytes"))
    };
    let mut native = persistent().with_headers(headers);
    if let Some(value) = &properties.message_id {
        native = native.with_message_id(short("message id", value)?);
    }
    if let Some(value) = &properties.correlation_id {
        native = native.with_correlation_id(short("correlation id", value)?);
    }
    if let Some(value) = &properties.reply_to {
        native = native.with_reply_to(short("reply-to", value)?);
    }
    if let Some(value) = &properties.content_type {
        native = native.with_content_type(short("content type", value)?);
    }
    if let Some(value) = &properties.content_encoding {
        native = native.with_content_encoding(short("content encoding", value)?);
    }
    if let Some(value) = &properties.kind {
        native = native.with_type(short("type", value)?);
    }
    if let Some(value) = &properties.app_id {
        native = native.with_app_id(short("application id", value)?);
    }
    if let Some(value) = properties.priority {
        native = native.with_priority(value);
    }
    if let Some(value) = properties.timestamp {
        native = native.with_timestamp(value);
    }
    Ok(native)
}

/// The properties of a message that is published again as it came.
///
/// `expiration` is left out, since a dead letter that expires is lost; `user_id` too, since the broker refuses one that
/// is not the publisher's.
///
/// # Errors
/// As [`native`].
pub fn copied(original: &BasicProperties) -> Result<BasicProperties, String> {
    native(&properties(original), copied_headers(original))
}

fn copied_headers(original: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    if let Some(table) = original.headers() {
        for (name, value) in table.inner() {
            if !NOT_REPUBLISHED.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
    }
    headers
}

/// As [`copied`], after a failed run, with the reason in the headers.
///
/// # Errors
/// As [`native`].
pub fn republished(
    original: &BasicProperties,
    failure: &Failure,
    queue: &str,
    next_attempt: u32,
) -> Result<BasicProperties, String> {
    let mut headers = copied_headers(original);
    let mut text = |name: &str, value: &str| {
        headers.insert(ShortString::from(name), AMQPValue::LongString(value.into()));
    };
    let at = humantime::format_rfc3339_millis(failure.at).to_string();
    text("x-wq-outcome", failure.outcome);
    text("x-wq-error", &failure.error);
    text("x-wq-stderr", &failure.stderr);
    text("x-wq-guest", &failure.guest);
    text(QUEUE, queue);
    text("x-wq-last-failed-at", &at);
    if !headers.contains_key(FIRST_FAILED_AT) {
        headers.insert(FIRST_FAILED_AT.into(), AMQPValue::LongString(at.into()));
    }
    headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(next_attempt));
    if let Some(code) = failure.exit_code {
        headers.insert("x-wq-exit-code".into(), AMQPValue::LongUInt(code.into()));
    }
    native(&properties(original), headers)
}

/// Written to disk before it is confirmed.
fn persistent() -> BasicProperties {
    const PERSISTENT: u8 = 2;
    BasicProperties::default().with_delivery_mode(PERSISTENT)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Headers of a message of our own. Only text and numbers occur there; anything else is written as its JSON.
pub fn field_table(headers: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        let value = match value {
            Value::String(text) => AMQPValue::LongString(text.as_str().into()),
            Value::Number(number) => match number.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) => AMQPValue::LongUInt(number),
                None => AMQPValue::LongString(number.to_string().into()),
            },
            other => AMQPValue::LongString(other.to_string().into()),
        };
        table.insert(ShortString::from(name.as_str()), value);
    }
    table
}

fn table(table: &FieldTable) -> Map<String, Value> {
    table.inner().iter().map(|(name, value)| (name.to_string(), json(value))).collect()
}

/// The nearest JSON: bytes that are no UTF-8 are shown with replacement characters.
fn json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Float(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(value) => (f64::from(value.value) / 10f64.powi(value.scale.into())).into(),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::LongString(value) => String::from_utf8_lossy(value.as_bytes()).into(),
        AMQPValue::ByteArray(value) => String::from_utf8_lossy(value.as_slice()).into(),
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::FieldTable(values) => Value::Object(table(values)),
        AMQPValue::Void => Value::Null,
    }
}
