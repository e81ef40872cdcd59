//! What holds for all queues on a Redis: the group, the terms of a lease, and how times are written.

use std::time::Duration;

use crate::task::System;

/// The consumer group of every queue.
pub const GROUP: &str = "wq-run";

/// In traces.
pub const SYSTEM: System = System { name: "redis", routing_key: None, delivery_tag: None };

/// How long a message stays with a worker that does not answer any more.
pub const LEASE: Duration = Duration::from_secs(15);

/// Three chances to renew a lease before it ends.
pub const RENEW: Duration = Duration::from_secs(5);

/// For the answer to a request that does not wait. Generous: a server answers one request after the other.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub fn millis(duration: Duration) -> u64 {
    // A century; leaves room for sums.
    const FAR: u128 = 100 * 365 * 24 * 3600 * 1000;
    duration.as_millis().min(FAR) as u64
}
