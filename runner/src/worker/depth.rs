//! Asks the broker how much is in the queue, for the metrics: when somebody reads them, and not more often than they say.
//!
//! In a thread of its own. A broker that does not answer, or a queue file that somebody locks, holds nothing up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::broker::Error;
use crate::broker::Url;
use crate::broker::admin::{Admin, Status};
use crate::causes::chain;
use crate::observe::Depths;
use crate::observe::metrics::Metrics;

/// How long the broker has for an answer. A client that gave up a call is not used again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of the connection is waited for. One that is cut off is a line in the broker's log, and no more.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Whose depths are asked for.
#[derive(Debug)]
pub struct Queues {
    pub queue: String,
    /// `None` where the broker puts dead letters, and nobody has said where that is.
    pub dead_letter_queue: Option<String>,
}

/// Somebody who asks. Dropped, it stops in its own time.
#[derive(Debug)]
pub struct Asker {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Asker {
    /// # Errors
    /// When the thread can't be started.
    pub fn start(broker: Url, queues: Queues, metrics: Arc<Metrics>) -> io::Result<Asker> {
        let (end, end_rx) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asks = move || {
            runtime.block_on(ask(&broker, &queues, &metrics, end_rx));
            drop(ended_tx);
        };
        std::thread::Builder::new().name("depth".into()).spawn(asks)?;
        Ok(Asker { end, ended })
    }

    pub async fn end(self) {
        drop(self.end);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.ended).await;
    }
}

async fn ask(broker: &Url, queues: &Queues, metrics: &Metrics, mut end: oneshot::Receiver<()>) {
    let depth = metrics.depth();
    let mut admin = broker.admin();
    loop {
        tokio::select! {
            () = depth.is_wanted() => {}
            _ = &mut end => break,
        }
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_TIMEOUT, look(&mut *admin, queues)) => answer,
            _ = &mut end => return,
        };
        let why = match answer {
            Ok(Ok(depths)) => {
                depth.answer(depths);
                continue;
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "the broker does not answer".into(),
        };
        tracing::debug!(error = why, "the depth of the queue is not known (--listen)");
        depth.answer(Depths::default());
        admin = broker.admin();
    }
    let _ = admin.close().await;
}

async fn look(admin: &mut dyn Admin, Queues { queue, dead_letter_queue }: &Queues) -> Result<Depths, Error> {
    let Status { ready, running, delayed, .. } = admin.status(queue).await?;
    let states = [("ready", Some(ready)), ("running", running), ("delayed", delayed)];
    let by_state = states.into_iter().filter_map(|(state, count)| Some((state, count?))).collect();
    let dead_letters = match dead_letter_queue {
        Some(queue) => dead_letters(admin, queue).await,
        None => None,
    };
    Ok(Depths { by_state, dead_letters })
}

/// The right to put dead letters into a queue need not be one to look at it.
async fn dead_letters(admin: &mut dyn Admin, queue: &str) -> Option<u64> {
    match admin.ready(queue).await {
        // It is made with the first dead letter.
        Ok(ready) => Some(ready.unwrap_or_default()),
        Err(error) => {
            tracing::debug!(error = chain(&error), "the depth of the queue for dead letters is not known (--listen)");
            None
        }
    }
}
