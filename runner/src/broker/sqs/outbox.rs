//! Results on SQS: in other queues, for which there is a request for each.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::client::Client;
use super::convert::Outgoing;
use super::queue::{Order, Queue};
use super::url::Url;
use crate::broker::error::Error;
use crate::broker::outbox::{self, Address, Options};
use crate::broker::pauses::patiently;
use crate::fault::{self, Point};
use crate::task::Properties;

pub struct Outbox {
    url: Url,
    client: Arc<Client>,
    options: Options,
    /// Queues of results that were found. Requesters' are as many as there are requesters, and are not kept.
    found: Mutex<HashMap<String, Queue>>,
}

impl Outbox {
    pub async fn open(url: Url, options: Options) -> Result<Outbox, Error> {
        let client = Client::new(&url)?;
        patiently(options.connect_timeout, || client.check_credentials()).await?;
        Ok(Outbox { url, client, options, found: Mutex::default() })
    }

    async fn queue(&self, to: &Address) -> Result<Queue, Error> {
        let name = match to {
            Address::Queue(name) => name,
            Address::Reply(name) => return Queue::find_any(&self.client, &self.url, name).await,
            Address::Exchange { name, .. } => {
                let source = "SQS has no exchanges".into();
                return Err(Error::MissingExchange { exchange: name.clone(), source });
            }
        };
        let mut found = self.found.lock().await;
        if let Some(queue) = found.get(name) {
            return Ok(queue.clone());
        }
        let queue = Queue::find(&self.client, &self.url, name).await?;
        Ok(found.entry(name.clone()).or_insert(queue).clone())
    }
}

#[async_trait]
impl outbox::Outbox for Outbox {
    async fn look_for(&self, to: &Address) -> Result<(), Error> {
        let looking = async { self.queue(to).await?.attributes(&["QueueArn"]).await.map(drop) };
        looking.await.map_err(|error| named(to, error))
    }

    async fn publish(
        &self,
        to: &Address,
        properties: Properties,
        headers: &Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error> {
        fault::reach(Point::Published);
        let publishing = async {
            let outgoing = Outgoing::new(&properties, headers, &body);
            // The same for every run of a message. A group of its own, so that no result waits for another.
            let id = properties.message_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
            self.queue(to).await?.send(&outgoing, Order::new(&id, &id)).await
        };
        let published = tokio::time::timeout(self.options.publish_timeout, publishing).await;
        let published = published.unwrap_or_else(|_| Err(Error::Unanswered { doing: format!("publish to {to}") }));
        published.map_err(|error| named(to, error))?;
        fault::reach(Point::Confirmed);
        Ok(())
    }
}

/// Whoever asked may be gone, or may have named what can be no queue.
fn named(to: &Address, error: Error) -> Error {
    match (to, error) {
        (Address::Reply(reply_to), Error::MissingQueue { .. } | Error::Settings { .. }) => {
            Error::NoRequester { reply_to: reply_to.clone() }
        }
        (_, error) => error,
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
