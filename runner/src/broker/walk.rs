//! A walk through a queue: what lies in it, and what becomes of the messages that are picked out.
//!
//! Some brokers let anybody look. Others only hand messages over: there a walk holds what it came by, so that it sees each
//! message once, and gives it back at its end.

use std::any::Any;
use std::time::SystemTime;

use async_trait::async_trait;
use serde_json::Value;

use super::error::Error;
use super::failure;
use crate::task::{Message, Origin};

/// About how many bytes of messages a walk reads at once, where it can stop in between.
pub const PAGE_BYTES: usize = 1 << 20;

/// A header that a message gets when a walk puts it back as a copy.
pub const RENEWED: &str = "x-wq-renewed";

/// What a message that is moved on leaves behind: what earlier failures wrote, so that it gets all of its attempts, and
/// [`RENEWED`].
pub const LEFT_BEHIND: [&str; failure::NAMES.len() + 1] = {
    let mut names = [RENEWED; failure::NAMES.len() + 1];
    let mut at = 0;
    while at < failure::NAMES.len() {
        names[at] = failure::NAMES[at];
        at += 1;
    }
    names
};

/// A message that a walk came by. It stays in its queue until it is moved or removed.
#[derive(Debug)]
pub struct Seen {
    pub message: Message,
    pub origin: Origin,
    /// Why not all of it can be read.
    pub unreadable: Option<String>,
    /// What the broker says, if it was the broker that put the message aside.
    pub death: Option<Death>,
    /// What only its adapter reads.
    pub(super) place: Box<dyn Any + Send + Sync>,
}

/// How a message came into a queue for dead letters by its broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// The queue that it was in.
    pub queue: Option<String>,
    pub reason: Option<String>,
    pub at: Option<SystemTime>,
}

/// What became of a message that was to leave its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// It was not there any more: somebody else took it.
    Gone,
    /// It may be done or not.
    Unknown,
}

/// What became of several messages, in their order.
#[derive(Debug)]
pub struct Fates {
    pub each: Vec<Fate>,
    /// There if one of them is unknown.
    pub failed: Option<Error>,
}

#[async_trait]
pub trait Walk: Send {
    /// Goes on to the next messages, `most` of them at most, and fewer if they are large; none at the end of the queue. Messages
    /// that are with a worker or wait for the end of a pause are not seen.
    ///
    /// # Errors
    /// When there is no such queue.
    async fn next(&mut self, most: usize) -> Result<Vec<Seen>, Error>;

    /// Leaves messages where they are. To be called for all that are neither moved nor removed.
    ///
    /// # Errors
    /// When the connection is lost.
    async fn pass(&mut self, seen: Vec<Seen>) -> Result<(), Error>;

    /// Moves messages to another queue without [`LEFT_BEHIND`]. A message is known to be there before it leaves its own.
    async fn move_to(&mut self, queue: &str, seen: Vec<Seen>) -> Fates;

    /// Deletes messages.
    async fn remove(&mut self, seen: Vec<Seen>) -> Fates;

    /// About how many messages are ready that the walk did not come by, where a broker hands them over and keeps some back.
    ///
    /// # Errors
    /// When the broker does not say.
    async fn unseen(&mut self) -> Result<u64, Error> {
        Ok(0)
    }

    /// Gives back what is held.
    ///
    /// # Errors
    /// When something that was moved or removed may still be there.
    async fn close(self: Box<Self>) -> Result<(), Error>;
}

/// What a dead letter says of its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The queue in which the message died.
    pub queue: Option<String>,
    /// The outcome of its last run, or the broker's reason.
    pub outcome: Option<String>,
    pub exit_code: Option<u64>,
    pub attempts: Option<u64>,
    pub error: Option<String>,
    /// The last of what its guest wrote to stderr.
    pub stderr: Option<String>,
    /// The digest of its guest.
    pub guest: Option<String>,
    pub first_failed_at: Option<SystemTime>,
    pub at: Option<SystemTime>,
}

impl Seen {
    /// What our headers say, and what the broker says where they say nothing.
    pub fn end(&self) -> End {
        let text = |name: &str| self.message.headers.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| self.message.headers.get(name).and_then(Value::as_u64);
        let time = |name: &str| text(name).and_then(|at| humantime::parse_rfc3339(&at).ok());
        let ours = failure::is_dead_letter(&self.message.headers);
        let death = self.death.clone().unwrap_or_default();
        // A retry that its broker put aside has headers of ours as well, about the run before.
        let (queue, at) = (text(failure::QUEUE), time(failure::LAST_FAILED_AT));
        let (queue, at) =
            if ours { (queue.or(death.queue), at.or(death.at)) } else { (death.queue.or(queue), death.at.or(at)) };
        End {
            queue,
            at,
            outcome: text(failure::OUTCOME).or(death.reason),
            exit_code: number(failure::EXIT_CODE),
            attempts: number(failure::ATTEMPT),
            error: text(failure::ERROR).or_else(|| self.unreadable.clone()),
            stderr: text(failure::STDERR),
            guest: text(failure::GUEST),
            first_failed_at: time(failure::FIRST_FAILED_AT),
        }
    }

    /// What the adapter noted. Each adapter gets only what it made itself.
    pub(super) fn place<T: 'static>(self) -> Option<Box<T>> {
        self.place.downcast().ok()
    }
}

impl Fates {
    pub fn all(fate: Fate, count: usize) -> Fates {
        Fates { each: vec![fate; count], failed: None }
    }

    pub fn unknown(count: usize, error: Error) -> Fates {
        Fates { failed: Some(error), ..Fates::all(Fate::Unknown, count) }
    }

    pub fn count(&self, fate: Fate) -> u64 {
        self.each.iter().filter(|other| **other == fate).count() as u64
    }
}

/// Of one answer for each.
impl FromIterator<Result<Fate, Error>> for Fates {
    fn from_iter<I: IntoIterator<Item = Result<Fate, Error>>>(answers: I) -> Fates {
        let mut fates = Fates { each: Vec::new(), failed: None };
        for answer in answers {
            fates.each.push(answer.unwrap_or_else(|error| {
                fates.failed.get_or_insert(error);
                Fate::Unknown
            }));
        }
        fates
    }
}
