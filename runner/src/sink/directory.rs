//! A folder with one file a message. A file is there whole or not at all, also after a power cut: it is written under
//! another name, brought to the disk, renamed, and then the folder is brought to the disk.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::blocking;

#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// What a file is called until it is whole. No result is called so: their names start with no dot.
const PREFIX: &str = ".wq-run-";
const SUFFIX: &str = ".part";

/// As any new file has it: the umask takes its share.
const MODE: u32 = 0o666;

impl Directory {
    /// # Errors
    /// When no file can be made there.
    pub async fn open(path: &Path) -> io::Result<Directory> {
        let path = path.to_owned();
        blocking::call(move || {
            // Tried, since permissions alone do not tell: the file system may be read-only.
            part(&path)?.close()?;
            Ok(Directory(path))
        })
        .await
    }

    /// Writes a result, in the place of an earlier one for the same message.
    pub async fn write(&self, name: String, body: Bytes) -> io::Result<()> {
        let folder = self.0.clone();
        blocking::call(move || {
            let mut part = part(&folder)?;
            part.write_all(&body)?;
            part.as_file().sync_all()?;
            part.persist(folder.join(name))?;
            // The new name is in the folder, which has to be on the disk as well.
            File::open(&folder)?.sync_all()
        })
        .await
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the folder {}", self.0.display())
    }
}

/// Removed when it is dropped and was not renamed.
fn part(folder: &Path) -> io::Result<NamedTempFile> {
    let mode = Permissions::from_mode(MODE);
    tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).permissions(mode).tempfile_in(folder)
}
