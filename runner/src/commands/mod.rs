//! The commands: each puts the parts together. What they decide is their exit status.

mod check;
mod compile;
mod completions;
mod describe;
mod dlq;
mod exec;
mod input;
mod inspect;
mod manifest;
mod pick;
mod process;
mod publish;
mod queue;
mod remains;
mod showing;
mod work;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use self::process::{REDIRECT, can_write, unwatched};
use crate::cli::Command;
use crate::error::{Error, ExitStatus};
use crate::observe::log;
use crate::{sandbox, shutdown};

/// Runs a command to its end; returns the status that the process exits with.
pub fn run(command: Command) -> Result<u8, Error> {
    if !matches!(command, Command::Work(_)) {
        shutdown::end_process_1_at_once(ExitStatus::Stuck.code()).map_err(unwatched)?;
        can_write(REDIRECT)?;
    }
    match command {
        Command::Work(args) => block_on(work::run(args)),
        Command::Exec(args) => block_on(exec::run(args)),
        Command::Check(args) => block_on(check::run(args)),
        Command::Compile(args) => block_on(compile::run(args)),
        Command::Inspect(args) => block_on(inspect::run(args)),
        Command::Manifest(args) => block_on(manifest::run(args)),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Queue(args) => block_on(queue::run(args)),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
        Command::DeadLetters(args) => block_on(dlq::run(args)),
    }
}

/// Does the work of a process that the worker starts, whose only word names it; `None` for all other command lines. clap
/// does not know these words, because setting up all commands and flags takes a millisecond.
pub fn run_for_parent(mut line: impl Iterator<Item = OsString>) -> Option<Result<u8, Error>> {
    let (Some(word), None) = (line.nth(1), line.next()) else { return None };
    let (served, doing) = if word == sandbox::COMPILER_COMMAND {
        (sandbox::serve_job(), "look into a guest for another process")
    } else if word == sandbox::CHILD_COMMAND {
        (sandbox::serve(), "run guests for another process")
    } else {
        return None;
    };
    let done = |()| ExitStatus::Done.code();
    Some(served.map(done).map_err(|source| Error::Io { doing: doing.into(), source }))
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
