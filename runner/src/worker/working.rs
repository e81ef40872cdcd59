//! How a worker is made, what is said when messages can come, and who is told.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::process::Context;
use super::record::Cases;
use super::{Event, Options, Worker};
use crate::broker::Notice;
use crate::observe::{Guest, Observers, Served};
use crate::sandbox::Sandbox;
use crate::settle::Policy;
use crate::sink::Sinks;

impl Worker {
    /// With `cases`, a case of each run is saved.
    pub fn new(
        options: Options,
        sandbox: Sandbox,
        sinks: Sinks,
        policy: Policy,
        served: Served,
        cases: Option<Arc<Cases>>,
    ) -> Worker {
        let guest = Guest { name: sandbox.name().to_owned(), digest: sandbox.digest().to_owned() };
        let observers = Arc::new(Observers::new(guest).quiet(options.quiet).served(served));
        let context = Context {
            sandbox,
            sinks,
            cases,
            policy,
            max_message: options.max_message,
            result_content_type: options.result_content_type.clone(),
            metadata: options.metadata,
            decode: options.decode,
            completion_index: std::env::var("JOB_COMPLETION_INDEX").ok(),
            has_breaker: options.breaker.failures > 0,
            withdraw: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        Worker { options, context: Arc::new(context), observers, when_ready: None }
    }

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
