//! The time that counts for a run: that in which this process could run.
//!
//! A process can be stopped: by SIGSTOP, by a container's freezer, in a debugger. The kernel's clocks go on meanwhile. A
//! guest that was stopped with us has not used its time, and a guest that was done must not be taken for one that can't
//! be stopped. So time is counted in small steps, of which each counts for no more than a machine under load could delay
//! it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long past its deadline a guest may go on before it counts as one that can't be stopped. Compiled code checks the epoch
/// at the start of functions and loops, and never within an instruction: one `memory.fill` of 512 MiB takes about half a
/// second. Together with the default of `--shutdown-timeout` this stays below the 30 s that a pod gets.
pub const STUCK_AFTER: Duration = Duration::from_secs(3);

/// A step counts for this much at most.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// A wait that counts its own steps looks at the time this often.
const STEP: Duration = Duration::from_millis(500);

/// A clock that somebody keeps going.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The time up to the last step.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Makes a step. It began at `since`.
    pub fn step(&self, since: Instant) {
        let step = since.elapsed().min(LONGEST_STEP);
        self.0.fetch_add(step.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns when the clock shows a time, or later.
    pub async fn reaches(&self, time: Duration) {
        /// The clock is behind by a step. To look again at once would be to spin.
        const AT_LEAST: Duration = Duration::from_millis(10);
        loop {
            let left = time.saturating_sub(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.max(AT_LEAST)).await;
        }
    }
}

/// Returns when the process could run for `duration`. Meant for few waits at a time, since each wakes up every `STEP`.
pub async fn running_for(duration: Duration) {
    let mut left = duration;
    while !left.is_zero() {
        let since = Instant::now();
        tokio::time::sleep(left.min(STEP)).await;
        left = left.saturating_sub(since.elapsed().min(LONGEST_STEP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_took_too_long_counts_for_the_longest_one() {
        let clock = Clock::default();
        clock.step(Instant::now());
        assert!(clock.now() < LONGEST_STEP);
        let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(3600)) else { return };
        let before = clock.now();
        clock.step(long_ago);
        assert_eq!(clock.now() - before, LONGEST_STEP);
    }
}
