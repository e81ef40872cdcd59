//! Results on an AMQP broker: over a connection of their own, which is made again when it is lost.
//!
//! Not the connection that takes messages, since a broker in need stops reading from the ones that publish; and not the
//! one for retries and dead letters either, which belongs to the task that settles and would hold it up.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::config::connection_name;
use super::publisher::{Deadline, Publisher};
use super::{Url, convert};
use crate::broker::error::{Error, Kind};
use crate::broker::outbox::{self, Address, Options};
use crate::broker::pauses::{Pace, patiently};
use crate::task::Properties;

pub struct Outbox {
    nodes: Vec<Url>,
    options: Options,
    publisher: Mutex<Connected>,
}

struct Connected {
    publisher: Arc<Publisher>,
    pace: Pace,
}

impl Outbox {
    pub async fn open(nodes: Vec<Url>, options: Options) -> Result<Outbox, Error> {
        let publisher = patiently(options.connect_timeout, || connect(&nodes, &options)).await?;
        let mut pace = Pace::default();
        pace.made();
        let publisher = Mutex::new(Connected { publisher: Arc::new(publisher), pace });
        Ok(Outbox { nodes, options, publisher })
    }

    async fn publisher(&self) -> Result<Arc<Publisher>, Error> {
        let mut connected = self.publisher.lock().await;
        if !connected.publisher.usable() {
            let Outbox { nodes, options, .. } = self;
            connected.pace.wait().await;
            connected.publisher = Arc::new(patiently(options.publish_timeout, || connect(nodes, options)).await?);
            connected.pace.made();
        }
        Ok(connected.publisher.clone())
    }
}

#[async_trait]
impl outbox::Outbox for Outbox {
    async fn look_for(&self, to: &Address) -> Result<(), Error> {
        self.publisher().await?.look_for(to).await
    }

    async fn publish(
        &self,
        to: &Address,
        properties: Properties,
        headers: &Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error> {
        let native = convert::native(&properties, convert::field_table(headers))
            .map_err(|reason| Error::Unpublished { reason })?;
        // One bound for all of it: many runs may wait for the same connection, and each of them only for so long.
        let deadline = Deadline::after(self.options.publish_timeout);
        let publisher = deadline.connected(self.publisher()).await?;
        // Not tried again, whatever comes of it: it may have arrived.
        publisher.publish(to, native, &body, deadline).await
    }

    async fn close(&self) {
        // Everything is confirmed by now. A caller that holds the lock, because it still connects, was given up.
        if let Ok(connected) = self.publisher.try_lock() {
            let _ = connected.publisher.close().await;
        }
    }
}

async fn connect(nodes: &[Url], options: &Options) -> Result<Publisher, Error> {
    let name = connection_name("results of", &options.queue);
    Publisher::connect(nodes, &name).await.map_err(|error| match error.kind() {
        // Nothing was published yet, so that this is no connection lost with the outcome open.
        Kind::Lost => {
            let address = nodes.iter().map(Url::address).collect::<Vec<_>>().join(", ");
            Error::Unreachable { address, source: error.into() }
        }
        _ => error,
    })
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
