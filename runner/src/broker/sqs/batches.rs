//! Gathers settlements that are made side by side into requests of ten.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::passes;
use super::queue::{BATCH, Entry, Queue};
use crate::broker::error::Error;
use crate::broker::leased::Held;
use crate::causes::chain;
use crate::locks::lock;

/// How long a settlement waits for others. A request takes several times as long.
const GATHER: Duration = Duration::from_millis(2);

/// Settlements of one sort: SQS has a request for deletions, and one for all else.
pub struct Batches {
    queue: Queue,
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

struct Waiting {
    entry: Entry,
    reply: oneshot::Sender<Result<Held, Error>>,
}

impl Batches {
    pub fn new(queue: Queue) -> Batches {
        Batches { queue, waiting: Arc::default() }
    }

    /// Makes a settlement together with others. One that is dropped before it has begun is made all the same.
    pub async fn settle(&self, entry: Entry) -> Result<Held, Error> {
        let (reply, settled) = oneshot::channel();
        let gathered = {
            let mut waiting = lock(&self.waiting);
            waiting.push(Waiting { entry, reply });
            waiting.len()
        };
        match gathered {
            1 => drop(tokio::spawn(after(GATHER, self.queue.clone(), self.waiting.clone()))),
            BATCH => drop(tokio::spawn(send(self.queue.clone(), self.waiting.clone()))),
            _ => {}
        }
        settled.await.unwrap_or(Err(Error::Lost { source: None }))
    }
}

async fn after(pause: Duration, queue: Queue, waiting: Arc<Mutex<Vec<Waiting>>>) {
    tokio::time::sleep(pause).await;
    send(queue, waiting).await;
}

async fn send(queue: Queue, waiting: Arc<Mutex<Vec<Waiting>>>) {
    let batch = std::mem::take(&mut *lock(&waiting));
    for batch in chunks(batch) {
        let (entries, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.entry, waiting.reply)).unzip();
        match queue.batch(&entries).await {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(same(&error)));
                }
            }
        }
    }
}

fn chunks(mut waiting: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut chunks = Vec::new();
    while !waiting.is_empty() {
        let rest = waiting.split_off(waiting.len().min(BATCH));
        chunks.push(std::mem::replace(&mut waiting, rest));
    }
    chunks
}

/// The error of a whole request, for one of its settlements.
pub fn same(error: &Error) -> Error {
    let source = || chain(error).into();
    match error {
        Error::Forbidden { doing, .. } => Error::Forbidden { doing: doing.clone(), source: source() },
        Error::MissingQueue { queue, .. } => Error::MissingQueue { queue: queue.clone(), source: Some(source()) },
        Error::Credentials { address, .. } => Error::Credentials { address: address.clone(), source: source() },
        Error::NoCredentials { .. } => Error::NoCredentials { source: source() },
        Error::Mismatch { doing, .. } => Error::Mismatch { doing: doing.clone(), source: source() },
        error if passes(error) => Error::Unanswered { doing: "take a settlement".into() },
        _ => Error::Lost { source: Some(source()) },
    }
}
