//! What can be seen of the work: the log, and spans that are sent to a collector.

pub mod log;
pub mod otlp;
pub mod trace;
