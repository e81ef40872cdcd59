//! A message's properties and headers as JSON, in the shape that rabbitmq-cli-consumer made known.
//!
//! It is `{"properties": {..., "application_headers": {...}}, "delivery_info": {...}}`.

use serde_json::{Map, Value, json};

use crate::task::{Attempt, Message, Origin};

/// The envelope of a message: what is known of it but its body. A property that it does not have is left out.
pub fn of(message: &Message, origin: &Origin) -> Map<String, Value> {
    // A struct of texts and numbers is always an object.
    let mut properties = match serde_json::to_value(&message.properties) {
        Ok(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    properties.insert("application_headers".into(), Value::Object(message.headers.clone()));
    let Origin { queue, exchange, routing_key, redelivered, delivery_tag, .. } = origin;
    let delivery_info = json!({
        "queue": queue,
        "exchange": exchange,
        "routing_key": routing_key,
        "redelivered": redelivered,
        "delivery_tag": delivery_tag,
    });
    Map::from_iter([("properties".into(), Value::Object(properties)), ("delivery_info".into(), delivery_info)])
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
