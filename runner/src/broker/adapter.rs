//! What a kind of broker gives: the facts in its line of the table, and what can be done at an address of its own.
//!
//! `kinds.rs` is the table. An adapter is a folder with a [`BrokerKind`] and a [`Broker`]; the rest of the program knows no
//! more of it than is here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::admin::Admin;
use super::check::{self, Findings, Settings};
use super::error::Error;
use super::link::{Ended, Link};
use super::outbox::{self, Outbox};
use super::scaler::Scaler;
use super::subscription::Options;
use super::walk::Walk;
use crate::task::System;

/// A kind of broker, as far as it is the same for all of its addresses.
#[derive(Debug)]
pub struct BrokerKind {
    /// As a sentence calls it: "the embedded queue".
    pub name: &'static str,
    /// As traces call it.
    pub system: System,
    /// How its addresses are written. No other kind has one of these prefixes.
    pub forms: &'static [Form],
    pub capabilities: Capabilities,
    /// What `queue declare --type` takes, the default first. Empty if its queues are all of one type.
    pub queue_types: &'static [&'static str],
    /// What else `queue declare` takes.
    pub queue_arguments: &'static [QueueArgument],
    /// Where dead letters of a queue go if nothing else is said: a name that the broker takes.
    pub dead_letter_queue: fn(&str) -> String,
    /// Reads an address that starts with one of the prefixes. The reason of a refusal never holds a part of the address,
    /// which may have a password in it.
    pub(crate) parse: fn(&str) -> Result<Arc<dyn Broker>, String>,
}

/// A way to write an address.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub prefix: &'static str,
    /// The parts that follow.
    pub rest: &'static str,
}

/// What a broker can do. A setting that asks for more is refused before a message is taken.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// A message that is given back is not counted as an attempt, whatever the broker's version.
    pub release_uncounted: bool,
    /// A message that is tried again says in its headers what became of its last run. Dead letters always do.
    pub retry_headers: bool,
    /// A queue can put dead letters aside by itself: `--dead-letter-by broker`.
    pub broker_dead_letters: bool,
    /// There are exchanges: `--result exchange:NAME/KEY`.
    pub exchanges: bool,
    /// An answer can go to whoever asked: `--result reply`.
    pub reply: bool,
    /// Bodies are text. Others are packed as text on their way, and come out of it as they were.
    pub text_only: bool,
    /// The largest message in bytes; `None` if the broker's own settings say it.
    pub max_message: Option<u64>,
    /// How long a message stays with a worker that does not answer any more; `None` if it goes back with the connection.
    pub lease: Option<Duration>,
    /// The longest time that a message can be with a worker, whatever the worker does; `None` if there is no such bound.
    pub longest_hold: Option<Duration>,
    /// The longest pause before a retry; `None` if there is no such bound.
    pub longest_pause: Option<Duration>,
    /// The longest delay of a message that is published; `None` if there is no such bound.
    pub longest_delay: Option<Duration>,
    /// A message can go away by itself after a time.
    pub expiration: bool,
    /// How many messages one look at a queue can see, where a broker only hands them over; `None` if it lets anybody look.
    pub most_seen: Option<u64>,
}

/// An argument that a queue can be made with.
#[derive(Clone, Copy, Debug)]
pub struct QueueArgument {
    /// Without its hyphens.
    pub flag: &'static str,
    /// The only type of queue that has it, where others have not.
    pub only_for: Option<&'static str>,
}

/// A broker at its address. Never shows a password.
#[async_trait]
pub(crate) trait Broker: fmt::Display + Send + Sync {
    /// The queue that the address names, where it does.
    fn queue(&self) -> Option<&str> {
        None
    }

    /// The sessions of one worker.
    fn adapter(&self, options: Options) -> Box<dyn Adapter>;

    /// What commands do with its queues. Connects when it has something to do.
    fn admin(&self) -> Box<dyn Admin>;

    /// A walk through one of its queues. Connects when it begins.
    fn walk(&self, queue: &str) -> Box<dyn Walk>;

    /// Opens a way out for results.
    async fn outbox(&self, options: outbox::Options) -> Result<Arc<dyn Outbox>, Error>;

    /// What helps against an error of this kind of broker, where it knows better than [`Error::hint`].
    fn hint(&self, _error: &Error) -> Option<String> {
        None
    }

    /// The longest name among the queues in which retries wait for up to so long; `None` if they need no queues.
    fn longest_delay_queue(&self, _queue: &str, _pause: Duration) -> Option<String> {
        None
    }

    /// Whether only this host reaches it.
    fn is_on_this_host(&self) -> bool {
        false
    }

    /// How KEDA counts the messages of a queue; `None` if it can't. `of_jobs` if it starts a Job for each of them.
    fn scaler(&self, _queue: &str, _of_jobs: bool) -> Option<Scaler> {
        None
    }

    /// A warning for guests that may run for up to `timeout`, if this kind of broker has one.
    fn caution_for_timeout(&self, _timeout: Duration) -> Option<String> {
        None
    }

    /// A warning for workers that leave dead letters to the broker, if this kind of broker has one.
    fn caution_for_rejects(&self) -> Option<&'static str> {
        None
    }

    /// Looks whether a worker with these settings can do its work here. Makes, takes and changes nothing.
    async fn check(&self, settings: &Settings) -> Findings {
        check::by_admin(self.admin(), settings).await
    }
}

/// Takes messages for one worker. Its state outlives a connection.
#[async_trait]
pub(crate) trait Adapter: Send {
    /// One connection's life, from the first frame to the last. Commands are answered in all of it.
    async fn session(&mut self, link: &mut Link) -> Ended;
}
