//! What the commands do to queues, on every kind of broker: fill them, make them, look at them, take from them.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::Error;
use super::failure;
use crate::task::{Message, Origin, Properties};

/// What is in a queue; `None` where the broker does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub ready: u64,
    /// With a worker, not settled.
    pub running: Option<u64>,
    /// Waiting for the end of a backoff.
    pub delayed: Option<u64>,
    /// Workers that are subscribed.
    pub workers: Option<u64>,
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
    /// Puts a message into a queue, and returns when the broker has confirmed it.
    ///
    /// # Errors
    /// When the message is not known to be in the queue.
    async fn publish(&mut self, queue: &str, properties: Properties, body: Bytes) -> Result<(), Error>;

    /// Makes a durable queue; one that is there already stays as it is. `queue_type` is one of its kind's, or
    /// `None` where that has none.
    ///
    /// # Errors
    /// When there is a queue of that name and another type, or the right is missing.
    async fn declare(&mut self, queue: &str, queue_type: Option<&str>) -> Result<(), Error>;

    /// # Errors
    /// When there is no such queue.
    async fn status(&mut self, queue: &str) -> Result<Status, Error>;

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
