//! What the commands need of their process: a stdin, a stdout, and to hear of signals.

use crate::error::Error;
use crate::streams;
use crate::visible::one_line;

pub fn unwatched(source: std::io::Error) -> Error {
    Error::Io { doing: "watch for signals".into(), source }
}

/// Refuses a stdout that results can't be written to, before anything is done whose result would be lost.
pub fn can_write(hint: &str) -> Result<(), Error> {
    streams::can_write().map_err(|cause| Error::configuration(format!("stdout can't be used: {cause}"), hint))
}

/// Refuses a stdin that would look empty.
pub fn can_read() -> Result<(), Error> {
    streams::can_read().map_err(|cause| {
        Error::configuration(format!("stdin can't be used: {cause}"), "redirect it: </dev/null is an empty input")
    })
}

/// The hint for a stdout that can't be used.
pub const REDIRECT: &str = "redirect it: >/dev/null drops what is printed";

/// Prints text for the user.
pub fn say(text: &str) -> Result<(), Error> {
    let printed = streams::print(format!("{text}\n").as_bytes());
    printed.map_err(|source| Error::Io { doing: "write to stdout".into(), source })
}

/// Prints what was done.
pub fn report(text: String) -> Result<(), Error> {
    let printed = streams::print(format!("{text}\n").as_bytes());
    printed.map_err(|source| Error::Unreported { report: text, source })
}

/// Tells people something beside the output. Whatever strangers have put into it, it is one harmless line. stderr may have no
/// reader, which is no reason to stop.
pub fn note(text: &str) {
    streams::err::push(format!("wq-run: {}\n", one_line(text)).as_bytes());
}
