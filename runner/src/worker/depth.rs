//! Asks the broker how much is in the queue, for the metrics: when somebody reads them, and not more often than they say.
//!
//! In a thread of its own. A broker that does not answer, or a queue file that somebody locks, holds nothing up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::broker::Url;
use crate::broker::admin::Status;
use crate::causes::chain;
use crate::observe::metrics::Metrics;

/// How long the broker has for an answer. A client that gave up a call is not used again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of the connection is waited for. One that is cut off is a line in the broker's log, and no more.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Somebody who asks. Dropped, it stops in its own time.
#[derive(Debug)]
pub struct Asker {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Asker {
    /// # Errors
    /// When the thread can't be started.
    pub fn start(broker: Url, queue: String, metrics: Arc<Metrics>) -> io::Result<Asker> {
        let (end, end_rx) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asks = move || {
            runtime.block_on(ask(&broker, &queue, &metrics, end_rx));
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

async fn ask(broker: &Url, queue: &str, metrics: &Metrics, mut end: oneshot::Receiver<()>) {
    let depth = metrics.depth();
    let mut admin = broker.admin();
    loop {
        tokio::select! {
            () = depth.is_wanted() => {}
            _ = &mut end => break,
        }
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_TIMEOUT, admin.status(queue)) => answer,
            _ = &mut end => return,
        };
        let why = match answer {
            Ok(Ok(Status { ready, running, delayed, .. })) => {
                let states = [("ready", Some(ready)), ("running", running), ("delayed", delayed)];
                depth.answer(states.into_iter().filter_map(|(state, count)| Some((state, count?))).collect());
                continue;
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "the broker does not answer".into(),
        };
        tracing::debug!(error = why, "the depth of the queue is not known (--listen)");
        depth.answer(Vec::new());
        admin = broker.admin();
    }
    let _ = admin.close().await;
}
