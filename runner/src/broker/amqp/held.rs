//! A delivery that is with the worker, and how it is settled.

use bytes::Bytes;
use lapin::options::{BasicNackOptions, BasicRejectOptions};
use lapin::types::ShortString;
use lapin::{Acker, BasicProperties};
use tokio_util::sync::CancellationToken;

use super::connection::lost;
use crate::broker::Error;
use crate::message_span::MessageSpan;

/// A delivery that is with the worker. Once this is gone, so is the worker's claim on the message.
pub struct Held {
    pub acker: Acker,
    pub consumer: ShortString,
    pub properties: BasicProperties,
    pub body: Bytes,
    /// Hand-overs that ended without a word before this one.
    pub unfinished: u32,
    /// Whether its settlement has begun.
    pub is_settling: bool,
    pub lost: CancellationToken,
    /// Names the message in the log.
    pub span: MessageSpan,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

/// Since RabbitMQ 4.3 a nack does not count as an attempt, and a reject does.
pub const GIVE_BACK: BasicNackOptions = BasicNackOptions { requeue: true, multiple: false };

/// Hands a message over to the broker's own dead-lettering. Without a dead-letter exchange the broker deletes it.
pub async fn reject(held: &Held) -> Result<(), Error> {
    sent(held.acker.reject(BasicRejectOptions { requeue: false }).await)
}

pub async fn give_back(held: &Held) -> Result<(), Error> {
    sent(held.acker.nack(GIVE_BACK).await)
}

/// lapin answers `Ok(false)` for a settlement that it did not send.
pub fn sent(sent: lapin::Result<bool>) -> Result<(), Error> {
    match sent {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Lost { source: None }),
        Err(error) => Err(lost(error)),
    }
}
