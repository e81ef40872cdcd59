//! The embedded queue: one SQLite file, shared by any number of processes on one host.
//!
//! A message that is taken is leased: it stays in the file and belongs to the worker until its lease ends. Leases are
//! renewed while a guest runs, so a worker that dies loses its messages after at most one lease.

pub mod admin;
mod clock;
pub mod outbox;
mod store;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::store::{Held, Lease, Store, Taken};
use super::error::Kind;
use super::{Command, Ended, Error, Handed, Link, Options, Tag};
use crate::task::{Origin, Settlement};

/// How long a message stays with a worker that does not answer any more.
const LEASE: Duration = Duration::from_secs(15);

/// Three chances to renew a lease before it ends.
const RENEW: Duration = Duration::from_secs(5);

/// How often an idle worker looks for a message: SQLite has no way to be told of one by another process. One look is
/// a read of a few microseconds.
const POLL: Duration = Duration::from_millis(50);

/// In traces.
const SYSTEM: &str = "sqlite";

pub(crate) struct Adapter {
    path: PathBuf,
    options: Options,
}

struct Session {
    /// Used by one blocking call at a time; the lock is never waited for.
    store: Arc<Mutex<Store>>,
    options: Options,
    held: HashMap<u64, Delivered>,
    next_number: u64,
    /// Messages that may still be taken.
    left: u64,
}

/// A delivery that is with the worker. Once this is gone, so is the worker's claim on the message.
struct Delivered {
    lease: Lease,
    headers: Map<String, Value>,
    lost: CancellationToken,
}

impl Drop for Delivered {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

impl Adapter {
    pub(crate) fn new(path: PathBuf, options: Options) -> Adapter {
        Adapter { path, options }
    }

    pub(crate) async fn session(&mut self, link: &mut Link) -> Ended {
        if link.begin().await.is_closed() {
            return Ended::Closed;
        }
        let mut session = match Session::open(self.path.clone(), self.options.clone()).await {
            Ok(session) => session,
            Err(error) => return ended(error),
        };
        session.left = link.wanted();
        link.established();
        let mut renew = tokio::time::interval_at(Instant::now() + RENEW, RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_poll = Instant::now();
        loop {
            let room = usize::from(self.options.prefetch).saturating_sub(session.held.len());
            let room = usize::try_from(session.left).map_or(room, |left| room.min(left));
            let taking = !link.cancelled && room > 0;
            let step = tokio::select! {
                biased;
                command = link.commands.recv() => match command {
                    Some(Command::Close { reply }) => {
                        let _ = reply.send(session.close().await);
                        return Ended::Closed;
                    }
                    Some(Command::Cancel) => {
                        link.cancelled = true;
                        Ok(())
                    }
                    Some(Command::Probe) => session.depth().await.map(|depth| link.depth(depth)),
                    Some(Command::Settle { tag, settlement, reply }) => {
                        let settled = session.settle(tag, settlement, link).await;
                        if let Some(reply) = reply {
                            let _ = reply.send(settled);
                        }
                        // There is room for another one.
                        next_poll = Instant::now();
                        Ok(())
                    }
                    None => {
                        let _ = session.close().await;
                        return Ended::Closed;
                    }
                },
                _ = renew.tick() => session.renew().await,
                () = tokio::time::sleep_until(next_poll), if taking => {
                    let taken = session.take(room, link).await;
                    next_poll = Instant::now() + POLL;
                    taken
                }
            };
            if let Err(error) = step {
                return ended(error);
            }
        }
    }
}

fn ended(error: Error) -> Ended {
    match error.kind() {
        Kind::Lost => Ended::Lost(error),
        // A file has no network in between: what can't be opened now can't be opened in a second.
        Kind::Unreachable | Kind::Refused | Kind::Configuration => Ended::Refused(error),
    }
}

impl Session {
    async fn open(path: PathBuf, options: Options) -> Result<Session, Error> {
        let queue = options.queue.clone();
        let store = blocking(move || {
            let mut store = Store::open(&path, &queue)?;
            store.require_queue(&queue)?;
            Ok(store)
        })
        .await?;
        Ok(Session { store: Arc::new(Mutex::new(store)), options, held: HashMap::new(), next_number: 1, left: 0 })
    }

    async fn take(&mut self, room: usize, link: &Link) -> Result<(), Error> {
        let lease = fastrand::i64(1..);
        let queue = self.options.queue.clone();
        let taken = self.with_store(move |store| store.take(&queue, room, lease, LEASE)).await?;
        for Taken { id, message, attempt, unfinished, redelivered } in taken {
            let number = self.next_number;
            self.next_number += 1;
            self.left = self.left.saturating_sub(1);
            let lost = CancellationToken::new();
            let delivered =
                Delivered { lease: Lease { id, lease }, headers: message.headers.clone(), lost: lost.clone() };
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
            link.deliver(link.tag(number), lost, Handed { message, origin, attempt, unfinished, can_be_retried: true });
        }
        Ok(())
    }

    async fn settle(&mut self, tag: Tag, settlement: Settlement, link: &Link) -> Result<(), Error> {
        let held = if tag.session == link.session { self.held.remove(&tag.number) } else { None };
        let Some(mut held) = held else { return Err(Error::Lost { source: None }) };
        let (lease, headers) = (held.lease, std::mem::take(&mut held.headers));
        let (queue, dead_letter_queue) = (self.options.queue.clone(), self.options.dead_letter_queue.clone());
        let settled = self
            .with_store(move |store| match settlement {
                Settlement::Ack => store.ack(lease),
                Settlement::Release => store.release(lease),
                Settlement::Retry { after, failure } => store.retry(lease, after, &headers, &failure, &queue),
                // It has no dead-lettering but this one.
                Settlement::DeadLetter { failure } | Settlement::Reject { failure } => {
                    store.dead_letter(lease, &dead_letter_queue, &headers, &failure, &queue)
                }
            })
            .await?;
        match settled {
            Held::Yes => Ok(()),
            Held::Lost => {
                Err(Error::Lost { source: Some("the lease ran out, and another worker has the message".into()) })
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Error> {
        let leases: Vec<(u64, Lease)> = self.held.iter().map(|(number, held)| (*number, held.lease)).collect();
        if leases.is_empty() {
            return Ok(());
        }
        let lost = self
            .with_store(move |store| {
                let mut lost = Vec::new();
                for (number, lease) in leases {
                    if store.renew(lease, LEASE)? == Held::Lost {
                        lost.push(number);
                    }
                }
                Ok(lost)
            })
            .await?;
        for number in lost {
            tracing::warn!(delivery.tag = number, "the lease ran out, and another worker has the message");
            self.held.remove(&number);
        }
        Ok(())
    }

    async fn depth(&mut self) -> Result<super::Depth, Error> {
        let queue = self.options.queue.clone();
        self.with_store(move |store| store.depth(&queue)).await
    }

    /// Gives back what is held.
    async fn close(&mut self) -> Result<(), Error> {
        let leases: Vec<Lease> = self.held.drain().map(|(_, held)| held.lease).collect();
        self.with_store(move |store| {
            for lease in leases {
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

/// SQLite waits for disks and for other processes, which must not hold up the runtime.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    crate::blocking::call(call).await
}
