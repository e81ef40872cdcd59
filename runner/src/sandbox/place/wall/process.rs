//! The parts of the wall beside landlock and seccomp: resource limits, no new privileges, hidden memory.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

use super::openings::Openings;
use crate::task::limits::Limits;

/// Marks all descriptors but the standard ones as close-on-exec. wq-run opens its own descriptors like that anyway, so this is
/// for those that it inherited.
pub fn close_to_children() {
    const FIRST_OF_OTHERS: i32 = 3;
    close_fds::set_fds_cloexec(FIRST_OF_OTHERS, &[]);
}

/// Keeps other processes of the same user from reading this one's memory and environment, and the kernel from writing
/// them to a core file.
///
/// To the system the process's files in /proc belong to root then, so what is needed of them has to be open already.
pub fn hide_memory() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| error.to_string())?;
    Ok(())
}

/// A thread that runs already would stay in front of the wall.
pub(super) fn has_one_thread() -> Result<(), String> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) => Ok(()),
        Ok(threads) => Err(format!("{threads} threads run already, and landlock and seccomp hold only one")),
        Err(error) => Err(format!("the threads that run already can't be counted: {error}")),
    }
}

pub(super) fn no_new_privileges() -> Result<(), String> {
    set_no_new_privs(true).map_err(|error| error.to_string())?;
    Ok(())
}

/// Limits that need no right.
///
/// There is none on the size of a file: a guest may make a sparse one. Neither is there one on the number of processes,
/// which counts all that the user has on the machine.
pub(super) fn limit(openings: &Openings) -> Result<(), String> {
    let limits = [
        (Resource::Core, "core files", 0),
        (Resource::Nofile, "open files", open_files(openings.limits)),
        (Resource::Data, "memory", memory(openings)),
    ];
    for (resource, name, limit) in limits {
        lower(resource, limit).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// A limit is only ever lowered.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let set = getrlimit(resource);
    let least = |set: Option<u64>| Some(set.map_or(limit, |set| set.min(limit)));
    Ok(setrlimit(resource, Rlimit { current: least(set.current), maximum: least(set.maximum) })?)
}

/// The guest's limit, and the descriptors that its process has beside that.
fn open_files(limits: &Limits) -> u64 {
    const OURS: u64 = 64;
    limits.resources.saturating_add(OURS)
}

/// Memory that can be written, reservations not included: what the guest may have, what a run needs beside it at the most,
/// and what the process has anyway.
fn memory(openings: &Openings) -> u64 {
    /// Tables of the pool of instances take 128 MiB. Threads' stacks and the allocator are the rest.
    const OURS: u64 = 320 << 20;
    /// The host's part of a stack. There is a stack for the run, and one for a run that was stopped a moment ago.
    const HOST_STACK: u64 = 2 << 20;
    let Limits { memory, message, stdout, hostcall, random, .. } = *openings.limits;
    let stack = openings.stack;
    // The output lies there in pieces and whole, and so does what one call of the guest hands over.
    let host = [message, stdout, stdout, hostcall, hostcall, random, stack, stack, 2 * HOST_STACK];
    let guest = memory.max(openings.initial_memory);
    host.iter().fold(guest.saturating_add(OURS), |sum, part| sum.saturating_add(*part))
}
