//! Finds the messages that can be taken, by the indexes of their states.
//!
//! What it costs does not depend on how many there are, nor on how many wait or are with workers.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::clock::millis;
use super::row::FARTHEST_TIME;
use super::states::{NEXT_LEASE_END, NEXT_WAITING, READY};

/// No version of wq-run leases a message for longer. A lease that ends later than this was not made by one, and would
/// keep its message away from every worker.
pub const LONGEST_LEASE: Duration = Duration::from_secs(3600);

/// A look at a queue that found nothing to take, and until when that holds if nobody writes to the file.
pub struct Nothing {
    queue: String,
    /// Changes with each commit of another connection.
    version: i64,
    /// Of this connection.
    changes: u64,
    until: i64,
}

/// How long a look that found nothing holds at most, in milliseconds, whatever anybody wrote into the rows.
const HOLDS: i64 = 1000;

/// Whether there is a message to take; `None` if there is no such queue. `last` is what the last look found.
pub fn look(db: &Connection, last: &mut Option<Nothing>, queue: &str, now: i64) -> rusqlite::Result<Option<bool>> {
    let version: i64 = db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
    let changes = db.total_changes();
    let holds =
        |last: &Nothing| last.queue == queue && last.version == version && last.changes == changes && now < last.until;
    if last.as_ref().is_some_and(holds) {
        return Ok(Some(false));
    }
    *last = None;
    if !has_queue(db, queue)? {
        return Ok(None);
    }
    let ready = any(db, queue, now)?;
    if !ready {
        let until = next(db, queue, now)?.map_or(now + HOLDS, |next| next.min(now + HOLDS));
        *last = Some(Nothing { queue: queue.to_owned(), version, changes, until });
    }
    Ok(Some(ready))
}

pub fn has_queue(db: &Connection, queue: &str) -> rusqlite::Result<bool> {
    let found = db.prepare_cached("SELECT 1 FROM queue WHERE name = ?1")?.query_row([queue], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

/// The numbers of messages that can be taken, the oldest first; there may be more than `count`. Of the messages whose pause or
/// lease is over, they include the `count` for which it ended first.
pub fn ids(db: &Connection, queue: &str, now: i64, count: usize) -> rusqlite::Result<Vec<i64>> {
    let mut ids = Vec::new();
    for statement in READY.iter() {
        let mut statement = db.prepare_cached(statement)?;
        let mut rows = statement.query(params![queue, now, longest(now), FARTHEST_TIME, limit(count)])?;
        while let Some(row) = rows.next()? {
            ids.push(row.get(0)?);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

fn any(db: &Connection, queue: &str, now: i64) -> rusqlite::Result<bool> {
    for statement in READY.iter() {
        if db.prepare_cached(statement)?.exists(params![queue, now, longest(now), FARTHEST_TIME, 1])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When the next pause or lease ends.
fn next(db: &Connection, queue: &str, now: i64) -> rusqlite::Result<Option<i64>> {
    let mut next = None;
    for statement in [&NEXT_WAITING, &NEXT_LEASE_END] {
        let time: Option<i64> = db.prepare_cached(statement)?.query_row(params![queue, now], |row| row.get(0))?;
        next = next.into_iter().chain(time).min();
    }
    Ok(next)
}

pub fn longest(now: i64) -> i64 {
    now + millis(LONGEST_LEASE)
}

fn limit(count: usize) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
