//! What `wq-run check` finds out about a RabbitMQ.
//!
//! Queues and exchanges are looked at by passive declarations. What AMQP has no question for is asked by requests that cannot
//! be carried out: see `../arguments.rs` and `rights.rs`. Those need a broker whose refusals are known, so other brokers
//! than RabbitMQ are not asked.

mod queues;
mod rights;

use lapin::Connection;

use self::queues::Look;
use super::Url;
use super::connection::{self, connect_to};
use super::filter::Server;
use crate::broker::check::{Findings, Settings};
use crate::broker::error::Error;
use crate::broker::tls;
use crate::causes::chain;
use crate::finding::Topic;

/// Looks at all that a worker needs of its broker.
pub async fn check(nodes: &[Url], settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    let Some((url, connection, server)) = reach(nodes, &mut findings).await else { return findings };
    findings.good(Topic::Reach, format!("{}, {server}", url.address()));
    match url.is_encrypted() {
        true => findings.good(Topic::Tls, "the connection is encrypted, and the broker's certificate is valid"),
        false => findings.note(
            Topic::Tls,
            "the connection is not encrypted: the password and the messages can be read on their way",
        ),
    }
    findings.good(Topic::Credentials, format!("user `{}`, virtual host `{}`", url.user(), url.uri.vhost));
    Look { connection: &connection, server, settings, findings: &mut findings }.at_all().await;
    let _ = connection::close(&connection).await;
    findings
}

/// Connects to every node, and keeps the first connection.
async fn reach<'a>(nodes: &'a [Url], findings: &mut Findings) -> Option<(&'a Url, Connection, Server)> {
    let mut kept = None;
    let mut failed = Vec::new();
    for url in nodes {
        match connect_to(url, "wq-run check").await {
            Ok((connection, server)) if kept.is_none() => kept = Some((url, connection, server)),
            Ok((connection, _)) => drop(connection::close(&connection).await),
            Err(error) => failed.push((url, error)),
        }
    }
    let Some(kept) = kept else {
        // A worker ends with the first refusal, or else with what is said of the last node.
        let refused = failed.iter().position(|(_, error)| !matches!(error, Error::Unreachable { .. }));
        let at = refused.unwrap_or(failed.len().saturating_sub(1));
        if at < failed.len() {
            let (_, error) = failed.swap_remove(at);
            findings.refusal(topic(&error), error);
        }
        return None;
    };
    for (url, error) in failed {
        findings.caution(
            topic(&error),
            format!("the node {} cannot be used: {}", url.address(), chain(&error)),
            "a worker that loses its node has one node less to go to",
            "start that node, or leave it out of --broker (BROKER_URL)",
        );
    }
    Some(kept)
}

fn topic(error: &Error) -> Topic {
    match error {
        Error::Credentials { .. } | Error::Forbidden { .. } | Error::MissingVirtualHost { .. } => Topic::Credentials,
        Error::Settings { .. } | Error::Tls { .. } => Topic::Tls,
        error if tls::is_about_it(error) => Topic::Tls,
        _ => Topic::Reach,
    }
}
