//! Runs in processes of their own, kept between messages: a guest that takes its process down costs one run of one
//! message, and not the connection to the broker.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::child::{MAX_STDERR, Order, Reply, Setup};
use super::clock::running_for;
use super::room::{Folder, Room};
use super::stdio::Lines;
use super::{Input, Options, STUCK_AFTER, claims, wire};
use crate::task::{Outcome, Report};

/// The hidden command that makes this program a child.
pub const COMMAND: &str = "guest-process";

/// How long a child may take to map its guest and say so.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How many processes are started for one message, as long as they die before its run begins.
const STARTS: u32 = 2;

pub struct Processes {
    /// The compiled guest, as the children map it.
    code: File,
    setup: Setup,
    /// Each child has a folder in it, for those of its runs.
    room: Arc<Room>,
    options: Options,
    /// One is taken out for each run, and put back after it if it is still good.
    idle: Mutex<Vec<Child>>,
    places: Semaphore,
}

pub struct Child {
    process: tokio::process::Child,
    /// Removed when the process was told to end.
    _room: Option<Folder>,
    replies: OwnedReadHalf,
    orders: OwnedWriteHalf,
}

/// What a child is told of one message.
struct Run {
    order: Vec<u8>,
    stdin: Bytes,
    cancel: CancellationToken,
}

/// What a child says of its run, checked.
struct Ended {
    outcome: Outcome,
    stdout: Bytes,
    duration: Duration,
}

/// A child without an end of its run.
enum Lost {
    BeforeItBegan,
    Running(io::Error),
}

impl Processes {
    pub fn new(code: File, setup: Setup, places: usize, room: Arc<Room>) -> Processes {
        let options = setup.options.clone();
        Processes { code, setup, room, options, idle: Mutex::default(), places: Semaphore::new(places) }
    }

    pub async fn run(&self, input: Input) -> Report {
        let asked = Instant::now();
        let _place = tokio::select! {
            biased;
            place = self.places.acquire() => place,
            () = input.withdraw.cancelled() => return Report::bare(Outcome::Withdrawn, asked.elapsed()),
            () = input.cancel.cancelled() => return Report::bare(Outcome::Withdrawn, asked.elapsed()),
        };
        let started = Instant::now();
        let Input { stdin, env, dirs, cancel, .. } = input;
        let order = match wire::words(&Order::Run { env, dirs }) {
            Ok(order) => order,
            Err(error) => {
                return Report::bare(
                    Outcome::HostFault(format!("cannot hand on the message: {error}")),
                    started.elapsed(),
                );
            }
        };
        let run = Run { order, stdin, cancel };
        let mut starts = 0;
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let is_fresh = idle.is_none();
            let child = match idle {
                Some(child) => Ok(child),
                None => {
                    starts += 1;
                    tokio::select! {
                        child = self.start() => child,
                        () = run.cancel.cancelled() => return Report::bare(Outcome::Interrupted, started.elapsed()),
                    }
                }
            };
            let child = match child {
                Ok(child) => child,
                Err(error) => {
                    let fault = format!("cannot start the process that runs the guest: {error}");
                    return Report::bare(Outcome::HostFault(fault), started.elapsed());
                }
            };
            match self.run_in(child, &run).await {
                Ok(report) => return Report { duration: report.duration.min(started.elapsed()), ..report },
                // One that waited for long may have been killed by anybody. One that was just started most likely died of
                // this message, so the message has to count its attempts at some time.
                Err(end) if !is_fresh || starts < STARTS => {
                    tracing::warn!("the process that was to run the guest is gone ({end}): another one runs it");
                }
                Err(end) => {
                    let end = format!("{end}, before its run began");
                    return Report::bare(Outcome::Crashed(end), started.elapsed());
                }
            }
        }
    }

    /// Runs a message in this child, and keeps the child if it is still good. The error is how the child ended if that was
    /// before the run began.
    async fn run_in(&self, mut child: Child, run: &Run) -> Result<Report, String> {
        let started = Instant::now();
        let stderr = Lines::new(self.options.stderr, self.options.limits.stderr);
        let timeout = self.options.limits.timeout;
        // The child keeps the time. This one is for a child that does not.
        let overdue = async {
            tokio::select! {
                () = running_for(timeout) => {}
                () = run.cancel.cancelled() => {}
            }
            running_for(STUCK_AFTER).await;
        };
        let ended = tokio::select! {
            biased;
            ended = async {
                let ended = child.run(run, &self.options, &stderr).await;
                stderr.written().await;
                ended
            } => ended,
            () = overdue => {
                let outcome =
                    if run.cancel.is_cancelled() { Outcome::Interrupted } else { Outcome::TimedOut(timeout) };
                // Dropping it kills it, whatever it is at.
                drop(child);
                return Ok(Report { stderr_tail: stderr.finish(), ..Report::bare(outcome, started.elapsed()) });
            }
        };
        let (outcome, stdout, duration) = match ended {
            Ok(Ended { outcome, stdout, duration }) => {
                // A fault of the host's may be one of this process alone.
                if !matches!(outcome, Outcome::HostFault(_)) {
                    self.keep(child);
                }
                (outcome, stdout, duration)
            }
            Err(Lost::BeforeItBegan) => return Err(child.end().await),
            Err(Lost::Running(error)) => {
                let end = match error.kind() {
                    io::ErrorKind::InvalidData => format!("what its process says makes no sense: {error}"),
                    _ => child.end().await,
                };
                (Outcome::Crashed(end), Bytes::new(), started.elapsed())
            }
        };
        Ok(Report { outcome, stdout, duration, stderr_tail: stderr.finish() })
    }

    /// Starts a child and waits until it has its guest.
    pub async fn start(&self) -> io::Result<Child> {
        let room = self.options.grants.scratch.map(|_| self.room.folder()).transpose()?;
        let path = room.as_ref().map(|room| room.path().to_owned()).unwrap_or_default();
        let setup = wire::words(&Order::Setup(Box::new(Setup { room: path, ..self.setup.clone() })))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let process = tokio::process::Command::new("/proc/self/exe")
            .arg(COMMAND)
            // Nothing of ours: the broker's URL is in our environment.
            .env_clear()
            .stdin(Stdio::from(self.code.try_clone()?))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            // Ctrl-C is for the worker, which lets its guests finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (replies, orders) = UnixStream::from_std(ours)?.into_split();
        let mut child = Child { process, _room: room, replies, orders };
        let ready = async {
            wire::send(&mut child.orders, &setup, &[]).await?;
            wire::receive(&mut child.replies, |_: &Reply| 0).await
        };
        match tokio::time::timeout(READY_WITHIN, ready).await {
            Ok(Ok((Reply::Ready, _))) => Ok(child),
            Ok(Ok((Reply::Refused(reason), _))) => Err(io::Error::other(reason)),
            Ok(Ok(_)) => Err(io::Error::other("it says what it should not")),
            Ok(Err(_)) => Err(io::Error::other(child.end().await)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    pub fn keep(&self, child: Child) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }
}

impl Child {
    async fn run(&mut self, run: &Run, options: &Options, stderr: &Lines) -> Result<Ended, Lost> {
        let Child { replies, orders, .. } = self;
        // What it has not taken in whole it has not begun.
        wire::send(orders, &run.order, &run.stdin).await.map_err(|_| Lost::BeforeItBegan)?;
        let stop = async {
            run.cancel.cancelled().await;
            // A child that is gone is noticed by who listens to it.
            if let Ok(order) = wire::words(&Order::Cancel) {
                let _ = wire::send(orders, &order, &[]).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            ended = listen(replies, &run.cancel, options, stderr) => ended.map_err(|error| match error.kind() {
                // Linux says so when the other end of a socket is gone and left something unread: a part of the message.
                io::ErrorKind::ConnectionReset if !run.cancel.is_cancelled() => Lost::BeforeItBegan,
                _ => Lost::Running(error),
            }),
            never = stop => never,
        }
    }

    /// How the process ended, for people. One that hung up and goes on is made to end.
    async fn end(mut self) -> String {
        const SOON: Duration = Duration::from_secs(1);
        if tokio::time::timeout(SOON, self.process.wait()).await.is_err() {
            let _ = self.process.start_kill();
        }
        match self.process.wait().await {
            Ok(status) if status.signal() == Some(KILLED) => {
                format!("{status}, as the kernel does when memory is short")
            }
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

/// SIGKILL
const KILLED: i32 = 9;

/// Takes what a child says of its run. Nothing of it is believed without a look: a guest may have taken its process over.
async fn listen(
    replies: &mut OwnedReadHalf,
    cancel: &CancellationToken,
    options: &Options,
    stderr: &Lines,
) -> io::Result<Ended> {
    let nonsense = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    // One byte more than the limit says that there was more.
    let mut stderr_left = options.limits.stderr.saturating_add(1);
    loop {
        let may_have = |reply: &Reply| match reply {
            Reply::Stderr => stderr_left.min(MAX_STDERR as u64),
            Reply::Ended { .. } => options.limits.stdout,
            Reply::Ready | Reply::Refused(_) => 0,
        };
        match wire::receive(replies, may_have).await? {
            (Reply::Stderr, bytes) if bytes.is_empty() => return Err(nonsense("it wrote nothing to stderr")),
            (Reply::Stderr, bytes) => {
                stderr_left = stderr_left.saturating_sub(bytes.len() as u64);
                stderr.write(&bytes);
                stderr.room().await;
            }
            (Reply::Ended { outcome, duration }, stdout) => {
                let outcome = claims::believable(outcome, options, cancel.is_cancelled())
                    .ok_or_else(|| nonsense("a run can't end like this"))?;
                return Ok(Ended { outcome, stdout, duration });
            }
            (Reply::Ready | Reply::Refused(_), _) => return Err(nonsense("it was ready before")),
        }
    }
}
