//! Looks names up: in this process or, for a process behind the wall, by asking its parent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Semaphore, oneshot};

use crate::locks::lock;

/// Lookups of one process that may be under way.
pub const MAX_LOOKUPS: usize = 16;

/// The longest name that there is.
pub const MAX_NAME: usize = 255;

/// The resolver of names.
#[derive(Clone)]
pub enum Names {
    System,
    Parent(Arc<OfParent>),
}

/// Lookups that the parent is asked for.
pub struct OfParent {
    /// Asks for the addresses of a name. The answer is to have this number.
    ask: Box<dyn Fn(u64, String) + Send + Sync>,
    places: Semaphore,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

type Waiting = HashMap<u64, oneshot::Sender<Option<Vec<IpAddr>>>>;

/// A lookup that a guest no longer waits for leaves nothing behind.
struct Forget<'a> {
    parent: &'a OfParent,
    id: u64,
}

impl Names {
    pub fn of_parent(ask: impl Fn(u64, String) + Send + Sync + 'static) -> Arc<OfParent> {
        let (next, waiting) = Default::default();
        Arc::new(OfParent { ask: Box::new(ask), places: Semaphore::new(MAX_LOOKUPS), next, waiting })
    }

    /// The addresses of a name that the guest may ask for; `None` if it has none.
    pub async fn resolve(self, name: String) -> Option<Vec<IpAddr>> {
        match self {
            Names::System => resolve(name).await,
            Names::Parent(parent) => parent.resolve(name).await,
        }
    }
}

impl OfParent {
    async fn resolve(&self, name: String) -> Option<Vec<IpAddr>> {
        let _place = self.places.acquire().await.ok()?;
        let (answer, answered) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(id, answer);
        let _forgotten = Forget { parent: self, id };
        (self.ask)(id, name);
        answered.await.ok()?
    }

    /// Takes the parent's answer. The guest may have stopped waiting for it.
    pub fn answer(&self, id: u64, addresses: Option<Vec<IpAddr>>) {
        if let Some(waiting) = self.waiting().remove(&id) {
            let _ = waiting.send(addresses);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.parent.waiting().remove(&self.id);
    }
}

/// Looks a name up on this machine.
pub async fn resolve(name: String) -> Option<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Some(vec![address]);
    }
    // Checks that it is a name, and writes it in the letters that the domain name system has.
    let domain = match url::Host::parse(&name).ok()? {
        url::Host::Domain(domain) => domain,
        url::Host::Ipv4(address) => return Some(vec![address.into()]),
        url::Host::Ipv6(address) => return Some(vec![address.into()]),
    };
    match tokio::net::lookup_host((domain.as_str(), 0)).await {
        Ok(addresses) => Some(addresses.map(|address| address.ip().to_canonical()).collect()),
        Err(error) => {
            tracing::debug!(%error, "a name that the guest may look up can't be looked up");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_and_what_is_no_name_has_none() {
        assert_eq!(resolve("::1".into()).await, Some(vec!["::1".parse().unwrap()]));
        assert_eq!(resolve("127.0.0.1".into()).await, Some(vec!["127.0.0.1".parse().unwrap()]));
        assert_eq!(resolve("not a name".into()).await, None);
    }
}
