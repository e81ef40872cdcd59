//! Brokers: where messages come from and where their settlements go.
//!
//! [`subscribe`] starts a task that owns the connection and talks to the worker over two channels. The worker sees
//! `subscription`. An adapter sees `link` and gives one function, `session`: the life of one connection. Reconnecting, pausing
//! and giving up live in `supervise`, once, for all of them.
//!
//! ```text
//! adapter task                                   worker
//! session() ── Notice::Delivery{message, receipt} ──▶ next()
//!           ◀── Command::Settle{tag, settlement} ──── receipt.settle(…)     or the receipt is dropped: Release
//!           ◀── Command::{Want, Cancel, Probe, Close} subscription
//! ```
//!
//! Both channels are unbounded, and bounded all the same: deliveries by the prefetch, settlements by the deliveries.

mod adapter;
pub mod admin;
pub mod amqp;
mod bounds;
pub mod check;
mod command;
mod error;
pub mod failure;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod kinds;
mod leased;
mod link;
pub mod outbox;
mod pauses;
mod percent;
#[cfg(feature = "redis")]
pub mod redis;
pub mod scaler;
mod speaks;
pub mod sqlite;
#[cfg(feature = "sqs")]
pub mod sqs;
mod subscription;
mod supervise;
mod tls;
mod url;
pub mod walk;

use std::sync::atomic::Ordering;

use tokio::sync::watch;

pub use adapter::{BrokerKind, Capabilities, QueueArgument};
pub(crate) use command::{Command, Tag};
pub use error::{Error, Kind};
pub use kinds::KINDS;
pub(crate) use link::{Handed, Link, Unproven};
pub use outbox::{Address, Outbox};
pub use subscription::{Delivery, Depth, Notice, Options, Receipt, Subscription};
pub use url::{Url, UrlError};

use self::supervise::supervise;

/// The longest name of a queue, an exchange or a routing key, in bytes: a short string of AMQP. The embedded queue has the
/// same limit.
pub const MAX_NAME: usize = 255;

/// Connects to a queue; messages come after [`Subscription::begin`]. Connection errors arrive as notices.
pub fn subscribe(url: &Url, options: Options) -> Subscription {
    let adapter = url.broker().adapter(options.clone());
    let (begun, begun_rx) = watch::channel(false);
    let (mut link, notices, commands) = Link::channel(begun_rx);
    link.broker = url.to_string();
    link.queue = options.queue.clone();
    let wanted = link.wanted.clone();
    wanted.store(options.count.unwrap_or(u64::MAX), Ordering::Relaxed);
    let abort = link.abort.clone();
    let task = tokio::spawn(supervise(adapter, link, options));
    Subscription { notices, commands, wanted, begun, abort, task }
}
