//! How a message that a worker was handed has ended. Log, trace and counts are made from this one value.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::task::{Settlement, Usage, Verdict};

/// The end of one message that this worker was handed.
#[derive(Clone, Debug)]
pub struct Ended {
    pub verdict: Verdict,
    pub settled: Settled,
    /// The number of this run of the message.
    pub attempt: u32,
    /// How long the guest ran; `None` if it was not run.
    pub run: Option<Duration>,
    pub usage: Usage,
    /// How long the broker took for the settlement; `None` if it was not asked for one.
    pub settle: Option<Duration>,
    /// When the message was published, as its property `timestamp` says, or else its broker.
    pub sent: Option<SystemTime>,
    /// Since the broker handed the message over.
    pub total: Duration,
    /// The body as it came, in bytes.
    pub message_bytes: usize,
    /// What the guest wrote to stdout, in bytes.
    pub result_bytes: usize,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub queue: String,
    pub delivery_tag: u64,
    /// `None` if spans are not exported, and for a message that was given back before the worker began to process it.
    pub trace_id: Option<String>,
    pub guest: Arc<Guest>,
}

/// The guest that a worker has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    pub name: String,
    pub digest: String,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// These five are as the policy decided, and confirmed as far as the broker confirms them. `Released` is also the end of a
    /// settlement that was given up at an abort, whose message goes back.
    Acked,
    Retried,
    DeadLettered,
    /// Left to the broker's own dead-lettering.
    Rejected,
    Released,
    /// Given back, and nobody waited for an answer.
    GivenBack,
    /// Its lease ran out, or the connection that held it was lost, before it was settled: why. The message itself is safe, and
    /// comes again.
    LeaseLost(String),
    /// It was still ours, and its result or its settlement is not known to have been made: why. The message itself is safe, and
    /// comes again.
    Unsettled(String),
    /// The broker did not make the settlement: why. The message itself is safe, and comes again.
    Failed(String),
}

/// Somebody who is told of each end.
pub trait Observer: Send + Sync {
    /// Is called on a message's way, and must not wait for anything.
    fn ended(&self, ended: &Ended);
}

impl Settled {
    /// The name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Settled::Acked => "ack",
            Settled::Retried => "retry",
            Settled::DeadLettered => "dead-letter",
            Settled::Rejected => "reject",
            Settled::Released | Settled::GivenBack => "release",
            Settled::LeaseLost(_) | Settled::Unsettled(_) => "unsettled",
            Settled::Failed(_) => "failed",
        }
    }
}

impl From<&Settlement> for Settled {
    fn from(settlement: &Settlement) -> Settled {
        match settlement {
            Settlement::Ack => Settled::Acked,
            Settlement::Retry { .. } => Settled::Retried,
            Settlement::DeadLetter { .. } => Settled::DeadLettered,
            Settlement::Reject { .. } => Settled::Rejected,
            Settlement::Release => Settled::Released,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Failure;

    #[test]
    fn a_settlement_that_was_made_keeps_its_name() {
        let failure = Box::new(Failure {
            outcome: "exit",
            exit_code: None,
            error: String::new(),
            stderr: String::new(),
            guest: String::new(),
            attempt: 1,
            at: SystemTime::UNIX_EPOCH,
            usage: Usage::default(),
        });
        for settlement in [
            Settlement::Ack,
            Settlement::Retry { after: Duration::ZERO, failure: failure.clone() },
            Settlement::DeadLetter { failure: failure.clone() },
            Settlement::Reject { failure },
            Settlement::Release,
        ] {
            assert_eq!(Settled::from(&settlement).name(), settlement.name());
        }
    }
}
