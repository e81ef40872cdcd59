//! A queue on a server: what can be done with its messages, as verbs.
//!
//! Every verb that changes something is one script.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use redis::{Cmd, Value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connection::Connection;
use super::convert::{self, Read};
use super::keys::Keys;
use super::queue::{Counts, counts, require_alone};
use super::scripts::Script;
use super::terms::{ANSWER_TIMEOUT, GROUP, LEASE, millis};
use super::url::Url;
use super::value::{Field, count, fields, list, number, parts, text, texts};
use crate::broker::error::Error;
use crate::broker::failure::{self, Next, Unmarked};
use crate::broker::subscription::Depth;
use crate::locks::lock;
use crate::task::{Failure, Message};

/// Has what was given back, until somebody takes it. It never takes anything itself.
const NOBODY: &str = "wq-run:given-back";

/// Consumers that were not heard of for so long, and have no messages, are swept out.
const GONE: Duration = Duration::from_secs(24 * 3600);

/// How many delayed messages one look moves at most.
const MOVED_AT_ONCE: usize = 100;

/// More than anybody takes, and a number that Lua hands on as one.
const MOST_AT_ONCE: usize = 1 << 30;

/// How long a take waits for a message. A delayed message that is due meanwhile is moved after this at the latest, unless another
/// worker does it.
pub const WAIT: Duration = Duration::from_secs(1);

/// The same where an inbox feeds the queue: a server wakes nobody who waits for a stream when a list gets an item.
const INBOX_WAIT: Duration = Duration::from_millis(100);

/// The pause between two looks for ended leases, for each message that is with a consumer: a look walks over all of them. So
/// these looks take a fixed part of a server's time, however many messages are under way.
const LOOK_FOR_EACH: Duration = Duration::from_millis(2);
const LOOK_MIN: Duration = Duration::from_secs(1);

/// A queue, and a consumer of its own who takes from it.
pub struct Store {
    keys: Keys,
    /// Every session has a name of its own, so that no settlement of an earlier one can be taken for one of the next.
    consumer: String,
    /// Takes and waits; and does all else.
    taker: Connection,
    settler: Connection,
    /// The server's number for the connection that waits.
    taker_number: Option<i64>,
    next_look: Mutex<Instant>,
    held_back: AtomicBool,
}

/// A message that is with us.
pub struct Taken {
    pub lease: Lease,
    pub message: Message,
    pub attempt: u32,
    /// Runs since the last one that failed in an orderly way: their workers died.
    pub unfinished: u32,
    pub redelivered: bool,
    /// The reason, if the entry cannot be run.
    pub unreadable: Option<String>,
}

/// Names one leasing of one message: when it was handed out again, it has another number.
#[derive(Clone, Debug)]
pub struct Lease {
    pub id: String,
    deliveries: u64,
    first_failed_at: Option<String>,
    /// What its dead letter has in place of a copy, where a script can't copy it.
    rewritten: Option<Vec<Field>>,
}

impl Lease {
    /// When the server put the entry into the stream: the first part of its id, if nobody chose the id.
    pub fn added_at(&self) -> Option<SystemTime> {
        let millis = self.id.split('-').next()?.parse().ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    }
}

impl Store {
    /// Connects to a queue that is there.
    ///
    /// # Errors
    /// When it can't be worked on.
    pub async fn open(url: &Url, queue: &str) -> Result<Store, Error> {
        let (settler, taker) = tokio::try_join!(
            Connection::open(url, queue, Some(ANSWER_TIMEOUT)),
            // It waits, and the loop that asks it has its own bound.
            Connection::open(url, queue, None),
        )?;
        let taker_number = taker.number().await;
        let keys = Keys::new(queue, url.inbox.as_deref());
        let host = std::env::var("HOSTNAME").unwrap_or_default();
        let consumer = format!("wq-run:{host}:{}:{}", std::process::id(), Uuid::now_v7().simple());
        let store = Store {
            keys,
            consumer,
            taker,
            settler,
            taker_number,
            next_look: Mutex::new(Instant::now()),
            held_back: AtomicBool::new(false),
        };
        let keys = &[&*store.keys.queue];
        let others = store
            .run("look at", Script::Open, keys, |call| {
                call.arg(GROUP).arg(millis(GONE));
            })
            .await?;
        require_alone(queue, &texts(others)?)?;
        Ok(store)
    }

    /// Takes up to `room` messages. If there are none, it waits for one, but not for long, and no longer once `hurry` is cancelled.
    pub async fn take(&self, room: usize, hurry: &CancellationToken) -> Result<Vec<Taken>, Error> {
        let (taken, wait) = self.look(room).await?;
        if !taken.is_empty() || hurry.is_cancelled() {
            return Ok(taken);
        }
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&self.consumer).arg("COUNT").arg(room);
        read.arg("BLOCK").arg(millis(wait).max(1)).arg("STREAMS").arg(&self.keys.queue).arg(">");
        let reading = self.taker.request("read", &self.keys.queue, read);
        tokio::pin!(reading);
        let answer = tokio::select! {
            answer = &mut reading => answer,
            () = hurry.cancelled() => {
                // Only the answer says whether it brings a message.
                self.wake().await;
                reading.await
            }
        };
        let Some(stream) = list(answer?)?.pop() else { return Ok(Vec::new()) };
        let [_, entries] = parts(stream)?;
        list(entries)?.into_iter().map(|entry| self.new_message(entry)).collect()
    }

    /// Takes what is there, and says how long to wait for more.
    pub async fn look(&self, room: usize) -> Result<(Vec<Taken>, Duration), Error> {
        let room = room.min(MOST_AT_ONCE);
        let now = Instant::now();
        let looks_for_ended = *self.next_look() <= now;
        let lease = if looks_for_ended { millis(LEASE).to_string() } else { String::new() };
        let keys = self.keys.all();
        let answer = self
            .taker
            .run("take from", Script::Take, &keys, |call| {
                call.arg(GROUP).arg(&self.consumer).arg(room).arg(&lease).arg(MOVED_AT_ONCE);
            })
            .await?;
        let [again, new, next_due, pending, held_back] = parts(answer)?;
        self.note_held_back(&text(held_back)?);
        let again = list(again)?;
        if looks_for_ended {
            let each = LOOK_FOR_EACH.saturating_mul(count(pending)?.try_into().unwrap_or(u32::MAX));
            // There may be more of them.
            let pause = if again.is_empty() { each.clamp(LOOK_MIN, LEASE) } else { Duration::ZERO };
            *self.next_look() = now + pause;
        }
        let mut taken = Vec::new();
        for message in again {
            let [id, entry, deliveries] = parts(message)?;
            taken.push(self.taken(text(id)?, entry, count(deliveries)?, true)?);
        }
        for entry in list(new)? {
            taken.push(self.new_message(entry)?);
        }
        let longest = if self.keys.inbox.is_some() { INBOX_WAIT } else { WAIT };
        let next_due = u64::try_from(number(next_due)?).ok().map(Duration::from_millis);
        Ok((taken, next_due.unwrap_or(longest).min(longest)))
    }

    fn new_message(&self, entry: Value) -> Result<Taken, Error> {
        let [id, entry] = parts(entry)?;
        self.taken(text(id)?, entry, 1, false)
    }

    fn taken(&self, id: String, entry: Value, deliveries: u64, redelivered: bool) -> Result<Taken, Error> {
        let Read { message, unreadable, rewritten } = convert::read(fields(entry)?);
        let failed = failure::failed_runs(&message.headers, &self.keys.queue, Unmarked::Failed);
        let unfinished = u32::try_from(deliveries.saturating_sub(1)).unwrap_or(u32::MAX);
        let attempt = failed.saturating_add(unfinished).saturating_add(1);
        let first_failed_at = message.headers.get(failure::FIRST_FAILED_AT);
        let first_failed_at = first_failed_at.and_then(|at| at.as_str()).map(str::to_owned);
        let lease = Lease { id, deliveries, first_failed_at, rewritten };
        Ok(Taken { lease, message, attempt, unfinished, redelivered, unreadable })
    }

    /// Begins leases anew, and returns the places of those that are ours no longer.
    pub async fn renew(&self, leases: &[&Lease]) -> Result<Vec<u64>, Error> {
        let lost = self
            .run("renew leases of", Script::Renew, &[&self.keys.queue], |call| {
                call.arg(GROUP).arg(&self.consumer);
                for lease in leases {
                    call.arg(&lease.id).arg(lease.deliveries);
                }
            })
            .await?;
        list(lost)?.into_iter().map(count).collect()
    }

    pub async fn ack(&self, lease: &Lease) -> Result<bool, Error> {
        self.settle("acknowledge a message of", Script::Ack, &[&self.keys.queue], lease, |_| {}).await
    }

    /// Gives a message back and takes its hand-over off the count.
    pub async fn release(&self, lease: &Lease) -> Result<bool, Error> {
        let keys = &[&*self.keys.queue];
        let released = self
            .settle("give a message back to", Script::Release, keys, lease, |call| {
                call.arg(NOBODY).arg(millis(LEASE));
            })
            .await;
        // It is the next message, most likely.
        *self.next_look() = Instant::now();
        released
    }

    pub async fn retry(&self, lease: &Lease, after: Duration, failure: &Failure) -> Result<bool, Error> {
        let added = self.failure_fields(lease, failure, Next::Retry);
        let Keys { queue, delayed, bodies, .. } = &self.keys;
        self.settle("retry a message of", Script::Retry, &[queue, delayed, bodies], lease, |call| {
            call.arg(millis(after));
            add_changes(call, lease.rewritten.as_deref(), &failure::NAMES, &added);
        })
        .await
    }

    /// Moves a message to the dead letters, whose queue is made if there is none.
    pub async fn dead_letter(&self, lease: &Lease, to: &str, failure: &Failure) -> Result<bool, Error> {
        let added = self.failure_fields(lease, failure, Next::DeadLetter);
        self.settle("put aside a message of", Script::DeadLetter, &[&self.keys.queue, to], lease, |call| {
            add_changes(call, lease.rewritten.as_deref(), &failure::NAMES, &added);
        })
        .await
    }

    /// Adds a copy of a message that is with us to another queue, without some of its headers.
    pub async fn copy(&self, lease: &Lease, to: &str, without: &[&str]) -> Result<(), Error> {
        let keys = &[&*self.keys.queue, to];
        let copied = self
            .run("copy a message of", Script::Copy, keys, |call| {
                call.arg(GROUP).arg(&self.consumer).arg(&lease.id).arg(lease.deliveries);
                add_changes(call, lease.rewritten.as_deref(), without, &[]);
            })
            .await?;
        match number(copied)? {
            1 => Ok(()),
            0 => Err(lost()),
            _ => Err(Error::MissingQueue { queue: to.to_owned(), source: None }),
        }
    }

    fn failure_fields(&self, lease: &Lease, failure: &Failure, next: Next) -> Vec<Field> {
        convert::added(failure::headers(failure, &self.keys.queue, next, lease.first_failed_at.clone()))
    }

    pub async fn depth(&self) -> Result<Depth, Error> {
        let Counts { ready, delayed, .. } = counts(&self.settler, &self.keys).await?;
        Ok(Depth { ready, delayed, missing: 0 })
    }

    /// Removes our consumer, if it has no messages any more.
    pub async fn leave(&self) -> Result<(), Error> {
        let keys = &[&*self.keys.queue];
        self.run("leave", Script::Leave, keys, |call| {
            call.arg(GROUP).arg(&self.consumer);
        })
        .await
        .map(drop)
    }

    /// Ends the wait of a take. A server that refuses it lets the take end by itself.
    async fn wake(&self) {
        let Some(number) = self.taker_number else { return };
        let mut request = redis::cmd("CLIENT");
        request.arg("UNBLOCK").arg(number);
        let _ = self.settler.request("wake up", &self.keys.queue, request).await;
    }

    async fn settle(
        &self,
        doing: &str,
        script: Script,
        keys: &[&str],
        lease: &Lease,
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<bool, Error> {
        let settled = self
            .run(doing, script, keys, |call| {
                call.arg(GROUP).arg(&self.consumer).arg(&lease.id).arg(lease.deliveries);
                add_arguments(call);
            })
            .await?;
        Ok(number(settled)? == 1)
    }

    async fn run(
        &self,
        doing: &str,
        script: Script,
        keys: &[&str],
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, Error> {
        self.settler.run(doing, script, keys, add_arguments).await
    }

    fn next_look(&self) -> MutexGuard<'_, Instant> {
        lock(&self.next_look)
    }

    /// Says once that messages wait which the server has no room to move.
    fn note_held_back(&self, reason: &str) {
        let was = self.held_back.swap(!reason.is_empty(), Ordering::Relaxed);
        if !was && !reason.is_empty() {
            tracing::warn!(
                error = reason,
                "messages that are due, or wait in the inbox, can't be moved into the queue"
            );
        }
    }
}

/// A message that somebody else has by now.
pub fn lost() -> Error {
    Error::lease_lost()
}

/// The fields that a script is to drop, those that it is to add, and whether these are all: those of a message that is written
/// anew.
pub fn add_changes(call: &mut Cmd, rewritten: Option<&[Field]>, dropped: &[&str], added: &[Field]) {
    call.arg(dropped.len()).arg(dropped);
    call.arg(2 * (rewritten.map_or(0, <[Field]>::len) + added.len()));
    for (name, value) in rewritten.unwrap_or_default().iter().chain(added) {
        call.arg(name).arg(&value[..]);
    }
    call.arg(u8::from(rewritten.is_some()));
}
