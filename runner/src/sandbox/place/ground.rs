//! The runtime of one thread's runs, with the threads on which wasmtime-wasi opens and reads files for them.
//!
//! Such a call may never return: a pipe waits for a writer, a network file system for its server. It can't be stopped, so it
//! outlives its run, and its thread is lost. No later run may suffer from that: after such a run the
//! runtime is given up with its threads, and the next run gets another one.
//!
//! The thread of a run and those of its files belong to that run alone as long as it goes on, so that their clocks tell what
//! it took.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nix::time::ClockId;
use rustix::thread::gettid;
use tokio::runtime::{Builder, Runtime};

use crate::locks::lock;
use crate::sandbox::run::Core;
use crate::sandbox::world::options::Input;
use crate::sandbox::world::stdio::Lines;
use crate::task::{Limit, Outcome, Report};

/// After so many turns of a run's tasks, its runtime looks at timers and sockets. By tokio's default, 61, a server that keeps a
/// connection busy could hold up the run's timeout for longer than a guest may go on after it.
const TURNS: u32 = 4;

/// More threads than the files of one run need at the same time. With more, some of them must be stuck.
const USUAL_THREADS: usize = 8;

/// A guest that opens many files side by side gets no more threads than these. A run may leave as many stuck as are usual
/// without the runtime being given up for it, and the next one has still that many.
const MOST_THREADS: usize = 2 * USUAL_THREADS;

#[derive(Debug)]
pub struct Ground {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    helpers: Arc<Helpers>,
    meter: Meter,
}

/// Divides the CPU time of one thread among its runs.
///
/// Reading the thread's clock is a system call. A run that is over before [`SHORT`] has hardly slept, so its duration is taken
/// for its CPU time. The clock is read after longer runs, and once in a while.
#[derive(Debug)]
struct Meter {
    read_at: Instant,
    /// What the clock showed.
    read: Duration,
    /// What short runs have taken since then.
    since: Duration,
}

/// Some twenty times what it takes to read the clock.
const SHORT: Duration = Duration::from_micros(20);

/// The clock is read again before a run if the last time is longer ago. Otherwise a long run would be charged with what the thread
/// did between the short runs before it.
const FRESH: Duration = Duration::from_millis(1);

/// The threads that a runtime has for calls that block.
#[derive(Debug, Default)]
struct Helpers(Mutex<HelpersState>);

#[derive(Debug, Default)]
struct HelpersState {
    /// The clocks of those that live.
    clocks: Vec<ClockId>,
    /// The CPU time of those that have ended.
    ended: Duration,
}

/// Threads that were given up, as long as they live.
#[derive(Debug, Default)]
pub struct GivenUp(Mutex<Vec<Arc<Helpers>>>);

// === impl Ground ===

impl Ground {
    pub fn new() -> std::io::Result<Ground> {
        Ground::build(&mut Builder::new_current_thread())
    }

    fn build(builder: &mut Builder) -> std::io::Result<Ground> {
        let helpers = Arc::new(Helpers::default());
        let (started, stopped) = (helpers.clone(), helpers.clone());
        let runtime = builder
            .enable_all()
            .event_interval(TURNS)
            .max_blocking_threads(MOST_THREADS)
            .on_thread_start(move || started.starts())
            .on_thread_stop(move || stopped.stops())
            .build()?;
        let meter =
            Meter { read_at: Instant::now(), read: taken(ClockId::CLOCK_THREAD_CPUTIME_ID), since: Duration::ZERO };
        Ok(Ground { runtime: Some(runtime), helpers, meter })
    }

    /// Runs a guest on this thread.
    pub fn run(&mut self, core: &Core, input: &Input, stderr: &Lines) -> Report {
        let began = Instant::now();
        if began.saturating_duration_since(self.meter.read_at) > FRESH {
            self.meter = Meter { read_at: began, read: self.cpu(), since: Duration::ZERO };
        }
        let mut report = self.block_on(pin!(core.run(input, stderr))).unwrap_or_else(|error| {
            Report::bare(Outcome::HostFault(format!("no thread for the guest's files: {error}")), began.elapsed())
        });
        report.usage.cpu = Some(self.cpu_of(report.duration));
        report
    }

    /// The CPU time of the run that has just ended and that took `duration`.
    fn cpu_of(&mut self, duration: Duration) -> Duration {
        if duration < SHORT && self.helpers.count() == 0 {
            self.meter.since += duration;
            return duration;
        }
        let Meter { read, since, .. } = self.meter;
        self.meter = Meter { read_at: Instant::now(), read: self.cpu(), since: Duration::ZERO };
        self.meter.read.saturating_sub(read).saturating_sub(since)
    }

    /// The CPU time of this thread and its helpers so far.
    fn cpu(&self) -> Duration {
        taken(ClockId::CLOCK_THREAD_CPUTIME_ID) + self.helpers.cpu()
    }

    /// Like `Runtime::block_on`, for a future that is mostly ready at its first poll. That poll is made without the runtime's
    /// loop: entering and leaving it takes too long for a short run.
    ///
    /// # Errors
    /// When the system has no thread for a file.
    pub fn block_on<F: Future>(&self, mut future: Pin<&mut F>) -> Result<F::Output, String> {
        let Some(runtime) = &self.runtime else { return Err("the runtime is gone".into()) };
        let run = || {
            let _context = runtime.enter();
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(output) => output,
                // Polls again at once, with a waker.
                Poll::Pending => runtime.block_on(async {
                    let output = future.await;
                    // Tasks that were given up with the run are dropped, with their sockets, when the runtime next looks at
                    // them. Between two messages it does not.
                    tokio::task::yield_now().await;
                    output
                }),
            }
        };
        // The run is not looked at again after a panic.
        catch_unwind(AssertUnwindSafe(run)).or_else(|panic| match panic.downcast_ref::<String>() {
            // tokio says so by a panic, with these words.
            Some(text) if text.starts_with("OS can't spawn worker thread") => Err(text.clone()),
            _ => resume_unwind(panic),
        })
    }

    /// Whether a call of the run that ended like this may still go on.
    pub fn may_be_blocked(&self, outcome: &Outcome) -> bool {
        let threads = self.helpers.count();
        let stopped = matches!(
            outcome,
            Outcome::TimedOut(_) | Outcome::Interrupted | Outcome::LimitExceeded(Limit::Scratch(_) | Limit::Stdout(_))
        );
        stopped && threads > 0 || threads > USUAL_THREADS
    }

    /// Takes another runtime, and leaves this one to its calls.
    pub fn renew(&mut self, given_up: &GivenUp) -> std::io::Result<()> {
        let left = std::mem::replace(self, Ground::new()?);
        given_up.lock().push(left.helpers.clone());
        Ok(())
    }
}

impl Drop for Ground {
    /// Waits for no call: it may never end.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// === impl Helpers ===

impl Helpers {
    fn starts(&self) {
        lock(&self.0).clocks.push(clock_of_this_thread());
    }

    fn stops(&self) {
        let state = &mut *lock(&self.0);
        let own = clock_of_this_thread();
        state.clocks.retain(|clock| *clock != own);
        state.ended += taken(own);
    }

    fn count(&self) -> usize {
        lock(&self.0).clocks.len()
    }

    fn cpu(&self) -> Duration {
        let state = lock(&self.0);
        // Under the lock a thread can't end, so that its clock is there.
        state.ended + state.clocks.iter().copied().map(taken).sum::<Duration>()
    }
}

/// The CPU clock of this thread, as another thread can read it.
fn clock_of_this_thread() -> ClockId {
    /// The kernel makes the number of such a clock from the number of a thread like this, and so does glibc's
    /// `pthread_getcpuclockid`: `CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED`.
    const OF_THREAD: i32 = 4 | 2;
    ClockId::from_raw(!gettid().as_raw_nonzero().get() << 3 | OF_THREAD)
}

/// The time on a CPU clock; zero if there is no such clock.
fn taken(clock: ClockId) -> Duration {
    clock.now().map_or(Duration::ZERO, Duration::from)
}

// === impl GivenUp ===

impl GivenUp {
    pub fn count(&self) -> usize {
        let mut threads = self.lock();
        threads.retain(|threads| threads.count() > 0);
        threads.iter().map(|threads| threads.count()).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Helpers>>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_run_that_has_to_wait_for_something_is_woken() {
        let ground = Ground::new().unwrap();
        let waits = async {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            "done"
        };
        assert_eq!(ground.block_on(pin!(waits)), Ok("done"));
        assert_eq!(ground.block_on(pin!(async { "at once" })), Ok("at once"));
    }

    #[test]
    fn a_thread_that_cannot_be_had_is_an_error_and_other_panics_are_panics() {
        // No system has room for such a stack.
        let ground = Ground::build(Builder::new_current_thread().thread_stack_size(1 << 60)).unwrap();
        let error = ground.block_on(pin!(async { tokio::task::spawn_blocking(|| ()).await.is_ok() })).unwrap_err();
        assert!(error.contains("thread"), "{error}");
        assert!(catch_unwind(AssertUnwindSafe(|| ground.block_on(pin!(async { panic!("a bug") })))).is_err());
    }

    #[test]
    fn a_task_that_is_always_ready_holds_up_no_timer() {
        let turns = Arc::new(AtomicU32::new(0));
        let ground = Ground::new().unwrap();
        ground
            .block_on(pin!(async {
                let count = turns.clone();
                // Not `yield_now`, after which the runtime looks at its timers by itself.
                tokio::spawn(poll_fn(move |context| {
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                    context.waker().wake_by_ref();
                    Poll::<()>::Pending
                }));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }))
            .unwrap();
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns <= 4 * TURNS, "{turns} turns before the timer");
    }

    #[test]
    fn the_time_of_a_helper_counts_while_it_lives_and_after_it_has_ended() {
        /// In the tests' own time on a processor.
        const WORK: Duration = Duration::from_millis(50);
        let work = || {
            let began = taken(ClockId::CLOCK_THREAD_CPUTIME_ID);
            while taken(ClockId::CLOCK_THREAD_CPUTIME_ID) - began < WORK {}
        };
        let mut builder = Builder::new_current_thread();
        let ground = Ground::build(builder.thread_keep_alive(Duration::from_millis(1))).unwrap();
        let before = ground.cpu();
        ground.block_on(pin!(async { tokio::task::spawn_blocking(work).await.unwrap() })).unwrap();
        assert!(ground.cpu() - before >= WORK, "{:?}", ground.cpu() - before);
        let until = Instant::now() + Duration::from_secs(60);
        while ground.helpers.count() > 0 {
            assert!(Instant::now() < until, "its thread has ended");
            std::thread::yield_now();
        }
        assert!(ground.helpers.cpu() >= WORK);
        work();
        assert!(ground.cpu() - before >= 2 * WORK);
    }

    #[test]
    fn a_call_that_blocks_is_given_up_with_its_thread_and_counted_until_it_ends() {
        let given_up = GivenUp::default();
        let mut ground = Ground::new().unwrap();
        assert!(!ground.may_be_blocked(&Outcome::TimedOut(Duration::ZERO)), "it has no thread");
        let (begun_tx, begun_rx) = channel::<()>();
        let (end_tx, end_rx) = channel::<()>();
        let stopped = ground.block_on(pin!(async {
            let blocked = tokio::task::spawn_blocking(move || {
                drop(begun_tx);
                end_rx.recv()
            });
            // A thread that the system has not started yet is not counted.
            assert!(begun_rx.recv().is_err());
            tokio::time::timeout(Duration::from_millis(1), blocked).await.is_err()
        }));
        assert_eq!(stopped, Ok(true));
        assert!(ground.may_be_blocked(&Outcome::TimedOut(Duration::ZERO)));
        assert!(!ground.may_be_blocked(&Outcome::Succeeded), "its thread waits for the next file");
        ground.renew(&given_up).unwrap();
        assert_eq!(given_up.count(), 1);
        assert_eq!(ground.block_on(pin!(async { tokio::task::spawn_blocking(|| 7).await.unwrap() })), Ok(7));
        drop(end_tx);
        let until = Instant::now() + Duration::from_secs(60);
        while given_up.count() > 0 {
            assert!(Instant::now() < until, "its thread has ended");
            std::thread::yield_now();
        }
    }
}
