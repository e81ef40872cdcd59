//! Checks the outcome that a guest's process reports. A guest may have taken its process over.

use crate::sandbox::world::options::Options;
use crate::task::Outcome;

/// The longest text of a trap or a fault. Longer ones are cut.
pub const MAX_TEXT: usize = 4096;

/// The outcome, if a run can have ended like this; `None` if only the worker itself could say so.
pub fn believable(outcome: Outcome, options: &Options, is_cancelled: bool) -> Option<Outcome> {
    match outcome {
        Outcome::Succeeded => Some(outcome),
        Outcome::Silent => options.output_is_due.then_some(outcome),
        Outcome::Exited(code) => (code != 0).then_some(outcome),
        Outcome::Trapped(text) => Some(Outcome::Trapped(cut(text))),
        Outcome::HostFault(text) => Some(Outcome::HostFault(cut(text))),
        Outcome::TimedOut(timeout) => (timeout == options.limits.timeout).then_some(outcome),
        Outcome::LimitExceeded(limit) => options.limits.have(limit).then_some(outcome),
        Outcome::Interrupted => is_cancelled.then_some(outcome),
        // About its process and the other ones, of which it knows nothing.
        Outcome::Withdrawn | Outcome::Crashed(_) | Outcome::Blocked(_) | Outcome::Stuck(_) => None,
    }
}

/// Both ends cut: the child to keep its frames within bounds, the worker because it can't know that the child did.
pub fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
    text
}

/// The same for what a child is about to say.
pub fn sayable(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Trapped(text) => Outcome::Trapped(cut(text)),
        Outcome::HostFault(text) => Outcome::HostFault(cut(text)),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::task::Limit;

    #[test]
    fn a_process_cannot_claim_what_only_the_worker_can_know() {
        let claims = [
            Outcome::Silent,
            Outcome::Exited(0),
            Outcome::Withdrawn,
            Outcome::Interrupted,
            Outcome::Crashed("x".into()),
            Outcome::Blocked(1),
            Outcome::Stuck(Duration::ZERO),
            Outcome::TimedOut(Duration::ZERO),
            Outcome::LimitExceeded(Limit::Memory(1)),
            Outcome::LimitExceeded(Limit::Fuel(1)),
            Outcome::LimitExceeded(Limit::Scratch(0)),
        ];
        for claim in claims {
            assert_eq!(believable(claim.clone(), &Options::default(), false), None, "{claim:?}");
        }
        let limit = Outcome::LimitExceeded(Limit::Memory(Options::default().limits.memory));
        assert_eq!(believable(limit.clone(), &Options::default(), false), Some(limit));
        assert_eq!(believable(Outcome::Interrupted, &Options::default(), true), Some(Outcome::Interrupted));
    }

    #[test]
    fn a_text_of_any_length_is_cut_between_characters() {
        let Some(Outcome::Trapped(text)) = believable(Outcome::Trapped("ä€".repeat(9999)), &Options::default(), false)
        else {
            panic!("a trap is believed");
        };
        assert!(text.len() <= MAX_TEXT && text.starts_with("ä€"));
        assert!(
            matches!(sayable(Outcome::HostFault("x".repeat(9999))), Outcome::HostFault(text) if text.len() == MAX_TEXT)
        );
    }
}
