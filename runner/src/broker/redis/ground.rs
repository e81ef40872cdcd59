//! What all files of this folder stand on: the terms of a lease, and small conversions.

use std::time::Duration;

use crate::task::{Origin, System};

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

/// The origin of a message, without the number of its delivery.
pub fn origin(queue: &str, redelivered: bool) -> Origin {
    Origin {
        queue: queue.to_owned(),
        routing_key: queue.to_owned(),
        exchange: String::new(),
        redelivered,
        delivery_tag: 0,
        system: SYSTEM,
    }
}
