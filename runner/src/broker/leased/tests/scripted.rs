//! A broker for these tests that answers when a test tells it to, and a worker that does what a test says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::broker::command::{Command, Tag};
use crate::broker::error::Error;
use crate::broker::leased::{Held, Leases, Renewed, Taken, Terms, Went, session};
use crate::broker::link::{Handed, Link};
use crate::broker::subscription::{Delivery, Depth, Notice, Options, Subscription};
use crate::task::{Message, Origin, Settlement};

/// No event of these tests is further away, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const TERMS: Terms = Terms {
    lease: Duration::from_secs(60),
    renew: Duration::from_secs(20),
    wait: Duration::from_secs(1),
    poll: Duration::ZERO,
    settlements: 8,
    together: false,
};

pub const SHORT: Terms = Terms { lease: Duration::from_secs(2), renew: Duration::from_millis(100), ..TERMS };

pub type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What the loop asks the broker. The answer's sender is closed if the loop has dropped the call.
pub enum Call {
    Take { room: usize, hurry: CancellationToken, answer: Answer<Vec<Taken<u64>>> },
    Renew { leases: Vec<(u64, u64)>, answer: Answer<Renewed> },
    Settle { lease: u64, settlement: &'static str, answer: Answer<Held> },
    Depth { answer: Answer<Depth> },
    Close { answer: Answer<()> },
}

#[derive(Clone)]
pub struct Scripted<const REMOTE: bool> {
    pub calls: mpsc::UnboundedSender<Call>,
    pub terms: Terms,
}

impl<const REMOTE: bool> Scripted<REMOTE> {
    async fn ask<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let _ = self.calls.send(call(answer));
        // A test that forgets a call leaves it without an answer.
        match answered.await {
            Ok(answered) => answered,
            Err(_) => std::future::pending().await,
        }
    }
}

impl<const R: bool> Leases for Scripted<R> {
    type Place = Scripted<R>;
    type Lease = u64;
    const REMOTE: bool = R;

    async fn open(place: &Scripted<R>, _options: &Options) -> Result<Scripted<R>, Error> {
        Ok(place.clone())
    }

    fn terms(&self) -> Terms {
        self.terms
    }

    async fn take(&self, room: usize, hurry: CancellationToken) -> Result<Vec<Taken<u64>>, Error> {
        self.ask(|answer| Call::Take { room, hurry, answer }).await
    }

    async fn renew(&self, leases: Vec<(u64, Arc<u64>)>) -> Result<Renewed, Error> {
        let leases = leases.into_iter().map(|(number, lease)| (number, *lease)).collect();
        self.ask(|answer| Call::Renew { leases, answer }).await
    }

    async fn settle(&self, lease: &Arc<u64>, settlement: &Settlement) -> Result<Held, Error> {
        let (lease, settlement) = (**lease, settlement.name());
        self.ask(|answer| Call::Settle { lease, settlement, answer }).await
    }

    async fn depth(&self) -> Result<Depth, Error> {
        self.ask(|answer| Call::Depth { answer }).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.ask(|answer| Call::Close { answer }).await
    }

    fn passes(error: &Error) -> bool {
        matches!(error, Error::Unpublished { .. })
    }
}

pub struct World {
    pub calls: mpsc::UnboundedReceiver<Call>,
    pub subscription: Subscription,
    pub went: mpsc::UnboundedReceiver<Went>,
}

pub fn options(prefetch: u16, count: Option<u64>) -> Options {
    Options {
        queue: "q".into(),
        prefetch,
        count,
        longest_hold: Duration::ZERO,
        dead_letter_queue: "q.dead".into(),
        connect_timeout: PATIENCE,
        wait_for_queue: Duration::ZERO,
        reconnect_timeout: PATIENCE,
        publish_timeout: PATIENCE,
        longest_pause: Duration::ZERO,
        max_attempts: 3,
        rejects: false,
    }
}

/// A subscription whose sessions follow each other, however they end, and what is heard of them.
pub fn subscribe<L: Leases>(place: L::Place, options: Options) -> (Subscription, mpsc::UnboundedReceiver<Went>)
where
    L::Place: Send + 'static,
{
    let (begun, begun_rx) = watch::channel(true);
    let (mut link, notices, commands) = Link::channel(begun_rx);
    let (wanted, abort) = (link.wanted.clone(), link.abort.clone());
    wanted.store(options.count.unwrap_or(u64::MAX), Ordering::Relaxed);
    let (went_tx, went) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        loop {
            link.session += 1;
            let went = session::<L>(&place, &options, &mut link).await;
            let closed = matches!(went, Went::Closed);
            let _ = went_tx.send(went);
            if closed {
                return;
            }
        }
    });
    (Subscription { notices, commands, wanted, begun, abort, task }, went)
}

impl World {
    pub fn new<const REMOTE: bool>(terms: Terms, options: Options) -> World {
        let (calls_tx, calls) = mpsc::unbounded_channel();
        let (subscription, went) = subscribe::<Scripted<REMOTE>>(Scripted { calls: calls_tx, terms }, options);
        World { calls, subscription, went }
    }

    pub fn remote(terms: Terms, prefetch: u16) -> World {
        World::new::<true>(terms, options(prefetch, None))
    }

    pub async fn call(&mut self) -> Call {
        in_time(self.calls.recv()).await.expect("the session is there")
    }

    pub async fn take(&mut self) -> (usize, CancellationToken, Answer<Vec<Taken<u64>>>) {
        match self.call().await {
            Call::Take { room, hurry, answer } => (room, hurry, answer),
            other => panic!("{} and no take", other.name()),
        }
    }

    pub async fn renewal(&mut self) -> (Vec<(u64, u64)>, Answer<Renewed>) {
        match self.call().await {
            Call::Renew { leases, answer } => (leases, answer),
            other => panic!("{} and no renewal", other.name()),
        }
    }

    pub async fn settlement(&mut self) -> (u64, &'static str, Answer<Held>) {
        match self.call().await {
            Call::Settle { lease, settlement, answer } => (lease, settlement, answer),
            other => panic!("{} and no settlement", other.name()),
        }
    }

    pub async fn delivery(&mut self) -> Delivery {
        loop {
            match in_time(self.subscription.next()).await.expect("the session is there") {
                Notice::Delivery(delivery) => return *delivery,
                Notice::Established => {}
                other => panic!("{other:?} and no delivery"),
            }
        }
    }

    /// Takes messages with these leases in the first take, and returns them with the next take, which waits.
    pub async fn hand_over(&mut self, leases: &[u64]) -> (Vec<Delivery>, Answer<Vec<Taken<u64>>>) {
        let (_, _, answer) = self.take().await;
        let _ = answer.send(Ok(leases.iter().copied().map(taken).collect()));
        let mut deliveries = Vec::new();
        for _ in leases {
            deliveries.push(self.delivery().await);
        }
        let (_, _, waiting) = self.take().await;
        (deliveries, waiting)
    }

    /// Returns when the loop has seen all commands so far: it answers a settlement of no session of its own.
    pub async fn sync(&self) {
        let (reply, replied) = oneshot::channel();
        let tag = Tag { session: 0, number: 0 };
        let command = Command::Settle { tag, settlement: Settlement::Ack, reply: Some(reply) };
        self.subscription.commands.send(command).expect("the session is there");
        let _ = in_time(replied).await;
    }
}

impl Call {
    pub fn name(&self) -> &'static str {
        match self {
            Call::Take { .. } => "a take",
            Call::Renew { .. } => "a renewal",
            Call::Settle { .. } => "a settlement",
            Call::Depth { .. } => "a look",
            Call::Close { .. } => "the end",
        }
    }
}

pub fn taken(lease: u64) -> Taken<u64> {
    let handed = Handed {
        message: Message::default(),
        origin: Origin::default(),
        attempt: 1,
        unfinished: 0,
        can_be_retried: true,
        unreadable: None,
    };
    Taken { lease, handed }
}

pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

pub fn passing() -> Error {
    Error::Unpublished { reason: "full for a moment".into() }
}
