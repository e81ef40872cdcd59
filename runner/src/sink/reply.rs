//! `--result reply`: the answer to a request, to the queue that its message names as `reply_to`.
//!
//! Where that is a direct reply, it goes back over the requester's connection.

use super::{Record, queue};
use crate::broker::{Address, Error, Outbox};

/// An empty name is no address.
pub fn address(reply_to: Option<&str>) -> Option<Address> {
    reply_to.filter(|reply_to| !reply_to.is_empty()).map(|reply_to| Address::Reply(reply_to.to_owned()))
}

/// # Errors
/// [`Error::NoRequester`] when whoever asked has gone, and as any publishing.
pub async fn write(outbox: &dyn Outbox, record: &Record) -> Result<(), Error> {
    let to = address(record.reply_to.as_deref()).ok_or(Error::NoRequester { reply_to: String::new() })?;
    queue::publish(outbox, &to, record).await
}
