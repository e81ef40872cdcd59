//! RabbitMQ and other brokers that speak AMQP 0-9-1.

mod acks;
pub mod admin;
mod connection;
mod consumers;
mod convert;
pub mod filter;
pub mod outbox;
mod publisher;
mod size;
mod transport;
mod url;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Acker, BasicProperties, Channel, ChannelStatus, Connection, ConnectionStatus};
use tokio_util::sync::CancellationToken;

pub use publisher::delay_queue_for;
pub use url::Url;

use self::acks::Acks;
use self::connection::{lost, queue_error, unreceived};
use self::consumers::{Consumers, Next};
use self::publisher::{Publisher, name};
use super::error::Kind;
use super::{Command, Depth, Ended, Error, Handed, Link, Options, Tag};
use crate::task::{Failure, Message, Origin, Settlement};

/// For everything until messages can come. A quorum queue without a leader lets a consumer wait for as long as that
/// lasts, which must not look like an empty queue.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// In traces.
const SYSTEM: &str = "rabbitmq";

/// How soon a lost connection is seen by a worker that takes no more messages.
const LOOK_AFTER_CONNECTION: Duration = Duration::from_millis(250);

/// RabbitMQ's own timeout for acknowledgements, below which we do not go.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// For what follows a run: writing its result, publishing a retry, the broker's look at the clock once a minute.
const ACKNOWLEDGEMENT_MARGIN: Duration = Duration::from_secs(5 * 60);

pub(crate) struct Adapter {
    nodes: Vec<Url>,
    options: Options,
}

/// One connection's life, from the first frame to the last.
struct Session<'a> {
    adapter: &'a Adapter,
    connection: Connection,
    channel: Channel,
    consumers: Consumers,
    /// What the worker has and has not settled, by delivery tag.
    held: BTreeMap<u64, Held>,
    /// What it has settled, and the broker does not know yet.
    acks: Acks,
    /// Connected when the first message has to be published.
    publisher: Option<Publisher>,
}

/// A delivery that is with the worker. Once this is gone, so is the worker's claim on the message.
struct Held {
    acker: Acker,
    consumer: ShortString,
    properties: BasicProperties,
    body: Bytes,
    lost: CancellationToken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

impl Adapter {
    pub(crate) fn new(nodes: Vec<Url>, options: Options) -> Adapter {
        Adapter { nodes, options }
    }

    pub(crate) async fn session(&mut self, link: &mut Link) -> Ended {
        let connection = match self.in_time(connection::connect(&self.nodes, &self.connection_name())).await {
            Ok(connection) => connection,
            Err(error) => return ended(error),
        };
        if link.begin().await.is_closed() {
            let _ = connection::close(&connection).await;
            return Ended::Closed;
        }
        let mut session = match self.in_time(Session::open(self, connection, link.wanted())).await {
            Ok(session) => session,
            Err(error) => return ended(error),
        };
        link.established();
        let status = (session.connection.status().clone(), session.channel.status().clone());
        let mut ended_consuming = false;
        loop {
            let acks_due = session.acks.due();
            let todo = tokio::select! {
                biased;
                command = link.commands.recv() => Todo::Command(command),
                () = sleep_until(acks_due) => Todo::SendAcks,
                next = session.consumers.next(), if !ended_consuming => Todo::Next(next),
                // Without consumers nothing else tells of it, and there may be something to settle.
                () = gone(&status), if ended_consuming => return Ended::Lost(Error::Lost { source: None }),
            };
            ended_consuming |= matches!(todo, Todo::Next(Next::Ended));
            // The end of a session takes its own time, and the connection goes away by it.
            let ends = matches!(todo, Todo::Command(None | Some(Command::Close { .. })));
            let step = tokio::select! {
                biased;
                step = session.on(todo, link) => step,
                // What was asked of a connection just before it broke, lapin may leave unanswered for ever.
                () = gone(&status), if !ends => Err(Error::Lost { source: None }),
            };
            match step {
                Ok(Step::Go) => {}
                Ok(Step::Closed) => return Ended::Closed,
                Err(error) => return ended(error),
            }
        }
    }
}

/// Returns a while after the connection or the channel has gone, so that whoever knows why can say so first.
async fn gone((connection, channel): &(ConnectionStatus, ChannelStatus)) {
    while connection.connected() && channel.connected() {
        tokio::time::sleep(LOOK_AFTER_CONNECTION).await;
    }
    tokio::time::sleep(LOOK_AFTER_CONNECTION).await;
}

/// What a session has to see to next.
enum Todo {
    Command(Option<Command>),
    SendAcks,
    Next(Next),
}

enum Step {
    Go,
    Closed,
}

fn ended(error: Error) -> Ended {
    match error.kind() {
        Kind::Unreachable | Kind::Lost => Ended::Lost(error),
        Kind::Refused | Kind::Configuration => Ended::Refused(error),
    }
}

impl<'a> Session<'a> {
    async fn open(adapter: &'a Adapter, connection: Connection, wanted: u64) -> Result<Session<'a>, Error> {
        let Options { queue, prefetch, longest_hold, .. } = &adapter.options;
        // A count gives each message a consumer, with one place: there is nothing to gather.
        let acks = Acks::new(if wanted == u64::MAX { *prefetch } else { 1 });
        let mut channel = connection.create_channel().await.map_err(lost)?;
        let mut consumers = Consumers::open(&channel, queue, *prefetch, wanted, &arguments(*longest_hold)).await;
        if let Err(Error::Mismatch { .. }) = consumers {
            // A broker may know an argument, and refuse it for this type of queue. The channel is gone with that.
            channel = connection.create_channel().await.map_err(lost)?;
            consumers = Consumers::open(&channel, queue, *prefetch, wanted, &FieldTable::default()).await;
        }
        Ok(Session {
            adapter,
            connection,
            channel,
            consumers: consumers?,
            held: BTreeMap::new(),
            acks,
            publisher: None,
        })
    }

    fn on_delivery(
        &mut self,
        consumer: ShortString,
        delivery: lapin::message::Delivery,
        link: &Link,
    ) -> Result<Step, Error> {
        let lapin::message::Delivery { delivery_tag, exchange, routing_key, redelivered, properties, data, acker } =
            delivery;
        let body = Bytes::from(data);
        let message = Message {
            body: body.clone(),
            properties: convert::properties(&properties),
            headers: convert::headers(&properties),
        };
        let origin = Origin {
            queue: self.adapter.options.queue.clone(),
            exchange: exchange.to_string(),
            routing_key: routing_key.to_string(),
            redelivered,
            delivery_tag,
            system: SYSTEM,
        };
        let (attempt, unfinished) = convert::attempt(&message.headers, redelivered, &self.adapter.options.queue);
        let can_be_retried = publisher::can_be_retried(&self.connection, &properties, &self.adapter.options.queue);
        let lost = CancellationToken::new();
        self.held.insert(delivery_tag, Held { acker, consumer, properties, body, lost: lost.clone() });
        link.deliver(link.tag(delivery_tag), lost, Handed { message, origin, attempt, unfinished, can_be_retried });
        Ok(Step::Go)
    }

    async fn on(&mut self, todo: Todo, link: &mut Link) -> Result<Step, Error> {
        match todo {
            Todo::Command(command) => self.on_command(command, link).await,
            Todo::SendAcks => self.send_acks().await.map(|()| Step::Go),
            Todo::Next(Next::Delivery(consumer, delivery)) => self.on_delivery(consumer, delivery, link),
            // A refusal at this point (an acknowledgement that took too long) ends the channel, and not us.
            Todo::Next(Next::Failed(error)) => Err(unreceived(error)),
            Todo::Next(Next::Cancelled) => Err(self.why_cancelled().await),
            // As asked. There may be something to settle.
            Todo::Next(Next::Ended) => Ok(Step::Go),
        }
    }

    async fn on_command(&mut self, command: Option<Command>, link: &mut Link) -> Result<Step, Error> {
        match command {
            Some(Command::Settle { tag, settlement: Settlement::Ack, reply }) if self.holds(tag, link) => {
                let Some(held) = self.held.remove(&tag.number) else { return Ok(Step::Go) };
                self.consumers.make_room(&self.channel, &held.consumer).await?;
                self.acks.add(tag.number, held, reply);
                // With nothing left to do for the worker, nothing more would gather.
                if self.acks.is_full() || self.held.is_empty() || link.cancelled {
                    self.send_acks().await?;
                }
                Ok(Step::Go)
            }
            Some(Command::Settle { tag, settlement, reply }) => {
                let settled = self.settle(tag, settlement, link).await;
                let broken = matches!(settled, Err(Error::Lost { .. }));
                if let Some(reply) = reply {
                    let _ = reply.send(settled);
                }
                // A connection over which one acknowledgement could not be sent will not carry the next one either.
                if broken && !self.channel.status().connected() {
                    Err(Error::Lost { source: None })
                } else {
                    Ok(Step::Go)
                }
            }
            Some(Command::Cancel) => {
                if !link.cancelled {
                    link.cancelled = true;
                    self.send_acks().await?;
                    // Awaited before anything is settled: otherwise the broker would fill the free place with the next
                    // message, whose return counts as a failed delivery.
                    self.consumers.cancel_all(&self.channel).await?;
                }
                Ok(Step::Go)
            }
            Some(Command::Probe) => {
                self.send_acks().await?;
                link.depth(self.depth().await?);
                Ok(Step::Go)
            }
            Some(Command::Close { reply }) => {
                let _ = reply.send(self.close().await);
                Ok(Step::Closed)
            }
            // The worker has gone without a word.
            None => {
                let _ = self.close().await;
                Ok(Step::Closed)
            }
        }
    }

    /// Whether a delivery is of this connection, and not settled before.
    fn holds(&self, tag: Tag, link: &Link) -> bool {
        tag.session == link.session && self.held.contains_key(&tag.number)
    }

    async fn send_acks(&mut self) -> Result<(), Error> {
        let first_held = self.held.first_key_value().map(|(tag, _)| *tag);
        self.acks.send(first_held).await
    }

    async fn settle(&mut self, tag: Tag, settlement: Settlement, link: &Link) -> Result<(), Error> {
        // Of an earlier connection, or settled before.
        let held = if self.holds(tag, link) { self.held.remove(&tag.number) } else { None };
        let Some(held) = held else { return Err(Error::Lost { source: None }) };
        self.consumers.make_room(&self.channel, &held.consumer).await?;
        let published = match settlement {
            Settlement::Ack => return acknowledge(&held).await,
            Settlement::Release => return give_back(&held).await,
            Settlement::Retry { after, failure } => {
                let Options { queue, .. } = &self.adapter.options;
                match self.publisher().await {
                    Ok(publisher) => match publisher.retried(&held.properties, &failure, queue) {
                        Ok(properties) => publisher.publish_delayed(queue, after, properties, &held.body).await,
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                }
            }
            Settlement::Reject { .. } => return reject(&held).await,
            Settlement::DeadLetter { failure } => self.publish_dead_letter(&held, &failure).await,
        };
        match published {
            Ok(()) => acknowledge(&held).await,
            Err(error) => {
                // The copy is not known to be safe, so the original stays.
                give_back(&held).await?;
                Err(error)
            }
        }
    }

    async fn publish_dead_letter(&mut self, held: &Held, failure: &Failure) -> Result<(), Error> {
        let Options { queue, dead_letter_queue, .. } = &self.adapter.options;
        let publisher = self.publisher().await?;
        let properties = publisher.put_aside(&held.properties, failure, queue)?;
        publisher.publish_dead_letter(dead_letter_queue, properties, &held.body).await
    }

    async fn publisher(&mut self) -> Result<&Publisher, Error> {
        let publisher = match self.publisher.take() {
            Some(publisher) if publisher.usable() => publisher,
            _ => {
                let Adapter { nodes, options } = self.adapter;
                let called = connection_name("puts aside", &options.queue);
                Publisher::connect(nodes, &called, options.publish_timeout).await?
            }
        };
        Ok(self.publisher.insert(publisher))
    }

    async fn depth(&mut self) -> Result<Depth, Error> {
        let queue = &self.adapter.options.queue;
        let declared = self
            .channel
            .queue_declare(name(queue)?, QueueDeclareOptions::durable().passive(), FieldTable::default())
            .await
            .map_err(|error| queue_error(error, queue, "look at"))?;
        Ok(Depth { ready: declared.message_count().into(), delayed: 0 })
    }

    /// The broker ended the consumer: because the queue is gone, or its leader is, or an acknowledgement took too long.
    async fn why_cancelled(&mut self) -> Error {
        let queue = &self.adapter.options.queue;
        let cancelled = || Error::Lost { source: Some("the broker cancelled the consumer".into()) };
        let Ok(channel) = self.connection.create_channel().await else { return cancelled() };
        let Ok(queue_name) = name(queue) else { return cancelled() };
        match channel.queue_declare(queue_name, QueueDeclareOptions::durable().passive(), FieldTable::default()).await {
            Ok(_) => cancelled(),
            Err(error) => queue_error(error, queue, "look at"),
        }
    }

    /// Gives back what is held, and makes sure that every settlement has reached the broker.
    async fn close(&mut self) -> Result<(), Error> {
        self.send_acks().await?;
        for held in std::mem::take(&mut self.held).into_values() {
            give_back(&held).await?;
        }
        connection::close_channel(&self.channel).await?;
        if let Some(publisher) = self.publisher.take() {
            // All that it published is confirmed.
            let _ = publisher.close().await;
        }
        // The channel's end was answered, so the settlements are safe, whatever becomes of the connection.
        let _ = connection::close(&self.connection).await;
        Ok(())
    }
}

impl Adapter {
    /// Bounds what a broker that takes connections may leave unanswered.
    async fn in_time<T>(&self, opening: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(|_| {
            let source = "it takes connections, and did not answer when asked for messages".into();
            Err(Error::Unreachable { address: self.addresses(), source })
        })
    }

    fn connection_name(&self) -> String {
        connection_name("takes", &self.options.queue)
    }

    fn addresses(&self) -> String {
        self.nodes.iter().map(Url::address).collect::<Vec<_>>().join(", ")
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What an operator sees in the broker's list of connections.
fn connection_name(does: &str, queue: &str) -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".into());
    format!("wq-run {does} {queue} ({host}, {})", std::process::id())
}

/// RabbitMQ 4.3 lets each consumer say how long it may have a message. Earlier ones take no notice.
fn arguments(longest_hold: Duration) -> FieldTable {
    let timeout = longest_hold.saturating_add(ACKNOWLEDGEMENT_MARGIN).max(ACKNOWLEDGEMENT_TIMEOUT);
    // In milliseconds, and in 32 bits of them, which a timer of the broker can count: 49 days.
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut arguments = FieldTable::default();
    arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(timeout.into()));
    arguments
}

async fn acknowledge(held: &Held) -> Result<(), Error> {
    sent(held.acker.ack(BasicAckOptions::default()).await)
}

/// Hands a message over to the broker's own dead-lettering. Without a dead-letter exchange the broker deletes it.
async fn reject(held: &Held) -> Result<(), Error> {
    sent(held.acker.reject(BasicRejectOptions { requeue: false }).await)
}

async fn give_back(held: &Held) -> Result<(), Error> {
    // Since RabbitMQ 4.3 a nack does not count as an attempt, and a reject does.
    sent(held.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await)
}

/// lapin answers `Ok(false)` for a settlement that it did not send.
fn sent(sent: lapin::Result<bool>) -> Result<(), Error> {
    match sent {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Lost { source: None }),
        Err(error) => Err(lost(error)),
    }
}
