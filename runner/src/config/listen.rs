//! Resolves what is served to those who look at a worker, and how long its messages may take before that is told.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cli;
use crate::observe::health::Bounds;
use crate::sandbox::STUCK_AFTER;
use crate::settle::Policy;

#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub address: SocketAddr,
    pub bounds: Bounds,
}

/// What each bound leaves for a machine under load, and for the short steps beside the one that has a bound of its own.
const MARGIN: Duration = Duration::from_secs(30);

impl Listen {
    pub fn resolve(work: &cli::Work, address: SocketAddr, longest_hold: Duration, policy: &Policy) -> Listen {
        let results = u32::try_from(work.result.len()).unwrap_or(u32::MAX);
        let bounds = Bounds {
            // A guest that gives its message back is followed by a pause.
            running: longest_hold.saturating_add(STUCK_AFTER).saturating_add(policy.backoff.initial),
            delivering: work.publish_timeout.saturating_mul(results),
            settling: work.publish_timeout,
        };
        let with_margin = |bound: Duration| bound.saturating_add(MARGIN);
        let Bounds { running, delivering, settling } = bounds;
        let bounds = Bounds {
            running: with_margin(running),
            delivering: with_margin(delivering),
            settling: with_margin(settling),
        };
        Listen { address, bounds }
    }
}
