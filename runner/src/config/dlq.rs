//! Resolves which dead letters are meant.

use std::time::{Duration, SystemTime};

use super::target::{broker_url, named_queue};
use crate::broker::Url;
use crate::broker::walk::{End, Seen};
use crate::cli;
use crate::error::Error;

/// Where dead letters are.
#[derive(Debug)]
pub struct DeadLetters {
    pub broker: Url,
    /// The queue in which they died, unless they say otherwise. `None` if only their own queue is named.
    pub queue: Option<String>,
    pub dead_letter_queue: String,
}

/// Which of them are meant.
#[derive(Debug)]
pub struct Filters {
    pub ids: Vec<String>,
    outcomes: Vec<String>,
    exit_codes: Vec<u8>,
    older_than: Option<Duration>,
    pub limit: Option<u64>,
}

impl DeadLetters {
    pub fn resolve(typed: &cli::DeadLettersOf) -> Result<DeadLetters, Error> {
        let broker = broker_url(&typed.broker)?;
        let queue = typed.broker.queue.as_deref().filter(|queue| !queue.is_empty());
        let queue = named_queue(queue.or(broker.queue()), "--queue (QUEUE)")?;
        let flag = "--dead-letter-queue (WQ_DEAD_LETTER_QUEUE)";
        let dead_letter_queue = match (named_queue(typed.dead_letter_queue.as_deref(), flag)?, &queue) {
            (Some(typed), _) => typed,
            (None, Some(queue)) => (broker.kind().dead_letter_queue)(queue),
            (None, None) => {
                let hint = format!(
                    "name the queue that they came from with --queue (QUEUE), or the queue that they are in with {flag}"
                );
                return Err(Error::configuration("no queue is named", hint));
            }
        };
        Ok(DeadLetters { broker, queue, dead_letter_queue })
    }
}

impl Filters {
    pub fn new(typed: cli::Filters) -> Filters {
        let cli::Filters { ids, outcomes, exit_codes, older_than, limit } = typed;
        Filters { ids, outcomes, exit_codes, older_than, limit }
    }

    /// Whether all dead letters are meant.
    pub fn is_all(&self) -> bool {
        self.takes_any() && self.limit.is_none()
    }

    /// Whether any dead letter will do, up to a limit.
    pub fn takes_any(&self) -> bool {
        let Filters { ids, outcomes, exit_codes, older_than, limit: _ } = self;
        ids.is_empty() && outcomes.is_empty() && exit_codes.is_empty() && older_than.is_none()
    }

    /// What is not known of a dead letter matches nothing.
    pub fn take(&self, seen: &Seen, end: &End, now: SystemTime) -> bool {
        fn is_one_of<T>(wanted: &[T], is: impl Fn(&T) -> bool) -> bool {
            wanted.is_empty() || wanted.iter().any(is)
        }
        let id = seen.message.properties.message_id.as_ref();
        let age = end.at.and_then(|at| now.duration_since(at).ok());
        is_one_of(&self.ids, |wanted| id == Some(wanted))
            && is_one_of(&self.outcomes, |wanted| end.outcome.as_ref() == Some(wanted))
            && is_one_of(&self.exit_codes, |wanted| end.exit_code == Some(u64::from(*wanted)))
            && self.older_than.is_none_or(|least| age.is_some_and(|age| age > least))
    }
}
