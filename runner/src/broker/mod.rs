//! Brokers: where messages come from and where their settlements go.
//!
//! [`subscribe`] starts a task that owns the connection and talks to the worker over two channels. An adapter is one
//! function, `session`: the life of one connection. Reconnecting, pausing and giving up live here, once, for all of them.
//!
//! ```text
//! adapter task                                   worker
//! session() ── Notice::Delivery{message, receipt} ──▶ next()
//!           ◀── Command::Settle{tag, settlement} ──── receipt.settle(…)     or the receipt is dropped: Release
//!           ◀── Command::{Cancel, Probe, Close} ───── subscription
//! ```
//!
//! Both channels are unbounded, and bounded all the same: deliveries by the prefetch, settlements by the deliveries.

pub mod admin;
pub mod amqp;
mod error;
mod failure;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod outbox;
mod pauses;
pub mod sqlite;
mod supervise;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use error::{Error, Kind};
pub use outbox::{Address, Outbox};
pub use url::{Url, UrlError};

/// The longest name of a queue, an exchange or a routing key, in bytes: a short string of AMQP. The embedded queue has the
/// same limit.
pub const MAX_NAME: usize = 255;

use self::supervise::supervise;
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
    /// How long to go on trying after a connection was lost.
    pub reconnect_timeout: Duration,
    /// How long a retry or a dead letter may take, from the connection for it to its confirmation.
    pub publish_timeout: Duration,
    /// The longest pause before a retry that a worker with these settings makes.
    pub longest_pause: Duration,
}

/// A running subscription to one queue. Dropping it gives everything back.
#[derive(Debug)]
pub struct Subscription {
    notices: mpsc::UnboundedReceiver<Notice>,
    commands: mpsc::UnboundedSender<Command>,
    wanted: Arc<AtomicU64>,
    begun: watch::Sender<bool>,
    abort: CancellationToken,
    task: JoinHandle<()>,
}

/// What a broker tells the worker.
#[derive(Debug)]
pub enum Notice {
    /// Messages can come from now on.
    Established,
    Delivery(Delivery),
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
    /// Earlier runs among them of which nobody knows how they ended.
    pub unfinished: u32,
    /// Whether the broker would take a retry of it.
    pub can_be_retried: bool,
    /// Why the message could not be read whole. It is not to be run; what could be read is there.
    pub unreadable: Option<String>,
    pub receipt: Receipt,
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

/// The duty to settle one delivery.
///
/// Settled once, by value. If it is dropped instead (a panic, an abort, an early return), the message is given back.
#[derive(Debug)]
#[must_use = "a delivery has to be settled"]
pub struct Receipt {
    tag: Tag,
    commands: Option<mpsc::UnboundedSender<Command>>,
    lost: CancellationToken,
}

/// Names a delivery, together with the connection that it came over: tags start again with every connection, and a
/// settlement that arrives late must never hit a delivery of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    session: u64,
    number: u64,
}

#[derive(Debug)]
pub(crate) enum Command {
    Settle {
        tag: Tag,
        settlement: Settlement,
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    },
    /// Take nothing more, and give back what has not been handed to the worker.
    Cancel,
    /// Answer with [`Notice::Depth`], after all deliveries that came before.
    Probe,
    /// End the connection cleanly.
    Close {
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// The kinds of broker. Everything that differs between them is behind their `session`.
pub(crate) enum Adapter {
    Amqp(amqp::Adapter),
    Sqlite(sqlite::Adapter),
}

/// How a session ended.
pub(crate) enum Ended {
    /// As asked: the worker has gone, or has closed the subscription.
    Closed,
    /// The connection was lost or could not be made; another try may help.
    Lost(Error),
    /// Another try would end the same way.
    Refused(Error),
}

/// An adapter's end of the two channels.
pub(crate) struct Link {
    notices: mpsc::UnboundedSender<Notice>,
    /// Kept for the receipts.
    commands_tx: mpsc::WeakUnboundedSender<Command>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    wanted: Arc<AtomicU64>,
    /// Before this nothing may be taken.
    begun: watch::Receiver<bool>,
    session: u64,
    established: bool,
    /// The worker wants nothing more; a new session then need not take anything.
    pub(crate) cancelled: bool,
    /// The worker waits no longer for what is under way.
    pub(crate) abort: CancellationToken,
}

/// How long a subscription may take to end. A broker that has not answered by then will not answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what is under way may still take after the worker was told to stop at once. A broker that is well needs less.
pub(crate) const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to a queue; messages come after [`Subscription::begin`]. Connection errors arrive as notices.
pub fn subscribe(url: &Url, options: Options) -> Subscription {
    let adapter = match url {
        Url::Amqp(nodes) => Adapter::Amqp(amqp::Adapter::new(nodes.clone(), options.clone())),
        Url::Sqlite(path) => Adapter::Sqlite(sqlite::Adapter::new(path.clone(), options.clone())),
    };
    start(adapter, options)
}

pub(crate) fn start(adapter: Adapter, options: Options) -> Subscription {
    let (begun, begun_rx) = watch::channel(false);
    let (link, notices, commands) = Link::channel(begun_rx);
    let wanted = link.wanted.clone();
    wanted.store(options.count.unwrap_or(u64::MAX), Ordering::Relaxed);
    let abort = link.abort.clone();
    let task = tokio::spawn(supervise(adapter, link, options));
    Subscription { notices, commands, wanted, begun, abort, task }
}

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
        let Subscription { notices, commands, abort, mut task, .. } = self;
        // First of all: deliveries that nobody looked at give themselves back, which has to come before the end.
        drop(notices);
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

/// Returns when what is under way has had its time after an abort.
pub(crate) async fn aborted(abort: &CancellationToken) {
    abort.cancelled().await;
    tokio::time::sleep(ABORT_TIMEOUT).await;
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

// === impl Link ===

/// Whether the worker still wants a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    Closed,
}

impl Wanted {
    fn is_closed(self) -> bool {
        self == Wanted::Closed
    }
}

impl Link {
    /// An adapter's end, and what its subscription holds.
    fn channel(
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
            cancelled: false,
            abort: CancellationToken::new(),
        };
        (link, notices_rx, commands_tx)
    }

    fn notify(&self, notice: Notice) {
        // The worker has gone; it will be seen at the next command.
        let _ = self.notices.send(notice);
    }

    /// Returns when messages may be taken, or with [`Wanted::Closed`] when they never may. No command comes before that, but
    /// for the end; those that come while a lost connection is made again are left to the session.
    async fn begin(&mut self) -> Wanted {
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
        self.established = true;
        self.notify(Notice::Established);
    }

    pub(crate) fn depth(&self, depth: Depth) {
        self.notify(Notice::Depth(depth));
    }

    pub(crate) fn tag(&self, number: u64) -> Tag {
        Tag { session: self.session, number }
    }

    /// Hands a delivery over. The session keeps `lost` and cancels it when the delivery is no longer ours.
    pub(crate) fn deliver(&self, tag: Tag, lost: CancellationToken, handed: Handed) {
        let Handed { message, origin, attempt, unfinished, can_be_retried, unreadable } = handed;
        let receipt = Receipt { tag, commands: self.commands_tx.upgrade(), lost };
        self.notify(Notice::Delivery(Delivery {
            message,
            origin,
            attempt,
            unfinished,
            can_be_retried,
            unreadable,
            receipt,
        }));
    }

    /// Answers commands for a while, as long as there is no connection.
    async fn wait_disconnected(&mut self, pause: Duration) -> Wanted {
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
                    let _ = reply.send(Ok(()));
                    return;
                }
                Some(Command::Cancel) => self.cancelled = true,
                // A worker that waits for an answer is told about the lost connection already, and asks again.
                Some(Command::Probe) => {}
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
