//! Whether the worker's breaker is open, for everybody who shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One value that all clones share. The worker sets it, and others read it at any time.
#[derive(Clone, Debug, Default)]
pub struct BreakerState(Arc<AtomicBool>);

impl BreakerState {
    /// Whether the worker takes no messages, or only one to try, since too many have failed.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set_open(&self, open: bool) {
        self.0.store(open, Ordering::Relaxed);
    }
}
