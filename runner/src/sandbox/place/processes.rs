//! Runs in processes of their own, kept between messages, seen from the worker.
//!
//! A guest that takes its process down costs one run of one message, and not the connection to the broker.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::claims;
use super::orders::{MAX_STDERR, Order, Reply, Setup, Told};
use super::wall::{self, Standing};
use crate::fault::{self, GuestProcess};
use crate::locks::lock;
use crate::sandbox::isolation::Wall;
use crate::sandbox::run::{Core, crash};
use crate::sandbox::spawned::{KILLED, PROGRAM};
use crate::sandbox::tiers::Tier;
use crate::sandbox::wire;
use crate::sandbox::world::clock::STUCK_AFTER;
use crate::sandbox::world::clock::running_for;
use crate::sandbox::world::denials::{self, MAX_DENIED, Noted};
use crate::sandbox::world::env::Env;
use crate::sandbox::world::grants::Dir;
use crate::sandbox::world::names::{self, MAX_LOOKUPS, MAX_NAME};
use crate::sandbox::world::options::{Cancel, Input, Options};
use crate::sandbox::world::room::{Folder, Room};
use crate::sandbox::world::stdio::Lines;
use crate::task::{Call, Outcome, Report, Usage};

/// The word that this program is started with to be a child.
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
    /// A folder that the process can read from behind any wall.
    given: Option<Folder>,
    /// The process's own stderr: a panic, or a lack of memory.
    last_words: PipeReader,
    replies: OwnedReadHalf,
    orders: OwnedWriteHalf,
}

/// The part of a message's input that a child gets.
struct Run {
    env: Env,
    dirs: Vec<Dir>,
    stdin: Bytes,
    cancel: Cancel,
}

/// A child's report of its run, checked.
struct Ended {
    outcome: Outcome,
    stdout: Bytes,
    duration: Duration,
    usage: Usage,
    stack: Vec<Call>,
    is_last: bool,
}

/// A child without an end of its run.
enum Lost {
    BeforeItBegan,
    Running(io::Error),
}

impl Processes {
    pub fn new(code: File, core: &Core, tier: Tier, places: usize, wall: Wall) -> Processes {
        wall::close_to_children();
        if wall != Wall::Off
            && let Err(error) = wall::hide_memory()
        {
            tracing::warn!(
                error,
                "guests' processes could read the worker's memory, if a guest broke out of its sandbox"
            );
        }
        let options = core.options.clone();
        let GuestProcess { strict, attempt } = fault::of_guest_process();
        let setup = Setup {
            name: core.name.clone(),
            nature: core.nature,
            tier,
            options: options.clone(),
            parent: std::process::id(),
            wall,
            told: Told { strict, attempt },
            room: PathBuf::new(),
            given: PathBuf::new(),
        };
        let room = core.room.clone();
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
        let run = Run { env, dirs, stdin, cancel };
        let mut starts = 0;
        loop {
            let idle = lock(&self.idle).pop();
            let is_fresh = idle.is_none();
            let child = match idle {
                Some(child) => Ok(child),
                None => {
                    starts += 1;
                    tokio::select! {
                        child = self.start() => child.map(|(child, _)| child),
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
                // Anything may have killed a child that was idle. One that was just started most likely died of this message,
                // so at some point the message has to count an attempt.
                Err(end) if !is_fresh || starts < STARTS => {
                    tracing::warn!(end, "a guest's process ended before its run began: another process runs the guest");
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
        let handed = match Handed::over(&run.dirs, child.given.as_ref()) {
            Ok(handed) => handed,
            Err(error) => {
                self.keep(child);
                let fault = format!("cannot hand a folder to the guest's process: {error}");
                return Ok(Report::bare(Outcome::HostFault(fault), started.elapsed()));
            }
        };
        let ended = tokio::select! {
            biased;
            ended = async {
                let ended = child.run(run, handed.dirs(), &self.options, &stderr).await;
                stderr.written().await;
                ended
            } => ended,
            () = overdue => {
                let outcome =
                    if run.cancel.is_cancelled() { Outcome::Interrupted } else { Outcome::TimedOut(timeout) };
                drop(handed);
                // Dropping it kills it, whatever it is at.
                drop(child);
                return Ok(Report { stderr_tail: stderr.finish(), ..Report::bare(outcome, started.elapsed()) });
            }
        };
        drop(handed);
        let (outcome, stdout, duration, usage, stack) = match ended {
            Ok(Ended { outcome, stdout, duration, usage, stack, is_last }) => {
                // A fault of the host's may be one of this process alone.
                if !matches!(outcome, Outcome::HostFault(_)) && !is_last {
                    self.keep(child);
                }
                (outcome, stdout, duration, claims::possible(usage, &self.options, started.elapsed()), stack)
            }
            Err(Lost::BeforeItBegan) => return Err(child.end().await),
            Err(Lost::Running(error)) => {
                let end = match error.kind() {
                    io::ErrorKind::InvalidData => format!("its process sent an invalid frame: {error}"),
                    _ => child.end().await,
                };
                (Outcome::Crashed(end), Bytes::new(), started.elapsed(), Usage::default(), Vec::new())
            }
        };
        Ok(Report { outcome, stdout, duration, usage, stack, stderr_tail: stderr.finish() })
    }

    /// Starts a child and waits until it has its guest.
    pub async fn start(&self) -> io::Result<(Child, Standing)> {
        let (grants, limits) = (&self.options.grants, &self.options.limits);
        let folder = |wanted: bool| wanted.then(|| self.room.folder()).transpose();
        let (room, given) = (folder(limits.scratch.is_some())?, folder(grants.metadata)?);
        let path = |folder: &Option<Folder>| folder.as_ref().map(|folder| folder.path().to_owned()).unwrap_or_default();
        let setup = Setup { room: path(&room), given: path(&given), ..self.setup.clone() };
        let setup = wire::words(&Order::Setup(Box::new(setup)))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (last_words, stderr) = last_words()?;
        let process = tokio::process::Command::new(PROGRAM)
            .arg(COMMAND)
            // Nothing of ours: the broker's URL is in our environment.
            .env_clear()
            .stdin(Stdio::from(self.code.try_clone()?))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            // Not ours, which may be a terminal, or a log that a guest could then write into.
            .stderr(stderr)
            // Ctrl-C is for the worker, which lets its guests finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (replies, orders) = UnixStream::from_std(ours)?.into_split();
        let mut child = Child { process, _room: room, given, last_words, replies, orders };
        let ready = async {
            wire::send(&mut child.orders, &setup, &[]).await?;
            wire::receive(&mut child.replies, |_: &Reply| 0).await
        };
        match tokio::time::timeout(READY_WITHIN, ready).await {
            Ok(Ok((Reply::Ready(standing), _))) => Ok((child, standing)),
            Ok(Ok((Reply::Refused(reason), _))) => Err(io::Error::other(reason)),
            Ok(Ok(_)) => Err(io::Error::other("it sent an unexpected reply")),
            Ok(Err(_)) => Err(io::Error::other(child.end().await)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    pub fn keep(&self, child: Child) {
        lock(&self.idle).push(child);
    }
}

impl Child {
    async fn run(&mut self, run: &Run, dirs: Vec<Dir>, options: &Options, stderr: &Lines) -> Result<Ended, Lost> {
        let Child { replies, orders, .. } = self;
        let order = wire::words(&Order::Run { env: run.env.clone(), dirs }).map_err(Lost::Running)?;
        // A run begins only when the child has taken in all of its message.
        wire::send(orders, &order, &run.stdin).await.map_err(|_| Lost::BeforeItBegan)?;
        let (lookups_tx, lookups) = channel(MAX_LOOKUPS);
        tokio::select! {
            ended = listen(replies, &run.cancel, options, stderr, lookups_tx) => ended.map_err(|error| match error.kind() {
                // Linux says so when the other end of a socket is gone and left something unread: a part of the message.
                io::ErrorKind::ConnectionReset if !run.cancel.is_cancelled() => Lost::BeforeItBegan,
                _ => Lost::Running(error),
            }),
            never = talk(orders, &run.cancel, lookups) => match never {},
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
            Ok(status) if status.signal() == Some(FORBIDDEN_CALL) => {
                format!("{status}: it made a system call that no guest makes")
            }
            Ok(status) => match last_line(&mut self.last_words) {
                Some(line) => format!("{status}: {line}"),
                None => status.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }
}

/// SIGSYS
const FORBIDDEN_CALL: i32 = 31;

/// Folders of one run, where the process can reach them. Dropping this puts them back, and their owner removes them.
struct Handed<'a> {
    dirs: &'a [Dir],
    moved: Vec<(&'a Dir, PathBuf)>,
}

impl<'a> Handed<'a> {
    fn over(dirs: &'a [Dir], given: Option<&Folder>) -> io::Result<Handed<'a>> {
        let mut handed = Handed { dirs, moved: Vec::new() };
        let Some(given) = given else { return Ok(handed) };
        for dir in dirs {
            let there = given.path().join(dir.host.file_name().unwrap_or_default());
            // Both are in the worker's own room. Landlock goes by where a folder is when it is opened.
            std::fs::rename(&dir.host, &there)?;
            handed.moved.push((dir, there));
        }
        Ok(handed)
    }

    fn dirs(&self) -> Vec<Dir> {
        if self.moved.is_empty() {
            return self.dirs.to_vec();
        }
        self.moved.iter().map(|(dir, there)| Dir { host: there.clone(), ..(*dir).clone() }).collect()
    }
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        for (dir, there) in &self.moved {
            if let Err(error) = std::fs::rename(there, &dir.host) {
                tracing::debug!(%error, "a run's folder can't be put back: it goes with the process's");
            }
        }
    }
}

/// A pipe for a process's stderr. Neither end waits for the other: what does not fit is lost.
fn last_words() -> io::Result<(PipeReader, Stdio)> {
    let (reader, writer) = io::pipe()?;
    for end in [reader.as_fd(), writer.as_fd()] {
        fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK)?;
    }
    Ok((reader, Stdio::from(writer)))
}

/// The last line that says something. It is a stranger's as much as the rest, so it is short and one line.
fn last_line(words: &mut PipeReader) -> Option<String> {
    const MOST: u64 = 64 << 10;
    const LONGEST: usize = 300;
    let mut bytes = Vec::new();
    // Ends with an error where there is nothing more to read.
    let _ = words.take(MOST).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(LONGEST).collect())
}

/// Passes on to a child what it has to know while its guest runs.
async fn talk(orders: &mut OwnedWriteHalf, cancel: &Cancel, mut lookups: Receiver<(u64, String)>) -> Infallible {
    let mut asked = FuturesUnordered::new();
    let mut is_told = false;
    loop {
        let order = tokio::select! {
            () = cancel.cancelled(), if !is_told => {
                is_told = true;
                Order::Cancel
            }
            Some((id, name)) = lookups.recv(), if asked.len() < MAX_LOOKUPS => {
                asked.push(async move { Order::Addresses { id, addresses: names::resolve(name).await } });
                continue;
            }
            Some(order) = asked.next() => order,
            else => std::future::pending().await,
        };
        // `listen` notices a child that is gone.
        if let Ok(order) = wire::words(&order) {
            let _ = wire::send(orders, &order, &[]).await;
        }
    }
}

/// Takes what a child says of its run. Nothing of it is believed without a look: a guest may have taken its process over.
async fn listen(
    replies: &mut OwnedReadHalf,
    cancel: &Cancel,
    options: &Options,
    stderr: &Lines,
    lookups: Sender<(u64, String)>,
) -> io::Result<Ended> {
    let nonsense = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    // One byte more than the limit says that there was more.
    let mut stderr_left = options.limits.stderr.saturating_add(1);
    let denied = Noted::default();
    loop {
        let may_have = |reply: &Reply| match reply {
            Reply::Stderr => stderr_left.min(MAX_STDERR as u64),
            Reply::Ended { .. } => options.limits.stdout,
            Reply::Ready(_) | Reply::Refused(_) | Reply::Lookup { .. } | Reply::Denied { .. } => 0,
        };
        match wire::receive(replies, may_have).await? {
            (Reply::Stderr, bytes) if bytes.is_empty() => return Err(nonsense("it wrote nothing to stderr")),
            (Reply::Stderr, bytes) => {
                stderr_left = stderr_left.saturating_sub(bytes.len() as u64);
                stderr.write(&bytes);
                stderr.room().await;
            }
            (Reply::Ended { outcome, duration, usage, stack, is_last }, stdout) => {
                let outcome = claims::believable(outcome, options, cancel.is_cancelled())
                    .ok_or_else(|| nonsense("a run can't end like this"))?;
                let stack = crash::believable(stack);
                return Ok(Ended { outcome, stdout, duration, usage, stack, is_last });
            }
            (Reply::Lookup { id, name }, _) => {
                if name.len() > MAX_NAME || !options.grants.may_resolve(&name) {
                    return Err(nonsense("it asks for a name that was not granted"));
                }
                // Waits for its turn, and reads no more until then.
                let _ = lookups.send((id, name)).await;
            }
            (Reply::Denied { door, what }, _) => {
                if what.len() > MAX_DENIED || !denied.is_first(door) {
                    return Err(nonsense("it says more of a denial than there is to say"));
                }
                denials::log(door, &what);
            }
            (Reply::Ready(_) | Reply::Refused(_), _) => return Err(nonsense("it was ready before")),
        }
    }
}
