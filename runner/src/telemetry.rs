//! The log: to stderr, since stdout is the guest's. Spans: to a collector, where one is named.

pub mod otlp;
pub mod trace;

use std::error::Error;
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

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

/// What libraries may say unless `RUST_LOG` names them. lapin logs messages that came back from the broker, with their
/// bodies, and once more each error that it returns to us; wasmtime-wasi opens a span for every host call, which would hide the span of the message.
const QUIET: [(&str, &str); 2] = [("lapin", "lapin=off"), ("wasmtime_wasi", "wasmtime_wasi=warn")];

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
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    match format {
        Format::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            builder.with_ansi(colour).with_target(false).init();
        }
        Format::Json => builder.json().flatten_event(true).with_span_list(false).init(),
    }
}

/// An error with its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The causes of an error, without those that its own text holds already, as some libraries have it.
pub fn causes(error: &dyn Error) -> impl Iterator<Item = String> {
    let mut said = error.to_string();
    let mut next = error.source();
    std::iter::from_fn(move || {
        loop {
            let cause = next?;
            next = cause.source();
            let text = cause.to_string();
            if !said.ends_with(&text) {
                said.clone_from(&text);
                return Some(text);
            }
        }
    })
}
