//! `wq-run dlq show --case`: what a dead letter tells of its last run, as a case.

use serde_json::Value;

use crate::broker::failure;
use crate::broker::walk::{End, LEFT_BEHIND, Seen};
use crate::case::secrets::Secrets;
use crate::case::{self, Case, Delivered, Guest, Output};
use crate::task::Origin;

/// A case as one line, without its end. What the guest was run with is not known, nor what it wrote to stdout.
pub fn line(seen: &Seen, end: &End) -> String {
    let mut message = seen.message.clone();
    // Of the dead letter, and not of the message that the guest was given.
    message.headers.retain(|name, _| !LEFT_BEHIND.contains(&name.as_str()) && name != failure::UNFINISHED);
    let queue = end.queue.clone().unwrap_or_else(|| seen.origin.queue.clone());
    let origin = Origin { routing_key: queue.clone(), queue, ..Origin::default() };
    let attempt = end.attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(1).max(1);
    // A broker that puts a message aside has reasons of its own, which are no outcomes.
    let is_ours = seen.message.headers.contains_key(failure::OUTCOME);
    let number = |name: &str| seen.message.headers.get(name).and_then(Value::as_u64);
    let run = case::End {
        outcome: end.outcome.clone().filter(|_| is_ours),
        exit_code: end.exit_code.and_then(|code| u8::try_from(code).ok()),
        error: end.error.clone(),
        stdout: None,
        // There may have been no room for it.
        stderr: end.stderr.clone().filter(|stderr| !stderr.is_empty()).map(Output::end),
        duration_ms: None,
        cpu_ms: number(failure::CPU),
        peak_memory_bytes: number(failure::PEAK_MEMORY),
        fuel: number(failure::FUEL),
    };
    let guest = Guest { name: None, digest: end.guest.clone() };
    let mut case = Case::new(guest, Delivered::new(message, &origin, attempt, None), run);
    case.withhold(&Secrets::default());
    // A struct of texts, numbers and maps with names that are texts.
    serde_json::to_string(&case).unwrap_or_default()
}
