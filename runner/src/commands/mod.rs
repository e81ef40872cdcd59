//! The commands: each puts the parts together. What they decide is their exit status.

mod compile;
mod exec;
mod inspect;
mod publish;
mod queue;
mod work;

use crate::cli::Command;
use crate::error::{Error, ExitStatus};
use crate::sandbox;

/// Runs a command to its end; returns the status that the process exits with.
pub fn run(command: Command) -> Result<u8, Error> {
    match command {
        Command::Work(args) => block_on(work::run(args)),
        Command::Exec(args) => block_on(exec::run(args)),
        Command::Compile(args) => compile::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Queue(args) => block_on(queue::run(args)),
        Command::GuestProcess => guest_process(),
    }
}

fn block_on(command: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io { doing: "start the runtime".into(), source })?;
    let status = runtime.block_on(command);
    // A guest that could not be stopped, or a reader of our stdout that sleeps, must not keep the process here.
    runtime.shutdown_background();
    status
}

fn guest_process() -> Result<u8, Error> {
    sandbox::serve().map_err(|source| Error::Io { doing: "run guests for another process".into(), source })?;
    Ok(ExitStatus::Done.code())
}

/// Text for the user, to stdout. A reader that has gone is no reason to fail.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
