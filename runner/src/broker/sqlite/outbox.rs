//! Results in a queue file: in another queue of the same file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::blocking;
use super::store::Store;
use crate::broker::{Address, Error};
use crate::fault::{self, Point};
use crate::task::Properties;

/// A connection to the file of its own, so that writing a large result holds up no renewal of a lease.
pub struct Outbox(Arc<Mutex<Store>>);

impl Outbox {
    pub async fn open(path: PathBuf, queue: &str) -> Result<Outbox, Error> {
        let queue = queue.to_owned();
        let store = blocking(move || Store::open(&path, &queue)).await?;
        Ok(Outbox(Arc::new(Mutex::new(store))))
    }

    pub async fn look_for(&self, to: &Address) -> Result<(), Error> {
        let to = to.clone();
        self.with_store(move |store| store.require_queue(queue(&to)?).map_err(|error| named(&to, error))).await
    }

    pub async fn publish(
        &self,
        to: &Address,
        properties: Properties,
        headers: Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error> {
        let to = to.clone();
        self.with_store(move |store| {
            fault::reach(Point::Published);
            store.publish(queue(&to)?, &properties, &headers, &body).map_err(|error| named(&to, error))?;
            fault::reach(Point::Confirmed);
            Ok(())
        })
        .await
    }

    async fn with_store<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.0.clone();
        blocking(move || call(&mut store.lock().unwrap_or_else(PoisonError::into_inner))).await
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
