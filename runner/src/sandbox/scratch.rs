//! A folder for one run: empty at its start, gone at its end, and no larger than was granted.
//!
//! No kernel gives an unprivileged process a folder with a quota, so the size is looked at while the guest runs. What a
//! guest can write between two looks comes on top.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

/// How often the size is looked at, beginning with the first moment.
const LOOK: Duration = Duration::from_millis(20);

const PREFIX: &str = "wq-run-scratch-";

/// The folder of one run. Removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    limit: u64,
    /// Held as long as the folder is in use, so that [`sweep`] leaves it alone.
    _lock: File,
}

impl Scratch {
    pub fn new(limit: u64) -> io::Result<Scratch> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let lock = File::open(folder.path())?;
        lock.lock()?;
        Ok(Scratch { folder, limit, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns when there is more in the folder than was granted.
    pub async fn overflows(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if used(self.path()) > self.limit {
                return;
            }
        }
    }

    /// A last look: a guest can end between two of them.
    pub fn is_over(&self) -> bool {
        used(self.path()) > self.limit
    }
}

/// Removes what runs of a process that was killed have left behind.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        // In use by somebody: its lock is held. Not ours to remove: it can't be removed, and stays.
        if File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Bytes on the disk: a sparse file is not charged for its holes, and one without a name is charged all the same.
fn used(folder: &Path) -> u64 {
    named(folder).saturating_add(unnamed(folder))
}

fn named(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&metadata).saturating_add(named(&entry.path())),
            Ok(metadata) => size(&metadata),
            Err(_) => 0,
        })
        .fold(0, u64::saturating_add)
}

/// Files that were removed while the guest holds them open.
fn unnamed(folder: &Path) -> u64 {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    let ours = |link: &Path| link.starts_with(folder) && link.to_string_lossy().ends_with(" (deleted)");
    open.flatten()
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| ours(&link)))
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .map(|metadata| size(&metadata))
        .fold(0, u64::saturating_add)
}

fn size(metadata: &std::fs::Metadata) -> u64 {
    /// stat(2) counts in these, whatever the file system's own block size is.
    const BLOCK: u64 = 512;
    metadata.blocks().saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_lies_in_the_folder_counts_with_or_without_a_name() {
        let scratch = Scratch::new(100_000).unwrap();
        std::fs::create_dir(scratch.path().join("d")).unwrap();
        let path = scratch.path().join("d/file");
        std::fs::write(&path, vec![1; 60_000]).unwrap();
        assert!(!scratch.is_over());
        let held = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![1; 60_000]).unwrap();
        assert!(scratch.is_over());
        drop(held);
        assert!(!scratch.is_over());
    }

    #[test]
    fn only_what_nobody_uses_is_swept_away() {
        let used = Scratch::new(1).unwrap();
        let left = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap().keep();
        sweep();
        assert!(used.path().is_dir() && !left.exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }
}
