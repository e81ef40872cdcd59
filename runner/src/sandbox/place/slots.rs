//! Runs on threads of this process, a *slot* each.
//!
//! Runs wait in one line for all slots, so that a slot that is done has the next one at once, without asking anybody.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::ground::{GivenUp, Ground};
use super::tickets::{Completions, End, Running, Ticket, Watchdog};
use crate::locks::{anyway, lock};
use crate::message_span::MessageSpan;
use crate::sandbox::abi::program::Compiled;
use crate::sandbox::run::Core;
use crate::sandbox::world::clock::STUCK_AFTER;
use crate::sandbox::world::clock::running_for;
use crate::sandbox::world::options::Input;
use crate::sandbox::world::stdio::Lines;
use crate::task::{Outcome, Report};

pub struct Slots {
    core: Arc<Core>,
    line: Arc<Line>,
    completions: Arc<Completions>,
    watchdog: Arc<Watchdog>,
    /// Runs that may happen at the same time.
    places: usize,
    /// Threads that are lost to calls of earlier runs.
    given_up: Arc<GivenUp>,
}

/// The runs that wait for a slot.
#[derive(Default)]
struct Line {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Default)]
struct LineState {
    waiting: VecDeque<Arc<Ticket>>,
    /// Slots that were started. They stay for as long as the sandbox does.
    slots: usize,
    idle: usize,
    closed: bool,
}

/// As many threads may be lost to calls that never end. Each is a run that timed out at a file; with more of them the system
/// would soon have no thread or memory for a good message.
const MAX_GIVEN_UP: usize = 128;

impl Slots {
    /// Starts the first slot, which gets ready for its first run while the broker is asked for a message.
    ///
    /// # Errors
    /// When its thread can't be started.
    pub fn start(core: Core, compiled: Compiled, places: usize) -> io::Result<Slots> {
        let watchdog = Arc::<Watchdog>::default();
        let (watching, longest) = (watchdog.clone(), core.options.limits.timeout + STUCK_AFTER);
        // A run keeps its own time. The clock only watches for a guest that nothing stops.
        let completions = Arc::<Completions>::default();
        let ended = completions.clone();
        core.ticker.at_each_step(move |now| {
            // If a long run came right behind short ones, their reports wait for this step.
            ended.notify();
            watching.give_up(now, longest);
        });
        let (core, line, given_up) = (Arc::new(core), Arc::<Line>::default(), Arc::default());
        let slots = Slots { core, line, completions, watchdog, places, given_up };
        slots.start_slot(move || {
            if let Err(error) = compiled.make_images() {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "no images of the guest's memories: the first run makes them"
                );
            }
        })?;
        lock(&slots.line.state).slots = 1;
        Ok(slots)
    }

    pub async fn run(&self, input: Input) -> Report {
        let asked = Instant::now();
        let ticket = Ticket::new(input, MessageSpan::current());
        let Input { cancel, withdraw, .. } = &ticket.input;
        if let Err(error) = self.line_up(ticket.clone()) {
            return Report::bare(Outcome::HostFault(format!("cannot start a thread: {error}")), asked.elapsed());
        }
        let stuck = || Report::bare(Outcome::Stuck(self.core.options.limits.timeout), asked.elapsed());
        let stopped = async {
            tokio::select! {
                biased;
                () = withdraw.cancelled() => {}
                () = cancel.cancelled() => {}
            }
            if ticket.withdraw() {
                return Report::bare(Outcome::Withdrawn, asked.elapsed());
            }
            // The run stops by itself. This only watches for a guest that nothing stops.
            Box::pin(async {
                cancel.cancelled().await;
                running_for(STUCK_AFTER).await;
            })
            .await;
            stuck()
        };
        tokio::select! {
            biased;
            end = self.completions.end_of(&ticket) => match end {
                End::Report(report) => report,
                End::Overdue => stuck(),
                // The panic goes on here, where the message is.
                End::Panicked => resume_unwind(Box::new("the sandbox's thread panicked")),
            },
            report = stopped => report,
        }
    }

    fn line_up(&self, ticket: Arc<Ticket>) -> io::Result<()> {
        let mut state = lock(&self.line.state);
        state.waiting.push_back(ticket);
        if state.needs_a_slot(self.places) {
            match self.start_slot(|| ()) {
                Ok(()) => state.slots += 1,
                // The others will come to it.
                Err(error) if state.slots > 0 => tracing::warn!(%error, "cannot start one more thread for guests"),
                Err(error) => {
                    state.waiting.pop_back();
                    return Err(error);
                }
            }
        }
        // A slot that is busy looks by itself when it is done; to wake nobody is a system call too.
        let sleeps = state.idle > 0;
        drop(state);
        if sleeps {
            self.line.changed.notify_one();
        }
        Ok(())
    }

    /// Starts one more slot, whose thread first of all calls `get_ready`.
    fn start_slot(&self, get_ready: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut ground = Ground::new()?;
        let (core, line, given_up) = (self.core.clone(), self.line.clone(), self.given_up.clone());
        let (completions, current) = (self.completions.clone(), self.watchdog.add());
        std::thread::Builder::new().name("guest".into()).spawn(move || {
            // If it panics, so does the first run, whose message then has an end. Without a thread it would wait forever.
            let _ = catch_unwind(AssertUnwindSafe(get_ready));
            while let Some(ticket) = line.next(|| completions.notify()) {
                if !ticket.begins(core.ticker.clock().now()) {
                    continue;
                }
                let running = Running::new(&completions, ticket.clone());
                let entered = ticket.span.enter();
                let lost = given_up.count();
                if lost >= MAX_GIVEN_UP {
                    running.ends(Report::bare(Outcome::Blocked(lost), Duration::ZERO));
                    continue;
                }
                *lock(&current) = Some(ticket.clone());
                let stderr = Lines::new(core.options.stderr, core.options.limits.stderr);
                let report = ground.run(&core, &ticket.input, &stderr);
                let may_be_blocked = ground.may_be_blocked(&report.outcome);
                *lock(&current) = None;
                drop((entered, ticket));
                running.ends(report);
                if may_be_blocked && let Err(error) = ground.renew(&given_up) {
                    // A pool has room for hundreds of such calls, so the next run is not in danger yet.
                    tracing::warn!(%error, "cannot make a runtime for the next run: it shares this one");
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        lock(&self.line.state).closed = true;
        self.line.changed.notify_all();
    }
}

impl LineState {
    /// Whether more runs wait than there are idle slots, and one more slot may be started. A slot counts as idle until it has
    /// woken up, so several runs can wait while the same slot is idle.
    fn needs_a_slot(&self, places: usize) -> bool {
        self.waiting.len() > self.idle && self.slots < places
    }
}

impl Line {
    /// The next run, when there is one; `None` when the sandbox is gone. Before the thread sleeps, it calls `before_sleeping`.
    fn next(&self, before_sleeping: impl Fn()) -> Option<Arc<Ticket>> {
        let mut state = lock(&self.state);
        let mut has_called = false;
        loop {
            if let Some(ticket) = state.waiting.pop_front() {
                return Some(ticket);
            }
            if state.closed {
                return None;
            }
            if !has_called {
                drop(state);
                before_sleeping();
                has_called = true;
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            state = anyway(self.changed.wait(state));
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_come_at_once_do_not_wait_for_one_idle_slot() {
        let line = |waiting: usize, slots, idle| LineState {
            waiting: (0..waiting).map(|_| Ticket::new(Input::of("x"), MessageSpan::default())).collect(),
            slots,
            idle,
            closed: false,
        };
        assert!(line(1, 0, 0).needs_a_slot(2));
        assert!(!line(1, 1, 1).needs_a_slot(2), "the idle one takes it");
        assert!(line(2, 1, 1).needs_a_slot(2), "it can take only one");
        assert!(!line(3, 2, 1).needs_a_slot(2), "there is no place for more");
    }
}
