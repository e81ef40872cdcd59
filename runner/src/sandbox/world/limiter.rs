//! The limiter that holds the memory of a run to its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

use crate::sandbox::known::Kind;
use crate::task::limits::Limits;

/// Charges every memory and table of one run to a single account.
///
/// wasmtime's own `StoreLimits` counts each memory for itself, so a guest with twenty memories would get twenty times
/// the limit.
#[derive(Debug)]
pub struct Limiter {
    limit: u64,
    used: u64,
    peak: Peak,
    refused: bool,
    instances: usize,
    memories: usize,
    tables: usize,
}

/// The most memory that a run had at one time. Outlives the run, which may be stopped at any point.
#[derive(Clone, Debug, Default)]
pub struct Peak(Arc<AtomicU64>);

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
        Limiter { limit: limits.memory, used: 0, peak: Peak::default(), refused: false, instances, memories, tables }
    }

    /// For a store that nothing runs in.
    pub fn closed() -> Limiter {
        Limiter { limit: 0, used: 0, peak: Peak::default(), refused: false, instances: 0, memories: 0, tables: 0 }
    }

    /// Whether the guest was ever denied memory.
    pub fn refused(&self) -> bool {
        self.refused
    }

    pub fn peak(&self) -> Peak {
        self.peak.clone()
    }

    fn grow(&mut self, by: u64) -> bool {
        match self.used.checked_add(by) {
            Some(used) if used <= self.limit => {
                self.used = used;
                self.peak.0.fetch_max(used, Ordering::Relaxed);
                true
            }
            _ => {
                self.refused = true;
                false
            }
        }
    }
}

impl Peak {
    /// In bytes.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
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
        assert_eq!(limiter.peak().get(), 996, "what was refused was never there");
    }

    #[test]
    fn absurd_sizes_are_refused_and_do_not_overflow() {
        let mut limiter = limiter(u64::MAX);
        assert!(limiter.memory_growing(0, usize::MAX, None).unwrap());
        assert!(!limiter.memory_growing(0, 1, None).unwrap());
        assert!(!limiter.table_growing(0, usize::MAX, None).unwrap());
    }
}
