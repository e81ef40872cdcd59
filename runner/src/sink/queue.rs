//! `--result queue:` and `exchange:`: a queue or an exchange of the broker, persistent, mandatory and confirmed.

use std::fmt;
use std::sync::Arc;

use super::Record;
use crate::broker::{Address, Error, Outbox};
use crate::causes::chain;

#[derive(Debug)]
pub struct Queue {
    outbox: Arc<dyn Outbox>,
    to: Address,
}

impl Queue {
    /// # Errors
    /// When there is no such queue or exchange. Whether an exchange has a way to a queue shows only with a message.
    pub async fn open(outbox: Arc<dyn Outbox>, to: Address) -> Result<Queue, Error> {
        outbox.look_for(&to).await?;
        Ok(Queue { outbox, to })
    }

    pub async fn write(&self, record: &Record) -> Result<(), Error> {
        publish(&*self.outbox, &self.to, record).await
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
