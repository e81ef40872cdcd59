//! Messages as SQS has them: a body of text, and at most ten attributes.
//!
//! Bodies that are no text are packed as base64. A few properties have attributes of their own, under which other programs look
//! for them; all else that a message carries is one attribute with JSON, since ten are soon used up.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::broker::error::Error;
use crate::broker::failure;
use crate::task::{Message, Properties};

/// The largest message with its attributes, in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// What the attribute for the rest takes of itself.
const SLACK: usize = 64;

const MAX_ATTRIBUTES: usize = 10;

/// The attribute that holds what has none of its own.
const REST: &str = "x-wq";

/// How the body is packed: [`PACKED`] or [`EMPTY`].
const BODY: &str = "x-wq-body";
const PACKED: &str = "base64";
const EMPTY: &str = "empty";

/// SQS takes no empty body. This one says for people what it stands for.
const EMPTY_BODY: &str = "(empty)";

const MESSAGE_ID: &str = "message-id";
const TRACEPARENT: &str = "traceparent";

pub type Attributes = BTreeMap<String, Attribute>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    #[serde(rename = "DataType")]
    kind: String,
    #[serde(rename = "StringValue", default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// In base64.
    #[serde(rename = "BinaryValue", default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub body: String,
    pub attributes: Attributes,
}

/// What [`REST`] holds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rest {
    properties: Properties,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
}

/// A message as it was received.
#[derive(Debug)]
pub struct Incoming {
    pub message: Message,
    /// Why the body is not what was sent.
    pub unreadable: Option<String>,
}

impl Attribute {
    fn text(text: impl Into<String>) -> Attribute {
        Attribute { kind: "String".into(), text: Some(text.into()), bytes: None }
    }

    fn value(&self) -> Value {
        let text = self.text.as_deref().or(self.bytes.as_deref()).unwrap_or_default();
        // `Number.float` is a number as well.
        if self.kind.split('.').next() == Some("Number")
            && let Ok(number) = serde_json::from_str::<serde_json::Number>(text)
        {
            return Value::Number(number);
        }
        text.into()
    }

    fn size(&self) -> usize {
        let bytes = self.bytes.as_ref().map_or(0, |bytes| bytes.len() / 4 * 3);
        self.kind.len() + self.text.as_ref().map_or(0, String::len) + bytes
    }
}

impl Outgoing {
    pub fn new(properties: &Properties, headers: &Map<String, Value>, body: &[u8]) -> Outgoing {
        let mut outgoing = Outgoing { body: String::new(), attributes: Attributes::new() };
        outgoing.pack(body);
        let carried = Properties { delivery_mode: None, expiration: None, user_id: None, ..properties.clone() };
        outgoing.describe(carried, headers.clone());
        outgoing
    }

    /// A copy of a message that was received: what it has of a foreign producer stays as it is. `change` may change its headers.
    pub fn copy(
        received: &Attributes,
        message: &Message,
        raw: Option<&str>,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Outgoing {
        let mut rest = rest_of(received);
        change(&mut rest.headers);
        let mut attributes = received.clone();
        attributes.remove(REST);
        attributes.remove(BODY);
        let mut outgoing = Outgoing { body: String::new(), attributes };
        match raw {
            // The body could not be unpacked, so the copy keeps it as it came, with the attribute that names its packing.
            Some(raw) => {
                outgoing.body = raw.to_owned();
                outgoing
                    .attributes
                    .extend(received.get_key_value(BODY).map(|(name, value)| (name.clone(), value.clone())));
            }
            None => outgoing.pack(&message.body),
        }
        // The message's id is SQS's own, and SQS gives the copy another one. So the properties keep it.
        if !received.contains_key(MESSAGE_ID) {
            rest.properties.message_id.clone_from(&message.properties.message_id);
        }
        if rest.properties.timestamp.is_none() {
            rest.properties.timestamp = message.properties.timestamp;
        }
        outgoing.describe(rest.properties, rest.headers);
        outgoing
    }

    pub fn size(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(name, attribute)| name.len() + attribute.size()).sum();
        self.body.len() + attributes
    }

    fn pack(&mut self, body: &[u8]) {
        let packed = match std::str::from_utf8(body) {
            Ok("") => (EMPTY_BODY.to_owned(), Some(EMPTY)),
            Ok(text) if text.chars().all(is_taken) => (text.to_owned(), None),
            _ => (BASE64.encode(body), Some(PACKED)),
        };
        self.body = packed.0;
        self.attributes.extend(packed.1.map(|how| (BODY.to_owned(), Attribute::text(how))));
    }

    /// Puts properties and headers into attributes, and what finds no place there into [`REST`].
    fn describe(&mut self, mut properties: Properties, mut headers: Map<String, Value>) {
        for (name, property) in own_attributes(&mut properties) {
            self.give_own(name, property);
        }
        if let Some(Value::String(traceparent)) = headers.get(TRACEPARENT) {
            let mut traceparent = Some(traceparent.clone());
            self.give_own(TRACEPARENT, &mut traceparent);
            if traceparent.is_none() {
                headers.remove(TRACEPARENT);
            }
        }
        let mut rest = Rest { properties, headers };
        // One place is for the rest.
        while self.attributes.len() >= MAX_ATTRIBUTES {
            let folded = self.attributes.keys().rfind(|name| *name != BODY && !is_own(name)).cloned();
            let Some(folded) = folded.or_else(|| self.attributes.keys().next_back().cloned()) else { break };
            if let Some(attribute) = self.attributes.remove(&folded) {
                rest.headers.insert(folded, attribute.value());
            }
        }
        if rest != Rest::default() {
            self.attributes.insert(REST.into(), Attribute::text(json(&rest)));
        }
    }

    /// Gives a value an attribute of its own, if SQS takes it there.
    fn give_own(&mut self, name: &str, value: &mut Option<String>) {
        if value.as_ref().is_some_and(|text| !text.is_empty() && text.chars().all(is_taken)) {
            self.attributes.extend(value.take().map(|text| (name.to_owned(), Attribute::text(text))));
        }
    }
}

/// The properties that have an attribute of their own.
fn own_attributes(properties: &mut Properties) -> [(&'static str, &mut Option<String>); 4] {
    [
        ("content-type", &mut properties.content_type),
        ("correlation-id", &mut properties.correlation_id),
        (MESSAGE_ID, &mut properties.message_id),
        ("reply-to", &mut properties.reply_to),
    ]
}

fn is_own(name: &str) -> bool {
    name == TRACEPARENT || own_attributes(&mut Properties::default()).iter().any(|(own, _)| *own == name)
}

/// The characters that SQS takes.
fn is_taken(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// JSON in characters that SQS takes.
fn json(rest: &Rest) -> String {
    let text = serde_json::to_string(rest).unwrap_or_default();
    if text.chars().all(is_taken) {
        return text;
    }
    // Control characters are escaped already, so that it is one of two.
    text.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

fn rest_of(attributes: &Attributes) -> Rest {
    let Some(attribute) = attributes.get(REST) else { return Rest::default() };
    let read = attribute.text.as_deref().and_then(|text| serde_json::from_str(text).ok());
    // Of somebody else, by the same name.
    read.unwrap_or_else(|| Rest { headers: Map::from_iter([(REST.to_owned(), attribute.value())]), ..Rest::default() })
}

impl Incoming {
    /// Reads a message. `id` is SQS's, which a message has that was sent without one; so is `sent`, in seconds.
    pub fn read(body: String, attributes: &Attributes, id: &str, sent: Option<u64>) -> Incoming {
        let Rest { mut properties, mut headers } = rest_of(attributes);
        for (name, property) in own_attributes(&mut properties) {
            let text = attributes.get(name).and_then(|attribute| attribute.text.clone());
            if text.is_some() {
                *property = text;
            }
        }
        properties.message_id.get_or_insert_with(|| id.to_owned());
        properties.timestamp = properties.timestamp.or(sent);
        let others = attributes.iter().filter(|(name, _)| name.as_str() == TRACEPARENT || !is_own(name));
        for (name, attribute) in others.filter(|(name, _)| ![REST, BODY].contains(&name.as_str())) {
            headers.insert(name.clone(), attribute.value());
        }
        let how = attributes.get(BODY).and_then(|attribute| attribute.text.as_deref());
        let (body, unreadable) = match how {
            Some(EMPTY) => (Bytes::new(), None),
            Some(PACKED) => match BASE64.decode(body.as_bytes()) {
                Ok(bytes) => (bytes.into(), None),
                Err(error) => (body.into(), Some(format!("{BODY} says that the body is base64: {error}"))),
            },
            Some(other) => (body.into(), Some(format!("{BODY} says that the body is packed as `{other}`"))),
            None => (body.into(), None),
        };
        Incoming { message: Message { body, properties, headers }, unreadable }
    }
}

/// The refusal of a message of this many bytes.
pub fn too_large(size: usize) -> Error {
    Error::TooLarge { reason: format!("SQS takes {MAX_MESSAGE} bytes with all attributes, and this has {size}") }
}

/// The dead letter of a message: a copy with as much of the failure as there is room for.
pub fn dead_letter(
    received: &Attributes,
    message: &Message,
    raw: Option<&str>,
    failed: &[(&'static str, failure::Content)],
) -> Outgoing {
    let plain = Outgoing::copy(received, message, raw, |_| {});
    let room = MAX_MESSAGE.saturating_sub(plain.size() + SLACK);
    // In JSON a character can take six bytes instead of one.
    for share in [1, 2, 6] {
        let describe = |headers: &mut Map<String, Value>| describe_failure(headers, failed.to_vec(), room / share);
        let copy = Outgoing::copy(received, message, raw, describe);
        if copy.size() <= MAX_MESSAGE {
            return copy;
        }
    }
    // A message that has grown too large by its id alone is better kept as it was than not at all.
    Outgoing { body: plain.body, attributes: received.clone() }
}

/// Replaces what earlier failures wrote by this one's, as far as there is room for it.
fn describe_failure(headers: &mut Map<String, Value>, failed: Vec<(&'static str, failure::Content)>, room: usize) {
    // Quotes, a colon and a comma.
    const OVERHEAD: usize = 8;
    headers.retain(|name, _| !failure::NAMES.contains(&name.as_str()));
    for (name, content) in failure::fitting(failed, room, OVERHEAD).unwrap_or_default() {
        let value = match content {
            failure::Content::Text(text) => text.into(),
            failure::Content::Number(number) => number.into(),
        };
        headers.insert(name.into(), value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn back(outgoing: &Outgoing) -> Incoming {
        Incoming::read(outgoing.body.clone(), &outgoing.attributes, "sqs-id", Some(7))
    }

    fn headers(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn text_stays_text_and_properties_have_names_that_others_know() {
        let properties = Properties {
            message_id: Some("m".into()),
            content_type: Some("text/plain".into()),
            priority: Some(3),
            ..Properties::default()
        };
        let outgoing = Outgoing::new(&properties, &headers(r#"{"traceparent":"00-1","x-wq-attempt":2}"#), b"hello");
        assert_eq!(outgoing.body, "hello");
        let names: Vec<&str> = outgoing.attributes.keys().map(String::as_str).collect();
        assert_eq!(names, ["content-type", "message-id", "traceparent", "x-wq"]);
        let message = back(&outgoing).message;
        assert_eq!(message.headers, headers(r#"{"traceparent":"00-1","x-wq-attempt":2}"#));
        assert_eq!(message.properties, Properties { timestamp: Some(7), ..properties });
    }

    #[test]
    fn a_plain_message_of_somebody_else_is_taken_as_it_is() {
        let attributes: Attributes = serde_json::from_str(
            r#"{"customer":{"DataType":"String","StringValue":"c"},
                "n":{"DataType":"Number","StringValue":"12"},
                "odd":{"DataType":"Number","StringValue":"twelve"},
                "raw":{"DataType":"Binary","BinaryValue":"AAE="},
                "x-wq":{"DataType":"String","StringValue":"not ours"}}"#,
        )
        .unwrap();
        let read = Incoming::read("b".into(), &attributes, "sqs-id", Some(7));
        assert_eq!(read.unreadable, None);
        assert_eq!(
            read.message.headers,
            headers(r#"{"customer":"c","n":12,"odd":"twelve","raw":"AAE=","x-wq":"not ours"}"#)
        );
        assert_eq!(read.message.properties.message_id.as_deref(), Some("sqs-id"));
    }

    #[test]
    fn a_copy_keeps_what_a_foreign_producer_gave_and_its_id() {
        let mut attributes = Attributes::new();
        for number in 0..MAX_ATTRIBUTES {
            attributes.insert(format!("a{number}"), Attribute::text(number.to_string()));
        }
        let read = Incoming::read("b".into(), &attributes, "sqs-id", Some(7));
        let copy = Outgoing::copy(&attributes, &read.message, None, |headers| {
            headers.insert("x-wq-outcome".into(), "exit".into());
        });
        assert_eq!(copy.attributes.len(), MAX_ATTRIBUTES);
        assert_eq!(copy.attributes["a0"], attributes["a0"]);
        let again = Incoming::read(copy.body, &copy.attributes, "another", Some(8)).message;
        assert_eq!(again.properties, read.message.properties);
        assert_eq!(again.headers["a9"], "9");
        assert_eq!(again.headers["x-wq-outcome"], "exit");
    }

    #[test]
    fn a_body_that_is_not_what_it_says_is_unreadable_and_copied_as_it_is() {
        let attributes = Attributes::from([(BODY.to_owned(), Attribute::text(PACKED))]);
        let read = Incoming::read("no base64!".into(), &attributes, "i", None);
        assert!(read.unreadable.is_some());
        let copy = Outgoing::copy(&attributes, &read.message, Some("no base64!"), |_| {});
        assert_eq!((copy.body.as_str(), &copy.attributes[BODY]), ("no base64!", &attributes[BODY]));
    }

    #[test]
    fn a_dead_letter_says_of_its_failure_what_there_is_room_for() {
        let failed = |error: &str| {
            vec![
                (failure::ATTEMPT, failure::Content::Number(3)),
                (failure::NAMES[1], failure::Content::Text("q".into())),
                (failure::NAMES[2], failure::Content::Text("dead-letter".into())),
                (failure::NAMES[5], failure::Content::Text(error.into())),
            ]
        };
        let earlier = headers(r#"{"x-wq-outcome":"trap","kept":1}"#);
        let dead = |body: usize, error: &str| {
            let sent = Outgoing::new(&Properties::default(), &earlier, "x".repeat(body).as_bytes());
            let message = back(&sent).message;
            let copy = dead_letter(&sent.attributes, &message, None, &failed(error));
            assert!(copy.size() <= MAX_MESSAGE, "{}", copy.size());
            assert_eq!(copy.body.len(), body);
            back(&copy).message
        };
        let described = dead(10, "it broke").headers;
        assert_eq!((&described["x-wq-attempt"], &described["x-wq-error"]), (&Value::from(3), &Value::from("it broke")));
        // Values of an earlier failure are not true of this one.
        assert_eq!((described.get("x-wq-outcome"), &described["kept"]), (None, &Value::from(1)));
        for error in ["e".repeat(9_000), "\u{1}".repeat(9_000)] {
            let described = dead(MAX_MESSAGE - 4_000, &error).headers;
            assert!(described["x-wq-error"].as_str().unwrap().len() > 100);
        }
        // Without room for its failure, and without room for the id that a copy has to carry.
        assert_eq!(dead(MAX_MESSAGE - 100, "it broke").headers, headers(r#"{"kept":1}"#));
        assert_eq!(dead(MAX_MESSAGE - 70, "it broke").headers, earlier);
    }

    proptest! {
        #[test]
        fn a_message_comes_out_as_it_went_in(
            body in prop::collection::vec(any::<u8>(), 0..40), text in "\\PC*|\u{0}|\u{fffe}|\u{ffff}|", id in any::<Option<String>>()
        ) {
            for body in [body, text.clone().into_bytes()] {
                let properties = Properties {
                    message_id: Some(id.clone().unwrap_or_else(|| "i".into())),
                    content_type: id.clone(),
                    kind: Some(text.clone()),
                    timestamp: Some(1),
                    ..Properties::default()
                };
                let sent = Map::from_iter([("h".to_owned(), Value::from(text.clone()))]);
                let outgoing = Outgoing::new(&properties, &sent, &body);
                prop_assert!(!outgoing.body.is_empty() && outgoing.body.chars().all(is_taken));
                for attribute in outgoing.attributes.values() {
                    let text = attribute.text.as_deref().unwrap();
                    prop_assert!(!text.is_empty() && text.chars().all(is_taken), "{text:?}");
                }
                let read = back(&outgoing);
                prop_assert_eq!(read.unreadable, None);
                prop_assert_eq!(&read.message.body[..], &body[..]);
                prop_assert_eq!(read.message.properties, properties);
                prop_assert_eq!(read.message.headers, sent);
            }
        }
    }
}
