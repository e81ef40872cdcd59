//! A process with what it used up: wall time from start to exit, CPU time with all its children, memory at its peak.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Result;

pub struct Ended {
    pub status: ExitStatus,
    pub wall: Duration,
    /// User and system time of the process and of those that it waited for.
    pub cpu: Duration,
    pub stderr: String,
}

/// What the kernel counts CPU time in for `/proc/PID/stat`, on every Linux that there is.
const TICKS_PER_SECOND: u64 = 100;

/// How often a process is asked for its memory. The kernel keeps the peak, so only growth in the last moments is missed.
const LOOK_AT_MEMORY: Duration = Duration::from_millis(5);

/// Runs a command to its end. Its output goes nowhere, its stderr is kept.
pub fn run(command: &mut Command) -> Result<Ended> {
    run_with(command, |_| ())
}

/// The same, and the greatest resident size that the process had, in bytes.
pub fn run_with_memory(command: &mut Command) -> Result<(Ended, u64)> {
    let mut peak = 0;
    let ended = run_with(command, |pid| {
        if let Ok(now) = memory(pid, "VmHWM") {
            peak = now;
        }
    })?;
    Ok((ended, peak))
}

fn run_with(command: &mut Command, mut look: impl FnMut(u32) + Send) -> Result<Ended> {
    // A file, so that nobody has to read while the clock runs.
    let stderr = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.reopen()?);
    let cpu_before = children_cpu()?;
    let started = Instant::now();
    let mut child = spawn(command)?;
    let pid = child.id();
    let over = AtomicBool::new(false);
    let (status, wall) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                look(pid);
                std::thread::park_timeout(LOOK_AT_MEMORY);
            }
        });
        let status = child.wait();
        let wall = started.elapsed();
        over.store(true, Ordering::Relaxed);
        (status, wall)
    });
    let cpu = children_cpu()?.saturating_sub(cpu_before);
    Ok(Ended { status: status?, wall, cpu, stderr: std::fs::read_to_string(stderr.path())? })
}

pub fn spawn(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| format!("cannot start {program}: {error}").into())
}

/// Asks a process to end, and waits for it.
pub fn terminate(child: &mut Child) -> Result<ExitStatus> {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    }
    Ok(child.wait()?)
}

/// A line of `/proc/PID/status`, in bytes.
pub fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    let kilobytes: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// CPU time of all children that have been waited for, and of theirs.
fn children_cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses that may hold anything.
    let (_, after) = stat.rsplit_once(')').ok_or("/proc/self/stat has no name")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).ok_or("/proc/self/stat is short");
    let ticks = field(16)?.parse::<u64>()? + field(17)?.parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

impl Ended {
    /// An error unless the process says that it did its work.
    pub fn succeeded(self) -> Result<Ended> {
        if self.status.success() {
            return Ok(self);
        }
        let tail: Vec<&str> = self.stderr.lines().rev().take(3).collect();
        Err(format!("{}: {}", self.status, tail.into_iter().rev().collect::<Vec<_>>().join(" / ")).into())
    }
}

/// A program in a folder of `PATH`.
pub fn installed(name: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| Path::new(program).is_file())
        .ok_or_else(|| format!("there is no `{name}`").into())
}
