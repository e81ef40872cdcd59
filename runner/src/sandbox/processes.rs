//! Runs in processes of their own, kept between messages: a guest that takes its process down costs one run of one
//! message, and not the connection to the broker.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;

use super::child::{HEADER, Order, Reply, Setup, header, lengths};
use super::stdio::{Lines, Stderr};
use super::{Input, Options, STUCK_AFTER};
use crate::task::{Outcome, Report};

/// The hidden command that makes this program a child.
pub const COMMAND: &str = "guest-process";

/// How long a child may take to map its guest and say so.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub struct Processes {
    /// The compiled guest, as the children map it.
    code: File,
    setup: Vec<u8>,
    options: Options,
    /// One is taken out for each run, and put back after it if it is still good.
    idle: Mutex<Vec<Child>>,
    places: Semaphore,
}

pub struct Child {
    process: tokio::process::Child,
    replies: OwnedReadHalf,
    orders: OwnedWriteHalf,
}

impl Processes {
    pub fn new(code: File, setup: Setup, places: usize) -> io::Result<Processes> {
        let options = setup.options.clone();
        let setup = serde_json::to_vec(&Order::Setup(Box::new(setup)))?;
        Ok(Processes { code, setup, options, idle: Mutex::default(), places: Semaphore::new(places) })
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
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let child = match idle {
            Some(child) => Ok(child),
            None => self.start().await,
        };
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                let fault = format!("cannot start the process that runs the guest: {error}");
                return Report::bare(Outcome::HostFault(fault), started.elapsed());
            }
        };
        let stderr = Lines::new(self.options.stderr, self.options.limits.stderr);
        let timeout = self.options.limits.timeout;
        let cancel = input.cancel.clone();
        // The child keeps the time. This one is for a child that does not.
        let overdue = async {
            tokio::select! {
                () = tokio::time::sleep(timeout) => {}
                () = cancel.cancelled() => {}
            }
            tokio::time::sleep(STUCK_AFTER).await;
        };
        let ended = tokio::select! {
            ended = child.run(input, &stderr) => ended,
            () = overdue => {
                let outcome =
                    if cancel.is_cancelled() { Outcome::Interrupted } else { Outcome::TimedOut(timeout) };
                // Dropping it kills it, whatever it is at.
                drop(child);
                return Report { stderr_tail: stderr.finish(), ..Report::bare(outcome, started.elapsed()) };
            }
        };
        match ended {
            Ok(mut report) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(child);
                if self.options.stderr == Stderr::Log {
                    report.stderr_tail = stderr.finish();
                }
                report
            }
            Err(_) => {
                let end = child.end().await;
                Report { stderr_tail: stderr.finish(), ..Report::bare(Outcome::Crashed(end), started.elapsed()) }
            }
        }
    }

    /// Starts a child and waits until it has its guest.
    pub async fn start(&self) -> io::Result<Child> {
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
        let mut child = Child { process, replies, orders };
        let ready = async {
            send(&mut child.orders, &self.setup, &[]).await?;
            receive(&mut child.replies).await
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
    async fn run(&mut self, input: Input, stderr: &Lines) -> io::Result<Report> {
        let Input { stdin, env, dirs, cancel, .. } = input;
        let Child { replies, orders, .. } = self;
        send(orders, &serde_json::to_vec(&Order::Run { env, dirs })?, &stdin).await?;
        drop(stdin);
        let conversation = async {
            loop {
                match receive(replies).await? {
                    (Reply::Stderr, bytes) => stderr.write(&bytes),
                    (Reply::Ended { outcome, stderr_tail, duration }, stdout) => {
                        return Ok(Report { outcome, stdout, stderr_tail, duration });
                    }
                    (Reply::Ready | Reply::Refused(_), _) => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        };
        let stop = async {
            cancel.cancelled().await;
            send(orders, &serde_json::to_vec(&Order::Cancel)?, &[]).await?;
            std::future::pending().await
        };
        tokio::select! {
            report = conversation => report,
            failed = stop => failed,
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

async fn send(orders: &mut OwnedWriteHalf, words: &[u8], bytes: &[u8]) -> io::Result<()> {
    orders.write_all(&[&header(words, bytes)[..], words].concat()).await?;
    orders.write_all(bytes).await
}

async fn receive(replies: &mut OwnedReadHalf) -> io::Result<(Reply, Bytes)> {
    let mut header = [0; HEADER];
    replies.read_exact(&mut header).await?;
    let (words, bytes) = lengths(header)?;
    let mut frame = vec![0; words];
    replies.read_exact(&mut frame).await?;
    let reply = serde_json::from_slice(&frame)?;
    let mut body = Vec::new();
    replies.take(bytes as u64).read_to_end(&mut body).await?;
    if body.len() < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok((reply, body.into())) }
}
