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
    keep_freed_memory();
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

/// Keeps what is freed for the next message. By its defaults the C library gives back to the system what a large message
/// and its result took, and the next one has to be given each page anew: a third of the time that a message of 1 MiB takes.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn keep_freed_memory() {
    /// Up to this, an allocation has no mapping of its own, which would end with it. In bytes.
    const MAPPED_FROM: libc::c_int = 4 << 20;
    /// What each of the allocator's arenas may keep. In bytes.
    const KEPT: libc::c_int = 16 << 20;
    // SAFETY: it takes plain numbers, and no other thread runs yet. If they are refused, the defaults stay.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_freed_memory() {}
