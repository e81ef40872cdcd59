//! `--result queue:` and `exchange:`: a queue or an exchange of the broker, persistent, mandatory and confirmed.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::error::Cause;
use super::kind::{Needs, Opening, Sink, SinkKind, Spec, Way};
use super::record::Record;
use crate::broker::{Address, Error, MAX_NAME, Outbox};
use crate::causes::chain;

pub const QUEUE: SinkKind = SinkKind { name: "queue", rest: Some("NAME"), needs: queue, has_format: false, open };

pub const EXCHANGE: SinkKind =
    SinkKind { name: "exchange", rest: Some("NAME/KEY"), needs: exchange, has_format: false, open };

#[derive(Debug)]
struct Queue {
    outbox: Arc<dyn Outbox>,
    to: Address,
}

fn queue(queue: &str) -> Result<Needs, String> {
    Ok(Needs::Address(Address::Queue(name(queue, "queue", queue)?)))
}

fn exchange(to: &str) -> Result<Needs, String> {
    let (exchange, key) =
        to.split_once('/').ok_or("an exchange goes with a routing key, which may be empty: exchange:NAME/KEY")?;
    if key.len() > MAX_NAME {
        return Err(format!("the routing key is longer than {MAX_NAME} bytes"));
    }
    Ok(Needs::Address(Address::Exchange { name: name(exchange, "exchange", to)?, key: key.to_owned() }))
}

fn name(name: &str, what: &str, typed: &str) -> Result<String, String> {
    match name.len() {
        0 => Err(format!("`{what}:{typed}` names no {what}")),
        1..=MAX_NAME => Ok(name.to_owned()),
        _ => Err(format!("the name of the {what} is longer than {MAX_NAME} bytes")),
    }
}

/// Fails when there is no such queue or exchange. Whether an exchange has a way to a queue shows only with a message.
fn open(spec: &Spec, way: Way) -> Opening<'_> {
    Box::pin(async move {
        let outbox = way.outbox()?;
        // `queue` and `exchange` have made one.
        let to = spec.address().cloned().ok_or_else(|| std::io::Error::other("no address"))?;
        outbox.look_for(&to).await?;
        Ok(Box::new(Queue { outbox, to }) as Box<dyn Sink>)
    })
}

#[async_trait]
impl Sink for Queue {
    async fn write(&self, record: &Record) -> Result<(), Cause> {
        Ok(publish(&*self.outbox, &self.to, record).await?)
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)
    }
}

pub(super) async fn publish(outbox: &dyn Outbox, to: &Address, record: &Record) -> Result<(), Error> {
    let (exchange, key) = to.parts();
    let id = record.properties.message_id.as_deref();
    let span = record.span.publish(record.system, exchange, key, id, record.body.len());
    let mut headers = record.headers.clone();
    span.carried().insert_into(&mut headers);
    let published = outbox.publish(to, record.properties.clone(), &headers, record.body.clone()).await;
    if let Err(error) = &published {
        span.fail("publish", || chain(error));
    }
    published
}
