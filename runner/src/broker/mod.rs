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
pub mod outbox;
pub mod sqlite;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use error::{Error, Kind};
pub use outbox::{Address, Outbox};
pub use url::{Url, UrlError};

use crate::task::{Message, Origin, Settlement};
use crate::telemetry::chain;

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
    /// How long a retry or a dead letter may take to be confirmed.
    pub publish_timeout: Duration,
}

/// A running subscription to one queue. Dropping it gives everything back.
#[derive(Debug)]
pub struct Subscription {
    notices: mpsc::UnboundedReceiver<Notice>,
    commands: mpsc::UnboundedSender<Command>,
    wanted: Arc<AtomicU64>,
    begun: watch::Sender<bool>,
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
    /// Waiting for the end of a backoff, where the broker can tell.
    pub delayed: u64,
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
    pub receipt: Receipt,
}

/// A delivery before it has its receipt: what an adapter knows of it.
pub(crate) struct Handed {
    pub(crate) message: Message,
    pub(crate) origin: Origin,
    pub(crate) attempt: u32,
    pub(crate) unfinished: u32,
    pub(crate) can_be_retried: bool,
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
}

/// Pauses between two tries to connect: short at first, since a broker that restarts is back in seconds.
const RECONNECT_INITIAL: Duration = Duration::from_millis(250);
const RECONNECT_MAX: Duration = Duration::from_secs(10);

/// A session that ends sooner was none, for these pauses: each hands messages over, which is counted as an attempt.
const STEADY: Duration = Duration::from_secs(1);

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
    let task = tokio::spawn(supervise(adapter, link, options));
    Subscription { notices, commands, wanted, begun, task }
}

/// Keeps a session going until the worker is done, the broker refuses us, or it has been away for too long.
async fn supervise(mut adapter: Adapter, mut link: Link, options: Options) {
    let mut away_since = Instant::now();
    let mut patience = options.connect_timeout;
    let mut pause = RECONNECT_INITIAL;
    loop {
        if link.cancelled {
            // All that it had is lost and it wants nothing more: what is left is to see it go.
            while !link.wait_disconnected(RECONNECT_MAX).await.is_closed() {}
            return;
        }
        link.session += 1;
        link.established = false;
        let began = Instant::now();
        let ended = match &mut adapter {
            Adapter::Amqp(adapter) => adapter.session(&mut link).await,
            Adapter::Sqlite(adapter) => adapter.session(&mut link).await,
        };
        let error = match ended {
            Ended::Closed => return,
            Ended::Refused(error) => return link.notify(Notice::Failed(error)),
            Ended::Lost(error) => error,
        };
        if link.established {
            away_since = Instant::now();
            patience = options.reconnect_timeout;
            if began.elapsed() > STEADY {
                pause = RECONNECT_INITIAL;
            }
        }
        if !*link.begun.borrow() {
            // Nobody waits for it yet.
            away_since = Instant::now();
        }
        // Whatever the pause has grown to, there is time for another try.
        let longest = (patience / 2).clamp(RECONNECT_INITIAL, RECONNECT_MAX);
        let jittered = pause.min(longest).mul_f64(0.5 + fastrand::f64() / 2.0);
        if away_since.elapsed() + jittered > patience {
            return link.notify(Notice::Failed(error));
        }
        tracing::warn!(
            error = %chain(&error),
            "no connection to the broker; trying again in {}",
            humantime::format_duration(Duration::from_millis(jittered.as_millis() as u64))
        );
        link.notify(Notice::Lost(error));
        if link.wait_disconnected(jittered).await.is_closed() {
            return;
        }
        pause = (pause * 2).min(RECONNECT_MAX);
    }
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

    /// Ends the subscription.
    ///
    /// # Errors
    /// When the end was not clean, so that the last settlements may not have reached the broker.
    pub async fn close(self) -> Result<(), Error> {
        let Subscription { notices, commands, task, .. } = self;
        // First of all: deliveries that nobody looked at give themselves back, which has to come before the end.
        drop(notices);
        let (reply, closed_rx) = oneshot::channel();
        let _ = commands.send(Command::Close { reply });
        drop(commands);
        let closed = closed_rx.await.unwrap_or(Err(Error::Lost { source: None }));
        match task.await.map_err(tokio::task::JoinError::try_into_panic) {
            // Its panic is a bug of ours, and no lost connection.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) | Ok(()) => closed,
        }
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
        let Handed { message, origin, attempt, unfinished, can_be_retried } = handed;
        let receipt = Receipt { tag, commands: self.commands_tx.upgrade(), lost };
        self.notify(Notice::Delivery(Delivery { message, origin, attempt, unfinished, can_be_retried, receipt }));
    }

    /// Answers commands while there is no connection.
    async fn wait_disconnected(&mut self, pause: Duration) -> Wanted {
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            let command = tokio::select! {
                command = self.commands.recv() => command,
                () = &mut until => return Wanted::Yes,
            };
            match command {
                None => return Wanted::Closed,
                Some(Command::Close { reply }) => {
                    let _ = reply.send(Ok(()));
                    return Wanted::Closed;
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
