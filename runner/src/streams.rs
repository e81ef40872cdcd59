//! The standard streams of this process: whether they can be used, and how results leave through stdout.
//!
//! The standard library's own stdout and stderr are not used for output. They take a descriptor that is not open for a
//! successful write, and fail in the middle of a result when a descriptor does not block and its reader is slow.

pub mod err;
pub mod last_line;
pub mod termination;
mod write;

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use self::last_line::LastLine;
use self::write::{write_all, write_at_once};
use crate::locks::lock;

/// Why results can't be written, or input can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("it is closed")]
    Closed,
    #[error("it is not open for writing")]
    NotForWriting,
    #[error("it is not open for reading")]
    NotForReading,
}

/// The descriptors that were closed when the process began, a bit each.
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Notes that a descriptor was closed when the process began. Called before `main`: the standard library opens /dev/null
/// for such a descriptor, and a user's own /dev/null can look the same afterwards.
pub fn was_closed(descriptor: u8) {
    CLOSED.fetch_or(1 << descriptor, Ordering::Relaxed);
}

/// Whether stdin can be read.
///
/// # Errors
/// When it was closed, or is open for writing only: reads would then look like an empty input.
pub fn can_read() -> Result<(), Unusable> {
    usable(0, io::stdin().as_fd(), OFlags::WRONLY).map_err(|closed| closed.unwrap_or(Unusable::NotForReading))
}

/// Whether stdout can be written.
///
/// # Errors
/// When it was closed, or is open for reading only.
pub fn can_write() -> Result<(), Unusable> {
    usable(1, io::stdout().as_fd(), OFlags::RDONLY).map_err(|closed| closed.unwrap_or(Unusable::NotForWriting))
}

/// Whether people read stdout.
pub fn out_is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stdout())
}

/// How many columns the terminal has that stdout is; `None` if it does not tell.
pub fn out_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}

fn usable(number: u8, descriptor: BorrowedFd<'_>, useless: OFlags) -> Result<(), Option<Unusable>> {
    if CLOSED.load(Ordering::Relaxed) & (1 << number) != 0 {
        return Err(Some(Unusable::Closed));
    }
    match fcntl_getfl(descriptor) {
        Ok(flags) if flags.contains(OFlags::PATH) || flags & OFlags::ACCMODE == useless => Err(None),
        Ok(_) => Ok(()),
        Err(_) => Err(Some(Unusable::Closed)),
    }
}

/// One result at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Writes as much of the beginning of a result to stdout as it can without waiting, and returns how many bytes that is.
/// [`print`] writes the rest.
pub fn print_at_once(bytes: &[u8]) -> usize {
    /// Copying a longer result would keep the caller from other work.
    const MOST: usize = 64 * 1024;
    // A write to a file waits for whoever else writes through the same open file, and for a frozen file system.
    static IS_POSSIBLE: LazyLock<AtomicBool> = LazyLock::new(|| {
        let kind = fstat(io::stdout().as_fd()).map(|stat| FileType::from_raw_mode(stat.st_mode));
        matches!(kind, Ok(FileType::Fifo | FileType::Socket)).into()
    });
    if bytes.len() > MOST || !IS_POSSIBLE.load(Ordering::Relaxed) {
        return 0;
    }
    let Ok(_turn) = TURN.try_lock() else { return 0 };
    write_at_once(io::stdout().as_fd(), bytes).unwrap_or_else(|| {
        IS_POSSIBLE.store(false, Ordering::Relaxed);
        0
    })
}

/// Writes a result to stdout in one piece: results that come at the same time do not mix. Waits for as long as the
/// reader is slow.
///
/// On a terminal that has a last line, a result that does not end its own last line gets a line feed.
///
/// # Errors
/// When a part of it may not have been written.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    let _turn = lock(&TURN);
    let write = |bytes: &[u8]| write_all(io::stdout().as_fd(), bytes);
    let (Some(line), false) = (last_line(), bytes.is_empty()) else { return write(bytes) };
    let mut written = Ok(());
    line.aside(&mut || {
        let end: &[u8] = if bytes.ends_with(b"\n") { b"" } else { b"\n" };
        written = write(bytes).and_then(|()| write(end));
    });
    written
}

/// The line at the bottom of the terminal, such as progress, if results go to the same terminal. It is taken away while a
/// result is written.
fn last_line() -> Option<Arc<dyn LastLine>> {
    /// Whether stdout and stderr are one terminal.
    static SAME: LazyLock<bool> = LazyLock::new(|| {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let terminals = || Some((fstat(stdout.as_fd()).ok()?.st_rdev, fstat(stderr.as_fd()).ok()?.st_rdev));
        stdout.is_terminal() && stderr.is_terminal() && terminals().is_some_and(|(one, other)| one == other)
    });
    err::last_line().filter(|_| *SAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_usable_in_its_own_direction_only() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (read_only, write_only) = (OFlags::RDONLY, OFlags::WRONLY);
        assert_eq!(usable(7, writer.as_fd(), read_only), Ok(()));
        assert_eq!(usable(7, reader.as_fd(), read_only), Err(None));
        assert_eq!(usable(7, reader.as_fd(), write_only), Ok(()));
        was_closed(7);
        assert_eq!(usable(7, writer.as_fd(), read_only), Err(Some(Unusable::Closed)));
    }
}
