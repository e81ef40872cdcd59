//! Sorts SQLite's errors by their meaning for the queue file and for the user.

use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHORT_READ;

use crate::broker::Error;

/// Sorts an error by what helps: waiting, another path, another file, or a smaller message.
pub fn classified(path: &Path, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map(|error| error.extended_code);
    let path = path.display().to_string();
    let source: Box<dyn std::error::Error + Send + Sync> = error.into();
    match code {
        // A blob has at most a billion bytes.
        Some(ErrorCode::TooBig) => Error::TooLarge { reason: source.to_string() },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            Error::FileLocked { path, source }
        }
        Some(ErrorCode::NotADatabase) => Error::ForeignFile { path, source },
        Some(ErrorCode::DatabaseCorrupt) => Error::DamagedFile { path, source },
        // The file ends in the middle of a page.
        Some(ErrorCode::SystemIoFailure) if extended == Some(SQLITE_IOERR_SHORT_READ) => {
            Error::DamagedFile { path, source }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            Error::InaccessibleFile { path, source }
        }
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::NoLargeFileSupport
            | ErrorCode::SchemaChanged
            | ErrorCode::OperationInterrupted
            | ErrorCode::OperationAborted,
        ) => Error::Storage { path, source },
        // Our SQL is fixed and tried, so it fails only on tables that are not ours, and a value has another type only if
        // somebody else wrote it.
        _ => Error::DamagedFile { path, source },
    }
}
