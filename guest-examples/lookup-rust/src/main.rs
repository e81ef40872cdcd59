//! Looks a key up in a Redis server and prints its value. The message is the key. It is a component for WASI 0.2, since that is the
//! first one with sockets, and Rust's own `std::net` uses them.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter.
const BAD_MESSAGE: u8 = 65;

/// EX_TEMPFAIL: wq-run tries the message again.
const TRY_AGAIN: u8 = 75;

/// What this guest can hold without going over its memory.
const LONGEST: u64 = 64 << 20;

fn main() {
    if let Err(failure) = run() {
        // Not `eprintln!`: it panics when stderr is closed, and a panic hides the exit code.
        let _ = writeln!(io::stderr(), "lookup-rust: {failure}");
        exit(failure.code());
    }
}

/// For WASI 0.2, `std::process::exit` knows only success and failure: the code would become 1.
#[cfg(target_os = "wasi")]
fn exit(code: u8) -> ! {
    wasip2::cli::exit::exit_with_code(code);
    unreachable!("the program has ended")
}

#[cfg(not(target_os = "wasi"))]
fn exit(code: u8) -> ! {
    std::process::exit(code.into())
}

fn run() -> Result<(), Failure> {
    let server = std::env::var("REDIS").unwrap_or_else(|_| "localhost:6379".to_owned());
    let mut key = Vec::new();
    io::stdin().read_to_end(&mut key)?;
    let mut stream = TcpStream::connect(&server)?;
    let value = look_up(&mut stream, &key)?;
    let mut output = io::stdout().lock();
    output.write_all(&value)?;
    // What is still in the buffer when the program ends would fail unseen.
    Ok(output.flush()?)
}

/// Asks in Redis's protocol: lengths before bytes, so a key of any bytes is one.
fn look_up(stream: &mut (impl Read + Write), key: &[u8]) -> Result<Vec<u8>, Failure> {
    write!(stream, "*2\r\n$3\r\nGET\r\n${}\r\n", key.len())?;
    stream.write_all(key)?;
    stream.write_all(b"\r\n")?;
    stream.flush()?;

    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.by_ref().take(1024).read_line(&mut line)?;
    let length = match line.trim_end().split_at_checked(1) {
        Some(("$", "-1")) => return Err(Failure::NoSuchKey),
        Some(("$", length)) => length.parse::<u64>().ok().filter(|length| *length <= LONGEST),
        Some(("-", error)) => return Err(Failure::Server(error.to_owned())),
        _ => None,
    };
    let length = length.ok_or_else(|| Failure::Server(format!("answered {line:?}")))?;
    let mut value = Vec::new();
    answer.by_ref().take(length).read_to_end(&mut value)?;
    if (value.len() as u64) < length {
        return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(value)
}

#[derive(Debug)]
enum Failure {
    NoSuchKey,
    Server(String),
    Io(io::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::NoSuchKey => BAD_MESSAGE,
            Failure::Server(_) | Failure::Io(_) => TRY_AGAIN,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoSuchKey => f.write_str("there is no such key"),
            Failure::Server(what) => write!(f, "the server: {what}"),
            Failure::Io(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that has already answered.
    struct Answered {
        asked: Vec<u8>,
        answer: io::Cursor<&'static [u8]>,
    }

    impl Read for Answered {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answer.read(buffer)
        }
    }

    impl Write for Answered {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answered(answer: &'static [u8]) -> Result<Vec<u8>, Failure> {
        let mut server = Answered { asked: Vec::new(), answer: io::Cursor::new(answer) };
        let value = look_up(&mut server, b"a\r\nb");
        assert_eq!(server.asked, b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
        value
    }

    #[test]
    fn a_value_is_taken_byte_for_byte() {
        assert_eq!(answered(b"$4\r\n\r\n\xff\x00\r\n").unwrap(), b"\r\n\xff\x00");
        assert_eq!(answered(b"$0\r\n\r\n").unwrap(), b"");
    }

    #[test]
    fn a_key_that_is_not_there_is_a_bad_message() {
        assert_eq!(answered(b"$-1\r\n").unwrap_err().code(), BAD_MESSAGE);
    }

    #[test]
    fn what_the_server_cannot_answer_now_is_tried_again() {
        for answer in [&b"-LOADING\r\n"[..], b"", b"$9\r\nhalf", b"$99999999999\r\n", b":1\r\n", b"\xff"] {
            assert_eq!(answered(answer).unwrap_err().code(), TRY_AGAIN, "{answer:?}");
        }
    }
}
