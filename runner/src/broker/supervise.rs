//! Keeping a session going: reconnecting, pausing and giving up, once for every kind of broker.

use std::time::{Duration, Instant};

use super::adapter::Adapter;
use super::error::Error;
use super::link::{Ended, Link};
use super::pauses::{RECONNECT_INITIAL, RECONNECT_MAX, STEADY};
use super::subscription::{Notice, Options};
use crate::causes::chain;

/// The longest pause between two looks for a queue that is not there yet.
const MISSING_MAX: Duration = Duration::from_secs(2);

/// Keeps a session going until the worker is done, the broker refuses us, or it has been away for too long.
pub(super) async fn supervise(mut adapter: Box<dyn Adapter>, mut link: Link, options: Options) {
    let mut away_since = Instant::now();
    let mut patience = options.connect_timeout;
    let mut pause = RECONNECT_INITIAL;
    let mut unanswered_since = None;
    let missing_until = Instant::now() + options.wait_for_queue;
    let mut was_there = false;
    loop {
        if link.cancelled {
            // All that it had is lost and it wants nothing more: what is left is to see it go.
            return link.wait_closed().await;
        }
        link.session += 1;
        link.established = false;
        let began = Instant::now();
        let ended = adapter.session(&mut link).await;
        was_there |= link.established;
        let error = match ended {
            Ended::Closed => return,
            // The time in which nobody needs it yet counts as well.
            Ended::Refused(error) if !was_there && is_missing(&error) && Instant::now() < missing_until => {
                let left = missing_until.saturating_duration_since(Instant::now());
                let timeout_ms = left.as_millis() as u64;
                tracing::info!(error = %chain(&error), timeout_ms, "waiting for the queue (--wait-for-queue)");
                if link.wait_disconnected(pause.min(MISSING_MAX).min(left)).await.is_closed() {
                    return;
                }
                pause = (pause * 2).min(MISSING_MAX);
                away_since = Instant::now();
                continue;
            }
            Ended::Refused(error) => return link.notify(Notice::Failed(error)),
            Ended::Lost(error) => error,
        };
        link.lost(options.count.is_some());
        if link.established {
            away_since = Instant::now();
            link.away_since = Some(away_since);
            patience = options.reconnect_timeout;
            if began.elapsed() > STEADY {
                pause = RECONNECT_INITIAL;
            }
        }
        // A broker that lets us in and then leaves us without an answer, each time, is not there for us.
        if let Error::Unanswered { .. } = error {
            let since = *unanswered_since.get_or_insert_with(Instant::now);
            if since.elapsed() > options.reconnect_timeout {
                return link.notify(Notice::Failed(error));
            }
        } else {
            unanswered_since = None;
        }
        if !*link.begun.borrow() {
            // Nobody waits for it yet.
            away_since = Instant::now();
        }
        // The longest pause is half of the patience, so that there is time for another try.
        let longest = (patience / 2).clamp(RECONNECT_INITIAL, RECONNECT_MAX);
        let jittered = pause.min(longest).mul_f64(0.5 + fastrand::f64() / 2.0);
        if away_since.elapsed() + jittered > patience {
            return link.notify(Notice::Failed(error));
        }
        let pause_ms = jittered.as_millis() as u64;
        tracing::warn!(error = %chain(&error), pause_ms, "the broker is not available; trying again");
        link.notify(Notice::Lost(error));
        if link.wait_disconnected(jittered).await.is_closed() {
            return;
        }
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

/// Whether somebody still has to make the queue, or its file.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::MissingQueue { .. } | Error::InaccessibleFile { .. })
}
