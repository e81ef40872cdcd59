//! What the loop of all brokers with leases asks for, on SQS.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batches::{Batches, same};
use super::client::Client;
use super::convert::{Attributes, Incoming, Outgoing, dead_letter};
use super::error::passes;
use super::queue::{BATCH, Entry, Order, Queue, Received};
use super::redrive;
use super::terms::{LONGEST, RENEWALS, SYSTEM, WAIT};
use super::url::Url;
use crate::broker::error::Error;
use crate::broker::failure::{self, Next};
use crate::broker::leased::{Held, Leases, Renewed, Taken, Terms, came_too_late};
use crate::broker::link::Handed;
use crate::broker::subscription::{Depth, Options};
use crate::locks::lock;
use crate::task::{Failure, Message, Origin, Settlement};

/// How many settlements are made side by side. They travel in requests of ten.
const SETTLEMENTS: usize = 6 * BATCH;

/// How long a take waits, after so many that found nothing. A short one at first: the end of a drain waits for it.
const WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), WAIT];

/// A message that a look found is handed over by the next take, with a new lease if it has waited for so long.
const FRESH: Duration = Duration::from_secs(2);

/// A retry that is overdue by this long, and has not come to us, counts as taken by another worker.
const NOT_OURS: Duration = Duration::from_secs(5);

/// Where the queue is.
pub struct Place {
    pub url: Url,
    pub client: Arc<Client>,
}

pub struct Taker {
    queue: Queue,
    url: Url,
    options: Options,
    deletions: Batches,
    changes: Batches,
    /// Where dead letters go; looked for when there is one.
    dead_letters: OnceCell<Queue>,
    /// What a look found: for the next take.
    found: Mutex<Vec<(Instant, Received)>>,
    /// Takes that found nothing, one after the other.
    empty: AtomicUsize,
    /// When the retries of this worker are due, by the ids of their messages. SQS counts them with what is being worked on.
    retries: Mutex<HashMap<String, Instant>>,
    /// Held while renewals are on their way: one that overtook a settlement would undo it.
    renewing: tokio::sync::Mutex<()>,
}

/// A message that is hidden from all others for us.
pub struct Lease {
    id: String,
    handle: String,
    group: Option<String>,
    since: Instant,
    /// What a copy is made of.
    message: Message,
    attributes: Attributes,
    raw: Option<String>,
    /// Whether its settlement has begun, after which it is not renewed.
    is_settling: AtomicBool,
}

impl Lease {
    /// How long it can still be hidden, if nothing else bounds it.
    fn left(&self) -> Duration {
        LONGEST.saturating_sub(self.since.elapsed())
    }
}

impl Leases for Taker {
    type Place = Place;
    type Lease = Lease;
    const REMOTE: bool = true;

    async fn open(place: &Place, options: &Options) -> Result<Taker, Error> {
        let queue = Queue::find(&place.client, &place.url, &options.queue).await?;
        // Not `All`, which needs no other right and brings the policy too.
        let attributes = queue.attributes(&["QueueArn", "RedrivePolicy"]).await?;
        if let Some(caution) = redrive::judged(attributes.get("RedrivePolicy"), options)? {
            tracing::warn!(reason = caution, "the redrive policy of the queue does not suit --max-attempts");
        }
        Ok(Taker {
            deletions: Batches::new(queue.clone()),
            changes: Batches::new(queue.clone()),
            queue,
            url: place.url.clone(),
            options: options.clone(),
            dead_letters: OnceCell::new(),
            found: Mutex::default(),
            empty: AtomicUsize::new(0),
            retries: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        })
    }

    fn terms(&self) -> Terms {
        let lease = self.url.lease();
        Terms {
            lease,
            renew: lease / RENEWALS,
            wait: WAIT,
            poll: Duration::ZERO,
            settlements: SETTLEMENTS,
            together: false,
        }
    }

    /// A request that waits can't be cut short, so `hurry` changes nothing.
    async fn take(&self, room: usize, _hurry: CancellationToken) -> Result<Vec<Taken<Lease>>, Error> {
        let found = self.take_found(room).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        let wait = WAITS[self.empty.load(Ordering::Relaxed).min(WAITS.len() - 1)];
        let began = Instant::now();
        let received = self.receive(room, wait).await?;
        match received.is_empty() {
            true => self.empty.fetch_add(1, Ordering::Relaxed),
            false => self.empty.swap(0, Ordering::Relaxed),
        };
        Ok(received.into_iter().map(|received| self.taken(received, began)).collect())
    }

    async fn renew(&self, leases: Vec<(u64, Arc<Lease>)>) -> Result<Renewed, Error> {
        let _renewing = self.renewing.lock().await;
        let whole = self.url.lease();
        let leases: Vec<_> =
            leases.into_iter().filter(|(_, lease)| !lease.is_settling.load(Ordering::SeqCst)).collect();
        let batches = leases.chunks(BATCH).map(|batch| async move {
            let entries: Vec<Entry> = batch.iter().map(|(_, lease)| self.renewal(lease)).collect();
            (batch, self.queue.batch(&entries).await)
        });
        let mut renewed = Renewed::default();
        for (batch, answers) in futures_util::future::join_all(batches).await {
            let answers = match answers {
                Ok(answers) => answers,
                Err(error) if passes(&error) => batch.iter().map(|_| Err(same(&error))).collect(),
                Err(error) => return Err(error),
            };
            for ((number, lease), answer) in batch.iter().zip(answers) {
                match answer {
                    // Hidden for less than a whole lease, and never again for longer.
                    Ok(Held::Yes) if lease.left() < whole => renewed.unconfirmed.push(*number),
                    Ok(Held::Yes) => {}
                    Ok(Held::Lost) => renewed.lost.push(*number),
                    Err(_) => renewed.unconfirmed.push(*number),
                }
            }
        }
        Ok(renewed)
    }

    async fn settle(&self, lease: &Arc<Lease>, settlement: &Settlement) -> Result<Held, Error> {
        match settlement {
            Settlement::Ack => self.deletions.settle(Entry::delete(&lease.handle)).await,
            Settlement::Release => self.hide(lease, Duration::ZERO).await,
            Settlement::Retry { after, .. } => {
                let after = (*after).min(lease.left());
                let held = self.hide(lease, after).await?;
                if held == Held::Yes {
                    lock(&self.retries).insert(lease.id.clone(), Instant::now() + after);
                }
                Ok(held)
            }
            Settlement::DeadLetter { failure } => self.dead_letter(lease, failure).await,
            // It comes again until its count is over the redrive policy's, and is moved then.
            Settlement::Reject { .. } => self.hide(lease, Duration::ZERO).await,
        }
    }

    async fn depth(&self) -> Result<Depth, Error> {
        // The counts are late, so that only a request for messages tells whether there are any.
        let received = self.receive(1, WAITS[0]).await?;
        let now = Instant::now();
        let ready = {
            let mut found = lock(&self.found);
            found.extend(received.into_iter().map(|received| (now, received)));
            found.len() as u64
        };
        let counts = self.queue.counts().await?;
        let hidden = counts.hidden.saturating_sub(ready) + counts.delayed;
        let mut retries = lock(&self.retries);
        retries.retain(|_, due| *due + NOT_OURS > now);
        Ok(Depth { ready, delayed: hidden.max(retries.len() as u64), missing: 0 })
    }

    async fn close(&self) -> Result<(), Error> {
        let found = std::mem::take(&mut *lock(&self.found));
        let entries: Vec<Entry> =
            found.iter().map(|(_, received)| Entry::hide(&received.receipt_handle, Duration::ZERO)).collect();
        for (since, received) in found {
            came_too_late(&self.taken(received, since).handed.span());
        }
        for batch in entries.chunks(BATCH) {
            self.queue.batch(batch).await?;
        }
        Ok(())
    }

    fn passes(error: &Error) -> bool {
        passes(error)
    }
}

impl Taker {
    async fn receive(&self, room: usize, wait: Duration) -> Result<Vec<Received>, Error> {
        // Several messages of one group have to be run one after the other. SQS hands out the next one when the first is gone.
        let most = if self.queue.is_fifo() { 1 } else { room };
        self.queue.receive(most, wait, self.url.lease()).await
    }

    /// What a look has found, under a lease that has just begun.
    async fn take_found(&self, room: usize) -> Result<Vec<Taken<Lease>>, Error> {
        let mut found = {
            let mut found = lock(&self.found);
            let rest = found.len().min(room);
            let rest = found.split_off(rest);
            std::mem::replace(&mut *found, rest)
        };
        let now = Instant::now();
        let stale: Vec<Entry> = found
            .iter()
            .filter(|(since, _)| since.elapsed() > FRESH)
            .map(|(_, received)| Entry::hide(&received.receipt_handle, self.url.lease()))
            .collect();
        if !stale.is_empty() {
            let mut lost = HashSet::new();
            for batch in stale.chunks(BATCH) {
                let answers = self.queue.batch(batch).await?;
                lost.extend(
                    batch
                        .iter()
                        .zip(answers)
                        .filter(|(_, held)| !matches!(held, Ok(Held::Yes)))
                        .map(|(entry, _)| entry.handle().to_owned()),
                );
            }
            found.retain(|(_, received)| !lost.contains(&received.receipt_handle));
        }
        Ok(found.into_iter().map(|(_, received)| self.taken(received, now)).collect())
    }

    fn taken(&self, received: Received, since: Instant) -> Taken<Lease> {
        lock(&self.retries).remove(&received.message_id);
        let (count, sent) = (received.count(), received.sent());
        let group = received.group().cloned();
        let Received { message_id, receipt_handle, body, message_attributes, .. } = received;
        let Incoming { message, unreadable } = Incoming::read(body, &message_attributes, &message_id, sent);
        let raw = unreadable.is_some().then(|| String::from_utf8_lossy(&message.body).into_owned());
        let lease = Lease {
            id: message_id,
            handle: receipt_handle,
            group,
            since,
            message: message.clone(),
            attributes: message_attributes,
            raw,
            is_settling: AtomicBool::new(false),
        };
        let handed = Handed {
            message,
            origin: Origin::of_queue(&self.queue.name, count > 1, SYSTEM),
            attempt: count,
            // SQS counts hand-overs, and does not tell how they ended.
            unfinished: count - 1,
            can_be_retried: true,
            unreadable,
        };
        Taken { lease, handed }
    }

    /// Another lease, as far as SQS allows it.
    fn renewal(&self, lease: &Lease) -> Entry {
        Entry::hide(&lease.handle, self.url.lease().min(lease.left()))
    }

    /// Hides a message for so long from now, whatever renewals are on their way.
    async fn hide(&self, lease: &Lease, time: Duration) -> Result<Held, Error> {
        lease.is_settling.store(true, Ordering::SeqCst);
        drop(self.renewing.lock().await);
        self.changes.settle(Entry::hide(&lease.handle, time)).await
    }

    /// First the copy, then the message. A worker that dies in between leaves both.
    async fn dead_letter(&self, lease: &Lease, failure: &Failure) -> Result<Held, Error> {
        // A message that somebody else has by now is no dead letter.
        if self.queue.settle(self.renewal(lease)).await? == Held::Lost {
            return Ok(Held::Lost);
        }
        let Lease { message, attributes, raw, .. } = lease;
        let failed = failure::headers(failure, &self.queue.name, Next::DeadLetter, None);
        let copy = dead_letter(attributes, message, raw.as_deref(), &failed);
        let group = lease.group.as_deref().unwrap_or(&lease.id);
        let order = Order::new(group, &format!("{}-dead", lease.id));
        self.send_dead_letter(&copy, order).await?;
        self.deletions.settle(Entry::delete(&lease.handle)).await
    }

    async fn send_dead_letter(&self, copy: &Outgoing, order: Order) -> Result<(), Error> {
        let name = &self.options.dead_letter_queue;
        let (client, url) = (&self.queue.client, &self.url);
        let found = self.dead_letters.get_or_try_init(|| async {
            match Queue::find(client, url, name).await {
                Err(Error::MissingQueue { .. }) => Queue::declare(client, url, name, None).await,
                found => found,
            }
        });
        let queue = found.await?;
        match queue.send(copy, order.clone()).await {
            Err(Error::MissingQueue { .. }) => {
                Queue::declare(client, url, name, None).await?;
                queue.send(copy, order).await
            }
            sent => sent,
        }
    }
}
