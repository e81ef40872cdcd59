//! `--result reply`: the answer to a request, to the queue that its message names as `reply_to`.
//!
//! Where that is a direct reply, it goes back over the requester's connection.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::error::Cause;
use super::kind::{Needs, Sink, SinkKind};
use super::queue;
use super::record::Record;
use crate::broker::{Address, Error, Outbox};
use crate::task::{Message, Undeliverable};

pub const KIND: SinkKind = SinkKind {
    name: "reply",
    rest: None,
    needs: |_| Ok(Needs::Requester),
    has_format: false,
    open: |_, way| Box::pin(async move { Ok(Box::new(Reply { outbox: way.outbox()? }) as Box<dyn Sink>) }),
};

#[derive(Debug)]
struct Reply {
    outbox: Arc<dyn Outbox>,
}

#[async_trait]
impl Sink for Reply {
    /// Fails with [`Error::NoRequester`] when whoever asked has gone, and as any publishing.
    async fn write(&self, record: &Record) -> Result<(), Cause> {
        let to = address(record.reply_to.as_deref()).ok_or(Error::NoRequester { reply_to: String::new() })?;
        Ok(queue::publish(&*self.outbox, &to, record).await?)
    }

    fn undeliverable(&self, message: &Message) -> Option<Undeliverable> {
        address(message.properties.reply_to.as_deref()).is_none().then_some(Undeliverable::NoReplyTo)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the requester")
    }
}

/// An empty name is no address.
fn address(reply_to: Option<&str>) -> Option<Address> {
    reply_to.filter(|reply_to| !reply_to.is_empty()).map(|reply_to| Address::Reply(reply_to.to_owned()))
}
