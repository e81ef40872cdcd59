//! What is said when messages can come, and who is told.

use std::fmt;
use std::sync::Arc;

use super::{Event, Mode, Worker};
use crate::broker::Notice;
use crate::observe::Observers;

impl Worker {
    /// Calls this as soon as messages can come. Until then the broker may still refuse the queue.
    pub fn when_ready(&mut self, call: impl FnOnce() + Send + 'static) {
        self.when_ready = Some(Box::new(call));
    }

    /// Who is told of each end. They outlive the worker.
    pub fn observers(&self) -> Arc<Observers> {
        self.observers.clone()
    }

    /// Tells of a connection that was made or lost, and of the first one for which messages can come.
    pub(super) fn tell(&mut self, event: &Event) {
        let health = self.observers.health();
        match event {
            Event::Notice(Notice::Established) => {
                health.connected();
                if let Some(ready) = self.when_ready.take() {
                    ready();
                }
            }
            Event::Notice(Notice::Lost(_) | Notice::Failed(_)) | Event::BrokerPanicked => health.disconnected(),
            _ => {}
        }
    }
}

/// As `WQ_MODE` has it.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Count(count) => write!(f, "count={count}"),
            Mode::Drain => write!(f, "drain"),
            Mode::Forever => write!(f, "forever"),
        }
    }
}
