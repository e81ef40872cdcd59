//! Makes folders for one run each, in a room that this process has to itself in TMPDIR.
//!
//! The room is locked for as long as the process lives. A process that is killed leaves its room with all that is in it, and
//! the next one removes it: see [`sweep`].

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::tree;
use crate::locks::lock;

/// The beginning of a room's name.
const PREFIX: &str = "wq-run-room-";

/// How long a run waits for its folder to be removed. After that, the removal goes on beside the next runs.
const REMOVE_WITHIN: Duration = Duration::from_millis(200);

/// How long the end of the process waits for its room to be removed. The rest is left to the next sweep.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// How long a start waits for what others have left. The sweep goes on after that.
const SWEEP_WITHIN: Duration = Duration::from_millis(500);

/// Where folders for runs are made.
#[derive(Debug)]
pub struct Room {
    place: Place,
    /// Made when the first folder is asked for.
    opened: Mutex<Option<Arc<Opened>>>,
}

#[derive(Debug)]
enum Place {
    /// A new folder in this one.
    In(PathBuf),
    /// This folder, which another process has made and will remove.
    At(PathBuf),
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    folder: OwnedFd,
    /// The lock, which a sweep would need too.
    _lock: File,
    /// The folder that the room lies in, if the room is ours to remove.
    home: Option<OwnedFd>,
}

/// An empty folder. It is removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct Folder {
    room: Arc<Opened>,
    path: PathBuf,
    name: CString,
}

// === impl Room ===

impl Room {
    /// A room in the folder for temporary files.
    pub fn temporary() -> Room {
        Room { place: Place::In(std::env::temp_dir()), opened: Mutex::default() }
    }

    /// A folder in the room of another process, which was made for this one.
    pub fn at(path: PathBuf) -> Room {
        Room { place: Place::At(path), opened: Mutex::default() }
    }

    /// # Errors
    /// When no folder can be made there.
    pub fn folder(&self) -> io::Result<Folder> {
        let room = self.opened()?;
        let kept = tempfile::Builder::new().prefix("").rand_bytes(12).tempdir_in(&room.path)?.keep();
        let name = name_of(&kept)?;
        Ok(Folder { room, path: kept, name })
    }

    /// Makes the room now, or opens the one that was made.
    ///
    /// # Errors
    /// As for the first folder.
    pub fn enter(&self) -> io::Result<()> {
        self.opened().map(drop)
    }

    /// Removes the room. Folders that are still in use go with it.
    pub fn close(&self) {
        lock(&self.opened).take();
    }

    fn opened(&self) -> io::Result<Arc<Opened>> {
        let mut opened = lock(&self.opened);
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let room = Arc::new(match &self.place {
            Place::In(home) => Opened::make(home)?,
            Place::At(path) => Opened::join(path)?,
        });
        *opened = Some(room.clone());
        Ok(room)
    }
}

impl Opened {
    fn make(home: &Path) -> io::Result<Opened> {
        /// Each fails only if a sweep came between two lines of it.
        const ATTEMPTS: usize = 100;
        let home_folder = open(home)?;
        // Absolute, so that children find it and so that it can be compared with what the kernel says.
        let home = tree::path_of(&home_folder)?;
        for _ in 0..ATTEMPTS {
            let path = tempfile::Builder::new().prefix(PREFIX).rand_bytes(12).tempdir_in(&home)?.keep();
            let Ok(folder) = open(&path) else { continue };
            let lock = File::from(folder.try_clone()?);
            // A sweep that had the lock before us has removed the folder, or is about to.
            if lock.try_lock_shared().is_ok() && fstat(&folder)?.st_nlink > 0 {
                return Ok(Opened { path, folder, _lock: lock, home: Some(home_folder) });
            }
        }
        Err(io::Error::other("each new folder was removed by somebody else"))
    }

    fn join(path: &Path) -> io::Result<Opened> {
        let folder = open(path)?;
        // The room of the other process: it is not swept before both have ended.
        let lock = File::from(tree::open_folder(&folder, c"..")?);
        lock.try_lock_shared()?;
        Ok(Opened { path: path.to_owned(), folder, _lock: lock, home: None })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let (Some(home), Ok(name)) = (&self.home, name_of(&self.path)) else { return };
        tell(&self.path, tree::remove(home, &name, Some(Instant::now() + LEAVE_WITHIN)));
    }
}

// === impl Folder ===

impl Folder {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// When it is gone.
    pub fn open(&self) -> io::Result<OwnedFd> {
        Ok(tree::open_folder(&self.room.folder, &self.name)?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let removed = tree::remove(&self.room.folder, &self.name, Some(Instant::now() + REMOVE_WITHIN));
        if !matches!(removed, Ok(false)) {
            return tell(&self.path, removed);
        }
        let (room, path, name) = (self.room.clone(), self.path.clone(), self.name.clone());
        let rest = std::thread::Builder::new().name("remove".into());
        let started = rest.spawn(move || tell(&path, tree::remove(&room.folder, &name, None)));
        if let Err(error) = started {
            tell(&self.path, Err(error));
        }
    }
}

/// A folder that stays is no fault of the run that it was for.
fn tell(path: &Path, removed: io::Result<bool>) {
    match removed {
        Ok(true) => {}
        Ok(false) => tracing::debug!(path = %path.display(), "a folder is left to the next start"),
        Err(error) => tracing::warn!(%error, path = %path.display(), "cannot remove a folder"),
    }
}

// === sweep ===

/// Removes the rooms that killed processes have left. After a moment the removal goes on in the background.
pub fn sweep() {
    let (done_tx, done_rx) = channel::<()>();
    let swept = std::thread::Builder::new().name("sweep".into()).spawn(move || {
        sweep_in(&std::env::temp_dir());
        drop(done_tx);
    });
    match swept {
        // Ends with the thread, or after a while.
        Ok(_) => drop(done_rx.recv_timeout(SWEEP_WITHIN)),
        Err(error) => tracing::warn!(%error, "cannot start the thread that removes what killed workers have left"),
    }
}

fn sweep_in(home: &Path) {
    let (Ok(folder), Ok(entries)) = (open(home), std::fs::read_dir(home)) else { return };
    for name in entries.flatten().map(|entry| entry.file_name()).filter(|name| is_room(name)) {
        let Ok(name) = CString::new(name.as_bytes()) else { continue };
        // Opens nothing but folders: a pipe of that name would wait for a writer.
        let Ok(room) = tree::open_folder(&folder, &name).map(File::from) else { continue };
        let is_ours = fstat(&room).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw());
        // The processes in it hold the lock, guests' processes included.
        if is_ours && room.try_lock().is_ok() {
            let path = home.join(OsStr::from_bytes(name.as_bytes()));
            tell(&path, tree::remove(&folder, &name, None));
        }
    }
}

fn is_room(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

fn name_of(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.file_name().unwrap_or_default().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::*;

    fn room_in(home: &Path) -> Room {
        Room { place: Place::In(home.to_owned()), opened: Mutex::default() }
    }

    fn names(home: &Path) -> usize {
        std::fs::read_dir(home).unwrap().count()
    }

    #[test]
    fn folders_go_when_their_run_ends_and_the_room_when_the_process_ends() {
        let home = tempfile::tempdir().unwrap();
        let room = room_in(home.path());
        assert_eq!(names(home.path()), 0);
        let (folder, other) = (room.folder().unwrap(), room.folder().unwrap());
        assert_eq!(names(home.path()), 1);
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists() && other.path().exists());
        drop(other);
        room.close();
        assert_eq!(names(home.path()), 0);
    }

    #[test]
    fn only_what_nobody_uses_is_swept_away() {
        let home = tempfile::tempdir().unwrap();
        let room = room_in(home.path());
        let used = room.folder().unwrap();
        let left = home.path().join("wq-run-room-left");
        std::fs::create_dir_all(left.join("run/d")).unwrap();
        let pipe = home.path().join("wq-run-room-pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let link = home.path().join("wq-run-room-link");
        std::os::unix::fs::symlink(used.path(), &link).unwrap();
        sweep_in(home.path());
        assert!(!left.exists() && used.path().is_dir() && pipe.exists() && link.exists());
    }

    #[test]
    fn a_room_is_not_swept_as_long_as_a_guests_process_is_in_it() {
        let home = tempfile::tempdir().unwrap();
        let room = room_in(home.path());
        let folder = room.folder().unwrap();
        let child = Room::at(folder.path().to_owned());
        let run = child.folder().unwrap();
        // As it is after the worker was killed.
        let path = folder.path().to_owned();
        std::mem::forget(folder);
        let opened = room.opened.lock().unwrap().take().unwrap();
        opened._lock.unlock().unwrap();
        sweep_in(home.path());
        assert!(run.path().is_dir());
        drop(run);
        child.close();
        assert!(path.is_dir(), "what was lent is not removed");
        sweep_in(home.path());
        assert_eq!(names(home.path()), 0);
    }

    #[test]
    fn a_sweep_takes_no_room_that_is_just_being_made() {
        let home = tempfile::tempdir().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    sweep_in(home.path());
                }
            });
            for _ in 0..500 {
                let folder = room_in(home.path()).folder().unwrap();
                std::fs::write(folder.path().join("file"), "x").unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(names(home.path()), 0);
    }
}
