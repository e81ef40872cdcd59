//! Publishing results, with all that makes a result known to have arrived. For either kind of broker.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Error, Url, amqp, sqlite};
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
pub enum Outbox {
    Amqp(amqp::outbox::Outbox),
    Sqlite(sqlite::outbox::Outbox),
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

// === impl Outbox ===

impl Outbox {
    /// Opens the way to a broker, for as long as `connect_timeout` lets it try.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open(url: &Url, options: Options) -> Result<Outbox, Error> {
        match url {
            Url::Amqp(nodes) => amqp::outbox::Outbox::open(nodes.clone(), options).await.map(Outbox::Amqp),
            Url::Sqlite(path) => sqlite::outbox::Outbox::open(path.clone(), &options).await.map(Outbox::Sqlite),
        }
    }

    /// Looks whether an address is there.
    ///
    /// # Errors
    /// When it is not.
    pub async fn look_for(&self, to: &Address) -> Result<(), Error> {
        match self {
            Outbox::Amqp(outbox) => outbox.look_for(to).await,
            Outbox::Sqlite(outbox) => outbox.look_for(to).await,
        }
    }

    /// Publishes a message once, and returns when the broker has taken responsibility for it.
    ///
    /// # Errors
    /// When it is not known that the message is where it should be. It may be there all the same, so that whoever tries
    /// again may make a duplicate.
    pub async fn publish(
        &self,
        to: &Address,
        properties: Properties,
        headers: &Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error> {
        match self {
            Outbox::Amqp(outbox) => outbox.publish(to, &properties, headers, &body).await,
            Outbox::Sqlite(outbox) => outbox.publish(to, properties, headers.clone(), body).await,
        }
    }

    /// Ends the connection. All that was published is confirmed.
    pub async fn close(&self) {
        if let Outbox::Amqp(outbox) = self {
            outbox.close().await;
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
