//! Locks that a panic does not close for everybody else.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic of somebody who held the lock: nothing behind the locks of this program is left half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    anyway(mutex.lock())
}

/// The same for what comes back from waiting with a lock.
pub fn anyway<T>(held: LockResult<T>) -> T {
    held.unwrap_or_else(PoisonError::into_inner)
}
