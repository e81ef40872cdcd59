//! Writes to descriptors, whether they block or not.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

/// Writes all bytes to a descriptor, whether that blocks or not.
///
/// # Errors
/// When a part of them may not have been written.
pub(super) fn write_all(descriptor: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(descriptor, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for_room(descriptor)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes as many bytes as a descriptor takes without a wait, whether it blocks or not, and returns how many these are. `None` if
/// this kind of descriptor can't do that, or not on this kernel: most files, terminals, pipes with a name, and all pipes before Linux
/// 6.4. An error is left to the next write. A reader that splices from a pipe can keep even this waiting while it does so.
pub(super) fn write_at_once(descriptor: BorrowedFd<'_>, bytes: &[u8]) -> Option<usize> {
    /// Where the descriptor itself stands.
    const HERE: u64 = u64::MAX;
    match pwritev2(descriptor, &[IoSlice::new(bytes)], HERE, ReadWriteFlags::NOWAIT) {
        Ok(written) => Some(written),
        Err(Errno::AGAIN | Errno::INTR) => Some(0),
        Err(_) => None,
    }
}

/// Waits until a descriptor that does not block takes something again. If its reader has gone, the next write says so.
fn wait_for_room(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::new(&descriptor, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_that_does_not_block_gets_every_byte() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
        let expected = bytes.clone();
        let writing = std::thread::spawn(move || write_all(writer.as_fd(), &bytes));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert!(read == expected);
    }

    #[test]
    fn a_pipe_takes_at_once_what_it_has_room_for_and_a_full_one_nothing() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        // Some kernels can't do that.
        let Some(taken) = write_at_once(writer.as_fd(), &bytes) else { return };
        assert!(0 < taken && taken < bytes.len(), "{taken}");
        assert_eq!(write_at_once(writer.as_fd(), &bytes), Some(0));
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == bytes[..taken]);
    }

    #[test]
    fn a_reader_that_has_gone_is_an_error() {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        assert_eq!(write_at_once(writer.as_fd(), b"lost"), None);
        assert_eq!(write_all(writer.as_fd(), b"lost").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
