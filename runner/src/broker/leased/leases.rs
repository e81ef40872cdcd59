//! What an adapter with leases gives the loop: the calls to its broker, and its terms.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::error::Error;
use crate::broker::link::Handed;
use crate::broker::subscription::{Depth, Options};
use crate::task::Settlement;

/// A broker with leases that is open: what it can be asked. Calls are made side by side, each kind as said there.
pub(crate) trait Leases: Send + Sync + Sized + 'static {
    /// Where the broker is, and what else stays the same from one session to the next.
    type Place: Sync;
    /// Names one leasing of one message, and holds what its settlement may have to write.
    type Lease: Send + Sync + 'static;
    /// Whether other workers may reach the broker while we can't. If so, every call but `take` has a bound, after which its
    /// future is dropped. If not, each call has to end by itself, and is awaited.
    const REMOTE: bool;

    fn open(place: &Self::Place, options: &Options) -> impl Future<Output = Result<Self, Error>> + Send;

    fn terms(&self) -> Terms;

    /// Takes at most `room` messages, and waits for at most [`Terms::wait`] if there are none. Made one at a time, and never
    /// dropped half way as long as the session lives: messages that a dropped call was handed would stay away for a whole lease.
    /// `hurry` is cancelled when the end of the call is waited for; one that can't be cut short may take no notice.
    fn take(
        &self,
        room: usize,
        hurry: CancellationToken,
    ) -> impl Future<Output = Result<Vec<Taken<Self::Lease>>, Error>> + Send;

    /// Makes leases longer, by [`Terms::lease`] from now. Made one at a time. The settlement of a message may begin while its
    /// renewal is under way; an adapter whose broker must not see these in the wrong order has to keep the order itself.
    fn renew(&self, leases: Vec<(u64, Arc<Self::Lease>)>) -> impl Future<Output = Result<Renewed, Error>> + Send;

    /// Settles a message if it is still ours. Made up to [`Terms::settlements`] times side by side, and never twice for a
    /// message, except after an error that may pass. Other errors are for the worker; a broker that is gone is seen by takes
    /// and renewals.
    fn settle(
        &self,
        lease: &Arc<Self::Lease>,
        settlement: &Settlement,
    ) -> impl Future<Output = Result<Held, Error>> + Send;

    /// What a look finds that would have found a message. Made when no take is under way, and like that one awaited at the end of
    /// the session: a look may hold what it finds, for the next take or for `close`. An error ends the session.
    fn depth(&self) -> impl Future<Output = Result<Depth, Error>> + Send;

    /// After all else, when the session ends as asked.
    fn close(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Whether the same take, renewal or settlement may succeed a moment later. Other errors of takes and renewals end the
    /// session.
    fn passes(error: &Error) -> bool;
}

/// What holds for all messages of a broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// How long a message stays with a worker that is not heard from.
    pub(crate) lease: Duration,
    /// How often leases are renewed. A third of the lease leaves three chances.
    pub(crate) renew: Duration,
    /// The longest that a take waits for a message: at most 5 s, since the end of a subscription waits for it; and far less
    /// than the lease, which counts from the beginning of the take.
    pub(crate) wait: Duration,
    /// The pause between two takes that found all they could: zero where takes wait.
    pub(crate) poll: Duration,
    /// How many settlements may be made side by side.
    pub(crate) settlements: usize,
    /// Whether a take gains from being made at the same time as settlements. A message that is being settled then leaves its place
    /// to the next one at once, and not when the broker has answered.
    pub(crate) together: bool,
}

/// A message that was taken.
pub(crate) struct Taken<L> {
    pub(crate) lease: L,
    /// Its delivery tag is filled in by the loop.
    pub(crate) handed: Handed,
}

/// Whether a lease was still ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Held {
    Yes,
    Lost,
}

/// What became of the leases that were to be renewed: those that are named nowhere here are longer now.
#[derive(Debug, Default)]
pub(crate) struct Renewed {
    /// Another worker has the message, or nobody.
    pub(crate) lost: Vec<u64>,
    /// To be tried again.
    pub(crate) unconfirmed: Vec<u64>,
}
