//! The way of a report from the thread of a slot to whoever asked for the run.
//!
//! To wake a task of another thread is a system call, and takes as long as a fifth of a short run. So a slot wakes only the first
//! of those whose reports are ready, and that when it has nothing else to do; and whoever is woken wakes the others, who are mostly on
//! the same thread, where that is cheap.

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
/// Whoever asked has the last of it, so that its memory goes back to the thread that it came from. The allocator has to take a lock
/// for what another thread frees.
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

/// Where slots leave word of the reports that are ready.
#[derive(Default)]
pub struct Desk(Mutex<Ready>);

#[derive(Default)]
struct Ready {
    tickets: Vec<Arc<Ticket>>,
    /// One of them has been woken.
    is_told: bool,
}

/// A report may lie there while its slot goes on, if its run was shorter than this: the next one mostly is as short.
const SHORT: Duration = Duration::from_micros(100);

/// As many reports may lie there, together with a step of the clock that ends it if the next run is not as short.
const MOST: usize = 16;

/// Waits for the end of a run.
pub struct Awaited<'a> {
    desk: &'a Desk,
    ticket: &'a Ticket,
}

/// Tells whoever waits if the thread of the slot panics.
pub struct Running<'a> {
    desk: &'a Desk,
    ticket: Option<Arc<Ticket>>,
}

/// The run of each slot.
#[derive(Default)]
pub struct Slips(Mutex<Vec<Slip>>);

/// The run that a slot is at.
pub type Slip = Arc<Mutex<Option<Arc<Ticket>>>>;

// === impl Ticket ===

impl Ticket {
    pub fn new(input: Input, span: MessageSpan) -> Arc<Ticket> {
        Arc::new(Ticket { input, span, state: Mutex::default() })
    }

    /// Whether the run had not begun, and now never will.
    pub fn withdraw(&self) -> bool {
        let stage = &mut lock(&self.state).stage;
        let waits = matches!(stage, Stage::Waiting);
        if waits {
            *stage = Stage::Withdrawn;
        }
        waits
    }

    /// Whether the run is still wanted. From now on it runs.
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

// === impl Desk ===

impl Desk {
    /// The end of a run. Whoever drops this wants it no longer.
    pub fn end_of<'a>(&'a self, ticket: &'a Ticket) -> Awaited<'a> {
        Awaited { desk: self, ticket }
    }

    /// Leaves word of a report. It `can_wait` until the slot has nothing to do: then it calls [`Desk::tell`].
    fn put(&self, ticket: Arc<Ticket>, can_wait: bool) {
        let mut ready = lock(&self.0);
        ready.tickets.push(ticket);
        if !can_wait || ready.tickets.len() >= MOST {
            self.tell_of(ready);
        }
    }

    /// Wakes whoever waits for what lies there.
    pub fn tell(&self) {
        self.tell_of(lock(&self.0));
    }

    fn tell_of(&self, mut ready: MutexGuard<'_, Ready>) {
        if ready.is_told {
            // It will wake all that are there when it comes.
            return;
        }
        // Some may have gone, and others may not have come yet: these will look for themselves.
        let Some(waker) = ready.tickets.iter().find_map(|ticket| ticket.take_waker()) else {
            ready.tickets.clear();
            return;
        };
        ready.is_told = true;
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
        self.desk.wake_all();
        Poll::Ready(end)
    }
}

impl Drop for Awaited<'_> {
    /// It may be the one that was woken for all.
    fn drop(&mut self) {
        lock(&self.ticket.state).waker = None;
        self.desk.wake_all();
    }
}

// === impl Running ===

impl<'a> Running<'a> {
    pub fn new(desk: &'a Desk, ticket: Arc<Ticket>) -> Running<'a> {
        Running { desk, ticket: Some(ticket) }
    }

    pub fn ends(mut self, report: Report) {
        let is_short = report.duration < SHORT;
        self.put(End::Report(report), is_short);
    }

    fn put(&mut self, end: End, can_wait: bool) {
        if let Some(ticket) = self.ticket.take() {
            ticket.ends(end);
            self.desk.put(ticket, can_wait);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.put(End::Panicked, false);
    }
}

// === impl Slips ===

impl Slips {
    /// That of one more slot.
    pub fn add(&self) -> Slip {
        let slip = Slip::default();
        lock(&self.0).push(slip.clone());
        slip
    }

    /// Ends the wait for runs that have been going on for so long.
    pub fn give_up(&self, now: Duration, after: Duration) {
        let over = |ticket: &Arc<Ticket>| {
            let stage = &mut lock(&ticket.state).stage;
            let over = matches!(stage, Stage::RunningSince(since) if now.saturating_sub(*since) >= after);
            if over {
                *stage = Stage::Ended(End::Overdue);
            }
            over
        };
        let slips = lock(&self.0);
        for slip in slips.iter() {
            let ticket = lock(slip).clone();
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
            let desk = Desk::default();
            let tickets = [running(), running(), running()];
            let woken: [Arc<Woken>; 3] = Default::default();
            let mut awaited = tickets.each_ref().map(|ticket| Some(desk.end_of(ticket)));
            for (awaited, woken) in awaited.iter_mut().flatten().zip(&woken) {
                assert!(poll(awaited, woken).is_none());
            }
            for ticket in &tickets[..2] {
                Running::new(&desk, ticket.clone()).ends(report());
            }
            assert_eq!(woken.each_ref().map(|woken| woken.times()), [0, 0, 0], "their slot goes on first");
            desk.tell();
            desk.tell();
            assert_eq!(woken.each_ref().map(|woken| woken.times()), [1, 0, 0]);
            if goes {
                awaited[0] = None;
            } else {
                assert!(matches!(awaited[0].as_mut().and_then(|first| poll(first, &woken[0])), Some(End::Report(_))));
            }
            assert_eq!(woken.each_ref().map(|woken| woken.times()), [1, 1, 0]);
            Running::new(&desk, tickets[2].clone()).ends(Report { duration: SHORT, ..report() });
            assert_eq!(woken[2].times(), 1, "the desk was empty again, and the run was not short");
        }
    }

    #[test]
    fn a_report_that_is_there_before_anybody_waits_is_not_missed() {
        let (desk, ticket, woken) = (Desk::default(), running(), Arc::default());
        Running::new(&desk, ticket.clone()).ends(report());
        assert!(matches!(poll(&mut desk.end_of(&ticket), &woken), Some(End::Report(_))));
    }

    #[test]
    fn so_many_reports_do_not_wait_for_their_slot() {
        let (desk, woken) = (Desk::default(), Arc::<Woken>::default());
        let tickets: Vec<_> = (0..MOST).map(|_| running()).collect();
        let mut first = desk.end_of(&tickets[0]);
        assert!(poll(&mut first, &woken).is_none());
        for ticket in &tickets {
            assert_eq!(woken.times(), 0);
            Running::new(&desk, ticket.clone()).ends(report());
        }
        assert_eq!(woken.times(), 1);
    }

    #[test]
    fn one_that_has_gone_leaves_the_others_to_the_next() {
        let desk = Desk::default();
        let (gone, ticket, woken) = (running(), running(), Arc::<Woken>::default());
        let mut awaited = desk.end_of(&ticket);
        assert!(poll(&mut awaited, &woken).is_none());
        let mut first = desk.end_of(&gone);
        assert!(poll(&mut first, &Arc::default()).is_none());
        drop(first);
        for ticket in [&gone, &ticket] {
            Running::new(&desk, ticket.clone()).ends(report());
        }
        desk.tell();
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
        let (desk, ticket, woken) = (Desk::default(), running(), Arc::<Woken>::default());
        let mut awaited = desk.end_of(&ticket);
        assert!(poll(&mut awaited, &woken).is_none());
        drop(Running::new(&desk, ticket.clone()));
        assert_eq!(woken.times(), 1);
        assert!(matches!(poll(&mut awaited, &woken), Some(End::Panicked)));
    }

    #[test]
    fn a_run_that_takes_too_long_is_given_up_and_its_late_report_is_nobodys() {
        let (desk, ticket, woken, slips) = (Desk::default(), running(), Arc::<Woken>::default(), Slips::default());
        *lock(&slips.add()) = Some(ticket.clone());
        let mut awaited = desk.end_of(&ticket);
        assert!(poll(&mut awaited, &woken).is_none());
        slips.give_up(Duration::from_millis(999), Duration::from_secs(1));
        assert!(poll(&mut awaited, &woken).is_none());
        slips.give_up(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(woken.times(), 1);
        assert!(matches!(poll(&mut awaited, &woken), Some(End::Overdue)));
        Running::new(&desk, ticket.clone()).ends(report());
        assert!(poll(&mut awaited, &woken).is_none());
    }
}
