//! A message's properties and headers as JSON, in the shape that rabbitmq-cli-consumer made known.
//!
//! It is `{"properties": {..., "application_headers": {...}}, "delivery_info": {...}}`. A whole message also has `body` and
//! `body_encoding`, and is one line.

use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use crate::task::{Attempt, Message, Origin, Properties};

const BODY: &str = "body";
/// `utf-8`, or `base64` for a body that is no text.
const ENCODING: &str = "body_encoding";
const PROPERTIES: &str = "properties";
const HEADERS: &str = "application_headers";

/// The envelope of a message: what is known of it but its body. A property that it does not have is left out.
pub fn of(message: &Message, origin: &Origin) -> Map<String, Value> {
    // A struct of texts and numbers is always an object.
    let mut properties = match serde_json::to_value(&message.properties) {
        Ok(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    properties.insert(HEADERS.into(), Value::Object(message.headers.clone()));
    let Origin { queue, exchange, routing_key, redelivered, delivery_tag, .. } = origin;
    let delivery_info = json!({
        "queue": queue,
        "exchange": exchange,
        "routing_key": routing_key,
        "redelivered": redelivered,
        "delivery_tag": delivery_tag,
    });
    Map::from_iter([(PROPERTIES.into(), Value::Object(properties)), ("delivery_info".into(), delivery_info)])
}

/// The same, with the number of the run that it is for.
pub fn of_run(message: &Message, origin: &Origin, attempt: Attempt) -> Map<String, Value> {
    let mut envelope = of(message, origin);
    if let Some(Value::Object(delivery_info)) = envelope.get_mut("delivery_info") {
        delivery_info.insert("attempt".into(), attempt.number.into());
        delivery_info.insert("max_attempts".into(), attempt.max.into());
    }
    envelope
}

/// A whole message as one line, without its end.
pub fn line(message: &Message, origin: &Origin) -> String {
    Value::Object(whole(message, origin)).to_string()
}

/// A whole message, its body included.
pub fn whole(message: &Message, origin: &Origin) -> Map<String, Value> {
    let mut envelope = of(message, origin);
    let (body, encoding) = match std::str::from_utf8(&message.body) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (BASE64.encode(&message.body), "base64"),
    };
    envelope.insert(BODY.into(), body.into());
    envelope.insert(ENCODING.into(), encoding.into());
    envelope
}

/// Reads such a line as a message to publish. Drops `delivery_info`, `delivery_mode` and `user_id`, which describe the earlier
/// delivery and its publisher.
///
/// # Errors
/// Says what is wrong with it.
pub fn read(line: &[u8]) -> Result<Message, String> {
    let envelope: Map<String, Value> = serde_json::from_slice(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "it is no JSON object".to_owned(),
        _ => format!("it is no JSON: {error}"),
    })?;
    let message = message(envelope)?;
    let properties = Properties { delivery_mode: None, user_id: None, ..message.properties };
    Ok(Message { properties, ..message })
}

/// The message in an envelope, with all of its properties.
///
/// # Errors
/// Says what is wrong with it.
pub fn message(mut envelope: Map<String, Value>) -> Result<Message, String> {
    let Some(Value::String(body)) = envelope.remove(BODY) else {
        return Err(format!("it has no string `{BODY}`"));
    };
    let body: Bytes = match envelope.remove(ENCODING) {
        None => body.into(),
        Some(Value::String(encoding)) if encoding == "utf-8" => body.into(),
        Some(Value::String(encoding)) if encoding == "base64" => {
            let decoded = BASE64.decode(body.as_bytes());
            decoded.map_err(|error| format!("its `{BODY}` is not base64: {error}"))?.into()
        }
        Some(other) => return Err(format!("its `{ENCODING}` is {other}, and neither \"utf-8\" nor \"base64\"")),
    };
    let mut properties = match envelope.remove(PROPERTIES) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(properties)) => properties,
        Some(_) => return Err(format!("its `{PROPERTIES}` are not an object")),
    };
    let headers = match properties.remove(HEADERS) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(headers)) => headers,
        Some(_) => return Err(format!("its `{HEADERS}` are not an object")),
    };
    let properties: Properties = serde_json::from_value(properties.into())
        .map_err(|error| format!("its `{PROPERTIES}` can't be read: {error}"))?;
    Ok(Message { body, properties, headers })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_that_is_none_is_an_error_that_says_why() {
        for (line, why) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            ("{}", "no string `body`"),
            (r#"{"body": 1}"#, "no string `body`"),
            (r#"{"body": "?", "body_encoding": "base64"}"#, "not base64"),
            (r#"{"body": "", "body_encoding": "hex"}"#, "hex"),
            (r#"{"body": "", "properties": []}"#, "not an object"),
            (r#"{"body": "", "properties": {"application_headers": 1}}"#, "not an object"),
            (r#"{"body": "", "properties": {"priority": "high"}}"#, "high"),
            (r#"{"body": "", "properties": {"colour": "red"}}"#, "colour"),
        ] {
            let error = read(line.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert_eq!(read(br#"{"body": "a"}"#).unwrap().body, "a");
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(
            body in prop::collection::vec(any::<u8>(), 0..40), id in any::<Option<String>>(), priority in any::<Option<u8>>(),
            header in any::<String>(),
        ) {
            let properties = Properties { message_id: id, priority, expiration: Some("1".into()), ..Properties::default() };
            let headers = Map::from_iter([("h".to_owned(), json!([header, 1, null]))]);
            let message = Message { body: body.into(), properties, headers };
            let line = line(&message, &Origin::default());
            prop_assert!(!line.contains('\n'));
            let back = read(line.as_bytes()).unwrap();
            prop_assert_eq!((back.body, back.properties, back.headers), (message.body, message.properties, message.headers));
        }
    }
}
