//! How much is in the queue: passes the numbers from the thread that asks the broker to the readers of the metrics.
//!
//! The broker is asked only when somebody reads them, and not each time that somebody does.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::locks::lock;

/// How often the broker is asked at most.
const AT_MOST_EVERY: Duration = Duration::from_secs(15);

/// How long a reader waits for an answer. The last one is shown otherwise, and the new one to the next reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the broker tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    /// Messages of the queue by the state that they are in.
    pub by_state: Vec<(&'static str, u64)>,
    pub dead_letters: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Depth {
    asked_at: Mutex<Option<Instant>>,
    is_wanted: Notify,
    answer: watch::Sender<Depths>,
}

impl Depth {
    /// Has the broker asked if the last time was long enough ago.
    pub async fn refresh(&self) {
        let mut answers = self.answer.subscribe();
        {
            let mut asked_at = lock(&self.asked_at);
            if asked_at.is_some_and(|at| at.elapsed() < AT_MOST_EVERY) {
                return;
            }
            *asked_at = Some(Instant::now());
        }
        self.is_wanted.notify_one();
        let _ = tokio::time::timeout(PATIENCE, answers.changed()).await;
    }

    /// The last answer.
    pub fn known(&self) -> Depths {
        self.answer.borrow().clone()
    }

    /// Returns when the broker is to be asked.
    pub async fn is_wanted(&self) {
        self.is_wanted.notified().await;
    }

    /// The broker's answer; empty if it gave none.
    pub fn answer(&self, depths: Depths) {
        self.answer.send_replace(depths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(count: u64) -> Depths {
        Depths { by_state: vec![("ready", count)], dead_letters: Some(1) }
    }

    #[tokio::test]
    async fn the_broker_is_asked_once_however_often_somebody_reads() {
        let depth = Depth::default();
        let asks = async {
            depth.is_wanted().await;
            depth.answer(ready(7));
        };
        tokio::join!(depth.refresh(), asks);
        assert_eq!(depth.known(), ready(7));
        // At once, and nobody is asked.
        depth.refresh().await;
        assert!(tokio::time::timeout(Duration::from_millis(10), depth.is_wanted()).await.is_err());
        let long_ago = Instant::now().checked_sub(AT_MOST_EVERY);
        assert!(long_ago.is_some());
        *lock(&depth.asked_at) = long_ago;
        let asks = async {
            depth.is_wanted().await;
            depth.answer(Depths::default());
        };
        tokio::join!(depth.refresh(), asks);
        assert_eq!(depth.known(), Depths::default());
    }

    #[tokio::test]
    async fn a_reader_does_not_wait_for_a_broker_that_says_nothing() {
        let depth = Depth::default();
        depth.answer(ready(7));
        depth.refresh().await;
        assert_eq!(depth.known(), ready(7));
    }
}
