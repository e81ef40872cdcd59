//! Frames between the worker and a process that it started: both ends, in one file.
//!
//! ```text
//! lengths of the words and of the bytes │ words: JSON │ bytes as they are, since a message can have 128 MiB
//! ```
//!
//! A guest that broke out of its sandbox can send anything, so the worker reads no frame that is larger than its kind can be.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// One direction's frames, as their words.
pub trait Frame: Serialize + DeserializeOwned {
    /// The longest words that a frame may claim to have.
    const MAX_WORDS: usize;
}

/// Lengths of the words and of the bytes, before both.
const HEADER: usize = 12;

fn header(words: &[u8], bytes: &[u8]) -> io::Result<[u8; HEADER]> {
    let length = u32::try_from(words.len()).map_err(|_| invalid("a frame's words are too long"))?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    Ok(header)
}

/// The lengths that a header claims: that of the words, which is checked, and that of the bytes, which is not checked yet.
fn claims<F: Frame>(header: [u8; HEADER]) -> io::Result<(usize, u64)> {
    let [a, b, c, d, bytes @ ..] = header;
    let words = u32::from_le_bytes([a, b, c, d]);
    match usize::try_from(words) {
        Ok(words) if words <= F::MAX_WORDS => Ok((words, u64::from_le_bytes(bytes))),
        _ => Err(invalid("a frame claims to have more words than any has")),
    }
}

/// Reads the words. Says how many bytes follow, if that is no more than such a frame may have.
fn understand<F: Frame>(words: &[u8], bytes: u64, may_have: impl FnOnce(&F) -> u64) -> io::Result<(F, u64)> {
    let frame = serde_json::from_slice(words)?;
    if bytes > may_have(&frame) {
        return Err(invalid("a frame claims to have more bytes than it may have"));
    }
    Ok((frame, bytes))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The words of a frame, to be sent once or more.
pub fn words<F: Frame>(frame: &F) -> io::Result<Vec<u8>> {
    let words = serde_json::to_vec(frame)?;
    if words.len() <= F::MAX_WORDS { Ok(words) } else { Err(invalid("a frame's words are too long")) }
}

/// Writes a frame, blocking.
pub fn write(stream: &mut impl Write, words: &[u8], bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&[&header(words, bytes)?[..], words].concat())?;
    stream.write_all(bytes)
}

/// Reads a frame, blocking.
pub fn read<F: Frame>(stream: &mut impl Read, may_have: impl FnOnce(&F) -> u64) -> io::Result<(F, Bytes)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let (words, bytes) = claims::<F>(header)?;
    let mut text = vec![0; words];
    stream.read_exact(&mut text)?;
    let (frame, bytes) = understand(&text, bytes, may_have)?;
    // Not `vec![0; bytes]`: what is claimed has to come before it takes memory.
    let mut body = Vec::new();
    stream.take(bytes).read_to_end(&mut body)?;
    whole(frame, body, bytes)
}

/// [`write`] for a runtime.
pub async fn send(stream: &mut (impl AsyncWrite + Unpin), words: &[u8], bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&[&header(words, bytes)?[..], words].concat()).await?;
    stream.write_all(bytes).await
}

/// [`read`] for a runtime.
pub async fn receive<F: Frame>(
    stream: &mut (impl AsyncRead + Unpin),
    may_have: impl FnOnce(&F) -> u64,
) -> io::Result<(F, Bytes)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let (words, bytes) = claims::<F>(header)?;
    let mut text = vec![0; words];
    stream.read_exact(&mut text).await?;
    let (frame, bytes) = understand(&text, bytes, may_have)?;
    let mut body = Vec::new();
    stream.take(bytes).read_to_end(&mut body).await?;
    whole(frame, body, bytes)
}

fn whole<F>(frame: F, body: Vec<u8>, bytes: u64) -> io::Result<(F, Bytes)> {
    if (body.len() as u64) < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok((frame, body.into())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Text(String);

    impl Frame for Text {
        const MAX_WORDS: usize = 64;
    }

    fn frame(text: &str, bytes: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write(&mut frame, &words(&Text(text.into())).unwrap(), bytes).unwrap();
        frame
    }

    /// Reads from memory, which is never pending.
    fn receive_now(mut bytes: &[u8], most: u64) -> io::Result<(Text, Bytes)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(receive(&mut bytes, |_: &Text| most))
    }

    #[test]
    fn a_frame_comes_out_as_it_went_in() {
        let sent = [frame("ä\"\n", b"stdin"), b"the next one".to_vec()].concat();
        let (text, body) = read::<Text>(&mut sent.as_slice(), |_| 5).unwrap();
        assert_eq!((text.0.as_str(), &body[..]), ("ä\"\n", &b"stdin"[..]));
        let (text, body) = receive_now(&sent, 5).unwrap();
        assert_eq!((text.0.as_str(), &body[..]), ("ä\"\n", &b"stdin"[..]));
    }

    #[test]
    fn a_frame_that_claims_more_than_it_may_have_is_refused_before_it_is_read() {
        let mut sent = frame("", b"");
        for claim in [6, 1 << 40, u64::MAX] {
            sent[4..HEADER].copy_from_slice(&claim.to_le_bytes());
            // All that follows would be read without the bound.
            let endless = || Read::chain(sent.as_slice(), io::repeat(b'x'));
            assert_eq!(read::<Text>(&mut endless(), |_| 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert_eq!(receive_now(&sent, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        sent[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut endless = Read::chain(sent.as_slice(), io::repeat(b'x'));
        assert_eq!(read::<Text>(&mut endless, |_| 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive_now(&sent, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(words(&Text("x".repeat(63))).is_err(), "nor is one sent that the other end would refuse");
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read::<Text>(&mut bytes.as_slice(), |_| u64::MAX);
            let _ = receive_now(&bytes, u64::MAX);
        }
    }
}
