//! What the commands do to queues of SQS.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::client::Client;
use super::convert::{Attributes, Incoming, Outgoing};
use super::kept::{Hidden, Keeping, Kept};
use super::queue::{BATCH, Counts, Entry, Order, Queue, Received, is_fifo};
use super::terms::SYSTEM;
use super::url::Url;
use crate::broker::admin::{self, Arguments, Changes, Confirmed, Got, Status};
use crate::broker::error::Error;
use crate::broker::leased::Held as StillHeld;
use crate::fault::{self, Point};
use crate::task::{Message, Origin};

/// How long a look for messages waits for one: shorter ones ask only some of SQS's servers.
pub const LOOK: Duration = Duration::from_secs(1);

/// What is published by hand stays in order on a FIFO queue.
const GROUP: &str = "wq-run";

pub struct Admin {
    url: Url,
    client: Option<Arc<Client>>,
    queues: HashMap<String, Queue>,
    /// What was taken, made for the first message.
    keeping: Option<Keeping>,
}

/// A message that is hidden from all others for us, so that it comes again if we die before it is forgotten.
pub struct Held {
    kept: Arc<Kept>,
    pub queue: Queue,
    pub url: Url,
    id: String,
    pub handle: String,
    group: Option<String>,
    message: Message,
    attributes: Attributes,
    raw: Option<String>,
    /// It is given back at the end, and not when this is dropped.
    until_the_end: bool,
}

impl Admin {
    pub fn new(url: Url) -> Admin {
        Admin { url, client: None, queues: HashMap::new(), keeping: None }
    }

    fn client(&mut self) -> Result<Arc<Client>, Error> {
        let client = self.client.take().map_or_else(|| Client::new(&self.url), Ok)?;
        Ok(self.client.insert(client).clone())
    }

    async fn queue(&mut self, name: &str) -> Result<Queue, Error> {
        if let Some(queue) = self.queues.get(name) {
            return Ok(queue.clone());
        }
        let queue = Queue::find(&self.client()?, &self.url, name).await?;
        Ok(self.queues.entry(name.to_owned()).or_insert(queue).clone())
    }

    fn kept(&mut self) -> Arc<Kept> {
        let lease = self.url.lease();
        self.keeping.get_or_insert_with(|| Keeping::start(Hidden { lease })).kept.clone()
    }
}

#[async_trait]
impl admin::Admin for Admin {
    async fn publish(&mut self, queue: &str, messages: Vec<Message>, delay: Duration) -> Confirmed {
        let queue = match self.queue(queue).await {
            Ok(queue) => queue,
            Err(error) => return Confirmed::none(messages.len(), error),
        };
        let outgoing = |Message { body, properties, headers }: Message| {
            let outgoing = Outgoing::new(&properties, &headers, &body);
            let id = properties.message_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
            (outgoing, Order::new(GROUP, &id))
        };
        fault::reach(Point::Published);
        let confirmed = queue.send_all(messages.into_iter().map(outgoing).collect(), delay).await;
        fault::reach(Point::Confirmed);
        confirmed
    }

    async fn declare(&mut self, queue: &str, queue_type: Option<&str>, arguments: &Arguments) -> Result<(), Error> {
        if queue_type == Some("fifo") && !is_fifo(queue) {
            return Err(Error::Settings {
                what: format!("the queue's name `{queue}`"),
                source: "that of a FIFO queue ends in `.fifo`".into(),
            });
        }
        Queue::declare(&self.client()?, &self.url, queue, arguments.message_ttl).await.map(drop)
    }

    async fn status(&mut self, queue: &str) -> Result<Status, Error> {
        let Counts { ready, hidden, delayed } = self.queue(queue).await?.counts().await?;
        Ok(Status { ready, running: Some(hidden), delayed: Some(delayed), ..Status::default() })
    }

    /// Takes and deletes messages until none comes. SQS's own `PurgeQueue` would also delete what workers have, and goes on
    /// after its answer.
    async fn purge(&mut self, queue: &str) -> Result<u64, Error> {
        let queue = self.queue(queue).await?;
        let mut purged = 0;
        loop {
            let received = queue.receive(BATCH, LOOK, self.url.lease()).await?;
            if received.is_empty() {
                return Ok(purged);
            }
            let entries: Vec<Entry> = received.iter().map(|received| Entry::delete(&received.receipt_handle)).collect();
            for deleted in queue.batch(&entries).await? {
                purged += u64::from(deleted? == StillHeld::Yes);
            }
        }
    }

    async fn take(&mut self, queue: &str, most: usize) -> Result<Vec<Got>, Error> {
        let queue = self.queue(queue).await?;
        let kept = self.kept();
        let mut taken = Vec::new();
        while taken.len() < most {
            let received = queue.receive(most - taken.len(), LOOK, self.url.lease()).await?;
            if received.is_empty() {
                break;
            }
            taken.extend(received.into_iter().map(|received| {
                let (message, origin, unreadable, held) = held(received, &queue, &self.url, &kept, false);
                Got { message, origin, unreadable, held: Box::new(held) }
            }));
        }
        Ok(taken)
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        match self.keeping {
            Some(keeping) => keeping.end().await,
            None => Ok(()),
        }
    }
}

/// A message that was received, in our own vocabulary, and what is held of it.
pub fn held(
    received: Received,
    queue: &Queue,
    url: &Url,
    kept: &Arc<Kept>,
    until_the_end: bool,
) -> (Message, Origin, Option<String>, Held) {
    let (count, sent, group) = (received.count(), received.sent(), received.group().cloned());
    let Received { message_id, receipt_handle, body, message_attributes, .. } = received;
    let Incoming { mut message, unreadable } = Incoming::read(body, &message_attributes, &message_id, sent);
    kept.hold(&receipt_handle, (receipt_handle.clone(), queue.clone()));
    let held = Held {
        kept: kept.clone(),
        queue: queue.clone(),
        url: url.clone(),
        id: message_id,
        handle: receipt_handle,
        group,
        message: message.clone(),
        attributes: message_attributes,
        raw: unreadable.is_some().then(|| String::from_utf8_lossy(&message.body).into_owned()),
        until_the_end,
    };
    if let Some(reason) = &unreadable {
        message.headers.insert("x-wq-error".into(), reason.as_str().into());
    }
    (message, Origin::of_queue(&queue.name, count > 1, SYSTEM), unreadable, held)
}

impl Held {
    /// A copy for another queue.
    pub fn copy(&self, without: &[&str]) -> (Outgoing, Order) {
        let copy = Outgoing::copy(&self.attributes, &self.message, self.raw.as_deref(), |headers| {
            headers.retain(|name, _| !without.contains(&name.as_str()));
        });
        (copy, Order::new(self.group.as_deref().unwrap_or(&self.id), &format!("{}-again", self.id)))
    }

    /// Notes that it is gone, or will come again by itself.
    pub fn forgotten(&self) {
        self.kept.forget(&self.handle);
    }
}

#[async_trait]
impl admin::Held for Held {
    async fn forget(self: Box<Self>) -> Result<(), Error> {
        let forgotten = self.queue.settle(Entry::delete(&self.handle)).await;
        self.forgotten();
        match forgotten? {
            StillHeld::Yes => Ok(()),
            StillHeld::Lost => Err(Error::lease_lost()),
        }
    }

    async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error> {
        let (copy, order) = self.copy(changes.without_headers);
        Queue::find(&self.queue.client, &self.url, queue).await?.send(&copy, order).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.until_the_end {
            self.kept.give_back_soon(&self.handle);
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.id)
    }
}
