//! The embedded queue: one SQLite file, shared by any number of processes on one host.
//!
//! A message that is taken is leased: it stays in the file and belongs to the worker until its lease ends. Leases are
//! renewed while a guest runs, so a worker that dies loses its messages after at most one lease.

pub mod admin;
mod clock;
mod error;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod kind;
pub mod outbox;
mod row;
mod store;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::store::{Held, Lease, Store, Taken};
use super::adapter;
use super::bounds::ABORT_TIMEOUT;
use super::command::Command;
use super::error::{Error, Kind};
use super::link::{Ended, Handed, Link};
use super::subscription::{Depth, Options};
use crate::causes::chain;
use crate::task::{Origin, Properties, Settlement, System};

/// How long a message stays with a worker that does not answer any more.
const LEASE: Duration = Duration::from_secs(15);

/// Three chances to renew a lease before it ends.
const RENEW: Duration = Duration::from_secs(5);

/// How often an idle worker looks for a message: SQLite has no way to be told of one by another process. One look is
/// a read of a few microseconds.
const POLL: Duration = Duration::from_millis(50);

/// How long one call waits for another process that writes. An operation that may take longer is called again, and commands of
/// the worker are handled between two calls. So a process that never releases the lock holds up no shutdown.
const SLICE: Duration = Duration::from_millis(250);

/// How soon to try again to renew leases when another process was writing.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// How long giving messages back at the end may take. Those that are not given back come again when their leases end.
const CLOSE_WITHIN: Duration = ABORT_TIMEOUT;

/// In traces.
const SYSTEM: System = System { name: "sqlite", routing_key: None, delivery_tag: None };

pub(crate) struct Adapter {
    path: PathBuf,
    options: Options,
    /// Whether the file was open before.
    was_open: bool,
    /// Since when nothing could be written, over all sessions. A file that can be opened and not be written to would
    /// otherwise be opened again for ever.
    failing_since: Option<Instant>,
}

struct Session {
    /// Used by one blocking call at a time; the lock is never waited for.
    store: Arc<Mutex<Store>>,
    options: Options,
    held: HashMap<u64, Delivered>,
    /// Settlements that are still to be written.
    settling: VecDeque<Settling>,
    next_number: u64,
    /// Messages that may still be taken.
    left: u64,
    /// Since when another process has kept us from taking messages.
    locked_since: Option<Instant>,
    /// Whether the file has worked in this session.
    works: bool,
    /// When settlements are given up after an abort.
    give_up_at: Option<Instant>,
}

/// A delivery that is with the worker. Once this is gone, so is the worker's claim on the message.
struct Delivered {
    lease: Lease,
    kept: Arc<Kept>,
    lost: CancellationToken,
}

/// The parts of a message that its settlement may have to write again.
struct Kept {
    headers: Map<String, Value>,
    /// The properties to write if the row cannot be read.
    repaired: Option<Properties>,
}

struct Settling {
    held: Delivered,
    settlement: Settlement,
    reply: Option<oneshot::Sender<Result<(), Error>>>,
    until: Instant,
}

impl Drop for Delivered {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

impl Adapter {
    pub(crate) fn new(path: PathBuf, options: Options) -> Adapter {
        Adapter { path, options, was_open: false, failing_since: None }
    }
}

#[async_trait]
impl adapter::Adapter for Adapter {
    async fn session(&mut self, link: &mut Link) -> Ended {
        if link.begin().await.is_closed() {
            return Ended::Closed;
        }
        let mut session = match Session::open(self.path.clone(), self.options.clone()).await {
            Ok(session) => session,
            Err(error) => return self.not_opened(error),
        };
        self.was_open = true;
        session.left = link.wanted();
        link.established();
        let ended = session.run(link).await;
        if session.works {
            self.failing_since = None;
        }
        match ended {
            Ok(()) => Ended::Closed,
            Err(error) => self.failed(error),
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

impl Session {
    async fn open(path: PathBuf, options: Options) -> Result<Session, Error> {
        let queue = options.queue.clone();
        let store = blocking(move || {
            let mut store = Store::open(&path, &queue, SLICE)?;
            store.require_queue(&queue)?;
            Ok(store)
        })
        .await?;
        Ok(Session {
            store: Arc::new(Mutex::new(store)),
            options,
            held: HashMap::new(),
            settling: VecDeque::new(),
            next_number: 1,
            left: 0,
            locked_since: None,
            works: false,
            give_up_at: None,
        })
    }

    /// Until the worker is done, or the file fails.
    async fn run(&mut self, link: &mut Link) -> Result<(), Error> {
        let mut renew = tokio::time::interval_at(Instant::now() + RENEW, RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_poll = Instant::now();
        loop {
            let room = usize::from(self.options.prefetch).saturating_sub(self.held.len() + self.settling.len());
            let room = usize::try_from(self.left).map_or(room, |left| room.min(left));
            let taking = !link.cancelled && room > 0;
            tokio::select! {
                biased;
                command = link.commands.recv() => match command {
                    Some(Command::Close { reply }) => {
                        let _ = reply.send(self.close().await);
                        return Ok(());
                    }
                    Some(Command::Cancel) => link.cancelled = true,
                    Some(Command::Probe) => link.depth(self.depth().await?),
                    Some(Command::Settle { tag, settlement, reply }) => {
                        let held = if tag.session == link.session { self.held.remove(&tag.number) } else { None };
                        let until = Instant::now() + self.options.publish_timeout;
                        match held {
                            Some(held) => self.settling.push_back(Settling { held, settlement, reply, until }),
                            None => answer(reply, Err(Error::Lost { source: None })),
                        }
                    }
                    None => {
                        let _ = self.close().await;
                        return Ok(());
                    }
                },
                _ = renew.tick() => {
                    if !self.renew().await? {
                        renew.reset_after(RENEW_AGAIN);
                    }
                }
                () = std::future::ready(()), if !self.settling.is_empty() => {
                    if link.abort.is_cancelled() {
                        self.give_up_at.get_or_insert_with(|| Instant::now() + ABORT_TIMEOUT);
                    }
                    self.settle_next().await;
                    // There is room for another one.
                    next_poll = Instant::now();
                }
                () = tokio::time::sleep_until(next_poll), if taking => {
                    self.take(room, link).await?;
                    next_poll = Instant::now() + POLL;
                }
            }
        }
    }

    async fn take(&mut self, room: usize, link: &Link) -> Result<(), Error> {
        let lease = fastrand::i64(1..);
        let queue = self.options.queue.clone();
        let taken = self
            .with_store(move |store| {
                store.require_in_place()?;
                store.take(&queue, room, lease, LEASE)
            })
            .await;
        let taken = match taken {
            Err(error @ Error::FileLocked { .. }) => {
                let since = *self.locked_since.get_or_insert_with(Instant::now);
                return if since.elapsed() > self.options.reconnect_timeout { Err(error) } else { Ok(()) };
            }
            taken => taken?,
        };
        self.locked_since = None;
        self.works = true;
        for Taken { id, message, attempt, unfinished, redelivered, unreadable } in taken {
            let number = self.next_number;
            self.next_number += 1;
            self.left = self.left.saturating_sub(1);
            let lost = CancellationToken::new();
            let repaired = unreadable.is_some().then(|| message.properties.clone());
            let kept = Kept { headers: message.headers.clone(), repaired };
            let delivered = Delivered { lease: Lease { id, lease }, kept: Arc::new(kept), lost: lost.clone() };
            self.held.insert(number, delivered);
            let queue = self.options.queue.clone();
            let origin = Origin {
                routing_key: queue.clone(),
                queue,
                exchange: String::new(),
                redelivered,
                delivery_tag: number,
                system: SYSTEM,
            };
            link.deliver(
                link.tag(number),
                lost,
                Handed { message, origin, attempt, unfinished, can_be_retried: true, unreadable },
            );
        }
        Ok(())
    }

    /// Writes the settlement that has waited longest. If another process is writing, it goes on waiting.
    async fn settle_next(&mut self) {
        let Some(next) = self.settling.pop_front() else { return };
        let (lease, kept, settlement) = (next.held.lease, next.held.kept.clone(), next.settlement.clone());
        let (queue, dead_letter_queue) = (self.options.queue.clone(), self.options.dead_letter_queue.clone());
        let settled = self
            .with_store(move |store| {
                store.require_in_place()?;
                let held = match settlement {
                    Settlement::Ack => store.ack(lease),
                    Settlement::Release => store.release(lease),
                    Settlement::Retry { after, failure } => store.retry(lease, after, &kept.headers, &failure, &queue),
                    // It has no dead-lettering but this one.
                    Settlement::DeadLetter { failure } | Settlement::Reject { failure } => {
                        let Kept { headers, repaired } = &*kept;
                        store.dead_letter(lease, &dead_letter_queue, headers, &failure, &queue, repaired.as_ref())
                    }
                }?;
                // Only what is in the file that everybody sees is settled.
                store.require_in_place()?;
                Ok(held)
            })
            .await;
        let settled = match settled {
            Err(Error::FileLocked { .. }) if Instant::now() < self.give_up_at.unwrap_or(next.until).min(next.until) => {
                return self.settling.push_back(next);
            }
            Err(error) => Err(error),
            Ok(Held::Yes) => {
                self.works = true;
                Ok(())
            }
            Ok(Held::Lost) => {
                Err(Error::Lost { source: Some("the lease ran out, and another worker has the message".into()) })
            }
        };
        answer(next.reply, settled);
    }

    /// Makes the leases longer. Returns whether it could, or another process was writing.
    async fn renew(&mut self) -> Result<bool, Error> {
        let leases: Vec<(u64, Lease)> = self.held.iter().map(|(number, held)| (*number, held.lease)).collect();
        if leases.is_empty() {
            return Ok(true);
        }
        let lost = self
            .with_store(move |store| {
                store.require_in_place()?;
                let mut lost = Vec::new();
                for (number, lease) in leases {
                    if store.renew(lease, LEASE)? == Held::Lost {
                        lost.push(number);
                    }
                }
                Ok(lost)
            })
            .await;
        let lost = match lost {
            // As long as the lock is held, other workers can't take our messages either.
            Err(Error::FileLocked { .. }) => return Ok(false),
            lost => lost?,
        };
        for number in lost {
            tracing::warn!(delivery.tag = number, "the lease ran out, and another worker has the message");
            self.held.remove(&number);
        }
        Ok(true)
    }

    async fn depth(&mut self) -> Result<Depth, Error> {
        let queue = self.options.queue.clone();
        self.with_store(move |store| {
            store.require_in_place()?;
            store.depth(&queue)
        })
        .await
    }

    /// Writes what is still to be settled, and gives back what is held.
    async fn close(&mut self) -> Result<(), Error> {
        let until = self.give_up_at.unwrap_or_else(|| Instant::now() + CLOSE_WITHIN);
        while !self.settling.is_empty() && Instant::now() < until {
            self.settle_next().await;
        }
        let leases: Vec<Lease> = self.held.drain().map(|(_, held)| held.lease).collect();
        self.with_store(move |store| {
            for lease in leases {
                if Instant::now() > until {
                    break;
                }
                // One that is lost already is no longer ours to give back.
                let _: Held = store.release(lease)?;
            }
            Ok(())
        })
        .await
    }

    async fn with_store<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        blocking(move || call(&mut store.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

fn answer(reply: Option<oneshot::Sender<Result<(), Error>>>, settled: Result<(), Error>) {
    match reply {
        // After an abort nobody waits for the answer. The message is done or comes again; only the file knows which.
        Some(reply) => drop(reply.send(settled)),
        None => {
            if let Err(error) = settled {
                tracing::warn!(error = %chain(&error), "a message could not be given back; it comes again when its lease ends");
            }
        }
    }
}

/// SQLite waits for disks and for other processes, which must not hold up the runtime.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    crate::blocking::call(call).await
}
