//! What `wq-run publish` and `wq-run queue` do on a queue file.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Map;

use super::store::{Held, Lease, Store, Taken};
use super::{LEASE, SYSTEM};
use crate::broker::Error;
use crate::broker::admin::{self, Got, Status};
use crate::task::{Origin, Properties};

/// How long a command waits for processes that write.
const BUSY: Duration = Duration::from_secs(30);

pub struct Admin {
    path: PathBuf,
    store: Option<Store>,
    /// Taken, and not yet forgotten.
    got: Option<Lease>,
}

#[derive(Debug)]
pub struct Receipt(Lease);

impl Admin {
    pub fn new(path: PathBuf) -> Admin {
        Admin { path, store: None, got: None }
    }

    pub fn publish(&mut self, queue: &str, properties: Properties, body: Bytes) -> Result<(), Error> {
        let store = match self.store.take() {
            Some(store) => store,
            None => Store::open(&self.path, queue, BUSY)?,
        };
        let store = self.store.insert(store);
        store.publish(queue, &properties, &Map::new(), &body)?;
        // Only what is in the file that everybody sees is published.
        store.require_in_place()
    }

    pub fn declare(&self, queue: &str) -> Result<(), Error> {
        let mut store = Store::create(&self.path, queue, BUSY)?;
        store.declare(queue)?;
        store.require_in_place()
    }

    pub fn status(&self, queue: &str) -> Result<Status, Error> {
        let mut store = self.open(queue)?;
        let depth = store.depth(queue)?;
        let running = Some(store.running(queue)?);
        Ok(Status { ready: depth.ready, delayed: Some(depth.delayed), running, workers: None })
    }

    pub fn purge(&self, queue: &str) -> Result<u64, Error> {
        self.open(queue)?.purge(queue)
    }

    /// Takes the next message under a lease, so that it comes again if we die before it is forgotten.
    pub fn get(&mut self, queue: &str) -> Result<Option<Got>, Error> {
        let mut store = match self.store.take() {
            Some(store) => store,
            None => self.open(queue)?,
        };
        let lease = fastrand::i64(1..);
        let taken = store.take(queue, 1, lease, LEASE);
        self.store = Some(store);
        Ok(taken?.pop().map(|Taken { id, mut message, redelivered, unreadable, .. }| {
            if let Some(reason) = &unreadable {
                message.headers.insert("x-wq-error".into(), reason.as_str().into());
            }
            let lease = Lease { id, lease };
            self.got = Some(lease);
            let origin = Origin {
                queue: queue.to_owned(),
                routing_key: queue.to_owned(),
                exchange: String::new(),
                redelivered,
                delivery_tag: id.cast_unsigned(),
                system: SYSTEM,
            };
            Got { message, origin, unreadable, receipt: admin::Receipt::Sqlite(Receipt(lease)) }
        }))
    }

    pub fn forget(&mut self, receipt: &Receipt) -> Result<(), Error> {
        self.got = None;
        let store = self.store.as_mut().ok_or(Error::Lost { source: None })?;
        match store.ack(receipt.0)? {
            Held::Yes => Ok(()),
            Held::Lost => {
                Err(Error::Lost { source: Some("the lease ran out, and somebody else has the message".into()) })
            }
        }
    }

    /// Gives back what was taken and not forgotten.
    pub fn close(self) -> Result<(), Error> {
        if let (Some(lease), Some(mut store)) = (self.got, self.store) {
            let _: Held = store.release(lease)?;
        }
        Ok(())
    }

    fn open(&self, queue: &str) -> Result<Store, Error> {
        let mut store = Store::open(&self.path, queue, BUSY)?;
        store.require_queue(queue)?;
        Ok(store)
    }
}
