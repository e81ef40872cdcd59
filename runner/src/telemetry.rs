//! The log: to stderr, since stdout is the guest's.

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

/// Starts the log. `default_level` holds where `RUST_LOG` is not set.
pub fn init(format: Format, default_level: &str) {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let mut filter = EnvFilter::new(if asked.is_empty() { default_level } else { &asked });
    // At `warn`, lapin logs messages that came back from the broker, with their bodies.
    if !asked.contains("lapin")
        && let Ok(quiet) = "lapin=error".parse()
    {
        filter = filter.add_directive(quiet);
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
