//! Resolves how many messages a worker takes, and how long it waits for one.

use std::time::Duration;

use crate::cli;
use crate::error::Error;
use crate::worker::Mode;

/// A flag comes before the variable.
pub fn mode(work: &cli::Work) -> Result<Mode, Error> {
    if let Some(count) = work.count {
        return Ok(Mode::Count(count));
    }
    if work.drain {
        return Ok(Mode::Drain);
    }
    if work.forever {
        return Ok(Mode::Forever);
    }
    let text = std::env::var("WQ_MODE").unwrap_or_default();
    match text.as_str() {
        "" | "once" => Ok(Mode::Count(1)),
        "drain" => Ok(Mode::Drain),
        "forever" => Ok(Mode::Forever),
        text => text
            .strip_prefix("count=")
            .and_then(|count| count.parse().ok())
            .filter(|count| *count > 0)
            .map(Mode::Count)
            .ok_or_else(|| {
                Error::configuration(
                    format!("WQ_MODE is `{text}`, which is not a mode"),
                    "set it to once, count=N, drain or forever; the flags --count, --drain and --forever override it",
                )
            }),
    }
}

/// How long a queue has to be empty before it counts as such; `None` is forever.
pub fn wait(work: &cli::Work, mode: Mode) -> Result<Option<Duration>, Error> {
    if mode == Mode::Forever && work.wait.is_some() {
        return Err(Error::configuration(
            "--wait (WQ_WAIT) cannot be used with WQ_MODE=forever",
            "leave one of them out; a worker with --forever ignores WQ_WAIT",
        ));
    }
    // One-shot mode waits like amqp-consume; a drain is about what is there now.
    Ok(work.wait.or(if mode == Mode::Drain { Some(Duration::ZERO) } else { None }))
}

/// Messages that are with us at the same time, running ones included.
pub fn prefetch(work: &cli::Work) -> Result<u16, Error> {
    match work.prefetch {
        Some(prefetch) if prefetch < work.concurrency => Err(Error::configuration(
            "--prefetch is smaller than --concurrency, so that some guests would never run",
            "leave --prefetch out: it follows --concurrency (WQ_CONCURRENCY)",
        )),
        prefetch => Ok(prefetch.unwrap_or(work.concurrency)),
    }
}

/// How long a message may be with us at most.
pub fn longest_hold(work: &cli::Work, prefetch: u16) -> Duration {
    // The last of those at hand waits for all others, each of which may take as long as it can.
    let rounds = prefetch.div_ceil(work.concurrency.max(1));
    work.guest.limits.timeout.saturating_mul(rounds.into())
}
