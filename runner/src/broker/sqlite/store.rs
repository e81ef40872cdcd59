//! The queue file: all of its SQL, as verbs. Synchronous; every verb is one transaction, or a part of one that it can undo.

mod counts;
#[cfg(test)]
mod damage;
mod many;
#[cfg(test)]
mod scans;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::blob::ZeroBlob;
use rusqlite::{Connection, MAIN_DB, params};
use serde_json::{Map, Value};

use super::clock::millis;
use super::error::classified;
use super::file::{self, Missing, QueueFile};
use super::ready::{self, LONGEST_LEASE, Nothing, has_queue};
use super::row::{self, Row};
use crate::broker::Error;
use crate::broker::failure::{self, Content, Next, Unmarked};
pub use crate::broker::leased::Held;
use crate::task::{Failure, Message, Properties};

pub struct Store {
    file: QueueFile,
    /// Whether a transaction is open that several verbs share.
    together: bool,
    /// What the last look for messages found, if it found none.
    nothing: Option<Nothing>,
}

/// A message that is leased to us.
pub struct Taken {
    pub id: i64,
    pub message: Message,
    pub attempt: u32,
    /// Runs since the last one that failed in an orderly way: their workers died.
    pub unfinished: u32,
    pub redelivered: bool,
    /// The reason, if the row cannot be read. The message then holds its readable parts.
    pub unreadable: Option<String>,
}

/// Names one leasing of one message. A lease that ran out and was given to somebody else has another number.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub id: i64,
    pub lease: i64,
}

impl Store {
    fn new(file: QueueFile) -> Store {
        Store { file, together: false, nothing: None }
    }

    /// Opens a file that is there. `busy` is how long each call waits for other processes.
    pub fn open(path: &Path, queue: &str, busy: Duration) -> Result<Store, Error> {
        QueueFile::open(path, queue, Missing::Refuse, busy).map(Store::new)
    }

    /// Opens a file, or makes it.
    pub fn create(path: &Path, queue: &str, busy: Duration) -> Result<Store, Error> {
        QueueFile::open(path, queue, Missing::Create, busy).map(Store::new)
    }

    /// Fails if the path names another file by now, or none.
    pub fn require_in_place(&self) -> Result<(), Error> {
        self.file.require_in_place()
    }

    pub fn declare(&mut self, queue: &str) -> Result<(), Error> {
        self.write(|db| declare(db, queue))
    }

    pub fn require_queue(&mut self, queue: &str) -> Result<(), Error> {
        let found = has_queue(&self.file.connection, queue).map_err(|error| self.failed(error))?;
        if found { Ok(()) } else { Err(Error::MissingQueue { queue: queue.to_owned(), source: None }) }
    }

    pub fn publish(
        &mut self,
        queue: &str,
        properties: &Properties,
        headers: &Map<String, Value>,
        body: &Bytes,
    ) -> Result<(), Error> {
        self.publish_at(queue, [(properties, headers, &**body)], AT_ONCE)
    }

    /// Leases up to `count` messages, the oldest first.
    pub fn take(&mut self, queue: &str, count: usize, lease: i64, length: Duration) -> Result<Vec<Taken>, Error> {
        let now = self.file.clock.now();
        // Most polls of an idle worker end here, without the lock that only one process can have.
        if !self.has_ready(queue, now)? {
            return Ok(Vec::new());
        }
        self.write(|db| {
            let mut ids = ready::ids(db, queue, now, count)?;
            ids.truncate(count);
            ids.into_iter().map(|id| take_one(db, id, queue, lease, now + millis(length))).collect()
        })
    }

    pub fn renew(&mut self, lease: Lease, length: Duration) -> Result<Held, Error> {
        self.change(
            "UPDATE message SET lease_until = ?3 WHERE id = ?1 AND lease = ?2",
            params![lease.id, lease.lease, self.file.clock.now() + millis(length)],
        )
    }

    /// Makes leases longer, as far as they are still ours.
    pub fn renew_all(&mut self, leases: &[Lease], length: Duration) -> Result<(), Error> {
        let until = self.file.clock.now() + millis(length);
        self.write(|db| {
            let mut renew = db.prepare_cached("UPDATE message SET lease_until = ?3 WHERE id = ?1 AND lease = ?2")?;
            leases.iter().try_for_each(|lease| renew.execute(params![lease.id, lease.lease, until]).map(drop))
        })
    }

    /// Publishes a copy of a message that is leased to us, as its row is, and also if it cannot be read.
    pub fn publish_again(&mut self, lease: Lease, queue: &str, without_headers: &[&str]) -> Result<Held, Error> {
        let copied = self.write(|db| {
            if !has_queue(db, queue)? {
                return Ok(None);
            }
            let changed = db
                .prepare_cached(
                    "INSERT INTO message (queue, properties, headers, available_at)
                     SELECT ?3, properties, headers, ?4 FROM message WHERE id = ?1 AND lease = ?2",
                )?
                .execute(params![lease.id, lease.lease, queue, AT_ONCE])?;
            if changed == 0 {
                return Ok(Some(Held::Lost));
            }
            let copy = db.last_insert_rowid();
            let bytes = "INSERT INTO body (message, bytes) SELECT ?2, bytes FROM body WHERE message = ?1";
            db.prepare_cached(bytes)?.execute([lease.id, copy])?;
            if !without_headers.is_empty()
                && let Some(headers) = row::headers_without(db, copy, without_headers)?
            {
                db.execute("UPDATE message SET headers = ?2 WHERE id = ?1", params![copy, json(&headers)?])?;
            }
            Ok(Some(Held::Yes))
        })?;
        copied.ok_or_else(|| Error::MissingQueue { queue: queue.to_owned(), source: None })
    }

    pub fn ack(&mut self, lease: Lease) -> Result<Held, Error> {
        self.change("DELETE FROM message WHERE id = ?1 AND lease = ?2", params![lease.id, lease.lease])
    }

    /// Gives a message back and takes its attempt off the count.
    pub fn release(&mut self, lease: Lease) -> Result<Held, Error> {
        self.change(
            "UPDATE message SET lease = NULL, lease_until = NULL, attempts = max(attempts - 1, 0)
             WHERE id = ?1 AND lease = ?2",
            params![lease.id, lease.lease],
        )
    }

    pub fn retry(
        &mut self,
        lease: Lease,
        after: Duration,
        headers: &Map<String, Value>,
        failure: &Failure,
        queue: &str,
    ) -> Result<Held, Error> {
        let headers = with_failure(headers, failure, queue, Next::Retry);
        let headers = json(&headers).map_err(|error| self.failed(error))?;
        self.change(
            "UPDATE message SET lease = NULL, lease_until = NULL, available_at = ?3, headers = ?4
             WHERE id = ?1 AND lease = ?2",
            params![lease.id, lease.lease, self.file.clock.after(after), headers],
        )
    }

    /// Moves a message to the dead letters, whose queue is made if there is none. `repaired` are the properties of one
    /// whose row cannot be read: all of its row is written anew.
    pub fn dead_letter(
        &mut self,
        lease: Lease,
        dead_letter_queue: &str,
        headers: &Map<String, Value>,
        failure: &Failure,
        queue: &str,
        repaired: Option<&Properties>,
    ) -> Result<Held, Error> {
        let headers = with_failure(headers, failure, queue, Next::DeadLetter);
        let changed = self.write(|db| {
            declare(db, dead_letter_queue)?;
            let changed = db
                .prepare_cached(
                    "UPDATE message SET lease = NULL, lease_until = NULL, available_at = ?3, headers = ?4, queue = ?5,
                     attempts = 0 WHERE id = ?1 AND lease = ?2",
                )?
                .execute(params![lease.id, lease.lease, AT_ONCE, json(&headers)?, dead_letter_queue])?;
            if let Some(properties) = repaired.filter(|_| changed == 1) {
                db.execute(
                    "UPDATE message SET properties = ?2, handovers = 1 WHERE id = ?1",
                    params![lease.id, json(properties)?],
                )?;
                db.execute("INSERT INTO body (message, bytes) VALUES (?1, x'') ON CONFLICT DO NOTHING", [lease.id])?;
                db.execute(
                    "UPDATE body SET bytes = coalesce(CAST(bytes AS BLOB), x'')
                     WHERE message = ?1 AND typeof(bytes) <> 'blob'",
                    [lease.id],
                )?;
            }
            Ok(changed)
        })?;
        Ok(held(changed))
    }

    /// Deletes what no worker has.
    pub fn purge(&mut self, queue: &str) -> Result<u64, Error> {
        let now = self.file.clock.now();
        self.write(|db| {
            let purge = format!("DELETE FROM message WHERE queue = :queue AND NOT {LEASED}");
            let longest = now + millis(LONGEST_LEASE);
            db.execute(&purge, rusqlite::named_params! { ":queue": queue, ":now": now, ":longest": longest })
                .map(|rows| rows as u64)
        })
    }

    /// Whether there is a message to take. Fails if somebody deleted the queue.
    fn has_ready(&mut self, queue: &str, now: i64) -> Result<bool, Error> {
        let db = &self.file.connection;
        let found = match self.together {
            // The lock is ours already, and what is found in a transaction that may be undone is not sure to hold.
            true => has_queue(db, queue).map(|found| found.then_some(true)),
            false => ready::look(db, &mut self.nothing, queue, now),
        };
        let found = found.map_err(|error| self.failed(error))?;
        found.ok_or_else(|| Error::MissingQueue { queue: queue.to_owned(), source: None })
    }

    fn change(&mut self, sql: &str, parameters: impl rusqlite::Params) -> Result<Held, Error> {
        let change = |db: &Connection| db.prepare_cached(sql)?.execute(parameters);
        // Of a single statement SQLite undoes by itself what it had done before it failed.
        let changed = match self.together && !self.file.connection.is_autocommit() {
            true => change(&self.file.connection).map_err(|error| self.failed(error)),
            false => self.write(change),
        };
        changed.map(held)
    }

    /// Makes all verbs of `calls` in one transaction, in which each stands or falls by itself.
    ///
    /// # Errors
    /// When nothing of it was written: the transaction could not begin or be committed, or SQLite gave it up.
    pub fn together(&mut self, calls: impl FnOnce(&mut Store)) -> rusqlite::Result<()> {
        self.file.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.together = true;
        calls(self);
        self.together = false;
        let connection = &self.file.connection;
        if connection.is_autocommit() {
            return Err(given_up());
        }
        let committed = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if committed.is_err() && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        committed.map(drop)
    }

    fn write<T>(&mut self, change: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let connection = &self.file.connection;
        let written = match self.together {
            false => file::begin(connection).and_then(|transaction| {
                let value = change(&transaction)?;
                transaction.commit()?;
                Ok(value)
            }),
            // SQLite has given up the transaction at an error of an earlier verb: a savepoint would begin another one.
            true if connection.is_autocommit() => Err(given_up()),
            true => within_savepoint(connection, change),
        };
        written.map_err(|error| self.failed(error))
    }

    /// An error of a transaction, for one of the verbs in it.
    pub fn failed_with(&self, error: &rusqlite::Error) -> Error {
        self.failed(match error {
            rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
            other => rusqlite::Error::ToSqlConversionFailure(other.to_string().into()),
        })
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        classified(&self.file.path, error)
    }
}

fn within_savepoint<T>(
    db: &Connection,
    change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    db.prepare_cached("SAVEPOINT verb")?.execute([])?;
    let changed = change(db);
    // At a full disk, for example, SQLite has undone all of it already.
    if !db.is_autocommit() {
        if changed.is_err() {
            db.prepare_cached("ROLLBACK TO verb")?.execute([])?;
        }
        db.prepare_cached("RELEASE verb")?.execute([])?;
    }
    changed
}

/// The error of the verbs that shared a transaction with a verb whose error made SQLite roll it back.
fn given_up() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK),
        Some("the transaction was given up at an error beside".into()),
    )
}

/// The time from which a message can be taken that need not wait.
const AT_ONCE: i64 = 0;

/// Conditions on a row, neither of which is ever NULL: a row that anybody wrote is leased, waiting or ready. One that
/// waits for longer than we ever let one wait is ready, so that it is seen to be unreadable.
const LEASED: &str = "coalesce(lease IS NOT NULL AND lease_until > :now AND lease_until <= :longest, 0)";
const WAITS: &str = "coalesce(available_at > :now AND available_at <= :farthest, 0)";

fn take_one(db: &Connection, id: i64, queue: &str, lease: i64, until: i64) -> rusqlite::Result<Taken> {
    let Row { message, attempts, handovers, unreadable } = Row::read(db, id)?;
    // The counts of an unreadable one stay as they are: it is not run, and they may be what is wrong with it.
    let counted = i64::from(unreadable.is_none());
    db.prepare_cached(
        "UPDATE message SET lease = ?2, lease_until = ?3, attempts = attempts + ?4, handovers = handovers + ?4
         WHERE id = ?1",
    )?
    .execute(params![id, lease, until, counted])?;
    let failed = failure::failed_runs(&message.headers, queue, Unmarked::Failed);
    let unfinished = attempts.saturating_sub(failed);
    Ok(Taken { id, message, attempt: attempts + 1, unfinished, redelivered: handovers > 0, unreadable })
}

fn insert(
    db: &Connection,
    queue: &str,
    properties: &Properties,
    headers: &Map<String, Value>,
    body: &[u8],
    available_at: i64,
) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO message (queue, properties, headers, available_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![queue, json(properties)?, json(headers)?, available_at])?;
    write_body(db, db.last_insert_rowid(), body)
}

fn declare(db: &Connection, queue: &str) -> rusqlite::Result<()> {
    db.execute("INSERT INTO queue (name) VALUES (?1) ON CONFLICT DO NOTHING", [queue]).map(drop)
}

fn held(changed: usize) -> Held {
    if changed == 1 { Held::Yes } else { Held::Lost }
}

/// The headers of a message after a failed run.
fn with_failure(headers: &Map<String, Value>, failure: &Failure, queue: &str, next: Next) -> Map<String, Value> {
    let first_failed_at = headers.get(failure::FIRST_FAILED_AT).and_then(Value::as_str).map(str::to_owned);
    let mut headers = headers.clone();
    for name in failure::NAMES {
        headers.remove(name);
    }
    for (name, content) in failure::headers(failure, queue, next, first_failed_at) {
        let value = match content {
            Content::Text(text) => text.into(),
            Content::Number(number) => number.into(),
        };
        headers.insert(name.into(), value);
    }
    headers
}

/// Bound to a statement, a value is copied twice on its way into the file; written in place it is not, but goes to the
/// file twice.
const WRITTEN_IN_PLACE: usize = 1 << 20;

fn write_body(db: &Connection, message: i64, body: &[u8]) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached("INSERT INTO body (message, bytes) VALUES (?1, ?2)")?;
    if body.len() <= WRITTEN_IN_PLACE {
        return insert.execute(params![message, body]).map(drop);
    }
    insert.execute(params![message, ZeroBlob(body.len() as u64)])?;
    db.blob_open(MAIN_DB, "body", "bytes", message, false)?.write_at(body, 0)
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
