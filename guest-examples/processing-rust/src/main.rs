//! The worker of the Kubernetes page "Coarse Parallel Processing Using a Work Queue":
//! one message on stdin, one line on stdout.

use std::io::{self, Read, Write};
use std::process::ExitCode;

/// EX_TEMPFAIL of sysexits.h: wq-run tries the message again.
const TRY_AGAIN: u8 = 75;

fn main() -> ExitCode {
    match process(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln!`: it panics when stderr is closed, and a panic hides the exit code.
            let _ = writeln!(io::stderr(), "processing-rust: {error}");
            ExitCode::from(TRY_AGAIN)
        }
    }
}

/// A message is bytes, not text: it comes out as it went in.
fn process(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut message = Vec::new();
    input.read_to_end(&mut message)?;

    output.write_all(b"Processing ")?;
    output.write_all(&message)?;
    output.write_all(b"\n")?;
    // What is still in the buffer when the program ends would fail unseen.
    output.flush()
}
