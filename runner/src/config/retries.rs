//! Resolves the flags that say what becomes of a message whose run failed.

use std::time::Duration;

use crate::broker::{MAX_NAME, Url};
use crate::cli;
use crate::error::Error;
use crate::settle::{Backoff, Policy};
use crate::worker::{Mode, breaker};

pub fn policy(work: &cli::Work) -> Policy {
    Policy {
        max_attempts: work.max_attempts,
        exits: work.exit_map.clone().unwrap_or_default(),
        backoff: Backoff { initial: work.backoff_initial, max: work.backoff_max, factor: work.backoff_factor },
        rejects: matches!(work.dead_letter_by, cli::DeadLetterBy::Broker),
    }
}

/// When a worker stops taking messages since all of them fail.
pub fn breaker(work: &cli::Work, mode: Mode) -> breaker::Options {
    /// As between the runs of a message, by default: soon at first, for a dependency that restarts.
    const PAUSES: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(5 * 60), factor: 2.0 };
    /// Of a worker that is to end: about half a minute. Who started it can start another one later.
    const TRIES: u32 = 5;
    let tries = match mode {
        Mode::Count(_) | Mode::Drain => Some(TRIES),
        Mode::Forever => None,
    };
    breaker::Options { failures: work.breaker, pauses: PAUSES, tries }
}

/// Says what this broker may do with a message that is rejected.
pub fn warn_of_rejects(broker: &Url, queue: &str, policy: &Policy) {
    if policy.rejects
        && let Some(caution) = broker.broker().caution_for_rejects()
    {
        tracing::warn!(queue, caution, "a setting needs attention");
    }
}

/// Whether an empty queue whose dead-letter queue is not empty is a failure.
///
/// # Errors
/// When nobody says where dead letters are.
pub fn dead_letters_fail(work: &cli::Work, policy: &Policy) -> Result<bool, Error> {
    let fails = matches!(work.on_dead_letters, cli::OnDeadLetters::Fail);
    if fails && policy.rejects && work.dead_letter_queue.is_none() {
        return Err(Error::configuration(
            "--on-dead-letters fail looks into the dead-letter queue, but with --dead-letter-by broker the broker chooses that queue",
            "name that queue with --dead-letter-queue (WQ_DEAD_LETTER_QUEUE), or leave --dead-letter-by out",
        ));
    }
    Ok(fails)
}

/// Where dead letters go.
pub fn dead_letter_queue(work: &cli::Work, broker: &Url, queue: &str, policy: &Policy) -> Result<String, Error> {
    let named = work.dead_letter_queue.clone();
    let name = named.unwrap_or_else(|| (broker.kind().dead_letter_queue)(queue));
    if name == queue {
        return Err(Error::configuration(
            "--dead-letter-queue is the queue of the messages: each dead letter would come back as a message",
            "name another queue (--dead-letter-queue, WQ_DEAD_LETTER_QUEUE)",
        ));
    }
    if !policy.rejects {
        check_dead_letter_queue(&name)?;
    }
    Ok(name)
}

fn check_dead_letter_queue(name: &str) -> Result<(), Error> {
    const HINT: &str = "name a queue with --dead-letter-queue (WQ_DEAD_LETTER_QUEUE); it is QUEUE.dead otherwise";
    match name.len() {
        0 => Err(Error::configuration("the queue for dead letters has no name", HINT)),
        1..=MAX_NAME => Ok(()),
        length => Err(Error::configuration(
            format!("the name of the queue for dead letters has {length} bytes, and the longest has {MAX_NAME}"),
            HINT,
        )),
    }
}

/// Retries wait in queues whose names are made of the queue's: one that could not be made would fail each retry.
pub fn check_delay_queues(broker: &Url, queue: &str, policy: &Policy) -> Result<(), Error> {
    let pauses = policy.max_attempts > 1 && !policy.backoff.initial.min(policy.backoff.max).is_zero();
    let delay_queue = broker.broker().longest_delay_queue(queue, policy.backoff.max);
    match delay_queue {
        Some(delay_queue) if pauses && delay_queue.len() > MAX_NAME => Err(Error::configuration(
            format!(
                "the name of the queue is too long for its delay queues: `{delay_queue}` has {} bytes, and the longest \
                 name has {MAX_NAME}",
                delay_queue.len()
            ),
            "use a shorter name (--queue, QUEUE), or do without delay queues: no retries (--max-attempts 1, WQ_MAX_ATTEMPTS) or \
             retries without a pause (--backoff-initial 0s)",
        )),
        _ => Ok(()),
    }
}
