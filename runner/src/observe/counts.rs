//! How many messages ended in which way.

use std::sync::Mutex;

use super::ended::{Ended, Observer, Settled};
use crate::locks::lock;
use crate::task::{Outcome, Verdict};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acked: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    /// Left to the broker's own dead-lettering.
    pub rejected: u64,
    pub released: u64,
    /// Their settlement is not known to have been made; they come again.
    pub lost: u64,
    /// Given back before anything was done with them.
    pub withdrawn: u64,
}

#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    pub fn counts(&self) -> Counts {
        *lock(&self.0)
    }
}

impl Observer for Tally {
    fn ended(&self, ended: &Ended) {
        let counts = &mut *lock(&self.0);
        let count = match ended.settled {
            _ if ended.verdict == Verdict::Run(Outcome::Withdrawn) => &mut counts.withdrawn,
            Settled::Acked => &mut counts.acked,
            Settled::Retried => &mut counts.retried,
            Settled::DeadLettered => &mut counts.dead_lettered,
            Settled::Rejected => &mut counts.rejected,
            Settled::Released => &mut counts.released,
            Settled::GivenBack | Settled::Lost(_) | Settled::Failed(_) => &mut counts.lost,
        };
        *count += 1;
    }
}
