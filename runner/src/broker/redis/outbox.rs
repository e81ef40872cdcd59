//! Results on a Redis: in other streams, over a connection of their own, which is made again when it is lost.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::connection::Connection;
use super::url::Url;
use super::{queue, value};
use crate::broker::error::{Error, Kind};
use crate::broker::outbox::{self, Address, Options};
use crate::broker::pauses::{Pace, patiently};
use crate::fault::{self, Point};
use crate::task::Properties;

/// In front of the name of a list that a requester waits for. A stream is what every other name stands for.
const LIST: &str = "list:";

/// A list with answers goes away if nobody takes them for so long, in seconds: a requester that has gone leaves it behind.
const LIST_LIVES: u64 = 24 * 3600;

pub struct Outbox {
    url: Url,
    options: Options,
    connected: Mutex<Connected>,
}

struct Connected {
    /// `None` after a request that was not answered.
    connection: Option<Connection>,
    pace: Pace,
}

impl Outbox {
    pub async fn open(url: Url, options: Options) -> Result<Outbox, Error> {
        let connection = patiently(options.connect_timeout, || connect(&url, &options)).await?;
        let mut pace = Pace::default();
        pace.made();
        let connected = Connected { connection: Some(connection), pace };
        Ok(Outbox { url, options, connected: Mutex::new(connected) })
    }

    async fn connection(&self) -> Result<Connection, Error> {
        let Connected { connection, pace } = &mut *self.connected.lock().await;
        if let Some(connection) = connection {
            return Ok(connection.clone());
        }
        let Outbox { url, options, .. } = self;
        pace.wait().await;
        let made = connection.insert(patiently(options.publish_timeout, || connect(url, options)).await?);
        pace.made();
        Ok(made.clone())
    }

    /// A connection whose requests are not answered is not used again.
    async fn noted<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if answer.as_ref().is_err_and(|error| error.leaves_open() || matches!(error, Error::Unanswered { .. })) {
            self.connected.lock().await.connection = None;
        }
        answer
    }

    async fn type_of(&self, key: &str) -> Result<String, Error> {
        let mut request = redis::cmd("TYPE");
        request.arg(key);
        let connection = self.connection().await?;
        value::text(self.noted(connection.request("look at", key, request).await).await?)
    }

    async fn push(&self, list: &str, body: &Bytes) -> Result<(), Error> {
        queue::require_size(body)?;
        let connection = self.connection().await?;
        let mut request = redis::cmd("RPUSH");
        request.arg(list).arg(&body[..]);
        self.noted(connection.request("answer to", list, request).await).await?;
        let mut request = redis::cmd("EXPIRE");
        request.arg(list).arg(LIST_LIVES);
        // The answer is there.
        let _ = self.noted(connection.request("answer to", list, request).await).await;
        Ok(())
    }

    async fn add(
        &self,
        stream: &str,
        properties: &Properties,
        headers: &Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error> {
        let connection = self.connection().await?;
        match self.noted(queue::publish(&connection, stream, properties, headers, body).await).await? {
            true => Ok(()),
            false => Err(Error::MissingQueue { queue: stream.to_owned(), source: None }),
        }
    }
}

#[async_trait]
impl outbox::Outbox for Outbox {
    async fn look_for(&self, to: &Address) -> Result<(), Error> {
        let Place::Stream(stream) = place(to)? else { return Ok(()) };
        match self.type_of(stream).await?.as_str() {
            "stream" => Ok(()),
            "none" => Err(named(to, Error::MissingQueue { queue: stream.to_owned(), source: None })),
            other => Err(Error::Mismatch {
                doing: format!("publish to the queue `{stream}`"),
                source: format!("it is a {other}, not a stream").into(),
            }),
        }
    }

    async fn publish(
        &self,
        to: &Address,
        properties: Properties,
        headers: &Map<String, Value>,
        body: Bytes,
    ) -> Result<(), Error> {
        // One bound for all of it: many runs may wait for the same connection, and each of them only for so long.
        fault::reach(Point::Published);
        let publishing = async {
            match place(to)? {
                Place::Stream(stream) => self.add(stream, &properties, headers, body).await,
                Place::List(list) => self.push(list, &body).await,
            }
        };
        // Not tried again, whatever comes of it: it may have arrived.
        let published = match tokio::time::timeout(self.options.publish_timeout, publishing).await {
            Ok(published) => published,
            Err(_) => self.noted(Err(Error::Unanswered { doing: format!("publish to {to}") })).await,
        };
        published.map_err(|error| named(to, error))?;
        fault::reach(Point::Confirmed);
        Ok(())
    }
}

/// Where an address leads.
enum Place<'a> {
    Stream(&'a str),
    List(&'a str),
}

fn place(to: &Address) -> Result<Place<'_>, Error> {
    match to {
        Address::Queue(queue) => Ok(Place::Stream(queue)),
        Address::Reply(name) => Ok(name.strip_prefix(LIST).map_or(Place::Stream(name), Place::List)),
        Address::Exchange { name, .. } => {
            Err(Error::MissingExchange { exchange: name.clone(), source: "Redis has no exchanges".into() })
        }
    }
}

fn named(to: &Address, error: Error) -> Error {
    match (to, error) {
        (Address::Reply(reply_to), Error::MissingQueue { .. }) => Error::NoRequester { reply_to: reply_to.clone() },
        (_, error) => error,
    }
}

async fn connect(url: &Url, options: &Options) -> Result<Connection, Error> {
    Connection::open(url, &options.queue, Some(options.publish_timeout)).await.map_err(|error| match error.kind() {
        // Nothing was published yet, so that this is no connection lost with the outcome open.
        Kind::Lost => Error::Unreachable { address: url.address(), source: error.into() },
        _ => error,
    })
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
