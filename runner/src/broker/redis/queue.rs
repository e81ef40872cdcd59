//! A queue from the outside: what needs no consumer.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};
use serde_json::{Map, Value as Json};

use super::connection::Connection;
use super::convert;
use super::keys::Keys;
use super::scripts::Script;
use super::terms::{GROUP, LEASE, millis};
use super::value::{count, parts, text, texts};
use crate::broker::admin::Confirmed;
use crate::broker::error::Error;
use crate::task::{Message, Properties};

/// The largest body, in bytes. A server refuses a value of more than 512 MiB (`proto-max-bulk-len`) and ends the connection.
/// This leaves some room below that.
pub const MAX_MESSAGE: usize = 512_000_000;

/// What is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub ready: u64,
    pub delayed: u64,
    pub running: u64,
}

/// Adds a message to a stream that is there. Returns whether it is.
///
/// # Errors
/// When it is not known that the message is there.
pub async fn publish(
    connection: &Connection,
    stream: &str,
    properties: &Properties,
    headers: &Map<String, Json>,
    body: Bytes,
) -> Result<bool, Error> {
    require_size(&body)?;
    let add = add(stream, properties, headers, body);
    Ok(connection.request("publish to", stream, add).await? != Value::Nil)
}

fn add(stream: &str, properties: &Properties, headers: &Map<String, Json>, body: Bytes) -> Cmd {
    let mut add = redis::cmd("XADD");
    add.arg(stream).arg("NOMKSTREAM").arg("*");
    for (name, value) in convert::written(properties, headers, body) {
        add.arg(name).arg(&value[..]);
    }
    add
}

/// Adds messages in their order. They come into the queue after a delay.
pub async fn publish_all(connection: &Connection, keys: &Keys, messages: Vec<Message>, delay: Duration) -> Confirmed {
    let count = messages.len();
    let is_too_large = |message: &Message| require_size(&message.body).and_then(|()| require_room(message)).err();
    if let Some(error) = messages.iter().find_map(is_too_large) {
        return Confirmed::none(count, error);
    }
    let queue = &*keys.queue;
    let answered = match delay {
        Duration::ZERO => {
            let adding =
                messages.into_iter().map(|message| add(queue, &message.properties, &message.headers, message.body));
            connection.requests("publish to", queue, adding).await
        }
        delay => {
            let names = [queue, &*keys.delayed, &*keys.bodies];
            connection
                .run_all("publish to", Script::Delay, &names, &messages, |call, message| {
                    call.arg(millis(delay));
                    for (name, value) in convert::written(&message.properties, &message.headers, message.body.clone()) {
                        call.arg(name).arg(&value[..]);
                    }
                })
                .await
        }
    };
    let answers = match answered {
        Ok(answers) => answers,
        Err(error) => return Confirmed::none(count, error),
    };
    let mut confirmed = Confirmed::default();
    for answer in answers {
        confirmed.push(match answer {
            // What each of the two says where there is no such queue.
            Ok(Value::Nil | Value::Int(0)) => Err(Error::MissingQueue { queue: queue.to_owned(), source: None }),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        });
    }
    confirmed
}

/// # Errors
/// [`Error::TooLarge`], for a message that a script could not hand on.
fn require_room(message: &Message) -> Result<(), Error> {
    if message.headers.len() < convert::MAX_FIELDS / 2 {
        return Ok(());
    }
    Err(Error::TooLarge { reason: format!("it has {} headers", message.headers.len()) })
}

/// # Errors
/// [`Error::TooLarge`].
pub fn require_size(body: &Bytes) -> Result<(), Error> {
    if body.len() <= MAX_MESSAGE {
        return Ok(());
    }
    Err(Error::TooLarge {
        reason: format!("it has {} bytes, and a value in Redis has at most {MAX_MESSAGE}", body.len()),
    })
}

/// Makes a queue; one that is there stays as it is.
///
/// # Errors
/// When the key holds something else, or another group reads the stream.
pub async fn declare(connection: &Connection, queue: &str) -> Result<(), Error> {
    let others = connection
        .run("declare", Script::Declare, &[queue], |call| {
            call.arg(GROUP);
        })
        .await?;
    require_alone(queue, &texts(others)?)
}

/// Deletes what no consumer has, and says how much that was.
///
/// # Errors
/// When there is no such queue.
pub async fn purge(connection: &Connection, keys: &Keys) -> Result<u64, Error> {
    let mut deleted = 0;
    loop {
        let some = connection
            .run("purge", Script::Purge, &keys.all(), |call| {
                call.arg(GROUP).arg(millis(LEASE));
            })
            .await?;
        match count(some)? {
            0 => return Ok(deleted),
            some => deleted += some,
        }
    }
}

/// Counts what is in a queue.
pub async fn counts(connection: &Connection, keys: &Keys) -> Result<Counts, Error> {
    let named: Vec<&str> = [&*keys.queue, &*keys.delayed].into_iter().chain(keys.inbox.as_deref()).collect();
    let counted = connection
        .run("count the messages of", Script::Depth, &named, |call| {
            call.arg(GROUP).arg(millis(LEASE));
        })
        .await?;
    let [ready, delayed, running] = parts(counted)?;
    Ok(Counts { ready: count(ready)?, delayed: count(delayed)?, running: count(running)? })
}

/// Refuses a queue that others read too: what we delete when it is done would be gone for them.
///
/// # Errors
/// When there is another group.
pub fn require_alone(queue: &str, others: &[String]) -> Result<(), Error> {
    match others.first() {
        None => Ok(()),
        Some(other) => Err(Error::Mismatch {
            doing: format!("work on the stream `{queue}`"),
            source: format!(
                "the group `{other}` reads it too, and would miss messages, which are deleted when they are done"
            )
            .into(),
        }),
    }
}

/// Warns of a server that deletes whole queues when its memory is full. One that does not tell is not asked again.
pub async fn warn_of_eviction(connection: &Connection, queue: &str) {
    let mut request = redis::cmd("INFO");
    request.arg("memory");
    let Ok(info) = connection.request("look at the server of", queue, request).await else { return };
    let Ok(info) = text(info) else { return };
    let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).unwrap_or_default().trim();
    // The others delete only keys with a time to live.
    if policy.starts_with("allkeys") {
        tracing::warn!(
            policy,
            "this Redis DELETES queues when its memory is full: set its maxmemory-policy to noeviction"
        );
    }
}
