//! SQS in the table of kinds, and what can be done at one of its addresses.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::convert::MAX_MESSAGE;
use super::outbox::Outbox;
use super::queue::is_fifo;
use super::terms::{FIFO, LEASE, LONGEST, SYSTEM};
use super::url::Url;
use super::walk::Walk;
use super::{admin, check};
use crate::broker::adapter::{Adapter, Broker, BrokerKind, Capabilities, Form, QueueArgument};
use crate::broker::admin::Admin;
use crate::broker::check::{Findings, Settings};
use crate::broker::error::Error;
use crate::broker::outbox;
use crate::broker::scaler::Scaler;
use crate::broker::subscription::Options;
use crate::broker::walk;
use crate::causes::chain;

/// `DelaySeconds`, the most that SQS takes.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

pub static KIND: BrokerKind = BrokerKind {
    name: "SQS",
    system: SYSTEM,
    forms: &[
        Form { prefix: "sqs://", rest: "REGION/ACCOUNT/NAME" },
        Form { prefix: "https://sqs.", rest: "REGION.amazonaws.com/ACCOUNT/NAME" },
    ],
    capabilities: Capabilities {
        release_uncounted: false,
        retry_headers: false,
        broker_dead_letters: true,
        exchanges: false,
        reply: true,
        text_only: true,
        max_message: Some(MAX_MESSAGE as u64),
        lease: Some(LEASE),
        // A claim ends before its lease does, by our own clock.
        longest_hold: Some(LONGEST.saturating_sub(LEASE)),
        longest_pause: Some(LONGEST.saturating_sub(LEASE)),
        longest_delay: Some(LONGEST_DELAY),
        expiration: false,
        // Half of what a FIFO queue lets be hidden at the same time.
        most_seen: Some(10_000),
    },
    queue_types: &["standard", "fifo"],
    queue_arguments: &[QueueArgument { flag: "message-ttl", only_for: None }],
    // No name has a dot.
    dead_letter_queue: |queue| match queue.strip_suffix(FIFO) {
        Some(stem) => format!("{stem}-dead{FIFO}"),
        None => format!("{queue}-dead"),
    },
    parse,
};

fn parse(text: &str) -> Result<Arc<dyn Broker>, String> {
    Ok(Arc::new(text.parse::<Url>()?))
}

#[async_trait]
impl Broker for Url {
    fn queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    fn adapter(&self, options: Options) -> Box<dyn Adapter> {
        Box::new(super::adapter::Adapter::new(self.clone(), options))
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

    fn scaler(&self, queue: &str, of_jobs: bool) -> Option<Scaler> {
        Some(self.scaler_of(queue, of_jobs))
    }

    async fn check(&self, settings: &Settings) -> Findings {
        check::check(self, settings).await
    }

    fn hint(&self, error: &Error) -> Option<String> {
        let said = chain(error);
        let hint = match error {
            Error::Unreachable { .. } => {
                "the host comes from the region in --broker (BROKER_URL), from its `endpoint`, or from AWS_ENDPOINT_URL_SQS; \
                 HTTPS_PROXY and NO_PROXY are followed"
            }
            Error::Credentials { .. } if is_about_time(&said) => {
                "is the clock of this machine right? AWS refuses signatures that are five minutes off"
            }
            Error::Credentials { .. } | Error::NoCredentials { .. } => {
                "keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from AWS_PROFILE, from the role of a pod \
                 (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_FULL_URI), or from the role of the machine; wq-run \
                 uses only the first of these that is set"
            }
            Error::Forbidden { .. } => "docs/sqs.md has the policy that wq-run needs",
            Error::MissingQueue { queue, .. } => {
                let kind = if is_fifo(queue) { "FIFO queue" } else { "queue" };
                return Some(format!(
                    "`wq-run queue declare --queue {queue}` makes a {kind}; region and account come from --broker \
                     (BROKER_URL), the name from --queue (QUEUE)"
                ));
            }
            Error::Settings { .. } => "see --broker (BROKER_URL) and --queue (QUEUE)",
            Error::Mismatch { .. } if said.contains("redrive") => {
                "give the queue a redrive policy, or leave --dead-letter-by out"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

fn is_about_time(said: &str) -> bool {
    ["Signature expired", "not yet current", "RequestExpired", "RequestTimeTooSkewed"]
        .iter()
        .any(|text| said.contains(text))
}
