//! An error and its causes, as text.

use std::error::Error;

/// An error with its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The causes of an error, the outermost first. Skips a cause if the text before it already ends with the cause's text: the
/// errors of some libraries include it.
pub fn causes(error: &dyn Error) -> impl Iterator<Item = String> {
    let mut said = error.to_string();
    let mut next = error.source();
    std::iter::from_fn(move || {
        loop {
            let cause = next?;
            next = cause.source();
            let text = cause.to_string();
            if !said.ends_with(&text) {
                said.clone_from(&text);
                return Some(text);
            }
        }
    })
}
