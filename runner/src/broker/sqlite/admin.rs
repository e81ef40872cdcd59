//! What `wq-run publish` and `wq-run queue` do on a queue file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Map;

use super::store::{self, Lease, Store, Taken};
use super::{LEASE, SYSTEM};
use crate::broker::admin::{self, Got, Status};
use crate::broker::error::Error;
use crate::causes::chain;
use crate::task::{Origin, Properties};

/// How long a command waits for processes that write.
const BUSY: Duration = Duration::from_secs(30);

pub struct Admin {
    path: PathBuf,
    /// Opened when it is first needed. Shared with what was taken.
    store: Option<Shared>,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Store>>);

/// A message under a lease, so that it comes again if we die before it is forgotten.
struct Held {
    store: Shared,
    /// `None` once it is forgotten.
    lease: Option<Lease>,
}

impl Admin {
    pub fn new(path: PathBuf) -> Admin {
        Admin { path, store: None }
    }

    fn open(&self, queue: &str) -> Result<Store, Error> {
        let mut store = Store::open(&self.path, queue, BUSY)?;
        store.require_queue(queue)?;
        Ok(store)
    }

    fn keep(&mut self, store: Store) -> Shared {
        self.store.insert(Shared(Arc::new(Mutex::new(store)))).clone()
    }
}

#[async_trait]
impl admin::Admin for Admin {
    async fn publish(&mut self, queue: &str, properties: Properties, body: Bytes) -> Result<(), Error> {
        let shared = match &self.store {
            Some(store) => store.clone(),
            None => self.keep(Store::open(&self.path, queue, BUSY)?),
        };
        let mut store = shared.lock();
        store.publish(queue, &properties, &Map::new(), &body)?;
        // Only what is in the file that everybody sees is published.
        store.require_in_place()
    }

    async fn declare(&mut self, queue: &str, _queue_type: Option<&str>) -> Result<(), Error> {
        let mut store = Store::create(&self.path, queue, BUSY)?;
        store.declare(queue)?;
        store.require_in_place()
    }

    async fn status(&mut self, queue: &str) -> Result<Status, Error> {
        let mut store = self.open(queue)?;
        let depth = store.depth(queue)?;
        let running = Some(store.running(queue)?);
        Ok(Status { ready: depth.ready, delayed: Some(depth.delayed), running, workers: None })
    }

    async fn purge(&mut self, queue: &str) -> Result<u64, Error> {
        self.open(queue)?.purge(queue)
    }

    async fn get(&mut self, queue: &str) -> Result<Option<Got>, Error> {
        let shared = match &self.store {
            Some(store) => store.clone(),
            None => {
                let store = self.open(queue)?;
                self.keep(store)
            }
        };
        let lease = fastrand::i64(1..);
        let taken = shared.lock().take(queue, 1, lease, LEASE)?.pop();
        Ok(taken.map(|Taken { id, mut message, redelivered, unreadable, .. }| {
            if let Some(reason) = &unreadable {
                message.headers.insert("x-wq-error".into(), reason.as_str().into());
            }
            let origin = Origin {
                queue: queue.to_owned(),
                routing_key: queue.to_owned(),
                exchange: String::new(),
                redelivered,
                delivery_tag: id.cast_unsigned(),
                system: SYSTEM,
            };
            let held = Held { store: shared.clone(), lease: Some(Lease { id, lease }) };
            Got { message, origin, unreadable, held: Box::new(held) }
        }))
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl admin::Held for Held {
    async fn forget(mut self: Box<Self>) -> Result<(), Error> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        match self.store.lock().ack(lease)? {
            store::Held::Yes => Ok(()),
            store::Held::Lost => {
                Err(Error::Lost { source: Some("the lease ran out, and somebody else has the message".into()) })
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        if let Err(error) = self.store.lock().release(lease) {
            tracing::warn!(error = %chain(&error), "a message could not be given back; it comes again when its lease ends");
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({:?})", self.lease)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
