//! Looks at queues, over a channel of their own: a queue that is not there ends the channel that asks for it.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};

use super::connection::{Refusal, lost, queue_error, refusal};
use super::publisher::name;
use crate::broker::Error;

#[derive(Default)]
pub struct Looks {
    channel: Option<Channel>,
}

pub struct Found {
    pub messages: u64,
    pub consumers: u64,
}

impl Looks {
    /// Counts the messages and consumers of a queue; `None` if there is no such queue.
    ///
    /// # Errors
    /// When the broker does not say.
    pub async fn at(&mut self, connection: &Connection, queue: &str) -> Result<Option<Found>, Error> {
        let channel = match self.channel.take() {
            Some(channel) if channel.status().connected() => channel,
            _ => connection.create_channel().await.map_err(lost)?,
        };
        match look_at(&channel, queue).await {
            Ok(found) => {
                self.channel = Some(channel);
                Ok(Some(found))
            }
            Err(Error::MissingQueue { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Looks at a queue that should be there.
///
/// # Errors
/// When it is not, or when the broker does not say. The channel is then closed.
pub async fn look_at(channel: &Channel, queue: &str) -> Result<Found, Error> {
    let options = QueueDeclareOptions::durable().passive();
    let declared = channel
        .queue_declare(name(queue)?, options, FieldTable::default())
        .await
        .map_err(|error| queue_error(error, queue, "look at"))?;
    Ok(Found { messages: declared.message_count().into(), consumers: declared.consumer_count().into() })
}

/// Whether a queue is a stream, over a channel that consumes from it.
///
/// AMQP 0-9-1 has no question for that. A stream counts none of its consumers, so that the first look tells nearly all queues
/// from it at the price of one round trip. The second one asks for a queue of a type that does not exist: no broker makes
/// it, and RabbitMQ refuses by naming the type that the queue has.
///
/// # Errors
/// When the broker does not answer.
pub async fn is_stream(connection: &Connection, channel: &Channel, queue: &str) -> Result<bool, Error> {
    if look_at(channel, queue).await?.consumers > 0 {
        return Ok(false);
    }
    let asking = connection.create_channel().await.map_err(lost)?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("asked for by wq-run".into()));
    match asking.queue_declare(name(queue)?, QueueDeclareOptions::durable(), arguments).await {
        Err(error) if refusal(&error) == Some(Refusal::PreconditionFailed) => {
            Ok(error.to_string().contains("current is 'stream'"))
        }
        // Without the right to ask, what the first look showed has to do; it showed it right after the consumer was there.
        Err(error) if refusal(&error) == Some(Refusal::AccessRefused) => {
            Ok(look_at(channel, queue).await?.consumers == 0)
        }
        // It takes every type, or has another word for it.
        Ok(_) | Err(_) => Ok(false),
    }
}
