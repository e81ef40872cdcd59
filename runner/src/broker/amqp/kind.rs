//! RabbitMQ in the table of kinds, and what can be done at one of its addresses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::config::{ACKNOWLEDGEMENT_TIMEOUT, SYSTEM};
use super::outbox::Outbox;
use super::walk::Walk;
use super::{Url, admin, check, delays};
use crate::broker::adapter::{Adapter, Broker, BrokerKind, Capabilities, Form, QueueArgument};
use crate::broker::admin::Admin;
use crate::broker::check::{Findings, Settings};
use crate::broker::error::Error;
use crate::broker::outbox;
use crate::broker::scaler::{Login, Scaler, Trigger};
use crate::broker::subscription::Options;
use crate::broker::tls::{self, TlsFault};
use crate::broker::walk;

pub static KIND: BrokerKind = BrokerKind {
    name: "RabbitMQ",
    system: SYSTEM,
    forms: &[Form { prefix: "amqp://", rest: "USER:PASSWORD@HOST:PORT/VHOST" }, Form { prefix: "amqps://", rest: "…" }],
    capabilities: Capabilities {
        // Where a queue counts it, a copy goes back.
        release_uncounted: true,
        retry_headers: true,
        broker_dead_letters: true,
        exchanges: true,
        reply: true,
        text_only: false,
        max_message: None,
        lease: None,
        longest_hold: None,
        longest_pause: None,
        // That of the longest delay queue.
        longest_delay: Some(Duration::from_secs(24 * 3600)),
        expiration: true,
        // They are with us for so long.
        most_seen: Some(100_000),
    },
    queue_types: &["quorum", "classic"],
    queue_arguments: &[
        QueueArgument { flag: "dead-letter-exchange", only_for: None },
        QueueArgument { flag: "delivery-limit", only_for: Some("quorum") },
        QueueArgument { flag: "max-priority", only_for: Some("classic") },
        QueueArgument { flag: "max-length", only_for: None },
        QueueArgument { flag: "message-ttl", only_for: None },
    ],
    dead_letter_queue: |queue| format!("{queue}.dead"),
    parse,
};

/// The nodes of a cluster, in the order in which they are tried.
struct Nodes(Vec<Url>);

fn parse(text: &str) -> Result<Arc<dyn Broker>, String> {
    let nodes: Vec<&str> = text.split(',').collect();
    if !nodes.iter().all(|node| KIND.forms.iter().any(|form| node.starts_with(form.prefix))) {
        return Err(
            "each node of a cluster is an `amqp://…` URL; a `,` in the user or the password is written %2C".into()
        );
    }
    let nodes = nodes.into_iter().map(str::parse).collect::<Result<_, _>>()?;
    Ok(Arc::new(Nodes(nodes)))
}

#[async_trait]
impl Broker for Nodes {
    fn adapter(&self, options: Options) -> Box<dyn Adapter> {
        Box::new(super::Adapter::new(self.0.clone(), options))
    }

    fn admin(&self) -> Box<dyn Admin> {
        Box::new(admin::Admin::new(self.0.clone()))
    }

    fn walk(&self, queue: &str) -> Box<dyn walk::Walk> {
        Box::new(Walk::new(self.0.clone(), queue))
    }

    async fn outbox(&self, options: outbox::Options) -> Result<Arc<dyn outbox::Outbox>, Error> {
        Ok(Arc::new(Outbox::open(self.0.clone(), options).await?))
    }

    fn longest_delay_queue(&self, queue: &str, pause: Duration) -> Option<String> {
        Some(delays::delay_queue_for(queue, pause))
    }

    // By AMQP, KEDA sees what is ready.
    fn scaler(&self, queue: &str, _of_jobs: bool) -> Option<Scaler> {
        let metadata =
            vec![("protocol", "amqp".to_owned()), ("queueName", queue.to_owned()), ("mode", "QueueLength".to_owned())];
        let triggers = vec![Trigger { kind: "rabbitmq", metadata, length: "value" }];
        Some(Scaler { triggers, login: Login::Url("host"), counts_running: false })
    }

    fn hint(&self, error: &Error) -> Option<String> {
        if let Some(hint) = tls::hint(error) {
            return Some(hint.into());
        }
        let hint = match error {
            Error::MissingVirtualHost { name, .. } => {
                return Some(format!(
                    "the virtual host is the path of --broker (BROKER_URL), `/` if there is none; the administrator of the \
                     broker makes one: `rabbitmqctl add_vhost {name}`"
                ));
            }
            Error::OtherProtocol { .. } => {
                let about = error.hint().unwrap_or_default();
                return Some(format!(
                    "{about}; RabbitMQ's port is 5672 by default, and 5671 for amqps://; that of its management page is 15672"
                ));
            }
            Error::Tls { fault: TlsFault::Wanted, .. } => {
                "amqps:// in place of amqp:// connects with TLS; RabbitMQ's port without TLS is 5672 by default. Both are \
                 parts of --broker (BROKER_URL)"
            }
            Error::Credentials { .. } => {
                "user and password come from --broker (BROKER_URL, BROKER_URL_FILE): amqp://USER:PASSWORD@HOST:PORT"
            }
            Error::Tls { fault: TlsFault::Plain, .. } => {
                "RabbitMQ's port for TLS is 5671 by default; amqp:// in place of amqps:// connects without TLS. Both are \
                 parts of --broker (BROKER_URL)"
            }
            Error::Forbidden { .. } => {
                "`rabbitmqctl list_permissions` shows the permissions of a user; the virtual host is the path of --broker \
                 (BROKER_URL), `/` if there is none"
            }
            Error::Unavailable { .. } => {
                "`rabbitmqctl cluster_status` shows the nodes that are down; a classic queue lives on one node"
            }
            Error::FrameTooLarge { .. } => {
                "raise `frame_max` on the broker or in --broker (BROKER_URL): the connection uses the lower of the two"
            }
            Error::Stream { .. } => {
                "use a quorum queue or a classic queue: `wq-run queue declare --queue NAME` creates one; the name comes \
                 from --queue (QUEUE)"
            }
            _ => return None,
        };
        Some(hint.into())
    }

    async fn check(&self, settings: &Settings) -> Findings {
        check::check(&self.0, settings).await
    }

    fn caution_for_timeout(&self, timeout: Duration) -> Option<String> {
        (timeout >= ACKNOWLEDGEMENT_TIMEOUT).then(|| {
            format!(
                "--timeout (WQ_TIMEOUT) is {}, and a broker before RabbitMQ 4.3 takes a message back after 30m unless its \
                 consumer_timeout says otherwise",
                humantime::format_duration(timeout)
            )
        })
    }

    // AMQP tells neither a queue's arguments nor its policies, so that nothing better can be known.
    fn caution_for_rejects(&self) -> Option<&'static str> {
        Some(
            "--dead-letter-by broker: the broker DELETES the messages that fail for good if the queue has no dead-letter \
             exchange, or if no queue is bound to that exchange. AMQP does not show this, so wq-run cannot check it; \
             `rabbitmqctl list_queues name arguments policy effective_policy_definition` does",
        )
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&nodes.join(","))
    }
}
