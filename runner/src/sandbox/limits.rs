//! What a run may use up, and the limiter that holds its memory to it.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// The limits of one run. All lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from before the instantiation, so that a `start` function counts too.
    pub timeout: Duration,
    /// Over all memories and tables of the instance together.
    pub memory: u64,
    /// More than this fails the run: a result that was cut short is no result.
    pub stdout: u64,
    /// What comes after this is dropped, and a line in the log says so.
    pub stderr: u64,
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
}

/// What an element of a table costs the host: a pointer.
const TABLE_ELEMENT_SIZE: u64 = size_of::<usize>() as u64;

/// A module is one instance with one memory and, in practice, one table; linkers make a second now and then.
const MAX_INSTANCES: usize = 1;
const MAX_MEMORIES: usize = 1;
const MAX_TABLES: usize = 8;

impl Limiter {
    pub fn new(limit: u64) -> Limiter {
        Limiter { limit, used: 0, refused: false }
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

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_account() {
        let mut limiter = Limiter::new(1000);
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
        let mut limiter = Limiter::new(u64::MAX);
        assert!(limiter.memory_growing(0, usize::MAX, None).unwrap());
        assert!(!limiter.memory_growing(0, 1, None).unwrap());
        assert!(!limiter.table_growing(0, usize::MAX, None).unwrap());
    }
}
