//! Resolves which queue on which broker is meant.

use std::time::Duration;

use crate::broker::{MAX_NAME, Url, kinds};
use crate::cli;
use crate::error::Error;

/// Which queue on which broker.
#[derive(Debug)]
pub struct Target {
    pub broker: Url,
    pub queue: String,
}

impl Target {
    /// Whether a broker is named at all.
    pub fn is_named(typed: &cli::Broker) -> bool {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        typed.broker.as_ref().is_some_and(|url| !url.is_empty()) || is_set("AMQP_URL") || is_set("BROKER_URL_FILE")
    }

    pub fn resolve(typed: &cli::Broker) -> Result<Target, Error> {
        let broker = broker_url(typed)?;
        let typed = typed.queue.as_deref().filter(|queue| !queue.is_empty());
        match named_queue(typed.or(broker.queue()), "--queue (QUEUE)")? {
            None => Err(Error::configuration("no queue is named", "name it with --queue (QUEUE)")),
            Some(queue) => Ok(Target { queue, broker }),
        }
    }
}

/// A queue that a flag names, if it does. An empty variable is one that is not set.
pub fn named_queue(typed: Option<&str>, flag: &str) -> Result<Option<String>, Error> {
    match typed.filter(|queue| !queue.is_empty()) {
        Some(queue) if queue.len() > MAX_NAME => {
            Err(Error::configuration("the queue's name is longer than 255 bytes", format!("see {flag}")))
        }
        queue => Ok(queue.map(str::to_owned)),
    }
}

/// The flag and its variable first, then the variable's other name, then a file.
pub fn broker_url(typed: &cli::Broker) -> Result<Url, Error> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let text = if let Some(url) = typed.broker.clone().filter(|url| !url.is_empty()) {
        // The flag and its variable come as one. A command that repeats the variable needs no flag.
        let is_typed = std::env::var("BROKER_URL").ok().as_ref() != Some(&url);
        return parsed(&url).map(|broker| if is_typed { broker.typed(&url) } else { broker });
    } else if let Some(url) = variable("AMQP_URL") {
        url
    } else if let Some(path) = variable("BROKER_URL_FILE") {
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Configuration {
            message: format!("cannot read the file {path} that BROKER_URL_FILE names: {source}"),
            hint: Some("the file has to hold the broker's URL and nothing else".into()),
        })?;
        text.trim().to_owned()
    } else {
        return Err(Error::configuration("no broker is named", hint()));
    };
    parsed(&text)
}

fn parsed(text: &str) -> Result<Url, Error> {
    // The text itself is never shown: it holds a password.
    text.parse().map_err(|error| Error::configuration(format!("the broker's URL can't be used: {error}"), hint()))
}

fn hint() -> String {
    format!("set --broker (BROKER_URL, or BROKER_URL_FILE): {}", kinds::addresses())
}

/// Says what this broker does with a message that takes as long as a run may.
pub fn warn_of_timeout(broker: &Url, timeout: Duration) {
    if let Some(caution) = broker.broker().caution_for_timeout(timeout) {
        tracing::warn!(caution, "a setting needs attention");
    }
}
