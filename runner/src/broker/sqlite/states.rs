//! The three states of a message in a queue file: free, waiting for a time, and leased.
//!
//! Each has an index of its own, so that a take walks over no message that cannot be taken. Every row is in exactly one of these
//! indexes, whatever anybody wrote into it. SQLite keeps them up by itself, also for versions of wq-run that know nothing of them.

use std::sync::LazyLock;

use rusqlite::{Connection, params};

pub struct State {
    index: &'static str,
    columns: &'static str,
    /// SQLite uses a partial index only for queries that repeat its condition word for word.
    condition: &'static str,
}

/// Can be taken. The number is `FARTHEST_TIME`: a later time was not written by us, and holds nothing up.
pub const FREE: State = State {
    index: "message_free",
    columns: "queue",
    condition: "lease IS NULL AND NOT coalesce(available_at BETWEEN 1 AND 6307200000000, 0)",
};

/// Can be taken from a time on, which may be over.
pub const WAITING: State = State {
    index: "message_waiting",
    columns: "queue, available_at",
    condition: "lease IS NULL AND coalesce(available_at BETWEEN 1 AND 6307200000000, 0)",
};

/// With a worker, whose lease may be over.
pub const LEASED: State =
    State { index: "message_leased", columns: "queue, lease_until", condition: "lease IS NOT NULL" };

const ALL: [State; 3] = [FREE, WAITING, LEASED];

impl State {
    /// As SQLite keeps it.
    fn definition(&self) -> String {
        format!("CREATE INDEX {} ON message ({}) WHERE {}", self.index, self.columns, self.condition)
    }

    /// What follows on `FROM`: all messages of the queue `?1` that are in this state.
    pub fn rows(&self) -> String {
        format!("message INDEXED BY {} WHERE queue = ?1 AND {}", self.index, self.condition)
    }
}

/// The numbers of the queue `?1`'s messages that can be taken at the time `?2`: no more than `?5` from each of these. Leases that
/// end after `?3`, and times after `?4`, are not ours and hold nothing up.
pub static READY: LazyLock<[String; 5]> = LazyLock::new(|| {
    let (free, waiting, leased) = (FREE.rows(), WAITING.rows(), LEASED.rows());
    let may_run = "NOT coalesce(available_at > ?2 AND available_at <= ?4, 0)";
    [
        format!("SELECT id FROM {free} ORDER BY id LIMIT ?5"),
        format!("SELECT id FROM {waiting} AND available_at <= ?2 ORDER BY available_at, id LIMIT ?5"),
        format!("SELECT id FROM {leased} AND lease_until <= ?2 AND {may_run} ORDER BY lease_until, id LIMIT ?5"),
        format!("SELECT id FROM {leased} AND lease_until > ?3 AND {may_run} ORDER BY lease_until, id LIMIT ?5"),
        format!("SELECT id FROM {leased} AND lease_until IS NULL AND {may_run} ORDER BY id LIMIT ?5"),
    ]
});

/// The time after `?2` at which the next message that waits can be taken.
pub static NEXT_WAITING: LazyLock<String> =
    LazyLock::new(|| format!("SELECT min(available_at) FROM {} AND available_at > ?2", WAITING.rows()));

/// The time after `?2` at which the next lease ends.
pub static NEXT_LEASE_END: LazyLock<String> =
    LazyLock::new(|| format!("SELECT min(lease_until) FROM {} AND lease_until > ?2", LEASED.rows()));

/// The indexes that a file lacks: all of them in one of a version before them.
pub fn missing(connection: &Connection) -> rusqlite::Result<Vec<State>> {
    let mut found =
        connection.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1 AND sql = ?2")?;
    let mut missing = Vec::new();
    for state in ALL {
        if !found.exists(params![state.index, state.definition()])? {
            missing.push(state);
        }
    }
    Ok(missing)
}

/// # Errors
/// When the file has an index of such a name that is another one.
pub fn make_missing(connection: &Connection) -> rusqlite::Result<()> {
    missing(connection)?.iter().try_for_each(|state| connection.execute_batch(&state.definition()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::row::FARTHEST_TIME;

    #[test]
    fn times_that_hold_a_message_up_end_where_rows_become_unreadable() {
        for state in [FREE, WAITING] {
            assert!(state.condition.contains(&format!("BETWEEN 1 AND {FARTHEST_TIME},")), "{}", state.condition);
        }
    }
}
