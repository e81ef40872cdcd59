//! Resolves the flags that say where results go.

use crate::broker::{Address, outbox};
use crate::cli;
use crate::error::Error;
use crate::sink::{self, Format, Needs};

/// Refuses sinks and properties of results that can't be.
pub fn check(work: &cli::Work, queue: &str) -> Result<(), Error> {
    check_sinks(&work.result, queue)?;
    if work.result_content_type.as_ref().is_some_and(|text| text.len() > 255) {
        return Err(Error::configuration(
            "the content type of results is longer than 255 bytes",
            "see --result-content-type (WQ_RESULT_CONTENT_TYPE)",
        ));
    }
    Ok(())
}

/// What results look like on stdout and in files.
///
/// # Errors
/// When no result follows it.
pub fn format(work: &cli::Work) -> Result<Format, Error> {
    let format = match work.result_format {
        cli::ResultFormat::Raw => Format::Raw,
        cli::ResultFormat::Lines => Format::Lines,
        cli::ResultFormat::Json => Format::Json,
    };
    if format != Format::Raw && !work.result.iter().any(|spec| spec.kind.has_format) {
        return Err(Error::configuration(
            "--result-format is for results on stdout and in a folder, and none goes there: a message in a queue is the result as \
             it is",
            "leave --result-format (WQ_RESULT_FORMAT) out, or name such a result, too: --result stdout (WQ_RESULT)",
        ));
    }
    Ok(format)
}

/// The way to the broker, if one of the results goes there.
pub fn outbox(work: &cli::Work, queue: &str) -> Option<outbox::Options> {
    work.result.iter().any(sink::Spec::needs_broker).then(|| outbox::Options {
        queue: queue.to_owned(),
        connect_timeout: work.connect_timeout,
        publish_timeout: work.publish_timeout,
    })
}

/// Sinks that would undo each other.
fn check_sinks(specs: &[sink::Spec], queue: &str) -> Result<(), Error> {
    const HINT: &str = "see --result (WQ_RESULT)";
    for (at, spec) in specs.iter().enumerate() {
        // A sink that is named twice would get each result twice.
        if specs[..at].contains(spec) {
            return Err(Error::configuration(format!("the result `{spec}` is named twice"), HINT));
        }
        match &spec.needs {
            Needs::Nothing if specs.len() > 1 => {
                return Err(Error::configuration("the result `none` cannot be combined with another", HINT));
            }
            Needs::Address(Address::Queue(name)) if name == queue => {
                return Err(Error::configuration(
                    "the queue for results is the queue of the messages: each result would come back as a message",
                    "name another queue (--result queue:NAME, WQ_RESULT)",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
