//! The arguments that a queue was made with, read from refusals.
//!
//! AMQP has no question for them. RabbitMQ refuses a second declaration of a queue that differs from the first one, and
//! names one difference with the value that the queue has. So a declaration is made again and again, each time with what
//! was named before, until only a difference is left that we made on purpose. That difference is an argument that no queue
//! of this type can have, so that none of these declarations could ever make a queue.

use std::collections::BTreeMap;

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use super::connection::{Refusal, lost, queue_error, refusal, said};
use super::publisher::name;
use crate::broker::bounds::answered;
use crate::broker::error::Error;

/// A value that is valid for no argument: it is no queue type, no age, no priority and no expiration. In the broker's log it
/// shows who asked.
pub const BOGUS: &str = "asked for by wq-run";

/// More than a queue can have.
const MOST_ROUNDS: usize = 32;

/// The longest text that a refusal has room for. One of this length was cut off.
const LONGEST: usize = 255;

const TYPE: &str = "x-queue-type";
const DELIVERY_LIMIT: &str = "x-delivery-limit";
/// Only streams have it.
const STREAMS_ONLY: &str = "x-max-age";

/// What is known of a queue.
#[derive(Debug, Default)]
pub struct Arguments {
    pub queue_type: Option<String>,
    pub is_temporary: bool,
    pub is_deleted_unused: bool,
    named: BTreeMap<String, AMQPValue>,
    has_no_limit: bool,
    /// Whether all arguments were named.
    pub is_complete: bool,
}

/// What a refusal says.
#[derive(Debug, PartialEq)]
enum Said {
    /// The queue has this, and our declaration has something else.
    Differs { name: String, has: Option<AMQPValue> },
    /// The queue has all that it was asked for. Some versions don't compare what a queue of its type can't have.
    Same,
    /// There is no such queue, and none can be made with these arguments; or a refusal in other words.
    Unknown,
}

impl Arguments {
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.named.get(name)? {
            AMQPValue::LongLongInt(number) => Some(*number),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.named.get(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            _ => None,
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Reads the arguments of a queue that is there.
    ///
    /// # Errors
    /// [`Error::Forbidden`] without the right to configure the queue.
    pub async fn read(connection: &Connection, queue: &str) -> Result<Arguments, Error> {
        Arguments::read_until(connection, queue, |_| false).await
    }

    /// Reads the type of a queue that is there; `None` if the broker does not name it.
    ///
    /// # Errors
    /// As [`Arguments::read`].
    pub async fn read_type(connection: &Connection, queue: &str) -> Result<Option<String>, Error> {
        let known = Arguments::read_until(connection, queue, |known| known.queue_type.is_some()).await?;
        Ok(known.queue_type)
    }

    async fn read_until(
        connection: &Connection,
        queue: &str,
        is_enough: impl Fn(&Arguments) -> bool,
    ) -> Result<Arguments, Error> {
        let mut known = Arguments::default();
        for _ in 0..MOST_ROUNDS {
            let options = QueueDeclareOptions {
                durable: !known.is_temporary,
                auto_delete: known.is_deleted_unused,
                ..QueueDeclareOptions::default()
            };
            let more = match refused(connection, queue, options, known.declaration()).await? {
                Said::Differs { name, has } => known.learns(&name, has),
                Said::Same => {
                    known.is_complete = known.queue_type.is_some();
                    false
                }
                Said::Unknown => false,
            };
            if !more || is_enough(&known) {
                break;
            }
        }
        Ok(known)
    }

    /// A declaration that differs from the queue, and with which none could be made.
    fn declaration(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in &self.named {
            table.insert(name.as_str().into(), value.clone());
        }
        let Some(queue_type) = &self.queue_type else {
            table.insert(TYPE.into(), bogus());
            return table;
        };
        if queue_type == "quorum" && !self.named.contains_key(DELIVERY_LIMIT) && !self.has_no_limit {
            table.insert(DELIVERY_LIMIT.into(), bogus());
        }
        table.insert(STREAMS_ONLY.into(), bogus());
        table
    }

    /// Returns whether there is more to ask.
    fn learns(&mut self, name: &str, has: Option<AMQPValue>) -> bool {
        match (name, has) {
            ("durable", _) => !std::mem::replace(&mut self.is_temporary, true),
            ("auto_delete", _) => !std::mem::replace(&mut self.is_deleted_unused, true),
            (TYPE, has) => {
                let known = match &has {
                    Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
                    _ => "classic".to_owned(),
                };
                // Nobody works on a stream, and it can have the argument that no other queue has.
                let more = known != "stream" && self.queue_type.is_none();
                self.queue_type = Some(known);
                if let Some(value) = has {
                    self.named.insert(TYPE.to_owned(), value);
                }
                more
            }
            (STREAMS_ONLY, _) => {
                self.is_complete = true;
                false
            }
            (DELIVERY_LIMIT, None) => !std::mem::replace(&mut self.has_no_limit, true),
            (_, Some(value)) => self.named.insert(name.to_owned(), value).is_none(),
            (_, None) => false,
        }
    }
}

fn bogus() -> AMQPValue {
    AMQPValue::LongString(BOGUS.into())
}

/// Makes a declaration that is refused, and reads the refusal.
async fn refused(
    connection: &Connection,
    queue: &str,
    options: QueueDeclareOptions,
    arguments: FieldTable,
) -> Result<Said, Error> {
    let declaring = async {
        // A refusal closes its channel, so each one has its own.
        let channel = connection.create_channel().await.map_err(lost)?;
        match channel.queue_declare(name(queue)?, options, arguments).await {
            Err(error) if refusal(&error) == Some(Refusal::PreconditionFailed) => Ok(read(&said(&error))),
            Err(error) => Err(queue_error(error, queue, "configure")),
            Ok(_) => Ok(Said::Same),
        }
    };
    answered("compare a queue", declaring).await
}

/// The argument in which a declaration differs from the queue that is there. `None` if the refusal says something else.
pub fn difference(said: &str) -> Option<&str> {
    said.split_once("inequivalent arg '")?.1.split_once('\'').map(|(name, _)| name)
}

fn read(said: &str) -> Said {
    let Some(name) = difference(said) else { return Said::Unknown };
    let Some((_, has)) = said.split_once("but current is ").filter(|_| said.len() < LONGEST) else {
        return Said::Unknown;
    };
    let has = match has.strip_prefix("the value '") {
        Some(typed) => {
            typed.rsplit_once("' of type '").and_then(|(value, kind)| value_of(value, kind.trim_end_matches('\'')))
        }
        None if has == "none" => None,
        // Of the same type as ours, which is text.
        None => has.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).map(|text| match name {
            DELIVERY_LIMIT => text.parse().map_or_else(|_| text_of(text), AMQPValue::LongLongInt),
            _ => text_of(text),
        }),
    };
    Said::Differs { name: name.to_owned(), has }
}

/// Compared by what they mean: any number that is equal is the same.
fn value_of(value: &str, kind: &str) -> Option<AMQPValue> {
    match kind {
        "longstr" => Some(text_of(value)),
        "bool" => Some(AMQPValue::Boolean(value == "true")),
        _ => value.parse().ok().map(AMQPValue::LongLongInt),
    }
}

fn text_of(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_the_queue_has() {
        let differs = |name: &str, has| Said::Differs { name: name.to_owned(), has };
        for (said, means) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received none \
                 but current is the value 'dlx' of type 'longstr'",
                differs("x-dead-letter-exchange", Some(text_of("dlx"))),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current \
                 is the value '10' of type 'signedint'",
                differs("x-max-length", Some(AMQPValue::LongLongInt(10))),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-single-active-consumer' for queue 'q' in vhost '/': received none \
                 but current is the value 'true' of type 'bool'",
                differs("x-single-active-consumer", Some(AMQPValue::Boolean(true))),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'asked for by \
                 wq-run' but current is 'quorum'",
                differs(TYPE, Some(text_of("quorum"))),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received 'asked for by \
                 wq-run' but current is '2'",
                differs(DELIVERY_LIMIT, Some(AMQPValue::LongLongInt(2))),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received the value 'asked \
                 for by wq-run' of type 'longstr' but current is none",
                differs(TYPE, None),
            ),
            (
                "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"unsupported\"",
                Said::Unknown,
            ),
            ("PRECONDITION_FAILED - Existing queue 'q' declared with other arguments", Said::Unknown),
            ("", Said::Unknown),
        ] {
            assert_eq!(read(said), means, "{said}");
        }
    }

    #[test]
    fn a_refusal_that_was_cut_off_is_not_believed() {
        let said = format!(
            "inequivalent arg 'x-dead-letter-routing-key' for queue 'q': but current is the value '{}",
            "x".repeat(255)
        );
        assert_eq!(read(&said[..LONGEST]), Said::Unknown);
    }
}
