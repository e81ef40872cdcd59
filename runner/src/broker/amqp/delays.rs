//! The queues in which retries wait on an AMQP broker: their names, lives and arguments.
//!
//! A message expires only at the head of its queue, so one with a short pause waits behind those with longer ones. Each queue
//! therefore takes pauses of about one length only: a retry comes after its pause at the earliest, and when its queue's
//! life is over at the latest.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};

/// The lives of these queues in seconds. Each is at most half as long again as the one before it, and by as much a retry can
/// be late. Only those that are needed are made: three attempts with the default backoff use the first two.
pub const LIVES: [u64; 32] = [
    1, 2, 3, 4, 6, 9, 13, 19, 28, 40, 60, 90, 130, 180, 270, 400, 600, 900, 1_300, 1_800, 2_700, 3_600, 5_400, 7_200,
    10_800, 14_400, 21_600, 28_800, 36_000, 50_400, 64_800, 86_400,
];

/// The lives that are long enough for a pause, the shortest first. A pause of more than a day is cut to one.
pub fn lives(pause: Duration) -> impl Iterator<Item = u64> {
    let first = LIVES.iter().position(|life| Duration::from_secs(*life) >= pause).unwrap_or(LIVES.len() - 1);
    LIVES[first..].iter().copied()
}

/// The name of the queue with this life.
pub fn name(queue: &str, life: u64) -> String {
    format!("{queue}.delay.{life}s")
}

/// Whether this can be the name of such a queue.
pub fn is_name(queue: &str) -> bool {
    let life = queue.rsplit_once(".delay.").and_then(|(_, life)| life.strip_suffix('s')?.parse().ok());
    life.is_some_and(|life| LIVES.contains(&life))
}

/// The name of the queue in which a retry waits for this long.
pub fn delay_queue_for(queue: &str, pause: Duration) -> String {
    name(queue, lives(pause).next().unwrap_or_default())
}

/// A quorum queue with dead-lettering "at least once": a classic one hands expired messages on without confirms, and loses
/// what is under way when the broker dies.
///
/// It has no `x-expires`, which would delete a queue that nobody used for a while together with the retries in it: those
/// that the queue they return to refuses, because it is full, wait here for as long as that lasts.
pub fn arguments(queue: &str, life: u64) -> FieldTable {
    let mut arguments = FieldTable::default();
    let mut text = |name: &str, value: &str| {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    text("x-queue-type", "quorum");
    text("x-dead-letter-exchange", "");
    text("x-dead-letter-routing-key", queue);
    text("x-dead-letter-strategy", "at-least-once");
    text("x-overflow", "reject-publish");
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt((life * 1000).cast_signed()));
    arguments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_retry_is_late_by_a_second_or_half_its_pause_at_most(millis in 1u64..86_400_000) {
            let life = lives(Duration::from_millis(millis)).next().unwrap() * 1000;
            prop_assert!(life >= millis);
            prop_assert!(life - millis <= 1_000.max(millis / 2), "{millis} waits for {life}");
        }
    }

    #[test]
    fn a_delay_queue_is_known_by_its_name() {
        assert!(LIVES.iter().all(|life| is_name(&name("q", *life))));
        assert!(["q", "q.delay.1", "q.delay.5s", ".delay.s", "delay.1s"].iter().all(|other| !is_name(other)));
    }

    #[test]
    fn a_pause_of_more_than_a_day_is_one_of_a_day() {
        assert_eq!(lives(Duration::from_secs(1_000_000)).collect::<Vec<_>>(), [86_400]);
    }
}
