//! Our own stdout, as `kubectl logs` shows it.

use std::io::{self, Write as _};

use bytes::Bytes;

/// Writes a result in one piece: results of guests that run side by side do not mix.
pub async fn write(body: Bytes) -> io::Result<()> {
    if body.is_empty() {
        return Ok(());
    }
    // The reader of a pipe can be slow, or stopped; nothing else may wait for it.
    tokio::task::spawn_blocking(move || {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&body)?;
        stdout.flush()
    })
    .await
    .unwrap_or_else(|error| Err(io::Error::other(error)))
}
