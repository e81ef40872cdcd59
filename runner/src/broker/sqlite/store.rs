//! The queue file: all of its SQL, as verbs. Synchronous; every verb is one transaction.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::blob::ZeroBlob;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, OptionalExtension as _, TransactionBehavior, params};
use serde_json::{Map, Value};

use super::clock::Clock;
use crate::broker::failure::{self, Content, Next, Unmarked};
use crate::broker::{Depth, Error};
use crate::task::{Failure, Message, Properties};

/// Marks a file as ours (`wqrn`), so that another program's database is never taken for a queue.
const APPLICATION_ID: i32 = 0x7771_726e;
const SCHEMA_VERSION: i32 = 2;

const SCHEMA: &str = "
    CREATE TABLE queue (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE message (
        -- In the order of publishing; AUTOINCREMENT so that the number of a deleted message never comes again.
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL REFERENCES queue (name),
        properties TEXT NOT NULL,
        headers TEXT NOT NULL,
        -- Runs that count: incremented when a message is taken, so that a worker that dies has used one up.
        attempts INTEGER NOT NULL DEFAULT 0,
        handovers INTEGER NOT NULL DEFAULT 0,
        -- Times are milliseconds of the clock below.
        available_at INTEGER NOT NULL,
        lease INTEGER,
        lease_until INTEGER
    ) STRICT;
    CREATE INDEX message_by_queue ON message (queue, id);
    -- One row: what the times are measured by. See clock.rs.
    CREATE TABLE clock (name TEXT NOT NULL) STRICT;
    INSERT INTO clock VALUES ('none yet');
    -- Apart from its message, which is written again with every lease and its every renewal.
    CREATE TABLE body (
        message INTEGER PRIMARY KEY REFERENCES message (id) ON DELETE CASCADE,
        bytes BLOB NOT NULL
    ) STRICT;
";

/// Several processes share the file; a writer waits for this long for the others.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Store {
    path: PathBuf,
    connection: Connection,
    clock: Clock,
}

/// A message that is leased to us.
pub struct Taken {
    pub id: i64,
    pub message: Message,
    pub attempt: u32,
    /// Runs since the last one that failed in an orderly way: their workers died.
    pub unfinished: u32,
    pub redelivered: bool,
}

/// Names one leasing of one message. A lease that ran out and was given to somebody else has another number.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub id: i64,
    pub lease: i64,
}

/// Whether a lease was still ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Held {
    Yes,
    Lost,
}

impl Store {
    /// Opens a file that is there.
    pub fn open(path: &Path, queue: &str) -> Result<Store, Error> {
        if !path.exists() {
            return Err(Error::MissingQueue {
                queue: queue.to_owned(),
                source: Some(format!("there is no file {}", path.display()).into()),
            });
        }
        Store::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    /// Opens a file, or makes it.
    pub fn create(path: &Path) -> Result<Store, Error> {
        Store::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Store, Error> {
        let failed = |error| storage_error(path, error);
        // No SQLITE_OPEN_URI: a `?` in a path is a part of the path.
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        let mut store = Store { path: path.to_owned(), connection, clock: Clock::of_this_host() };
        store.prepare_file()?;
        Ok(store)
    }

    fn prepare_file(&mut self) -> Result<(), Error> {
        let pragma =
            |connection: &Connection, name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let path = self.path.clone();
        let failed = |error| storage_error(&path, error);
        // Readers and one writer do not wait for each other; a commit is on the disk before it is reported.
        self.connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        self.connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let tables: i64 =
            transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
        let application_id = pragma(&transaction, "application_id").map_err(failed)?;
        if tables == 0 && application_id == 0 {
            transaction.execute_batch(SCHEMA).map_err(failed)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(failed)?;
            set_clock(&transaction, &self.clock).map_err(failed)?;
            return transaction.commit().map_err(failed);
        }
        let not_ours = |reason: &str| Error::Settings {
            what: format!("the queue file {}", path.display()),
            source: reason.into(),
        };
        if application_id != APPLICATION_ID {
            return Err(not_ours("it is the database of another program"));
        }
        if pragma(&transaction, "user_version").map_err(failed)? != SCHEMA_VERSION {
            return Err(not_ours("it was made by another version of wq-run"));
        }
        set_clock(&transaction, &self.clock).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    pub fn declare(&mut self, queue: &str) -> Result<(), Error> {
        self.write(|db| db.execute("INSERT INTO queue (name) VALUES (?1) ON CONFLICT DO NOTHING", [queue]).map(drop))
    }

    pub fn require_queue(&mut self, queue: &str) -> Result<(), Error> {
        let found = self
            .connection
            .query_row("SELECT 1 FROM queue WHERE name = ?1", [queue], |_| Ok(()))
            .optional()
            .map_err(|error| storage_error(&self.path, error))?;
        found.ok_or_else(|| Error::MissingQueue { queue: queue.to_owned(), source: None })
    }

    pub fn publish(
        &mut self,
        queue: &str,
        properties: &Properties,
        headers: &Map<String, Value>,
        body: &Bytes,
    ) -> Result<(), Error> {
        self.require_queue(queue)?;
        let now = self.clock.now();
        self.write(|db| {
            db.prepare_cached(
                "INSERT INTO message (queue, properties, headers, available_at) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![queue, json(properties)?, json(headers)?, now])?;
            write_body(db, db.last_insert_rowid(), body)
        })
    }

    /// Leases up to `count` messages, the oldest first.
    pub fn take(&mut self, queue: &str, count: usize, lease: i64, length: Duration) -> Result<Vec<Taken>, Error> {
        let now = self.clock.now();
        // Most polls of an idle worker end here, without the lock that only one process can have.
        if self.depth(queue)?.ready == 0 {
            return Ok(Vec::new());
        }
        let mut taken = self.write(|db| {
            db.prepare_cached(
                "UPDATE message SET lease = ?1, lease_until = ?2, attempts = attempts + 1, handovers = handovers + 1
                 WHERE id IN (
                     SELECT id FROM message
                     WHERE queue = ?3 AND available_at <= ?4 AND (lease IS NULL OR lease_until <= ?4)
                     ORDER BY id LIMIT ?5)
                 RETURNING id, properties, headers, attempts, handovers",
            )?
            .query_map(params![lease, now + millis(length), queue, now, count as i64], |row| {
                let message = Message {
                    body: read_body(db, row.get(0)?)?,
                    properties: parsed(&row.get::<_, String>(1)?)?,
                    headers: parsed(&row.get::<_, String>(2)?)?,
                };
                let (attempt, handovers): (u32, i64) = (row.get(3)?, row.get(4)?);
                let failed = failure::failed_runs(&message.headers, queue, Unmarked::Failed);
                let unfinished = attempt.saturating_sub(failed).saturating_sub(1);
                Ok(Taken { id: row.get(0)?, message, attempt, unfinished, redelivered: handovers > 1 })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        // RETURNING promises no order.
        taken.sort_by_key(|taken| taken.id);
        Ok(taken)
    }

    pub fn renew(&mut self, lease: Lease, length: Duration) -> Result<Held, Error> {
        self.change(
            "UPDATE message SET lease_until = ?3 WHERE id = ?1 AND lease = ?2",
            params![lease.id, lease.lease, self.clock.now() + millis(length)],
        )
    }

    pub fn ack(&mut self, lease: Lease) -> Result<Held, Error> {
        self.change("DELETE FROM message WHERE id = ?1 AND lease = ?2", params![lease.id, lease.lease])
    }

    /// Gives a message back and takes its attempt off the count.
    pub fn release(&mut self, lease: Lease) -> Result<Held, Error> {
        self.change(
            "UPDATE message SET lease = NULL, lease_until = NULL, attempts = attempts - 1 WHERE id = ?1 AND lease = ?2",
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
        let headers = json(&headers).map_err(|error| storage_error(&self.path, error))?;
        self.change(
            "UPDATE message SET lease = NULL, lease_until = NULL, available_at = ?3, headers = ?4
             WHERE id = ?1 AND lease = ?2",
            params![lease.id, lease.lease, self.clock.now() + millis(after), headers],
        )
    }

    /// Moves a message to the dead letters, whose queue is made if there is none.
    pub fn dead_letter(
        &mut self,
        lease: Lease,
        dead_letter_queue: &str,
        headers: &Map<String, Value>,
        failure: &Failure,
        queue: &str,
    ) -> Result<Held, Error> {
        let headers = with_failure(headers, failure, queue, Next::DeadLetter);
        let headers = json(&headers).map_err(|error| storage_error(&self.path, error))?;
        self.declare(dead_letter_queue)?;
        self.change(
            "UPDATE message SET lease = NULL, lease_until = NULL, available_at = ?3, headers = ?4, queue = ?5,
             attempts = 0 WHERE id = ?1 AND lease = ?2",
            params![lease.id, lease.lease, self.clock.now(), headers, dead_letter_queue],
        )
    }

    pub fn depth(&mut self, queue: &str) -> Result<Depth, Error> {
        let counts = self.connection.prepare_cached(
            "SELECT count(*) FILTER (WHERE available_at <= ?2), count(*) FILTER (WHERE available_at > ?2)
             FROM message WHERE queue = ?1 AND (lease IS NULL OR lease_until <= ?2)",
        );
        counts
            .and_then(|mut statement| {
                statement.query_row(params![queue, self.clock.now()], |row| {
                    Ok(Depth { ready: count(row.get(0)?), delayed: count(row.get(1)?), missing: 0 })
                })
            })
            .map_err(|error| storage_error(&self.path, error))
    }

    /// Messages that are with a worker.
    pub fn running(&mut self, queue: &str) -> Result<u64, Error> {
        self.connection
            .query_row(
                "SELECT count(*) FROM message WHERE queue = ?1 AND lease IS NOT NULL AND lease_until > ?2",
                params![queue, self.clock.now()],
                |row| row.get(0).map(count),
            )
            .map_err(|error| storage_error(&self.path, error))
    }

    /// Deletes what no worker has.
    pub fn purge(&mut self, queue: &str) -> Result<u64, Error> {
        let now = self.clock.now();
        self.write(|db| {
            db.execute(
                "DELETE FROM message WHERE queue = ?1 AND (lease IS NULL OR lease_until <= ?2)",
                params![queue, now],
            )
            .map(|rows| rows as u64)
        })
    }

    fn change(&mut self, sql: &str, parameters: impl rusqlite::Params) -> Result<Held, Error> {
        let changed = self.write(|db| db.prepare_cached(sql)?.execute(parameters))?;
        Ok(if changed == 1 { Held::Yes } else { Held::Lost })
    }

    fn write<T>(&mut self, change: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        // IMMEDIATE takes the write lock at once and waits for it; a lock that is upgraded later fails instead.
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let value = change(&transaction)?;
                transaction.commit()?;
                Ok(value)
            })
            .map_err(|error| storage_error(&self.path, error))
    }
}

/// Under another clock the times in a file mean nothing: whoever had leases then is gone, with the boot or with the host,
/// and what waited for a moment has waited.
fn set_clock(db: &Connection, clock: &Clock) -> rusqlite::Result<()> {
    let set = db.execute("UPDATE clock SET name = ?1 WHERE name <> ?1", [clock.name()])?;
    if set > 0 {
        db.execute("UPDATE message SET lease = NULL, lease_until = NULL, available_at = 0", [])?;
    }
    Ok(())
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

/// Straight into the buffer that the message is then in: a row of a result is copied before that.
fn read_body(db: &Connection, message: i64) -> rusqlite::Result<Bytes> {
    let blob = db.blob_open(MAIN_DB, "body", "bytes", message, true)?;
    let mut body = vec![0; blob.len()];
    blob.read_at_exact(&mut body, 0)?;
    Ok(body.into())
}

fn storage_error(path: &Path, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let (path, source): (_, Box<dyn std::error::Error + Send + Sync>) = (path.display().to_string(), error.into());
    match code {
        // A blob has at most a billion bytes.
        Some(ErrorCode::TooBig) => Error::TooLarge { reason: source.to_string() },
        Some(ErrorCode::NotADatabase) => Error::Settings { what: format!("the queue file {path}"), source },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            Error::Unreachable { address: path, source }
        }
        _ => Error::Storage { path, source },
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into()))
}

fn count(rows: i64) -> u64 {
    rows.try_into().unwrap_or(0)
}

fn millis(duration: Duration) -> i64 {
    // A century; leaves room for sums.
    const FAR: u128 = 100 * 365 * 24 * 3600 * 1000;
    duration.as_millis().min(FAR) as i64
}
