//! Makes calls that block, from asynchronous code.

use std::panic::resume_unwind;

/// Makes a call on a thread that may block, and waits for it. If the call panics, so does the caller: what becomes of a
/// message then is decided in one place, and not by each caller as if it were an error. What it logs belongs to the caller's
/// message.
pub async fn call<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(call)).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is being shut down, and nobody waits for anything any more.
            Err(_) => std::future::pending().await,
        },
    }
}
