//! Settles one delivery of a broker with leases, from the worker's word to the broker's answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::leases::{Held, Leases};
use crate::broker::bounds::sleep_until;
use crate::broker::error::Error;
use crate::causes::chain;
use crate::message_span::MessageSpan;
use crate::task::Settlement;

/// The pause after an error that may pass.
pub const TRY_AGAIN: Duration = Duration::from_millis(50);

pub type Reply = oneshot::Sender<Result<(), Error>>;

/// A delivery that is ours. Once this is gone, so is the worker's claim on the message.
pub struct Delivered<L> {
    pub lease: Arc<L>,
    pub lost: CancellationToken,
    /// Names the message in the log.
    pub span: MessageSpan,
    /// When our claim ends by our own clock. Moved on with each renewal that is confirmed.
    pub expires: Option<Instant>,
}

/// A settlement that is still to be made.
pub struct Settling<L> {
    pub delivered: Delivered<L>,
    pub settlement: Settlement,
    pub reply: Option<Reply>,
    pub until: Instant,
    /// Whether it is the session that gives back what it held, at its end.
    pub at_close: bool,
}

/// How a settlement ended.
pub struct Settled {
    pub result: Result<(), Error>,
    pub reply: Option<Reply>,
    pub at_close: bool,
    /// Names the message in the log.
    pub span: MessageSpan,
}

impl<L> Drop for Delivered<L> {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

impl<L> Settling<L> {
    /// Tries until it is known how the settlement ended, its time is over, or all is given up.
    pub async fn settle<B: Leases<Lease = L>>(self, broker: Arc<B>, give_up: CancellationToken) -> Settled {
        let Settling { delivered, settlement, reply, until, at_close } = self;
        let span = delivered.span.clone();
        let mut last = None;
        let trying = span.clone().around(async {
            loop {
                let error = match broker.settle(&delivered.lease, &settlement).await {
                    Ok(Held::Yes) => return Ok(()),
                    Ok(Held::Lost) => return Err(Error::lease_lost()),
                    Err(error) => error,
                };
                if !B::passes(&error) || Instant::now() >= until || give_up.is_cancelled() {
                    return Err(error);
                }
                last = Some(error);
                tokio::time::sleep(TRY_AGAIN).await;
            }
        });
        let result = if B::REMOTE {
            tokio::select! {
                biased;
                result = trying => result,
                // From now on a settlement might hit the delivery of another worker.
                () = sleep_until(delivered.expires) => Err(Error::lease_lost()),
                () = tokio::time::sleep_until(until) => Err(last.unwrap_or_else(unanswered)),
                () = give_up.cancelled() => Err(last.unwrap_or_else(unanswered)),
            }
        } else {
            trying.await
        };
        Settled { result, reply, at_close, span }
    }
}

impl Settled {
    pub fn answer(self) {
        match self.reply {
            // After an abort nobody waits for the answer. The message is done or comes again; only the broker knows which.
            Some(reply) => drop(reply.send(self.result)),
            None => {
                if let Err(error) = self.result {
                    let _entered = self.span.enter();
                    tracing::warn!(
                        error = %chain(&error),
                        "a message could not be given back; it is delivered again when its lease ends"
                    );
                }
            }
        }
    }
}

fn unanswered() -> Error {
    Error::Unanswered { doing: "take a settlement".into() }
}
