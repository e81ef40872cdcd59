//! Publishing that is known to have worked: mandatory, persistent and confirmed, on a connection of its own.
//!
//! A connection of its own, because a broker in need stops reading from connections that publish: acknowledgements and
//! heartbeats on the same connection would stop with it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ExchangeKind};

use super::connection::{self, Refusal, lost, queue_error, refusal};
use super::{Url, convert};
use crate::broker::failure::Next;
use crate::broker::{Address, Error};
use crate::fault::{self, Point};
use crate::task::Failure;
use crate::telemetry::chain;

/// Direct replies: not a queue, but a way back over the connection of whoever asked. With a longer name in `reply_to`.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

/// How soon it is said that the broker takes nothing at the moment.
const SAY_BLOCKED_AFTER: Duration = Duration::from_secs(1);

/// Delay queues have these lives, in milliseconds; a message goes to the first that is long enough, with an expiration
/// of its own. Few of them, since each is a queue; and close to each other, since a message can wait behind another
/// of the same queue for at most the difference.
const DELAYS: [u64; 10] = [1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 86_400_000];

/// An unused delay queue goes away after this long beyond its delay. It is declared again for every message, so that
/// it never goes while there is a message in it.
const DELAY_QUEUE_SPARE: u64 = 3_600_000;

pub struct Publisher {
    connection: Connection,
    /// Channels on which nothing is being published. Each carries one message at a time: lapin hands a returned message
    /// to whichever confirm of the channel completes next.
    idle: Mutex<Vec<Channel>>,
    /// `--publish-timeout`. A broker that raised an alarm takes nothing until it is over.
    timeout: Duration,
}

impl Publisher {
    /// # Errors
    /// As [`connection::connect`].
    pub async fn connect(nodes: &[Url], name: &str, timeout: Duration) -> Result<Publisher, Error> {
        let connection = connection::connect(nodes, name).await?;
        let publisher = Publisher { connection, idle: Mutex::default(), timeout };
        let channel = publisher.channel().await?;
        publisher.put_back(channel);
        Ok(publisher)
    }

    /// Whether another message can be tried over this connection.
    pub fn usable(&self) -> bool {
        self.connection.status().connected()
    }

    pub async fn close(&self) -> Result<(), Error> {
        connection::close(&self.connection).await
    }

    /// Publishes a message, and returns when the broker has taken responsibility for it.
    ///
    /// # Errors
    /// When it is not known that the message is where it should be. It may be there all the same.
    pub async fn publish(&self, to: &Address, properties: BasicProperties, body: &Bytes) -> Result<(), Error> {
        let direct = matches!(to, Address::Reply(reply_to) if reply_to.starts_with(DIRECT_REPLY));
        if direct {
            // The broker returns every mandatory message to such an address, delivered or not. Without that word it
            // tells nothing, so that the requester is looked for first.
            self.look_for(to).await?;
        }
        let (exchange, key) = names(to)?;
        let channel = self.channel().await?;
        let options = BasicPublishOptions { mandatory: !direct, ..BasicPublishOptions::default() };
        let publishing = async {
            let confirm = channel.basic_publish(exchange, key, options, body, properties).await?;
            fault::reach(Point::Published);
            confirm.await
        };
        let confirmation = tokio::time::timeout(self.timeout, self.while_blocked(publishing))
            .await
            .map_err(|_| Error::Unpublished { reason: self.unconfirmed() })?
            .map_err(|error| refused(to, error))?;
        self.put_back(channel);
        confirmed(to, &confirmation)?;
        fault::reach(Point::Confirmed);
        Ok(())
    }

    /// Looks whether an address is there, as far as a broker tells that without a message.
    ///
    /// # Errors
    /// When it is not, or when that can't be known.
    pub async fn look_for(&self, to: &Address) -> Result<(), Error> {
        // A refusal closes its channel, so it gets one of its own.
        let channel = self.connection.create_channel().await.map_err(lost)?;
        let (exchange, key) = names(to)?;
        let looked = match to {
            Address::Queue(_) | Address::Reply(_) => {
                let options = QueueDeclareOptions::durable().passive();
                channel.queue_declare(key, options, FieldTable::default()).await.map(drop)
            }
            Address::Exchange { .. } => {
                let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                // The kind is not looked at.
                channel.exchange_declare(exchange, ExchangeKind::Direct, options, FieldTable::default()).await
            }
        };
        match looked {
            Ok(()) => connection::close_channel(&channel).await,
            // Somebody else's queue that only its connection may look at: it is there.
            Err(error) if refusal(&error) == Some(Refusal::Locked) => Ok(()),
            Err(error) => Err(refused(to, error)),
        }
    }

    async fn channel(&self) -> Result<Channel, Error> {
        let idle = lock(&self.idle).pop();
        if let Some(channel) = idle {
            return Ok(channel);
        }
        let channel = self.connection.create_channel().await.map_err(lost)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(lost)?;
        Ok(channel)
    }

    /// After the answer for its message, so that no late one is taken for the next message's.
    fn put_back(&self, channel: Channel) {
        if channel.status().connected() {
            lock(&self.idle).push(channel);
        }
    }

    /// Says so if the broker blocks us: otherwise a worker that waits looks like one that hangs.
    async fn while_blocked<T>(&self, publishing: impl Future<Output = T>) -> T {
        tokio::pin!(publishing);
        tokio::select! {
            published = &mut publishing => return published,
            () = tokio::time::sleep(SAY_BLOCKED_AFTER) => {}
        }
        if self.connection.status().blocked() {
            tracing::warn!(
                "the broker takes no messages at the moment; waiting for at most {} (--publish-timeout)",
                humantime::format_duration(self.timeout)
            );
        }
        publishing.await
    }

    fn unconfirmed(&self) -> String {
        let blocked = if self.connection.status().blocked() { "it blocks publishers: " } else { "" };
        format!(
            "it was not confirmed within {} (--publish-timeout); {blocked}the broker may be out of memory or disk space",
            humantime::format_duration(self.timeout)
        )
    }

    /// Publishes a message so that it comes to `queue` after `delay`, and does not have to be held until then.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish_delayed(
        &self,
        queue: &str,
        delay: Duration,
        properties: BasicProperties,
        body: &Bytes,
    ) -> Result<(), Error> {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        if delay == 0 {
            return self.publish(&Address::Queue(queue.to_owned()), properties, body).await;
        }
        let life = life_for(delay);
        let delay = delay.min(life);
        match self.declare_delay_queue(queue, life).await {
            Ok(delay_queue) => {
                let properties = properties.with_expiration(name(&delay.to_string())?);
                self.publish(&Address::Queue(delay_queue), properties, body).await
            }
            Err(error @ (Error::Forbidden { .. } | Error::Mismatch { .. })) => {
                tracing::warn!(error = %chain(&error), "there is no queue to wait in: the message comes again at once");
                self.publish(&Address::Queue(queue.to_owned()), properties, body).await
            }
            Err(error) => Err(error),
        }
    }

    /// `QUEUE.retry.SECONDSs`: messages expire here into `QUEUE`.
    ///
    /// A quorum queue with dead-lettering "at least once": a classic one hands expired messages on without confirms, and
    /// loses what is under way when the broker dies.
    async fn declare_delay_queue(&self, queue: &str, life: u64) -> Result<String, Error> {
        let name = delay_queue(queue, life);
        let mut arguments = FieldTable::default();
        let mut text = |name: &str, value: &str| {
            arguments.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        text("x-queue-type", "quorum");
        text("x-dead-letter-exchange", "");
        text("x-dead-letter-routing-key", queue);
        text("x-dead-letter-strategy", "at-least-once");
        text("x-overflow", "reject-publish");
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(life.cast_signed()));
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt((life + DELAY_QUEUE_SPARE).cast_signed()));
        self.declare(&name, arguments).await?;
        Ok(name)
    }

    /// Publishes a dead letter, into a queue that is made if there is none.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish_dead_letter(
        &self,
        dead_letter_queue: &str,
        properties: BasicProperties,
        body: &Bytes,
    ) -> Result<(), Error> {
        let to = Address::Queue(dead_letter_queue.to_owned());
        match self.publish(&to, properties.clone(), body).await {
            Err(Error::MissingQueue { .. }) => {
                let mut arguments = FieldTable::default();
                arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
                self.declare(dead_letter_queue, arguments).await?;
                tracing::info!(queue = dead_letter_queue, "made the queue for dead letters");
                self.publish(&to, properties, body).await
            }
            published => published,
        }
    }

    /// The properties of a message for its next run.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a message that [`can_be_retried`] is not true of.
    pub fn retried(
        &self,
        original: &BasicProperties,
        failure: &Failure,
        queue: &str,
    ) -> Result<BasicProperties, Error> {
        let retried = convert::republished(original, failure, queue, Next::Retry, frame_max(&self.connection));
        retried
            .map_err(|reason| Error::Unpublished { reason })?
            .ok_or_else(|| Error::TooLarge { reason: "its headers leave no room for those of a retry".into() })
    }

    /// The properties of a dead letter, with as much of the reason as there is room for: what is never put aside would come
    /// for ever.
    ///
    /// # Errors
    /// Never in practice: the values come from AMQP properties.
    pub fn put_aside(
        &self,
        original: &BasicProperties,
        failure: &Failure,
        queue: &str,
    ) -> Result<BasicProperties, Error> {
        let unpublished = |reason| Error::Unpublished { reason };
        let dead = convert::republished(original, failure, queue, Next::DeadLetter, frame_max(&self.connection));
        match dead.map_err(unpublished)? {
            Some(properties) => Ok(properties),
            None => {
                tracing::warn!("the headers of the dead letter leave no room for the reason: it goes without");
                convert::copied(original, queue).map_err(unpublished)
            }
        }
    }

    async fn declare(&self, queue: &str, arguments: FieldTable) -> Result<(), Error> {
        // A refused declaration closes its channel, so it gets one of its own.
        let channel = self.connection.create_channel().await.map_err(lost)?;
        let declared = channel.queue_declare(name(queue)?, QueueDeclareOptions::durable(), arguments).await;
        let declared = declared.map_err(|error| queue_error(error, queue, "declare"));
        if declared.is_ok() {
            connection::close_channel(&channel).await?;
        }
        declared.map(drop)
    }
}

/// The delay queue in which a message of `queue` waits for this long.
pub fn delay_queue_for(queue: &str, pause: Duration) -> String {
    delay_queue(queue, life_for(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)))
}

fn delay_queue(queue: &str, life: u64) -> String {
    format!("{queue}.retry.{}s", life / 1000)
}

fn life_for(delay: u64) -> u64 {
    DELAYS.into_iter().find(|life| *life >= delay).unwrap_or(DELAYS[DELAYS.len() - 1])
}

/// Whether there is room for the headers of a retry over such a connection. Every broker has one limit for all of them.
pub fn can_be_retried(connection: &Connection, properties: &BasicProperties, queue: &str) -> bool {
    convert::leaves_room(properties, queue, frame_max(connection))
}

/// What both sides agreed upon; 0 is no limit.
fn frame_max(connection: &Connection) -> usize {
    match connection.configuration().frame_max() {
        0 => usize::MAX,
        size => size as usize,
    }
}

fn confirmed(to: &Address, confirmation: &Confirmation) -> Result<(), Error> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => Err(match to {
            // To the default exchange, "no route" has one meaning.
            Address::Queue(queue) => {
                Error::MissingQueue { queue: queue.clone(), source: Some("the broker has no route to it".into()) }
            }
            Address::Exchange { name, key } => Error::Unroutable { exchange: name.clone(), key: key.clone() },
            Address::Reply(reply_to) => Error::NoRequester { reply_to: reply_to.clone() },
        }),
        Confirmation::Nack(_) => Err(Error::Unpublished { reason: format!("{to} refused it; it may be full") }),
        Confirmation::NotRequested => Err(Error::Unpublished { reason: "the broker does not confirm".into() }),
    }
}

/// The meaning of an error that answers a message, or a look at where it should go.
fn refused(to: &Address, error: lapin::Error) -> Error {
    match (refusal(&error), to) {
        // `max_message_size`, or `frame_max` for the headers. Nothing else of what we publish can be refused so. The latter ends
        // the connection for everybody, but only retries and dead letters have headers that are not ours, one at a time.
        (Some(Refusal::PreconditionFailed | Refusal::FrameTooLarge), _) => {
            Error::TooLarge { reason: error.to_string() }
        }
        (Some(Refusal::NotFound), Address::Exchange { name, .. }) => {
            Error::MissingExchange { exchange: name.clone(), source: error.into() }
        }
        (Some(Refusal::NotFound), Address::Reply(reply_to)) => Error::NoRequester { reply_to: reply_to.clone() },
        (_, Address::Exchange { .. }) => match queue_error(error, "", "publish to") {
            Error::Forbidden { source, .. } => Error::Forbidden { doing: format!("publish to {to}"), source },
            other => other,
        },
        (_, Address::Queue(queue) | Address::Reply(queue)) => queue_error(error, queue, "publish to"),
    }
}

/// A panic while the lock is held leaves a list of channels, which is as good as before.
fn lock(idle: &Mutex<Vec<Channel>>) -> MutexGuard<'_, Vec<Channel>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names(to: &Address) -> Result<(ShortString, ShortString), Error> {
    let (exchange, key) = to.parts();
    Ok((name(exchange)?, name(key)?))
}

/// A name as AMQP has it.
pub fn name(text: &str) -> Result<ShortString, Error> {
    ShortString::try_new(text).map_err(|_| Error::Settings {
        what: format!("the name `{text}`"),
        source: "a name in AMQP has at most 255 bytes".into(),
    })
}
