//! Finds and reads a guest's bytes: a file, packed or not, or the pieces of one that several ConfigMaps hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::refusal::{MAX_GUEST_SIZE, Reason, Refusal};

/// A guest's bytes as they are stored, not looked at.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub stored: Vec<u8>,
    /// By its name, this is the text form.
    pub text: bool,
}

/// Endings that say how a file is to be read, and do not belong to the guest's name.
const ENDINGS: [&str; 4] = [".wasm", ".wat", ".gz", ".zst"];

/// Where a guest is: in a file, in a folder of its own, or in its pieces.
#[derive(Debug)]
pub struct Place {
    /// In order, at least one.
    pub files: Vec<PathBuf>,
    /// The file's name without its endings: argv\[0\], and the name in the log.
    pub name: String,
    text: bool,
}

/// Finds a guest.
///
/// # Errors
/// When there is none, more than one, or one with a piece missing.
pub fn find(path: &Path) -> Result<Place, Error> {
    let files = files(path)?;
    let first = files.first().map_or(path, PathBuf::as_path);
    let file_name = first.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let whole = piece(&file_name).map_or(file_name.as_str(), |(stem, _)| stem);
    Ok(Place { name: bare_name(whole), text: whole.contains(".wat"), files })
}

/// Reads a guest.
///
/// # Errors
/// As [`find`], and when it can't be read.
pub fn read(path: &Path) -> Result<Source, Error> {
    let Place { files, name, text } = find(path)?;
    let mut stored = Vec::new();
    for file in &files {
        read_capped(file, path, &mut stored)?;
    }
    Ok(Source { name, stored, text })
}

/// The files that make up the guest, in order.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let mut guests = guests_in(path)?;
            // A lone file with any name is what is meant. Beside others, it is one that can be a guest.
            if guests.len() > 1 {
                guests.retain(|name, _| ENDINGS.iter().any(|ending| name.ends_with(ending)));
            }
            let mut names: Vec<String> = guests.keys().cloned().collect();
            match (names.pop(), names.is_empty()) {
                (None, _) => Err(Error::EmptyFolder(path.to_owned())),
                (Some(name), true) => whole(path, &guests[&name], &name),
                (Some(_), false) => {
                    Err(Error::SeveralGuests { path: path.to_owned(), names: guests.into_keys().collect() })
                }
            }
        }
        // The path of one piece stands for all pieces. A hidden file is never a piece.
        Ok(_) => match piece(&name).filter(|_| !name.starts_with('.')) {
            Some((stem, _)) => match guests_in(folder)?.get(stem) {
                Some(pieces) => whole(folder, pieces, stem),
                None => Ok(vec![path.to_owned()]),
            },
            None => Ok(vec![path.to_owned()]),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match guests_in(folder) {
            Ok(guests) if guests.contains_key(&name) => whole(folder, &guests[&name], &name),
            _ => Err(unreadable(error)),
        },
        Err(error) => Err(unreadable(error)),
    }
}

/// A guest of a folder: one file, or pieces by number.
type Pieces = BTreeMap<u32, String>;

/// What lies in a folder, with pieces put together. The kubelet's own `..data` and `..2026_…` are left out.
fn guests_in(folder: &Path) -> Result<BTreeMap<String, Pieces>, Error> {
    let unreadable = |source| Error::Unreadable { path: folder.to_owned(), source };
    let mut guests: BTreeMap<String, Pieces> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Through the links that a ConfigMap's volume is made of.
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
        if name.starts_with('.') || !is_file {
            continue;
        }
        match piece(&name) {
            Some((stem, number)) => guests.entry(stem.to_owned()).or_default().insert(number, name.clone()),
            None => guests.entry(name.clone()).or_default().insert(0, name),
        };
    }
    Ok(guests)
}

fn whole(folder: &Path, pieces: &Pieces, stem: &str) -> Result<Vec<PathBuf>, Error> {
    for (expected, number) in (0..).zip(pieces.keys()) {
        if *number != expected {
            return Err(Error::MissingPiece { path: folder.join(stem), missing: format!("{stem}.{expected:03}") });
        }
    }
    Ok(pieces.values().map(|name| folder.join(name)).collect())
}

/// `task.wasm.zst.007` is the piece 7 of `task.wasm.zst`.
fn piece(name: &str) -> Option<(&str, u32)> {
    let (stem, number) = name.rsplit_once('.')?;
    let digits = number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit());
    if digits && !stem.is_empty() { Some((stem, number.parse().ok()?)) } else { None }
}

fn bare_name(file_name: &str) -> String {
    let mut name = file_name;
    while let Some(shorter) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
        name = shorter;
    }
    if name.is_empty() { "guest".to_owned() } else { name.to_owned() }
}

fn read_capped(file: &Path, guest: &Path, into: &mut Vec<u8>) -> Result<(), Error> {
    let unreadable = |source| Error::Unreadable { path: file.to_owned(), source };
    let left = MAX_GUEST_SIZE - into.len() as u64;
    // One byte over the limit is read to tell "exactly at it" from "over it", whatever the metadata says.
    let read = File::open(file).and_then(|file| file.take(left + 1).read_to_end(into)).map_err(unreadable)?;
    if read as u64 > left { Err(Error::refused(guest, Reason::TooLarge)) } else { Ok(()) }
}

/// Unpacks gzip and zstd, told by their first bytes, as far as the limit goes.
///
/// # Errors
/// When they are damaged, or hold more than a guest may have.
pub fn unpack(stored: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let read = match stored.as_slice() {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(stored.as_slice()).take(MAX_GUEST_SIZE + 1).read_to_end(&mut bytes)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::with_buffer(stored.as_slice())
            .and_then(|decoder| decoder.take(MAX_GUEST_SIZE + 1).read_to_end(&mut bytes)),
        _ => return Ok(stored),
    };
    read.map_err(|error| match error.kind() {
        ErrorKind::OutOfMemory => Reason::Memory.into(),
        _ => Refusal::because(Reason::Packed, error),
    })?;
    if bytes.len() as u64 > MAX_GUEST_SIZE { Err(Reason::TooLarge.into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn unpacked(path: &Path) -> Vec<u8> {
        unpack(read(path).unwrap().stored).unwrap()
    }

    #[test]
    fn packed_and_unpacked_are_the_same_guest() {
        let bytes = b"\0asm and more".repeat(100);
        let folder = folder(&[
            ("a.wasm", &bytes),
            ("b.wasm.gz", &gzip(&bytes)),
            ("c.wasm.zst", &zstd::encode_all(bytes.as_slice(), 3).unwrap()),
        ]);
        for (file, name) in [("a.wasm", "a"), ("b.wasm.gz", "b"), ("c.wasm.zst", "c")] {
            let path = folder.path().join(file);
            let source = read(&path).unwrap();
            assert_eq!((source.name.as_str(), unpacked(&path) == bytes, source.text), (name, true, false), "{file}");
        }
    }

    #[test]
    fn pieces_are_put_together_however_they_are_named() {
        let packed = zstd::encode_all(b"\0asm of a guest".repeat(50).as_slice(), 3).unwrap();
        let (first, second) = packed.split_at(packed.len() / 2);
        let folder = folder(&[("task.wasm.zst.001", second), ("task.wasm.zst.000", first)]);
        std::fs::create_dir(folder.path().join("..2026_11_22")).unwrap();
        for path in ["", "task.wasm.zst", "task.wasm.zst.000", "task.wasm.zst.001"] {
            let path = folder.path().join(path);
            let source = read(&path).unwrap();
            assert_eq!(unpacked(&path), b"\0asm of a guest".repeat(50), "{}", path.display());
            assert_eq!((source.name.as_str(), source.stored.len()), ("task", packed.len()));
        }
        std::fs::remove_file(folder.path().join("task.wasm.zst.000")).unwrap();
        let Error::MissingPiece { missing, .. } = read(folder.path()).unwrap_err() else { panic!("not noticed") };
        assert_eq!(missing, "task.wasm.zst.000");
    }

    #[test]
    fn a_folder_stands_for_its_only_guest() {
        let one = folder(&[("task.wat", b"(module)"), ("README", b"read me")]);
        assert_eq!(read(one.path()).unwrap().name, "task");
        assert!(read(one.path()).unwrap().text);
        let any_name = folder(&[("task", b"\0asm")]);
        assert_eq!(read(any_name.path()).unwrap().stored, b"\0asm");
        let two = folder(&[("a.wasm", b"\0asm"), ("b.wasm", b"\0asm")]);
        assert!(matches!(read(two.path()), Err(Error::SeveralGuests { .. })));
        assert!(matches!(read(folder(&[]).path()), Err(Error::EmptyFolder(_))));
    }

    #[test]
    fn a_bomb_does_not_unpack() {
        let zeroes = std::io::repeat(0).take(MAX_GUEST_SIZE + 1);
        let bomb = zstd::encode_all(zeroes, 1).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(unpack(bomb), Err(Reason::TooLarge.into()));
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_the_unpacking_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..4, at: prop::sample::Index) {
            let mut bytes = match kind {
                0 => [&[0x1f, 0x8b][..], &bytes].concat(),
                1 => [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat(),
                2 => gzip(&bytes),
                _ => zstd::encode_all(bytes.as_slice(), 3).unwrap(),
            };
            let at = at.index(bytes.len());
            bytes[at] ^= 0x10;
            let _ = unpack(bytes);
        }

        #[test]
        fn no_file_name_can_make_the_folder_panic(names in prop::collection::vec("[a-z.0-9]{1,12}", 0..6)) {
            let folder = tempfile::tempdir().unwrap();
            for name in &names {
                let _ = std::fs::write(folder.path().join(name), b"\0asm");
                let _ = read(&folder.path().join(name));
            }
            let _ = read(folder.path());
        }
    }
}
