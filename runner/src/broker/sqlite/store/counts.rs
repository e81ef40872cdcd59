//! Counts the messages of a queue.

use std::sync::LazyLock;

use rusqlite::params;

use super::Store;
use crate::broker::sqlite::ready;
use crate::broker::sqlite::row::FARTHEST_TIME;
use crate::broker::sqlite::states::{FREE, LEASED, WAITING};
use crate::broker::{Depth, Error};

/// A glance counts no further: a worker wants to know whether there is something for it, or whether it becomes less.
const ENOUGH: usize = 100;

/// Counts, in this order: free messages; waiting ones; waiting ones that are due; leased ones; leased ones with a valid lease;
/// leased ones whose lease is not valid and whose pause goes on; all messages by another index; all messages by the table.
static COUNTS: LazyLock<String> = LazyLock::new(|| {
    let (free, waiting, leased) = (FREE.rows(), WAITING.rows(), LEASED.rows());
    format!(
        "SELECT (SELECT count(*) FROM {free}),
             (SELECT count(*) FROM {waiting}),
             (SELECT count(*) FROM {waiting} AND available_at <= ?2),
             (SELECT count(*) FROM {leased}),
             (SELECT count(*) FROM {leased} AND lease_until > ?2 AND lease_until <= ?3),
             (SELECT count(*) FROM {leased} AND NOT coalesce(lease_until > ?2 AND lease_until <= ?3, 0)
                 AND available_at > ?2 AND available_at <= ?4),
             (SELECT count(*) FROM message INDEXED BY message_by_queue WHERE queue = ?1),
             (SELECT count(*) FROM message NOT INDEXED WHERE queue = ?1)"
    )
});

/// Whether a message waits for a time after `?2`.
static WAITS: LazyLock<String> =
    LazyLock::new(|| format!("SELECT 1 FROM {} AND available_at > ?2 LIMIT 1", WAITING.rows()));

static RUNNING: LazyLock<String> =
    LazyLock::new(|| format!("SELECT count(*) FROM {} AND lease_until > ?2 AND lease_until <= ?3", LEASED.rows()));

impl Store {
    /// Counts the messages of a queue several times: by the indexes that they are found with, and without them. A damaged page can
    /// hide messages from an index, and a queue that only seems to be empty must not end a drain.
    pub fn depth(&mut self, queue: &str) -> Result<Depth, Error> {
        let now = self.file.clock.now();
        let counts = self.file.connection.prepare_cached(&COUNTS).and_then(|mut statement| {
            statement.query_row(params![queue, now, ready::longest(now), FARTHEST_TIME], |row| {
                let mut counts = [0_u64; 8];
                for (at, count) in counts.iter_mut().enumerate() {
                    *count = row.get::<_, i64>(at)?.cast_unsigned();
                }
                Ok(counts)
            })
        });
        let [free, waiting, due, leased, running, paused, in_order, rows] =
            counts.map_err(|error| self.failed(error))?;
        for all in [free + waiting + leased, in_order] {
            if all != rows {
                return Err(Error::DamagedFile {
                    path: self.file.path.display().to_string(),
                    source: format!("its index has {all} messages of the queue, and its table {rows}").into(),
                });
            }
        }
        Ok(Depth {
            ready: free + due + leased.saturating_sub(running + paused),
            delayed: waiting - due + paused,
            missing: 0,
        })
    }

    /// What a worker asks while it works: whether something is ready or waits, as numbers that stop at 100 and at 1. All is counted
    /// only where nothing is found.
    pub fn glance(&mut self, queue: &str) -> Result<Depth, Error> {
        let now = self.file.clock.now();
        let db = &self.file.connection;
        let found = ready::ids(db, queue, now, ENOUGH)
            .and_then(|ready| Ok((ready.len(), db.prepare_cached(&WAITS)?.exists(params![queue, now])?)));
        match found.map_err(|error| self.failed(error))? {
            (0, false) => self.depth(queue),
            (ready, waits) => Ok(Depth { ready: ready.min(ENOUGH) as u64, delayed: waits.into(), missing: 0 }),
        }
    }

    /// Messages that are with a worker.
    pub fn running(&mut self, queue: &str) -> Result<u64, Error> {
        let now = self.file.clock.now();
        let running = self.file.connection.prepare_cached(&RUNNING).and_then(|mut statement| {
            statement.query_row(params![queue, now, ready::longest(now)], |row| row.get::<_, i64>(0))
        });
        running.map(|rows| u64::try_from(rows).unwrap_or(0)).map_err(|error| self.failed(error))
    }
}
