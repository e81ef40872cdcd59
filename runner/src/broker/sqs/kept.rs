//! What a command has taken out of queues of SQS: it stays hidden from all others until it is forgotten or given back.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;

use super::queue::{BATCH, Entry, Queue};
use super::terms::RENEWALS;
use crate::broker::error::Error;
use crate::broker::leased::{self, Held as StillHeld, Holder};

/// Requests that are made side by side. A walk may hold thousands of messages, and all of them have to be renewed in time.
const SIDE_BY_SIDE: usize = 8;

pub type Kept = leased::Kept<Hidden>;
pub type Keeping = leased::Keeping<Hidden>;

/// Messages that are hidden for so long at a time.
pub struct Hidden {
    pub lease: Duration,
}

#[async_trait]
impl Holder for Hidden {
    /// A receipt handle and its queue.
    type Lease = (String, Queue);

    fn pause(&self) -> Duration {
        self.lease / RENEWALS
    }

    async fn renew(&self, leases: Vec<Self::Lease>) -> Result<(), Error> {
        change(&leases, self.lease).await
    }

    async fn give_back(&self, leases: Vec<Self::Lease>) -> Result<(), Error> {
        change(&leases, Duration::ZERO).await
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
