//! What is counted of the work, for its summary: how messages ended, and how long runs took.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::ended::{Ended, Observer, Settled};
use crate::locks::lock;
use crate::task::{Outcome, Verdict};

/// How many messages ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub acked: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    /// Left to the broker's own dead-lettering.
    pub rejected: u64,
    /// Given back to their queue.
    pub released: u64,
    /// Their settlement is not known to have been made. They come again.
    pub unsettled: u64,
    /// Given back before anything was done with them.
    pub withdrawn: u64,
}

/// All that is counted. Its size does not grow with the number of messages.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub counts: Counts,
    /// How many messages had which outcome, by the name that the log has for it.
    pub outcomes: BTreeMap<&'static str, u64>,
    pub runs: Runs,
}

/// How long runs took, and what they used.
#[derive(Clone, Debug)]
pub struct Runs {
    /// In microseconds; `None` where none could be made.
    durations: Option<Histogram<u64>>,
    longest: Option<Duration>,
    /// The most that a run had, in bytes; `None` where that is not measured.
    pub peak_memory: Option<u64>,
}

/// Percentiles of the durations, accurate to 1 %, and the longest duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durations {
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    pub longest: Duration,
}

#[derive(Debug, Default)]
pub struct Tally(Mutex<Totals>);

// === impl Counts ===

impl Counts {
    /// Messages that will not be run again.
    pub fn finished(&self) -> u64 {
        self.acked + self.dead_lettered + self.rejected
    }

    /// Retries, dead letters and rejected messages. A message counts at each attempt, and some were put aside without a run.
    pub fn failed(&self) -> u64 {
        self.retried + self.dead_lettered + self.rejected
    }

    /// Messages that a worker has answered for, each time that it had them.
    pub fn ended(&self) -> u64 {
        self.finished() + self.retried + self.released + self.unsettled
    }
}

// === impl Runs ===

impl Default for Runs {
    fn default() -> Runs {
        /// Longer runs count as this long, but for the longest. A histogram of this range takes 36 KB.
        const LONGEST: u64 = 30 * 24 * 60 * 60 * 1_000_000;
        const DIGITS: u8 = 2;
        Runs { durations: Histogram::new_with_bounds(1, LONGEST, DIGITS).ok(), longest: None, peak_memory: None }
    }
}

impl Runs {
    fn add(&mut self, duration: Duration) {
        if let Some(durations) = &mut self.durations {
            durations.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        }
        self.longest = self.longest.max(Some(duration));
    }

    /// `None` if nothing was run.
    pub fn durations(&self) -> Option<Durations> {
        let (durations, longest) = (self.durations.as_ref()?, self.longest?);
        // The histogram answers with the end of a range.
        let at = |part| Duration::from_micros(durations.value_at_quantile(part)).min(longest);
        Some(Durations { p50: at(0.5), p95: at(0.95), p99: at(0.99), longest })
    }
}

// === impl Tally ===

impl Tally {
    pub fn counts(&self) -> Counts {
        lock(&self.0).counts
    }

    pub fn totals(&self) -> Totals {
        lock(&self.0).clone()
    }
}

impl Observer for Tally {
    fn ended(&self, ended: &Ended) {
        let totals = &mut *lock(&self.0);
        let counts = &mut totals.counts;
        let count = match ended.settled {
            _ if ended.verdict == Verdict::Run(Outcome::Withdrawn) => &mut counts.withdrawn,
            Settled::Acked => &mut counts.acked,
            Settled::Retried => &mut counts.retried,
            Settled::DeadLettered => &mut counts.dead_lettered,
            Settled::Rejected => &mut counts.rejected,
            Settled::Released | Settled::GivenBack => &mut counts.released,
            Settled::LeaseLost(_) | Settled::Unsettled(_) | Settled::Failed(_) => &mut counts.unsettled,
        };
        *count += 1;
        *totals.outcomes.entry(ended.verdict.name()).or_default() += 1;
        if let Some(run) = ended.run {
            totals.runs.add(run);
        }
        totals.runs.peak_memory = totals.runs.peak_memory.max(ended.usage.peak_memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durations(micros: impl IntoIterator<Item = u64>) -> Option<Durations> {
        let mut runs = Runs::default();
        micros.into_iter().for_each(|micros| runs.add(Duration::from_micros(micros)));
        runs.durations()
    }

    #[test]
    fn percentiles_are_right_to_a_hundredth_and_the_longest_is_exact() {
        assert_eq!(durations([]), None);
        let of = durations(1..=100_000).unwrap();
        for (found, exact) in [(of.p50, 50_000), (of.p95, 95_000), (of.p99, 99_000)] {
            let (found, exact) = (found.as_micros() as f64, f64::from(exact));
            assert!((found - exact).abs() <= exact / 100.0, "{found} is not {exact}");
        }
        assert_eq!(of.longest, Duration::from_micros(100_000));
    }

    #[test]
    fn runs_of_any_length_are_counted_in_the_same_room() {
        let one = durations([7]).unwrap();
        assert_eq!((one.p50, one.longest), (Duration::from_micros(7), Duration::from_micros(7)));
        // From less than a microsecond to a century.
        let century = 100 * 365 * 24 * 60 * 60 * 1_000_000;
        let of = durations([0, century]).unwrap();
        assert!(of.p50 <= Duration::from_micros(1) && of.longest == Duration::from_micros(century), "{of:?}");
        assert!(of.p99 <= of.longest);
    }
}
