//! What a command has taken out of queues of SQS: it stays hidden from all others until it is forgotten or given back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::queue::{BATCH, Entry, Queue};
use super::terms::RENEWALS;
use crate::broker::error::Error;
use crate::broker::leased::Held as StillHeld;
use crate::causes::chain;
use crate::locks::lock;

/// Requests that are made side by side. A walk may hold thousands of messages, and all of them have to be renewed in time.
const SIDE_BY_SIDE: usize = 8;

pub struct Keeping {
    pub kept: Arc<Kept>,
    task: JoinHandle<Result<(), Error>>,
}

/// What was taken.
pub struct Kept {
    lease: Duration,
    state: Mutex<State>,
    /// Something was dropped.
    dropped: Notify,
    ends: CancellationToken,
}

#[derive(Default)]
struct State {
    /// By receipt handle: with us, and renewed.
    held: HashMap<String, Queue>,
    /// To be given back.
    dropped: Vec<(String, Queue)>,
}

impl Keeping {
    /// In a task of its own: a command may block while it prints.
    pub fn start(lease: Duration) -> Keeping {
        let (state, dropped, ends) = (Mutex::default(), Notify::new(), CancellationToken::new());
        let kept = Arc::new(Kept { lease, state, dropped, ends });
        Keeping { task: tokio::spawn(kept.clone().keep()), kept }
    }

    /// Gives back all that is not forgotten.
    pub async fn end(self) -> Result<(), Error> {
        self.kept.ends.cancel();
        match self.task.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(ended) => ended,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(Error::Lost { source: None }),
        }
    }
}

impl Kept {
    pub fn hold(&self, handle: &str, queue: &Queue) {
        self.state().held.insert(handle.to_owned(), queue.clone());
    }

    /// There is nothing left to give back: it is gone, or its lease ends.
    pub fn forget(&self, handle: &str) {
        self.state().held.remove(handle);
    }

    /// Gives a message back soon.
    pub fn give_back_soon(&self, handle: &str) {
        let mut state = self.state();
        let held = state.held.remove_entry(handle);
        state.dropped.extend(held);
        drop(state);
        self.dropped.notify_one();
    }

    /// Renews what is held and gives back what was dropped, until the end, when it gives back everything.
    async fn keep(self: Arc<Self>) -> Result<(), Error> {
        loop {
            let kept = tokio::select! {
                () = self.ends.cancelled() => {
                    self.drop_all();
                    return self.give_back().await;
                }
                () = self.dropped.notified() => self.give_back().await,
                () = tokio::time::sleep(self.lease / RENEWALS) => self.renew().await,
            };
            if let Err(error) = kept {
                tracing::warn!(error = %chain(&error), "messages that were taken are delivered again when their leases end");
            }
        }
    }

    fn drop_all(&self) {
        let mut state = self.state();
        let held = std::mem::take(&mut state.held);
        state.dropped.extend(held);
    }

    async fn give_back(&self) -> Result<(), Error> {
        let dropped = std::mem::take(&mut self.state().dropped);
        // One that is lost already is no longer ours to give back.
        change(&dropped, Duration::ZERO).await
    }

    async fn renew(&self) -> Result<(), Error> {
        let held: Vec<_> = self.state().held.iter().map(|(handle, queue)| (handle.clone(), queue.clone())).collect();
        // What is lost is told when it is to be forgotten.
        change(&held, self.lease).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Hides messages for so long from now. Each is tried, whatever becomes of the others.
async fn change(held: &[(String, Queue)], time: Duration) -> Result<(), Error> {
    // A request is about one queue.
    let batches = held.chunk_by(|(_, one), (_, other)| one.name == other.name).flat_map(|same| same.chunks(BATCH));
    let requests: Vec<(Queue, Vec<Entry>)> = batches
        .filter_map(|batch| {
            let (_, queue) = batch.first()?;
            Some((queue.clone(), batch.iter().map(|(handle, _)| Entry::hide(handle, time)).collect()))
        })
        .collect();
    let changing = requests.into_iter().map(|(queue, entries)| async move {
        for answer in queue.batch(&entries).await? {
            let _: StillHeld = answer?;
        }
        Ok(())
    });
    let mut changed = stream::iter(changing).buffer_unordered(SIDE_BY_SIDE);
    let mut failed = Ok(());
    while let Some(answer) = changed.next().await {
        failed = failed.and(answer);
    }
    failed
}
