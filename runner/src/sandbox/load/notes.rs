//! Writes the cache's files whole or not at all, and reads those that nobody else can have written.

use std::fs::{Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::sandbox::world::tree;

/// Writes a file of the cache: whole, or not at all.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    // Read by all: what an init container made as root, a worker may use.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    let path = folder.join(name);
    file.persist(&path)?;
    Ok(path)
}

/// Reads a small file of the cache, if nobody else can have written it.
pub fn read(path: &Path) -> Option<String> {
    /// More than any note needs, in bytes.
    const LONGEST: u64 = 200;
    let file = tree::open_file(path).ok()?;
    if !file.metadata().is_ok_and(|metadata| is_ours_alone(&metadata)) {
        return None;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whether nobody but we and root can have written a file.
pub fn is_ours_alone(metadata: &Metadata) -> bool {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() || metadata.uid() == 0;
    metadata.is_file() && ours && metadata.mode() & WRITABLE_BY_OTHERS == 0
}
