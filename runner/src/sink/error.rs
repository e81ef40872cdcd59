//! Why a result is not known to be where it should be, and what follows from it.

use crate::broker::{self, Kind};
use crate::causes::chain;
use crate::task::{Refused, Undeliverable, Verdict};

/// A result that is not known to be where it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot deliver the result to {to}")]
pub struct Error {
    pub to: String,
    pub source: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The folder takes results, but not this one.
    #[error("a file with the name of this result cannot be made")]
    Name(#[source] std::io::Error),
    #[error("a file of this size cannot be made")]
    TooLarge(#[source] std::io::Error),
    #[error(transparent)]
    Broker(#[from] broker::Error),
}

/// What a failed delivery means for the message and for the worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// The connection went away; the next one may do.
    Lost,
    /// All else, as the policy judges it.
    As(Verdict),
}

impl Error {
    /// What follows from it.
    pub fn failed(&self) -> Failed {
        let undeliverable = |why| Failed::As(Verdict::Undeliverable(why));
        let error = match &self.source {
            Cause::Broker(error) => error,
            Cause::Io(_) => return Failed::As(Verdict::HostFault(chain(self))),
            Cause::Name(_) => return undeliverable(Undeliverable::Unwritable(chain(self))),
            Cause::TooLarge(_) => return undeliverable(Undeliverable::TooLarge(chain(self))),
        };
        match (error, error.kind()) {
            (broker::Error::TooLarge { reason }, _) => undeliverable(Undeliverable::TooLarge(reason.clone())),
            (broker::Error::NoRequester { reply_to }, _) => undeliverable(Undeliverable::NoRequester(reply_to.clone())),
            (error, _) if error.leaves_open() => Failed::Lost,
            (_, Kind::Configuration) => Failed::As(Verdict::Refused(Refused::Configuration, chain(self))),
            (_, Kind::Refused) => Failed::As(Verdict::Refused(Refused::Right, chain(self))),
            (_, Kind::Lost | Kind::Unreachable) => Failed::As(Verdict::HostFault(chain(self))),
        }
    }

    /// The broker's part in it, for the exit status.
    pub fn broker(&self) -> Option<&broker::Error> {
        match &self.source {
            Cause::Broker(error) => Some(error),
            Cause::Io(_) | Cause::Name(_) | Cause::TooLarge(_) => None,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match &self.source {
            Cause::Io(_) | Cause::Name(_) | Cause::TooLarge(_) => {
                Some("the folder has to exist and be writable: --result dir:PATH (WQ_RESULT)".into())
            }
            Cause::Broker(broker::Error::MissingQueue { queue, .. }) => Some(format!(
                "`wq-run queue declare --queue {queue}` creates it; the name comes from --result (WQ_RESULT)"
            )),
            Cause::Broker(error) => error.hint(),
        }
    }
}
