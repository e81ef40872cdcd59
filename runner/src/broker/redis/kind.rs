//! Redis in the table of kinds, and what can be done at one of its addresses.

use std::sync::Arc;

use async_trait::async_trait;

use super::outbox::Outbox;
use super::queue::MAX_MESSAGE;
use super::terms::{LEASE, SYSTEM};
use super::url::Url;
use super::walk::Walk;
use super::{adapter, admin, check};
use crate::broker::adapter::{Adapter, Broker, BrokerKind, Capabilities, Form};
use crate::broker::admin::Admin;
use crate::broker::check::{Findings, Settings};
use crate::broker::error::Error;
use crate::broker::outbox;
use crate::broker::scaler::Scaler;
use crate::broker::subscription::Options;
use crate::broker::tls;
use crate::broker::walk;

pub static KIND: BrokerKind = BrokerKind {
    name: "Redis",
    system: SYSTEM,
    forms: &[
        Form { prefix: "redis://", rest: "USER:PASSWORD@HOST:PORT/DATABASE" },
        Form { prefix: "rediss://", rest: "…" },
        Form { prefix: "valkey://", rest: "…" },
        Form { prefix: "valkeys://", rest: "…" },
        Form { prefix: "redis+unix://", rest: "/PATH" },
    ],
    capabilities: Capabilities {
        release_uncounted: true,
        retry_headers: true,
        broker_dead_letters: false,
        exchanges: false,
        reply: true,
        text_only: false,
        max_message: Some(MAX_MESSAGE as u64),
        lease: Some(LEASE),
        longest_hold: None,
        longest_pause: None,
        longest_delay: None,
        expiration: false,
        most_seen: None,
    },
    queue_types: &[],
    queue_arguments: &[],
    dead_letter_queue: |queue| format!("{queue}.dead"),
    parse,
};

fn parse(text: &str) -> Result<Arc<dyn Broker>, String> {
    Ok(Arc::new(text.parse::<Url>()?))
}

#[async_trait]
impl Broker for Url {
    fn adapter(&self, options: Options) -> Box<dyn Adapter> {
        Box::new(adapter::Adapter::new(self.clone(), options))
    }

    fn admin(&self) -> Box<dyn Admin> {
        Box::new(admin::Admin::new(self.clone()))
    }

    fn walk(&self, queue: &str) -> Box<dyn walk::Walk> {
        Box::new(Walk::new(self.clone(), queue))
    }

    async fn outbox(&self, options: outbox::Options) -> Result<Arc<dyn outbox::Outbox>, Error> {
        Ok(Arc::new(Outbox::open(self.clone(), options).await?))
    }

    fn is_on_this_host(&self) -> bool {
        self.is_socket()
    }

    fn scaler(&self, queue: &str, _of_jobs: bool) -> Option<Scaler> {
        self.scaler_of(queue)
    }

    async fn check(&self, settings: &Settings) -> Findings {
        check::check(self, settings).await
    }

    fn hint(&self, error: &Error) -> Option<String> {
        if let Some(hint) = tls::hint(error) {
            return Some(hint.into());
        }
        let hint = match error {
            Error::OtherProtocol { .. } => {
                return Some(format!("{}; the port of Redis is 6379 by default", error.hint().unwrap_or_default()));
            }
            // It takes the beginning of TLS for a request, and waits for the rest of that.
            Error::Unreachable { .. } if self.is_encrypted() == Some(true) => {
                "is it running, and does it speak TLS at this port? Host and port come from --broker (BROKER_URL)"
            }
            Error::Credentials { .. } => {
                "user and password come from --broker (BROKER_URL, BROKER_URL_FILE): redis://USER:PASSWORD@HOST:PORT"
            }
            Error::Forbidden { .. } => {
                "`ACL GETUSER NAME` shows what a user may do, and docs/redis.md what wq-run needs; the user comes from \
                 --broker (BROKER_URL)"
            }
            Error::Mismatch { .. } => {
                "a queue is a stream that no other consumer group reads: `TYPE QUEUE` and `XINFO GROUPS QUEUE` show what is \
                 there; the names come from --queue (QUEUE) and from `inbox` in --broker (BROKER_URL)"
            }
            Error::Settings { .. } => {
                "use Redis 6.2 or later, or Valkey, without cluster mode; the database that --broker (BROKER_URL) names has to exist"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}
