//! `--metadata`: writes what is known of a message into a file that its guest can read.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::envelope;
use crate::sandbox::{Dir, Folder};
use crate::task::{Attempt, Message, Origin};
use serde_json::Value;

/// Where the guest sees the folder, and the file in it.
pub const FOLDER: &str = "/wq";
const FILE: &str = "message.json";

/// A folder for one run. Gone when this is dropped.
pub struct Metadata(Folder);

impl Metadata {
    /// Writes the file into `folder`, which nobody else may read: headers can hold secrets.
    pub fn write(folder: Folder, message: &Message, origin: &Origin, attempt: Attempt) -> io::Result<Metadata> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(folder.path().join(FILE))?;
        serde_json::to_writer(&mut file, &Value::Object(envelope::of_run(message, origin, attempt)))?;
        file.write_all(b"\n")?;
        Ok(Metadata(folder))
    }

    /// What the guest gets of it.
    pub fn dir(&self) -> Dir {
        Dir { host: self.0.path().to_owned(), guest: FOLDER.into(), writable: false }
    }
}
