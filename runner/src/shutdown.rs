//! From signals to phases: the first one drains, a second one aborts, a third one ends the process.
//!
//! The end of the grace period aborts, too.
//!
//! Signals are watched by a thread that depends on nothing else: not on the runtime, nor on the log, nor on a broker.
//! When the process does not end by itself in time, this thread ends it.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;
use tokio::sync::watch;

use crate::locks::lock;
use crate::streams::{self, termination};

/// How long the process may take to end after its guests were told to stop. It is more than the 3 s that a guest has
/// before it counts as one that can't be stopped. Together with the default of `--shutdown-timeout`, 25 s, it stays below
/// the 30 s that a pod gets.
pub const LAST_RESORT_AFTER: Duration = Duration::from_secs(4);

/// How long the last words of the process may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Time passes in slices of at most this, so that time for which the process was stopped (SIGSTOP) does not count.
const SLICE: Duration = Duration::from_secs(1);

/// What the worker should be doing. Only ever goes down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Take nothing more, let the guests finish.
    Draining(Signal),
    /// Stop the guests and give their messages back.
    Aborting(Signal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// What a shell reports for a process that this signal ended: 128 and its number.
    pub fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }
}

/// The first signal, when it comes.
pub async fn requested(phases: &mut watch::Receiver<Phase>) -> Signal {
    loop {
        if let Phase::Draining(signal) | Phase::Aborting(signal) = *phases.borrow_and_update() {
            return signal;
        }
        if phases.changed().await.is_err() {
            // Nobody watches for signals any more, so none will come.
            std::future::pending().await
        }
    }
}

/// Whether the next signal ends the process at once.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// How long guests may still run after the first signal. In milliseconds.
static GRACE: AtomicU64 = AtomicU64::new(0);

/// The one watcher of this process, if there is one.
static WATCHING: Mutex<Option<Watching>> = Mutex::new(None);

#[derive(Clone)]
struct Watching {
    phases: watch::Receiver<Phase>,
    /// The guests are stopped because of a second signal, and not because the grace period is over.
    again: Arc<AtomicBool>,
}

/// Watches for signals and says what follows from them. `status` is the exit status of a process that could not end by
/// itself.
///
/// # Errors
/// When the handlers can't be installed, or the thread can't be started.
pub fn watch(grace: Duration, status: u8) -> io::Result<watch::Receiver<Phase>> {
    GRACE.store(grace.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    AT_ONCE.store(false, Ordering::Relaxed);
    let Watching { phases, again } = watching(status)?;
    // Callers learn of a phase from the task that logs it. So the log has the signal before anything that follows from it.
    let (announced, heard) = watch::channel(Phase::Running);
    tokio::spawn(announce(phases, announced, grace, again));
    Ok(heard)
}

/// From now on the next signal ends the process at once: there is nothing to finish and nothing to give back.
pub fn end_at_once() {
    AT_ONCE.store(true, Ordering::Relaxed);
}

/// Lets signals end a process that has nothing to finish, where the kernel does not do that by itself: for process 1, a
/// signal without a handler does nothing.
///
/// # Errors
/// As for [`watch`].
pub fn end_process_1_at_once(status: u8) -> io::Result<()> {
    if std::process::id() == 1 {
        end_at_once();
        watching(status)?;
    }
    Ok(())
}

fn watching(status: u8) -> io::Result<Watching> {
    let mut watching = lock(&WATCHING);
    if let Some(watching) = &*watching {
        return Ok(watching.clone());
    }
    let (phases_tx, phases) = watch::channel(Phase::Running);
    let again = Arc::new(AtomicBool::new(false));
    // Each is left to a thread that may hang: its stderr may be one that nobody reads, and the file may be on any disk.
    let last_words = listener("last-words", move |why| streams::err::last_words(why, status))?;
    let last_log = listener("termination-log", move |why| {
        termination::write_now(&format!("wq-run: {why}\n  exit status: {status}\n"));
    })?;
    let watcher = Watcher {
        interrupts: pipe(SIGINT)?,
        terminates: pipe(SIGTERM)?,
        phases: phases_tx,
        again: again.clone(),
        last: [last_log, last_words],
        status,
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || watcher.watch())?;
    Ok(watching.insert(Watching { phases, again }).clone())
}

/// Starts a thread that calls `at_the_end` with the reason when the watcher ends the process. Returns the sender for the
/// reason.
fn listener(name: &str, at_the_end: impl Fn(&'static str) + Send + 'static) -> io::Result<SyncSender<&'static str>> {
    let (last, words) = sync_channel(1);
    std::thread::Builder::new().name(name.into()).spawn(move || words.iter().for_each(at_the_end))?;
    Ok(last)
}

/// A byte comes out of it for each signal.
fn pipe(signal: libc::c_int) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    low_level::pipe::register(signal, writer)?;
    Ok(reader)
}

/// Says what the phases mean, and hands them on. A task, since the thread that publishes them must not depend on the log.
async fn announce(
    mut phases: watch::Receiver<Phase>,
    announced: watch::Sender<Phase>,
    grace: Duration,
    again: Arc<AtomicBool>,
) {
    let grace_ms = grace.as_millis() as u64;
    loop {
        let phase = *phases.borrow_and_update();
        match phase {
            Phase::Running => {}
            Phase::Draining(signal) => {
                tracing::info!(
                    signal = signal.name(),
                    grace_ms,
                    "a signal was received: waiting for running guests to finish"
                );
            }
            Phase::Aborting(signal) if again.load(Ordering::Relaxed) => {
                tracing::warn!(signal = signal.name(), "a signal was received again: stopping running guests");
            }
            Phase::Aborting(_) => {
                tracing::warn!(grace_ms, "guests are still running after --shutdown-timeout: stopping them");
            }
        }
        announced.send_if_modified(|before| std::mem::replace(before, phase) != phase);
        if phases.changed().await.is_err() {
            return;
        }
    }
}

/// The thread that watches. It takes no lock that is held for longer than a moment, and calls nothing that can block.
struct Watcher {
    interrupts: UnixStream,
    terminates: UnixStream,
    phases: watch::Sender<Phase>,
    again: Arc<AtomicBool>,
    /// Who is told why the process ends.
    last: [SyncSender<&'static str>; 2],
    status: u8,
}

impl Watcher {
    fn watch(mut self) -> ! {
        let mut first = None;
        let mut signals = 0_u32;
        // The time left until the guests are stopped, and until the process is ended.
        let (mut until_abort, mut until_end) = (None, None);
        loop {
            let since = Instant::now();
            let received = self.wait(until_abort.min(until_end).or(until_end));
            let passed = since.elapsed().min(2 * SLICE);
            for left in [&mut until_abort, &mut until_end].into_iter().flatten() {
                *left = left.saturating_sub(passed);
            }
            if let Some(signal) = received {
                if AT_ONCE.load(Ordering::Relaxed) {
                    low_level::exit(signal.exit_code().into());
                }
                signals += 1;
                match signals {
                    1 => {
                        let grace = Duration::from_millis(GRACE.load(Ordering::Relaxed));
                        first = Some(signal);
                        (until_abort, until_end) = (Some(grace), Some(grace.saturating_add(LAST_RESORT_AFTER)));
                        let _ = self.phases.send(Phase::Draining(signal));
                    }
                    2 => {
                        self.again.store(until_abort.is_some(), Ordering::Relaxed);
                        until_abort = None;
                        until_end = until_end.min(Some(LAST_RESORT_AFTER));
                        let _ = self.phases.send(Phase::Aborting(signal));
                    }
                    _ => self.end("a third signal came before the worker had stopped"),
                }
            }
            if until_abort == Some(Duration::ZERO)
                && let Some(signal) = first
            {
                until_abort = None;
                let _ = self.phases.send(Phase::Aborting(signal));
            }
            if until_end == Some(Duration::ZERO) {
                self.end("the worker did not stop in time");
            }
        }
    }

    /// The next signal. `None` if none came within `left` or within [`SLICE`], whichever is shorter; without `left` there is no
    /// bound.
    fn wait(&mut self, left: Option<Duration>) -> Option<Signal> {
        let slice = left.map(|left| {
            let slice = left.min(SLICE);
            Timespec { tv_sec: slice.as_secs().cast_signed(), tv_nsec: slice.subsec_nanos().into() }
        });
        let mut pipes = [PollFd::new(&self.interrupts, PollFlags::IN), PollFd::new(&self.terminates, PollFlags::IN)];
        if let Err(error) = poll(&mut pipes, slice.as_ref())
            && error != Errno::INTR
        {
            // The kernel is short of memory. To look again at once would not help it.
            std::thread::sleep(Duration::from_millis(10));
        }
        // One at a time: what is not read stays there.
        let came = |pipe: &mut UnixStream| matches!(pipe.read(&mut [0]), Ok(1..));
        if came(&mut self.interrupts) {
            Some(Signal::Interrupt)
        } else {
            came(&mut self.terminates).then_some(Signal::Terminate)
        }
    }

    /// The last resort. Messages in hand come again: their connections end with the process.
    fn end(&self, why: &'static str) -> ! {
        for listener in &self.last {
            let _ = listener.try_send(why);
        }
        std::thread::sleep(LAST_WORDS);
        low_level::exit(self.status.into())
    }
}
