//! Why a worker stopped, and what that means for the messages that it has.

use crate::broker;
use crate::causes::chain;
use crate::observe::Counts;
use crate::shutdown::Signal;
use crate::task::Refused;

/// What a run of the worker amounts to.
#[derive(Debug)]
pub struct Stopped {
    pub reason: StopReason,
    pub counts: Counts,
    /// An error means that the last settlements may not have reached the broker.
    pub closed: Result<(), broker::Error>,
}

/// Why the worker stopped. In the order of severity; a reason gives way only to one that is more severe.
#[derive(Debug)]
pub enum StopReason {
    /// The queue is empty. A message that comes all the same is still done.
    Empty,
    /// So many messages are ready, and the broker hands none of them over. A message that comes all the same is still done.
    Unserved(u64),
    /// So many retries of ours should be in the queue by now, and are not. A message that comes all the same is still done.
    Missing(u64),
    /// The count is reached.
    Done,
    /// The breaker opened, and as many tries after that did not succeed.
    BreakerOpen {
        tries: u32,
    },
    Signal(Signal),
    /// The host could not do its part, and would not be able to for the next message either.
    HostFault(String),
    /// Results are refused where they should go: the same for every message.
    Refused(Refused, String),
    BrokerFailed(broker::Error),
    /// A guest is still computing and can't be stopped: the process has to end for its sake.
    Stuck,
    /// A task of ours panicked.
    Bug(String),
}

impl StopReason {
    /// After a settlement that could not be made.
    pub(super) fn not_settled(error: &broker::Error) -> StopReason {
        match error.kind() {
            broker::Kind::Configuration => StopReason::Refused(Refused::Configuration, chain(error)),
            broker::Kind::Refused => StopReason::Refused(Refused::Right, chain(error)),
            broker::Kind::Lost | broker::Kind::Unreachable => StopReason::HostFault(chain(error)),
        }
    }

    /// Whether a message that comes all the same is done.
    pub(super) fn takes_what_comes(&self) -> bool {
        matches!(self, StopReason::Empty | StopReason::Unserved(_) | StopReason::Missing(_))
    }

    /// Whether what was started and has not begun is done all the same.
    pub(super) fn keeps_what_was_started(&self) -> bool {
        self.takes_what_comes() || matches!(self, StopReason::Done)
    }

    pub(super) fn severity(&self) -> u8 {
        match self {
            StopReason::Empty | StopReason::Unserved(_) | StopReason::Missing(_) => 0,
            StopReason::Done => 1,
            StopReason::BreakerOpen { .. } => 2,
            StopReason::Signal(_) => 3,
            StopReason::HostFault(_) => 4,
            StopReason::Refused(..) => 5,
            StopReason::BrokerFailed(_) => 6,
            StopReason::Stuck => 7,
            StopReason::Bug(_) => 8,
        }
    }
}
