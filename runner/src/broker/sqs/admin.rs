//! What the commands do to queues of SQS.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Map;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::convert::{Attributes, Incoming, Outgoing};
use super::queue::{BATCH, Counts, Entry, Order, Queue, Received, is_fifo};
use super::terms::{RENEWALS, SYSTEM};
use super::url::Url;
use crate::broker::admin::{self, Changes, Got, Status};
use crate::broker::error::Error;
use crate::broker::leased::Held as StillHeld;
use crate::causes::chain;
use crate::locks::lock;
use crate::task::{Message, Origin, Properties};

/// How long a look for messages waits for one: shorter ones ask only some of SQS's servers.
const LOOK: Duration = Duration::from_secs(1);

/// What is published by hand stays in order on a FIFO queue.
const GROUP: &str = "wq-run";

pub struct Admin {
    url: Url,
    client: Option<Arc<Client>>,
    queues: HashMap<String, Queue>,
    /// What was taken, made for the first message.
    keeping: Option<Keeping>,
}

struct Keeping {
    kept: Arc<Kept>,
    task: JoinHandle<Result<(), Error>>,
}

/// What was taken, until it is forgotten or given back.
struct Kept {
    lease: Duration,
    state: Mutex<State>,
    /// Something was dropped.
    dropped: Notify,
    ends: CancellationToken,
}

#[derive(Default)]
struct State {
    /// By receipt handle: with us, and renewed.
    held: HashMap<String, Queue>,
    /// To be given back.
    dropped: Vec<(String, Queue)>,
}

/// A message that is hidden from all others for us, so that it comes again if we die before it is forgotten.
struct Held {
    kept: Arc<Kept>,
    queue: Queue,
    url: Url,
    id: String,
    handle: String,
    group: Option<String>,
    message: Message,
    attributes: Attributes,
    raw: Option<String>,
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
        let keeping = self.keeping.get_or_insert_with(|| {
            let (state, dropped, ends) = (Mutex::default(), Notify::new(), CancellationToken::new());
            let kept = Arc::new(Kept { lease, state, dropped, ends });
            // A task of its own: a command may block while it prints.
            Keeping { task: tokio::spawn(kept.clone().keep()), kept }
        });
        keeping.kept.clone()
    }
}

#[async_trait]
impl admin::Admin for Admin {
    async fn publish(&mut self, queue: &str, properties: Properties, body: Bytes) -> Result<(), Error> {
        let queue = self.queue(queue).await?;
        let outgoing = Outgoing::new(&properties, &Map::new(), &body);
        let id = properties.message_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        queue.send(&outgoing, Order::new(GROUP, &id)).await
    }

    async fn declare(&mut self, queue: &str, queue_type: Option<&str>) -> Result<(), Error> {
        if queue_type == Some("fifo") && !is_fifo(queue) {
            return Err(Error::Settings {
                what: format!("the queue's name `{queue}`"),
                source: "that of a FIFO queue ends in `.fifo`".into(),
            });
        }
        Queue::declare(&self.client()?, &self.url, queue).await.map(drop)
    }

    async fn status(&mut self, queue: &str) -> Result<Status, Error> {
        let Counts { ready, hidden, delayed } = self.queue(queue).await?.counts().await?;
        Ok(Status { ready, running: Some(hidden), delayed: Some(delayed), workers: None })
    }

    /// One message after the other: SQS's own way to purge takes along what is with workers, and is slower than its answer.
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
            taken.extend(received.into_iter().map(|received| got(received, &queue, &self.url, &kept)));
        }
        Ok(taken)
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        let Some(Keeping { kept, task }) = self.keeping else { return Ok(()) };
        kept.ends.cancel();
        match task.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(ended) => ended,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(Error::Lost { source: None }),
        }
    }
}

fn got(received: Received, queue: &Queue, url: &Url, kept: &Arc<Kept>) -> Got {
    let (count, sent, group) = (received.count(), received.sent(), received.group().cloned());
    let Received { message_id, receipt_handle, body, message_attributes, .. } = received;
    let Incoming { mut message, unreadable } = Incoming::read(body, &message_attributes, &message_id, sent);
    kept.state().held.insert(receipt_handle.clone(), queue.clone());
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
    };
    if let Some(reason) = &unreadable {
        message.headers.insert("x-wq-error".into(), reason.as_str().into());
    }
    Got { message, origin: Origin::of_queue(&queue.name, count > 1, SYSTEM), unreadable, held: Box::new(held) }
}

impl Kept {
    /// Renews what is held and gives back what was dropped, until the end.
    async fn keep(self: Arc<Self>) -> Result<(), Error> {
        loop {
            let kept = tokio::select! {
                () = self.ends.cancelled() => return self.give_back().await,
                () = self.dropped.notified() => self.give_back().await,
                () = tokio::time::sleep(self.lease / RENEWALS) => self.renew().await,
            };
            if let Err(error) = kept {
                tracing::warn!(error = %chain(&error), "what is taken comes again when its lease ends");
            }
        }
    }

    async fn give_back(&self) -> Result<(), Error> {
        let dropped = std::mem::take(&mut self.state().dropped);
        // One that is lost already is no longer ours to give back.
        change(&dropped, Duration::ZERO).await
    }

    async fn renew(&self) -> Result<(), Error> {
        let held: Vec<_> = self.state().held.iter().map(|(handle, queue)| (handle.clone(), queue.clone())).collect();
        // What is lost is told when it is to be forgotten.
        change(&held, self.lease).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Hides messages for so long from now.
async fn change(held: &[(String, Queue)], time: Duration) -> Result<(), Error> {
    let mut rest = held;
    while let Some((_, queue)) = rest.first() {
        // A request is about one queue.
        let batch = rest.iter().take(BATCH).take_while(|(_, other)| other.name == queue.name).count();
        let (batch, others) = rest.split_at(batch);
        let entries: Vec<Entry> = batch.iter().map(|(handle, _)| Entry::hide(handle, time)).collect();
        for answer in queue.batch(&entries).await? {
            let _: StillHeld = answer?;
        }
        rest = others;
    }
    Ok(())
}

#[async_trait]
impl admin::Held for Held {
    async fn forget(self: Box<Self>) -> Result<(), Error> {
        let forgotten = self.queue.settle(Entry::delete(&self.handle)).await;
        // There is nothing left to give back: it is gone, or its lease ends.
        self.kept.state().held.remove(&self.handle);
        match forgotten? {
            StillHeld::Yes => Ok(()),
            StillHeld::Lost => {
                Err(Error::Lost { source: Some("the lease ran out, and somebody else has the message".into()) })
            }
        }
    }

    async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error> {
        let copy = Outgoing::copy(&self.attributes, &self.message, self.raw.as_deref(), |headers| {
            headers.retain(|name, _| !changes.without_headers.contains(&name.as_str()));
        });
        let order = Order::new(self.group.as_deref().unwrap_or(&self.id), &format!("{}-again", self.id));
        Queue::find(&self.queue.client, &self.url, queue).await?.send(&copy, order).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.kept.state();
        let held = state.held.remove_entry(&self.handle);
        state.dropped.extend(held);
        drop(state);
        self.kept.dropped.notify_one();
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.id)
    }
}
