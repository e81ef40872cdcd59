//! Publishing that is known to have worked: mandatory, persistent and confirmed, on a connection of its own.
//!
//! A connection of its own, because a broker in need stops reading from connections that publish: acknowledgements and
//! heartbeats on the same connection would stop with it.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind, ExchangeKind};
use tokio::time::Instant;

use super::connection::{self, Refusal, because, lost, queue_error, refusal, said};
use super::{Url, convert, delays, size};
use crate::broker::bounds::answered;
use crate::broker::failure::Next;
use crate::broker::{Address, Error};
use crate::causes::chain;
use crate::fault::{self, Point};
use crate::locks::lock;
use crate::task::Failure;

/// Direct replies: not a queue, but a way back over the connection of whoever asked. With a longer name in `reply_to`.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

/// How soon it is said that the broker takes nothing at the moment.
const SAY_BLOCKED_AFTER: Duration = Duration::from_secs(1);

/// How many delay queues are tried, if the first one is not as we would make it.
const DELAY_QUEUES_TRIED: usize = 3;

/// Pauses before a message is published again to a queue that may be too new to take one. About three seconds in all.
pub const NEW_QUEUE_PAUSE: Duration = Duration::from_millis(50);
pub const NEW_QUEUE_PAUSE_MAX: Duration = Duration::from_secs(3);

/// Until when a message has to be known to have arrived: one bound for all that this takes, be it a connection, a channel, a
/// declaration or the confirmation.
#[derive(Clone, Copy)]
pub struct Deadline {
    at: Instant,
    allowed: Duration,
    /// The flag that sets it; `None` for commands that have no such flag.
    flag: Option<&'static str>,
}

pub struct Publisher {
    connection: Connection,
    /// Channels on which nothing is being published. Each carries one message at a time: lapin hands a returned message
    /// to whichever confirm of the channel completes next.
    idle: Mutex<Vec<Channel>>,
    /// A request over this connection was given up. The next one would have to wait as well.
    given_up: AtomicBool,
}

impl Deadline {
    /// `allowed` is what the user gave as `--publish-timeout`.
    pub fn after(allowed: Duration) -> Deadline {
        Deadline { at: Instant::now() + allowed, allowed, flag: Some("--publish-timeout") }
    }

    /// One that no flag changes.
    pub fn fixed(allowed: Duration) -> Deadline {
        Deadline { flag: None, ..Deadline::after(allowed) }
    }

    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Bounds the search for a connection.
    ///
    /// # Errors
    /// Those of `connecting`; and [`Error::Unpublished`] when it takes too long.
    pub async fn connected<T>(self, connecting: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout_at(self.at, connecting)
            .await
            .unwrap_or_else(|_| Err(Error::Unpublished { reason: format!("no connection within {self}") }))
    }
}

/// The time that is allowed, and the flag for it.
impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.allowed))?;
        self.flag.map_or(Ok(()), |flag| write!(f, " ({flag})"))
    }
}

impl Publisher {
    /// # Errors
    /// As [`connection::connect`].
    pub async fn connect(nodes: &[Url], name: &str) -> Result<Publisher, Error> {
        let connection = connection::connect(nodes, name).await?;
        let publisher = Publisher { connection, idle: Mutex::default(), given_up: AtomicBool::new(false) };
        let channel = answered("open a channel", publisher.channel()).await?;
        publisher.put_back(channel);
        Ok(publisher)
    }

    /// Whether another message can be tried over this connection.
    pub fn usable(&self) -> bool {
        self.connection.status().connected() && !self.given_up.load(Ordering::Relaxed)
    }

    /// To ask something over it that has nothing to do with a message.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    pub async fn close(&self) -> Result<(), Error> {
        connection::close(&self.connection).await
    }

    /// Publishes a message, and returns when the broker has taken responsibility for it.
    ///
    /// # Errors
    /// When it is not known that the message is where it should be. It may be there all the same.
    pub async fn publish(
        &self,
        to: &Address,
        properties: BasicProperties,
        body: &Bytes,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.by(deadline, self.publish_unbounded(to, properties, body)).await
    }

    /// Bounds all that publishing a message takes. The connection of one that is given up is not used again.
    pub async fn by<T>(&self, deadline: Deadline, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let work = self.while_blocked(work, deadline);
        tokio::time::timeout_at(deadline.at, work).await.unwrap_or_else(|_| {
            self.given_up.store(true, Ordering::Relaxed);
            Err(Error::Unpublished { reason: self.unconfirmed(deadline) })
        })
    }

    async fn publish_unbounded(&self, to: &Address, properties: BasicProperties, body: &Bytes) -> Result<(), Error> {
        let direct = matches!(to, Address::Reply(reply_to) if reply_to.starts_with(DIRECT_REPLY));
        if direct {
            // The broker returns every mandatory message to such an address, delivered or not. Without that word it
            // tells nothing, so that the requester is looked for first.
            self.look_for_unbounded(to).await?;
        }
        let (exchange, key) = names(to)?;
        let channel = self.channel().await?;
        let options = BasicPublishOptions { mandatory: !direct, ..BasicPublishOptions::default() };
        let publishing = async {
            let confirm = channel.basic_publish(exchange, key, options, body, properties).await?;
            fault::reach(Point::Published);
            confirm.await
        };
        let confirmation = publishing.await.map_err(|error| refused(to, error, self.usable()))?;
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
        answered("check the address of a result", self.look_for_unbounded(to)).await
    }

    async fn look_for_unbounded(&self, to: &Address) -> Result<(), Error> {
        look_over(&self.connection, to, || self.usable()).await
    }

    pub async fn channel(&self) -> Result<Channel, Error> {
        let idle = lock(&self.idle).pop();
        if let Some(channel) = idle {
            return Ok(channel);
        }
        let channel = self.connection.create_channel().await.map_err(lost)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(lost)?;
        Ok(channel)
    }

    /// Makes a channel idle again. Call it only after its message was answered, or a late answer would count for the next
    /// message.
    pub fn put_back(&self, channel: Channel) {
        if channel.status().connected() {
            lock(&self.idle).push(channel);
        }
    }

    /// Says so if the broker blocks us: otherwise a worker that waits looks like one that hangs.
    async fn while_blocked<T>(&self, publishing: impl Future<Output = T>, deadline: Deadline) -> T {
        tokio::pin!(publishing);
        tokio::select! {
            published = &mut publishing => return published,
            () = tokio::time::sleep(SAY_BLOCKED_AFTER) => {}
        }
        if self.connection.status().blocked() {
            let timeout_ms = deadline.allowed.as_millis() as u64;
            tracing::warn!(timeout_ms, "the broker takes no messages at the moment; waiting");
        }
        publishing.await
    }

    fn unconfirmed(&self, deadline: Deadline) -> String {
        let blocked = if self.connection.status().blocked() { "it blocks publishers: " } else { "" };
        format!("it was not confirmed within {deadline}; {blocked}the broker may be out of memory or disk space")
    }

    /// Publishes a message so that it comes to `queue` after `pause`, and does not have to be held until then. Returns the
    /// life of the delay queue in which it waits, in seconds; `None` if it waits in none.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish_delayed(
        &self,
        queue: &str,
        pause: Duration,
        properties: BasicProperties,
        body: &Bytes,
        deadline: Deadline,
    ) -> Result<Option<u64>, Error> {
        self.by(deadline, async {
            let Some(life) = self.delay_queue(queue, pause).await? else {
                self.publish_unbounded(&Address::Queue(queue.to_owned()), properties, body).await?;
                return Ok(None);
            };
            let expiration = pause.min(Duration::from_secs(life)).as_millis();
            let properties = properties.with_expiration(name(&expiration.to_string())?);
            let to = Address::Queue(delays::name(queue, life));
            match self.publish_to_new(&to, properties, body).await {
                Ok(()) => Ok(Some(life)),
                // Deleted since it was declared; it is made again for the next try.
                Err(error @ Error::MissingQueue { .. }) => Err(Error::Unpublished { reason: chain(&error) }),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Publishes to a queue that may have been declared a moment ago. A declaration of a quorum queue succeeds before the queue
    /// has a leader, and the queue refuses messages until it has one.
    async fn publish_to_new(&self, to: &Address, properties: BasicProperties, body: &Bytes) -> Result<(), Error> {
        let mut pause = NEW_QUEUE_PAUSE;
        loop {
            match self.publish_unbounded(to, properties.clone(), body).await {
                Err(Error::Rejected { .. }) if pause < NEW_QUEUE_PAUSE_MAX => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                published => return published,
            }
        }
    }

    /// Makes the queue in which a retry waits, or finds that there is none to wait in.
    async fn delay_queue(&self, queue: &str, pause: Duration) -> Result<Option<u64>, Error> {
        if pause.as_millis() == 0 {
            return Ok(None);
        }
        match self.make_delay_queue(queue, pause).await {
            Err(error @ (Error::Mismatch { .. } | Error::Forbidden { .. })) => {
                let error = chain(&error);
                tracing::warn!(error, "cannot create a delay queue: the message is retried without a pause");
                Ok(None)
            }
            made => made.map(Some),
        }
    }

    /// Makes a queue in which messages wait for so long, and returns its life in seconds.
    ///
    /// # Errors
    /// When there is none that would do.
    pub async fn make_delay_queue(&self, queue: &str, pause: Duration) -> Result<u64, Error> {
        let mut mismatch = Error::Lost { source: None };
        // One that somebody made with other arguments may lose what expires in it; the next one is a longer pause.
        for life in delays::lives(pause).take(DELAY_QUEUES_TRIED) {
            match self.declare(&delays::name(queue, life), delays::arguments(queue, life)).await {
                Ok(()) => return Ok(life),
                Err(error @ Error::Mismatch { .. }) => mismatch = error,
                Err(error) => return Err(error),
            }
        }
        Err(mismatch)
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
        deadline: Deadline,
    ) -> Result<(), Error> {
        let to = Address::Queue(dead_letter_queue.to_owned());
        self.by(deadline, async {
            match self.publish_unbounded(&to, properties.clone(), body).await {
                Err(Error::MissingQueue { .. }) => {
                    let mut arguments = FieldTable::default();
                    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
                    self.declare(dead_letter_queue, arguments).await?;
                    tracing::info!(queue = dead_letter_queue, "created the queue for dead letters");
                    self.publish_to_new(&to, properties, body).await
                }
                published => published,
            }
        })
        .await
    }

    /// Publishes the copy of a message to its own queue.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; and [`Error::TooLarge`] for one whose headers would not fit into a frame.
    pub async fn publish_copy(
        &self,
        queue: &str,
        properties: BasicProperties,
        body: &Bytes,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let size = size::content_header(&properties) + size::added_by_the_broker(queue, Next::DeadLetter);
        if size > frame_max(&self.connection) {
            return Err(Error::TooLarge { reason: "its headers leave no room for a copy".into() });
        }
        self.publish(&Address::Queue(queue.to_owned()), properties, body, deadline).await
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
    /// forever.
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
                tracing::warn!("the headers of the message leave no room for the reason: the dead letter has none");
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

/// Looks whether an address is there, over a connection of any kind. `is_usable` tells a refusal from its end.
///
/// # Errors
/// When it is not, or when that can't be known.
pub async fn look_over(connection: &Connection, to: &Address, is_usable: impl Fn() -> bool) -> Result<(), Error> {
    // A refusal closes its channel, so it gets one of its own.
    let channel = connection.create_channel().await.map_err(lost)?;
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
        Err(error) => Err(refused(to, error, is_usable())),
    }
}

/// Whether there is room for the headers of a retry over such a connection. Every broker has one limit for all of them.
pub fn can_be_retried(connection: &Connection, properties: &BasicProperties, queue: &str) -> bool {
    convert::leaves_room(properties, queue, frame_max(connection))
}

/// The value that both sides agreed upon; 0 is no limit.
pub fn frame_max(connection: &Connection) -> usize {
    match connection.configuration().frame_max() {
        0 => usize::MAX,
        size => size as usize,
    }
}

pub fn confirmed(to: &Address, confirmation: &Confirmation) -> Result<(), Error> {
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
        Confirmation::Nack(_) => Err(Error::Rejected { to: to.to_string() }),
        Confirmation::NotRequested => Err(Error::Unpublished { reason: "the broker does not confirm".into() }),
    }
}

/// The meaning of an error that answers a message, or a look at where it should go. `connected` says whether the connection
/// outlived it.
pub fn refused(to: &Address, error: lapin::Error, connected: bool) -> Error {
    match (refusal(&error), to) {
        // `max_message_size`: it closes the channel. A connection that ends with the same code ends for each message that is
        // under way on it, and says nothing of this one.
        (Some(Refusal::PreconditionFailed), _) if connected => Error::TooLarge { reason: said(&error) },
        (Some(Refusal::PreconditionFailed), _) => lost(error),
        // `frame_max`, for the headers. It ends the connection for every message, but only retries and dead letters have headers
        // that are not ours, one at a time. A frame that the broker sends us says nothing of this message.
        (Some(Refusal::FrameTooLarge), _) if matches!(error.kind(), ErrorKind::ProtocolError(_)) => {
            Error::TooLarge { reason: said(&error) }
        }
        (Some(Refusal::FrameTooLarge), _) => lost(error),
        (Some(Refusal::NotFound), Address::Exchange { name, .. }) => {
            Error::MissingExchange { exchange: name.clone(), source: because(error) }
        }
        (Some(Refusal::NotFound), Address::Reply(reply_to)) => Error::NoRequester { reply_to: reply_to.clone() },
        (_, Address::Exchange { .. }) => match queue_error(error, "", "publish to") {
            Error::Forbidden { source, .. } => Error::Forbidden { doing: format!("publish to {to}"), source },
            other => other,
        },
        (_, Address::Queue(queue) | Address::Reply(queue)) => queue_error(error, queue, "publish to"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_without_the_flag_does_not_name_it() {
        let allowed = Duration::from_secs(30);
        assert_eq!(Deadline::after(allowed).to_string(), "30s (--publish-timeout)");
        assert_eq!(Deadline::fixed(allowed).to_string(), "30s");
    }
}
