//! Opening a queue file: is it one, is it whole, and is it still the one that its path names.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::clock::Clock;
use super::error::classified;
use super::states;
use crate::broker::Error;

/// Marks a file as ours (`wqrn`), so that another program's database is never taken for a queue.
const APPLICATION_ID: i32 = 0x7771_726e;
const SCHEMA_VERSION: i32 = 2;

/// With the indexes of states.rs.
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
        -- Times are milliseconds of the clock below. 0 if it never had to wait.
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

/// All that we use of each table. Preparing these shows whether the tables are there.
const TABLES: [&str; 4] = [
    "SELECT name FROM queue WHERE name = ''",
    "SELECT id, queue, properties, headers, attempts, handovers, available_at, lease, lease_until
     FROM message INDEXED BY message_by_queue WHERE queue = ''",
    "SELECT name FROM clock",
    "SELECT message, bytes FROM body WHERE message = 0",
];

/// An open queue file.
pub struct QueueFile {
    pub path: PathBuf,
    pub connection: Connection,
    pub clock: Clock,
    /// The identities of the file, its log and its index when they were opened.
    identity: [Option<Identity>; 3],
}

/// A file may be deleted and made again, but not with the inode of one that is still open.
type Identity = (u64, u64);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Refuse,
    Create,
}

impl QueueFile {
    /// Opens a queue file. `busy` is how long a call waits for other processes with the file.
    ///
    /// # Errors
    /// When it is missing and not to be made, when it is no queue file, or when it is damaged.
    pub fn open(path: &Path, queue: &str, missing: Missing, busy: Duration) -> Result<QueueFile, Error> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        match missing {
            Missing::Create => flags |= OpenFlags::SQLITE_OPEN_CREATE,
            Missing::Refuse => require_file(path, queue)?,
        }
        let before = identity(path).ok();
        let log = std::fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
        let length = std::fs::metadata(path).map_or(0, |file| file.len());
        let failed = |error| classified(path, error);
        // No SQLITE_OPEN_URI: a `?` in a path is a part of the path.
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(busy).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let clock = Clock::of_this_host();
        prepare(path, &connection, &clock, missing)?;
        // SQLite reads what is missing of the last page as zeros. A log that is not empty may hold that page.
        let page_size: u64 =
            connection.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0)).map_err(failed)?.into();
        if log == 0 && page_size > 0 && !length.is_multiple_of(page_size) {
            let source = "it ends in the middle of a page".into();
            return Err(Error::DamagedFile { path: path.display().to_string(), source });
        }
        let identity = identities(path).map_err(|error| replaced(path, Some(error)))?;
        if before.is_some() && identity[0] != before {
            return Err(replaced(path, None));
        }
        Ok(QueueFile { path: path.to_owned(), connection, clock, identity })
    }

    /// Fails if the path names another file by now, or none: what is read from or written to the one that is open is then
    /// seen by nobody. The companions count too, since SQLite goes on writing to a `-wal` that was deleted.
    pub fn require_in_place(&self) -> Result<(), Error> {
        match identities(&self.path) {
            Ok(now) if now == self.identity => Ok(()),
            Ok(_) => Err(replaced(&self.path, None)),
            Err(error) => Err(replaced(&self.path, Some(error))),
        }
    }
}

impl Drop for QueueFile {
    /// SQLite finds a log by its name. Where another file was put into the place of ours, our log would be taken for a log
    /// of that one and written into it, page by page. It is put aside, since the old file may be kept somewhere.
    fn drop(&mut self) {
        let Ok(now) = identities(&self.path) else { return };
        if now[0] == self.identity[0] || now[1].is_none() || now[1] != self.identity[1] {
            return;
        }
        let [log, index, aside] = ["-wal", "-shm", "-wal.replaced"].map(|ending| beside(&self.path, ending));
        let put_aside = std::fs::rename(&log, &aside).and_then(|()| std::fs::remove_file(&index));
        match put_aside {
            Ok(()) => tracing::warn!(path = %aside.display(), "the log of the replaced queue file was put aside"),
            Err(error) => tracing::error!(
                %error,
                path = %log.display(),
                "cannot put aside the log of the replaced queue file; SQLite may write it into the new one"
            ),
        }
    }
}

/// Opens a queue file for reading, and leaves no trace of that: neither a change nor a file beside it. `None` if what it holds
/// shows only to those who may write: its log was left behind without the log's index.
///
/// # Errors
/// As [`QueueFile::open`].
pub fn look(path: &Path, queue: &str) -> Result<Option<Connection>, Error> {
    require_file(path, queue)?;
    let failed = |error| classified(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let log = std::fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
    let connection = if std::fs::exists(beside(path, "-shm")).unwrap_or(false) {
        Connection::open_with_flags(path, flags).map_err(failed)?
    } else if log > 0 {
        return Ok(None);
    } else {
        // SQLite makes an index even for those who only read, unless the file is said to be one that nobody changes.
        let name = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
        let uri = format!("file:{name}?immutable=1");
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI).map_err(failed)?
    };
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    guard(&connection).map_err(failed)?;
    require_ours(path, &connection)?;
    Ok(Some(connection))
}

/// Fails if the file is missing or empty. SQLite reports everything else.
fn require_file(path: &Path, queue: &str) -> Result<(), Error> {
    let no_queue = |reason: String| Error::MissingQueue { queue: queue.to_owned(), source: Some(reason.into()) };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(no_queue(format!("there is no file {}", path.display())))
        }
        Ok(file) if file.is_file() && file.len() == 0 => Err(no_queue(format!("the file {} is empty", path.display()))),
        // SQLite says what is wrong.
        _ => Ok(()),
    }
}

fn prepare(path: &Path, connection: &Connection, clock: &Clock, missing: Missing) -> Result<(), Error> {
    let failed = |error| classified(path, error);
    guard(connection).map_err(failed)?;
    // Looked at before anything is set: another program's database stays as it is.
    match kind(connection).map_err(failed)? {
        Kind::Empty if missing == Missing::Create => {
            keep_a_log(connection).map_err(failed)?;
            let transaction = begin(connection).map_err(failed)?;
            // Somebody else may have been faster.
            if kind(&transaction).map_err(failed)? == Kind::Empty {
                transaction.execute_batch(SCHEMA).map_err(failed)?;
                transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
                transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
        }
        Kind::Empty | Kind::Ours(_) | Kind::Foreign => {}
    }
    require_ours(path, connection)?;
    keep_a_log(connection).map_err(failed)?;
    make_indexes(connection).map_err(failed)?;
    set_clock(connection, clock).map_err(failed)
}

/// For a new file, one of a version without them, or one from which somebody has removed some.
fn make_indexes(connection: &Connection) -> rusqlite::Result<()> {
    // Only a file that lacks some is written to, so that opening a file does not wait for another writer.
    if states::missing(connection)?.is_empty() {
        return Ok(());
    }
    let transaction = begin(connection)?;
    // Another process may have made them in the meantime.
    states::make_missing(&transaction)?;
    transaction.commit()
}

/// Fails if a file is none of this version of wq-run.
fn require_ours(path: &Path, connection: &Connection) -> Result<(), Error> {
    let failed = |error| classified(path, error);
    match kind(connection).map_err(failed)? {
        Kind::Ours(SCHEMA_VERSION) => {}
        Kind::Ours(version) if version > SCHEMA_VERSION => {
            return Err(foreign(path, "it was made by a newer version of wq-run"));
        }
        Kind::Ours(_) => return Err(foreign(path, "it was made by an older version of wq-run")),
        Kind::Empty => return Err(foreign(path, "it is an empty database")),
        Kind::Foreign => return Err(foreign(path, "it is the database of another program")),
    }
    for statement in TABLES {
        connection.prepare(statement).map_err(failed)?;
    }
    Ok(())
}

/// Takes from SQLite what a file written by somebody else could use against us: code in the schema, which could run for
/// ever with the write lock held, and mapped memory, which turns a file that is cut short into a signal. (The `-shm` file
/// is mapped all the same: processes share it.)
fn guard(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// How long the log may become before it is written into the file, in pages: 16 MiB. A page that changed often is written once
/// for all of its changes. SQLite's 1,000 pages are a few thousand messages, and its index of the log is made for 4,096 at a time.
const LOG_PAGES: u32 = 4000;

/// Readers and one writer do not wait for each other; a commit is on the disk before it is reported.
fn keep_a_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "synchronous", "FULL")
}

/// More than there are statements: one that falls out of the cache is compiled again at each call.
const STATEMENTS: usize = 64;

#[derive(PartialEq, Eq)]
enum Kind {
    Empty,
    /// With the version of its schema.
    Ours(i32),
    Foreign,
}

fn kind(connection: &Connection) -> rusqlite::Result<Kind> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match pragma("application_id")? {
        APPLICATION_ID => Kind::Ours(pragma("user_version")?),
        0 if tables == 0 => Kind::Empty,
        _ => Kind::Foreign,
    })
}

/// Under another clock the times in a file mean nothing. The workers that held leases are gone, with the boot or with the host,
/// and all pauses are over.
fn set_clock(connection: &Connection, clock: &Clock) -> rusqlite::Result<()> {
    // Only a file from another boot is written to, so that opening a file does not wait for another writer.
    if is_clock(connection, clock)? {
        return Ok(());
    }
    let transaction = begin(connection)?;
    if !is_clock(&transaction, clock)? {
        transaction.execute("DELETE FROM clock", [])?;
        transaction.execute("INSERT INTO clock VALUES (?1)", [clock.name()])?;
        transaction.execute("UPDATE message SET lease = NULL, lease_until = NULL, available_at = 0", [])?;
    }
    transaction.commit()
}

fn is_clock(connection: &Connection, clock: &Clock) -> rusqlite::Result<bool> {
    // Not as text, which it need not be.
    let rows = "SELECT count(*), count(*) FILTER (WHERE name = ?1) FROM clock";
    connection.query_row(rows, [clock.name()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?) == (1, 1)))
}

/// IMMEDIATE takes the write lock at once and waits for it; a lock that is upgraded later fails instead.
pub fn begin(connection: &Connection) -> rusqlite::Result<rusqlite::Transaction<'_>> {
    rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
}

fn identities(path: &Path) -> io::Result<[Option<Identity>; 3]> {
    Ok([Some(identity(path)?), identity(&beside(path, "-wal")).ok(), identity(&beside(path, "-shm")).ok()])
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// By name and never by opening it: closing a second descriptor of a file would end the locks that SQLite has on it.
fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

fn foreign(path: &Path, reason: &str) -> Error {
    Error::ForeignFile { path: path.display().to_string(), source: reason.into() }
}

fn replaced(path: &Path, error: Option<io::Error>) -> Error {
    let reason = match error {
        Some(error) => format!("the queue file {} was removed while it was open: {error}", path.display()),
        None => {
            format!("the queue file {} was replaced while it was open, or its -wal or -shm file was", path.display())
        }
    };
    Error::Broken { reason }
}
