//! The program: parses the command line, runs the command, prints what went wrong, exits.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use wq_run::cli::{Cli, Command, LogFormat};
use wq_run::error::{Error, ExitStatus};
use wq_run::observe::log::{self, Format};
use wq_run::observe::otlp;
use wq_run::streams::termination;
use wq_run::{causes, commands, fault, streams, version};

fn main() -> ExitCode {
    keep_freed_memory();
    // With a handler, a write beyond `ulimit -f` is an error of that write. Without one, it ends the process.
    let too_large = signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    version::built_from(option_env!("WQ_COMMIT"));
    // It has no log: its parent speaks for it. A guest's process also starts no thread before its walls stand.
    if let Some(ended) = commands::run_for_parent(std::env::args_os()) {
        return match ended {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                let _ = std::io::Write::write_all(&mut std::io::stderr(), error.for_people().as_bytes());
                ExitCode::from(error.exit_status().code())
            }
        };
    }
    let Cli { command, log_format } = Cli::read();
    let format = match log_format {
        Some(LogFormat::Text) => Format::Text,
        Some(LogFormat::Json) => Format::Json,
        // Only a worker's stderr is collected; the other commands are typed by people.
        None if matches!(command, Command::Work(_)) => Format::for_stderr(),
        None => Format::Text,
    };
    if let Command::Work(work) = &command {
        termination::keep(work.termination_log.as_deref());
    }
    let level = match command {
        Command::Work(_) => "info",
        // What a worker would warn of is among its findings.
        Command::Check(_) => "error",
        Command::Publish(_) => "warn,wq_run::observe::progress=info",
        _ => "warn",
    };
    log::init(format, level);
    let ready = too_large.map(drop).and_then(|()| streams::err::start());
    let ended = match ready {
        Err(source) => Err(Error::Io { doing: "start".into(), source }),
        Ok(()) => std::panic::catch_unwind(AssertUnwindSafe(|| run(command))).unwrap_or(Ok(ExitStatus::Bug.code())),
    };
    let (status, reason) = match &ended {
        Ok(status) if *status == ExitStatus::Bug.code() => {
            (*status, termination::panic().map(|panic| format!("wq-run: a bug in wq-run: {panic}\n")))
        }
        Ok(status) => (*status, None),
        Err(error) => (error.exit_status().code(), Some(error.for_people())),
    };
    if let Err(error) = &ended {
        match format {
            Format::Json => {
                tracing::error!(error = %causes::chain(error), hint = error.hint(), exit_status = status, "failed");
            }
            Format::Text => streams::err::push(error.for_people().as_bytes()),
        }
    }
    termination::write(&reason.map(|reason| format!("{reason}  exit status: {status}\n")).unwrap_or_default());
    streams::err::flush();
    ExitCode::from(status)
}

fn run(command: Command) -> Result<u8, Error> {
    fault::arm().map_err(|fault| Error::Configuration { message: fault, hint: None })?;
    if matches!(command, Command::Work(_)) {
        otlp::init();
    }
    let ended = commands::run(command);
    otlp::flush();
    ended
}

/// Looks at the standard descriptors before the standard library opens /dev/null for those that are closed. Afterwards a
/// closed one can't be told from a /dev/null that somebody opened for reading and writing, as Python's
/// `subprocess.DEVNULL` does.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn look() {
        for descriptor in 0..=2 {
            // SAFETY: it takes plain numbers, and needs nothing of the standard library.
            if unsafe { libc::fcntl(descriptor.into(), libc::F_GETFD) } == -1 {
                streams::was_closed(descriptor);
            }
        }
    }
    look
};

/// Keeps what is freed for the next message. By its defaults the C library gives back to the system what a large message
/// and its result took, and the next one has to be given each page anew: a third of the time that a message of 1 MiB takes.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn keep_freed_memory() {
    /// From this size on, an allocation has a mapping of its own, which `free` unmaps. In bytes.
    const MAPPED_FROM: libc::c_int = 4 << 20;
    /// What each of the allocator's arenas may keep. In bytes.
    const KEPT: libc::c_int = 16 << 20;
    /// The least by which an arena grows. Each growth is a system call, and with the default of 128 KiB a process that compiles
    /// makes hundreds of them. It is only address space until it is used. In bytes.
    const GROWN_BY: libc::c_int = 1 << 20;
    // SAFETY: it takes plain numbers, and no other thread runs yet. If they are refused, the defaults stay.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_TOP_PAD, GROWN_BY);
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_freed_memory() {}
