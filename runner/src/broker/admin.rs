//! What the commands do to queues, on every kind of broker: fill them, make them, look at them, take from them.

use std::fmt;

use std::time::Duration;

use async_trait::async_trait;

use super::error::Error;
use super::failure;
use crate::task::{Message, Origin};

/// What is in a queue; `None` where the broker does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub ready: u64,
    /// With a worker, not settled.
    pub running: Option<u64>,
    /// Waiting for the end of a backoff.
    pub delayed: Option<u64>,
    /// Workers that are subscribed.
    pub workers: Option<u64>,
    /// Where to ask for what the broker does not tell here.
    pub elsewhere: Option<&'static str>,
}

/// What a queue can be made with beside its type. A kind says in its table which of these it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Where the broker itself puts dead letters.
    pub dead_letter_exchange: Option<String>,
    /// Hand-overs after which the broker itself puts a message aside; -1 is no limit.
    pub delivery_limit: Option<i64>,
    pub max_priority: Option<u8>,
    /// Messages that it holds at most.
    pub max_length: Option<u64>,
    /// How long a message stays that nobody takes.
    pub message_ttl: Option<Duration>,
}

/// Which of several messages are known to have arrived.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// In their order.
    pub each: Vec<bool>,
    /// There if one of them is not. It may have arrived all the same.
    pub failed: Option<Error>,
}

/// A message that was taken out of a queue.
///
/// The queue forgets it when it is told to. If it is dropped instead (a panic, an error, an early return), it is given back
/// to the queue at once, as it was.
#[derive(Debug)]
#[must_use = "what is dropped goes back to its queue"]
pub struct Got {
    pub message: Message,
    pub origin: Origin,
    /// Why not all of it can be read.
    pub unreadable: Option<String>,
    pub(super) held: Box<dyn Held>,
}

/// How a copy of a message differs from it. Nothing differs by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Headers that the copy does not have.
    pub without_headers: &'static [&'static str],
}

/// A message that was taken, as its broker has it. Dropped, it gives the message back.
#[async_trait]
pub(super) trait Held: fmt::Debug + Send + Sync {
    /// Lets the queue forget the message.
    async fn forget(self: Box<Self>) -> Result<(), Error>;

    /// Publishes a copy into another queue, from what the broker has of the message and not from what we read of it, and
    /// returns when it is confirmed.
    async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error>;
}

#[async_trait]
pub trait Admin: Send {
    /// Puts messages into a queue, in their order, and returns when the broker has answered for all of them. They can be
    /// taken after `delay`.
    async fn publish(&mut self, queue: &str, messages: Vec<Message>, delay: Duration) -> Confirmed;

    /// Makes a durable queue; one that is there already stays as it is. `queue_type` is one of its kind's, or
    /// `None` where that has none.
    ///
    /// # Errors
    /// When there is a queue of that name with another type or other arguments, or the right is missing.
    async fn declare(&mut self, queue: &str, queue_type: Option<&str>, arguments: &Arguments) -> Result<(), Error>;

    /// # Errors
    /// When there is no such queue.
    async fn status(&mut self, queue: &str) -> Result<Status, Error>;

    /// How many messages of a queue are ready; `None` if there is no such queue.
    ///
    /// # Errors
    /// When the broker does not say.
    async fn ready(&mut self, queue: &str) -> Result<Option<u64>, Error> {
        match self.status(queue).await {
            Ok(status) => Ok(Some(status.ready)),
            Err(Error::MissingQueue { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes what is ready, and says how much that was.
    ///
    /// # Errors
    /// When there is no such queue.
    async fn purge(&mut self, queue: &str) -> Result<u64, Error>;

    /// Takes the next messages, up to `most`; fewer if fewer are ready. They are nobody else's until they are
    /// [forgotten](Got::forget) or dropped.
    ///
    /// # Errors
    /// When there is no such queue. Nothing is taken then.
    async fn take(&mut self, queue: &str, most: usize) -> Result<Vec<Got>, Error>;

    /// # Errors
    /// When something may not have arrived.
    async fn close(self: Box<Self>) -> Result<(), Error>;
}

impl Arguments {
    /// The flags of those that are given, as they are typed.
    pub fn given(&self) -> Vec<&'static str> {
        let Arguments { dead_letter_exchange, delivery_limit, max_priority, max_length, message_ttl } = self;
        let all = [
            ("dead-letter-exchange", dead_letter_exchange.is_some()),
            ("delivery-limit", delivery_limit.is_some()),
            ("max-priority", max_priority.is_some()),
            ("max-length", max_length.is_some()),
            ("message-ttl", message_ttl.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }
}

impl Confirmed {
    pub fn all(count: usize) -> Confirmed {
        Confirmed { each: vec![true; count], failed: None }
    }

    pub fn none(count: usize, error: Error) -> Confirmed {
        Confirmed { each: vec![false; count], failed: Some(error) }
    }

    /// Adds the answer for the next message. The first error is kept.
    pub fn push(&mut self, answer: Result<(), Error>) {
        self.each.push(answer.is_ok());
        if let Err(error) = answer {
            self.failed.get_or_insert(error);
        }
    }
}

impl Changes {
    /// Without all that an earlier failure wrote: the copy gets all of its attempts.
    pub const WITHOUT_FAILURE: Changes = Changes { without_headers: &failure::NAMES };
}

impl Got {
    /// Lets the queue forget the message. Certain only after [`Admin::close`].
    ///
    /// # Errors
    /// When the message is not known to be gone.
    pub async fn forget(self) -> Result<(), Error> {
        self.held.forget().await
    }

    /// Publishes a copy of the message into a queue of its broker, with all properties and headers, and returns when the
    /// broker has confirmed it. The message itself stays taken. Copies the message also if it is unreadable.
    ///
    /// # Errors
    /// When the copy is not known to be in the queue. It may be there all the same.
    pub async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error> {
        self.held.publish_again(queue, changes).await
    }
}
