//! Hints for people whose guest's exit code says less than they may think, once each.

use std::sync::atomic::{AtomicBool, Ordering};

use super::said_exit;
use crate::task::{Outcome, Report};

#[derive(Debug, Default)]
pub struct Hints {
    no_code: AtomicBool,
    go: AtomicBool,
}

/// How a Go program exits that panicked, or that its runtime gave up.
const GO_PANIC: u8 = 2;

impl Hints {
    /// Looks at the end of a run. `has_codes` is whether each guest of its kind can say its own exit code.
    pub fn give(&self, has_codes: bool, report: &Report) {
        let is_first = |given: &AtomicBool| !given.swap(true, Ordering::Relaxed);
        match report.outcome {
            Outcome::Exited(1) if !has_codes && said_exit(&report.stderr_tail).is_none() && is_first(&self.no_code) => {
                tracing::info!(
                    "the guest can only exit with 0 or 1: for other codes, it has to call exit-with-code, or write wq-run-exit: CODE as the last line of stderr"
                );
            }
            Outcome::Exited(GO_PANIC) if is_go_panic(&report.stderr_tail) && is_first(&self.go) => {
                tracing::info!("a Go program that panics exits with code 2");
            }
            _ => {}
        }
    }
}

fn is_go_panic(stderr: &str) -> bool {
    stderr.lines().any(|line| line.starts_with("panic: ") || line.starts_with("fatal error: "))
        && stderr.lines().any(|line| line.starts_with("goroutine ") && line.ends_with("]:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_panic_is_told_from_a_program_that_exits_with_2() {
        let panic =
            "panic: runtime error: index out of range [3] with length 2\n\ngoroutine 1 [running]:\nmain.main()\n";
        assert!(is_go_panic(panic));
        assert!(is_go_panic("fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\n"));
        assert!(!is_go_panic("panic: at the disco\n") && !is_go_panic("usage: tool FILE\n"));
    }
}
