//! How the report of a run gets from the thread of its slot to the task that asked for the run.
//!
//! To wake a task of another thread takes a system call, a fifth of the time of a short run. So a slot does not wake each task. It leaves
//! its reports in a queue of completions, and wakes one of the waiting tasks when it has nothing else to do. That task wakes the others,
//! which is cheap on its own thread.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::locks::lock;
use crate::message_span::MessageSpan;
use crate::sandbox::world::options::Input;
use crate::task::Report;

/// One run, as both sides see it.
///
/// The task that asked drops it last. So the thread that allocated its memory frees it: the allocator takes a lock for memory that another
/// thread frees.
pub struct Ticket {
    pub input: Input,
    /// The message that it is about.
    pub span: MessageSpan,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stage: Stage,
    waker: Option<Waker>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Waiting,
    /// Nobody wants it any more. The slot that comes to it goes on to the next.
    Withdrawn,
    /// By the clock of the runs.
    RunningSince(Duration),
    Ended(End),
    Taken,
}

/// How a run ended for whoever asked for it.
pub enum End {
    Report(Report),
    /// It does not end.
    Overdue,
    /// The thread of its slot panicked.
    Panicked,
}

/// Runs that have ended, and whose tasks have not been woken yet.
#[derive(Default)]
pub struct Completions(Mutex<Ready>);

#[derive(Default)]
struct Ready {
    tickets: Vec<Arc<Ticket>>,
    /// One of their tasks has been woken, and has not run yet.
    is_notified: bool,
}

/// The report of a run that was shorter than this may wait while its slot goes on: the next run is mostly as short.
/// In unit tests, whose build is slow, nearly all runs are short.
const SHORT: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_micros(100) };

/// No more reports than these wait. If the next run is a long one, the next step of the clock ends the wait.
const MOST: usize = 16;

/// A future that returns how a run ended.
pub struct Awaited<'a> {
    completions: &'a Completions,
    ticket: &'a Ticket,
}

/// A slot's duty to report how a run ended. If it is dropped instead, by a panic, it reports the panic.
pub struct Running<'a> {
    completions: &'a Completions,
    ticket: Option<Arc<Ticket>>,
}

/// Looks for runs that nothing stops.
#[derive(Default)]
pub struct Watchdog(Mutex<Vec<Current>>);

/// The run that a slot is at, for the watchdog.
pub type Current = Arc<Mutex<Option<Arc<Ticket>>>>;

// === impl Ticket ===

impl Ticket {
    pub fn new(input: Input, span: MessageSpan) -> Arc<Ticket> {
        Arc::new(Ticket { input, span, state: Mutex::default() })
    }

    /// Withdraws the run if it has not begun. Returns whether it did so.
    pub fn withdraw(&self) -> bool {
        let stage = &mut lock(&self.state).stage;
        let waits = matches!(stage, Stage::Waiting);
        if waits {
            *stage = Stage::Withdrawn;
        }
        waits
    }

    /// Begins the run at `now`, by the clock of the runs, unless it was withdrawn. Returns whether it did so.
    pub fn begins(&self, now: Duration) -> bool {
        let stage = &mut lock(&self.state).stage;
        let waits = matches!(stage, Stage::Waiting);
        if waits {
            *stage = Stage::RunningSince(now);
        }
        waits
    }

    fn ends(&self, end: End) {
        let stage = &mut lock(&self.state).stage;
        // The report of a run that was given up comes too late.
        if matches!(stage, Stage::RunningSince(_)) {
            *stage = Stage::Ended(end);
        }
    }

    fn take_waker(&self) -> Option<Waker> {
        lock(&self.state).waker.take()
    }

    fn wake(&self) {
        if let Some(waker) = self.take_waker() {
            waker.wake();
        }
    }
}

// === impl Completions ===

impl Completions {
    /// Waits for the end of a run.
    pub fn end_of<'a>(&'a self, ticket: &'a Ticket) -> Awaited<'a> {
        Awaited { completions: self, ticket }
    }

    /// Adds a run. If it `can_wait`, its slot calls [`Completions::notify`] when it has nothing else to do.
    fn push(&self, ticket: Arc<Ticket>, can_wait: bool) {
        let mut ready = lock(&self.0);
        ready.tickets.push(ticket);
        if !can_wait || ready.tickets.len() >= MOST {
            self.notify_one(ready);
        }
    }

    /// Wakes one of the waiting tasks, which will wake the others.
    pub fn notify(&self) {
        self.notify_one(lock(&self.0));
    }

    fn notify_one(&self, mut ready: MutexGuard<'_, Ready>) {
        if ready.is_notified {
            // That one will wake all that are here by then.
            return;
        }
        // Tasks without a waker are gone, or have not been polled yet. Those find their reports when they are.
        let Some(waker) = ready.tickets.iter().find_map(|ticket| ticket.take_waker()) else {
            ready.tickets.clear();
            return;
        };
        ready.is_notified = true;
        drop(ready);
        waker.wake();
    }

    fn wake_all(&self) {
        let Ready { tickets, .. } = std::mem::take(&mut *lock(&self.0));
        tickets.iter().for_each(|ticket| ticket.wake());
    }
}

impl Future for Awaited<'_> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let mut state = lock(&self.ticket.state);
        if !matches!(state.stage, Stage::Ended(_)) {
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        state.waker = None;
        let Stage::Ended(end) = std::mem::replace(&mut state.stage, Stage::Taken) else {
            unreachable!("it was looked at")
        };
        drop(state);
        self.completions.wake_all();
        Poll::Ready(end)
    }
}

impl Drop for Awaited<'_> {
    /// This may be the one that was woken for all.
    fn drop(&mut self) {
        lock(&self.ticket.state).waker = None;
        self.completions.wake_all();
    }
}

// === impl Running ===

impl<'a> Running<'a> {
    pub fn new(completions: &'a Completions, ticket: Arc<Ticket>) -> Running<'a> {
        Running { completions, ticket: Some(ticket) }
    }

    pub fn ends(mut self, report: Report) {
        let is_short = report.duration < SHORT;
        self.put(End::Report(report), is_short);
    }

    fn put(&mut self, end: End, can_wait: bool) {
        if let Some(ticket) = self.ticket.take() {
            ticket.ends(end);
            self.completions.push(ticket, can_wait);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.put(End::Panicked, false);
    }
}

// === impl Watchdog ===

impl Watchdog {
    /// The place of one more slot.
    pub fn add(&self) -> Current {
        let current = Current::default();
        lock(&self.0).push(current.clone());
        current
    }

    /// Reports each run as overdue that has gone on for `after` or longer.
    pub fn give_up(&self, now: Duration, after: Duration) {
        let over = |ticket: &Arc<Ticket>| {
            let stage = &mut lock(&ticket.state).stage;
            let over = matches!(stage, Stage::RunningSince(since) if now.saturating_sub(*since) >= after);
            if over {
                *stage = Stage::Ended(End::Overdue);
            }
            over
        };
        for current in lock(&self.0).iter() {
            let ticket = lock(current).clone();
            if let Some(ticket) = ticket.filter(over) {
                ticket.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::task::Outcome;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn waiting() -> Arc<Ticket> {
        Ticket::new(Input::of("x"), MessageSpan::default())
    }

    fn running() -> Arc<Ticket> {
        let ticket = waiting();
        assert!(ticket.begins(Duration::ZERO));
        ticket
    }

    fn report() -> Report {
        Report::bare(Outcome::Succeeded, Duration::ZERO)
    }

    fn poll(awaited: &mut Awaited<'_>, woken: &Arc<Woken>) -> Option<End> {
        match Pin::new(awaited).poll(&mut Context::from_waker(&Waker::from(woken.clone()))) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    }

    #[test]
    fn only_the_first_is_woken_and_wakes_the_others_whether_it_looks_or_goes() {
        for goes in [false, true] {
            let completions = Completions::default();
            let tickets = [running(), running(), running()];
            let woken: [Arc<Woken>; 3] = Default::default();
            let mut awaited = tickets.each_ref().map(|ticket| Some(completions.end_of(ticket)));
            for (awaited, woken) in awaited.iter_mut().flatten().zip(&woken) {
                assert!(poll(awaited, woken).is_none());
            }
            for ticket in &tickets[..2] {
                Running::new(&completions, ticket.clone()).ends(report());
            }
            assert_eq!(woken.each_ref().map(|woken| woken.times()), [0, 0, 0], "their slot goes on first");
            completions.notify();
            completions.notify();
            assert_eq!(woken.each_ref().map(|woken| woken.times()), [1, 0, 0]);
            if goes {
                awaited[0] = None;
            } else {
                assert!(matches!(awaited[0].as_mut().and_then(|first| poll(first, &woken[0])), Some(End::Report(_))));
            }
            assert_eq!(woken.each_ref().map(|woken| woken.times()), [1, 1, 0]);
            Running::new(&completions, tickets[2].clone()).ends(Report { duration: SHORT, ..report() });
            assert_eq!(woken[2].times(), 1, "nothing was waiting any more, and the run was not short");
        }
    }

    #[test]
    fn a_report_that_is_there_before_anybody_waits_is_not_missed() {
        let (completions, ticket, woken) = (Completions::default(), running(), Arc::default());
        Running::new(&completions, ticket.clone()).ends(report());
        assert!(matches!(poll(&mut completions.end_of(&ticket), &woken), Some(End::Report(_))));
    }

    #[test]
    fn so_many_reports_do_not_wait_for_their_slot() {
        let (completions, woken) = (Completions::default(), Arc::<Woken>::default());
        let tickets: Vec<_> = (0..MOST).map(|_| running()).collect();
        let mut first = completions.end_of(&tickets[0]);
        assert!(poll(&mut first, &woken).is_none());
        for ticket in &tickets {
            assert_eq!(woken.times(), 0);
            Running::new(&completions, ticket.clone()).ends(report());
        }
        assert_eq!(woken.times(), 1);
    }

    #[test]
    fn one_that_has_gone_leaves_the_others_to_the_next() {
        let completions = Completions::default();
        let (gone, ticket, woken) = (running(), running(), Arc::<Woken>::default());
        let mut awaited = completions.end_of(&ticket);
        assert!(poll(&mut awaited, &woken).is_none());
        let mut first = completions.end_of(&gone);
        assert!(poll(&mut first, &Arc::default()).is_none());
        drop(first);
        for ticket in [&gone, &ticket] {
            Running::new(&completions, ticket.clone()).ends(report());
        }
        completions.notify();
        assert_eq!(woken.times(), 1);
    }

    #[test]
    fn a_run_is_withdrawn_or_begins_and_never_both() {
        let ticket = waiting();
        assert!(ticket.withdraw() && !ticket.begins(Duration::ZERO));
        assert!(!running().withdraw());
    }

    #[test]
    fn a_slot_that_panics_says_so() {
        let (completions, ticket, woken) = (Completions::default(), running(), Arc::<Woken>::default());
        let mut awaited = completions.end_of(&ticket);
        assert!(poll(&mut awaited, &woken).is_none());
        drop(Running::new(&completions, ticket.clone()));
        assert_eq!(woken.times(), 1);
        assert!(matches!(poll(&mut awaited, &woken), Some(End::Panicked)));
    }

    #[test]
    fn a_run_that_takes_too_long_is_given_up_and_its_late_report_is_nobodys() {
        let (completions, ticket, woken, watchdog) =
            (Completions::default(), running(), Arc::<Woken>::default(), Watchdog::default());
        *lock(&watchdog.add()) = Some(ticket.clone());
        let mut awaited = completions.end_of(&ticket);
        assert!(poll(&mut awaited, &woken).is_none());
        watchdog.give_up(Duration::from_millis(999), Duration::from_secs(1));
        assert!(poll(&mut awaited, &woken).is_none());
        watchdog.give_up(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(woken.times(), 1);
        assert!(matches!(poll(&mut awaited, &woken), Some(End::Overdue)));
        Running::new(&completions, ticket.clone()).ends(report());
        assert!(poll(&mut awaited, &woken).is_none());
    }
}
