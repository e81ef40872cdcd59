//! The embedded queue: one SQLite file, shared by any number of processes on one host.
//!
//! A message that is taken is leased: it stays in the file and belongs to the worker until its lease ends. Leases are
//! renewed while a guest runs, so a worker that dies loses its messages after at most one lease.

pub mod admin;
mod check;
mod clock;
mod error;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod group;
pub mod kind;
pub mod outbox;
mod ready;
mod row;
mod states;
mod store;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::group::Group;
use self::store::{Lease, Store, Taken};
use super::adapter;
use super::error::{Error, Kind};
use super::leased::{self, Held, Leases, Renewed, Terms, Went};
use super::link::{Ended, Handed, Link};
use super::subscription::{Depth, Options};
use crate::blocking;
use crate::task::{Origin, Properties, Settlement, System};

/// How long a message stays with a worker that does not answer any more.
const LEASE: Duration = Duration::from_secs(15);

/// Three chances to renew a lease before it ends.
const RENEW: Duration = Duration::from_secs(5);

/// How often an idle worker looks for a message: SQLite has no way to be told of one by another process. Most looks only ask
/// whether the file has changed.
const POLL: Duration = Duration::from_millis(50);

/// How long one call waits for another process that writes. An operation that may take longer is called again, and other calls
/// have their turn in between. So a process that never releases the lock holds up no shutdown.
const SLICE: Duration = Duration::from_millis(250);

/// How many settlements share a commit at most.
const SETTLEMENTS: usize = 256;

/// In traces.
const SYSTEM: System = System { name: "sqlite", routing_key: None, delivery_tag: None };

pub(crate) struct Adapter {
    path: PathBuf,
    options: Options,
    /// Whether the file was open before.
    was_open: bool,
    /// Since when nothing could be written, over all sessions. A file that can be opened and not be written to would
    /// otherwise be opened again forever.
    failing_since: Option<Instant>,
}

/// The open file.
struct Queue {
    file: Group,
    options: Options,
}

/// A message that is leased to us, with what its settlement may have to write again.
struct Leased {
    lease: Lease,
    headers: Map<String, Value>,
    /// The properties to write if the row cannot be read.
    repaired: Option<Properties>,
}

impl Adapter {
    pub(crate) fn new(path: PathBuf, options: Options) -> Adapter {
        Adapter { path, options, was_open: false, failing_since: None }
    }
}

#[async_trait]
impl adapter::Adapter for Adapter {
    async fn session(&mut self, link: &mut Link) -> Ended {
        let went = leased::session::<Queue>(&self.path, &self.options, link).await;
        self.was_open |= !matches!(went, Went::NotOpened(_));
        match went {
            Went::Closed => Ended::Closed,
            Went::NotOpened(error) => self.not_opened(error),
            Went::Failed { error, worked } => {
                if worked {
                    self.failing_since = None;
                }
                self.failed(error)
            }
        }
    }
}

impl Adapter {
    /// A file that was there may be on its way back: deleted and made again, or moved here a moment later.
    fn not_opened(&self, error: Error) -> Ended {
        let may_come_back = match error {
            Error::MissingQueue { .. } | Error::InaccessibleFile { .. } => self.was_open,
            _ => error.kind() == Kind::Lost,
        };
        if may_come_back { Ended::Lost(error) } else { Ended::Refused(error) }
    }

    fn failed(&mut self, error: Error) -> Ended {
        let passes = match error {
            Error::InaccessibleFile { .. } => true,
            _ => error.kind() == Kind::Lost,
        };
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if passes && since.elapsed() <= self.options.reconnect_timeout {
            Ended::Lost(error)
        } else {
            Ended::Refused(error)
        }
    }
}

impl Leases for Queue {
    type Place = PathBuf;
    type Lease = Leased;
    const REMOTE: bool = false;

    async fn open(path: &PathBuf, options: &Options) -> Result<Queue, Error> {
        let (path, queue) = (path.clone(), options.queue.clone());
        let opening = move || {
            let mut store = Store::open(&path, &queue, SLICE)?;
            store.require_queue(&queue)?;
            Ok(store)
        };
        let store = blocking::call(opening).await?;
        Ok(Queue { file: Group::new(store), options: options.clone() })
    }

    fn terms(&self) -> Terms {
        Terms { lease: LEASE, renew: RENEW, wait: Duration::ZERO, poll: POLL, settlements: SETTLEMENTS, together: true }
    }

    async fn take(&self, room: usize, _hurry: CancellationToken) -> Result<Vec<leased::Taken<Leased>>, Error> {
        let lease = fastrand::i64(1..);
        let queue = self.options.queue.clone();
        let taken = self.file.call(move |store| store.take(&queue, room, lease, LEASE)).await?;
        Ok(taken.into_iter().map(|taken| self.leased(taken, lease)).collect())
    }

    async fn renew(&self, leases: Vec<(u64, Arc<Leased>)>) -> Result<Renewed, Error> {
        let renewing = move |store: &mut Store| {
            let mut renewed = Renewed::default();
            for (number, leased) in leases {
                if store.renew(leased.lease, LEASE)? == Held::Lost {
                    renewed.lost.push(number);
                }
            }
            Ok(renewed)
        };
        self.file.call(renewing).await
    }

    async fn settle(&self, leased: &Arc<Leased>, settlement: &Settlement) -> Result<Held, Error> {
        let (leased, settlement) = (leased.clone(), settlement.clone());
        let (queue, dead_letter_queue) = (self.options.queue.clone(), self.options.dead_letter_queue.clone());
        let settling = move |store: &mut Store| {
            let Leased { lease, headers, repaired } = &*leased;
            match settlement {
                Settlement::Ack => store.ack(*lease),
                Settlement::Release => store.release(*lease),
                Settlement::Retry { after, failure } => store.retry(*lease, after, headers, &failure, &queue),
                // It has no dead-lettering but this one.
                Settlement::DeadLetter { failure } | Settlement::Reject { failure } => {
                    store.dead_letter(*lease, &dead_letter_queue, headers, &failure, &queue, repaired.as_ref())
                }
            }
        };
        self.file.call(settling).await
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let queue = self.options.queue.clone();
        self.file.read(move |store| store.glance(&queue)).await
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }

    /// As long as another process holds the lock, no worker can take our messages either.
    fn passes(error: &Error) -> bool {
        matches!(error, Error::FileLocked { .. })
    }
}

impl Queue {
    fn leased(&self, taken: Taken, lease: i64) -> leased::Taken<Leased> {
        let Taken { id, message, attempt, unfinished, redelivered, unreadable } = taken;
        let repaired = unreadable.is_some().then(|| message.properties.clone());
        let lease = Leased { lease: Lease { id, lease }, headers: message.headers.clone(), repaired };
        let origin = Origin::of_queue(&self.options.queue, redelivered, SYSTEM);
        leased::Taken {
            lease,
            handed: Handed { message, origin, attempt, unfinished, can_be_retried: true, unreadable },
        }
    }
}
