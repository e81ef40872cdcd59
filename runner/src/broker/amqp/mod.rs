//! RabbitMQ and other brokers that speak AMQP 0-9-1.

mod acks;
pub mod admin;
mod aside;
mod connection;
mod consumers;
mod convert;
mod delays;
pub mod filter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod held;
pub mod kind;
mod looks;
pub mod outbox;
mod publisher;
mod retries;
mod session;
mod size;
mod transport;
mod url;

use std::sync::Arc;
use std::time::Duration;

pub use url::Url;

use async_trait::async_trait;

use self::retries::Retries;
use self::session::Session;
use super::adapter;
use super::error::{Error, Kind};
use super::link::{Ended, Link};
use super::subscription::Options;
use crate::task::System;

/// For everything until messages can come. A quorum queue without a leader lets a consumer wait for as long as that
/// lasts, which must not look like an empty queue.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// In traces.
const SYSTEM: System = System {
    name: "rabbitmq",
    routing_key: Some("messaging.rabbitmq.destination.routing_key"),
    delivery_tag: Some("messaging.rabbitmq.message.delivery_tag"),
};

pub(crate) struct Adapter {
    config: Arc<Config>,
    /// Those of all sessions: a retry comes back whatever becomes of the connection.
    retries: Retries,
}

struct Config {
    nodes: Vec<Url>,
    options: Options,
}

impl Adapter {
    pub(crate) fn new(nodes: Vec<Url>, options: Options) -> Adapter {
        Adapter { config: Arc::new(Config { nodes, options }), retries: Retries::default() }
    }
}

#[async_trait]
impl adapter::Adapter for Adapter {
    async fn session(&mut self, link: &mut Link) -> Ended {
        let config = self.config.clone();
        let name = config.connection_name();
        let connecting = config.in_time(connection::connect(&config.nodes, &name));
        let connection = match link.while_disconnected(connecting).await {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => return ended(error),
            None => return Ended::Closed,
        };
        if link.begin().await.is_closed() {
            let _ = connection::close(&connection).await;
            return Ended::Closed;
        }
        if link.cancelled {
            let _ = connection::close(&connection).await;
            link.wait_closed().await;
            return Ended::Closed;
        }
        let wanted = link.wanted();
        let opening = config.in_time(Session::open(config.clone(), connection, wanted, &mut self.retries));
        let session = match link.while_disconnected(opening).await {
            Some(Ok(session)) => session,
            Some(Err(error)) => return ended(error),
            None => return Ended::Closed,
        };
        if link.cancelled {
            // Meanwhile. Whatever this connection was handed goes back with it.
            link.wait_closed().await;
            return Ended::Closed;
        }
        link.established();
        match session.run(link).await {
            Ok(()) => Ended::Closed,
            Err(error) => ended(error),
        }
    }
}

fn ended(error: Error) -> Ended {
    match error.kind() {
        Kind::Unreachable | Kind::Lost => Ended::Lost(error),
        Kind::Refused | Kind::Configuration => Ended::Refused(error),
    }
}

impl Config {
    /// Bounds what a broker that takes connections may leave unanswered.
    async fn in_time<T>(&self, opening: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(|_| {
            let source = "it takes connections, and did not answer when asked for messages".into();
            Err(Error::Unreachable { address: self.addresses(), source })
        })
    }

    fn connection_name(&self) -> String {
        connection_name("takes", &self.options.queue)
    }

    fn addresses(&self) -> String {
        self.nodes.iter().map(Url::address).collect::<Vec<_>>().join(", ")
    }
}

/// What an operator sees in the broker's list of connections.
fn connection_name(does: &str, queue: &str) -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".into());
    format!("wq-run {does} {queue} ({host}, {})", std::process::id())
}
