//! Fuzz targets of the sandbox: see `crate::fuzz`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;
use std::io::Read as _;
use std::path::Path;

use super::wire::{self, Frame};
use crate::sandbox::known::{Digest, Known};
use crate::sandbox::load::cache::Cache;
use crate::sandbox::load::guest::{self, Form};
use crate::sandbox::load::refusal::{MAX_GUEST_SIZE, Refusal};
use crate::sandbox::load::{jobs, notes, source};
use crate::sandbox::place::{claims, orders};
use crate::sandbox::world::options::Options;

/// A guest's file, up to the point where it would be compiled. A binary that comes out of a packed file or a text is never
/// itself one of these.
pub fn guest(bytes: &[u8]) {
    for text in [false, true] {
        let _ = seen(bytes, text);
    }
}

fn seen(bytes: &[u8], text: bool) -> Result<(), Refusal> {
    let (kind, wasm) = match guest::form(bytes, text)? {
        Form::Binary(kind) => (kind, bytes.to_vec()),
        Form::Wrapped => {
            let wasm = guest::unwrap(bytes.to_vec(), text, Path::new("guest"))?;
            match guest::form(&wasm, false)? {
                Form::Binary(kind) => (kind, wasm),
                Form::Wrapped => panic!("a guest is wrapped twice"),
            }
        }
    };
    guest::look(kind, &wasm)?.verdict.map(drop)
}

/// A packed guest, whole and in pieces: both are the same guest. The first byte says how many pieces there are.
pub fn packed_guest(bytes: &[u8]) {
    let Some((count, stored)) = bytes.split_first() else { return };
    let unpacked = source::unpack(stored.to_vec());
    let folder = tempfile::tempdir().unwrap();
    let length = stored.len().div_ceil(usize::from(count % 4) + 1).max(1);
    for (number, piece) in stored.chunks(length).enumerate() {
        std::fs::write(folder.path().join(format!("g.wasm.gz.{number:03}")), piece).unwrap();
    }
    match source::read(folder.path()) {
        Ok(source) => {
            assert_eq!(source.stored, stored, "the pieces are not what they were cut from");
            assert_eq!(source::unpack(source.stored), unpacked);
        }
        Err(error) => assert!(stored.is_empty(), "{error}"),
    }
    if let Ok(unpacked) = unpacked {
        assert!(unpacked.len() as u64 <= MAX_GUEST_SIZE);
        let _ = guest::unwrap(stored.to_vec(), false, Path::new("guest"));
    }
}

/// A file in the cache: its name, a newline, and what it holds. A `=` in the name stands for the right checksum, which no
/// fuzzer guesses. The cache finds a file only if its name is its checksum. The same bytes are read as a note of the cache.
pub fn cache_entry(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (name, content) = (&bytes[..end], &bytes[end + 1..]);
    let checksum = blake3::hash(content).to_hex();
    let Ok(name) = std::str::from_utf8(name).map(|name| name.replace('=', &checksum)) else { return };
    let name = name.as_str();
    if name.contains(['/', '\0']) || matches!(name, "" | "." | "..") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::fuzzed(folder.path());
    let Ok(path) = notes::write(&folder.path().join(Cache::FUZZED_KEY), name, content) else { return };
    if let Some(text) = notes::read(&path) {
        assert!(content.starts_with(text.as_bytes()));
        if let Ok(known) = text.parse::<Known>() {
            assert_eq!(known.to_string().parse(), Ok(known));
        }
        if let Ok(digest) = text.parse::<Digest>() {
            assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }
    let is_whole = name.strip_suffix(".cwasm").is_some_and(|stem| stem.eq_ignore_ascii_case(&checksum));
    let found = cache.find();
    assert_eq!(found.is_some(), is_whole, "{name}");
    if let Some((_, mut file)) = found {
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
    } else {
        assert!(!name.ends_with(".cwasm") || !path.exists(), "a damaged entry stays in the way of a good one");
    }
    // An entry is found, whatever lies beside it.
    cache.keep(b"code").unwrap();
    let mut read = Vec::new();
    cache.find().expect("the entry that was just kept").1.read_to_end(&mut read).unwrap();
    assert!(is_whole && read == content || read == b"code");
}

/// A frame between the worker and a process that it started; the first byte says of which kind. Both readers take the same
/// frames, and no frame brings more bytes than its kind may have.
pub fn frames(bytes: &[u8]) {
    const MOST: u64 = 1 << 10;
    let Some((kind, stream)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => drop(frame::<orders::Order>(stream, |_| MOST)),
        1 => {
            let reply = frame::<orders::Reply>(stream, |reply| match reply {
                orders::Reply::Stderr | orders::Reply::Ended { .. } => MOST,
                orders::Reply::Ready(_)
                | orders::Reply::Refused(_)
                | orders::Reply::Lookup { .. }
                | orders::Reply::Denied { .. } => 0,
            });
            if let Some(orders::Reply::Ended { outcome, .. }) = reply {
                // A believed outcome may be reported once more to the same reader.
                for cancelled in [false, true] {
                    if let Some(believed) = claims::believable(outcome.clone(), &Options::default(), cancelled) {
                        assert_eq!(claims::sayable(believed.clone()), believed);
                    }
                }
            }
        }
        2 => drop(frame::<jobs::Order>(stream, |_| 0)),
        _ => drop(frame::<jobs::Answer>(stream, |_| MOST)),
    }
}

fn frame<F: Frame + Debug>(stream: &[u8], may_have: impl Fn(&F) -> u64) -> Option<F> {
    let blocking = wire::read::<F>(&mut &*stream, &may_have);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let waiting = runtime.block_on(wire::receive::<F>(&mut &*stream, &may_have));
    match (blocking, waiting) {
        (Ok((frame, body)), Ok((same, same_body))) => {
            assert_eq!((format!("{frame:?}"), &body), (format!("{same:?}"), &same_body));
            assert!(body.len() as u64 <= may_have(&frame));
            Some(frame)
        }
        (Err(error), Err(same)) => {
            assert_eq!(error.kind(), same.kind());
            None
        }
        (blocking, waiting) => panic!("one reads {blocking:?}, the other {waiting:?}"),
    }
}
