//! The queue file: all of its SQL, as verbs. Synchronous; every verb is one transaction.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior, params};
use serde_json::{Map, Value};

use super::clock::Clock;
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
        body BLOB NOT NULL,
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
";

/// The number of the run that failed last, as in the headers on an AMQP broker.
const ATTEMPT: &str = "x-wq-attempt";

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

    pub fn publish(&mut self, queue: &str, properties: &Properties, body: &Bytes) -> Result<(), Error> {
        self.require_queue(queue)?;
        let now = self.clock.now();
        self.write(|db| {
            db.prepare_cached(
                "INSERT INTO message (queue, body, properties, headers, available_at) VALUES (?1, ?2, ?3, '{}', ?4)",
            )?
            .execute(params![queue, &body[..], json(properties)?, now])
            .map(drop)
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
                 RETURNING id, body, properties, headers, attempts, handovers",
            )?
            .query_map(params![lease, now + millis(length), queue, now, count as i64], |row| {
                let message = Message {
                    body: Bytes::from(row.get::<_, Vec<u8>>(1)?),
                    properties: parsed(&row.get::<_, String>(2)?)?,
                    headers: parsed(&row.get::<_, String>(3)?)?,
                };
                let (attempt, handovers): (u32, i64) = (row.get(4)?, row.get(5)?);
                let failed = message.headers.get(ATTEMPT).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
                let unfinished = attempt.saturating_sub(failed.unwrap_or(0)).saturating_sub(1);
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
        let headers = with_failure(headers, failure, queue);
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
        let headers = with_failure(headers, failure, queue);
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
                    Ok(Depth { ready: count(row.get(0)?), delayed: count(row.get(1)?) })
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

/// The headers of a message after a failed run, under the same names as on an AMQP broker.
fn with_failure(headers: &Map<String, Value>, failure: &Failure, queue: &str) -> Map<String, Value> {
    let mut headers = headers.clone();
    let at = humantime::format_rfc3339_millis(failure.at).to_string();
    headers.insert("x-wq-outcome".into(), failure.outcome.into());
    headers.insert("x-wq-error".into(), failure.error.as_str().into());
    headers.insert("x-wq-stderr".into(), failure.stderr.as_str().into());
    headers.insert("x-wq-guest".into(), failure.guest.as_str().into());
    headers.insert("x-wq-queue".into(), queue.into());
    headers.insert(ATTEMPT.into(), failure.attempt.into());
    headers.insert("x-wq-last-failed-at".into(), at.as_str().into());
    headers.entry("x-wq-first-failed-at").or_insert_with(|| at.into());
    match failure.exit_code {
        Some(code) => headers.insert("x-wq-exit-code".into(), code.into()),
        None => headers.remove("x-wq-exit-code"),
    };
    headers
}

fn storage_error(path: &Path, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let (path, source) = (path.display().to_string(), error.into());
    match code {
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn store_with(bodies: &[&'static str]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::create(&folder.path().join("q.db")).unwrap();
        store.declare("q").unwrap();
        for body in bodies {
            store.publish("q", &Properties::default(), &Bytes::from_static(body.as_bytes())).unwrap();
        }
        (folder, store)
    }

    fn failure() -> Failure {
        Failure {
            outcome: "exit",
            exit_code: Some(1),
            error: "the guest exited with 1".into(),
            stderr: "oh".into(),
            guest: "sha256:0".into(),
            attempt: 1,
            at: SystemTime::UNIX_EPOCH,
        }
    }

    fn depth(ready: u64, delayed: u64) -> Depth {
        Depth { ready, delayed }
    }

    #[test]
    fn messages_come_in_order_and_once() {
        let (_folder, mut store) = store_with(&["a", "b", "c"]);
        let first = store.take("q", 2, 1, LEASE).unwrap();
        assert_eq!(first.iter().map(|taken| &taken.message.body[..]).collect::<Vec<_>>(), [b"a", b"b"]);
        let second = store.take("q", 2, 2, LEASE).unwrap();
        assert_eq!(second.len(), 1);
        assert!(store.take("q", 2, 3, LEASE).unwrap().is_empty());
        assert_eq!(store.running("q").unwrap(), 3);
    }

    #[test]
    fn a_lease_that_ran_out_is_given_to_another_and_the_first_settles_nothing() {
        let (_folder, mut store) = store_with(&["a"]);
        let id = store.take("q", 1, 1, Duration::ZERO).unwrap()[0].id;
        let again = store.take("q", 1, 2, LEASE).unwrap();
        assert_eq!((again[0].id, again[0].attempt, again[0].redelivered), (id, 2, true));
        let (old, new) = (Lease { id, lease: 1 }, Lease { id, lease: 2 });
        assert_eq!(store.ack(old).unwrap(), Held::Lost);
        assert_eq!(store.renew(old, LEASE).unwrap(), Held::Lost);
        assert_eq!(store.release(old).unwrap(), Held::Lost);
        assert_eq!(store.renew(new, LEASE).unwrap(), Held::Yes);
        assert_eq!(store.ack(new).unwrap(), Held::Yes);
        assert_eq!(store.ack(new).unwrap(), Held::Lost);
    }

    #[test]
    fn a_release_does_not_count_and_a_retry_does() {
        let (_folder, mut store) = store_with(&["a"]);
        let taken = store.take("q", 1, 1, LEASE).unwrap().remove(0);
        assert_eq!(store.release(Lease { id: taken.id, lease: 1 }).unwrap(), Held::Yes);
        let taken = store.take("q", 1, 2, LEASE).unwrap().remove(0);
        assert_eq!(taken.attempt, 1);
        let lease = Lease { id: taken.id, lease: 2 };
        assert_eq!(store.retry(lease, LEASE, &taken.message.headers, &failure(), "q").unwrap(), Held::Yes);
        assert_eq!(store.depth("q").unwrap(), depth(0, 1));
        assert!(store.take("q", 1, 3, LEASE).unwrap().is_empty(), "its backoff is not over");
    }

    #[test]
    fn a_dead_letter_is_kept_with_its_reason() {
        let (_folder, mut store) = store_with(&["a"]);
        let taken = store.take("q", 1, 1, LEASE).unwrap().remove(0);
        let lease = Lease { id: taken.id, lease: 1 };
        assert_eq!(store.dead_letter(lease, "q.dead", &taken.message.headers, &failure(), "q").unwrap(), Held::Yes);
        assert_eq!(store.depth("q").unwrap(), depth(0, 0));
        let dead = store.take("q.dead", 1, 2, LEASE).unwrap().remove(0);
        assert_eq!(&dead.message.body[..], b"a");
        assert_eq!(dead.message.headers["x-wq-outcome"], "exit");
        assert_eq!(dead.message.headers["x-wq-exit-code"], 1);
        assert_eq!(dead.message.headers["x-wq-queue"], "q");
        assert_eq!(dead.attempt, 1);
    }

    #[test]
    fn what_is_no_queue_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none.db");
        assert!(matches!(Store::open(&missing, "q"), Err(Error::MissingQueue { .. })));
        assert!(!missing.exists());

        let text = folder.path().join("text");
        std::fs::write(&text, "this is a text of more than a hundred bytes, ".repeat(20)).unwrap();
        assert!(matches!(Store::open(&text, "q"), Err(Error::Settings { .. })));

        let foreign = folder.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(matches!(Store::create(&foreign), Err(Error::Settings { .. })));
    }

    #[test]
    fn leases_and_pauses_of_an_earlier_boot_are_over() {
        let (folder, mut store) = store_with(&["with a worker", "waits"]);
        let path = folder.path().join("q.db");
        let taken = store.take("q", 2, 1, LEASE).unwrap();
        let waits = Lease { id: taken[1].id, lease: 1 };
        assert_eq!(store.retry(waits, LEASE, &Map::new(), &failure(), "q").unwrap(), Held::Yes);
        let mut again = Store::open(&path, "q").unwrap();
        assert_eq!(again.depth("q").unwrap(), depth(0, 1), "nothing has changed for another process of this boot");
        store.connection.execute("UPDATE clock SET name = 'another boot'", []).unwrap();
        let mut rebooted = Store::open(&path, "q").unwrap();
        assert_eq!(rebooted.depth("q").unwrap(), depth(2, 0));
        // Its worker would have to have survived the reboot, but a file can also be restored.
        assert_eq!(store.ack(Lease { id: taken[0].id, lease: 1 }).unwrap(), Held::Lost);
        assert_eq!(rebooted.take("q", 1, 2, LEASE).unwrap()[0].unfinished, 1);
    }

    #[test]
    fn publishing_to_a_queue_that_is_not_there_is_an_error() {
        let (_folder, mut store) = store_with(&[]);
        let published = store.publish("other", &Properties::default(), &Bytes::from_static(b"x"));
        assert!(matches!(published, Err(Error::MissingQueue { .. })));
    }
}
