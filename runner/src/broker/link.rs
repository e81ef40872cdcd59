//! The adapter's side of the seam: where its deliveries go, and where the worker's commands come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::command::{Command, Tag};
use super::error::Error;
use super::subscription::{Delivery, Depth, Notice, Receipt};
use crate::message_span::MessageSpan;
use crate::task::{Message, Origin};

/// An adapter's end of the two channels.
pub(crate) struct Link {
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    /// Kept for the receipts.
    commands_tx: mpsc::WeakUnboundedSender<Command>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) wanted: Arc<AtomicU64>,
    /// Before this nothing may be taken.
    pub(super) begun: watch::Receiver<bool>,
    pub(super) session: u64,
    pub(super) established: bool,
    /// What the log calls the other end.
    pub(super) broker: String,
    pub(super) queue: String,
    /// Since when messages could not come, after they could.
    pub(super) away_since: Option<Instant>,
    /// The worker wants nothing more; a new session then need not take anything.
    pub(crate) cancelled: bool,
    /// The worker waits no longer for what is under way.
    pub(crate) abort: CancellationToken,
    pub(crate) unproven: Unproven,
    /// Such acknowledgements may have been lost with their connection, and no later session sends them again.
    pub(super) doubt: bool,
}

/// A delivery before it has its receipt: what an adapter knows of it.
pub(crate) struct Handed {
    pub(crate) message: Message,
    pub(crate) origin: Origin,
    pub(crate) attempt: u32,
    pub(crate) unfinished: u32,
    pub(crate) can_be_retried: bool,
    pub(crate) unreadable: Option<String>,
}

impl Handed {
    /// The span in which what concerns this message is logged.
    pub(crate) fn span(&self) -> MessageSpan {
        MessageSpan::new(&self.message, &self.origin, self.attempt)
    }
}

/// Whether a session has sent acknowledgements that the broker is not known to have processed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unproven(Arc<AtomicBool>);

/// How a session ended.
pub(crate) enum Ended {
    /// As asked: the worker has gone, or has closed the subscription.
    Closed,
    /// The connection was lost or could not be made; another try may help.
    Lost(Error),
    /// Another try would end the same way.
    Refused(Error),
}

/// Whether the worker still wants a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    Closed,
}

impl Wanted {
    pub(super) fn is_closed(self) -> bool {
        self == Wanted::Closed
    }
}

// === impl Unproven ===

impl Unproven {
    pub(crate) fn set(&self, unproven: bool) {
        self.0.store(unproven, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

// === impl Link ===

impl Link {
    /// An adapter's end, and what its subscription holds.
    pub(super) fn channel(
        begun: watch::Receiver<bool>,
    ) -> (Link, mpsc::UnboundedReceiver<Notice>, mpsc::UnboundedSender<Command>) {
        let (notices_tx, notices_rx) = mpsc::unbounded_channel();
        let (commands_tx, commands) = mpsc::unbounded_channel();
        let commands_weak = commands_tx.downgrade();
        let link = Link {
            notices: notices_tx,
            commands_tx: commands_weak,
            commands,
            wanted: Arc::new(AtomicU64::new(u64::MAX)),
            begun,
            session: 0,
            established: false,
            broker: String::new(),
            queue: String::new(),
            away_since: None,
            cancelled: false,
            abort: CancellationToken::new(),
            unproven: Unproven::default(),
            doubt: false,
        };
        (link, notices_rx, commands_tx)
    }

    pub(super) fn notify(&self, notice: Notice) {
        // The worker has gone; it will be seen at the next command.
        let _ = self.notices.send(notice);
    }

    /// Returns when messages may be taken, or with [`Wanted::Closed`] when they never may. No command comes before that, but
    /// for the end; those that come while a lost connection is made again are left to the session.
    pub(super) async fn begin(&mut self) -> Wanted {
        tokio::select! {
            biased;
            begun = self.begun.wait_for(|begun| *begun) => {
                if begun.is_ok() { Wanted::Yes } else { Wanted::Closed }
            }
            command = self.commands.recv() => {
                if let Some(Command::Close { reply }) = command {
                    let _ = reply.send(Ok(()));
                }
                Wanted::Closed
            }
        }
    }

    /// How many messages a new session may take.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(crate) fn established(&mut self) {
        let Link { broker, queue, .. } = &*self;
        match self.away_since.map(|since| since.elapsed()) {
            None => tracing::info!(broker, queue, "connected"),
            Some(away) => tracing::info!(broker, queue, away_ms = away.as_millis() as u64, "connected again"),
        }
        self.away_since = None;
        self.established = true;
        self.notify(Notice::Established);
    }

    pub(crate) fn depth(&self, depth: Depth) {
        self.notify(Notice::Depth(depth));
    }

    pub(crate) fn tag(&self, number: u64) -> Tag {
        Tag { session: self.session, number }
    }

    /// Hands a delivery over. The session keeps `lost` and cancels it when the delivery is no longer ours. `span` is from
    /// [`Handed::span`].
    pub(crate) fn deliver(&self, tag: Tag, lost: CancellationToken, span: MessageSpan, handed: Handed) {
        let Handed { message, origin, attempt, unfinished, can_be_retried, unreadable } = handed;
        let receipt = Receipt { tag, commands: self.commands_tx.upgrade(), lost };
        self.notify(Notice::Delivery(Box::new(Delivery {
            message,
            origin,
            attempt,
            unfinished,
            can_be_retried,
            unreadable,
            span,
            receipt,
        })));
    }

    /// The answer to [`Command::Close`], after a session that ended like this.
    pub(crate) fn closed(&self, closed: Result<(), Error>) -> Result<(), Error> {
        closed?;
        if self.doubt {
            let reason = "a connection was lost before the broker had confirmed the acknowledgements on it".into();
            return Err(Error::Broken { reason });
        }
        Ok(())
    }

    /// Notes that a connection was lost, perhaps with acknowledgements. `counts`: the worker takes a fixed number of messages.
    pub(super) fn lost(&mut self, counts: bool) {
        let unproven = self.unproven.take();
        // Their messages are redelivered. A worker that goes on without a count acknowledges them then; a count has counted them already.
        self.doubt |= unproven && (counts || self.cancelled);
    }

    /// Answers commands for a while, as long as there is no connection.
    pub(super) async fn wait_disconnected(&mut self, pause: Duration) -> Wanted {
        tokio::select! {
            () = self.wait_closed() => Wanted::Closed,
            () = tokio::time::sleep(pause) => Wanted::Yes,
        }
    }

    /// Waits for something that needs a connection, or makes one; `None` when the worker wants it no longer.
    pub(crate) async fn while_disconnected<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.wait_closed() => None,
        }
    }

    /// Answers commands as long as there is no connection, until the worker closes the subscription or has gone.
    pub(crate) async fn wait_closed(&mut self) {
        loop {
            match self.commands.recv().await {
                None => return,
                Some(Command::Close { reply }) => {
                    let _ = reply.send(self.closed(Ok(())));
                    return;
                }
                Some(Command::Cancel) => self.cancelled = true,
                // A worker that waits for an answer is told about the lost connection already, and asks again.
                Some(Command::Probe) => {}
                // A new session sees what is wanted.
                Some(Command::Want) => {}
                Some(Command::Settle { reply, .. }) => {
                    if let Some(reply) = reply {
                        let _ = reply.send(Err(Error::Lost { source: None }));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_comes_while_a_connection_is_made_again_is_not_lost() {
        // Often: an unfair choice between two things that are ready would show.
        for _ in 0..64 {
            let (begun, begun_rx) = watch::channel(false);
            let (mut link, _notices, commands) = Link::channel(begun_rx);
            begun.send_replace(true);
            commands.send(Command::Probe).unwrap();
            assert!(!link.begin().await.is_closed());
            assert!(matches!(link.commands.try_recv(), Ok(Command::Probe)));
        }
    }
}
