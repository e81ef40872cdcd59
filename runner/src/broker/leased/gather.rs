//! Gathers settlements where those that are made together share a commit.
//!
//! Only for workers with many messages at hand. A settlement waits for others for a moment, and never where none can follow.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::subscription::Options;

/// How many settlements go together at most; also at most a quarter of the prefetch, so that the others are at hand meanwhile.
const MOST: usize = 64;
const OF_PREFETCH: usize = 4;

/// How long one may wait for others.
const LONGEST: Duration = Duration::from_millis(2);

pub struct Gather {
    most: usize,
    since: Option<Instant>,
}

impl Gather {
    /// Without `together`, nothing waits. The messages of a count are started one after the other's settlement, so nothing would
    /// gather.
    pub fn new(together: bool, options: &Options) -> Gather {
        let most = match together && options.count.is_none() {
            true => (usize::from(options.prefetch) / OF_PREFETCH).clamp(1, MOST),
            false => 1,
        };
        Gather { most, since: None }
    }

    /// From now on nothing waits.
    pub fn end(&mut self) {
        self.most = 1;
    }

    pub fn add(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// When those that wait have to begin at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + LONGEST)
    }

    /// Whether those that wait begin now, of which there are `waiting`. `held` is how many more the worker may settle.
    pub fn begins(&mut self, waiting: usize, held: usize, now: Instant) -> bool {
        let begins = waiting >= self.most || held == 0 || self.due().is_none_or(|due| due <= now);
        if begins {
            self.since = None;
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::leased::tests::scripted::options;

    #[test]
    fn many_at_hand_gather_and_a_last_one_never_waits() {
        let now = Instant::now();
        let mut gather = Gather::new(true, &options(200, None));
        gather.add(now);
        assert!(!gather.begins(1, 199, now));
        assert!(gather.begins(50, 150, now) && gather.due().is_none());
        gather.add(now);
        assert!(gather.begins(1, 0, now), "nothing can follow");
        gather.add(now);
        gather.add(now + LONGEST);
        assert!(gather.begins(2, 198, now + LONGEST), "the first has waited long enough");
        gather.end();
        gather.add(now);
        assert!(gather.begins(1, 199, now));
    }

    #[test]
    fn few_at_hand_a_count_and_other_brokers_gather_nothing() {
        let now = Instant::now();
        for mut gather in [
            Gather::new(true, &options(7, None)),
            Gather::new(true, &options(200, Some(1000))),
            Gather::new(false, &options(200, None)),
        ] {
            gather.add(now);
            assert!(gather.begins(1, 6, now));
        }
    }
}
