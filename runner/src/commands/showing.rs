//! What `wq-run work` shows of its work while it goes on: how far it is, and how much is left in the queue.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::broker::Url;
use crate::locks::lock;
use crate::observe::progress::{Progress, Snapshot, TOLD_EVERY};
use crate::observe::{Counts, Observers};
use crate::worker::Mode;

/// The pause between two looks at the queue while somebody watches.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A drain that ends sooner makes no connection for looks.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(1);

/// How many times longer the pause after a look is than the look. So looks take little of a broker's time, also where it
/// counts the messages one by one.
const PAUSE_FOR_A_LOOK: u32 = 20;

/// For the connection and the answer. A queue that does not tell is one whose depth is not known.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// How long the end of the work waits for the end of the connection for looks.
const CLOSED_WITHIN: Duration = Duration::from_millis(500);

/// A worker whose progress is shown until this is dropped.
pub struct Showing {
    _progress: Progress,
    _looks: Option<Looks>,
}

/// A thread that looks at the queue: some of the calls for that block.
struct Looks {
    ends: CancellationToken,
    ended: Receiver<()>,
}

/// What was in the queue, and with us, at the last look.
type Seen = Arc<Mutex<Option<Look>>>;

#[derive(Clone, Copy)]
struct Look {
    left: u64,
    /// How many messages had been finished.
    finished: u64,
}

impl Showing {
    /// Shows the work of a worker that has an end: a drain or a count. Nothing is shown of others.
    pub fn begin(
        observers: Arc<Observers>,
        mode: Mode,
        concurrency: u64,
        broker: &Url,
        queue: &str,
    ) -> Option<Showing> {
        if matches!(mode, Mode::Forever | Mode::Count(1)) {
            return None;
        }
        let seen = Seen::default();
        let snapshot = {
            let (observers, seen) = (observers.clone(), seen.clone());
            move || snapshot(observers.counts(), observers.in_flight().min(concurrency), mode, *lock(&seen))
        };
        let progress = Progress::show(snapshot);
        let every = if progress.is_watched() { LOOK_EVERY } else { TOLD_EVERY };
        // The first look comes before the first event that tells of it.
        let first = if progress.is_watched() { FIRST_LOOK_AFTER } else { TOLD_EVERY - LOOK_WITHIN };
        let looks = (mode == Mode::Drain)
            .then(|| Looks::begin(observers, broker.clone(), queue.to_owned(), seen, first, every));
        Some(Showing { _progress: progress, _looks: looks.flatten() })
    }
}

impl Looks {
    fn begin(
        observers: Arc<Observers>,
        broker: Url,
        queue: String,
        seen: Seen,
        first: Duration,
        every: Duration,
    ) -> Option<Looks> {
        let ends = CancellationToken::new();
        let (ended_tx, ended) = channel();
        let token = ends.clone();
        let look = move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(look_for_ever(&observers, &broker, &queue, &seen, first, every, &token));
            drop(ended_tx);
        };
        // Without it, nobody knows how much is left.
        std::thread::Builder::new().name("looks".into()).spawn(look).ok()?;
        Some(Looks { ends, ended })
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.ends.cancel();
        let _: Result<(), _> = self.ended.recv_timeout(CLOSED_WITHIN);
    }
}

async fn look_for_ever(
    observers: &Observers,
    broker: &Url,
    queue: &str,
    seen: &Seen,
    first: Duration,
    every: Duration,
    ends: &CancellationToken,
) {
    let mut pause = first;
    let mut admin = None;
    while ends.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let began = Instant::now();
        let looking = tokio::time::timeout(LOOK_WITHIN, admin.get_or_insert_with(|| broker.admin()).status(queue));
        let Some(looked) = ends.run_until_cancelled(looking).await else { break };
        let look = match looked {
            Ok(Ok(status)) => {
                let (left, finished) =
                    (status.ready + status.delayed.unwrap_or_default(), observers.counts().finished());
                Some(Look { left: left + observers.in_flight(), finished })
            }
            Ok(Err(_)) | Err(_) => {
                admin = None;
                None
            }
        };
        *lock(seen) = look;
        pause = every.max(began.elapsed() * PAUSE_FOR_A_LOOK);
    }
    if let Some(admin) = admin {
        let _ = tokio::time::timeout(CLOSED_WITHIN, admin.close()).await;
    }
}

fn snapshot(counts: Counts, running: u64, mode: Mode, seen: Option<Look>) -> Snapshot {
    let (finished, left) = match mode {
        // Each message that was taken counts, whatever became of it.
        Mode::Count(count) => (counts.ended(), Some(count.saturating_sub(counts.ended()))),
        Mode::Drain | Mode::Forever => {
            let finished = counts.finished();
            (finished, seen.map(|look| look.left.saturating_sub(finished.saturating_sub(look.finished))))
        }
    };
    Snapshot { done: counts.acked, failed: Some(counts.failed()), running: Some(running), finished, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_down_between_two_looks() {
        let counts = Counts { acked: 6, retried: 3, dead_lettered: 1, released: 2, ..Counts::default() };
        let drain = |seen| snapshot(counts, 2, Mode::Drain, seen);
        assert_eq!(drain(None), Snapshot { done: 6, failed: Some(4), running: Some(2), finished: 7, left: None });
        assert_eq!(drain(Some(Look { left: 10, finished: 4 })).left, Some(7));
        // Other workers took the rest.
        assert_eq!(drain(Some(Look { left: 1, finished: 4 })).left, Some(0));
    }

    #[test]
    fn a_count_ends_with_the_last_message_that_was_taken() {
        let counts = Counts { acked: 6, retried: 3, dead_lettered: 1, ..Counts::default() };
        let Snapshot { finished, left, .. } = snapshot(counts, 2, Mode::Count(12), None);
        assert_eq!((finished, left), (10, Some(2)));
    }
}
