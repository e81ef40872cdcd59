//! What is said when messages can come, and who is told.

use std::sync::Arc;

use super::record::Cases;
use super::{Event, Worker};
use crate::broker::Notice;
use crate::observe::Observers;

impl Worker {
    /// Calls this as soon as messages can come. Until then the broker may still refuse the queue.
    pub fn when_ready(&mut self, call: impl FnOnce() + Send + 'static) {
        self.when_ready = Some(Box::new(call));
    }

    /// Saves a case of each run. To be called before the worker runs.
    pub fn record(&mut self, cases: Arc<Cases>) {
        if let Some(context) = Arc::get_mut(&mut self.context) {
            context.cases = Some(cases);
        }
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
