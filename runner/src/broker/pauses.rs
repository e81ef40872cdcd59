//! Pauses between tries to connect, for the connection that takes messages and for those that publish.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Error, Kind};
use crate::causes::chain;

/// Pauses between two tries to connect: short at first, since a broker that restarts is back in seconds.
pub(super) const RECONNECT_INITIAL: Duration = Duration::from_millis(250);
pub(super) const RECONNECT_MAX: Duration = Duration::from_secs(10);

/// A session that ends sooner does not reset the pause: each session hands messages over, and that counts as an attempt.
pub(super) const STEADY: Duration = Duration::from_secs(1);

/// Tries to connect until it works, another try can't help, or it has taken this long.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    patience: Duration,
    mut connect: impl FnMut() -> F,
) -> Result<T, Error> {
    let since = Instant::now();
    let mut pause = RECONNECT_INITIAL;
    let mut is_away = false;
    loop {
        let error = match connect().await {
            Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::Lost) => error,
            decided => {
                if is_away && decided.is_ok() {
                    tracing::info!("connected again to publish");
                }
                return decided;
            }
        };
        is_away = true;
        if since.elapsed() + pause > patience {
            return Err(error);
        }
        let pause_ms = pause.as_millis() as u64;
        tracing::warn!(error = %chain(&error), pause_ms, "the broker is not available to publish to; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

/// The pauses before a connection that publishes is made again: none after one that lasted, and ever longer ones after those
/// that did not. A message that could not be published is given back, and comes again at once; without a pause, guests would run
/// in a tight loop for nothing.
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
