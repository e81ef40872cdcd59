//! The adapter for RabbitMQ and other brokers that speak AMQP 0-9-1: connects, and runs a session.

mod acks;
pub mod admin;
mod arguments;
mod aside;
mod batch;
mod check;
mod config;
mod connection;
mod consumers;
mod convert;
mod death;
mod delays;
pub mod filter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod held;
pub mod kind;
mod letters;
mod looks;
pub mod outbox;
mod publisher;
mod retries;
mod session;
mod size;
mod transport;
mod url;
mod walk;

use std::sync::Arc;

pub use url::Url;

use async_trait::async_trait;

use self::config::Config;
use self::retries::Retries;
use self::session::Session;
use super::adapter;
use super::error::{Error, Kind};
use super::link::{Ended, Link};
use super::subscription::Options;

pub(crate) struct Adapter {
    config: Arc<Config>,
    /// Those of all sessions: a retry comes back whatever becomes of the connection.
    retries: Retries,
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
        let connecting = config.in_time(async {
            let (connection, server) = connection::meet(&config.nodes, &name).await?;
            // All that takes no message is done while the guest is loaded.
            let channel = connection.create_channel().await.map_err(connection::lost)?;
            Ok((connection, channel, server))
        });
        let (connection, channel, server) = match link.while_disconnected(connecting).await {
            Some(Ok(connected)) => connected,
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
        let unproven = link.unproven.clone();
        let connected = (connection, channel, server);
        let opening = Session::open(config.clone(), connected, (wanted, unproven), &mut self.retries);
        let opening = config.in_time(opening);
        let session = match link.while_disconnected(opening).await {
            Some(Ok(session)) => session,
            Some(Err(error)) => return ended(error),
            None => return Ended::Closed,
        };
        link.established();
        match session.run(link, wanted).await {
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
