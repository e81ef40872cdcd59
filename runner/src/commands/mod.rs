//! The commands: each puts the parts together. What they decide is their exit status.

mod compile;
mod exec;
mod inspect;
mod publish;
mod queue;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::cli::Command;
use crate::error::{Error, ExitStatus};
use crate::observe::log;
use crate::{sandbox, shutdown, streams};

/// Runs a command to its end; returns the status that the process exits with.
pub fn run(command: Command) -> Result<u8, Error> {
    if !matches!(command, Command::Work(_)) {
        shutdown::end_process_1_at_once(ExitStatus::Stuck.code()).map_err(unwatched)?;
    }
    if !matches!(command, Command::Work(_) | Command::GuestProcess | Command::GuestCompiler) {
        can_write(REDIRECT)?;
    }
    match command {
        Command::Work(args) => block_on(work::run(args)),
        Command::Exec(args) => block_on(exec::run(args)),
        Command::Compile(args) => block_on(compile::run(args)),
        Command::Inspect(args) => block_on(inspect::run(args)),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Queue(args) => block_on(queue::run(args)),
        Command::GuestProcess => guest_process(),
        Command::GuestCompiler => guest_compiler(),
    }
}

fn block_on(command: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io { doing: "start the runtime".into(), source })?;
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(command)));
    // A guest that could not be stopped, or a reader of our stdout that sleeps, must not keep the process here, also after
    // a panic.
    log::ending();
    runtime.shutdown_background();
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

fn unwatched(source: std::io::Error) -> Error {
    Error::Io { doing: "watch for signals".into(), source }
}

fn guest_process() -> Result<u8, Error> {
    sandbox::serve().map_err(|source| Error::Io { doing: "run guests for another process".into(), source })?;
    Ok(ExitStatus::Done.code())
}

fn guest_compiler() -> Result<u8, Error> {
    sandbox::serve_job()
        .map_err(|source| Error::Io { doing: "look into a guest for another process".into(), source })?;
    Ok(ExitStatus::Done.code())
}

/// Refuses a stdout that results can't be written to, before anything is done whose result would be lost.
fn can_write(hint: &str) -> Result<(), Error> {
    streams::can_write().map_err(|cause| Error::configuration(format!("stdout can't be used: {cause}"), hint))
}

/// Refuses a stdin that would look empty.
fn can_read() -> Result<(), Error> {
    streams::can_read().map_err(|cause| {
        Error::configuration(format!("stdin can't be used: {cause}"), "redirect it: </dev/null is an empty input")
    })
}

/// The hint for a stdout that can't be used.
const REDIRECT: &str = "redirect it: >/dev/null drops what is printed";

/// Prints text for the user.
fn say(text: &str) -> Result<(), Error> {
    let printed = streams::print(format!("{text}\n").as_bytes());
    printed.map_err(|source| Error::Io { doing: "write to stdout".into(), source })
}

/// Prints what was done.
fn report(text: String) -> Result<(), Error> {
    let printed = streams::print(format!("{text}\n").as_bytes());
    printed.map_err(|source| Error::Unreported { report: text, source })
}
