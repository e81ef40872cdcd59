//! What a run may use up, and the limiter that holds its memory to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use crate::sandbox::known::Kind;

/// The limits of one run. All sizes in bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Time from before the instantiation, so that a `start` function counts too.
    pub timeout: Duration,
    /// Over all memories and tables of the instance together.
    pub memory: u64,
    /// A larger message is not run.
    pub message: u64,
    /// More than this fails the run: a result that was cut short is no result.
    pub stdout: u64,
    /// What comes after this is dropped, and a line in the log says so.
    pub stderr: u64,
    /// Units of wasmtime's fuel. Counting them makes a guest slower, so there is no limit by default.
    pub fuel: Option<u64>,
    pub stack: u64,
    /// Files, sockets, streams and timers that are open at once, of the host's and of a component's counting.
    pub resources: u64,
    /// What one call of the guest to the host may carry.
    pub hostcall: u64,
    pub random: u64,
    /// Instances, memories and tables of a component, each, and memories of a module.
    pub instances: u64,
}

/// A minute, and one of everything else, in megabytes where it has a size.
#[cfg(any(test, fuzzing))]
impl Default for Limits {
    fn default() -> Limits {
        const MIB: u64 = 1 << 20;
        Limits {
            timeout: Duration::from_secs(60),
            memory: MIB,
            message: MIB,
            stdout: MIB,
            stderr: MIB,
            fuel: None,
            stack: MIB,
            resources: 1,
            hostcall: MIB,
            random: MIB,
            instances: 1,
        }
    }
}

/// Charges every memory and table of one instance to a single account.
///
/// wasmtime's own `StoreLimits` counts each memory for itself, so a guest with twenty memories would get twenty times
/// the limit.
#[derive(Debug)]
pub struct Limiter {
    limit: u64,
    used: u64,
    refused: bool,
    instances: usize,
    memories: usize,
    tables: usize,
}

/// What an element of a table costs the host: a pointer.
const TABLE_ELEMENT_SIZE: u64 = size_of::<usize>() as u64;

/// A module is one instance with, in practice, one table; linkers make a second now and then.
pub const MODULE_TABLES: usize = 8;

impl Limiter {
    pub fn new(kind: Kind, limits: &Limits) -> Limiter {
        let count = usize::try_from(limits.instances).unwrap_or(usize::MAX);
        let (instances, memories, tables) = match kind {
            Kind::Module => (1, count, MODULE_TABLES),
            Kind::Component => (count, count, count),
        };
        Limiter { limit: limits.memory, used: 0, refused: false, instances, memories, tables }
    }

    /// For a store that nothing runs in.
    pub fn closed() -> Limiter {
        Limiter { limit: 0, used: 0, refused: false, instances: 0, memories: 0, tables: 0 }
    }

    /// Whether the guest was ever denied memory.
    pub fn refused(&self) -> bool {
        self.refused
    }

    fn grow(&mut self, by: u64) -> bool {
        match self.used.checked_add(by) {
            Some(used) if used <= self.limit => {
                self.used = used;
                true
            }
            _ => {
                self.refused = true;
                false
            }
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(TABLE_ELEMENT_SIZE)))
    }

    /// What we allowed, and the system had no room for.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = true;
        Ok(())
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = true;
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.memories
    }

    fn tables(&self) -> usize {
        self.tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(limit: u64) -> Limiter {
        Limiter { limit, ..Limiter::closed() }
    }

    #[test]
    fn memories_and_tables_share_one_account() {
        let mut limiter = limiter(1000);
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.memory_growing(0, 300, None).unwrap());
        assert!(!limiter.refused());
        assert!(!limiter.table_growing(0, 13, None).unwrap(), "900 and 13 pointers are over 1000");
        assert!(limiter.refused());
        assert!(limiter.table_growing(0, 12, None).unwrap());
        assert_eq!(limiter.used, 996);
    }

    #[test]
    fn absurd_sizes_are_refused_and_do_not_overflow() {
        let mut limiter = limiter(u64::MAX);
        assert!(limiter.memory_growing(0, usize::MAX, None).unwrap());
        assert!(!limiter.memory_growing(0, 1, None).unwrap());
        assert!(!limiter.table_growing(0, usize::MAX, None).unwrap());
    }
}
