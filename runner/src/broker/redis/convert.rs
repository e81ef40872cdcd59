//! Between the fields of a stream's entry and our own vocabulary.
//!
//! An entry is a flat list of names and values, all of them bytes, and anybody can write one. A message of ours has its body
//! in the field `body`, each property in a field of its name, and each header in a field of its name. A header whose name is
//! taken gets the prefix `header:`.
//!
//! An entry without exactly one `body` is foreign: the value of its only field is the body, or all of its fields as JSON. Only
//! headers that we know are headers there: a foreign `type` is a part of the task.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::value::Field;
use crate::broker::failure::{self, Content};
use crate::task::{Message, Properties};

const BODY: &str = "body";

/// Marks a header whose name another field has.
const HEADER: &str = "header:";

const TEXTS: [&str; 9] = [
    "message_id",
    "correlation_id",
    "reply_to",
    "content_type",
    "content_encoding",
    "type",
    "app_id",
    "expiration",
    "user_id",
];

const NUMBERS: [&str; 3] = ["priority", "timestamp", "delivery_mode"];

/// Headers that somebody else may add to a foreign entry.
const KNOWN_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// A script hands an entry's fields to one command, for which Lua has room for 8,000 texts. This leaves some for what a
/// failure adds. `prelude.lua` has the same limit.
pub const MAX_FIELDS: usize = 3000;

/// An entry as a message.
pub struct Read {
    pub message: Message,
    /// The reason, if it can't be run.
    pub unreadable: Option<String>,
    /// What its dead letter has in place of a copy, where a script can't copy it.
    pub rewritten: Option<Vec<Field>>,
}

pub fn read(fields: Vec<Field>) -> Read {
    if fields.len() > MAX_FIELDS {
        return too_many(&fields);
    }
    let bodies = fields.iter().filter(|(name, _)| name == BODY.as_bytes()).count();
    let (message, unreadable) = if bodies == 1 { (ours(fields), None) } else { foreign(fields) };
    Read { message, unreadable, rewritten: None }
}

fn ours(fields: Vec<Field>) -> Message {
    let mut message = Message::default();
    let mut properties = Map::new();
    for (name, value) in fields {
        let name = String::from_utf8_lossy(&name).into_owned();
        if name == BODY {
            message.body = value;
        } else if let Some(value) = property(&name, &value) {
            properties.insert(name, value);
        } else {
            let name = match name.strip_prefix(HEADER) {
                Some(rest) if is_taken(rest) => rest.to_owned(),
                _ => name,
            };
            let value = header(&name, &value);
            message.headers.insert(name, value);
        }
    }
    // Two different ids that are not text could turn into the same one.
    properties.retain(|name, value| name != "message_id" || !value.as_str().unwrap_or_default().contains('\u{fffd}'));
    message.properties = serde_json::from_value(properties.into()).unwrap_or_default();
    message
}

/// A property's value, if this is the name of one and can be its value.
fn property(name: &str, value: &[u8]) -> Option<Value> {
    if TEXTS.contains(&name) {
        return Some(String::from_utf8_lossy(value).into());
    }
    if !NUMBERS.contains(&name) {
        return None;
    }
    let text = str::from_utf8(value).ok()?;
    if name == "timestamp" {
        text.parse::<u64>().ok().map(Value::from)
    } else {
        text.parse::<u8>().ok().map(Value::from)
    }
}

fn header(name: &str, value: &[u8]) -> Value {
    let text = String::from_utf8_lossy(value);
    if failure::NUMERIC.contains(&name)
        && let Ok(number) = text.parse::<u64>()
    {
        return number.into();
    }
    text.into()
}

fn is_taken(name: &str) -> bool {
    name == BODY || TEXTS.contains(&name) || NUMBERS.contains(&name) || name.starts_with(HEADER)
}

fn foreign(fields: Vec<Field>) -> (Message, Option<String>) {
    let mut message = Message::default();
    let mut content = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let known =
            str::from_utf8(&name).ok().filter(|name| KNOWN_HEADERS.contains(name) || failure::NAMES.contains(name));
        match known {
            Some(name) => drop(message.headers.insert(name.to_owned(), header(name, &value))),
            None => content.push((name, value)),
        }
    }
    if let [(_, value)] = &mut content[..] {
        message.body = std::mem::take(value);
        return (message, None);
    }
    match json(&content) {
        Ok(object) => {
            message.body = object.into();
            (message, None)
        }
        Err(name) => {
            let reason =
                format!("it has no field `{BODY}`, and its field `{name}` is not UTF-8, which JSON can't hold");
            (message, Some(reason))
        }
    }
}

/// Fields as a JSON object, or the name of one that can't be a part of it. A name with several values has a list of them.
fn json(fields: &[Field]) -> Result<String, String> {
    let mut object = Map::new();
    for (name, value) in fields {
        let shown = || String::from_utf8_lossy(name).into_owned();
        let (Ok(key), Ok(value)) = (str::from_utf8(name), str::from_utf8(value)) else { return Err(shown()) };
        match object.get_mut(key) {
            None => drop(object.insert(key.to_owned(), value.into())),
            Some(Value::Array(values)) => values.push(value.into()),
            Some(first) => *first = vec![first.take(), value.into()].into(),
        }
    }
    Ok(Value::Object(object).to_string())
}

/// A message whose dead letter can't be a copy. As much of it as there is goes into a body of JSON.
fn too_many(fields: &[Field]) -> Read {
    let reason = format!("it has {} fields, and more than {MAX_FIELDS} can't be handled", fields.len());
    let lossy = |bytes: &[u8]| Bytes::from(String::from_utf8_lossy(bytes).into_owned().into_bytes());
    let texts: Vec<Field> = fields.iter().map(|(name, value)| (lossy(name).into(), lossy(value))).collect();
    let body = json(&texts).unwrap_or_default();
    let properties = Properties { content_type: Some("application/json".into()), ..Properties::default() };
    let rewritten = written(&properties, &Map::new(), body.clone().into());
    let message = Message { body: body.into(), properties, headers: Map::new() };
    Read { message, unreadable: Some(reason), rewritten: Some(rewritten) }
}

/// A message as the fields of an entry.
pub fn written(properties: &Properties, headers: &Map<String, Value>, body: Bytes) -> Vec<Field> {
    let mut fields = vec![(BODY.into(), body)];
    // A struct of texts and numbers is always an object.
    if let Ok(Value::Object(properties)) = serde_json::to_value(properties) {
        fields.extend(properties.into_iter().map(|(name, value)| (name.into_bytes(), text(&value))));
    }
    for (name, value) in headers {
        let name = if is_taken(name) { format!("{HEADER}{name}") } else { name.clone() };
        fields.push((name.into_bytes(), text(value)));
    }
    fields
}

/// Headers after a failed run, as fields that are added to those of the message.
pub fn added(headers: Vec<(&'static str, Content)>) -> Vec<Field> {
    let text = |content| match content {
        Content::Text(text) => text,
        Content::Number(number) => number.to_string(),
    };
    headers.into_iter().map(|(name, content)| (name.into(), text(content).into())).collect()
}

fn text(value: &Value) -> Bytes {
    match value {
        Value::String(text) => text.clone().into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry(fields: &[(&str, &[u8])]) -> Vec<Field> {
        fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), Bytes::copy_from_slice(value))).collect()
    }

    #[test]
    fn a_foreign_entry_with_one_field_is_that_fields_value() {
        let Read { message, unreadable, .. } = read(entry(&[("fruit", b"\xffapple")]));
        assert_eq!((message.body.as_ref(), unreadable), (b"\xffapple".as_slice(), None));
    }

    #[test]
    fn a_foreign_entry_with_several_fields_is_json() {
        let fields = entry(&[("type", b"mail"), ("to", b"a@b"), ("to", b"c@d"), ("x-wq-attempt", b"1")]);
        let Read { message, unreadable, .. } = read(fields);
        assert_eq!(message.body, r#"{"to":["a@b","c@d"],"type":"mail"}"#.as_bytes());
        assert_eq!((message.headers["x-wq-attempt"].as_u64(), unreadable), (Some(1), None));
        assert_eq!(message.properties, Properties::default());
        let two = read(entry(&[("body", b"a"), ("body", b"b")])).message;
        assert_eq!(two.body, r#"{"body":["a","b"]}"#.as_bytes());
    }

    #[test]
    fn several_fields_that_are_no_text_cannot_be_read() {
        let Read { unreadable, .. } = read(entry(&[("a", b"\xff"), ("b", b"")]));
        assert!(unreadable.unwrap().contains("field `a`"));
    }

    #[test]
    fn an_entry_with_too_many_fields_is_put_aside_with_what_it_holds() {
        let fields = vec![(b"f".to_vec(), Bytes::from("v")); MAX_FIELDS + 1];
        let Read { unreadable, rewritten, .. } = read(fields);
        assert!(unreadable.unwrap().contains("3001 fields"));
        let body = read(rewritten.unwrap()).message.body;
        assert_eq!(body.iter().filter(|byte| **byte == b'v').count(), MAX_FIELDS + 1);
    }

    #[test]
    fn a_property_that_cannot_be_one_is_a_header() {
        let fields = entry(&[("body", b"x"), ("priority", b"high"), ("timestamp", b"-1"), ("message_id", b"\xff")]);
        let message = read(fields).message;
        assert_eq!(message.properties, Properties::default());
        assert_eq!(Value::Object(message.headers), json!({"priority": "high", "timestamp": "-1"}));
    }

    #[test]
    fn a_header_may_have_any_name() {
        let names = ["body", "type", "header:type", "header:", "header:x", "x", "", "x-wq-error"];
        let headers: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), json!("v"))).collect();
        let message = read(written(&Properties::default(), &headers, "b".into())).message;
        assert_eq!((message.headers, message.body.as_ref()), (headers, b"b".as_slice()));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(
            id in proptest::option::of(".*"), kind in proptest::option::of(".*"),
            priority in proptest::option::of(any::<u8>()), timestamp in proptest::option::of(any::<u64>()),
            body in proptest::collection::vec(any::<u8>(), 0..40),
            headers in proptest::collection::btree_map("(header:|body|type|)?.{0,8}", "[^0-9]*", 0..4),
        ) {
            prop_assume!(!id.as_ref().is_some_and(|id| id.contains('\u{fffd}')));
            let properties = Properties { message_id: id, kind, priority, timestamp, ..Properties::default() };
            let headers: Map<String, Value> = headers.into_iter().map(|(name, value)| (name, value.into())).collect();
            let read = read(written(&properties, &headers, body.clone().into()));
            prop_assert_eq!(read.unreadable, None);
            prop_assert_eq!(read.message.properties, properties);
            prop_assert_eq!(read.message.headers, headers);
            prop_assert_eq!(read.message.body.as_ref(), body);
        }
    }
}
