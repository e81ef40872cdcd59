//! How long a broker may take for an answer and for an abort, and the waits that end by it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Error;

/// How long what is under way may still take after the worker was told to stop at once. A broker that is well needs less.
pub(crate) const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// For the answer to a request that costs a broker next to nothing: a cancel, a look at a queue, a new channel; and for the
/// socket to take what is written, an acknowledgement for example. AMQP has no such bound of its own, and heartbeats go on
/// while a broker leaves a request without an answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns when what is under way has had its time after an abort.
pub(crate) async fn aborted(abort: &CancellationToken) {
    abort.cancelled().await;
    tokio::time::sleep(ABORT_TIMEOUT).await;
}

/// Bounds a request by [`ANSWER_TIMEOUT`].
///
/// # Errors
/// The request's own, and [`Error::Unanswered`].
pub(crate) async fn answered<T>(doing: &str, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    answered_within(ANSWER_TIMEOUT, doing, request).await
}

/// Bounds a request.
///
/// # Errors
/// The request's own, and [`Error::Unanswered`].
pub(crate) async fn answered_within<T>(
    limit: Duration,
    doing: &str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| Err(Error::Unanswered { doing: doing.to_owned() }))
}

/// Returns at a time, or never. At once if the time has come: a timer would wait for the next millisecond.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) if at <= Instant::now() => {}
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
