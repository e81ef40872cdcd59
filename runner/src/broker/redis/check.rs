//! What `wq-run check` finds out about a Redis.
//!
//! Rights are found out by requests without an effect: see `rights.rs`.

mod rights;
mod server;

use std::time::{Duration, SystemTime};

use humantime::format_duration;

use self::server::Info;
use super::connection::Connection;
use super::error::failed;
use super::keys::Keys;
use super::queue::require_alone;
use super::terms::{ANSWER_TIMEOUT, GROUP};
use super::url::Url;
use super::value::{count, list, number, text};
use crate::broker::check::{Findings, Settings, made_later, there};
use crate::broker::error::Error;
use crate::broker::outbox::Address;
use crate::broker::tls;
use crate::finding::Topic;

/// Clocks that differ by more than this are worth a word.
const SKEW: Duration = Duration::from_secs(10);

/// A server, and the queue that is looked at.
pub struct Look<'a> {
    url: &'a Url,
    connection: Connection,
    settings: &'a Settings,
    keys: Keys,
}

pub async fn check(url: &Url, settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    let queue = &settings.options.queue;
    let connection = match Connection::look(url, queue, ANSWER_TIMEOUT).await {
        Ok(connection) => connection,
        Err(error) => {
            findings.refusal(topic(&error), error);
            return findings;
        }
    };
    let keys = Keys::new(queue, url.inbox.as_deref());
    let look = Look { url, connection, settings, keys };
    if let Err(error) = look.at_all(&mut findings).await {
        let topic = if matches!(error, Error::Forbidden { .. }) { Topic::Rights } else { Topic::Reach };
        findings.refusal(topic, error);
    }
    findings
}

fn topic(error: &Error) -> Topic {
    match error {
        Error::Credentials { .. } | Error::Forbidden { .. } => Topic::Credentials,
        Error::Settings { .. } => Topic::Reach,
        Error::Tls { .. } => Topic::Tls,
        error if tls::is_about_it(error) => Topic::Tls,
        _ => Topic::Reach,
    }
}

impl Look<'_> {
    /// # Errors
    /// When the server does not answer.
    async fn at_all(&self, findings: &mut Findings) -> Result<(), Error> {
        let info = Info::ask(&self.connection).await;
        let name = info.as_ref().map_or_else(|_| "a server that does not tell its version".to_owned(), Info::name);
        findings.good(Topic::Reach, format!("{}, {name}", self.url.address()));
        match self.url.is_encrypted() {
            Some(true) => {
                findings.good(Topic::Tls, "the connection is encrypted, and the server's certificate is valid")
            }
            Some(false) => findings.note(
                Topic::Tls,
                "the connection is not encrypted: the password and the messages can be read on their way",
            ),
            None => {}
        }
        findings.good(Topic::Credentials, format!("user `{}`", self.url.user()));
        match info {
            Ok(info) => info.look(findings),
            Err(error) if rights::is_refused(&error) => {
                findings.note(Topic::Durability, "not checked: the user may not ask for INFO");
            }
            Err(error) => return Err(failed(self.url, &self.keys.queue, "look at the server of", error)),
        }
        self.at_clock(findings).await;
        if self.at_queue(findings).await? {
            rights::look(&self.connection, &self.keys, &self.settings.options, findings).await?;
        }
        self.at_dead_letters(findings).await?;
        self.at_results(findings).await
    }

    /// Pauses and leases go by the server's clock alone.
    async fn at_clock(&self, findings: &mut Findings) {
        let before = SystemTime::now();
        let Ok(answer) = self.connection.ask(redis::cmd("TIME")).await else {
            return findings.note(Topic::Clock, "not checked: the user may not ask for TIME");
        };
        let seconds = list(answer).ok().and_then(|parts| parts.into_iter().next()).and_then(|part| number(part).ok());
        let Some(theirs) = seconds.and_then(|seconds| u64::try_from(seconds).ok()) else { return };
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(theirs);
        let skew = theirs.duration_since(before).or_else(|_| before.duration_since(theirs)).unwrap_or_default();
        let shown = format_duration(Duration::from_secs(skew.as_secs()));
        if skew <= SKEW {
            return findings.good(Topic::Clock, format!("the clocks of the server and of this host differ by {shown}"));
        }
        findings.caution(
            Topic::Clock,
            format!("the clocks of the server and of this host differ by {shown}"),
            "pauses and leases use the server's clock; times in headers, traces and the log come from this host, and do not match it",
            "set the clock of this host or of the server, by NTP for example",
        );
    }

    /// Returns whether there is a queue to work on.
    async fn at_queue(&self, findings: &mut Findings) -> Result<bool, Error> {
        let queue = &self.keys.queue;
        let mismatch =
            |what: String| Error::Mismatch { doing: format!("work on the queue `{queue}`"), source: what.into() };
        let missing = |reason: &str| Error::MissingQueue { queue: queue.clone(), source: Some(reason.into()) };
        match self.type_of(queue).await? {
            kind if kind == "stream" => {}
            kind if kind == "none" => {
                findings.refusal(Topic::Queue, missing("there is no such key"));
                return Ok(false);
            }
            kind => {
                findings.refusal(Topic::Queue, mismatch(format!("it is a {kind}, not a stream")));
                return Ok(false);
            }
        }
        let groups = list(self.request("look at the groups of", &["XINFO", "GROUPS", queue]).await?)?;
        let mut names = Vec::new();
        for group in groups {
            // Names and values in turns, of which the first is the name.
            names.extend(list(group)?.into_iter().nth(1).map(text).transpose()?);
        }
        if !names.iter().any(|name| name == GROUP) {
            findings.refusal(Topic::Queue, missing("the stream has no consumer group `wq-run`"));
            return Ok(false);
        }
        names.retain(|name| name != GROUP);
        if let Err(error) = require_alone(queue, &names) {
            findings.refusal(Topic::Queue, error);
            return Ok(false);
        }
        let all = count(self.request("count the messages of", &["XLEN", queue]).await?)?;
        let delayed = count(self.request("count the retries of", &["ZCARD", &self.keys.delayed]).await?)?;
        findings
            .good(Topic::Queue, format!("`{queue}` has {all} messages, with workers or not, and {delayed} delayed"));
        Ok(true)
    }

    async fn at_dead_letters(&self, findings: &mut Findings) -> Result<(), Error> {
        let name = &self.settings.options.dead_letter_queue;
        match self.type_of(name).await?.as_str() {
            "none" => findings.good(Topic::DeadLetters, made_later(name)),
            "stream" => {
                let all = count(self.request("count the messages of", &["XLEN", name]).await?)?;
                findings.good(Topic::DeadLetters, format!("`{name}` is there, with {all} messages"));
            }
            other => findings.later(
                Topic::DeadLetters,
                Error::Mismatch {
                    doing: format!("put dead letters into `{name}`"),
                    source: format!("it is a {other}, not a stream").into(),
                },
                "the first dead letter ends the worker with 78, is delivered again, and ends the next worker",
            ),
        }
        Ok(())
    }

    async fn at_results(&self, findings: &mut Findings) -> Result<(), Error> {
        for to in &self.settings.results {
            let Address::Queue(name) = to else { continue };
            match self.type_of(name).await?.as_str() {
                "stream" => findings.good(Topic::Results, there(to)),
                "none" => {
                    let error = Error::MissingQueue { queue: name.clone(), source: None };
                    findings.undeliverable(to.to_string(), error, None);
                }
                other => {
                    let source = format!("it is a {other}, not a stream").into();
                    let error = Error::Mismatch { doing: format!("publish to the queue `{name}`"), source };
                    findings.undeliverable(to.to_string(), error, None);
                }
            }
        }
        if self.settings.replies {
            findings.note(
                Topic::Results,
                "`reply`: not checked: wq-run looks up the stream that each message names in `reply_to`",
            );
        }
        Ok(())
    }

    async fn type_of(&self, key: &str) -> Result<String, Error> {
        text(self.request("look at", &["TYPE", key]).await?)
    }

    async fn request(&self, doing: &str, words: &[&str]) -> Result<redis::Value, Error> {
        let queue = &self.keys.queue;
        self.connection.ask(rights::command(words)).await.map_err(|error| failed(self.url, queue, doing, error))
    }
}
