//! Translates between AMQP's properties and tables and our own vocabulary.

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Acker, BasicProperties};
use serde_json::{Map, Value};

use super::config::SYSTEM;
use super::death::DEATHS;
use super::size;
use crate::broker::failure::{self, Content, Next, Unmarked};
use crate::task::{Failure, Message, Origin, Properties};

/// Set by quorum queues: how often this message was handed over before, as far as the broker counts that.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Headers that would be wrong on a message that is published again: the broker's counters start anew, and `CC`
/// would send copies to the other queues once more.
pub const NOT_REPUBLISHED: [&str; 5] = [DELIVERY_COUNT, "x-acquired-count", failure::UNFINISHED, "CC", "BCC"];

/// A delivery in our own vocabulary, and what its settlement needs.
pub struct Received {
    pub message: Message,
    pub origin: Origin,
    pub properties: BasicProperties,
    pub acker: Acker,
}

pub fn received(delivery: Delivery, queue: &str) -> Received {
    let Delivery { delivery_tag, exchange, routing_key, redelivered, properties, data, acker } = delivery;
    let message =
        Message { body: Bytes::from(data), properties: self::properties(&properties), headers: headers(&properties) };
    let origin = Origin {
        queue: queue.to_owned(),
        exchange: exchange.to_string(),
        routing_key: routing_key.to_string(),
        redelivered,
        delivery_tag,
        received: None,
        system: SYSTEM,
    };
    Received { message, origin, properties, acker }
}

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

/// The number of the run that this delivery is for, and how many of the runs before it ended without a word: what we wrote
/// on the message when a run failed or when it was given back, and the hand-overs since then.
///
/// A broker counts from the second hand-over on. In a message that was not handed over before, the count is a copy that a
/// client made of another message's headers.
pub fn attempt(headers: &Map<String, Value>, redelivered: bool, queue: &str) -> (u32, u32) {
    let counted = headers.get(DELIVERY_COUNT).filter(|_| redelivered).and_then(Value::as_u64);
    let counted = counted.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let (failed, before) = if was_dead_lettered(headers, queue) {
        (0, 0)
    } else {
        (failure::failed_runs(headers, queue, Unmarked::Next), failure::unfinished(headers, queue))
    };
    let unfinished = counted.saturating_add(before);
    (failed.saturating_add(unfinished).saturating_add(1), unfinished)
}

/// How often this message was handed over before, as far as its broker counts that.
pub fn hand_overs(headers: &Map<String, Value>) -> u64 {
    headers.get(DELIVERY_COUNT).and_then(Value::as_u64).unwrap_or(0)
}

/// Whether the broker itself dead-lettered the message out of this queue since its last retry, and somebody moved it back.
/// Then it begins anew, as one of our own dead letters does. A retry carries no trace of an earlier life: see
/// [`copied_headers`].
fn was_dead_lettered(headers: &Map<String, Value>, queue: &str) -> bool {
    let deaths = headers.get(DEATHS).and_then(Value::as_array);
    deaths.is_some_and(|deaths| deaths.iter().any(|death| death.get("queue").is_some_and(|from| from == queue)))
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
pub fn copied(original: &BasicProperties, queue: &str) -> Result<BasicProperties, String> {
    native(&properties(original), copied_headers(original, queue))
}

/// A message as it is, for another queue: values keep their types. What a broker would refuse or act upon is left out: counts
/// of hand-overs, copies to other queues, and a user's name that is not ours.
pub fn again(original: &BasicProperties, is_ours: impl Fn(&str) -> bool, without: &[&str]) -> BasicProperties {
    let mut copy = BasicProperties::default();
    macro_rules! keep {
        ($($value:ident by $with:ident,)*) => {
            $(if let Some(value) = original.$value() {
                copy = copy.$with(value.clone());
            })*
        };
    }
    keep! {
        content_type by with_content_type,
        content_encoding by with_content_encoding,
        delivery_mode by with_delivery_mode,
        priority by with_priority,
        correlation_id by with_correlation_id,
        reply_to by with_reply_to,
        expiration by with_expiration,
        message_id by with_message_id,
        timestamp by with_timestamp,
        kind by with_type,
        app_id by with_app_id,
        cluster_id by with_cluster_id,
    }
    if let Some(user) = original.user_id().as_ref().filter(|user| is_ours(user.as_str())) {
        copy = copy.with_user_id(user.clone());
    }
    if let Some(table) = original.headers() {
        let left_out = |name: &str| NOT_REPUBLISHED.contains(&name) || without.contains(&name);
        let mut headers = FieldTable::default();
        for (name, value) in table.inner().iter().filter(|(name, _)| !left_out(name.as_str())) {
            headers.insert(name.clone(), value.clone());
        }
        copy = copy.with_headers(headers);
    }
    copy
}

/// A message as it is, for its own queue again, so that nobody counts its way back. `unfinished` is how many of its hand-overs
/// ended without a word so far.
pub fn given_back(
    original: &BasicProperties,
    is_ours: impl Fn(&str) -> bool,
    queue: &str,
    unfinished: u32,
) -> BasicProperties {
    let copy = again(original, is_ours, &[]);
    if unfinished == 0 {
        return copy;
    }
    let mut headers = if was_dead_lettered(&self::headers(original), queue) {
        // The count is of this life, and an earlier one must not hide it.
        copied_headers(original, queue)
    } else {
        copy.headers().clone().unwrap_or_default()
    };
    let value = failure::unfinished_in(queue, unfinished);
    headers.insert(failure::UNFINISHED.into(), AMQPValue::LongString(value.into()));
    copy.with_headers(headers)
}

/// The headers of a message without those that are about its last run, or about deaths in this queue.
fn copied_headers(original: &BasicProperties, queue: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    if let Some(table) = original.headers() {
        for (name, value) in table.inner() {
            let value = match value {
                _ if NOT_REPUBLISHED.contains(&name.as_str()) || failure::NAMES.contains(&name.as_str()) => continue,
                AMQPValue::FieldArray(deaths) if name.as_str() == DEATHS => {
                    let elsewhere = deaths.as_slice().iter().filter(|death| !is_in(death, queue)).cloned();
                    AMQPValue::FieldArray(elsewhere.collect::<Vec<_>>().into())
                }
                value => value.clone(),
            };
            headers.insert(name.clone(), value);
        }
    }
    headers
}

fn is_in(death: &AMQPValue, queue: &str) -> bool {
    let AMQPValue::FieldTable(death) = death else { return false };
    matches!(death.inner().get("queue"), Some(AMQPValue::LongString(from)) if from.as_bytes() == queue.as_bytes())
}

/// As [`copied`], after a failed run, with as much of the reason in the headers as a frame of `frame_max` bytes has room for.
///
/// `None` if there is no room for what makes a retry.
///
/// # Errors
/// As [`native`].
pub fn republished(
    original: &BasicProperties,
    failure: &Failure,
    queue: &str,
    next: Next,
    frame_max: usize,
) -> Result<Option<BasicProperties>, String> {
    let mut headers = copied_headers(original, queue);
    let copied = native(&properties(original), headers.clone())?;
    let taken = size::content_header(&copied) + size::added_by_the_broker(queue, next);
    let earlier = original.headers().as_ref().and_then(|headers| headers.inner().get(failure::FIRST_FAILED_AT));
    let first_failed_at = earlier.map(json).and_then(|at| at.as_str().map(str::to_owned));
    let all = failure::headers(failure, queue, next, first_failed_at);
    let room = frame_max.saturating_sub(taken);
    let Some(fitting) = failure::fitting(all, room, size::HEADER) else { return Ok(None) };
    for (name, content) in fitting {
        let value = match content {
            Content::Text(text) => AMQPValue::LongString(text.into()),
            Content::Number(number) => match u32::try_from(number) {
                Ok(number) => AMQPValue::LongUInt(number),
                Err(_) => AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX)),
            },
        };
        headers.insert(name.into(), value);
    }
    Ok(Some(copied.with_headers(headers)))
}

/// Whether a frame of `frame_max` bytes has room for a retry of this message. If not, its next failure is its last.
pub fn leaves_room(original: &BasicProperties, queue: &str, frame_max: usize) -> bool {
    let added = size::added_by_the_broker(queue, Next::Retry) + failure::required_size(queue, size::HEADER);
    let fits = |properties: &BasicProperties| size::content_header(properties) + added <= frame_max;
    // The headers of an earlier failure make room for those of the next one.
    fits(original) || copied(original, queue).is_ok_and(|copied| fits(&copied))
}

/// Written to disk before it is confirmed.
fn persistent() -> BasicProperties {
    const PERSISTENT: u8 = 2;
    BasicProperties::default().with_delivery_mode(PERSISTENT)
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
