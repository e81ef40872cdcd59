//! Publishing that is known to have worked: mandatory, persistent and confirmed, on a connection of its own.
//!
//! A connection of its own, because a broker in need stops reading from connections that publish: acknowledgements and
//! heartbeats on the same connection would stop with it.

use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use super::Url;
use super::connection::{self, Refusal, queue_error, refusal};
use crate::broker::Error;
use crate::fault::{self, Point};
use crate::task::Failure;
use crate::telemetry::chain;

/// How long a broker may take to confirm; one that raised an alarm confirms nothing until it is over.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// Delay queues have these lives, in milliseconds; a message goes to the first that is long enough, with an expiration
/// of its own. Few of them, since each is a queue; and close to each other, since a message can wait behind another
/// of the same queue for at most the difference.
const DELAYS: [u64; 10] = [1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 86_400_000];

/// An unused delay queue goes away after this long beyond its delay. It is declared again for every message, so that
/// it never goes while there is a message in it.
const DELAY_QUEUE_SPARE: u64 = 3_600_000;

pub struct Publisher {
    connection: Connection,
    channel: Channel,
}

impl Publisher {
    /// # Errors
    /// As [`connection::connect`].
    pub async fn connect(nodes: &[Url], name: &str) -> Result<Publisher, Error> {
        let connection = connection::connect(nodes, name).await?;
        let lost = |error: lapin::Error| Error::Lost { source: Some(error.into()) };
        let channel = connection.create_channel().await.map_err(lost)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(lost)?;
        Ok(Publisher { connection, channel })
    }

    /// Whether another message can be tried over this connection.
    pub fn usable(&self) -> bool {
        self.channel.status().connected()
    }

    pub async fn close(self) -> Result<(), Error> {
        connection::close(&self.connection).await
    }

    /// Publishes to a queue, and returns when the broker has taken responsibility for the message.
    ///
    /// One message at a time: lapin hands a returned message to whichever confirm completes next.
    ///
    /// # Errors
    /// When it is not known that the message is in the queue. It may be there all the same.
    pub async fn publish(&self, queue: &str, properties: BasicProperties, body: &Bytes) -> Result<(), Error> {
        let routing_key = short(queue)?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = async {
            let confirm =
                self.channel.basic_publish(ShortString::default(), routing_key, options, body, properties).await?;
            fault::reach(Point::Published);
            confirm.await
        };
        let confirmation = tokio::time::timeout(CONFIRM_TIMEOUT, publishing).await.map_err(|_| Error::Unpublished {
            reason: format!(
                "it was not confirmed within {}; the broker may be out of memory or disk space",
                humantime::format_duration(CONFIRM_TIMEOUT)
            ),
        })?;
        match confirmation {
            Ok(Confirmation::Ack(None)) => Ok(()),
            // To the default exchange, "no route" has one meaning.
            Ok(Confirmation::Ack(Some(_))) => Err(Error::MissingQueue {
                queue: queue.to_owned(),
                source: Some("the broker has no route to it".into()),
            }),
            Ok(Confirmation::Nack(_)) => {
                Err(Error::Unpublished { reason: format!("the queue `{queue}` refused it; it may be full") })
            }
            Ok(Confirmation::NotRequested) => Err(Error::Unpublished { reason: "the broker does not confirm".into() }),
            Err(error) => match refusal(&error) {
                // `max_message_size`; the channel is gone with it.
                Some(Refusal::PreconditionFailed) => Err(Error::Unpublished { reason: error.to_string() }),
                _ => Err(queue_error(error, queue, "publish to")),
            },
        }
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
            return self.publish(queue, properties, body).await;
        }
        let life = DELAYS.into_iter().find(|life| *life >= delay).unwrap_or(DELAYS[DELAYS.len() - 1]);
        let delay = delay.min(life);
        match self.declare_delay_queue(queue, life).await {
            Ok(delay_queue) => {
                let properties = properties.with_expiration(short(&delay.to_string())?);
                self.publish(&delay_queue, properties, body).await
            }
            Err(error @ (Error::Forbidden { .. } | Error::Mismatch { .. })) => {
                tracing::warn!(error = %chain(&error), "there is no queue to wait in: the message comes again at once");
                self.publish(queue, properties, body).await
            }
            Err(error) => Err(error),
        }
    }

    /// `QUEUE.retry.SECONDSs`: messages expire here into `QUEUE`.
    ///
    /// A quorum queue with dead-lettering "at least once": a classic one hands expired messages on without confirms, and
    /// loses what is under way when the broker dies.
    async fn declare_delay_queue(&self, queue: &str, life: u64) -> Result<String, Error> {
        let name = format!("{queue}.retry.{}s", life / 1000);
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
        match self.publish(dead_letter_queue, properties.clone(), body).await {
            Err(Error::MissingQueue { .. }) => {
                let mut arguments = FieldTable::default();
                arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
                self.declare(dead_letter_queue, arguments).await?;
                tracing::info!(queue = dead_letter_queue, "made the queue for dead letters");
                self.publish(dead_letter_queue, properties, body).await
            }
            published => published,
        }
    }

    async fn declare(&self, queue: &str, arguments: FieldTable) -> Result<(), Error> {
        // A refused declaration closes its channel, so it gets one of its own.
        let channel =
            self.connection.create_channel().await.map_err(|error| Error::Lost { source: Some(error.into()) })?;
        let declared = channel.queue_declare(short(queue)?, QueueDeclareOptions::durable(), arguments).await;
        let declared = declared.map_err(|error| queue_error(error, queue, "declare"));
        if declared.is_ok() {
            connection::close_channel(&channel).await?;
        }
        declared.map(drop)
    }
}

/// A name as AMQP has it.
pub fn short(text: &str) -> Result<ShortString, Error> {
    ShortString::try_new(text).map_err(|_| Error::Settings {
        what: format!("the queue name `{text}`"),
        source: "a name in AMQP has at most 255 bytes".into(),
    })
}

/// The properties of a message that failed, for its next life.
///
/// # Errors
/// Never in practice: the values come from AMQP properties.
pub fn failed(
    original: &BasicProperties,
    failure: &Failure,
    queue: &str,
    next_attempt: u32,
) -> Result<BasicProperties, Error> {
    super::convert::republished(original, failure, queue, next_attempt).map_err(|reason| Error::Unpublished { reason })
}
