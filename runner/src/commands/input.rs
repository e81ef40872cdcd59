//! Lines of a file or of stdin as they come: each is there when it is complete, and few of them are in memory.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::process::can_read;
use crate::error::Error;

/// How much is read at once, and how many of these wait for whoever takes them.
const READ: usize = 64 << 10;
const CHUNKS: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The first is 1.
    pub number: u64,
    /// Without its end.
    pub text: Bytes,
}

/// Why there is no further line.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("line {0} is longer than {1} bytes, the most that is read as one line")]
    TooLong(u64, usize),
    #[error("it could not be read on")]
    Io(#[source] io::Error),
}

/// Lines that were at hand together.
pub type Chunk = Result<Vec<Line>, Unreadable>;

pub enum Source {
    Stdin,
    File(File),
}

/// Whether somebody types what is read from here.
pub fn is_typed(path: &Path) -> bool {
    path == Path::new("-") && io::stdin().is_terminal()
}

impl Source {
    /// # Errors
    /// When it can't be read.
    pub fn open(path: &Path) -> Result<Source, Error> {
        if path == Path::new("-") {
            can_read()?;
            return Ok(Source::Stdin);
        }
        let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => Ok(file),
        });
        opened.map(Source::File).map_err(|source| unreadable(path, source))
    }

    /// All of it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read_whole(self, path: &Path) -> Result<Bytes, Error> {
        let mut whole = Vec::new();
        let read = match self {
            Source::Stdin => io::stdin().lock().read_to_end(&mut whole),
            Source::File(mut file) => file.read_to_end(&mut whole),
        };
        read.map_err(|source| unreadable(path, source))?;
        Ok(whole.into())
    }

    /// Its lines, each no longer than `longest`. They are read by a thread, which waits while nobody takes them.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn lines(self, longest: usize) -> io::Result<Receiver<Chunk>> {
        let (chunks, lines) = channel(CHUNKS);
        let read = move || match self {
            Source::Stdin => read_lines(io::stdin().lock(), longest, &chunks),
            Source::File(file) => read_lines(file, longest, &chunks),
        };
        std::thread::Builder::new().name("input".into()).spawn(read)?;
        Ok(lines)
    }
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::configuration(format!("cannot read {}: {source}", path.display()), "see --file and --lines; - is stdin")
}

fn read_lines(mut source: impl Read, longest: usize, chunks: &Sender<Chunk>) {
    let mut buffer = BytesMut::new();
    // So much of the buffer has no end of a line.
    let mut searched = 0;
    let mut number = 0;
    loop {
        let filled = buffer.len();
        buffer.resize(filled + READ, 0);
        let read = match source.read(&mut buffer[filled..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                buffer.truncate(filled);
                continue;
            }
            Err(error) => {
                let _ = chunks.blocking_send(Err(Unreadable::Io(error)));
                return;
            }
        };
        buffer.truncate(filled + read);
        let mut lines = Vec::new();
        while let Some(length) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let mut text = buffer.split_to(searched + length + 1);
            text.truncate(searched + length);
            number += 1;
            lines.push(Line { number, text: text.freeze() });
            searched = 0;
        }
        searched = buffer.len();
        let ended = read == 0;
        if ended && !buffer.is_empty() {
            number += 1;
            lines.push(Line { number, text: buffer.split().freeze() });
        }
        let mut too_long = (buffer.len() > longest).then_some(number + 1);
        if let Some(at) = lines.iter().position(|line| line.text.len() > longest) {
            too_long = lines.split_off(at).first().map(|line: &Line| line.number);
        }
        if !lines.is_empty() && chunks.blocking_send(Ok(lines)).is_err() {
            return;
        }
        if let Some(line) = too_long {
            let _ = chunks.blocking_send(Err(Unreadable::TooLong(line, longest)));
            return;
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands out so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            let (now, later) = self.0.split_at(count);
            into[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn lines(text: &[u8], at_once: usize, longest: usize) -> (Vec<Vec<u8>>, Option<Unreadable>) {
        let (sender, mut receiver) = channel(1000);
        read_lines(Slow(text, at_once), longest, &sender);
        drop(sender);
        let (mut lines, mut number) = (Vec::new(), 0);
        while let Some(chunk) = receiver.blocking_recv() {
            match chunk {
                Err(error) => return (lines, Some(error)),
                Ok(chunk) => {
                    for line in chunk {
                        number += 1;
                        assert_eq!(line.number, number);
                        lines.push(line.text.to_vec());
                    }
                }
            }
        }
        (lines, None)
    }

    #[test]
    fn a_line_that_is_too_long_is_named_and_those_before_it_are_there() {
        for at_once in [1, 3, 100] {
            let (read, error) = lines(b"a\nbb\nccccc\nd\n", at_once, 4);
            assert_eq!(read, [b"a".to_vec(), b"bb".to_vec()]);
            assert!(matches!(error, Some(Unreadable::TooLong(3, 4))), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_file_however_it_comes(
            text in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), at_once in 1usize..50,
        ) {
            let mut expected: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            let (read, error) = lines(&text, at_once, 1000);
            prop_assert!(error.is_none());
            prop_assert_eq!(read, expected);
        }
    }
}
