//! How soon a connection that publishes is made again.
//!
//! A message that could not be published is given back, and comes again at once. If each new connection broke, guests would
//! run in a tight loop for nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::supervise::{RECONNECT_INITIAL, RECONNECT_MAX, STEADY};

/// The pauses before a connection is made again: none after one that lasted, and ever longer ones after those that did not.
#[derive(Debug, Default)]
pub struct Pace {
    made: Option<Instant>,
    pause: Duration,
    /// Stays when a caller gives up waiting, so that the next one does not wait from the start.
    not_before: Option<Instant>,
}

impl Pace {
    /// Waits for as long as the last connections ask for.
    pub async fn wait(&mut self) {
        let at = match self.not_before {
            Some(at) => at,
            None => {
                let at = Instant::now() + self.next_pause();
                self.not_before = Some(at);
                at
            }
        };
        tokio::time::sleep_until(at).await;
    }

    /// A connection was made.
    pub fn made(&mut self) {
        self.made = Some(Instant::now());
        self.not_before = None;
    }

    fn next_pause(&mut self) -> Duration {
        self.pause = if self.made.is_none_or(|made| made.elapsed() > STEADY) {
            Duration::ZERO
        } else {
            (self.pause * 2).clamp(RECONNECT_INITIAL, RECONNECT_MAX)
        };
        self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_never_lasts_is_made_again_ever_more_slowly() {
        let mut pace = Pace::default();
        assert_eq!(pace.next_pause(), Duration::ZERO);
        let pauses: Vec<Duration> = (0..8)
            .map(|_| {
                pace.made();
                pace.next_pause()
            })
            .collect();
        assert!(pauses[0] >= RECONNECT_INITIAL / 2 && pauses[0] <= RECONNECT_INITIAL, "{pauses:?}");
        assert!(pauses[7] >= RECONNECT_MAX / 2 && pauses[7] <= RECONNECT_MAX, "{pauses:?}");
    }
}
