//! What is done to several messages at once, each time in one transaction.

use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, named_params, params};
use serde_json::{Map, Value};

use super::{LEASED, LONGEST_LEASE, Store, WAITS, has_queue, insert, json};
use crate::broker::Error;
use crate::broker::sqlite::clock::millis;
use crate::broker::sqlite::row::{self, FARTHEST_TIME, Row};
use crate::broker::walk::{Fate, PAGE_BYTES};
use crate::task::{Message, Properties};

/// The properties, the headers and the body of a message.
pub(super) type Parts<'a> = (&'a Properties, &'a Map<String, Value>, &'a [u8]);

impl Store {
    /// Publishes messages that can be taken after a delay: all of them, or none.
    pub fn publish_all(&mut self, queue: &str, messages: &[Message], delay: Duration) -> Result<(), Error> {
        let at = self.file.clock.after(delay);
        let parts = messages.iter().map(|Message { body, properties, headers }| (properties, headers, &**body));
        self.publish_at(queue, parts, at)
    }

    /// The same for messages in their parts, which can be taken from a time on.
    pub(super) fn publish_at<'a>(
        &mut self,
        queue: &str,
        messages: impl IntoIterator<Item = Parts<'a>>,
        at: i64,
    ) -> Result<(), Error> {
        let published = self.write(|db| {
            if !has_queue(db, queue)? {
                return Ok(false);
            }
            for (properties, headers, body) in messages {
                insert(db, queue, properties, headers, body, at)?;
            }
            Ok(true)
        })?;
        if published { Ok(()) } else { Err(missing(queue)) }
    }

    /// The next messages behind the one with the number `after`, with their numbers; fewer than asked for if they are large. They
    /// stay as they are.
    pub fn look(&mut self, queue: &str, after: i64, count: usize) -> Result<Vec<(i64, Row)>, Error> {
        let now = self.file.clock.now();
        let connection = &self.file.connection;
        let looking = || -> rusqlite::Result<Option<Vec<(i64, Row)>>> {
            // What is read at different moments would not belong together.
            let db = Transaction::new_unchecked(connection, TransactionBehavior::Deferred)?;
            if !has_queue(&db, queue)? {
                return Ok(None);
            }
            let next = format!(
                "SELECT id FROM message WHERE queue = :queue AND id > :after AND NOT {WAITS} AND NOT {LEASED}
                 ORDER BY id LIMIT :count"
            );
            let ids = db
                .prepare_cached(&next)?
                .query_map(
                    named_params! {
                        ":queue": queue, ":after": after, ":now": now, ":farthest": FARTHEST_TIME,
                        ":longest": now + millis(LONGEST_LEASE), ":count": count as i64,
                    },
                    |row| row.get(0),
                )?
                .collect::<rusqlite::Result<Vec<i64>>>()?;
            let (mut rows, mut bytes) = (Vec::new(), 0);
            for id in ids {
                let row = Row::read(&db, id)?;
                bytes += row.message.body.len();
                rows.push((id, row));
                if bytes >= PAGE_BYTES {
                    break;
                }
            }
            Ok(Some(rows))
        };
        let seen = looking().map_err(|error| self.failed(error))?;
        seen.ok_or_else(|| missing(queue))
    }

    /// Moves messages to another queue, where they have all of their attempts. Those that somebody has by now stay.
    pub fn move_all(&mut self, queue: &str, ids: &[i64], to: &str, without: &[&str]) -> Result<Vec<Fate>, Error> {
        let now = self.file.clock.now();
        let moved = self.write(|db| {
            if !has_queue(db, to)? {
                return Ok(None);
            }
            let fates = ids.iter().map(|id| {
                let moving = format!(
                    "UPDATE message SET queue = :to, available_at = 0, attempts = 0, handovers = 0, lease = NULL,
                     lease_until = NULL WHERE id = :id AND queue = :queue AND NOT {LEASED}"
                );
                let moved = db.prepare_cached(&moving)?.execute(named_params! {
                    ":to": to, ":now": now, ":id": id, ":queue": queue, ":longest": now + millis(LONGEST_LEASE),
                })?;
                if moved == 1
                    && let Some(headers) = row::headers_without(db, *id, without)?
                {
                    db.prepare_cached("UPDATE message SET headers = ?2 WHERE id = ?1")?
                        .execute(params![id, json(&headers)?])?;
                }
                Ok(fate(moved))
            });
            fates.collect::<rusqlite::Result<Vec<Fate>>>().map(Some)
        })?;
        moved.ok_or_else(|| missing(to))
    }

    /// Deletes messages, but for those that somebody has by now.
    pub fn remove_all(&mut self, queue: &str, ids: &[i64]) -> Result<Vec<Fate>, Error> {
        let now = self.file.clock.now();
        let remove = |db: &Connection, id: &i64| {
            let removing = format!("DELETE FROM message WHERE id = :id AND queue = :queue AND NOT {LEASED}");
            let longest = now + millis(LONGEST_LEASE);
            db.prepare_cached(&removing)?
                .execute(named_params! { ":id": id, ":queue": queue, ":now": now, ":longest": longest })
                .map(fate)
        };
        self.write(|db| ids.iter().map(|id| remove(db, id)).collect())
    }
}

fn fate(changed: usize) -> Fate {
    if changed == 1 { Fate::Done } else { Fate::Gone }
}

fn missing(queue: &str) -> Error {
    Error::MissingQueue { queue: queue.to_owned(), source: None }
}
