//! Queues from the outside: filling them, making them, looking at them. For either kind of broker.

use bytes::Bytes;

use super::{Error, Url, amqp, sqlite};
use crate::task::{Message, Origin, Properties};

/// How a broker that knows several kinds keeps a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated, and counts how often a message was handed over.
    Quorum,
    Classic,
}

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
    pub(super) receipt: Receipt,
}

/// What names it to its broker.
#[derive(Debug)]
pub(super) enum Receipt {
    Amqp(amqp::admin::Receipt),
    Sqlite(sqlite::admin::Receipt),
}

/// A closed choice, as with the adapters: the commands do not know which broker they talk to.
pub enum Admin {
    Amqp(Box<amqp::admin::Admin>),
    Sqlite(sqlite::admin::Admin),
}

impl Admin {
    pub fn new(url: &Url) -> Admin {
        match url {
            Url::Amqp(nodes) => Admin::Amqp(Box::new(amqp::admin::Admin::new(nodes.clone()))),
            Url::Sqlite(path) => Admin::Sqlite(sqlite::admin::Admin::new(path.clone())),
        }
    }

    /// Puts a message into a queue, and returns when the broker has confirmed it.
    ///
    /// # Errors
    /// When the message is not known to be in the queue.
    pub async fn publish(&mut self, queue: &str, properties: Properties, body: Bytes) -> Result<(), Error> {
        match self {
            Admin::Amqp(admin) => admin.publish(queue, properties, body).await,
            Admin::Sqlite(admin) => admin.publish(queue, properties, body),
        }
    }

    /// Makes a durable queue; one that is there already stays as it is.
    ///
    /// # Errors
    /// When there is a queue of that name and another type, or the right is missing.
    pub async fn declare(&self, queue: &str, kind: QueueType) -> Result<(), Error> {
        match self {
            Admin::Amqp(admin) => admin.declare(queue, kind).await,
            Admin::Sqlite(admin) => admin.declare(queue),
        }
    }

    /// # Errors
    /// When there is no such queue.
    pub async fn status(&self, queue: &str) -> Result<Status, Error> {
        match self {
            Admin::Amqp(admin) => admin.status(queue).await,
            Admin::Sqlite(admin) => admin.status(queue),
        }
    }

    /// Deletes what is ready, and says how much that was.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn purge(&self, queue: &str) -> Result<u64, Error> {
        match self {
            Admin::Amqp(admin) => admin.purge(queue).await,
            Admin::Sqlite(admin) => admin.purge(queue),
        }
    }

    /// Takes the next message; `None` if none is ready. It comes again unless it is [forgotten](Admin::forget).
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn get(&mut self, queue: &str) -> Result<Option<Got>, Error> {
        match self {
            Admin::Amqp(admin) => admin.get(queue).await,
            Admin::Sqlite(admin) => admin.get(queue),
        }
    }

    /// Lets the queue forget a message. Certain only after [`Admin::close`].
    ///
    /// # Errors
    /// When the message is not known to be gone.
    pub async fn forget(&mut self, got: Got) -> Result<(), Error> {
        match (self, got.receipt) {
            (Admin::Amqp(_), Receipt::Amqp(receipt)) => receipt.forget().await,
            (Admin::Sqlite(admin), Receipt::Sqlite(receipt)) => admin.forget(&receipt),
            _ => Err(Error::Lost { source: Some("the message is another broker's".into()) }),
        }
    }

    /// # Errors
    /// When something may not have arrived.
    pub async fn close(self) -> Result<(), Error> {
        match self {
            Admin::Amqp(admin) => admin.close().await,
            Admin::Sqlite(admin) => admin.close(),
        }
    }
}
