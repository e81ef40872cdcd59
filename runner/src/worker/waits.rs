//! Waits of the loop.

use std::convert::Infallible;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::shutdown::Phase;

/// Cancels `abort` in the last phase, also if that began before.
pub async fn abort_with(phases: &mut watch::Receiver<Phase>, abort: &CancellationToken) -> Infallible {
    if phases.wait_for(|phase| matches!(phase, Phase::Aborting(_))).await.is_ok() {
        abort.cancel();
    }
    // No further phase can come.
    std::future::pending().await
}

pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
