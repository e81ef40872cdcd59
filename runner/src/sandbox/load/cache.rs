//! Keeps compiled code in a folder, and takes from there only what nobody else can have written.
//!
//! An entry is native code, so it is trusted no further than its folder: it is used only if it belongs to us or to root, if
//! nobody else may write it, and if it is what was written, byte for byte. Each start checks this again, except for a large
//! entry that nobody has changed since (`seen.rs`). The name of an entry's folder is a hash of all that the code depends on:
//! the guest, the engine's version and options, and the processor's features. An entry that fails a check is made again.

use std::fs::File;
use std::hash::{Hash as _, Hasher};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::notes::{is_ours_alone, write};
use super::seen::Seen;
use crate::sandbox::abi::program::Compiled;
use crate::sandbox::known::{Digest, Kind};
use crate::sandbox::world::tree;

/// A folder of entries: `KEY/CHECKSUM.cwasm`, where the checksum is the entry's own.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    key: String,
    /// Nothing is removed and nothing is noted.
    is_read_only: bool,
}

const ENDING: &str = ".cwasm";

/// Entries of at least this size, in bytes, are verified by all cores together. For a smaller one, starting the threads takes
/// as long as verifying it.
const VERIFIED_TOGETHER_FROM: u64 = 8 << 20;

impl Cache {
    /// The place for one guest and one engine in `folder`.
    pub fn new(folder: &Path, engine: &Engine, digest: Digest) -> Cache {
        let mut key = Key(Sha256::new_with_prefix(b"wq-run compiled code 1"));
        digest.hash(&mut key);
        // Version, target, options, and the features of the processor that code was made for.
        engine.precompile_compatibility_hash().hash(&mut key);
        Cache { folder: folder.to_owned(), key: HEXLOWER.encode(&key.0.finalize()), is_read_only: false }
    }

    /// The same place, to be left as it is.
    pub fn read_only(self, is_read_only: bool) -> Cache {
        Cache { is_read_only, ..self }
    }

    /// The entry, if there is one that holds what was written.
    pub fn find(&self) -> Option<(PathBuf, File)> {
        let entries = std::fs::read_dir(self.folder.join(&self.key)).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let checksum = name.strip_suffix(ENDING)?.to_owned();
            let file = tree::open_file(&entry.path()).ok()?;
            match self.verify(&file, &checksum) {
                Ok(true) => Some((entry.path(), file)),
                Ok(false) if self.is_read_only => None,
                Ok(false) => {
                    tracing::warn!(entry = %entry.path().display(), "a cache entry is damaged, or other users can change it: compiling the guest again");
                    let _ = std::fs::remove_file(entry.path());
                    None
                }
                Err(_) => None,
            }
        })
    }

    /// Whether a file is what its name says, and can't be something else a moment later.
    fn verify(&self, file: &File, checksum: &str) -> io::Result<bool> {
        let metadata = file.metadata()?;
        if !is_ours_alone(&metadata) {
            return Ok(false);
        }
        let seen = Seen::look_at(&self.folder, file);
        if seen.as_ref().and_then(Seen::recall).is_some_and(|note| note == checksum) {
            return Ok(true);
        }
        let mut hasher = blake3::Hasher::new();
        if metadata.len() < VERIFIED_TOGETHER_FROM {
            hasher.update_mmap(by_descriptor(file))?;
        } else {
            hasher.update_mmap_rayon(by_descriptor(file))?;
        }
        // blake3's own comparison is in constant time, and names come from a stranger's folder.
        let is_whole = blake3::Hash::from_hex(checksum).is_ok_and(|expected| expected == hasher.finalize());
        if let Some(seen) = seen.filter(|_| is_whole && !self.is_read_only) {
            // Where nothing can be written, it is verified each time.
            let _ = seen.remember(checksum);
        }
        Ok(is_whole)
    }

    /// Writes an entry: whole, or not at all.
    ///
    /// # Errors
    /// When the folder can't be written. The guest runs all the same.
    pub fn keep(&self, compiled: &[u8]) -> io::Result<PathBuf> {
        write(&self.folder.join(&self.key), &format!("{}{ENDING}", blake3::hash(compiled).to_hex()), compiled)
    }
}

#[cfg(any(test, fuzzing))]
impl Cache {
    pub const FUZZED_KEY: &str = "key";

    /// A place that needs no engine.
    pub fn fuzzed(folder: &Path) -> Cache {
        Cache { folder: folder.to_owned(), key: Self::FUZZED_KEY.to_owned(), is_read_only: false }
    }
}

/// Feeds what is hashed into a SHA-256: the 64 bits of [`Hasher::finish`] are too few for a key.
struct Key(Sha256);

impl Hasher for Key {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not asked for: the whole digest is taken instead.
    fn finish(&self) -> u64 {
        0
    }
}

/// A path to an open file, so that what is read next is what was looked at before.
fn by_descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Maps compiled code that this very version wrote.
///
/// # Errors
/// When it was made for another engine after all.
#[allow(unsafe_code)]
pub fn load(engine: &Engine, kind: Kind, file: &File) -> wasmtime::Result<Compiled> {
    let path = by_descriptor(file);
    // SAFETY: the file is compiled code that wasmtime serialized: either just now into memory that only this process and
    // its children see, or into an entry whose checksum was verified and which only our user, or root, can write. Entries
    // are never changed in place, only replaced.
    Ok(match kind {
        Kind::Module => Compiled::Module(unsafe { Module::deserialize_file(engine, path) }?),
        Kind::Component => Compiled::Component(unsafe { Component::deserialize_file(engine, path) }?),
    })
}

/// Takes compiled code that was just made, where no file can hold it.
///
/// # Errors
/// As [`load`].
#[allow(unsafe_code)]
pub fn load_bytes(engine: &Engine, kind: Kind, code: &[u8]) -> wasmtime::Result<Compiled> {
    // SAFETY: the bytes came from the process that compiles, which is this program, over a pipe that nobody else has.
    Ok(match kind {
        Kind::Module => Compiled::Module(unsafe { Module::deserialize(engine, code) }?),
        Kind::Component => Compiled::Component(unsafe { Component::deserialize(engine, code) }?),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn cache(folder: &Path) -> Cache {
        Cache { folder: folder.to_owned(), key: "key".into(), is_read_only: false }
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder.path().join("made/on/demand"));
        assert!(cache.find().is_none());
        cache.keep(b"native code").unwrap();
        let mut found = String::new();
        cache.find().unwrap().1.read_to_string(&mut found).unwrap();
        assert_eq!(found, "native code");
    }

    #[test]
    fn an_entry_that_others_may_write_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let path = cache.keep(b"native code").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert!(cache.find().is_none());
        assert!(!path.exists(), "it is in the way of a good one");
    }

    proptest! {
        #[test]
        fn no_damage_goes_unnoticed(code in prop::collection::vec(any::<u8>(), 1..400), at: prop::sample::Index, kind in 0..3) {
            let folder = tempfile::tempdir().unwrap();
            let cache = cache(folder.path());
            let path = cache.keep(&code).unwrap();
            let mut damaged = code.clone();
            let at = at.index(code.len());
            match kind {
                0 => damaged[at] ^= 1 << (at % 8),
                1 => damaged.truncate(at),
                _ => damaged.push(0),
            }
            std::fs::write(&path, damaged).unwrap();
            prop_assert!(cache.find().is_none());
            prop_assert!(!path.exists());
        }

        #[test]
        fn no_name_in_the_folder_can_make_the_search_panic(name in "[a-f0-9.cwsm]{1,80}") {
            let folder = tempfile::tempdir().unwrap();
            let cache = cache(folder.path());
            std::fs::create_dir_all(folder.path().join("key")).unwrap();
            let _ = std::fs::write(folder.path().join("key").join(name), b"x");
            prop_assert!(cache.find().is_none());
        }
    }
}
