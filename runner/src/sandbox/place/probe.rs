//! Attempts that a guest could make once it has taken its process over, for the tests of the wall.
//!
//! `WQ_FAULT=guest-process:attempt=…` in the worker has its process make one attempt in place of each run, natively and
//! behind whatever wall stands.
//!
//! The run ends as the attempt does: it succeeds, or exits with the number of the system's error.

use std::ffi::c_long;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};

use super::orders::{Replies, Reply};
use crate::sandbox::wire;
use crate::task::Outcome;

pub fn attempt(text: &str, parent: u32, replies: &Replies) -> Outcome {
    let words: Vec<&str> = text.split(' ').collect();
    let done = match words[..] {
        ["thread", ..] => {
            let rest = text.trim_start_matches("thread ").to_owned();
            let replies = replies.clone();
            return std::thread::spawn(move || attempt(&rest, parent, &replies))
                .join()
                .unwrap_or_else(|_| Outcome::HostFault("the thread panicked".into()));
        }
        ["forge", what] => forge(what, replies),
        ["descriptors"] => descriptors(replies),
        _ => reach(&words, parent),
    };
    match done {
        Ok(()) => Outcome::Succeeded,
        Err(error) => match error.raw_os_error().map(u8::try_from) {
            Some(Ok(number)) => Outcome::Exited(number),
            _ => Outcome::HostFault(format!("the attempt `{text}` failed in another way: {error}")),
        },
    }
}

fn reach(words: &[&str], parent: u32) -> io::Result<()> {
    match *words {
        ["read", path] => File::open(path)?.read(&mut [0]).map(drop),
        ["list", path] => std::fs::read_dir(path).map(drop),
        ["create", path] => File::create_new(path).map(drop),
        ["append", path] => OpenOptions::new().append(true).open(path).map(drop),
        // Asks for reading only, and empties the file all the same.
        ["empty", path] => OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(path).map(drop),
        ["remove", path] => std::fs::remove_file(path),
        ["rename", from, to] => std::fs::rename(from, to),
        ["link", from, to] => std::fs::hard_link(from, to),
        ["chmod", path] => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)),
        ["stat", path] => std::fs::metadata(path).map(drop),
        ["below", folder, path] => {
            let folder = openat(rustix::fs::CWD, folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            openat(folder, path, OFlags::RDONLY, Mode::empty()).map(drop).map_err(Into::into)
        }
        ["of-parent", file] => File::open(format!("/proc/{parent}/{file}"))?.read(&mut [0]).map(drop),
        ["exec", path] => Err(Command::new(path).exec()),
        ["spawn", path] => Command::new(path).status().map(drop),
        ["connect", address] => TcpStream::connect(address).map(drop),
        ["connect-local", path] => UnixStream::connect(Path::new(path)).map(drop),
        // For a process that no longer listens to its parent.
        ["sleep"] => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        ["call", name, ref arguments @ ..] => call(name, arguments, parent),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such attempt")),
    }
}

/// Frames that no honest process sends.
fn forge(what: &str, replies: &Replies) -> io::Result<()> {
    const HUGE: u64 = 1 << 40;
    let ended = |outcome| {
        let (usage, stack, is_last) = Default::default();
        Reply::Ended { outcome, duration: Duration::ZERO, usage, stack, is_last }
    };
    // Good in all but the lengths, so that only these can be refused.
    let words = wire::words(&ended(Outcome::Succeeded))?;
    let (length, bytes) = match what {
        "words" => (u32::MAX, 0),
        "bytes" => (words.len() as u32, HUGE),
        "outcome" => {
            replies.send(&ended(Outcome::Withdrawn), &[]);
            return Ok(());
        }
        "stderr" => loop {
            // Ends when the other end does.
            replies.stderr(&[b'x'; 4096]);
        },
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&bytes.to_le_bytes());
    frame.extend_from_slice(&words);
    // And then as much as the other end takes.
    while replies.raw(&frame).is_ok() {
        frame = vec![b'x'; 1 << 20];
    }
    Ok(())
}

/// Says which descriptors this process has.
fn descriptors(replies: &Replies) -> io::Result<()> {
    const LOOKED_AT: usize = 1024;
    for number in 0..LOOKED_AT {
        if raw(libc::SYS_fcntl, [number, libc::F_GETFD as usize, 0, 0, 0, 0]).is_ok() {
            let what = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
            replies.stderr(format!("descriptor {number}: {}\n", what.display()).as_bytes());
        }
    }
    Ok(())
}

/// A system call with plain numbers, `parent` for the parent's process id.
fn call(name: &str, arguments: &[&str], parent: u32) -> io::Result<()> {
    let Some((_, number)) = CALLS.iter().find(|(known, _)| *known == name) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such call in the list"));
    };
    let mut values = [0; 6];
    for (value, argument) in values.iter_mut().zip(arguments) {
        *value = match *argument {
            "parent" => parent as usize,
            number => number.parse::<isize>().map_err(io::Error::other)?.cast_unsigned(),
        };
    }
    raw(*number, values)
}

#[allow(unsafe_code)]
fn raw(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> io::Result<()> {
    // SAFETY: pointers among the arguments are null, so the kernel has nothing to read or write. Memory that is mapped is
    // new, and nobody knows of it.
    let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const CALLS: [(&str, c_long); 34] = [
    ("bind", libc::SYS_bind),
    ("bpf", libc::SYS_bpf),
    ("chown", libc::SYS_fchownat),
    ("clone3", libc::SYS_clone3),
    ("fcntl", libc::SYS_fcntl),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("ioctl", libc::SYS_ioctl),
    ("keyctl", libc::SYS_keyctl),
    ("kill", libc::SYS_kill),
    ("listen", libc::SYS_listen),
    ("memfd_create", libc::SYS_memfd_create),
    ("mknod", libc::SYS_mknodat),
    ("mmap", libc::SYS_mmap),
    ("mount", libc::SYS_mount),
    ("mprotect", libc::SYS_mprotect),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("prctl", libc::SYS_prctl),
    ("prlimit", libc::SYS_prlimit64),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("ptrace", libc::SYS_ptrace),
    ("sched_setaffinity", libc::SYS_sched_setaffinity),
    ("sendmmsg", libc::SYS_sendmmsg),
    ("sendto", libc::SYS_sendto),
    ("setns", libc::SYS_setns),
    ("shmget", libc::SYS_shmget),
    ("socket", libc::SYS_socket),
    ("socketpair", libc::SYS_socketpair),
    ("tgkill", libc::SYS_tgkill),
    ("truncate", libc::SYS_truncate),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("accept", libc::SYS_accept4),
];
