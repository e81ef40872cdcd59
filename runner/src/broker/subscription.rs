//! The worker's side of the seam: a subscription, what it brings, and the duty to settle that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::bounds::aborted;
use super::command::{Command, Tag};
use super::error::Error;
use crate::message_span::MessageSpan;
use crate::task::{Message, Origin, Settlement};

#[derive(Clone, Debug)]
pub struct Options {
    pub queue: String,
    /// Deliveries that may be with us at the same time.
    pub prefetch: u16,
    /// How many messages are wanted in all; `None` is no limit. More are not taken, so that none has to be given back.
    pub count: Option<u64>,
    /// How long a delivery may be with us at most, if all goes as it should.
    pub longest_hold: Duration,
    /// Where dead letters go.
    pub dead_letter_queue: String,
    /// How long to go on trying before the first connection stands.
    pub connect_timeout: Duration,
    /// How long to wait for a queue that is not there at the start.
    pub wait_for_queue: Duration,
    /// How long to go on trying after a connection was lost.
    pub reconnect_timeout: Duration,
    /// How long a retry or a dead letter may take, from the connection for it to its confirmation.
    pub publish_timeout: Duration,
    /// The longest pause before a retry that a worker with these settings makes.
    pub longest_pause: Duration,
    /// How many runs a message gets.
    pub max_attempts: u32,
    /// Whether messages that failed for good are left to the broker's own dead-lettering.
    pub rejects: bool,
}

/// A running subscription to one queue. Dropping it gives everything back.
#[derive(Debug)]
pub struct Subscription {
    pub(super) notices: mpsc::UnboundedReceiver<Notice>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) wanted: Arc<AtomicU64>,
    pub(super) begun: watch::Sender<bool>,
    pub(super) abort: CancellationToken,
    pub(super) task: JoinHandle<()>,
}

/// What a broker tells the worker.
#[derive(Debug)]
pub enum Notice {
    /// Messages can come from now on.
    Established,
    /// Boxed: it goes through several hands.
    Delivery(Box<Delivery>),
    /// The answer to [`Subscription::probe`].
    Depth(Depth),
    /// The connection is gone, and a new one is being made. Deliveries of the old one are lost to us.
    Lost(Error),
    /// There will be no connection: the last notice.
    Failed(Error),
}

/// What is in a queue and not with any worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    pub ready: u64,
    /// Waiting for the end of a backoff, or on the way back from it.
    pub delayed: u64,
    /// Retries of this worker that should be back by now, and are not.
    pub missing: u64,
}

/// One hand-over of a message.
#[derive(Debug)]
pub struct Delivery {
    pub message: Message,
    pub origin: Origin,
    /// The number of this run of the message, as far as the broker and the headers tell.
    pub attempt: u32,
    /// How many of the earlier runs ended without a known outcome.
    pub unfinished: u32,
    /// Whether the broker would take a retry of it.
    pub can_be_retried: bool,
    /// Why the message could not be read whole. It is not to be run; what could be read is there.
    pub unreadable: Option<String>,
    /// Names the message in the log.
    pub span: MessageSpan,
    pub receipt: Receipt,
}

/// The duty to settle one delivery.
///
/// Settled once, by value. If it is dropped instead (a panic, an abort, an early return), the message is given back.
#[derive(Debug)]
#[must_use = "a delivery has to be settled"]
pub struct Receipt {
    pub(super) tag: Tag,
    pub(super) commands: Option<mpsc::UnboundedSender<Command>>,
    pub(super) lost: CancellationToken,
}

/// How long a subscription may take to end. A broker that has not answered by then will not answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

// === impl Subscription ===

impl Subscription {
    /// From now on messages may be taken. A connection may stand already: it takes as long to make as a guest to load.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// The next notice; `None` after [`Notice::Failed`].
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Says how many messages are still wanted, for the sessions that follow: those that were handed over and not started
    /// come again there.
    pub fn want(&self, count: u64) {
        self.wanted.store(count, Ordering::Relaxed);
    }

    /// From now on takes so many messages in all; 0 is none for a while. Some that are under way may still come.
    pub fn take(&self, count: u64) {
        // First: a session that is being made gets no commands.
        self.want(count);
        let _ = self.commands.send(Command::Want);
    }

    /// Asks for no further deliveries. Some that are under way may still come.
    pub fn cancel(&self) {
        let _ = self.commands.send(Command::Cancel);
    }

    /// Asks what is in the queue; the answer comes as [`Notice::Depth`].
    pub fn probe(&self) {
        let _ = self.commands.send(Command::Probe);
    }

    /// Is cancelled to end all that waits for the broker: settlements whose message is not published yet are given up, and
    /// their messages given back.
    pub fn abort(&self) -> CancellationToken {
        self.abort.clone()
    }

    /// Ends the subscription, whether the broker answers or not.
    ///
    /// # Errors
    /// When the end was not clean, so that the last settlements may not have reached the broker.
    pub async fn close(self) -> Result<(), Error> {
        self.close_with(drop).await
    }

    /// The same. `unseen` gets the deliveries that nobody has asked for yet.
    ///
    /// # Errors
    /// As [`Subscription::close`].
    pub async fn close_with(self, mut unseen: impl FnMut(Box<Delivery>)) -> Result<(), Error> {
        let Subscription { mut notices, commands, abort, mut task, .. } = self;
        // First of all: deliveries that nobody looked at give themselves back, which has to come before the end.
        notices.close();
        while let Ok(notice) = notices.try_recv() {
            if let Notice::Delivery(delivery) = notice {
                unseen(delivery);
            }
        }
        let (reply, closed_rx) = oneshot::channel();
        let _ = commands.send(Command::Close { reply });
        drop(commands);
        let closing = async {
            let closed = closed_rx.await.unwrap_or(Err(Error::Lost { source: None }));
            match (&mut task).await.map_err(tokio::task::JoinError::try_into_panic) {
                // Its panic is a bug of ours, and no lost connection.
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                Err(Err(_)) | Ok(()) => closed,
            }
        };
        tokio::select! {
            closed = closing => return closed,
            () = tokio::time::sleep(CLOSE_TIMEOUT) => {}
            () = aborted(&abort) => {}
        }
        task.abort();
        Err(Error::Unanswered { doing: "end the connection".into() })
    }
}

// === impl Receipt ===

impl Receipt {
    /// Settles the delivery.
    ///
    /// # Errors
    /// When the settlement is not known to have been made. The message then comes again, here or elsewhere.
    pub async fn settle(mut self, settlement: Settlement) -> Result<(), Error> {
        let Some(commands) = self.commands.take() else { return Err(Error::Lost { source: None }) };
        let (reply, settled_rx) = oneshot::channel();
        let _ = commands.send(Command::Settle { tag: self.tag, settlement, reply: Some(reply) });
        settled_rx.await.unwrap_or(Err(Error::Lost { source: None }))
    }

    /// Is cancelled when the delivery is no longer ours: whatever its run results in is then of no use.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            let _ = commands.send(Command::Settle { tag: self.tag, settlement: Settlement::Release, reply: None });
        }
    }
}
