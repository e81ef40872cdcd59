//! Publishes results into another queue of the same file.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::SLICE;
use super::store::Store;
use crate::blocking;
use crate::broker::error::Error;
use crate::broker::outbox::{self, Address, Options};
use crate::fault::{self, Point};
use crate::locks::lock;
use crate::task::Properties;

/// A connection to the file of its own, so that writing a large result holds up no renewal of a lease.
pub struct Outbox {
    store: Arc<Mutex<Store>>,
    path: PathBuf,
    queue: String,
    publish_timeout: Duration,
}

impl Outbox {
    pub async fn open(path: PathBuf, options: &Options) -> Result<Outbox, Error> {
        let Options { queue, publish_timeout, .. } = options.clone();
        let outbox_path = path.clone();
        let name = queue.clone();
        let store = blocking::call(move || Store::open(&path, &name, SLICE)).await?;
        Ok(Outbox { store: Arc::new(Mutex::new(store)), path: outbox_path, queue, publish_timeout })
    }

    /// Repeats a call while another process is writing, for `publish_timeout` at most. Dropping the future ends the wait.
    async fn with_store<T: Send + 'static>(
        &self,
        call: impl Fn(&mut Store) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let until = Instant::now() + self.publish_timeout;
        let call = Arc::new(call);
        loop {
            let (store, call) = (self.store.clone(), call.clone());
            let (path, queue) = (self.path.clone(), self.queue.clone());
            let called = blocking::call(move || {
                let mut store = lock(&store);
                if store.require_in_place().is_err() {
                    *store = Store::open(&path, &queue, SLICE)?;
                }
                call(&mut store)
            })
            .await;
            match called {
                Err(Error::FileLocked { .. }) if Instant::now() < until => {}
                called => return called,
            }
        }
    }
}

#[async_trait]
impl outbox::Outbox for Outbox {
    async fn look_for(&self, to: &Address) -> Result<(), Error> {
        let to = to.clone();
        self.with_store(move |store| store.require_queue(queue(&to)?).map_err(|error| named(&to, error))).await
    }

    async fn publish(
        &self,
        to: &Address,
        properties: Properties,
        headers: &Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error> {
        let (to, headers) = (to.clone(), headers.clone());
        self.with_store(move |store| {
            fault::reach(Point::Published);
            store.publish(queue(&to)?, &properties, &headers, &body).map_err(|error| named(&to, error))?;
            // Only what is in the file that everybody sees is published.
            store.require_in_place()?;
            fault::reach(Point::Confirmed);
            Ok(())
        })
        .await
    }
}

fn queue(to: &Address) -> Result<&str, Error> {
    match to {
        Address::Queue(queue) | Address::Reply(queue) => Ok(queue),
        Address::Exchange { name, .. } => {
            Err(Error::MissingExchange { exchange: name.clone(), source: "the embedded queue has no exchanges".into() })
        }
    }
}

fn named(to: &Address, error: Error) -> Error {
    match (to, error) {
        (Address::Reply(reply_to), Error::MissingQueue { .. }) => Error::NoRequester { reply_to: reply_to.clone() },
        (_, error) => error,
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
