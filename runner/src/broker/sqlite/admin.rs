//! What `wq-run publish` and `wq-run queue` do on a queue file.

use std::path::PathBuf;

use bytes::Bytes;

use super::store::Store;
use crate::broker::Error;
use crate::broker::admin::Status;
use crate::task::Properties;

pub struct Admin {
    path: PathBuf,
    store: Option<Store>,
}

impl Admin {
    pub fn new(path: PathBuf) -> Admin {
        Admin { path, store: None }
    }

    pub fn publish(&mut self, queue: &str, properties: Properties, body: Bytes) -> Result<(), Error> {
        let store = match self.store.take() {
            Some(store) => store,
            None => Store::open(&self.path, queue)?,
        };
        self.store.insert(store).publish(queue, &properties, &body)
    }

    pub fn declare(&self, queue: &str) -> Result<(), Error> {
        Store::create(&self.path)?.declare(queue)
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

    fn open(&self, queue: &str) -> Result<Store, Error> {
        let mut store = Store::open(&self.path, queue)?;
        store.require_queue(queue)?;
        Ok(store)
    }
}
