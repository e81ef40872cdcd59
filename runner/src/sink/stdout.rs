//! `--result stdout`: our own stdout, as `kubectl logs` shows it.

use std::io;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::{blocking, streams};

/// Writes a result in one piece: results of guests that run side by side do not mix.
pub async fn write(body: Bytes) -> io::Result<()> {
    /// One waits for the reader, and the others for their turn, so that a slow reader costs one thread.
    static TURN: Mutex<()> = Mutex::const_new(());
    if body.is_empty() {
        return Ok(());
    }
    let turn = TURN.lock().await;
    // The reader of a pipe can be slow, or stopped; nothing else may wait for it.
    blocking::call(move || {
        let _turn = turn;
        streams::print(&body)
    })
    .await
}
