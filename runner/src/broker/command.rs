//! What the worker asks of an adapter: to settle a delivery, to take nothing more, to look, to end.

use tokio::sync::oneshot;

use super::error::Error;
use crate::task::Settlement;

#[derive(Debug)]
pub(crate) enum Command {
    Settle {
        tag: Tag,
        settlement: Settlement,
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    },
    /// Take as many messages as [`Link::wanted`](super::Link::wanted) says from now on; with 0, none for a while. Some that are
    /// under way may still come.
    Want,
    /// Take nothing more, and give back what has not been handed to the worker.
    Cancel,
    /// Answer with [`super::Notice::Depth`], after all deliveries that came before.
    Probe,
    /// End the connection cleanly.
    Close {
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// Names a delivery, together with the connection that it came over: tags start again with every connection, and a
/// settlement that arrives late must never hit a delivery of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(super) session: u64,
    pub(super) number: u64,
}
