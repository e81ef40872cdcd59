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

/// How often a process is looked at, for its memory for example. The kernel keeps the peak, so only growth in the last moments is missed.
const LOOK: Duration = Duration::from_millis(5);

/// Runs a command to its end. Its output goes nowhere, its stderr is kept.
pub fn run(command: &mut Command) -> Result<Ended> {
    run_with(command, Stdio::null(), |_| ())
}

/// The same with a file as stdin.
pub fn run_reading(command: &mut Command, file: &Path) -> Result<Ended> {
    run_with(command, std::fs::File::open(file)?.into(), |_| ())
}

/// Runs a command, and asks it to end after a time. It may take a while to do so, and that counts.
pub fn run_for(command: &mut Command, time: Duration) -> Result<Ended> {
    let started = Instant::now();
    let mut asked = false;
    run_with(command, Stdio::null(), |pid| {
        if !asked && started.elapsed() >= time {
            // A process that has ended by itself is seen by its status.
            let _ = ask_to_end(pid);
            asked = true;
        }
    })
}

/// Runs a command to its end. With it comes the greatest resident size that the process had, in bytes.
pub fn run_with_memory(command: &mut Command) -> Result<(Ended, u64)> {
    let mut peak = 0;
    let ended = run_with(command, Stdio::null(), |pid| {
        if let Ok(now) = memory(pid, "VmHWM") {
            peak = now;
        }
    })?;
    Ok((ended, peak))
}

fn run_with(command: &mut Command, stdin: Stdio, mut look: impl FnMut(u32) + Send) -> Result<Ended> {
    // A file, so that nobody has to read while the clock runs.
    let stderr = tempfile::NamedTempFile::new()?;
    command.stdin(stdin).stdout(Stdio::null()).stderr(stderr.reopen()?);
    let cpu_before = children_cpu()?;
    let started = Instant::now();
    let mut child = spawn(command)?;
    let pid = child.id();
    let over = AtomicBool::new(false);
    let (status, wall) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                look(pid);
                std::thread::park_timeout(LOOK);
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
    ask_to_end(child.id())?;
    Ok(child.wait()?)
}

fn ask_to_end(pid: u32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("not a process")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}

/// A line of `/proc/PID/status`, in bytes.
pub fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    let kilobytes: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// CPU time of all children that have been waited for, and of theirs.
///
/// `/proc` counts it in hundredths of a second, which is 2 % of the CPU time that a contender takes.
#[allow(unsafe_code)]
fn children_cpu() -> Result<Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: it writes one `rusage` to where it is told, and all zeros are one as well.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        usage.assume_init()
    };
    let time = |time: libc::timeval| -> Result<Duration> {
        Ok(Duration::from_secs(time.tv_sec.try_into()?) + Duration::from_micros(time.tv_usec.try_into()?))
    };
    Ok(time(usage.ru_utime)? + time(usage.ru_stime)?)
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
