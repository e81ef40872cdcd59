//! The smallest worker that does something: the message comes out as it went in. The benchmarks run it, since what it
//! costs is what wq-run costs.

use std::io;
use std::process::ExitCode;

/// EX_TEMPFAIL of sysexits.h: wq-run tries the message again.
const TRY_AGAIN: u8 = 75;

fn main() -> ExitCode {
    match echo(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(TRY_AGAIN),
    }
}

fn echo(mut input: impl io::Read, mut output: impl io::Write) -> io::Result<()> {
    // Read whole first: a result is delivered whole or not at all anyway.
    let mut message = Vec::new();
    input.read_to_end(&mut message)?;
    output.write_all(&message)?;
    output.flush()
}
