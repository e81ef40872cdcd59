//! Locks that ignore poisoning.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks a mutex, even if it is poisoned: a panic leaves no data behind this program's locks half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    anyway(mutex.lock())
}

/// The same for the result of waiting on a condition variable.
pub fn anyway<T>(held: LockResult<T>) -> T {
    held.unwrap_or_else(PoisonError::into_inner)
}
