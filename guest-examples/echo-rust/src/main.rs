//! The smallest worker that does something: the message comes out as it went in. The benchmarks run it, since what it
//! costs is what wq-run costs.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd as _;
use std::process::ExitCode;

/// EX_TEMPFAIL of sysexits.h: wq-run tries the message again.
const TRY_AGAIN: u8 = 75;

fn main() -> ExitCode {
    // Rust's own `stdout()` looks through all that it is given for the end of a line, and both streams have buffers that
    // would be filled for nothing here.
    //
    // SAFETY: a guest is born with these two, and nothing else here uses or closes them.
    let (input, output) = unsafe { (File::from_raw_fd(0), File::from_raw_fd(1)) };
    match echo(&ManuallyDrop::new(input), &ManuallyDrop::new(output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(TRY_AGAIN),
    }
}

/// As much as a stream of wq-run takes at once.
const LARGE: usize = 64 * 1024;

/// Most messages are smaller than this. Memory that is touched has to be cleaned for the next one.
const SMALL: usize = 8 * 1024;

/// Piece by piece: a result is delivered whole or not at all, so there is no need to have the message whole first.
fn echo(mut input: &File, mut output: &File) -> io::Result<()> {
    let mut buffer = vec![0; SMALL];
    loop {
        let read = input.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        output.write_all(&buffer[..read])?;
        if read == buffer.len() {
            buffer.resize(LARGE, 0);
        }
    }
}
