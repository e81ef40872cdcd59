//! Errors that end the program: what they say, what helps, and the exit status that they lead to.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::causes::causes;
use crate::visible::lines;
use crate::{broker, case, sandbox, sink};

/// wq-run's own exit status. The numbers are a promise: `podFailurePolicy` rules are written against them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    Done = 0,
    Warned = 1,
    Usage = 2,
    DeadLettered = 65,
    NoGuest = 66,
    BrokerUnavailable = 69,
    Bug = 70,
    NotDelivered = 74,
    TaskFailed = 75,
    Refused = 77,
    Configuration = 78,
    Empty = 79,
    Stuck = 80,
    DeadLettersRemain = 81,
    BreakerOpen = 82,
    Interrupted = 130,
    Terminated = 143,
}

impl ExitStatus {
    /// All of them with their meaning, as the table in docs/reference.md has them.
    pub const ALL: [(ExitStatus, &str); 17] = [
        (ExitStatus::Done, "done: acked, drained, or nothing to do"),
        (
            ExitStatus::Warned,
            "`check --strict` found a warning, or `exec --case` ran a case and the run did not match it",
        ),
        (ExitStatus::Usage, "the command line was not understood"),
        (ExitStatus::DeadLettered, "a message was dead-lettered, or `exec --case` was given no case, or a damaged one"),
        (ExitStatus::NoGuest, "the guest is missing, malformed, of the wrong kind or digest; no message was taken"),
        (ExitStatus::BrokerUnavailable, "the broker cannot be reached"),
        (ExitStatus::Bug, "a bug in wq-run"),
        (
            ExitStatus::NotDelivered,
            "a result could not be delivered, or the connection was lost before the settlement was confirmed; the message is delivered again",
        ),
        (
            ExitStatus::TaskFailed,
            "the task failed, its message will be tried again; or a drain left messages in the queue",
        ),
        (ExitStatus::Refused, "the broker refused the credentials or denied permission"),
        (
            ExitStatus::Configuration,
            "configuration: a flag, a missing queue, arguments that do not match, a damaged queue file",
        ),
        (ExitStatus::Empty, "the queue was empty and `--on-empty fail`"),
        (
            ExitStatus::Stuck,
            "a guest or the shutdown could not be stopped in time, so the process ended itself; the message is delivered again",
        ),
        (ExitStatus::DeadLettersRemain, "the queue is empty and dead letters remain (`--on-dead-letters fail`)"),
        (
            ExitStatus::BreakerOpen,
            "too many different messages failed in a row, and more after pauses (`--breaker`); the others are left in the queue",
        ),
        (ExitStatus::Interrupted, "stopped by SIGINT before the work was done; messages given back"),
        (ExitStatus::Terminated, "stopped by SIGTERM before the work was done; messages given back"),
    ];

    pub fn code(self) -> u8 {
        self as u8
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{message}")]
    Configuration { message: String, hint: Option<String> },
    /// A file that is no case, or none that can be run.
    #[error("{} can't be used as a case", .file.display())]
    Case { file: PathBuf, source: case::Error, hint: String },
    #[error(transparent)]
    Guest(#[from] sandbox::Error),
    /// A guest that could run nowhere, described.
    #[error("{reason}")]
    RefusedGuest { reason: String, hint: String },
    #[error(transparent)]
    Broker(#[from] broker::Error),
    #[error(transparent)]
    Sink(#[from] sink::Error),
    #[error("cannot {doing}")]
    Io { doing: String, source: std::io::Error },
    /// The command is done, and only its report is lost.
    #[error("done, but cannot write to stdout: {report}")]
    Unreported { report: String, source: std::io::Error },
    /// An error of a broker whose kind knows what helps.
    #[error(transparent)]
    Hinted(Box<Hinted>),
    /// A part of the work is done. What that is.
    #[error("{done}")]
    Partly { done: String, source: broker::Error },
}

/// An error with the hint of another one who knows better.
#[derive(Debug)]
pub struct Hinted {
    error: Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Error {
    pub fn configuration(message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Configuration { message: message.into(), hint: Some(hint.into()) }
    }

    pub fn case(file: &Path, error: &case::Error) -> Error {
        let hint = match error {
            case::Error::Version(version) if *version > case::VERSION => {
                "it was written by a newer wq-run: use that version to run it"
            }
            case::Error::Damaged(reason) if reason.contains("trailing characters") => {
                "a file holds one case; `wq-run dlq show --case` prints one with --id ID or --limit 1"
            }
            _ => "a case is a file of `wq-run work --record DIR`, or what `wq-run dlq show --case` prints",
        };
        Error::Case { file: file.to_owned(), source: error.clone(), hint: hint.to_owned() }
    }

    /// A folder in which no cases can be saved.
    pub fn no_cases(folder: &Path, cause: &std::io::Error) -> Error {
        Error::configuration(
            format!("cannot save cases in {}: {cause}", folder.display()),
            "use --record with a folder that can be written to or created",
        )
    }

    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Error::Configuration { .. } => ExitStatus::Configuration,
            Error::Case { .. } => ExitStatus::DeadLettered,
            Error::Guest(
                sandbox::Error::Grant(_) | sandbox::Error::NoSockets { .. } | sandbox::Error::Certificates(_),
            ) => ExitStatus::Configuration,
            Error::Guest(sandbox::Error::Cache { .. }) => ExitStatus::NotDelivered,
            Error::Guest(
                sandbox::Error::Isolation(_)
                | sandbox::Error::Thread(_)
                | sandbox::Error::Wall(_)
                | sandbox::Error::NoRoom(_)
                | sandbox::Error::NoCompiler(_),
            ) => ExitStatus::Configuration,
            Error::Guest(sandbox::Error::Panic(_)) => ExitStatus::Bug,
            Error::Guest(_) | Error::RefusedGuest { .. } => ExitStatus::NoGuest,
            Error::Broker(error) | Error::Partly { source: error, .. } => broker_status(error),
            Error::Sink(error) => error.broker().map_or(ExitStatus::Configuration, broker_status),
            Error::Io { .. } | Error::Unreported { .. } => ExitStatus::NotDelivered,
            Error::Hinted(hinted) => hinted.error.exit_status(),
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Configuration { hint, .. } => hint.clone(),
            Error::Case { hint, .. } => Some(hint.clone()),
            Error::Guest(error) => Some(error.hint()),
            Error::RefusedGuest { hint, .. } => Some(hint.clone()),
            Error::Broker(error) | Error::Partly { source: error, .. } => error.hint(),
            Error::Sink(error) => error.hint(),
            Error::Io { .. } | Error::Unreported { .. } => None,
            Error::Hinted(hinted) => Some(hinted.hint.clone()),
        }
    }

    /// With the hint that this kind of broker has for it, if it has one.
    pub fn on(self, broker: &broker::Url) -> Error {
        let cause = match &self {
            Error::Broker(error) | Error::Partly { source: error, .. } => Some(error),
            Error::Sink(error) => error.broker(),
            _ => None,
        };
        let plain = self.hint();
        let hint = cause.and_then(|error| broker.broker().hint(error)).or_else(|| plain.clone());
        match hint.map(|hint| on_the_same(hint, broker)) {
            Some(hint) if plain.as_ref() != Some(&hint) => Error::Hinted(Box::new(Hinted { error: self, hint })),
            _ => self,
        }
    }

    /// The error, its causes and its hint, as people read them.
    pub fn for_people(&self) -> String {
        let mut text = format!("wq-run: {}\n", lines(&self.to_string()));
        for cause in causes(self) {
            let _ = writeln!(text, "  because: {}", lines(&cause));
        }
        if let Some(hint) = self.hint() {
            let _ = writeln!(text, "  hint: {}", lines(&hint));
        }
        text
    }
}

/// Adds `--broker` with the address that was typed to a command in a hint. Otherwise the command would go to the broker that an
/// environment variable names.
fn on_the_same(hint: String, broker: &broker::Url) -> String {
    const COMMAND: &str = "`wq-run queue declare --queue ";
    let (Some(address), Some(at)) = (broker.to_type(), hint.find(COMMAND)) else { return hint };
    let Some(end) = hint[at + 1..].find('`').map(|length| at + 1 + length) else { return hint };
    let (command, rest) = hint.split_at(end);
    let password = if broker.needs_password() { " (PASSWORD stands for the password)" } else { "" };
    format!("{command} --broker {}`{password}{}", shell_word(address), &rest[1..])
}

/// A word as a shell takes it.
fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@,%+=".contains(&byte);
    if text.bytes().all(is_plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")).into() }
}

/// The exit status for an error of the broker.
pub fn broker_status(error: &broker::Error) -> ExitStatus {
    match error.kind() {
        broker::Kind::Unreachable => ExitStatus::BrokerUnavailable,
        broker::Kind::Refused => ExitStatus::Refused,
        broker::Kind::Configuration => ExitStatus::Configuration,
        broker::Kind::Lost => ExitStatus::NotDelivered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_a_hint_goes_to_the_broker_that_was_typed() {
        let hint = |typed: &str| {
            let url: broker::Url = typed.parse().unwrap();
            let missing = || broker::Error::MissingQueue { queue: "q".into(), source: None };
            let known = Error::from(missing()).on(&url).hint().unwrap();
            assert!(known.starts_with("`wq-run queue declare --queue q` "), "{known}");
            Error::from(missing()).on(&url.typed(typed)).hint().unwrap()
        };
        for (typed, command) in [
            ("sqlite:q.db", "`wq-run queue declare --queue q --broker sqlite:q.db` creates it"),
            ("sqlite:my q's.db", r"`wq-run queue declare --queue q --broker 'sqlite:my q'\''s.db'` creates it"),
            ("amqp://h/v?heartbeat=5", "`wq-run queue declare --queue q --broker 'amqp://h/v?heartbeat=5'` creates it"),
            (
                "amqp://u:s3cret@h",
                "`wq-run queue declare --queue q --broker amqp://u:PASSWORD@h` (PASSWORD stands for the password) creates it",
            ),
        ] {
            assert!(hint(typed).starts_with(command), "{}", hint(typed));
        }
    }
}
