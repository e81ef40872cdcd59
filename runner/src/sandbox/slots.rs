//! Runs on threads of this process, a *slot* each.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::run::Core;
use super::stdio::Lines;
use super::{Input, STUCK_AFTER};
use crate::fault::{self, Point};
use crate::task::{Outcome, Report};

pub struct Slots {
    core: Arc<Core>,
    /// Threads that wait for a run. One is taken out for each run and put back after it, so there are never more than
    /// there were runs at the same time.
    idle: Mutex<Vec<Slot>>,
}

type Slot = std::sync::mpsc::Sender<Request>;

struct Request {
    input: Input,
    span: tracing::Span,
    reply: oneshot::Sender<Report>,
}

impl Slots {
    pub fn new(core: Core) -> Slots {
        Slots { core: Arc::new(core), idle: Mutex::default() }
    }

    pub async fn run(&self, input: Input) -> Report {
        let started = Instant::now();
        let timeout = self.core.options.limits.timeout;
        let cancel = input.cancel.clone();
        let (reply, report_rx) = oneshot::channel();
        let slot = match self.slot() {
            Ok(slot) => slot,
            Err(error) => {
                return Report::bare(Outcome::HostFault(format!("cannot start a thread: {error}")), started.elapsed());
            }
        };
        let request = Request { input, span: tracing::Span::current(), reply };
        // A slot whose thread is gone drops the request, and with it `reply`.
        let _ = slot.send(request);
        // The run keeps its own time. This one only watches for a guest that nothing stops.
        let overdue = async {
            tokio::select! {
                () = tokio::time::sleep(timeout) => {}
                () = cancel.cancelled() => {}
            }
            tokio::time::sleep(STUCK_AFTER).await;
        };
        tokio::select! {
            report = report_rx => match report {
                Ok(report) => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
                    report
                }
                Err(_) => Report::bare(Outcome::HostFault("the sandbox's thread panicked".into()), started.elapsed()),
            },
            () = overdue => Report::bare(Outcome::Stuck(timeout), started.elapsed()),
        }
    }

    fn slot(&self) -> std::io::Result<Slot> {
        if let Some(slot) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(slot);
        }
        let (requests_tx, requests_rx) = std::sync::mpsc::channel::<Request>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let core = self.core.clone();
        std::thread::Builder::new().name("guest".into()).spawn(move || {
            // Ends when the sandbox, and with it the other end, is gone.
            while let Ok(Request { input, span, reply }) = requests_rx.recv() {
                let _entered = span.entered();
                fault::reach(Point::Running);
                let stderr = Lines::new(core.options.stderr, core.options.limits.stderr);
                let report = runtime.block_on(core.run(input, &stderr));
                let _ = reply.send(report);
            }
        })?;
        Ok(requests_tx)
    }
}
