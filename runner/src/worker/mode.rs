//! How many messages a worker takes.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// This many messages.
    Count(u64),
    /// Until the queue is empty.
    Drain,
    Forever,
}

/// As `WQ_MODE` has it.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Count(count) => write!(f, "count={count}"),
            Mode::Drain => write!(f, "drain"),
            Mode::Forever => write!(f, "forever"),
        }
    }
}
