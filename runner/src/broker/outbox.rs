//! What publishes results, on every kind of broker: a result counts once it is known to have arrived.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::error::Error;
use crate::task::Properties;

/// Where a message is published to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Queue(String),
    Exchange {
        name: String,
        key: String,
    },
    /// The queue that a message names as its `reply_to`. It may be gone, which is nobody's mistake.
    Reply(String),
}

#[derive(Clone, Debug)]
pub struct Options {
    /// The queue that is worked on, which names the connection.
    pub queue: String,
    /// How long to go on trying before the first connection stands.
    pub connect_timeout: Duration,
    /// How long one message may take to be confirmed; and how long a new connection may take, where one is needed.
    pub publish_timeout: Duration,
}

/// A way out that is open. Shared by all sinks and runs.
#[async_trait]
pub trait Outbox: fmt::Debug + Send + Sync {
    /// Looks whether an address is there.
    ///
    /// # Errors
    /// When it is not.
    async fn look_for(&self, to: &Address) -> Result<(), Error>;

    /// Publishes a message once, and returns when the broker has taken responsibility for it.
    ///
    /// # Errors
    /// When it is not known that the message is where it should be. It may be there all the same, so that whoever tries
    /// again may make a duplicate.
    async fn publish(
        &self,
        to: &Address,
        properties: Properties,
        headers: &Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error>;

    /// Ends the connection, if there is one. All that was published is confirmed.
    async fn close(&self) {}
}

// === impl Address ===

impl Address {
    /// The exchange and the routing key that lead there.
    pub fn parts(&self) -> (&str, &str) {
        match self {
            // The default exchange knows every queue by its name.
            Address::Queue(queue) | Address::Reply(queue) => ("", queue),
            Address::Exchange { name, key } => (name, key),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Queue(queue) => write!(f, "the queue `{queue}`"),
            Address::Exchange { name, key } => write!(f, "the exchange `{name}` with the routing key `{key}`"),
            Address::Reply(queue) => write!(f, "the requester's queue `{queue}`"),
        }
    }
}
