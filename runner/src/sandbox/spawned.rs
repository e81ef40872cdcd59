//! Processes of this program that the worker starts: which program they are, and what each does first.

use std::io;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// This program again.
pub const PROGRAM: &str = "/proc/self/exe";

/// SIGKILL
pub const KILLED: i32 = 9;

/// Makes this process end with its parent, which has the process id `parent`.
///
/// # Errors
/// When the parent is gone already.
pub fn belong_to(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The signal is sent at the parent's death, so it never comes if the parent has died before.
    let is_there = getppid().is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent));
    if is_there { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "the parent is gone")) }
}

/// If memory is short, the kernel is to end this process and not the worker, which holds the connection to the broker.
pub fn go_first() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}
