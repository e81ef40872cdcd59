//! `--result dir:PATH`: a folder with one file a message.
//!
//! A file is there whole or not at all, also after a power cut: it is written under another name, brought to the disk,
//! renamed, and then the folder is brought to the disk.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::percent_encode_byte;
use tempfile::NamedTempFile;

use super::error::Cause;
use super::kind::{Needs, Sink, SinkKind};
use super::record::Record;
use crate::{blocking, folders};

pub const KIND: SinkKind = SinkKind {
    name: "dir",
    rest: Some("PATH"),
    needs: |path| if path.is_empty() { Err("`dir:` needs a path: dir:PATH".into()) } else { Ok(Needs::Place) },
    has_format: true,
    open: |spec, _| {
        Box::pin(async move { Ok(Box::new(Directory::open(Path::new(&spec.rest)).await?) as Box<dyn Sink>) })
    },
};

#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    /// Whether the file system takes `A` and `a` for the same name.
    ignores_case: bool,
}

/// Why a result is not in the folder.
#[derive(Debug)]
pub enum Failure {
    /// The next result would fare no better.
    Folder(io::Error),
    /// This result can never be written here, and others can.
    Name(io::Error),
    /// The file system takes no file of this size.
    TooLarge(io::Error),
}

/// What a file is called until it is whole. No result is called so: their names start with no dot.
const PREFIX: &str = ".wq-run-";
const SUFFIX: &str = ".part";

/// As any new file has it: the umask takes its share.
const MODE: u32 = 0o666;

/// A file of a worker that was killed is removed when nobody has written to it for so long. If its worker is alive after
/// all, renaming it fails, and the message is delivered again.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// So many names are looked at for what was left behind: a folder of millions must not hold up the start.
const LOOKED_THROUGH: usize = 10_000;

/// Looks whether files could be made in a folder. [`Directory::open`] makes some, and knows better.
///
/// # Errors
/// When they could not.
pub fn look(folder: &Path) -> io::Result<()> {
    folders::can_be_written(folder)
}

impl Directory {
    /// # Errors
    /// When no file can be made there.
    pub async fn open(path: &Path) -> io::Result<Directory> {
        let path = path.to_owned();
        blocking::call(move || {
            // Tried, since permissions alone do not tell: the file system may be read-only.
            let ignores_case = rehearse(&path)?;
            sweep(&path);
            Ok(Directory { path, ignores_case })
        })
        .await
    }

    /// Writes a result, in the place of an earlier one for the same message. `fallback` is a name that every file system
    /// takes, in case this one has no names as long as `name`.
    pub async fn write(&self, name: &str, fallback: &str, body: Bytes) -> Result<(), Failure> {
        let folder = self.path.clone();
        let name = if self.ignores_case { without_capitals(name) } else { name.to_owned() };
        let fallback = fallback.to_owned();
        blocking::call(move || write(&folder, &name, &fallback, &body)).await
    }
}

#[async_trait]
impl Sink for Directory {
    async fn write(&self, record: &Record) -> Result<(), Cause> {
        // A name that every file system takes: it is 64 digits long.
        let fallback = record.properties.message_id.as_deref().unwrap_or_default();
        Ok(Directory::write(self, &record.file_name, fallback, record.body.clone()).await?)
    }

    fn has_format(&self) -> bool {
        KIND.has_format
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Cause {
        match failure {
            Failure::Folder(error) => Cause::Io(error),
            Failure::Name(error) => Cause::Name(error),
            Failure::TooLarge(error) => Cause::TooLarge(error),
        }
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the folder {}", self.path.display())
    }
}

fn write(folder: &Path, name: &str, fallback: &str, body: &[u8]) -> Result<(), Failure> {
    let mut part = part(folder).map_err(Failure::Folder)?;
    let written = part.as_file_mut().write_all(body).and_then(|()| part.as_file().sync_all());
    written.map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => Failure::TooLarge(error),
        _ => Failure::Folder(error),
    })?;
    if let Err(mut refused) = part.persist(folder.join(name)) {
        if refused.error.kind() == ErrorKind::InvalidFilename {
            match refused.file.persist(folder.join(fallback)) {
                Ok(_) => return sync(folder).map_err(Failure::Folder),
                Err(again) => refused = again,
            }
        }
        return Err(blame(folder, refused.error));
    }
    // The new name is in the folder, which has to be on the disk as well.
    sync(folder).map_err(Failure::Folder)
}

/// Decides whether a name was refused or the folder failed. There are many errors, and some mean the one or the other (no
/// permission: the folder's, or that of a file which is in the way). A name that nothing is wrong with tells them apart.
fn blame(folder: &Path, error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => Failure::Folder(error),
        _ => match rehearse(folder) {
            Ok(_) => Failure::Name(error),
            Err(_) => Failure::Folder(error),
        },
    }
}

/// Does with an empty file all that is done with a result. Returns whether the file system ignores case.
fn rehearse(folder: &Path) -> io::Result<bool> {
    let part = part(folder)?;
    part.as_file().sync_all()?;
    let whole = tempfile::Builder::new().prefix(&format!("{PREFIX}a-")).suffix(SUFFIX).tempfile_in(folder);
    let whole = whole.map_err(of_the_folder)?;
    let target = whole.into_temp_path();
    let ignores_case = target
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| folder.join(name.replacen("-a-", "-A-", 1)).exists());
    part.persist(&target)?;
    sync(folder)?;
    target.close()?;
    Ok(ignores_case)
}

/// Brings the names in a folder to the disk.
fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems have no such call; theirs are there when they are made.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Removes what killed workers left behind. Best effort: nobody needs it gone.
pub fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.take(LOOKED_THROUGH).flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if !ours {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if metadata.is_file() && age.is_some_and(|age| age >= ABANDONED_AFTER) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Maps names to names that stay different on a file system that ignores case, by escaping capital letters. The digits of an
/// existing escape are always capitals, so they make no difference. Such file systems may also drop a dot at the end.
fn without_capitals(name: &str) -> String {
    let mut escaped = String::new();
    let mut digits = 0;
    for character in name.chars() {
        if character.is_ascii_uppercase() && digits == 0 {
            escaped += percent_encode_byte(character as u8);
            continue;
        }
        digits = if character == '%' { 2 } else { usize::saturating_sub(digits, 1) };
        escaped.push(character);
    }
    match escaped.strip_suffix('.') {
        Some(rest) => format!("{rest}%2E"),
        None => escaped,
    }
}

/// Removed when it is dropped and was not renamed.
fn part(folder: &Path) -> io::Result<NamedTempFile> {
    let mode = Permissions::from_mode(MODE);
    tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).permissions(mode).tempfile_in(folder).map_err(of_the_folder)
}

/// The same for a file that only its owner may read.
pub fn private_part(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(PREFIX)
        .suffix(SUFFIX)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .map_err(of_the_folder)
}

/// An error of a temporary file without the name of that file, which nobody has heard of and which is gone.
fn of_the_folder(error: io::Error) -> io::Error {
    // The library shows the error that it wraps, and keeps it to itself.
    match error.to_string().rsplit_once(" at path ") {
        Some((said, _)) => io::Error::new(error.kind(), said),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn an_error_of_a_folder_names_no_file_that_nobody_has_heard_of() {
        let outer = tempfile::tempdir().unwrap();
        let missing = outer.path().join("missing");
        let file = outer.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for folder in [&missing, &file] {
            let said = [Directory::open(folder).await.unwrap_err(), private_part(folder).unwrap_err()];
            assert!(said.iter().all(|error| !error.to_string().contains(".wq-run-")), "{said:?}");
        }
        let directory = Directory { path: missing, ignores_case: false };
        let Err(Failure::Folder(gone)) = directory.write("m", "m", "x".into()).await else {
            panic!("there is no folder")
        };
        assert_eq!(gone.to_string(), "No such file or directory (os error 2)");
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_name_that_is_taken_by_a_folder_is_that_results_fault_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["empty", "full"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("full/file"), b"").unwrap();
        let directory = Directory::open(folder.path()).await.unwrap();
        for name in ["empty", "full"] {
            assert!(matches!(directory.write(name, "fallback", Bytes::new()).await, Err(Failure::Name(_))));
        }
        assert_eq!(names(folder.path()), ["empty", "full"], "nothing is left behind");
        assert!(directory.write("good", "fallback", Bytes::new()).await.is_ok());
    }

    #[tokio::test]
    async fn a_name_that_is_too_long_for_the_file_system_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).await.unwrap();
        directory.write(&"x".repeat(300), "fallback", Bytes::from_static(b"whole")).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join("fallback")).unwrap(), b"whole");
        let refused = directory.write(&"x".repeat(300), &"y".repeat(300), Bytes::new()).await;
        assert!(matches!(refused, Err(Failure::Name(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_is_every_results_fault() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).await.unwrap();
        std::fs::remove_dir(folder.path()).unwrap();
        assert!(matches!(directory.write("name", "fallback", Bytes::new()).await, Err(Failure::Folder(_))));
    }

    #[tokio::test]
    async fn what_a_killed_worker_left_is_removed_once_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".wq-run-old.part", ".wq-run-new.part", "old", ".old.part"] {
            let file = File::create(folder.path().join(name)).unwrap();
            if name.contains("old") {
                file.set_modified(SystemTime::now() - 2 * ABANDONED_AFTER).unwrap();
            }
        }
        Directory::open(folder.path()).await.unwrap();
        assert_eq!(names(folder.path()), [".old.part", ".wq-run-new.part", "old"]);
    }

    proptest! {
        #[test]
        fn no_two_names_are_one_where_case_does_not_count(a in "([a-cA-C.]|%2[0F]){0,4}", b in "([a-cA-C.]|%2[0F]){0,4}") {
            let known = |name| without_capitals(name).to_ascii_lowercase();
            let (one, other) = (known(&a), known(&b));
            prop_assert!(!one.ends_with('.'));
            prop_assert_eq!(a == b, one == other);
        }
    }
}
