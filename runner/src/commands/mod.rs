//! The commands: each puts the parts together. What they decide is their exit status.

mod exec;
mod publish;
mod queue;
mod work;

use crate::cli::Command;
use crate::error::Error;

/// Runs a command to its end; returns the status that the process exits with.
pub fn run(command: Command) -> Result<u8, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // For the broker's connections and the worker's loop. Guests have threads of their own.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::Io { doing: "start the runtime".into(), source })?;
    let status = runtime.block_on(async {
        match command {
            Command::Work(args) => work::run(args).await,
            Command::Exec(args) => exec::run(args).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Queue(args) => queue::run(args).await,
        }
    });
    // A guest that could not be stopped, or a reader of our stdout that sleeps, must not keep the process here.
    runtime.shutdown_background();
    status
}

/// Text for the user, to stdout. A reader that has gone is no reason to fail.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
