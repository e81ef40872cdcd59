//! Measures wq-run against its peers: the same work, on the same broker, in turn, several times.
//!
//! `make bench` builds everything and calls `wq-bench run`. The other commands are peers, and what fills queues; `run`
//! starts them as processes of their own, as it does with wq-run.
//!
//! ```text
//! main.rs ─▶ run.rs       the rounds: which measurement follows which
//!             measure/     one file a kind of measurement
//!              contender.rs  who takes part, as command lines
//!              process.rs    a process with its time, its CPU time, its memory
//!              broker.rs, queue.rs, redis_server.rs   a RabbitMQ of our own and its queues, and a Redis
//!             results.rs   what was measured; stats.rs
//!             report.rs, targets.rs, plot.rs, machine.rs   what is made of it
//! lapin.rs, redis_peer.rs, guest.rs, worker.rs   the peers that we had to write
//! ```

// A program that prints what it measured.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod broker;
mod contender;
mod lapin;
mod machine;
mod measure;
mod plot;
mod process;
mod queue;
mod redis_peer;
mod redis_server;
mod report;
mod results;
mod run;
mod stats;
mod targets;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A benchmark that fails says why in words; nobody handles its errors.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Measures wq-run against its peers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure everything and write the report
    Run(run::Args),
    /// Put confirmed, persistent messages into a new queue
    Fill(queue::Args),
    /// The bare consumer: takes messages and acknowledges them
    Lapin(lapin::Args),
    /// The bare consumer of a stream on Redis
    Redis(queue::Consume),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Fill(args) => queue::fill_command(&args).map(|()| ExitCode::SUCCESS),
        Command::Lapin(args) => lapin::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Redis(args) => redis_peer::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("wq-bench: {error}");
        ExitCode::FAILURE
    })
}
