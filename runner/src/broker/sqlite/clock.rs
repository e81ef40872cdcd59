//! The clock of a queue file, for leases and pauses.
//!
//! It has to be one that all processes with the file share, and that nobody can set: a jump of the time of day would end
//! leases whose workers are well, or make the messages of dead ones wait for it.
//!
//! Linux has such a clock, counted from the boot, the same for all processes and containers of a host (time namespaces
//! apart, which no container gets unasked). It stands still while the host sleeps, as the workers do. What it says means
//! nothing after the next boot, so the file holds the id of the boot beside its times.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

pub struct Clock {
    /// `None` where the system does not tell, and the time of day has to do.
    boot: Option<String>,
}

impl Clock {
    pub fn of_this_host() -> Clock {
        // Made anew at each boot; readable in every container.
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Clock { boot: id.ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()) }
    }

    /// Times of clocks with different names can't be compared.
    pub fn name(&self) -> &str {
        self.boot.as_deref().unwrap_or("the time of day")
    }

    /// In milliseconds.
    pub fn now(&self) -> i64 {
        let since_start = match self.boot {
            Some(_) => Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default(),
            None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        };
        i64::try_from(since_start.as_millis()).unwrap_or(i64::MAX)
    }

    /// The time from which a message can be taken after a pause; 0 without one.
    pub fn after(&self, pause: Duration) -> i64 {
        if pause.is_zero() { 0 } else { self.now() + millis(pause) }
    }
}

pub fn millis(duration: Duration) -> i64 {
    // A century; leaves room for sums.
    const FAR: u128 = 100 * 365 * 24 * 3600 * 1000;
    duration.as_millis().min(FAR) as i64
}
