//! A folder for one run that it may write to: empty at its start, gone at its end, and no larger than was granted.
//!
//! No kernel gives an unprivileged process a folder with a quota, so the folder is measured while the guest runs. Data that
//! the guest writes between two looks comes on top. The nearer it is to its limit, the sooner the next look comes. A folder
//! that can't be measured counts as one that is over its limit.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Stat, readlinkat_raw, statat};
use rustix::io::Errno;

use super::room::{Folder, Room};
use super::tree::{self, Size, Tally, id};

/// How soon to look again, at the soonest and at the latest.
const SOONEST: Duration = Duration::from_millis(1);
const LATEST: Duration = Duration::from_millis(20);

/// More than a guest can write and make in this time. In bytes, and in files.
const FASTEST: (u64, u64) = (4 << 20, 400);
const FASTEST_IN: Duration = Duration::from_millis(1);

/// The pause after a look is at least this many times as long as the look.
const SHARE: u32 = 4;

/// Files that are allowed beside one for each block.
const FREE_ENTRIES: u64 = 1024;
const BLOCK: u64 = 4096;

/// The folder of one run. Removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: Folder,
    top: OwnedFd,
    /// The folder's path as the kernel has it.
    path: PathBuf,
    limit: Size,
}

impl Scratch {
    pub fn new(room: &Room, bytes: u64) -> io::Result<Scratch> {
        let folder = room.folder()?;
        let top = folder.open()?;
        let path = tree::path_of(&top)?;
        let limit = Size { bytes, entries: (bytes / BLOCK).saturating_add(FREE_ENTRIES) };
        Ok(Scratch { folder, top, path, limit })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Measures it once, to find out at the start whether that can be done here.
    pub fn try_to_measure(&self) -> io::Result<()> {
        self.measure().map(drop)
    }

    /// Returns when there is more in the folder than was granted.
    pub async fn overflows(&self) {
        let mut pause = self.pause(Size::default(), Duration::ZERO);
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            match self.look() {
                Some(used) => pause = self.pause(used, began.elapsed()),
                None => return,
            }
        }
    }

    /// A last look: a guest can end between two of them.
    pub fn is_over(&self) -> bool {
        self.look().is_none()
    }

    /// The size in use, if it is within the limit.
    fn look(&self) -> Option<Size> {
        match self.measure() {
            Ok(used) => (!used.exceeds(self.limit)).then_some(used),
            Err(error) => {
                tracing::warn!(%error, "a scratch folder can't be measured: it counts as over its limit (--scratch)");
                None
            }
        }
    }

    fn pause(&self, used: Size, look: Duration) -> Duration {
        let bytes = self.limit.bytes.saturating_sub(used.bytes) / FASTEST.0;
        let entries = self.limit.entries.saturating_sub(used.entries) / FASTEST.1;
        let steps = u32::try_from(bytes.min(entries)).unwrap_or(u32::MAX);
        FASTEST_IN.saturating_mul(steps).clamp(SOONEST, LATEST).max(look * SHARE)
    }

    fn measure(&self) -> io::Result<Size> {
        let mut tally = Tally::new(self.limit);
        tally.walk(&self.top)?;
        self.nameless(&mut tally)?;
        Ok(tally.used())
    }

    /// Counts files that were removed while the guest holds them open.
    fn nameless(&self, tally: &mut Tally) -> io::Result<()> {
        let mut seen = HashSet::new();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let path = entry?.path();
            if self.may_be_ours(&path)?
                && let Some(stat) = found(statat(CWD, &path, AtFlags::empty()))?
                && stat.st_nlink == 0
                && matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory)
                && seen.insert(id(&stat))
            {
                tally.count(&stat);
            }
        }
        Ok(())
    }

    fn may_be_ours(&self, descriptor: &Path) -> io::Result<bool> {
        /// As long as the kernel makes a path.
        const LONGEST: usize = 4096;
        let mut buffer = [0_u8; LONGEST];
        match readlinkat_raw(CWD, descriptor, &mut buffer) {
            Ok(length) => {
                let link = Path::new(OsStr::from_bytes(buffer.get(..length).unwrap_or_default()));
                Ok(link.starts_with(&self.path))
            }
            // It lies too deep for the kernel to say where, and nobody but a guest makes such a file. If several runs share
            // this process, each of them is charged for it.
            Err(Errno::NAMETOOLONG) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A descriptor that was closed in the meantime holds nothing.
fn found(stat: rustix::io::Result<Stat>) -> io::Result<Option<Stat>> {
    match stat {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn all_that_lies_in_the_folder_counts_with_or_without_a_name() {
        let scratch = Scratch::new(&Room::temporary(), 100_000).unwrap();
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
    fn empty_files_count_too() {
        let scratch = Scratch::new(&Room::temporary(), 0).unwrap();
        for file in 0..FREE_ENTRIES {
            File::create(scratch.path().join(file.to_string())).unwrap();
        }
        assert_eq!(scratch.limit.entries, FREE_ENTRIES);
        assert!(!scratch.measure().unwrap().exceeds(Size { bytes: u64::MAX, ..scratch.limit }));
        File::create(scratch.path().join("one more")).unwrap();
        assert!(scratch.measure().unwrap().exceeds(Size { bytes: u64::MAX, ..scratch.limit }));
    }

    #[test]
    fn the_nearer_the_limit_the_sooner_the_next_look() {
        let scratch = Scratch::new(&Room::temporary(), 1 << 30).unwrap();
        let pause = |bytes, entries| scratch.pause(Size { bytes, entries }, Duration::ZERO);
        assert_eq!(pause(0, 0), LATEST);
        assert_eq!(pause((1 << 30) - 1, 0), SOONEST);
        assert_eq!(pause(0, scratch.limit.entries), SOONEST);
        assert_eq!(pause((1 << 30) - (40 << 20), 0), Duration::from_millis(10));
        let long = Duration::from_millis(100);
        assert_eq!(
            scratch.pause(Size { bytes: 1 << 30, entries: 0 }, long),
            long * SHARE,
            "a walk must not take it all"
        );
    }
}
