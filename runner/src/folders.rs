//! Looks at folders and at what they lie on, and changes nothing there.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access, statfs, statvfs};

/// Whether files can be made in a folder, as far as the system tells without one.
///
/// # Errors
/// When there is no such folder, or it can't be written to.
pub fn can_be_written(folder: &Path) -> io::Result<()> {
    if !std::fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Whether a file that is there can be written to.
///
/// # Errors
/// When it can't.
pub fn file_can_be_written(file: &Path) -> io::Result<()> {
    Ok(access(file, Access::READ_OK | Access::WRITE_OK)?)
}

/// The room that is left for us, in bytes.
///
/// # Errors
/// When the system does not tell.
pub fn free(path: &Path) -> io::Result<u64> {
    let system = statvfs(path)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Whether a path lies on a file system of another host, as far as its type tells.
pub fn is_remote(path: &Path) -> bool {
    // NFS, SMB, SMB2, CIFS, AFS, Ceph, 9p: from statfs(2) and linux/magic.h.
    const REMOTE: [u32; 7] = [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42, 0x5346_414f, 0x00c3_6400, 0x0102_1997];
    // The type is a word of the machine's size, of which the number is the lower half.
    statfs(path).is_ok_and(|system| REMOTE.contains(&(system.f_type as u32)))
}
