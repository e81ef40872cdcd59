//! The retries that are still to come back, which a drain has to wait for.
//!
//! A broker counts what lies in the delay queues, of all workers. It does not count those whose pause is over and that the
//! queue refuses because it is full: RabbitMQ keeps them aside, and tries again every three minutes. So each retry of
//! our own is remembered by its mark until it is seen again.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use tokio::time::Instant;

use super::delays;
use crate::broker::failure;

/// How long a message may be on its way from a delay queue back to its own, where no count shows it.
const BETWEEN_QUEUES: Duration = Duration::from_millis(500);

/// How long a retry may stay away from a queue that has room for it. RabbitMQ tries again what was refused within twice its
/// `dead_letter_worker_publisher_confirm_timeout` of three minutes.
const PATIENCE: Duration = Duration::from_secs(7 * 60);

/// How long it is believed that a delay queue is not there: each look for one that is missing leaves a line in the broker's
/// log.
const BELIEVED: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Retries {
    /// When each of ours is back at the latest, by its mark. Two that look the same count as two.
    away: HashMap<u64, Vec<Instant>>,
    /// The lives of the delay queues that are there.
    known: BTreeSet<u64>,
    missing_since: HashMap<u64, Instant>,
    /// When a delay queue was last seen with a message in it.
    seen: Option<Instant>,
    /// Since when there is nothing to do but to wait for those that are overdue.
    waiting_since: Option<Instant>,
    /// Whether there are other workers, which may have taken what we miss.
    others: bool,
}

/// The retries that a drain has to wait for, or to give up.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    pub delayed: u64,
    pub missing: u64,
}

impl Retries {
    /// Remembers a retry that was confirmed.
    pub fn published(&mut self, mark: Option<u64>, life: u64, now: Instant) {
        self.known.insert(life);
        if let Some(mark) = mark {
            self.away.entry(mark).or_default().push(now + Duration::from_secs(life) + BETWEEN_QUEUES);
        }
    }

    /// Forgets a retry that has come back.
    pub fn delivered(&mut self, properties: &BasicProperties) {
        self.waiting_since = None;
        if self.away.is_empty() {
            return;
        }
        let Some(mark) = mark(properties) else { return };
        if let Some(due) = self.away.get_mut(&mark) {
            due.pop();
            if due.is_empty() {
                self.away.remove(&mark);
            }
        }
    }

    /// The queues to look at: those that are there, and those in which other workers with our settings would let a retry wait.
    pub fn to_look_at(&self, longest_pause: Duration, now: Instant) -> Vec<u64> {
        let longest = if longest_pause.is_zero() { None } else { delays::lives(longest_pause).next() };
        let believed = |life: &u64| self.missing_since.get(life).is_some_and(|since| now < *since + BELIEVED);
        let possible = delays::LIVES.into_iter().filter(|life| longest.is_some_and(|longest| *life <= longest));
        let possible = possible.filter(|life| !believed(life));
        self.known.iter().copied().chain(possible).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Notes what a look at a delay queue has shown; `None` if it is not there.
    pub fn looked(&mut self, life: u64, messages: Option<u64>, now: Instant) {
        match messages {
            None => {
                self.known.remove(&life);
                self.missing_since.insert(life, now);
            }
            Some(messages) => {
                self.known.insert(life);
                if messages > 0 {
                    self.seen = Some(now);
                }
            }
        }
    }

    /// Notes that there is something to do, so that the queue may have been full until now.
    pub fn busy(&mut self, others: bool) {
        self.others |= others;
        self.waiting_since = None;
    }

    /// Sums up, when nothing is ready. `delayed` is what lies in the delay queues; `others` says whether anybody else consumes.
    pub fn outlook(&mut self, delayed: u64, others: bool, now: Instant) -> Outlook {
        self.others |= others;
        let returning = self.seen.is_some_and(|seen| now < seen + BETWEEN_QUEUES);
        let (mut waiting, mut overdue) = (0, 0);
        for due in self.away.values().flatten() {
            if now < *due { waiting += 1 } else { overdue += 1 }
        }
        if self.others {
            // Another worker has most likely taken them. A retry that the queue refused is not lost either: it goes to the
            // worker that is there when the queue has room.
            overdue = 0;
        }
        let delayed = delayed.max(waiting).max(returning.into());
        if delayed > 0 || overdue == 0 {
            return Outlook { delayed: delayed + overdue, missing: 0 };
        }
        let since = *self.waiting_since.get_or_insert_with(|| {
            tracing::info!(
                retries = overdue,
                "waiting for retries that are not back yet: the queue may have been full when their pause was over"
            );
            now
        });
        if now < since + PATIENCE {
            Outlook { delayed: overdue, missing: 0 }
        } else {
            Outlook { delayed: 0, missing: overdue }
        }
    }
}

/// A hash that is nearly unique to a retry. Two retries that share it are counted as two. Only a message that failed has one.
pub fn mark(properties: &BasicProperties) -> Option<u64> {
    let headers = properties.headers().as_ref()?.inner();
    let AMQPValue::LongString(failed_at) = headers.get(failure::LAST_FAILED_AT)? else { return None };
    let mut hasher = DefaultHasher::new();
    failed_at.as_bytes().hash(&mut hasher);
    if let Some(AMQPValue::LongUInt(attempt)) = headers.get(failure::ATTEMPT) {
        attempt.hash(&mut hasher);
    }
    properties.message_id().as_ref().map(|id| id.as_str()).hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    fn retry(attempt: u32) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("x-wq-last-failed-at".into(), AMQPValue::LongString("2026-01-01T00:00:00.000Z".into()));
        headers.insert("x-wq-attempt".into(), AMQPValue::LongUInt(attempt));
        BasicProperties::default().with_headers(headers)
    }

    fn delayed(count: u64) -> Outlook {
        Outlook { delayed: count, missing: 0 }
    }

    #[tokio::test]
    async fn a_retry_is_waited_for_until_it_is_seen_again() {
        let now = Instant::now();
        let late = now + Duration::from_secs(10);
        let mut retries = Retries::default();
        retries.published(mark(&retry(2)), 1, now);
        retries.published(mark(&retry(2)), 1, now);
        retries.published(mark(&retry(3)), 2, now);
        assert_eq!(retries.outlook(0, false, now), delayed(3));
        assert_eq!(retries.outlook(0, false, late), delayed(3));
        retries.delivered(&retry(4));
        retries.delivered(&BasicProperties::default());
        assert_eq!(retries.outlook(0, false, late), delayed(3));
        retries.delivered(&retry(2));
        assert_eq!(retries.outlook(0, false, late), delayed(2));
        retries.delivered(&retry(2));
        retries.delivered(&retry(3));
        assert_eq!(retries.outlook(0, false, late), delayed(0));
    }

    #[tokio::test]
    async fn a_retry_that_never_comes_is_said_to_be_missing() {
        let now = Instant::now();
        let mut retries = Retries::default();
        retries.published(mark(&retry(2)), 1, now);
        let late = now + Duration::from_secs(2);
        assert_eq!(retries.outlook(0, false, late), delayed(1));
        // There was something else to do, so that the queue may have been full until then.
        let later = late + PATIENCE;
        retries.busy(false);
        assert_eq!(retries.outlook(0, false, later), delayed(1));
        assert_eq!(retries.outlook(0, false, later + PATIENCE), Outlook { delayed: 0, missing: 1 });
    }

    #[tokio::test]
    async fn what_other_workers_may_have_taken_is_not_missed() {
        let now = Instant::now();
        let mut retries = Retries::default();
        retries.published(mark(&retry(2)), 1, now);
        assert_eq!(retries.outlook(0, true, now), delayed(1));
        assert_eq!(retries.outlook(0, false, now + Duration::from_secs(2)), delayed(0));
    }

    #[tokio::test]
    async fn the_retries_of_others_are_waited_for_on_all_of_their_way() {
        let now = Instant::now();
        let mut retries = Retries::default();
        assert_eq!(retries.to_look_at(Duration::from_secs(2), now), [1, 2]);
        retries.looked(1, None, now);
        retries.looked(2, Some(4), now);
        assert_eq!(retries.to_look_at(Duration::from_secs(2), now), [2]);
        assert_eq!(retries.outlook(4, false, now), delayed(4));
        assert_eq!(retries.outlook(0, false, now + BETWEEN_QUEUES / 2), delayed(1));
        assert_eq!(retries.outlook(0, false, now + BETWEEN_QUEUES), delayed(0));
        assert_eq!(retries.to_look_at(Duration::from_secs(2), now + BELIEVED), [1, 2]);
        assert!(Retries::default().to_look_at(Duration::ZERO, now).is_empty());
    }
}
