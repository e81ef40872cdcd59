//! `--result stdout`: our own stdout, as `kubectl logs` shows it.

use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::error::Cause;
use super::kind::{Needs, Sink, SinkKind};
use super::record::Record;
use crate::{blocking, streams};

pub const KIND: SinkKind = SinkKind {
    name: "stdout",
    rest: None,
    needs: |_| Ok(Needs::Stdout),
    has_format: true,
    open: |_, _| Box::pin(async { Ok(Box::new(Stdout) as Box<dyn Sink>) }),
};

#[derive(Debug)]
struct Stdout;

#[async_trait]
impl Sink for Stdout {
    async fn write(&self, record: &Record) -> Result<(), Cause> {
        Ok(write(record.body.clone()).await?)
    }

    fn has_format(&self) -> bool {
        KIND.has_format
    }

    fn identifies(&self) -> bool {
        false
    }
}

impl fmt::Display for Stdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout")
    }
}

/// Writes a result in one piece: results of guests that run side by side do not mix.
async fn write(body: Bytes) -> io::Result<()> {
    /// One waits for the reader, and the others for their turn, so that a slow reader costs one thread.
    static TURN: Mutex<()> = Mutex::const_new(());
    if body.is_empty() {
        return Ok(());
    }
    let turn = TURN.lock().await;
    // Mostly there is room, and no thread has to be woken.
    let taken = streams::print_at_once(&body);
    if taken == body.len() {
        return Ok(());
    }
    // The reader of a pipe can be slow, or stopped; nothing else may wait for it.
    blocking::call(move || {
        let _turn = turn;
        streams::print(&body[taken..])
    })
    .await
}
