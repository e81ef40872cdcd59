//! Looks at queues, over a channel of their own: a queue that is not there ends the channel that asks for it.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection};

use super::arguments::Arguments;
use super::connection::{lost, queue_error};
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

/// Whether a queue is a stream. `found` is what a look showed while the queue had a consumer, which `channel` has.
///
/// AMQP 0-9-1 has no question for that. A stream does not count its consumers, so the first look is enough for nearly all
/// queues, at the price of one round trip. The others are asked for their type: see `arguments.rs`.
///
/// # Errors
/// When the broker does not answer the second look, which is needed without the permission to ask for the type.
pub async fn is_stream(connection: &Connection, channel: &Channel, queue: &str, found: &Found) -> Result<bool, Error> {
    if found.consumers > 0 {
        return Ok(false);
    }
    match Arguments::read_type(connection, queue).await {
        Ok(queue_type) => Ok(queue_type.as_deref() == Some("stream")),
        // Without the permission to ask, the first look has to be enough. It came right after the consumer, so it is repeated.
        Err(Error::Forbidden { .. }) => Ok(look_at(channel, queue).await?.consumers == 0),
        // Any other answer: the queue is not known to be a stream.
        Err(_) => Ok(false),
    }
}
