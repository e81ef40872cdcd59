//! The termination log: a file in which a container leaves why it ended. Kubernetes shows it in the status of the pod.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::locks::lock;
use crate::visible;

/// The variable that names another file.
pub const VARIABLE: &str = "WQ_TERMINATION_LOG";

/// Where Kubernetes looks for it unless a pod says otherwise. The kubelet makes this file before the container starts.
const DEFAULT: &str = "/dev/termination-log";

/// As much as Kubernetes takes of it, in bytes.
const MOST: usize = 4096;

/// How long the end of the process waits for the file: it may be on a disk that does not answer.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

static LOG: Mutex<Log> = Mutex::new(Log { path: None, about: None, panic: None });

struct Log {
    path: Option<Place>,
    /// Says what was done until now.
    about: Option<Box<dyn Fn() -> String + Send>>,
    /// The first panic.
    panic: Option<String>,
}

#[derive(Clone)]
enum Place {
    /// One that was asked for is made if it is not there.
    Named(PathBuf),
    /// The default is written to only if it is there. Elsewhere nobody waits for it.
    Default,
}

/// Has this process write a termination log: to this file, or to the default one.
pub fn keep(named: Option<&Path>) {
    lock(&LOG).path = Some(named.map_or(Place::Default, |path| Place::Named(path.to_owned())));
}

/// What the log says after the reason of the end: what was done until then. It must not wait for anything.
pub fn about(work: impl Fn() -> String + Send + 'static) {
    lock(&LOG).about = Some(Box::new(work));
}

/// Notes a panic. The first one is the reason of those that follow.
pub fn panicked(panic: &str) {
    lock(&LOG).panic.get_or_insert_with(|| panic.to_owned());
}

/// The first panic, if there was one.
pub fn panic() -> Option<String> {
    lock(&LOG).panic.clone()
}

/// Writes why the process ends, and what it has done. Returns after a bounded time.
pub fn write(reason: &str) {
    let (done_tx, done) = channel();
    let reason = reason.to_owned();
    let writing = std::thread::Builder::new().name("termination-log".into()).spawn(move || {
        write_now(&reason);
        drop(done_tx);
    });
    if writing.is_ok() {
        let _: Result<(), _> = done.recv_timeout(WRITTEN_WITHIN);
    }
}

/// The same, for as long as that takes. For a thread that nothing depends on.
pub fn write_now(reason: &str) {
    let (path, about) = {
        let log = lock(&LOG);
        let Some(path) = log.path.clone() else { return };
        (path, log.about.as_ref().map(|about| about()))
    };
    let text = format!("{reason}{}", about.unwrap_or_default());
    if text.is_empty() {
        return;
    }
    // A container whose file can't be written has no other place for this. All of it is in the log as well.
    let _ = write_to(&path, first(&visible::lines(&text)));
}

fn write_to(place: &Place, text: &str) -> io::Result<()> {
    let (path, is_named) = match place {
        Place::Named(path) => (path.as_path(), true),
        Place::Default => (Path::new(DEFAULT), false),
    };
    // A file that is mounted can't be replaced by another one. A pipe that nobody reads is no reason to wait.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().write(true).truncate(true).create(is_named).custom_flags(flags).open(path)?;
    file.write_all(text.as_bytes())
}

/// As much of it as there is room for.
fn first(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        assert_eq!(first("short"), "short");
        let long = "ä".repeat(MOST);
        assert_eq!(first(&long).len(), MOST);
        let shifted = format!("x{long}");
        assert_eq!(first(&shifted).len(), MOST - 1);
    }

    #[test]
    fn only_a_file_that_was_asked_for_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        write_to(&Place::Named(path.clone()), "first, and longer").unwrap();
        write_to(&Place::Named(path.clone()), "second").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "second");
        if !Path::new(DEFAULT).exists() {
            write_to(&Place::Default, "x").unwrap_err();
            assert!(!Path::new(DEFAULT).exists());
        }
    }
}
