//! What a large file held when it was last read: which guest, or an entry of the cache as it was written. An interpreter
//! and its code are tens of megabytes, and to read and hash them at each start takes longer than to run them.
//!
//! A file counts as the same as long as the system says so by its device, inode, size and both of its times. The time of
//! the last change can't be set by anybody. Two changes within one tick of the clock can have the same, though, so a file
//! that was changed a moment ago is not remembered.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{cache, tree};

/// Files as they are now.
#[derive(Debug)]
pub struct Seen {
    folder: PathBuf,
    key: String,
    /// Whether they were changed long enough ago.
    settled: bool,
}

/// Below this, reading files takes no longer than looking them up, in bytes.
const WORTH_IT_FROM: u64 = 1 << 20;

/// How long ago the last change has to be: more than the tick of any file system's clock.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

const FOLDER: &str = "seen";

/// More than anything that is remembered, in bytes.
const MAX_NOTE: u64 = 200;

impl Seen {
    /// Looks at files, before they are read. `None` if there is nothing to gain, or something wrong, which reading them
    /// will tell.
    pub fn look(cache: &Path, files: &[PathBuf]) -> Option<Seen> {
        let files = files.iter().map(std::fs::metadata).collect::<io::Result<Vec<_>>>();
        Seen::look_at(cache, &files.ok()?, SystemTime::now())
    }

    /// The same for files that are open.
    pub fn look_at(cache: &Path, files: &[Metadata], now: SystemTime) -> Option<Seen> {
        let mut key = blake3::Hasher::new();
        let mut changed = SystemTime::UNIX_EPOCH;
        for file in files {
            for number in [file.dev(), file.ino(), file.len()] {
                key.update(&number.to_le_bytes());
            }
            for number in [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()] {
                key.update(&number.to_le_bytes());
            }
            let since_1970 = Duration::new(file.ctime().try_into().ok()?, file.ctime_nsec().try_into().ok()?);
            changed = changed.max(SystemTime::UNIX_EPOCH + since_1970);
        }
        let key = key.finalize().to_hex().to_string();
        let settled = now.duration_since(changed).is_ok_and(|since| since >= SETTLED_AFTER);
        let size: u64 = files.iter().map(Metadata::len).sum();
        (size >= WORTH_IT_FROM).then(|| Seen { folder: cache.join(FOLDER), key, settled })
    }

    /// What was noted of them.
    pub fn recall(&self) -> Option<String> {
        let file = tree::open_file(&self.folder.join(&self.key)).ok()?;
        if !file.metadata().is_ok_and(|metadata| cache::is_ours_alone(&metadata)) {
            return None;
        }
        let mut note = String::new();
        file.take(MAX_NOTE).read_to_string(&mut note).ok()?;
        Some(note)
    }

    /// Notes what was read from them after [`Seen::look`].
    ///
    /// # Errors
    /// When the folder can't be written. The next start reads them again.
    pub fn remember(&self, note: &str) -> io::Result<()> {
        if self.settled {
            cache::write(&self.folder, &self.key, note.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn guest(folder: &Path, content: u8) -> PathBuf {
        let path = folder.join("guest.wasm");
        std::fs::write(folder.join("new"), vec![content; 1 << 20]).unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
        path
    }

    fn seen_after(folder: &Path, guest: &Path, wait: Duration) -> Seen {
        let metadata = std::fs::metadata(guest).unwrap();
        let changed = Duration::new(metadata.ctime() as u64, metadata.ctime_nsec() as u32);
        Seen::look_at(folder, &[metadata], SystemTime::UNIX_EPOCH + changed + wait).unwrap()
    }

    #[test]
    fn a_file_is_known_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let guest_path = guest(folder.path(), 1);
        let seen = || seen_after(folder.path(), &guest_path, SETTLED_AFTER);
        assert_eq!(seen().recall(), None);
        seen().remember("a note").unwrap();
        assert_eq!(seen().recall(), Some("a note".into()));

        // Another one by the same name, of the same size and with the same time.
        let before = std::fs::metadata(&guest_path).unwrap();
        guest(folder.path(), 2);
        std::fs::File::options()
            .write(true)
            .open(&guest_path)
            .unwrap()
            .set_modified(before.modified().unwrap())
            .unwrap();
        assert_eq!(seen().recall(), None);
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let guest = guest(folder.path(), 1);
        for wait in [Duration::ZERO, SETTLED_AFTER / 2] {
            let seen = seen_after(folder.path(), &guest, wait);
            seen.remember("a note").unwrap();
            assert_eq!(seen.recall(), None);
        }
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let seen = seen_after(folder.path(), &guest(folder.path(), 1), SETTLED_AFTER);
        seen.remember("a note").unwrap();
        let entry = seen.folder.join(&seen.key);
        std::fs::set_permissions(&entry, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(seen.recall(), None);
        std::fs::set_permissions(&entry, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(seen.recall(), Some("a note".into()));
        std::fs::write(&entry, [0xff; 20]).unwrap();
        assert_eq!(seen.recall(), None);
    }

    #[test]
    fn small_guests_are_just_read() {
        let folder = tempfile::tempdir().unwrap();
        let guest = folder.path().join("guest.wasm");
        std::fs::write(&guest, b"small").unwrap();
        assert!(Seen::look(folder.path(), &[guest]).is_none());
        assert!(Seen::look(folder.path(), &[folder.path().join("missing")]).is_none());
    }
}
