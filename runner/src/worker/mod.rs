//! The loop: take messages, run the guest for each, settle them, and know when to stop.
//!
//! One `select!` collects what happened into an [`Event`]; [`State::on`] decides what follows, synchronously and
//! without any I/O; the loop carries that out. One message, a count, a drain and a service that runs forever are the
//! same loop with another limit. What happens to one message is in `process.rs`.

pub mod breaker;
pub mod decode;
pub mod depth;
pub mod environment;
pub mod metadata;
mod mode;
mod process;
pub mod record;
mod stop;
#[cfg(test)]
mod tests;
mod waits;
mod working;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use self::breaker::{Breaker, Change};
pub use self::mode::Mode;
use self::process::{Context, Finished, Job, process};
pub use self::stop::{StopReason, Stopped};
use self::waits::{abort_with, sleep_until};
use crate::broker::{Depth, Notice, Subscription};
use crate::fault::{self, Point};
use crate::observe::Observers;
use crate::shutdown::Phase;
use crate::task::{Outcome, Verdict};

#[derive(Clone, Debug)]
pub struct Options {
    pub mode: Mode,
    /// How long to wait for a message before the queue counts as empty; `None` is forever.
    pub wait: Option<Duration>,
    /// Guests that run at the same time.
    pub concurrency: usize,
    /// Messages that are with us at the same time, running ones included.
    pub prefetch: usize,
    pub breaker: breaker::Options,
    /// A message that is given back is counted as handed over.
    pub releases_count: bool,
    /// A larger message is a dead letter at once. In bytes.
    pub max_message: u64,
    /// What a result says that it is.
    pub result_content_type: Option<String>,
    /// Whether guests get a `/wq/message.json`.
    pub metadata: bool,
    /// Whether bodies are unpacked by their `content_encoding`.
    pub decode: bool,
    /// Whether the log leaves out messages that are done.
    pub quiet: bool,
}

pub struct Worker {
    options: Options,
    context: Arc<Context>,
    observers: Arc<Observers>,
    when_ready: Option<Box<dyn FnOnce() + Send>>,
}

/// All that can wake the worker.
enum Event {
    Phase(Phase),
    Notice(Notice),
    /// The broker's task has ended without a last word.
    BrokerPanicked,
    Finished(Finished),
    /// What one of our tasks panicked with. The message was given back.
    Panicked(String),
    ProbeDue,
    /// The breaker's pause is over.
    TryDue,
}

/// What the loop does after an event.
enum Act {
    Start(Job),
    /// Take as many messages as are wanted from now on.
    Want,
    /// Take nothing more.
    Cancel,
    /// Drop what has no place: its receipts give it back. After `Cancel` or `Want`, or the broker would fill the free places.
    GiveBack(VecDeque<Job>),
    /// Give back what was started and has not begun.
    Withdraw,
    /// Ask for the depth of the queue.
    Probe,
    /// Stop the guests.
    Abort,
}

struct State {
    mode: Mode,
    wait: Option<Duration>,
    /// Messages that may be started before one of them is settled. The sandbox runs `concurrency` of them at a time, and
    /// has the next ones at hand.
    places: usize,
    /// Deliveries that have no free place yet.
    waiting: VecDeque<Job>,
    breaker: Breaker,
    /// What may not be started for a while waits here in place of being given back.
    keeps_waiting: bool,
    observers: Arc<Observers>,
    running: usize,
    started: u64,
    stopping: Option<StopReason>,
    /// When to look whether the queue is empty.
    probe_at: Option<Instant>,
    empty_seen: u32,
    /// Since when nothing runs and nothing has been handed to us.
    idle_since: Option<Instant>,
    /// How many messages were ready at the last look.
    ready_seen: u64,
    /// How soon to look again.
    look_again: Duration,
}

/// A broker may count a message neither as ready nor have handed it over for the moment that it is between its queue
/// and our connection. Two looks with a pause in between are not fooled by it.
const EMPTY_LOOKS: u32 = 2;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// How long the end of the sinks may take. It is a small part of what the last resort of a shutdown leaves.
const SINKS_CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How soon to look again at a queue that has something, but not for us yet; the pause grows.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// How long, beyond `--wait`, messages may be ready without being handed to us before the worker ends. No broker takes longer
/// to hand a message over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// The same for a drain, at least. Another consumer may have all of them to itself, and a drain takes its place if it goes away.
const DRAIN_STANDS_BY: Duration = Duration::from_secs(30);

// === impl Worker ===

impl Worker {
    /// Works until there is a reason to stop. `phases` is an argument so that tests own the shutdown.
    pub async fn run(mut self, mut subscription: Subscription, mut phases: watch::Receiver<Phase>) -> Stopped {
        let mut state = State::new(&self.options, self.observers.clone());
        let mut runs = FuturesUnordered::new();
        let mut subscribed = true;
        subscription.want(state.wanted());
        subscription.begin();
        let mut heart = self.observers.health().works();
        let reason = loop {
            self.observers.health().beats();
            let (probe_at, try_at) = (state.probe_at, state.try_at());
            subscription.want(state.wanted());
            let event = tokio::select! {
                biased;
                Ok(()) = phases.changed() => Event::Phase(*phases.borrow_and_update()),
                Some(ended) = runs.next() => match ended {
                    Ok(finished) => Event::Finished(finished),
                    Err(panic) => Event::Panicked(text_of(panic)),
                },
                notice = subscription.next(), if subscribed => {
                    subscribed = !matches!(notice, None | Some(Notice::Failed(_)));
                    notice.map_or(Event::BrokerPanicked, Event::Notice)
                }
                () = sleep_until(probe_at) => Event::ProbeDue,
                () = sleep_until(try_at) => Event::TryDue,
                () = heart.is_due() => continue,
            };
            self.tell(&event);
            for act in state.on(event, Instant::now()) {
                match act {
                    Act::Start(job) => {
                        runs.push(AssertUnwindSafe(process(self.context.clone(), job)).catch_unwind());
                    }
                    Act::Want => subscription.take(state.wanted()),
                    Act::Cancel => subscription.cancel(),
                    Act::GiveBack(jobs) => drop(jobs),
                    Act::Withdraw => self.context.withdraw.cancel(),
                    Act::Probe => subscription.probe(),
                    Act::Abort => {
                        self.context.abort.cancel();
                        subscription.abort().cancel();
                    }
                }
            }
            if state.running == 0
                && let Some(reason) = state.stopping.take()
            {
                break reason;
            }
        };
        self.observers.health().closes();
        let abort = subscription.abort();
        let closing = async {
            let closed = match reason {
                // Nothing is left to close.
                StopReason::BrokerFailed(_) => Ok(()),
                _ => subscription.close_with(|delivery| drop(Job::new(delivery, &self.observers))).await,
            };
            // All results are where they should be, or given up. A broker that takes none does not answer this either.
            let _ = tokio::time::timeout(SINKS_CLOSE_WITHIN, self.context.sinks.close()).await;
            closed
        };
        let closed = tokio::select! {
            closed = closing => closed,
            never = abort_with(&mut phases, &abort) => match never {},
        };
        fault::reach(Point::Closed);
        Stopped { reason, counts: self.observers.counts(), closed }
    }
}

/// What somebody panicked with.
fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked with {:?}", text.unwrap_or("no text"))
}

// === impl State ===

impl State {
    fn new(options: &Options, observers: Arc<Observers>) -> State {
        let has_breaker = options.breaker.failures > 0;
        State {
            mode: options.mode,
            wait: options.wait,
            // A count starts a message only when a guest can run, because each start counts.
            places: match options.mode {
                Mode::Count(_) => options.concurrency,
                // What the sandbox has in line could all be run before the first failure is seen here.
                Mode::Drain | Mode::Forever if has_breaker => options.concurrency,
                Mode::Drain | Mode::Forever => options.concurrency.max(options.prefetch),
            },
            waiting: VecDeque::new(),
            breaker: Breaker::new(options.breaker.clone()),
            keeps_waiting: has_breaker && options.releases_count,
            observers,
            running: 0,
            started: 0,
            stopping: None,
            probe_at: None,
            empty_seen: 0,
            idle_since: None,
            ready_seen: 0,
            look_again: LOOK_AGAIN,
        }
    }

    fn on(&mut self, event: Event, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        match event {
            Event::Phase(Phase::Running) => {}
            Event::Phase(Phase::Draining(signal)) => self.stop(StopReason::Signal(signal), &mut acts),
            Event::Phase(Phase::Aborting(signal)) => {
                self.stop(StopReason::Signal(signal), &mut acts);
                acts.push(Act::Abort);
            }
            Event::Notice(Notice::Established) => {
                tracing::debug!("subscribed");
                fault::reach(Point::Idle);
                self.wait_for_work(now);
            }
            Event::Notice(Notice::Delivery(delivery)) => {
                let job = Job::new(delivery, &self.observers);
                // What still comes after the queue was found empty is work like any other.
                if self.stopping.as_ref().is_none_or(StopReason::takes_what_comes) {
                    self.waiting.push_back(job);
                    self.fill(&mut acts);
                    self.hold_back(&mut acts);
                }
            }
            Event::Notice(Notice::Depth(depth)) => self.on_depth(depth, now, &mut acts),
            Event::Notice(Notice::Lost(_)) => {
                // What waits belongs to the old connection; what runs is told by its receipt.
                self.waiting.clear();
                self.probe_at = None;
            }
            Event::Notice(Notice::Failed(error)) => self.stop(StopReason::BrokerFailed(error), &mut acts),
            Event::BrokerPanicked => self.stop(StopReason::Bug("the broker's task panicked".into()), &mut acts),
            Event::Finished(finished) => self.on_finished(finished, now, &mut acts),
            Event::Panicked(panic) => {
                self.stop(StopReason::Bug(panic), &mut acts);
                self.has_room(now, &mut acts);
            }
            Event::ProbeDue => {
                self.probe_at = None;
                acts.push(Act::Probe);
            }
            Event::TryDue => {
                self.breaker.try_one();
                self.fill(&mut acts);
                acts.push(Act::Want);
                self.wait_for_work(now);
            }
        }
        acts
    }

    fn on_finished(&mut self, finished: Finished, now: Instant, acts: &mut Vec<Act>) {
        let Finished { verdict, failed, sign, round } = finished;
        if let Some(error) = failed {
            self.stop(StopReason::not_settled(&error), acts);
        }
        match verdict {
            Verdict::HostFault(fault) | Verdict::Run(Outcome::HostFault(fault)) => {
                self.stop(StopReason::HostFault(fault), acts)
            }
            Verdict::Run(Outcome::Blocked(_)) => self.stop(StopReason::Stuck, acts),
            Verdict::Refused(kind, reason) => self.stop(StopReason::Refused(kind, reason), acts),
            Verdict::Run(Outcome::Stuck(_)) => {
                self.stop(StopReason::Stuck, acts);
                acts.push(Act::Abort);
            }
            _ => {}
        }
        if self.stopping.is_none()
            && let Some(change) = self.breaker.ended(round, sign, now, fastrand::f64())
        {
            self.on_breaker(change, acts);
        }
        self.has_room(now, acts);
    }

    fn on_breaker(&mut self, change: Change, acts: &mut Vec<Act>) {
        self.observers.breaker().set_open(change != Change::Closes);
        match change {
            Change::Opens { pause } => {
                tracing::warn!(
                    failures = self.breaker.failures(),
                    pause_ms = pause.as_millis() as u64,
                    "the breaker is open: too many different messages failed in a row; one is tried after the pause"
                );
                self.probe_at = None;
                self.idle_since = None;
                acts.push(Act::Want);
                self.hold_back(acts);
            }
            Change::StaysOpen { pause } => {
                tracing::debug!(
                    pause_ms = pause.as_millis() as u64,
                    "the message that was tried did not succeed; the next one is tried after the pause"
                );
            }
            Change::GivesUp { tries } => self.stop(StopReason::BreakerOpen { tries }, acts),
            Change::Closes => {
                tracing::info!("the breaker is closed: a message succeeded, and the work goes on");
                acts.push(Act::Want);
            }
        }
    }

    /// When the breaker lets one message be tried.
    fn try_at(&self) -> Option<Instant> {
        if self.stopping.is_none() { self.breaker.due() } else { None }
    }

    /// Gives back what waits and may not be started for a while.
    fn hold_back(&mut self, acts: &mut Vec<Act>) {
        if self.breaker.room() == Some(0) && !self.keeps_waiting && !self.waiting.is_empty() {
            acts.push(Act::GiveBack(std::mem::take(&mut self.waiting)));
        }
    }

    /// A message has ended.
    fn has_room(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.running -= 1;
        self.fill(acts);
        if self.running == 0 {
            self.wait_for_work(now);
        }
    }

    /// How many more messages can be started.
    fn wanted(&self) -> u64 {
        let left = match self.mode {
            // What waits will be started. More than that would have to be given back.
            Mode::Count(count) => count.saturating_sub(self.started + self.waiting.len() as u64),
            Mode::Drain | Mode::Forever => u64::MAX,
        };
        match self.breaker.room() {
            None => left,
            // One that waits is tried first.
            Some(room) => left.min(room.saturating_sub(self.waiting.len() as u64)),
        }
    }

    /// Starts what waits, as far as there are places for it.
    fn fill(&mut self, acts: &mut Vec<Act>) {
        while self.running < self.places && self.breaker.room() != Some(0) {
            let Some(mut job) = self.waiting.pop_front() else { return };
            job.round = self.breaker.begin();
            self.running += 1;
            self.started += 1;
            self.probe_at = None;
            self.empty_seen = 0;
            self.idle_since = None;
            acts.push(Act::Start(job));
            if self.mode == Mode::Count(self.started) {
                self.stop(StopReason::Done, acts);
            }
        }
    }

    fn wait_for_work(&mut self, now: Instant) {
        self.empty_seen = 0;
        self.look_again = LOOK_AGAIN;
        self.probe_at = match (self.mode, self.wait) {
            (Mode::Forever, _) | (_, None) => None,
            // While the breaker is open, nothing is taken from the queue, so waiting for it to become empty makes no sense.
            _ if self.breaker.due().is_some() => None,
            (Mode::Count(_) | Mode::Drain, Some(wait)) if self.running == 0 => {
                self.idle_since.get_or_insert(now);
                Some(now + wait)
            }
            _ => None,
        };
    }

    fn on_depth(&mut self, depth: Depth, now: Instant, acts: &mut Vec<Act>) {
        if self.running > 0 || self.stopping.is_some() || self.breaker.due().is_some() {
            return;
        }
        if depth.ready > 0 && self.is_left_out(depth.ready, now) {
            return self.stop(StopReason::Unserved(depth.ready), acts);
        }
        if depth.ready > 0 || self.mode == Mode::Drain && depth.delayed > 0 {
            self.empty_seen = 0;
            self.probe_at = Some(now + self.look_again);
            self.look_again = (2 * self.look_again).min(LOOK_AGAIN_MAX);
            return;
        }
        self.empty_seen += 1;
        if self.empty_seen < EMPTY_LOOKS {
            self.probe_at = Some(now + BETWEEN_LOOKS);
        } else if self.mode == Mode::Drain && depth.missing > 0 {
            self.stop(StopReason::Missing(depth.missing), acts);
        } else {
            self.stop(StopReason::Empty, acts);
        }
    }

    /// Whether messages have been ready for so long without being handed to us that we can no longer expect them.
    fn is_left_out(&mut self, ready: u64, now: Instant) -> bool {
        // Others make progress, which is what a drain is for.
        let fewer = ready < self.ready_seen;
        self.ready_seen = ready;
        if self.mode == Mode::Drain && fewer {
            self.idle_since = Some(now);
        }
        let patience = match self.mode {
            Mode::Drain => self.wait.unwrap_or_default().max(DRAIN_STANDS_BY),
            Mode::Count(_) | Mode::Forever => self.wait.unwrap_or_default() + HAND_OVER,
        };
        self.idle_since.is_some_and(|since| now >= since + patience)
    }

    /// Stops taking messages, and gives back those that wait. What runs goes on.
    fn stop(&mut self, reason: StopReason, acts: &mut Vec<Act>) {
        match &self.stopping {
            None => acts.push(Act::Cancel),
            Some(current) if current.severity() >= reason.severity() => return,
            Some(_) => {}
        }
        self.observers.health().stops(&reason, matches!(reason, StopReason::Stuck | StopReason::Bug(_)));
        acts.push(Act::GiveBack(std::mem::take(&mut self.waiting)));
        if !reason.keeps_what_was_started() {
            acts.push(Act::Withdraw);
        }
        self.stopping = Some(reason);
        self.probe_at = None;
    }
}
