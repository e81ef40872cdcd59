//! The process that looks into a guest and compiles it, seen from the worker.
//!
//! It is started for one job, given limits on memory and time, and gone with its memory afterwards.

use std::io::{self, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::cgroup;
use super::error::{Bound, Error};
use super::inside::{Inside, Packed};
use super::jobs::{self, Answer, COMMAND, Job, Order};
use super::lines::{Line, believable};
use super::refusal::{Cause, MAX_GUEST_SIZE, Reason, printable};
use crate::sandbox::abi::engine::Codegen;
use crate::sandbox::known::{Kind, Nature};
use crate::sandbox::spawned::{KILLED, PROGRAM};
use crate::sandbox::tiers::{Compilation, Tier};
use crate::sandbox::wire;
use crate::task::Position;

/// The bounds of compiling a guest, which includes unwrapping and validating it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub timeout: Duration,
    /// In bytes.
    pub memory: u64,
}

/// Looks into one guest, a process for each look.
#[derive(Debug)]
pub struct Compiler {
    guest: PathBuf,
    bounds: Bounds,
    /// When the clock of `bounds.timeout` started. All jobs share it.
    since: Instant,
}

/// The part of the container's limit that is left to the worker while a guest is compiled, in bytes. The guest comes on top.
const WORKER: u64 = 64 << 20;

/// In a small container the worker takes less. It gets this part of the limit.
const PART_OF_WORKER: u64 = 4;

/// A small guest compiles within this, in bytes. In a container that has less, the kernel decides.
const LEAST: u64 = 32 << 20;

/// How much of a process's stderr is kept for the error, in bytes: its beginning.
const LAST_WORDS: u64 = 16 << 10;

/// SIGABRT
const ABORTED: i32 = 6;

impl Compiler {
    pub fn new(guest: &Path, bounds: Bounds) -> Compiler {
        Compiler { guest: guest.to_owned(), bounds, since: Instant::now() }
    }

    pub fn guest(&self) -> &Path {
        &self.guest
    }

    /// The binary that a packed file or a text stands for.
    ///
    /// # Errors
    /// When it stands for none, and as for every job.
    pub fn unwrap(&self, stored: &[u8], text: bool) -> Result<Vec<u8>, Error> {
        let unwrap = Job::Unwrap { text, path: self.guest.display().to_string() };
        let (Answer::Made, wasm) = self.answer(unwrap, stored)? else { return Err(self.nonsense()) };
        if wasm.len() as u64 > MAX_GUEST_SIZE { Err(self.nonsense()) } else { Ok(wasm) }
    }

    /// The nature of a guest that was found good, its code, and what made it.
    ///
    /// # Errors
    /// When it is no guest that could run here, and as for every job.
    pub fn compile(
        &self,
        kind: Kind,
        codegen: Codegen,
        compilation: Compilation,
        wasm: &[u8],
    ) -> Result<(Nature, Tier, Vec<u8>), Error> {
        match self.answer(Job::Compile { kind, codegen, compilation }, wasm)? {
            (Answer::Compiled(nature, tier), code)
                if nature.wasi.kind() == kind && compilation.tiers(nature.proposals).contains(&tier) =>
            {
                Ok((nature, tier, code))
            }
            _ => Err(self.nonsense()),
        }
    }

    /// Inspects a guest.
    ///
    /// # Errors
    /// When its bytes are damaged, and as for every job.
    pub fn inspect(&self, kind: Kind, wasm: &[u8]) -> Result<Inside, Error> {
        match self.answer(Job::Inspect { kind }, wasm)? {
            (Answer::Inspected(inside), _) => Ok(*inside),
            _ => Err(self.nonsense()),
        }
    }

    /// Packs a guest, to see how small it gets.
    ///
    /// # Errors
    /// As for every job.
    pub fn pack(&self, wasm: &[u8]) -> Result<Packed, Error> {
        match self.answer(Job::Pack, wasm)? {
            (Answer::Packed(packed), _) => Ok(packed),
            _ => Err(self.nonsense()),
        }
    }

    /// The lines of source code of each position in a guest.
    ///
    /// # Errors
    /// As for every job.
    pub fn lines(&self, wasm: &[u8], positions: Vec<Position>) -> Result<Vec<Vec<Line>>, Error> {
        let count = positions.len();
        match self.answer(Job::Lines { positions }, wasm)? {
            (Answer::Lines(lines), _) if lines.len() == count => Ok(believable(lines)),
            _ => Err(self.nonsense()),
        }
    }

    /// Has a job done, and turns each way in which it was not into an error.
    fn answer(&self, job: Job, bytes: &[u8]) -> Result<(Answer, Vec<u8>), Error> {
        let (memory, by) = self.memory(bytes.len() as u64);
        let out_of_memory = || Error::CompileMemory { path: self.guest.clone(), limit: memory, by };
        match self.ask(job, memory, bytes).map_err(Error::NoCompiler)? {
            End::Answered(Answer::Refused(refusal), _) if refusal.reason == Reason::Memory => Err(out_of_memory()),
            End::Answered(Answer::Refused(refusal), _) => Err(Error::refused(&self.guest, refusal.printable())),
            End::Answered(Answer::Panicked(panic), _) => Err(self.failed(&panic)),
            End::Answered(answer, made) => Ok((answer, made)),
            End::Overdue => Err(Error::CompileTimeout { path: self.guest.clone(), after: self.bounds.timeout }),
            // Rust's allocator aborts when there is no memory left, and the kernel kills.
            End::Died(status, words)
                if status.signal() == Some(ABORTED) && words.contains("memory allocation of")
                    || status.signal() == Some(KILLED) =>
            {
                Err(out_of_memory())
            }
            End::Died(status, words) => Err(self.failed(&format!("{status}\n{}", words.trim_end()))),
        }
    }

    fn failed(&self, how: &str) -> Error {
        Error::CompilerFailed { path: self.guest.clone(), how: Cause(printable(how.trim_end())) }
    }

    fn nonsense(&self) -> Error {
        self.failed("it sent an unexpected answer")
    }

    /// How much memory a job gets, and whether the flag or the container sets it.
    fn memory(&self, guest: u64) -> (u64, Bound) {
        match cgroup::memory_limit().map(|limit| left_by_the_worker(limit, guest)) {
            Some(left) if left < self.bounds.memory => (left, Bound::Cgroup),
            _ => (self.bounds.memory, Bound::Flag),
        }
    }

    /// Starts a process, and talks to it until it has answered, died or been killed.
    fn ask(&self, job: Job, memory: u64, bytes: &[u8]) -> io::Result<End> {
        if cfg!(test) {
            // The program that runs the unit tests has no such command.
            let (answer, made) = jobs::done(job, bytes.to_vec());
            return Ok(End::Answered(answer, made));
        }
        let order = wire::words(&Order { job, memory, parent: std::process::id(), length: bytes.len() })?;
        let mut command = Command::new(PROGRAM);
        command.arg(COMMAND).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for the worker, which ends this with itself.
        command.process_group(0);
        let mut process = Process::start(&mut command)?;
        let pipes = (process.0.stdin.take(), process.0.stdout.take(), process.0.stderr.take());
        let (Some(stdin), Some(stdout), Some(mut stderr)) = pipes else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let id = Pid::from_child(&process.0);
        let left = self.bounds.timeout.saturating_sub(self.since.elapsed());
        let (ended_tx, ended_rx) = channel();
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let watched = thread("compile-timeout").spawn(move || process.watched(left, &ended_rx))?;
        let last_words = thread("compile-stderr").spawn(move || {
            let mut words = Vec::new();
            let _ = stderr.by_ref().take(LAST_WORDS).read_to_end(&mut words);
            // The rest is read too, so that the process does not wait forever.
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&words).into_owned()
        })?;
        if let Ok((answer, made)) = talk(stdin, stdout, &order, bytes, memory) {
            // Nothing more is needed from the process, so the thread that watches it kills it. Waiting here until the kernel
            // has freed its memory would take as long as a short run.
            drop(ended_tx);
            return Ok(End::Answered(answer, made));
        }
        // Its end is waited for while the clock runs: it may have closed its pipes and gone on.
        let ended = waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        drop(ended_tx);
        let (was_overdue, status) = watched.join().map_err(|_| io::Error::other("its watch panicked"))?;
        ended?;
        let words = last_words.join().unwrap_or_default();
        Ok(if was_overdue { End::Overdue } else { End::Died(status?, words) })
    }
}

/// How a job ended.
enum End {
    Answered(Answer, Vec<u8>),
    Overdue,
    /// With the beginning of its stderr.
    Died(ExitStatus, String),
}

/// A process that does not outlive its job, by whatever way this is left.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> io::Result<Process> {
        command.spawn().map(Process)
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
    }

    /// Kills the process when its time is over, or when the sender of `wanted` is dropped, because nobody waits for its end any
    /// more. Returns whether it was overdue, and how it ended.
    fn watched(mut self, left: Duration, wanted: &Receiver<()>) -> (bool, io::Result<ExitStatus>) {
        let overdue = wanted.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
        if overdue {
            self.kill();
            // Not reaped yet: `ask` waits for this process id, and the kernel may reuse the id of a reaped process.
            let _ = wanted.recv();
        }
        self.kill();
        (overdue, self.0.wait())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

fn talk(
    mut stdin: ChildStdin,
    mut stdout: ChildStdout,
    order: &[u8],
    guest: &[u8],
    memory: u64,
) -> io::Result<(Answer, Vec<u8>)> {
    // A process that stops reading may have answered all the same.
    let _ = wire::write(&mut stdin, order, &[]).and_then(|()| stdin.write_all(guest));
    drop(stdin);
    // It can't send what it can't hold.
    let (answer, made) = wire::read(&mut stdout, |_| memory)?;
    Ok((answer, made.into()))
}

/// How much of a container's memory limit a job may take, in bytes.
fn left_by_the_worker(limit: u64, guest: u64) -> u64 {
    let worker = WORKER.min(limit / PART_OF_WORKER);
    limit.saturating_sub(worker.saturating_add(guest)).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_container_still_compiles_small_guests() {
        const MIB: u64 = 1 << 20;
        assert_eq!(left_by_the_worker(1024 * MIB, 26 * MIB), 934 * MIB);
        assert_eq!(left_by_the_worker(64 * MIB, 0), 48 * MIB);
        assert_eq!(left_by_the_worker(16 * MIB, 0), 32 * MIB);
        assert_eq!(left_by_the_worker(0, u64::MAX), 32 * MIB);
    }
}
