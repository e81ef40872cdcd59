//! What `wq-run publish` and `wq-run queue` do on an AMQP broker.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, BasicProperties, Channel, Connection};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Url;
use super::connection::{self, lost, queue_error};
use super::convert::{self, Received};
use super::held::{GIVE_BACK, sent};
use super::looks::{Looks, look_at};
use super::publisher::{Deadline, Publisher, name};
use super::{delays, letters};
use crate::broker::admin::{self, Arguments, Changes, Confirmed, Got, Status};
use crate::broker::bounds::answered_within;
use crate::broker::error::Error;
use crate::broker::outbox::Address;
use crate::causes::chain;
use crate::task::Message;

/// For each batch of messages; what a worker has `--publish-timeout` for.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it is believed that a queue is not there: each look for one that is missing leaves a line in the broker's
/// log.
const BELIEVED: Duration = Duration::from_secs(60);

pub struct Admin {
    way_in: Arc<WayIn>,
    /// Opened for the first message that is taken.
    getter: Option<(Connection, Channel)>,
    /// Opened for the first look at a queue.
    looking: Option<Looking>,
}

/// A connection that looks at queues.
struct Looking {
    connection: Connection,
    channel: Channel,
    /// For queues that need not be there.
    looks: Looks,
    /// Queues that were not there, and when that was seen.
    missing: HashMap<String, Instant>,
}

/// The way into queues. What was taken shares it, to be published again.
struct WayIn {
    nodes: Vec<Url>,
    /// Opened for the first message that is published.
    publisher: Mutex<Option<Arc<Publisher>>>,
}

/// For everything else that a command asks for. A quorum queue takes a moment to be made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A message, and the channel over which it was taken.
struct Held {
    acker: Acker,
    channel: Channel,
    properties: BasicProperties,
    body: Bytes,
    way_in: Arc<WayIn>,
    /// A drop cannot wait, and may be in a thread that has no runtime.
    runtime: Handle,
}

impl WayIn {
    async fn publish(&self, queue: &str, properties: BasicProperties, body: &Bytes) -> Result<(), Error> {
        let publisher = self.publisher().await?;
        publisher.publish(&Address::Queue(queue.to_owned()), properties, body, Deadline::fixed(PUBLISH_TIMEOUT)).await
    }

    async fn publisher(&self) -> Result<Arc<Publisher>, Error> {
        let mut slot = self.publisher.lock().await;
        let publisher = match slot.take().filter(|publisher| publisher.usable()) {
            Some(publisher) => publisher,
            None => Arc::new(Publisher::connect(&self.nodes, "wq-run publish").await?),
        };
        Ok(slot.insert(publisher).clone())
    }
}

impl Admin {
    pub fn new(nodes: Vec<Url>) -> Admin {
        Admin { way_in: Arc::new(WayIn { nodes, publisher: Mutex::default() }), getter: None, looking: None }
    }

    async fn looking(&mut self) -> Result<&mut Looking, Error> {
        let looking = match self.looking.take().filter(|looking| looking.channel.status().connected()) {
            Some(looking) => looking,
            None => {
                let (connection, channel) = self.open().await?;
                Looking { connection, channel, looks: Looks::default(), missing: HashMap::new() }
            }
        };
        Ok(self.looking.insert(looking))
    }

    async fn open(&self) -> Result<(Connection, Channel), Error> {
        let connection = connection::connect(&self.way_in.nodes, "wq-run queue").await?;
        let opening = async { connection.create_channel().await.map_err(lost) };
        let channel = in_time(|| connection.status().connected(), "open a channel", opening).await?;
        Ok((connection, channel))
    }
}

#[async_trait]
impl admin::Admin for Admin {
    async fn publish(&mut self, queue: &str, messages: Vec<Message>, delay: Duration) -> Confirmed {
        let count = messages.len();
        let native = |message: Message| Ok((letters::native(&message.properties, &message.headers)?, message.body));
        let items = match messages.into_iter().map(native).collect::<Result<Vec<_>, String>>() {
            Ok(items) => items,
            Err(reason) => return Confirmed::none(count, Error::Unpublished { reason }),
        };
        let publisher = match self.way_in.publisher().await {
            Ok(publisher) => publisher,
            Err(error) => return Confirmed::none(count, error),
        };
        let deadline = Deadline::fixed(PUBLISH_TIMEOUT);
        match delay {
            Duration::ZERO => publisher.publish_all(queue, items, deadline).await,
            delay => publisher.publish_all_delayed(queue, delay, items, deadline).await,
        }
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        if let Some((connection, channel)) = self.getter {
            // Answered in order, after the acknowledgements. What was taken and not acknowledged is ready again.
            connection::close_channel(&channel).await?;
            let _ = connection::close(&connection).await;
        }
        if let Some(looking) = self.looking {
            let _ = connection::close(&looking.connection).await;
        }
        if let Some(publisher) = self.way_in.publisher.lock().await.take() {
            // Everything is confirmed by now.
            let _ = publisher.close().await;
        }
        Ok(())
    }

    async fn take(&mut self, queue: &str, most: usize) -> Result<Vec<Got>, Error> {
        let getter = match self.getter.take() {
            Some(getter) => getter,
            None => self.open().await?,
        };
        let (_, channel) = self.getter.insert(getter);
        let mut taken = Vec::new();
        while taken.len() < most {
            let getting = channel.basic_get(name(queue)?, BasicGetOptions::default());
            let Some(got) = answered(channel, "hand a message over", queue, getting, "read").await? else { break };
            taken.push(read(got.delivery, queue, channel, &self.way_in));
        }
        Ok(taken)
    }

    async fn declare(&mut self, queue: &str, queue_type: Option<&str>, arguments: &Arguments) -> Result<(), Error> {
        let (connection, channel) = self.open().await?;
        let arguments = native_arguments(queue_type, arguments);
        let declaring = channel.queue_declare(name(queue)?, QueueDeclareOptions::durable(), arguments);
        answered(&channel, "make a queue", queue, declaring, "declare").await?;
        connection::close(&connection).await
    }

    async fn status(&mut self, queue: &str) -> Result<Status, Error> {
        let looking = self.looking().await?;
        let channel = &looking.channel;
        let found = in_time(|| channel.status().connected(), "look at a queue", look_at(channel, queue)).await?;
        Ok(Status {
            ready: found.messages,
            workers: Some(found.consumers),
            delayed: Some(looking.delayed(queue).await?),
            running: None,
            elsewhere: Some(
                "AMQP does not tell how many messages are with workers: `rabbitmqctl list_queues name messages_unacknowledged` \
                 does",
            ),
        })
    }

    async fn ready(&mut self, queue: &str) -> Result<Option<u64>, Error> {
        self.looking().await?.at(queue).await
    }

    async fn purge(&mut self, queue: &str) -> Result<u64, Error> {
        let (connection, channel) = self.open().await?;
        let purging = channel.queue_purge(name(queue)?, QueuePurgeOptions::default());
        let purged = answered(&channel, "purge a queue", queue, purging, "purge").await?;
        connection::close(&connection).await?;
        Ok(purged.into())
    }
}

impl Looking {
    /// What waits in the delay queues of a queue.
    async fn delayed(&mut self, queue: &str) -> Result<u64, Error> {
        let mut delayed = 0;
        for delay_queue in delays::LIVES.into_iter().map(|life| delays::name(queue, life)) {
            delayed += self.at(&delay_queue).await?.unwrap_or_default();
        }
        Ok(delayed)
    }

    /// How many messages of a queue are ready; `None` if it is not there, or was not a moment ago.
    async fn at(&mut self, queue: &str) -> Result<Option<u64>, Error> {
        if self.missing.get(queue).is_some_and(|seen| seen.elapsed() < BELIEVED) {
            return Ok(None);
        }
        let Looking { connection, looks, .. } = self;
        let looking = looks.at(connection, queue);
        let found = in_time(|| connection.status().connected(), "look at a queue", looking).await?;
        if found.is_none() {
            self.missing.insert(queue.to_owned(), Instant::now());
        }
        Ok(found.map(|found| found.messages))
    }
}

fn native_arguments(queue_type: Option<&str>, arguments: &Arguments) -> FieldTable {
    let Arguments { dead_letter_exchange, delivery_limit, max_priority, max_length, message_ttl } = arguments;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let number = |number: u64| AMQPValue::LongLongInt(number.try_into().unwrap_or(i64::MAX));
    let all = [
        ("x-queue-type", queue_type.map(text)),
        ("x-dead-letter-exchange", dead_letter_exchange.as_deref().map(text)),
        ("x-delivery-limit", delivery_limit.map(AMQPValue::LongLongInt)),
        ("x-max-priority", max_priority.map(|most| number(most.into()))),
        ("x-max-length", max_length.map(number)),
        ("x-message-ttl", message_ttl.map(|ttl| number(ttl.as_millis().try_into().unwrap_or(u64::MAX)))),
    ];
    let mut table = FieldTable::default();
    for (name, value) in all {
        if let Some(value) = value {
            table.insert(name.into(), value);
        }
    }
    table
}

/// The broker's answer to a request about a queue.
pub async fn answered<T>(
    channel: &Channel,
    asked: &str,
    queue: &str,
    request: impl Future<Output = lapin::Result<T>>,
    doing: &str,
) -> Result<T, Error> {
    let request = async { request.await.map_err(|error| queue_error(error, queue, doing)) };
    in_time(|| channel.status().connected(), asked, request).await
}

/// Bounds a request by [`ANSWER_TIMEOUT`], and gives it up when the connection or channel that carries it is gone.
pub async fn in_time<T>(
    is_there: impl Fn() -> bool,
    asked: &str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        answer = answered_within(ANSWER_TIMEOUT, asked, request) => answer,
        () = connection::gone(is_there) => Err(Error::Lost { source: None }),
    }
}

fn read(delivery: Delivery, queue: &str, channel: &Channel, way_in: &Arc<WayIn>) -> Got {
    let Received { message, origin, properties, acker } = convert::received(delivery, queue);
    let body = message.body.clone();
    let held =
        Held { acker, channel: channel.clone(), properties, body, way_in: way_in.clone(), runtime: Handle::current() };
    Got { message, origin, unreadable: None, held: Box::new(held) }
}

#[async_trait]
impl admin::Held for Held {
    async fn forget(self: Box<Self>) -> Result<(), Error> {
        let acknowledging = async { sent(self.acker.ack(BasicAckOptions::default()).await) };
        in_time(|| self.channel.status().connected(), "take an acknowledgement", acknowledging).await
    }

    async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error> {
        let is_ours = |user: &str| self.way_in.nodes.iter().all(|node| node.user() == user);
        let copy = convert::again(&self.properties, is_ours, changes.without_headers);
        self.way_in.publish(queue, copy, &self.body).await
    }
}

/// Gives the message back if it was not acknowledged.
impl Drop for Held {
    fn drop(&mut self) {
        if !self.acker.usable() {
            return;
        }
        let acker = self.acker.clone();
        // A runtime that has ended runs nothing, but then the connection ends too, and the broker takes the message back.
        self.runtime.spawn(async move {
            let given_back = sent(acker.nack(GIVE_BACK).await);
            if let Err(error) = given_back {
                tracing::debug!(error = %chain(&error), "a message goes back with its connection");
            }
        });
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({:?})", self.acker)
    }
}
