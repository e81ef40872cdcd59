//! The calls to a Redis, for the loop that all brokers with leases share.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::store::{Lease, Store, Taken, WAIT};
use super::terms::{LEASE, RENEW, SYSTEM};
use super::url::Url;
use crate::broker::adapter;
use crate::broker::error::{Error, Kind};
use crate::broker::leased::{self, Held, Leases, Renewed, Terms, Went};
use crate::broker::link::{Ended, Handed, Link};
use crate::broker::subscription::{Depth, Options};
use crate::task::{Origin, Settlement};

/// How many settlements are made side by side. A server answers one after the other; this only hides the way there and back.
const SETTLEMENTS: usize = 64;

pub struct Adapter {
    url: Url,
    options: Options,
}

impl Adapter {
    pub fn new(url: Url, options: Options) -> Adapter {
        Adapter { url, options }
    }
}

#[async_trait]
impl adapter::Adapter for Adapter {
    async fn session(&mut self, link: &mut Link) -> Ended {
        let error = match leased::session::<Queue>(&self.url, &self.options, link).await {
            Went::Closed => return Ended::Closed,
            Went::NotOpened(error) | Went::Failed { error, .. } => error,
        };
        match error.kind() {
            Kind::Lost | Kind::Unreachable => Ended::Lost(error),
            Kind::Refused | Kind::Configuration => Ended::Refused(error),
        }
    }
}

struct Queue {
    store: Store,
    options: Options,
}

impl Leases for Queue {
    type Place = Url;
    type Lease = Lease;
    const REMOTE: bool = true;

    async fn open(url: &Url, options: &Options) -> Result<Queue, Error> {
        Ok(Queue { store: Store::open(url, &options.queue).await?, options: options.clone() })
    }

    fn terms(&self) -> Terms {
        Terms {
            lease: LEASE,
            renew: RENEW,
            wait: WAIT,
            poll: Duration::ZERO,
            settlements: SETTLEMENTS,
            together: false,
        }
    }

    async fn take(&self, room: usize, hurry: CancellationToken) -> Result<Vec<leased::Taken<Lease>>, Error> {
        let taken = self.store.take(room, &hurry).await?;
        Ok(taken.into_iter().map(|taken| self.leased(taken)).collect())
    }

    async fn renew(&self, leases: Vec<(u64, Arc<Lease>)>) -> Result<Renewed, Error> {
        let ours: Vec<&Lease> = leases.iter().map(|(_, lease)| &**lease).collect();
        let lost = self.store.renew(&ours).await?.into_iter();
        let number = |place| leases.get(usize::try_from(place).ok()?).map(|(number, _)| *number);
        Ok(Renewed { lost: lost.filter_map(number).collect(), unconfirmed: Vec::new() })
    }

    async fn settle(&self, lease: &Arc<Lease>, settlement: &Settlement) -> Result<Held, Error> {
        let held = match settlement {
            Settlement::Ack => self.store.ack(lease).await,
            Settlement::Release => self.store.release(lease).await,
            Settlement::Retry { after, failure } => self.store.retry(lease, *after, failure).await,
            // It has no dead-lettering but this one.
            Settlement::DeadLetter { failure } | Settlement::Reject { failure } => {
                self.store.dead_letter(lease, &self.options.dead_letter_queue, failure).await
            }
        }?;
        Ok(if held { Held::Yes } else { Held::Lost })
    }

    async fn depth(&self) -> Result<Depth, Error> {
        self.store.depth().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.store.leave().await
    }

    /// A server that is full may have room again, and nothing was changed.
    fn passes(error: &Error) -> bool {
        matches!(error, Error::Unpublished { .. })
    }
}

impl Queue {
    fn leased(&self, taken: Taken) -> leased::Taken<Lease> {
        let Taken { lease, message, attempt, unfinished, redelivered, unreadable } = taken;
        let origin =
            Origin { received: lease.added_at(), ..Origin::of_queue(&self.options.queue, redelivered, SYSTEM) };
        leased::Taken {
            lease,
            handed: Handed { message, origin, attempt, unfinished, can_be_retried: true, unreadable },
        }
    }
}
