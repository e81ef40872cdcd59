//! A message and its delivery, in a case.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::envelope;
use crate::task::{Message, Origin};

/// A message and its delivery, in the form that `wq-run publish --json` reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Delivered {
    pub message: Message,
    pub delivery: Delivery,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    pub queue: String,
    #[serde(default)]
    pub exchange: String,
    #[serde(default)]
    pub routing_key: String,
    #[serde(default)]
    pub redelivered: bool,
    #[serde(default)]
    pub delivery_tag: u64,
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
}

impl Delivered {
    pub fn new(message: Message, origin: &Origin, attempt: u32, max_attempts: Option<u32>) -> Delivered {
        let Origin { queue, exchange, routing_key, redelivered, delivery_tag, .. } = origin.clone();
        Delivered {
            message,
            delivery: Delivery { queue, exchange, routing_key, redelivered, delivery_tag, attempt, max_attempts },
        }
    }

    /// Where the message came from.
    pub fn origin(&self) -> Origin {
        let Delivery { queue, exchange, routing_key, redelivered, delivery_tag, .. } = self.delivery.clone();
        Origin { queue, exchange, routing_key, redelivered, delivery_tag, ..Origin::default() }
    }
}

const DELIVERY: &str = "delivery_info";

impl TryFrom<Map<String, Value>> for Delivered {
    type Error = String;

    fn try_from(mut envelope: Map<String, Value>) -> Result<Delivered, String> {
        let known = ["body", "body_encoding", "properties", DELIVERY];
        if let Some(name) = envelope.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("the message has an unknown field `{name}`"));
        }
        let delivery = envelope.remove(DELIVERY).unwrap_or_default();
        let delivery: Delivery = serde_json::from_value(delivery)
            .map_err(|error| format!("the message's `{DELIVERY}` can't be read: {error}"))?;
        if delivery.attempt == 0 {
            return Err("the message's `attempt` is 0, and the first is 1".to_owned());
        }
        let message = envelope::message(envelope).map_err(|error| format!("the message can't be read: {error}"))?;
        Ok(Delivered { message, delivery })
    }
}

impl Serialize for Delivered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut envelope = envelope::whole(&self.message, &self.origin());
        let delivery = serde_json::to_value(&self.delivery).map_err(serde::ser::Error::custom)?;
        envelope.insert(DELIVERY.to_owned(), delivery);
        envelope.serialize(serializer)
    }
}

impl PartialEq for Delivered {
    fn eq(&self, other: &Delivered) -> bool {
        let Message { body, properties, headers } = &self.message;
        (body, properties, headers, &self.delivery)
            == (&other.message.body, &other.message.properties, &other.message.headers, &other.delivery)
    }
}
