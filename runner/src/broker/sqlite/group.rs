//! Calls on the queue file, of which those that wait together share one transaction.
//!
//! A commit waits for the disk, and so costs more than all else that a call does.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::store::Store;
use crate::blocking;
use crate::broker::error::Error;
use crate::locks::lock;
use crate::message_span::MessageSpan;

/// The open file, and the calls that wait for their turn. A caller whose turn comes makes all calls that wait.
pub struct Group {
    /// Used by one blocking call at a time.
    store: Arc<tokio::sync::Mutex<Store>>,
    waiting: Arc<Mutex<Vec<Box<dyn Call>>>>,
}

trait Call: Send {
    fn make(&mut self, store: &mut Store);

    /// Tells who waits: that all calls have failed together, or else what came of this one.
    fn answer(self: Box<Self>, failed: Option<Error>);
}

struct Waiting<F, T> {
    call: Option<F>,
    result: Option<Result<T, Error>>,
    reply: oneshot::Sender<Result<T, Error>>,
    /// What a call logs belongs to its own message.
    span: MessageSpan,
}

impl Group {
    pub fn new(store: Store) -> Group {
        Group { store: Arc::new(tokio::sync::Mutex::new(store)), waiting: Arc::default() }
    }

    /// Makes a call that writes, together with all others that wait by then. It is over when its commit is on the disk.
    ///
    /// # Errors
    /// Those of the call; and when the file is not the one that its path names any more, before or after the commit. Only a
    /// change to the file that everybody sees is a change.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, mut answer) = oneshot::channel();
        lock(&self.waiting).push(Box::new(Waiting {
            call: Some(call),
            result: None,
            reply,
            span: MessageSpan::current(),
        }));
        let mut store = tokio::select! {
            biased;
            // Another caller has made this call in the meantime. If the call panicked there, that caller's task gets the panic.
            result = &mut answer => return result.unwrap_or(Err(Error::Lost { source: None })),
            store = self.store.clone().lock_owned() => store,
        };
        // Lets the other tasks that are ready in this turn of the runtime add their calls.
        tokio::task::yield_now().await;
        let waiting = self.waiting.clone();
        // The calls are collected by the other thread: those that come while it wakes up are among them.
        blocking::call(move || make(std::mem::take(&mut *lock(&waiting)), &mut store)).await;
        // No answer means that the call panicked in another caller's turn, whose task gets the panic.
        answer.await.unwrap_or(Err(Error::Lost { source: None }))
    }

    /// Makes a call that only reads, and may take long. It holds no write lock, so other processes can write meanwhile. This
    /// worker's own calls wait for it.
    ///
    /// # Errors
    /// Those of the call; and when the file is not the one that its path names any more.
    pub async fn read<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let mut store = self.store.clone().lock_owned().await;
        blocking::call(move || {
            store.require_in_place()?;
            call(&mut store)
        })
        .await
    }
}

fn make(mut calls: Vec<Box<dyn Call>>, store: &mut Store) {
    let made = make_all(&mut calls, store);
    for call in calls {
        // An error goes to one caller, so that each needs its own.
        call.answer(made.as_ref().err().map(|failed| match failed {
            Failed::NotInPlace => store.require_in_place().err().unwrap_or(Error::Lost { source: None }),
            Failed::Transaction(error) => store.failed_with(error),
        }));
    }
}

enum Failed {
    NotInPlace,
    Transaction(rusqlite::Error),
}

fn make_all(calls: &mut [Box<dyn Call>], store: &mut Store) -> Result<(), Failed> {
    store.require_in_place().map_err(|_| Failed::NotInPlace)?;
    match calls {
        // Most calls of an idle worker are a look, which needs no transaction.
        [only] => only.make(store),
        all => store.together(|store| all.iter_mut().for_each(|call| call.make(store))).map_err(Failed::Transaction)?,
    }
    store.require_in_place().map_err(|_| Failed::NotInPlace)
}

impl<F, T> Call for Waiting<F, T>
where
    F: FnOnce(&mut Store) -> Result<T, Error> + Send,
    T: Send,
{
    fn make(&mut self, store: &mut Store) {
        if let Some(call) = self.call.take() {
            self.result = Some(self.span.in_scope(|| call(store)));
        }
    }

    fn answer(self: Box<Self>, failed: Option<Error>) {
        let result = match failed {
            // An error of the call's own says more.
            Some(failed) => self.result.filter(Result::is_err).unwrap_or(Err(failed)),
            None => self.result.unwrap_or(Err(Error::Lost { source: None })),
        };
        // Nobody waits for the call of a session that has ended.
        let _ = self.reply.send(result);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use serde_json::Map;

    use super::*;
    use crate::task::Properties;

    fn publish(group: &Group, queue: &'static str) -> impl Future<Output = Result<(), Error>> {
        group.call(move |store| store.publish(queue, &Properties::default(), &Map::new(), &Bytes::from_static(b"a")))
    }

    #[tokio::test]
    async fn calls_that_are_made_at_once_end_each_in_its_own_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let mut store = Store::create(&path, "q", Duration::from_secs(5)).unwrap();
        store.declare("q").unwrap();
        let group = Group::new(store);
        let calls = (0..100).map(|number| publish(&group, if number % 10 == 3 { "other" } else { "q" }));
        let made = futures_util::future::join_all(calls).await;
        for (number, made) in made.into_iter().enumerate() {
            let missing = matches!(made, Err(Error::MissingQueue { .. }));
            assert_eq!(missing, number % 10 == 3, "{number}");
            assert!(missing || made.is_ok(), "{number}: {made:?}");
        }
        let mut other = Store::open(&path, "q", Duration::from_secs(5)).unwrap();
        assert_eq!(other.depth("q").unwrap().ready, 90);
    }

    #[test]
    fn a_file_that_another_process_locks_or_removes_fails_all_calls() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let mut store = Store::create(&path, "q", Duration::from_millis(20)).unwrap();
        store.declare("q").unwrap();
        let group = Group::new(store);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let calls = || runtime.block_on(futures_util::future::join_all((0..3).map(|_| publish(&group, "q"))));
        let mut other = Store::open(&path, "q", Duration::from_secs(5)).unwrap();
        let locked = other.together(|_| {
            assert!(calls().iter().all(|made| matches!(made, Err(Error::FileLocked { .. }))));
        });
        locked.unwrap();
        assert_eq!(other.depth("q").unwrap().ready, 0);
        std::fs::remove_file(&path).unwrap();
        assert!(calls().iter().all(|made| matches!(made, Err(Error::Broken { .. }))));
    }
}
