//! The log: to stderr, since stdout is the guest's.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use super::ended::{Ended, Observer, Settled};
use crate::message_span::{self, OnDemand};
use crate::streams::{self, termination};
use crate::task::{Outcome, Usage, Verdict};
use crate::visible::{self, Form};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

impl Format {
    /// Text for people, JSON for everything that collects logs.
    pub fn for_stderr() -> Format {
        if std::io::stderr().is_terminal() { Format::Text } else { Format::Json }
    }
}

/// Directives for libraries that `RUST_LOG` does not name. lapin logs returned messages with their bodies, and logs each error
/// that it also returns to us; so does AWS's crate for credentials. wasmtime-wasi opens a span for every host call, which would
/// hide the span of the message.
const QUIET: [(&str, &str); 3] =
    [("lapin", "lapin=off"), ("aws_config", "aws_config=off"), ("wasmtime_wasi", "wasmtime_wasi=warn")];

/// The name of the thread that lapin starts for each connection.
const LAPIN_THREAD: &str = "lapin-io-loop";

/// Whether the runtime goes away, and with it the tasks that lapin's I/O threads wait for.
static ENDING: AtomicBool = AtomicBool::new(false);

/// To be called before the runtime goes away. An I/O thread of lapin that still waits for one of its tasks panics then. The
/// process ends at that moment, so this is no bug to report.
pub fn ending() {
    ENDING.store(true, Ordering::Relaxed);
}

/// Starts the log. `default_level` holds where `RUST_LOG` is not set.
pub fn init(format: Format, default_level: &str) {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let mut filter = EnvFilter::new(if asked.is_empty() { default_level } else { &asked });
    for (library, quiet) in QUIET {
        if !asked.contains(library)
            && let Ok(quiet) = quiet.parse()
        {
            filter = filter.add_directive(quiet);
        }
    }
    if let Ok(keep) = message_span::KEEP.parse() {
        filter = filter.add_directive(keep);
    }
    // Only directives that name a span have brackets.
    if asked.contains('[') {
        message_span::make_at_once();
    }
    let log = Registry::default().with(OnDemand);
    match format {
        Format::Text => {
            let colours =
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            let lines = Lines(Form::Text { colours });
            log.with(fmt::layer().with_writer(lines).with_ansi(colours).with_target(false)).with(filter).init();
        }
        Format::Json => {
            streams::err::speak_json();
            let lines = fmt::layer().with_writer(Lines(Form::Json)).json().flatten_event(true).with_span_list(false);
            log.with(lines).with(filter).init();
        }
    }
    // The standard library's hook waits for stderr's reader.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        if ENDING.load(Ordering::Relaxed) && thread.name() == Some(LAPIN_THREAD) {
            return;
        }
        termination::panicked(&panic.to_string());
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
        tracing::error!(thread = thread.name(), panic = %panic, backtrace, "a bug in wq-run");
    }));
}

/// The line about each message's end.
pub struct Log {
    /// Leaves out messages that are done (`--quiet`).
    pub quiet: bool,
}

impl Observer for Log {
    fn ended(&self, ended: &Ended) {
        let Ended { verdict, settled, guest, result_bytes: stdout_bytes, .. } = ended;
        let (outcome, exit_code, settlement) = (verdict.name(), verdict.exit_code(), settled.name());
        let duration_ms = ended.run.unwrap_or_default().as_millis() as u64;
        let Usage { peak_memory: peak_memory_bytes, cpu, fuel } = ended.usage;
        let cpu_ms = cpu.map(|cpu| cpu.as_millis() as u64);
        let (guest, digest) = (&guest.name, &guest.digest);
        let error = match settled {
            Settled::Acked if self.quiet => return,
            Settled::Acked => None,
            Settled::LeaseLost(reason) | Settled::Unsettled(reason) | Settled::Failed(reason) => Some(reason.clone()),
            _ => Some(verdict.to_string()),
        };
        macro_rules! line {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    error,
                    outcome,
                    exit_code,
                    settlement,
                    duration_ms,
                    cpu_ms,
                    peak_memory_bytes,
                    fuel,
                    stdout_bytes,
                    guest,
                    guest.digest = digest,
                    $text
                )
            };
        }
        match settled {
            Settled::Acked => line!(info, "done"),
            Settled::Retried => line!(warn, "retried"),
            Settled::DeadLettered => line!(error, "dead-lettered"),
            Settled::Rejected => line!(error, "rejected"),
            Settled::Released | Settled::GivenBack if is_at_fault(verdict) => line!(warn, "released"),
            Settled::Released | Settled::GivenBack => line!(info, "released"),
            Settled::LeaseLost(_) | Settled::Unsettled(_) | Settled::Failed(_) => line!(warn, "unsettled"),
        }
    }
}

/// Whether a message was given back because something is wrong with us or with the host. Otherwise its guest asked for it, or
/// the worker stops.
fn is_at_fault(verdict: &Verdict) -> bool {
    !matches!(verdict, Verdict::Run(Outcome::Withdrawn | Outcome::Interrupted | Outcome::Exited(_)))
}

/// Where lines of the log go: into the queue of stderr.
struct Lines(Form);

struct Line(Form);

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self.0)
    }
}

/// Each write is a whole line.
impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        streams::err::offer(&visible::line(line, self.0));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
