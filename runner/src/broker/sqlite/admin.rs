//! What `wq-run publish` and `wq-run queue` do on a queue file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;

use super::store::{self, Lease, Store, Taken};
use super::{LEASE, RENEW, SYSTEM};
use crate::broker::admin::{self, Arguments, Changes, Confirmed, Got, Status};
use crate::broker::error::Error;
use crate::causes::chain;
use crate::fault::{self, Point};
use crate::locks::lock;
use crate::task::{Message, Origin};

/// How long a command waits for processes that write.
pub const BUSY: Duration = Duration::from_secs(30);

pub struct Admin {
    path: PathBuf,
    /// Opened when it is first needed.
    opened: Option<Opened>,
}

/// An open file and what is taken out of it. What was taken shares it, to be settled.
#[derive(Clone)]
struct Opened(Arc<Mutex<State>>);

struct State {
    store: Store,
    /// What is taken and not settled, by the number of its message.
    leases: BTreeMap<i64, Lease>,
    /// Ends the thread that renews the leases when it is dropped. There if something was taken.
    renewing: Option<mpsc::Sender<()>>,
}

/// A message under a lease, so that it comes again also if we are killed.
struct Held {
    opened: Opened,
    lease: Lease,
}

impl Admin {
    pub fn new(path: PathBuf) -> Admin {
        Admin { path, opened: None }
    }

    /// The file, which stays open for what is done next.
    fn opened(&mut self, queue: &str) -> Result<Opened, Error> {
        if let Some(opened) = &self.opened {
            return Ok(opened.clone());
        }
        let store = Store::open(&self.path, queue, BUSY)?;
        let state = State { store, leases: BTreeMap::new(), renewing: None };
        Ok(self.opened.insert(Opened(Arc::new(Mutex::new(state)))).clone())
    }

    fn open(&self, queue: &str) -> Result<Store, Error> {
        let mut store = Store::open(&self.path, queue, BUSY)?;
        store.require_queue(queue)?;
        Ok(store)
    }
}

#[async_trait]
impl admin::Admin for Admin {
    async fn publish(&mut self, queue: &str, mut messages: Vec<Message>, delay: Duration) -> Confirmed {
        messages.iter_mut().for_each(|message| message.properties.stamp());
        let published = self.opened(queue).and_then(|opened| {
            let store = &mut opened.lock().store;
            fault::reach(Point::Published);
            store.publish_all(queue, &messages, delay)?;
            // Only what is in the file that everybody sees is published.
            store.require_in_place()?;
            fault::reach(Point::Confirmed);
            Ok(())
        });
        match published {
            Ok(()) => Confirmed::all(messages.len()),
            Err(error) => Confirmed::none(messages.len(), error),
        }
    }

    async fn declare(&mut self, queue: &str, _queue_type: Option<&str>, _arguments: &Arguments) -> Result<(), Error> {
        let mut store = Store::create(&self.path, queue, BUSY)?;
        store.declare(queue)?;
        store.require_in_place()
    }

    async fn status(&mut self, queue: &str) -> Result<Status, Error> {
        let mut store = self.open(queue)?;
        let depth = store.depth(queue)?;
        let running = Some(store.running(queue)?);
        Ok(Status { ready: depth.ready, delayed: Some(depth.delayed), running, ..Status::default() })
    }

    async fn purge(&mut self, queue: &str) -> Result<u64, Error> {
        self.open(queue)?.purge(queue)
    }

    async fn take(&mut self, queue: &str, most: usize) -> Result<Vec<Got>, Error> {
        let opened = self.opened(queue)?;
        let number = fastrand::i64(1..);
        let mut state = opened.lock();
        let taken = state.store.take(queue, most, number, LEASE)?;
        if !taken.is_empty() && state.renewing.is_none() {
            state.renewing = Some(keep_renewing(Arc::downgrade(&opened.0))?);
        }
        let read = |Taken { id, mut message, redelivered, unreadable, .. }| {
            if let Some(reason) = &unreadable {
                message.headers.insert("x-wq-error".into(), reason.as_str().into());
            }
            let delivery_tag = id.cast_unsigned();
            let origin = Origin { delivery_tag, ..Origin::of_queue(queue, redelivered, SYSTEM) };
            let lease = Lease { id, lease: number };
            state.leases.insert(id, lease);
            let held = Held { opened: opened.clone(), lease };
            Got { message, origin, unreadable, held: Box::new(held) }
        };
        Ok(taken.into_iter().map(read).collect())
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// Renews the leases of what is taken. In a thread of its own: a command may block while it prints.
fn keep_renewing(state: Weak<Mutex<State>>) -> Result<mpsc::Sender<()>, Error> {
    let (ends, ended) = mpsc::channel();
    let renew = move || {
        while ended.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
            let Some(state) = state.upgrade() else { return };
            if let Err(error) = Opened(state).renew() {
                tracing::warn!(error = %chain(&error), "messages that were taken are delivered again when their leases end");
            }
        }
    };
    let started = std::thread::Builder::new().name("leases".into()).spawn(renew);
    started
        .map(|_| ends)
        .map_err(|error| Error::Broken { reason: format!("cannot start the thread that renews leases: {error}") })
}

impl Opened {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    fn renew(&self) -> Result<(), Error> {
        let mut state = self.lock();
        let leases: Vec<Lease> = state.leases.values().copied().collect();
        if leases.is_empty() { Ok(()) } else { state.store.renew_all(&leases, LEASE) }
    }
}

#[async_trait]
impl admin::Held for Held {
    async fn forget(self: Box<Self>) -> Result<(), Error> {
        let mut state = self.opened.lock();
        let acked = state.store.ack(self.lease)?;
        state.leases.remove(&self.lease.id);
        still_ours(acked)
    }

    async fn publish_again(&self, queue: &str, changes: Changes) -> Result<(), Error> {
        let store = &mut self.opened.lock().store;
        still_ours(store.publish_again(self.lease, queue, changes.without_headers)?)?;
        // Only what is in the file that everybody sees is published.
        store.require_in_place()
    }
}

fn still_ours(held: store::Held) -> Result<(), Error> {
    match held {
        store::Held::Yes => Ok(()),
        store::Held::Lost => Err(Error::lease_lost()),
    }
}

/// Gives the message back if it was not forgotten.
impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.opened.lock();
        if state.leases.remove(&self.lease.id).is_none() {
            return;
        }
        if let Err(error) = state.store.release(self.lease) {
            tracing::warn!(error = %chain(&error), "a message could not be given back; it is delivered again when its lease ends");
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({:?})", self.lease)
    }
}
