//! What a broker is looked at for by `wq-run check`, and how that goes on any kind of broker.
//!
//! A look makes nothing, takes nothing and changes nothing.

use std::time::Duration;

use super::admin::{Admin, Status};
use super::error::Error;
use super::outbox::Address;
use super::subscription::Options;
use crate::finding::Topic;

pub type Findings = crate::finding::Findings<Error>;

/// What a worker would ask of the broker.
#[derive(Clone, Debug)]
pub struct Settings {
    pub options: Options,
    /// How long one run may take.
    pub timeout: Duration,
    /// Where results go on the broker.
    pub results: Vec<Address>,
    /// Whether results go to those who asked.
    pub replies: bool,
    /// A message and its result, in bytes.
    pub largest: u64,
}

/// Looks with what every kind of broker has.
pub async fn by_admin(mut admin: Box<dyn Admin>, settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    let Options { queue, dead_letter_queue, .. } = &settings.options;
    match admin.status(queue).await {
        Ok(status) => findings.good(Topic::Queue, described(queue, status)),
        Err(error) => {
            findings.refusal(Topic::Queue, error);
            return findings;
        }
    }
    match admin.status(dead_letter_queue).await {
        Ok(status) => findings.good(Topic::DeadLetters, described(dead_letter_queue, status)),
        Err(Error::MissingQueue { .. }) => findings.good(Topic::DeadLetters, made_later(dead_letter_queue)),
        Err(error) => findings.refusal(Topic::DeadLetters, error),
    }
    for to in &settings.results {
        if let Address::Queue(name) = to {
            match admin.status(name).await {
                Ok(_) => findings.good(Topic::Results, there(to)),
                Err(error) => findings.undeliverable(to.to_string(), error, None),
            }
        }
    }
    let _ = admin.close().await;
    findings
}

/// What is in a queue, in a sentence.
pub fn described(queue: &str, status: Status) -> String {
    let Status { ready, running, delayed, workers, .. } = status;
    let more = [(running, "running"), (delayed, "delayed"), (workers, "workers")];
    let more = more.into_iter().filter_map(|(count, what)| Some(format!(", {} {what}", count?)));
    format!("`{queue}` has {ready} messages ready{}", more.collect::<String>())
}

pub fn made_later(dead_letter_queue: &str) -> String {
    format!("`{dead_letter_queue}` is not there yet: wq-run makes it with the first dead letter")
}

pub fn there(to: &Address) -> String {
    format!("{to} is there")
}
