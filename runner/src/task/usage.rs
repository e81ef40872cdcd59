//! What a run used of its host.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one run used, each part as far as it is known. A run that never began used nothing, and nobody knows what one used
/// whose process died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The most memory that the guest had at one time, over all its memories and tables. In bytes.
    pub peak_memory: Option<u64>,
    /// The time that processors spent on the run: in the guest, and in the host on its behalf.
    pub cpu: Option<Duration>,
    /// In the units of `--fuel`. Counted only where that is set, and known only of a guest that came to an end by itself.
    pub fuel: Option<u64>,
}
