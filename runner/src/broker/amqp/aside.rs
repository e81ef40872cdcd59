//! Settlements that publish: retries and dead letters, side by side, over a connection of their own.
//!
//! The task that settles must not wait for them: a broker in need holds them up for as long as it likes, and
//! acknowledgements, heartbeats and the end of the worker can't wait behind that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::arguments::Arguments;
use super::config::{Config, connection_name};
use super::filter::Server;
use super::publisher::{Deadline, Publisher};
use super::{convert, retries};
use crate::broker::bounds::{ABORT_TIMEOUT, aborted};
use crate::broker::error::Error;
use crate::broker::pauses::{Pace, patiently};
use crate::task::Failure;

/// A message to publish: a copy of the original and its purpose.
pub struct Order {
    pub what: What,
    pub properties: BasicProperties,
    pub body: Bytes,
}

pub enum What {
    Retry {
        after: Duration,
        failure: Box<Failure>,
    },
    DeadLetter {
        failure: Box<Failure>,
    },
    /// `unfinished` hand-overs ended without a word before this one.
    GiveBack {
        unfinished: u32,
    },
}

/// A confirmed publication.
pub enum Published {
    DeadLetter,
    /// It lies in its queue already.
    Back,
    /// Nothing had to be published: the broker takes the original back without counting that.
    Nothing,
    /// A retry that lies in the delay queue with this life, in seconds.
    Delayed {
        life: u64,
        mark: Option<u64>,
    },
}

pub struct Aside {
    config: Arc<Config>,
    /// Made when the first message has to be published, and again after one that was given up.
    slot: Mutex<Slot>,
    /// Whether the queue counts a message that is given back as handed over.
    counts_returns: OnceCell<bool>,
    /// How many messages are given back at the same time.
    turns: Semaphore,
}

/// For a message that is given back. After that, the broker has to take it as it is, and may count it.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(5);

/// Each takes a channel, and a worker may have as many messages at hand as it likes.
const GIVEN_BACK_AT_ONCE: usize = 64;

#[derive(Default)]
struct Slot {
    publisher: Option<Arc<Publisher>>,
    pace: Pace,
}

impl Aside {
    pub fn new(config: Arc<Config>, server: &Server) -> Aside {
        let counts_returns = OnceCell::new_with(if server.may_count_returns() { None } else { Some(false) });
        Aside { config, slot: Mutex::default(), counts_returns, turns: Semaphore::new(GIVEN_BACK_AT_ONCE) }
    }

    /// Whether messages can be given back to the broker as they are, as far as that is known.
    pub fn returns_are_free(&self) -> bool {
        self.counts_returns.get() == Some(&false)
    }

    /// Publishes a message again that is given back, if its queue would count its return: a copy at the end of the queue. Gives
    /// up within 5 s, and early enough after an abort for the broker to take the original back.
    ///
    /// # Errors
    /// When the copy is not known to be there.
    pub async fn give_back(self: Arc<Aside>, order: Order, abort: CancellationToken) -> Result<Published, Error> {
        let publishing = async {
            let _turn = self.turns.acquire().await;
            self.publish_by(&order, Deadline::fixed(GIVE_BACK_WITHIN)).await
        };
        tokio::select! {
            biased;
            published = tokio::time::timeout(GIVE_BACK_WITHIN, publishing) => published.unwrap_or_else(|_| {
                Err(Error::Unanswered { doing: "take a message back".into() })
            }),
            () = async { abort.cancelled().await; tokio::time::sleep(ABORT_TIMEOUT / 2).await } => Err(Error::Aborted),
        }
    }

    /// Publishes within `--publish-timeout`, from the connection to the confirmation, and gives up soon after an abort.
    ///
    /// # Errors
    /// When the message is not known to be where it should be.
    pub async fn publish(self: Arc<Aside>, order: Order, abort: CancellationToken) -> Result<Published, Error> {
        let deadline = Deadline::after(self.config.options.publish_timeout);
        let publishing = async {
            match self.publish_by(&order, deadline).await {
                // By another message perhaps: one whose headers are too large for a frame takes the connection with it.
                Err(Error::Lost { .. }) => match self.publish_by(&order, deadline).await {
                    Err(Error::Lost { .. }) => Err(Error::Unconfirmed),
                    published => published,
                },
                published => published,
            }
        };
        tokio::select! {
            biased;
            published = publishing => published,
            () = aborted(&abort) => Err(Error::Aborted),
        }
    }

    async fn publish_by(&self, order: &Order, deadline: Deadline) -> Result<Published, Error> {
        let Order { what, properties, body } = order;
        let options = &self.config.options;
        match what {
            What::Retry { after, failure } => {
                let publisher = deadline.connected(self.publisher(deadline)).await?;
                let properties = publisher.retried(properties, failure, &options.queue)?;
                let mark = retries::mark(&properties);
                let life = publisher.publish_delayed(&options.queue, *after, properties, body, deadline).await?;
                Ok(life.map_or(Published::Back, |life| Published::Delayed { life, mark }))
            }
            What::DeadLetter { failure } => {
                let publisher = deadline.connected(self.publisher(deadline)).await?;
                let properties = publisher.put_aside(properties, failure, &options.queue)?;
                publisher.publish_dead_letter(&options.dead_letter_queue, properties, body, deadline).await?;
                Ok(Published::DeadLetter)
            }
            What::GiveBack { unfinished } => {
                let publisher = deadline.connected(self.publisher(deadline)).await?;
                let queue = &options.queue;
                let counts = self.counts_returns.get_or_try_init(|| async {
                    // A queue whose type is not told may be one that counts.
                    match Arguments::read_type(publisher.connection(), queue).await {
                        Err(Error::Forbidden { .. }) => Ok(true),
                        queue_type => Ok(queue_type?.as_deref() != Some("classic")),
                    }
                });
                if !*counts.await? {
                    return Ok(Published::Nothing);
                }
                let is_ours = |user: &str| self.config.nodes.iter().all(|node| node.user() == user);
                let copy = convert::given_back(properties, is_ours, queue, *unfinished);
                publisher.publish_copy(queue, copy, body, deadline).await?;
                Ok(Published::Back)
            }
        }
    }

    /// A broker that is away for a moment is not given up. If the messages' own connection is lost as well, the session ends, and
    /// this with it: the worker goes on with the next session, and does not end because of this settlement.
    async fn publisher(&self, deadline: Deadline) -> Result<Arc<Publisher>, Error> {
        let mut slot = self.slot.lock().await;
        match &slot.publisher {
            Some(publisher) if publisher.usable() => Ok(publisher.clone()),
            _ => {
                let Config { nodes, options } = &*self.config;
                let name = connection_name("puts aside", &options.queue);
                slot.pace.wait().await;
                let publisher = patiently(deadline.left(), || Publisher::connect(nodes, &name)).await?;
                slot.pace.made();
                Ok(slot.publisher.insert(Arc::new(publisher)).clone())
            }
        }
    }

    /// Ends the connection. All that it published is confirmed, or was given up.
    pub async fn close(&self) {
        if let Ok(mut slot) = self.slot.try_lock()
            && let Some(publisher) = slot.publisher.take()
        {
            let _ = publisher.close().await;
        }
    }
}
