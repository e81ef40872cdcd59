//! Measures and removes folders that a guest has filled, whatever it has built there.
//!
//! Both go by descriptors and never by paths: a tree can be deeper than a path can be long, and a link in it must lead
//! nowhere. Neither recurses or holds more than a few descriptors, so depth costs neither stack nor descriptors. A measuring
//! walk comes back up by `..`, and compares what it finds there with the folder that it came from.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, fchmod, fstat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

/// The size of a folder's content, or its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// On the disk: a sparse file is not charged for its holes.
    pub bytes: u64,
    /// Names of files, folders and links. Each costs an inode, or at least a part of a folder.
    pub entries: u64,
}

/// Counts a tree, each file once.
#[derive(Debug)]
pub struct Tally {
    limit: Size,
    used: Size,
    /// Files that have more than one name, by device and number.
    linked: HashSet<(u64, u64)>,
}

/// A folder that a walk is in, or comes back to.
struct Level {
    id: (u64, u64),
    /// Folders in it that the walk has not visited.
    folders: Vec<CString>,
}

/// How often a walk starts again when somebody moves folders under it.
const ATTEMPTS: usize = 8;

/// Bytes of directory entries that are read at a time.
const LISTING: usize = 16 << 10;

/// Folders that a removal notes at a time.
const NOTED: usize = 64;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

// === impl Size ===

impl Size {
    pub fn exceeds(self, limit: Size) -> bool {
        self.bytes > limit.bytes || self.entries > limit.entries
    }
}

// === impl Tally ===

impl Tally {
    pub fn new(limit: Size) -> Tally {
        Tally { limit, used: Size::default(), linked: HashSet::new() }
    }

    pub fn used(&self) -> Size {
        self.used
    }

    pub fn is_over(&self) -> bool {
        self.used.exceeds(self.limit)
    }

    pub fn count(&mut self, stat: &Stat) {
        self.used.entries = self.used.entries.saturating_add(1);
        if stat.st_nlink > 1 && !is_folder(stat) && !self.linked.insert(id(stat)) {
            return;
        }
        self.used.bytes = self.used.bytes.saturating_add(size(stat));
    }

    /// Counts all that lies below `top`, and stops when that is over the limit.
    ///
    /// # Errors
    /// When there is something that can't be read, or that was moved again and again.
    pub fn walk(&mut self, top: impl AsFd) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let mut tally = Tally::new(self.limit);
            if tally.walk_once(top.as_fd())? {
                self.used.bytes = self.used.bytes.saturating_add(tally.used.bytes);
                self.used.entries = self.used.entries.saturating_add(tally.used.entries);
                return Ok(());
            }
        }
        Err(io::Error::other("its folders are moved faster than they can be measured"))
    }

    /// `false` if a folder is no longer where it was.
    fn walk_once(&mut self, top: impl AsFd) -> io::Result<bool> {
        let mut here = open_folder(top, c".")?;
        let mut level = self.list(&here)?;
        let mut above = Vec::new();
        while !self.is_over() {
            if let Some(name) = level.folders.pop() {
                let folder = match open_folder(&here, &name) {
                    Ok(folder) => folder,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(error) => return Err(error.into()),
                };
                let below = self.list(&folder)?;
                above.push(std::mem::replace(&mut level, below));
                here = folder;
            } else {
                let Some(parent) = above.pop() else { return Ok(true) };
                here = open_folder(&here, c"..")?;
                if id(&fstat(&here)?) != parent.id {
                    return Ok(false);
                }
                level = parent;
            }
        }
        Ok(true)
    }

    fn list(&mut self, folder: &OwnedFd) -> io::Result<Level> {
        let mut level = Level { id: id(&fstat(folder)?), folders: Vec::new() };
        let mut buffer = [MaybeUninit::uninit(); LISTING];
        let mut entries = RawDir::new(folder, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            self.count(&stat);
            if is_folder(&stat) {
                level.folders.push(name.to_owned());
            }
            // The names that are kept are bounded by the entries that are allowed.
            if self.is_over() {
                break;
            }
        }
        Ok(level)
    }
}

// === removal ===

/// Removes the folder `name` of `parent` with all that is in it. `false` if there was more to do than until `until`; the
/// next call goes on with the rest.
///
/// # Errors
/// When something can't be removed.
pub fn remove(parent: impl AsFd, name: &CStr, until: Option<Instant>) -> io::Result<bool> {
    let parent = parent.as_fd();
    let mut error = io::Error::from(Errno::NOTEMPTY);
    for _ in 0..ATTEMPTS {
        match empty(parent, name, until) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(Errno::NOENT) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            // Somebody still writes to it.
            Err(errno) => error = errno.into(),
        }
    }
    Err(error)
}

/// Removes level by level: what is deeper is moved up first. So a removal that is cut short has got somewhere, and no tree is
/// too deep for it.
fn empty(parent: impl AsFd, name: &CStr, until: Option<Instant>) -> rustix::io::Result<bool> {
    /// How often a folder may be found filled again after it was emptied.
    const REFILLED: usize = 1000;
    let is_late = || until.is_some_and(|until| Instant::now() >= until);
    let top = open_to_empty(parent, name)?;
    let (mut refilled, mut moved) = (0, 0);
    loop {
        let folders = clear(&top, &is_late)?;
        if is_late() {
            return Ok(false);
        }
        if folders.is_empty() {
            return Ok(true);
        }
        for name in folders {
            let folder = match open_to_empty(&top, &name) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error),
            };
            loop {
                let deeper = clear(&folder, &is_late)?;
                if is_late() {
                    return Ok(false);
                }
                if deeper.is_empty() {
                    break;
                }
                for name in deeper {
                    move_up(&folder, &name, &top, &mut moved)?;
                }
            }
            match unlinkat(&top, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) if refilled < REFILLED => refilled += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Moves a folder to where no other has its name.
fn move_up(folder: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match renameat(folder, name, top, format!("moved-{moved}")) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            // To move a folder is to write to it.
            Err(Errno::ACCESS) if !is_open_to_us(folder, name)? => drop(open_to_empty(folder, name)?),
            Err(error) => return Err(error),
        }
    }
}

/// Removes the files and the empty folders in a folder. Returns folders that are left, at most `NOTED` of them.
fn clear(folder: &OwnedFd, is_late: &impl Fn() -> bool) -> rustix::io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    // A descriptor of its own, or a second reading would go on where the first one ended.
    let listing = open_folder(folder, c".")?;
    let mut buffer = [MaybeUninit::uninit(); LISTING];
    let mut entries = RawDir::new(&listing, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        let mut removed = match entry.file_type() {
            FileType::Directory => unlinkat(folder, name, AtFlags::REMOVEDIR),
            _ => unlinkat(folder, name, AtFlags::empty()),
        };
        if let Err(Errno::ISDIR | Errno::PERM) = removed {
            // Not every file system says what an entry is.
            removed = unlinkat(folder, name, AtFlags::REMOVEDIR);
        }
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => folders.push(name.to_owned()),
            Err(error) => return Err(error),
        }
        if folders.len() == NOTED || is_late() {
            break;
        }
    }
    Ok(folders)
}

/// A folder that can be read and written to, whatever its permissions were.
fn open_to_empty(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let folder = match open_folder(&parent, name) {
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = openat(&parent, name, flags, Mode::empty())?;
            // By its descriptor: the name could be another's by now.
            rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
            open_folder(&parent, name)?
        }
        opened => opened?,
    };
    if !is_open(&fstat(&folder)?) {
        fchmod(&folder, Mode::RWXU)?;
    }
    Ok(folder)
}

fn is_open_to_us(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    Ok(is_open(&statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

fn is_open(stat: &Stat) -> bool {
    Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU)
}

pub fn open_folder(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, FOLDER, Mode::empty())
}

/// Opens a file that we have written, without waiting: a pipe of that name would wait for a writer.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Where the kernel says that an open file is. A path that was made of links, or is relative, is another.
pub fn path_of(file: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

pub fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn size(stat: &Stat) -> u64 {
    /// stat(2) counts in these, whatever the file system's own block size is.
    const BLOCK: u64 = 512;
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK)
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DEEP: usize = 19_000;

    struct Tree {
        home: tempfile::TempDir,
        folder: OwnedFd,
    }

    fn tree() -> Tree {
        let home = tempfile::tempdir().unwrap();
        let folder = OwnedFd::from(std::fs::File::open(home.path()).unwrap());
        Tree { home, folder }
    }

    impl Tree {
        fn make(&self, path: &str) -> std::path::PathBuf {
            let path = self.home.path().join("top").join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        }

        /// A folder in a folder, and so on.
        fn nest(&self, levels: usize) {
            let mut here = open_folder(&self.folder, c"top").unwrap();
            for _ in 0..levels {
                rustix::fs::mkdirat(&here, c"d", Mode::RWXU).unwrap();
                here = open_folder(&here, c"d").unwrap();
            }
            openat(&here, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        }

        fn remove(&self, until: Option<Instant>) -> io::Result<bool> {
            remove(&self.folder, c"top", until)
        }

        fn measure(&self, limit: Size) -> io::Result<Size> {
            let mut tally = Tally::new(limit);
            tally.walk(open_folder(&self.folder, c"top").unwrap())?;
            Ok(tally.used())
        }

        fn is_gone(&self) -> bool {
            !self.home.path().join("top").exists()
        }
    }

    const ANY: Size = Size { bytes: u64::MAX, entries: u64::MAX };

    #[test]
    fn no_tree_is_too_deep() {
        let tree = tree();
        tree.make("");
        tree.nest(DEEP);
        assert_eq!(tree.measure(ANY).unwrap().entries, DEEP as u64 + 1);
        assert!(tree.remove(None).unwrap() && tree.is_gone());
        assert!(tree.remove(None).unwrap(), "nothing is left to remove");
    }

    #[test]
    fn a_removal_that_is_cut_short_has_got_somewhere() {
        let tree = tree();
        tree.make("");
        tree.nest(DEEP);
        let mut rounds = 0;
        while !tree.remove(Some(Instant::now() + std::time::Duration::from_millis(20))).unwrap() {
            rounds += 1;
            assert!(rounds < DEEP, "each round begins anew");
        }
        assert!(tree.is_gone());
    }

    #[test]
    fn what_cannot_be_read_is_removed_and_links_lead_nowhere() {
        let tree = tree();
        let outside = tree.home.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let closed = tree.make("a/b/closed");
        std::fs::create_dir_all(closed.join("c/d")).unwrap();
        for name in ["moved-1", "moved-2"] {
            std::fs::write(tree.make("").join(name), "in the way").unwrap();
        }
        std::os::unix::fs::symlink(&outside, tree.make("a").join("link")).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
        assert!(tree.remove(None).unwrap() && tree.is_gone());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn many_wide_folders_are_removed() {
        let tree = tree();
        for outer in 0..200 {
            for inner in 0..10 {
                std::fs::write(tree.make(&format!("{outer}/{inner}")).join("file"), "x").unwrap();
            }
        }
        assert_eq!(tree.measure(ANY).unwrap().entries, 200 + 2 * 2000);
        assert!(tree.remove(None).unwrap() && tree.is_gone());
    }

    #[test]
    fn a_file_of_two_names_is_counted_once_and_its_names_twice() {
        let tree = tree();
        let file = tree.make("").join("file");
        std::fs::write(&file, vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(&file, tree.make("").join("other")).unwrap();
        let used = tree.measure(ANY).unwrap();
        assert!(used.entries == 2 && (1 << 20..2 << 20).contains(&used.bytes), "{used:?}");
    }

    #[test]
    fn counting_ends_when_it_is_over_the_limit() {
        let tree = tree();
        tree.make("");
        tree.nest(100);
        let limit = Size { entries: 10, ..ANY };
        let used = tree.measure(limit).unwrap();
        assert!(used.exceeds(limit) && used.entries == 11, "{used:?}");
    }

    #[test]
    fn what_cannot_be_measured_is_an_error() {
        if rustix::process::geteuid().is_root() {
            // Nothing is closed to root: here the tree has a folder that is gone.
            let tree = tree();
            tree.make("");
            let top = open_folder(&tree.folder, c"top").unwrap();
            let file = openat(&top, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
            assert!(Tally::new(ANY).walk(file).is_err());
            return;
        }
        let tree = tree();
        let closed = tree.make("closed");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
        assert!(tree.measure(ANY).is_err());
        assert!(tree.remove(None).unwrap() && tree.is_gone());
    }
}
