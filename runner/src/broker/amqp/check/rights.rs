//! Which rights a user has, found out by requests that can't be carried out.
//!
//! RabbitMQ looks at the rights first, and then at the request. So a request with a value that is none is refused either way,
//! and the refusal tells which of the two it was. Nothing is taken, made or published.

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection};

use super::super::arguments::{BOGUS, difference};
use super::super::connection::{Refusal, because, lost, queue_error, refusal, said};
use super::super::publisher::name;
use crate::broker::bounds::answered;
use crate::broker::error::Error;
use crate::broker::outbox::Address;

/// What is known of a right.
#[derive(Debug)]
pub enum Right {
    /// With what the broker said.
    Given(String),
    Refused(Error),
    /// The broker answered something else.
    Unknown,
}

/// The right to take messages.
///
/// # Errors
/// When the broker does not answer.
pub async fn to_consume(connection: &Connection, queue: &str) -> Result<Right, Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString(BOGUS.into()));
    let asking = async {
        let channel = connection.create_channel().await.map_err(lost)?;
        channel.basic_qos(1, BasicQosOptions::default()).await.map_err(lost)?;
        let options = BasicConsumeOptions::default();
        let asked = channel.basic_consume(name(queue)?, "".into(), options, arguments).await;
        read(asked, |error| queue_error(error, queue, "consume from"))
    };
    answered("say whether messages may be taken", asking).await
}

/// The right to publish to an address.
///
/// # Errors
/// When the broker does not answer. One that is short of memory or disk space reads nothing from those who publish.
pub async fn to_publish(connection: &Connection, to: &Address) -> Result<Right, Error> {
    let (exchange, key) = match to {
        Address::Exchange { name, key } => (name.as_str(), key.as_str()),
        // The right is to the default exchange, whichever the queue.
        Address::Queue(_) | Address::Reply(_) => ("", BOGUS),
    };
    let asking = async {
        let channel = connection.create_channel().await.map_err(lost)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(lost)?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_expiration(BOGUS.into());
        let (exchange, key) = (name(exchange)?, name(key)?);
        let asked = async { channel.basic_publish(exchange, key, options, b"", properties).await?.await };
        read(asked.await, |error| match (refusal(&error), to) {
            (Some(Refusal::NotFound), Address::Exchange { name, .. }) => {
                Error::MissingExchange { exchange: name.clone(), source: because(error) }
            }
            (Some(Refusal::AccessRefused), _) => {
                Error::Forbidden { doing: format!("publish to {to}"), source: because(error) }
            }
            _ => queue_error(error, "", "publish to"),
        })
    };
    answered("say whether messages may be published", asking).await
}

/// The right to make a queue with these arguments, be it there or not.
///
/// # Errors
/// When the broker does not answer.
pub async fn to_declare(connection: &Connection, queue: &str, mut arguments: FieldTable) -> Result<Right, Error> {
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(BOGUS.into()));
    let asking = async {
        let channel = connection.create_channel().await.map_err(lost)?;
        let asked = channel.queue_declare(name(queue)?, QueueDeclareOptions::durable(), arguments).await;
        read(asked, |error| queue_error(error, queue, "make"))
    };
    answered("say whether a queue may be made", asking).await
}

/// The argument in which a queue that is there differs from what it should be, but for its type.
pub fn mismatch(said: &str) -> Option<&str> {
    difference(said).filter(|name| *name != "x-queue-type")
}

fn read<T>(asked: lapin::Result<T>, meaning: impl FnOnce(lapin::Error) -> Error) -> Result<Right, Error> {
    match asked {
        Err(error) if refusal(&error) == Some(Refusal::PreconditionFailed) => Ok(Right::Given(said(&error))),
        Ok(_) => Ok(Right::Unknown),
        Err(error) => match meaning(error) {
            error @ (Error::Lost { .. } | Error::Unanswered { .. }) => Err(error),
            error => Ok(Right::Refused(error)),
        },
    }
}
