//! Parse, run the command, print what went wrong, exit.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use wq_run::cli::{Cli, Command, LogFormat};
use wq_run::commands;
use wq_run::error::ExitStatus;
use wq_run::fault;
use wq_run::telemetry::{self, Format};

fn main() -> ExitCode {
    let Cli { command, log_format } = Cli::parse();
    let format = match log_format {
        Some(LogFormat::Text) => Format::Text,
        Some(LogFormat::Json) => Format::Json,
        // Only a worker's stderr is collected; the other commands are typed by people.
        None if matches!(command, Command::Work(_)) => Format::for_stderr(),
        None => Format::Text,
    };
    telemetry::init(format, if matches!(command, Command::Work(_)) { "info" } else { "warn" });
    if let Err(fault) = fault::arm() {
        let _ = writeln!(std::io::stderr(), "wq-run: {fault}");
        return ExitCode::from(ExitStatus::Configuration.code());
    }
    if matches!(command, Command::Work(_)) {
        telemetry::otlp::init();
    }
    let ended = commands::run(command);
    telemetry::otlp::flush();
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let status = error.exit_status().code();
            match format {
                Format::Json => {
                    tracing::error!(hint = error.hint(), exit_status = status, "{}", telemetry::chain(&error))
                }
                Format::Text => drop(std::io::stderr().write_all(error.for_people().as_bytes())),
            }
            ExitCode::from(status)
        }
    }
}
