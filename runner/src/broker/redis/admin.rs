//! What the commands do to queues on a Redis.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::keys::Keys;
use super::queue::{self, Counts};
use super::store::{Lease, Store, Taken, lost};
use super::terms::{RENEW, SYSTEM};
use super::url::Url;
use crate::broker::admin::{self, Arguments, Changes, Confirmed, Got, Status};
use crate::broker::error::Error;
use crate::causes::chain;
use crate::fault::{self, Point};
use crate::locks::lock;
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
    kept: Arc<Kept>,
    keeping: JoinHandle<Result<(), Error>>,
}

struct Kept {
    store: Store,
    leases: Mutex<Leases>,
    /// Something was dropped.
    dropped: Notify,
    ends: CancellationToken,
}

#[derive(Default)]
struct Leases {
    /// By the id of the message: with us, and renewed.
    held: HashMap<String, Lease>,
    /// To be given back.
    dropped: Vec<Lease>,
}

/// A message under a lease, so that it comes again if we die before it is forgotten.
struct Held {
    kept: Arc<Kept>,
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
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs());
        for message in &mut messages {
            message.properties.timestamp = message.properties.timestamp.or(now);
        }
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
                    other.end().await?;
                }
                Taker::start(&self.url, queue).await?
            }
        };
        let kept = &self.taker.insert(taker).kept;
        let (taken, _) = kept.store.look(most).await?;
        let mut leases = kept.leases();
        let read = |Taken { lease, mut message, redelivered, unreadable, .. }| {
            if let Some(reason) = &unreadable {
                message.headers.insert("x-wq-error".into(), reason.as_str().into());
            }
            leases.held.insert(lease.id.clone(), lease.clone());
            let held = Held { kept: kept.clone(), lease };
            Got { message, origin: Origin::of_queue(queue, redelivered, SYSTEM), unreadable, held: Box::new(held) }
        };
        Ok(taken.into_iter().map(read).collect())
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        match self.taker {
            Some(taker) => taker.end().await,
            None => Ok(()),
        }
    }
}

impl Taker {
    async fn start(url: &Url, queue: &str) -> Result<Taker, Error> {
        let kept = Arc::new(Kept {
            store: Store::open(url, queue).await?,
            leases: Mutex::default(),
            dropped: Notify::new(),
            ends: CancellationToken::new(),
        });
        // A task of its own: a command may block while it prints.
        let keeping = tokio::spawn(kept.clone().keep());
        Ok(Taker { queue: queue.to_owned(), kept, keeping })
    }

    /// Gives back what was dropped.
    async fn end(self) -> Result<(), Error> {
        self.kept.ends.cancel();
        match self.keeping.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(ended) => ended,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(Error::Lost { source: None }),
        }
    }
}

impl Kept {
    /// Renews what is held and gives back what was dropped, until the end.
    async fn keep(self: Arc<Self>) -> Result<(), Error> {
        loop {
            let kept = tokio::select! {
                () = self.ends.cancelled() => {
                    self.give_back().await?;
                    return self.store.leave().await;
                }
                () = self.dropped.notified() => self.give_back().await,
                () = tokio::time::sleep(RENEW) => self.renew().await,
            };
            if let Err(error) = kept {
                tracing::warn!(error = %chain(&error), "messages that were taken are delivered again when their leases end");
            }
        }
    }

    async fn give_back(&self) -> Result<(), Error> {
        let dropped = std::mem::take(&mut self.leases().dropped);
        for lease in dropped {
            // One that is lost already is no longer ours to give back.
            self.store.release(&lease).await?;
        }
        Ok(())
    }

    async fn renew(&self) -> Result<(), Error> {
        let held: Vec<Lease> = self.leases().held.values().cloned().collect();
        // What is lost is told when it is to be forgotten.
        if held.is_empty() { Ok(()) } else { self.store.renew(&held.iter().collect::<Vec<_>>()).await.map(drop) }
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        lock(&self.leases)
    }
}

#[async_trait]
impl admin::Held for Held {
    async fn forget(self: Box<Self>) -> Result<(), Error> {
        let forgotten = self.kept.store.ack(&self.lease).await;
        // There is nothing left to give back: it is gone, or its lease ends.
        self.kept.leases().held.remove(&self.lease.id);
        if forgotten? { Ok(()) } else { Err(lost()) }
    }

    async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error> {
        self.kept.store.copy(&self.lease, queue, changes.without_headers).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut leases = self.kept.leases();
        let held = leases.held.remove(&self.lease.id);
        leases.dropped.extend(held);
        self.kept.dropped.notify_one();
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({:?})", self.lease)
    }
}
