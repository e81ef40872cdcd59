//! What a command has taken out of queues with leases: it stays with the command until that forgets it or gives it back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::error::Error;
use crate::causes::chain;
use crate::locks::lock;

/// What a kind of broker does about the leases of a command. A lease that was lost is no error: that is told when its message
/// is to be forgotten.
#[async_trait]
pub trait Holder: Send + Sync + 'static {
    /// What it takes to renew a lease, or to give its message back.
    type Lease: Clone + Send + Sync;

    /// How long after a renewal the next one comes.
    fn pause(&self) -> Duration;

    async fn renew(&self, leases: Vec<Self::Lease>) -> Result<(), Error>;

    async fn give_back(&self, leases: Vec<Self::Lease>) -> Result<(), Error>;

    /// When everything was given back.
    async fn leave(&self) -> Result<(), Error> {
        Ok(())
    }
}

pub struct Keeping<H: Holder> {
    pub kept: Arc<Kept<H>>,
    task: JoinHandle<Result<(), Error>>,
}

/// What was taken.
pub struct Kept<H: Holder> {
    pub holder: H,
    state: Mutex<State<H::Lease>>,
    /// Something was dropped.
    dropped: Notify,
    ends: CancellationToken,
}

struct State<L> {
    /// With the command, and renewed. By what its broker knows it by.
    held: HashMap<String, L>,
    /// To be given back.
    dropped: Vec<L>,
}

impl<H: Holder> Keeping<H> {
    /// In a task of its own: a command may block while it prints.
    pub fn start(holder: H) -> Keeping<H> {
        let state = Mutex::new(State { held: HashMap::new(), dropped: Vec::new() });
        let kept = Arc::new(Kept { holder, state, dropped: Notify::new(), ends: CancellationToken::new() });
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

impl<H: Holder> Kept<H> {
    pub fn hold(&self, name: &str, lease: H::Lease) {
        self.state().held.insert(name.to_owned(), lease);
    }

    /// There is nothing left to give back: it is gone, or its lease ends.
    pub fn forget(&self, name: &str) {
        self.state().held.remove(name);
    }

    /// Gives a message back soon.
    pub fn give_back_soon(&self, name: &str) {
        let mut state = self.state();
        let held = state.held.remove(name);
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
                    self.give_back().await?;
                    return self.holder.leave().await;
                }
                () = self.dropped.notified() => self.give_back().await,
                () = tokio::time::sleep(self.holder.pause()) => self.renew().await,
            };
            if let Err(error) = kept {
                tracing::warn!(error = %chain(&error), "messages that were taken are delivered again when their leases end");
            }
        }
    }

    fn drop_all(&self) {
        let mut state = self.state();
        let held = std::mem::take(&mut state.held);
        state.dropped.extend(held.into_values());
    }

    async fn give_back(&self) -> Result<(), Error> {
        let dropped = std::mem::take(&mut self.state().dropped);
        if dropped.is_empty() { Ok(()) } else { self.holder.give_back(dropped).await }
    }

    async fn renew(&self) -> Result<(), Error> {
        let held: Vec<_> = self.state().held.values().cloned().collect();
        if held.is_empty() { Ok(()) } else { self.holder.renew(held).await }
    }

    fn state(&self) -> MutexGuard<'_, State<H::Lease>> {
        lock(&self.state)
    }
}
