//! Counts lines, words and bytes of a file in a folder that the guest may read. The message is the name of the file.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Component, Path};
use std::process::ExitCode;

/// EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter.
const BAD_MESSAGE: u8 = 65;

/// EX_TEMPFAIL: wq-run tries the message again.
const TRY_AGAIN: u8 = 75;

fn main() -> ExitCode {
    // What follows `--` on wq-run's command line.
    let folder = std::env::args().nth(1).unwrap_or_else(|| "/data".to_owned());
    match run(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Not `eprintln!`: it panics when stderr is closed, and a panic hides the exit code.
            let _ = writeln!(io::stderr(), "words-rust: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(folder: &Path) -> Result<(), Failure> {
    let mut message = Vec::new();
    io::stdin().read_to_end(&mut message)?;
    let name = String::from_utf8(message).map_err(|_| Failure::BadName("the message is not UTF-8".to_owned()))?;
    let name = name.trim_end();
    let count = Count::of(open(folder, name)?)?;
    let mut output = io::stdout().lock();
    writeln!(output, "{} {} {} {name}", count.lines, count.words, count.bytes)?;
    // What is still in the buffer when the program ends would fail unseen.
    Ok(output.flush()?)
}

/// wq-run lets no path out of the folder. It is refused here too, since it can never succeed.
fn open(folder: &Path, name: &str) -> Result<File, Failure> {
    let path = Path::new(name);
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !is_inside {
        return Err(Failure::BadName(format!("{name:?} is no name of a file")));
    }
    let path = folder.join(path);
    File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::BadName(format!("there is no {}", path.display())),
        _ => Failure::Io(error),
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    lines: u64,
    words: u64,
    bytes: u64,
}

impl Count {
    /// Of a file of any size, in the memory of one piece. Words are what ASCII white space divides, as for `wc` in the C locale.
    fn of(file: impl Read) -> io::Result<Count> {
        let mut count = Count::default();
        let mut is_in_word = false;
        for byte in BufReader::with_capacity(64 * 1024, file).bytes() {
            let byte = byte?;
            count.bytes += 1;
            count.lines += u64::from(byte == b'\n');
            // `is_ascii_whitespace` leaves out the vertical tab.
            let is_space = byte.is_ascii_whitespace() || byte == b'\x0b';
            count.words += u64::from(!is_space && !is_in_word);
            is_in_word = !is_space;
        }
        Ok(count)
    }
}

#[derive(Debug)]
enum Failure {
    BadName(String),
    Io(io::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::BadName(_) => BAD_MESSAGE,
            Failure::Io(_) => TRY_AGAIN,
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
            Failure::BadName(what) => f.write_str(what),
            Failure::Io(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_wc_counts_them() {
        let count = |text: &str| Count::of(text.as_bytes()).unwrap();
        assert_eq!(count(""), Count::default());
        assert_eq!(count("one  two\n\tthree\n"), Count { lines: 2, words: 3, bytes: 16 });
        assert_eq!(count("no end"), Count { lines: 0, words: 2, bytes: 6 });
    }

    #[test]
    fn a_name_that_leads_out_of_the_folder_is_a_bad_message() {
        for name in ["", "..", "../x", "/etc/passwd", "a/../b", "./x"] {
            let failure = open(Path::new("/data"), name).unwrap_err();
            assert_eq!(failure.code(), BAD_MESSAGE, "{name:?}: {failure}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_a_bad_message() {
        let failure = open(&std::env::temp_dir(), "there-is-no-such-file").unwrap_err();
        assert_eq!(failure.code(), BAD_MESSAGE);
    }
}
