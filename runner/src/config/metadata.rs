//! Resolves `--metadata`: the folder in which each run finds what is known of its message.

use crate::cli;
use crate::error::Error;
use crate::sandbox::{Grants, Options};
use crate::worker::metadata::FOLDER;

/// Grants the folder, if it is asked for.
pub fn grant(work: &cli::Work, sandbox: &mut Options) -> Result<(), Error> {
    if work.metadata { grant_to(sandbox) } else { Ok(()) }
}

/// Grants the folder.
pub fn grant_to(sandbox: &mut Options) -> Result<(), Error> {
    sandbox.grants.metadata = true;
    if sandbox.deterministic {
        return Err(Error::configuration(
            "--metadata cannot be used with --deterministic: it says which attempt this is",
            "leave one of them out",
        ));
    }
    check(&sandbox.grants)
}

/// What would fail every run.
fn check(grants: &Grants) -> Result<(), Error> {
    if grants.dirs.iter().any(|dir| dir.guest.trim_end_matches('/') == FOLDER) {
        return Err(Error::configuration(
            format!("--dir and --metadata both give the guest a folder {}", FOLDER),
            "give the folder of --dir another name: --dir HOST::GUEST",
        ));
    }
    let tried = tempfile::tempdir().and_then(tempfile::TempDir::close);
    tried.map_err(|error| {
        Error::configuration(
            format!("cannot make a folder for --metadata in {}: {error}", std::env::temp_dir().display()),
            "set TMPDIR to a folder that can be written to",
        )
    })
}
