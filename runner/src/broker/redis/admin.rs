//! What the commands do to queues on a Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::connection::Connection;
use super::keys::Keys;
use super::queue::{self, Counts};
use super::store::{Lease, Store, Taken, lost};
use super::terms::{RENEW, SYSTEM};
use super::url::Url;
use crate::broker::admin::{self, Arguments, Changes, Confirmed, Got, Status};
use crate::broker::error::Error;
use crate::broker::leased::{Holder, Keeping, Kept};
use crate::fault::{self, Point};
use crate::task::{Message, Origin};

/// For the answer to each request: what a worker has `--publish-timeout` for.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Admin {
    url: Url,
    connection: Option<Connection>,
    /// Made for the first message that is taken.
    taker: Option<Taker>,
}

/// Takes messages of one queue, and keeps what was taken.
struct Taker {
    queue: String,
    keeping: Keeping<Store>,
}

/// A message under a lease, so that it comes again if we die before it is forgotten.
struct Held {
    kept: Arc<Kept<Store>>,
    lease: Lease,
}

impl Admin {
    pub fn new(url: Url) -> Admin {
        Admin { url, connection: None, taker: None }
    }

    async fn connection(&mut self, queue: &str) -> Result<&Connection, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.url, queue, Some(ANSWER_TIMEOUT)).await?,
        };
        Ok(self.connection.insert(connection))
    }

    fn keys(&self, queue: &str) -> Keys {
        Keys::new(queue, self.url.inbox.as_deref())
    }
}

#[async_trait]
impl admin::Admin for Admin {
    async fn publish(&mut self, queue: &str, mut messages: Vec<Message>, delay: Duration) -> Confirmed {
        let keys = self.keys(queue);
        let connection = match self.connection(queue).await {
            Ok(connection) => connection,
            Err(error) => return Confirmed::none(messages.len(), error),
        };
        messages.iter_mut().for_each(|message| message.properties.stamp());
        fault::reach(Point::Published);
        let confirmed = queue::publish_all(connection, &keys, messages, delay).await;
        fault::reach(Point::Confirmed);
        confirmed
    }

    /// All of its queues are of one type.
    async fn declare(&mut self, queue: &str, _queue_type: Option<&str>, _arguments: &Arguments) -> Result<(), Error> {
        let connection = self.connection(queue).await?;
        queue::declare(connection, queue).await?;
        queue::warn_of_eviction(connection, queue).await;
        Ok(())
    }

    async fn status(&mut self, queue: &str) -> Result<Status, Error> {
        let keys = self.keys(queue);
        let Counts { ready, delayed, running } = queue::counts(self.connection(queue).await?, &keys).await?;
        Ok(Status { ready, delayed: Some(delayed), running: Some(running), ..Status::default() })
    }

    async fn purge(&mut self, queue: &str) -> Result<u64, Error> {
        let keys = self.keys(queue);
        queue::purge(self.connection(queue).await?, &keys).await
    }

    async fn take(&mut self, queue: &str, most: usize) -> Result<Vec<Got>, Error> {
        let taker = match self.taker.take_if(|taker| taker.queue == queue) {
            Some(taker) => taker,
            None => {
                if let Some(other) = self.taker.take() {
                    other.keeping.end().await?;
                }
                Taker::start(&self.url, queue).await?
            }
        };
        let kept = &self.taker.insert(taker).keeping.kept;
        let (taken, _) = kept.holder.look(most).await?;
        let read = |Taken { lease, mut message, redelivered, unreadable, .. }| {
            if let Some(reason) = &unreadable {
                message.headers.insert("x-wq-error".into(), reason.as_str().into());
            }
            kept.hold(&lease.id, lease.clone());
            let held = Held { kept: kept.clone(), lease };
            Got { message, origin: Origin::of_queue(queue, redelivered, SYSTEM), unreadable, held: Box::new(held) }
        };
        Ok(taken.into_iter().map(read).collect())
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        match self.taker {
            Some(taker) => taker.keeping.end().await,
            None => Ok(()),
        }
    }
}

impl Taker {
    async fn start(url: &Url, queue: &str) -> Result<Taker, Error> {
        Ok(Taker { queue: queue.to_owned(), keeping: Keeping::start(Store::open(url, queue).await?) })
    }
}

#[async_trait]
impl Holder for Store {
    type Lease = Lease;

    fn pause(&self) -> Duration {
        RENEW
    }

    async fn renew(&self, leases: Vec<Lease>) -> Result<(), Error> {
        Store::renew(self, &leases.iter().collect::<Vec<_>>()).await.map(drop)
    }

    async fn give_back(&self, leases: Vec<Lease>) -> Result<(), Error> {
        for lease in leases {
            self.release(&lease).await?;
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), Error> {
        Store::leave(self).await
    }
}

#[async_trait]
impl admin::Held for Held {
    async fn forget(self: Box<Self>) -> Result<(), Error> {
        let forgotten = self.kept.holder.ack(&self.lease).await;
        // There is nothing left to give back: it is gone, or its lease ends.
        self.kept.forget(&self.lease.id);
        if forgotten? { Ok(()) } else { Err(lost()) }
    }

    async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error> {
        self.kept.holder.copy(&self.lease, queue, changes.without_headers).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.kept.give_back_soon(&self.lease.id);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({:?})", self.lease)
    }
}
