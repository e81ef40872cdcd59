//! What the worker was told of its nodes and its queue, and the names by which it is known there.

use std::time::Duration;

use super::url::Url;
use crate::broker::error::Error;
use crate::broker::subscription::Options;
use crate::task::System;

/// For everything until messages can come. A quorum queue without a leader lets a consumer wait for as long as that
/// lasts, which must not look like an empty queue.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// The default of RabbitMQ's `consumer_timeout`. It looks once a minute whether an acknowledgement is due.
pub const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// In traces.
pub const SYSTEM: System = System {
    name: "rabbitmq",
    routing_key: Some("messaging.rabbitmq.destination.routing_key"),
    delivery_tag: Some("messaging.rabbitmq.message.delivery_tag"),
};

pub struct Config {
    pub nodes: Vec<Url>,
    pub options: Options,
}

impl Config {
    /// Bounds what a broker that takes connections may leave unanswered.
    pub async fn in_time<T>(&self, opening: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(|_| {
            let source = "it accepts connections, but did not answer a request for messages".into();
            Err(Error::Unreachable { address: self.addresses(), source })
        })
    }

    pub fn connection_name(&self) -> String {
        connection_name("takes", &self.options.queue)
    }

    pub fn addresses(&self) -> String {
        self.nodes.iter().map(Url::address).collect::<Vec<_>>().join(", ")
    }
}

/// What an operator sees in the broker's list of connections.
pub fn connection_name(does: &str, queue: &str) -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".into());
    format!("wq-run {does} {queue} ({host}, {})", std::process::id())
}
