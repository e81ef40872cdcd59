//! `--record`: saves a case of each run in a folder.
//!
//! Cases are for finding out later what happened. A case that can't be saved is a warning, and its message is settled as if
//! there were none.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, BufWriter, ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::HEXLOWER;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::case::secrets::Secrets;
use crate::case::{Case, Context, Delivered, End, Flags, Grants, Guest};
use crate::locks::lock;
use crate::observe::trace::Carried;
use crate::sink::directory;
use crate::task::{Attempt, Message, Origin};
use crate::{blocking, folders};

/// What all cases of a worker have in common.
#[derive(Clone, Debug)]
pub struct Options {
    pub folder: PathBuf,
    pub flags: Flags,
    pub grants: Grants,
    /// What no case may hold.
    pub secrets: Secrets,
}

/// The folder of the cases.
pub struct Cases {
    options: Arc<Options>,
    /// A write has not come back in time.
    hangs: Arc<AtomicBool>,
    /// Cases that were not saved, by the reason.
    missing: Mutex<BTreeMap<String, u64>>,
}

/// A run that has begun.
pub struct Begun {
    message: Delivered,
    context: Context,
}

/// A message waits no longer than this for its case. A disk that takes longer does not answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A longer id is known by its hash: the whole name has to be one that every file system takes.
const LONGEST_ID: usize = 100;

impl Begun {
    pub fn new(message: &Message, origin: &Origin, attempt: Attempt, carried: &Carried) -> Begun {
        let Carried { traceparent, tracestate } = carried.clone();
        let job_completion_index = std::env::var("JOB_COMPLETION_INDEX").ok();
        Begun {
            message: Delivered::new(message.clone(), origin, attempt.number, Some(attempt.max)),
            context: Context { traceparent, tracestate, job_completion_index },
        }
    }
}

impl Cases {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// When no file can be made there.
    pub async fn open(options: Options) -> io::Result<Cases> {
        let folder = options.folder.clone();
        blocking::call(move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            folders::can_be_written(&folder)?;
            // Permissions alone do not tell: the file system may be read-only.
            directory::private_part(&folder)?;
            directory::sweep(&folder);
            Ok::<(), io::Error>(())
        })
        .await?;
        Ok(Cases { options: Arc::new(options), hangs: Arc::default(), missing: Mutex::default() })
    }

    /// Saves the case of a run. Says so if that fails.
    pub async fn save(&self, begun: Begun, end: End, guest: &str, digest: &str) {
        if self.hangs.load(Ordering::SeqCst) {
            return self.miss("hangs", "the disk has not answered an earlier write".to_owned());
        }
        let (options, hangs, done) = (self.options.clone(), self.hangs.clone(), Arc::new(AtomicBool::default()));
        let is_done = done.clone();
        let guest = Guest { name: Some(guest.to_owned()), digest: Some(digest.to_owned()) };
        let saved = blocking::call(move || {
            let saved = save(&options, begun, end, guest);
            done.store(true, Ordering::SeqCst);
            hangs.store(false, Ordering::SeqCst);
            saved
        });
        match tokio::time::timeout(WRITE_TIMEOUT, saved).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.miss(&error.kind().to_string(), error.to_string()),
            Err(_) => {
                self.hangs.store(true, Ordering::SeqCst);
                if is_done.load(Ordering::SeqCst) {
                    self.hangs.store(false, Ordering::SeqCst);
                }
                self.miss(
                    "hangs",
                    format!("the disk has not answered for {}", humantime::format_duration(WRITE_TIMEOUT)),
                );
            }
        }
    }

    /// Notes a case that is not there, and says so for the first one of each reason.
    fn miss(&self, reason: &str, error: String) {
        let mut missing = lock(&self.missing);
        let is_known = missing.contains_key(reason);
        *missing.entry(reason.to_owned()).or_default() += 1;
        drop(missing);
        if !is_known {
            let folder = self.options.folder.display().to_string();
            tracing::warn!(error, folder, "a case was not saved (--record)");
        }
    }

    /// Says at the end how many cases are not there.
    pub fn say_what_is_missing(&self) {
        let missing: u64 = lock(&self.missing).values().sum();
        if missing > 0 {
            tracing::warn!(missing, "cases are missing (--record)");
        }
    }
}

fn save(options: &Options, begun: Begun, end: End, guest: Guest) -> io::Result<()> {
    let Options { folder, flags, grants, secrets } = options;
    let name = name(&begun.message);
    let mut case = Case::new(guest, begun.message, end);
    (case.flags, case.grants, case.context) = (Some(flags.clone()), Some(grants.clone()), begun.context);
    case.withhold(secrets);
    let mut part = directory::private_part(folder)?;
    let mut buffered = BufWriter::new(part.as_file_mut());
    serde_json::to_writer_pretty(&mut buffered, &case)?;
    buffered.write_all(b"\n")?;
    buffered.flush()?;
    drop(buffered);
    // What was saved of another run is not replaced: a message can come again, and two can have one id.
    match part.persist_noclobber(folder.join(format!("{name}.json"))) {
        Ok(_) => Ok(()),
        Err(taken) if taken.error.kind() == ErrorKind::AlreadyExists => {
            let name = format!("{name}.{:08x}.json", fastrand::u32(..));
            taken.file.persist_noclobber(folder.join(name)).map(drop).map_err(|refused| refused.error)
        }
        Err(refused) => Err(refused.error),
    }
}

/// The message's id and the attempt, as the name of a file. What has no id is known by its body.
fn name(delivered: &Delivered) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
    let hash = |bytes: &[u8]| HEXLOWER.encode(&Sha256::digest(bytes));
    let id = match delivered.message.properties.message_id.as_deref() {
        None | Some("") => hash(&delivered.message.body),
        Some(id) => match utf8_percent_encode(id, ESCAPED).to_string() {
            escaped if escaped.len() <= LONGEST_ID => escaped,
            _ => hash(id.as_bytes()),
        },
    };
    format!("{id}.{}", delivered.delivery.attempt)
}

/// Looks whether cases could be saved in a folder, or in one that is made there.
///
/// # Errors
/// When they could not.
pub fn look(folder: &Path) -> io::Result<()> {
    match folder.ancestors().find(|folder| folder.exists()) {
        Some(there) => folders::can_be_written(there),
        // A relative path, of which nothing is there.
        None => folders::can_be_written(Path::new(".")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::task::{Outcome, Properties, Usage};

    fn begun(id: Option<&str>) -> Begun {
        let properties = Properties { message_id: id.map(str::to_owned), ..Properties::default() };
        let message = Message { properties, body: "body".into(), ..Message::default() };
        Begun::new(&message, &Origin::default(), Attempt { number: 2, max: 3 }, &Carried::default())
    }

    fn options(folder: &Path) -> Options {
        let (flags, grants, secrets) = Default::default();
        Options { folder: folder.to_owned(), flags, grants, secrets }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn save(cases: &Cases, id: Option<&str>) {
        let end = End::of(&Outcome::Succeeded, b"", "", None, Usage::default()).unwrap();
        cases.save(begun(id), end, "g.wasm", "sha256:00").await;
    }

    #[test]
    fn a_name_is_one_of_a_file_in_the_folder_whatever_the_id() {
        for (id, expected) in
            [("m-1", "m-1.2"), ("../x", "%2E%2E%2Fx.2"), (".", "%2E.2"), ("a\0b\n", "a%00b%0A.2"), ("é", "%C3%A9.2")]
        {
            assert_eq!(name(&begun(Some(id)).message), expected);
        }
        for id in [None, Some(""), Some(&*"x".repeat(101)), Some(&*"/".repeat(1000))] {
            assert_eq!(name(&begun(id).message).len(), 66);
        }
    }

    #[tokio::test]
    async fn a_case_is_there_whole_for_its_owner_alone_and_replaces_none() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("new").join("cases");
        let cases = Cases::open(options(&folder)).await.unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        save(&cases, Some("m")).await;
        save(&cases, Some("m")).await;
        let names = names(&folder);
        assert!(names.len() == 2 && names.contains(&"m.2.json".to_owned()), "{names:?}");
        for name in names {
            let path = folder.join(name);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            Case::read(&std::fs::read(path).unwrap()).unwrap();
        }
    }

    #[tokio::test]
    async fn cases_that_can_not_be_saved_are_counted_by_their_reason() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("cases");
        let cases = Cases::open(options(&folder)).await.unwrap();
        std::fs::remove_dir(&folder).unwrap();
        save(&cases, Some("a")).await;
        save(&cases, Some("b")).await;
        let missing = lock(&cases.missing).clone();
        assert_eq!(missing.values().collect::<Vec<_>>(), [&2], "{missing:?}");
        cases.hangs.store(true, Ordering::SeqCst);
        save(&cases, Some("c")).await;
        assert_eq!(lock(&cases.missing).len(), 2);
    }
}
