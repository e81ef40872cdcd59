//! Queues from the outside: filling them, making them, looking at them. The same for every kind of broker.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::Error;
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

/// A message that was taken out of a queue, and that the queue forgets when it is told to.
#[derive(Debug)]
pub struct Got {
    pub message: Message,
    pub origin: Origin,
    /// Why not all of it can be read.
    pub unreadable: Option<String>,
    pub(super) held: Box<dyn Held>,
}

/// What a broker keeps of a message that was taken.
#[async_trait]
pub(super) trait Held: fmt::Debug + Send + Sync {
    async fn forget(self: Box<Self>) -> Result<(), Error>;
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

    /// Takes the next message; `None` if none is ready. It comes again unless it is [forgotten](Got::forget).
    ///
    /// # Errors
    /// When there is no such queue.
    async fn get(&mut self, queue: &str) -> Result<Option<Got>, Error>;

    /// # Errors
    /// When something may not have arrived.
    async fn close(self: Box<Self>) -> Result<(), Error>;
}

impl Got {
    /// Lets the queue forget the message. Certain only after [`Admin::close`].
    ///
    /// # Errors
    /// When the message is not known to be gone.
    pub async fn forget(self) -> Result<(), Error> {
        self.held.forget().await
    }
}
