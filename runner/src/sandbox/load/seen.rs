//! Remembers what a large file held, so that it is not read again while nobody changes it.
//!
//! What is remembered is which guest it is, or that an entry of the cache is whole. An interpreter and its code are tens of
//! megabytes, and to read and hash them at each start takes longer than to run them.
//!
//! A file counts as the same as long as the system says so by its device, inode, size and both of its times. Nobody can set
//! the time of the last change, but whoever builds a file system can: the files of two images that were built to be
//! reproducible share all of these, and one image takes the device number of the other when it is mounted after it. So a note
//! also says why it can be trusted, which is one of two:
//!
//! - The kernel that runs now set the time of the last change itself, on a file system that can be written to. No two files
//!   have the same. This holds in every container of the host.
//! - The file is in the same mount, by a number that this kernel gives only once. All mounts of a container are new.
//!
//! Two changes within one tick of the clock can have the same time, though, so a file that was changed a moment ago is not
//! remembered.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::notes;

/// Files as they are now.
#[derive(Debug)]
pub struct Seen {
    folder: PathBuf,
    key: String,
    /// The first line of a note that can be trusted.
    proof: String,
    /// Whether they were changed long enough ago.
    settled: bool,
}

/// A file's numbers and times.
#[derive(Clone, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Its mount, by a number that is not given again before the next boot.
    mount: Option<u64>,
    can_be_written: bool,
}

/// A boot of the kernel. Its mount numbers and its times are comparable only within one.
#[derive(Clone, Debug)]
struct Boot {
    id: String,
    at: SystemTime,
}

/// Below this, reading files takes no longer than looking them up, in bytes.
const WORTH_IT_FROM: u64 = 1 << 20;

/// How long ago the last change has to be: more than the tick of any file system's clock.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

const FOLDER: &str = "seen";

impl Seen {
    /// Looks at files, before they are read. `None` if there is nothing to gain, or something wrong, which reading them
    /// will tell.
    pub fn look(cache: &Path, files: &[PathBuf]) -> Option<Seen> {
        let stamps = files.iter().map(|file| Stamp::of_path(file)).collect::<io::Result<Vec<_>>>();
        Seen::by(cache, &stamps.ok()?, &Boot::this_one()?, SystemTime::now())
    }

    /// The same for a file that is open.
    pub fn look_at(cache: &Path, file: &File) -> Option<Seen> {
        Seen::by(cache, &[Stamp::of_file(file).ok()?], &Boot::this_one()?, SystemTime::now())
    }

    fn by(cache: &Path, stamps: &[Stamp], boot: &Boot, now: SystemTime) -> Option<Seen> {
        let size: u64 = stamps.iter().map(|stamp| stamp.size).sum();
        if size < WORTH_IT_FROM {
            return None;
        }
        let mut key = blake3::Hasher::new();
        let mut proof = boot.id.clone();
        let mut changed = SystemTime::UNIX_EPOCH;
        for stamp in stamps {
            for number in [stamp.device, stamp.inode, stamp.size] {
                key.update(&number.to_le_bytes());
            }
            for (seconds, nanoseconds) in [stamp.modified, stamp.changed] {
                key.update(&seconds.to_le_bytes());
                key.update(&nanoseconds.to_le_bytes());
            }
            changed = changed.max(stamp.changed()?);
            if !stamp.was_changed_by(boot) {
                proof += &format!(" mount {}", stamp.mount?);
            }
        }
        let settled = now.duration_since(changed).is_ok_and(|since| since >= SETTLED_AFTER);
        Some(Seen { folder: cache.join(FOLDER), key: key.finalize().to_hex().to_string(), proof, settled })
    }

    /// What was noted of them.
    pub fn recall(&self) -> Option<String> {
        let note = notes::read(&self.folder.join(&self.key))?;
        let (proof, note) = note.split_once('\n')?;
        (proof == self.proof).then(|| note.to_owned())
    }

    /// Notes what was read from them after [`Seen::look`].
    ///
    /// # Errors
    /// When the folder can't be written. The next start reads them again.
    pub fn remember(&self, note: &str) -> io::Result<()> {
        if self.settled {
            // In the place of an earlier one for the same file, so that notes do not pile up.
            notes::write(&self.folder, &self.key, format!("{}\n{note}", self.proof).as_bytes())?;
        }
        Ok(())
    }
}

impl Stamp {
    fn of_path(path: &Path) -> io::Result<Stamp> {
        let can_be_written = !rustix::fs::statvfs(path)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Ok(Stamp::of(&std::fs::metadata(path)?, mount_of(rustix::fs::CWD, path), can_be_written))
    }

    fn of_file(file: &File) -> io::Result<Stamp> {
        let can_be_written = !rustix::fs::fstatvfs(file)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Ok(Stamp::of(&file.metadata()?, mount_of(file, Path::new("")), can_be_written))
    }

    fn of(file: &Metadata, mount: Option<u64>, can_be_written: bool) -> Stamp {
        Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            mount,
            can_be_written,
        }
    }

    fn changed(&self) -> Option<SystemTime> {
        let (seconds, nanoseconds) = self.changed;
        Some(SystemTime::UNIX_EPOCH + Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?))
    }

    /// Whether the kernel that runs now set the time of the last change. Builders of images use whole seconds, and images
    /// are mounted read-only.
    fn was_changed_by(&self, boot: &Boot) -> bool {
        let after = self.changed().is_some_and(|changed| changed > boot.at + SETTLED_AFTER);
        self.can_be_written && self.changed.1 != 0 && after
    }
}

impl Boot {
    fn this_one() -> Option<Boot> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Boot { id, at: SystemTime::now().checked_sub(uptime()?)? })
    }
}

#[cfg(target_os = "linux")]
fn uptime() -> Option<Duration> {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).try_into().ok()
}

#[cfg(not(target_os = "linux"))]
fn uptime() -> Option<Duration> {
    None
}

/// The number of a file's mount, where the kernel (Linux 6.8) has numbers that it gives only once.
#[cfg(target_os = "linux")]
fn mount_of(folder: impl AsFd, path: &Path) -> Option<u64> {
    use rustix::fs::{AtFlags, StatxFlags};
    // `STATX_MNT_ID_UNIQUE`. Older kernels have numbers that are given again, and ignore the question for these.
    let unique = StatxFlags::from_bits_retain(0x4000);
    let told = rustix::fs::statx(folder, path, AtFlags::EMPTY_PATH, unique).ok()?;
    StatxFlags::from_bits_retain(told.stx_mask).contains(unique).then_some(told.stx_mnt_id)
}

#[cfg(not(target_os = "linux"))]
fn mount_of(_folder: impl AsFd, _path: &Path) -> Option<u64> {
    None
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
        let stamp = Stamp::of_path(guest).unwrap();
        let now = stamp.changed().unwrap() + wait;
        Seen::by(folder, &[stamp], &Boot::this_one().unwrap(), now).unwrap()
    }

    /// A file of a reproducible image: all of its times are one that somebody chose.
    fn reproducible(mount: Option<u64>) -> Stamp {
        let time = (1_700_000_000, 0);
        Stamp { device: 1792, inode: 12, size: 1 << 20, modified: time, changed: time, mount, can_be_written: false }
    }

    fn boot(id: &str) -> Boot {
        Boot { id: id.into(), at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000) }
    }

    fn seen_by(folder: &Path, stamp: Stamp, boot: &Boot) -> Option<Seen> {
        Seen::by(folder, &[stamp], boot, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }

    #[test]
    fn a_note_is_not_believed_of_another_image_with_the_same_numbers_and_times() {
        let folder = tempfile::tempdir().unwrap();
        let recalled =
            |mount, boot: &Boot| seen_by(folder.path(), reproducible(Some(mount)), boot).and_then(|seen| seen.recall());
        let now = boot("this boot");
        seen_by(folder.path(), reproducible(Some(7)), &now).unwrap().remember("a note").unwrap();
        assert_eq!(recalled(7, &now), Some("a note".into()));
        assert_eq!(recalled(8, &now), None, "the other image is mounted");
        assert_eq!(recalled(7, &boot("the next boot")), None, "numbers of mounts start again");
        assert!(seen_by(folder.path(), reproducible(None), &now).is_none(), "the kernel does not tell mounts apart");
    }

    #[test]
    fn a_file_that_this_kernel_changed_is_known_in_every_mount_and_no_longer_than_until_the_next_boot() {
        let folder = tempfile::tempdir().unwrap();
        let written = |mount| Stamp { can_be_written: true, changed: (1_700_000_000, 5), ..reproducible(mount) };
        let now = boot("this boot");
        seen_by(folder.path(), written(Some(7)), &now).unwrap().remember("a note").unwrap();
        for mount in [Some(7), Some(8), None] {
            assert_eq!(seen_by(folder.path(), written(mount), &now).unwrap().recall(), Some("a note".into()));
        }
        assert_eq!(seen_by(folder.path(), written(None), &boot("the next boot")).unwrap().recall(), None);
        let earlier = Boot { at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000), ..now.clone() };
        assert!(seen_by(folder.path(), written(None), &earlier).is_none(), "changed before the boot");
        let whole_seconds = Stamp { changed: (1_700_000_000, 0), ..written(None) };
        assert!(seen_by(folder.path(), whole_seconds, &now).is_none());
    }

    /// Two images that differ in the content of a file and in nothing else, one mounted after the other.
    #[test]
    fn the_file_of_another_image_is_read_again() {
        use std::io::Write as _;
        use std::process::Command;

        let folder = tempfile::tempdir().unwrap();
        let [content, image, mounted, cache] =
            ["content", "image", "mounted", "cache"].map(|name| folder.path().join(name));
        for made in [&content, &mounted, &cache] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(content.join("guest.wasm"), vec![1; 1 << 20]).unwrap();
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = File::create(&image).and_then(|image| image.set_len(8 << 20)).is_ok()
            && run(Command::new("mkfs.ext4").arg("-q").arg("-d").arg(&content).arg(&image));
        let mount = || run(Command::new("mount").args(["-o", "loop,ro"]).args([&image, &mounted]));
        let unmount = || assert!(run(Command::new("umount").arg(&mounted)));
        if !made || !mount() {
            assert!(std::env::var_os("CI").is_none(), "cannot make and mount an image");
            let _ = writeln!(io::stderr(), "\nSKIPPED: cannot make and mount an image");
            return;
        }
        let look = || {
            // Long after the image was made.
            let stamp = Stamp::of_path(&mounted.join("guest.wasm")).unwrap();
            let now = SystemTime::now() + 2 * SETTLED_AFTER;
            let seen = Seen::by(&cache, std::slice::from_ref(&stamp), &Boot::this_one().unwrap(), now);
            (Stamp { mount: None, ..stamp }, seen)
        };
        let (first, seen) = look();
        if let Some(seen) = &seen {
            seen.remember("a note").unwrap();
            assert_eq!(seen.recall(), Some("a note".into()));
        }
        unmount();
        let mut bytes = std::fs::read(&image).unwrap();
        let at = bytes.windows(64).position(|window| window == [1; 64]).unwrap();
        bytes[at] = 2;
        std::fs::write(&image, bytes).unwrap();
        assert!(mount());
        let (second, seen) = look();
        let recalled = seen.and_then(|seen| seen.recall());
        unmount();
        assert_eq!(
            format!("{first:?}"),
            format!("{second:?}"),
            "by all that was looked at before, it is the same file"
        );
        assert_eq!(recalled, None);
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
        File::options().write(true).open(&guest_path).unwrap().set_modified(before.modified().unwrap()).unwrap();
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
